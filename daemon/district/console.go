package district

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"yaoju/daemon/words"
	"yaoju/protocol"
)

//go:embed assets
var assets embed.FS

// Bounds of the console.
const (
	maxForm      = 4 << 10          // bytes of a form
	maxSearch    = 100              // bytes of a search
	maxStreams   = 64               // pages that follow changes at once
	streamGap    = time.Second      // between two changes told to one page
	streamBeat   = 15 * time.Second // so that a page and proxies notice a dead line
	streamWrite  = 10 * time.Second // a page that takes longer to read a line is gone
	pageLimit    = 10 * time.Second // to read and draw one page
	rowsPerPage  = 50
	maxEventList = 30
)

// console is the district's pages. It reads the district and gives commands; all
// that it changes goes through the district's own methods.
type console struct {
	d       *District
	words   *words.Book
	handler http.Handler
	draw    *template.Template
	css, js string // addresses of the assets, which change with their content
	streams atomic.Int64
}

func newConsole(d *District, book *words.Book) (*console, error) {
	c := &console{d: d, words: book}
	t, err := template.ParseFS(assets, "assets/*.html")
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	c.draw = t
	mux := http.NewServeMux()
	if c.css, err = c.asset(mux, "console.css", "text/css; charset=utf-8"); err != nil {
		return nil, err
	}
	if c.js, err = c.asset(mux, "console.js", "text/javascript; charset=utf-8"); err != nil {
		return nil, err
	}
	mux.HandleFunc("GET /{$}", c.machines)
	mux.HandleFunc("GET /machines/{id}", c.machine)
	mux.HandleFunc("POST /machines/{id}/commands", c.command)
	mux.HandleFunc("GET /live", c.live)
	mux.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	c.handler = http.NewCrossOriginProtection().Handler(mux)
	return c, nil
}

// asset serves one embedded file under an address that names its content.
func (c *console) asset(mux *http.ServeMux, name, kind string) (string, error) {
	b, err := assets.ReadFile("assets/" + name)
	if err != nil {
		return "", fmt.Errorf("console: %w", err)
	}
	sum := sha256.Sum256(b)
	at := "/assets/" + hex.EncodeToString(sum[:6]) + "/" + name
	mux.HandleFunc("GET "+at, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		w.Write(b) // an error here means the page is gone
	})
	return at, nil
}

// ServeHTTP lets only this computer in for now, and only under a name it was told:
// a foreign page whose name was made to point here has another Host.
func (c *console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if !slices.Contains(c.d.o.Hosts, r.Host) {
		http.Error(w, "unknown host", http.StatusMisdirectedRequest)
		return
	}
	if !fromHere(r.RemoteAddr) {
		http.Error(w, "only from this computer", http.StatusForbidden)
		return
	}
	c.handler.ServeHTTP(w, r)
}

func fromHere(remote string) bool {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// query is what an address asks for.
type query struct {
	lang   string // zh-CN or en
	asked  bool   // lang was in the address: links keep it
	filter string // a chip
	search string
	page   int // from 1
}

func (c *console) query(r *http.Request) query {
	q := query{lang: "zh-CN", page: 1}
	if c.d.o.Lang == "en" {
		q.lang = "en"
	}
	v := r.URL.Query()
	switch v.Get("lang") {
	case "en":
		q.lang, q.asked = "en", true
	case "zh":
		q.lang, q.asked = "zh-CN", true
	}
	if f := v.Get("show"); slices.Contains(filters(), f) {
		q.filter = f
	} else {
		q.filter = filters()[0]
	}
	q.search = strings.TrimSpace(strings.ToValidUTF8(v.Get("q"), ""))
	if len(q.search) > maxSearch {
		q.search = strings.ToValidUTF8(q.search[:maxSearch], "")
	}
	if n, err := strconv.Atoi(v.Get("page")); err == nil && n > 1 && n <= maxMachines {
		q.page = n
	}
	return q
}

// link is an address with what the reader had chosen.
func (q query) link(path string) string {
	v := url.Values{}
	if q.asked {
		v.Set("lang", strings.TrimSuffix(q.lang, "-CN"))
	}
	if q.filter != "" && q.filter != filters()[0] {
		v.Set("show", q.filter)
	}
	if q.search != "" {
		v.Set("q", q.search)
	}
	if q.page > 1 {
		v.Set("page", strconv.Itoa(q.page))
	}
	if len(v) == 0 {
		return path
	}
	return path + "?" + v.Encode()
}

func (c *console) machines(w http.ResponseWriter, r *http.Request) {
	c.show(w, r, "")
}

func (c *console) machine(w http.ResponseWriter, r *http.Request) {
	m := protocol.MachineID(r.PathValue("id"))
	if m.Valid() != nil {
		http.NotFound(w, r)
		return
	}
	c.show(w, r, m)
}

// show draws the list, with a machine beside it if one is asked for.
func (c *console) show(w http.ResponseWriter, r *http.Request, m protocol.MachineID) {
	ctx, cancel := contextFor(r)
	defer cancel()
	p, err := c.page(ctx, c.query(r), m, time.Now())
	if errors.Is(err, ErrUnknownMachine) {
		http.NotFound(w, r)
		return
	}
	var out bytes.Buffer
	if err == nil {
		err = c.draw.ExecuteTemplate(&out, "page.html", p)
	}
	if err != nil {
		if r.Context().Err() == nil {
			c.d.o.Log.Error("page not drawn", "device", m, "err", err)
		}
		http.Error(w, "the page could not be drawn", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write(out.Bytes()) // an error here means the page is gone
}

// command gives a machine a command from a form and sends the reader back.
func (c *console) command(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "the form cannot be read", http.StatusBadRequest)
		return
	}
	m := protocol.MachineID(r.PathValue("id"))
	verb := protocol.Verb(r.PostForm.Get("verb"))
	var slot protocol.Slot
	switch verb {
	case protocol.VerbPause, protocol.VerbResume:
	case protocol.VerbBlock, protocol.VerbClear:
		n, err := strconv.ParseUint(r.PostForm.Get("slot"), 10, 8)
		slot = protocol.Slot(n)
		if err != nil || slot.Valid() != nil {
			http.Error(w, "no such slot", http.StatusBadRequest)
			return
		}
	default:
		http.Error(w, "no such command", http.StatusBadRequest)
		return
	}
	ctx, cancel := contextFor(r)
	defer cancel()
	switch _, err := c.d.Send(ctx, m, verb, slot); {
	case errors.Is(err, ErrUnknownMachine):
		http.NotFound(w, r)
	case err != nil:
		c.d.o.Log.Error("command not sent", "device", m, "verb", verb, "err", err)
		http.Error(w, "the command could not be sent", http.StatusInternalServerError)
	default:
		http.Redirect(w, r, c.query(r).link("/machines/"+string(m)), http.StatusSeeOther)
	}
}

// live tells a page when to fetch itself again. It carries no data: what a reader
// may see is decided in one place, where pages are drawn.
func (c *console) live(w http.ResponseWriter, r *http.Request) {
	if c.streams.Add(1) > maxStreams {
		c.streams.Add(-1)
		w.Header().Set("Retry-After", "60")
		http.Error(w, "too many pages follow changes", http.StatusServiceUnavailable)
		return
	}
	defer c.streams.Add(-1)
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	say := func(line string) bool {
		// A server without deadlines, as in a test, may still stream.
		if err := out.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return false
		}
		if _, err := w.Write([]byte(line)); err != nil {
			return false
		}
		return out.Flush() == nil
	}
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	_, changed := c.d.Watch()
	if !say("retry: 3000\n\n") {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case <-beat.C:
			if !say(": still here\n\n") {
				return
			}
			continue
		case <-changed:
		}
		var version uint64
		version, changed = c.d.Watch()
		if !say("event: change\ndata: " + strconv.FormatUint(version, 10) + "\n\n") {
			return
		}
		gap := time.NewTimer(streamGap)
		select {
		case <-r.Context().Done():
		case <-gap.C:
		}
		gap.Stop()
	}
}
