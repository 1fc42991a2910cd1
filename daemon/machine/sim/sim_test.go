package sim_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/machine/sim"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// host asks the twin directly, one frame a question.
type host struct {
	t    *testing.T
	line io.ReadWriteCloser
	in   *board.Reader
	seq  uint8
}

// bench runs f in virtual time with a host at the board's line.
func bench(t *testing.T, opt sim.Options, f func(h *host, b *sim.Board)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := sim.New(opt)
		near, far := sim.Line()
		served := make(chan error, 1)
		go func() { served <- b.Serve(t.Context(), far) }()
		f(&host{t: t, line: near, in: board.NewReader(near)}, b)
		near.Close()
		if err := <-served; err != io.EOF {
			t.Errorf("Serve ended with %v, want EOF", err)
		}
	})
}

func (h *host) ask(m board.Message) board.Message {
	h.t.Helper()
	h.seq++
	return h.askAs(h.seq, m)
}

func (h *host) askAs(seq uint8, m board.Message) board.Message {
	h.t.Helper()
	if _, err := h.line.Write(board.Append([]byte{0}, seq, m)); err != nil {
		h.t.Fatal(err)
	}
	f, err := h.in.Next()
	if err != nil {
		h.t.Fatal(err)
	}
	if f.Seq != seq {
		h.t.Fatalf("%T: seq %d answered as %d", m, seq, f.Seq)
	}
	got, err := f.Parse()
	if err != nil {
		h.t.Fatal(err)
	}
	return got
}

func (h *host) status() board.StatusIs { h.t.Helper(); return h.statusOf(board.Status{}) }

// statusOf asks m, which must not be refused.
func (h *host) statusOf(m board.Message) board.StatusIs {
	h.t.Helper()
	s, ok := h.ask(m).(board.StatusIs)
	if !ok {
		h.t.Fatalf("%+v was refused", m)
	}
	return s
}

func (h *host) state(id protocol.VendID) board.VendState {
	h.t.Helper()
	return h.ask(board.Query{ID: id}).(board.VendState)
}

// vend starts a vend and returns its end.
func (h *host) vend(id protocol.VendID, slot protocol.Slot) board.VendState {
	h.t.Helper()
	m := h.ask(board.Vend{ID: id, Slot: slot})
	s, ok := m.(board.VendState)
	if !ok {
		h.t.Fatalf("VEND %d slot %d: %+v", id, slot, m)
	}
	for ; s.State == board.StateRunning; s = h.state(id) {
		time.Sleep(50 * time.Millisecond)
	}
	return s
}

// Every fault ends a vend as the header of protocol/board says.
func TestVendEnds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		load   int
		faults sim.Faults
		during func(b *sim.Board) // one second into the vend
		cause  protocol.Fault
		drops  int
		run    time.Duration // of the motor
		home   bool          // the slot may vend again
		fallen int           // truth, a minute later
	}{
		{name: "good", load: 3, drops: 1, run: 2500 * time.Millisecond, home: true, fallen: 1},
		{name: "empty slot: turn, half, half and one more to home", cause: protocol.FaultNoDrop, run: 7500 * time.Millisecond, home: true},
		{name: "gap: found by the second half-turn", load: 2, faults: sim.Faults{Hang: 1}, drops: 1, run: 5 * time.Second, home: true, fallen: 1},
		{name: "gap of two: found by the third", load: 2, faults: sim.Faults{Hang: 2}, drops: 1, run: 7500 * time.Millisecond, home: true, fallen: 1},
		{name: "two at once", load: 3, faults: sim.Faults{Double: true}, cause: protocol.FaultDoubleDrop, drops: 2, run: 2500 * time.Millisecond, home: true, fallen: 2},
		{name: "late, within the watch", load: 3, faults: sim.Faults{Late: 1300 * time.Millisecond}, drops: 1, run: 2500 * time.Millisecond, home: true, fallen: 1},
		{name: "late, after the watch", load: 1, faults: sim.Faults{Late: 20 * time.Second}, cause: protocol.FaultNoDrop, run: 7500 * time.Millisecond, home: true, fallen: 1},
		{name: "late, while half a turn runs: home again without a pause", load: 1, faults: sim.Faults{Late: 2 * time.Second}, drops: 1, run: 5 * time.Second, home: true, fallen: 1},
		{name: "jam", load: 3, faults: sim.Faults{Jam: true}, cause: protocol.FaultJam, run: 1120 * time.Millisecond},
		{name: "no motor", load: 3, faults: sim.Faults{NoMotor: true}, cause: protocol.FaultNoMotor, run: 120 * time.Millisecond, home: true},
		{name: "home switch stuck", load: 3, faults: sim.Faults{StuckHome: true}, cause: protocol.FaultStuckHome, run: 900 * time.Millisecond, home: true},
		{name: "runaway: cut off, two pieces on the way", load: 3, faults: sim.Faults{Runaway: true}, cause: protocol.FaultRunaway, drops: 2, run: 5 * time.Second, fallen: 2},
		{name: "short circuit, within the inrush", load: 3, faults: sim.Faults{Short: true}, cause: protocol.FaultShort, run: 5 * time.Millisecond, home: true},
		{name: "slow", load: 3, faults: sim.Faults{Slow: 1.5}, cause: protocol.FaultSlow, drops: 1, run: 3750 * time.Millisecond, home: true, fallen: 1},
		{name: "door opened", load: 3, during: func(b *sim.Board) { b.Adjust(func(c *sim.Cabinet) { c.DoorOpen = true }) },
			cause: protocol.FaultDoorOpened, run: time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bench(t, sim.Options{}, func(h *host, b *sim.Board) {
				b.Load(5, tt.load)
				b.SetFaults(5, tt.faults)
				if tt.during != nil {
					time.AfterFunc(time.Second+64*time.Millisecond, func() { tt.during(b) })
				}
				got := h.vend(9, 5)
				want := board.VendState{ID: 9, Slot: 5, State: board.StateEnded, Repeat: true, Cause: uint8(tt.cause), Drops: uint8(tt.drops),
					RunMS: uint16(tt.run.Milliseconds()), DropMS: got.DropMS}
				if got != want || (got.DropMS > 0) != (tt.drops > 0) {
					t.Errorf("got  %+v\nwant %+v", got, want)
				}
				if s := h.status(); s.NotHome.Has(5) == tt.home {
					t.Errorf("not home: %v", s.NotHome.List())
				}
				time.Sleep(time.Minute)
				if b.Turns(9) != 1 || b.Fallen(9) != tt.fallen || b.Pieces(5) != tt.load-tt.fallen {
					t.Errorf("turned %d times, %d fell, %d left", b.Turns(9), b.Fallen(9), b.Pieces(5))
				}
			})
		})
	}
}

// Before motion come the refusals, each alone.
func TestRefusals(t *testing.T) {
	vend := board.Vend{ID: 100, Slot: 5}
	nak := func(r board.Reason) board.Nak { return board.Nak{Reason: r} }
	for _, tt := range []struct {
		name string
		set  func(h *host, b *sim.Board)
		ask  board.Message
		want board.Message
	}{
		{"id 0", nil, board.Vend{Slot: 5}, nak(board.NakBadValue)},
		{"query of id 0", nil, board.Query{}, nak(board.NakBadValue)},
		{"slot 0", nil, board.Vend{ID: 1}, nak(board.NakBadSlot)},
		{"slot 61", nil, board.Vend{ID: 1, Slot: 61}, nak(board.NakBadSlot)},
		{"not fitted", func(h *host, b *sim.Board) {
			c := board.DefaultConfigure()
			c.Fitted = board.Slots(1)
			h.ask(c)
		}, vend, nak(board.NakBadSlot)},
		{"right half of a pair", func(h *host, b *sim.Board) {
			c := board.DefaultConfigure()
			c.Coupled = board.Slots(4)
			h.ask(c)
		}, vend, nak(board.NakBadSlot)},
		{"stale", func(h *host, b *sim.Board) { h.vend(101, 6) }, vend, nak(board.NakStale)},
		{"busy", func(h *host, b *sim.Board) { h.ask(board.Vend{ID: 1, Slot: 6}) }, vend, nak(board.NakBusy)},
		{"configure while busy", func(h *host, b *sim.Board) { h.ask(board.Vend{ID: 1, Slot: 6}) }, board.DefaultConfigure(), nak(board.NakBusy)},
		{"test while busy", func(h *host, b *sim.Board) { h.ask(board.Vend{ID: 1, Slot: 6}) }, board.Hold{Slot: 5, Motion: board.MotionTest}, nak(board.NakBusy)},
		{"door", func(h *host, b *sim.Board) { b.Adjust(func(c *sim.Cabinet) { c.DoorOpen = true }) }, vend, nak(board.NakDoorOpen)},
		{"sensor dark", func(h *host, b *sim.Board) { b.Adjust(func(c *sim.Cabinet) { c.SensorDark = true }) }, vend, nak(board.NakDropSensor)},
		{"sensor blind", func(h *host, b *sim.Board) { b.Adjust(func(c *sim.Cabinet) { c.SensorBlind = true }) }, vend, nak(board.NakDropSensor)},
		{"journal", func(h *host, b *sim.Board) {
			b.Adjust(func(c *sim.Cabinet) { c.JournalFails = true })
			if s := h.vend(1, 6); s.State != board.StateEnded || protocol.Fault(s.Cause) != protocol.FaultJournal || b.Turns(1) != 0 {
				h.t.Errorf("without a journal: %+v, %d turns", s, b.Turns(1))
			}
		}, vend, nak(board.NakJournal)},
		{"latched", func(h *host, b *sim.Board) {
			b.SetFaults(6, sim.Faults{Runaway: true})
			h.vend(1, 6)
			b.Reset(board.ResetPower) // does not help
			time.Sleep(time.Second)
		}, vend, board.Nak{Reason: board.NakLatched, Fault: uint8(protocol.FaultRunaway)}},
		{"homing while latched", func(h *host, b *sim.Board) {
			b.SetFaults(6, sim.Faults{Runaway: true})
			h.vend(1, 6)
		}, board.Hold{Slot: 5, Motion: board.MotionHome}, board.Nak{Reason: board.NakLatched, Fault: uint8(protocol.FaultRunaway)}},
		{"not home", func(h *host, b *sim.Board) {
			b.SetFaults(5, sim.Faults{Jam: true})
			h.vend(1, 5)
			b.SetFaults(5, sim.Faults{})
		}, vend, nak(board.NakNotHome)},
		{"test from mid-turn", func(h *host, b *sim.Board) {
			b.SetFaults(5, sim.Faults{Jam: true})
			h.vend(1, 5)
		}, board.Hold{Slot: 5, Motion: board.MotionTest}, nak(board.NakNotHome)},
		{"hold for a vend", nil, board.Hold{Slot: 5, Motion: board.MotionVend}, nak(board.NakBadValue)},
		{"too bright", nil, board.Light{Percent: 101}, nak(board.NakBadValue)},
		{"lock open too long", nil, board.Lock{OpenMS: board.MaxLockMS + 1}, nak(board.NakBadValue)},
		{"configuration that cannot be", nil, board.Configure{}, nak(board.NakBadValue)},
		{"restart with another key", nil, board.Restart{Key: board.RestartKey + 1}, nak(board.NakBadValue)},
		{"restart while a vend is in hand", func(h *host, b *sim.Board) { h.ask(board.Vend{ID: 1, Slot: 6}) }, board.Restart{Key: board.RestartKey}, nak(board.NakBusy)},
		{"an answer", nil, board.Pong{}, nak(board.NakBadMsg)},
		{"ping", nil, board.Ping{}, board.Pong{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bench(t, sim.Options{}, func(h *host, b *sim.Board) {
				time.Sleep(time.Second)
				b.Load(5, 5)
				if tt.set != nil {
					tt.set(h, b)
				}
				turns := b.Status().Turns
				if got := h.ask(tt.ask); got != tt.want {
					t.Errorf("%+v: got %+v, want %+v", tt.ask, got, tt.want)
				}
				if b.Turns(100) != 0 || b.Status().Turns != turns {
					t.Error("a refusal moved a motor")
				}
			})
		})
	}
}

// A known id is answered from memory, a forgotten or skipped one refused.
func TestMemory(t *testing.T) {
	bench(t, sim.Options{Keep: 3}, func(h *host, b *sim.Board) {
		b.Load(1, 9)
		first := h.askAs(200, board.Vend{ID: 10, Slot: 1}).(board.VendState)
		again := h.askAs(200, board.Vend{ID: 10, Slot: 1}).(board.VendState)
		other := h.askAs(201, board.Vend{ID: 10, Slot: 1}).(board.VendState)
		if first.Repeat || again.Repeat || !other.Repeat {
			t.Errorf("repeat: %v, the same frame %v, a new frame %v; want false, false, true", first.Repeat, again.Repeat, other.Repeat)
		}
		done := h.vend(10, 1)
		for _, slot := range []protocol.Slot{1, 2} {
			if got := h.ask(board.Vend{ID: 10, Slot: slot}); got != done {
				t.Errorf("asked again for slot %d: %+v, want %+v", slot, got, done)
			}
		}
		b.Reset(board.ResetWatchdog)
		time.Sleep(time.Second)
		if got := h.state(10); got != done {
			t.Errorf("after a reset %+v, want %+v", got, done)
		}
		for _, id := range []protocol.VendID{12, 13, 20} {
			h.vend(id, 1)
		}
		for id, want := range map[protocol.VendID]board.State{
			10: board.StateForgotten, 11: board.StateForgotten, 12: board.StateEnded, 14: board.StateSkipped, 20: board.StateEnded, 21: board.StateNone,
		} {
			if got := h.state(id); got.State != want || !got.Repeat {
				t.Errorf("id %d: %+v, want state %d", id, got, want)
			}
		}
		for _, id := range []protocol.VendID{10, 14} {
			if got := h.ask(board.Vend{ID: id, Slot: 1}); got != (board.Nak{Reason: board.NakStale}) {
				t.Errorf("VEND %d: %+v", id, got)
			}
		}
		if got := h.ask(board.Hello{Proto: 1}).(board.HelloIs); got.Highest != 20 || got.ResetCause != board.ResetWatchdog || got.Boot != 2 {
			t.Errorf("hello: %+v", got)
		}
	})
}

// Wherever power is lost, the motor starts at most once, and what the journal says is true.
func TestPowerCuts(t *testing.T) {
	for _, tt := range []struct {
		step         sim.Step
		state        board.State
		drops        uint8
		turns, falls int
		notHome      bool
	}{
		{sim.BeforeStore, board.StateNone, 0, 0, 0, false},
		{sim.AfterStore, board.StateInterrupted, 0, 0, 0, true},
		{sim.MidTurn, board.StateInterrupted, 0, 1, 0, true},
		{sim.AfterDrop, board.StateInterrupted, 0, 1, 1, true},
		{sim.BeforeEnd, board.StateInterrupted, 1, 1, 1, true},
	} {
		for _, cause := range []board.ResetCause{board.ResetPower, board.ResetWatchdog} {
			t.Run(fmt.Sprint(tt.step, "/", cause), func(t *testing.T) {
				bench(t, sim.Options{}, func(h *host, b *sim.Board) {
					b.Load(7, 3)
					b.CutAt(tt.step, cause, time.Millisecond)
					if _, err := h.line.Write(board.Append(nil, 1, board.Vend{ID: 3, Slot: 7})); err != nil {
						t.Fatal(err)
					}
					if tt.step != sim.BeforeStore {
						h.in.Next() // the answer, which came before the cut
					}
					time.Sleep(10 * time.Second)
					got := h.state(3)
					if got.State != tt.state || got.Drops != tt.drops || b.Turns(3) != tt.turns || b.Fallen(3) != tt.falls {
						t.Errorf("got %+v, %d turns, %d fell", got, b.Turns(3), b.Fallen(3))
					}
					if s := h.status(); s.NotHome.Has(7) != tt.notHome {
						t.Errorf("not home: %v", s.NotHome.List())
					}
					if hello := h.ask(board.Hello{Proto: 1}).(board.HelloIs); hello.ResetCause != cause || hello.Boot != 2 {
						t.Errorf("hello: %+v", hello)
					}
				})
			})
		}
	}
}

// A held motion ends 300 ms after the last HOLD, and homing mends what that leaves.
func TestHold(t *testing.T) {
	bench(t, sim.Options{}, func(h *host, b *sim.Board) {
		b.Load(5, 2)
		press := func(motion board.Motion, n uint8, d time.Duration) (s board.StatusIs) {
			for start := time.Now(); time.Since(start) <= d; time.Sleep(100 * time.Millisecond) {
				s = h.statusOf(board.Hold{Slot: 5, Motion: motion, Press: n})
			}
			return s
		}
		moving := func() bool { return h.status().CurrentMA > 0 }

		press(board.MotionTest, 1, 500*time.Millisecond)
		time.Sleep(199 * time.Millisecond) // 299 since the last frame
		if !moving() {
			t.Error("stopped early")
		}
		time.Sleep(2 * time.Millisecond)
		if moving() {
			t.Error("still turning 301 ms after the last HOLD")
		}
		time.Sleep(3 * time.Second)
		if s := h.status(); s.Motion != board.MotionNone || !s.NotHome.Has(5) {
			t.Errorf("after letting go: %+v", s)
		}
		if s := press(board.MotionTest, 1, 0); s.Motion != board.MotionNone {
			t.Errorf("the press that is over moves again: %+v", s)
		}
		if s := press(board.MotionHome, 2, 5*time.Second); s.Phase != board.PhaseDone || s.Cause != 0 || s.NotHome.Has(5) {
			t.Errorf("homing: %+v", s)
		}
		time.Sleep(time.Second)
		if s := press(board.MotionTest, 3, 30*time.Second); s.Phase != board.PhaseDone || s.Cause != 0 {
			t.Errorf("test turn: %+v", s)
		}
		if got := b.FallenFrom(5); got != 2 { // one while homing, one for one press however long
			t.Errorf("%d pieces fell", got)
		}
		if s := h.status(); s.Spontaneous != 0 || s.Drops != 2 || s.Turns != 2 {
			t.Errorf("counters: %+v", s)
		}
	})
}

// A runaway needs CLEAR, then homing works again once it is mended.
func TestClear(t *testing.T) {
	bench(t, sim.Options{}, func(h *host, b *sim.Board) {
		b.SetFaults(8, sim.Faults{Runaway: true})
		h.vend(1, 8)
		b.SetFaults(8, sim.Faults{})
		if s := h.status(); protocol.Fault(s.Latched) != protocol.FaultRunaway || s.LatchedSlot != 8 {
			t.Errorf("latched: %+v", s)
		}
		h.ask(board.Clear{Fault: uint8(protocol.FaultJam)}) // not that one
		if h.status().Latched == 0 {
			t.Error("another fault's CLEAR took the latch away")
		}
		if s := h.statusOf(board.Clear{Fault: uint8(protocol.FaultRunaway)}); s.Latched != 0 {
			t.Errorf("after CLEAR: %+v", s)
		}
		h.ask(board.Hold{Slot: 8, Motion: board.MotionHome, Press: 1})
		time.Sleep(time.Second)
		if s := h.vend(2, 8); protocol.Fault(s.Cause) != protocol.FaultNoDrop {
			t.Errorf("vend after CLEAR and HOME: %+v", s)
		}
		b.Load(8, 1)
		b.Spontaneous(8)
		time.Sleep(time.Second)
		if n := h.status().Spontaneous; n != 1 {
			t.Errorf("spontaneous = %d, want 1", n)
		}
		if s := h.statusOf(board.Clear{Fault: uint8(protocol.FaultSpontaneous)}); s.Spontaneous != 0 {
			t.Errorf("after CLEAR: %+v", s)
		}
	})
}

// Heard tells when the command arrives, which is before the motor moves.
func TestHeard(t *testing.T) {
	var heard []protocol.VendID
	var at time.Time
	opt := sim.Options{Heard: func(id protocol.VendID, t time.Time) { heard, at = append(heard, id), t }}
	bench(t, opt, func(h *host, b *sim.Board) {
		time.Sleep(time.Second)
		sent := time.Now()
		h.ask(board.Vend{ID: 4, Slot: 1})
		h.ask(board.Query{ID: 4})
		if len(heard) != 1 || heard[0] != 4 || !at.Equal(sent) || b.Turns(4) != 0 {
			t.Errorf("heard %v at %v, sent at %v", heard, at, sent)
		}
	})
}

func TestHeartbeatLost(t *testing.T) {
	bench(t, sim.Options{}, func(h *host, b *sim.Board) {
		b.Load(1, 1)
		h.ask(board.Light{Percent: 90})
		h.ask(board.Vend{ID: 1, Slot: 1})
		if s := h.statusOf(board.Lock{OpenMS: 10_000}); !s.LockOpen || s.Light != 90 {
			t.Fatalf("lock and light: %+v", s)
		}
		time.Sleep(4999 * time.Millisecond)
		if s := b.Status(); !s.LockOpen || s.Light != 90 {
			t.Errorf("too early: %+v", s)
		}
		time.Sleep(2 * time.Millisecond)
		if s := b.Status(); s.LockOpen || s.Light != board.DimPercent {
			t.Errorf("after 5 s: %+v", s)
		}
		if b.Fallen(1) != 1 {
			t.Error("the turn in progress did not end as it would have")
		}
		h.ask(board.Lock{OpenMS: 2000})
		time.Sleep(2001 * time.Millisecond)
		if b.Status().LockOpen {
			t.Error("the lock stays open for longer than asked")
		}
	})
}

// Both motors of a pair turn, and each stops at its own home.
func TestPairTurnsTogether(t *testing.T) {
	bench(t, sim.Options{}, func(h *host, b *sim.Board) {
		c := board.DefaultConfigure()
		c.Coupled = board.Slots(3)
		if got := h.ask(c).(board.HelloIs); got.ConfigHash != c.Hash() {
			t.Errorf("hash %08x, want %08x", got.ConfigHash, c.Hash())
		}
		b.Load(3, 2)
		b.SetFaults(4, sim.Faults{Slow: 1.2})
		began := time.Now()
		if s := h.vend(1, 3); s.Drops != 1 || s.RunMS != 3000 {
			t.Errorf("pair: %+v", s)
		}
		var got []string
		for _, m := range b.Moves() {
			got = append(got, fmt.Sprint(m.At.Sub(began).Milliseconds(), m.Slot, m.On))
		}
		if want := "[64 3 true 64 4 true 2564 3 false 3064 4 false]"; fmt.Sprint(got) != want {
			t.Errorf("moved %v, want %v", got, want)
		}
		b.SetFaults(4, sim.Faults{NoMotor: true})
		if s := h.vend(2, 3); protocol.Fault(s.Cause) != protocol.FaultStuckHome || s.Drops != 0 {
			t.Errorf("pair without its right motor: %+v", s)
		}
		if b.Starts(3) != 2 || b.Starts(4) != 2 || b.Turns(1) != 1 || b.Turns(2) != 1 {
			t.Errorf("started %d and %d times", b.Starts(3), b.Starts(4))
		}
	})
}

// What is in the journal of a vend when power is lost: a drop counts once its record
// is whole, 64 ms after the piece fell.
func TestDropIsKnownOnceRecorded(t *testing.T) {
	for after, want := range map[time.Duration]uint8{63 * time.Millisecond: 0, 65 * time.Millisecond: 1} {
		bench(t, sim.Options{}, func(h *host, b *sim.Board) {
			b.Load(5, 1)
			h.ask(board.Vend{ID: 1, Slot: 5})
			time.Sleep(64*time.Millisecond + 2120*time.Millisecond + after)
			b.PowerOff()
			b.PowerOn()
			time.Sleep(time.Second)
			if s := h.state(1); s.State != board.StateInterrupted || s.Drops != want {
				t.Errorf("power lost %v after the drop: %+v, want %d drops", after, s, want)
			}
			if s := h.status(); s.Drops != uint32(want) || s.Turns != 1 || !s.NotHome.Has(5) {
				t.Errorf("power lost %v after the drop: %+v", after, s)
			}
		})
	}
}

func TestRestart(t *testing.T) {
	bench(t, sim.Options{}, func(h *host, b *sim.Board) {
		h.ask(board.Light{Percent: 70})
		if got := h.ask(board.Restart{Key: board.RestartKey}); got != (board.Pong{}) {
			t.Fatalf("answered by %+v", got)
		}
		time.Sleep(time.Second)
		got := h.ask(board.Hello{Proto: 1}).(board.HelloIs)
		if got.Boot != 2 || got.ResetCause != board.ResetExternal || h.status().Light != board.DimPercent {
			t.Errorf("after RESTART: %+v", got)
		}
	})
}

// A new board knows no slots; its first configuration is there after the next boot if
// it was stored.
func TestBlank(t *testing.T) {
	bench(t, sim.Options{Blank: true}, func(h *host, b *sim.Board) {
		if got := h.ask(board.Hello{Proto: 1}).(board.HelloIs); got.ConfigHash != 0 || got.Fitted != (board.SlotSet{}) {
			t.Errorf("hello: %+v", got)
		}
		if got := h.ask(board.Vend{ID: 1, Slot: 1}); got != (board.Nak{Reason: board.NakBadSlot}) {
			t.Errorf("vend: %+v", got)
		}
		for _, tt := range []struct {
			wait time.Duration
			want uint32
		}{{90 * time.Millisecond, 0}, {130 * time.Millisecond, board.DefaultConfigure().Hash()}} {
			h.ask(board.DefaultConfigure())
			time.Sleep(tt.wait)
			b.Reset(board.ResetPower)
			time.Sleep(time.Second)
			if got := h.ask(board.Hello{Proto: 1}).(board.HelloIs); got.ConfigHash != tt.want {
				t.Errorf("%v after CONFIGURE: hash %08x, want %08x", tt.wait, got.ConfigHash, tt.want)
			}
		}
	})
}

// What darkens the sensor is a piece, and what falls through a dark one is none.
func TestDarkSensor(t *testing.T) {
	bench(t, sim.Options{}, func(h *host, b *sim.Board) {
		b.Load(5, 2)
		b.Adjust(func(c *sim.Cabinet) { c.SensorDark = true })
		b.Spontaneous(5)
		time.Sleep(time.Second)
		b.Adjust(func(c *sim.Cabinet) { c.SensorDark = false })
		if s := h.status(); s.Spontaneous != 1 || s.Drops != 1 || b.FallenFrom(5) != 1 {
			t.Errorf("%+v, %d fell", s, b.FallenFrom(5))
		}
	})
}

// Next names the moments at which something happens by itself.
func TestNext(t *testing.T) {
	bench(t, sim.Options{}, func(h *host, b *sim.Board) {
		if at := b.Next(); !at.IsZero() {
			t.Errorf("an idle board waits for %v", at)
		}
		began := time.Now()
		h.ask(board.Vend{ID: 1, Slot: 5})
		if got := b.Next().Sub(began); got != 64*time.Millisecond {
			t.Errorf("the journal takes %v, want 64 ms", got)
		}
	})
}

func TestLineHasSlackAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := sim.Line()
		if n, err := a.Write(make([]byte, 1000)); n != 1000 || err != nil {
			t.Fatalf("write without a reader: %d, %v", n, err)
		}
		blocked := make(chan error, 1)
		go func() {
			_, err := a.Write(make([]byte, 10_000))
			blocked <- err
		}()
		synctest.Wait()
		select {
		case err := <-blocked:
			t.Fatalf("more than the slack did not wait: %v", err)
		default:
		}
		b.Close()
		if err := <-blocked; err != io.ErrClosedPipe {
			t.Errorf("blocked write ended with %v", err)
		}
		if _, err := a.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read after close: %v", err)
		}
	})
}

func TestServeEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, far := sim.Line()
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- sim.New(sim.Options{}).Serve(ctx, far) }()
		synctest.Wait()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}
