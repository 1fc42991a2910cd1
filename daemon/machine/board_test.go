package machine_test

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
	"yaoju/daemon/machine/sim"
	"yaoju/daemon/port"
	"yaoju/daemon/port/pty"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// rig is a driver and its twin on a cable, in virtual time.
type rig struct {
	*testing.T
	*machine.Board
	twin  *sim.Board
	cable *sim.Cable
}

func run(t *testing.T, twin sim.Options, opt machine.Options, f func(r rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := rig{T: t, twin: sim.New(twin)}
		r.cable = sim.NewCable(r.twin)
		r.Board = machine.New(r.cable.Dial, slog.New(slog.DiscardHandler), opt)
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() { r.cable.Run(ctx) })
		g.Go(func() {
			if err := r.Board.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		r.await("up", func(s machine.Status) bool { return s.Up })
		f(r)
		cancel()
		g.Wait()
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

// sleep lets at least two status polls pass.
func (r rig) sleep() { time.Sleep(1100 * time.Millisecond) }

func TestVendMeetsFaults(t *testing.T) {
	for _, tt := range []struct {
		name   string
		faults sim.Faults
		set    func(c *sim.Cabinet)
		want   protocol.Result // without times
		seen   protocol.Fault  // in the status afterwards, at slot 5 or at none
		turns  int
	}{
		{"good", sim.Faults{}, nil, protocol.Result{Outcome: protocol.Dispensed, Pieces: 1}, 0, 1},
		{"late", sim.Faults{Late: time.Second}, nil, protocol.Result{Outcome: protocol.Dispensed, Pieces: 1}, 0, 1},
		{"gap", sim.Faults{Hang: 1}, nil, protocol.Result{Outcome: protocol.Dispensed, Pieces: 1}, 0, 1},
		{"double", sim.Faults{Double: true}, nil, protocol.Result{Outcome: protocol.Dispensed, Pieces: 2, Cause: protocol.FaultDoubleDrop}, 0, 1},
		{"slow", sim.Faults{Slow: 1.5}, nil, protocol.Result{Outcome: protocol.Dispensed, Pieces: 1, Cause: protocol.FaultSlow}, 0, 1},
		{"no drop", sim.Faults{Hang: 9}, nil, protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultNoDrop}, 0, 1},
		{"jam", sim.Faults{Jam: true}, nil, protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultJam}, protocol.FaultNotHome, 1},
		{"no motor", sim.Faults{NoMotor: true}, nil, protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultNoMotor}, 0, 1},
		{"stuck home", sim.Faults{StuckHome: true}, nil, protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultStuckHome}, 0, 1},
		{"runaway", sim.Faults{Runaway: true, Hang: 9}, nil, protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultRunaway}, protocol.FaultRunaway, 1},
		{"door open", sim.Faults{}, func(c *sim.Cabinet) { c.DoorOpen = true }, protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultDoor}, 0, 0},
		{"sensor dark", sim.Faults{}, func(c *sim.Cabinet) { c.SensorDark = true }, protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultDropSensor}, protocol.FaultDropSensor, 0},
		{"sensor blind", sim.Faults{}, func(c *sim.Cabinet) { c.SensorBlind = true }, protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultDropSensor}, protocol.FaultDropSensor, 0},
		{"journal", sim.Faults{}, func(c *sim.Cabinet) { c.JournalFails = true }, protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultJournal}, protocol.FaultJournal, 0},
		{"no climate", sim.Faults{}, func(c *sim.Cabinet) { c.Climate.OK = false }, protocol.Result{Outcome: protocol.Dispensed, Pieces: 1}, protocol.FaultClimate, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run(t, sim.Options{}, machine.Options{}, func(r rig) {
				r.twin.Load(5, 5)
				r.twin.SetFaults(5, tt.faults)
				if tt.set != nil {
					r.twin.Adjust(tt.set)
				}
				got := r.vend(1, 5)
				again := r.vend(1, 5)
				if tt.turns > 0 && again != got {
					t.Errorf("asked again: %+v, before %+v", again, got)
				}
				if known, err := r.Result(r.Context(), 1); err != nil || tt.turns > 0 && known != got {
					t.Errorf("Result: %+v, %v; Vend said %+v", known, err, got)
				}
				if (got.DropMS > 0) != (got.Pieces > 0) || (got.RunMS > 0) != (tt.turns > 0) {
					t.Errorf("times: %+v", got)
				}
				got.RunMS, got.DropMS = 0, 0
				if got != tt.want || r.twin.Turns(1) != tt.turns || r.twin.Fallen(1) != tt.want.Pieces {
					t.Errorf("got %+v, %d turns, %d fell; want %+v", got, r.twin.Turns(1), r.twin.Fallen(1), tt.want)
				}
				r.sleep()
				s, _ := r.Watch()
				var seen protocol.Fault
				if len(s.Faults) > 0 {
					seen = s.Faults[0].Fault
				}
				if seen != tt.seen {
					t.Errorf("faults %v, want first %s", s.Faults, tt.seen.Code())
				}
			})
		})
	}
}

// A fault that needs somebody goes away when that somebody did his part.
func TestFaultsAreMended(t *testing.T) {
	run(t, sim.Options{}, machine.Options{}, func(r rig) {
		ctx := r.Context()
		none := func(s machine.Status) bool { return len(s.Faults) == 0 }
		has := func(f protocol.Fault, slot protocol.Slot) func(machine.Status) bool {
			return func(s machine.Status) bool { return slices.Contains(s.Faults, machine.Fault{Fault: f, Slot: slot}) }
		}
		r.twin.Load(5, 9)
		r.twin.SetFaults(5, sim.Faults{Runaway: true})
		r.vend(1, 5)
		r.await("runaway", has(protocol.FaultRunaway, 5))
		r.twin.SetFaults(5, sim.Faults{})
		if res := r.vend(2, 6); res.Outcome != protocol.Kept || res.Cause != protocol.FaultBoardSilent {
			t.Errorf("latched: %+v", res)
		}
		var refused *machine.RefusedError
		if err := r.Home(ctx, 5); !errors.As(err, &refused) || refused.Fault != protocol.FaultRunaway {
			t.Errorf("homing while latched: %v", err)
		}
		if err := r.Clear(ctx, protocol.FaultRunaway); err != nil {
			t.Fatal(err)
		}
		r.await("not home", has(protocol.FaultNotHome, 5))
		if res := r.vend(3, 5); res.Cause != protocol.FaultNotHome {
			t.Errorf("not home: %+v", res)
		}
		if err := r.TestTurn(ctx, 5); !errors.As(err, &refused) || refused.Fault != protocol.FaultNotHome {
			t.Errorf("test from mid-turn: %v", err)
		}
		if err := r.Home(ctx, 5); err != nil {
			t.Errorf("homing: %v", err)
		}
		r.await("mended", none)
		r.twin.Spontaneous(5)
		r.await("spontaneous", has(protocol.FaultSpontaneous, 0))
		if err := r.Clear(ctx, protocol.FaultSpontaneous); err != nil {
			t.Fatal(err)
		}
		r.await("cleared", none)
		r.twin.Reset(board.ResetWatchdog)
		r.await("restarted", has(protocol.FaultBoardReset, 0))
		if err := r.Clear(ctx, protocol.FaultBoardReset); err != nil {
			t.Fatal(err)
		}
		r.await("cleared", none)
		if err := r.Clear(ctx, protocol.FaultDisk); err == nil {
			t.Error("cleared a fault that is not the board's")
		}
		if res := r.vend(4, 5); res.Outcome != protocol.Dispensed {
			t.Errorf("in the end: %+v", res)
		}
	})
}

// Power cuts and resets at every step: the outcome is true, or unknown.
func TestCutInMidVend(t *testing.T) {
	for _, tt := range []struct {
		step sim.Step
		want protocol.Outcome
	}{
		{sim.BeforeStore, protocol.Kept},
		{sim.AfterStore, protocol.Unknown},
		{sim.MidTurn, protocol.Unknown},
		{sim.AfterDrop, protocol.Unknown},
		{sim.BeforeEnd, protocol.Dispensed},
	} {
		for cause, off := range map[board.ResetCause]time.Duration{board.ResetWatchdog: time.Millisecond, board.ResetPower: 4 * time.Second} {
			t.Run(fmt.Sprint(tt.step, "/", cause), func(t *testing.T) {
				run(t, sim.Options{}, machine.Options{}, func(r rig) {
					r.twin.Load(5, 3)
					r.twin.CutAt(tt.step, cause, off)
					before, _ := r.Watch()
					res, err := r.Vend(r.Context(), 1, 5)
					// BeforeStore the command may be repeated after the reset and then turn, once.
					if tt.step == sim.BeforeStore && res.Outcome == protocol.Dispensed {
						res.Outcome = protocol.Kept
					}
					if err != nil || res.Outcome != tt.want || r.twin.Turns(1) > 1 {
						t.Errorf("got %+v, %v, %d turns; want %v", res, err, r.twin.Turns(1), tt.want)
					}
					s := r.await("a new session", func(s machine.Status) bool { return s.Up && s.Session > before.Session })
					if s.Hello.Boot != 2 {
						t.Errorf("hello: %+v", s.Hello)
					}
				})
			})
		}
	}
}

// A board that stays dead makes the vend unknown, in bounded time, and Result tells later.
func TestBoardDies(t *testing.T) {
	run(t, sim.Options{}, machine.Options{}, func(r rig) {
		r.twin.Load(5, 3)
		r.twin.CutAt(sim.BeforeEnd, board.ResetPower, 0)
		start := time.Now()
		res, err := r.Vend(r.Context(), 1, 5)
		if err == nil || res.Outcome != protocol.Unknown || time.Since(start) > 20*time.Second {
			t.Errorf("got %+v, %v after %v", res, err, time.Since(start))
		}
		if s, _ := r.Watch(); s.Up || !slices.Contains(s.Faults, machine.Fault{Fault: protocol.FaultBoardSilent}) {
			t.Errorf("status of a dead board: %+v", s)
		}
		if res, err := r.Vend(r.Context(), 2, 6); err == nil || res.Outcome != protocol.Unknown {
			t.Errorf("vend on a dead board: %+v, %v", res, err)
		}
		r.twin.PowerOn()
		r.await("up", func(s machine.Status) bool { return s.Up })
		if res, err := r.Result(r.Context(), 1); err != nil || res.Outcome != protocol.Dispensed {
			t.Errorf("result: %+v, %v", res, err)
		}
		if res, err := r.Result(r.Context(), 2); err != nil || res.Outcome != protocol.Kept || r.twin.Turns(2) != 0 {
			t.Errorf("result of what was never sent: %+v, %v", res, err)
		}
	})
}

func TestUnplugAndReplug(t *testing.T) {
	run(t, sim.Options{}, machine.Options{}, func(r rig) {
		r.twin.Load(5, 3)
		time.AfterFunc(time.Second, r.cable.Unplug)
		time.AfterFunc(3*time.Second, func() { r.cable.Plug(r.twin) })
		if res := r.vend(1, 5); res.Outcome != protocol.Dispensed || r.twin.Turns(1) != 1 {
			t.Errorf("plugged in again in time: %+v, %d turns", res, r.twin.Turns(1))
		}
		time.AfterFunc(time.Second, r.cable.Unplug)
		if res, err := r.Vend(r.Context(), 2, 5); err == nil || res.Outcome != protocol.Unknown {
			t.Errorf("unplugged: %+v, %v", res, err)
		}
		r.cable.Plug(r.twin)
		r.await("up", func(s machine.Status) bool { return s.Up })
		if res, err := r.Result(r.Context(), 2); err != nil || res.Outcome != protocol.Dispensed || r.twin.Turns(2) != 1 {
			t.Errorf("result: %+v, %v", res, err)
		}
	})
}

// A caller that leaves gets unknown; the turn ends by itself.
func TestCallerLeaves(t *testing.T) {
	run(t, sim.Options{}, machine.Options{}, func(r rig) {
		r.twin.Load(5, 3)
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if res, err := r.Vend(ctx, 1, 5); !errors.Is(err, context.DeadlineExceeded) || res.Outcome != protocol.Unknown {
			t.Errorf("got %+v, %v", res, err)
		}
		if res := r.vend(2, 6); res.Outcome != protocol.Kept || res.Cause != protocol.FaultBoardSilent {
			t.Errorf("while the other still turns: %+v", res)
		}
		soon, cancel := context.WithTimeout(r.Context(), 500*time.Millisecond)
		defer cancel()
		if res, err := r.Result(soon, 1); !errors.Is(err, context.DeadlineExceeded) || res.Outcome != protocol.Unknown {
			t.Errorf("result while it turns, in a hurry: %+v, %v", res, err)
		}
		if res, err := r.Result(r.Context(), 1); err != nil || res.Outcome != protocol.Dispensed {
			t.Errorf("result while it turns: %+v, %v; want to wait for its end", res, err)
		}
		if res := r.vend(1, 5); res.Outcome != protocol.Dispensed || r.twin.Turns(1) != 1 {
			t.Errorf("asked again: %+v, %d turns", res, r.twin.Turns(1))
		}
	})
}

// Another board knows nothing of this one's vends, and an id it knows is no news.
func TestBoardsSwapped(t *testing.T) {
	run(t, sim.Options{Serial: 1}, machine.Options{}, func(r rig) {
		r.twin.Load(5, 9)
		r.vend(1, 5)
		other := sim.New(sim.Options{Serial: 2})
		other.Load(5, 9)
		r.cable.Plug(other)
		s := r.await("the other board", func(s machine.Status) bool { return s.Up && s.Hello.Serial == 2 })
		if s.Hello.Highest != 0 {
			t.Errorf("hello: %+v", s.Hello)
		}
		if res, err := r.Result(r.Context(), 1); err == nil || res.Outcome != protocol.Unknown {
			t.Errorf("another board was believed: %+v, %v", res, err)
		}
		if res, err := r.Vend(r.Context(), 1, 5); err == nil || res.Outcome != protocol.Unknown || other.Turns(1) != 0 {
			t.Errorf("an old vend was given to another board: %+v, %v", res, err)
		}
		if res := r.vend(1000, 5); res.Outcome != protocol.Dispensed {
			t.Errorf("new board, new id: %+v", res)
		}
		r.cable.Plug(r.twin)
		r.await("the first board", func(s machine.Status) bool { return s.Up && s.Hello.Serial == 1 })
		if res, err := r.Result(r.Context(), 1); err != nil || res.Outcome != protocol.Dispensed {
			t.Errorf("the first board remembers: %+v, %v", res, err)
		}
	})
}

// An id minted after hello that the board knows is a fault and never an outcome.
func TestBoardKnows(t *testing.T) {
	lie := func(f func(m board.Message) board.Message) func(context.Context) (io.ReadWriteCloser, error) {
		return func(ctx context.Context) (io.ReadWriteCloser, error) {
			near, far := sim.Line()
			go func() { // ends with the line
				r := board.NewReader(far)
				for {
					fr, err := r.Next()
					if err != nil {
						return
					}
					m, err := fr.Parse()
					if err != nil {
						return
					}
					if a := f(m); a != nil {
						far.Write(board.Append(nil, fr.Seq, a))
					}
				}
			}()
			return near, nil
		}
	}
	done := board.VendState{ID: 7, Slot: 5, State: board.StateEnded, Repeat: true, Drops: 1}
	for name, answer := range map[string]board.Message{
		"known":                         done,
		"stale":                         board.Nak{Reason: board.NakStale},
		"for other slot":                board.VendState{ID: 7, Slot: 6, State: board.StateRunning, Phase: board.PhaseStore},
		"not above the hello's highest": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				vends := 0
				hello := board.HelloIs{Proto: board.Version, Serial: 1}
				if answer == nil {
					hello.Highest = 7
				}
				b := machine.New(lie(func(m board.Message) board.Message {
					switch m.(type) {
					case board.Hello:
						return hello
					case board.Status:
						return board.StatusIs{Climate: true}
					case board.Vend:
						vends++
						return answer
					}
					return board.Nak{Reason: board.NakBadMsg}
				}), slog.New(slog.DiscardHandler), machine.Options{})
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- b.Run(ctx) }()
				res, err := b.Vend(ctx, 7, 5)
				if err != nil || res != (protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultBoardKnows}) {
					t.Errorf("got %+v, %v", res, err)
				}
				if answer == nil && vends != 0 || answer != nil && vends != 1 {
					t.Errorf("VEND was sent %d times", vends)
				}
				knows := machine.Fault{Fault: protocol.FaultBoardKnows}
				if s, _ := b.Watch(); !slices.Contains(s.Faults, knows) {
					t.Errorf("faults: %v", s.Faults)
				}
				if err := b.Clear(ctx, protocol.FaultBoardKnows); err != nil {
					t.Fatal(err)
				}
				if s, _ := b.Watch(); slices.Contains(s.Faults, knows) {
					t.Errorf("after clearing: %v", s.Faults)
				}
				cancel()
				if err := <-ended; err != nil {
					t.Errorf("Run: %v", err)
				}
			})
		})
	}
}

// The first answer is lost. What the second says is true only if the first frame
// started nothing, and the driver finds that out.
func TestFirstAnswerLost(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(c *sim.Cabinet)
		want protocol.Result
	}{
		{"started by the first frame", func(c *sim.Cabinet) {}, protocol.Result{Outcome: protocol.Dispensed, Pieces: 1}},
		{"refused both times", func(c *sim.Cabinet) { c.DoorOpen = true }, protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultDoor}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run(t, sim.Options{}, machine.Options{}, func(r rig) {
				r.twin.Load(5, 2)
				time.Sleep(250 * time.Millisecond) // between two polls
				r.twin.Adjust(func(c *sim.Cabinet) {
					tt.set(c)
					c.Noise.ToHost.Lose = 1
				})
				time.AfterFunc(50*time.Millisecond, func() {
					r.twin.Adjust(func(c *sim.Cabinet) { c.Noise = sim.Noise{} })
				})
				got := r.vend(1, 5)
				got.RunMS, got.DropMS = 0, 0
				if got != tt.want || r.twin.Turns(1) != tt.want.Pieces {
					t.Errorf("got %+v, %d turns; want %+v", got, r.twin.Turns(1), tt.want)
				}
			})
		})
	}
}

// An answer that comes after its question was asked again belongs to nobody.
func TestLateAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := sim.Line()
		plugged := false
		b := machine.New(func(context.Context) (io.ReadWriteCloser, error) {
			if plugged {
				return nil, errors.New("one line is all there is")
			}
			plugged = true
			return near, nil
		}, slog.New(slog.DiscardHandler), machine.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() { b.Run(ctx) })
		g.Go(func() { // each question is answered when the next one comes, but a status is answered at once
			r := board.NewReader(far)
			var late []byte
			for uptime := uint32(1); ; uptime++ {
				f, err := r.Next()
				if err != nil {
					return
				}
				far.Write(late)
				late = nil
				switch f.Kind {
				case board.KindHello:
					far.Write(board.Append(nil, f.Seq, board.HelloIs{Proto: board.Version}))
				case board.KindStatus:
					far.Write(board.Append(nil, f.Seq, board.StatusIs{UptimeMS: uptime}))
				case board.KindQuery:
					late = board.Append(nil, f.Seq, board.VendState{ID: 3, State: board.StateEnded, Repeat: true, Drops: 1})
				}
			}
		})
		if res, err := b.Result(ctx, 3); err == nil {
			t.Errorf("an answer to an earlier try was taken: %+v", res)
		}
		cancel()
		g.Wait()
	})
}

// The finger leaves the button, and the motor stops 300 ms after the last HOLD.
func TestHoldToRun(t *testing.T) {
	run(t, sim.Options{}, machine.Options{}, func(r rig) {
		r.twin.Load(5, 3)
		ctx, cancel := context.WithCancel(r.Context())
		time.AfterFunc(time.Second, cancel)
		if err := r.TestTurn(ctx, 5); err != nil {
			t.Errorf("let go: %v", err)
		}
		if r.twin.Status().CurrentMA == 0 {
			t.Error("the motor did not turn while held")
		}
		time.Sleep(301 * time.Millisecond)
		if ma := r.twin.Status().CurrentMA; ma != 0 {
			t.Errorf("%d mA, 301 ms after the finger left", ma)
		}
		r.await("not home", func(s machine.Status) bool {
			return slices.Contains(s.Faults, machine.Fault{Fault: protocol.FaultNotHome, Slot: 5})
		})
		time.Sleep(time.Second)
		if err := r.Home(r.Context(), 5); err != nil {
			t.Errorf("home: %v", err)
		}
		time.Sleep(time.Second)
		if err := r.TestTurn(r.Context(), 5); err != nil || r.twin.FallenFrom(5) != 2 {
			t.Errorf("test turn: %v, %d fell", err, r.twin.FallenFrom(5))
		}
		r.twin.SetFaults(6, sim.Faults{Jam: true})
		var refused *machine.RefusedError
		if err := r.TestTurn(r.Context(), 6); !errors.As(err, &refused) || refused.Fault != protocol.FaultJam || refused.Slot != 6 {
			t.Errorf("jammed test: %v", err)
		}
	})
}

func TestStatus(t *testing.T) {
	cfg := board.DefaultConfigure()
	cfg.Fitted = board.Slots(1, 2, 3, 4, 5)
	run(t, sim.Options{Serial: 77, Build: 3}, machine.Options{Config: cfg}, func(r rig) {
		ctx := r.Context()
		s, _ := r.Watch()
		if s.Hello != (machine.Hello{Serial: 77, Build: 3, ConfigHash: cfg.Hash(), Boot: 1}) || s.Session != 1 || !s.DropSensorOK {
			t.Errorf("status: %+v", s)
		}
		if s.Climate != (machine.Climate{OK: true, CentiC: 2150, CentiRH: 4500}) {
			t.Errorf("climate: %+v", s.Climate)
		}
		if res := r.vend(1, 6); res.Cause != protocol.FaultNoMotor || res.Outcome != protocol.Kept {
			t.Errorf("slot that is not fitted: %+v", res)
		}
		if res := r.vend(2, 61); res.Cause != protocol.FaultNoMotor || res.Outcome != protocol.Kept {
			t.Errorf("slot that does not exist: %+v", res)
		}
		if _, err := r.Vend(ctx, 0, 5); err == nil {
			t.Error("id 0 was taken")
		}
		r.twin.Adjust(func(c *sim.Cabinet) { c.DoorOpen = true })
		r.await("open", func(s machine.Status) bool { return s.DoorOpen })
		r.twin.Adjust(func(c *sim.Cabinet) { c.DoorOpen = false })
		r.await("closed", func(s machine.Status) bool { return !s.DoorOpen })
		if err := errors.Join(r.Light(ctx, 80), r.Lock(ctx, 3*time.Second)); err != nil {
			t.Fatal(err)
		}
		if s, _ := r.Watch(); s.Light != 80 || !s.LockOpen {
			t.Errorf("light and lock: %+v", s)
		}
		r.await("locked", func(s machine.Status) bool { return !s.LockOpen })
		r.twin.Reset(board.ResetPower)
		r.await("lit again", func(s machine.Status) bool { return s.Session == 2 && s.Light == 80 })
		r.twin.Load(5, 1)
		r.vend(3, 5)
		r.await("counted", func(s machine.Status) bool { return s.Odometer == machine.Odometer{Turns: 1, Drops: 1} })
	})
}

// The progress of a vend never goes back, and comes from the motor.
func TestProgressOfAVend(t *testing.T) {
	run(t, sim.Options{}, machine.Options{}, func(r rig) {
		r.twin.Load(5, 1)
		r.twin.SetFaults(5, sim.Faults{Hang: 1})
		done := make(chan protocol.Result, 1)
		go func() {
			res, err := r.Vend(r.Context(), 1, 5)
			if err != nil {
				t.Error(err)
			}
			done <- res
		}()
		last, steps := -1, 0
		for {
			s, stale := r.Watch()
			if m := s.Motion; m.Vend == 1 {
				if m.Percent < last || m.Percent > 100 || m.Slot != 5 {
					t.Errorf("motion %+v after %d percent", m, last)
				}
				last, steps = m.Percent, steps+1
			}
			select {
			case <-stale:
				continue
			case <-done:
			}
			break
		}
		if last < 85 || steps < 30 {
			t.Errorf("the last of %d steps was %d percent", steps, last)
		}
		if s, _ := r.Watch(); s.Motion != (machine.Motion{}) {
			t.Errorf("motion afterwards: %+v", s.Motion)
		}
	})
}

// A line that loses, bends and repeats a tenth of all frames each way, and a board
// with every fault: each id turns at most once, and what is said is true.
func TestNoise(t *testing.T) {
	outcomes := map[protocol.Outcome]int{}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			run(t, sim.Options{Rand: rng}, machine.Options{}, func(r rig) {
				for slot := protocol.Slot(1); slot <= 60; slot++ {
					r.twin.Load(slot, 100)
				}
				spoil := sim.Spoil{Lose: 0.1, Flip: 0.1, Repeat: 0.1}
				r.twin.Adjust(func(c *sim.Cabinet) {
					c.Noise = sim.Noise{ToBoard: spoil, ToHost: spoil}
					c.Chances = sim.Chances{Jam: 0.02, NoMotor: 0.02, StuckHome: 0.02, Double: 0.03, NoDrop: 0.03, Late: 0.05, Slow: 0.05, Cut: 0.03, Reset: 0.03}
				})
				for id := protocol.VendID(1); id <= 150; id++ {
					res, err := r.Vend(r.Context(), id, protocol.Slot(id%60+1))
					if res.Cause == protocol.FaultBoardKnows {
						t.Fatalf("vend %d: the board is said to know a new id", id)
					}
					outcomes[res.Outcome]++
					if err != nil {
						time.Sleep(20 * time.Second)
						if res, err = r.Result(r.Context(), id); err != nil {
							t.Fatalf("vend %d: still no answer: %v", id, err)
						}
					}
					r.checkTruth(id, res)
				}
				for id := protocol.VendID(1); id <= 150; id++ {
					if n := r.twin.Turns(id); n > 1 {
						t.Errorf("vend %d turned %d times", id, n)
					}
				}
			})
		})
	}
	if outcomes[protocol.Dispensed] < 300 || outcomes[protocol.Kept] < 20 || outcomes[protocol.Unknown] < 5 {
		t.Errorf("outcomes %v: not the mixture this test is for", outcomes)
	}
}

func (r rig) checkTruth(id protocol.VendID, res protocol.Result) {
	r.Helper()
	turns, fallen := r.twin.Turns(id), r.twin.Fallen(id)
	wrong := turns > 1 || res.Outcome == protocol.Dispensed && res.Pieces > fallen || res.Outcome == protocol.Kept && fallen > 0
	if res.Outcome == protocol.Dispensed && res.Pieces < fallen && res.Cause != protocol.FaultInterrupted {
		wrong = true // only a board that lost power may have missed one
	}
	if wrong {
		r.Errorf("vend %d: %+v; in truth %d turns, %d fell", id, res, turns, fallen)
	}
}

// The same through a real pty and the real port: unplug, plug in again.
func TestOverPTY(t *testing.T) {
	const limit = 20 * time.Second // real time: a vend of a fast spiral takes 2 s, a reconnect at most 5
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	twin := sim.New(sim.Options{Turn: 300 * time.Millisecond})
	twin.Load(5, 2)
	socket := pty.NewSocket(filepath.Join(t.TempDir(), "board"))
	dial := func(context.Context) (io.ReadWriteCloser, error) { return port.Open(socket.Path(), board.Baud) }
	cfg := board.DefaultConfigure()
	cfg.LeaveMS = 200
	b := machine.New(dial, slog.New(slog.DiscardHandler), machine.Options{Config: cfg, Turn: 300 * time.Millisecond})
	var g sync.WaitGroup
	defer g.Wait()
	defer cancel()
	plug := func() {
		pair, err := socket.Plug()
		if err != nil {
			t.Fatal(err)
		}
		g.Go(func() { twin.Serve(ctx, pair) }) // ends when it is unplugged
	}
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
		plug()
		up(true)
		if res, err := b.Vend(ctx, id, 5); err != nil || res.Outcome != protocol.Dispensed || twin.Turns(id) != 1 {
			t.Errorf("vend %d: %+v, %v, %d turns", id, res, err, twin.Turns(id))
		}
		if err := socket.Unplug(); err != nil {
			t.Fatal(err)
		}
		up(false)
	}
}
