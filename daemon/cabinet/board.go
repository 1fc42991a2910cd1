package cabinet

import (
	"slices"
	"strings"
	"time"

	"yaoju/daemon/config"
	"yaoju/daemon/machine"
	"yaoju/daemon/machine/gpio"
	"yaoju/daemon/machine/vending"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// The kinds of board, as the configuration names them.
const (
	KindOwn     = "own"     // our own motor board, on a serial line
	KindVending = "vending" // an off-the-shelf vending board that speaks FA FB, on a serial line
	KindGPIO    = "gpio"    // no board: motors, switches and sensors on lines of this computer
)

// Board is what turns the motors, and what hangs on it. Each key belongs to the kinds
// that are named with it; another kind's keys are refused.
//
// A small tray of two rows on our own board, where slots 1 and 2, and 3 and 4, turn
// together:
//
//	[board]
//	path = "/dev/ttyAMA0"
//	slots = ["1-6", "11-16"]
//	pairs = [1, 3]
//	turn_ms = 6000
//
// A vending board with an elevator:
//
//	[board]
//	kind = "vending"
//	path = "/dev/ttyUSB0"
//	slots = ["1-10"]
//	elevator = true
//	drop_sensor = true
type Board struct {
	Kind string `toml:"kind"` // own, vending or gpio

	Path    string   `toml:"path"`     // own, vending: serial line
	Slots   []string `toml:"slots"`    // own, vending: slots with a motor, 1 to 60, as numbers and ranges: ["1-10", "21"]; without it all 60
	UsualMS int      `toml:"usual_ms"` // own, vending: what one turn usually takes, for the progress on the screen: 500 to 60000, usually 2500, 3000 with a vending board

	// Our own board is told the following if it has another configuration; a new board
	// turns nothing until then.
	Baud    int   `toml:"baud"`     // own: 9600 to 1000000; our own board has 115200
	Pairs   []int `toml:"pairs"`    // own: slots whose right neighbour turns with them; both have a motor, and neither is in another pair
	LeaveMS int   `toml:"leave_ms"` // own: a motor must have left home within this: 100 to 2000, usually 900
	TurnMS  int   `toml:"turn_ms"`  // own: and be home again within this, or it is cut off: leave_ms + 100 to 7000, usually 5000
	SlowMS  int   `toml:"slow_ms"`  // own: a turn that takes longer is reported as slow: 0 to 65535, usually 3500
	JamMA   int   `toml:"jam_ma"`   // own: a current over this is a jam: above open_ma to 65535, usually 900; the board measures up to 5000
	JamMS   int   `toml:"jam_ms"`   // own: once it has lasted this long: 10 to 1000, usually 120
	OpenMA  int   `toml:"open_ma"`  // own: a current under this is a missing motor: 0 to 65534, usually 50; 0 looks for none

	Elevator   bool `toml:"elevator"`    // vending: pieces are carried to the hatch
	DropSensor bool `toml:"drop_sensor"` // vending: there is one; without it no piece is ever known to have fallen

	GPIO GPIO `toml:"gpio"` // gpio: which line is what
}

// GPIO is what hangs on which line of this computer. A line is named as the kernel
// does, "GPIO17", or "9030000.pl061:5", label and number, where it has no name; with
// "!" before it, it is active when it is low. The text of package gpio says which
// cut-off, resistors and fuse such a machine must have.
//
//	[board]
//	kind = "gpio"
//	[board.gpio]
//	enable = "GPIO4"
//	curtain = "GPIO17"
//	emitter = "GPIO27"
//	door = "!GPIO22"
//	[[board.gpio.motor]]
//	slot = 1
//	line = "GPIO5"
//	home = "!GPIO6"
//	[[board.gpio.motor]]
//	slot = 11
//	row = "GPIO13"
//	column = "GPIO19"
//	home = "!GPIO26"
type GPIO struct {
	Motors  []Motor   `toml:"motor"`    // 1 to 16
	Enable  gpio.Line `toml:"enable"`   // output: supply of all motors, on only while one is to turn; empty: none
	Curtain gpio.Line `toml:"curtain"`  // input: active while the receiver of the drop sensor sees light
	Emitter gpio.Line `toml:"emitter"`  // output: light of the drop sensor
	Door    gpio.Line `toml:"door"`     // input: active while the service door is shut
	Lock    gpio.Line `toml:"lock"`     // output: coil of the lock; empty: none
	Light   gpio.Line `toml:"light"`    // output: light in the cabinet, on or off; empty: none
	LeaveMS int       `toml:"leave_ms"` // a motor must have left home within this: 100 to 2000, usually 900
	TurnMS  int       `toml:"turn_ms"`  // and be home again within this, or it is cut off: leave_ms + 100 to 7000, usually 5000
	SlowMS  int       `toml:"slow_ms"`  // a turn that takes longer is reported as slow: from 1, usually 3500
}

// Motor is one slot of a machine on lines: a line of its own, or a crossing of row and
// column, which other motors may share.
type Motor struct {
	Slot   protocol.Slot `toml:"slot"`   // 1 to 60
	Line   gpio.Line     `toml:"line"`   // output; or
	Row    gpio.Line     `toml:"row"`    // two outputs, which turn the motor
	Column gpio.Line     `toml:"column"` // while both are active
	Home   gpio.Line     `toml:"home"`   // input: active while at home
}

// fitting is the board's part of the configuration as its driver wants it: one of
// these is set.
type fitting struct {
	own     machine.Options
	vending vending.Options
	gpio    gpio.Config
}

// usualBoard is our own board, of which only the line need be said.
func usualBoard() Board {
	f := machine.UsualFitting()
	return Board{Kind: KindOwn, Baud: board.Baud, LeaveMS: f.LeaveMS, TurnMS: f.TurnMS, SlowMS: f.SlowMS, JamMA: f.JamMA, JamMS: f.JamMS, OpenMA: f.OpenMA,
		GPIO: GPIO{LeaveMS: ms(gpio.DefaultLeave), TurnMS: ms(gpio.DefaultTurn), SlowMS: ms(gpio.DefaultSlow)}}
}

func ms(d time.Duration) int { return int(d / time.Millisecond) }

func asTime(ms int) time.Duration { return time.Duration(ms) * time.Millisecond }

// check checks the board's part, and returns it as the driver wants it.
func (b Board) check(d *config.Doc) (f fitting) {
	switch b.Kind {
	case KindOwn, KindVending:
		d.Need(b.Path != "", "board.path", "missing: the motor board's serial line, such as \"/dev/ttyAMA0\"")
		d.Need(!d.Has("board.usual_ms") || b.UsualMS >= 500 && b.UsualMS <= 60000, "board.usual_ms", "want 500 to 60000 milliseconds")
	case KindGPIO:
		d.Need(d.Has("board.gpio"), "board", "kind is %q, so the table board.gpio is missing, which says what hangs on which line", b.Kind)
	default:
		d.Need(false, "board.kind", "want %q, %q or %q", KindOwn, KindVending, KindGPIO)
		return f
	}
	b.refuseStrange(d)
	complain := func(key string, err error) { d.Check("board."+key, err) }
	fitted := machine.Fitting{Slots: b.Slots, Pairs: b.Pairs, LeaveMS: b.LeaveMS, TurnMS: b.TurnMS, SlowMS: b.SlowMS, JamMA: b.JamMA, JamMS: b.JamMS, OpenMA: b.OpenMA}
	switch b.Kind {
	case KindOwn:
		d.Need(b.Baud >= 9600 && b.Baud <= 1000000, "board.baud", "want 9600 to 1000000 bits per second")
		f.own = machine.Options{Config: fitted.Configure(complain), Turn: asTime(b.UsualMS)}
	case KindVending:
		usual := machine.UsualFitting()
		usual.Slots = b.Slots
		f.vending = vending.Options{Elevator: b.Elevator, DropSensor: b.DropSensor, Turn: asTime(b.UsualMS)}
		if b.Slots != nil {
			f.vending.Fitted = usual.Configure(complain).Fitted.List()
		}
	case KindGPIO:
		f.gpio = b.GPIO.lines()
		if d.Has("board.gpio") {
			b.GPIO.checkTimes(d)
			f.gpio.Check(func(key string, err error) { d.Check("board.gpio."+key, err) })
		}
	}
	return f
}

// refuseStrange refuses keys that mean nothing to this kind of board.
func (b Board) refuseStrange(d *config.Doc) {
	for _, k := range []struct{ keys, kinds string }{
		{"path slots usual_ms", KindOwn + " " + KindVending},
		{"baud pairs leave_ms turn_ms slow_ms jam_ma jam_ms open_ma", KindOwn},
		{"elevator drop_sensor", KindVending},
		{"gpio", KindGPIO},
	} {
		kinds := strings.Fields(k.kinds)
		for _, key := range strings.Fields(k.keys) {
			d.Need(slices.Contains(kinds, b.Kind) || !d.Has("board."+key), "board."+key, "belongs to a board of kind \"%s\"; this one is %q", strings.Join(kinds, "\" or \""), b.Kind)
		}
	}
}

// checkTimes refuses what a driver would take for "as usual", or no time can hold.
func (g GPIO) checkTimes(d *config.Doc) {
	for _, t := range []struct {
		key string
		ms  int
	}{{"leave_ms", g.LeaveMS}, {"turn_ms", g.TurnMS}, {"slow_ms", g.SlowMS}} {
		d.Need(t.ms >= 1 && t.ms <= 60000, "board.gpio."+t.key, "%d: not a time in milliseconds", t.ms)
	}
}

// lines is g as the driver wants it.
func (g GPIO) lines() gpio.Config {
	c := gpio.Config{Enable: g.Enable, Curtain: g.Curtain, Emitter: g.Emitter, Door: g.Door, Lock: g.Lock, Light: g.Light,
		Leave: asTime(g.LeaveMS), Turn: asTime(g.TurnMS), Slow: asTime(g.SlowMS)}
	for _, m := range g.Motors {
		c.Motors = append(c.Motors, gpio.Motor{Slot: m.Slot, Line: m.Line, Row: m.Row, Column: m.Column, Home: m.Home})
	}
	return c
}

// what is the board in words.
func (b Board) what() string {
	switch b.Kind {
	case KindVending:
		return "vending board"
	case KindGPIO:
		return "motors on GPIO lines"
	}
	return "motor board"
}

// MotionLimit is how long one slot's attempt may take, the wait for its line
// included. It is what the board itself allows at the worst, never less: whoever
// gives up on a motor that still rightly turns makes an unknown vend of a good one.
func (c Config) MotionLimit() time.Duration {
	switch c.Board.Kind {
	case KindVending:
		return c.fitting.vending.Longest()
	case KindGPIO:
		return turnsLimit(c.fitting.gpio.Turn)
	}
	return turnsLimit(asTime(c.Board.TurnMS))
}

const (
	// turns is how many turns a vend that finds nothing comes to: one, three half-turns,
	// and the half that leads home.
	turns = 3

	// watching is what such a vend spends beside its turns: three pauses, and three
	// watches of the drop sensor.
	watching = board.HalfTurns * (board.WatchMS + board.PauseMS) * time.Millisecond

	// asking is what the way to the board takes: a record in its memory, five tries of
	// a question, a plug that bounced.
	asking = 3 * time.Second
)

// turnsLimit is the limit of a board that cuts a motor off after turn.
func turnsLimit(turn time.Duration) time.Duration { return turns*turn + watching + asking }
