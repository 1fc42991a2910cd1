package promise_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"yaoju/daemon/dispense"
	"yaoju/daemon/kiosk"
	"yaoju/daemon/ledger"
	"yaoju/daemon/machine"
	"yaoju/protocol"
)

const product = "condom-52"

// house is a site with all of the daemon that leads to its motors: the real ledger,
// dispenser and warden. The ledger outlives processes, as its file does.
type house struct {
	*site
	book *ledger.Ledger
	desk *desk
	disp *dispense.Dispenser
	keep *kiosk.Warden
	end  func() // ends the daemon in good order
}

// everyHouse runs f in a house of each kind, which is open for residents. The batch
// in slot 1 expires first, so that slot gives first, then slot 2.
func everyHouse(t *testing.T, f func(h *house)) {
	t.Helper()
	everyDead(t, func(s *site) { s.inHouse(f) })
}

func (s *site) inHouse(f func(h *house)) {
	h := &house{site: s, desk: &desk{vends: map[protocol.VendID]*entry{}}}
	h.openBook("ledger.db")
	s.owes = h.owed
	defer func() {
		h.end()
		h.must(h.book.Close())
	}()
	h.open()
	h.serves()
	f(h)
}

func (h *house) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// openBook opens a ledger of this machine. A new one has every slot loaded.
func (h *house) openBook(name string) {
	var err error
	h.book, err = ledger.Open(h.Context(), ledger.Options{Path: filepath.Join(h.TempDir(), name), Machine: "m-0017", Software: "test",
		Zone: time.UTC, Log: slog.New(slog.DiscardHandler), Synced: func() bool { return true }})
	h.must(err)
	text := protocol.Text{ZH: "用品", EN: "Product"}
	d := protocol.Desired{Machine: "m-0017", DesiredVersion: protocol.DesiredVersion{Generation: 1, Version: 1},
		Policy:   protocol.Policy{AgeFrom: 18, Rules: []protocol.Rule{{Max: 1, Per: protocol.PerDays, Days: 22}}},
		Products: []protocol.Product{{ID: product, Letter: "A", Class: "condom", Units: 10, Name: text, Note: text}},
		Texts:    protocol.Texts{Authority: text, Phone: "010-00000000"}}
	for slot := protocol.Slot(1); slot <= slots; slot++ {
		d.Planogram = append(d.Planogram, protocol.SlotPlan{Slot: slot, Product: product, Capacity: stock, Par: 3})
	}
	h.must(h.book.Apply(h.Context(), d))
	for slot := protocol.Slot(1); slot <= slots; slot++ {
		left := stock - h.fell(slot)
		h.must(h.book.Load(h.Context(), protocol.Stock{Slot: slot, Product: product, Batch: "B1", Expiry: protocol.DateOnly(fmt.Sprintf("20%d-01-31", 27+slot))}, left, "s-1"))
	}
}

// open starts a daemon.
func (h *house) open() {
	h.Helper()
	p := &process{Ledger: h.book, desk: h.desk, site: h.site}
	h.desk.now(p) // from here on the process before this one reserves nothing
	h.start()
	log := slog.New(slog.DiscardHandler)
	h.disp = dispense.New(p, h.driver, h.longest, log)
	h.keep = kiosk.NewWarden(body{h.driver}, plate{}, h.book, rules{h.book}, h.disp, log)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := h.keep.Run(ctx); err != nil {
			h.Errorf("warden: %v", err)
		}
	})
	stop := h.stop
	h.stop = func() { cancel(); running.Wait(); stop() }
	h.end = h.stop
}

// owed lists the slots of open vends.
func (h *house) owed() (slots []protocol.Slot) {
	h.Helper()
	open, err := h.book.Open(h.Context())
	h.must(err)
	for _, v := range open {
		slots = append(slots, v.Slot)
	}
	return slots
}

// crash ends the daemon in whatever it does: nothing of it reaches the ledger any more.
func (h *house) crash() {
	h.desk.now(nil)
	h.site.crash()
}

// serves waits until the warden lets residents in.
func (h *house) serves() {
	h.Helper()
	over := time.After(h.heals + h.ends + 10*time.Second)
	for {
		c, stale := h.keep.Watch()
		if c.Closed == 0 {
			return
		}
		select {
		case <-stale:
		case <-over:
			h.Fatalf("not open for residents: %s; %+v", c.Closed.Code(), h.status())
		}
	}
}

// order is a resident who was never here.
func (h *house) order() dispense.Order {
	h.desk.mu.Lock()
	defer h.desk.mu.Unlock()
	h.desk.cards++
	return dispense.Order{Marks: dispense.Marks{Current: dispense.Mark{1, byte(h.desk.cards >> 8), byte(h.desk.cards)}}, Product: product}
}

// blocked lists the slots the ledger does not give from, and why.
func (h *house) blocked() map[protocol.Slot]protocol.Block {
	h.Helper()
	s, err := h.book.Snapshot(h.Context())
	h.must(err)
	l := map[protocol.Slot]protocol.Block{}
	for _, slot := range s.Slots {
		if slot.Blocked != "" {
			l[slot.Slot] = slot.Blocked
		}
	}
	return l
}

// desk remembers what dispensers asked and what was settled, over all processes.
type desk struct {
	mu    sync.Mutex
	alive *process // guarded by mu, as is all that follows; nil: none
	cards int
	vends map[protocol.VendID]*entry
}

// entry is one vend.
type entry struct {
	slot    protocol.Slot
	before  photo
	settled protocol.Result // zero: not yet
	byHand  bool            // by staff

	known        bool // and what follows is the truth
	starts, fell int
}

// account notes what really became of it, once nothing of it moves any more.
func (e *entry) account(s *site) {
	if !e.known {
		e.known = true
		e.starts, e.fell = e.before.since(s)
	}
}

func (d *desk) now(p *process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alive = p
}

// process is the ledger as the dispenser of one process has it. Dead, it reaches it
// no more.
type process struct {
	*ledger.Ledger
	desk *desk
	site *site
}

var errDead = errors.New("this process is dead")

func (p *process) dead() error {
	p.desk.mu.Lock()
	defer p.desk.mu.Unlock()
	if p.desk.alive != p {
		return errDead
	}
	return nil
}

func (p *process) Reserve(ctx context.Context, o dispense.Order) (dispense.Vend, error) {
	if err := p.dead(); err != nil {
		return dispense.Vend{}, err
	}
	v, err := p.Ledger.Reserve(ctx, o)
	if err != nil {
		return v, err
	}
	before := p.site.photo(v.Slot)
	p.desk.mu.Lock()
	defer p.desk.mu.Unlock()
	for _, e := range p.desk.vends {
		if e.slot == v.Slot {
			e.account(p.site) // what its motor does from here on is for another vend
		}
	}
	if p.desk.vends[v.ID] != nil {
		p.site.Errorf("vend %d was minted twice", v.ID)
	}
	p.desk.vends[v.ID] = &entry{slot: v.Slot, before: before}
	p.site.last.Store(uint32(v.ID)) // the ledger mints upwards, one at a time
	return v, nil
}

func (p *process) Settle(ctx context.Context, id protocol.VendID, r protocol.Result) error {
	if err := p.dead(); err != nil {
		return err
	}
	err := p.Ledger.Settle(ctx, id, r)
	if err == nil {
		p.desk.mu.Lock()
		defer p.desk.mu.Unlock()
		p.desk.vends[id].settled = r
	}
	return err
}

func (p *process) Open(ctx context.Context) ([]dispense.Vend, error) {
	if err := p.dead(); err != nil {
		return nil, err
	}
	return p.Ledger.Open(ctx)
}

// body is a driver as the warden sees it.
type body struct{ driver }

func (b body) Watch() (kiosk.Body, <-chan struct{}) {
	s, stale := b.driver.Watch()
	out := kiosk.Body{Session: s.Session, Up: s.Up, Serial: serial(s), Highest: s.Hello.Highest, DoorOpen: s.DoorOpen, Percent: s.Motion.Percent}
	for _, f := range s.Faults {
		if f.Fault != protocol.FaultBoardSilent {
			out.Faults = append(out.Faults, protocol.FaultRaised{Fault: f.Fault, Slot: f.Slot})
		}
	}
	return out, stale
}

func serial(s machine.Status) string { return fmt.Sprintf("%016x", s.Hello.Serial) }

// plate is a card reader that is always there.
type plate struct{}

func (plate) Watch() (kiosk.Presence, <-chan struct{}) { return kiosk.Presence{Ready: true}, nil }

// rules is the ledger as the warden asks it.
type rules struct{ *ledger.Ledger }

func (r rules) Standing(ctx context.Context) ([]protocol.FaultRaised, error) {
	s, err := r.Snapshot(ctx)
	return s.Faults, err
}

func (r rules) Watch() <-chan struct{} {
	_, changed := r.Ledger.Watch()
	return changed
}
