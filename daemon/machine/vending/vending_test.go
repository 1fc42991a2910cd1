package vending_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/machine"
	lines "yaoju/daemon/machine/sim"
	"yaoju/daemon/machine/vending"
	"yaoju/daemon/machine/vending/sim"
	"yaoju/daemon/port"
	"yaoju/daemon/port/pty"
	"yaoju/protocol"
)

// cable joins a driver and a twin in memory, and can be pulled.
type cable struct {
	ctx  context.Context
	twin *sim.VMC

	mu      sync.Mutex
	plugged bool      // guarded by mu, as is all that follows
	line    io.Closer // in use
	served  chan struct{}
	lines   sync.WaitGroup
}

func (c *cable) dial(context.Context) (io.ReadWriteCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.plugged {
		return nil, errors.New("no such device")
	}
	before := c.served
	host, device := lines.Line()
	c.line, c.served = device, make(chan struct{})
	over := c.served
	c.lines.Go(func() {
		defer close(over)
		if before != nil {
			<-before // a board has one connector
		}
		c.twin.Serve(c.ctx, device) // its error says that the line is closed, which the driver sees too
	})
	return host, nil
}

func (c *cable) plug() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plugged = true
}

// whilePlugged calls f unless the cable is out: a choice at the keypad that no
// driver can have heard of is what none can guard against.
func (c *cable) whilePlugged(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plugged {
		f()
	}
}

func (c *cable) pull() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plugged = false
	if c.line != nil {
		c.line.Close()
	}
}

// rig is a driver and its twin on a cable, in virtual time.
type rig struct {
	*testing.T
	*vending.Board
	twin  *sim.VMC
	cable *cable
}

var sensor = vending.Options{DropSensor: true}

func run(t *testing.T, twin sim.Options, opt vending.Options, f func(r rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := rig{T: t, twin: sim.New(twin)}
		r.twin.Adjust(func(c *sim.Cabinet) { c.Celsius, c.Humidity = 21, 45 })
		r.cable = &cable{ctx: ctx, twin: r.twin, plugged: true}
		r.Board = vending.New(r.cable.dial, slog.New(slog.DiscardHandler), opt)
		var g sync.WaitGroup
		g.Go(func() {
			if err := r.Board.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		r.await("up", func(s machine.Status) bool { return s.Up })
		f(r)
		cancel()
		g.Wait()
		r.cable.lines.Wait()
		for _, b := range r.twin.Broken() {
			t.Errorf("the twin objects: %s", b)
		}
	})
}

// await waits for a status that is ok, by the channel that Watch promises.
func (r rig) await(what string, ok func(machine.Status) bool) machine.Status {
	r.Helper()
	limit := time.After(time.Minute)
	for {
		s, stale := r.Watch()
		if ok(s) {
			return s
		}
		select {
		case <-stale:
		case <-limit:
			r.Fatalf("no status that is %s within a minute: %+v", what, s)
		}
	}
}

func (r rig) vend(id protocol.VendID, slot protocol.Slot) protocol.Result {
	r.Helper()
	res, err := r.Vend(r.Context(), id, slot)
	if err != nil {
		r.Fatalf("vend %d in slot %d: %v", id, slot, err)
	}
	return res
}

func has(f protocol.Fault, slot protocol.Slot) func(machine.Status) bool {
	return func(s machine.Status) bool { return slices.Contains(s.Faults, machine.Fault{Fault: f, Slot: slot}) }
}

var (
	dispensed = protocol.Result{Outcome: protocol.Dispensed, Pieces: 1}
	nobody    = protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultUnknownVend}
)

func kept(f protocol.Fault) protocol.Result {
	return protocol.Result{Outcome: protocol.Kept, Cause: f}
}

func open(f protocol.Fault) protocol.Result {
	return protocol.Result{Outcome: protocol.Unknown, Cause: f}
}

func TestVendMeetsFaults(t *testing.T) {
	none := vending.Options{}
	lift := vending.Options{DropSensor: true, Elevator: true}
	for _, tt := range []struct {
		name   string
		opt    vending.Options
		faults sim.Faults
		set    func(*sim.Cabinet)
		want   protocol.Result
		drives int
		fallen int
	}{
		{"good", sensor, sim.Faults{}, nil, dispensed, 1, 1},
		{"no drop sensor", none, sim.Faults{}, nil, nobody, 1, 1},
		{"no drop sensor and no drop", none, sim.Faults{Hang: true}, nil, nobody, 1, 0},
		{"no drop sensor and jam", none, sim.Faults{Jam: true}, nil, open(protocol.FaultNoDrop), 1, 0},
		{"no drop", sensor, sim.Faults{Hang: true}, nil, kept(protocol.FaultNoDrop), 1, 0},
		{"jam", sensor, sim.Faults{Jam: true}, nil, kept(protocol.FaultNoDrop), 1, 0},
		{"no motor", sensor, sim.Faults{NoMotor: true}, nil, kept(protocol.FaultNoMotor), 1, 0},
		{"runaway", sensor, sim.Faults{Runaway: true}, nil, open(protocol.FaultRunaway), 1, 2},
		{"terminated", sensor, sim.Faults{Terminated: true}, nil, open(protocol.FaultInterrupted), 1, 0},
		{"elevator", lift, sim.Faults{}, nil, dispensed, 1, 1},
		{"elevator fails", lift, sim.Faults{LiftFails: true}, nil, open(protocol.FaultElevator), 1, 1},
		{"drive lost", sensor, sim.Faults{Lost: true}, nil, nobody, 0, 0},
		{"drive not acknowledged", sensor, sim.Faults{NoAck: true}, nil, dispensed, 1, 1},
		{"drive not acknowledged, end not told", sensor, sim.Faults{NoAck: true, NoEnd: true}, nil, nobody, 1, 1},
		{"acknowledged and never driven", sensor, sim.Faults{Idle: true}, nil, nobody, 0, 0},
		{"start not told", sensor, sim.Faults{NoStart: true}, nil, nobody, 1, 1},
		{"end not told", sensor, sim.Faults{NoEnd: true}, nil, nobody, 1, 1},
		{"end told twice", sensor, sim.Faults{Twice: true}, nil, dispensed, 1, 1},
		{"end told twice, anew", sensor, sim.Faults{TwiceAnew: true}, nil, dispensed, 1, 1},
		{"end told too late", sensor, sim.Faults{ReportsLate: true}, nil, nobody, 1, 1},
		{"end in no document", sensor, sim.Faults{OddStatus: 0x27}, nil, nobody, 1, 1},
		{"reports of 3 bytes", sensor, sim.Faults{}, func(c *sim.Cabinet) { c.ReportLength = 3 }, dispensed, 1, 1},
		{"reports of 5 bytes", sensor, sim.Faults{}, func(c *sim.Cabinet) { c.ReportLength = 5 }, dispensed, 1, 1},
		{"one PackNO for all", sensor, sim.Faults{}, func(c *sim.Cabinet) { c.SamePack = true }, dispensed, 1, 1},
		{"late polls", sensor, sim.Faults{}, func(c *sim.Cabinet) { c.LatePolls = 0.1 }, dispensed, 1, 1},
		{"slow polls", sensor, sim.Faults{}, func(c *sim.Cabinet) { c.Poll = 500 * time.Millisecond }, dispensed, 1, 1},
		{"no answer to a check", sensor, sim.Faults{}, func(c *sim.Cabinet) { c.NoCheck = true }, dispensed, 1, 1},
		{"out of stock, says the board", sensor, sim.Faults{Check: 0x02}, nil, dispensed, 1, 1},
		{"no such selection", sensor, sim.Faults{Check: 0x03}, nil, kept(protocol.FaultNoMotor), 0, 0},
		{"selection paused", sensor, sim.Faults{Check: 0x04}, nil, kept(protocol.FaultPaused), 0, 0},
		{"hatch open", sensor, sim.Faults{Check: 0x06}, nil, kept(protocol.FaultHatch), 0, 0},
		{"door open", sensor, sim.Faults{}, func(c *sim.Cabinet) { c.DoorOpen = true }, kept(protocol.FaultDoor), 0, 0},
		{"piece in the elevator", lift, sim.Faults{}, func(c *sim.Cabinet) { c.Lift = 1 }, kept(protocol.FaultNotTaken), 0, 0},
		{"elevator's condition unasked", sensor, sim.Faults{}, func(c *sim.Cabinet) { c.Lift = 3 }, dispensed, 1, 1},
		{"not fitted", vending.Options{DropSensor: true, Fitted: []protocol.Slot{1, 2}}, sim.Faults{}, nil, kept(protocol.FaultNoMotor), 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run(t, sim.Options{}, tt.opt, func(r rig) {
				r.twin.Load(5, 5)
				r.twin.SetFaults(5, tt.faults)
				if tt.set != nil {
					r.twin.Adjust(tt.set)
					time.Sleep(5 * time.Second) // conditions are asked after meanwhile
				}
				got := r.vend(1, 5)
				if known, err := r.Result(r.Context(), 1); tt.name != "not fitted" && (err != nil || known != got) {
					t.Errorf("Result: %+v, %v; Vend said %+v", known, err, got)
				}
				if again := r.vend(1, 5); again != got {
					t.Errorf("asked again: %+v, before %+v", again, got)
				}
				if got.Outcome == protocol.Dispensed && (got.RunMS < 2500 || got.RunMS > 9000) {
					t.Errorf("ran %d ms", got.RunMS)
				}
				got.RunMS = 0
				time.Sleep(2 * time.Minute)
				if later, err := r.Result(r.Context(), 1); tt.name != "not fitted" && (err != nil || later.Outcome != got.Outcome || later.Cause != got.Cause) {
					t.Errorf("two minutes later: %+v, %v; before %+v", later, err, got)
				}
				if got != tt.want || r.twin.Drives(5) != tt.drives || r.twin.Orders(5) > 1 || r.twin.Fallen(5) != tt.fallen {
					t.Errorf("got %+v, %d drives of %d ordered, %d fell; want %+v, %d drives, %d fell",
						got, r.twin.Drives(5), r.twin.Orders(5), r.twin.Fallen(5), tt.want, tt.drives, tt.fallen)
				}
			})
		})
	}
}

func TestStatus(t *testing.T) {
	run(t, sim.Options{ID: "0000000177"}, sensor, func(r rig) {
		s, _ := r.Watch()
		if s.Session != 1 || s.Hello != (machine.Hello{Serial: 0xFAFB0000000000B1}) || !s.DropSensorOK || len(s.Faults) != 0 {
			t.Errorf("status: %+v", s)
		}
		if s.Climate != (machine.Climate{OK: true, CentiC: 2100, CentiRH: 4500}) {
			t.Errorf("climate: %+v", s.Climate)
		}
		r.twin.Adjust(func(c *sim.Cabinet) { c.DoorOpen, c.Celsius = true, -3 })
		r.await("open and cold", func(s machine.Status) bool { return s.DoorOpen && s.Climate.CentiC == -300 })
		r.twin.Adjust(func(c *sim.Cabinet) { c.DoorOpen, c.PublishedForm = false, true })
		r.await("closed", func(s machine.Status) bool { return !s.DoorOpen && s.Climate.OK })
		r.twin.Adjust(func(c *sim.Cabinet) { c.NoHumidity = true })
		r.await("without climate", has(protocol.FaultClimate, 0))
		for what, err := range map[string]error{
			"lock": r.Lock(r.Context(), time.Second), "light": r.Light(r.Context(), 50),
			"test": r.TestTurn(r.Context(), 5), "home": r.Home(r.Context(), 5),
		} {
			if !errors.Is(err, machine.ErrUnsupported) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := r.Vend(r.Context(), 0, 5); err == nil {
			t.Error("id 0 was taken")
		}
		if res := r.vend(9, 61); res != kept(protocol.FaultNoMotor) {
			t.Errorf("slot that does not exist: %+v", res)
		}
		if res, err := r.Result(r.Context(), 7); err != nil || res != nobody {
			t.Errorf("a vend of an earlier run: %+v, %v", res, err)
		}
	})
}

// The elevator's troubles stand in the status until they are over.
func TestElevator(t *testing.T) {
	run(t, sim.Options{}, vending.Options{DropSensor: true, Elevator: true}, func(r rig) {
		r.twin.Adjust(func(c *sim.Cabinet) { c.Lift = 2 })
		r.await("at fault", has(protocol.FaultHatch, 0))
		r.twin.Adjust(func(c *sim.Cabinet) { c.Lift = 0 })
		r.await("sound", func(s machine.Status) bool { return len(s.Faults) == 0 })
	})
}

// A runaway stops everything until somebody has looked.
func TestRunawayIsCleared(t *testing.T) {
	run(t, sim.Options{}, sensor, func(r rig) {
		r.twin.Load(5, 5)
		r.twin.Load(6, 5)
		r.twin.SetFaults(5, sim.Faults{Runaway: true})
		r.vend(1, 5)
		r.await("runaway", has(protocol.FaultRunaway, 5))
		if res := r.vend(2, 6); res != kept(protocol.FaultBoardSilent) {
			t.Errorf("with a runaway: %+v", res)
		}
		if res := r.vend(3, 5); res != kept(protocol.FaultRunaway) {
			t.Errorf("with a runaway, there: %+v", res)
		}
		if err := r.Clear(r.Context(), protocol.FaultRunaway); err != nil || r.twin.Cleared() != 1 {
			t.Fatalf("clear: %v, the board cleared %d times", err, r.twin.Cleared())
		}
		r.await("cleared", func(s machine.Status) bool { return len(s.Faults) == 0 })
		if res := r.vend(4, 6); res.Outcome != protocol.Dispensed {
			t.Errorf("in the end: %+v", res)
		}
		if err := r.Clear(r.Context(), protocol.FaultDisk); err == nil {
			t.Error("cleared a fault that is not the board's")
		}
		r.cable.pull()
		r.await("down", func(s machine.Status) bool { return !s.Up })
		if err := r.Clear(r.Context(), protocol.FaultJam); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("clear on a dead line: %v", err)
		}
	})
}

// Ids go up. One that this process has not sent and that is not new may have turned.
func TestIDsGoUp(t *testing.T) {
	run(t, sim.Options{}, sensor, func(r rig) {
		r.twin.Load(5, 99)
		r.vend(7, 5)
		if res := r.vend(6, 5); res != nobody || r.twin.Orders(5) != 1 {
			t.Errorf("an id below: %+v, %d orders", res, r.twin.Orders(5))
		}
		for id := protocol.VendID(8); id < 7+64; id++ {
			r.vend(id, 5)
		}
		if res := r.vend(7, 5); res.Outcome != protocol.Dispensed {
			t.Errorf("the oldest that is remembered: %+v", res)
		}
		r.vend(100, 5)
		if res := r.vend(7, 5); res != nobody || r.twin.Orders(5) != 65 {
			t.Errorf("one that is forgotten: %+v, %d orders", res, r.twin.Orders(5))
		}
	})
}

// What was minted before this process began may have turned then.
func TestMintedBefore(t *testing.T) {
	run(t, sim.Options{}, vending.Options{DropSensor: true, Minted: 7}, func(r rig) {
		r.twin.Load(5, 9)
		if res := r.vend(7, 5); res != nobody || r.twin.Orders(5) != 0 {
			t.Errorf("an id of before: %+v, %d orders", res, r.twin.Orders(5))
		}
		if res := r.vend(8, 5); res.Outcome != protocol.Dispensed {
			t.Errorf("a new one: %+v", res)
		}
	})
}

// The end of one vend, told again, is not the end of the next.
func TestEndToldAgain(t *testing.T) {
	for name, f := range map[string]sim.Faults{"under one PackNO": {Twice: true}, "each with its own": {TwiceAnew: true}} {
		t.Run(name, func(t *testing.T) {
			run(t, sim.Options{}, sensor, func(r rig) {
				r.twin.Load(5, 2)
				r.twin.SetFaults(5, f)
				if res := r.vend(1, 5); res.Outcome != protocol.Dispensed {
					t.Errorf("first: %+v", res)
				}
				r.twin.SetFaults(5, sim.Faults{Lost: true})
				if res := r.vend(2, 5); res != nobody || r.twin.Turns(5) != 1 {
					t.Errorf("second: %+v, %d turns", res, r.twin.Turns(5))
				}
			})
		})
	}
}

// One vend at a time, and none while the fate of the last may still be decided.
func TestOneAtATime(t *testing.T) {
	run(t, sim.Options{}, sensor, func(r rig) {
		r.twin.Load(5, 5)
		r.twin.Load(6, 5)
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if res, err := r.Vend(ctx, 1, 5); !errors.Is(err, context.DeadlineExceeded) || res.Outcome != protocol.Unknown {
			t.Errorf("a caller that leaves: %+v, %v", res, err)
		}
		if res := r.vend(2, 6); res != kept(protocol.FaultBoardSilent) {
			t.Errorf("while the other still turns: %+v", res)
		}
		soon, cancel := context.WithTimeout(r.Context(), 500*time.Millisecond)
		defer cancel()
		if res, err := r.Result(soon, 1); !errors.Is(err, context.DeadlineExceeded) || res.Outcome != protocol.Unknown {
			t.Errorf("result while it turns, in a hurry: %+v, %v", res, err)
		}
		if res, err := r.Result(r.Context(), 1); err != nil || res.Outcome != protocol.Dispensed {
			t.Errorf("result while it turns: %+v, %v", res, err)
		}
		r.twin.SetFaults(5, sim.Faults{NoEnd: true})
		go r.Vend(r.Context(), 3, 5)
		time.Sleep(30 * time.Second)
		if res := r.vend(4, 6); res != kept(protocol.FaultBoardSilent) || r.twin.Orders(6) != 0 {
			t.Errorf("while an end may still be told: %+v", res)
		}
		time.Sleep(20 * time.Second)
		if res := r.vend(5, 6); res.Outcome != protocol.Dispensed {
			t.Errorf("in the end: %+v", res)
		}
	})
}

// The cable is pulled in mid-vend. Back in time, the end is heard; else nobody can
// tell. Either way the motor turns once, and the driver serves again.
func TestUnplugAndReplug(t *testing.T) {
	for _, tt := range []struct {
		out, back time.Duration
		want      protocol.Outcome
	}{
		{2 * time.Second, 2500 * time.Millisecond, protocol.Dispensed},
		{2 * time.Second, 20 * time.Second, protocol.Unknown},
		{100 * time.Millisecond, 900 * time.Millisecond, protocol.Dispensed}, // before it was sent
		{100 * time.Millisecond, 9 * time.Second, protocol.Kept},
	} {
		t.Run(fmt.Sprint(tt.out, "-", tt.back), func(t *testing.T) {
			run(t, sim.Options{}, sensor, func(r rig) {
				r.twin.Load(5, 3)
				r.twin.Load(6, 3)
				time.AfterFunc(tt.out, r.cable.pull)
				time.AfterFunc(tt.back, r.cable.plug)
				if res := r.vend(1, 5); res.Outcome != tt.want || r.twin.Orders(5) > 1 {
					t.Errorf("got %+v, %d orders; want %v", res, r.twin.Orders(5), tt.want)
				}
				s := r.await("up", func(s machine.Status) bool { return s.Up })
				if s.Session != 2 {
					t.Errorf("session %d", s.Session)
				}
				if res := r.vend(2, 6); res.Outcome != protocol.Dispensed {
					t.Errorf("afterwards: %+v", res)
				}
			})
		})
	}
}

// A board without power in mid-vend never tells the end.
func TestBoardRestarts(t *testing.T) {
	run(t, sim.Options{}, sensor, func(r rig) {
		r.twin.Load(5, 3)
		time.AfterFunc(2*time.Second, func() { r.twin.Restart(5 * time.Second) })
		if res := r.vend(1, 5); res != nobody || r.twin.Orders(5) != 1 {
			t.Errorf("got %+v, %d orders", res, r.twin.Orders(5))
		}
		if s := r.await("up", func(s machine.Status) bool { return s.Up }); s.Session != 2 {
			t.Errorf("session %d", s.Session)
		}
		r.twin.Sync()
		r.await("a session more", func(s machine.Status) bool { return s.Up && s.Session == 3 })
		if res := r.vend(2, 5); res != kept(protocol.FaultBoardSilent) {
			t.Errorf("while its end may still be told: %+v", res)
		}
		time.Sleep(3 * time.Minute)
		if res := r.vend(3, 5); res.Outcome != protocol.Dispensed {
			t.Errorf("afterwards: %+v", res)
		}
	})
}

// A board that goes dumb is down after 3 s; one that does not tell its condition is
// never up.
func TestSilence(t *testing.T) {
	run(t, sim.Options{}, sensor, func(r rig) {
		r.twin.Restart(30 * time.Second)
		start := time.Now()
		r.await("down", func(s machine.Status) bool { return !s.Up })
		if d := time.Since(start); d > 4*time.Second {
			t.Errorf("down after %v", d)
		}
		if res := r.vend(1, 5); res != kept(protocol.FaultBoardSilent) {
			t.Errorf("on a dumb board: %+v", res)
		}
		r.await("up", func(s machine.Status) bool { return s.Up })
		r.twin.Adjust(func(c *sim.Cabinet) { c.NoStatus = true })
		r.await("down", func(s machine.Status) bool { return !s.Up })
		time.Sleep(time.Minute)
		if s, _ := r.Watch(); s.Up {
			t.Errorf("up without a condition: %+v", s)
		}
	})
}

// Somebody chooses at the board's own keypad: that is cancelled, and where it is
// too late what fell is a fault and nobody's vend.
func TestKeypad(t *testing.T) {
	run(t, sim.Options{}, sensor, func(r rig) {
		r.twin.Load(5, 9)
		r.twin.Load(6, 9)
		r.twin.Load(7, 9)
		r.twin.Keypad(5)
		time.Sleep(time.Second)
		if res := r.vend(1, 6); res != kept(protocol.FaultBoardSilent) || r.twin.Orders(6) != 0 {
			t.Errorf("right after a choice: %+v", res)
		}
		time.Sleep(time.Minute)
		if res := r.vend(2, 5); res != kept(protocol.FaultBoardSilent) || r.twin.Orders(5) != 0 {
			t.Errorf("what was chosen, while its end may be told: %+v", res)
		}
		time.Sleep(2 * time.Minute)
		if n := r.twin.Turns(5); n != 0 {
			t.Errorf("not cancelled: %d turns", n)
		}
		time.AfterFunc(2*time.Second, func() { r.twin.Keypad(5) }) // while the motor turns
		if res := r.vend(3, 5); res != nobody || r.twin.Drives(5) != 1 {
			t.Errorf("chosen meanwhile: %+v", res)
		}
		time.Sleep(time.Minute)
		if turns, fell := r.twin.Turns(5), r.twin.Fallen(5); turns != 2 || fell != 2 {
			t.Errorf("%d turns, %d fell", turns, fell)
		}
		time.AfterFunc(2*time.Second, func() { r.twin.Keypad(6) })
		if res := r.vend(4, 7); res.Outcome != protocol.Dispensed {
			t.Errorf("another chosen meanwhile: %+v", res)
		}
		r.await("given by itself", has(protocol.FaultSpontaneous, 6))
		if err := r.Clear(r.Context(), protocol.FaultSpontaneous); err != nil {
			t.Fatal(err)
		}
		r.await("cleared", func(s machine.Status) bool { return len(s.Faults) == 0 })
	})
}

// What boards say besides changes nothing.
func TestOtherWords(t *testing.T) {
	run(t, sim.Options{}, sensor, func(r rig) {
		r.twin.Load(5, 9)
		go func() {
			for range 5 {
				r.twin.Restock()
				r.twin.Coin()
				r.twin.Say(0x11, 0, 5, 0, 0, 0, 1, 9, 9, 0, 1, 0) // of a selection: its price and stock
				r.twin.Say(0x04, 2)                               // a report too short
				r.twin.Say(0x04, 2, 0, 5, 0, 0)                   // too long
				r.twin.Say(0x04, 2, 0, 6)                         // of a selection nobody asked for
				r.twin.Say(0x02, 3, 0, 6)                         // answers nobody asked for
				r.twin.Say(0x71, 0x32, 1, 0)
				r.twin.Say(0x52, 1, 2, 3)
				r.twin.Say(0x54)
				r.twin.Say(0x05, 0)
				r.twin.Say(0x99, 1, 2, 3)
				time.Sleep(500 * time.Millisecond)
			}
		}()
		time.Sleep(3 * time.Minute) // what is not sound comes six times
		r.Clear(r.Context(), protocol.FaultSpontaneous)
		if res := r.vend(1, 5); res.Outcome != protocol.Dispensed || r.twin.Orders(5) != 1 {
			t.Errorf("got %+v", res)
		}
		if s, _ := r.Watch(); !s.Up || s.Session != 1 {
			t.Errorf("status: %+v", s)
		}
	})
}

// The progress of a vend never goes back.
func TestProgressOfAVend(t *testing.T) {
	run(t, sim.Options{}, sensor, func(r rig) {
		r.twin.Load(5, 1)
		done := make(chan protocol.Result, 1)
		go func() { done <- r.vend(1, 5) }()
		last, steps := -1, 0
		for over := false; !over; {
			s, stale := r.Watch()
			if m := s.Motion; m.Vend == 1 {
				if m.Percent < last || m.Percent > 100 || m.Slot != 5 {
					t.Errorf("motion %+v after %d percent", m, last)
				}
				last, steps = m.Percent, steps+1
			}
			select {
			case <-stale:
			case <-done:
				over = true
			}
		}
		if last < 80 || steps < 10 {
			t.Errorf("the last of %d steps was %d percent", steps, last)
		}
		if s, _ := r.Watch(); s.Motion != (machine.Motion{}) {
			t.Errorf("motion afterwards: %+v", s.Motion)
		}
	})
}

// Every fault there is, on a line that spoils a twentieth of all frames each way:
// no id drives twice, and what is said is true.
func TestNoise(t *testing.T) {
	outcomes := map[protocol.Outcome]int{}
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 2))
			run(t, sim.Options{Rand: rand.New(rand.NewPCG(seed, 3))}, sensor, func(r rig) {
				for slot := protocol.Slot(1); slot <= protocol.Slots; slot++ {
					r.twin.Load(slot, 100)
				}
				r.twin.Adjust(func(c *sim.Cabinet) {
					c.LatePolls = 0.02
					c.ToBoard = sim.Spoil{Lose: 0.05, Flip: 0.05, Half: 0.05}
					c.ToHost = sim.Spoil{Lose: 0.05, Flip: 0.05, Half: 0.05, Repeat: 0.05, Noise: 0.05}
				})
				for id := protocol.VendID(1); id <= 120; id++ {
					slot := protocol.Slot(1 + rng.IntN(12)) // the same ones again and again
					r.twin.SetFaults(slot, trouble(rng))
					if trap := rng.IntN(30); trap == 0 {
						time.AfterFunc(time.Duration(rng.IntN(5000))*time.Millisecond, func() { r.twin.Restart(time.Second) })
					} else if trap == 1 {
						time.AfterFunc(time.Duration(rng.IntN(5000))*time.Millisecond, r.cable.pull)
						time.AfterFunc(6*time.Second, r.cable.plug)
					} else if trap == 2 {
						time.AfterFunc(time.Duration(rng.IntN(5000))*time.Millisecond, func() { r.cable.whilePlugged(func() { r.twin.Keypad(slot) }) })
					}
					outcomes[r.oneOf(id, slot)]++
				}
			})
		})
	}
	if outcomes[protocol.Dispensed] < 100 || outcomes[protocol.Kept] < 40 || outcomes[protocol.Unknown] < 40 {
		t.Errorf("outcomes %v: not the mixture this test is for", outcomes)
	}
}

// trouble is what is wrong with a slot, in one of two vends.
func trouble(rng *rand.Rand) sim.Faults {
	all := []sim.Faults{{Lost: true}, {NoAck: true}, {Idle: true}, {NoStart: true}, {NoEnd: true}, {Twice: true}, {TwiceAnew: true},
		{Hang: true}, {Jam: true}, {NoMotor: true}, {Runaway: true}, {LiftFails: true}, {Terminated: true}, {OddStatus: 0x27}, {ReportsLate: true}, {Check: 4}}
	if n := rng.IntN(2 * len(all)); n < len(all) {
		return all[n]
	}
	return sim.Faults{}
}

// oneOf makes one vend and holds it against the evidence.
func (r rig) oneOf(id protocol.VendID, slot protocol.Slot) protocol.Outcome {
	r.Helper()
	orders, given := r.twin.Orders(slot), r.twin.Given(slot)
	res := r.vend(id, slot)
	time.Sleep(time.Duration(id%7) * time.Second)
	orders, given = r.twin.Orders(slot)-orders, r.twin.Given(slot)-given
	if orders > 1 || res.Outcome == protocol.Dispensed && given < 1 || res.Outcome == protocol.Kept && given > 0 {
		r.Errorf("vend %d in slot %d: %+v; in truth %d drives, %d fell because of it", id, slot, res, orders, given)
	}
	if later, err := r.Result(r.Context(), id); err != nil || res.Outcome != protocol.Unknown && later != res {
		r.Errorf("vend %d: %+v, and later %+v, %v", id, res, later, err)
	}
	s, _ := r.Watch()
	if has(protocol.FaultRunaway, slot)(s) {
		r.Clear(r.Context(), protocol.FaultRunaway) // on such a line it may fail; then the next one does it
	}
	return res.Outcome
}

// The same through a real pty and the real port: unplug, plug in again.
func TestOverPTY(t *testing.T) {
	const limit = 30 * time.Second // real time: a vend of a fast spiral takes 4 s with its pauses, a reconnect at most 5
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	twin := sim.New(sim.Options{Turn: 300 * time.Millisecond, Reply: time.Second})
	twin.Load(5, 2)
	socket := pty.NewSocket(filepath.Join(t.TempDir(), "board"))
	dial := func(context.Context) (io.ReadWriteCloser, error) { return port.Open(socket.Path(), vending.Baud) }
	b := vending.New(dial, slog.New(slog.DiscardHandler), sensor)
	var g sync.WaitGroup
	defer g.Wait()
	defer cancel()
	g.Go(func() { b.Run(ctx) })
	up := func(want bool) {
		t.Helper()
		for {
			s, stale := b.Watch()
			if s.Up == want {
				return
			}
			select {
			case <-stale:
			case <-ctx.Done():
				t.Fatalf("up is not %v within %v", want, limit)
			}
		}
	}
	for id := protocol.VendID(1); id <= 2; id++ {
		pair, err := socket.Plug()
		if err != nil {
			t.Fatal(err)
		}
		over := make(chan struct{})
		g.Go(func() {
			defer close(over)
			twin.Serve(ctx, pair) // ends when it is unplugged
		})
		up(true)
		if res, err := b.Vend(ctx, id, 5); err != nil || res.Outcome != protocol.Dispensed || twin.Fallen(5) != int(id) {
			t.Errorf("vend %d: %+v, %v, %d fell", id, res, err, twin.Fallen(5))
		}
		if err := socket.Unplug(); err != nil {
			t.Fatal(err)
		}
		<-over
		up(false)
	}
	for _, b := range twin.Broken() {
		t.Errorf("the twin objects: %s", b)
	}
}

// A process before this one left a vend open, whose end the board tells a minute late: it
// is taken for no vend of this process, and the slot gives again when nothing can come
// any more.
func TestOwed(t *testing.T) {
	run(t, sim.Options{}, vending.Options{DropSensor: true, Minted: 3, Owed: []protocol.Slot{5}}, func(r rig) {
		r.twin.Load(5, 9)
		r.twin.Load(6, 9)
		time.AfterFunc(time.Minute, func() { r.twin.Say(0x04, 0x02, 0, 5) })
		refused := protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultBoardSilent}
		time.AfterFunc(61*time.Second, func() {
			if s, _ := r.Watch(); len(s.Faults) > 0 {
				t.Errorf("a late word is no piece that fell by itself: %v", s.Faults)
			}
		})
		for id := protocol.VendID(4); id < 18; id += 2 { // two minutes
			if got := r.vend(id, 5); got != refused {
				t.Errorf("the slot that owes: %+v", got)
			}
			if got := r.vend(id+1, 6); got.Outcome != protocol.Dispensed {
				t.Errorf("another slot: %+v", got)
			}
			time.Sleep(13 * time.Second)
		}
		time.Sleep(time.Minute)
		if got := r.vend(18, 5); got.Outcome != protocol.Dispensed || r.twin.Fallen(5) != 1 {
			t.Errorf("when nothing can come any more: %+v, %d fell", got, r.twin.Fallen(5))
		}
	})
}
