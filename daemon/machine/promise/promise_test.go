// Package promise_test is what every driver of a machine promises, whatever hardware is below
// it: to dispense that an id turns a motor at most once and that what is said of it
// is true, to kiosk.Warden that its status is, and to staff that what they hold
// moves and what they let go stops. Each test below is a promise, and is kept by all kinds
// of machines: the motor board, played by its twin and by its own firmware, a machine on
// lines of the computer, and an off-the-shelf vending board.
//
// It owns the promises and a rig for each kind of hardware. It knows nothing of how a
// driver works, and of its hardware only what hands can do to it and eyes can see.
//
// What the drop sensor says is believed: it is tested before each turn, and one that
// goes blind or is covered within that turn deceives all of them alike.
package promise_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"yaoju/daemon/machine"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// moments of a vend: asked, stored, leaving, half way, the piece at the edge, over.
var moments = []time.Duration{0, 30 * time.Millisecond, 300 * time.Millisecond, 1200 * time.Millisecond, 2300 * time.Millisecond, 3200 * time.Millisecond}

// at is what subtests of moments are called.
func at(d time.Duration) string { return fmt.Sprintf("at %d ms", d.Milliseconds()) }

// everyMoment is every, for each moment.
func everyMoment(t *testing.T, f func(s *site, at time.Duration)) {
	for _, d := range moments {
		t.Run(at(d), func(t *testing.T) {
			t.Parallel()
			every(t, func(s *site) { f(s, d) })
		})
	}
}

// A vend of a sound slot gives one piece, says so, and shows how far it is.
func TestGives(t *testing.T) {
	every(t, func(s *site) {
		id := s.mint()
		p := s.photo(1)
		told := s.begin(s.Context(), id, 1)
		is := s.within(2*time.Second, "moving", func(is machine.Status) bool { return is.Motion.Vend == id })
		if is.Motion.Slot != 1 {
			s.Errorf("motion %+v", is.Motion)
		}
		a := <-told
		s.honest("vend", a, p)
		if starts, fell := p.since(s); a.err != nil || a.Outcome != protocol.Dispensed || a.Pieces != 1 || starts != 1 || fell != 1 {
			s.Errorf("got %+v, %d starts, %d fell", a, starts, fell)
		}
		if is := s.status(); is.Motion != (machine.Motion{}) || len(is.Faults) != 0 {
			s.Errorf("afterwards: %+v", is)
		}
		if a := s.ask(0, 1); a.err == nil || a.Outcome != protocol.Unknown {
			s.Errorf("id 0: %+v", a)
		}
		if a := s.ask(s.mint(), protocol.Slots+1); a.err != nil || a.Outcome != protocol.Kept {
			s.Errorf("slot that does not exist: %+v", a)
		}
		s.gives(2)
	})
}

// An id turns a motor at most once: asked again, by several at once, and after the
// driver began anew. It is answered what is remembered.
func TestOnce(t *testing.T) {
	every(t, func(s *site) {
		p := s.photo(1)
		id := s.mint()
		var first []<-chan answer
		for range 4 {
			first = append(first, s.begin(s.Context(), id, 1))
		}
		s.within(2*time.Second, "moving", func(is machine.Status) bool { return is.Motion.Vend == id })
		if a := s.known(id); a.err != nil || a.Outcome != protocol.Dispensed {
			s.Errorf("result meanwhile: %+v", a)
		}
		for _, told := range first {
			if a := <-told; a.err != nil || a.Outcome != protocol.Dispensed {
				s.Errorf("one of four who asked at once: %+v", a)
			}
		}
		for range 3 {
			if a := s.ask(id, 1); a.err != nil || a.Outcome != protocol.Dispensed {
				s.Errorf("asked again: %+v", a)
			}
			if a := s.known(id); a.err != nil || a.Outcome != protocol.Dispensed {
				s.Errorf("result: %+v", a)
			}
		}
		if starts, fell := p.since(s); starts != 1 || fell != 1 || len(s.status().Faults) != 0 {
			s.Errorf("%d starts, %d fell, %v", starts, fell, s.status().Faults)
		}

		s.restart()
		if a := s.known(id); a.err != nil || a.Outcome != protocol.Dispensed && (s.remembers || a.Outcome != protocol.Unknown) {
			s.Errorf("result, from another process: %+v", a)
		}
		s.honest("asked again, another process", s.ask(id, 1), p)
		s.rest()
		if starts, _ := p.since(s); starts != 1 {
			s.Errorf("asked again, another process: %d starts", starts)
		}
	})
}

// An id that was answered kept never turns any more: its piece is somebody else's.
func TestKeptIsForGood(t *testing.T) {
	every(t, func(s *site) {
		p := s.photo(1)
		s.door(true)
		s.within(s.notices, "open", func(is machine.Status) bool { return is.DoorOpen })
		id := s.mint()
		if a := s.ask(id, 1); a.err != nil || a.Outcome != protocol.Kept {
			s.Errorf("door open: %+v", a)
		}
		s.door(false)
		s.within(s.heals, "shut", func(is machine.Status) bool { return !is.DoorOpen })
		if a := s.ask(id, 1); a.err != nil || a.Outcome != protocol.Kept {
			s.Errorf("asked again, door shut: %+v", a)
		}
		if a := s.known(id); a.err != nil || a.Outcome != protocol.Kept {
			s.Errorf("result: %+v", a)
		}

		never := s.mint()
		before := s.known(never)
		if after := s.ask(never, 1); before.err == nil && before.Outcome == protocol.Kept && (after.err != nil || after.Outcome != protocol.Kept) {
			s.Errorf("result of an id not asked for: %+v, and then its vend %+v", before, after)
		}
		s.rest()
		if starts, _ := p.since(s); starts > 0 && before.Outcome == protocol.Kept {
			s.Errorf("%d starts", starts)
		}
		s.gives(2)
	})
}

// What is said of a vend is true, whatever goes wrong: dispensed if a piece fell and
// was seen, kept if none did, else unknown. It stays so, the status has the fault in
// words, and once all is mended and somebody has looked the machine gives again.
func TestHonest(t *testing.T) {
	every(t, func(s *site) {
		for i, tr := range s.troubles() {
			slot := protocol.Slot(i)%slots + 1
			s.meets(tr, slot)
			s.visit(slot)
			time.Sleep(s.unsure)
			s.gives(slot)
		}
	})
}

// meets makes one vend that meets tr.
func (s *site) meets(tr trouble, slot protocol.Slot) {
	s.Helper()
	what := fmt.Sprintf("%s, slot %d", tr.name, slot)
	id := s.mint()
	p := s.photo(slot)
	if tr.before != nil {
		tr.before(slot)
	}
	if tr.during != nil {
		time.AfterFunc(halfWay, func() { tr.during(slot) })
	}
	a := s.ask(id, slot)
	s.rest()
	s.honest(what, a, p)
	if a.err == nil && (a.Outcome != tr.want || a.Pieces != tr.pieces) || a.err != nil && tr.want != protocol.Unknown {
		s.Errorf("%s: got %+v, want %v, %d pieces", what, a, tr.want, tr.pieces)
	}
	starts, fell := p.since(s)
	if starts > max(1, tr.most) || tr.none && starts > 0 {
		s.Errorf("%s: %d starts", what, starts)
	}
	shows := func(f protocol.Fault) {
		s.Helper()
		if f != 0 {
			s.within(s.heals, "showing "+f.Code()+", after "+what, func(is machine.Status) bool { return stands(is, f) })
		}
	}
	shows(tr.shows)
	tr.mend(slot)
	shows(tr.leaves)
	s.up()
	known := s.known(id)
	s.honest(what+", result", known, p)
	if known.err != nil || a.err == nil && known.Outcome != a.Outcome {
		s.Errorf("%s: said %+v, now %+v", what, a, known)
	}
	again := s.ask(id, slot)
	s.honest(what+", again", again, p)
	s.rest()
	if more, also := p.since(s); more != starts || also != fell {
		s.Errorf("%s: the same id again: %d starts more, %d fell more", what, more-starts, also-fell)
	}
}

// Word of one vend that comes late is not taken for that of the next, which ends otherwise.
func TestLateWord(t *testing.T) {
	every(t, func(s *site) {
		if s.remembers {
			return // it is asked by id
		}
		all := s.troubles()
		nothing := all[slices.IndexFunc(all, func(tr trouble) bool { return tr.name == "nothing falls" })]
		for i, tr := range all {
			slot := protocol.Slot(i)%slots + 1
			s.meets(tr, slot)
			s.visit(slot)
			p := s.photo(slot)
			nothing.before(slot)
			a := s.ask(s.mint(), slot)
			s.rest()
			s.honest("nothing falls, right after "+tr.name, a, p)
			nothing.mend(slot)
			time.Sleep(s.unsure)
		}
	})
}

// A caller may leave: the vend ends as it would, the outcome is unknown to him who
// left, and Result tells it to whoever waits.
func TestCallerLeaves(t *testing.T) {
	everyMoment(t, func(s *site, at time.Duration) {
		p := s.photo(1)
		id := s.mint()
		ctx, leave := context.WithCancel(s.Context())
		told := s.begin(ctx, id, 1)
		time.Sleep(at)
		left := time.Now()
		leave()
		a := <-told
		if d := time.Since(left); d > time.Second {
			s.Errorf("kept the caller %v longer", d)
		}
		if a.err != nil && (!errors.Is(a.err, context.Canceled) || a.Outcome != protocol.Unknown) {
			s.Errorf("left: %+v", a)
		}
		known := s.known(id)
		starts, fell := p.since(s)
		if known.err != nil || known.Outcome == protocol.Unknown || starts > 1 {
			s.Errorf("waited for the end: %+v, %d starts, %d fell", known, starts, fell)
		}
		s.rest()
		s.honest("left", a, p)
		s.honest("result", known, p)
		if again := s.ask(id, 1); again.err != nil || again.Outcome != known.Outcome {
			s.Errorf("asked again: %+v, before %+v", again, known)
		}
		s.gives(2)
	})
}

// Result waits while a motor turns, as long as its caller does.
func TestResultWaits(t *testing.T) {
	every(t, func(s *site) {
		id := s.mint()
		told := s.begin(s.Context(), id, 1)
		s.within(2*time.Second, "moving", func(is machine.Status) bool { return is.Motion.Vend == id })
		ctx, cancel := context.WithTimeout(s.Context(), 500*time.Millisecond)
		defer cancel()
		if r, err := s.Result(ctx, id); !errors.Is(err, context.DeadlineExceeded) || r.Outcome != protocol.Unknown {
			s.Errorf("in a hurry: %+v, %v", r, err)
		}
		if a := s.known(id); a.err != nil || a.Outcome != protocol.Dispensed {
			s.Errorf("with time: %+v", a)
		}
		if a := <-told; a.err != nil || a.Outcome != protocol.Dispensed {
			s.Errorf("meanwhile: %+v", a)
		}
	})
}

// The answer to a vend is lost, at any moment, and comes no more: the motor has
// turned once, and what is said of it later is true.
func TestLostAnswer(t *testing.T) {
	everyMoment(t, func(s *site, at time.Duration) {
		if !s.speaks {
			return
		}
		p := s.photo(1)
		id := s.mint()
		told := s.begin(s.Context(), id, 1)
		time.Sleep(at)
		s.mute(true)
		a := <-told
		s.within(s.notices, "down", down)
		s.mute(false)
		s.up()
		s.rest()
		s.honest("unanswered", a, p)
		known := s.known(id)
		s.honest("result", known, p)
		if starts, _ := p.since(s); starts > 1 || known.err != nil || s.remembers && known.Outcome == protocol.Unknown {
			s.Errorf("%d starts; result %+v", starts, known)
		}
		time.Sleep(s.unsure)
		s.gives(2)
	})
}

// The process dies, at any moment: the next one says of the vend what is true, and
// does not turn for it.
func TestProcessDies(t *testing.T) {
	everyMoment(t, func(s *site, at time.Duration) {
		was := s.status().Hello
		p := s.photo(1)
		id := s.mint()
		told := s.begin(context.Background(), id, 1)
		time.Sleep(at)
		s.crash()
		<-told // by nobody any more
		s.start()
		is := s.up()
		if is.Hello.Serial != was.Serial || is.Hello.Highest < was.Highest {
			s.Errorf("was %+v, is %+v", was, is.Hello)
		}
		known := s.known(id)
		s.rest()
		s.honest("result", known, p)
		starts, _ := p.since(s)
		if known.err != nil || starts > 1 {
			s.Errorf("result %+v, %d starts", known, starts)
		}
		if starts > 0 && known.Outcome == protocol.Kept {
			s.Errorf("result %+v of a motor that was cut off, or gave", known)
		}
		if s.remembers && starts == 0 && is.Hello.Highest < id && known.Outcome != protocol.Kept {
			s.Errorf("result %+v of what is proved never to have turned", known)
		}
		s.honest("asked again", s.ask(id, 1), p)
		s.rest()
		if more, _ := p.since(s); more > 1 || more > starts && known.Outcome == protocol.Kept {
			s.Errorf("result %+v, and asked again it turned; %d starts", known, more)
		}
		s.visit(1)
		time.Sleep(s.unsure)
		s.gives(1)
	})
}

// The plug is pulled, at any moment, and put back: the machine says so while it
// lasts, is back by itself, and tells that it was away.
func TestUnplugged(t *testing.T) {
	everyMoment(t, func(s *site, at time.Duration) {
		was := s.status()
		p := s.photo(1)
		id := s.mint()
		told := s.begin(s.Context(), id, 1)
		time.Sleep(at)
		s.unplug()
		s.within(s.notices, "down", down)
		time.Sleep(20 * time.Second)
		if s.status().Up {
			s.Error("up, without its hardware")
		}
		a := <-told
		s.honest("unplugged", a, p)
		if starts, _ := p.since(s); starts > 0 && a.err == nil && a.Outcome == protocol.Kept {
			s.Errorf("%+v, with %d starts", a, starts)
		}
		if a := s.ask(s.mint(), 2); a.err == nil && a.Outcome != protocol.Kept {
			s.Errorf("asked without hardware: %+v", a)
		}
		s.plug()
		is := s.up()
		if is.Session <= was.Session {
			s.Errorf("session %d after %d", is.Session, was.Session)
		}
		if is.Hello.Serial != was.Hello.Serial || is.Hello.Highest < was.Hello.Highest {
			s.Errorf("was %+v, is %+v", was.Hello, is.Hello)
		}
		s.rest()
		known := s.known(id)
		s.honest("result", known, p)
		if starts, _ := p.since(s); known.err != nil || starts > 1 {
			s.Errorf("result %+v, %d starts", known, starts)
		}
		s.visit(1)
		time.Sleep(s.unsure)
		s.gives(1)
	})
}

// The hardware is not there at start, or something else is: the machine is down, says
// so, moves nothing, and serves as soon as it is right.
func TestAbsentAndWrong(t *testing.T) {
	everyDead(t, func(s *site) {
		for _, wrong := range []func(){s.unplug, s.swap} {
			wrong()
			s.start()
			time.Sleep(20 * time.Second)
			if is := s.status(); is.Up || is.Session != 0 {
				s.Errorf("without its hardware: %+v", is)
			}
			if a := s.ask(s.mint(), 1); a.err == nil && a.Outcome == protocol.Dispensed {
				s.Errorf("without its hardware: %+v", a)
			}
			s.plug()
			s.within(s.heals, "up", up)
			s.gives(1)
			s.stop()
		}
		s.start()
		s.up()
		s.swap()
		s.within(s.notices, "down", down)
		time.Sleep(20 * time.Second)
		if s.status().Up {
			s.Error("up, with other hardware at its end")
		}
		s.plug()
		s.within(s.heals, "up", up)
		s.gives(2)
	})
}

// With the service door open nothing is given, and what turns stops.
func TestDoor(t *testing.T) {
	every(t, func(s *site) {
		p := s.photo(1)
		s.door(true)
		s.within(s.notices, "open", func(is machine.Status) bool { return is.DoorOpen })
		if a := s.ask(s.mint(), 1); a.err != nil || a.Outcome != protocol.Kept || a.Cause != protocol.FaultDoor {
			s.Errorf("door open: %+v", a)
		}
		s.door(false)
		s.within(s.notices, "shut", func(is machine.Status) bool { return !is.DoorOpen })
		if starts, fell := p.since(s); starts != 0 || fell != 0 {
			s.Errorf("door open: %d starts, %d fell", starts, fell)
		}
		s.gives(1)
		if !s.obeys {
			return
		}
		p = s.photo(2)
		told := s.begin(s.Context(), s.mint(), 2)
		time.Sleep(halfWay)
		s.door(true)
		time.Sleep(100 * time.Millisecond)
		if s.turning() {
			s.Error("a motor has power 100 ms after the door was opened")
		}
		a := <-told
		s.honest("door opened", a, p)
		if starts, fell := p.since(s); a.Outcome != protocol.Kept || a.Cause != protocol.FaultDoorOpened || starts != 1 || fell != 0 {
			s.Errorf("door opened: %+v, %d starts, %d fell", a, starts, fell)
		}
		s.door(false)
		s.visit(2)
		s.gives(2)
	})
}

// The lock has power for as long as was asked and no longer, 10 s at most, whatever
// happens to the driver; a shorter wish replaces a longer one.
func TestLock(t *testing.T) {
	every(t, func(s *site) {
		err := s.Lock(s.Context(), 2*time.Second)
		if s.cannot("lock", err) {
			return
		}
		// limit is how long it is open from now at most, and least at least.
		open := func(what string, least, limit time.Duration) {
			s.Helper()
			began := time.Now()
			for s.unlocked() && time.Since(began) < time.Minute {
				time.Sleep(5 * time.Millisecond)
			}
			if d := time.Since(began); d < least || d > limit {
				s.Errorf("%s: open for %v, want %v to %v", what, d, least, limit)
			}
		}
		const slack = 50 * time.Millisecond
		open("2 s", 2*time.Second-slack, 2*time.Second+slack)
		for _, wish := range []struct{ asked, want time.Duration }{{300 * time.Millisecond, 300 * time.Millisecond},
			{time.Hour, 10 * time.Second}, {0, 0}, {-time.Second, 0}} {
			if err := s.Lock(s.Context(), wish.asked); err != nil {
				s.Error(err)
			}
			open(wish.asked.String(), wish.want-slack, wish.want+slack)
		}
		for _, then := range []time.Duration{time.Second, 0} {
			if err := errors.Join(s.Lock(s.Context(), 8*time.Second), s.Lock(s.Context(), then)); err != nil {
				s.Error(err)
			}
			open("replaced", then-slack, then+slack)
		}
		if err := s.Lock(s.Context(), 4*time.Second); err != nil {
			s.Error(err)
		}
		s.within(s.notices, "open", func(is machine.Status) bool { return is.LockOpen })
		s.unplug()
		open("unplugged", 0, 4*time.Second+slack)
		s.plug()
		s.up()
		if err := s.Lock(s.Context(), 4*time.Second); err != nil {
			s.Error(err)
		}
		s.crash()
		open("the process dead", 0, 4*time.Second+slack)
	})
}

// The light is what was asked for, also after the hardware was away.
func TestLight(t *testing.T) {
	every(t, func(s *site) {
		if s.cannot("light", s.Light(s.Context(), 100)) {
			return
		}
		lit := func(is machine.Status) bool { return is.Up && is.Light == 100 }
		s.within(s.notices, "lit", lit)
		s.unplug()
		time.Sleep(2 * board.HeartbeatMS * time.Millisecond) // a board without a host dims
		if lit(s.status()) {
			s.Error("up and lit, without its hardware")
		}
		s.plug()
		s.within(s.heals, "lit again", lit)
		if err := s.Light(s.Context(), 0); err != nil {
			s.Error(err)
		}
		s.within(s.notices, "dark", func(is machine.Status) bool { return is.Light == 0 })
	})
}

// A test turn and a homing move while the button is held, and stop when it is let go:
// within 300 ms, and whatever happened to the driver.
func TestHeldButton(t *testing.T) {
	const release = 350 * time.Millisecond
	every(t, func(s *site) {
		p := s.photo(1)
		if err := s.TestTurn(s.Context(), 1); s.cannot("test", err) {
			s.cannot("home", s.Home(s.Context(), 1))
			if starts, fell := p.since(s); starts != 0 || fell != 0 {
				s.Errorf("cannot: %d starts, %d fell", starts, fell)
			}
			return
		}
		s.rest()
		if starts, fell := p.since(s); starts != 1 || fell != 1 || len(s.status().Faults) != 0 {
			s.Errorf("a whole turn: %d starts, %d fell, %v", starts, fell, s.status().Faults)
		}
		// hold presses for a while, then does end, and looks whether the motor has stopped.
		hold := func(what string, press func(context.Context, protocol.Slot) error, end func(leave func())) {
			s.Helper()
			ctx, leave := context.WithCancel(s.Context())
			done := make(chan error, 1)
			go func() { done <- press(ctx, 1) }()
			time.Sleep(600 * time.Millisecond)
			if !s.turning() {
				s.Errorf("%s: held, and the motor has no power", what)
			}
			end(leave)
			time.Sleep(release)
			if s.turning() {
				s.Errorf("%s: the motor has power %v later", what, release)
			}
			leave()
			if err := <-done; err != nil && what == "let go" {
				s.Errorf("%s: %v", what, err)
			}
		}
		home := func() {
			s.Helper()
			s.up()
			s.rest()
			var refused *machine.RefusedError
			if err := s.TestTurn(s.Context(), 1); !stands(s.status(), protocol.FaultNotHome) || !errors.As(err, &refused) || refused.Fault != protocol.FaultNotHome || refused.Slot != 1 {
				s.Errorf("in mid-turn: %v, and the test turn: %v", s.status().Faults, err)
			}
			if a := s.ask(s.mint(), 1); a.err != nil || a.Outcome != protocol.Kept || a.Cause != protocol.FaultNotHome {
				s.Errorf("in mid-turn, a vend: %+v", a)
			}
			s.visit(1)
		}
		letGo := func(leave func()) { leave() }
		hold("let go", s.TestTurn, letGo)
		s.rest() // the board watches what may still fall
		hold("let go", s.Home, letGo)
		home()
		hold("unplugged", s.TestTurn, func(func()) { s.unplug() })
		s.plug()
		home()
		hold("the process dead", s.TestTurn, func(func()) { s.crash() })
		s.start()
		home()
		s.gives(1)
	})
}

// A fault stands until it is over, or, where somebody has to look first, until it is
// cleared; it does not come back by itself.
func TestClear(t *testing.T) {
	every(t, func(s *site) {
		for _, f := range []protocol.Fault{0, protocol.FaultBoardSilent, protocol.FaultDisk, 999} {
			if err := s.Clear(s.Context(), f); err == nil {
				s.Errorf("cleared %s, which is not its own", f.Code())
			}
		}
		for i, tr := range s.troubles() {
			slot := protocol.Slot(i)%slots + 1
			if tr.leaves == 0 {
				continue
			}
			s.meets(tr, slot)
			s.visit(slot)
			s.unplug()
			s.within(s.notices, "down", down)
			s.plug()
			s.up()
			s.within(s.notices, "free of "+tr.name+" after its plug was out", func(is machine.Status) bool { return is.Up && len(is.Faults) == 0 })
			s.restart()
			s.within(s.notices, "free of "+tr.name+" in another process", func(is machine.Status) bool { return is.Up && lasting(is) == 0 })
			s.visit(slot) // of who restarted, another process tells once
			time.Sleep(s.unsure)
		}
	})
}

// lasting is how many faults stand that another process may not bring back.
func lasting(is machine.Status) (n int) {
	for _, f := range is.Faults {
		if f.Fault != protocol.FaultBoardReset {
			n++
		}
	}
	return n
}
