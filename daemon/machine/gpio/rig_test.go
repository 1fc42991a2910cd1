package gpio_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/machine"
	"yaoju/daemon/machine/gpio"
	"yaoju/daemon/machine/gpio/sim"
	"yaoju/protocol"
)

// single has a line for each motor; two share a home line.
func single() gpio.Config {
	return gpio.Config{
		Motors: []gpio.Motor{
			{Slot: 1, Line: "GPIO5", Home: "!GPIO17"},
			{Slot: 2, Line: "!GPIO6", Home: "!GPIO27"},
			{Slot: 3, Line: "GPIO13", Home: "!GPIO27"},
		},
		Curtain: "!GPIO22", Emitter: "GPIO23", Door: "!GPIO24", Lock: "GPIO25", Light: "!GPIO12",
	}
}

// crossed has rows, columns and a supply line.
func crossed() gpio.Config {
	c := gpio.Config{Enable: "!GPIO4", Curtain: "GPIO22", Emitter: "!GPIO23", Door: "GPIO24", Lock: "!GPIO25"}
	for i := range 4 {
		c.Motors = append(c.Motors, gpio.Motor{Slot: protocol.Slot(1 + i), Row: gpio.Line(fmt.Sprintf("GPIO%d", 5+i/2)),
			Column: gpio.Line(fmt.Sprintf("!GPIO%d", 16+i%2)), Home: gpio.Line(fmt.Sprintf("!GPIO%d", 18+i))})
	}
	return c
}

// drawer is a store that polices: one save at a time. Pulled out, it stands for the
// disk of a process that died: nothing more gets in.
type drawer struct {
	t     *testing.T
	mu    sync.Mutex
	data  []byte
	slow  time.Duration // a save takes so long
	fails bool
	dead  bool
	busy  bool
}

func (d *drawer) Load() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.data), nil
}

func (d *drawer) Save(data []byte) error {
	d.mu.Lock()
	if d.busy {
		d.t.Error("second save while one is under way")
	}
	d.busy = true
	slow := d.slow
	d.mu.Unlock()
	time.Sleep(slow)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy = false
	if d.fails || d.dead {
		return errors.New("drawer: no space left")
	}
	d.data = bytes.Clone(data)
	return nil
}

func (d *drawer) Aside() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.data = nil
	return nil
}

func (d *drawer) set(f func(*drawer)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

// rig is a machine that runs on a plant.
type rig struct {
	*gpio.Machine
	t     *testing.T
	plant *sim.Plant
	disk  *drawer
	cfg   gpio.Config

	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned
}

func newRig(t *testing.T, cfg gpio.Config) *rig {
	r := &rig{t: t, cfg: cfg, disk: &drawer{t: t}}
	r.plant = sim.New(sim.Options{Config: cfg, Pieces: 20, Complain: func(s string) { t.Errorf("plant at %v: %s", time.Now(), s) }})
	r.boot()
	return r
}

// boot starts a process on plant and disk and waits until it has the lines.
func (r *rig) boot() {
	r.t.Helper()
	m, err := gpio.New(r.cfg, r.plant, r.disk, slog.New(slog.DiscardHandler))
	if err != nil {
		r.t.Fatal(err)
	}
	r.Machine = m
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	r.cancel, r.done = cancel, done
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			r.t.Errorf("Run: %v", err)
		}
	}()
	r.until("the lines are up", func(s machine.Status) bool { return s.Up })
}

// stop ends the daemon in good order, and may do so twice.
func (r *rig) stop() {
	r.cancel()
	<-r.done
}

// crash ends the process at once, and lets another disk and another process go on
// from what was durable.
func (r *rig) crash() {
	dead := r.disk
	dead.set(func(d *drawer) { d.dead = true })
	r.plant.Crash()
	r.stop()
	r.disk = &drawer{t: r.t, data: dead.data}
}

func (r *rig) until(what string, is func(machine.Status) bool) machine.Status {
	r.t.Helper()
	limit := time.After(time.Minute)
	for {
		s, stale := r.Watch()
		if is(s) {
			return s
		}
		select {
		case <-stale:
		case <-limit:
			r.t.Fatalf("waited a minute until %s; status %+v", what, s)
		}
	}
}

func (r *rig) vend(id protocol.VendID, slot protocol.Slot) protocol.Result {
	r.t.Helper()
	res, err := r.Vend(r.t.Context(), id, slot)
	if err != nil {
		r.t.Fatalf("vend %d in slot %d: %v", id, slot, err)
	}
	return res
}

func (r *rig) has(f protocol.Fault, slot protocol.Slot) bool {
	s, _ := r.Watch()
	for _, have := range s.Faults {
		if have == (machine.Fault{Fault: f, Slot: slot}) {
			return true
		}
	}
	return false
}

// starts counts how often slot's motor got power.
func (r *rig) starts(slot protocol.Slot) (n int) {
	for _, m := range r.plant.Moves() {
		if m.On && m.Slot == slot {
			n++
		}
	}
	return n
}

// dark fails the test if any output is on.
func (r *rig) dark() {
	r.t.Helper()
	lines := []gpio.Line{r.cfg.Enable, r.cfg.Emitter, r.cfg.Lock, r.cfg.Light}
	for _, m := range r.cfg.Motors {
		lines = append(lines, m.Line, m.Row, m.Column)
	}
	for _, l := range lines {
		if r.plant.On(l) {
			r.t.Errorf("line %s is on", l)
		}
	}
}

// on runs f on both kinds of wiring, each in a bubble of its own.
func on(t *testing.T, f func(t *testing.T, r *rig)) {
	for name, cfg := range map[string]gpio.Config{"single": single(), "crossed": crossed()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, cfg)
				f(t, r)
				r.stop()
				r.dark()
			})
		})
	}
}
