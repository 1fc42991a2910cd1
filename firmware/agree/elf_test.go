package agree_test

import (
	"testing"
	"time"

	"yaoju/daemon/machine/sim"
	"yaoju/firmware/elf"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// chip is the rig around the real firmware on a simulated chip, in lock step.
type chip struct {
	t  *testing.T
	b  *elf.Board
	at time.Duration // up to where time has been let pass; the chip's is some cycles later
}

// onChip runs f with a new chip, in the chip's own time.
func onChip(t *testing.T, f func(t *testing.T, c *chip)) {
	t.Helper()
	b, err := elf.Start(elf.Options{Serial: serial, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	f(t, &chip{t: t, b: b})
	if n := b.Usage().LineDrops; n > 0 {
		t.Errorf("the firmware was too slow for %d bytes of the line", n)
	}
	if err := b.Close(); err != nil {
		t.Errorf("the simulated board: %v", err)
	}
}

func (c *chip) now() time.Duration { return c.at }

func (c *chip) wait(d time.Duration) {
	c.at += d
	if err := c.b.Run(c.at - c.b.Now()); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chip) send(p []byte)    { c.b.Send(p) }
func (c *chip) received() []byte { return c.b.Received() }

func (c *chip) moves() (all []move) {
	for _, m := range c.b.Moves() {
		all = append(all, move{m.At, m.Slot, m.On})
	}
	return all
}

func (c *chip) load(slot protocol.Slot, n int) { c.b.Load(slot, n) }

func (c *chip) faults(slot protocol.Slot, f sim.Faults) {
	c.b.SetFaults(slot, elf.Faults{
		Jam: f.Jam, NoMotor: f.NoMotor, StuckHome: f.StuckHome, Runaway: f.Runaway, Double: f.Double,
		Hang: f.Hang, Late: f.Late, Slow: f.Slow, Short: f.Short,
	})
}

func (c *chip) pair(left board.SlotSet) {
	for _, s := range left.List() {
		if s%protocol.Columns != 0 { // the last of a row has no neighbour, and its board refuses
			c.b.Pair(s)
		}
	}
}

func (c *chip) door(open bool) { c.b.Door(open) }

func (c *chip) sensor(dark, blind bool) {
	c.b.SensorDark(dark)
	c.b.SensorBlind(blind)
}

func (c *chip) journal(fails bool)             { c.b.JournalFails(fails) }
func (c *chip) silent(on bool)                 { c.b.Silent(on) }
func (c *chip) climate(k sim.Climate)          { c.b.Climate(k.OK, k.CentiC, k.CentiRH) }
func (c *chip) spontaneous(slot protocol.Slot) { c.b.Spontaneous(slot) }
func (c *chip) reset()                         { c.b.Reset() }

func (c *chip) power(on bool) {
	if on {
		c.b.PowerOn()
		return
	}
	c.b.PowerOff()
}

func (c *chip) hang() {
	if err := c.b.Hang("board_poll"); err != nil {
		c.t.Fatal(err)
	}
	c.wait(hangTime)
}

func (c *chip) tray(slot protocol.Slot) tray {
	return tray{c.b.Pieces(slot), c.b.FallenFrom(slot), c.b.Starts(slot)}
}
