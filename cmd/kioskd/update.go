package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"yaoju/daemon/cabinet"
	"yaoju/daemon/dispense"
	"yaoju/daemon/identity"
	"yaoju/daemon/kiosk"
	"yaoju/daemon/ledger"
	"yaoju/daemon/status"
	"yaoju/daemon/update"
	"yaoju/daemon/uplink"
	"yaoju/protocol"
)

// errRestart ends the process in order, so that systemd starts the other version.
var errRestart = errors.New("another version of the software starts")

// askLimit bounds one question to the ledger: it waits two seconds for a lock, and the
// card may need some time to wake.
const askLimit = 10 * time.Second

// openVersions opens the folder of versions; nil if this machine takes no updates. A
// folder that cannot be used is no reason to serve nobody.
func openVersions(cfg cabinet.Update, log *slog.Logger) *update.Store {
	if !cfg.Takes() {
		return nil
	}
	o := update.StoreOptions{Dir: cfg.Dir, Base: cfg.Base, Arch: runtime.GOARCH}
	var err error
	if o.Keys, err = releaseKeys(cfg.Keys); err != nil {
		log.Error("no release can be trusted", "err", err)
	}
	s, err := update.OpenStore(o)
	if err != nil {
		log.Error("this machine takes no updates until its folder of versions can be used", "err", err)
		return nil
	}
	return s
}

// releaseKeys reads the keys; without the file there are none.
func releaseKeys(path string) ([]ed25519.PublicKey, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("release keys: %w", err)
	}
	defer f.Close()
	return update.ParseKeys(f)
}

// door stands before the warden, and can be shut for as long as another version is
// put in place: at once, and not when the warden looks again.
type door struct {
	guard kiosk.Guard

	mu      sync.Mutex
	shut    bool          // guarded by mu
	changed chan struct{} // guarded by mu; closed and replaced on each change
}

func newDoor(g kiosk.Guard) *door { return &door{guard: g, changed: make(chan struct{})} }

// Watch returns the machine's condition and a channel closed when it goes stale.
func (d *door) Watch() (kiosk.Condition, <-chan struct{}) {
	d.mu.Lock()
	shut, changed := d.shut, d.changed
	d.mu.Unlock()
	c, _ := d.guard.Watch()
	if shut {
		c.Closed = protocol.FaultPaused
	}
	return c, changed
}

// Run passes on what the warden tells until ctx ends.
func (d *door) Run(ctx context.Context) error {
	for {
		_, stale := d.guard.Watch()
		d.change(func() {})
		select {
		case <-ctx.Done():
			return nil
		case <-stale:
		}
	}
}

func (d *door) change(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *door) close() { d.change(func() { d.shut = true }) }
func (d *door) open()  { d.change(func() { d.shut = false }) }

// memory is the ledger as the gate asks it.
type memory interface {
	Clock() protocol.Clock
	Open(ctx context.Context) ([]dispense.Vend, error) // vends whose end nobody knows
}

// view is the session as the gate sees it.
type view interface {
	Watch() (kiosk.View, <-chan struct{})
}

// gate keeps residents out while another version is put in place.
type gate struct {
	book   memory
	booth  view
	warden kiosk.Guard
	door   *door
}

// gateLimit is how long the session may take to see that the door is shut: it is told
// at once, and may wait for an answer of the ledger.
const gateLimit = 10 * time.Second

// close says why the machine is not free, or shuts the door and returns what opens it
// again. It waits until the screen says that nobody is served: whoever was quicker
// goes on undisturbed.
func (g gate) close(ctx context.Context) (func(), string) {
	if why := g.busy(ctx); why != "" {
		return nil, why
	}
	g.door.close()
	ctx, cancel := context.WithTimeout(ctx, gateLimit)
	defer cancel()
	for {
		v, changed := g.booth.Watch()
		switch {
		case v.Screen == kiosk.Fault && v.Code == protocol.FaultPaused.Code():
			if why := g.busy(ctx); why != "" {
				g.door.open()
				return nil, why
			}
			return g.door.open, ""
		case !resting(v.Screen), ctx.Err() != nil:
			g.door.open()
			return nil, "somebody is at the machine"
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func resting(s kiosk.Screen) bool {
	return s == kiosk.Attract || s == kiosk.Fault || s == kiosk.Empty
}

// busy says what keeps another version from being put in place now.
func (g gate) busy(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	if g.book.Clock() == protocol.ClockUnset {
		return "the clock is not set"
	}
	if c, _ := g.warden.Watch(); c.Closed == protocol.FaultDoor {
		return "the door is open"
	}
	if open, err := g.book.Open(ctx); err != nil || len(open) > 0 {
		return "a vend is open"
	}
	if v, _ := g.booth.Watch(); !resting(v.Screen) {
		return "somebody is at the machine"
	}
	return ""
}

// signs looks at what works.
type signs struct {
	book     *ledger.Ledger
	fitted   *cabinet.Cabinet
	line     *uplink.Uplink
	page     string // address of the screen
	district string // host:port of the broker
}

func (s signs) now(ctx context.Context) update.Signs {
	_, err := s.book.Open(ctx)
	inside, _ := s.fitted.Watch()
	out := update.Signs{Ledger: err == nil, Board: inside.Board.Up, Screen: answers(ctx, s.page) == nil, Uplink: s.line.Status().Connected}
	out.Reach = out.Uplink || reach(ctx, s.district)
	return out
}

// reach says whether the district's address takes a connection; nothing is said on it.
func reach(ctx context.Context, address string) bool {
	c, err := dialPlain(ctx, address)
	if err != nil {
		return false
	}
	c.Close() // nothing was said on it
	return true
}

// answers asks for the page as a browser does.
func answers(ctx context.Context, page string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+page+"/", nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{}).DialContext}} // no proxy
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20)); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the screen answers %s", res.Status)
	}
	return nil
}

// orders is the ledger as updates ask it.
type orders struct{ *ledger.Ledger }

func (o orders) Watch() <-chan struct{} { return shelf(o).Watch() }

// software carries updates out.
type software struct {
	store *update.Store
	agent *update.Agent
}

// newSoftware returns who carries updates out. restart ends this process in order.
func newSoftware(cfg cabinet.Config, store *update.Store, id *identity.Machine, g gate, s signs, restart func(), log *slog.Logger) (*software, error) {
	from, err := update.NewHTTPSource(id.Client(), cfg.Update.From)
	if err != nil {
		return nil, err
	}
	agent, err := update.NewAgent(update.Options{Store: store, Version: version, Orders: orders{s.book}, Source: from, Rate: cfg.Update.Rate(),
		Try: func(ctx context.Context, v string) error {
			return update.Try(ctx, filepath.Join(cfg.Update.Dir, "versions", v), v, cfg.File())
		},
		Gate: g.close, Signs: s.now, Changed: s.line.SendState, Log: log,
		Restart: func(context.Context) error { restart(); return nil }})
	if err != nil {
		return nil, err
	}
	return &software{store, agent}, nil
}

// tell adds how the machine's software stands to its state; nothing if the machine
// takes no updates. A folder of versions that cannot be read does not keep the rest.
func (s *software) tell(st *protocol.State) {
	if s == nil {
		return
	}
	u, err := s.agent.State()
	if err != nil {
		u = &protocol.UpdateState{Waits: "its folder of versions cannot be read"}
	}
	st.Update = u
}

// status is the same for people at the machine.
func (s *software) status() *status.Update {
	st, waits, err := s.agent.Status()
	if err != nil {
		return &status.Update{Waits: err.Error()}
	}
	out := &status.Update{Current: st.Current, Previous: st.Previous, Trial: st.Trial, Waits: waits}
	if l := st.Last; l != nil {
		out.Last = fmt.Sprintf("%s: %s %s", l.Version, l.End, l.Words)
	}
	return out
}
