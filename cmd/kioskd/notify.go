package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"yaoju/daemon/kiosk"
)

const (
	// sessionLimit: the session looks around once a minute even if nobody comes, and
	// the ledger may hold it up for bookLimit of package kiosk on the way.
	sessionLimit = 2 * time.Minute
	// wardenLimit: the warden looks every five seconds, and a write to a slow card
	// may hold it up for some more.
	wardenLimit = 30 * time.Second
)

// rounds notes when session and warden last went round: where their loops ask for
// the machine's condition, so a loop that stands still is found however it came to
// stand.
type rounds struct {
	ask func(context.Context) error // a question to the ledger

	mu      sync.Mutex
	session time.Time // guarded by mu: last round; zero: none yet
	warden  time.Time // guarded by mu: likewise
}

// still says what does not go round, or nil.
func (r *rounds) still(ctx context.Context) error {
	r.mu.Lock()
	session, warden := r.session, r.warden
	r.mu.Unlock()
	if session.IsZero() || warden.IsZero() {
		return errors.New("session or warden has not gone round once")
	}
	if ago := time.Since(session); ago > sessionLimit {
		return fmt.Errorf("the session last went round %v ago", ago.Round(time.Second))
	}
	if ago := time.Since(warden); ago > wardenLimit {
		return fmt.Errorf("the warden last went round %v ago", ago.Round(time.Second))
	}
	if err := r.ask(ctx); err != nil {
		return fmt.Errorf("the ledger does not answer: %w", err)
	}
	return nil
}

// guard is the warden as the session asks it; each question is a round of the session.
func (r *rounds) guard(g kiosk.Guard) kiosk.Guard { return countedGuard{g, r} }

// machine is the body as the warden asks it; each question is a round of the warden.
func (r *rounds) machine(m kiosk.Machine) kiosk.Machine { return countedMachine{m, r} }

type countedGuard struct {
	kiosk.Guard
	rounds *rounds
}

func (g countedGuard) Watch() (kiosk.Condition, <-chan struct{}) {
	g.rounds.mu.Lock()
	g.rounds.session = time.Now()
	g.rounds.mu.Unlock()
	return g.Guard.Watch()
}

type countedMachine struct {
	kiosk.Machine
	rounds *rounds
}

func (m countedMachine) Watch() (kiosk.Body, <-chan struct{}) {
	m.rounds.mu.Lock()
	m.rounds.warden = time.Now()
	m.rounds.mu.Unlock()
	return m.Machine.Watch()
}
