package ledger_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	_ "time/tzdata"

	"yaoju/daemon/dispense"
	"yaoju/daemon/ledger"
	"yaoju/protocol"
)

const machine = protocol.MachineID("m-0017")

var _ dispense.Ledger = (*ledger.Ledger)(nil)

// tb is what both a test and a property offer.
type tb interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// A desk is one ledger file and what a test does to it.
type desk struct {
	t    tb
	ctx  context.Context
	path string
	zone *time.Location
	*ledger.Ledger
	unsynced bool
}

// setUp opens a new ledger with a desired state in force: slots 1 to 3 hold
// condoms, slot 4 gel, one box in 22 days.
func setUp(t testing.TB) *desk {
	t.Helper()
	zone, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, ctx: context.Background(), path: filepath.Join(t.TempDir(), "ledger.db"), zone: zone}
	d.open()
	t.Cleanup(func() { d.Close() })
	d.ok(d.Apply(d.ctx, desired(1)))
	return d
}

func desired(version uint64) protocol.Desired {
	product := func(id protocol.ProductID, letter, class string, units int) protocol.Product {
		return protocol.Product{ID: id, Letter: letter, Class: class, Units: units,
			Name: protocol.Text{ZH: "用品", EN: "Product"}, Note: protocol.Text{ZH: "一盒", EN: "One box"}}
	}
	return protocol.Desired{
		Machine:        machine,
		DesiredVersion: protocol.DesiredVersion{Generation: 1, Version: version},
		Policy:         protocol.Policy{AgeFrom: 18, Rules: []protocol.Rule{{Max: 1, Per: protocol.PerDays, Days: 22}}},
		Products:       []protocol.Product{product("condom-52", "A", "condom", 10), product("gel", "B", "external", 5)},
		Planogram: []protocol.SlotPlan{
			{Slot: 1, Product: "condom-52", Capacity: 10, Par: 3},
			{Slot: 2, Product: "condom-52", Capacity: 10, Par: 3},
			{Slot: 3, Product: "condom-52", Capacity: 10, Par: 3},
			{Slot: 4, Product: "gel", Capacity: 6, Par: 2},
		},
		Texts: protocol.Texts{Authority: protocol.Text{ZH: "区卫生健康局", EN: "District health office"}, Phone: "010-00000000"},
	}
}

func (d *desk) options() ledger.Options {
	return ledger.Options{Path: d.path, Machine: machine, Software: "test", Zone: d.zone,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Synced: func() bool { return !d.unsynced }}
}

func (d *desk) open() {
	d.t.Helper()
	l, err := ledger.Open(d.ctx, d.options())
	if err != nil {
		d.t.Fatalf("open: %v", err)
	}
	d.Ledger = l
}

func (d *desk) reopen() {
	d.t.Helper()
	d.ok(d.Close())
	d.open()
}

func (d *desk) ok(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func stock(slot protocol.Slot, batch string, expiry protocol.DateOnly) protocol.Stock {
	s := protocol.Stock{Slot: slot, Product: "condom-52", Batch: batch, Expiry: expiry}
	if slot == 4 {
		s.Product = "gel"
	}
	return s
}

func (d *desk) load(slot protocol.Slot, batch string, expiry protocol.DateOnly, pieces int) {
	d.t.Helper()
	d.ok(d.Load(d.ctx, stock(slot, batch, expiry), pieces, "s-1"))
}

// card makes the marks of one card.
func card(n int) dispense.Marks {
	return dispense.Marks{Current: dispense.Mark{0: 1, 1: byte(n), 2: byte(n >> 8)}, Previous: dispense.Mark{0: 2, 1: byte(n), 2: byte(n >> 8)}}
}

func condom(n int, tried ...protocol.Slot) dispense.Order {
	return dispense.Order{Marks: card(n), Product: "condom-52", Tried: tried}
}

func (d *desk) reserve(o dispense.Order) dispense.Vend {
	d.t.Helper()
	v, err := d.Reserve(d.ctx, o)
	d.ok(err)
	return v
}

// denied returns the reason of a refusal and its date.
func denied(t tb, err error) (protocol.Denial, time.Time) {
	t.Helper()
	e, ok := errors.AsType[*dispense.DeniedError](err)
	if !ok {
		t.Fatalf("got %v, want a denial", err)
	}
	return e.Reason, e.Next
}

func (d *desk) refuses(want protocol.Denial, o dispense.Order) {
	d.t.Helper()
	v, err := d.Reserve(d.ctx, o)
	if err == nil {
		d.t.Fatalf("reserved %+v, want denial %s", v, want)
	}
	if got, _ := denied(d.t, err); got != want {
		d.t.Fatalf("got denial %s, want %s", got, want)
	}
}

func refused(t tb, err error, want ledger.Refusal) {
	t.Helper()
	e, ok := errors.AsType[*ledger.RefusedError](err)
	if !ok || e.Reason != want {
		t.Fatalf("got %v, want refusal %s", err, want)
	}
}

var (
	dropped = protocol.Result{Outcome: protocol.Dispensed, Pieces: 1, RunMS: 2400, DropMS: 1900}
	noDrop  = protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultNoDrop, RunMS: 4100}
	lost    = protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultBoardSilent}
)

// slot returns one line of the snapshot.
func (d *desk) slot(n protocol.Slot) protocol.SlotState {
	d.t.Helper()
	s, err := d.Snapshot(d.ctx)
	d.ok(err)
	d.ok(s.Valid())
	for _, sl := range s.Slots {
		if sl.Slot == n {
			return sl
		}
	}
	return protocol.SlotState{}
}

// kinds lists the events after seq.
func (d *desk) kinds(after uint64) string {
	d.t.Helper()
	var out []string
	for _, r := range d.records(after) {
		out = append(out, string(r.Kind))
	}
	return strings.Join(out, " ")
}

func (d *desk) records(after uint64) []protocol.Record {
	d.t.Helper()
	sealed, err := d.Since(d.ctx, after, 1<<30)
	d.ok(err)
	var out []protocol.Record
	for _, s := range sealed {
		r, err := s.Record()
		d.ok(err)
		out = append(out, r)
	}
	return out
}

func (d *desk) expect(after uint64, want string) {
	d.t.Helper()
	if got := d.kinds(after); got != want {
		d.t.Fatalf("events:\n got %s\nwant %s", got, want)
	}
}

func TestSettleKeepsItsContract(t *testing.T) {
	t.Parallel()
	outcomes := map[string]protocol.Result{"dispensed": dropped, "kept": noDrop, "unknown": lost}
	tests := []struct {
		first, then string
		ok          bool
	}{
		{"dispensed", "dispensed", true},
		{"dispensed", "kept", false},
		{"dispensed", "unknown", false},
		{"kept", "kept", true},
		{"kept", "dispensed", false},
		{"kept", "unknown", false},
		{"unknown", "unknown", true},
		{"unknown", "dispensed", true},
		{"unknown", "kept", true},
	}
	for _, tt := range tests {
		t.Run(tt.first+" then "+tt.then, func(t *testing.T) {
			t.Parallel()
			d := setUp(t)
			d.load(1, "B1", "2099-06-30", 5)
			v := d.reserve(condom(1))
			d.ok(d.Settle(d.ctx, v.ID, outcomes[tt.first]))
			head := d.Head()
			err := d.Settle(d.ctx, v.ID, outcomes[tt.then])
			if (err == nil) != tt.ok {
				t.Fatalf("got %v, want ok %v", err, tt.ok)
			}
			if (tt.first == tt.then || !tt.ok) && d.Head() != head {
				t.Errorf("a repetition or refusal wrote %s", d.kinds(head.Seq))
			}
			if tt.ok && tt.first != tt.then {
				if got := d.records(head.Seq)[0].Kind; got != protocol.KindVendResolved {
					t.Errorf("the truth is told as %s, want vend.resolved", got)
				}
			}
		})
	}
}

func TestSettleRefusesNonsense(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	d.load(1, "B1", "2099-06-30", 5)
	v := d.reserve(condom(1))
	head := d.Head()
	for name, f := range map[string]func() error{
		"never reserved":       func() error { return d.Settle(d.ctx, 99, dropped) },
		"no outcome":           func() error { return d.Settle(d.ctx, v.ID, protocol.Result{}) },
		"outcome 9":            func() error { return d.Settle(d.ctx, v.ID, protocol.Result{Outcome: 9}) },
		"kept, though it fell": func() error { return d.Settle(d.ctx, v.ID, protocol.Result{Outcome: protocol.Kept, Pieces: 1}) },
		"resolve what is not unknown": func() error {
			return d.Resolve(d.ctx, v.ID, protocol.Kept, "staff", "s-1")
		},
		"resolve as unknown":  func() error { return d.Resolve(d.ctx, v.ID, protocol.Unknown, "staff", "s-1") },
		"resolve by somebody": func() error { return d.Resolve(d.ctx, v.ID, protocol.Kept, "somebody", "") },
	} {
		if err := f(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if d.Head() != head {
		t.Errorf("nonsense wrote %s", d.kinds(head.Seq))
	}
}

func TestOneOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := at(t, "2027-03-01 10:00")
		d.load(1, "B1", "2027-12-31", 2)
		head := d.Head()

		v := d.reserve(condom(1))
		if want := (dispense.Vend{ID: 1, Slot: 1, Next: d.moment("2027-03-23 00:00")}); v.ID != want.ID || v.Slot != want.Slot || !v.Next.Equal(want.Next) {
			t.Errorf("reserved %+v, want %+v", v, want)
		}
		if s := d.slot(1); s.Pieces != 1 || s.Held != 1 {
			t.Errorf("while it turns: %d pieces, %d held, want 1 and 1", s.Pieces, s.Held)
		}
		open, err := d.Open(d.ctx)
		d.ok(err)
		if len(open) != 1 || open[0].ID != v.ID || open[0].Slot != 1 || !open[0].Next.Equal(v.Next) {
			t.Errorf("open: %+v, want %+v", open, v)
		}
		d.ok(d.Settle(d.ctx, v.ID, dropped))
		if s := d.slot(1); s.Pieces != 1 || s.Held != 0 || s.Dispensed != 1 {
			t.Errorf("after: %+v", s)
		}
		d.expect(head.Seq, "vend.dispensed")

		err = d.Entitled(d.ctx, card(1), "gel")
		if reason, next := denied(t, err); reason != protocol.DenialEarly || !next.Equal(v.Next) {
			t.Errorf("again: %s %v, want early %v", reason, next, v.Next)
		}
		d.refuses(protocol.DenialEarly, condom(1))
		// After a change of key the old mark is the card's previous one.
		d.refuses(protocol.DenialEarly, dispense.Order{Marks: dispense.Marks{Current: dispense.Mark{7}, Previous: card(1).Current}, Product: "condom-52"})
		d.ok(d.Entitled(d.ctx, card(2), "condom-52"))

		time.Sleep(time.Until(d.moment("2027-03-22 23:59")))
		d.refuses(protocol.DenialEarly, condom(1))
		time.Sleep(time.Minute)
		d.ok(d.Entitled(d.ctx, card(1), "condom-52"))
		d.reserve(condom(1))
	})
}

// at begins a test in a bubble at a moment of Shanghai's clock.
func at(t testing.TB, moment string) *desk {
	t.Helper()
	zone, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		t.Fatal(err)
	}
	when, err := time.ParseInLocation("2006-01-02 15:04", moment, zone)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(when))
	return setUp(t)
}

func (d *desk) moment(s string) time.Time {
	d.t.Helper()
	when, err := time.ParseInLocation("2006-01-02 15:04", s, d.zone)
	d.ok(err)
	return when
}

func TestKeptReturnsPieceAndEntitlement(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	d.load(1, "B1", "2099-01-31", 1)
	d.load(1, "B2", "2099-01-01", 3) // stands behind B1, though it expires first
	d.load(2, "B3", "2099-02-28", 1)

	v := d.reserve(condom(1))
	d.ok(d.Settle(d.ctx, v.ID, noDrop))
	b, err := d.Batches(d.ctx, 1)
	d.ok(err)
	if len(b) != 2 || b[0].Batch != "B1" || b[0].Pieces != 1 || b[1].Pieces != 3 {
		t.Fatalf("the piece is back at the front of its queue: got %+v", b)
	}
	w := d.reserve(condom(1, 1)) // the same order, the next slot
	if w.Slot != 2 || w.ID != v.ID+1 {
		t.Errorf("failed over to %+v, want slot 2 with the next id", w)
	}
	d.ok(d.Settle(d.ctx, w.ID, noDrop))
	d.refuses(protocol.DenialEmpty, condom(1, 1, 2))
	d.ok(d.Entitled(d.ctx, card(1), "condom-52"))
}

func TestChoosesSlot(t *testing.T) {
	t.Parallel()
	type lot struct {
		slot   protocol.Slot
		batch  string
		expiry protocol.DateOnly
		pieces int
	}
	tests := []struct {
		name string
		lots []lot
		do   func(*desk)
		want protocol.Slot // 0: none gives
	}{
		{"nearest expiry", []lot{{1, "B1", "2027-12-31", 9}, {2, "B2", "2027-09-30", 1}}, nil, 2},
		{"then the fuller", []lot{{1, "B1", "2027-12-31", 3}, {2, "B2", "2027-12-31", 4}}, nil, 2},
		{"then the lower number", []lot{{3, "B1", "2027-12-31", 3}, {2, "B2", "2027-12-31", 3}}, nil, 2},
		{"only the front counts", []lot{{1, "B1", "2027-12-31", 1}, {1, "B2", "2027-06-30", 5}, {2, "B3", "2027-11-30", 1}}, nil, 2},
		{"expired in front keeps back the rest", []lot{{1, "B1", "2027-03-01", 1}, {1, "B2", "2027-12-31", 5}}, (*desk).midnight, 0},
		{"last day is still good", []lot{{1, "B1", "2027-03-02", 1}}, (*desk).midnight, 1},
		{"recalled", []lot{{1, "B1", "2027-06-30", 1}, {2, "B2", "2027-12-31", 5}}, func(d *desk) {
			s := desired(2)
			s.Recalls = []protocol.Recall{{Product: "condom-52", Batch: "B1"}}
			d.ok(d.Apply(d.ctx, s))
		}, 2},
		{"recalled elsewhere", []lot{{1, "B1", "2027-06-30", 1}}, func(d *desk) {
			s := desired(2)
			s.Recalls = []protocol.Recall{{Product: "gel", Batch: "B1"}}
			d.ok(d.Apply(d.ctx, s))
		}, 1},
		{"blocked", []lot{{1, "B1", "2027-06-30", 1}, {2, "B2", "2027-12-31", 5}}, func(d *desk) {
			d.ok(d.Block(d.ctx, 1, protocol.BlockStaff, 0, "s-1"))
		}, 2},
		{"blocked and cleared", []lot{{1, "B1", "2027-06-30", 1}, {2, "B2", "2027-12-31", 5}}, func(d *desk) {
			d.ok(d.Block(d.ctx, 1, protocol.BlockStaff, 0, "s-1"))
			d.ok(d.Clear(d.ctx, 1, protocol.BlockStaff, "s-1"))
		}, 1},
		{"a vend of the slot is open", []lot{{1, "B1", "2027-06-30", 2}, {2, "B2", "2027-12-31", 5}}, func(d *desk) {
			d.reserve(condom(9))
		}, 2},
		{"planned for something else by now", []lot{{1, "B1", "2027-06-30", 2}}, func(d *desk) {
			s := desired(2)
			s.Planogram[0].Product = "gel"
			d.ok(d.Apply(d.ctx, s))
		}, 0},
		{"other product only", []lot{{4, "B1", "2027-06-30", 2}}, nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := at(t, "2027-03-01 23:58")
				for _, l := range tt.lots {
					d.load(l.slot, l.batch, l.expiry, l.pieces)
				}
				if tt.do != nil {
					tt.do(d)
				}
				offer, err := d.Offer(d.ctx)
				d.ok(err)
				if got := offer[0].Pieces > 0; got != (tt.want > 0) {
					t.Errorf("offers %d pieces, but slot %d is expected to give", offer[0].Pieces, tt.want)
				}
				if tt.want == 0 {
					d.refuses(protocol.DenialEmpty, condom(1))
					return
				}
				if v := d.reserve(condom(1)); v.Slot != tt.want {
					t.Errorf("got slot %d, want %d", v.Slot, tt.want)
				}
			})
		})
	}
}

// midnight waits until the next day has begun in Shanghai.
func (d *desk) midnight() {
	y, m, day := time.Now().In(d.zone).Date()
	time.Sleep(time.Until(time.Date(y, m, day+1, 0, 0, 0, 0, d.zone)))
}

func TestBlame(t *testing.T) {
	t.Parallel()
	kept := func(f protocol.Fault) protocol.Result {
		return protocol.Result{Outcome: protocol.Kept, Cause: f, RunMS: 100}
	}
	tests := []struct {
		name    string
		results []protocol.Result
		want    protocol.Block
	}{
		{"one empty turn", []protocol.Result{noDrop}, ""},
		{"two in a row", []protocol.Result{noDrop, noDrop}, protocol.BlockSuspect},
		{"two without a cause", []protocol.Result{kept(0), kept(0)}, protocol.BlockSuspect},
		{"a success between", []protocol.Result{noDrop, dropped, noDrop}, ""},
		{"door opened twice", []protocol.Result{kept(protocol.FaultDoorOpened), kept(protocol.FaultDoorOpened)}, ""},
		{"board silent twice", []protocol.Result{kept(protocol.FaultBoardSilent), kept(protocol.FaultBoardSilent)}, ""},
		{"journal twice", []protocol.Result{kept(protocol.FaultJournal), kept(protocol.FaultJournal)}, ""},
		{"drop sensor twice", []protocol.Result{kept(protocol.FaultDropSensor), kept(protocol.FaultDropSensor)}, ""},
		{"no motor", []protocol.Result{kept(protocol.FaultNoMotor)}, protocol.BlockFault},
		{"stuck at home", []protocol.Result{kept(protocol.FaultStuckHome)}, protocol.BlockFault},
		{"runaway", []protocol.Result{kept(protocol.FaultRunaway)}, protocol.BlockFault},
		{"in mid-turn", []protocol.Result{kept(protocol.FaultNotHome)}, protocol.BlockFault},
		{"jam", []protocol.Result{kept(protocol.FaultJam)}, protocol.BlockFault},
		{"fell, then ran away", []protocol.Result{{Outcome: protocol.Dispensed, Pieces: 1, Cause: protocol.FaultRunaway}}, protocol.BlockFault},
		{"fell, but slowly", []protocol.Result{{Outcome: protocol.Dispensed, Pieces: 1, Cause: protocol.FaultSlow}}, ""},
		{"unknown", []protocol.Result{lost}, protocol.BlockUnknown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := setUp(t)
			d.load(1, "B1", "2099-06-30", 5)
			for i, r := range tt.results {
				d.ok(d.Settle(d.ctx, d.reserve(condom(i)).ID, r))
			}
			if got := d.slot(1).Blocked; got != tt.want {
				t.Errorf("blocked: got %q, want %q", got, tt.want)
			}
			if tt.want == "" {
				return
			}
			if last := d.kinds(0); !strings.Contains(last, "slot.blocked") {
				t.Errorf("no event tells of it: %s", last)
			}
			d.reopen()
			d.refuses(protocol.DenialEmpty, condom(77))
		})
	}
}

func TestUnknownHoldsUntilResolved(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		resolve func(*desk, protocol.VendID) error
		kept    bool
		by      string
	}{
		{"board: dispensed", func(d *desk, id protocol.VendID) error { return d.Settle(d.ctx, id, dropped) }, false, "board"},
		{"board: kept", func(d *desk, id protocol.VendID) error { return d.Settle(d.ctx, id, noDrop) }, true, "board"},
		{"staff: kept", func(d *desk, id protocol.VendID) error { return d.Resolve(d.ctx, id, protocol.Kept, "staff", "s-1") }, true, "staff"},
		{"district: dispensed", func(d *desk, id protocol.VendID) error {
			return d.Resolve(d.ctx, id, protocol.Dispensed, "district", "")
		}, false, "district"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := setUp(t)
			d.load(1, "B1", "2099-06-30", 3)
			head := d.Head()
			v := d.reserve(condom(1))
			d.ok(d.Settle(d.ctx, v.ID, lost))
			d.expect(head.Seq, "vend.unknown slot.blocked fault.raised")
			d.reopen()
			if s := d.slot(1); s.Pieces != 2 || s.Held != 1 || s.Blocked != protocol.BlockUnknown {
				t.Errorf("while unknown: %+v", s)
			}
			d.refuses(protocol.DenialEarly, condom(1))
			if err := d.Clear(d.ctx, 1, protocol.BlockUnknown, "s-1"); err == nil {
				t.Error("the block of an unknown vend was cleared by hand")
			}
			refused(t, d.Count(d.ctx, stock(1, "B1", "2099-06-30"), 2, d.Head().Seq, "", "s-1"), ledger.RefusedOpen)

			head = d.Head()
			d.ok(tt.resolve(d, v.ID))
			d.ok(tt.resolve(d, v.ID))
			d.expect(head.Seq, "vend.resolved slot.cleared fault.cleared")
			e, err := protocol.DecodeEvent(d.records(head.Seq)[0])
			d.ok(err)
			if got := e.(protocol.VendResolved); got.By != tt.by || (got.Outcome == protocol.Kept) != tt.kept {
				t.Errorf("told as %+v", got)
			}
			s := d.slot(1)
			err = d.Entitled(d.ctx, card(1), "condom-52")
			if tt.kept && (s.Pieces != 3 || err != nil) || !tt.kept && (s.Pieces != 2 || err == nil) || s.Held != 0 || s.Blocked != "" {
				t.Errorf("resolved: %+v, entitled %v", s, err)
			}
			open, err := d.Open(d.ctx)
			d.ok(err)
			if len(open) != 0 {
				t.Errorf("still open: %+v", open)
			}
		})
	}
}

func TestSeveralPiecesFall(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		first   int // pieces of B1, in front
		second  int // pieces of B2, behind
		fall    int
		unknown bool // the board tells only later
		events  string
		left    int
		loaded  uint64
		removed uint64
	}{
		{"two of one batch", 3, 2, 2, false, "vend.dispensed", 3, 5, 0},
		{"two of two batches", 1, 2, 2, false, "stock.counted stock.counted vend.dispensed", 1, 4, 1},
		{"three, one of them not on record", 1, 1, 3, false, "stock.counted stock.counted vend.dispensed", 0, 4, 1},
		{"two, one of them not on record", 1, 0, 2, false, "stock.counted vend.dispensed", 0, 2, 0},
		{"two, told later", 1, 0, 2, true, "stock.counted vend.resolved slot.cleared fault.cleared", 0, 2, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := setUp(t)
			d.load(1, "B1", "2099-06-30", tt.first)
			if tt.second > 0 {
				d.load(1, "B2", "2099-12-31", tt.second)
			}
			v := d.reserve(condom(1))
			if tt.unknown {
				d.ok(d.Settle(d.ctx, v.ID, lost))
			}
			head := d.Head()
			d.ok(d.Settle(d.ctx, v.ID, protocol.Result{Outcome: protocol.Dispensed, Pieces: tt.fall, Cause: protocol.FaultDoubleDrop}))
			d.expect(head.Seq, tt.events)
			s := d.slot(1)
			if s.Pieces != tt.left || s.Dispensed != uint64(tt.fall) || s.Loaded != tt.loaded || s.Removed != tt.removed {
				t.Errorf("got %+v, want %d left, loaded %d, removed %d", s, tt.left, tt.loaded, tt.removed)
			}
			newFold(t).follow(d).agrees(d)
		})
	}
}

func TestStaffWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := at(t, "2027-03-01 10:00")
		b1 := stock(1, "B1", "2027-06-30")
		d.load(1, "B1", "2027-06-30", 4)
		d.load(1, "B1", "2027-06-30", 1) // the same batch, and the last: one line
		d.load(1, "B2", "2027-03-01", 2)
		d.load(1, "B1", "2027-06-30", 1) // behind B2
		b, err := d.Batches(d.ctx, 1)
		d.ok(err)
		if len(b) != 3 || b[0].Pieces != 5 || b[1].Batch != "B2" || b[2].Pieces != 1 {
			t.Fatalf("queue: %+v", b)
		}

		refused(t, d.Load(d.ctx, b1, 3, "s-1"), ledger.RefusedCapacity)
		refused(t, d.Load(d.ctx, stock(9, "B1", "2027-06-30"), 1, "s-1"), ledger.RefusedSlot)
		refused(t, d.Load(d.ctx, protocol.Stock{Slot: 4, Product: "condom-52", Batch: "B1", Expiry: "2027-06-30"}, 1, "s-1"), ledger.RefusedProduct)
		refused(t, d.Load(d.ctx, stock(2, "B1", "2027-02-28"), 1, "s-1"), ledger.RefusedExpired)
		refused(t, d.Remove(d.ctx, stock(1, "B9", "2027-06-30"), 1, protocol.RemovedDamaged, "s-1"), ledger.RefusedAbsent)
		refused(t, d.Remove(d.ctx, b1, 7, protocol.RemovedDamaged, "s-1"), ledger.RefusedAbsent)
		if err := d.Load(d.ctx, b1, 0, "s-1"); err == nil {
			t.Error("loaded nothing")
		}
		if err := d.Remove(d.ctx, b1, 1, "because", "s-1"); err == nil {
			t.Error("removed for no known reason")
		}

		head := d.Head()
		d.ok(d.Tested(d.ctx, 1, 6, "s-1")) // five of B1 and one of B2
		d.expect(head.Seq, "stock.tested stock.tested")
		d.midnight() // B2 is past its last day now
		if s := d.slot(1); s.Pieces != 0 || s.Expiry != "2027-03-01" {
			t.Errorf("an expired batch in front: %+v", s)
		}
		d.ok(d.Remove(d.ctx, stock(1, "B2", "2027-03-01"), 1, protocol.RemovedExpired, "s-1"))
		if s := d.slot(1); s.Pieces != 1 || s.Loaded != 8 || s.Removed != 7 {
			t.Errorf("after removal: %+v", s)
		}

		began := d.Head().Seq
		d.ok(d.Count(d.ctx, b1, 3, began, "found two behind the tray", "s-1"))
		refused(t, d.Count(d.ctx, b1, 3, began, "", "s-1"), ledger.RefusedStale)
		d.ok(d.Count(d.ctx, b1, 2, d.Head().Seq, "", "s-1"))
		d.ok(d.Count(d.ctx, stock(1, "B7", "2027-07-31"), 1, d.Head().Seq, "not on record", "s-1"))
		if s := d.slot(1); s.Pieces != 3 || s.Loaded != 11 || s.Removed != 8 {
			t.Errorf("after counts: %+v", s)
		}

		s := desired(2)
		s.Planogram[0].Product = "gel"
		s.Recalls = []protocol.Recall{{Product: "condom-52", Batch: "B8"}}
		d.ok(d.Apply(d.ctx, s))
		refused(t, d.Load(d.ctx, protocol.Stock{Slot: 1, Product: "gel", Batch: "G1", Expiry: "2027-06-30"}, 1, "s-1"), ledger.RefusedProduct)
		refused(t, d.Load(d.ctx, stock(2, "B8", "2027-06-30"), 1, "s-1"), ledger.RefusedRecalled)
		d.ok(d.Remove(d.ctx, b1, 2, protocol.RemovedReturned, "s-1"))
		d.ok(d.Remove(d.ctx, stock(1, "B7", "2027-07-31"), 1, protocol.RemovedReturned, "s-1"))
		d.ok(d.Load(d.ctx, protocol.Stock{Slot: 1, Product: "gel", Batch: "G1", Expiry: "2027-06-30"}, 1, "s-1"))
		newFold(t).follow(d).agrees(d)
	})
}

func TestIDsAreNeverUsedAgain(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	d.load(1, "B1", "2099-06-30", 9)
	d.ok(d.BoardHighest(d.ctx, "00000000000000aa", 40))
	d.ok(d.BoardHighest(d.ctx, "00000000000000bb", 7)) // a board swapped for one that knows less
	d.reopen()
	v := d.reserve(condom(1))
	if v.ID != 41 {
		t.Errorf("minted %d, want 41: above the board's highest", v.ID)
	}
	d.ok(d.Settle(d.ctx, v.ID, noDrop))
	d.reopen()
	if w := d.reserve(condom(1)); w.ID != 42 {
		t.Errorf("minted %d, want 42", w.ID)
	}
	if err := d.BoardHighest(d.ctx, "00000000000000cc", 1<<32-1); err == nil {
		t.Error("believed a board with an erased memory")
	}
}

func TestDesired(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	head := d.Head()
	d.ok(d.Apply(d.ctx, desired(1)))
	d.expect(head.Seq, "")
	changed := desired(1)
	changed.Policy.AgeFrom = 16
	if err := d.Apply(d.ctx, changed); err == nil {
		t.Error("took another content under the same version")
	}
	changed.Version = 5
	d.ok(d.Apply(d.ctx, changed))
	if err := d.Apply(d.ctx, desired(4)); err == nil {
		t.Error("took an older version")
	}
	restored := desired(1)
	restored.Generation = 2
	d.ok(d.Apply(d.ctx, restored))
	other := desired(9)
	other.Machine = "m-0018"
	if err := d.Apply(d.ctx, other); err == nil {
		t.Error("took the state of another machine")
	}
	d.expect(head.Seq, "desired.applied desired.applied")
	d.reopen()
	if got, ok := d.Desired(); !ok || got.DesiredVersion != restored.DesiredVersion || len(got.Planogram) != 4 {
		t.Errorf("after a restart: %+v %v", got.DesiredVersion, ok)
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := at(t, "2027-03-01 10:00")
		d.load(1, "B1", "2027-06-30", 4)
		now := time.Now().UnixMilli()
		command := func(id string, counter uint64, verb protocol.Verb) protocol.Command {
			return protocol.Command{ID: id, Machine: machine, Generation: 1, Counter: counter,
				NotBeforeMS: now, ExpiresMS: now + 60_000, Verb: verb, Slot: 1}
		}
		late, early, old := command("late", 4, protocol.VerbResume), command("early", 5, protocol.VerbResume), command("old", 9, protocol.VerbResume)
		late.NotBeforeMS, late.ExpiresMS = now-2, now-1
		early.NotBeforeMS, early.ExpiresMS = now+3_600_000, now+3_700_000
		next := command("next", 1, protocol.VerbClear)
		next.Generation = 2
		steps := []struct {
			c      protocol.Command
			want   protocol.CommandResult
			events string
			paused bool
		}{
			{command("p", 2, protocol.VerbPause), "ok", "fault.raised command.done", true},
			{command("p", 2, protocol.VerbPause), "ok", "", true},
			{command("behind", 1, protocol.VerbResume), "failed", "command.done", true},
			{command("same", 2, protocol.VerbResume), "failed", "command.done", true},
			{late, "expired", "command.done", true},
			{early, "failed", "command.done", true},
			{command("r", 6, protocol.VerbResume), "ok", "fault.cleared command.done", false},
			{command("p", 2, protocol.VerbPause), "ok", "", false},
			{command("b", 7, protocol.VerbBlock), "ok", "slot.blocked command.done", false},
			{command("b2", 8, protocol.VerbBlock), "ok", "command.done", false},
			{next, "ok", "slot.cleared command.done", false},
			{old, "failed", "command.done", false},
			{func() protocol.Command { c := command("s", 2, protocol.VerbState); c.Generation = 2; return c }(), "ok", "command.done", false},
			{func() protocol.Command { c := command("d", 3, "dance"); c.Generation = 2; return c }(), "unsupported", "command.done", false},
		}
		for _, s := range steps {
			d.reopen()
			head := d.Head()
			done, err := d.Do(d.ctx, s.c)
			d.ok(err)
			if done.Result != s.want || done.ID != s.c.ID {
				t.Errorf("%s: got %+v, want %s", s.c.ID, done, s.want)
			}
			if got := d.kinds(head.Seq); got != s.events {
				t.Errorf("%s: events %q, want %q", s.c.ID, got, s.events)
			}
			if d.Paused() != s.paused {
				t.Errorf("%s: paused %v, want %v", s.c.ID, d.Paused(), s.paused)
			}
			if s.paused {
				d.refuses(protocol.DenialClosed, condom(1))
			}
		}
		d.ok(d.Block(d.ctx, 1, protocol.BlockStaff, 0, "s-1"))
		c := command("from-afar", 4, protocol.VerbClear)
		c.Generation = 2
		if done, err := d.Do(d.ctx, c); err != nil || done.Result != protocol.CommandFailed || d.slot(1).Blocked != protocol.BlockStaff {
			t.Errorf("cleared from afar what staff switched off: %+v %v", done, err)
		}
		c.Machine = "m-0018"
		if _, err := d.Do(d.ctx, c); err == nil {
			t.Error("did a command for another machine")
		}
	})
}

func TestAcks(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	for range 8 {
		d.ok(d.Append(d.ctx, protocol.DoorOpened{}))
	}
	ack := func(generation, seq uint64) protocol.Ack {
		return protocol.Ack{Ledger: d.ID(), Generation: generation, Seq: seq}
	}
	steps := []struct {
		name string
		ack  protocol.Ack
		ok   bool
		want protocol.Ack
	}{
		{"first", ack(5, 3), true, ack(5, 3)},
		{"rises", ack(5, 6), true, ack(5, 6)},
		{"lower", ack(5, 4), true, ack(5, 6)},
		{"one lower", ack(5, 5), true, ack(5, 6)},
		{"again", ack(5, 6), true, ack(5, 6)},
		{"beyond the head", ack(5, d.Head().Seq+1), false, ack(5, 6)},
		{"older generation", ack(4, 9), true, ack(5, 6)},
		{"another ledger", protocol.Ack{Ledger: protocol.NewLedgerID(), Generation: 9, Seq: 9}, true, ack(5, 6)},
		{"restored district", ack(6, 1), true, ack(6, 1)},
		{"beyond the head in a new generation", ack(7, 99), false, ack(6, 1)},
		{"restored from nothing", ack(7, 0), true, ack(7, 0)},
	}
	for _, s := range steps {
		if err := d.SetAcked(d.ctx, s.ack); (err == nil) != s.ok {
			t.Errorf("%s: %v", s.name, err)
		}
		if got := d.Acked(); got != s.want {
			t.Errorf("%s: got %+v, want %+v", s.name, got, s.want)
		}
	}
	d.reopen()
	if got := d.Acked(); got != ack(7, 0) {
		t.Errorf("after a restart: %+v", got)
	}
}

func TestSince(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	for range 5 {
		d.ok(d.Append(d.ctx, protocol.DoorClosed{}))
	}
	all, err := d.Since(d.ctx, 0, 1<<20)
	d.ok(err)
	var head protocol.Head
	for _, s := range all {
		_, head, err = s.Follow(machine, d.ID(), head)
		d.ok(err)
	}
	if head != d.Head() || len(all) != int(head.Seq) {
		t.Errorf("followed to %+v, head is %+v", head, d.Head())
	}
	for maxBytes, want := range map[int]int{0: 1, 1: 1, len(all[2].Body): 1, len(all[2].Body) + len(all[3].Body): 2} {
		got, err := d.Since(d.ctx, 2, maxBytes)
		d.ok(err)
		if len(got) != want || got[0].Seq != 3 {
			t.Errorf("at most %d bytes: got %d records, want %d from seq 3", maxBytes, len(got), want)
		}
	}
	if got, err := d.Since(d.ctx, head.Seq, 1000); err != nil || len(got) != 0 {
		t.Errorf("after the head: %v %v", got, err)
	}
	if got, err := d.Since(d.ctx, 1<<64-1, 1000); err != nil || len(got) != 0 {
		t.Errorf("after any head: %v %v", got, err)
	}
}

func TestAppendRefusesWhatTheLedgerTells(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	err := d.Append(d.ctx, protocol.StockLoaded{Stock: stock(1, "B1", "2099-06-30"), Pieces: 5, After: 5, Staff: "s-1"})
	if err == nil {
		t.Error("an event of a load that never happened was written")
	}
	d.ok(d.Append(d.ctx, protocol.OrderDenied{Reason: protocol.DenialAge}))
	if got := d.records(d.Head().Seq - 1)[0]; string(got.Data) != `{"reason":"age"}` {
		t.Errorf("a denial says more than its reason: %s", got.Data)
	}
}

func TestDoor(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	for i, want := range []bool{false, true, false, true} {
		if open, err := d.DoorOpen(d.ctx); open != want || err != nil {
			t.Errorf("%d: open %t, %v; want %t", i, open, err, want)
		}
		var e protocol.Event = protocol.DoorOpened{}
		if want {
			e = protocol.DoorClosed{}
		}
		d.ok(d.Append(d.ctx, e))
		d.ok(d.Append(d.ctx, protocol.CardLeft{}))
		d.reopen()
	}
}

func TestFaultsAreWrittenOnChange(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	head := d.Head()
	for range 2 {
		d.ok(d.Raise(d.ctx, protocol.FaultReader, 0))
		d.ok(d.Raise(d.ctx, protocol.FaultJam, 3))
		d.ok(d.Block(d.ctx, 3, protocol.BlockFault, protocol.FaultJam, ""))
	}
	d.expect(head.Seq, "fault.raised fault.raised slot.blocked")
	d.reopen()
	s, err := d.Snapshot(d.ctx)
	d.ok(err)
	if want := []protocol.FaultRaised{{Fault: protocol.FaultJam, Slot: 3}, {Fault: protocol.FaultReader}}; !slices.Equal(s.Faults, want) {
		t.Errorf("standing after a restart: %+v, want %+v", s.Faults, want)
	}
	head = d.Head()
	for range 2 {
		d.ok(d.ClearFault(d.ctx, protocol.FaultReader, 0))
		d.ok(d.Clear(d.ctx, 3, protocol.BlockFault, "s-1"))
	}
	d.expect(head.Seq, "fault.cleared slot.cleared")
}

func TestClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// The bubble begins in the year 2000, like a Pi without a battery.
		zone, err := time.LoadLocation("Asia/Shanghai")
		if err != nil {
			t.Fatal(err)
		}
		d := &desk{t: t, ctx: t.Context(), path: filepath.Join(t.TempDir(), "ledger.db"), zone: zone, unsynced: true}
		d.open()
		defer func() { d.Close() }()
		d.ok(d.Apply(d.ctx, desired(1)))
		if got := d.Clock(); got != protocol.ClockUnset {
			t.Errorf("in 2000: %s, want unset", got)
		}
		d.refuses(protocol.DenialClosed, condom(1))
		if err := d.Entitled(d.ctx, card(1), "gel"); err == nil {
			t.Error("entitled without a clock")
		}
		from := time.Now()
		time.Sleep(time.Until(d.moment("2027-03-01 10:00")))
		d.ok(d.SetClock(d.ctx, from, "staff"))
		d.load(1, "B1", "2027-12-31", 5)
		if got := d.Clock(); got != protocol.ClockHeld {
			t.Errorf("set by staff: %s, want held", got)
		}
		d.ok(d.Settle(d.ctx, d.reserve(condom(1)).ID, dropped))
		if r := d.records(d.Head().Seq - 1)[0]; r.Clock != protocol.ClockHeld || r.AtMS != time.Now().UnixMilli() {
			t.Errorf("stamped %+v", r.Stamp)
		}
		d.unsynced = false
		if got := d.Clock(); got != protocol.ClockSynced {
			t.Errorf("with the network: %s, want synced", got)
		}
	})
}

// wall is a ledger whose latest believed time was moved, as if the clock had been
// wrong: in a bubble time cannot go back.
func (d *desk) wall(to time.Time) {
	d.t.Helper()
	d.ok(d.Close())
	db, err := sql.Open("sqlite", d.path)
	d.ok(err)
	_, err = db.Exec(`UPDATE meta SET wall_ms = ?`, to.UnixMilli())
	d.ok(err)
	d.ok(db.Close())
	d.open()
}

func TestClockBehindTheRecords(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := at(t, "2027-03-01 10:00")
		d.load(1, "B1", "2027-12-31", 5)
		d.unsynced = true
		d.wall(d.moment("2027-03-01 10:02"))
		if got := d.Clock(); got != protocol.ClockHeld {
			t.Errorf("2 min behind: %s, want held", got)
		}
		d.wall(d.moment("2027-03-01 10:03"))
		if got := d.Clock(); got != protocol.ClockUnset {
			t.Errorf("3 min behind: %s, want unset", got)
		}
		d.refuses(protocol.DenialClosed, condom(1))
		time.Sleep(time.Minute)
		d.reserve(condom(1))
	})
}

func TestWrongYearDoesNotCloseTheMachine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := at(t, "2027-03-01 10:00")
		d.load(1, "B1", "2060-12-31", 5)
		d.load(2, "B1", "2060-12-31", 5)
		d.wall(d.moment("2050-01-01 00:00"))
		v := d.reserve(condom(1)) // the network is believed, but time never goes back by itself
		if want := d.moment("2050-01-23 00:00"); !v.Next.Equal(want) {
			t.Errorf("next %v, want %v", v.Next, want)
		}
		d.ok(d.Settle(d.ctx, v.ID, dropped))
		w := d.reserve(condom(2)) // still open when the clock is put right
		d.ok(d.SetClock(d.ctx, d.moment("2050-01-01 00:00"), "network"))
		d.refuses(protocol.DenialEarly, condom(2))
		d.ok(d.Settle(d.ctx, w.ID, noDrop))
		d.ok(d.Entitled(d.ctx, card(2), "gel"))
		_, next := denied(t, d.Entitled(d.ctx, card(1), "gel"))
		if want := d.moment("2027-03-23 00:00"); !next.Equal(want) {
			t.Errorf("taken in 2050 counts from today on: next %v, want %v", next, want)
		}
	})
}

// Only the board that was given a vend, with the memory it had then, can tell of it.
func TestOrphans(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	d.load(1, "B1", "2099-06-30", 5)
	orphan := func() bool {
		t.Helper()
		open, err := d.Open(d.ctx)
		d.ok(err)
		if len(open) != 1 {
			t.Fatalf("%d vends open, want 1", len(open))
		}
		return open[0].Orphan
	}
	const a, b = "00000000000000aa", "00000000000000bb"
	d.ok(d.BoardHighest(d.ctx, a, 40))
	v := d.reserve(condom(1))
	for _, step := range []struct {
		what    string
		serial  string
		highest protocol.VendID
		want    bool
	}{
		{"the same board before it heard of it", a, 40, false},
		{"and after", a, v.ID, false},
		{"another board", b, 7, true},
		{"the first one again", a, v.ID, false},
		{"which has lost its memory", a, 3, true},
		{"and gathers a new one", a, 50, true},
	} {
		d.ok(d.BoardHighest(d.ctx, step.serial, step.highest))
		d.reopen()
		if got := orphan(); got != step.want {
			t.Errorf("%s: orphan %v, want %v", step.what, got, step.want)
		}
	}
}

// A board that settled a vend knew it: one that then says less has lost its memory,
// hello in between or not. And a record it has under a new id is not ours.
func TestOrphansWithoutHello(t *testing.T) {
	t.Parallel()
	const a = "00000000000000aa"
	d := setUp(t)
	d.load(1, "B1", "2099-06-30", 5)
	d.load(2, "B1", "2099-06-30", 5)
	d.ok(d.BoardHighest(d.ctx, a, 0))
	d.ok(d.Settle(d.ctx, d.reserve(condom(1)).ID, dropped))
	d.reserve(condom(2))
	d.ok(d.BoardHighest(d.ctx, a, 0))
	open, err := d.Open(d.ctx)
	d.ok(err)
	if len(open) != 1 || !open[0].Orphan {
		t.Errorf("after the board lost its memory: %+v, want one orphan", open)
	}

	d = setUp(t)
	d.load(1, "B1", "2099-06-30", 5)
	d.ok(d.BoardHighest(d.ctx, a, 0))
	v := d.reserve(condom(1))
	d.ok(d.Settle(d.ctx, v.ID, protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultBoardKnows}))
	if open, err = d.Open(d.ctx); err != nil || len(open) != 1 || !open[0].Orphan {
		t.Errorf("an id the board knew already: %+v, %v; want one orphan", open, err)
	}
	d.ok(d.Resolve(d.ctx, v.ID, protocol.Kept, "staff", "s-1"))
}

// KeepClock puts right what was written under a clock that ran ahead, and says so once.
func TestKeepClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := at(t, "2027-03-01 10:00")
		d.load(1, "B1", "2060-12-31", 5)
		d.wall(d.moment("2050-01-01 00:00"))
		head := d.Head()
		ctx, cancel := context.WithCancel(d.ctx)
		ended := make(chan error)
		go func() { ended <- d.KeepClock(ctx) }()
		time.Sleep(time.Hour)
		cancel()
		d.ok(<-ended)
		d.expect(head.Seq, "clock.set")
		if v, want := d.reserve(condom(1)), d.moment("2027-03-23 00:00"); !v.Next.Equal(want) {
			t.Errorf("next %v, want %v", v.Next, want)
		}
	})
}

// A card that comes before the choice is asked about any product.
func TestEntitledToAny(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := at(t, "2027-03-01 10:00")
		d.load(1, "B1", "2027-12-31", 5)
		d.ok(d.Entitled(d.ctx, card(1), ""))
		v := d.reserve(condom(1))
		reason, next := denied(t, d.Entitled(d.ctx, card(1), ""))
		if reason != protocol.DenialEarly || !next.Equal(v.Next) {
			t.Errorf("got %s, %v; want early, %v", reason, next, v.Next)
		}
		d.ok(d.Settle(d.ctx, v.ID, noDrop))
		d.ok(d.Entitled(d.ctx, card(1), ""))
	})
}

func TestMarksAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := at(t, "2027-03-01 10:00")
		d.load(1, "B1", "2027-12-31", 5)
		m := dispense.Marks{Current: dispense.Mark([]byte("a mark like this"))}
		v := d.reserve(dispense.Order{Marks: m, Product: "condom-52"})
		d.ok(d.Settle(d.ctx, v.ID, dropped))
		if !d.holds(m.Current) {
			t.Fatal("the mark is nowhere, so this test finds nothing")
		}
		for _, r := range d.records(0) {
			if strings.Contains(string(r.Data), "mark") {
				t.Errorf("an event speaks of marks: %s", r.Data)
			}
		}
		time.Sleep(time.Until(d.moment("2027-03-22 12:00")))
		d.ok(d.Purge(d.ctx))
		if !d.holds(m.Current) {
			t.Error("forgotten a day too early")
		}
		d.midnight()
		d.ok(d.Purge(d.ctx))
		if d.holds(m.Current) {
			t.Error("still in the files after its window")
		}

		// A shorter rule shortens what is kept already.
		d.ok(d.Settle(d.ctx, d.reserve(dispense.Order{Marks: m, Product: "condom-52"}).ID, dropped))
		s := desired(2)
		s.Policy.Rules[0].Days = 2
		d.ok(d.Apply(d.ctx, s))
		d.midnight()
		d.midnight()
		d.ok(d.Purge(d.ctx))
		if d.holds(m.Current) {
			t.Error("kept by a rule that is no longer in force")
		}
	})
}

// holds looks for a mark in the bytes of file and journal.
func (d *desk) holds(m dispense.Mark) bool {
	d.t.Helper()
	for _, part := range []string{"", "-wal"} {
		b, err := os.ReadFile(d.path + part)
		d.ok(err)
		if strings.Contains(string(b), string(m[:])) {
			return true
		}
	}
	return false
}

func TestRestartKeepsAll(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	d.load(1, "B1", "2099-06-30", 4)
	d.load(2, "B2", "2099-12-31", 4)
	d.ok(d.Settle(d.ctx, d.reserve(condom(1)).ID, dropped))
	v := d.reserve(condom(2)) // the power fails while this one turns
	d.ok(d.Block(d.ctx, 3, protocol.BlockStaff, 0, "s-1"))
	before, err := d.Snapshot(d.ctx)
	d.ok(err)

	// A copy of the files as they lie there is what a power cut leaves.
	copied := filepath.Join(t.TempDir(), "ledger.db")
	for _, part := range []string{"", "-wal"} {
		b, err := os.ReadFile(d.path + part)
		d.ok(err)
		d.ok(os.WriteFile(copied+part, b, 0o600))
	}
	d.ok(d.Close())
	d.path = copied
	d.open()
	after, err := d.Snapshot(d.ctx)
	d.ok(err)
	if after.Boot != before.Boot+1 || after.Head != before.Head+1 || after.Ledger != before.Ledger {
		t.Errorf("boot %d, head %d, ledger %s: want one more start of the same ledger", after.Boot, after.Head, after.Ledger)
	}
	if !slices.Equal(after.Slots, before.Slots) {
		t.Errorf("slots:\n got %+v\nwant %+v", after.Slots, before.Slots)
	}
	open, err := d.Open(d.ctx)
	d.ok(err)
	if len(open) != 1 || open[0].ID != v.ID {
		t.Fatalf("open: %+v, want vend %d", open, v.ID)
	}
	d.ok(d.Settle(d.ctx, v.ID, noDrop))
	newFold(t).follow(d).agrees(d)
}

func TestConnectionNumbersRise(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := at(t, "2027-03-01 10:00")
		var last uint64
		for range 5 {
			n, err := d.MintConnection(d.ctx)
			d.ok(err)
			if n <= last || n < uint64(time.Now().UnixMilli()) {
				t.Errorf("minted %d after %d", n, last)
			}
			last = n
			d.reopen()
		}
	})
}

func TestWatch(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	version, changed := d.Watch()
	d.ok(d.SetAcked(d.ctx, d.Acked()))
	d.ok(d.Apply(d.ctx, desired(1)))
	d.refuses(protocol.DenialEmpty, condom(1))
	select {
	case <-changed:
		t.Error("woken, though nothing changed")
	default:
	}
	d.load(1, "B1", "2099-06-30", 4)
	select {
	case <-changed:
	default:
		t.Error("not woken by a commit")
	}
	if now, _ := d.Watch(); now <= version {
		t.Errorf("version %d after %d", now, version)
	}
}

func TestBackup(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	d.load(1, "B1", "2099-06-30", 4)
	to := filepath.Join(t.TempDir(), "copy #1?.db")
	d.ok(d.Backup(d.ctx, to))
	if err := d.Backup(d.ctx, to); !errors.Is(err, os.ErrExist) {
		t.Errorf("overwriting a backup: %v", err)
	}
	head, id := d.Head(), d.ID()
	d.ok(d.Close())
	d.path = to
	d.open()
	if d.ID() != id || d.Head().Seq != head.Seq+1 || d.slot(1).Pieces != 4 {
		t.Errorf("the copy is %s up to %d with %+v", d.ID(), d.Head().Seq, d.slot(1))
	}
}

func BenchmarkReserveSettle(b *testing.B) {
	d := setUp(b)
	n := 0
	for b.Loop() {
		if n%9 == 0 {
			d.load(1, fmt.Sprintf("B%d", n), "2099-06-30", 9)
		}
		v, err := d.Reserve(d.ctx, condom(n))
		d.ok(err)
		d.ok(d.Settle(d.ctx, v.ID, dropped))
		n++
	}
}

func BenchmarkOpen(b *testing.B) {
	d := setUp(b)
	for range 10_000 { // about seven weeks of a busy machine
		d.ok(d.Append(d.ctx, protocol.DoorOpened{}))
	}
	for b.Loop() {
		d.reopen()
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	d.load(1, "B1", "2099-06-30", 4)
	head := d.Head()
	for range 2 {
		d.ok(d.Pause(d.ctx))
	}
	d.reopen()
	if !d.Paused() {
		t.Error("a restart ended the pause")
	}
	d.refuses(protocol.DenialClosed, condom(1))
	for range 2 {
		d.ok(d.Resume(d.ctx))
	}
	d.expect(head.Seq, "fault.raised boot fault.cleared")
	d.reserve(condom(1))
}

func TestBlocksStandSideBySide(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	d.load(1, "B1", "2099-06-30", 4)
	v := d.reserve(condom(1))
	d.ok(d.Settle(d.ctx, v.ID, lost))
	for _, why := range []protocol.Block{protocol.BlockDistrict, protocol.BlockStaff, protocol.BlockSuspect, protocol.BlockFault} {
		d.ok(d.Block(d.ctx, 1, why, 0, "s-1"))
	}
	end := map[protocol.Block]func() error{
		protocol.BlockUnknown: func() error { return d.Settle(d.ctx, v.ID, dropped) },
	}
	for _, why := range []protocol.Block{protocol.BlockUnknown, protocol.BlockFault, protocol.BlockSuspect, protocol.BlockStaff, protocol.BlockDistrict} {
		if got := d.slot(1).Blocked; got != why {
			t.Errorf("shown as %s, want %s", got, why)
		}
		d.refuses(protocol.DenialEmpty, condom(2))
		if end[why] == nil {
			end[why] = func() error { return d.Clear(d.ctx, 1, why, "s-1") }
		}
		d.ok(end[why]())
	}
	d.reserve(condom(2))
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	for slot := protocol.Slot(1); slot <= 3; slot++ {
		d.load(slot, "B1", "2099-06-30", 10)
	}
	var given atomic.Int64
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for i := range 6 {
				v, err := d.Reserve(d.ctx, condom(100*n+i))
				if _, no := errors.AsType[*dispense.DeniedError](err); no {
					continue
				}
				if err == nil {
					err = d.Settle(d.ctx, v.ID, dropped)
				}
				if err != nil {
					t.Error(err)
					return
				}
				given.Add(1)
			}
		})
		all.Go(func() {
			for range 6 {
				d.Watch()
				s, err := d.Snapshot(d.ctx)
				if err == nil {
					err = s.Valid()
				}
				if err == nil {
					err = d.SetAcked(d.ctx, protocol.Ack{Ledger: d.ID(), Generation: 1, Seq: d.Head().Seq})
				}
				if err != nil {
					t.Error(err)
				}
				if int(s.Slots[0].Loaded)-int(s.Slots[0].Dispensed) != s.Slots[0].Pieces+s.Slots[0].Held {
					t.Errorf("a snapshot mixes two moments: %+v", s.Slots[0])
				}
			}
		})
	}
	all.Wait()
	newFold(t).follow(d).agrees(d)
	left := d.slot(1).Pieces + d.slot(2).Pieces + d.slot(3).Pieces
	if int(given.Load())+left != 30 {
		t.Errorf("%d given, %d left, 30 loaded", given.Load(), left)
	}
}
