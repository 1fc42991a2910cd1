package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/kiosk"
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

type still struct{}

func (still) Watch() (kiosk.Condition, <-chan struct{}) { return kiosk.Condition{}, nil }

type stillBody struct{}

func (stillBody) Watch() (kiosk.Body, <-chan struct{}) { return kiosk.Body{}, nil }

// The watchdog is fed exactly while session, warden and ledger go round.
func TestPulse(t *testing.T) {
	for _, c := range []struct {
		name            string
		session, warden time.Duration // pause between two rounds; 0: stands still
		ledger          error
		fed             bool
	}{
		{name: "all go round", session: time.Minute, warden: 5 * time.Second, fed: true},
		{name: "session stands", warden: 5 * time.Second},
		{name: "warden stands", session: time.Minute},
		{name: "ledger fails", session: time.Minute, warden: 5 * time.Second, ledger: errors.New("stale handle")},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s systemd
				var mu sync.Mutex
				var ledger error
				const look = 10 * time.Second
				p := &rounds{ask: func(context.Context) error { mu.Lock(); defer mu.Unlock(); return ledger }}
				alive := pulse.To(s.tell, look, slog.New(slog.DiscardHandler), p.still)
				ctx, stop := context.WithCancel(t.Context())
				var running sync.WaitGroup
				running.Go(func() {
					if err := alive.Run(ctx); err != nil {
						t.Error(err)
					}
				})
				time.Sleep(time.Second)
				p.guard(still{}).Watch()
				time.Sleep(time.Second)
				if got := s.heard(); len(got) != 0 {
					t.Errorf("told %v before the warden had gone round", got)
				}
				p.machine(stillBody{}).Watch()
				time.Sleep(time.Second)
				if got := s.heard(); got["READY=1"] != 1 || got["WATCHDOG=1"] != 1 {
					t.Errorf("told %v after the first round, want ready and one beat", got)
				}

				mu.Lock()
				ledger = c.ledger
				mu.Unlock()
				round := func(pause time.Duration, watch func()) {
					for pause > 0 {
						select {
						case <-ctx.Done():
							return
						case <-time.After(pause):
							watch()
						}
					}
				}
				running.Go(func() { round(c.session, func() { p.guard(still{}).Watch() }) })
				running.Go(func() { round(c.warden, func() { p.machine(stillBody{}).Watch() }) })
				time.Sleep(sessionLimit + look)
				s.heard()
				time.Sleep(10 * time.Minute)
				if beats := s.heard()["WATCHDOG=1"]; c.fed && beats < 59 || !c.fed && beats > 0 {
					t.Errorf("%d beats in ten minutes", beats)
				}
				stop()
				running.Wait()
				if got := s.heard(); got["STOPPING=1"] != 1 {
					t.Errorf("told %v at the end, want that we are stopping", got)
				}
			})
		})
	}
}
