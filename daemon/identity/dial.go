package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"regexp"
	"time"
)

// officeLife is how long the certificate lasts that a district shows to its broker. It
// is made for one connection, and its key is never written down.
const officeLife = 90 * 24 * time.Hour

// officeName is what a district calls itself to its broker: no machine id has capitals.
var officeName = regexp.MustCompile(`^DISTRICT(-[0-9]{1,2})?$`)

// ValidOffice checks the name of a district's program towards its broker.
func ValidOffice(name string) error {
	if !officeName.MatchString(name) {
		return fmt.Errorf("%.40q: want \"DISTRICT\", or \"DISTRICT-2\" and so on for further ones", name)
	}
	return nil
}

// DialBroker reaches a broker that is a program of its own, as a client with this name.
// The broker is told from any other by its certificate, which this CA signed for the
// host in the address; see KeepBroker.
func (s *Server) DialBroker(ctx context.Context, address, name string) (net.Conn, error) {
	if err := ValidOffice(name); err != nil {
		return nil, err
	}
	own, err := s.ca.office(name, time.Now())
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	k := caller{
		dial:    func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) },
		address: address, own: own, at: time.Now(), root: known(s.ca.root),
	}
	c, err := k.open(ctx)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// office makes a certificate for the district's own program. It names no machine, so
// nobody could speak for one with it.
func (ca *CA) office(name string, now time.Time) (*tls.Certificate, error) {
	k, err := newKey()
	if err != nil {
		return nil, err
	}
	leaf, err := ca.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{forMachine}}, k.Public(), now, ca.until(now, officeLife))
	if err != nil {
		return nil, err
	}
	own := &tls.Certificate{PrivateKey: k, Leaf: leaf}
	for _, c := range ca.chain(leaf) {
		own.Certificate = append(own.Certificate, c.Raw)
	}
	return own, nil
}
