package update_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/update"
	"yaoju/protocol"
)

// field is a machine in the field with systemd around it: it starts what current
// leads to, and starts it again when it ends.
type field struct {
	*machine
	src  *memory
	desk *desk

	mu     sync.Mutex
	busy   string                                         // guarded by mu: why the machine is not free; empty: it is
	closed bool                                           // guarded by mu: to residents, for the switch
	refuse error                                          // guarded by mu: what the battery says
	signs  map[string]func(up time.Duration) update.Signs // guarded by mu, by version; none: all is well
	ran    []string                                       // guarded by mu: versions, in the order they were started
	agent  *update.Agent                                  // guarded by mu: of the version that runs
	end    func()                                         // guarded by mu: ends it
	deaf   bool                                           // guarded by mu: nobody restarts anything
}

var well = update.Signs{Ledger: true, Board: true, Screen: true, Uplink: true, Reach: true}

// inField runs f beside a machine that is on, in a bubble.
func inField(t *testing.T, f func(t *testing.T, m *field)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &field{machine: newMachine(t), src: sourceOf(t), desk: &desk{changed: make(chan struct{})}, signs: map[string]func(time.Duration) update.Signs{}}
		ctx, off := context.WithCancel(t.Context())
		var power sync.WaitGroup
		power.Go(func() {
			for ctx.Err() == nil {
				m.start(ctx)
				sleepFor(ctx, 2*time.Second) // RestartSec
			}
		})
		time.Sleep(time.Minute)
		f(t, m)
		off()
		power.Wait()
	})
}

func sleepFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// start runs the machine once, from systemd's check to the end of the process.
func (m *field) start(ctx context.Context) {
	m.check()
	version := m.runs()
	ctx, end := context.WithCancel(ctx)
	defer end()
	begun := time.Now()
	a, err := update.NewAgent(update.Options{
		Store: m.store, Version: version, Orders: m.desk, Source: m.src, Changed: func() {}, Rate: 1 << 30, Log: slog.New(slog.DiscardHandler),
		Try: func(context.Context, string) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.refuse
		},
		Gate: m.gate,
		Signs: func(context.Context) update.Signs {
			m.mu.Lock()
			defer m.mu.Unlock()
			if f := m.signs[version]; f != nil {
				return f(time.Since(begun))
			}
			return well
		},
		Restart: func(context.Context) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			if !m.deaf {
				end()
			}
			return nil
		},
	})
	if err != nil {
		m.t.Error(err)
		return
	}
	m.mu.Lock()
	m.ran, m.agent, m.end, m.closed = append(m.ran, version), a, end, false
	m.mu.Unlock()
	if err := a.Run(ctx); err != nil && !strings.Contains(err.Error(), "not restarted within") {
		m.t.Errorf("version %s ended: %v", version, err)
	}
}

func (m *field) gate(context.Context) (func(), string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		m.t.Error("closed twice")
	}
	if m.busy != "" {
		return nil, m.busy
	}
	m.closed = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.closed = false
	}, ""
}

func (m *field) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// off switches the machine off and on again.
func (m *field) off() { m.set(func() { m.end() }) }

// order gives the machine a release.
func (m *field) order(id string, man update.Manifest) update.Order {
	m.t.Helper()
	b := bundle(m.t, man)
	o := order(id, man, b)
	m.set(func() { m.src.bundles[sumOf(b)] = b })
	m.take(o)
	return o
}

func (m *field) take(o update.Order) {
	m.t.Helper()
	m.desk.give(o)
}

// desk is where orders lie until they are handed over.
type desk struct {
	mu      sync.Mutex
	order   *update.Order // guarded by mu; nil: none
	changed chan struct{} // guarded by mu
	fails   error         // guarded by mu
}

func (d *desk) give(o update.Order) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.order = &o
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *desk) Ordered(context.Context) (string, protocol.Update, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fails != nil || d.order == nil {
		return "", protocol.Update{}, false, d.fails
	}
	return d.order.ID, d.order.Update, true, nil
}

func (d *desk) HandedOver(_ context.Context, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.order != nil && d.order.ID == id {
		d.order = nil
	}
	return d.fails
}

func (d *desk) Watch() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// ends wants a last result and the versions that were started, the first being 1.0.
func (m *field) ends(end protocol.UpdateEnd, words string, ran ...string) {
	m.t.Helper()
	st := m.status()
	m.mu.Lock()
	defer m.mu.Unlock()
	if st.Order != nil || st.Last == nil || st.Last.End != end || !strings.Contains(st.Last.Words, words) {
		m.t.Errorf("ends at %+v, %+v; want %s %q", st, st.Last, end, words)
	}
	if got, want := strings.Join(m.ran, " "), strings.Join(ran, " "); got != want {
		m.t.Errorf("ran %s, want %s", got, want)
	}
}

func TestUpdate(t *testing.T) {
	inField(t, func(t *testing.T, m *field) {
		m.order("c-1", manifest(t, "1.1", 2))
		time.Sleep(5 * time.Minute)
		m.ends(protocol.UpdateConfirmed, "", "1.0", "1.1")
		m.order("c-2", manifest(t, "1.2", 3))
		time.Sleep(5 * time.Minute)
		m.ends(protocol.UpdateConfirmed, "", "1.0", "1.1", "1.2")
		if st := m.status(); st.Current != "1.2" || st.Previous != "1.1" {
			t.Errorf("got %+v", st)
		}
	})
}

// Whatever the line does, the bundle comes; whatever residents do, they come first.
func TestUpdateWaits(t *testing.T) {
	inField(t, func(t *testing.T, m *field) {
		m.src.breaks = []int64{0, 10, 0, 200, 0}
		m.busy = "a resident is in a session"
		o := manifest(t, "1.1", 2)
		b := bundle(t, o)
		later := order("c-1", o, b)
		later.NotBeforeMS = time.Now().Add(2 * time.Hour).UnixMilli()
		m.set(func() { m.src.bundles[sumOf(b)] = b })
		m.take(later)
		time.Sleep(time.Hour)
		if st := m.status(); !st.Staged || st.Current != "base" {
			t.Errorf("after an hour: %+v", st)
		}
		m.set(func() { m.busy = "" })
		time.Sleep(30 * time.Minute)
		if st := m.status(); st.Current != "base" {
			t.Errorf("before its time: %+v", st)
		}
		m.set(func() { m.busy = "a vend is open" })
		time.Sleep(time.Hour)
		m.mu.Lock()
		_, why, err := m.agent.Status()
		m.mu.Unlock()
		if err != nil || !strings.Contains(why, "a vend is open") {
			t.Errorf("it waits for %q, %v", why, err)
		}
		m.set(func() { m.busy = "" })
		time.Sleep(5 * time.Minute)
		m.ends(protocol.UpdateConfirmed, "", "1.0", "1.1")
	})
}

// A version that does not prove itself is gone, for each way not to.
func TestUnproved(t *testing.T) {
	without := func(f func(*update.Signs)) func(time.Duration) update.Signs {
		return func(time.Duration) update.Signs { s := well; f(&s); return s }
	}
	for name, c := range map[string]struct {
		signs func(time.Duration) update.Signs
		words string
	}{
		"no ledger": {without(func(s *update.Signs) { s.Ledger = false }), "the ledger does not answer"},
		"no board":  {without(func(s *update.Signs) { s.Board = false }), "the motor board does not answer, and did before"},
		"no screen": {without(func(s *update.Signs) { s.Screen = false }), "the screen does not answer"},
		"no uplink": {without(func(s *update.Signs) { s.Uplink = false }), "the district is there and this version does not get through to it"},
		"flickers": {func(up time.Duration) update.Signs {
			s := well
			s.Screen = up%(20*time.Second) >= 10*time.Second
			return s
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			inField(t, func(t *testing.T, m *field) {
				m.set(func() { m.signs["1.1"] = c.signs })
				m.order("c-1", manifest(t, "1.1", 2))
				time.Sleep(9 * time.Minute)
				if st := m.status(); st.Trial != "1.1" {
					t.Errorf("after 9 minutes: %+v", st)
				}
				time.Sleep(3 * time.Minute)
				m.ends(protocol.UpdateRolledBack, c.words, "1.0", "1.1", "1.0")
			})
		})
	}
}

// What did not work before need not work after.
func TestAsBefore(t *testing.T) {
	inField(t, func(t *testing.T, m *field) {
		poor := func(time.Duration) update.Signs { s := well; s.Board = false; return s }
		m.set(func() { m.signs["1.0"], m.signs["1.1"] = poor, poor })
		m.order("c-1", manifest(t, "1.1", 2))
		time.Sleep(5 * time.Minute)
		m.ends(protocol.UpdateConfirmed, "", "1.0", "1.1")
	})
}

// What worked at any time while the order was in hand has to work after: the switch may
// fall into the moment in which a plug hangs loose.
func TestAsWhileOrdered(t *testing.T) {
	for words, c := range map[string]struct{ lacks func(*update.Signs) }{
		"the motor board does not answer, and did before":                {func(s *update.Signs) { s.Board = false }},
		"the district is there and this version does not get through to": {func(s *update.Signs) { s.Uplink = false }},
	} {
		t.Run(words, func(t *testing.T) {
			inField(t, func(t *testing.T, m *field) {
				poor := func(time.Duration) update.Signs { s := well; c.lacks(&s); return s }
				m.set(func() { m.busy, m.signs["1.1"] = "a vend is open", poor })
				m.order("c-1", manifest(t, "1.1", 2))
				time.Sleep(time.Minute)
				m.set(func() { m.busy, m.signs["1.0"] = "", poor })
				time.Sleep(15 * time.Minute)
				m.set(func() { delete(m.signs, "1.0") })
				m.ends(protocol.UpdateRolledBack, words, "1.0", "1.1", "1.0")
			})
		})
	}
}

// An order whose deadline is past takes the place of one that has not come to its
// switch: so the district makes it void.
func TestOrderMadeVoid(t *testing.T) {
	inField(t, func(t *testing.T, m *field) {
		m.set(func() { m.busy = "a vend is open" })
		void := m.order("c-1", manifest(t, "1.1", 2))
		time.Sleep(time.Minute)
		if st := m.status(); !st.Staged {
			t.Errorf("got %+v", st)
		}
		void.ID, void.NotBeforeMS, void.DeadlineMS = "c-2", 0, 1
		m.take(void)
		time.Sleep(time.Minute)
		m.set(func() { m.busy = "" })
		time.Sleep(5 * time.Minute)
		m.ends(protocol.UpdateLate, "", "1.0")
		again := m.order("c-3", manifest(t, "1.1", 2))
		time.Sleep(5 * time.Minute)
		m.ends(protocol.UpdateConfirmed, "", "1.0", "1.1")
		if l := m.status().Last; l.Order != again.ID {
			t.Errorf("last %+v", l)
		}
	})
}

// A version that runs and has proved itself is not fetched again.
func TestRunsAlready(t *testing.T) {
	inField(t, func(t *testing.T, m *field) {
		man := manifest(t, "1.1", 2)
		m.order("c-1", man)
		time.Sleep(5 * time.Minute)
		m.set(func() { clear(m.src.bundles) })
		m.take(order("c-2", man, bundle(t, man)))
		time.Sleep(time.Minute)
		m.ends(protocol.UpdateConfirmed, "", "1.0", "1.1")
		if l := m.status().Last; l.Order != "c-2" {
			t.Errorf("last %+v", l)
		}
	})
}

// A district that nobody can reach undoes no good version, however often the machine
// is switched off meanwhile; but a version that has not been seen to get through does
// not stay for ever either.
func TestOutage(t *testing.T) {
	for name, c := range map[string]struct {
		lasts time.Duration
		end   protocol.UpdateEnd
		words string
	}{
		"three days":  {3 * 24 * time.Hour, protocol.UpdateConfirmed, ""},
		"eight days":  {8 * 24 * time.Hour, protocol.UpdateRolledBack, "the district cannot be reached, for 168h0m0s, and could before"},
		"not at home": {3 * time.Minute, protocol.UpdateRolledBack, "does not get through"},
	} {
		t.Run(name, func(t *testing.T) {
			inField(t, func(t *testing.T, m *field) {
				m.order("c-1", manifest(t, "1.1", 2))
				begun := time.Now()
				m.set(func() {
					m.signs["1.1"] = func(time.Duration) update.Signs {
						s := well
						s.Reach = time.Since(begun) >= c.lasts
						s.Uplink = s.Reach && name != "not at home"
						return s
					}
				})
				ran := []string{"1.0", "1.1"}
				for time.Since(begun) < c.lasts {
					time.Sleep(8 * time.Hour) // until somebody switches it off for the night
					if m.status().Trial != "" {
						m.off()
						ran = append(ran, "1.1")
					}
				}
				time.Sleep(15 * time.Minute)
				if c.end == protocol.UpdateRolledBack {
					ran = append(ran, "1.0")
				}
				m.ends(c.end, c.words, ran...)
			})
		})
	}
}

// An order that comes while a version is on trial waits until that is judged; one
// that cannot be read comes again.
func TestOrderMeanwhile(t *testing.T) {
	inField(t, func(t *testing.T, m *field) {
		m.desk.mu.Lock()
		m.desk.fails = errors.New("disk error")
		m.desk.mu.Unlock()
		m.order("c-1", manifest(t, "1.1", 2))
		time.Sleep(time.Minute)
		if st := m.status(); st.Order != nil {
			t.Errorf("got %+v", st)
		}
		m.desk.mu.Lock()
		m.desk.fails = nil
		m.desk.mu.Unlock()
		time.Sleep(20 * time.Second)
		m.order("c-2", manifest(t, "1.2", 3))
		time.Sleep(5 * time.Second)
		if st := m.status(); st.Trial != "1.1" || st.Order.ID != "c-1" {
			t.Errorf("got %+v", st)
		}
		time.Sleep(5 * time.Minute)
		m.ends(protocol.UpdateConfirmed, "", "1.0", "1.1", "1.2")
		m.set(func() {
			if u, err := m.agent.State(); err != nil || u.Trial != "" || u.Ordered != "" || u.Waits != "" || u.Last.Order != "c-2" {
				t.Errorf("state %+v, %v", u, err)
			}
		})
	})
}

// A machine whose restart is not done by whoever should do it ends by itself.
func TestNobodyRestarts(t *testing.T) {
	inField(t, func(t *testing.T, m *field) {
		m.set(func() { m.deaf = true })
		m.order("c-1", manifest(t, "1.1", 2))
		time.Sleep(10 * time.Minute)
		m.ends(protocol.UpdateConfirmed, "", "1.0", "1.1")
	})
}

func TestRefusedOrders(t *testing.T) {
	inField(t, func(t *testing.T, m *field) {
		man := manifest(t, "1.1", 2)
		m.set(func() {
			m.refuse = &update.RefusedError{Words: "version 1.1 does not take this machine's configuration"}
		})
		m.order("c-1", man)
		time.Sleep(time.Minute)
		m.ends(protocol.UpdateRefused, "does not take this machine's configuration", "1.0")

		m.set(func() { m.refuse = errors.New("no memory") })
		m.order("c-2", man)
		time.Sleep(25 * time.Hour)
		m.ends(protocol.UpdateLate, "the deadline came first: no memory", "1.0")

		m.set(func() { m.refuse, m.busy = nil, "a vend is open" })
		m.order("c-3", man)
		time.Sleep(25 * time.Hour)
		m.ends(protocol.UpdateLate, "a vend is open", "1.0")

		// The district sends other bytes than it ordered, for ever.
		m.set(func() { m.busy = "" })
		b := bundle(t, man)
		o := order("c-4", man, b)
		o.SHA256 = strings.Repeat("ab", 32)
		m.set(func() { m.src.bundles[o.SHA256] = b })
		m.take(o)
		time.Sleep(time.Hour)
		m.ends(protocol.UpdateRefused, "is not the one that was ordered", "1.0")
	})
}

// A newer order takes the place of one that waits, and a process that was ended in
// between goes on where it was.
func TestOrderReplaced(t *testing.T) {
	inField(t, func(t *testing.T, m *field) {
		m.set(func() { m.busy = "a vend is open" })
		m.order("c-1", manifest(t, "1.1", 2))
		time.Sleep(time.Minute)
		m.order("c-2", manifest(t, "1.2", 3))
		time.Sleep(time.Minute)
		if st := m.status(); st.Order.ID != "c-2" || !st.Staged {
			t.Errorf("got %+v", st)
		}
		m.set(func() { m.busy = "" })
		time.Sleep(5 * time.Minute)
		m.ends(protocol.UpdateConfirmed, "", "1.0", "1.2")
	})
}

func TestNewAgentComplains(t *testing.T) {
	m := newMachine(t)
	good := update.Options{Store: m.store, Version: "1.0", Orders: &desk{}, Source: sourceOf(t), Changed: func() {}, Rate: update.MinRate, Log: slog.New(slog.DiscardHandler),
		Try: func(context.Context, string) error { return nil }, Gate: func(context.Context) (func(), string) { return nil, "never" },
		Signs: func(context.Context) update.Signs { return well }, Restart: func(context.Context) error { return nil }}
	if _, err := update.NewAgent(good); err != nil {
		t.Error(err)
	}
	slow, bare := good, good
	slow.Rate, bare.Gate = update.MinRate-1, nil
	for _, o := range []update.Options{slow, bare} {
		if _, err := update.NewAgent(o); err == nil {
			t.Errorf("took %+v", o)
		}
	}
}
