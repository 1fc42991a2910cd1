package promise_test

import (
	"context"
	"testing"
	"time"

	"yaoju/daemon/dispense"
	"yaoju/daemon/machine"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// serve serves one resident.
func (h *house) serve() (dispense.Vend, protocol.Result) {
	h.Helper()
	v, r, err := h.disp.Serve(h.Context(), h.order())
	if err != nil {
		h.Errorf("vend %d in slot %d: %v", v.ID, v.Slot, err)
	}
	return v, r
}

// An id is minted once. A new ledger on hardware that remembers begins above what that
// knows, and one that was not told so moves nothing.
func TestMintedOnce(t *testing.T) {
	everyHouse(t, func(h *house) {
		for range 3 {
			if v, r := h.serve(); r.Outcome != protocol.Dispensed {
				h.Fatalf("vend %d: %+v", v.ID, r)
			}
		}
		h.end()
		h.open()
		h.serves()
		if v, r := h.serve(); v.ID != 4 || r.Outcome != protocol.Dispensed {
			h.Errorf("in another process: vend %d, %+v", v.ID, r)
		}
		h.end()
		h.must(h.book.Close())

		h.openBook("new.db")
		h.desk.vends = map[protocol.VendID]*entry{}
		h.last.Store(0)
		p := h.photo(1)
		h.start()
		h.up()
		if h.remembers { // before anybody told this ledger what the hardware knows
			r, err := h.Vend(h.Context(), 2, 1)
			h.rest()
			if starts, _ := p.since(h.site); starts != 0 || err == nil && (r.Outcome != protocol.Unknown || r.Cause != protocol.FaultBoardKnows) {
				h.Errorf("an id of before, new to the ledger: %+v, %v, %d starts", r, err, starts)
			}
			h.must(h.Clear(h.Context(), protocol.FaultBoardKnows))
		}
		h.open()
		h.serves()
		v, r := h.serve()
		if r.Outcome != protocol.Dispensed || h.remembers && v.ID <= 4 {
			h.Errorf("a new ledger: vend %d, %+v", v.ID, r)
		}
	})
}

// A refusal is not laid at the door of a slot that has nothing to do with it: it may
// come twice, and the ledger still gives from that slot.
func TestInnocentSlot(t *testing.T) {
	for _, why := range []struct {
		name     string
		do, undo func(h *house)
		guilty   protocol.Slot // the one that may be blocked
	}{
		{name: "door open", undo: func(h *house) { h.door(false) }, do: func(h *house) {
			h.door(true)
			h.within(h.notices, "open", func(is machine.Status) bool { return is.DoorOpen })
		}},
		{name: "unplugged", do: func(h *house) { h.unplug() }, undo: func(h *house) { h.plug() }},
		{name: "a dead process's motor turns", guilty: 1, undo: func(*house) {}, do: func(h *house) {
			h.serveAndCrash(halfWay)
			h.open()
			h.serves()
		}},
	} {
		t.Run(why.name, func(t *testing.T) {
			t.Parallel()
			everyHouse(t, func(h *house) {
				why.do(h)
				for range 3 {
					h.serve()
				}
				why.undo(h)
				h.rest()
				h.serves()
				if l := h.blocked(); l[why.guilty] != "" && len(l) > 1 || l[why.guilty] == "" && len(l) > 0 {
					h.Errorf("blocked: %v", l)
				}
				h.books()
			})
		})
	}
}

// Nor is a trouble of the whole machine, or of another slot.
func TestNeighbourOfTrouble(t *testing.T) {
	everyHouse(t, func(h *house) {
		for _, tr := range h.troubles() {
			if h.dear && !tr.whole {
				continue // whom the books blame is the driver's word, and its twin's rig has the same driver
			}
			hit := h.front()
			if tr.before != nil {
				tr.before(hit)
			} else {
				time.AfterFunc(halfWay, func() { tr.during(hit) })
			}
			h.serve()
			for range 2 {
				o := h.order()
				o.Tried = []protocol.Slot{hit}
				h.disp.Serve(h.Context(), o) // whatever comes of it
			}
			for slot, why := range h.blocked() {
				if slot != hit || tr.whole {
					h.Errorf("%s: slot %d is blocked as %s", tr.name, slot, why)
				}
			}
			tr.mend(hit)
			h.round()
		}
		h.books()
	})
}

// front is the slot that gives next, the first one that can; 0 is none.
func (h *house) front() protocol.Slot {
	h.Helper()
	s, err := h.book.Snapshot(h.Context())
	h.must(err)
	for _, slot := range s.Slots {
		if slot.Blocked == "" && slot.Pieces > 0 {
			return slot.Slot
		}
	}
	return 0
}

// serveAndCrash has a resident served, and the daemon die after a while.
func (h *house) serveAndCrash(after time.Duration) {
	h.Helper()
	o, d, done := h.order(), h.disp, make(chan struct{})
	go func() {
		defer close(done)
		d.Serve(context.Background(), o) // nobody is left to be told
	}()
	time.Sleep(after)
	h.crash()
	<-done
}

// account notes what really became of every vend, once nothing moves any more.
func (h *house) account() {
	h.rest()
	h.desk.mu.Lock()
	defer h.desk.mu.Unlock()
	for _, e := range h.desk.vends {
		e.account(h.site)
	}
}

// recoverTime is in which the warden has asked about everything that is open, twice.
const recoverTime = 10 * time.Second

// round is staff on their round, after whatever was wrong is mended: they clear and
// home, decide what became of vends nobody knows, by what they find in the tray, let
// every slot give again, and stay while residents come.
func (h *house) round() {
	h.Helper()
	h.account()
	var before []photo
	for slot := protocol.Slot(1); slot <= slots; slot++ {
		before = append(before, h.photo(slot))
	}
	h.visit(1)
	for slot := protocol.Slot(1); slot <= slots && h.works; slot++ {
		h.must(h.Home(h.Context(), slot)) // one whose switch was stuck stands in mid-turn, and nothing says so
	}
	time.Sleep(time.Second)
	h.serves()
	for i := range before {
		_, before[i].fell = before[i].since(h.site) // on the way home
	}
	h.resolve()
	for _, p := range before {
		if p.fell > 0 { // the last one of a slot is held for the open vend until that is decided
			h.must(h.book.Tested(h.Context(), p.slot, p.fell, "s-1"))
		}
	}
	for range 2 { // of slots that are sound again, though word of a vend of before may still come
		h.serve()
	}
	if l := h.blocked(); len(l) > 0 {
		h.Errorf("after the round still blocked, or again: %v", l)
	}
	time.Sleep(h.unsure)
}

// resolve is what staff decide about vends nobody knows, and about slots.
func (h *house) resolve() {
	h.Helper()
	open, err := h.book.Open(h.Context())
	h.must(err)
	if len(open) > 0 {
		time.Sleep(recoverTime)
		open, err = h.book.Open(h.Context())
		h.must(err)
	}
	for _, v := range open {
		h.evident(v.ID)
		e, found := h.desk.vends[v.ID], protocol.Kept
		if e.fell > 0 {
			found = protocol.Dispensed
		}
		h.must(h.book.Resolve(h.Context(), v.ID, found, "staff", "s-1"))
		e.settled, e.byHand = protocol.Result{Outcome: found, Pieces: min(1, e.fell)}, true
		if e.fell > 1 {
			b, err := h.book.Batches(h.Context(), v.Slot)
			h.must(err)
			h.must(h.book.Remove(h.Context(), b[0].Stock, e.fell-1, protocol.RemovedDamaged, "s-1"))
		}
	}
	for slot := range h.blocked() {
		h.must(h.book.Clear(h.Context(), slot, protocol.BlockFault, "s-1"))
		h.must(h.book.Clear(h.Context(), slot, protocol.BlockSuspect, "s-1"))
	}
}

// evident fails the test if a vend is open that the driver can answer for.
func (h *house) evident(id protocol.VendID) {
	h.Helper()
	if a := h.known(id); a.err != nil || a.Outcome != protocol.Unknown {
		h.Errorf("vend %d is open, and the driver says %+v", id, a)
	}
}

// books closes the day: ledger and tray agree, piece by piece.
func (h *house) books() {
	h.Helper()
	h.account()
	open, err := h.book.Open(h.Context())
	h.must(err)
	isOpen := map[protocol.VendID]bool{}
	for _, v := range open {
		isOpen[v.ID] = true
		h.evident(v.ID)
	}
	given, lost := map[protocol.Slot]int{}, map[protocol.Slot]int{} // as settled; and fallen for vends that are open
	for id, e := range h.desk.vends {
		switch r := e.settled; {
		case e.starts > h.most():
			h.Errorf("vend %d in slot %d: %d starts", id, e.slot, e.starts)
		case isOpen[id]:
			lost[e.slot] += e.fell
		case r.Outcome == protocol.Dispensed && (e.fell < 1 || !e.byHand && r.Pieces != e.fell), r.Outcome == protocol.Kept && e.fell > 0:
			h.Errorf("vend %d in slot %d: settled as %+v, and %d fell", id, e.slot, r, e.fell)
		case r.Outcome == protocol.Dispensed:
			given[e.slot] += r.Pieces
		case r.Outcome != protocol.Kept:
			h.Errorf("vend %d in slot %d: settled as %+v, and not open", id, e.slot, r)
		}
	}
	s, err := h.book.Snapshot(h.Context())
	h.must(err)
	for _, slot := range s.Slots {
		if int(slot.Dispensed) != given[slot.Slot] || slot.Pieces+slot.Held+int(slot.Dispensed+slot.Removed) != int(slot.Loaded) {
			h.Errorf("the books of slot %d: %+v; %d were given", slot.Slot, slot, given[slot.Slot])
		}
		if tray := stock - h.fell(slot.Slot); slot.Pieces+slot.Held != tray+lost[slot.Slot] {
			h.Errorf("slot %d: %d in the tray, %d of open vends are gone; the ledger has %d and holds %d", slot.Slot, tray, lost[slot.Slot], slot.Pieces, slot.Held)
		}
	}
}

// most is how often a motor may get power for one vend.
func (h *house) most() int {
	if h.works {
		return 1 + board.HalfTurns
	}
	return 1
}
