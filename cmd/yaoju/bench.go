package main

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"sync"
	"time"

	"yaoju/protocol"
)

//go:embed bench
var benchFiles embed.FS

// workbench is the demo machine's hardware, to be played with beside its screen.
type workbench struct {
	rig      *rig
	bays     []bay
	visitors []visitor
	screen   string // address of the resident's page
	console  string // address of the district's console
	page     *template.Template

	mu        sync.Mutex
	card      string // guarded by mu: key of the visitor whose card lies there
	unplugged bool   // guarded by mu: the reader's cable
}

func newWorkbench(r *rig, bays []bay, screen, console string, today time.Time) *workbench {
	return &workbench{rig: r, bays: bays, visitors: visitors(today), screen: screen, console: console,
		page: template.Must(template.ParseFS(benchFiles, "bench/bench.html"))}
}

// handler serves the bench. host is the only Host it answers to.
func (w *workbench) handler(host string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", w.draw)
	mux.HandleFunc("GET /bench.css", asset("bench/bench.css"))
	mux.HandleFunc("GET /bench.js", asset("bench/bench.js"))
	mux.HandleFunc("GET /state", w.state)
	mux.HandleFunc("POST /do", w.do)
	guarded := http.NewCrossOriginProtection().Handler(mux)
	policy := "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src " + w.screen + "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Host != host {
			http.Error(rw, "this is not "+r.Host, http.StatusMisdirectedRequest)
			return
		}
		rw.Header().Set("Content-Security-Policy", policy)
		rw.Header().Set("X-Content-Type-Options", "nosniff")
		rw.Header().Set("Cache-Control", "no-store")
		guarded.ServeHTTP(rw, r)
	})
}

func asset(name string) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) { http.ServeFileFS(rw, r, benchFiles, name) }
}

// benchPage is what the template is drawn from.
type benchPage struct {
	Lang, Other, Screen, Console string
	Visitors                     []benchVisitor
}

type benchVisitor struct{ Key, Name string }

// Letters name the cartons on the bench.
func (benchPage) Letters() (all []string) {
	for _, p := range products {
		all = append(all, p.Letter)
	}
	return all
}

// T picks the language.
func (p benchPage) T(zh, en string) string {
	if p.Lang == "en" {
		return en
	}
	return zh
}

func (w *workbench) draw(rw http.ResponseWriter, r *http.Request) {
	p := benchPage{Lang: "zh-CN", Other: "en", Screen: w.screen, Console: w.console}
	if r.FormValue("lang") == "en" {
		p.Lang, p.Other = "en", "zh-CN"
	}
	for _, v := range w.visitors {
		p.Visitors = append(p.Visitors, benchVisitor{v.key, p.T(v.name.ZH, v.name.EN)})
	}
	rw.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := w.page.Execute(rw, p); err != nil {
		w.rig.log.Debug("bench not drawn", "err", err) // the browser went away
	}
}

func (w *workbench) state(rw http.ResponseWriter, _ *http.Request) {
	var s struct {
		Card      string `json:"card"`
		Unplugged bool   `json:"unplugged"`
		Door      bool   `json:"door"`
		Fallen    int    `json:"fallen"`
		Left      int    `json:"left"`
	}
	for _, b := range w.bays {
		s.Fallen += w.rig.board.FallenFrom(b.slot)
		s.Left += w.rig.board.Pieces(b.slot)
	}
	s.Door = w.rig.board.DoorOpen()
	w.mu.Lock()
	s.Card, s.Unplugged = w.card, w.unplugged
	w.mu.Unlock()
	rw.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(rw).Encode(s); err != nil {
		w.rig.log.Debug("bench state not sent", "err", err) // the browser went away
	}
}

func (w *workbench) do(rw http.ResponseWriter, r *http.Request) {
	var ask struct {
		Do  string `json:"do"`
		Arg string `json:"arg"`
	}
	d := json.NewDecoder(http.MaxBytesReader(rw, r.Body, 1<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(&ask); err != nil {
		http.Error(rw, "want {\"do\": ..., \"arg\": ...}", http.StatusBadRequest)
		return
	}
	if err := w.perform(r.Context(), ask.Do, ask.Arg); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	rw.WriteHeader(http.StatusNoContent)
}

// perform does one thing to the hardware.
func (w *workbench) perform(ctx context.Context, what, arg string) error {
	switch what {
	case "lay":
		i := slices.IndexFunc(w.visitors, func(v visitor) bool { return v.key == arg })
		if i < 0 {
			return fmt.Errorf("no card %q lies on this bench", arg)
		}
		v := w.visitors[i]
		w.rig.reader.Lift()
		w.rig.reader.Heal()
		if v.fault != nil {
			w.rig.reader.Break(*v.fault)
		}
		w.rig.reader.Lay(v.person)
		w.note(func() { w.card = v.key })
	case "lift":
		w.rig.reader.Lift()
		w.note(func() { w.card = "" })
	case "door":
		w.rig.board.Door(!w.rig.board.DoorOpen())
	case "jam":
		for _, slot := range w.fronts() {
			w.rig.board.Spoil(slot)
		}
	case "cut":
		w.rig.board.Cut(3 * time.Second)
	case "reader":
		w.mu.Lock()
		in := w.unplugged
		w.unplugged = !in
		w.mu.Unlock()
		return w.rig.cable(ctx, readerLine, in)
	case "badge":
		w.rig.hold(restockerCard)
	case "carton":
		i := slices.IndexFunc(products, func(p protocol.Product) bool { return p.Letter == arg })
		if i < 0 {
			return fmt.Errorf("no carton %q stands on this bench", arg)
		}
		return w.rig.scan(ctx, carton(products[i], time.Now()))
	case "fill": // what the restocker's hands do
		for _, b := range w.bays {
			w.rig.board.Load(b.slot, b.capacity-w.rig.board.Pieces(b.slot))
		}
	default:
		return fmt.Errorf("this bench cannot do %q", what)
	}
	return nil
}

// fronts are the slots that give next, one of each product: the nearest expiry,
// then the fuller one, then the lower number.
func (w *workbench) fronts() (slots []protocol.Slot) {
	best := map[protocol.ProductID]bay{}
	for _, b := range w.bays {
		b.pieces = w.rig.board.Pieces(b.slot)
		was, ok := best[b.product]
		if b.pieces > 0 && (!ok || b.expiry < was.expiry || b.expiry == was.expiry && b.pieces > was.pieces) {
			best[b.product] = b
		}
	}
	for _, b := range best {
		slots = append(slots, b.slot)
	}
	return slots
}

// note changes what the bench remembers.
func (w *workbench) note(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}
