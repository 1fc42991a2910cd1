// Package sim is the motor board in software: the twin of the firmware, with the
// motors, spirals, home switches, drop sensor, door, lock and light that hang on
// it, and with everything that can go wrong with them. It speaks protocol/board
// message for message as the firmware does; firmware/agree holds both to that.
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
	Keep   int           // vends of one piece that the journal remembers at least; 0 is board.JournalKeep
	Blank  bool          // as from the factory: never configured
	Rand   *rand.Rand    // for chances and noise; nil is a fixed seed
	// Heard is called when a VEND frame arrives, before it is acted on: the end
	// of a latency measurement. nil is nobody.
	Heard func(id protocol.VendID, at time.Time)
}

// Times of the electronics and the fall.
const (
	usualTurn   = 2500 * time.Millisecond
	fallTime    = 120 * time.Millisecond // from the tray's edge through the drop sensor
	apart       = 40 * time.Millisecond  // between two pieces that fall together
	restartTime = 36 * time.Millisecond  // until the answer to RESTART has left and the watchdog has bitten
)

// Board is a motor board and its cabinet. Its methods may be called from any goroutine.
type Board struct {
	opt Options

	mu    sync.Mutex
	timer *time.Timer // guarded by mu, as is all that follows; wakes the board at its next event

	ee      eeprom
	cabinet Cabinet
	slots   [protocol.Slots + 1]spiral // by slot number; 0 is none
	motors  []motor                    // that have power
	moves   []Move                     // the last movesKept, oldest first
	falls   []fall                     // pieces in the air, first to land first
	truth   truth
	last    time.Time // up to where all has happened

	powered bool // firmware runs
	up      bool // it answers: its boot is in the checkpoint
	booted  time.Time
	back    time.Time // when power returns by itself; zero is never
	backAs  board.ResetCause

	// What the firmware keeps in RAM.
	page        page            // what the next checkpoint says
	config      board.Configure // in force
	configured  bool            // there is one
	mem         memory
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
	restartAt   time.Time // as RESTART has asked for; zero is never
	straySaved  time.Time // when drops of no record were saved last

	plan cut // how the next vend loses power
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
	b := &Board{opt: opt, ee: newEEPROM(opt.Serial, opt.Keep)}
	if !opt.Blank {
		c := board.DefaultConfigure()
		b.ee.config = &c
	}
	b.cabinet.Climate = Climate{OK: true, CentiC: 2150, CentiRH: 4500}
	b.truth.turns = make(map[protocol.VendID]int)
	b.truth.fallen = make(map[protocol.VendID]int)
	b.boot(time.Now(), board.ResetPower)
	for b.written(b.mem.due) {
	}
	b.up = true // it had power for a while
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
	if !b.powered || !b.up || !b.restartAt.IsZero() || b.cabinet.Silent {
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

// boot starts the firmware. It answers once it has counted the boot in EEPROM.
func (b *Board) boot(now time.Time, cause board.ResetCause) {
	b.powered, b.up, b.booted, b.back = true, false, now, time.Time{}
	b.reset = cause
	b.move, b.lost, b.lastHold, b.restartAt = nil, nil, board.Hold{}, time.Time{}
	b.journalBad, b.spontaneous, b.straySaved = false, 0, time.Time{}
	b.lockUntil, b.light = time.Time{}, board.DimPercent
	b.heardAt, b.alone = now, true
	b.selfTest()

	b.mem, b.page = memory{}, b.ee.page
	for _, r := range []*ring{&b.ee.records, &b.ee.pages, &b.ee.configs} {
		r.rewind()
	}
	b.config, b.configured = board.Configure{}, b.ee.config != nil
	if b.configured {
		b.config = *b.ee.config
	}
	b.page.boot++
	b.save(now)
}

// halt is what the loss of power does at once: the motor stops where it is.
func (b *Board) halt(now time.Time) {
	b.stopMotors(now)
	b.giveUp(now)
	b.move, b.mem, b.powered = nil, memory{}, false
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
	return b.remembered(id)
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
		if !b.configured || b.config != m {
			b.config, b.configured, b.mem.saveConf = m, true, true
			b.write(now)
		}
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
		b.clear(now, protocol.Fault(m.Fault))
		return b.statusIs(now)
	case board.Restart:
		switch {
		case m.Key != board.RestartKey:
			return board.Nak{Reason: board.NakBadValue}
		case b.move != nil:
			return board.Nak{Reason: board.NakBusy}
		}
		b.restartAt = now.Add(restartTime)
		return board.Pong{}
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
	case b.page.notHome.Has(v.Slot) || !b.allHome(v.Slot, now):
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
	return b.dark() || b.curtain != board.CurtainGood
}

// dark reports that the receiver of the drop sensor sees no light.
func (b *Board) dark() bool { return b.cabinet.SensorDark && !b.cabinet.SensorBlind }

// refuse is what VEND and HOLD have in common.
func (b *Board) refuse(slot protocol.Slot) *board.Nak {
	switch {
	case b.move != nil:
		return &board.Nak{Reason: board.NakBusy}
	case b.journalBad:
		return &board.Nak{Reason: board.NakJournal}
	case b.page.latched != 0:
		return &board.Nak{Reason: board.NakLatched, Fault: uint8(b.page.latched)}
	case !b.config.Turns(slot):
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
	home := b.allHome(h.Slot, now)
	if h.Motion == board.MotionTest && (!home || b.page.notHome.Has(h.Slot)) {
		return board.Nak{Reason: board.NakNotHome}
	}
	m := &move{kind: h.Motion, slot: h.Slot, hold: h, heldAt: now}
	if h.Motion == board.MotionHome && home {
		b.page.notHome = b.page.notHome.Without(h.Slot)
		b.save(now)
		m.phase, b.move = board.PhaseDone, m
		return b.statusIs(now)
	}
	b.start(now, m)
	return b.statusIs(now)
}

func (b *Board) clear(now time.Time, f protocol.Fault) {
	switch {
	case f != 0 && f == b.page.latched:
		b.page.latched, b.page.latchedSlot = 0, 0
		b.save(now)
	case f == protocol.FaultJournal:
		b.journalBad = false
		b.write(now)
	case f == protocol.FaultDropSensor && b.move == nil: // a test puts the light out
		b.selfTest()
	case f == protocol.FaultSpontaneous:
		b.spontaneous = 0
	}
}

func (b *Board) helloIs(now time.Time) board.HelloIs {
	h := board.HelloIs{
		Proto: board.Version, Serial: b.ee.serial, Build: b.opt.Build, Highest: b.ee.highest,
		Boot: b.page.boot, ResetCause: b.reset, UptimeMS: uint32(now.Sub(b.booted).Milliseconds()),
	}
	if b.configured {
		h.ConfigHash, h.Fitted = b.config.Hash(), b.config.Fitted
	}
	return h
}

func (b *Board) statusIs(now time.Time) board.StatusIs {
	s := board.StatusIs{
		Boot: b.page.boot, UptimeMS: uint32(now.Sub(b.booted).Milliseconds()),
		Turns: b.page.turns, Drops: b.page.drops, NotHome: b.page.notHome,
		CurrentMA: b.current(now), Spontaneous: b.spontaneous,
		DoorOpen: b.cabinet.DoorOpen, LockOpen: now.Before(b.lockUntil), Light: b.light,
		SensorDark: b.dark(), Curtain: b.curtain, JournalBad: b.journalBad,
		Latched: uint8(b.page.latched), LatchedSlot: b.page.latchedSlot,
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
		if m.kind == board.MotionVend {
			s.Drops += uint32(m.drops - m.counted) // no record has them yet
		}
	}
	return s
}
