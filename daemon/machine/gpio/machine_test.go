package gpio_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/machine"
	"yaoju/daemon/machine/gpio"
	"yaoju/daemon/machine/gpio/sim"
	"yaoju/protocol"
)

func TestVend(t *testing.T) {
	const slot = 2
	tests := []struct {
		name   string
		faults sim.Faults
		during func(*rig) // 1.2 s after the start
		want   protocol.Outcome
		pieces int
		cause  protocol.Fault
		starts int
		astray bool // ends away from home
	}{
		{name: "plain", want: protocol.Dispensed, pieces: 1, starts: 1},
		{name: "bounce", faults: sim.Faults{Bounce: true}, want: protocol.Dispensed, pieces: 1, starts: 1},
		{name: "late", faults: sim.Faults{Late: 900 * time.Millisecond}, want: protocol.Dispensed, pieces: 1, starts: 1},
		{name: "double", faults: sim.Faults{Double: true}, want: protocol.Dispensed, pieces: 2, cause: protocol.FaultDoubleDrop, starts: 1},
		{name: "double late", faults: sim.Faults{Double: true, Late: 400 * time.Millisecond}, want: protocol.Dispensed, pieces: 2, cause: protocol.FaultDoubleDrop, starts: 1},
		{name: "slow", faults: sim.Faults{Slow: 1.6}, want: protocol.Dispensed, pieces: 1, cause: protocol.FaultSlow, starts: 1},
		{name: "one hangs", faults: sim.Faults{Hang: 1}, want: protocol.Dispensed, pieces: 1, starts: 3},
		{name: "two hang", faults: sim.Faults{Hang: 2}, want: protocol.Dispensed, pieces: 1, starts: 4},
		{name: "nothing falls", faults: sim.Faults{Hang: 9}, want: protocol.Kept, cause: protocol.FaultNoDrop, starts: 4},
		{name: "jam", faults: sim.Faults{Jam: true}, want: protocol.Kept, cause: protocol.FaultRunaway, starts: 1, astray: true},
		{name: "runaway", faults: sim.Faults{Runaway: true}, want: protocol.Dispensed, pieces: 2, cause: protocol.FaultDoubleDrop, starts: 1, astray: true},
		{name: "no motor", faults: sim.Faults{NoMotor: true}, want: protocol.Kept, cause: protocol.FaultStuckHome, starts: 1},
		{name: "stuck home", faults: sim.Faults{StuckHome: true}, want: protocol.Kept, cause: protocol.FaultStuckHome, starts: 1},
		{name: "door opens", during: func(r *rig) { r.plant.Set(func(c *sim.Cabinet) { c.DoorOpen = true }) },
			want: protocol.Kept, cause: protocol.FaultDoorOpened, starts: 1, astray: true},
		{name: "home line breaks", during: func(r *rig) { r.plant.Break(r.cfg.Motors[slot-1].Home) },
			want: protocol.Unknown, cause: protocol.FaultInterrupted, starts: 1, astray: true},
		{name: "curtain line breaks", during: func(r *rig) { r.plant.Break(r.cfg.Curtain) },
			want: protocol.Unknown, cause: protocol.FaultInterrupted, starts: 1, astray: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			on(t, func(t *testing.T, r *rig) {
				r.plant.SetSlot(slot, test.faults)
				if test.during != nil {
					time.AfterFunc(1200*time.Millisecond, func() { test.during(r) })
				}
				got := r.vend(7, slot)
				if got.Outcome != test.want || got.Pieces != test.pieces || got.Cause != test.cause {
					t.Errorf("got %+v, want %v, %d pieces, cause %d", got, test.want, test.pieces, test.cause)
				}
				if test.want == protocol.Dispensed && got.Pieces != r.plant.Fallen(slot) {
					t.Errorf("%d pieces fell, %d are told of", r.plant.Fallen(slot), got.Pieces)
				}
				if n := r.starts(slot); n != test.starts {
					t.Errorf("motor got power %d times, want %d", n, test.starts)
				}
				for _, l := range []gpio.Line{r.cfg.Curtain, r.cfg.Motors[slot-1].Home} {
					r.plant.Mend(l)
				}
				r.until("the lines are up", func(s machine.Status) bool { return s.Up })
				if got := r.has(protocol.FaultNotHome, slot); got != test.astray {
					t.Errorf("NOT_HOME %v, want %v", got, test.astray)
				}
				if r.has(protocol.FaultSpontaneous, 0) {
					t.Error("a piece fell by itself, it says")
				}
				if again := r.vend(7, slot); again != got {
					t.Errorf("the same id again: %+v, want %+v", again, got)
				}
				if res, err := r.Result(t.Context(), 7); err != nil || res != got {
					t.Errorf("result: %+v, %v; want %+v", res, err, got)
				}
				if n := r.starts(slot); n != test.starts {
					t.Errorf("the same id again moved: motor got power %d times, want %d", n, test.starts)
				}
			})
		})
	}
}

func TestRefuses(t *testing.T) {
	tests := []struct {
		name string
		make func(*rig)
		slot protocol.Slot
		want protocol.Fault
	}{
		{name: "no such slot", slot: 40, want: protocol.FaultNoMotor},
		{name: "door", slot: 1, want: protocol.FaultDoor, make: func(r *rig) { r.plant.Set(func(c *sim.Cabinet) { c.DoorOpen = true }) }},
		{name: "dark", slot: 1, want: protocol.FaultDropSensor, make: func(r *rig) { r.plant.Set(func(c *sim.Cabinet) { c.Dark = true }) }},
		{name: "blind", slot: 1, want: protocol.FaultDropSensor, make: func(r *rig) { r.plant.Set(func(c *sim.Cabinet) { c.Blind = true }) }},
		{name: "disk", slot: 1, want: protocol.FaultJournal, make: func(r *rig) { r.disk.set(func(d *drawer) { d.fails = true }) }},
		{name: "dead disk", slot: 1, want: protocol.FaultJournal, make: func(r *rig) { r.disk.set(func(d *drawer) { d.slow = time.Minute }) }},
		{name: "home switch open", slot: 1, want: protocol.FaultNotHome, make: func(r *rig) {
			r.plant.SetSlot(1, sim.Faults{Runaway: true})
			r.push(1, 300*time.Millisecond)
			time.Sleep(2 * time.Second)
		}},
		{name: "latched", slot: 1, want: protocol.FaultRunaway, make: func(r *rig) { r.plant.SetSlot(1, sim.Faults{Jam: true}); r.vend(1, 1) }},
		{name: "latched by another slot", slot: 2, want: protocol.FaultBoardSilent, make: func(r *rig) { r.plant.SetSlot(1, sim.Faults{Jam: true}); r.vend(1, 1) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			on(t, func(t *testing.T, r *rig) {
				if test.make != nil {
					test.make(r)
				}
				before := len(r.plant.Moves())
				if got, want := r.vend(9, test.slot), (protocol.Result{Outcome: protocol.Kept, Cause: test.want}); got != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
				if after := len(r.plant.Moves()); after != before {
					t.Error("a motor moved")
				}
			})
		})
	}
}

// push holds a test turn for a while.
func (r *rig) push(slot protocol.Slot, long time.Duration) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), long)
	defer cancel()
	return r.TestTurn(ctx, slot)
}

func TestHold(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		if err := r.push(1, time.Minute); err != nil {
			t.Errorf("a whole test turn: %v", err)
		}
		if n, s := r.plant.Fallen(1), r.starts(1); n != 1 || s != 1 || r.has(protocol.FaultNotHome, 1) || r.has(protocol.FaultSpontaneous, 0) {
			t.Errorf("after it: %d pieces, %d starts, status %+v", n, s, status(r))
		}
		if err := r.push(1, 700*time.Millisecond); err != nil {
			t.Errorf("let go: %v", err)
		}
		time.Sleep(2 * time.Millisecond)
		if moves := r.plant.Moves(); moves[len(moves)-1].On {
			t.Error("let go, and the motor has power")
		}
		time.Sleep(2 * time.Second) // the watch
		if !r.has(protocol.FaultNotHome, 1) {
			t.Error("let go in mid-turn, and no NOT_HOME")
		}
		var refused *machine.RefusedError
		if err := r.push(1, time.Minute); !errors.As(err, &refused) || refused.Fault != protocol.FaultNotHome {
			t.Errorf("test turn from mid-turn: %v, want NOT_HOME", err)
		}
		if err := r.Home(t.Context(), 1); err != nil || !r.plant.Resting(1) || r.has(protocol.FaultNotHome, 1) {
			t.Errorf("home: %v, status %+v", err, status(r))
		}
		before := r.starts(1)
		if err := r.Home(t.Context(), 1); err != nil || r.starts(1) != before {
			t.Errorf("home from home: %v, and it moved", err)
		}
	})
}

func status(r *rig) machine.Status {
	s, _ := r.Watch()
	return s
}

// TestGhost has another motor turn along with the one that is to, at once and late. Both
// stop before the other spiral lets go of anything, and nothing turns until somebody looked.
func TestGhost(t *testing.T) {
	for _, after := range []time.Duration{0, time.Second, 2200 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			on(t, func(t *testing.T, r *rig) {
				time.AfterFunc(after, func() { r.plant.Set(func(c *sim.Cabinet) { c.Ghost = 2 }) })
				got := r.vend(1, 1)
				fell := r.plant.Fallen(1)
				if got.Cause != protocol.FaultInterrupted && got.Cause != 0 || (got.Outcome == protocol.Dispensed) != (fell == 1) || r.plant.Fallen(2) != 0 {
					t.Errorf("got %+v; %d fell, and %d of the ghost", got, fell, r.plant.Fallen(2))
				}
				if got.Cause == 0 { // it was home before the other was seen to have moved
					got = r.vend(2, 1)
				}
				if !r.has(protocol.FaultShort, 2) || !r.has(protocol.FaultNotHome, 2) {
					t.Errorf("faults %+v", status(r).Faults)
				}
				if got := r.vend(3, 3); got.Outcome != protocol.Kept || got.Cause != protocol.FaultBoardSilent {
					t.Errorf("latched by the ghost, a third slot: %+v", got)
				}
				r.plant.Set(func(c *sim.Cabinet) { c.Ghost = 0 })
				if err := r.Clear(t.Context(), protocol.FaultShort); err != nil {
					t.Error(err)
				}
				for _, slot := range []protocol.Slot{1, 2, 3} { // 3 may share its switch's line with 2
					if err := r.Home(t.Context(), slot); err != nil {
						t.Errorf("home slot %d: %v", slot, err)
					}
				}
				if got := r.vend(4, 2); got.Outcome != protocol.Dispensed {
					t.Errorf("mended: %+v; faults %+v", got, status(r).Faults)
				}
			})
		})
	}
}

func TestLatchOutlivesRestart(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		r.plant.SetSlot(1, sim.Faults{Jam: true})
		r.vend(1, 1)
		r.stop()
		r.dark()
		r.plant.SetSlot(1, sim.Faults{})
		r.boot()
		if got := r.vend(2, 1); got.Cause != protocol.FaultRunaway {
			t.Errorf("after a restart: %+v, want the latch", got)
		}
		if err := r.Clear(t.Context(), protocol.FaultRunaway); err != nil {
			t.Fatal(err)
		}
		if got := r.vend(3, 1); got.Cause != protocol.FaultNotHome {
			t.Errorf("cleared, in mid-turn: %+v, want NOT_HOME", got)
		}
		if err := r.Home(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if got := r.vend(4, 1); got.Outcome == protocol.Unknown {
			t.Errorf("cleared and homed: %+v", got)
		}
	})
}

func TestCabinet(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		if err := r.Lock(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			wait time.Duration
			open bool
		}{{0, true}, {9900 * time.Millisecond, true}, {200 * time.Millisecond, false}} {
			time.Sleep(step.wait)
			if r.plant.On(r.cfg.Lock) != step.open || status(r).LockOpen != step.open {
				t.Errorf("after %v more: coil %v, status %v, want %v", step.wait, r.plant.On(r.cfg.Lock), status(r).LockOpen, step.open)
			}
		}
		r.plant.Set(func(c *sim.Cabinet) { c.DoorOpen = true })
		r.until("the door is open", func(s machine.Status) bool { return s.DoorOpen })
		r.plant.Set(func(c *sim.Cabinet) { c.DoorOpen = false })
		r.until("the door is shut", func(s machine.Status) bool { return !s.DoorOpen })
		if err := r.Light(t.Context(), 100); (err == nil) != (r.cfg.Light != "") || err != nil && !errors.Is(err, machine.ErrUnsupported) || r.plant.On(r.cfg.Light) != (err == nil) {
			t.Errorf("light: %v, lit %v", err, r.plant.On(r.cfg.Light))
		}
		r.plant.Set(func(c *sim.Cabinet) { c.Dark = true })
		r.until("the curtain is stuck", func(s machine.Status) bool { return !s.DropSensorOK })
		r.plant.Set(func(c *sim.Cabinet) { c.Dark = false })
		r.until("the curtain is clear", func(s machine.Status) bool { return s.DropSensorOK })
		if !r.has(protocol.FaultSpontaneous, 0) {
			t.Error("something went through the curtain, and no fault says so")
		}
		if err := r.Clear(t.Context(), protocol.FaultSpontaneous); err != nil || r.has(protocol.FaultSpontaneous, 0) {
			t.Errorf("clear: %v, status %+v", err, status(r))
		}
	})
}

func TestCurtainCounts(t *testing.T) {
	tests := []struct {
		name   string
		shadow []time.Duration // lengths
		gap    time.Duration
		want   int
	}{
		{"a box", []time.Duration{6 * time.Millisecond}, 0, 1},
		{"a slow box", []time.Duration{400 * time.Millisecond}, 0, 1},
		{"sparks", []time.Duration{time.Millisecond, time.Millisecond, time.Millisecond}, 20 * time.Millisecond, 0},
		{"a box with a gap", []time.Duration{4 * time.Millisecond, 4 * time.Millisecond}, 6 * time.Millisecond, 1},
		{"two boxes", []time.Duration{6 * time.Millisecond, 6 * time.Millisecond}, 40 * time.Millisecond, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, single())
				for _, long := range test.shadow {
					r.plant.Throw(long)
					time.Sleep(long + test.gap)
				}
				time.Sleep(time.Second)
				if got := status(r).Odometer.Drops; got != test.want {
					t.Errorf("counted %d, want %d", got, test.want)
				}
				r.stop()
			})
		})
	}
}

// TestShutdown stops the daemon in mid-turn: the vend ends as it would.
func TestShutdown(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		time.AfterFunc(time.Second, r.cancel)
		if got := r.vend(1, 1); got.Outcome != protocol.Dispensed {
			t.Errorf("got %+v", got)
		}
		r.stop()
		if !r.plant.Resting(1) {
			t.Error("the spiral stands in mid-turn")
		}
		if got, err := r.Vend(t.Context(), 2, 1); err != nil || got.Outcome != protocol.Kept || got.Cause != protocol.FaultBoardSilent {
			t.Errorf("a vend after the end: %+v, %v", got, err)
		}
	})
}

func TestTogether(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		first := make(chan protocol.Result)
		go func() { first <- r.vend(1, 1) }()
		time.Sleep(500 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got, err := r.Vend(ctx, 1, 1); err == nil || got.Outcome != protocol.Unknown {
			t.Errorf("the same id, not waited for: %+v, %v", got, err)
		}
		// 3.0 s of turn and settling are left, and the wait is no longer than that.
		got := r.vend(2, 2)
		if a := <-first; a.Outcome != protocol.Dispensed || got.Outcome == protocol.Unknown {
			t.Errorf("first %+v, second %+v", a, got)
		}
	})
}

// TestCrash kills the process at many moments of a vend and asks the next one.
func TestCrash(t *testing.T) {
	for at := time.Duration(0); at < 5*time.Second; at += 71 * time.Millisecond {
		t.Run(at.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, crossed())
				r.disk.set(func(d *drawer) { d.slow = 30 * time.Millisecond })
				before := status(r).Hello
				told := make(chan protocol.Result, 1)
				go func() {
					res, _ := r.Vend(context.WithoutCancel(t.Context()), 5, 1) // killed with the process
					told <- res
				}()
				time.Sleep(at)
				r.crash()
				said := <-told
				time.Sleep(time.Minute) // all that flies has landed
				moved := r.starts(1) > 0
				r.boot()
				after := status(r).Hello
				if after.Serial != before.Serial || after.Highest < before.Highest {
					t.Errorf("memory was %+v, is %+v", before, after)
				}
				got, err := r.Result(t.Context(), 5)
				if err != nil {
					t.Fatal(err)
				}
				fell := r.plant.Fallen(1)
				switch {
				case got.Outcome == protocol.Kept && fell > 0, got.Outcome == protocol.Dispensed && fell != got.Pieces:
					t.Errorf("says %+v, and %d fell", got, fell)
				case got.Outcome == protocol.Kept && moved && got.Cause == protocol.FaultBoardSilent:
					t.Errorf("says it never turned, and it did")
				case got.Outcome == protocol.Unknown && !moved && after.Highest < 5:
					t.Errorf("the memory proves that it never turned, and says %+v", got)
				case said.Outcome == protocol.Dispensed && got.Outcome == protocol.Kept:
					t.Errorf("said %+v before, %+v now", said, got)
				}
				if !r.plant.Resting(1) && !r.has(protocol.FaultNotHome, 1) {
					t.Error("in mid-turn, and no NOT_HOME")
				}
				starts := r.starts(1)
				if again := r.vend(5, 1); again.Outcome == protocol.Dispensed && fell == 0 || r.starts(1) != starts {
					t.Errorf("the same id again: %+v, %d starts more", again, r.starts(1)-starts)
				}
				r.stop()
				r.dark()
			})
		})
	}
}

// TestDamagedMemory: another serial number, so that the ledger orphans open vends.
func TestDamagedMemory(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		r.vend(1, 1)
		before := status(r).Hello
		r.stop()
		r.disk.data[20] ^= 1
		r.boot()
		if after := status(r).Hello; after.Serial == before.Serial || after.Highest != 0 {
			t.Errorf("memory was %+v, is %+v", before, after)
		}
		if got := r.vend(2, 1); got.Cause != protocol.FaultNotHome {
			t.Errorf("got %+v, want NOT_HOME: nobody knows where the spiral stands", got)
		}
	})
}

// TestAnything lets random things go wrong, for many seeds. Whatever happens: an
// outcome never contradicts what fell, and an id moves its motor once.
func TestAnything(t *testing.T) {
	for seed := range uint64(40) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { anything(t, rand.New(rand.NewPCG(seed, 1)), seed) })
		})
	}
}

func anything(t *testing.T, dice *rand.Rand, seed uint64) {
	cfg := single()
	if dice.IntN(2) == 0 {
		cfg = crossed()
	}
	r := newRig(t, cfg)
	chance := func(p float64) bool { return dice.Float64() < p }
	for id := protocol.VendID(1); id <= 12; id++ {
		slot := protocol.Slot(1 + dice.IntN(3))
		f := sim.Faults{Jam: chance(.05), NoMotor: chance(.05), StuckHome: chance(.05), Runaway: chance(.03), Double: chance(.05), Bounce: chance(.5)}
		if chance(.2) {
			f.Hang = 1 + dice.IntN(4)
		}
		if chance(.2) {
			f.Late = time.Duration(dice.IntN(1200)) * time.Millisecond
		}
		r.plant.SetSlot(slot, f)
		r.disk.set(func(d *drawer) {
			d.slow, d.fails = time.Duration(dice.IntN(80))*time.Millisecond, chance(.05)
		})
		crash := chance(.2)
		when := time.Duration(dice.IntN(5000)) * time.Millisecond
		var broke gpio.Line
		if chance(.15) {
			broke = []gpio.Line{cfg.Curtain, cfg.Door, cfg.Emitter, cfg.Motors[slot-1].Home}[dice.IntN(4)]
		}
		open := chance(.1)
		fell, starts := r.plant.Fallen(slot), r.starts(slot)

		told := make(chan protocol.Result, 1)
		go func() {
			res, err := r.Vend(context.WithoutCancel(t.Context()), id, slot)
			if err != nil {
				t.Errorf("seed %d, vend %d: %v", seed, id, err)
			}
			told <- res
		}()
		time.Sleep(when)
		if broke != "" {
			r.plant.Break(broke)
		}
		if open {
			r.plant.Set(func(c *sim.Cabinet) { c.DoorOpen = true })
		}
		if crash {
			r.crash()
		}
		said := <-told
		time.Sleep(5 * time.Second) // all that flies has landed
		if broke != "" {
			r.plant.Mend(broke)
		}
		r.plant.Set(func(c *sim.Cabinet) { *c = sim.Cabinet{} })
		r.disk.set(func(d *drawer) { d.fails = false })
		if crash {
			r.boot()
		}
		r.until("the lines are up", func(s machine.Status) bool { return s.Up })
		got, err := r.Result(t.Context(), id)
		if err != nil {
			t.Fatalf("seed %d, vend %d: %v", seed, id, err)
		}
		fell, starts = r.plant.Fallen(slot)-fell, r.starts(slot)-starts
		switch {
		case !crash && got != said:
			t.Errorf("seed %d, vend %d: said %+v, now %+v", seed, id, said, got)
		case got.Outcome == protocol.Kept && fell > 0, got.Outcome == protocol.Dispensed && fell == 0:
			t.Errorf("seed %d, vend %d: %+v, and %d fell; faults %+v", seed, id, got, fell, f)
		case starts > 4:
			t.Errorf("seed %d, vend %d: motor got power %d times", seed, id, starts)
		case starts > 0 && got.Cause == protocol.FaultBoardSilent:
			t.Errorf("seed %d, vend %d: says it never turned, and it did", seed, id)
		}
		before := r.starts(slot)
		r.vend(id, slot)
		if after := r.starts(slot); after != before {
			t.Errorf("seed %d, vend %d: the same id again moved", seed, id)
		}
		r.mend(slot)
	}
	r.stop()
	r.dark()
}

// mend is a technician's visit.
func (r *rig) mend(slot protocol.Slot) {
	r.t.Helper()
	r.plant.SetSlot(slot, sim.Faults{})
	for _, f := range status(r).Faults {
		if f.Fault < protocol.FaultBoardSilent || f.Fault == protocol.FaultBoardKnows {
			if err := r.Clear(r.t.Context(), f.Fault); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	if err := r.Home(r.t.Context(), slot); err != nil {
		r.t.Fatalf("home slot %d: %v", slot, err)
	}
}
