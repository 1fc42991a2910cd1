package sim

import (
	"slices"
	"time"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

// Cabinet is everything around the board that a test, a demo or fate may change.
// The zero value is a healthy cabinet without a climate sensor.
type Cabinet struct {
	DoorOpen     bool
	SensorDark   bool // something stands in the drop sensor
	SensorBlind  bool // its receiver sees light that is not there: the self-test fails, drops go unseen
	JournalFails bool // EEPROM does not take records
	Silent       bool // the board neither hears nor answers; motors go on
	Climate      Climate
	Chances      Chances
	Noise        Noise
}

// Climate is what the climate sensor reads.
type Climate struct {
	OK      bool   // there is a reading
	CentiC  int16  // 0.01 degrees Celsius
	CentiRH uint16 // 0.01 percent
}

// Faults are what is wrong with one slot until it is set otherwise.
type Faults struct {
	Jam       bool          // the spiral is held fast in mid-turn
	NoMotor   bool          // no motor, or its wire is off
	StuckHome bool          // home switch never opens
	Runaway   bool          // home switch never closes again
	Double    bool          // two pieces fall at once
	Hang      int           // this many turns push nothing out
	Late      time.Duration // pieces hang on the edge and fall this long after the motor stopped
	Slow      float64       // a turn takes this many times as long; 0 is 1
	Short     bool          // the motor's wires touch: it does not turn
}

// Chances are the probabilities, 0 to 1, with which each motor start for a vend
// or a test meets a fault, on top of the slot's own.
type Chances struct {
	Jam, NoMotor, StuckHome, Runaway, Double, NoDrop, Late, Slow float64

	Spontaneous float64 // after a vend one more piece falls by itself
	Cut         float64 // power is lost at a random step of the vend, for 1 to 5 s
	Reset       float64 // the watchdog bites at a random step
}

// Physics of a spiral, in parts of a turn.
const (
	homeZone = 0.08 // the home switch is closed up to here
	jamPoint = 0.4
	letGo    = 0.8 // the piece passes the edge
)

// Currents of one motor, and what the board can measure of all; mA.
const (
	runMA   = 300
	slowMA  = 450
	jamMA   = 1500
	shortMA = 4500
	fullMA  = 5000
)

// spiral is one slot of the tray.
type spiral struct {
	pieces   int
	pos      float64 // part of a turn from home, 0 to 1
	faults   Faults
	now      Faults // of the present motion: faults, and what chance added
	lostHome bool   // by a runaway
	fallen   int
	starts   int // of its motor
}

// motor is one motor that has power. There is one, or the two of a pair.
type motor struct {
	slot   protocol.Slot
	id     protocol.VendID // 0 for a test or homing
	bare   bool            // the right half of a pair: the pieces lie before the left one
	at     time.Time       // of start
	last   time.Time       // up to where the turn has been followed
	from   time.Duration   // position at start, in time from home
	turn   time.Duration   // of one turn
	stuck  time.Duration   // position it does not pass; 0 is none
	onEdge int             // pieces that wait for the stop to fall
}

// Move is one motor that got power or lost it.
type Move struct {
	At   time.Time
	Slot protocol.Slot
	On   bool
}

// movesKept is how many moves are remembered: those of some hundred vends. A demo
// runs for weeks.
const movesKept = 4096

// fall is a piece in the air.
type fall struct {
	at   time.Time
	slot protocol.Slot
	id   protocol.VendID
}

// truth is what really happened, whatever board and daemon believe.
type truth struct {
	turns  map[protocol.VendID]int
	fallen map[protocol.VendID]int
}

func (b *Board) turnTime(slot protocol.Slot) time.Duration {
	if f := b.slots[slot].now.Slow; f > 0 {
		return time.Duration(float64(b.opt.Turn) * f)
	}
	return b.opt.Turn
}

// position is where the spiral stands at t, in time from the home before the start.
func (m *motor) position(t time.Time) time.Duration {
	p := m.from + t.Sub(m.at)
	if m.stuck > 0 {
		return min(p, m.stuck)
	}
	return p
}

// after returns the first place past p that lies part of a turn behind a home.
func (m *motor) after(p time.Duration, part float64) time.Duration {
	place := p/m.turn*m.turn + time.Duration(part*float64(m.turn))
	if place <= p {
		place += m.turn
	}
	return place
}

// startMotor gives slot's motor power.
func (b *Board) startMotor(t time.Time, slot protocol.Slot, id protocol.VendID, bare bool) {
	s, turn := &b.slots[slot], b.turnTime(slot)
	from := time.Duration(s.pos * float64(turn))
	m := motor{slot: slot, id: id, bare: bare, at: t, last: t, from: from, turn: turn}
	switch {
	case s.now.NoMotor, s.now.Short:
		m.stuck = max(from, 1)
	case s.now.Jam:
		m.stuck = m.after(from-1, jamPoint)
	}
	s.starts++
	b.motors = append(b.motors, m)
	b.moved(Move{t, slot, true})
}

// stopMotor takes power away from slot's motor. The spiral stands where it is.
func (b *Board) stopMotor(t time.Time, slot protocol.Slot) {
	b.follow(t)
	for i, m := range b.motors {
		if m.slot != slot {
			continue
		}
		s := &b.slots[slot]
		s.pos = float64(m.position(t)%m.turn) / float64(m.turn)
		b.motors = slices.Delete(b.motors, i, i+1)
		b.moved(Move{t, slot, false})
		b.drop(slot, m.id, t.Add(s.now.Late), m.onEdge)
		return
	}
}

// stopMotors takes power away from all motors.
func (b *Board) stopMotors(t time.Time) {
	for len(b.motors) > 0 {
		b.stopMotor(t, b.motors[0].slot)
	}
}

func (b *Board) moved(m Move) {
	if len(b.moves) == movesKept {
		b.moves = append(b.moves[:0], b.moves[1:]...)
	}
	b.moves = append(b.moves, m)
}

// follow moves the spirals on to t and lets pieces go that pass the edge.
func (b *Board) follow(t time.Time) {
	for i := range b.motors {
		m := &b.motors[i]
		s := &b.slots[m.slot]
		p, to := m.position(m.last), m.position(t)
		m.last = t
		if s.now.Runaway && to >= m.after(0, homeZone) {
			s.lostHome = true
		}
		for p = m.after(p, letGo); p <= to && !m.bare; p = m.after(p, letGo) {
			b.push(t, m)
		}
	}
}

// push lets go of what lies at the edge of the tray before m.
func (b *Board) push(t time.Time, m *motor) {
	s := &b.slots[m.slot]
	if s.now.Hang > 0 {
		s.now.Hang--
		s.faults.Hang = max(0, s.faults.Hang-1)
		return
	}
	n := 1
	if s.now.Double {
		n = 2
	}
	n = min(n, s.pieces)
	s.pieces -= n
	if s.now.Late > 0 {
		m.onEdge += n
		return
	}
	b.drop(m.slot, m.id, t, n)
}

// drop sends n pieces of vend id on their way down at t, one close behind the other.
func (b *Board) drop(slot protocol.Slot, id protocol.VendID, t time.Time, n int) {
	for i := range n {
		f := fall{at: t.Add(fallTime + time.Duration(i)*apart), slot: slot, id: id}
		k := len(b.falls)
		for k > 0 && b.falls[k-1].at.After(f.at) {
			k--
		}
		b.falls = append(b.falls[:k], append([]fall{f}, b.falls[k:]...)...)
	}
}

// atHome is the home switch of slot at t.
func (b *Board) atHome(slot protocol.Slot, t time.Time) bool {
	s := &b.slots[slot]
	switch {
	case s.now.StuckHome:
		return true
	case s.lostHome:
		return false
	}
	for i := range b.motors {
		if m := &b.motors[i]; m.slot == slot {
			return m.position(t)%m.turn < time.Duration(homeZone*float64(m.turn))
		}
	}
	return s.pos < homeZone
}

// allHome reports that every home switch of slot is closed: two for a pair.
func (b *Board) allHome(slot protocol.Slot, t time.Time) bool {
	for _, s := range b.halves(slot) {
		if !b.atHome(s, t) {
			return false
		}
	}
	return true
}

// current is what the board measures on the motor line.
func (b *Board) current(t time.Time) uint16 {
	sum := 0
	for i := range b.motors {
		m := &b.motors[i]
		switch f := b.slots[m.slot].now; {
		case f.NoMotor:
		case f.Short:
			sum += shortMA
		case m.stuck > 0 && m.position(t) == m.stuck:
			sum += jamMA
		case f.Slow > 1:
			sum += slowMA
		default:
			sum += runMA
		}
	}
	return uint16(min(sum, fullMA))
}

// drawFaults decides what the coming motion of slot meets.
func (b *Board) drawFaults(slot protocol.Slot) {
	c := &b.cabinet.Chances
	b.clearLuck(slot)
	f := &b.slots[slot].now
	f.Jam = f.Jam || b.chance(c.Jam)
	f.NoMotor = f.NoMotor || b.chance(c.NoMotor)
	f.StuckHome = f.StuckHome || b.chance(c.StuckHome)
	f.Runaway = f.Runaway || b.chance(c.Runaway)
	f.Double = f.Double || b.chance(c.Double)
	if b.chance(c.NoDrop) {
		f.Hang = 1 + board.HalfTurns // more than a vend turns
	}
	if b.chance(c.Late) {
		f.Late = time.Duration(1+b.opt.Rand.IntN(1200)) * time.Millisecond
	}
	if b.chance(c.Slow) {
		f.Slow = 1.6
	}
}

// halves returns the slots that turn when slot is named: two for a pair, its left one first.
func (b *Board) halves(slot protocol.Slot) []protocol.Slot {
	if b.config.Coupled.Has(slot) {
		return []protocol.Slot{slot, slot + 1}
	}
	return []protocol.Slot{slot}
}

// clearLuck leaves the slot its lasting faults only.
func (b *Board) clearLuck(slot protocol.Slot) {
	s := &b.slots[slot]
	s.now = s.faults
	s.lostHome = s.lostHome && s.faults.Runaway
}

func (b *Board) chance(p float64) bool { return p > 0 && b.opt.Rand.Float64() < p }

// physical adds the next event of spiral and air.
func (b *Board) physical(e *earliest) {
	if len(b.falls) > 0 {
		e.add(b.falls[0].at)
	}
	for i := range b.motors {
		m := &b.motors[i]
		p := m.position(m.last)
		if m.stuck > 0 && p >= m.stuck {
			continue
		}
		next := min(m.after(p, 0), m.after(p, homeZone), m.after(p, letGo))
		if m.stuck > 0 {
			next = min(next, m.stuck)
		}
		e.add(m.at.Add(next - m.from))
	}
}

// poll lives through everything up to now, each event at its own time, however
// late the program is told to look.
func (b *Board) poll(now time.Time) {
	for {
		var e earliest
		b.physical(&e)
		e.add(b.nextEvent())
		if e.at.IsZero() || e.at.After(now) {
			break
		}
		b.happen(e.at)
	}
	b.happen(now)
}

// happen lets everything take place that is due at t.
func (b *Board) happen(t time.Time) {
	b.last = t
	b.follow(t)
	for len(b.falls) > 0 && !b.falls[0].at.After(t) {
		f := b.falls[0]
		b.falls = b.falls[1:]
		b.slots[f.slot].fallen++
		b.truth.fallen[f.id]++
		if !b.dark() { // else nothing gets any darker
			b.seen(t)
		}
	}
	if !b.powered && !b.back.IsZero() && !b.back.After(t) {
		b.boot(t, b.backAs)
	}
	if b.powered && !b.restartAt.IsZero() && !b.restartAt.After(t) {
		b.halt(t)
		b.boot(t, board.ResetExternal)
	}
	if b.powered && !b.alone && !t.Before(b.heardAt.Add(ms(board.HeartbeatMS))) {
		b.alone, b.lockUntil, b.light = true, time.Time{}, board.DimPercent
	}
	for b.written(t) || b.step(t) {
	}
}

// arm sets the timer to the next event.
func (b *Board) arm(now time.Time) {
	var e earliest
	b.physical(&e)
	e.add(b.nextEvent())
	if b.timer != nil {
		b.timer.Stop() // a wake that is already on its way finds nothing to do
	}
	if !e.at.IsZero() {
		b.timer = time.AfterFunc(max(0, e.at.Sub(now)), b.wake)
	}
}

func (b *Board) wake() { b.do(func(time.Time) {}) }

// do lets f change something now and lets the board notice.
func (b *Board) do(f func(now time.Time)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.poll(now)
	f(now)
	b.happen(now)
	b.arm(now)
}
