package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/dispense"
	"yaoju/daemon/kiosk"
	"yaoju/protocol"
)

// premises is a machine as the gate sees it: warden, session and ledger in one.
type premises struct {
	mu      sync.Mutex
	cond    kiosk.Condition // guarded by mu
	screen  kiosk.View      // guarded by mu
	changed chan struct{}   // guarded by mu
	clock   protocol.Clock  // guarded by mu
	open    int             // guarded by mu
	err     error           // guarded by mu
}

func (p *premises) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *premises) Clock() protocol.Clock {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.clock
}

func (p *premises) Open(context.Context) ([]dispense.Vend, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return make([]dispense.Vend, p.open), p.err
}

// guarding is the premises as their warden.
type guarding struct{ *premises }

func (g guarding) Watch() (kiosk.Condition, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cond, g.changed
}

// showing is the premises as their session.
type showing struct{ *premises }

func (s showing) Watch() (kiosk.View, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.screen, s.changed
}

// atGate runs f at a machine whose session looks at the door like a real one: at rest
// it follows it, in a session it does not.
func atGate(t *testing.T, f func(t *testing.T, p *premises, g gate)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &premises{changed: make(chan struct{}), clock: protocol.ClockSynced, screen: kiosk.View{Screen: kiosk.Attract}}
		d := newDoor(guarding{p})
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if err := d.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			for ctx.Err() == nil {
				c, stale := d.Watch()
				now, _ := showing{p}.Watch()
				want := kiosk.View{Screen: kiosk.Attract}
				if c.Closed != 0 {
					want = kiosk.View{Screen: kiosk.Fault, Code: c.Closed.Code()}
				}
				if resting(now.Screen) && (now.Screen != want.Screen || now.Code != want.Code) {
					time.Sleep(50 * time.Millisecond) // to draw
					if now, _ := (showing{p}).Watch(); resting(now.Screen) {
						p.set(func() { p.screen = want })
					}
				}
				select {
				case <-ctx.Done():
				case <-stale:
				}
			}
		})
		synctest.Wait()
		f(t, p, gate{p, showing{p}, guarding{p}, d})
		stop()
		all.Wait()
	})
}

// A shut door is seen at once, whatever the warden says, and opens again.
func TestGate(t *testing.T) {
	atGate(t, func(t *testing.T, p *premises, g gate) {
		begun := time.Now()
		open, why := g.close(t.Context())
		if why != "" || time.Since(begun) > time.Second {
			t.Fatalf("not free: %s, after %v", why, time.Since(begun))
		}
		if c, _ := g.door.Watch(); c.Closed != protocol.FaultPaused {
			t.Errorf("condition %+v", c)
		}
		// Another fault comes and goes: the door stays shut.
		p.set(func() { p.cond.Closed = protocol.FaultBoardSilent })
		p.set(func() { p.cond.Closed = 0 })
		time.Sleep(time.Minute)
		if v, _ := (showing{p}).Watch(); v.Screen != kiosk.Fault || v.Code != protocol.FaultPaused.Code() {
			t.Errorf("screen %s %s", v.Screen, v.Code)
		}
		open()
		time.Sleep(time.Second)
		if v, _ := (showing{p}).Watch(); v.Screen != kiosk.Attract {
			t.Errorf("screen %s after it was opened", v.Screen)
		}
	})
}

// Whoever comes in before the screen has followed the door stays undisturbed.
func TestGateComesSecond(t *testing.T) {
	atGate(t, func(t *testing.T, p *premises, g gate) {
		time.AfterFunc(10*time.Millisecond, func() { p.set(func() { p.screen = kiosk.View{Screen: kiosk.Choose} }) })
		if _, why := g.close(t.Context()); why != "somebody is at the machine" {
			t.Errorf("got %q", why)
		}
		if c, _ := g.door.Watch(); c.Closed != 0 {
			t.Errorf("the door stayed shut: %+v", c)
		}
	})
}

// A vend that was begun in the last moment keeps the version that began it.
func TestGateVend(t *testing.T) {
	atGate(t, func(t *testing.T, p *premises, g gate) {
		time.AfterFunc(10*time.Millisecond, func() { p.set(func() { p.open = 1 }) })
		if _, why := g.close(t.Context()); why != "a vend is open" {
			t.Errorf("got %q", why)
		}
		if c, _ := g.door.Watch(); c.Closed != 0 {
			t.Errorf("the door stayed shut: %+v", c)
		}
	})
}

func TestGateBusy(t *testing.T) {
	for want, bend := range map[string]func(*premises){
		"the clock is not set":       func(p *premises) { p.clock = protocol.ClockUnset },
		"the door is open":           func(p *premises) { p.cond.Closed = protocol.FaultDoor },
		"a vend is open":             func(p *premises) { p.open = 1 },
		"somebody is at the machine": func(p *premises) { p.screen = kiosk.View{Screen: kiosk.Dispense} },
	} {
		atGate(t, func(t *testing.T, p *premises, g gate) {
			p.set(func() { bend(p) })
			synctest.Wait()
			if _, why := g.close(t.Context()); !strings.Contains(why, want) {
				t.Errorf("got %q, want %q", why, want)
			}
		})
	}
	atGate(t, func(t *testing.T, p *premises, g gate) {
		p.set(func() { p.err = errors.New("disk error") })
		if _, why := g.close(t.Context()); why == "" {
			t.Error("a ledger that does not answer lets a version go")
		}
	})
}

// A session that does not see the door within the limit, whatever keeps it, is left alone.
func TestGateWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &premises{changed: make(chan struct{}), clock: protocol.ClockSynced, screen: kiosk.View{Screen: kiosk.Attract}}
		g := gate{p, showing{p}, guarding{p}, newDoor(guarding{p})}
		begun := time.Now()
		if _, why := g.close(t.Context()); why == "" || time.Since(begun) != gateLimit {
			t.Errorf("got %q after %v", why, time.Since(begun))
		}
		if c, _ := g.door.Watch(); c.Closed != 0 {
			t.Errorf("the door stayed shut: %+v", c)
		}
	})
}
