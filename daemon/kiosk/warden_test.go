package kiosk

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/protocol"
)

// chapter is the ledger as the warden writes it. It fails the test when a fault is
// raised that stands, or cleared that does not.
type chapter struct {
	t *testing.T

	mu       sync.Mutex
	lines    []string
	standing map[protocol.FaultRaised]bool
	highest  protocol.VendID
	open     int // what Recover reports
	recovers int
	paused   bool
	doorWas  bool // open, by the last record
	clock    protocol.Clock
	changed  chan struct{}
}

func (c *chapter) note(format string, a ...any) {
	c.lines = append(c.lines, fmt.Sprintf(format, a...))
}

func (c *chapter) Append(_ context.Context, e protocol.Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := e.Valid(); err != nil {
		c.t.Errorf("%s: %v", e.Kind(), err)
	}
	c.note("%s", e.Kind())
	return nil
}

func (c *chapter) Raise(_ context.Context, f protocol.Fault, s protocol.Slot) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.standing[protocol.FaultRaised{Fault: f, Slot: s}] {
		c.t.Errorf("%s raised twice", f.Code())
	}
	c.standing[protocol.FaultRaised{Fault: f, Slot: s}] = true
	c.note("raised %s slot %d", f.Code(), s)
	return nil
}

func (c *chapter) ClearFault(_ context.Context, f protocol.Fault, s protocol.Slot) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.standing[protocol.FaultRaised{Fault: f, Slot: s}] {
		c.t.Errorf("%s cleared, but it does not stand", f.Code())
	}
	delete(c.standing, protocol.FaultRaised{Fault: f, Slot: s})
	c.note("cleared %s slot %d", f.Code(), s)
	return nil
}

func (c *chapter) BoardHighest(_ context.Context, serial string, highest protocol.VendID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.highest = max(c.highest, highest)
	c.note("board %s knows %d", serial, highest)
	return nil
}

func (c *chapter) Standing(context.Context) (all []protocol.FaultRaised, _ error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for f := range c.standing {
		all = append(all, f)
	}
	return all, nil
}

func (c *chapter) Recover(context.Context) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recovers++
	return c.open, nil
}

func (c *chapter) DoorOpen(context.Context) (bool, error) { return c.doorWas, nil }

func (c *chapter) Paused() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.paused }

func (c *chapter) Clock() protocol.Clock { c.mu.Lock(); defer c.mu.Unlock(); return c.clock }

func (c *chapter) Watch() <-chan struct{} { c.mu.Lock(); defer c.mu.Unlock(); return c.changed }

// set changes what the ledger says, and says so.
func (c *chapter) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

// take returns the lines since the last take.
func (c *chapter) take() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.Sort(c.lines)
	s := strings.Join(c.lines, "; ")
	c.lines = nil
	return s
}

// watch runs a warden in a bubble; each step changes something and says what the
// ledger then reads and why the machine is closed.
func TestWarden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour - time.Duration(time.Now().Minute())*time.Minute) // the full hour
		book := &chapter{t: t, standing: map[protocol.FaultRaised]bool{{Fault: protocol.FaultJam, Slot: 3}: true,
			{Fault: protocol.FaultChain}: true, {Fault: protocol.FaultUnknownVend, Slot: 4}: true}, // the last two are the ledger's own
			doorWas: true, clock: protocol.ClockSynced, changed: make(chan struct{})}
		body, cards := newSignal(Body{}), newSignal(Presence{Ready: true})
		w := NewWarden(body, cards, book, book, book, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := w.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		defer func() { cancel(); wg.Wait() }()

		good := Body{Session: 1, Up: true, Serial: "a7", Highest: 40, Climate: &protocol.Climate{C: 22, RH: 45}}
		with := func(change func(*Body)) Body { b := good; change(&b); return b }
		steps := []struct {
			what   string
			do     func()
			after  time.Duration
			book   string
			closed protocol.Fault
		}{
			{"nothing answers yet", func() {}, 0, "", protocol.FaultBoardSilent},
			{"still nothing", func() {}, grace, "raised F-100 slot 0", protocol.FaultBoardSilent},
			{"the board says hello: its ids are noted, open vends asked for, a door that was shut meanwhile recorded, old faults cleared", func() { body.set(good) }, 0,
				"board a7 knows 40; cleared F-001 slot 3; cleared F-100 slot 0; door.closed", 0},
			{"the door", func() { body.set(with(func(b *Body) { b.DoorOpen = true })) }, 0, "door.opened", protocol.FaultDoor},
			{"closed again", func() { body.set(good) }, 0, "door.closed", 0},
			{"a jam in one slot closes nothing", func() {
				body.set(with(func(b *Body) { b.Faults = []protocol.FaultRaised{{Fault: protocol.FaultJam, Slot: 7}} }))
			}, 0,
				"raised F-001 slot 7", 0},
			{"a runaway closes everything", func() {
				body.set(with(func(b *Body) { b.Faults = []protocol.FaultRaised{{Fault: protocol.FaultRunaway, Slot: 7}} }))
			}, 0, "cleared F-001 slot 7; raised F-005 slot 7", protocol.FaultRunaway},
			{"the board is gone: what it last said still stands", func() {
				body.set(with(func(b *Body) { b.Up = false }))
			}, grace, "raised F-100 slot 0", protocol.FaultBoardSilent},
			{"another board: a new hello, and nothing before Recover has run", func() {
				body.set(with(func(b *Body) { b.Session, b.Serial, b.Highest = 2, "b8", 900 }))
			}, 0, "board b8 knows 900; cleared F-005 slot 7; cleared F-100 slot 0", 0},
			{"the reader is silent for a moment", func() { cards.set(Presence{}) }, time.Second, "", protocol.FaultReader},
			{"and longer", func() {}, grace, "raised F-102 slot 0", protocol.FaultReader},
			{"it answers", func() { cards.set(Presence{Ready: true}) }, 0, "cleared F-102 slot 0", 0},
			{"the clock is not to be believed", func() { book.set(func() { book.clock = protocol.ClockUnset }) }, 0, "raised F-103 slot 0", protocol.FaultClock},
			{"now it is", func() { book.set(func() { book.clock = protocol.ClockSynced }) }, 0, "cleared F-103 slot 0", 0},
			{"paused from afar: the ledger has recorded it", func() { book.set(func() { book.paused = true }) }, 0, "", protocol.FaultPaused},
			{"and resumed", func() { book.set(func() { book.paused = false }) }, 0, "", 0},
			{"a vend is open: asked about again and again", func() { book.set(func() { book.open = 1 }) }, 3 * healEvery, "", 0},
			{"and closed", func() { book.set(func() { book.open = 0 }) }, 2 * healEvery, "", 0},
			{"the hour is over", func() {}, time.Hour, "climate.hour", 0},
		}
		for _, s := range steps {
			s.do()
			time.Sleep(s.after)
			synctest.Wait()
			if got := book.take(); got != s.book {
				t.Errorf("%s: book reads %q, want %q", s.what, got, s.book)
			}
			c, _ := w.Watch()
			if c.Closed != s.closed {
				t.Errorf("%s: closed for %s, want %s", s.what, c.Closed.Code(), s.closed.Code())
			}
			if want := book.open > 0 || c.Closed == protocol.FaultBoardSilent && body.value.Session == 0; c.Open != want {
				t.Errorf("%s: open %v, want %v", s.what, c.Open, want)
			}
		}
		if book.highest != 900 || book.recovers < 5 {
			t.Errorf("highest %d, %d recoveries", book.highest, book.recovers)
		}
	})
}

// Nobody is served between the board's hello and the end of Recover.
func TestClosedUntilRecovered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := &chapter{t: t, standing: map[protocol.FaultRaised]bool{}, clock: protocol.ClockSynced, changed: make(chan struct{})}
		body, cards := newSignal(Body{Session: 1, Up: true}), newSignal(Presence{Ready: true})
		slow := slowRecovery{10 * time.Second}
		w := NewWarden(body, cards, book, book, slow, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := w.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		defer func() { cancel(); wg.Wait() }()
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if c, _ := w.Watch(); c.Closed == 0 {
			t.Error("open before Recover has run")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if c, _ := w.Watch(); c.Closed != 0 {
			t.Errorf("closed for %s after Recover", c.Closed.Code())
		}
	})
}

type slowRecovery struct{ takes time.Duration }

func (s slowRecovery) Recover(ctx context.Context) (int, error) {
	select {
	case <-time.After(s.takes):
		return 0, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
