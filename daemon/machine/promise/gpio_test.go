package promise_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"yaoju/daemon/machine/gpio"
	"yaoju/daemon/machine/gpio/sim"
	"yaoju/protocol"
)

// plantRig is gpio.Machine over its plant: motors on rows and columns, and a supply line.
type plantRig struct {
	t   *testing.T
	cfg gpio.Config
	*sim.Plant

	disk     *disk
	stranger gpio.Pins // another program that has the lines

	mu       sync.Mutex
	objected []string // guarded by mu
}

// newPlant is a machine without a motor board. Every slot has a home switch of its own:
// where two share a line, one that stands in mid-turn keeps back the other, and the
// ledger blocks both.
func newPlant(t *testing.T, _ context.Context) rig {
	r := &plantRig{t: t, disk: &disk{}, cfg: gpio.Config{Enable: "!GPIO4", Curtain: "GPIO22", Emitter: "!GPIO23", Door: "GPIO24", Lock: "!GPIO25", Light: "GPIO12"}}
	for i := range int(slots) {
		r.cfg.Motors = append(r.cfg.Motors, gpio.Motor{Slot: protocol.Slot(1 + i), Row: gpio.Line(fmt.Sprintf("GPIO%d", 5+i/3)),
			Column: gpio.Line(fmt.Sprintf("!GPIO%d", 14+i%3)), Home: gpio.Line(fmt.Sprintf("!HOME%d", 1+i))})
	}
	r.Plant = sim.New(sim.Options{Config: r.cfg, Pieces: stock, Turn: turnTime, Complain: r.object})
	return r
}

func (r *plantRig) object(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.objected = append(r.objected, s)
}

func (r *plantRig) complaints() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.objected
}

func (r *plantRig) process(protocol.VendID, []protocol.Slot) driver {
	m, err := gpio.New(r.cfg, r.Plant, r.disk, slog.New(slog.DiscardHandler))
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// died takes the disk away from the dead process, and the guard lets go of its lines.
func (r *plantRig) died() {
	r.disk = r.disk.pulled()
	r.Crash()
}

// cord is the plug of all inputs.
func (r *plantRig) cord(f func(gpio.Line)) {
	for _, l := range []gpio.Line{r.cfg.Curtain, r.cfg.Door} {
		f(l)
	}
	for _, m := range r.cfg.Motors {
		f(m.Home)
	}
}

func (r *plantRig) unplug() { r.cord(r.Break) }

func (r *plantRig) plug() {
	r.cord(r.Mend)
	if r.stranger != nil {
		r.stranger.Close() // a plant's never fails
		r.stranger = nil
	}
}

// swap: lines have no other device at their end, but somebody else may have them.
func (r *plantRig) swap() {
	r.unplug()
	time.Sleep(100 * time.Millisecond) // until the driver has given them back
	pins, err := r.Open(gpio.Wires{})
	if err != nil {
		r.t.Errorf("another program takes the lines: %v", err)
		return
	}
	r.stranger = pins
}

func (r *plantRig) mute(bool)      { r.t.Error("lines do not speak") }
func (r *plantRig) door(open bool) { r.Set(func(c *sim.Cabinet) { c.DoorOpen = open }) }

func (r *plantRig) starts(slot protocol.Slot) (n int) {
	for _, m := range r.Moves() {
		if m.On && m.Slot == slot {
			n++
		}
	}
	return n
}

func (r *plantRig) fell(slot protocol.Slot) int { return r.Fallen(slot) }

func (r *plantRig) turning() bool {
	m := r.Moves()
	return len(m) > 0 && m[len(m)-1].On
}

func (r *plantRig) unlocked() bool { return r.On(r.cfg.Lock) }

func (r *plantRig) troubles() []trouble {
	of := func(name string, f sim.Faults, want protocol.Outcome, pieces int, leaves protocol.Fault) trouble {
		return trouble{name: name, want: want, pieces: pieces, leaves: leaves,
			before: func(slot protocol.Slot) { r.SetSlot(slot, f) },
			mend:   func(slot protocol.Slot) { r.SetSlot(slot, sim.Faults{}) }}
	}
	with := func(t trouble, most int) trouble { t.most = most; return t }
	refuses := func(name string, shows, leaves protocol.Fault, do, undo func()) trouble {
		return trouble{name: name, want: protocol.Kept, shows: shows, leaves: leaves, none: true, whole: true,
			before: func(protocol.Slot) { do() }, mend: func(protocol.Slot) { undo() }}
	}
	cabinet := func(f func(*sim.Cabinet)) func() { return func() { r.Set(f) } }
	healthy := cabinet(func(c *sim.Cabinet) { *c = sim.Cabinet{} })
	broken := func(name string, shows protocol.Fault, line func(protocol.Slot) gpio.Line) trouble {
		return trouble{name: name, want: protocol.Unknown, shows: shows, leaves: protocol.FaultNotHome,
			during: func(slot protocol.Slot) { r.Break(line(slot)) }, mend: func(slot protocol.Slot) { r.Mend(line(slot)) }}
	}
	return []trouble{
		of("jam", sim.Faults{Jam: true}, protocol.Kept, 0, protocol.FaultRunaway),
		of("no motor", sim.Faults{NoMotor: true}, protocol.Kept, 0, 0),
		of("stuck home switch", sim.Faults{StuckHome: true}, protocol.Kept, 0, 0),
		of("runaway", sim.Faults{Runaway: true}, protocol.Dispensed, 2, protocol.FaultRunaway),
		of("two fall", sim.Faults{Double: true}, protocol.Dispensed, 2, 0),
		of("late", sim.Faults{Late: 900 * time.Millisecond}, protocol.Dispensed, 1, 0),
		of("slow", sim.Faults{Slow: 1.6}, protocol.Dispensed, 1, 0),
		of("bounce", sim.Faults{Bounce: true}, protocol.Dispensed, 1, 0),
		with(of("one hangs", sim.Faults{Hang: 1}, protocol.Dispensed, 1, 0), 4),
		with(of("nothing falls", sim.Faults{Hang: 9}, protocol.Kept, 0, 0), 4),
		refuses("drop sensor dark", protocol.FaultDropSensor, 0, cabinet(func(c *sim.Cabinet) { c.Dark = true }), healthy),
		refuses("drop sensor blind", protocol.FaultDropSensor, 0, cabinet(func(c *sim.Cabinet) { c.Blind = true }), healthy),
		refuses("disk full", protocol.FaultJournal, protocol.FaultJournal, func() { r.disk.fail(true) }, func() { r.disk.fail(false) }),
		broken("home switch's wire", 0, func(slot protocol.Slot) gpio.Line { return r.cfg.Motors[slot-1].Home }),
		broken("drop sensor's wire", protocol.FaultBoardSilent, func(protocol.Slot) gpio.Line { return r.cfg.Curtain }),
		{name: "another motor turns along", want: protocol.Kept, leaves: protocol.FaultShort,
			during: func(slot protocol.Slot) { r.Set(func(c *sim.Cabinet) { c.Ghost = (slot+2)%slots + 1 }) },
			mend:   func(protocol.Slot) { r.Set(func(c *sim.Cabinet) { c.Ghost = 0 }) }},
		{name: "door opened", want: protocol.Kept, leaves: protocol.FaultNotHome,
			during: func(protocol.Slot) { r.door(true) }, mend: func(protocol.Slot) { r.door(false) }},
	}
}

// disk keeps the memory of a machine without a board. One that was pulled from under
// a process takes nothing more from it.
type disk struct {
	mu    sync.Mutex
	data  []byte // guarded by mu, as is all that follows
	fails bool
	gone  bool
}

func (d *disk) Load() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.data), nil
}

func (d *disk) Save(data []byte) error {
	time.Sleep(5 * time.Millisecond)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fails || d.gone {
		return errors.New("disk: no space left")
	}
	d.data = bytes.Clone(data)
	return nil
}

func (d *disk) Aside() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.data = nil
	return nil
}

func (d *disk) fail(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fails = on
}

// pulled is the disk as the next process finds it.
func (d *disk) pulled() *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = true
	return &disk{data: d.data}
}
