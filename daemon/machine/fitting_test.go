package machine_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/machine"
	"yaoju/daemon/machine/sim"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// fit changes the usual fitting and returns what the board would be told, and each
// complaint with its key.
func fit(change func(*machine.Fitting)) (board.Configure, []string) {
	f := machine.UsualFitting()
	change(&f)
	var complaints []string
	c := f.Configure(func(key string, err error) { complaints = append(complaints, fmt.Sprintf("%s: %v", key, err)) })
	return c, complaints
}

func TestFitting(t *testing.T) {
	t.Parallel()
	small := board.DefaultConfigure()
	small.Fitted, small.Coupled = board.Slots(1, 2, 3, 4, 21, 59, 60), board.Slots(1, 3)
	small.LeaveMS, small.TurnMS, small.SlowMS, small.JamMA, small.JamMS, small.OpenMA = 2000, 7000, 0, 40, 10, 0
	for _, c := range []struct {
		name   string
		change func(*machine.Fitting)
		want   board.Configure
	}{
		{"usual", func(*machine.Fitting) {}, board.DefaultConfigure()},
		{"all by name", func(f *machine.Fitting) { f.Slots = []string{"1-60"} }, board.DefaultConfigure()},
		{"small", func(f *machine.Fitting) {
			*f = machine.Fitting{Slots: []string{"59-60", "1-4", "21"}, Pairs: []int{3, 1}, LeaveMS: 2000, TurnMS: 7000, JamMA: 40, JamMS: 10}
		}, small},
	} {
		if got, complaints := fit(c.change); got != c.want || complaints != nil || got.Valid() != nil {
			t.Errorf("%s: %+v, complaints %q, want %+v", c.name, got, complaints, c.want)
		}
	}
}

// Every mistake is one complaint, under the key it is made in.
func TestFittingComplaints(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*machine.Fitting)
		want   []string // how each complaint begins
	}{
		{"no slots", func(f *machine.Fitting) { f.Slots = []string{} }, []string{"slots: no slot at all"}},
		{"words", func(f *machine.Fitting) { f.Slots = []string{"1-10", "eleven", "", "1-", "-3", "1-2-3", "1..5", " 7"} },
			[]string{`slots[1]: "eleven": want a slot or a range`, `slots[2]: "": want`, `slots[3]: "1-": want`, `slots[4]: "-3": want`, `slots[5]: "1-2-3": want`, `slots[6]: "1..5": want`, `slots[7]: " 7": want`}},
		{"slots that are not there", func(f *machine.Fitting) { f.Slots = []string{"0", "55-61", "300"} },
			[]string{"slots[0]: slot 0 does not exist: want 1 to 60", "slots[1]: slot 61 does not exist", "slots[2]: slot 300 does not exist"}},
		{"backwards", func(f *machine.Fitting) { f.Slots = []string{"10-1"} }, []string{`slots[0]: "10-1": the smaller number comes first`}},
		{"twice", func(f *machine.Fitting) { f.Slots = []string{"1-10", "5"} }, []string{"slots[1]: slot 5 is named twice"}},
		{"a bad slot and a pair", func(f *machine.Fitting) { f.Slots, f.Pairs = []string{"1-x"}, []int{1} }, []string{"slots[0]:"}},
		{"pairs", func(f *machine.Fitting) { f.Slots, f.Pairs = []string{"1-20"}, []int{0, 61, 10, 20, 25, 1, 1, 2, 19} },
			[]string{"pairs[0]: slot 0 does not exist", "pairs[1]: slot 61 does not exist", "pairs[2]: configuration: slot 10 is the last of its row", "pairs[3]: configuration: slot 20 is the last",
				"pairs[4]: configuration: slots 25 and 26 are coupled, so both must be fitted", "pairs[6]: slot 1 is named twice", "pairs[7]: configuration: slot 2 is coupled to both"}},
		{"limits", func(f *machine.Fitting) { f.LeaveMS, f.TurnMS, f.SlowMS, f.JamMS, f.JamMA = 99, 7001, 70000, 9, 50 },
			[]string{"leave_ms: configuration: leave limit 99 ms: 100 to 2000", "turn_ms: configuration: turn limit 7001 ms: 1000 to 7000", "slow_ms: 70000: want 0 to 65535", "jam_ms: configuration: jam time 9 ms", "jam_ma: configuration: jam current 50 mA must be above open current 50 mA"}},
		{"turn under leave", func(f *machine.Fitting) { f.LeaveMS, f.TurnMS = 2000, 2099 }, []string{"turn_ms: configuration: turn limit 2099 ms: 2100 to 7000"}},
		{"below zero", func(f *machine.Fitting) { f.LeaveMS, f.OpenMA = -1, -1 }, []string{"leave_ms: -1: want", "open_ma: -1: want"}},
	} {
		got, complaints := fit(c.change)
		if !slices.EqualFunc(complaints, c.want, strings.HasPrefix) {
			t.Errorf("%s: complaints %q, want %q", c.name, complaints, c.want)
		}
		if err := got.Valid(); err != nil {
			t.Errorf("%s: what is left is not valid: %v", c.name, err)
		}
	}
}

// Whatever is written, it is refused or the board would take it.
func FuzzFitting(f *testing.F) {
	f.Add("1-10,21,31-36", 1, 900, 5000, 3500, 900, 120, 50)
	f.Add("1-x", 10, -1, 70000, 0, 50, 9, 50)
	f.Add("", 60, 2000, 2100, 1, 1, 1000, 0)
	f.Fuzz(func(t *testing.T, slots string, pair, leave, turn, slow, jam, jamMS, open int) {
		var complaints int
		fitting := machine.Fitting{Slots: strings.Split(slots, ","), Pairs: []int{pair}, LeaveMS: leave, TurnMS: turn, SlowMS: slow, JamMA: jam, JamMS: jamMS, OpenMA: open}
		c := fitting.Configure(func(string, error) { complaints++ })
		if err := c.Valid(); err != nil {
			t.Errorf("%+v: %v", fitting, err)
		}
		if complaints == 0 && (int(c.LeaveMS) != leave || int(c.TurnMS) != turn || int(c.SlowMS) != slow || int(c.JamMA) != jam || int(c.JamMS) != jamMS || int(c.OpenMA) != open || !c.Coupled.Has(protocol.Slot(pair))) {
			t.Errorf("%+v became %+v", fitting, c)
		}
	})
}

// A new board turns nothing until it was told what hangs on it.
func TestNewBoardIsConfigured(t *testing.T) {
	cfg, _ := fit(func(f *machine.Fitting) { f.Slots = []string{"1-5"} })
	run(t, sim.Options{Blank: true}, machine.Options{Config: cfg}, func(r rig) {
		if s, _ := r.Watch(); s.Hello.ConfigHash != cfg.Hash() {
			t.Errorf("the board has configuration %08x, want %08x", s.Hello.ConfigHash, cfg.Hash())
		}
		r.twin.Load(5, 1)
		if res := r.vend(1, 5); res.Outcome != protocol.Dispensed {
			t.Errorf("vend: %+v", res)
		}
		if res := r.vend(2, 6); res.Cause != protocol.FaultNoMotor {
			t.Errorf("vend of a slot that is not there: %+v", res)
		}
	})
}

// lines counts what is logged, by message.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), words)
}

// While a motor turns the board does not take a configuration. It gets it when the
// motor stands still, before anything is turned by the old one, and that is said once.
func TestConfigureWaits(t *testing.T) {
	// The vend that follows at once meets the driver at another point of its rounds.
	for late := time.Duration(0); late < 200*time.Millisecond; late += 20 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			twin := sim.New(sim.Options{})
			twin.Load(5, 2)
			cable := sim.NewCable(twin)
			ctx, cancel := context.WithCancel(t.Context())
			var g sync.WaitGroup
			g.Go(func() { cable.Run(ctx) })
			defer g.Wait()
			defer cancel()

			before, _, stop := started(t, twin, cable, machine.Options{})
			asked, giveUp := context.WithTimeout(ctx, time.Second+late) // the motor turns for 2.5
			if res, err := before.Vend(asked, 1, 5); err == nil {
				t.Fatalf("vend: %+v", res)
			}
			giveUp()
			stop()

			cfg := board.DefaultConfigure()
			cfg.Fitted = board.Slots(1, 2, 3, 4, 5)
			r, said, stop := started(t, twin, cable, machine.Options{Config: cfg})
			defer stop()
			if s, _ := r.Watch(); s.Hello.ConfigHash != board.DefaultConfigure().Hash() {
				t.Errorf("in mid-turn the board has configuration %08x", s.Hello.ConfigHash)
			}
			if res, err := r.Result(ctx, 1); err != nil || res.Outcome != protocol.Dispensed {
				t.Errorf("the vend before: %+v, %v", res, err)
			}
			if res := r.vend(2, 6); res.Cause != protocol.FaultNoMotor || twin.Turns(2) != 0 {
				t.Errorf("%v late: the next vend went by the old configuration: %+v", late, res)
			}
			if s, _ := r.Watch(); s.Hello.ConfigHash != cfg.Hash() {
				t.Errorf("afterwards the board has configuration %08x, want %08x", s.Hello.ConfigHash, cfg.Hash())
			}
			if n := said.count("configuration waits"); n != 1 {
				t.Errorf("it was said %d times that the configuration waits", n)
			}
		})
	}
}

// started runs a driver until it is stopped, and keeps what it says.
func started(t *testing.T, twin *sim.Board, cable *sim.Cable, opt machine.Options) (rig, *lines, func()) {
	t.Helper()
	said := &lines{}
	r := rig{T: t, twin: twin, cable: cable, Board: machine.New(cable.Dial, slog.New(slog.NewTextHandler(said, nil)), opt)}
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	g.Go(func() { r.Board.Run(ctx) }) // it ends without an error, as TestVendMeetsFaults sees
	r.await("up", func(s machine.Status) bool { return s.Up })
	return r, said, func() {
		cancel()
		g.Wait()
	}
}

// counting counts the frames of one kind that the host writes. Each Write is one.
type counting struct {
	io.ReadWriteCloser
	kind board.Kind
	n    *atomic.Int64
}

func (c counting) Write(b []byte) (int, error) {
	if f, err := board.Decode(bytes.Trim(b, "\x00")); err == nil && f.Kind == c.kind {
		c.n.Add(1)
	}
	return c.ReadWriteCloser.Write(b)
}

// A board that refuses its configuration for good is not used. It is told again every
// few seconds, and that is said once.
func TestConfigureRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cable := sim.NewCable(sim.New(sim.Options{}))
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		var told atomic.Int64
		var said lines
		dial := func(ctx context.Context) (io.ReadWriteCloser, error) {
			line, err := cable.Dial(ctx)
			return counting{line, board.KindConfigure, &told}, err
		}
		b := machine.New(dial, slog.New(slog.NewTextHandler(&said, nil)), machine.Options{Config: board.Configure{Fitted: board.Slots(1)}})
		g.Go(func() { cable.Run(ctx) })
		g.Go(func() { b.Run(ctx) })
		time.Sleep(time.Minute)
		if s, _ := b.Watch(); s.Up || s.Session != 0 {
			t.Errorf("the board is used: %+v", s)
		}
		if n := told.Load(); n < 12 || n > 30 {
			t.Errorf("it was told %d times in a minute, want about one in 5 s", n)
		}
		if n := said.count("refuses its configuration"); n != 1 {
			t.Errorf("it was said %d times that the board refuses its configuration", n)
		}
		cancel()
		g.Wait()
	})
}
