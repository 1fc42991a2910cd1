package promise_test

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"yaoju/daemon/machine"
	"yaoju/daemon/machine/sim"
	vmc "yaoju/daemon/machine/vending/sim"
	"yaoju/firmware/elf"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// motors is what twin and firmware have in common: the same board, told apart only
// by who plays it.
type motors interface {
	Serve(ctx context.Context, line io.ReadWriteCloser) error
	Load(slot protocol.Slot, n int)
	PowerOff()
	PowerOn()
	Starts(slot protocol.Slot) int
	FallenFrom(slot protocol.Slot) int
}

// fault is what twin and firmware call by the same names.
type fault struct {
	Jam, NoMotor, StuckHome, Runaway, Double, Short bool

	Hang int
	Late time.Duration
	Slow float64
}

// boardRig is machine.Board over a motor board.
type boardRig struct {
	motors
	cable *cable
	us    io.ReadWriter // the motor board's line
	other io.ReadWriter // and that of a board of another make

	spoil    func(slot protocol.Slot, f fault)
	gate     func(open bool)
	dark     func(on bool)
	blind    func(on bool)
	journal  func(fails bool)
	silent   func(on bool)
	reset    func()
	power    func() bool // some motor has it
	open     func() bool // the lock
	objected func() []string
}

func newBoardRig(ctx context.Context, m motors) *boardRig {
	r := &boardRig{motors: m, cable: &cable{ctx: ctx}}
	for slot := protocol.Slot(1); slot <= slots; slot++ {
		m.Load(slot, stock)
	}
	r.us, r.other = r.cable.device(m.Serve), r.cable.device(vmc.New(vmc.Options{}).Serve)
	r.plug()
	return r
}

// newTwin is the motor board's twin.
func newTwin(_ *testing.T, ctx context.Context) rig {
	b := sim.New(sim.Options{Serial: 42, Blank: true, Turn: turnTime})
	r := newBoardRig(ctx, b)
	r.spoil = func(slot protocol.Slot, f fault) {
		b.SetFaults(slot, sim.Faults{Jam: f.Jam, NoMotor: f.NoMotor, StuckHome: f.StuckHome, Runaway: f.Runaway, Double: f.Double,
			Hang: f.Hang, Late: f.Late, Slow: f.Slow, Short: f.Short})
	}
	cabinet := func(f func(*sim.Cabinet, bool)) func(bool) {
		return func(on bool) { b.Adjust(func(c *sim.Cabinet) { f(c, on) }) }
	}
	r.gate = cabinet(func(c *sim.Cabinet, on bool) { c.DoorOpen = on })
	r.dark = cabinet(func(c *sim.Cabinet, on bool) { c.SensorDark = on })
	r.blind = cabinet(func(c *sim.Cabinet, on bool) { c.SensorBlind = on })
	r.journal = cabinet(func(c *sim.Cabinet, on bool) { c.JournalFails = on })
	r.silent = cabinet(func(c *sim.Cabinet, on bool) { c.Silent = on })
	r.reset = func() { b.Reset(board.ResetWatchdog) }
	r.power = func() bool {
		m := b.Moves()
		return len(m) > 0 && m[len(m)-1].On
	}
	r.open = func() bool { return b.Status().LockOpen }
	r.objected = func() []string { return nil }
	return r
}

// newFirmware is the motor board's program itself, in a simulated chip.
func newFirmware(t *testing.T, ctx context.Context) rig {
	b, err := elf.Start(elf.Options{Serial: 42, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	b.Climate(true, 2150, 4500)
	r := newBoardRig(ctx, b)
	r.spoil = func(slot protocol.Slot, f fault) {
		b.SetFaults(slot, elf.Faults{Jam: f.Jam, NoMotor: f.NoMotor, StuckHome: f.StuckHome, Runaway: f.Runaway, Double: f.Double,
			Hang: f.Hang, Late: f.Late, Slow: f.Slow, Short: f.Short})
	}
	r.gate, r.dark, r.blind, r.journal, r.silent = b.Door, b.SensorDark, b.SensorBlind, b.JournalFails, b.Silent
	r.reset = b.BrownOut
	r.power = func() bool {
		m := b.Moves()
		return len(m) > 0 && m[len(m)-1].On
	}
	r.open = func() bool {
		now, spans := b.Now(), b.Unlocked()
		return len(spans) > 0 && spans[len(spans)-1].To >= now
	}
	r.objected = func() (l []string) {
		if err := b.Close(); err != nil {
			l = append(l, err.Error())
		}
		return l
	}
	return r
}

func (r *boardRig) process(protocol.VendID, []protocol.Slot) driver {
	return machine.New(r.cable.dial, slog.New(slog.DiscardHandler), machine.Options{Config: board.DefaultConfigure()})
}

func (r *boardRig) died()                      {} // the kernel closes the line, as an end in good order does
func (r *boardRig) plug()                      { r.cable.plug(r.us) }
func (r *boardRig) unplug()                    { r.cable.plug(nil) }
func (r *boardRig) swap()                      { r.cable.plug(r.other) }
func (r *boardRig) mute(on bool)               { r.cable.silence(on) }
func (r *boardRig) door(open bool)             { r.gate(open) }
func (r *boardRig) starts(s protocol.Slot) int { return r.Starts(s) }
func (r *boardRig) fell(s protocol.Slot) int   { return r.FallenFrom(s) }
func (r *boardRig) turning() bool              { return r.power() }
func (r *boardRig) unlocked() bool             { return r.open() }
func (r *boardRig) complaints() []string       { return r.objected() }

func (r *boardRig) troubles() []trouble {
	of := func(name string, f fault, want protocol.Outcome, pieces int, leaves protocol.Fault) trouble {
		return trouble{name: name, want: want, pieces: pieces, leaves: leaves,
			before: func(slot protocol.Slot) { r.spoil(slot, f) },
			mend:   func(slot protocol.Slot) { r.spoil(slot, fault{}) }}
	}
	with := func(t trouble, most int) trouble { t.most = most; return t }
	refuses := func(name string, spoil func(bool), shows, leaves protocol.Fault) trouble {
		return trouble{name: name, want: protocol.Kept, shows: shows, leaves: leaves, none: true, whole: true,
			before: func(protocol.Slot) { spoil(true) }, mend: func(protocol.Slot) { spoil(false) }}
	}
	during := func(name string, want protocol.Outcome, pieces int, leaves protocol.Fault, do, undo func()) trouble {
		return trouble{name: name, want: want, pieces: pieces, leaves: leaves,
			during: func(protocol.Slot) { do() }, mend: func(protocol.Slot) { undo() }}
	}
	nothing := func() {}
	return []trouble{
		of("jam", fault{Jam: true}, protocol.Kept, 0, protocol.FaultNotHome),
		of("no motor", fault{NoMotor: true}, protocol.Kept, 0, 0),
		of("short circuit", fault{Short: true}, protocol.Kept, 0, 0),
		of("stuck home switch", fault{StuckHome: true}, protocol.Kept, 0, 0),
		of("runaway", fault{Runaway: true}, protocol.Dispensed, 2, protocol.FaultRunaway),
		of("two fall", fault{Double: true}, protocol.Dispensed, 2, 0),
		of("late", fault{Late: 900 * time.Millisecond}, protocol.Dispensed, 1, 0),
		of("slow", fault{Slow: 1.6}, protocol.Dispensed, 1, 0),
		with(of("one hangs", fault{Hang: 1}, protocol.Dispensed, 1, 0), 4),
		with(of("nothing falls", fault{Hang: 9}, protocol.Kept, 0, 0), 4),
		refuses("drop sensor dark", r.dark, protocol.FaultDropSensor, protocol.FaultSpontaneous),
		refuses("drop sensor blind", r.blind, protocol.FaultDropSensor, 0),
		refuses("memory worn out", r.journal, protocol.FaultJournal, protocol.FaultJournal),
		during("power lost for a second", protocol.Unknown, 0, protocol.FaultNotHome,
			func() { r.PowerOff(); time.AfterFunc(time.Second, r.PowerOn) }, nothing),
		during("reset", protocol.Unknown, 0, protocol.FaultNotHome, r.reset, nothing),
		during("silent for three seconds", protocol.Dispensed, 1, 0,
			func() { r.silent(true); time.AfterFunc(3*time.Second, func() { r.silent(false) }) }, nothing),
		during("door opened", protocol.Kept, 0, protocol.FaultNotHome, func() { r.gate(true) }, func() { r.gate(false) }),
	}
}
