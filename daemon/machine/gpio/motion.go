package gpio

import (
	"context"
	"errors"
	"time"

	"yaoju/daemon/machine"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

const (
	// poll is how often switches are read while a motor turns.
	poll = time.Millisecond

	// steadyFor is how long a switch must say the same: one that bounces is not believed.
	steadyFor = 5 * time.Millisecond

	// stallLimit is how late a poll may be. At home the switch is closed for 200 ms of
	// a turn of 2.5 s; a program held up longer may have missed it, and must not go on.
	stallLimit = 150 * time.Millisecond

	// progressEvery makes a smooth bar.
	progressEvery = 100 * time.Millisecond

	// aroundEvery is how often the other slots' switches are read while a motor turns, and
	// aroundFor how long one must say something else than before: vibration lets contacts
	// chatter for a few ms.
	aroundEvery = 10 * time.Millisecond
	aroundFor   = 50 * time.Millisecond

	watchFor  = board.WatchMS * time.Millisecond
	settleFor = board.SettleMS * time.Millisecond
	pauseFor  = board.PauseMS * time.Millisecond
)

// steady is a switch without its bounce.
type steady struct {
	level, raw bool
	since      time.Time // of raw
}

func (s *steady) sample(now time.Time, raw bool, long time.Duration) {
	if raw != s.raw {
		s.raw, s.since = raw, now
		return
	}
	if now.Sub(s.since) >= long {
		s.level = raw
	}
}

// bystander is a home switch of others, which must stay as it is while a motor turns. One
// that changes has a motor with power that nobody gave it: a diode is missing or shorted
// in the crossings, or a driver. It is stopped before its spiral, which has just left home,
// can let go of anything.
type bystander struct {
	line   Line
	slots  []protocol.Slot // more than one where their switches are in series
	before bool
	now    steady
}

// motion is one vend, test or homing, from the journal's promise to the end of the
// drop watch.
type motion struct {
	kind  board.Motion
	id    protocol.VendID // of a vend
	slot  protocol.Slot
	motor Motor
	held  context.Context // of a test or homing: ends with the finger on the button

	cause  protocol.Fault // the first thing that stopped it
	broken bool           // a line failed: what was not seen may have happened
	drops  int
	noted  int // of them, in the memory

	began, onAt, stopAt, dropAt time.Time     // first start, this start, last stop, first drop
	last                        time.Time     // poll before this one
	shown                       time.Time     // progress was told last
	ran                         time.Duration // of the starts before this one
	turn                        time.Duration // of the first, full turn; 0 until then
	halves                      int           // half-turns begun
	half                        bool          // this start is for half a turn
	homeward                    bool          // this start is for the way home only
	left                        bool          // home switch has opened since this start
	home, door                  steady
	others                      []bystander
	around                      time.Time  // others were read last
	ghost                       *bystander // one of them that turned along; nil: none
}

// vend is one vend, told as a bystander would.
func (s *session) vend(id protocol.VendID, slot protocol.Slot) protocol.Result {
	mem := s.m.memory()
	if id <= mem.Highest {
		// The ledger minted it, so it must be above all that is known. The record
		// belongs to something else and says nothing about this one.
		s.m.log.Error("memory knows a new id", "vend", id, "slot", slot)
		s.m.note(func(n *seen) { n.knew = true })
		return protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultBoardKnows}
	}
	if why := s.refused(board.MotionVend, slot); why != 0 {
		if why == mem.Latched && slot != mem.LatchedSlot {
			// It is another slot's, and stands in the status: this one is not to be blocked for it.
			why = protocol.FaultBoardSilent
		}
		return protocol.Result{Outcome: protocol.Kept, Cause: why}
	}
	v := &motion{kind: board.MotionVend, id: id, slot: slot}
	v.motor, _ = s.m.cfg.motor(slot)
	s.show(v, board.PhaseStore)
	defer s.m.update(func(st *machine.Status) { st.Motion = machine.Motion{} })

	// Disk first, motor second: from here on a crash leaves this vend interrupted
	// and the slot not home.
	err := s.save(mem.with(func(n *memory) {
		n.put(v.record(board.StateRunning))
		n.away(slot)
		n.Turns++
	}))
	if err != nil {
		return protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultJournal}
	}
	s.turnAndWatch(v)
	return s.end(v).result()
}

// turnAndWatch makes a full turn, and up to three half-turns while nothing falls and
// nothing is wrong: half a turn, on to home, and a third that runs through to home.
func (s *session) turnAndWatch(v *motion) {
	s.turn(v, board.PhaseLeave)
	for {
		fell := s.watch(v)
		switch {
		case fell:
			v.half, v.homeward = false, true
		case v.broken || !v.astray() && (v.cause != 0 || v.drops > 0 || v.halves == board.HalfTurns):
			return
		case !s.shut(v):
			v.blame(protocol.FaultDoorOpened)
			return
		default:
			v.halves++
			v.half, v.homeward = v.halves == 1, v.halves == 2
		}
		s.turn(v, board.PhaseAgain)
	}
}

// end notes how a vend ended.
func (s *session) end(v *motion) record {
	switch {
	case v.cause != 0:
	case v.drops == 0:
		v.cause = protocol.FaultNoDrop
	case v.drops > 1:
		v.cause = protocol.FaultDoubleDrop
	case v.turn > s.m.cfg.Slow:
		v.cause = protocol.FaultSlow
	}
	s.show(v, board.PhaseEnd)
	r := v.record(board.StateEnded)
	if v.broken {
		r.State = board.StateInterrupted
	}
	home := s.atHome(v)
	next := s.m.memory().with(func(n *memory) {
		n.put(r)
		n.Drops += v.drops
		if home {
			n.home(v.slot)
		}
	})
	s.m.remember(next) // it is so, whether the store takes it or not
	if err := s.save(next); err != nil {
		s.m.log.Error("end of vend not saved", "vend", v.id, "slot", v.slot, "err", err)
	}
	return r
}

// hold is one test or homing, while ctx lives.
func (s *session) hold(ctx context.Context, kind board.Motion, slot protocol.Slot) error {
	if why := s.refused(kind, slot); why != 0 {
		return &machine.RefusedError{Fault: why, Slot: slot}
	}
	v := &motion{kind: kind, slot: slot, held: ctx, homeward: kind == board.MotionHome}
	v.motor, _ = s.m.cfg.motor(slot)
	there := v.homeward && s.atHome(v)
	err := s.save(s.m.memory().with(func(n *memory) {
		n.away(slot)
		switch {
		case there:
			n.home(slot)
		case kind == board.MotionTest:
			n.Turns++
		}
	}))
	if err != nil {
		return &machine.RefusedError{Fault: protocol.FaultJournal, Slot: slot}
	}
	if there {
		return nil
	}
	s.show(v, board.PhaseLeave)
	defer s.m.update(func(st *machine.Status) { st.Motion = machine.Motion{} })
	s.turn(v, board.PhaseLeave)
	home := s.atHome(v)
	s.watch(v)
	next := s.m.memory().with(func(n *memory) {
		n.Drops += v.drops
		if home {
			n.home(slot)
		}
	})
	s.m.remember(next)
	err = s.save(next)
	switch {
	case v.cause != 0:
		return &machine.RefusedError{Fault: v.cause, Slot: slot}
	case err != nil:
		return &machine.RefusedError{Fault: protocol.FaultJournal, Slot: slot}
	}
	return nil
}

// turn gives the motor power until it is home, or something stops it.
func (s *session) turn(v *motion, phase board.Phase) {
	now := time.Now()
	home, bad := s.active(v.motor.Home)
	shut, err := s.active(s.m.cfg.Door)
	if err := errors.Join(bad, err); err != nil {
		s.lose(v, err)
		return
	}
	if v.began.IsZero() {
		v.began = now
	}
	v.onAt, v.stopAt, v.last, v.left = now, now, now, !home
	v.home, v.door = steady{home, home, now}, steady{shut, shut, now}
	v.others, v.around = s.bystanders(v, now), now
	switch {
	case v.kind == board.MotionVend && !shut:
		v.blame(protocol.FaultDoorOpened)
		return
	case v.homeward && home:
		return
	}
	s.show(v, phase)
	cause := s.powered(v, phase)
	v.stopAt = time.Now()
	v.ran += v.stopAt.Sub(v.onAt)
	v.blame(cause)
	switch {
	case v.ghost != nil:
		s.m.log.Error("another motor turned along: look for a bad diode or driver", "slot", v.ghost.slots[0])
		s.latch(protocol.FaultShort, v.ghost.slots[0], v.ghost.slots...)
	case cause == protocol.FaultRunaway:
		s.latch(cause, v.slot)
	}
}

// latch keeps every motor still until somebody has looked; away are slots that have left
// home as well.
func (s *session) latch(why protocol.Fault, slot protocol.Slot, away ...protocol.Slot) {
	next := s.m.memory().with(func(n *memory) {
		n.Latched, n.LatchedSlot = why, slot
		for _, a := range away {
			n.away(a)
		}
	})
	s.m.remember(next) // latched in this process, whether the store takes it or not
	if err := s.save(next); err != nil {
		s.m.log.Error("latch not saved", "slot", slot, "err", err)
	}
}

// bystanders returns the switches that must not change while v turns. One that cannot be
// read is left out: it is not this slot's.
func (s *session) bystanders(v *motion, now time.Time) (l []bystander) {
	at := map[Line]int{}
	for _, m := range s.m.cfg.Motors {
		if m.Home == v.motor.Home {
			continue
		}
		if i, known := at[m.Home]; known {
			l[i].slots = append(l[i].slots, m.Slot)
			continue
		}
		if home, err := s.active(m.Home); err == nil {
			at[m.Home] = len(l)
			l = append(l, bystander{line: m.Home, slots: []protocol.Slot{m.Slot}, before: home, now: steady{home, home, now}})
		}
	}
	return l
}

// lookAround returns a bystander that has moved, nil if none has.
func (s *session) lookAround(v *motion, now time.Time) *bystander {
	if now.Sub(v.around) < aroundEvery {
		return nil
	}
	v.around = now
	for i := range v.others {
		b := &v.others[i]
		home, err := s.active(b.line)
		if err != nil {
			continue // as in bystanders
		}
		if b.now.sample(now, home, aroundFor); b.now.level != b.before {
			return b
		}
	}
	return nil
}

// powered has the motor under power and returns what stopped it, 0 if it was time.
func (s *session) powered(v *motion, phase board.Phase) (cause protocol.Fault) {
	defer s.off(v)
	for _, l := range append(v.motor.outputs(), s.m.cfg.Enable) {
		if err := s.set(l, true); err != nil {
			s.lose(v, err)
			return 0
		}
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.work.Done():
			s.lose(v, context.Cause(s.work))
			return 0
		}
		cause, over, err := s.glance(v)
		if err != nil {
			s.lose(v, err)
		}
		if over || err != nil {
			return cause
		}
		if phase == board.PhaseLeave && v.left {
			phase = board.PhaseReturn
		}
		if v.last.Sub(v.shown) >= progressEvery {
			s.show(v, phase)
		}
	}
}

// off takes power away, from everything that feeds the motor, whatever fails.
func (s *session) off(v *motion) {
	err := s.set(s.m.cfg.Enable, false)
	for _, l := range v.motor.outputs() {
		err = errors.Join(err, s.set(l, false))
	}
	if err != nil {
		s.lose(v, err) // and giving the lines back drives them off once more
	}
}

// glance looks at everything once while the motor turns.
func (s *session) glance(v *motion) (cause protocol.Fault, over bool, err error) {
	home, bad := s.active(v.motor.Home)
	shut, err := s.active(s.m.cfg.Door)
	if err := errors.Join(bad, err); err != nil {
		return 0, true, err
	}
	now := time.Now()
	late := now.Sub(v.last)
	v.last = now
	v.home.sample(now, home, steadyFor)
	v.door.sample(now, shut, steadyFor)
	v.left = v.left || !v.home.level
	s.collect(v)
	cause, over = v.judge(now, s.m.cfg)
	if v.ghost = s.lookAround(v, now); v.ghost != nil && !over {
		return protocol.FaultInterrupted, true, nil
	}
	if !over && late >= stallLimit {
		return protocol.FaultInterrupted, true, nil
	}
	return cause, over, nil
}

// judge says whether the motor has to stop, and what for; 0 is that it was time.
func (v *motion) judge(now time.Time, cfg Config) (cause protocol.Fault, over bool) {
	on := now.Sub(v.onAt)
	switch {
	case v.kind == board.MotionVend && !v.door.level:
		return protocol.FaultDoorOpened, true
	case v.kind != board.MotionVend && v.held.Err() != nil:
		return 0, true
	case v.half && v.drops == 0 && on >= v.turn/2:
		return 0, true
	case v.left && v.home.level:
		v.half = false
		if v.turn == 0 {
			v.turn = on
		}
		return 0, true
	case on >= cfg.Turn:
		return protocol.FaultRunaway, true
	case !v.left && on >= cfg.Leave:
		return protocol.FaultStuckHome, true
	}
	return 0, false
}

// watch watches the drop sensor after a stop. It reports true if a piece fell while a
// half-turn has left the spiral away from home: then it goes on without a pause.
func (s *session) watch(v *motion) (fell bool) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	s.show(v, board.PhaseWatch)
	for !v.broken {
		s.collect(v)
		if v.drops > 0 && v.astray() && s.shut(v) {
			return true
		}
		if v.watched(time.Now()) {
			return false
		}
		select {
		case <-tick.C:
		case <-s.work.Done():
			s.lose(v, context.Cause(s.work))
		}
	}
	return false
}

// astray reports that a half-turn has left the spiral away from home.
func (v *motion) astray() bool { return v.cause == 0 && v.half }

// watched reports that nothing more is to be expected.
func (v *motion) watched(now time.Time) bool {
	switch {
	case v.drops > 0 && v.dropAt.After(v.stopAt):
		return now.Sub(v.dropAt) >= settleFor
	case v.drops > 0:
		return now.Sub(v.stopAt) >= settleFor
	case v.cause == 0 && v.halves > 0 && v.halves < board.HalfTurns:
		return now.Sub(v.stopAt) >= pauseFor
	}
	return now.Sub(v.stopAt) >= watchFor
}

// collect counts the pieces that fell by now. The first ones are on their way into
// the store at once, so that a crash does not forget them.
func (s *session) collect(v *motion) {
	for {
		select {
		case at := <-s.drops:
			if at.Before(v.began) {
				s.stray()
				continue
			}
			if v.drops == 0 {
				v.dropAt = at
			}
			v.drops++
			continue
		default:
		}
		break
	}
	if v.kind == board.MotionVend && v.drops > v.noted {
		if s.saveSoon(s.m.memory().with(func(n *memory) { n.put(v.record(board.StateRunning)) })) {
			v.noted = v.drops
		}
	}
}

// record is v as the memory has it.
func (v *motion) record(state board.State) record {
	r := record{ID: v.id, Slot: v.slot, State: state, Cause: v.cause, Drops: v.drops, RunMS: int(v.ran.Milliseconds())}
	if v.drops > 0 {
		r.DropMS = max(1, int(v.dropAt.Sub(v.began).Milliseconds()))
	}
	return r
}

// blame notes the first thing that stopped v.
func (v *motion) blame(cause protocol.Fault) {
	if v.cause == 0 {
		v.cause = cause
	}
}

// lose ends the session because a line failed under v.
func (s *session) lose(v *motion, err error) {
	v.broken = true
	v.blame(protocol.FaultInterrupted)
	s.fail(err)
}

// atHome reports that the switch says so. A line that cannot be read says no.
func (s *session) atHome(v *motion) bool {
	if v.broken {
		return false
	}
	home, err := s.active(v.motor.Home)
	if err != nil {
		s.lose(v, err)
	}
	return err == nil && home
}

// shut reports that the door is. A line that cannot be read says no.
func (s *session) shut(v *motion) bool {
	shut, err := s.active(s.m.cfg.Door)
	if err != nil {
		s.lose(v, err)
	}
	return err == nil && shut
}

// look notes the door for those who watch.
func (s *session) look() error {
	shut, err := s.active(s.m.cfg.Door)
	if err != nil {
		return err
	}
	now := time.Now()
	if s.door.since.IsZero() {
		s.door = steady{shut, shut, now}
	}
	s.door.sample(now, shut, doorSteady)
	s.m.update(func(st *machine.Status) { st.DoorOpen = !s.door.level })
	return nil
}

// show tells those who watch what turns.
func (s *session) show(v *motion, phase board.Phase) {
	v.shown = v.last
	m := machine.Motion{Vend: v.id, Slot: v.slot, Phase: phase, Percent: v.progress(phase, s.m.cfg)}
	s.m.update(func(st *machine.Status) { st.Motion = m })
}

// progress is how much of a vend is over, 0 to 100. It never goes back.
func (v *motion) progress(phase board.Phase, cfg Config) int {
	const turned, again = 80, 98 // what a full turn is worth, and the last before the end
	usual := cfg.Turn / 2
	on := v.last.Sub(v.onAt)
	switch {
	case v.kind != board.MotionVend || phase == board.PhaseStore:
		return 0
	case phase == board.PhaseLeave || phase == board.PhaseReturn:
		return int(min(turned, turned*on/usual))
	case phase == board.PhaseEnd:
		return 99
	}
	more := v.ran - usual
	if phase == board.PhaseAgain {
		more += on
	}
	return turned + int(min(again-turned, max(0, (again-turned)*more/(2*usual))))
}
