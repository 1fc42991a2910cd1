// Package sim is a small machine made of software: motors, cams, pieces that fall
// through a curtain, door and lock, behind the lines that daemon/machine/gpio drives.
// It has the physics of the twin in daemon/machine/sim, and it polices: power where
// none may be is a complaint.
//
// It owns what happens in the cabinet. It knows nothing of vends, and what it knows
// of a driver is only the levels of its lines.
package sim

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"yaoju/daemon/machine/gpio"
	"yaoju/protocol"
)

// Physics of a spiral, in parts of a turn.
const (
	homeZone = 0.08 // the home switch is closed up to here
	jamPoint = 0.4
	letGo    = 0.8 // the piece passes the edge
)

const (
	fallTime = 300 * time.Millisecond // from the edge to the curtain
	apart    = 60 * time.Millisecond  // between two pieces pushed at once
	cutOff   = 8 * time.Second        // the hardware takes the motors' supply away

	// movesKept is how many moves are remembered: those of some hundred vends.
	movesKept = 4096
)

// Options make a plant. The zero value of all but Config will do.
type Options struct {
	Config   gpio.Config
	Pieces   int           // in each slot
	Turn     time.Duration // of one turn; 0 is 2.5 s
	Shadow   time.Duration // how long a piece darkens the curtain; 0 is 6 ms
	Complain func(string)  // told of what a driver must not do; nil: nobody
}

// Cabinet is what is not a slot. The zero value is a healthy cabinet with its door shut.
type Cabinet struct {
	DoorOpen bool
	Dark     bool // something stands in the curtain
	Blind    bool // the receiver sees light that is not there

	Ghost protocol.Slot // gets power whenever another has: a diode is missing; 0 is none
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
	Bounce    bool          // the home switch chatters for 3 ms at every change
}

// Move is a motor that got power or lost it.
type Move struct {
	At   time.Time
	Slot protocol.Slot
	On   bool
}

// spiral is one slot.
type spiral struct {
	pieces int
	pos    time.Duration // from home, at a turn of Turn
	faults Faults
	lost   bool // by a runaway: home is never seen again
	on     bool
	onAt   time.Time
	onEdge int
	fallen int
}

// shadow is one stretch of dark in the curtain.
type shadow struct{ from, to time.Time }

// Plant is the machine. Its methods may be called from anywhere.
type Plant struct {
	opt    Options
	byName map[string]gpio.Line // every line that is wired, by its bare name

	mu      sync.Mutex
	last    time.Time // guarded by mu, as is all that follows: how far it has been followed
	cabinet Cabinet
	spirals map[protocol.Slot]*spiral
	outs    map[string]bool      // levels driven; absent: pulled to off
	since   map[string]time.Time // an output that may not be on for ever came on
	shadows []shadow
	moves   []Move
	powerAt time.Time // since when the motors' supply is on; zero: it is not
	cut     bool      // by the hardware, until the supply was off
	changed chan struct{}
	taken   *pins
	broken  map[string]bool // lines whose reads and writes fail
}

// New returns a plant at rest, with every spiral at home.
func New(o Options) *Plant {
	if o.Turn == 0 {
		o.Turn = 2500 * time.Millisecond
	}
	if o.Shadow == 0 {
		o.Shadow = 6 * time.Millisecond
	}
	p := &Plant{opt: o, byName: map[string]gpio.Line{}, spirals: map[protocol.Slot]*spiral{},
		outs: map[string]bool{}, since: map[string]time.Time{}, changed: make(chan struct{}), broken: map[string]bool{}, last: time.Now()}
	c := o.Config
	lines := []gpio.Line{c.Enable, c.Curtain, c.Emitter, c.Door, c.Lock, c.Light}
	for _, m := range c.Motors {
		p.spirals[m.Slot] = &spiral{pieces: o.Pieces}
		lines = append(lines, m.Line, m.Row, m.Column, m.Home)
	}
	for _, l := range lines {
		if l != "" {
			p.byName[l.Name()] = l
		}
	}
	return p
}

// look lets f look at something now.
func (p *Plant) look(f func(now time.Time)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.follow(now)
	f(now)
}

// do lets f change something now.
func (p *Plant) do(f func(now time.Time)) {
	p.look(func(now time.Time) {
		f(now)
		p.power(now)
		close(p.changed)
		p.changed = make(chan struct{})
	})
}

// Set changes the cabinet.
func (p *Plant) Set(f func(*Cabinet)) { p.do(func(time.Time) { f(&p.cabinet) }) }

// SetSlot changes what is wrong with a slot.
func (p *Plant) SetSlot(slot protocol.Slot, f Faults) {
	p.do(func(time.Time) {
		s := p.spirals[slot]
		s.faults, s.lost = f, s.lost && f.Runaway
	})
}

// Break makes every use of a line fail, and Mend ends that.
func (p *Plant) Break(l gpio.Line) { p.do(func(time.Time) { p.broken[l.Name()] = true }) }

// Mend ends Break.
func (p *Plant) Mend(l gpio.Line) { p.do(func(time.Time) { delete(p.broken, l.Name()) }) }

// Throw drops a piece from nowhere: its shadow begins now.
func (p *Plant) Throw(long time.Duration) {
	p.do(func(now time.Time) { p.shadows = append(p.shadows, shadow{now, now.Add(long)}) })
}

// Crash ends the process that has the lines: each of its calls fails from now on,
// and the guard drives every output off.
func (p *Plant) Crash() {
	p.do(func(time.Time) {
		p.taken = nil
		clear(p.outs)
	})
}

// Moves returns what the motors did, the newest last.
func (p *Plant) Moves() (l []Move) {
	p.look(func(time.Time) { l = slices.Clone(p.moves) })
	return l
}

// Fallen returns how many pieces slot has pushed out.
func (p *Plant) Fallen(slot protocol.Slot) (n int) {
	p.look(func(time.Time) { n = p.spirals[slot].fallen })
	return n
}

// Resting reports that slot stands at home.
func (p *Plant) Resting(slot protocol.Slot) (at bool) {
	p.look(func(now time.Time) { at = p.atHome(p.spirals[slot], now) })
	return at
}

// On reports that an output is active.
func (p *Plant) On(l gpio.Line) (on bool) {
	p.look(func(time.Time) { on = p.active(l) })
	return on
}

// Level returns what stands on a line now: an output as driven, an input as the
// cabinet makes it.
func (p *Plant) Level(name string) (high bool) {
	p.look(func(now time.Time) { high = p.level(name, now) })
	return high
}

// Drive sets an output from outside, for plants whose driver is not in this process.
func (p *Plant) Drive(name string, high bool) { p.do(func(time.Time) { p.outs[name] = high }) }

// Next returns when an input changes by itself at the latest, zero if it does not,
// and a channel that is closed when that is no longer so.
func (p *Plant) Next() (at time.Time, stale <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.follow(time.Now())
	return p.next(), p.changed
}

func (p *Plant) complain(format string, args ...any) {
	if p.opt.Complain != nil {
		p.opt.Complain(fmt.Sprintf(format, args...))
	}
}

// active reports that an output is at its active level. One that nobody drives is
// held off by its resistor.
func (p *Plant) active(l gpio.Line) bool {
	high, driven := p.outs[l.Name()]
	return l != "" && driven && high == l.Level(true)
}

// powered reports that m's lines let current through it.
func (p *Plant) powered(m gpio.Motor) bool {
	if m.Line != "" {
		return p.active(m.Line)
	}
	return p.active(m.Row) && p.active(m.Column)
}

// power starts and stops spirals as the lines say.
func (p *Plant) power(now time.Time) {
	supply := p.opt.Config.Enable == "" || p.active(p.opt.Config.Enable)
	turning := 0
	for _, m := range p.opt.Config.Motors {
		if supply && p.powered(m) {
			turning++
		}
	}
	for _, m := range p.opt.Config.Motors {
		s, on := p.spirals[m.Slot], supply && (p.powered(m) || p.cabinet.Ghost == m.Slot && turning > 0)
		if on = on && !p.cut; on == s.on {
			continue
		}
		if s.on, s.onAt = on, now; !on {
			p.fall(m.Slot, now.Add(s.faults.Late), s.onEdge)
			s.onEdge = 0
		}
		if len(p.moves) == movesKept {
			p.moves = slices.Delete(p.moves, 0, 1)
		}
		p.moves = append(p.moves, Move{now, m.Slot, on})
	}
	switch {
	case turning > 1:
		p.complain("%d motors have power at once", turning)
	case turning == 0:
		p.powerAt, p.cut = time.Time{}, false
	case p.powerAt.IsZero():
		p.powerAt = now
	}
}

// fall sends n pieces of slot on their way at a time.
func (p *Plant) fall(slot protocol.Slot, at time.Time, n int) {
	p.spirals[slot].fallen += n
	for i := range n {
		from := at.Add(fallTime + time.Duration(i)*apart)
		p.shadows = append(p.shadows, shadow{from, from.Add(p.opt.Shadow)})
	}
}

// turn is how long one turn of s takes.
func (p *Plant) turn(s *spiral) time.Duration {
	if s.faults.Slow > 0 {
		return time.Duration(float64(p.opt.Turn) * s.faults.Slow)
	}
	return p.opt.Turn
}

// place is part of a turn.
func (p *Plant) place(part float64) time.Duration { return time.Duration(part * float64(p.opt.Turn)) }

// follow lives through everything up to now.
func (p *Plant) follow(now time.Time) {
	for {
		at := p.next()
		if at.IsZero() || at.After(now) {
			break
		}
		p.advance(at)
	}
	p.advance(now)
	p.shadows = slices.DeleteFunc(p.shadows, func(s shadow) bool { return now.Sub(s.to) > time.Second })
}

// next returns the next moment at which something in the cabinet changes.
func (p *Plant) next() (at time.Time) {
	add := func(t time.Time) {
		if t.After(p.last) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for _, s := range p.shadows {
		add(s.from)
		add(s.to)
	}
	if !p.powerAt.IsZero() && !p.cut {
		add(p.powerAt.Add(cutOff))
	}
	for _, s := range p.spirals {
		if !s.on || s.faults.NoMotor || s.faults.Jam && s.pos == p.place(jamPoint) {
			continue
		}
		rest := p.opt.Turn
		for _, part := range []float64{homeZone, jamPoint, letGo} {
			if d := p.place(part) - s.pos; d > 0 {
				rest = min(rest, d)
			}
		}
		rest = min(rest, p.opt.Turn-s.pos)
		// One nanosecond more than it takes, so that rounding never stops short of it.
		add(p.last.Add(time.Duration(float64(rest)*float64(p.turn(s))/float64(p.opt.Turn)) + 1))
	}
	return at
}

// advance moves the spirals on to now, over one event at most.
func (p *Plant) advance(now time.Time) {
	passed := now.Sub(p.last)
	p.last = now
	if !p.powerAt.IsZero() && !p.cut && now.Sub(p.powerAt) >= cutOff {
		p.cut = true
		p.complain("a motor had power for %v: the hardware cut it off", cutOff)
		p.power(now)
	}
	for slot, s := range p.spirals {
		if !s.on || s.faults.NoMotor || passed <= 0 {
			continue
		}
		was := s.pos
		s.pos += time.Duration(float64(passed) * float64(p.opt.Turn) / float64(p.turn(s)))
		if jam := p.place(jamPoint); s.faults.Jam && was <= jam {
			s.pos = min(s.pos, jam)
		}
		if s.faults.Runaway && s.pos >= p.place(homeZone) {
			s.lost = true
		}
		if was < p.place(letGo) && s.pos >= p.place(letGo) {
			p.push(slot, now)
		}
		if s.pos >= p.opt.Turn {
			s.pos -= p.opt.Turn
		}
	}
}

// push lets go of what lies at the edge.
func (p *Plant) push(slot protocol.Slot, now time.Time) {
	s := p.spirals[slot]
	if s.faults.Hang > 0 {
		s.faults.Hang--
		return
	}
	n := 1
	if s.faults.Double {
		n = 2
	}
	n = min(n, s.pieces)
	s.pieces -= n
	if s.faults.Late > 0 {
		s.onEdge += n
		return
	}
	p.fall(slot, now, n)
}

// atHome is the home switch of s.
func (p *Plant) atHome(s *spiral, now time.Time) bool {
	switch {
	case s.faults.StuckHome:
		return true
	case s.lost:
		return false
	}
	home := s.pos < p.place(homeZone)
	if s.faults.Bounce && s.on {
		near := min(s.pos, max(s.pos-p.place(homeZone), p.place(homeZone)-s.pos))
		if near < 3*time.Millisecond && now.UnixMilli()%2 == 0 {
			return !home
		}
	}
	return home
}

// level is what stands on a line.
func (p *Plant) level(name string, now time.Time) bool {
	l, c := p.byName[name], p.opt.Config
	switch l {
	case c.Door:
		return l.Level(!p.cabinet.DoorOpen)
	case c.Curtain:
		return l.Level(p.light(now))
	}
	home, is := true, false
	for _, m := range c.Motors {
		if m.Home == l { // several in series: closed if all are
			home, is = home && p.atHome(p.spirals[m.Slot], now), true
		}
	}
	if is {
		return l.Level(home)
	}
	if high, driven := p.outs[name]; driven {
		return high
	}
	return l.Level(false)
}

// light reports that the receiver sees light.
func (p *Plant) light(now time.Time) bool {
	if p.cabinet.Blind {
		return true
	}
	falls := slices.ContainsFunc(p.shadows, func(s shadow) bool { return !now.Before(s.from) && now.Before(s.to) })
	return p.active(p.opt.Config.Emitter) && !p.cabinet.Dark && !falls
}

// Names implements gpio.Chip.
func (p *Plant) Names() ([]string, error) {
	var l []string
	for name := range p.byName {
		l = append(l, name)
	}
	return l, nil
}

// errTaken says that somebody has the lines already.
var errTaken = errors.New("plant: lines are taken")

// Open implements gpio.Chip.
func (p *Plant) Open(w gpio.Wires) (gpio.Pins, error) {
	t := &pins{p: p, longest: map[string]time.Duration{}}
	var err error
	p.do(func(now time.Time) {
		if p.taken != nil {
			err = errTaken
			return
		}
		p.taken = t
		for _, o := range w.Outs {
			p.outs[o.Name] = o.Off
			t.longest[o.Name] = o.Longest
		}
		clear(p.since)
		t.high = p.level(w.Curtain.Name, now)
	})
	t.curtain = w.Curtain.Name
	return t, err
}

// pins are the lines as one process has them.
type pins struct {
	p       *Plant
	curtain string
	longest map[string]time.Duration // each output may be on; 0 is for ever
	high    bool                     // what Edge told last; guarded by p.mu
}

// errDead says that the process that took the lines is gone, or gave them back.
var errDead = errors.New("plant: lines are not taken")

// usable says why t cannot use a line, nil if it can. The caller has p.mu.
func (t *pins) usable(name string) error {
	switch {
	case t.p.taken != t:
		return errDead
	case t.p.broken[name]:
		return fmt.Errorf("plant: line %s is broken", name)
	}
	return nil
}

// Write implements gpio.Pins.
func (t *pins) Write(name string, high bool) (err error) {
	t.p.do(func(now time.Time) {
		if err = t.usable(name); err != nil {
			return
		}
		if _, ok := t.p.outs[name]; !ok {
			t.p.complain("line %s is no output", name)
		}
		t.p.outs[name] = high
		t.sinceOn(name, now)
	})
	return err
}

// sinceOn complains if an output was on for so long that the guard would have ended the
// process, and notes since when it is on. The caller has p.mu.
func (t *pins) sinceOn(name string, now time.Time) {
	if on, was := t.p.since[name]; was && t.longest[name] > 0 && now.Sub(on) > t.longest[name] {
		t.p.complain("line %s was on for %v, and may be for %v", name, now.Sub(on), t.longest[name])
	}
	delete(t.p.since, name)
	if t.p.active(t.p.byName[name]) {
		t.p.since[name] = now
	}
}

// Read implements gpio.Pins.
func (t *pins) Read(name string) (high bool, err error) {
	t.p.look(func(now time.Time) {
		if err = t.usable(name); err == nil {
			high = t.p.level(name, now)
		}
	})
	return high, err
}

// Edge implements gpio.Pins.
func (t *pins) Edge(limit time.Duration) (gpio.Edge, bool, error) {
	if limit <= 0 {
		t.p.complain("wait for an edge for %v: periph waits for ever or not at all", limit)
	}
	over := time.NewTimer(limit)
	defer over.Stop()
	for {
		e, next, stale, err := t.edge()
		if err != nil || !e.At.IsZero() {
			return e, err == nil, err
		}
		var due <-chan time.Time
		if !next.IsZero() {
			due = time.After(time.Until(next))
		}
		select {
		case <-over.C:
			return gpio.Edge{}, false, nil
		case <-due:
		case <-stale:
		}
	}
}

// edge returns a change of the curtain since the last one told, or when to look again.
func (t *pins) edge() (e gpio.Edge, next time.Time, stale <-chan struct{}, err error) {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	now := time.Now()
	t.p.follow(now)
	if err := t.usable(t.curtain); err != nil {
		return e, next, nil, err
	}
	if high := t.p.level(t.curtain, now); high != t.high {
		t.high, e = high, gpio.Edge{At: now, High: high}
	}
	return e, t.p.next(), t.p.changed, nil
}

// Close implements gpio.Pins. Lines that a crash took away already are no error.
func (t *pins) Close() error {
	t.p.do(func(time.Time) {
		if t.p.taken == t {
			if !t.p.powerAt.IsZero() {
				t.p.complain("lines are given back while a motor has power")
			}
			t.p.taken = nil
			clear(t.p.outs)
		}
	})
	return nil
}
