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
	due   time.Time // end of PhaseStore and PhaseEnd
	cause protocol.Fault

	// The motor.
	began     time.Time     // first start
	onAt      time.Time     // this start
	run       time.Duration // of the starts before this one
	turn      time.Duration // what the first, full turn took
	left      bool          // home switch has opened since this start
	half      bool          // this start is for half a turn
	halves    int           // half-turns begun
	overSince time.Time     // current has been too high; zero if not
	stopAt    time.Time     // when it stopped last

	drops  uint8
	dropAt time.Time // of the first drop

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
	m.phase, m.due = board.PhaseStore, now.Add(storeTime)
	b.move = m
	if m.plan.step == BeforeStore {
		b.cutPower(now, m.plan)
	}
}

// step lets the firmware look at its inputs once. It reports whether it changed
// phase, and then looks again.
func (b *Board) step(now time.Time) bool {
	m := b.move
	if m == nil || !b.powered {
		return false
	}
	switch m.phase {
	case board.PhaseStore:
		if now.Before(m.due) {
			return false
		}
		b.stored(now, m)
	case board.PhaseLeave, board.PhaseReturn, board.PhaseAgain:
		return b.turn(now, m)
	case board.PhaseWatch:
		return b.watch(now, m)
	case board.PhaseEnd:
		if now.Before(m.due) {
			return false
		}
		b.ended(now, m)
	case board.PhaseDone:
		if now.Before(m.heldAt.Add(ms(board.HoldMS))) {
			return false
		}
		b.endHold()
	}
	return true
}

// stored goes on once the journal has the id, and only then.
func (b *Board) stored(now time.Time, m *move) {
	if b.cabinet.JournalFails {
		b.journalBad = true
		m.cause = protocol.FaultJournal
		if m.kind == board.MotionVend {
			s := m.state(now)
			s.State, s.Phase = board.StateEnded, 0
			b.lost = &s
			b.move = nil
			return
		}
		m.phase = board.PhaseDone
		return
	}
	b.ee.notHome = b.ee.notHome.With(m.slot) // until its end is written
	if m.kind == board.MotionVend {
		b.ee.highest = m.id
		b.ee.journal = append(b.ee.journal, record{state: board.VendState{ID: m.id, Slot: m.slot}})
		if n := len(b.ee.journal) - b.opt.Keep; n > 0 {
			b.ee.journal, b.ee.evicted = b.ee.journal[n:], true
		}
		if m.plan.step == AfterStore {
			b.cutPower(now, m.plan)
			return
		}
		b.truth.turns[m.id]++
	}
	if m.kind != board.MotionHome {
		b.ee.turns++
		b.drawFaults(m.slot)
	} else {
		b.clearLuck(m.slot)
	}
	m.began = now
	b.motorOn(now, m, board.PhaseLeave)
}

// motorOn starts the motor towards home, or for half a turn if m.half.
func (b *Board) motorOn(now time.Time, m *move, phase board.Phase) {
	m.phase, m.onAt, m.overSince = phase, now, time.Time{}
	m.left = !b.atHome(m.slot, now)
	if m.left && phase == board.PhaseLeave {
		m.phase = board.PhaseReturn
	}
	b.startMotor(now, m.slot, m.id)
}

func (b *Board) turn(now time.Time, m *move) bool {
	on, cfg, home := now.Sub(m.onAt), b.ee.config, b.atHome(m.slot, now)
	if !home && !m.left {
		m.left = true
		if m.phase == board.PhaseLeave {
			m.phase = board.PhaseReturn
		}
	}
	if m.plan.step == MidTurn && on >= b.turnTime(m.slot)/2 {
		b.cutPower(now, m.plan)
		return true
	}
	switch {
	case m.kind == board.MotionVend && b.cabinet.DoorOpen:
		b.stop(now, m, protocol.FaultDoorOpened)
	case m.kind != board.MotionVend && !now.Before(m.heldAt.Add(ms(board.HoldMS))):
		b.stop(now, m, 0)
	case m.half && m.drops == 0 && on >= m.turn/2:
		b.stop(now, m, 0)
	case m.left && home:
		m.half = false
		if m.turn == 0 {
			m.turn = on
		}
		b.stop(now, m, 0)
	case on >= ms(int(cfg.TurnMS)):
		b.ee.latched, b.ee.latchedSlot = protocol.FaultRunaway, m.slot
		b.stop(now, m, protocol.FaultRunaway)
	case !m.left && on >= ms(int(cfg.LeaveMS)):
		b.stop(now, m, protocol.FaultStuckHome)
	default:
		return b.judgeCurrent(now, m)
	}
	return true
}

func (b *Board) judgeCurrent(now time.Time, m *move) bool {
	if now.Sub(m.onAt) < ms(board.InrushMS) {
		return false
	}
	ma := b.current(now)
	if ma < b.ee.config.OpenMA {
		b.stop(now, m, protocol.FaultNoMotor)
		return true
	}
	if ma <= b.ee.config.JamMA {
		m.overSince = time.Time{}
		return false
	}
	if m.overSince.IsZero() {
		m.overSince = now
	}
	if now.Sub(m.overSince) < ms(int(b.ee.config.JamMS)) {
		return false
	}
	b.stop(now, m, protocol.FaultJam)
	return true
}

// stop stops the motor; the drop sensor is still watched.
func (b *Board) stop(now time.Time, m *move, why protocol.Fault) {
	b.stopMotor(now)
	m.run += now.Sub(m.onAt)
	m.stopAt, m.phase = now, board.PhaseWatch
	if m.cause == 0 {
		m.cause = why
	}
	if m.kind != board.MotionVend && b.atHome(m.slot, now) {
		b.ee.notHome = b.ee.notHome.Without(m.slot)
	}
}

// watchEnd is when the watch after the last stop is over.
func (m *move) watchEnd() time.Time {
	switch {
	case m.drops > 0 && m.dropAt.After(m.stopAt):
		return m.dropAt.Add(ms(board.SettleMS))
	case m.drops > 0:
		return m.stopAt.Add(ms(board.SettleMS))
	case m.cause == 0 && m.halves > 0 && m.halves < board.HalfTurns:
		return m.stopAt.Add(ms(board.PauseMS))
	}
	return m.stopAt.Add(ms(board.WatchMS))
}

// astray reports that a half-turn without fault left the spiral away from home.
func (m *move) astray() bool { return m.cause == 0 && m.half }

func (b *Board) watch(now time.Time, m *move) bool {
	if m.drops > 0 && m.astray() && !b.cabinet.DoorOpen {
		m.half = false
		b.motorOn(now, m, board.PhaseAgain)
		return true
	}
	if now.Before(m.watchEnd()) {
		return false
	}
	if m.kind != board.MotionVend {
		m.phase = board.PhaseDone
		return true
	}
	wantsMore := m.cause == 0 && (m.astray() || m.drops == 0 && m.halves < board.HalfTurns)
	switch {
	case wantsMore && b.cabinet.DoorOpen:
		m.cause = protocol.FaultDoorOpened
	case wantsMore:
		m.halves++
		m.half = m.halves == 1 // the second ends at home, and the third runs through to it
		b.motorOn(now, m, board.PhaseAgain)
		return true
	case m.drops == 0 && m.cause == 0:
		m.cause = protocol.FaultNoDrop
	case m.cause == 0 && m.drops > 1:
		m.cause = protocol.FaultDoubleDrop
	case m.cause == 0 && m.turn > ms(int(b.ee.config.SlowMS)):
		m.cause = protocol.FaultSlow
	}
	if m.plan.step == BeforeEnd {
		b.cutPower(now, m.plan)
		return true
	}
	m.phase, m.due = board.PhaseEnd, now.Add(storeTime)
	return true
}

// ended writes the second record of a vend.
func (b *Board) ended(now time.Time, m *move) {
	s := m.state(now)
	s.State, s.Phase = board.StateEnded, 0
	b.move = nil
	if b.cabinet.JournalFails {
		b.journalBad, b.lost = true, &s // until power is lost; then it is INTERRUPTED
		return
	}
	if r := b.record(m.id); r != nil {
		*r = record{state: s, over: true}
	}
	if b.atHome(m.slot, now) {
		b.ee.notHome = b.ee.notHome.Without(m.slot)
	}
	if b.chance(b.cabinet.Chances.Spontaneous) {
		b.fallFree(m.slot, now.Add(2*time.Second))
	}
}

func (b *Board) endHold() {
	b.lastHold = b.move.hold
	b.move = nil
}

// seen is the drop sensor's interrupt.
func (b *Board) seen(now time.Time) {
	if !b.powered || b.cabinet.SensorDark || b.cabinet.SensorBlind {
		return
	}
	b.ee.drops++
	m := b.move
	if m == nil || m.phase == board.PhaseEnd || m.phase == board.PhaseDone || m.phase == board.PhaseStore {
		b.spontaneous++
		return
	}
	if m.plan.step == AfterDrop {
		b.cutPower(now, m.plan)
		return
	}
	if m.drops == 0 {
		m.dropAt = now
	}
	m.drops++
	if r := b.record(m.id); m.kind == board.MotionVend && r != nil {
		r.state.Drops, r.state.DropMS = m.drops, m.state(now).DropMS
	}
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
	m := b.move
	if m == nil {
		return e.at
	}
	switch {
	case m.phase == board.PhaseStore || m.phase == board.PhaseEnd:
		e.add(m.due)
	case m.phase == board.PhaseWatch:
		e.add(m.watchEnd())
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
	after(ms(int(b.ee.config.TurnMS)))
	if !m.left {
		after(ms(int(b.ee.config.LeaveMS)))
	}
	if m.half {
		after(m.turn / 2)
	}
	if m.plan.step == MidTurn {
		after(b.turnTime(m.slot) / 2)
	}
	if !m.overSince.IsZero() {
		e.add(m.overSince.Add(ms(int(b.ee.config.JamMS))))
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
