package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

const (
	// askLimit bounds one question: the first page reads every machine, and a busy
	// disk may make it wait for a commit.
	askLimit = 10 * time.Second
	// firstLook is how often we look whether everything has answered for the first
	// time: systemd counts the district as started then.
	firstLook = 100 * time.Millisecond
)

// question asks one loop to go round, and returns when it has.
type question func(context.Context) error

// pulse tells systemd that the district works: that it has started once every
// question is answered, and that it is alive for as long as they are. What hangs
// takes the pulse with it, and systemd starts us again.
type pulse struct {
	asks []question
	tell func(state string) error // to systemd
	look time.Duration            // how often; 0: systemd does not want to know
	log  *slog.Logger
}

// newPulse returns the pulse that this process's systemd asked for, if one did.
func newPulse(log *slog.Logger, asks ...question) (*pulse, error) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("watchdog: %w", err)
	}
	return &pulse{asks: asks, look: limit / 3, log: log, tell: func(state string) error {
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
			p.log.Error("the district stands still", "err", why)
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

// still says what does not answer, or nil.
func (p *pulse) still(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	for _, ask := range p.asks {
		if err := ask(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pageAnswers asks for the console's first page, as a browser would: by way of the
// listener, the handler and the store.
func pageAnswers(address string) question {
	return func(ctx context.Context) (err error) {
		defer func() {
			if err != nil {
				err = fmt.Errorf("console at %s: %w", address, err)
			}
		}()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", http.NoBody)
		if err != nil {
			return err
		}
		// No proxy that somebody set for the whole host, and no connection kept: the
		// listener has to accept one each time.
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		a, err := client.Do(r)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, a.Body)
		if err := errors.Join(err, a.Body.Close()); err != nil {
			return err
		}
		if a.StatusCode != http.StatusOK {
			return errors.New(a.Status)
		}
		return nil
	}
}
