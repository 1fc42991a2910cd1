// Package cabinet knows what is fitted in one machine. It reads kioskd.toml, makes
// and runs the driver of every part that is named there, and tells how each part is
// in words a technician can act on: absent, silent, or another device than the one
// that is to be there, and which.
//
// It owns the file's meaning, and the judgement of who is on which line; the wires
// themselves, and the question that finds out who is at the end of one, belong to the
// drivers' packages. It knows nothing of stock, residents or screens.
package cabinet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"yaoju/daemon/card"
	"yaoju/daemon/climate"
	"yaoju/daemon/machine"
	"yaoju/daemon/machine/gpio"
	"yaoju/daemon/machine/vending"
	"yaoju/daemon/scan"
	"yaoju/daemon/status"
	"yaoju/protocol"
)

// Motors is what turns the motors, of whatever kind it is: *machine.Board,
// *vending.Board or *gpio.Machine. What a kind has not is machine.ErrUnsupported.
type Motors interface {
	// Vend turns slot's motor once for id and returns when motion is over. Called again
	// with an id it has seen it moves nothing and returns what is remembered. An error
	// means nobody can tell whether the motor turned.
	Vend(ctx context.Context, id protocol.VendID, slot protocol.Slot) (protocol.Result, error)
	// Result returns what is known about id without moving anything; while the motor
	// still turns for id it waits for the end, or for ctx.
	Result(ctx context.Context, id protocol.VendID) (protocol.Result, error)

	// Home and TestTurn move slot's motor while ctx lives: its end is the finger that
	// leaves the button.
	Home(ctx context.Context, slot protocol.Slot) error
	TestTurn(ctx context.Context, slot protocol.Slot) error
	// Lock opens the lock for a while, at most 10 s; 0 locks now.
	Lock(ctx context.Context, open time.Duration) error
	// Light sets the light, 0 to 100 percent.
	Light(ctx context.Context, percent int) error
	// Clear takes back a fault that stays until somebody has looked. What is still
	// wrong comes back.
	Clear(ctx context.Context, fault protocol.Fault) error

	// Watch returns the newest status, and a channel that is closed when it is no
	// longer the newest.
	Watch() (machine.Status, <-chan struct{})
	// Run serves until ctx ends.
	Run(ctx context.Context) error
}

// Means are what a cabinet needs beside its configuration.
type Means struct {
	Keys   *card.Keys      // of the marks
	Minted protocol.VendID // highest id the ledger ever minted; 0 is none
	Owed   []protocol.Slot // slots of vends that are open in the ledger
	GPIO   scan.GPIO       // found at the very start of the program
	Chip   gpio.Chip       // nil: the lines of this computer, with this program as their guard

	// Patience is how long a line may be silent before the cabinet asks who is there; 0
	// is 10 s.
	Patience time.Duration
}

// firstScan is the first scanner among the parts; board and reader come before it.
const firstScan = 2

// memoryFile is where a machine without a motor board remembers its vends, in the
// data folder.
const memoryFile = "motors"

// Cabinet is everything that is fitted in one machine.
type Cabinet struct {
	Motors Motors
	Reader *card.Reader

	scans *scan.Devices
	air   *climate.Sensor // nil: none
	log   *slog.Logger

	parts []*part // board, reader, scanners, staff card readers, climate, in this order
	codes int     // owned by Run

	brought chan scan.Event // unbuffered: only who waits is handed anything

	mu    sync.Mutex
	state State         // guarded by mu
	stale chan struct{} // guarded by mu; closed when state is no longer the newest
}

// State is how a cabinet is. The slices are not to be changed.
type State struct {
	// Board is the motors' status, with the reading of the climate sensor where the
	// board has none.
	Board machine.Status
	Parts []Part // in the order of the configuration's documentation: board, reader, scanners, staff card readers, climate
	Codes int    // codes and badges that were read
}

// Part is one thing that is fitted, and how it is.
type Part struct {
	Key    string // in the configuration file: board, reader, scanner, badge or climate
	Name   string // of a scanner or a staff card reader there
	What   string // in words: "card reader", "scanner front"
	Device string // path or lines
	// State is Up if it works, as far as its wire can tell, and Wrong if another device
	// answers in its place, or it answers in another's.
	State   status.State
	Why     string // what is wrong while it is not up, and what to do
	answers who    // on its line
	Refused int    // scanners and staff card readers: inputs thrown away since the start
}

// Wrong reports whether a device answers in another's place.
func (s State) Wrong() bool {
	return slices.ContainsFunc(s.Parts, func(p Part) bool { return p.State == status.Wrong })
}

// New makes the drivers of all parts. It refuses two parts on one device by two
// names, and GPIO lines that are wrong, doubled or absent, all of it in one error.
// Nothing is opened or driven before Run.
func New(cfg Config, m Means, log *slog.Logger) (*Cabinet, error) {
	c := &Cabinet{log: log.With("part", "cabinet"), stale: make(chan struct{}), brought: make(chan scan.Event)}
	c.parts = fitted(cfg)
	for _, p := range c.parts {
		p.patience = cmp.Or(m.Patience, usualPatience)
	}
	motors, err := newMotors(cfg, m, c.parts[0], log)
	for _, s := range cfg.shared() {
		err = errors.Join(err, s)
	}
	if err != nil {
		return nil, fmt.Errorf("the configuration does not fit this machine: %w", err)
	}
	c.Motors = motors
	reader := c.parts[1]
	c.Reader = card.New(reader.dial, cfg.Reader.Baud, m.Keys, cfg.location, log.With("part", "card", "device", reader.path))
	c.scans = newScans(cfg, m.GPIO, c.parts[firstScan:], log)
	if cfg.Climate.fitted {
		c.air = climate.New(climate.On(cfg.Climate.Bus), uint16(cfg.Climate.Address), log.With("part", "climate"))
	}
	c.state = c.look()
	return c, nil
}

func newMotors(cfg Config, m Means, p *part, log *slog.Logger) (Motors, error) {
	log = log.With("part", "machine", "device", p.path)
	switch cfg.Board.Kind {
	case KindVending:
		opt := cfg.fitting.vending
		opt.Minted, opt.Owed = m.Minted, m.Owed
		return vending.New(p.dial, log, opt), nil
	case KindGPIO:
		chip := m.Chip
		if chip == nil {
			chip = gpio.Kernel{Guard: []string{"/proc/self/exe"}}
		}
		return gpio.New(cfg.fitting.gpio, chip, gpio.File{Path: filepath.Join(cfg.Data, memoryFile)}, log)
	}
	return machine.New(p.dial, log, cfg.fitting.own), nil
}

// newScans makes scanners and staff card readers, in the order of parts.
func newScans(cfg Config, lines scan.GPIO, parts []*part, log *slog.Logger) *scan.Devices {
	var all []scan.Device
	for i, s := range cfg.Scanners {
		if s.Keyboard != "" {
			all = append(all, scan.Keyboard(s.Name, parts[i].openKeyboard, s.framing()))
			continue
		}
		all = append(all, scan.Serial(s.Name, parts[i].dial, s.framing()))
	}
	for i, b := range cfg.Badges {
		p := parts[len(cfg.Scanners)+i]
		if b.PN532 != "" {
			all = append(all, scan.PN532(b.Name, p.dial))
			continue
		}
		w := b.Wiegand
		all = append(all, scan.Wiegand(b.Name, func(context.Context) (scan.LineSet, error) { return lines.Lines(w.Chip, w.D0, w.D1) }))
	}
	return scan.New(log.With("part", "scan"), all...)
}

// sharing are two parts on one device.
type sharing struct {
	first, second wired
	device        string
}

func (s sharing) Error() string {
	return fmt.Sprintf("%s (%s) and %s (%s) are one device, %s: give each part its own", s.first.key, s.first.path, s.second.key, s.second.path, s.device)
}

// shared finds parts that are on one device, whatever names lead to it: they would
// take the line from each other.
func (c Config) shared() (all []sharing) {
	taken := map[string]wired{}
	for _, w := range c.wires() {
		real, err := filepath.EvalSymlinks(w.path)
		if err != nil {
			continue // it is not there; whoever opens it says so
		}
		if was, again := taken[real]; again {
			all = append(all, sharing{was, w, real})
			continue
		}
		taken[real] = w
	}
	return all
}

// Watch returns the newest state, and a channel that is closed when it is no longer
// the newest.
func (c *Cabinet) Watch() (State, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.stale
}

// tick bounds how long a change that nobody announces stays unseen: how long a line
// has been silent, and who was found on it.
const tick = time.Second

// Run runs every part until ctx ends. One that is absent never stops another.
func (c *Cabinet) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.Motors.Run(ctx) })
	g.Go(func() error { return c.Reader.Run(ctx) })
	g.Go(func() error { return c.scans.Run(ctx) })
	if c.air != nil {
		g.Go(func() error { return c.air.Run(ctx) })
	}
	codes := make(chan string)
	g.Go(func() error { c.take(ctx, codes); return nil })
	g.Go(func() error { c.watch(ctx, codes); return nil })
	return g.Wait()
}

// Next waits for what is scanned or held against a staff card reader next; the error
// is that of ctx. What nobody takes in time is dropped: it is no longer in front of
// the reader.
func (c *Cabinet) Next(ctx context.Context) (scan.Event, error) {
	select {
	case e := <-c.brought:
		return e, nil
	case <-ctx.Done():
		return scan.Event{}, ctx.Err()
	}
}

// take takes what is read and offers it to Next; the state hears only at which device
// that was.
func (c *Cabinet) take(ctx context.Context, codes chan<- string) {
	for {
		e, err := c.scans.Next(ctx)
		if err != nil {
			return // ctx has ended
		}
		select {
		case c.brought <- e:
		default: // nobody waits
		}
		select {
		case codes <- e.Device:
		case <-ctx.Done():
			return
		}
	}
}

// watch keeps the state until ctx ends.
func (c *Cabinet) watch(ctx context.Context, codes <-chan string) {
	again := time.NewTicker(tick)
	defer again.Stop()
	for ctx.Err() == nil {
		_, motors := c.Motors.Watch()
		_, reader := c.Reader.Watch()
		scans, scanned := c.scans.Watch()
		var air <-chan struct{}
		if c.air != nil {
			_, air = c.air.Watch()
		}
		c.publish(c.look())
		select {
		case <-ctx.Done():
		case <-motors:
		case <-reader:
		case <-scanned:
		case <-air:
		case <-again.C:
			c.doubt(time.Now())
		case name := <-codes:
			c.codes++
			i := slices.IndexFunc(scans, func(s scan.State) bool { return s.Device == name })
			c.parts[firstScan+i].made()
		}
	}
}

// doubt has the lines of barcode scanners asked whose device is missing elsewhere:
// a scanner says nothing of itself, so the missing one may be in its place.
func (c *Cabinet) doubt(now time.Time) {
	conditions := make([]condition, len(c.parts))
	for i, p := range c.parts {
		conditions[i] = p.condition()
	}
	missing := false
	for i, p := range c.parts {
		n := conditions[i]
		if p.kind != nobody && p.kind != barcodeScanner && !n.asked.IsZero() && n.found.who != p.kind && answering(p.kind, c.parts, conditions) < 0 {
			missing = true
		}
	}
	for _, p := range c.parts {
		p.doubt(missing, now)
	}
}

// publish makes s the newest state, and logs what has become wrong with it.
func (c *Cabinet) publish(s State) {
	c.mu.Lock()
	was := c.state
	news := !reflect.DeepEqual(s, was)
	if news {
		c.state = s
		close(c.stale)
		c.stale = make(chan struct{})
	}
	c.mu.Unlock()
	for i, p := range s.Parts {
		switch wrong := p.State == status.Wrong; {
		case wrong && p.Why != was.Parts[i].Why:
			c.log.Warn("wrong device", "device", p.Device, "err", p.Why)
		case !wrong && was.Parts[i].State == status.Wrong:
			c.log.Info("no wrong device any more", "device", p.Device)
		}
	}
}

// look asks every part how it is.
func (c *Cabinet) look() State {
	s := State{Codes: c.codes}
	s.Board, _ = c.Motors.Watch()
	c.parts[0].is(s.Board.Up, "", 0)
	reader, _ := c.Reader.Watch()
	c.parts[1].is(reader.Ready, "", 0)
	scans, _ := c.scans.Watch()
	for i, d := range scans {
		c.parts[firstScan+i].is(d.Up, d.Why, d.Refused)
	}
	if c.air != nil {
		air, _ := c.air.Watch()
		c.parts[len(c.parts)-1].is(air.OK, air.Why, 0)
		s.Board = withAir(s.Board, air)
	}
	s.Parts = judge(c.parts)
	return s
}

// withAir is b with the reading of a climate sensor beside it, where the board has
// none of its own.
func withAir(b machine.Status, air climate.Reading) machine.Status {
	var rest []machine.Fault
	for _, f := range b.Faults {
		if f.Fault != protocol.FaultClimate {
			rest = append(rest, f)
		}
	}
	switch {
	case b.Climate.OK:
		return b
	case air.OK:
		b.Climate = machine.Climate{OK: true, CentiC: air.CentiC, CentiRH: air.CentiRH}
	default:
		rest = append(rest, machine.Fault{Fault: protocol.FaultClimate})
	}
	b.Faults = rest
	return b
}
