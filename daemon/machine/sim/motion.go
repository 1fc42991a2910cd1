package sim

import (
	"time"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

// move is one motion in hand: a vend, a test or a homing. It is the firmware's
// state, so its times are what a millisecond clock would tell the firmware.
type move struct {
	kind board.Motion
	id   protocol.VendID
	slot protocol.Slot
	seq  uint8 // of the frame that started a vend

	phase board.Phase
	cause protocol.Fault

	// The motors: one, or two that stand side by side.
	halves  []protocol.Slot
	running board.SlotSet // have power
	left    board.SlotSet // home switch has opened since this start

	began      time.Time     // first start
	onAt       time.Time     // this start
	run        time.Duration // of the starts before this one
	turn       time.Duration // what the first, full turn took
	half       bool          // this start is for half a turn
	halfTurns  int           // begun
	overSince  time.Time     // current has been too high; zero if not
	shortSince time.Time     // and far too high
	openSince  time.Time     // and too low
	stopAt     time.Time     // when the motor stopped last

	drops   uint8
	dropAt  time.Time // of the first drop
	notes   int       // records of drops begun
	noting  uint8     // drops in the last of them
	counted uint8     // and in the last that stands

	hold   board.Hold // of a test or homing
	heldAt time.Time

	plan cut
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// state is the answer about a vend that is not over.
func (m *move) state(now time.Time) board.VendState {
	s := board.VendState{ID: m.id, Slot: m.slot, State: board.StateRunning, Phase: m.phase, Cause: uint8(m.cause), Drops: m.drops}
	s.RunMS = clip16(m.ran(now))
	if m.drops > 0 {
		s.DropMS = max(1, clip16(m.dropAt.Sub(m.began)))
	}
	return s
}

// ran is how long the motor has run in all.
func (m *move) ran(now time.Time) time.Duration {
	if m.turning() {
		return m.run + now.Sub(m.onAt)
	}
	return m.run
}

func (m *move) turning() bool {
	return m.phase == board.PhaseLeave || m.phase == board.PhaseReturn || m.phase == board.PhaseAgain
}

func clip16(d time.Duration) uint16 { return uint16(min(d.Milliseconds(), 0xffff)) }

// start takes m in hand: the journal comes first.
func (b *Board) start(now time.Time, m *move) {
	m.phase, m.halves = board.PhaseStore, b.halves(m.slot)
	b.move = m
	switch {
	case m.plan.step == BeforeStore:
		b.cutPower(now, m.plan)
	case m.kind == board.MotionVend:
		b.append(now, m.record(now, recordStart))
	default:
		if m.kind == board.MotionTest {
			b.page.turns++
		}
		b.page.notHome = b.page.notHome.With(m.slot) // until it stopped at home
		b.save(now)
	}
}

// record is what the journal gets of m.
func (m *move) record(now time.Time, kind recordKind) record {
	s := m.state(now)
	s.State, s.Phase, s.RunMS = board.StateEnded, 0, clip16(m.run)
	return record{kind: kind, state: s}
}

// step lets the firmware look at its inputs once. It reports whether it changed
// phase, and then looks again.
func (b *Board) step(now time.Time) bool {
	if !b.powered {
		return false
	}
	if !b.up && b.saved() {
		b.up = true
	}
	m := b.move
	if m == nil {
		return false
	}
	b.noteDrops(now, m)
	switch m.phase {
	case board.PhaseStore:
		if m.kind == board.MotionVend && !b.recorded() || m.kind != board.MotionVend && !b.saved() {
			return false
		}
		b.stored(now, m)
	case board.PhaseLeave, board.PhaseReturn, board.PhaseAgain:
		return b.turn(now, m)
	case board.PhaseWatch:
		return b.watch(now, m)
	case board.PhaseEnd:
		if !b.recorded() {
			return false
		}
		b.ended(now, m)
	case board.PhaseDone:
		if !m.letGo(now) {
			return false
		}
		b.endHold()
	}
	return true
}

// stored goes on once EEPROM has the beginning, and only then.
func (b *Board) stored(now time.Time, m *move) {
	switch {
	case m.kind == board.MotionVend && b.mem.appendBad:
		m.cause = protocol.FaultJournal
		s := m.record(now, recordEnd).state
		b.lost, b.move = &s, nil
		return
	case m.kind != board.MotionVend && b.journalBad:
		if m.kind == board.MotionTest {
			b.page.turns--
			b.page.notHome = b.page.notHome.Without(m.slot)
		}
		m.cause, m.phase = protocol.FaultJournal, board.PhaseDone
		return
	case m.plan.step == AfterStore:
		b.cutPower(now, m.plan)
		return
	}
	for _, s := range m.halves {
		if m.kind == board.MotionHome {
			b.clearLuck(s)
			continue
		}
		b.drawFaults(s)
	}
	m.began = now
	slots := m.halves
	if m.kind == board.MotionHome {
		slots = b.astray(now, m)
	}
	b.motorsOn(now, m, board.PhaseLeave, slots)
	if m.kind == board.MotionVend && m.turning() {
		b.truth.turns[m.id]++
	}
}

// astray returns which motors of m stand away from home. Only those run homeward:
// another one would push out one more.
func (b *Board) astray(now time.Time, m *move) (slots []protocol.Slot) {
	for _, s := range m.halves {
		if !b.atHome(s, now) {
			slots = append(slots, s)
		}
	}
	return slots
}

// motorsOn starts the motors of slots, towards home or for half a turn if m.half,
// unless there is a reason to stop them at once.
func (b *Board) motorsOn(now time.Time, m *move, phase board.Phase, slots []protocol.Slot) {
	m.phase, m.onAt, m.overSince, m.shortSince, m.openSince = phase, now, time.Time{}, time.Time{}, time.Time{}
	m.running, m.left = board.Slots(slots...), board.SlotSet{}
	b.leave(now, m)
	switch {
	case m.kind == board.MotionVend && b.cabinet.DoorOpen:
		b.stop(now, m, protocol.FaultDoorOpened)
	case len(slots) == 0 || m.letGo(now):
		b.stop(now, m, 0)
	default:
		for _, s := range slots {
			b.startMotor(now, s, m.id, s != m.slot)
		}
	}
}

// letGo reports that the finger of a test or homing is off the button.
func (m *move) letGo(now time.Time) bool {
	return m.kind != board.MotionVend && !now.Before(m.heldAt.Add(ms(board.HoldMS)))
}

// leave notes which motors are away from home.
func (b *Board) leave(now time.Time, m *move) {
	for _, s := range m.running.List() {
		if !b.atHome(s, now) {
			m.left = m.left.With(s)
		}
	}
	if m.phase == board.PhaseLeave && m.allLeft() {
		m.phase = board.PhaseReturn
	}
}

// allLeft reports that no motor with power has yet to leave home.
func (m *move) allLeft() bool {
	for _, s := range m.running.List() {
		if !m.left.Has(s) {
			return false
		}
	}
	return true
}

// arrived stops each motor that is home again, and reports that none is left.
func (b *Board) arrived(now time.Time, m *move) bool {
	for _, s := range m.running.List() {
		if m.left.Has(s) && b.atHome(s, now) {
			b.stopMotor(now, s)
			m.running = m.running.Without(s)
		}
	}
	return m.running == board.SlotSet{}
}

func (b *Board) turn(now time.Time, m *move) bool {
	on, cfg := now.Sub(m.onAt), b.config
	b.leave(now, m)
	if m.plan.step == MidTurn && on >= b.turnTime(m.slot)/2 {
		b.cutPower(now, m.plan)
		return true
	}
	switch {
	case m.kind == board.MotionVend && b.cabinet.DoorOpen:
		b.stop(now, m, protocol.FaultDoorOpened)
	case m.letGo(now):
		b.stop(now, m, 0)
	case m.half && m.drops == 0 && on >= m.turn/2:
		b.stop(now, m, 0)
	case b.arrived(now, m):
		m.half = false
		if m.turn == 0 {
			m.turn = on
		}
		b.stop(now, m, 0)
	case on >= ms(int(cfg.TurnMS)):
		b.page.latched, b.page.latchedSlot = protocol.FaultRunaway, m.slot
		b.save(now)
		b.stop(now, m, protocol.FaultRunaway)
	case !m.allLeft() && on >= ms(int(cfg.LeaveMS)):
		b.stop(now, m, protocol.FaultStuckHome)
	default:
		why := b.judgeCurrent(now, m)
		if why == 0 {
			return false
		}
		b.stop(now, m, why)
	}
	return true
}

// judgeCurrent says what the current of the motor line tells; 0 is nothing.
func (b *Board) judgeCurrent(now time.Time, m *move) protocol.Fault {
	ma, cfg := b.current(now), b.config
	if lasts(now, &m.shortSince, ma > board.ShortMA) >= ms(board.ShortMS) {
		return protocol.FaultShort
	}
	steady := now.Sub(m.onAt) >= ms(board.InrushMS)
	if lasts(now, &m.overSince, steady && ma > cfg.JamMA) >= ms(int(cfg.JamMS)) {
		return protocol.FaultJam
	}
	if lasts(now, &m.openSince, steady && ma < cfg.OpenMA) >= ms(board.OpenMS) {
		return protocol.FaultNoMotor
	}
	return 0
}

// lasts returns for how long it is so, which began at since.
func lasts(now time.Time, since *time.Time, so bool) time.Duration {
	if !so {
		*since = time.Time{}
		return 0
	}
	if since.IsZero() {
		*since = now
	}
	return now.Sub(*since)
}

// stop stops the motors; the drop sensor is still watched.
func (b *Board) stop(now time.Time, m *move, why protocol.Fault) {
	b.stopMotors(now)
	m.run += now.Sub(m.onAt)
	m.stopAt, m.phase, m.running = now, board.PhaseWatch, board.SlotSet{}
	if m.cause == 0 {
		m.cause = why
	}
	if m.kind != board.MotionVend && b.allHome(m.slot, now) {
		b.page.notHome = b.page.notHome.Without(m.slot)
		b.save(now)
	}
}

// watchEnd is when the watch after the last stop is over.
func (m *move) watchEnd() time.Time {
	switch {
	case m.drops > 0 && m.dropAt.After(m.stopAt):
		return m.dropAt.Add(ms(board.SettleMS))
	case m.drops > 0:
		return m.stopAt.Add(ms(board.SettleMS))
	case m.cause == 0 && m.halfTurns > 0 && m.halfTurns < board.HalfTurns:
		return m.stopAt.Add(ms(board.PauseMS))
	}
	return m.stopAt.Add(ms(board.WatchMS))
}

func (b *Board) watch(now time.Time, m *move) bool {
	strayed := m.cause == 0 && m.half // a half-turn has left the spiral away from home
	if m.drops > 0 && strayed && !b.cabinet.DoorOpen {
		m.half = false
		b.motorsOn(now, m, board.PhaseAgain, b.astray(now, m))
		return true
	}
	if now.Before(m.watchEnd()) {
		return false
	}
	if m.kind != board.MotionVend {
		m.phase = board.PhaseDone
		return true
	}
	if !b.recorded() {
		return false // a drop is on its way into the journal
	}
	wantsMore := strayed || m.cause == 0 && m.drops == 0 && m.halfTurns < board.HalfTurns
	switch {
	case wantsMore && b.cabinet.DoorOpen:
		m.cause = protocol.FaultDoorOpened
	case wantsMore:
		b.again(now, m)
		return true
	case m.drops == 0 && m.cause == 0:
		m.cause = protocol.FaultNoDrop
	case m.cause == 0 && m.drops > 1:
		m.cause = protocol.FaultDoubleDrop
	case m.cause == 0 && m.turn > ms(int(b.config.SlowMS)):
		m.cause = protocol.FaultSlow
	}
	if m.plan.step == BeforeEnd {
		b.cutPower(now, m.plan)
		return true
	}
	m.phase = board.PhaseEnd
	end := m.record(now, recordEnd)
	end.home = b.allHome(m.slot, now)
	b.append(now, end)
	return true
}

// again begins the next half-turn: half a turn, on to home, and a third one that
// runs through to home.
func (b *Board) again(now time.Time, m *move) {
	m.halfTurns++
	m.half = m.halfTurns == 1
	slots := m.halves
	if m.halfTurns == 2 {
		slots = b.astray(now, m)
	}
	b.motorsOn(now, m, board.PhaseAgain, slots)
}

// ended is the end of a vend, once the journal has it.
func (b *Board) ended(now time.Time, m *move) {
	b.move = nil
	if b.mem.appendBad {
		s := m.record(now, recordEnd).state
		b.lost = &s // until power is lost; then it is INTERRUPTED
		b.page.drops += uint32(m.drops - m.counted)
		return
	}
	if b.chance(b.cabinet.Chances.Spontaneous) {
		b.fallFree(m.slot, now.Add(2*time.Second))
	}
}

func (b *Board) endHold() {
	b.lastHold = b.move.hold
	b.move = nil
}

// strayEvery is how often drops that belong to no record are saved: a flickering
// sensor does not wear out EEPROM.
const strayEvery = time.Minute

// seen is the drop sensor's interrupt.
func (b *Board) seen(now time.Time) {
	if !b.powered || b.cabinet.SensorBlind {
		return
	}
	m := b.move
	watched := m != nil && (m.turning() || m.phase == board.PhaseWatch)
	switch {
	case !watched:
		b.spontaneous++
	case m.plan.step == AfterDrop:
		b.cutPower(now, m.plan)
		return
	default:
		if m.drops == 0 {
			m.dropAt = now
		}
		m.drops++
	}
	if watched && m.kind == board.MotionVend {
		return // counted with its record
	}
	b.page.drops++
	if b.straySaved.IsZero() || now.Sub(b.straySaved) >= strayEvery {
		b.straySaved = now
		b.save(now)
	}
}

// noteDrops puts drops into the journal, before the end of the vend.
func (b *Board) noteDrops(now time.Time, m *move) {
	if m.kind != board.MotionVend || !m.turning() && m.phase != board.PhaseWatch || !b.recorded() {
		return
	}
	if m.noting != m.counted && !b.mem.appendBad {
		m.counted = m.noting
	}
	if m.drops == m.noting || m.notes == dropRecords {
		return
	}
	m.notes++
	m.noting = m.drops
	b.append(now, m.record(now, recordDrop))
}

// nextEvent returns when the firmware has to look again at the latest; zero is never.
func (b *Board) nextEvent() time.Time {
	var e earliest
	if !b.powered {
		e.add(b.back)
		return e.at
	}
	if b.lockUntil.After(b.last) {
		e.add(b.lockUntil)
	}
	if !b.alone {
		e.add(b.heardAt.Add(ms(board.HeartbeatMS)))
	}
	if b.mem.writing != writingNothing {
		e.add(b.mem.due)
	}
	e.add(b.restartAt)
	m := b.move
	if m == nil {
		return e.at
	}
	switch {
	case m.phase == board.PhaseWatch:
		if t := m.watchEnd(); t.After(b.last) {
			e.add(t) // later, it waits for the journal
		}
	case m.phase == board.PhaseDone:
		e.add(m.heldAt.Add(ms(board.HoldMS)))
	case m.turning():
		b.nextTurnEvent(m, &e)
	}
	return e.at
}

func (b *Board) nextTurnEvent(m *move, e *earliest) {
	after := func(d time.Duration) {
		if t := m.onAt.Add(d); t.After(b.last) {
			e.add(t)
		}
	}
	after(ms(board.InrushMS))
	after(ms(int(b.config.TurnMS)))
	if !m.allLeft() {
		after(ms(int(b.config.LeaveMS)))
	}
	if m.half {
		after(m.turn / 2)
	}
	if m.plan.step == MidTurn {
		after(b.turnTime(m.slot) / 2)
	}
	if !m.overSince.IsZero() {
		e.add(m.overSince.Add(ms(int(b.config.JamMS))))
	}
	if !m.openSince.IsZero() {
		e.add(m.openSince.Add(ms(board.OpenMS)))
	}
	if !m.shortSince.IsZero() {
		e.add(m.shortSince.Add(ms(board.ShortMS)))
	}
	if m.kind != board.MotionVend {
		e.add(m.heldAt.Add(ms(board.HoldMS)))
	}
}

// earliest keeps the first of the times added to it.
type earliest struct{ at time.Time }

func (e *earliest) add(t time.Time) {
	if !t.IsZero() && (e.at.IsZero() || t.Before(e.at)) {
		e.at = t
	}
}
