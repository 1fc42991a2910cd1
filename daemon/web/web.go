// Package web serves the machine's screen to the one browser that runs on it. It
// owns the page: its markup, its looks, its script and the rules under which a
// request is answered at all. It draws a kiosk.View and passes taps on.
//
// It decides nothing: every state, timer and date comes from the session. It
// knows no card, ledger or motor, and nothing personal reaches it.
package web

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"

	"yaoju/daemon/kiosk"
	"yaoju/daemon/voice"
	"yaoju/daemon/words"
	"yaoju/protocol"
)

// Session is the kiosk as the page sees it.
type Session interface {
	// Watch returns the current view, and a channel closed when it goes stale.
	Watch() (kiosk.View, <-chan struct{})
	// Tap passes a press on. It is queued or dropped; it never blocks.
	Tap(serial uint64, t kiosk.Tap, arg string)
}

// Options say where the page is served.
type Options struct {
	Hosts []string // exact values of the Host header that are answered, such as "127.0.0.1:8080"
	Frame string   // origin that may show the page in a frame: the demo bench; empty: nobody
	Voice string   // folder of recordings that take the place of the built-in ones; empty: none
	Log   *slog.Logger
}

// maxArg is the longest argument of a staff's tap: a reason, or the name of a panel.
const maxArg = 16

// maxTap is the largest tap that is read; a real one has about 150 bytes.
const maxTap = 1 << 10

// screen is the handler behind every address.
type screen struct {
	session Session
	draw    *painter
	streams streams
	pulse   pulse
	log     *slog.Logger
	start   string // names this start of the program: a page of an earlier one reloads itself
	token   string // what a page must show to be allowed to tap
}

// New returns the handler of the machine's screen. Time-outs of the server are
// the caller's; the handler sets a limit on each write to a stream itself.
func New(s Session, o Options) http.Handler {
	book, err := words.Load()
	if err != nil {
		panic(err) // the catalogue is part of the program, and its test reads it too
	}
	files := loadAssets()
	c := &screen{session: s, draw: newPainter(book, voice.New(book, o.Voice), files), log: o.Log, start: rand.Text(), token: rand.Text()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", c.page)
	mux.HandleFunc("GET /events", c.events)
	mux.HandleFunc("POST /tap", c.tap)
	mux.HandleFunc("POST /beat", c.pulse.beat)
	mux.HandleFunc("GET /beat", c.pulse.ask)
	mux.Handle("GET /assets/{name}", files)
	mux.HandleFunc("GET /voice/{lang}/{name}", c.clip)
	// A page on another origin can neither post nor, once its name was bound to
	// the loopback address, pass for us: the Host check sees the name it used.
	return c.guard(o, http.NewCrossOriginProtection().Handler(mux))
}

// guard refuses what did not come to this page by its own name, and tells the
// browser to do nothing the page does not need.
func (c *screen) guard(o Options, next http.Handler) http.Handler {
	hosts := slices.Clone(o.Hosts)
	frame := "'none'"
	if o.Frame != "" {
		frame = o.Frame
	}
	policy := "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors " + frame
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=(), serial=(), clipboard-read=()")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !slices.Contains(hosts, r.Host) {
			c.refuse(w, http.StatusMisdirectedRequest, errors.New("another host name"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// refuse answers a request that the page itself never sends. It is not worth a
// line above debug: whoever sends such requests could fill the log.
func (c *screen) refuse(w http.ResponseWriter, status int, err error) {
	c.log.Debug("request refused", "status", status, "err", err)
	http.Error(w, http.StatusText(status), status)
}

// page sends the whole page, with the current screen already drawn.
func (c *screen) page(w http.ResponseWriter, _ *http.Request) {
	v, _ := c.session.Watch()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	// An error means that the browser went away.
	_, _ = w.Write(c.draw.shell(v, c.start, c.token))
}

// press is a tap as the page sends it.
type press struct {
	Token  string    `json:"token"`
	Serial uint64    `json:"serial"`
	Tap    kiosk.Tap `json:"tap"`
	Arg    string    `json:"arg"`
}

func (c *screen) tap(w http.ResponseWriter, r *http.Request) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		c.refuse(w, http.StatusUnsupportedMediaType, errors.New("not JSON"))
		return
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxTap))
	if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
		c.refuse(w, http.StatusRequestEntityTooLarge, err)
		return
	}
	if err != nil {
		c.refuse(w, http.StatusBadRequest, err)
		return
	}
	p, err := decodePress(b)
	if err != nil {
		c.refuse(w, http.StatusBadRequest, err)
		return
	}
	if subtle.ConstantTimeCompare([]byte(p.Token), []byte(c.token)) != 1 {
		c.refuse(w, http.StatusForbidden, errors.New("a page of another start, or no page of ours"))
		return
	}
	c.session.Tap(p.Serial, p.Tap, p.Arg)
	w.WriteHeader(http.StatusNoContent)
}

// decodePress reads one tap and refuses everything a page never sends.
func decodePress(b []byte) (press, error) {
	var p press
	if err := json.Unmarshal(b, &p); err != nil {
		return press{}, fmt.Errorf("tap: %w", err)
	}
	switch p.Tap {
	case kiosk.TapPick:
		if err := protocol.ProductID(p.Arg).Valid(); err != nil {
			return press{}, fmt.Errorf("tap: %w", err)
		}
	case kiosk.TapDigit, kiosk.TapSlot, kiosk.TapLot, kiosk.TapYear, kiosk.TapMonth, kiosk.TapKey, kiosk.TapReason, kiosk.TapPanel, kiosk.TapHold:
		if p.Arg == "" || len(p.Arg) > maxArg {
			return press{}, fmt.Errorf("tap %q: an argument of 1 to %d characters is needed", p.Tap, maxArg)
		}
	case kiosk.TapNext, kiosk.TapBack, kiosk.TapOther, kiosk.TapMore,
		kiosk.TapLang, kiosk.TapBig, kiosk.TapContrast, kiosk.TapDiscreet, kiosk.TapVoice, kiosk.TapVolume,
		kiosk.TapErase, kiosk.TapLess, kiosk.TapPlus, kiosk.TapFill, kiosk.TapFillAll, kiosk.TapSave, kiosk.TapCancel,
		kiosk.TapOff, kiosk.TapOn, kiosk.TapGave, kiosk.TapKept, kiosk.TapStill, kiosk.TapLet, kiosk.TapFinish, kiosk.TapExit:
		if p.Arg != "" {
			return press{}, fmt.Errorf("tap %q takes no argument", p.Tap)
		}
	default:
		return press{}, errors.New("tap: no such button")
	}
	return p, nil
}
