package dispense

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/protocol"
)

// motionLimit is that of these tests' motors.
const motionLimit = 15 * time.Second

// book is a ledger that polices its own contract: it fails the test when a vend
// is settled that was never reserved, or settled against what is already known.
type book struct {
	t      *testing.T
	slots  []protocol.Slot // that hold the product, best first
	deny   protocol.Denial // if set, the answer to every order
	fail   error           // if set, Settle's answer
	lines  map[protocol.VendID]*line
	minted protocol.VendID
}

type line struct {
	slot    protocol.Slot
	orphan  bool
	outcome protocol.Outcome // 0: reserved
}

func newBook(t *testing.T, slots ...protocol.Slot) *book {
	return &book{t: t, slots: slots, lines: map[protocol.VendID]*line{}}
}

func (b *book) Reserve(_ context.Context, o Order) (Vend, error) {
	if b.deny != "" {
		return Vend{}, &DeniedError{Reason: b.deny}
	}
	for _, l := range b.lines {
		if l.outcome == 0 {
			b.t.Error("second reservation while one is open")
		}
	}
	for _, s := range b.slots {
		if !slices.Contains(o.Tried, s) {
			b.minted++
			b.lines[b.minted] = &line{slot: s}
			return Vend{ID: b.minted, Slot: s}, nil
		}
	}
	return Vend{}, &DeniedError{Reason: protocol.DenialEmpty}
}

func (b *book) Settle(_ context.Context, id protocol.VendID, r protocol.Result) error {
	if b.fail != nil {
		return b.fail
	}
	l := b.lines[id]
	switch {
	case l == nil:
		b.t.Errorf("settle of vend %d, which was never reserved", id)
	case l.outcome != 0 && l.outcome != protocol.Unknown && l.outcome != r.Outcome:
		b.t.Errorf("vend %d settled as %v after %v", id, r.Outcome, l.outcome)
	default:
		l.outcome = r.Outcome
	}
	return nil
}

func (b *book) Open(context.Context) (open []Vend, _ error) {
	for id, l := range b.lines {
		if l.outcome == 0 || l.outcome == protocol.Unknown {
			open = append(open, Vend{ID: id, Slot: l.slot, Orphan: l.orphan})
		}
	}
	slices.SortFunc(open, func(a, b Vend) int { return int(a.ID) - int(b.ID) })
	return open, nil
}

// String lists the lines, oldest first.
func (b *book) String() string {
	var s []string
	for id := protocol.VendID(1); id <= b.minted; id++ {
		s = append(s, fmt.Sprintf("%d@%d %v", id, b.lines[id].slot, b.lines[id].outcome))
	}
	return strings.Join(s, ", ")
}

// tray is a motor that polices its contract: it fails the test when one id turns twice.
type tray struct {
	t      *testing.T
	ends   map[protocol.Slot]protocol.Result // how a turn of the slot ends; absent: dispensed
	lost   bool                              // the answer never comes back
	known  map[protocol.VendID]protocol.Result
	silent bool   // no answer to questions either
	during func() // called while the motor turns; nil: nothing
}

func newTray(t *testing.T) *tray {
	return &tray{t: t, ends: map[protocol.Slot]protocol.Result{}, known: map[protocol.VendID]protocol.Result{}}
}

func (m *tray) Vend(ctx context.Context, id protocol.VendID, s protocol.Slot) (protocol.Result, error) {
	if _, twice := m.known[id]; twice {
		m.t.Errorf("vend %d sent twice by the dispenser", id)
	}
	r, ok := m.ends[s]
	if !ok {
		r = protocol.Result{Outcome: protocol.Dispensed, Pieces: 1}
	}
	m.known[id] = r
	if m.during != nil {
		m.during()
	}
	if m.lost {
		<-ctx.Done()
		return protocol.Result{}, ctx.Err()
	}
	return r, nil
}

func (m *tray) Result(_ context.Context, id protocol.VendID) (protocol.Result, error) {
	if m.silent {
		return protocol.Result{}, errors.New("board silent")
	}
	r, ok := m.known[id]
	if !ok {
		return protocol.Result{Outcome: protocol.Kept}, nil // never heard of it: it never moved
	}
	return r, nil
}

func kept(f protocol.Fault) protocol.Result {
	return protocol.Result{Outcome: protocol.Kept, Cause: f}
}

func TestServe(t *testing.T) {
	tests := []struct {
		name  string
		slots []protocol.Slot
		ends  map[protocol.Slot]protocol.Result
		want  protocol.Outcome
		book  string
	}{
		{"one slot gives", []protocol.Slot{7}, nil, protocol.Dispensed, "1@7 dispensed"},
		{"kept goes on to the next slot", []protocol.Slot{7, 8}, map[protocol.Slot]protocol.Result{7: kept(protocol.FaultNoDrop)},
			protocol.Dispensed, "1@7 kept, 2@8 dispensed"},
		{"the last slot keeps too", []protocol.Slot{7, 8}, map[protocol.Slot]protocol.Result{7: kept(protocol.FaultJam), 8: kept(protocol.FaultNoDrop)},
			protocol.Kept, "1@7 kept, 2@8 kept"},
		{"at most three slots", []protocol.Slot{1, 2, 3, 4}, map[protocol.Slot]protocol.Result{1: kept(protocol.FaultNoDrop), 2: kept(protocol.FaultNoDrop), 3: kept(protocol.FaultNoDrop)},
			protocol.Kept, "1@1 kept, 2@2 kept, 3@3 kept"},
		{"unknown stops the order: never a second box on a doubt", []protocol.Slot{7, 8}, map[protocol.Slot]protocol.Result{7: {Outcome: protocol.Unknown, Cause: protocol.FaultInterrupted}},
			protocol.Unknown, "1@7 unknown"},
		{"a fault of the whole machine is not tried elsewhere", []protocol.Slot{7, 8}, map[protocol.Slot]protocol.Result{7: kept(protocol.FaultRunaway)},
			protocol.Kept, "1@7 kept"},
		{"the door opened", []protocol.Slot{7, 8}, map[protocol.Slot]protocol.Result{7: kept(protocol.FaultDoorOpened)},
			protocol.Kept, "1@7 kept"},
		{"two boxes fell: the order has its box", []protocol.Slot{7, 8}, map[protocol.Slot]protocol.Result{7: {Outcome: protocol.Dispensed, Pieces: 2, Cause: protocol.FaultDoubleDrop}},
			protocol.Dispensed, "1@7 dispensed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, m := newBook(t, tt.slots...), newTray(t)
			if tt.ends != nil {
				m.ends = tt.ends
			}
			_, r, err := New(b, m, motionLimit, slog.New(slog.DiscardHandler)).Serve(t.Context(), Order{Product: "condom-52"})
			if err != nil || r.Outcome != tt.want {
				t.Errorf("got %v, %v; want %v", r.Outcome, err, tt.want)
			}
			if b.String() != tt.book {
				t.Errorf("book says %s, want %s", b, tt.book)
			}
		})
	}
}

// A program that is to stop finishes the slot in hand, and tries no other.
func TestServeStops(t *testing.T) {
	b, m := newBook(t, 7, 8), newTray(t)
	m.ends[7] = kept(protocol.FaultNoDrop)
	ctx, stop := context.WithCancel(t.Context())
	m.during = stop
	_, r, err := New(b, m, motionLimit, slog.New(slog.DiscardHandler)).Serve(ctx, Order{Product: "condom-52"})
	if err != nil || r.Outcome != protocol.Kept {
		t.Errorf("got %v, %v; want kept", r, err)
	}
	if want := "1@7 kept"; b.String() != want {
		t.Errorf("book says %s, want %s", b, want)
	}
}

func TestServeDenied(t *testing.T) {
	b, m := newBook(t, 1), newTray(t)
	b.deny = protocol.DenialEarly
	_, r, err := New(b, m, motionLimit, slog.New(slog.DiscardHandler)).Serve(t.Context(), Order{Product: "condom-52"})
	var denied *DeniedError
	if !errors.As(err, &denied) || denied.Reason != protocol.DenialEarly || r.Outcome != protocol.Kept {
		t.Errorf("got %v, %v; want kept and a denial", r, err)
	}
	if len(m.known) != 0 {
		t.Error("a motor turned for an order that was denied")
	}
}

// The answer is lost: the vend stays open as unknown until the board can be asked,
// and the resident who walked away changes nothing.
func TestLostAnswerIsRecovered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m := newBook(t, 5, 6), newTray(t)
		m.lost, m.silent = true, true
		d := New(b, m, motionLimit, slog.New(slog.DiscardHandler))
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, leave)
		begun := time.Now()
		_, r, err := d.Serve(ctx, Order{Product: "condom-52"})
		if err != nil || r.Outcome != protocol.Unknown {
			t.Errorf("got %v, %v; want unknown", r, err)
		}
		if took := time.Since(begun); took != motionLimit {
			t.Errorf("gave up after %v, want %v", took, motionLimit)
		}
		if open, err := d.Recover(t.Context()); open != 1 || err == nil {
			t.Errorf("recover with a silent board: %d open, %v; want 1 open and an error", open, err)
		}
		m.silent = false
		if open, err := d.Recover(t.Context()); open != 0 || err != nil {
			t.Errorf("recover: %d open, %v; want none", open, err)
		}
		if want := "1@5 dispensed"; b.String() != want {
			t.Errorf("book says %s, want %s", b, want)
		}
	})
}

// A crash after the reservation and before the motor: the board never heard of it.
func TestRecoverNeverStarted(t *testing.T) {
	b, m := newBook(t, 5), newTray(t)
	if _, err := b.Reserve(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	if open, err := New(b, m, motionLimit, slog.New(slog.DiscardHandler)).Recover(t.Context()); open != 0 || err != nil {
		t.Errorf("recover: %d open, %v; want none", open, err)
	}
	if want := "1@5 kept"; b.String() != want {
		t.Errorf("book says %s, want %s", b, want)
	}
}

// A board that was never given the vend knows nothing of it, and that proves
// nothing: the vend is unknown until a person has looked.
func TestRecoverOrphan(t *testing.T) {
	b, m := newBook(t, 5), newTray(t)
	if _, err := b.Reserve(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	b.lines[1].orphan = true
	if open, err := New(b, m, motionLimit, slog.New(slog.DiscardHandler)).Recover(t.Context()); open != 1 || err != nil {
		t.Errorf("recover: %d open, %v; want 1", open, err)
	}
	if want := "1@5 unknown"; b.String() != want {
		t.Errorf("book says %s, want %s", b, want)
	}
}

// A ledger that cannot settle leaves the vend open; nothing is served on top of it
// and Recover closes it when the disk is back.
func TestSettleFails(t *testing.T) {
	b, m := newBook(t, 5, 6), newTray(t)
	b.fail = errors.New("disk full")
	m.ends[5] = kept(protocol.FaultNoDrop)
	d := New(b, m, motionLimit, slog.New(slog.DiscardHandler))
	v, r, err := d.Serve(t.Context(), Order{Product: "condom-52"})
	if err == nil || !strings.Contains(err.Error(), "disk full") || v.ID != 1 || r.Outcome != protocol.Kept {
		t.Errorf("got vend %d, %v, %v; want vend 1, kept, disk full", v.ID, r.Outcome, err)
	}
	b.fail = nil
	if open, err := d.Recover(t.Context()); open != 0 || err != nil {
		t.Errorf("recover: %d open, %v; want none", open, err)
	}
	if want := "1@5 kept"; b.String() != want {
		t.Errorf("book says %s, want %s", b, want)
	}
}

// Recover waits for the order in hand: it must never ask about a motor that turns
// and call it unknown.
func TestOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m := newBook(t, 5), newTray(t)
		m.lost = true
		d := New(b, m, motionLimit, slog.New(slog.DiscardHandler))
		done := make(chan struct{})
		go func() {
			defer close(done)
			d.Serve(t.Context(), Order{Product: "condom-52"})
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := d.Recover(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("recover during an order: %v, want to wait", err)
		}
		<-done
	})
}
