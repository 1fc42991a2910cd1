package pulse_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/pulse"
)

// systemd is the other end of the pulse.
type systemd struct {
	mu   sync.Mutex
	said []string // guarded by mu
}

func (s *systemd) tell(state string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, state)
	return nil
}

// heard returns how often each state was told, and forgets.
func (s *systemd) heard() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := map[string]int{}
	for _, state := range s.said {
		n[state]++
	}
	s.said = nil
	return n
}

// loop is something that answers, fails or hangs, as the test says.
type loop struct {
	mu    sync.Mutex
	err   error // guarded by mu
	hangs bool  // guarded by mu
}

func (l *loop) set(hangs bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err, l.hangs = err, hangs
}

func (l *loop) ask(ctx context.Context) error {
	l.mu.Lock()
	hangs, err := l.hangs, l.err
	l.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

// The watchdog is fed exactly while every loop answers, and again when it does again.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s systemd
		var one, two loop
		two.set(true, nil)
		p := pulse.To(s.tell, 10*time.Second, slog.New(slog.DiscardHandler), one.ask, two.ask)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Minute)
		if got := s.heard(); len(got) != 0 {
			t.Errorf("told %v before both had answered", got)
		}
		two.set(false, nil)
		time.Sleep(time.Minute)
		if got := s.heard(); got["READY=1"] != 1 || got["WATCHDOG=1"] < 5 {
			t.Errorf("told %v, want ready once and a beat each 10 s", got)
		}
		for name, stuck := range map[string]func(){"hangs": func() { two.set(true, nil) }, "fails": func() { one.set(false, errors.New("no")) }} {
			stuck()
			time.Sleep(20 * time.Second) // what was begun
			s.heard()
			time.Sleep(time.Minute)
			if got := s.heard(); len(got) != 0 {
				t.Errorf("told %v while one of them %s", got, name)
			}
			one.set(false, nil)
			two.set(false, nil)
			time.Sleep(time.Minute)
			if got := s.heard(); got["WATCHDOG=1"] == 0 || got["READY=1"] != 0 {
				t.Errorf("told %v when all answered again, want beats", got)
			}
		}
		stop()
		running.Wait()
		if got := s.heard(); got["STOPPING=1"] != 1 {
			t.Errorf("told %v at the end, want that we are stopping", got)
		}
	})
}

// A systemd that wants no watchdog is told of the start and the end, and one that
// is not there of nothing.
func TestPulseWithoutWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s systemd
		p := pulse.To(s.tell, 0, slog.New(slog.DiscardHandler), func(context.Context) error { return nil })
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		if err := p.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if want := []string{"READY=1", "STOPPING=1"}; !slices.Equal(s.said, want) {
			t.Errorf("told %v, want %v", s.said, want)
		}
	})
}
