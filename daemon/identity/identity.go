// Package identity gives a machine and its district names they can prove: keys,
// certificate requests, certificates, the district's small CA, and TLS 1.3 in
// which each side knows the other.
//
// It owns X.509, the files that keys lie in, the line a person carries from the
// district to a machine, and the two requests a machine makes: for its first
// certificate, with a token of that line, and for the next, with the one it has.
// It does not know MQTT or SQL: who may have a certificate is its Registry's word,
// and what is said over a connection is its caller's affair.
//
// Every key is ECDSA on P-256 and not Ed25519: a TPM 2.0 holds P-256 keys and no
// Ed25519 ones, and a machine that has a TPM keeps its key there; see Vault. Only
// what signs desired states and commands is Ed25519; see Signer. A machine has a
// second key besides, X25519, to which secrets are sealed for it alone; see Seal.
//
// Time. A district has a clock and judges certificates by it. A machine may have
// none: see Machine for how it judges then.
package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"yaoju/protocol"
)

// Validity is how long a machine's certificate lasts. It is renewed at two thirds,
// so that a machine that was in store for a winter still comes back by itself.
const Validity = 400 * 24 * time.Hour

// backdate lets a certificate hold a little before it was made, because the clocks
// of two computers of a district never agree.
const backdate = time.Hour

// renewAt is when a certificate is renewed: at two thirds of its time.
func renewAt(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) * 2 / 3)
}

// KeyID names a public key: the SHA-256 of its PKIX form.
type KeyID [sha256.Size]byte

// Name is what a machine's certificate says.
type Name struct {
	Machine protocol.MachineID
	Key     KeyID
	Until   time.Time // the certificate's end
	RanOut  bool      // it lies in the past: a name still, but no right
	Early   bool      // it begins later, by the district's clock: likewise

	// Sealing is the machine's other key, where it told it: no part of the certificate.
	Sealing SealingKey
}

// Key usages, as certificates carry them: neither side's passes for the other's.
const (
	forMachine  = x509.ExtKeyUsageClientAuth
	forDistrict = x509.ExtKeyUsageServerAuth
)

// nameScheme makes a machine's name a URI, which is compared whole: the common name
// carries it too, for brokers that look there, but nothing here believes that alone.
const nameScheme = "yaoju"

func nameURI(m protocol.MachineID) *url.URL {
	return &url.URL{Scheme: nameScheme, Host: "machine", Path: "/" + string(m)}
}

// machineOf reads the one name a machine's certificate has.
func machineOf(c *x509.Certificate) (protocol.MachineID, error) {
	if len(c.URIs) != 1 || len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) != 0 {
		return "", errors.New("certificate: it does not name exactly one machine")
	}
	m := protocol.MachineID(c.Subject.CommonName)
	if err := m.Valid(); err != nil {
		return "", fmt.Errorf("certificate: %w", err)
	}
	if c.URIs[0].String() != nameURI(m).String() {
		return "", errors.New("certificate: its two names differ")
	}
	return m, nil
}

// keyID names the key, if it is of the one kind we use.
func keyID(public crypto.PublicKey) (KeyID, error) {
	k, ok := public.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return KeyID{}, errors.New("key: not ECDSA on P-256")
	}
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return KeyID{}, fmt.Errorf("key: %w", err)
	}
	return sha256.Sum256(der), nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return k, nil
}

// newSerial draws 127 random bits, never 0: nobody can guess the next one.
func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}

// within moves t to where every certificate of the chain has begun. A certificate
// that begins later than now only shows that our clock is behind.
func within(t time.Time, chain []*x509.Certificate) time.Time {
	for _, c := range chain {
		if c.NotBefore.After(t) {
			t = c.NotBefore
		}
	}
	return t
}

// verify checks that chain, leaf first, leads to root and is good for usage at the
// time; host is empty for a machine's certificate.
func verify(chain []*x509.Certificate, root *x509.Certificate, usage x509.ExtKeyUsage, host string, at time.Time) error {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at, DNSName: host, KeyUsages: []x509.ExtKeyUsage{usage}}
	o.Roots.AddCert(root)
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(o)
	return err
}

// maxChain bounds the certificates one side may show: three are sent, and each
// more is work for whoever verifies it.
const maxChain = 5
