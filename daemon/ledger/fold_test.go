package ledger_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"yaoju/daemon/dispense"
	"yaoju/daemon/ledger"
	"yaoju/protocol"
)

// A fold adds up the event chain alone, the way a district does: it knows no
// queue and no table.
type fold struct {
	t         tb
	seq       uint64
	level     map[protocol.Stock]int // in the slot and not held, as far as events tell
	held      map[protocol.Stock]int // set aside for unknown vends
	loaded    map[protocol.Stock]int
	gone      map[protocol.Stock]int // given, removed, tested
	variance  map[protocol.Stock]int
	dispensed map[protocol.Slot]int
	ended     map[protocol.VendID]bool
	unknown   map[protocol.VendID]bool
}

func newFold(t tb) *fold {
	counts := func() map[protocol.Stock]int { return map[protocol.Stock]int{} }
	return &fold{t: t, level: counts(), held: counts(), loaded: counts(), gone: counts(), variance: counts(),
		dispensed: map[protocol.Slot]int{}, ended: map[protocol.VendID]bool{}, unknown: map[protocol.VendID]bool{}}
}

// follow adds the events that are new.
func (f *fold) follow(d *desk) *fold {
	f.t.Helper()
	for _, r := range d.records(f.seq) {
		e, err := protocol.DecodeEvent(r)
		if err != nil {
			f.t.Fatalf("%v", err)
		}
		f.seq = r.Seq
		f.add(e)
	}
	return f
}

func (f *fold) add(e protocol.Event) {
	f.t.Helper()
	switch e := e.(type) {
	case protocol.StockLoaded:
		f.level[e.Stock] += e.Pieces
		f.loaded[e.Stock] += e.Pieces
	case protocol.StockRemoved:
		f.take(e.Stock, e.Pieces)
	case protocol.StockTested:
		f.take(e.Stock, e.Pieces)
	case protocol.StockCounted:
		if f.level[e.Stock] != e.Expected {
			f.t.Fatalf("seq %d: a count of %+v expects %d, the events before make %d", f.seq, e.Stock, e.Expected, f.level[e.Stock])
		}
		f.level[e.Stock] = e.Counted
		f.variance[e.Stock] += e.Counted - e.Expected
	case protocol.VendDispensed:
		f.end(e.Vend.Vend)
		f.take(e.Stock, e.Pieces)
		f.dispensed[e.Slot] += e.Pieces
	case protocol.VendKept:
		f.end(e.Vend.Vend)
	case protocol.VendUnknown:
		if f.unknown[e.Vend.Vend] {
			f.t.Fatalf("vend %d told as unknown twice", e.Vend.Vend)
		}
		f.unknown[e.Vend.Vend] = true
		f.level[e.Stock]--
		f.held[e.Stock]++
	case protocol.VendResolved:
		if !f.unknown[e.Vend.Vend] {
			f.t.Fatalf("vend %d resolved, but never unknown", e.Vend.Vend)
		}
		f.end(e.Vend.Vend)
		f.held[e.Stock]--
		f.level[e.Stock]++
		if e.Outcome == protocol.Dispensed {
			f.take(e.Stock, e.Pieces)
			f.dispensed[e.Slot] += e.Pieces
		}
	}
}

func (f *fold) take(s protocol.Stock, n int) {
	f.t.Helper()
	f.level[s] -= n
	f.gone[s] += n
	if f.level[s] < 0 {
		f.t.Fatalf("seq %d: %d pieces of %+v are left", f.seq, f.level[s], s)
	}
}

func (f *fold) end(id protocol.VendID) {
	f.t.Helper()
	if f.ended[id] {
		f.t.Fatalf("vend %d ended twice", id)
	}
	f.ended[id] = true
}

// agrees compares the sum of the events with what the ledger says it holds, batch
// by batch and slot by slot.
func (f *fold) agrees(d *desk) {
	f.t.Helper()
	for s := range f.level {
		if in := f.loaded[s] + f.variance[s]; in != f.gone[s]+f.level[s]+f.held[s] {
			f.t.Fatalf("%+v: %d came, %d went, %d stand, %d held", s, in, f.gone[s], f.level[s], f.held[s])
		}
	}
	untold := map[protocol.Slot]int{} // reserved: no event yet
	open, err := d.Open(d.ctx)
	d.ok(err)
	for _, v := range open {
		if !f.unknown[v.ID] {
			untold[v.Slot]++
		}
	}
	state, err := d.Snapshot(d.ctx)
	d.ok(err)
	for _, s := range state.Slots {
		f.agreesOn(d, s, untold[s.Slot])
	}
}

func (f *fold) agreesOn(d *desk, s protocol.SlotState, untold int) {
	f.t.Helper()
	batches, err := d.Batches(d.ctx, s.Slot)
	d.ok(err)
	stands, total := map[protocol.Stock]int{}, 0
	for _, b := range batches {
		stands[b.Stock] += b.Pieces
		total += b.Pieces
	}
	folded, held := 0, 0
	for b, n := range f.level {
		if b.Slot != s.Slot {
			continue
		}
		folded += n
		held += f.held[b]
		if untold == 0 && stands[b] != n {
			f.t.Fatalf("%+v: %d stand, the events make %d", b, stands[b], n)
		}
	}
	if total+untold != folded {
		f.t.Fatalf("slot %d: %d stand, %d are under way, the events make %d", s.Slot, total, untold, folded)
	}
	if s.Held != held+untold || int(s.Loaded)-int(s.Removed)-int(s.Dispensed) != total+s.Held || int(s.Dispensed) != f.dispensed[s.Slot] {
		f.t.Fatalf("slot %d: odometers %+v, %d stand, %d held, %d given by events", s.Slot, s, total, held+untold, f.dispensed[s.Slot])
	}
}

func TestConservation(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		// Each life has its own bubble. A property that fails panics, and that has
		// to reach rapid on its own goroutine.
		var failure any
		synctest.Test(t, func(t *testing.T) {
			defer func() { failure = recover() }()
			live(rt, at(t, "2027-03-01 10:00"))
		})
		if failure != nil {
			panic(failure)
		}
	})
}

func live(rt *rapid.T, d *desk) {
	d.t = rt
	s := desired(2)
	s.Policy.Rules[0] = protocol.Rule{Max: 3, Per: protocol.PerDays, Days: 2}
	d.ok(d.Apply(d.ctx, s))
	w := &walk{desk: d, fold: newFold(rt)}
	rt.Repeat(map[string]func(*rapid.T){
		"":        func(*rapid.T) { w.fold.follow(d) }, // every event is judged as it comes
		"compare": func(*rapid.T) { w.fold.agrees(d) },
		"load":    w.loads,
		"reserve": w.reserves,
		"settle":  w.settles,
		"remove":  w.removes,
		"count":   w.counts,
		"test":    w.tests,
		"clear":   w.clears,
		"restart": func(*rapid.T) { d.reopen() },
		"wait":    func(rt *rapid.T) { time.Sleep(time.Duration(rapid.IntRange(1, 60).Draw(rt, "hours")) * time.Hour) },
	})
	w.fold.follow(d).agrees(d)
}

// A walk is one random life of a ledger.
type walk struct {
	*desk
	fold *fold
	open []dispense.Vend
}

// decided passes over a refusal, which is an answer, and stops at an error.
func (w *walk) decided(rt *rapid.T, err error) {
	rt.Helper()
	if err == nil {
		return
	}
	switch err.(type) {
	case *ledger.RefusedError, *dispense.DeniedError:
	default:
		rt.Fatalf("%v", err)
	}
}

func (w *walk) batch(rt *rapid.T) protocol.Stock {
	slot := protocol.Slot(rapid.IntRange(1, 4).Draw(rt, "slot"))
	days := rapid.IntRange(0, 9).Draw(rt, "days")
	expiry := time.Now().In(w.zone).AddDate(0, 0, days).Format(time.DateOnly)
	return stock(slot, rapid.SampledFrom([]string{"B1", "B2"}).Draw(rt, "batch"), protocol.DateOnly(expiry))
}

// standing picks a batch that stands in some slot.
func (w *walk) standing(rt *rapid.T) (protocol.Stock, bool) {
	slot := protocol.Slot(rapid.IntRange(1, 4).Draw(rt, "slot"))
	b, err := w.Batches(w.ctx, slot)
	w.ok(err)
	if len(b) == 0 {
		return protocol.Stock{}, false
	}
	return b[rapid.IntRange(0, len(b)-1).Draw(rt, "batch")].Stock, true
}

func (w *walk) loads(rt *rapid.T) {
	w.decided(rt, w.Load(w.ctx, w.batch(rt), rapid.IntRange(1, 4).Draw(rt, "pieces"), "s-1"))
}

func (w *walk) reserves(rt *rapid.T) {
	o := dispense.Order{Marks: card(rapid.IntRange(1, 30).Draw(rt, "card")), Product: "condom-52"}
	if rapid.Bool().Draw(rt, "gel") {
		o.Product = "gel"
	}
	v, err := w.Reserve(w.ctx, o)
	w.decided(rt, err)
	if err == nil {
		w.open = append(w.open, v)
	}
}

func (w *walk) settles(rt *rapid.T) {
	if len(w.open) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.open)-1).Draw(rt, "vend")
	r := rapid.SampledFrom([]protocol.Result{dropped, dropped, noDrop, lost,
		{Outcome: protocol.Dispensed, Pieces: 2, Cause: protocol.FaultDoubleDrop},
		{Outcome: protocol.Dispensed, Pieces: 4, Cause: protocol.FaultRunaway},
		{Outcome: protocol.Kept, Cause: protocol.FaultJam},
	}).Draw(rt, "result")
	w.decided(rt, w.Settle(w.ctx, w.open[i].ID, r))
	w.decided(rt, w.Settle(w.ctx, w.open[i].ID, r)) // said twice, done once
	if r.Outcome != protocol.Unknown {
		w.open = slices.Delete(w.open, i, i+1)
	}
}

func (w *walk) removes(rt *rapid.T) {
	if s, ok := w.standing(rt); ok {
		w.decided(rt, w.Remove(w.ctx, s, rapid.IntRange(1, 3).Draw(rt, "pieces"), protocol.RemovedDamaged, "s-1"))
	}
}

func (w *walk) counts(rt *rapid.T) {
	s, ok := w.standing(rt)
	if !ok {
		s = w.batch(rt)
	}
	w.decided(rt, w.Count(w.ctx, s, rapid.IntRange(0, 5).Draw(rt, "counted"), w.Head().Seq, "", "s-1"))
}

func (w *walk) tests(rt *rapid.T) {
	slot := protocol.Slot(rapid.IntRange(1, 4).Draw(rt, "slot"))
	w.decided(rt, w.Tested(w.ctx, slot, rapid.IntRange(0, 3).Draw(rt, "pieces"), "s-1"))
}

func (w *walk) clears(rt *rapid.T) {
	slot := protocol.Slot(rapid.IntRange(1, 4).Draw(rt, "slot"))
	for _, why := range []protocol.Block{protocol.BlockSuspect, protocol.BlockFault} {
		w.decided(rt, w.Clear(w.ctx, slot, why, "s-1"))
	}
}
