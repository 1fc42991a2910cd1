package promise_test

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	twin "yaoju/daemon/machine/sim"
	"yaoju/daemon/machine/vending"
	"yaoju/daemon/machine/vending/sim"
	"yaoju/protocol"
)

// vmcRig is vending.Board over an off-the-shelf board with a drop sensor.
type vmcRig struct {
	*sim.VMC
	cable *cable
	us    io.ReadWriter // the vending board's line
	other io.ReadWriter // and that of a motor board
}

func newVMC(_ *testing.T, ctx context.Context) rig {
	v := sim.New(sim.Options{ID: "0000000042", Turn: turnTime})
	v.Adjust(func(c *sim.Cabinet) { c.Celsius, c.Humidity = 21, 45 })
	for slot := protocol.Slot(1); slot <= slots; slot++ {
		v.Load(slot, stock)
	}
	r := &vmcRig{VMC: v, cable: &cable{ctx: ctx}}
	r.us, r.other = r.cable.device(v.Serve), r.cable.device(twin.New(twin.Options{Serial: 43}).Serve)
	r.plug()
	return r
}

func (r *vmcRig) process(minted protocol.VendID, open []protocol.Slot) driver {
	return vending.New(r.cable.dial, slog.New(slog.DiscardHandler), vending.Options{DropSensor: true, Minted: minted, Owed: open})
}

func (r *vmcRig) died()                         {} // the kernel closes the line, as an end in good order does
func (r *vmcRig) plug()                         { r.cable.plug(r.us) }
func (r *vmcRig) unplug()                       { r.cable.plug(nil) }
func (r *vmcRig) swap()                         { r.cable.plug(r.other) }
func (r *vmcRig) mute(on bool)                  { r.cable.silence(on) }
func (r *vmcRig) door(open bool)                { r.Adjust(func(c *sim.Cabinet) { c.DoorOpen = open }) }
func (r *vmcRig) starts(slot protocol.Slot) int { return r.Orders(slot) }
func (r *vmcRig) fell(slot protocol.Slot) int   { return r.Fallen(slot) }
func (r *vmcRig) turning() bool                 { return r.Turning() }
func (r *vmcRig) unlocked() bool                { return false } // it has no lock of ours
func (r *vmcRig) complaints() []string          { return r.Broken() }

func (r *vmcRig) troubles() []trouble {
	of := func(name string, f sim.Faults, want protocol.Outcome) trouble {
		t := trouble{name: name, want: want,
			before: func(slot protocol.Slot) { r.SetFaults(slot, f) },
			mend:   func(slot protocol.Slot) { r.SetFaults(slot, sim.Faults{}) }}
		if want == protocol.Dispensed {
			t.pieces = 1
		}
		return t
	}
	refuses := func(name string, check byte) trouble {
		t := of(name, sim.Faults{Check: check}, protocol.Kept)
		t.none = true
		return t
	}
	whole := func(t trouble) trouble { t.whole = true; return t }
	runaway := of("runaway", sim.Faults{Runaway: true}, protocol.Unknown)
	runaway.leaves = protocol.FaultRunaway
	return []trouble{
		runaway,
		of("jam", sim.Faults{Jam: true}, protocol.Kept),
		of("no motor", sim.Faults{NoMotor: true}, protocol.Kept),
		of("nothing falls", sim.Faults{Hang: true}, protocol.Kept),
		of("terminated", sim.Faults{Terminated: true}, protocol.Unknown),
		of("drive lost", sim.Faults{Lost: true}, protocol.Unknown),
		of("drive not acknowledged", sim.Faults{NoAck: true}, protocol.Dispensed),
		of("drive not acknowledged, end not told", sim.Faults{NoAck: true, NoEnd: true}, protocol.Unknown),
		of("acknowledged and never driven", sim.Faults{Idle: true}, protocol.Unknown),
		of("start not told", sim.Faults{NoStart: true}, protocol.Unknown),
		of("end not told", sim.Faults{NoEnd: true}, protocol.Unknown),
		of("end told twice", sim.Faults{Twice: true}, protocol.Dispensed),
		of("end told twice, anew", sim.Faults{TwiceAnew: true}, protocol.Dispensed),
		of("end told too late", sim.Faults{ReportsLate: true}, protocol.Unknown),
		of("end in no document", sim.Faults{OddStatus: 0x27}, protocol.Unknown),
		refuses("no such selection", 0x03),
		refuses("selection paused", 0x04),
		whole(refuses("hatch open", 0x06)),
		{name: "power lost for a second", want: protocol.Unknown,
			during: func(protocol.Slot) { time.AfterFunc(500*time.Millisecond, func() { r.Restart(time.Second) }) }, mend: func(protocol.Slot) {}},
	}
}
