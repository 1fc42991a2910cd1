package gpio

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

// MaxMotors is how many motors a machine without a motor board may have. Beyond
// that a board is cheaper than the drivers and the wire.
const MaxMotors = 16

// Limits of a motion where Config names none; as board.DefaultConfigure has them.
const (
	DefaultLeave = 900 * time.Millisecond
	DefaultTurn  = 5 * time.Second
	DefaultSlow  = 3500 * time.Millisecond
)

// Line is a line as the kernel names it: "GPIO17", or "9030000.pl061:5", label and
// number, where it has no name. With "!" before it the line is active when it is low.
type Line string

// Name returns the line's name without its polarity.
func (l Line) Name() string { return strings.TrimPrefix(string(l), "!") }

// Level returns the level of the line, true is high, when it is active or not.
func (l Line) Level(active bool) bool { return active != strings.HasPrefix(string(l), "!") }

// Config says what hangs on which line. Inputs are pulled to the level at which
// they are not active, and are named for what is safe: a wire that comes off reads
// as not at home, door open and curtain dark, and then nothing moves.
type Config struct {
	Motors  []Motor
	Enable  Line // output: supply of all motors, on only while one is to turn; empty: none
	Curtain Line // input: active while the receiver of the drop sensor sees light
	Emitter Line // output: light of the drop sensor
	Door    Line // input: active while the service door is shut
	Lock    Line // output: coil of the lock; empty: none
	Light   Line // output: light in the cabinet, on or off; empty: none

	Leave time.Duration // home switch must open within this of motor start; 100 ms to 2 s; 0 is DefaultLeave
	Turn  time.Duration // motor is cut off after this; Leave + 100 ms to 7 s; 0 is DefaultTurn
	Slow  time.Duration // a turn that took longer is reported slow; 0 is DefaultSlow
}

// Motor is one slot: a line of its own, or a crossing of Row and Column, which
// other motors may share.
type Motor struct {
	Slot        protocol.Slot
	Line        Line // output
	Row, Column Line // outputs; both active turn the motor
	Home        Line // input: active while at home. Motors may share one if their switches are in series: active while all are home
}

// outputs returns what gives m power, in the order of switching on.
func (m Motor) outputs() []Line {
	if m.Line != "" {
		return []Line{m.Line}
	}
	return []Line{m.Column, m.Row}
}

// withDefaults returns c with its limits filled in.
func (c Config) withDefaults() Config {
	if c.Leave == 0 {
		c.Leave = DefaultLeave
	}
	if c.Turn == 0 {
		c.Turn = DefaultTurn
	}
	if c.Slow == 0 {
		c.Slow = DefaultSlow
	}
	return c
}

// motor returns the motor of slot.
func (c Config) motor(slot protocol.Slot) (Motor, bool) {
	i := slices.IndexFunc(c.Motors, func(m Motor) bool { return m.Slot == slot })
	if i < 0 {
		return Motor{}, false
	}
	return c.Motors[i], true
}

// use is one line in one role.
type use struct {
	line Line
	role string // what it is for; those who share a role may share the line
	out  bool
	key  string // where a configuration file names it
}

// uses lists every line with its role, in the order of the configuration.
func (c Config) uses() []use {
	var l []use
	add := func(line Line, role string, out bool, key string) {
		if line != "" {
			l = append(l, use{line, role, out, key})
		}
	}
	for i, m := range c.Motors {
		add(m.Line, fmt.Sprintf("motor of slot %d", m.Slot), true, motorKey(i, "line"))
		add(m.Row, "row", true, motorKey(i, "row"))
		add(m.Column, "column", true, motorKey(i, "column"))
		add(m.Home, "home switch", false, motorKey(i, "home"))
	}
	add(c.Enable, "enable", true, "enable")
	add(c.Curtain, "curtain", false, "curtain")
	add(c.Emitter, "emitter", true, "emitter")
	add(c.Door, "door", false, "door")
	add(c.Lock, "lock", true, "lock")
	add(c.Light, "light", true, "light")
	return l
}

// motorKey is what a configuration file calls one thing of motor i.
func motorKey(i int, name string) string { return fmt.Sprintf("motor[%d].%s", i, name) }

// Valid returns everything that is wrong with c in one error, or nil. Whether the
// lines exist only the kernel knows: see New.
func (c Config) Valid() error {
	var bad []error
	c.Check(func(_ string, err error) { bad = append(bad, err) })
	return errors.Join(bad...)
}

// Check calls complain for everything that is wrong with c, with the key it is wrong
// in, as a configuration file has it, such as "motor[2].home" or "turn_ms".
func (c Config) Check(complain func(key string, err error)) {
	c = c.withDefaults()
	need := func(ok bool, key, format string, args ...any) {
		if !ok {
			complain(key, fmt.Errorf(format, args...))
		}
	}
	need(len(c.Motors) > 0, "motor", "no motor is named")
	need(len(c.Motors) <= MaxMotors, "motor", "%d motors: at most %d are allowed", len(c.Motors), MaxMotors)
	need(c.Curtain != "", "curtain", "curtain: no line: without a drop sensor nobody knows what fell")
	need(c.Emitter != "", "emitter", "emitter: no line: a drop sensor that cannot be tested cannot be believed")
	need(c.Door != "", "door", "door: no line")
	need(c.Leave >= 100*time.Millisecond && c.Leave <= 2*time.Second, "leave_ms", "leave limit %v: 100ms to 2s are allowed", c.Leave)
	need(c.Turn >= c.Leave+100*time.Millisecond && c.Turn <= board.MaxTurnMS*time.Millisecond, "turn_ms",
		"turn limit %v: %v to %v are allowed", c.Turn, c.Leave+100*time.Millisecond, board.MaxTurnMS*time.Millisecond)
	need(c.Slow > 0, "slow_ms", "slow limit %v: not a time", c.Slow)
	seen := map[protocol.Slot]bool{}
	crossing := map[[2]string]protocol.Slot{}
	for i, m := range c.Motors {
		need(m.Slot.Valid() == nil, motorKey(i, "slot"), "slot %d: slots are 1 to %d", m.Slot, protocol.Slots)
		need(!seen[m.Slot], motorKey(i, "slot"), "slot %d is named twice", m.Slot)
		seen[m.Slot] = true
		own, crossed := m.Line != "", m.Row != "" && m.Column != ""
		need(own != crossed && (crossed || m.Row == "" && m.Column == ""), motorKey(i, "line"), "slot %d: want a line, or a row and a column", m.Slot)
		need(m.Home != "", motorKey(i, "home"), "slot %d: no home switch", m.Slot)
		at := [2]string{m.Row.Name(), m.Column.Name()}
		other, taken := crossing[at]
		need(!crossed || !taken, motorKey(i, "row"), "slots %d and %d have the same row and column", other, m.Slot)
		crossing[at] = m.Slot
	}
	c.doubled(complain)
}

// doubled finds lines with two roles or two polarities, and those without a name.
func (c Config) doubled(complain func(key string, err error)) {
	first := map[string]use{}
	for _, u := range c.uses() {
		name := u.line.Name()
		was, again := first[name]
		switch {
		case name == "":
			complain(u.key, fmt.Errorf("%s: %q is no line", u.role, u.line))
		case !again:
			first[name] = u
		case was.role != u.role || strings.HasPrefix(u.role, "motor"):
			complain(u.key, fmt.Errorf("line %s is %s and %s", name, was.role, u.role))
		case was.line != u.line:
			complain(u.key, fmt.Errorf("line %s is active both high and low as %s", name, u.role))
		}
	}
}

// absent lists lines that are not among names, or there more than once.
func (c Config) absent(names []string) []error {
	count := map[string]int{}
	for _, n := range names {
		count[n]++
	}
	var bad []error
	told := map[string]bool{}
	for _, u := range c.uses() {
		name := u.line.Name()
		if name == "" || told[name] {
			continue
		}
		told[name] = true
		switch count[name] {
		case 1:
		case 0:
			bad = append(bad, fmt.Errorf("%s: there is no line %s", u.role, name))
		default:
			bad = append(bad, fmt.Errorf("%s: there are %d lines %s", u.role, count[name], name))
		}
	}
	return bad
}

// overtime is how long a line stays on beyond its time before somebody else than the
// owner of its timer takes it off: the owner was late by a third of that, at worst.
const overtime = 500 * time.Millisecond

// longest is how long u may be on at a stretch.
func (c Config) longest(u use) time.Duration {
	switch u.line {
	case c.Emitter, c.Light:
		return 0
	case c.Lock:
		return board.MaxLockMS*time.Millisecond + overtime
	}
	return c.Turn + overtime // all the others feed a motor
}

// wires returns what to ask of the kernel.
func (c Config) wires() Wires {
	var w Wires
	told := map[string]bool{}
	for _, u := range c.uses() {
		if told[u.line.Name()] {
			continue
		}
		told[u.line.Name()] = true
		in := In{Name: u.line.Name(), PullUp: u.line.Level(false)}
		switch {
		case u.out:
			w.Outs = append(w.Outs, Out{Name: u.line.Name(), Off: u.line.Level(false), Longest: c.longest(u)})
		case u.line == c.Curtain:
			w.Curtain = in
		default:
			w.Ins = append(w.Ins, in)
		}
	}
	return w
}
