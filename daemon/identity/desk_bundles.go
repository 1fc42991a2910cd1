package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"time"
)

// bundlesPath is where machines fetch releases of their software, over the same door
// as their certificates: then the bundle's sum and bundleEnd.
const (
	bundlesPath = "/releases/"
	bundleEnd   = ".bundle"
)

// Bounds of the bundles. Whoever fetches one stays for minutes, and must leave room
// for those who want a certificate.
const (
	maxFetching        = 32 // at once
	maxFetchingFromOne = 6  // of them from one address
	// fetchStall ends an answer whose reader takes nothing: a mobile line that changes
	// its cell is back well before.
	fetchStall = time.Minute
)

// Library is where bundles lie.
type Library interface {
	// OpenBundle returns the bundle with this sum for a machine: a *Refusal if it may
	// have none, fs.ErrNotExist if there is none.
	OpenBundle(ctx context.Context, n Name, sum string) (io.ReadSeeker, error)
}

// lending is what a desk needs for bundles.
type lending struct {
	from  Library
	limit *limiter
	doors *turnstile // counts who fetches
}

// Lend has the desk give out bundles as well. It is called before Run.
func (d *Desk) Lend(from Library) {
	d.lending = &lending{from: from, limit: newLimiter(), doors: newTurnstile(nil, maxFetching, maxFetchingFromOne)}
}

// lend answers one request for a bundle, or for what is left of it.
func (d *Desk) lend(w http.ResponseWriter, r *http.Request) {
	sum, named := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, bundlesPath), bundleEnd)
	if !named || r.Method != http.MethodGet || r.TLS == nil {
		http.Error(w, "no such path", http.StatusNotFound)
		return
	}
	n, err := d.server.current(*r.TLS)
	if err != nil {
		http.Error(w, "a machine's certificate is needed", http.StatusForbidden)
		return
	}
	from := origin(r.RemoteAddr)
	if !d.lending.limit.allow(r.RemoteAddr, time.Now()) || !d.lending.doors.enter(from) {
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	defer d.lending.doors.left(from)
	f, err := d.lending.from.OpenBundle(r.Context(), n, sum)
	if err != nil {
		d.sorry(w, n, err)
		return
	}
	patient := &patientWriter{ResponseWriter: w, line: http.NewResponseController(w)}
	if err := patient.line.SetReadDeadline(time.Time{}); err != nil { // the request is read; the end of its line is noticed all the same
		d.sorry(w, n, err)
		return
	}
	http.ServeContent(patient, r, "", time.Time{}, f)
}

// sorry says why there is no bundle.
func (d *Desk) sorry(w http.ResponseWriter, n Name, err error) {
	var no *Refusal
	status := http.StatusInternalServerError
	switch {
	case errors.As(err, &no):
		status = http.StatusForbidden
		d.log.Warn("bundle refused", "device", n.Machine, "why", string(no.Code), "err", err)
	case errors.Is(err, fs.ErrNotExist):
		status = http.StatusNotFound
		d.log.Warn("bundle refused", "device", n.Machine, "err", err)
	default:
		d.log.Error("bundle not given", "device", n.Machine, "err", err)
	}
	http.Error(w, http.StatusText(status), status)
}

// patientWriter gives each part of an answer its own time.
type patientWriter struct {
	http.ResponseWriter
	line *http.ResponseController
}

// Write sends one part.
func (p *patientWriter) Write(b []byte) (int, error) {
	if err := p.line.SetWriteDeadline(time.Now().Add(fetchStall)); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(b)
}

// Client makes requests of the district's computers by HTTPS, on lines where both
// sides know each other. It has no limit on the whole answer, and follows nobody
// elsewhere.
func (m *Machine) Client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, askLimit)
				defer cancel()
				c, err := m.Dial(ctx, address)
				if err != nil {
					return nil, fmt.Errorf("reach %s: %w", address, err)
				}
				return c, nil
			},
			DisableKeepAlives:     true,
			ResponseHeaderTimeout: askLimit,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
