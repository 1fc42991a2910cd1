package trial

import (
	"testing"
	"time"

	"yaoju/firmware/elf"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// A program that hangs in mid-turn: the watchdog resets it within its half second,
// the motor loses power then, and the vend comes back as interrupted.
func TestHungProgram(t *testing.T) {
	t.Parallel()
	b := ready(t, elf.Options{}, board.DefaultConfigure())
	b.Load(slot, 5)
	b.ask(board.Vend{ID: 1, Slot: slot})
	b.pass(time.Second)
	if err := b.Hang("board_poll"); err != nil {
		t.Fatal(err)
	}
	hung := b.Now()
	b.pass(2 * time.Second)
	r := b.Restarts()
	if len(r) != 1 || r[0].Flags != 8 || r[0].At-hung > 600*time.Millisecond {
		t.Fatalf("hung at %v, restarts %+v, want one by the watchdog", hung, r)
	}
	if m := b.Moves(); len(m) != 2 || m[1].At > r[0].At+time.Millisecond {
		t.Errorf("moves %+v", m)
	}
	h := b.ask(board.Hello{Proto: board.Version}).(board.HelloIs)
	if h.ResetCause != board.ResetWatchdog || h.Boot != 2 || h.Highest != 1 || h.ConfigHash == 0 {
		t.Errorf("%+v", h)
	}
	s := b.ask(board.Vend{ID: 1, Slot: slot}).(board.VendState)
	if s.State != board.StateInterrupted || protocol.Fault(s.Cause) != protocol.FaultInterrupted || !s.Repeat {
		t.Errorf("%+v", s)
	}
	if st := b.status(); !st.NotHome.Has(slot) || st.Turns != 1 {
		t.Errorf("%+v", st)
	}
	if n := b.Starts(slot); n != 1 {
		t.Errorf("%d starts", n)
	}
}

// The main loop hangs just before the motor's limit: the interrupt alone cuts it, on
// time, and the watchdog comes after.
func TestInterruptCutsTheMotorOfAHungProgram(t *testing.T) {
	t.Parallel()
	c := board.DefaultConfigure()
	b := ready(t, elf.Options{}, c)
	b.SetFaults(slot, elf.Faults{Runaway: true})
	b.ask(board.Vend{ID: 1, Slot: slot})
	for len(b.Moves()) == 0 {
		b.pass(time.Millisecond)
	}
	b.pass(time.Duration(c.TurnMS)*time.Millisecond - 100*time.Millisecond)
	if err := b.Hang("board_poll"); err != nil {
		t.Fatal(err)
	}
	b.pass(time.Second)
	m, r := b.Moves(), b.Restarts()
	if len(m) != 2 || m[1].Ran > cutLimit(c) || len(r) != 1 || r[0].At <= m[1].At {
		t.Errorf("moves %+v, restarts %+v", m, r)
	}
	if s := b.ask(board.Query{ID: 1}).(board.VendState); s.State != board.StateInterrupted {
		t.Errorf("%+v", s)
	}
}

// cutLimit is when the tick takes a motor's power away, 50 ms behind the program.
func cutLimit(c board.Configure) time.Duration {
	return time.Duration(c.TurnMS+50)*time.Millisecond + 5*time.Millisecond
}

// The same with a program that lives, and whose watchdog is fed, but that has lost
// the part which would stop the motor.
func TestInterruptAloneCutsTheMotor(t *testing.T) {
	t.Parallel()
	c := board.DefaultConfigure()
	b := ready(t, elf.Options{}, c)
	b.SetFaults(slot, elf.Faults{Runaway: true})
	b.ask(board.Vend{ID: 1, Slot: slot})
	b.pass(time.Second)
	if err := b.Bypass("motion_poll"); err != nil {
		t.Fatal(err)
	}
	b.pass(10 * time.Second)
	if m := b.Moves(); len(m) != 2 || m[1].Ran > cutLimit(c) || m[1].Ran < cutLimit(c)-10*time.Millisecond {
		t.Errorf("moves %+v, want the motor to run %v", m, cutLimit(c))
	}
	if len(b.Restarts()) != 0 {
		t.Errorf("restarts %+v: this is not what was to be shown", b.Restarts())
	}
}

// The same for the lock's coil.
func TestInterruptAloneCutsTheLock(t *testing.T) {
	t.Parallel()
	b := ready(t, elf.Options{}, board.DefaultConfigure())
	b.ask(board.Lock{OpenMS: 3000})
	if err := b.Bypass("board_poll"); err != nil {
		t.Fatal(err)
	}
	b.pass(10 * time.Second)
	if l := b.Unlocked(); len(l) != 1 || l[0].To-l[0].From > 3005*time.Millisecond {
		t.Errorf("open %+v", l)
	}
}
