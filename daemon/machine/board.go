// Package machine drives what moves: motors, drop sensor, door, lock and light,
// behind one type for each kind of hardware. Board is our own motor board on a
// serial line.
//
// It owns the line, the repeats, and the one function that turns the board's
// evidence into an outcome. The rules of motion are the board's: it refuses with
// the door open, stops by itself and remembers every vend. The package knows
// nothing of stock, residents or screens.
package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"yaoju/daemon/port"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

const (
	// callLimit bounds one question with its wait for the line: a board that was
	// reset, or a plug that bounced, is back within 2 s; five tries take 0.5 s.
	callLimit = 3 * time.Second

	// askEvery is how often a running vend or a held button asks: three times
	// within the board's HoldMS, and a smooth progress bar.
	askEvery = 100 * time.Millisecond

	// vendLimit bounds a vend: with the longest turn the board allows (7 s), the
	// two turns its half-turns come to, and three watches, the board takes 26 s.
	vendLimit = 40 * time.Second

	// lostLimit is how long a vend waits for a board that fell silent, before
	// nobody can tell: time for a reset and for a plug to be put back.
	lostLimit = 10 * time.Second

	// queueLength: one vend, one held button, lock and light, twice over.
	queueLength = 8

	// sentLength is how many vends this process remembers to have sent, or not to
	// send. Only the last few can still be asked for.
	sentLength = 64

	usualTurn = 2500 * time.Millisecond
)

// Options say how the board is to be used. The zero value will do.
type Options struct {
	Config board.Configure // sent when the board has another; the zero value leaves the board as it is
	Turn   time.Duration   // what a turn usually takes, for the progress; 0 is 2.5 s
}

// Board is the motor board at the other end of a serial line.
type Board struct {
	dial  func(context.Context) (io.ReadWriteCloser, error)
	log   *slog.Logger
	opt   Options
	calls chan call

	seq uint8 // owned by Run

	mu        sync.Mutex
	status    Status         // guarded by mu, as is all that follows
	stale     chan struct{}  // closed when status is no longer the newest
	heard     board.StatusIs // the last one
	known     bool           // the board knew an id that was new
	restarted bool           // the board had restarted by itself
	sent      []sent         // oldest first
	never     []never        // oldest first
	light     *uint8         // percent asked for; nil is never
	press     uint8          // of the last held button
}

// sent is a vend that this process gave to a board.
type sent struct {
	id     protocol.VendID
	serial uint64
	ran    bool // the board said so
}

// never is a vend that was answered: it did not turn. So it must not from then on,
// whatever becomes of the reason.
type never struct {
	id     protocol.VendID
	result protocol.Result
}

// New returns a driver that opens its line with dial. Nothing happens before Run.
func New(dial func(context.Context) (io.ReadWriteCloser, error), log *slog.Logger, opt Options) *Board {
	if opt.Turn <= 0 {
		opt.Turn = usualTurn
	}
	b := &Board{dial: dial, log: log, opt: opt, calls: make(chan call, queueLength), stale: make(chan struct{})}
	b.status.Faults = faults(false, b.heard, false, false)
	return b
}

// Run keeps the line up and serves it until ctx ends.
func (b *Board) Run(ctx context.Context) error {
	return port.Keep(ctx, b.dial, b.serve, b.log)
}

// met starts a session.
func (b *Board) met(h board.HelloIs, is board.StatusIs) {
	b.mu.Lock()
	b.heard = is
	if was := b.status.Hello; h.Serial != was.Serial || h.Boot != was.Boot { // else it was told of, and perhaps cleared
		b.restarted = h.ResetCause == board.ResetBrownOut || h.ResetCause == board.ResetWatchdog
	}
	b.mu.Unlock()
	b.update(func(s *Status) {
		s.Up = true
		s.Session++
		s.Hello = Hello{Serial: h.Serial, Build: h.Build, ConfigHash: h.ConfigHash, Highest: h.Highest, Boot: h.Boot}
		s.take(is)
	})
	b.log.Info("board met", "device", h.Serial, "vend", h.Highest)
}

func (b *Board) heardStatus(is board.StatusIs) {
	b.mu.Lock()
	b.heard = is
	b.mu.Unlock()
	b.update(func(s *Status) { s.take(is) })
}

// ask hands a question to the owner of the line and waits for the reply.
func (b *Board) ask(ctx context.Context, m board.Message, check func(board.HelloIs) error) reply {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	c := call{ctx, m, check, make(chan reply, 1)}
	select {
	case b.calls <- c:
	case <-ctx.Done():
		return reply{err: fmt.Errorf("ask the motor board: %w", ctx.Err())}
	}
	select {
	case r := <-c.reply:
		return r
	case <-ctx.Done():
		return reply{err: fmt.Errorf("ask the motor board: %w", ctx.Err())}
	}
}

var (
	errKnown = errors.New("the board knows this id already")
	errOther = errors.New("another board than the one this vend was given to")
	errNever = errors.New("it was answered that this id did not turn")
)

// Vend turns slot's motor once for id and returns when motion is over. Asked
// again with the same id it moves nothing and returns what is remembered. An
// error means that command or answer was lost and nobody can tell; the outcome
// is then Unknown, and Result may know more later.
func (b *Board) Vend(ctx context.Context, id protocol.VendID, slot protocol.Slot) (protocol.Result, error) {
	if id == 0 {
		return protocol.Result{Outcome: protocol.Unknown}, errors.New("vend: id 0 is no id")
	}
	if r, ok := b.turnsNever(id); ok {
		return r, nil
	}
	r, err := b.vend(ctx, id, slot)
	if err == nil && r.Outcome == protocol.Kept {
		b.keep(id, r)
	}
	return r, err
}

func (b *Board) vend(ctx context.Context, id protocol.VendID, slot protocol.Slot) (protocol.Result, error) {
	if slot.Valid() != nil {
		return protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultNoMotor}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, vendLimit)
	defer cancel()
	defer b.update(func(s *Status) { s.Motion = Motion{} })

	var mine atomic.Bool // this call was the first to send id
	r := b.ask(ctx, board.Vend{ID: id, Slot: slot}, func(h board.HelloIs) error {
		first, err := b.mayVend(id, h)
		if first {
			mine.Store(true)
		}
		return err
	})
	first := mine.Load() && r.tries <= 1 // no earlier frame of ours can have started it
	switch {
	case errors.Is(r.err, errNever):
		kept, _ := b.turnsNever(id)
		return kept, nil
	case errors.Is(r.err, errKnown):
		return b.knew(id, slot)
	case r.err != nil:
		if _, out := b.sentTo(id); !out || errors.Is(r.err, errOther) {
			return protocol.Result{Outcome: protocol.Unknown}, fmt.Errorf("vend %d in slot %d: %w", id, slot, r.err)
		}
		return b.follow(ctx, board.VendState{}, id, slot)
	}
	switch m := r.answer.(type) {
	case board.VendState:
		if first && m.Repeat || m.ID != id || m.Slot != slot {
			return b.knew(id, slot)
		}
		return b.follow(ctx, m, id, slot)
	case board.Nak:
		if first && m.Reason == board.NakStale {
			return b.knew(id, slot)
		}
		refused := protocol.Result{Outcome: protocol.Kept, Cause: refusal(m)}
		if m.Reason == board.NakLatched {
			// The latched fault is that of the slot it names, and stands in the status:
			// this slot is not to be blocked for it.
			refused.Cause = protocol.FaultBoardSilent
		}
		if first {
			return refused, nil
		}
		res, err := b.follow(ctx, board.VendState{}, id, slot)
		if err == nil && res == judge(board.VendState{State: board.StateNone}) {
			return refused, nil
		}
		return res, err
	}
	return protocol.Result{Outcome: protocol.Unknown}, fmt.Errorf("vend %d in slot %d: answered by %T", id, slot, r.answer)
}

// mayVend is asked by the owner of the line before each try. It reports whether id
// was not sent before.
func (b *Board) mayVend(id protocol.VendID, h board.HelloIs) (first bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.ContainsFunc(b.never, func(n never) bool { return n.id == id }) {
		return false, errNever
	}
	for _, s := range b.sent {
		if s.id == id && s.serial != h.Serial {
			return false, errOther
		}
		if s.id == id {
			return false, nil
		}
	}
	if id <= h.Highest {
		return false, errKnown // the ledger minted it, so it must be above all the board has seen
	}
	if len(b.sent) == sentLength {
		b.sent = b.sent[1:]
	}
	b.sent = append(b.sent, sent{id: id, serial: h.Serial})
	return true, nil
}

// keep remembers that id was answered not to have turned.
func (b *Board) keep(id protocol.VendID, r protocol.Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.ContainsFunc(b.never, func(n never) bool { return n.id == id }) {
		return
	}
	if len(b.never) == sentLength {
		b.never = b.never[1:]
	}
	b.never = append(b.never, never{id, r})
}

// turnsNever returns what was answered of id, if that was that it did not turn.
func (b *Board) turnsNever(id protocol.VendID) (r protocol.Result, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.never {
		if n.id == id {
			return n.result, true
		}
	}
	return protocol.Result{}, false
}

// learned is told every answer by the owner of the line: what a board says of an id
// holds before a VEND that waits behind it.
func (b *Board) learned(m board.Message) {
	v, ok := m.(board.VendState)
	if !ok {
		return
	}
	turned := v.State != board.StateNone && v.State != board.StateSkipped
	if !b.ran(v.ID, turned) { // else it turned, and has been forgotten since
		b.keep(v.ID, judge(v))
	}
}

// ran notes whether id has turned now, and reports whether it ever has.
func (b *Board) ran(id protocol.VendID, now bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.sent {
		if s := &b.sent[i]; s.id == id {
			s.ran = s.ran || now
			return s.ran
		}
	}
	return now
}

// sentTo returns to which board this process sent id, and whether it did.
func (b *Board) sentTo(id protocol.VendID) (serial uint64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sent {
		if s.id == id {
			return s.serial, true
		}
	}
	return 0, false
}

// knew is the end of a vend whose id the board should not have known. Its record
// belongs to something else and says nothing about this one.
func (b *Board) knew(id protocol.VendID, slot protocol.Slot) (protocol.Result, error) {
	b.log.Error("board knows a new id", "vend", id, "slot", slot)
	b.mu.Lock()
	b.known = true
	b.mu.Unlock()
	b.update(func(*Status) {})
	return protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultBoardKnows}, nil
}

// follow asks after a vend until it is over. s is its state as far as known; the
// zero value is not at all.
func (b *Board) follow(ctx context.Context, s board.VendState, id protocol.VendID, slot protocol.Slot) (protocol.Result, error) {
	ran := false
	for word := time.Now(); ; {
		switch s.State {
		case 0:
		case board.StateNone, board.StateSkipped:
			if ran { // it turned, and has been forgotten since
				return judge(board.VendState{State: board.StateForgotten}), nil
			}
			return judge(s), nil
		case board.StateRunning:
			ran = true
			b.update(func(st *Status) {
				st.Motion = Motion{Vend: id, Slot: slot, Percent: progress(s, b.opt.Turn), Phase: s.Phase}
			})
		default:
			return judge(s), nil
		}
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
		}
		var err error
		if s, err = b.query(ctx, id, s); err == nil {
			word = time.Now()
			continue
		}
		if ctx.Err() != nil || errors.Is(err, errOther) || time.Since(word) > lostLimit {
			return protocol.Result{Outcome: protocol.Unknown}, fmt.Errorf("vend %d in slot %d: %w", id, slot, err)
		}
	}
}

// query asks the board that was given id what became of it. With an error the
// state is still was.
func (b *Board) query(ctx context.Context, id protocol.VendID, was board.VendState) (board.VendState, error) {
	r := b.ask(ctx, board.Query{ID: id}, func(h board.HelloIs) error {
		if serial, ok := b.sentTo(id); ok && serial != h.Serial {
			return errOther
		}
		return nil
	})
	if r.err != nil {
		return was, r.err
	}
	s, ok := r.answer.(board.VendState)
	if !ok || s.ID != id {
		return was, fmt.Errorf("query %d: answered by %v", id, r.answer)
	}
	return s, nil
}

// Result returns what the board knows about id and moves nothing. While the vend
// still runs it waits for the end, or for ctx. An error means that the board could
// not be asked, or is not the one that this process gave id to.
func (b *Board) Result(ctx context.Context, id protocol.VendID) (protocol.Result, error) {
	s, err := b.query(ctx, id, board.VendState{})
	if err != nil {
		return protocol.Result{Outcome: protocol.Unknown}, fmt.Errorf("result of vend %d: %w", id, err)
	}
	if s.State != board.StateRunning {
		return judge(s), nil
	}
	defer b.update(func(s *Status) { s.Motion = Motion{} })
	return b.follow(ctx, s, id, s.Slot)
}

// Lock opens the lock for a while, at most 10 s; 0 locks now.
func (b *Board) Lock(ctx context.Context, open time.Duration) error {
	n := min(max(0, open.Milliseconds()), board.MaxLockMS)
	return b.set(ctx, board.Lock{OpenMS: uint16(n)}, "lock")
}

// Light sets the light, 0 to 100 percent. A board that comes back gets it again.
func (b *Board) Light(ctx context.Context, percent int) error {
	p := uint8(min(max(0, percent), 100))
	b.mu.Lock()
	b.light = &p
	b.mu.Unlock()
	return b.set(ctx, board.Light{Percent: p}, "light")
}

func (b *Board) wantedLight() (percent uint8, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.light == nil {
		return 0, false
	}
	return *b.light, true
}

// Clear takes back a fault that stays until somebody has looked: a runaway, a
// journal or drop sensor that failed, pieces that fell by themselves, a restart,
// a board that knew a new id. What is still wrong comes back.
func (b *Board) Clear(ctx context.Context, fault protocol.Fault) error {
	switch fault {
	case protocol.FaultBoardKnows, protocol.FaultBoardReset:
		b.mu.Lock()
		b.known = b.known && fault != protocol.FaultBoardKnows
		b.restarted = b.restarted && fault != protocol.FaultBoardReset
		b.mu.Unlock()
		b.update(func(*Status) {})
		return nil
	}
	if fault == 0 || fault >= protocol.FaultBoardSilent {
		return fmt.Errorf("clear %s: not the motor board's to clear", fault.Code())
	}
	return b.set(ctx, board.Clear{Fault: uint8(fault)}, "clear "+fault.Code())
}

// set asks for something that is answered by a status.
func (b *Board) set(ctx context.Context, m board.Message, what string) error {
	r := b.ask(ctx, m, nil)
	if r.err != nil {
		return fmt.Errorf("%s: %w", what, r.err)
	}
	if n, ok := r.answer.(board.Nak); ok {
		return fmt.Errorf("%s: refused, reason %d", what, n.Reason)
	}
	return nil
}

// TestTurn makes one turn of slot while ctx lives: its end is the finger that
// leaves the button, and the motor stops within 300 ms. It returns nil when the
// turn is over or let go, and a *RefusedError when the board will not or could not.
func (b *Board) TestTurn(ctx context.Context, slot protocol.Slot) error {
	return b.hold(ctx, board.MotionTest, slot)
}

// Home brings slot back to its home while ctx lives, like TestTurn.
func (b *Board) Home(ctx context.Context, slot protocol.Slot) error {
	return b.hold(ctx, board.MotionHome, slot)
}

func (b *Board) hold(ctx context.Context, motion board.Motion, slot protocol.Slot) error {
	b.mu.Lock()
	b.press++
	h := board.Hold{Slot: slot, Motion: motion, Press: b.press}
	b.mu.Unlock()
	for {
		r := b.ask(ctx, h, nil)
		if ctx.Err() != nil {
			return nil // let go; the board stops by itself
		}
		if r.err != nil {
			return fmt.Errorf("hold slot %d: %w", slot, r.err)
		}
		if over, err := held(r.answer, h); over {
			return err
		}
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

// held says from the board's answer whether a held motion is over, and how.
func held(m board.Message, h board.Hold) (over bool, err error) {
	if n, ok := m.(board.Nak); ok {
		return true, &RefusedError{Fault: refusal(n), Slot: h.Slot}
	}
	is, ok := m.(board.StatusIs)
	switch {
	case !ok || is.Motion != h.Motion || is.Slot != h.Slot:
		return true, fmt.Errorf("hold slot %d: the board let go, press again", h.Slot)
	case is.Cause != 0:
		return true, &RefusedError{Fault: protocol.Fault(is.Cause), Slot: h.Slot}
	}
	return is.Phase == board.PhaseDone, nil
}
