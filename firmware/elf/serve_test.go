package elf_test

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/machine"
	"yaoju/daemon/machine/sim"
	"yaoju/daemon/port"
	"yaoju/firmware/elf"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// drive runs the daemon's driver until f has returned.
func drive(t *testing.T, dial func(context.Context) (io.ReadWriteCloser, error), f func(m *machine.Board)) {
	t.Helper()
	m := machine.New(dial, slog.New(slog.DiscardHandler), machine.Options{Config: board.DefaultConfigure()})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	defer running.Wait()
	defer cancel()
	await(t, m, "up and configured", func(s machine.Status) bool {
		return s.Up && s.Hello.ConfigHash == board.DefaultConfigure().Hash()
	})
	f(m)
}

func await(t *testing.T, m *machine.Board, what string, ok func(machine.Status) bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		s, stale := m.Watch()
		if ok(s) {
			return
		}
		select {
		case <-stale:
		case <-limit:
			t.Fatalf("no status that is %s: %+v", what, s)
		}
	}
}

// served is a dial function that connects b by a line in memory. The group is
// done when no line is served.
func served(t *testing.T, b *elf.Board, g *sync.WaitGroup) func(context.Context) (io.ReadWriteCloser, error) {
	return func(context.Context) (io.ReadWriteCloser, error) {
		g.Wait() // one line at a time
		host, device := sim.Line()
		g.Go(func() {
			b.Serve(t.Context(), device) // the line ends when the host closes it, which is no fault
		})
		return host, nil
	}
}

// The daemon's own driver with the real firmware, in virtual time.
func TestServeInBubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, err := elf.Start(elf.Options{Serial: 42})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := b.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}()
		var lines sync.WaitGroup
		defer lines.Wait()
		b.Load(5, 3)
		began := time.Now()
		drive(t, served(t, b, &lines), func(m *machine.Board) {
			if s, _ := m.Watch(); s.Hello.Serial != 42 {
				t.Errorf("status %+v", s)
			}
			res, err := m.Vend(t.Context(), 1, 5)
			if err != nil || res.Outcome != protocol.Dispensed || res.Pieces != 1 || b.Turns(5) != 1 || b.FallenFrom(5) != 1 {
				t.Errorf("vend: %+v, %v; %d turns, %d fell", res, err, b.Turns(5), b.FallenFrom(5))
			}
			if known, err := m.Result(t.Context(), 1); err != nil || known != res {
				t.Errorf("result: %+v, %v", known, err)
			}

			b.CutAt(2 * time.Second)
			time.AfterFunc(4*time.Second, b.PowerOn)
			if res, err := m.Vend(t.Context(), 2, 5); err != nil || res.Outcome != protocol.Unknown || b.Starts(5) != 2 {
				t.Errorf("vend with a cut: %+v, %v; %d starts", res, err, b.Starts(5))
			}
			await(t, m, "met again", func(s machine.Status) bool { return s.Up && s.Hello.Boot == 2 })
		})
		if lag := time.Since(began) - b.Now(); lag < 0 || lag > 5*time.Second {
			t.Errorf("the board is %v behind the bubble", lag)
		}
	})
}

// Real time, on a pty, as the demo has it.
func TestPTY(t *testing.T) {
	t.Parallel()
	link := filepath.Join(t.TempDir(), "board")
	b, err := elf.StartPTY(elf.Options{}, link)
	if err != nil {
		t.Fatal(err)
	}
	b.Load(7, 1)
	b.SetFaults(7, elf.Faults{Late: 100 * time.Millisecond})
	dial := func(context.Context) (io.ReadWriteCloser, error) { return port.Open(link, board.Baud) }
	drive(t, dial, func(m *machine.Board) {
		res, err := m.Vend(t.Context(), 1, 7)
		if err != nil || res.Outcome != protocol.Dispensed || b.FallenFrom(7) != 1 {
			t.Errorf("vend: %+v, %v; %d fell", res, err, b.FallenFrom(7))
		}
	})
	if moves := b.Moves(); len(moves) != 2 || b.Now() < moves[1].At || !b.Powered() {
		t.Errorf("moves %+v at %v", moves, b.Now())
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := os.Lstat(link); err == nil {
		t.Error("the link is still there after Close")
	}
}

// Outside a bubble Serve keeps step with the real time.
func TestServeInRealTime(t *testing.T) {
	t.Parallel()
	r := start(t, elf.Options{})
	host, device := sim.Line()
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- r.Serve(ctx, device) }()
	answer := make(chan board.Frame, 1)
	go func() {
		f, err := board.NewReader(host).Next()
		if err != nil {
			t.Errorf("no answer: %v", err)
		}
		answer <- f
	}()
	limit := time.After(20 * time.Second)
	var f board.Frame
	for f.Kind == 0 {
		if _, err := host.Write(board.Append([]byte{0}, 3, board.Ping{})); err != nil {
			t.Fatal(err)
		}
		select {
		case f = <-answer:
		case <-time.After(100 * time.Millisecond):
		case <-limit:
			t.Fatal("no answer")
		}
	}
	if f.Kind != board.KindPong || f.Seq != 3 {
		t.Errorf("answer %+v", f)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := host.Write([]byte{0}); err == nil {
		t.Error("the line is open after Serve")
	}
}
