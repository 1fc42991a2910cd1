package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"yaoju/protocol"
)

// How long the CA's own certificates last. Machines know the root alone, so the
// issuing key can be replaced without visiting one; the root outlives the machines.
const (
	rootLife    = 20 * 365 * 24 * time.Hour
	issuingLife = 6 * 365 * 24 * time.Hour

	// issuingSpare is how much time an issuing certificate must have left: each
	// certificate it signs ends before it does, and none may be cut short.
	issuingSpare = 2 * Validity
)

// Files of a CA, in its folder. The root's key is needed once in some years, to
// sign the next issuing key: it may lie in a safe until then.
const (
	rootFile    = "root.pem"
	rootKeyFile = "root.key"
	issuingFile = "issuing.pem"
	beforeFile  = "issuing-before.pem" // the issuing key before this one: it still has certificates to revoke
)

// CAFiles lists the files of a CA, the one that is written last at the end.
func CAFiles() []string { return []string{rootKeyFile, beforeFile, issuingFile, rootFile} }

// CA signs certificates for the machines and the computers of one district.
type CA struct {
	root    *x509.Certificate
	issuing *x509.Certificate
	key     crypto.Signer // of issuing
	before  *issuer       // whose certificates may still be in use; nil: there was none
}

// issuer is a key that signs certificates, or did.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// ErrNoCA says that the folder holds no CA.
var ErrNoCA = errors.New("there is no CA yet")

// MakeCA makes a CA in a folder that has none.
func MakeCA(dir string, now time.Time) (*CA, error) {
	if _, err := OpenCA(dir, now); !errors.Is(err, ErrNoCA) {
		return nil, errors.Join(fmt.Errorf("make a CA in %s: one is there", dir), err)
	}
	rootKey, err := newKey()
	if err != nil {
		return nil, err
	}
	name := make([]byte, 4)
	rand.Read(name) // never fails: crypto/rand ends the process instead
	t := authority("yaoju root "+hex.EncodeToString(name), now, now.Add(rootLife), 1)
	root, err := signCertificate(t, t, rootKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	// The root's certificate comes last: without it there is no CA, and a power cut
	// on the way leaves nothing that looks like one.
	err = makeFolder(dir)
	if err == nil {
		err = writeBundle(filepath.Join(dir, rootKeyFile), bundle{key: rootKey})
	}
	if err == nil {
		err = makeIssuing(dir, root, rootKey, now)
	}
	if err == nil {
		err = writeBundle(filepath.Join(dir, rootFile), bundle{certs: []*x509.Certificate{root}})
	}
	if err != nil {
		return nil, fmt.Errorf("make a CA in %s: %w", dir, err)
	}
	return OpenCA(dir, now)
}

// OpenCA reads the CA in a folder. An issuing key that comes to its end is
// replaced, if the root's key is there.
func OpenCA(dir string, now time.Time) (*CA, error) {
	ca, err := readCA(dir)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	if now.Before(ca.issuing.NotBefore) {
		return nil, fmt.Errorf("CA: this computer's clock says %s, which is before the CA in %s was made: set the clock", now.Format(time.DateOnly), dir)
	}
	if ca.issuing.NotAfter.Sub(now) > issuingSpare {
		return ca, nil
	}
	u, err := readBundle(filepath.Join(dir, rootKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return ca, nil // Warnings says so
	}
	if err == nil && (u.key == nil || !u.key.PublicKey.Equal(ca.root.PublicKey)) {
		err = errors.New("root.key is not the key of root.pem")
	}
	if err == nil {
		err = keepBefore(dir)
	}
	if err == nil {
		err = makeIssuing(dir, ca.root, u.key, now)
	}
	if err != nil {
		return nil, fmt.Errorf("CA: replace the issuing key: %w", err)
	}
	return readCA(dir)
}

// CheckCA reports what is wrong with the CA in a folder, ErrNoCA if there is none, and
// changes nothing.
func CheckCA(dir string) error {
	_, err := readCA(dir)
	return err
}

func readCA(dir string) (*CA, error) {
	r, err := readBundle(filepath.Join(dir, rootFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoCA
	}
	if err != nil {
		return nil, err
	}
	i, err := readBundle(filepath.Join(dir, issuingFile))
	if err != nil {
		return nil, err
	}
	switch {
	case len(r.certs) != 1 || len(i.certs) != 1 || i.key == nil:
		return nil, fmt.Errorf("%s: a key or certificate is missing: restore the backup", dir)
	case !i.key.PublicKey.Equal(i.certs[0].PublicKey):
		return nil, fmt.Errorf("%s: key and certificate do not belong together: restore the backup", filepath.Join(dir, issuingFile))
	}
	if err := i.certs[0].CheckSignatureFrom(r.certs[0]); err != nil {
		return nil, fmt.Errorf("%s: the root did not sign the issuing key: restore the backup: %w", dir, err)
	}
	ca := &CA{root: r.certs[0], issuing: i.certs[0], key: i.key}
	b, err := readBundle(filepath.Join(dir, beforeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return ca, nil
	}
	if err != nil {
		return nil, err
	}
	if len(b.certs) != 1 || b.key == nil || !b.key.PublicKey.Equal(b.certs[0].PublicKey) {
		return nil, fmt.Errorf("%s: key and certificate do not belong together: restore the backup", filepath.Join(dir, beforeFile))
	}
	ca.before = &issuer{b.certs[0], b.key}
	return ca, nil
}

// keepBefore keeps the issuing key that is about to be replaced.
func keepBefore(dir string) error {
	u, err := readBundle(filepath.Join(dir, issuingFile))
	if err != nil {
		return err
	}
	return writeBundle(filepath.Join(dir, beforeFile), u)
}

func makeIssuing(dir string, root *x509.Certificate, rootKey *ecdsa.PrivateKey, now time.Time) error {
	k, err := newKey()
	if err != nil {
		return err
	}
	until := now.Add(issuingLife)
	if until.After(root.NotAfter) {
		until = root.NotAfter
	}
	t := authority(root.Subject.CommonName+" issuing "+now.UTC().Format(time.DateOnly), now, until, 0)
	c, err := signCertificate(t, root, k.Public(), rootKey)
	if err != nil {
		return err
	}
	return writeBundle(filepath.Join(dir, issuingFile), bundle{key: k, certs: []*x509.Certificate{c}})
}

// authority is the template of a CA's certificate with so many CAs below it.
func authority(name string, from, until time.Time, below int) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: name}, NotBefore: from.Add(-2 * backdate), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: below, MaxPathLenZero: below == 0,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func signCertificate(t, parent *x509.Certificate, public crypto.PublicKey, by crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, public, by)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", t.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

// Root is the fingerprint by which a machine knows this CA the first time: the
// SHA-256 of the root's certificate.
func (ca *CA) Root() [sha256.Size]byte { return sha256.Sum256(ca.root.Raw) }

// Warnings says in plain words what a person should do about the CA.
func (ca *CA) Warnings(now time.Time) []string {
	var out []string
	if left := ca.issuing.NotAfter.Sub(now); left <= issuingSpare {
		out = append(out, fmt.Sprintf("the CA's issuing key ends on %s: put %s back into the CA's folder and start districtd again",
			ca.issuing.NotAfter.Format(time.DateOnly), rootKeyFile))
	}
	return out
}

// until is the end of a certificate that is made now.
func (ca *CA) until(now time.Time, life time.Duration) time.Time {
	t := now.Add(life).Truncate(time.Second)
	if t.After(ca.issuing.NotAfter) {
		t = ca.issuing.NotAfter
	}
	return t
}

// issue signs a machine's certificate. What the machine asked to be called counts
// for nothing here: only its key is taken over.
func (ca *CA) issue(m protocol.MachineID, public crypto.PublicKey, now, until time.Time) (*x509.Certificate, error) {
	k, err := keyID(public)
	if err != nil {
		return nil, err
	}
	return ca.sign(&x509.Certificate{SerialNumber: serialOf(k), Subject: pkix.Name{CommonName: string(m)}, URIs: []*url.URL{nameURI(m)}, ExtKeyUsage: []x509.ExtKeyUsage{forMachine}}, public, now, until)
}

func (ca *CA) sign(t *x509.Certificate, public crypto.PublicKey, now, until time.Time) (*x509.Certificate, error) {
	if t.SerialNumber == nil {
		t.SerialNumber = newSerial()
	}
	t.NotBefore, t.NotAfter = now.Add(-backdate), until
	t.KeyUsage, t.BasicConstraintsValid = x509.KeyUsageDigitalSignature, true
	return signCertificate(t, ca.issuing, public, ca.key)
}

// chain is a certificate as it is sent: with what leads to the root, and the root
// itself, which a machine knows by its fingerprint before it has any of them.
func (ca *CA) chain(leaf *x509.Certificate) []*x509.Certificate {
	return []*x509.Certificate{leaf, ca.issuing, ca.root}
}

// who reads the name out of a certificate this CA signed, leaf first. One that ran
// out, or begins later, is a name still, and its caller decides.
func (ca *CA) who(chain []*x509.Certificate, now time.Time) (n Name, err error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return n, fmt.Errorf("certificate: %d were shown, want 1 to %d", len(chain), maxChain)
	}
	leaf := chain[0]
	n.Until, n.RanOut, n.Early = leaf.NotAfter, now.After(leaf.NotAfter), now.Before(leaf.NotBefore)
	at := now
	switch {
	case n.RanOut:
		at = leaf.NotAfter // whether it was good on its last day
	case n.Early:
		at = leaf.NotBefore
	}
	// Some clients show their own certificate alone; what leads to the root is ours.
	all := slices.Clone(chain)
	for _, by := range ca.issuers() {
		all = append(all, by.cert)
	}
	if err := verify(all, ca.root, forMachine, "", at); err != nil {
		return n, fmt.Errorf("certificate: %w", err)
	}
	if n.Machine, err = machineOf(leaf); err != nil {
		return n, err
	}
	n.Key, err = keyID(leaf.PublicKey)
	return n, err
}
