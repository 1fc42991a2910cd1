package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"yaoju/protocol"
)

// Registry knows who may have a certificate. It answers with a *Refusal where the
// answer is no; any other error is its own failure.
type Registry interface {
	// Redeem lets the bearer of a token have a certificate for key. What it decided
	// is durable when it returns. The same token with the same key is good again
	// until the token ends, because an answer may be lost; with another key never.
	Redeem(ctx context.Context, t Token, n Name) error
	// Renew lets a machine have its next certificate, until n.Until, for the key it
	// has. RanOut says that the one it showed is no longer good.
	Renew(ctx context.Context, n Name) error
}

// Paths of the two requests. Both are POST.
const (
	enrolPath = "/1/enrol"
	renewPath = "/1/renew"
)

// Bounds of the desk.
const (
	maxRequest   = 8 << 10 // a request for a P-256 key is 600 bytes
	maxCallers   = 64      // connections at once
	maxFromOne   = 8       // of them from one address: a whole district may be behind one
	callLimit    = 20 * time.Second
	partingLimit = 2 * time.Second
)

// enrolRequest is the body of the first request.
type enrolRequest struct {
	Machine protocol.MachineID `json:"machine"`
	Token   []byte             `json:"token"`
	CSR     []byte             `json:"csr"`               // PKCS #10, DER
	Sealing []byte             `json:"sealing,omitempty"` // X25519 public key; older machines have none
}

// renewRequest is the body of the second; older machines send none.
type renewRequest struct {
	Sealing []byte `json:"sealing,omitempty"`
}

// answer is the body of a good answer.
type answer struct {
	Chain [][]byte `json:"chain"` // DER, the machine's own first, the root last
}

// Desk is where machines ask for certificates.
type Desk struct {
	server   *Server
	registry Registry
	log      *slog.Logger
	limit    *limiter
	lending  *lending // nil: bundles are not given out here
}

// NewDesk returns a desk that Run opens.
func NewDesk(s *Server, r Registry, log *slog.Logger) *Desk {
	return &Desk{server: s, registry: r, log: log, limit: newLimiter()}
}

// Run answers on the listener, which speaks plain TCP, until ctx ends, and then
// returns nil; the listener is closed.
func (d *Desk) Run(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler: d, ReadHeaderTimeout: callLimit, ReadTimeout: callLimit, WriteTimeout: callLimit, IdleTimeout: callLimit, MaxHeaderBytes: 4 << 10,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug), // of handshakes that strangers began
	}
	s.SetKeepAlivesEnabled(false) // one request is all a machine has
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), partingLimit)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			s.Close() // whoever is still speaking asks again
		}
	})
	err := s.Serve(tls.NewListener(newTurnstile(l, maxCallers, maxFromOne), d.server.desk()))
	if stop() {
		return fmt.Errorf("enrolment: %w", err) // it ended by itself
	}
	<-stopped
	return nil
}

// ServeHTTP answers one request. Strangers learn nothing but what to do next.
func (d *Desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if d.lending != nil && strings.HasPrefix(r.URL.Path, bundlesPath) {
		d.lend(w, r)
		return
	}
	chain, err := d.answer(w, r)
	if err == nil {
		w.Header().Set("Content-Type", "application/json")
		w.Write(protocol.Encode(answer{Chain: chain})) // a caller that went asks again
		return
	}
	var no *Refusal
	if !errors.As(err, &no) {
		d.log.Error("certificate not given", "err", err)
		no = &Refusal{Code: CodeFailed}
	} else if no.Code != CodeCurrent && no.Code != CodeBusy { // who asks too often must not fill the log either
		d.log.Warn("certificate refused", "device", no.Machine, "why", string(no.Code), "from", r.RemoteAddr, "err", no.reason)
	}
	status := http.StatusForbidden
	switch no.Code {
	case CodeFailed:
		status = http.StatusInternalServerError
	case CodeRequest:
		status = http.StatusBadRequest
	case CodeBusy:
		status = http.StatusTooManyRequests
	case CodeCurrent:
		status = http.StatusConflict
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(protocol.Encode(no)) // a caller that went asks again
}

func (d *Desk) answer(w http.ResponseWriter, r *http.Request) ([][]byte, error) {
	if !d.limit.allow(r.RemoteAddr, time.Now()) {
		return nil, Refuse(CodeBusy, nil)
	}
	if r.Method != http.MethodPost || r.TLS == nil {
		return nil, Refuse(CodeRequest, errors.New("not a POST"))
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		return nil, Refuse(CodeRequest, err)
	}
	switch r.URL.Path {
	case enrolPath:
		return d.enrol(r.Context(), b)
	case renewPath:
		return d.renew(r.Context(), r.TLS.PeerCertificates, b)
	}
	return nil, Refuse(CodeRequest, errors.New("no such path"))
}

func (d *Desk) enrol(ctx context.Context, b []byte) ([][]byte, error) {
	q, token, public, err := decodeEnrol(b)
	if err != nil {
		return nil, Refuse(CodeRequest, err)
	}
	sealing, err := decodeSealingKey(q.Sealing)
	if err != nil {
		return nil, Refuse(CodeRequest, err)
	}
	return d.give(Name{Machine: q.Machine, Sealing: sealing}, public, func(n Name) error { return d.registry.Redeem(ctx, token, n) })
}

// decodeEnrol reads the first request and checks that its sender has the key.
func decodeEnrol(b []byte) (q enrolRequest, t Token, public *ecdsa.PublicKey, err error) {
	if err := json.Unmarshal(b, &q); err != nil {
		return q, t, nil, err
	}
	if err := q.Machine.Valid(); err != nil {
		return q, t, nil, err
	}
	if len(q.Token) != len(t) {
		return q, t, nil, errors.New("the token has another length")
	}
	copy(t[:], q.Token)
	csr, err := x509.ParseCertificateRequest(q.CSR)
	if err != nil {
		return q, t, nil, err
	}
	if _, err := keyID(csr.PublicKey); err != nil {
		return q, t, nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return q, t, nil, err
	}
	if csr.Subject.CommonName != string(q.Machine) {
		return q, t, nil, errors.New("the request is for another machine")
	}
	return q, t, csr.PublicKey.(*ecdsa.PublicKey), nil
}

// decodeRenew reads the second request, which is empty from an older machine.
func decodeRenew(b []byte) (SealingKey, error) {
	var q renewRequest
	if len(b) > 0 {
		if err := json.Unmarshal(b, &q); err != nil {
			return SealingKey{}, err
		}
	}
	return decodeSealingKey(q.Sealing)
}

func (d *Desk) renew(ctx context.Context, shown []*x509.Certificate, b []byte) ([][]byte, error) {
	now := time.Now()
	n, err := d.server.ca.who(shown, now)
	if err != nil {
		return nil, Refuse(CodeRequest, err)
	}
	if n.Sealing, err = decodeRenew(b); err != nil {
		return nil, Refuse(CodeRequest, err)
	}
	return d.give(n, shown[0].PublicKey.(*ecdsa.PublicKey), func(next Name) error {
		// The registry is asked even where there is nothing to renew: so a machine
		// learns within hours that its key is revoked or not known any more. One that
		// begins later was made while our clock was ahead: it is of no use until then.
		current := now.Before(renewAt(shown[0])) && !n.Early
		if current {
			next.Until = n.Until
		}
		if err := d.registry.Renew(ctx, next); err != nil {
			return err
		}
		if current {
			return Refuse(CodeCurrent, nil)
		}
		return nil
	})
}

// give signs a certificate if may says so. What may noted has to be durable by then:
// a certificate that is out cannot be called back.
func (d *Desk) give(n Name, public *ecdsa.PublicKey, may func(Name) error) ([][]byte, error) {
	now := time.Now()
	var err error
	if n.Key, err = keyID(public); err != nil {
		return nil, Refuse(CodeRequest, err)
	}
	n.Until = d.server.ca.until(now, Validity)
	if err := may(n); err != nil {
		var no *Refusal
		if errors.As(err, &no) {
			no.Machine = string(n.Machine)
		}
		return nil, err
	}
	leaf, err := d.server.ca.issue(n.Machine, public, now, n.Until)
	if err != nil {
		return nil, err
	}
	d.log.Info("certificate given", "device", n.Machine, "until", n.Until)
	var out [][]byte
	for _, c := range d.server.ca.chain(leaf) {
		out = append(out, c.Raw)
	}
	return out, nil
}
