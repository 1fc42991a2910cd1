package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	reader "yaoju/daemon/card/sim"
	"yaoju/daemon/ledger"
	"yaoju/daemon/machine/sim"
	"yaoju/daemon/port/pty"
	scan "yaoju/daemon/scan/sim"
	"yaoju/firmware/elf"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// boardSerial is the serial number of the complete machine's motor board.
const boardSerial = 0xA17E

// motorBoard is a motor board with the cabinet around it, and what a bench does to it.
type motorBoard interface {
	// Serve speaks on line until ctx ends or the line does, and closes it.
	Serve(ctx context.Context, line io.ReadWriteCloser) error
	Load(slot protocol.Slot, pieces int)
	Pieces(slot protocol.Slot) int     // left in the spiral
	FallenFrom(slot protocol.Slot) int // for whatever reason
	Turning() bool                     // a motor has power
	Spoil(slot protocol.Slot)          // its next vend turns and pushes nothing out
	Door(open bool)
	DoorOpen() bool
	Cut(off time.Duration) // takes its power away for so long
	Close() error
}

// vendTurns is how many turns a vend makes that finds nothing: a full one, two
// half-turns that make another, and one that runs through to home.
const vendTurns = 1 + board.HalfTurns

// twin is the board in software.
type twin struct{ *sim.Board }

func (t twin) Turning() bool            { return t.Status().CurrentMA > 0 }
func (t twin) Spoil(slot protocol.Slot) { t.SetFaults(slot, sim.Faults{Hang: vendTurns}) }
func (t twin) Door(open bool)           { t.Adjust(func(c *sim.Cabinet) { c.DoorOpen = open }) }
func (t twin) DoorOpen() bool           { return t.Status().DoorOpen }
func (t twin) Close() error             { return nil }

func (t twin) Cut(off time.Duration) {
	t.PowerOff()
	time.AfterFunc(off, t.PowerOn)
}

// chip is the real firmware in its simulator.
type chip struct {
	*elf.Board
	mu   sync.Mutex
	open bool // guarded by mu
}

func (c *chip) Turning() bool {
	m := c.Moves()
	return len(m) > 0 && m[len(m)-1].On
}

func (c *chip) Spoil(slot protocol.Slot) { c.SetFaults(slot, elf.Faults{Hang: vendTurns}) }

func (c *chip) Door(open bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = open
	c.Board.Door(open)
}

func (c *chip) Cut(off time.Duration) {
	c.PowerOff()
	time.AfterFunc(off, c.PowerOn)
}

func (c *chip) DoorOpen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

// rig is the hardware of one machine in software: a motor board and a card reader
// on real serial lines.
type rig struct {
	board  motorBoard
	twin   *sim.Board // the same, where it is the one in software; else nil
	reader *reader.Reader
	badges *scan.PN532
	staff  bool // a reader for staff cards and a scanner are fitted
	dir    string
	log    *slog.Logger

	plugs   chan plug   // asked of Run
	scanned chan string // codes on their way to the scanner

	// For measuring; set before Run.
	heard    func(at time.Time) // a VEND frame arrived
	answered func(at time.Time) // the reader has sent a card's text
}

// plug puts one device's cable in or takes it out.
type plug struct {
	device string
	in     bool
	done   chan error
}

// The names under which kioskd finds its lines, below the rig's folder.
const (
	boardLine  = "board"
	readerLine = "reader"
	badgeLine  = "badge"
	codeLine   = "scanner"
)

// newRig makes the hardware, with the pieces of the plan in the spirals. Close it.
func newRig(p plan) (*rig, error) {
	r := &rig{dir: p.dir, log: p.log, plugs: make(chan plug), scanned: make(chan string), reader: reader.New(p.readTakes), badges: scan.NewPN532(0x32), staff: p.staff}
	r.heard, r.answered = func(time.Time) {}, func(time.Time) {}
	switch {
	case p.bought:
		r.board = newBought(p.turn)
	case p.firmware:
		b, err := elf.Start(elf.Options{Serial: boardSerial, EEPROM: filepath.Join(p.dir, "eeprom")})
		if err != nil {
			return nil, err
		}
		r.board = &chip{Board: b}
	default:
		r.twin = sim.New(sim.Options{Serial: boardSerial, Build: 1, Turn: p.turn, Rand: rand.New(rand.NewPCG(17, 17)),
			Heard: func(_ protocol.VendID, at time.Time) { r.heard(at) }})
		r.board = twin{r.twin}
	}
	for _, b := range p.bays {
		r.board.Load(b.slot, b.pieces)
	}
	return r, nil
}

func (r *rig) path(device string) string { return filepath.Join(r.dir, device) }

// Run keeps both devices on their lines until ctx ends, and then closes the board.
func (r *rig) Run(ctx context.Context) error {
	serve := map[string]func(context.Context, io.ReadWriteCloser) error{boardLine: r.board.Serve,
		readerLine: func(ctx context.Context, line io.ReadWriteCloser) error {
			return r.reader.Serve(ctx, timed{line, r.answered})
		}}
	if r.staff {
		serve[badgeLine] = r.badges.Serve
		serve[codeLine] = r.scanner
	}
	sockets := map[string]*pty.Socket{}
	var serving sync.WaitGroup
	connect := func(device string, in bool) error {
		if !in {
			return sockets[device].Unplug()
		}
		line, err := sockets[device].Plug()
		if err != nil {
			return err
		}
		serving.Go(func() {
			if err := serve[device](ctx, line); err != nil && ctx.Err() == nil {
				r.log.Debug("line ended", "device", device, "err", err) // it was unplugged
			}
		})
		return nil
	}
	var errs []error
	for device := range serve {
		sockets[device] = pty.NewSocket(r.path(device))
		errs = append(errs, connect(device, true))
	}
	for err := errors.Join(errs...); err == nil; {
		select {
		case p := <-r.plugs:
			p.done <- connect(p.device, p.in)
			continue
		case <-ctx.Done():
		}
		break
	}
	for _, s := range sockets {
		errs = append(errs, s.Unplug())
	}
	serving.Wait()
	return errors.Join(append(errs, r.board.Close())...)
}

// timed tells when a card's text, the one long answer of a reader, has left.
type timed struct {
	io.ReadWriteCloser
	sent func(at time.Time)
}

func (t timed) Write(b []byte) (int, error) {
	n, err := t.ReadWriteCloser.Write(b)
	if len(b) > 1000 { // text and photo are 1295 bytes, everything else under 100
		t.sent(time.Now())
	}
	return n, err
}

// scanner is the barcode scanner on its line: it says what is put before it.
func (r *rig) scanner(ctx context.Context, line io.ReadWriteCloser) error {
	defer line.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case code := <-r.scanned:
			if _, err := io.WriteString(line, code+"\r"); err != nil {
				return err
			}
		}
	}
}

// scan puts a code before the scanner.
func (r *rig) scan(ctx context.Context, code string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	select {
	case r.scanned <- code:
		return nil
	case <-ctx.Done():
		return errors.New("no scanner is fitted")
	}
}

// hold holds a staff card against its reader, as long as a person does.
func (r *rig) hold(uid []byte) {
	r.badges.Hold(uid)
	time.AfterFunc(time.Second, func() { r.badges.Hold() })
}

// cable puts a device's cable in or takes it out.
func (r *rig) cable(ctx context.Context, device string, in bool) error {
	p := plug{device, in, make(chan error, 1)}
	select {
	case r.plugs <- p:
		return <-p.done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stockLedger makes the ledger of a machine as a restocker would leave it: the
// planogram in force and every spiral filled.
func stockLedger(ctx context.Context, path string, d protocol.Desired, stock []bay, zone *time.Location, log *slog.Logger) error {
	l, err := ledger.Open(ctx, ledger.Options{Path: path, Machine: d.Machine, Software: version, Zone: zone, Log: log, Synced: func() bool { return true }})
	if err != nil {
		return err
	}
	d.DesiredVersion = protocol.DesiredVersion{Generation: 1, Version: 1} // the district's own is newer
	err = l.Apply(ctx, d)
	for _, b := range stock {
		if err == nil && b.pieces > 0 {
			err = l.Load(ctx, protocol.Stock{Slot: b.slot, Product: b.product, Batch: b.batch, Expiry: b.expiry}, b.pieces, restocker)
		}
	}
	if err := errors.Join(err, l.Close()); err != nil {
		return fmt.Errorf("stock the ledger: %w", err)
	}
	return nil
}
