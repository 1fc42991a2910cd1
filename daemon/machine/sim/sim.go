// Package sim is the motor board in software: the twin of the firmware, with the
// motors, spirals, home switches, drop sensor, door, lock and light that hang on
// it, and with everything that can go wrong with them. It speaks protocol/board
// message for message as the firmware does.
//
// It owns the board's rules, an EEPROM that survives power cuts, and the truth
// about pieces and turns, which tests compare with what the daemon believes. It
// knows nothing of the daemon. All its time is package time's, so it runs in a
// synctest bubble as well as on a pty; it waits for events and never polls.
package sim

import (
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

// Options say what kind of board it is. The zero value is a usual one, without stock.
type Options struct {
	Serial uint64        // serial number; 0 is 1
	Build  uint32        // firmware build; 0 is 1
	Turn   time.Duration // one turn of a spiral; 0 is 2.5 s
	Keep   int           // vends the journal remembers; 0 is board.JournalKeep
	Rand   *rand.Rand    // for chances and noise; nil is a fixed seed
	// Heard is called when a VEND frame arrives, before it is acted on: the end
	// of a latency measurement. nil is nobody.
	Heard func(id protocol.VendID, at time.Time)
}

// Times of the electronics and the fall.
const (
	usualTurn = 2500 * time.Millisecond
	storeTime = 54 * time.Millisecond  // 16 bytes of EEPROM at 3.4 ms each
	bootTime  = 300 * time.Millisecond // from power to the first answer
	fallTime  = 120 * time.Millisecond // from the tray's edge through the drop sensor
	apart     = 40 * time.Millisecond  // between two pieces that fall together
)

// Board is a motor board and its cabinet. Its methods may be called from any goroutine.
type Board struct {
	opt Options

	mu    sync.Mutex
	timer *time.Timer // guarded by mu, as is all that follows; wakes the board at its next event

	ee      eeprom
	cabinet Cabinet
	slots   [protocol.Slots + 1]spiral // by slot number; 0 is none
	motor   motor
	falls   []fall // pieces in the air, first to land first
	truth   truth
	last    time.Time // up to where all has happened

	powered bool      // firmware runs
	ready   time.Time // when it answers after a boot
	booted  time.Time
	back    time.Time // when power returns by itself; zero is never
	backAs  board.ResetCause

	// What the firmware keeps in RAM.
	move        *move            // the motion in hand, nil without
	lost        *board.VendState // a vend whose record the journal did not take
	lastHold    board.Hold       // the press that is over
	journalBad  bool
	curtain     board.Curtain
	spontaneous uint16
	reset       board.ResetCause
	lockUntil   time.Time
	light       uint8
	heardAt     time.Time // last valid frame
	alone       bool      // heartbeat lost, and acted on

	plan cut // how the next vend loses power
}

// eeprom is what survives power loss.
type eeprom struct {
	serial      uint64
	boot        uint32
	highest     protocol.VendID
	journal     []record // oldest first, at most Options.Keep
	evicted     bool     // an older record has been written over
	configured  bool
	config      board.Configure
	notHome     board.SlotSet
	latched     protocol.Fault
	latchedSlot protocol.Slot
	turns       uint32
	drops       uint32
}

// record is one vend in the journal.
type record struct {
	state board.VendState
	over  bool // its end is written
}

// New returns a board that has power, every slot fitted with an empty spiral.
func New(opt Options) *Board {
	if opt.Serial == 0 {
		opt.Serial = 1
	}
	if opt.Build == 0 {
		opt.Build = 1
	}
	if opt.Turn == 0 {
		opt.Turn = usualTurn
	}
	if opt.Keep == 0 {
		opt.Keep = board.JournalKeep
	}
	if opt.Rand == nil {
		opt.Rand = rand.New(rand.NewPCG(1, 1))
	}
	b := &Board{opt: opt}
	b.ee.serial = opt.Serial
	b.ee.config, b.ee.configured = board.DefaultConfigure(), true
	b.cabinet.Climate = Climate{OK: true, CentiC: 2150, CentiRH: 4500}
	b.truth.turns = make(map[protocol.VendID]int)
	b.truth.fallen = make(map[protocol.VendID]int)
	b.boot(time.Now(), board.ResetPower, 0)
	return b
}

// Serve speaks on line until ctx ends or the line does, and closes it. The board
// goes on without a line; it may be served again, on one line at a time.
func (b *Board) Serve(ctx context.Context, line io.ReadWriteCloser) error {
	defer line.Close()
	defer context.AfterFunc(ctx, func() { line.Close() })()
	r := board.NewReader(&noisy{r: line, spoil: b.spoilIn})
	for {
		f, err := r.Next()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if out := b.hear(f); len(out) > 0 {
			if _, err := line.Write(out); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// hear acts on one frame and returns the bytes of the answer.
func (b *Board) hear(f board.Frame) []byte {
	now := time.Now()
	m, err := f.Parse()
	if v, ok := m.(board.Vend); ok && b.opt.Heard != nil {
		b.opt.Heard(v.ID, now)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.poll(now)
	defer b.arm(now)
	if !b.powered || now.Before(b.ready) || b.cabinet.Silent {
		return nil
	}
	b.heardAt, b.alone = now, false
	var answer board.Message = board.Nak{Reason: board.NakBadMsg}
	if err == nil {
		answer = b.answer(now, f.Seq, m)
		b.poll(now)
	}
	if !b.powered {
		return nil
	}
	return b.cabinet.Noise.ToHost.spoil(b.opt.Rand, board.Append(nil, f.Seq, answer))
}

func (b *Board) spoilIn(frame []byte) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cabinet.Noise.ToBoard.spoil(b.opt.Rand, frame)
}

// boot starts the firmware, which settles what a cut left open.
func (b *Board) boot(now time.Time, cause board.ResetCause, after time.Duration) {
	b.powered, b.booted, b.ready, b.back = true, now, now.Add(after), time.Time{}
	b.reset = cause
	b.ee.boot++
	for i := range b.ee.journal {
		if r := &b.ee.journal[i]; !r.over {
			r.over = true
			r.state.State, r.state.Cause = board.StateInterrupted, uint8(protocol.FaultInterrupted)
		}
	}
	b.move, b.lost, b.lastHold = nil, nil, board.Hold{}
	b.journalBad, b.spontaneous = false, 0
	b.lockUntil, b.light = time.Time{}, board.DimPercent
	b.heardAt, b.alone = now, true
	b.selfTest()
}

// halt is what the loss of power does at once: the motor stops where it is.
func (b *Board) halt(now time.Time) {
	b.stopMotor(now)
	b.move, b.powered = nil, false
	b.lockUntil, b.light = time.Time{}, 0
}

func (b *Board) selfTest() {
	b.curtain = board.CurtainGood
	if b.cabinet.SensorBlind {
		b.curtain = board.CurtainBlind
	}
}

// find returns what the board knows of id.
func (b *Board) find(id protocol.VendID, now time.Time) board.VendState {
	if m := b.move; m != nil && m.kind == board.MotionVend && m.id == id {
		return m.state(now)
	}
	if b.lost != nil && b.lost.ID == id {
		return *b.lost
	}
	for _, r := range b.ee.journal {
		if r.state.ID == id {
			return r.state
		}
	}
	s := board.VendState{ID: id, State: board.StateForgotten}
	switch {
	case id > b.ee.highest:
		s.State = board.StateNone
	case !b.ee.evicted, len(b.ee.journal) > 0 && id > b.ee.journal[0].state.ID:
		s.State = board.StateSkipped
	}
	return s
}

// record returns the journal's record of id, nil without.
func (b *Board) record(id protocol.VendID) *record {
	for i := range b.ee.journal {
		if b.ee.journal[i].state.ID == id {
			return &b.ee.journal[i]
		}
	}
	return nil
}

// answer is the firmware's one function from question to answer.
func (b *Board) answer(now time.Time, seq uint8, m board.Message) board.Message {
	switch m := m.(type) {
	case board.Ping:
		return board.Pong{}
	case board.Hello:
		b.lastHold = board.Hold{} // a new host counts its presses anew
		return b.helloIs(now)
	case board.Configure:
		switch {
		case m.Valid() != nil:
			return board.Nak{Reason: board.NakBadValue}
		case b.move != nil:
			return board.Nak{Reason: board.NakBusy}
		}
		b.ee.config, b.ee.configured = m, true
		return b.helloIs(now)
	case board.Vend:
		return b.vend(now, seq, m)
	case board.Query:
		if m.ID == 0 {
			return board.Nak{Reason: board.NakBadValue}
		}
		s := b.find(m.ID, now)
		s.Repeat = true
		return s
	case board.Status:
		return b.statusIs(now)
	case board.Lock:
		if m.OpenMS > board.MaxLockMS {
			return board.Nak{Reason: board.NakBadValue}
		}
		b.lockUntil = now.Add(time.Duration(m.OpenMS) * time.Millisecond)
		return b.statusIs(now)
	case board.Light:
		if m.Percent > 100 {
			return board.Nak{Reason: board.NakBadValue}
		}
		b.light = m.Percent
		return b.statusIs(now)
	case board.Hold:
		return b.hold(now, m)
	case board.Clear:
		b.clear(protocol.Fault(m.Fault))
		return b.statusIs(now)
	}
	return board.Nak{Reason: board.NakBadMsg} // an answer, or no message: not for a board
}

func (b *Board) vend(now time.Time, seq uint8, v board.Vend) board.Message {
	if v.ID == 0 {
		return board.Nak{Reason: board.NakBadValue}
	}
	s := b.find(v.ID, now)
	switch s.State {
	case board.StateRunning:
		s.Repeat = seq != b.move.seq // the same frame again is answered as it was
		return s
	case board.StateEnded, board.StateInterrupted:
		s.Repeat = true
		return s
	case board.StateForgotten, board.StateSkipped:
		return board.Nak{Reason: board.NakStale}
	}
	if nak := b.refuse(v.Slot); nak != nil {
		return *nak
	}
	switch {
	case b.cabinet.DoorOpen:
		return board.Nak{Reason: board.NakDoorOpen}
	case b.sensorBad():
		return board.Nak{Reason: board.NakDropSensor}
	case b.ee.notHome.Has(v.Slot) || !b.atHome(v.Slot, now):
		return board.Nak{Reason: board.NakNotHome}
	}
	b.lost = nil
	m := &move{kind: board.MotionVend, id: v.ID, slot: v.Slot, seq: seq, plan: b.nextPlan()}
	b.start(now, m)
	return m.state(now)
}

// sensorBad tests the drop sensor anew, as the firmware does before each vend.
func (b *Board) sensorBad() bool {
	b.selfTest()
	return b.cabinet.SensorDark || b.curtain != board.CurtainGood
}

// refuse is what VEND and HOLD have in common.
func (b *Board) refuse(slot protocol.Slot) *board.Nak {
	switch {
	case b.move != nil:
		return &board.Nak{Reason: board.NakBusy}
	case b.journalBad:
		return &board.Nak{Reason: board.NakJournal}
	case b.ee.latched != 0:
		return &board.Nak{Reason: board.NakLatched, Fault: uint8(b.ee.latched)}
	case !b.ee.configured || !b.ee.config.Turns(slot):
		return &board.Nak{Reason: board.NakBadSlot}
	}
	return nil
}

func (b *Board) hold(now time.Time, h board.Hold) board.Message {
	if h.Motion != board.MotionTest && h.Motion != board.MotionHome {
		return board.Nak{Reason: board.NakBadValue}
	}
	if m := b.move; m != nil && m.hold == h {
		m.heldAt = now
		return b.statusIs(now)
	}
	if h == b.lastHold {
		return b.statusIs(now) // let go for too long: only a new press moves again
	}
	if m := b.move; m != nil && m.phase == board.PhaseDone {
		b.endHold()
	}
	if nak := b.refuse(h.Slot); nak != nil {
		return *nak
	}
	home := b.atHome(h.Slot, now)
	if h.Motion == board.MotionTest && (!home || b.ee.notHome.Has(h.Slot)) {
		return board.Nak{Reason: board.NakNotHome}
	}
	m := &move{kind: h.Motion, slot: h.Slot, hold: h, heldAt: now}
	if h.Motion == board.MotionHome && home {
		b.ee.notHome = b.ee.notHome.Without(h.Slot)
		m.phase, b.move = board.PhaseDone, m
		return b.statusIs(now)
	}
	b.start(now, m)
	return b.statusIs(now)
}

func (b *Board) clear(f protocol.Fault) {
	switch f {
	case b.ee.latched:
		b.ee.latched, b.ee.latchedSlot = 0, 0
	case protocol.FaultJournal:
		b.journalBad = false
	case protocol.FaultDropSensor:
		b.selfTest()
	case protocol.FaultSpontaneous:
		b.spontaneous = 0
	}
}

func (b *Board) helloIs(now time.Time) board.HelloIs {
	h := board.HelloIs{
		Proto: board.Version, Serial: b.ee.serial, Build: b.opt.Build, Highest: b.ee.highest,
		Boot: b.ee.boot, ResetCause: b.reset, UptimeMS: uint32(now.Sub(b.booted).Milliseconds()),
	}
	if b.ee.configured {
		h.ConfigHash, h.Fitted = b.ee.config.Hash(), b.ee.config.Fitted
	}
	return h
}

func (b *Board) statusIs(now time.Time) board.StatusIs {
	s := board.StatusIs{
		Boot: b.ee.boot, UptimeMS: uint32(now.Sub(b.booted).Milliseconds()),
		Turns: b.ee.turns, Drops: b.ee.drops, NotHome: b.ee.notHome,
		CurrentMA: b.current(now), Spontaneous: b.spontaneous,
		DoorOpen: b.cabinet.DoorOpen, LockOpen: now.Before(b.lockUntil), Light: b.light,
		SensorDark: b.cabinet.SensorDark, Curtain: b.curtain, JournalBad: b.journalBad,
		Latched: uint8(b.ee.latched), LatchedSlot: b.ee.latchedSlot,
	}
	if c := b.cabinet.Climate; c.OK {
		s.Climate, s.CentiC, s.CentiRH = true, c.CentiC, c.CentiRH
	}
	if m := b.move; m != nil {
		s.NotHome = s.NotHome.Without(m.slot)
		s.Motion, s.Slot, s.Phase = m.kind, m.slot, m.phase
		if m.kind != board.MotionVend {
			s.Cause = uint8(m.cause)
		}
	}
	return s
}
