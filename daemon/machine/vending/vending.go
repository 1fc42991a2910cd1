// Package vending drives off-the-shelf vending boards that speak the "FA FB"
// protocol (57600 baud, 8N1), with the face of machine.Board, so that a machine
// with such a board inside can serve without our own.
//
// It owns the wire, the answers to the board's polls, and the rule that such a
// board makes necessary: it keeps no ids and takes a repeated order as a second
// one, so a drive is sent once, ever, and what its end was is known only from a
// report that carries the selection and nothing else. What was not reported is
// Unknown. All memory of vends is this process's own. The package knows nothing
// of stock, residents or screens, and uses none of the board's stock, prices or
// payments.
package vending

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"yaoju/daemon/machine"
	"yaoju/daemon/port"
	"yaoju/protocol"
)

// Baud is the speed of the board's line.
const Baud = 57600

const (
	// startLimit is how long a vend waits to be sent: a plug that bounced is back
	// within 2 s, the check takes up to 2, and quiet may be another two.
	startLimit = 8 * time.Second

	// endLimit bounds motion from the drive to the last word about it: two turns of
	// a slow coupled pair and the drop window are under 30 s.
	endLimit = 40 * time.Second

	// liftLimit does with an elevator: 30 s for a piece, 114 s in which it may be
	// waited for to be taken (measured on another make).
	liftLimit = 150 * time.Second

	// quiet is the pause between the last report and the next drive. A report whose
	// acknowledgement was lost is sent five times more, one a poll; it must not be
	// taken for the next vend's.
	quiet = 2 * time.Second

	// strangerLimit is how long the board may be busy with what it was asked for at
	// its own keypad; reports meanwhile could be of that.
	strangerLimit = 20 * time.Second

	// lateLimit is how long after its time a report may still come, ten times what
	// resends allow. Until then a selection that owes one is not driven: the report
	// would be taken for that of the new vend.
	lateLimit = 2 * time.Minute

	// clearLimit bounds a wish from the service screen: some polls, the answer, and
	// a status that is under way.
	clearLimit = 5 * time.Second

	// vendsLength is how many vends this process remembers. Only the last few can
	// still be asked for.
	vendsLength = 64

	// asksLength: whoever stands at the service screen presses one button at a time.
	asksLength = 4

	usualTurn = 3 * time.Second
)

// Options say what the board is built into. The zero value has a motor in every
// slot, and neither elevator nor drop sensor.
//
// Minted and Owed are the memory that the board does not have. An id up to Minted may have
// turned for a process before this one, so it is Unknown and never driven. The board may
// still tell how the vends in Owed ended, and would be heard as if of a new vend there.
type Options struct {
	Minted     protocol.VendID // highest id the ledger minted before this process began; 0 is none
	Owed       []protocol.Slot // slots with a vend that is open when this process begins
	Fitted     []protocol.Slot // slots that have a motor; nil is all of them
	Elevator   bool            // pieces are carried to the hatch
	DropSensor bool            // there is one. Without it no vend is ever Dispensed: see judge
	Turn       time.Duration   // what a vend usually takes, for the progress; 0 is 3 s
}

// Longest is how long a vend may take, its wait for the line included: with an
// elevator minutes, because a piece in it waits for the hand that takes it.
func (o Options) Longest() time.Duration { return startLimit + o.motion() }

// motion is how long the board may take from the drive to its last word.
func (o Options) motion() time.Duration {
	if o.Elevator {
		return liftLimit
	}
	return endLimit
}

// Board is the vending board at the other end of a serial line.
type Board struct {
	dial func(context.Context) (io.ReadWriteCloser, error)
	log  *slog.Logger
	opt  Options
	asks chan *ask

	// owned by Run
	pack     byte      // number of the last command sent, 1 to 255
	lastNews frame     // the last frame with news, which a repeat would equal
	newsAt   time.Time // when it came, or was last repeated

	mu       sync.Mutex
	status   machine.Status // guarded by mu, as is all that follows
	stale    chan struct{}  // closed when status is no longer the newest
	vends    []*vend        // oldest first; the last one may be under way
	highest  protocol.VendID
	reported time.Time                     // the last report of any selection
	stranger time.Time                     // since when the board does what nobody here asked for; zero: it does not
	owes     [protocol.Slots + 1]time.Time // until when an end of that slot may come that is nobody's; 0 is of no slot
	lift     protocol.Fault                // what the elevator says is wrong
	runaway  *machine.Fault                // a motor that did not stop, until Clear
	loose    map[protocol.Slot]bool
}

// New returns a driver that opens its line with dial. Nothing happens before Run.
func New(dial func(context.Context) (io.ReadWriteCloser, error), log *slog.Logger, opt Options) *Board {
	if opt.Turn <= 0 {
		opt.Turn = usualTurn
	}
	opt.Fitted = slices.Clone(opt.Fitted)
	b := &Board{dial: dial, log: log, opt: opt, asks: make(chan *ask, asksLength),
		stale: make(chan struct{}), loose: make(map[protocol.Slot]bool)}
	b.highest, b.status.DropSensorOK = opt.Minted, opt.DropSensor
	for _, slot := range opt.Owed {
		b.owes[slot] = time.Now().Add(opt.motion() + lateLimit)
	}
	b.status.Faults = b.faults(b.status)
	return b
}

// Run keeps the line up and serves it until ctx ends.
func (b *Board) Run(ctx context.Context) error {
	return port.Keep(ctx, b.dial, b.serve, b.log)
}

// Watch returns the newest status, and a channel that is closed when it is no
// longer the newest. Hello has the serial number alone, made of the machine id
// that is set in the board; Highest is 0, because the board knows no ids. Phase
// and Odometer stay zero.
func (b *Board) Watch() (machine.Status, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status, b.stale
}

// update changes what is guarded by mu, and tells those who watch if the status is
// another then. f must not wait: the answer to a poll may wait for it.
func (b *Board) update(f func(s *machine.Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status
	f(&s)
	s.Faults = b.faults(s)
	if reflect.DeepEqual(s, b.status) {
		return
	}
	b.status = s
	close(b.stale)
	b.stale = make(chan struct{})
}

// faults lists what is wrong now.
func (b *Board) faults(s machine.Status) []machine.Fault {
	if !s.Up {
		return []machine.Fault{{Fault: protocol.FaultBoardSilent}}
	}
	var l []machine.Fault
	if b.runaway != nil {
		l = append(l, *b.runaway)
	}
	if b.lift != 0 {
		l = append(l, machine.Fault{Fault: b.lift})
	}
	for slot := range b.loose {
		l = append(l, machine.Fault{Fault: protocol.FaultSpontaneous, Slot: slot})
	}
	if !s.Climate.OK {
		l = append(l, machine.Fault{Fault: protocol.FaultClimate})
	}
	slices.SortFunc(l, func(x, y machine.Fault) int {
		return cmp.Or(cmp.Compare(x.Fault, y.Fault), cmp.Compare(x.Slot, y.Slot))
	})
	return l
}

// Vend turns slot's motor once for id and returns when the board has reported the
// end. Asked again with the same id it moves nothing and returns what this process
// remembers; an id below the highest that is not remembered is Unknown. Where no
// end was reported in time the outcome is Unknown. An error means that the caller
// left first; the vend goes on, and Result may know more later.
func (b *Board) Vend(ctx context.Context, id protocol.VendID, slot protocol.Slot) (protocol.Result, error) {
	if id == 0 {
		return protocol.Result{Outcome: protocol.Unknown}, errors.New("vend: id 0 is no id")
	}
	if slot.Valid() != nil || b.opt.Fitted != nil && !slices.Contains(b.opt.Fitted, slot) {
		return protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultNoMotor}, nil
	}
	if v := b.enter(id, slot); v != nil {
		b.start(ctx, v)
	}
	return b.Result(ctx, id)
}

// Result returns what this process knows about id and moves nothing. While the
// vend goes on it waits for the end, or for ctx. A vend of an earlier run is
// Unknown: the board remembers none.
func (b *Board) Result(ctx context.Context, id protocol.VendID) (protocol.Result, error) {
	v := b.find(id)
	if v == nil {
		return unknown(), nil
	}
	return b.await(ctx, v)
}

// Lock is not in the protocol.
func (b *Board) Lock(context.Context, time.Duration) error {
	return fmt.Errorf("lock: %w", machine.ErrUnsupported)
}

// Light is not in the protocol.
func (b *Board) Light(context.Context, int) error {
	return fmt.Errorf("light: %w", machine.ErrUnsupported)
}

// TestTurn is refused: such a board turns a motor to the end and cannot be told to
// stop when a finger leaves the button. It has a test of its own at its keypad.
func (b *Board) TestTurn(_ context.Context, slot protocol.Slot) error {
	return fmt.Errorf("test slot %d: %w", slot, machine.ErrUnsupported)
}

// Home is refused, like TestTurn.
func (b *Board) Home(_ context.Context, slot protocol.Slot) error {
	return fmt.Errorf("home slot %d: %w", slot, machine.ErrUnsupported)
}

// Clear takes back a fault that stays until somebody has looked: a runaway, pieces
// that fell by themselves, or the board's own record that a selection jammed,
// which may keep it from being driven.
func (b *Board) Clear(ctx context.Context, fault protocol.Fault) error {
	switch fault {
	case protocol.FaultSpontaneous:
		b.update(func(*machine.Status) { clear(b.loose) })
		return nil
	case protocol.FaultRunaway, protocol.FaultJam, protocol.FaultNoDrop:
	default:
		return fmt.Errorf("clear %s: not the vending board's to clear", fault.Code())
	}
	if err := b.clearJams(ctx); err != nil {
		return fmt.Errorf("clear %s: %w", fault.Code(), err)
	}
	if fault == protocol.FaultRunaway {
		b.update(func(*machine.Status) { b.runaway = nil })
	}
	return nil
}

// clearJams has the board forget the jams it noted.
func (b *Board) clearJams(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clearLimit)
	defer cancel()
	const jams, forget = 0x32, 0x01
	a := &ask{ctx: ctx, cmd: cmdMenu, text: []byte{jams, forget}, want: cmdMenuIs, done: make(chan error, 1)}
	select {
	case b.asks <- a:
	case <-ctx.Done():
		return fmt.Errorf("ask the vending board: %w", ctx.Err())
	}
	select {
	case err := <-a.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("ask the vending board: %w", ctx.Err())
	}
}
