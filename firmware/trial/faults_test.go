package trial

import (
	"testing"
	"time"

	"yaoju/firmware/elf"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

const slot = protocol.Slot(25)

// words fails the test unless f has its line in the one table of faults.
func words(t *testing.T, f protocol.Fault) {
	t.Helper()
	if info, ok := f.Info(); !ok || info.ZH == "" || info.EN == "" {
		t.Errorf("fault %d has no words", f)
	}
}

// What goes wrong with a spiral, and how a vend of it ends.
func TestSpiralFaults(t *testing.T) {
	for _, tt := range []struct {
		name   string
		faults elf.Faults
		cause  protocol.Fault // 0 is none
		drops  uint8
		starts int           // of the motor
		most   time.Duration // it may run without a pause; 0 is a turn
		home   bool          // it stands at home afterwards
	}{
		{name: "sound", drops: 1, starts: 1, home: true},
		{name: "motor wire off", faults: elf.Faults{NoMotor: true}, cause: protocol.FaultNoMotor, starts: 1, most: 150 * time.Millisecond, home: true},
		{name: "motor shorted", faults: elf.Faults{Short: true}, cause: protocol.FaultShort, starts: 1, most: 20 * time.Millisecond, home: true},
		{name: "stall", faults: elf.Faults{Jam: true}, cause: protocol.FaultJam, starts: 1, most: 1200 * time.Millisecond},
		{name: "home switch stuck", faults: elf.Faults{StuckHome: true}, cause: protocol.FaultStuckHome, starts: 1, most: 950 * time.Millisecond, home: true},
		{name: "home switch bounces", faults: elf.Faults{Bounce: true}, drops: 1, starts: 1, home: true},
		{name: "home never reached", faults: elf.Faults{Runaway: true}, cause: protocol.FaultRunaway, drops: 2, starts: 1, most: 5050 * time.Millisecond},
		{name: "coupling slips", faults: elf.Faults{Hang: 100}, cause: protocol.FaultNoDrop, starts: 4, home: true},
		{name: "product hangs, falls late", faults: elf.Faults{Late: 1200 * time.Millisecond}, drops: 1, starts: 1, home: true},
		{name: "gap between products", faults: elf.Faults{Hang: 1}, drops: 1, starts: 3, home: true},
		{name: "two fall", faults: elf.Faults{Double: true}, cause: protocol.FaultDoubleDrop, drops: 2, starts: 1, home: true},
		{name: "motor slow", faults: elf.Faults{Slow: 1.6}, cause: protocol.FaultSlow, drops: 1, starts: 1, most: 4200 * time.Millisecond, home: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := ready(t, elf.Options{}, board.DefaultConfigure())
			b.Load(slot, 5)
			b.SetFaults(slot, tt.faults)
			s := b.ended(7, slot)
			if protocol.Fault(s.Cause) != tt.cause || s.Drops != tt.drops {
				t.Errorf("cause %d with %d drops, want %d with %d", s.Cause, s.Drops, tt.cause, tt.drops)
			}
			if tt.cause != 0 {
				words(t, tt.cause)
			}
			if n := b.FallenFrom(slot); n != int(s.Drops) {
				t.Errorf("%d fell, and the board saw %d", n, s.Drops)
			}
			if n := b.Starts(slot); n != tt.starts {
				t.Errorf("%d starts, want %d", n, tt.starts)
			}
			most := tt.most
			if most == 0 {
				most = 2600 * time.Millisecond
			}
			if d := b.longest(); d > most {
				t.Errorf("the motor ran %v, allowed are %v", d, most)
			}
			if away := b.status().NotHome.Has(slot); away == tt.home {
				t.Errorf("not home: %v", away)
			}
			// Whatever it was, the board says the same again, now and after a loss of power.
			for range 2 {
				again, ok := b.ask(board.Vend{ID: 7, Slot: slot}).(board.VendState)
				if want := s; !ok || again.State != want.State || again.Cause != want.Cause || again.Drops != want.Drops || again.RunMS != want.RunMS || !again.Repeat {
					t.Errorf("again: %+v, first: %+v", again, s)
				}
				b.pass(storeLimit)
				b.cycle()
			}
			if n := b.Starts(slot); n != tt.starts {
				t.Errorf("%d starts after the same id again, want %d", n, tt.starts)
			}
		})
	}
}

// A pair turns together, and each of its motors stops at its own home.
func TestPair(t *testing.T) {
	c := board.DefaultConfigure()
	c.Coupled = board.Slots(slot)
	for _, tt := range []struct {
		name        string
		left, right elf.Faults
		cause       protocol.Fault
	}{
		{name: "sound"},
		{name: "right is slower", right: elf.Faults{Slow: 1.2}},
		{name: "right is absent", right: elf.Faults{NoMotor: true}, cause: protocol.FaultStuckHome},
		{name: "left is held fast", left: elf.Faults{Jam: true}, cause: protocol.FaultJam},
		{name: "right is shorted", right: elf.Faults{Short: true}, cause: protocol.FaultShort},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := ready(t, elf.Options{}, c)
			b.Load(slot, 2)
			b.SetFaults(slot, tt.left)
			b.SetFaults(slot+1, tt.right)
			if s := b.ended(1, slot); protocol.Fault(s.Cause) != tt.cause {
				t.Errorf("%+v, want cause %d", s, tt.cause)
			}
			if tt.cause == 0 && (b.Turns(slot) != 1 || b.Turns(slot+1) != 1) {
				t.Errorf("%d and %d turns, want one each", b.Turns(slot), b.Turns(slot+1))
			}
		})
	}
}

// What goes wrong with the cabinet: a vend is refused, and no motor moves.
func TestCabinetFaults(t *testing.T) {
	for _, tt := range []struct {
		name   string
		spoil  func(bench)
		reason board.Reason
		mend   func(bench)
	}{
		{"blinded by the sun", func(b bench) { b.SensorBlind(true) }, board.NakDropSensor, func(b bench) { b.SensorBlind(false) }},
		{"sensor dusty, or its wire cut", func(b bench) { b.SensorDark(true) }, board.NakDropSensor, func(b bench) { b.SensorDark(false) }},
		{"door open, or its wire cut", func(b bench) { b.Door(true) }, board.NakDoorOpen, func(b bench) { b.Door(false) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := ready(t, elf.Options{}, board.DefaultConfigure())
			b.Load(slot, 5)
			tt.spoil(b)
			b.pass(50 * time.Millisecond)
			if n, ok := b.ask(board.Vend{ID: 3, Slot: slot}).(board.Nak); !ok || n.Reason != tt.reason {
				t.Errorf("%+v, want NAK %d", n, tt.reason)
			}
			b.pass(2 * time.Second)
			if n := b.Starts(slot); n != 0 {
				t.Errorf("%d starts", n)
			}
			tt.mend(b)
			b.pass(50 * time.Millisecond)
			if s := b.ended(3, slot); s.Drops != 1 { // refused is not known: the id is still good
				t.Errorf("mended: %+v", s)
			}
		})
	}
}

// The door stops a turn at once, and the slot waits for homing.
func TestDoorInMidTurn(t *testing.T) {
	t.Parallel()
	b := ready(t, elf.Options{}, board.DefaultConfigure())
	b.Load(slot, 5)
	b.ask(board.Vend{ID: 1, Slot: slot})
	b.pass(time.Second)
	b.Door(true)
	b.pass(50 * time.Millisecond)
	if m := b.Moves(); len(m) != 2 {
		t.Fatalf("moves %+v, want the motor to have stopped", m)
	}
	b.pass(2 * time.Second)
	if s := b.ask(board.Query{ID: 1}).(board.VendState); s.State != board.StateEnded || protocol.Fault(s.Cause) != protocol.FaultDoorOpened || s.Drops != 0 {
		t.Errorf("%+v", s)
	}
	b.Door(false)
	b.pass(50 * time.Millisecond)
	if n, ok := b.ask(board.Vend{ID: 2, Slot: slot}).(board.Nak); !ok || n.Reason != board.NakNotHome {
		t.Errorf("%+v, want NOT_HOME", n)
	}
	for !b.hold(board.MotionHome, 1) {
		b.pass(100 * time.Millisecond)
	}
	b.pass(storeLimit + board.HoldMS*time.Millisecond)
	if s := b.ended(2, slot); s.Drops != 1 {
		t.Errorf("after homing: %+v", s)
	}
}

// hold keeps a finger on the button for one more frame; true when the motion is over.
func (b bench) hold(m board.Motion, press uint8) bool {
	b.Helper()
	s, ok := b.ask(board.Hold{Slot: slot, Motion: m, Press: press}).(board.StatusIs)
	if !ok {
		b.Fatalf("HOLD was refused")
	}
	return s.Phase == board.PhaseDone
}

// A finger taken off the button stops the motor within 300 ms, door open or not.
func TestLetGo(t *testing.T) {
	t.Parallel()
	b := ready(t, elf.Options{}, board.DefaultConfigure())
	b.Door(true)
	b.pass(50 * time.Millisecond)
	b.hold(board.MotionTest, 1)
	b.pass(200 * time.Millisecond)
	b.hold(board.MotionTest, 1)
	last := b.Now()
	b.pass(2 * time.Second)
	m := b.Moves()
	if len(m) != 2 || m[1].At-last > board.HoldMS*time.Millisecond+10*time.Millisecond {
		t.Errorf("last HOLD at %v, moves %+v", last, m)
	}
}

// A runaway stays latched over a loss of power, until somebody clears it.
func TestRunawayIsLatched(t *testing.T) {
	t.Parallel()
	b := ready(t, elf.Options{}, board.DefaultConfigure())
	b.SetFaults(slot, elf.Faults{Runaway: true})
	b.ended(1, slot)
	for range 2 {
		if n, ok := b.ask(board.Vend{ID: 2, Slot: slot + 1}).(board.Nak); !ok || n.Reason != board.NakLatched || protocol.Fault(n.Fault) != protocol.FaultRunaway {
			t.Errorf("%+v, want LATCHED by RUNAWAY", n)
		}
		b.cycle()
	}
	if s := b.status(); s.LatchedSlot != slot {
		t.Errorf("latched slot %d", s.LatchedSlot)
	}
	b.ask(board.Clear{Fault: uint8(protocol.FaultRunaway)})
	if s := b.ended(2, slot+1); protocol.Fault(s.Cause) != protocol.FaultNoDrop {
		t.Errorf("cleared: %+v", s)
	}
}

// A box that falls while nothing turns is theft or a false trip: it is counted apart.
func TestSpontaneousDrop(t *testing.T) {
	t.Parallel()
	b := ready(t, elf.Options{}, board.DefaultConfigure())
	b.Load(slot, 2)
	b.Spontaneous(slot)
	b.pass(time.Second)
	if s := b.status(); s.Spontaneous != 1 || s.Drops != 1 || s.Turns != 0 {
		t.Errorf("%+v", s)
	}
	b.ask(board.Clear{Fault: uint8(protocol.FaultSpontaneous)})
	if s := b.status(); s.Spontaneous != 0 || s.Drops != 1 {
		t.Errorf("cleared: %+v", s)
	}
}

// An EEPROM that takes nothing: no record, no motor, and the board says so.
func TestJournalFails(t *testing.T) {
	t.Parallel()
	b := ready(t, elf.Options{}, board.DefaultConfigure())
	b.Load(slot, 2)
	b.JournalFails(true)
	s := b.ended(1, slot)
	if protocol.Fault(s.Cause) != protocol.FaultJournal || b.Starts(slot) != 0 {
		t.Errorf("%+v, %d starts", s, b.Starts(slot))
	}
	if n, ok := b.ask(board.Vend{ID: 2, Slot: slot}).(board.Nak); !ok || n.Reason != board.NakJournal {
		t.Errorf("%+v, want JOURNAL", n)
	}
	if !b.status().JournalBad {
		t.Error("the status does not say so")
	}
	b.JournalFails(false)
	b.ask(board.Clear{Fault: uint8(protocol.FaultJournal)})
	if s := b.ended(2, slot); s.Drops != 1 {
		t.Errorf("mended: %+v", s)
	}
}

// Without a sensor, or with one that talks nonsense, there is no reading: not a zero.
func TestClimate(t *testing.T) {
	t.Parallel()
	b := ready(t, elf.Options{}, board.DefaultConfigure())
	b.Climate(true, -525, 4550)
	b.pass(15 * time.Second)
	near := func(got, want int) bool { return got >= want-1 && got <= want+1 }
	if s := b.status(); !s.Climate || !near(int(s.CentiC), -525) || !near(int(s.CentiRH), 4550) {
		t.Errorf("%+v", s)
	}
	for name, f := range map[string]func(){"absent": func() { b.Climate(false, 0, 0) }, "wrong checksums": b.ClimateDamaged} {
		f()
		b.pass(20 * time.Second)
		if s := b.status(); s.Climate || s.CentiC != 0 || s.CentiRH != 0 {
			t.Errorf("%s: %+v", name, s)
		}
		b.Climate(true, 2150, 4500)
		b.pass(20 * time.Second)
		if s := b.status(); !s.Climate || !near(int(s.CentiC), 2150) {
			t.Errorf("after %s: %+v", name, s)
		}
	}
}

// Power that dips when the motor starts: interrupted, and the next boot knows why.
func TestBrownOutAtMotorStart(t *testing.T) {
	t.Parallel()
	b := ready(t, elf.Options{}, board.DefaultConfigure())
	b.Load(slot, 2)
	b.ask(board.Vend{ID: 1, Slot: slot})
	for len(b.Moves()) == 0 {
		b.pass(time.Millisecond)
	}
	b.BrownOut()
	b.pass(bootLimit)
	h := b.ask(board.Hello{Proto: board.Version}).(board.HelloIs)
	if h.ResetCause != board.ResetBrownOut || h.Boot != 2 || h.Highest != 1 {
		t.Errorf("%+v", h)
	}
	if s := b.ask(board.Query{ID: 1}).(board.VendState); s.State != board.StateInterrupted || protocol.Fault(s.Cause) != protocol.FaultInterrupted {
		t.Errorf("%+v", s)
	}
	b.pass(5 * time.Second)
	if n := b.Starts(slot); n != 1 {
		t.Errorf("%d starts", n)
	}
}

// Without a host the board locks and dims, and a turn in progress ends as it would have.
func TestHostFallsSilent(t *testing.T) {
	t.Parallel()
	b := ready(t, elf.Options{}, board.DefaultConfigure())
	b.Load(slot, 5)
	b.ask(board.Light{Percent: 80})
	b.ask(board.Lock{OpenMS: board.MaxLockMS})
	b.SetFaults(slot, elf.Faults{Hang: 100}) // a long vend: it goes on after the host is given up
	b.ask(board.Vend{ID: 1, Slot: slot})
	silent := b.Now()
	b.Silent(true)
	b.pass(20 * time.Second)
	if l := b.Light(); l != board.DimPercent {
		t.Errorf("light %d", l)
	}
	locked := b.Unlocked()
	if d := locked[0].To - silent; d < 4900*time.Millisecond || d > 5100*time.Millisecond {
		t.Errorf("locked %v after the last frame", d)
	}
	b.Silent(false)
	if s := b.ask(board.Query{ID: 1}).(board.VendState); s.State != board.StateEnded || protocol.Fault(s.Cause) != protocol.FaultNoDrop {
		t.Errorf("%+v", s)
	}
}

// The lock's coil never has power for longer than it was given.
func TestLock(t *testing.T) {
	t.Parallel()
	b := ready(t, elf.Options{}, board.DefaultConfigure())
	b.ask(board.Lock{OpenMS: 3000})
	for range 8 {
		b.pass(time.Second)
		b.ask(board.Ping{})
	}
	l := b.Unlocked()
	if len(l) != 1 || l[0].To-l[0].From < 2990*time.Millisecond || l[0].To-l[0].From > 3010*time.Millisecond {
		t.Errorf("open %+v", l)
	}
	if n, ok := b.ask(board.Lock{OpenMS: board.MaxLockMS + 1}).(board.Nak); !ok || n.Reason != board.NakBadValue {
		t.Errorf("%+v", n)
	}
}
