// Package gpio drives a small machine that has no motor board: up to 16 motors,
// their home switches, the drop sensor, door, lock and light, each on a line of the
// computer itself. To the rest of the daemon it is a board: the rules of motion are
// those in the text of protocol/board, and the promises of a vend are kept by a small
// file, synced before the motor gets power. What that file does not know is unknown.
//
// A timer in Go is no safety device. The collector, the scheduler, a slow card or a
// kernel that hangs may hold this program up while a motor turns, and no limit below
// stops a motor then. Therefore the hardware must have
//
//   - a cut-off in the supply of the motors that opens 8 s after it came on and arms
//     again only once it was off: a timer relay or a monostable that nothing here can
//     hold. board.MaxTurnMS keeps every turn below that;
//   - on every output a resistor to its off level, for the time before the program
//     takes the line and after it gave it back;
//   - a fuse in the motors' supply.
//
// What the kernel does with the lines of a process that died depends on the
// controller. A PL061 goes on driving the last level, and so does a Raspberry Pi with
// the kernel of its makers (persist_gpio_outputs): a motor would turn on. So a guard,
// this program started once more, holds the same lines and drives them off as soon as
// the pipe to it breaks, or when a motor or the lock was on for longer than it may be:
// then this program hangs. See Kernel and Guard. `dtparam=strict_gpiod` in a Pi's
// config.txt makes its kernel let go as well, and does no harm beside the guard.
//
// Nothing here measures current. A spiral that is held fast, a motor that is cut off
// and a home switch that does not close look the same, a turn that does not come to
// its end, and all are RUNAWAY: latched, because the worst of them pushes out box
// after box. A motor without wire does not leave home: STUCK_HOME. A short circuit is
// the fuse's; one in the crossings of rows and columns shows at the home switch of a slot
// that turns along, which stops both: SHORT, latched.
//
// It owns lines, times and the file. It knows nothing of stock, residents or screens.
package gpio

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"yaoju/daemon/machine"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// Out is an output, the level at which it is off, and how long it may be on at a stretch,
// whatever becomes of this program; 0 is for ever.
type Out struct {
	Name    string
	Off     bool
	Longest time.Duration
}

// In is an input, and whether it is pulled up or down.
type In struct {
	Name   string
	PullUp bool
}

// Wires are the lines of a machine.
type Wires struct {
	Outs    []Out
	Ins     []In
	Curtain In // its edges are told
}

// Edge is a change of the curtain's line.
type Edge struct {
	At   time.Time // when the kernel saw it
	High bool
}

// Chip is what has lines: the kernel, or a plant made of software.
type Chip interface {
	// Names lists the lines there are; one that is there twice comes twice.
	Names() ([]string, error)
	// Open takes lines. Every output is at its off level from the moment it is one, and
	// back there when this process dies or has had one on for too long.
	// It may block for two seconds while a dead process's guard has them.
	Open(w Wires) (Pins, error)
}

// Pins are lines that were taken. Levels are electrical: true is high. All but
// Edge return at once and may be called while Edge waits.
type Pins interface {
	Write(name string, high bool) error
	Read(name string) (high bool, err error)
	// Edge waits for the next edge of the curtain, at most for limit; ok is false if
	// there was none.
	Edge(limit time.Duration) (e Edge, ok bool, err error)
	// Close drives every output off and gives the lines back.
	Close() error
}

// Store keeps the memory of the machine. Nobody else writes it.
type Store interface {
	Load() ([]byte, error) // what was saved last; nil if nothing ever was
	Save(data []byte) error
	Aside() error // keeps what Load returned somewhere else: it is damaged
}

const (
	// callLimit is how long a call waits for its turn. The longest thing it may
	// rightly wait for is a session that begins: 20 ms of self-test, a file.
	callLimit = 3 * time.Second

	// vendLimit bounds the wait for a vend: with the longest turn that is allowed
	// (7 s), the two turns its half-turns come to, and three watches, it takes 26 s.
	vendLimit = 40 * time.Second

	// retryFrom to retryTo is the pause before lines that failed are taken again.
	retryFrom = time.Second
	retryTo   = 30 * time.Second

	// toldLength is how many vends this process remembers the answer to. Only the
	// last few can still be asked for.
	toldLength = 64

	// dropsLength is how many pieces may wait for the motor's goroutine, which looks
	// at least every 10 s, when a save takes that long. A tray holds fewer.
	dropsLength = 64
)

// Machine is a machine on lines of this computer.
type Machine struct {
	cfg     Config
	chip    Chip
	store   Store
	log     *slog.Logger
	motor   chan func(*session) // what the owner of the motors is to do; without length, so what was not taken never happens
	cabinet chan func(*session) // what the owner of lock and light is to do

	mu     sync.Mutex
	status machine.Status // guarded by mu, as is all that follows
	stale  chan struct{}  // closed when status is no longer the newest
	loaded bool           // mem is what the store has
	mem    memory         // written by the owner of the motors
	told   []*told        // oldest first
	seen   seen
	light  bool // asked for
}

// seen is what is wrong and not in the memory.
type seen struct {
	blind   bool // the curtain failed its self-test
	stuck   bool // the curtain is dark
	strays  int  // pieces that fell while no motor ran
	journal bool // the store does not save
	knew    bool // the memory knew an id that was new
}

// told is a vend of this process and its answer.
type told struct {
	id     protocol.VendID
	done   chan struct{} // closed when result stands
	result protocol.Result
}

// New returns a driver for the lines in cfg. It refuses what does not fit together
// and lines that are not there, all of it in one error. Nothing is taken, driven or
// written before Run.
func New(cfg Config, chip Chip, store Store, log *slog.Logger) (*Machine, error) {
	names, err := chip.Names()
	if err != nil {
		return nil, errors.Join(cfg.Valid(), fmt.Errorf("gpio: list lines: %w", err))
	}
	if err := errors.Join(append([]error{cfg.Valid()}, cfg.absent(names)...)...); err != nil {
		return nil, fmt.Errorf("gpio: %w", err)
	}
	m := &Machine{cfg: cfg.withDefaults(), chip: chip, store: store, log: log,
		motor: make(chan func(*session)), cabinet: make(chan func(*session)), stale: make(chan struct{})}
	m.status.Faults = m.faults(m.status)
	return m, nil
}

// Run takes the lines and serves until ctx ends. A vend in hand ends as it would; a
// held motion stops at once. Then everything is off. Lines that fail are given back
// and taken again.
func (m *Machine) Run(ctx context.Context) error {
	for pause := retryFrom; ctx.Err() == nil; pause = min(2*pause, retryTo) {
		met, err := m.serve(ctx)
		m.update(func(s *machine.Status) { s.Up, s.Motion = false, machine.Motion{} })
		if err != nil {
			m.log.Warn("lines failed", "err", err)
		}
		if met {
			pause = retryFrom
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return nil
}

// load reads the memory, once. A file that is damaged is kept aside, and the memory
// starts anew under another serial number with no slot believed to be home.
func (m *Machine) load() error {
	m.mu.Lock()
	loaded := m.loaded
	m.mu.Unlock()
	if loaded {
		return nil
	}
	data, err := m.store.Load()
	if err != nil {
		return fmt.Errorf("load memory: %w", err)
	}
	mem, err := decode(data)
	if err != nil {
		if mem, err = m.anew(data, err); err != nil {
			return err
		}
	}
	mem.Boots++
	for i := range mem.Vends {
		if mem.Vends[i].State == board.StateRunning {
			mem.Vends[i].State, mem.Vends[i].Cause = board.StateInterrupted, protocol.FaultInterrupted
		}
	}
	if data, err = mem.encode(); err != nil {
		return err
	}
	if err := m.store.Save(data); err != nil {
		return fmt.Errorf("save memory: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mem, m.loaded = mem, true
	return nil
}

// anew returns an empty memory in place of data, which is bad.
func (m *Machine) anew(data []byte, bad error) (memory, error) {
	mem, err := fresh()
	if err != nil || data == nil {
		return mem, err
	}
	if err := m.store.Aside(); err != nil {
		return mem, fmt.Errorf("keep damaged memory aside: %w", err)
	}
	m.log.Error("memory was damaged and starts anew", "err", bad)
	for _, motor := range m.cfg.Motors {
		mem.away(motor.Slot)
	}
	return mem, nil
}

// memory returns what is known now.
func (m *Machine) memory() memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mem
}

// remember makes mem what is known now.
func (m *Machine) remember(mem memory) {
	m.mu.Lock()
	m.mem = mem
	m.mu.Unlock()
	m.update(func(*machine.Status) {})
}

// note changes what is wrong.
func (m *Machine) note(f func(*seen)) {
	m.mu.Lock()
	f(&m.seen)
	m.mu.Unlock()
	m.update(func(*machine.Status) {})
}

// Watch returns the newest status, and a channel that is closed when it is no
// longer the newest. Hello is that of the memory: its serial number is another one
// when the memory was lost, and its highest id is of the last vend that was to turn
// a motor. So a ledger never mints an id again, and does not believe a memory that is
// not the one it gave a vend to.
func (m *Machine) Watch() (machine.Status, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status, m.stale
}

// update changes the status and tells those who watch, if anything is different.
func (m *Machine) update(f func(*machine.Status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.status
	f(&s)
	s.Odometer = machine.Odometer{Turns: m.mem.Turns, Drops: m.mem.Drops}
	s.DropSensorOK = !m.seen.blind && !m.seen.stuck
	s.Faults = m.faults(s)
	if reflect.DeepEqual(s, m.status) {
		return
	}
	m.status = s
	close(m.stale)
	m.stale = make(chan struct{})
}

// faults lists what is wrong. The caller has mu.
func (m *Machine) faults(s machine.Status) []machine.Fault {
	var l []machine.Fault
	add := func(when bool, f protocol.Fault, slot protocol.Slot) {
		if when {
			l = append(l, machine.Fault{Fault: f, Slot: slot})
		}
	}
	if s.Up {
		add(m.mem.Latched != 0, m.mem.Latched, m.mem.LatchedSlot)
		add(m.seen.blind || m.seen.stuck, protocol.FaultDropSensor, 0)
		add(m.seen.strays > 0, protocol.FaultSpontaneous, 0)
		add(m.seen.journal, protocol.FaultJournal, 0)
		for _, slot := range m.mem.NotHome {
			add(s.Motion.Slot != slot, protocol.FaultNotHome, slot)
		}
	}
	add(!s.Up, protocol.FaultBoardSilent, 0)
	add(m.seen.knew, protocol.FaultBoardKnows, 0)
	slices.SortFunc(l, func(a, b machine.Fault) int { // what is latched may be any
		return cmp.Or(cmp.Compare(a.Fault, b.Fault), cmp.Compare(a.Slot, b.Slot))
	})
	return l
}

// errBusy says that the owner did not come round to a call.
var errBusy = errors.New("the machine is busy or its lines are not up")

// hand gives f to an owner. After an error f is never called.
func (m *Machine) hand(ctx context.Context, to chan<- func(*session), f func(*session)) error {
	limit := time.NewTimer(callLimit)
	defer limit.Stop()
	select {
	case to <- f:
		return nil
	case <-limit.C:
		return errBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Vend turns slot's motor once for id and returns when motion is over. Asked again
// with the same id it moves nothing and returns what is remembered. An error means
// that the caller did not wait for the end: the outcome is then Unknown, and Result
// will know more later.
func (m *Machine) Vend(ctx context.Context, id protocol.VendID, slot protocol.Slot) (protocol.Result, error) {
	if id == 0 {
		return protocol.Result{Outcome: protocol.Unknown}, errors.New("vend: id 0 is no id")
	}
	v, mine := m.claim(id)
	if !mine {
		return m.await(ctx, v)
	}
	err := m.hand(ctx, m.motor, func(s *session) { m.settle(v, s.vend(id, slot)) })
	if err == nil {
		return m.await(ctx, v)
	}
	r := protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultBoardSilent} // nobody took it, so it never starts
	m.mu.Lock()
	fresh := m.loaded && id > m.mem.Highest
	m.mu.Unlock()
	if !fresh { // a process before this one may have had it
		r.Outcome, r.Cause = protocol.Unknown, protocol.FaultUnknownVend
	}
	m.settle(v, r)
	return r, nil
}

// claim returns the entry of id, and whether it is new.
func (m *Machine) claim(id protocol.VendID) (v *told, mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v := m.entry(id); v != nil {
		return v, false
	}
	return m.enter(id), true
}

// entry returns what this process knows of id, nil if nothing. The caller has mu.
func (m *Machine) entry(id protocol.VendID) *told {
	i := slices.IndexFunc(m.told, func(v *told) bool { return v.id == id })
	if i < 0 {
		return nil
	}
	return m.told[i]
}

// enter makes an entry for id. The caller has mu.
func (m *Machine) enter(id protocol.VendID) *told {
	v := &told{id: id, done: make(chan struct{})}
	if len(m.told) == toldLength {
		m.told = slices.Delete(m.told, 0, 1)
	}
	m.told = append(m.told, v)
	return v
}

func (m *Machine) settle(v *told, r protocol.Result) {
	v.result = r
	close(v.done)
}

func (m *Machine) await(ctx context.Context, v *told) (protocol.Result, error) {
	limit := time.NewTimer(vendLimit)
	defer limit.Stop()
	select {
	case <-v.done:
		return v.result, nil
	case <-ctx.Done():
		return protocol.Result{Outcome: protocol.Unknown}, fmt.Errorf("wait for vend %d: %w", v.id, ctx.Err())
	case <-limit.C:
		return protocol.Result{Outcome: protocol.Unknown}, fmt.Errorf("wait for vend %d: not over after %v", v.id, vendLimit)
	}
}

// Result returns what is known about id and moves nothing. While the vend still
// runs it waits for the end, or for ctx. Once it said that id never turned, this
// process will not turn it. An error means that the memory could not be read yet.
func (m *Machine) Result(ctx context.Context, id protocol.VendID) (protocol.Result, error) {
	m.mu.Lock()
	v, loaded, r := m.entry(id), m.loaded, m.mem.find(id)
	if v == nil && loaded && r.State == board.StateNone {
		v = m.enter(id)
		m.settle(v, r.result())
	}
	m.mu.Unlock()
	switch {
	case v != nil:
		return m.await(ctx, v)
	case !loaded:
		return protocol.Result{Outcome: protocol.Unknown}, fmt.Errorf("result of vend %d: no memory is loaded", id)
	}
	return r.result(), nil
}

// Lock opens the lock for a while, at most 10 s; 0 locks now.
func (m *Machine) Lock(ctx context.Context, open time.Duration) error {
	if m.cfg.Lock == "" {
		return fmt.Errorf("lock: none is wired: %w", machine.ErrUnsupported)
	}
	open = min(max(0, open), board.MaxLockMS*time.Millisecond)
	return m.do(ctx, m.cabinet, "lock", func(s *session) error { return s.unlock(open) })
}

// Light switches the light, on from 50 percent. Lines that come back get it again.
func (m *Machine) Light(ctx context.Context, percent int) error {
	if m.cfg.Light == "" {
		return fmt.Errorf("light: none is wired: %w", machine.ErrUnsupported)
	}
	m.mu.Lock()
	m.light = percent >= 50
	m.mu.Unlock()
	return m.do(ctx, m.cabinet, "light", (*session).shine)
}

// do has an owner do f, and waits for it or for ctx.
func (m *Machine) do(ctx context.Context, to chan<- func(*session), what string, f func(*session) error) error {
	done := make(chan error, 1)
	if err := m.hand(ctx, to, func(s *session) { done <- f(s) }); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
}

// Clear takes back a fault that stays until somebody has looked: a runaway, a
// store or drop sensor that failed, pieces that fell by themselves, a memory that knew
// a new id. What is still wrong comes back. NOT_HOME is cleared by homing only.
func (m *Machine) Clear(ctx context.Context, fault protocol.Fault) error {
	what := "clear " + fault.Code()
	if fault == protocol.FaultBoardKnows {
		m.note(func(s *seen) { s.knew = false })
		return nil
	}
	if fault == 0 || fault >= protocol.FaultBoardSilent {
		return fmt.Errorf("%s: not the machine's to clear", what)
	}
	return m.do(ctx, m.motor, what, func(s *session) error { return s.clear(fault) })
}

// TestTurn makes one turn of slot while ctx lives: its end is the finger that leaves
// the button, and the motor stops with it. It returns nil when the turn is over or let
// go, and a *machine.RefusedError when the machine will not or could not.
func (m *Machine) TestTurn(ctx context.Context, slot protocol.Slot) error {
	return m.hold(ctx, board.MotionTest, slot)
}

// Home brings slot back to its home while ctx lives, like TestTurn.
func (m *Machine) Home(ctx context.Context, slot protocol.Slot) error {
	return m.hold(ctx, board.MotionHome, slot)
}

func (m *Machine) hold(ctx context.Context, kind board.Motion, slot protocol.Slot) error {
	err := m.do(ctx, m.motor, fmt.Sprintf("hold slot %d", slot), func(s *session) error { return s.hold(ctx, kind, slot) })
	if ctx.Err() != nil {
		return nil // let go; the motor stops by itself
	}
	return err
}
