// Package scan says what was scanned, or held against a staff card reader.
//
// It owns the wires of barcode scanners (serial, or a USB keyboard taken away
// from the screen) and of staff card readers (PN532, Wiegand), and keeps each
// device going by itself: one that is absent or unplugged never stops another.
// It does not know what a code means, who holds a badge, what staff may do, or
// whether a session is open. A badge is staff data: it goes to whoever calls
// Next and to nobody else, not into errors and not into logs.
package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"yaoju/daemon/port"
)

const (
	// queueLength is how many events wait for Next: more than a person can scan
	// while one is being handled.
	queueLength = 16

	// freshFor is how long an event waits for Next. What was held against a
	// reader longer ago was meant for another screen, and a badge from before a
	// session must not open it.
	freshFor = 10 * time.Second

	// MaxCode is the longest code that is taken, in bytes. GS1 ends below 150
	// and the QR codes on papers below this; what is longer is not on a carton.
	MaxCode = 512
)

// Scan is one code that a barcode scanner read.
type Scan struct {
	// Code is the text exactly as the scanner sent it, 1 to MaxCode bytes, with
	// separators (GS, 0x1D) and with the AIM identifier, if the scanner sends one.
	Code []byte
	// Symbology is the AIM identifier that Code begins with, such as "]d2"; empty
	// if there is none.
	Symbology string
	At        time.Time
}

// BadgeKind says which wire a badge came on. Numbers of different kinds are
// different badges.
type BadgeKind string

// The kinds of badge. They may be stored with an account, so they never change.
const (
	NFC       BadgeKind = "nfc"       // ISO 14443 A: 4, 7 or 10 bytes
	Wiegand26 BadgeKind = "wiegand26" // 3 bytes
	Wiegand34 BadgeKind = "wiegand34" // 4 bytes
)

// Badge is one staff card that was held against a reader.
type Badge struct {
	UID  string `json:"-"` // upper-case hex, first byte first
	Kind BadgeKind
	At   time.Time
}

// Format keeps the UID out of whatever prints a Badge, with any verb.
func (b Badge) Format(s fmt.State, _ rune) {
	// A failing writer is the printer's affair.
	_, _ = io.WriteString(s, string(b.Kind)+" badge")
}

// LogValue keeps the UID out of logs.
func (b Badge) LogValue() slog.Value { return slog.StringValue(string(b.Kind) + " badge") }

// Event is one thing that a person did: either Scan or Badge is set.
type Event struct {
	Device string // its name
	Scan   *Scan
	Badge  *Badge
	Missed int // events lost just before this one, because nobody took them in time
}

// State is how one device is.
type State struct {
	Device  string
	Up      bool   // it is open and, where its wire can tell, it answers
	Why     string // what is wrong while it is not up
	Refused int    // inputs thrown away since the start: damaged, too long, or no code or badge at all
}

// Device is one scanner or reader, made by Serial, Keyboard, PN532 or Wiegand
// and given to New once.
type Device struct {
	name  string
	dial  Dial
	serve func(context.Context, io.ReadWriteCloser, outlet) error
}

// Dial opens a device's line, each time it is needed. Close must stand being
// called twice, and must end a waiting Read.
type Dial func(context.Context) (io.ReadWriteCloser, error)

// Devices is every scanner and staff card reader of one machine.
type Devices struct {
	devices []Device
	log     *slog.Logger

	mu sync.Mutex
	// guarded by mu
	states  []State
	stale   chan struct{} // closed when states change
	queue   []waiting     // oldest first, at most queueLength
	missed  int           // lost since the last event that Next returned
	arrived chan struct{} // closed when an event arrives
}

// waiting is an event in the queue.
type waiting struct {
	event Event
	since time.Time
}

// New puts devices together. Their names tell them apart in states, events and
// the log.
func New(log *slog.Logger, devices ...Device) *Devices {
	d := &Devices{devices: devices, log: log, stale: make(chan struct{}), arrived: make(chan struct{})}
	for _, dev := range devices {
		d.states = append(d.states, State{Device: dev.name, Why: "not opened yet"})
	}
	return d
}

// Run keeps every device going until ctx ends, each by itself: it is opened,
// served, and opened again when it is lost, after pauses of 250 ms to 5 s.
func (d *Devices) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, len(d.devices))
	for i := range d.devices {
		wg.Go(func() { errs[i] = d.keep(ctx, i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// keep keeps device i going until ctx ends.
func (d *Devices) keep(ctx context.Context, i int) error {
	dev := d.devices[i]
	o := outlet{all: d, i: i, log: d.log.With("device", dev.name)}
	dial := func(ctx context.Context) (io.ReadWriteCloser, error) {
		line, err := dev.dial(ctx)
		if err != nil {
			o.down(err)
		}
		return line, err
	}
	serve := func(ctx context.Context, line io.ReadWriteCloser) error {
		err := dev.serve(ctx, line, o)
		o.down(err)
		return err
	}
	return port.Keep(ctx, dial, serve, o.log)
}

// Watch returns how each device is, in the order given to New, and a channel
// that is closed when that no longer holds.
func (d *Devices) Watch() ([]State, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.states), d.stale
}

// Next waits for the next event and takes it; the error is that of ctx. Events
// come in order. Up to 16 wait, each for at most 10 s, and a newer one drives
// out the oldest: what counts is what is in front of the reader now. Those lost
// are counted in the next event's Missed.
func (d *Devices) Next(ctx context.Context) (Event, error) {
	for {
		e, ok, arrived := d.take(time.Now())
		if ok {
			return e, nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return Event{}, fmt.Errorf("wait for a scan: %w", ctx.Err())
		}
	}
}

// take takes the oldest event that is still fresh, if there is one, and says
// what to wait for if there is none.
func (d *Devices) take(now time.Time) (Event, bool, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expire(now)
	if len(d.queue) == 0 {
		return Event{}, false, d.arrived
	}
	e := d.queue[0].event
	e.Missed, d.missed = d.missed, 0
	d.queue = slices.Delete(d.queue, 0, 1)
	return e, true, nil
}

// expire forgets what waited too long. Caller holds mu.
func (d *Devices) expire(now time.Time) {
	for len(d.queue) > 0 && now.Sub(d.queue[0].since) > freshFor {
		d.queue = slices.Delete(d.queue, 0, 1)
		d.missed++
	}
}

// put queues e.
func (d *Devices) put(e Event, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expire(now)
	if len(d.queue) == queueLength {
		d.queue = slices.Delete(d.queue, 0, 1)
		d.missed++
	}
	d.queue = append(d.queue, waiting{e, now})
	close(d.arrived)
	d.arrived = make(chan struct{})
}

// change changes the state of device i and tells those who watch, if it is news.
func (d *Devices) change(i int, f func(*State)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.states[i]
	f(&s)
	if s == d.states[i] {
		return
	}
	d.states[i] = s
	close(d.stale)
	d.stale = make(chan struct{})
}

// outlet is where one device's driver says what it sees.
type outlet struct {
	all *Devices
	i   int
	log *slog.Logger
}

// up says that the device works.
func (o outlet) up() { o.all.change(o.i, func(s *State) { s.Up, s.Why = true, "" }) }

// down says that it does not, and why.
func (o outlet) down(err error) {
	o.all.change(o.i, func(s *State) { s.Up, s.Why = false, err.Error() })
}

// refuse counts an input that was thrown away. err says only what kind of
// damage it had: what was read may be a badge.
func (o outlet) refuse(err error) {
	o.log.Debug("input refused", "err", err)
	o.all.change(o.i, func(s *State) { s.Refused++ })
}

// scanned passes a code on. It keeps code.
func (o outlet) scanned(code []byte) {
	now := time.Now()
	o.all.put(Event{Device: o.name(), Scan: &Scan{Code: code, Symbology: symbology(code), At: now}}, now)
}

// held passes a badge on.
func (o outlet) held(kind BadgeKind, uid []byte) {
	now := time.Now()
	o.all.put(Event{Device: o.name(), Badge: &Badge{UID: fmt.Sprintf("%X", uid), Kind: kind, At: now}}, now)
}

func (o outlet) name() string { return o.all.devices[o.i].name }
