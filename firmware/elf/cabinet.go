package elf

import (
	debugelf "debug/elf"
	"fmt"
	"strings"
	"time"

	"yaoju/protocol"
)

// Faults are what is wrong with one slot until it is set otherwise. They are those
// of daemon/machine/sim, and two that only a real switch and a real wire have.
type Faults struct {
	Jam       bool          // the spiral is held fast in mid-turn
	NoMotor   bool          // no motor, or its wire is off
	StuckHome bool          // home switch never opens
	Runaway   bool          // home switch never closes again
	Double    bool          // two pieces fall at once
	Hang      int           // this many turns push nothing out
	Late      time.Duration // pieces hang on the edge and fall this long after the motor stopped; whole microseconds
	Slow      float64       // a turn takes this many times as long, 0.1 to 100; 0 is 1
	Short     bool          // the motor is short-circuited
	Bounce    bool          // the home switch opens and closes for 4 ms at each of its edges
}

// SetFaults sets what is wrong with slot: at once while its motor has no power,
// else from its next start on. A zero Faults mends it.
func (b *Board) SetFaults(slot protocol.Slot, f Faults) {
	var c strings.Builder
	fmt.Fprintf(&c, "faults %d", slot)
	for _, flag := range []struct {
		is   bool
		name string
	}{
		{f.Jam, "jam"}, {f.NoMotor, "nomotor"}, {f.StuckHome, "stuckhome"}, {f.Runaway, "runaway"},
		{f.Double, "double"}, {f.Short, "short"}, {f.Bounce, "bounce"},
	} {
		if flag.is {
			c.WriteString(" " + flag.name)
		}
	}
	if f.Hang > 0 {
		fmt.Fprintf(&c, " hang=%d", f.Hang)
	}
	if f.Late > 0 {
		fmt.Fprintf(&c, " late=%d", f.Late.Microseconds())
	}
	if f.Slow > 0 {
		fmt.Fprintf(&c, " slow=%g", f.Slow)
	}
	b.do(c.String()) // as with all that follow, an error stays in Err
}

// Load puts n pieces more into slot.
func (b *Board) Load(slot protocol.Slot, n int) { b.do(fmt.Sprintf("load %d %d", slot, n)) }

// Spontaneous lets one piece of slot fall by itself, if there is one.
func (b *Board) Spontaneous(slot protocol.Slot) { b.do(fmt.Sprintf("fall %d", slot)) }

// Pair says that left and its right neighbour are coupled. Two other motors with
// power at once are a fault of the firmware, which ends the board: see Err.
func (b *Board) Pair(left protocol.Slot) { b.do(fmt.Sprintf("pair %d on", left)) }

// choice is one of two words.
func choice(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}

// Door opens or shuts the service door.
func (b *Board) Door(open bool) { b.do("door " + choice(open, "open", "shut")) }

// SensorDark puts something into the drop sensor, or takes it away.
func (b *Board) SensorDark(dark bool) { b.do("dark " + choice(dark, "on", "off")) }

// SensorBlind lets the receiver of the drop sensor see light that is not there.
func (b *Board) SensorBlind(blind bool) { b.do("blind " + choice(blind, "on", "off")) }

// JournalFails lets the cells of the EEPROM keep what they hold, whatever is written.
func (b *Board) JournalFails(fails bool) { b.do("eeprom " + choice(fails, "fails", "ok")) }

// Silent takes the serial line away in both directions. Motors go on.
func (b *Board) Silent(silent bool) { b.do("silent " + choice(silent, "on", "off")) }

// Climate sets what the climate sensor measures, in 0.01 degrees Celsius and 0.01
// percent. Without ok there is no sensor.
func (b *Board) Climate(ok bool, centiC int16, centiRH uint16) {
	if !ok {
		b.do("climate absent")
		return
	}
	b.do(fmt.Sprintf("climate %d %d", centiC, centiRH))
}

// ClimateDamaged lets the climate sensor answer with wrong checksums until Climate is set.
func (b *Board) ClimateDamaged() { b.do("climate badcrc") }

// PowerOff takes the board's power away. A byte that is being written to EEPROM is torn.
func (b *Board) PowerOff() { b.do("power off") }

// PowerOn gives the board power.
func (b *Board) PowerOn() { b.do("power on") }

// BrownOut lets the supply dip for an instant, too far for the chip: what is lost
// is what PowerOff loses, and the firmware boots anew, knowing why.
func (b *Board) BrownOut() { b.do("power dip") }

// Reset restarts the firmware by the chip's reset line.
func (b *Board) Reset() { b.do("reset") }

// CutAfterWrites lets power be lost in the midst of the nth EEPROM write from now;
// 1 is the next, 0 takes it back.
func (b *Board) CutAfterWrites(n int) { b.do(fmt.Sprintf("cutwrites %d", n)) }

// CutAt lets power be lost d from now, to the microsecond; less than 0 takes it back.
func (b *Board) CutAt(d time.Duration) { b.do(fmt.Sprintf("cutat %d", max(-1, d.Microseconds()))) }

// Tear is what a byte reads as whose writing was cut short: a value of 0 to 255,
// or one of those below.
type Tear int

// Tears that depend on the byte.
const (
	TearRandom Tear = -1 // one of the others, or a mixture, as the seed has it
	TearOld    Tear = -2 // as before
	TearNew    Tear = -3 // as if it had been finished
	TearErased Tear = -4 // 0xff
)

// Torn sets how bytes are torn from now on. A new board has TearRandom.
func (b *Board) Torn(t Tear) {
	word := fmt.Sprint(int(t))
	switch t {
	case TearRandom:
		word = "random"
	case TearOld:
		word = "old"
	case TearNew:
		word = "new"
	case TearErased:
		word = "erased"
	}
	b.do("torn " + word)
}

// Hang lets the firmware hang as soon as it calls the function symbol, until the
// next reset, which is the watchdog's to make.
func (b *Board) Hang(symbol string) error { return b.patch("hang", symbol) }

// Bypass lets the function symbol return at once, until the next reset.
func (b *Board) Bypass(symbol string) error { return b.patch("skip", symbol) }

func (b *Board) patch(how, symbol string) error {
	f, err := debugelf.Open(b.elf)
	if err != nil {
		return fmt.Errorf("%s %s: %w", how, symbol, err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		return fmt.Errorf("%s %s: %s: %w", how, symbol, b.elf, err)
	}
	for _, s := range symbols {
		if s.Name == symbol && debugelf.ST_TYPE(s.Info) == debugelf.STT_FUNC {
			return b.do(fmt.Sprintf("%s %d", how, s.Value))
		}
	}
	return fmt.Errorf("%s %s: %s has no such function", how, symbol, b.elf)
}
