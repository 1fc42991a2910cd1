package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// serverLife is how long a district's own certificate lasts. It is made anew by the
// running process, and its key is never written down.
const serverLife = 90 * 24 * time.Hour

// Server is a district's computer, as machines see it.
type Server struct {
	ca    *CA
	names []string

	mu  sync.Mutex
	own *tls.Certificate // guarded by mu; nil before the first connection
	due time.Time        // guarded by mu: when own is made anew
}

// NewServer returns a server that is known under the names, host names or
// addresses, at which machines reach it.
func NewServer(ca *CA, names []string) (*Server, error) {
	if len(names) == 0 {
		return nil, errors.New("server: it has no name: machines could not tell it from another")
	}
	s := &Server{ca: ca, names: names}
	_, err := s.certificate(nil)
	return s, err
}

// certificate returns the server's own, made anew at two thirds of its time.
func (s *Server) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.own != nil && now.Before(s.due) {
		return s.own, nil
	}
	k, err := newKey()
	if err != nil {
		return nil, err
	}
	leaf, err := s.ca.sign(computer(s.names), k.Public(), now, s.ca.until(now, serverLife))
	if err != nil {
		return nil, err
	}
	own := &tls.Certificate{PrivateKey: k, Leaf: leaf}
	for _, c := range s.ca.chain(leaf) {
		own.Certificate = append(own.Certificate, c.Raw)
	}
	s.own, s.due = own, renewAt(leaf)
	return own, nil
}

// computer is the template of the certificate of a district's computer.
func computer(names []string) *x509.Certificate {
	t := &x509.Certificate{Subject: pkix.Name{CommonName: "yaoju district"}, ExtKeyUsage: []x509.ExtKeyUsage{forDistrict}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
			continue
		}
		t.DNSNames = append(t.DNSNames, n)
	}
	return t
}

// base is TLS as we speak it. A session is never resumed: each connection is judged
// anew, or a revoked machine would come back on an old ticket.
func (s *Server) base() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: s.certificate, SessionTicketsDisabled: true}
}

// Handshakes under way on a listener of machines: strangers can fill these places and
// no others. All machines of a district may stand behind one address, and come at once
// after a power cut: whoever is hung up on comes again within a minute.
const (
	maxShaking        = 512
	maxShakingFromOne = 128
)

// Machines wraps a listener in TLS on which the other side must be a machine with a
// certificate that holds now; Identify then says which.
func (s *Server) Machines(l net.Listener) net.Listener {
	c := s.base()
	c.ClientAuth = tls.RequireAnyClientCert // judged by who, not by the library's rules
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := s.current(cs)
		return err
	}
	return tls.NewListener(newTurnstile(l, maxShaking, maxShakingFromOne), c)
}

func (s *Server) current(cs tls.ConnectionState) (Name, error) {
	n, err := s.ca.who(cs.PeerCertificates, time.Now())
	switch {
	case err != nil:
	case n.RanOut:
		err = fmt.Errorf("certificate of %s: it ran out on %s", n.Machine, n.Until.Format(time.DateOnly))
	case n.Early:
		err = fmt.Errorf("certificate of %s: it begins later than now: this computer's clock is behind, or was ahead when it was made", n.Machine)
	}
	return n, err
}

// desk is TLS for the enrolment, to which a machine may come with no certificate or
// with one that ran out. One that is shown proves that its key is there, no more.
func (s *Server) desk() *tls.Config {
	c := s.base()
	c.ClientAuth = tls.RequestClientCert
	return c
}

// Identify finishes the handshake of a connection accepted with Machines and says
// who is there.
func (s *Server) Identify(ctx context.Context, c net.Conn) (Name, error) {
	t, ok := c.(*tls.Conn)
	if !ok {
		return Name{}, errors.New("not a TLS connection")
	}
	if err := t.HandshakeContext(ctx); err != nil {
		return Name{}, fmt.Errorf("TLS: %w", err)
	}
	if g, ok := t.NetConn().(*guest); ok {
		g.leave() // the turnstile counts those who have not shown who they are
	}
	return s.current(t.ConnectionState())
}
