package identity

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"yaoju/daemon/durable"
)

// Files for a broker that is a program of its own, in their folder. Certificate and
// key of the broker change together, so they are one file.
const (
	BrokerCA      = "ca.crt"      // whose certificates the broker takes, PEM
	BrokerOwn     = "broker.pem"  // its own certificate, what leads to the root, and its key
	BrokerRevoked = "revoked.crl" // revocation lists, PEM: one of each issuing key
	BrokerKeys    = "revoked.txt" // the same for people and scripts: a serial number a line
)

// A broker refuses everybody once its revocation list is too old: one lasts longer
// than a district's computer is ever away, and is made anew every day.
const (
	listLife  = 90 * 24 * time.Hour
	listEvery = 24 * time.Hour
)

const pemList = "X509 CRL"

// serialOf is the serial number of every certificate of a key. Here keys are revoked
// and not certificates, and a revocation list knows nothing but serial numbers: so
// the list follows from the keys alone, and no certificate can be missing on it.
func serialOf(k KeyID) *big.Int {
	b := k[:16]
	return new(big.Int).SetBytes(append([]byte{b[0]&0x7f | 0x40}, b[1:]...))
}

// KeepBroker brings the files of a broker up to date: names are those at which
// machines reach it, revoked the keys it must take no more. What is good stays as it
// is, so that a change of a file means something.
func (ca *CA) KeepBroker(dir string, names []string, revoked []KeyID, now time.Time) error {
	if len(names) == 0 {
		return errors.New("broker: it has no name: machines could not tell it from another")
	}
	err := makeFolder(dir)
	if err == nil {
		err = replace(filepath.Join(dir, BrokerCA), ca.encodeCertificates())
	}
	if err == nil {
		err = ca.keepOwn(filepath.Join(dir, BrokerOwn), names, now)
	}
	if err == nil {
		err = ca.keepLists(dir, revoked, now)
	}
	if err != nil {
		return fmt.Errorf("broker's files: %w", err)
	}
	return nil
}

// issuers are the keys whose certificates may still be in use.
func (ca *CA) issuers() []issuer {
	out := []issuer{{ca.issuing, ca.key}}
	if ca.before != nil {
		out = append(out, *ca.before)
	}
	return out
}

// encodeCertificates is all a machine's certificate may lead to.
func (ca *CA) encodeCertificates() []byte {
	var b bytes.Buffer
	for _, by := range append(ca.issuers(), issuer{cert: ca.root}) {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: by.cert.Raw}))
	}
	return b.Bytes()
}

// replace writes a file unless it holds the same already.
func replace(path string, b []byte) error {
	have, err := os.ReadFile(path)
	if err == nil && bytes.Equal(have, b) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.WriteFile(path, b)
}

// keepOwn makes the broker's certificate anew, with a new key, at two thirds of its
// time and when its names or the issuing key have changed.
func (ca *CA) keepOwn(path string, names []string, now time.Time) error {
	have, err := readBundle(path)
	if err == nil && ca.ownGood(have, names, now) {
		return nil
	}
	k, err := newKey()
	if err != nil {
		return err
	}
	leaf, err := ca.sign(computer(names), k.Public(), now, ca.until(now, serverLife))
	if err != nil {
		return err
	}
	return writeBundle(path, bundle{key: k, certs: ca.chain(leaf)})
}

func (ca *CA) ownGood(b bundle, names []string, now time.Time) bool {
	if b.key == nil || len(b.certs) != 3 || !b.key.PublicKey.Equal(b.certs[0].PublicKey) || !b.certs[1].Equal(ca.issuing) {
		return false
	}
	leaf, want := b.certs[0], computer(names)
	return now.Before(renewAt(leaf)) && !now.Before(leaf.NotBefore) &&
		slices.Equal(leaf.DNSNames, want.DNSNames) && slices.EqualFunc(leaf.IPAddresses, want.IPAddresses, net.IP.Equal)
}

// keepLists writes the revocation lists when a key has come or gone, and every day.
func (ca *CA) keepLists(dir string, revoked []KeyID, now time.Time) error {
	var lines []string
	for _, k := range revoked {
		lines = append(lines, fmt.Sprintf("%x\n", serialOf(k)))
	}
	slices.Sort(lines)
	text := strings.Join(slices.Compact(lines), "")
	had, err := os.ReadFile(filepath.Join(dir, BrokerKeys))
	if err == nil && string(had) == text && ca.listsGood(filepath.Join(dir, BrokerRevoked), now) {
		return nil
	}
	var lists bytes.Buffer
	for _, by := range ca.issuers() {
		der, err := x509.CreateRevocationList(rand.Reader, revocationList(revoked, now), by.cert, by.key)
		if err != nil {
			return fmt.Errorf("sign a revocation list: %w", err)
		}
		lists.Write(pem.EncodeToMemory(&pem.Block{Type: pemList, Bytes: der}))
	}
	// The text comes last: without it the lists are made again.
	if err := durable.WriteFile(filepath.Join(dir, BrokerRevoked), lists.Bytes()); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, BrokerKeys), []byte(text))
}

func revocationList(revoked []KeyID, now time.Time) *x509.RevocationList {
	// A broker on another computer, whose clock is behind, must take it as well.
	l := &x509.RevocationList{Number: big.NewInt(now.UnixMilli()), ThisUpdate: now.Add(-backdate), NextUpdate: now.Add(listLife)}
	for _, k := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serialOf(k), RevocationTime: l.ThisUpdate})
	}
	return l
}

// listsGood says whether the file holds a list of today by each issuing key.
func (ca *CA) listsGood(path string, now time.Time) bool {
	b, err := os.ReadFile(path)
	if err != nil {
		return false // not there, or not to be read: it is written anew, and that says why if it fails
	}
	for _, by := range ca.issuers() {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return false
		}
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil || l.CheckSignatureFrom(by.cert) != nil || now.Sub(l.ThisUpdate) > listEvery+backdate || now.Before(l.ThisUpdate) {
			return false
		}
	}
	return true
}
