package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"yaoju/protocol"
)

// Limits of a request to the desk.
const (
	askLimit  = time.Minute // a mobile line that wakes up, and TLS at 32 kbit/s
	maxAnswer = 32 << 10    // three certificates are 3 KiB
)

// caller is one machine's side of TLS to one computer of its district.
type caller struct {
	dial    func(ctx context.Context, address string) (net.Conn, error)
	address string
	own     *tls.Certificate // shown if the other side asks; nil: none yet
	at      time.Time        // what time the machine believes it is, at the earliest
	// root picks the district's root out of what the other side shows, or says that
	// it is not there: the one place where a stranger would be taken for the district.
	root func(shown []*x509.Certificate) (*x509.Certificate, error)
}

// pinned knows the root by its fingerprint, before there is anything else.
func pinned(fingerprint [sha256.Size]byte) func([]*x509.Certificate) (*x509.Certificate, error) {
	return func(shown []*x509.Certificate) (*x509.Certificate, error) {
		for _, c := range shown {
			if sha256.Sum256(c.Raw) == fingerprint {
				return c, nil
			}
		}
		return nil, errors.New("it is not the district that made the enrolment line")
	}
}

// known knows the root itself.
func known(root *x509.Certificate) func([]*x509.Certificate) (*x509.Certificate, error) {
	return func([]*x509.Certificate) (*x509.Certificate, error) { return root, nil }
}

// open dials and shakes hands. The other side is the district, by the name in
// address, or there is no connection.
func (k caller) open(ctx context.Context) (*tls.Conn, error) {
	host, _, err := net.SplitHostPort(k.address)
	if err != nil {
		return nil, err
	}
	line, err := k.dial(ctx, k.address)
	if err != nil {
		return nil, err
	}
	c := tls.Client(line, &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: host,
		InsecureSkipVerify: true, // the library would judge by a clock that may not be set; VerifyConnection does all it would
		VerifyConnection: func(cs tls.ConnectionState) error {
			shown := cs.PeerCertificates
			if len(shown) == 0 || len(shown) > maxChain {
				return fmt.Errorf("%d certificates were shown, want 1 to %d", len(shown), maxChain)
			}
			root, err := k.root(shown)
			if err != nil {
				return err
			}
			err = verify(shown, root, forDistrict, host, within(k.at, shown))
			if errors.As(err, new(x509.UnknownAuthorityError)) {
				return fmt.Errorf("whoever answers there is not the district this machine was enrolled in: if it was set up anew, enrol the machine again: %w", err)
			}
			return err
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if k.own == nil {
				return new(tls.Certificate), nil
			}
			return k.own, nil
		},
	})
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("TLS to %s: %w", k.address, err), line.Close())
	}
	return c, nil
}

// ask makes one request of the desk and returns the certificates it gives.
func (k caller) ask(ctx context.Context, path string, body []byte) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	t := &http.Transport{
		DialTLSContext:    func(ctx context.Context, _, _ string) (net.Conn, error) { return k.open(ctx) },
		DisableKeepAlives: true,
	}
	client := http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+k.address+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r, err := client.Do(q)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		return nil, decodeRefusal(b)
	}
	return decodeAnswer(b)
}

func decodeRefusal(b []byte) *Refusal {
	var no Refusal
	if err := json.Unmarshal(b, &no); err != nil || !no.Code.known() || no.Machine != "" && protocol.MachineID(no.Machine).Valid() != nil {
		return &Refusal{Code: CodeFailed}
	}
	return &no
}

func decodeAnswer(b []byte) ([]*x509.Certificate, error) {
	var a answer
	if err := json.Unmarshal(b, &a); err != nil {
		return nil, fmt.Errorf("the district's answer: %w", err)
	}
	if len(a.Chain) < 2 || len(a.Chain) > maxChain {
		return nil, fmt.Errorf("the district's answer: %d certificates, want 2 to %d", len(a.Chain), maxChain)
	}
	var out []*x509.Certificate
	for _, der := range a.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("the district's answer: %w", err)
		}
		out = append(out, c)
	}
	return out, nil
}
