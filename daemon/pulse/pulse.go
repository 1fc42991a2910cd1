// Package pulse tells systemd that a daemon really works: that it has started once
// everything that has to go round has done so, and that it is alive for as long as it
// does (Type=notify, WatchdogSec). It does not know what goes round: it is given
// questions, and whoever hangs over one takes the pulse with it, so that systemd starts
// the daemon again.
package pulse

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

const (
	// askLimit bounds one round of questions: a busy disk may make one wait for a
	// commit, and a card may need some time to wake.
	askLimit = 10 * time.Second
	// firstLook is how often we look whether everything has answered for the first
	// time: systemd counts the daemon as started then.
	firstLook = 100 * time.Millisecond
)

// Question asks something to go round, and returns when it has; the error says what
// does not.
type Question func(context.Context) error

// Pulse is the pulse of one process.
type Pulse struct {
	asks []Question
	tell func(state string) error // to systemd
	look time.Duration            // how often; 0: systemd does not want to know
	log  *slog.Logger
}

// New returns the pulse that this process's systemd asked for, if one did.
func New(log *slog.Logger, asks ...Question) (*Pulse, error) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("watchdog: %w", err)
	}
	tell := func(state string) error {
		if _, err := daemon.SdNotify(false, state); err != nil {
			return fmt.Errorf("tell systemd %q: %w", state, err)
		}
		return nil
	}
	return To(tell, limit/3, log, asks...), nil
}

// To returns a pulse that tells its states to tell, every look; 0 is only at the start
// and the end.
func To(tell func(state string) error, look time.Duration, log *slog.Logger, asks ...Question) *Pulse {
	return &Pulse{asks: asks, tell: tell, look: look, log: log}
}

// Run tells until ctx ends.
func (p *Pulse) Run(ctx context.Context) error {
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
			p.log.Error("it stands still", "err", why)
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
func (p *Pulse) still(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	for _, ask := range p.asks {
		if err := ask(ctx); err != nil {
			return err
		}
	}
	return nil
}
