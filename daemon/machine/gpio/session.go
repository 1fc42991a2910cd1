package gpio

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"yaoju/daemon/machine"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

const (
	// edgeSlice is how long to wait for an edge before the level itself is looked
	// at, in case one was lost.
	edgeSlice = 100 * time.Millisecond

	// doorEvery is how often the door is looked at while nothing turns; doorSteady
	// is how long it must say the same.
	doorEvery  = 50 * time.Millisecond
	doorSteady = 100 * time.Millisecond

	// curtainSettle is how long emitter and receiver get in the self-test: a photo
	// transistor needs well under a millisecond, the rest is the scheduler's.
	curtainSettle = 10 * time.Millisecond

	// saveLimit bounds one save: a tired card takes a second, a dead one never answers.
	saveLimit = 10 * time.Second
)

// session is one time of having the lines.
type session struct {
	m     *Machine
	pins  Pins
	work  context.Context         // ends when a line failed, or after the motors are at rest for good
	fail  context.CancelCauseFunc // ends it
	beam  beam
	drops chan time.Time // pieces, by the start of their shadow
	saves chan saving

	door     steady    // owned by cabinet
	unlocked time.Time // owned by cabinet: when the lock is to be shut; zero: it is
}

// saving is a memory on its way to the store.
type saving struct {
	data []byte
	done chan error // has room for the answer
}

// serve has the lines until ctx ends or one of them fails; met says that it came so
// far as to serve.
func (m *Machine) serve(ctx context.Context) (met bool, err error) {
	if err := m.load(); err != nil {
		return false, err
	}
	pins, err := m.chip.Open(m.cfg.wires())
	if err != nil {
		return false, fmt.Errorf("take lines: %w", err)
	}
	work, fail := context.WithCancelCause(context.WithoutCancel(ctx))
	s := &session{m: m, pins: pins, work: work, fail: fail,
		drops: make(chan time.Time, dropsLength), saves: make(chan saving)}
	defer func() {
		if closed := pins.Close(); closed != nil {
			err = errors.Join(err, fmt.Errorf("give lines back: %w", closed))
		}
	}()

	if err := s.look(); err != nil {
		return false, err
	}
	s.beam.mute() // until the first self-test
	var helpers sync.WaitGroup
	helpers.Go(s.keep)
	helpers.Go(s.watchCurtain)
	helpers.Go(s.keepCabinet)
	met = s.motors(ctx)
	close(s.saves)
	fail(nil)
	helpers.Wait()
	if err := context.Cause(work); !errors.Is(err, context.Canceled) {
		return met, err
	}
	return met, nil
}

// motors owns the motors. It returns when ctx has ended and no motor turns, or when
// a line has failed.
func (s *session) motors(ctx context.Context) (met bool) {
	if s.testCurtain(); s.work.Err() != nil {
		return false
	}
	s.meet()
	for {
		select {
		case <-ctx.Done():
			return true
		case <-s.work.Done():
			return true
		case <-s.drops:
			s.stray()
		case f := <-s.m.motor:
			f(s)
		}
	}
}

// meet tells those who watch that the machine is there.
func (s *session) meet() {
	mem := s.m.memory()
	s.m.update(func(st *machine.Status) {
		st.Up = true
		st.Session++
		st.Hello = machine.Hello{Serial: mem.Serial, Highest: mem.Highest, Boot: mem.Boots}
	})
	s.m.log.Info("lines taken", "device", mem.Serial, "vend", mem.Highest)
}

// active reads an input.
func (s *session) active(l Line) (bool, error) {
	high, err := s.pins.Read(l.Name())
	if err != nil {
		return false, fmt.Errorf("read line %s: %w", l.Name(), err)
	}
	return high == l.Level(true), nil
}

// set drives an output.
func (s *session) set(l Line, active bool) error {
	if l == "" {
		return nil
	}
	if err := s.pins.Write(l.Name(), l.Level(active)); err != nil {
		return fmt.Errorf("drive line %s: %w", l.Name(), err)
	}
	return nil
}

// keep owns the store. It ends when nothing can be saved any more.
func (s *session) keep() {
	for sv := range s.saves {
		err := s.m.store.Save(sv.data)
		if err != nil {
			s.m.log.Error("memory not saved", "err", err)
		}
		s.m.note(func(n *seen) { n.journal = err != nil })
		sv.done <- err
	}
}

// save makes next durable, and only then what is known.
func (s *session) save(next memory) error {
	data, err := next.encode()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	limit := time.NewTimer(saveLimit)
	defer limit.Stop()
	select {
	case s.saves <- saving{data, done}:
	case <-limit.C:
		s.m.note(func(n *seen) { n.journal = true })
		return fmt.Errorf("memory: the one before is not saved after %v", saveLimit)
	}
	select {
	case err = <-done:
	case <-limit.C:
		s.m.note(func(n *seen) { n.journal = true })
		err = fmt.Errorf("memory: not saved after %v", saveLimit)
	}
	if err == nil {
		s.m.remember(next)
	}
	return err
}

// saveSoon makes next known, and durable as soon as the store comes round to it: a
// motor that turns does not wait for a card. It reports false if the store is not free.
func (s *session) saveSoon(next memory) bool {
	data, err := next.encode()
	if err != nil {
		return false
	}
	select {
	case s.saves <- saving{data, make(chan error, 1)}:
		s.m.remember(next)
		return true
	default:
		return false
	}
}

// watchCurtain owns the edges of the curtain.
func (s *session) watchCurtain() {
	curtain := s.m.cfg.Curtain
	for s.work.Err() == nil {
		e, ok, err := s.pins.Edge(s.beam.patience())
		if err == nil && !ok {
			e.At = time.Now() // before the level: an edge in between will be told and is later
			e.High, err = s.pins.Read(curtain.Name())
		}
		if err != nil {
			s.fail(fmt.Errorf("watch line %s: %w", curtain.Name(), err))
			return
		}
		if fell, piece := s.beam.take(e.At, e.High != curtain.Level(true)); piece {
			select {
			case s.drops <- fell:
			case <-s.work.Done():
			}
		}
		stuck := s.beam.stuck(time.Now())
		s.m.mu.Lock()
		was := s.m.seen.stuck
		s.m.mu.Unlock()
		if stuck != was {
			s.m.note(func(n *seen) { n.stuck = stuck })
		}
	}
}

// testCurtain switches the emitter off and on: the curtain must be dark, then light.
func (s *session) testCurtain() (good bool) {
	s.beam.mute()
	blind, err := s.curtain(false)
	if err != nil {
		s.fail(err)
		return false
	}
	light, err := s.curtain(true)
	if err != nil {
		s.fail(err)
		return false
	}
	s.beam.unmute(time.Now(), !light)
	s.m.note(func(n *seen) { n.blind = blind })
	return !blind && light
}

// curtain sets the emitter and reports whether the receiver sees light.
func (s *session) curtain(emit bool) (light bool, err error) {
	if err := s.set(s.m.cfg.Emitter, emit); err != nil {
		return false, err
	}
	time.Sleep(curtainSettle)
	return s.active(s.m.cfg.Curtain)
}

// keepCabinet owns door, lock and light.
func (s *session) keepCabinet() {
	err := errors.Join(s.unlock(0), s.shine())
	every := time.NewTicker(doorEvery)
	defer every.Stop()
	for err == nil {
		var shut <-chan time.Time
		if !s.unlocked.IsZero() {
			shut = time.After(time.Until(s.unlocked))
		}
		select {
		case <-s.work.Done():
			return // Close drives lock and light off
		case f := <-s.m.cabinet:
			f(s)
		case <-shut:
			err = s.unlock(0)
		case <-every.C:
			err = s.look()
		}
	}
	s.fail(err)
}

// unlock gives the coil power for a while; 0 takes it away.
func (s *session) unlock(open time.Duration) error {
	s.unlocked = time.Time{}
	if open > 0 {
		s.unlocked = time.Now().Add(open)
	}
	if err := s.set(s.m.cfg.Lock, open > 0); err != nil {
		s.fail(err)
		return err
	}
	s.m.update(func(st *machine.Status) { st.LockOpen = open > 0 })
	return nil
}

// shine sets the light to what was asked for.
func (s *session) shine() error {
	s.m.mu.Lock()
	on := s.m.light
	s.m.mu.Unlock()
	if err := s.set(s.m.cfg.Light, on); err != nil {
		s.fail(err)
		return err
	}
	percent := 0
	if on {
		percent = 100
	}
	s.m.update(func(st *machine.Status) { st.Light = percent })
	return nil
}

// stray counts a piece that fell while nothing was watched.
func (s *session) stray() {
	next := s.m.memory()
	next.Drops++
	s.m.remember(next) // durable with the next vend
	s.m.note(func(n *seen) { n.strays++ })
	s.m.log.Warn("piece fell by itself")
}

// clear takes back a fault.
func (s *session) clear(fault protocol.Fault) error {
	mem := s.m.memory()
	switch fault {
	case protocol.FaultJournal:
		return s.save(mem)
	case protocol.FaultDropSensor:
		s.testCurtain()
	case protocol.FaultSpontaneous:
		s.m.note(func(n *seen) { n.strays = 0 })
	case mem.Latched:
		return s.save(mem.with(func(n *memory) { n.Latched, n.LatchedSlot = 0, 0 }))
	}
	return nil
}

// refused returns why slot's motor is not to turn, in the order of the board's rules;
// 0 if it may.
func (s *session) refused(kind board.Motion, slot protocol.Slot) protocol.Fault {
	mem := s.m.memory()
	motor, ok := s.m.cfg.motor(slot)
	s.m.mu.Lock()
	journal := s.m.seen.journal
	s.m.mu.Unlock()
	switch {
	case journal:
		return protocol.FaultJournal
	case mem.Latched != 0:
		return mem.Latched
	case !ok:
		return protocol.FaultNoMotor
	case kind == board.MotionHome:
		return 0
	}
	home, err := s.active(motor.Home)
	shut, bad := s.active(s.m.cfg.Door)
	if err := errors.Join(err, bad); err != nil {
		s.fail(err)
		return protocol.FaultBoardSilent
	}
	switch {
	case kind == board.MotionVend && !shut:
		return protocol.FaultDoor
	case kind == board.MotionVend && !s.testCurtain():
		return protocol.FaultDropSensor
	case !home || mem.isAway(slot):
		return protocol.FaultNotHome
	case s.work.Err() != nil:
		return protocol.FaultBoardSilent
	}
	return 0
}
