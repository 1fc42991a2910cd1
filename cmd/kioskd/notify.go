package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"yaoju/daemon/kiosk"
)

const (
	// sessionLimit: the session looks around once a minute even if nobody comes, and
	// the ledger may hold it up for bookLimit of package kiosk on the way.
	sessionLimit = 2 * time.Minute
	// wardenLimit: the warden looks every five seconds, and a write to a slow card
	// may hold it up for some more.
	wardenLimit = 30 * time.Second
	// askLimit bounds one question to the ledger: it waits two seconds for a lock,
	// and the card may need some time to wake.
	askLimit = 10 * time.Second
	// firstLook is how often we look whether everything has gone round for the
	// first time: systemd counts the machine as started then.
	firstLook = 100 * time.Millisecond
)

// pulse tells systemd that the machine works: that it has started once the
// session, the warden and the ledger have gone round, and that it is alive for as
// long as they do. It notes a round where their loops ask for the machine's
// condition, so a loop that stands still is found however it came to stand. What
// hangs takes the pulse with it, and systemd starts us again.
type pulse struct {
	ask  func(context.Context) error // a question to the ledger
	tell func(state string) error    // to systemd
	look time.Duration               // how often; 0: systemd does not want to know
	log  *slog.Logger

	mu      sync.Mutex
	session time.Time // guarded by mu: last round; zero: none yet
	warden  time.Time // guarded by mu: likewise
}

// newPulse returns the pulse that this process's systemd asked for, if one did.
func newPulse(ask func(context.Context) error, log *slog.Logger) (*pulse, error) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("watchdog: %w", err)
	}
	return &pulse{ask: ask, look: limit / 3, log: log, tell: func(state string) error {
		if _, err := daemon.SdNotify(false, state); err != nil {
			return fmt.Errorf("tell systemd %q: %w", state, err)
		}
		return nil
	}}, nil
}

// Run tells until ctx ends.
func (p *pulse) Run(ctx context.Context) error {
	for up := false; ; {
		why := p.still(ctx)
		switch {
		case ctx.Err() != nil:
			return p.tell(daemon.SdNotifyStopping)
		case why == nil && !up:
			up = true
			if err := p.tell(daemon.SdNotifyReady); err != nil {
				return err
			}
		case why != nil && up:
			p.log.Error("the machine stands still", "err", why)
		}
		wait := firstLook
		if up {
			wait = p.look
		}
		if why == nil && p.look > 0 {
			if err := p.tell(daemon.SdNotifyWatchdog); err != nil {
				return err
			}
		}
		var again <-chan time.Time
		if wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-again:
		}
	}
}

// still says what does not go round, or nil.
func (p *pulse) still(ctx context.Context) error {
	p.mu.Lock()
	session, warden := p.session, p.warden
	p.mu.Unlock()
	if session.IsZero() || warden.IsZero() {
		return errors.New("session or warden has not gone round once")
	}
	if ago := time.Since(session); ago > sessionLimit {
		return fmt.Errorf("the session last went round %v ago", ago.Round(time.Second))
	}
	if ago := time.Since(warden); ago > wardenLimit {
		return fmt.Errorf("the warden last went round %v ago", ago.Round(time.Second))
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	if err := p.ask(ctx); err != nil {
		return fmt.Errorf("the ledger does not answer: %w", err)
	}
	return nil
}

// guard is the warden as the session asks it; each question is a round of the session.
func (p *pulse) guard(g kiosk.Guard) kiosk.Guard { return pulsedGuard{g, p} }

// machine is the body as the warden asks it; each question is a round of the warden.
func (p *pulse) machine(m kiosk.Machine) kiosk.Machine { return pulsedMachine{m, p} }

type pulsedGuard struct {
	kiosk.Guard
	pulse *pulse
}

func (g pulsedGuard) Watch() (kiosk.Condition, <-chan struct{}) {
	g.pulse.mu.Lock()
	g.pulse.session = time.Now()
	g.pulse.mu.Unlock()
	return g.Guard.Watch()
}

type pulsedMachine struct {
	kiosk.Machine
	pulse *pulse
}

func (m pulsedMachine) Watch() (kiosk.Body, <-chan struct{}) {
	m.pulse.mu.Lock()
	m.pulse.warden = time.Now()
	m.pulse.mu.Unlock()
	return m.Machine.Watch()
}
