package promise_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/dispense"
	"yaoju/daemon/machine"
	"yaoju/daemon/machine/vending"
	"yaoju/firmware/elf"
	"yaoju/protocol"
)

func TestMain(m *testing.M) {
	if err := elf.Make(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// driver is what every kind of machine offers: to dispense its Motor, to kiosk.Warden
// its Watch, to staff the rest.
type driver interface {
	dispense.Motor
	Run(ctx context.Context) error
	Watch() (machine.Status, <-chan struct{})
	Lock(ctx context.Context, open time.Duration) error
	Light(ctx context.Context, percent int) error
	Clear(ctx context.Context, fault protocol.Fault) error
	TestTurn(ctx context.Context, slot protocol.Slot) error
	Home(ctx context.Context, slot protocol.Slot) error
}

// rig is hardware below a driver: hands that do things to it, and the evidence of
// what it really did. It goes on whether or not a driver runs.
type rig interface {
	// process returns the driver of a new process, which does not run yet. minted is
	// the highest id that was given to any process before it, and open are the slots of
	// vends whose end the books do not know.
	process(minted protocol.VendID, open []protocol.Slot) driver
	// died is called when a process dies, before anything of it can tell.
	died()

	plug()          // the hardware is connected, and nothing else is
	unplug()        // nothing is
	swap()          // something is that is not the hardware
	mute(on bool)   // what the hardware says is lost; only where it speaks
	door(open bool) // the service door

	// troubles are what can go wrong around one vend.
	troubles() []trouble

	starts(slot protocol.Slot) int // times the motor got power; where only orders are seen, orders
	fell(slot protocol.Slot) int   // pieces that left the slot, or are in the air
	turning() bool                 // a motor has power
	unlocked() bool                // the lock's coil has power
	complaints() []string          // what no driver may do
}

// trouble is one thing that goes wrong. What it hits is slot.
type trouble struct {
	name   string
	before func(slot protocol.Slot) // is done before the vend; nil is nothing
	during func(slot protocol.Slot) // is done 1.2 s after it was asked for, half way round
	mend   func(slot protocol.Slot) // ends it
	want   protocol.Outcome         // of the vend it hits
	pieces int                      // that are told of, when dispensed
	shows  protocol.Fault           // stands in the status while it lasts; 0 is none
	leaves protocol.Fault           // stands in the status once it is mended, until somebody has looked; 0 is none
	most   int                      // starts of the motor; 0 is 1
	none   bool                     // the motor does not start at all
	whole  bool                     // no slot is to blame
}

// kind is one kind of machine, and what it cannot help being.
type kind struct {
	name  string
	build func(t *testing.T, ctx context.Context) rig

	notices time.Duration // that its hardware is gone, or its door open, it knows within this
	heals   time.Duration // and within this after it is right again, it serves
	ends    time.Duration // more, if a vend was under way: it waits for word of its end before all else
	longest time.Duration // a vend is over within this, as the daemon's configuration has it
	unsure  time.Duration // a slot whose vend ended nobody knows how refuses for so long

	remembers bool // vends, beyond the process
	speaks    bool // over a line, on which answers can be lost
	works     bool // lock, light, test turns and homing are its own; else staff use the hardware's
	obeys     bool // the door, in mid-turn
	dear      bool // a second of its time takes the simulator a good part of one
}

// kinds are all there are. A new driver is another line here.
var kinds = []kind{
	{name: "board", longest: turnsOver, build: newTwin, notices: 2 * time.Second, heals: 8 * time.Second, remembers: true, speaks: true, works: true, obeys: true},
	{name: "firmware", longest: turnsOver, build: newFirmware, notices: 2 * time.Second, heals: 8 * time.Second, remembers: true, speaks: true, works: true, obeys: true, dear: true},
	{name: "gpio", longest: turnsOver, build: newPlant, notices: 2 * time.Second, heals: 32 * time.Second, remembers: true, works: true, obeys: true},
	{name: "vending", longest: vending.Options{DropSensor: true}.Longest(), build: newVMC, notices: 4 * time.Second, heals: 10 * time.Second, ends: 40 * time.Second, unsure: 3 * time.Minute, speaks: true},
}

// turnsOver is three turns of 5 s at the most, all the watching, and the way there.
const turnsOver = 23400 * time.Millisecond

// Every rig has stock pieces in each of its slots, 1 to slots.
const (
	slots = protocol.Slot(6)
	stock = 20
)

// turnTime is one turn of every rig's spirals, and mostly the whole motion.
const turnTime = 2500 * time.Millisecond

// halfWay is how long after a vend was asked for its spiral stands half way round.
const halfWay = 1200 * time.Millisecond

// site is a machine at its place: the hardware, and the driver that runs now.
type site struct {
	*testing.T
	kind
	rig
	driver

	last atomic.Uint32          // id that was minted
	owes func() []protocol.Slot // slots of open vends, by the books; nil: there are none
	stop func()                 // ends the driver in good order; may be called twice
}

// every runs f on each kind of machine, in a bubble of its own, with a driver that
// has met its hardware.
func every(t *testing.T, f func(s *site)) {
	t.Helper()
	everyDead(t, func(s *site) {
		s.start()
		s.up()
		f(s)
	})
}

// everyDead is every, with no driver started.
func everyDead(t *testing.T, f func(s *site)) {
	t.Helper()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { k.play(t, f) })
		})
	}
}

// play runs f on a new site of this kind, and looks at what is left.
func (k kind) play(t *testing.T, f func(s *site)) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &site{T: t, kind: k, rig: k.build(t, ctx), stop: func() {}}
	defer func() {
		s.stop()
		if s.turning() || s.unlocked() {
			time.Sleep(30 * time.Second) // a board ends its turn by itself, and gives up without a host
			if s.turning() || s.unlocked() {
				t.Error("the driver is gone, and a motor or the lock has power")
			}
		}
		for _, c := range s.complaints() {
			t.Errorf("the hardware objects: %s", c)
		}
		cancel()
	}()
	f(s)
}

// start starts the driver of a new process.
func (s *site) start() {
	s.stop()
	var open []protocol.Slot
	if s.owes != nil {
		open = s.owes()
	}
	d := s.process(protocol.VendID(s.last.Load()), open)
	s.driver = d
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := d.Run(ctx); err != nil {
			s.Errorf("Run: %v", err)
		}
	})
	running.Go(func() { s.witness(ctx, d) })
	s.stop = func() { cancel(); running.Wait() }
}

// restart is an orderly end and another process.
func (s *site) restart() {
	s.Helper()
	s.stop()
	s.start()
	s.up()
}

// crash ends the process in whatever it does.
func (s *site) crash() {
	s.died()
	s.stop()
}

// witness reads every status that is told, and objects to what none may say.
func (s *site) witness(ctx context.Context, d driver) {
	var was machine.Status
	for {
		is, stale := d.Watch()
		for i, f := range is.Faults {
			if info, ok := f.Fault.Info(); !ok || info.ZH == "" || info.EN == "" {
				s.Errorf("fault %d has no words", f.Fault)
			}
			if i > 0 && !less(is.Faults[i-1], f) {
				s.Errorf("faults out of order or twice: %v", is.Faults)
			}
		}
		silent := slices.Contains(is.Faults, machine.Fault{Fault: protocol.FaultBoardSilent})
		switch {
		case silent == is.Up:
			s.Errorf("up is %v, with the faults %v", is.Up, is.Faults)
		case is.Session < was.Session, is.Up && !was.Up && is.Session == was.Session:
			s.Errorf("session %d after %d; up %v after %v", is.Session, was.Session, is.Up, was.Up)
		case is.Motion.Percent < 0, is.Motion.Percent > 100:
			s.Errorf("motion %+v", is.Motion)
		case is.Motion.Vend != 0 && is.Motion.Vend == was.Motion.Vend && is.Motion.Percent < was.Motion.Percent:
			s.Errorf("motion went back: %+v after %+v", is.Motion, was.Motion)
		}
		was = is
		select {
		case <-stale:
		case <-ctx.Done():
			return
		}
	}
}

func less(a, b machine.Fault) bool {
	return a.Fault < b.Fault || a.Fault == b.Fault && a.Slot < b.Slot
}

// within waits for a status that is ok and fails the test if it takes longer than limit.
func (s *site) within(limit time.Duration, what string, ok func(machine.Status) bool) machine.Status {
	s.Helper()
	over := time.After(limit)
	for {
		is, stale := s.Watch()
		if ok(is) {
			return is
		}
		select {
		case <-stale:
		case <-over:
			s.Fatalf("not %s within %v: %+v", what, limit, is)
		}
	}
}

func up(is machine.Status) bool   { return is.Up }
func down(is machine.Status) bool { return !is.Up }

// up waits until the machine serves, as long as this kind may take.
func (s *site) up() machine.Status {
	s.Helper()
	return s.within(s.heals+s.ends, "up", up)
}

func (s *site) status() machine.Status {
	is, _ := s.Watch()
	return is
}

func stands(is machine.Status, f protocol.Fault) bool {
	return slices.ContainsFunc(is.Faults, func(have machine.Fault) bool { return have.Fault == f })
}

// mint is what the ledger does: each id is new.
func (s *site) mint() protocol.VendID { return protocol.VendID(s.last.Add(1)) }

// answer is what a Vend or Result said.
type answer struct {
	protocol.Result
	err error
}

// ask asks for a vend and returns when it is over, which has to be in time.
func (s *site) ask(id protocol.VendID, slot protocol.Slot) answer {
	s.Helper()
	began := time.Now()
	r, err := s.Vend(context.Background(), id, slot)
	if took := time.Since(began); took > s.longest {
		s.Errorf("vend %d in slot %d took %v: more than %v", id, slot, took, s.longest)
	}
	return answer{r, err}
}

// begin asks for a vend and does not wait.
func (s *site) begin(ctx context.Context, id protocol.VendID, slot protocol.Slot) <-chan answer {
	told := make(chan answer, 1)
	d := s.driver
	go func() {
		r, err := d.Vend(ctx, id, slot)
		told <- answer{r, err}
	}()
	return told
}

// known asks what became of id.
func (s *site) known(id protocol.VendID) answer {
	r, err := s.Result(context.Background(), id)
	return answer{r, err}
}

// gives makes one plain vend, and wants it to be one.
func (s *site) gives(slot protocol.Slot) {
	s.Helper()
	p := s.photo(slot)
	id := s.mint()
	if a := s.ask(id, slot); a.err != nil || a.Outcome != protocol.Dispensed || a.Pieces != 1 {
		s.Errorf("vend %d in slot %d: %+v; faults %v", id, slot, a, s.status().Faults)
	}
	s.rest()
	if starts, fell := p.since(s); starts != 1 || fell != 1 {
		s.Errorf("vend %d in slot %d: %d starts, %d fell", id, slot, starts, fell)
	}
}

// photo is the evidence about one slot at one moment.
type photo struct {
	slot         protocol.Slot
	starts, fell int
}

func (s *site) photo(slot protocol.Slot) photo { return photo{slot, s.starts(slot), s.fell(slot)} }

func (p photo) since(s *site) (starts, fell int) {
	return s.starts(p.slot) - p.starts, s.fell(p.slot) - p.fell
}

// rest waits until no motor has turned for as long as anything takes to fall, or to
// go on after a pause.
func (s *site) rest() {
	for quiet := time.Duration(0); quiet < 3*time.Second; quiet += 250 * time.Millisecond {
		time.Sleep(250 * time.Millisecond)
		if s.turning() {
			quiet = 0
		}
	}
}

// honest holds what was said of a vend against what happened.
func (s *site) honest(what string, a answer, p photo) {
	s.Helper()
	_, fell := p.since(s)
	switch {
	case a.err != nil && a.Outcome != protocol.Unknown:
		s.Errorf("%s: an error, and the outcome %v: %v", what, a.Outcome, a.err)
	case a.err != nil, a.Outcome == protocol.Unknown:
	case a.Outcome == protocol.Dispensed && (a.Pieces < 1 || a.Pieces != fell):
		s.Errorf("%s: %+v, and %d fell", what, a.Result, fell)
	case a.Outcome == protocol.Kept && (fell > 0 || a.Pieces != 0):
		s.Errorf("%s: %+v, and %d fell", what, a.Result, fell)
	case a.Outcome != protocol.Dispensed && a.Outcome != protocol.Kept:
		s.Errorf("%s: outcome %v is none", what, a.Outcome)
	}
	if info, ok := a.Cause.Info(); a.err == nil && (a.Cause != 0 || a.Outcome != protocol.Dispensed) && !ok {
		s.Errorf("%s: cause %v has no words", what, info)
	}
}

// visit is a technician who has mended what was wrong with slot: he clears what can
// be cleared and homes what may stand in mid-turn. Then nothing may be wrong.
func (s *site) visit(slot protocol.Slot) {
	s.Helper()
	s.up()
	s.rest()
	home := []protocol.Slot{slot}
	for _, f := range s.status().Faults {
		if f.Fault == protocol.FaultNotHome {
			home = append(home, f.Slot)
			continue
		}
		if err := s.Clear(s.Context(), f.Fault); err != nil {
			s.Errorf("clear %v: %v", f, err)
		}
	}
	for _, slot := range home {
		if err := s.Home(s.Context(), slot); err != nil && !s.cannot("home", err) {
			s.Errorf("home slot %d: %v", slot, err)
		}
		time.Sleep(time.Second) // the board takes a button for held a while longer
	}
	s.within(s.notices, "free of faults", func(is machine.Status) bool { return len(is.Faults) == 0 })
}

// cannot reports whether err says that this kind of machine has no such thing, and
// fails the test where it should, or should not.
func (s *site) cannot(what string, err error) bool {
	s.Helper()
	unsupported := errors.Is(err, machine.ErrUnsupported)
	if unsupported == s.works {
		s.Errorf("%s: %v", what, err)
	}
	return unsupported
}
