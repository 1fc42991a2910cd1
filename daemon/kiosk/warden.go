package kiosk

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"yaoju/protocol"
)

// Machine is the body of the machine: motor board, door, sensors.
type Machine interface {
	// Watch returns the body's condition and a channel closed when it goes stale.
	Watch() (Body, <-chan struct{})
}

// Body is what the motor board says of itself and the cabinet.
type Body struct {
	Session  int             // rises with every hello of the board
	Up       bool            // the board answers
	Serial   string          // of the board, 16 hexadecimal digits
	Highest  protocol.VendID // highest vend id the board knew at its hello
	DoorOpen bool
	Faults   []protocol.FaultRaised // standing now
	Climate  *protocol.Climate      // nil: no reading
	Percent  int                    // progress of the motor that turns, 0 to 100
}

// Book is the ledger as the warden writes it.
type Book interface {
	Append(ctx context.Context, e protocol.Event) error
	// Raise and ClearFault write an event only if the fault was not standing, or was.
	Raise(ctx context.Context, f protocol.Fault, s protocol.Slot) error
	ClearFault(ctx context.Context, f protocol.Fault, s protocol.Slot) error
	// BoardHighest makes sure that no id the board knows is ever minted again.
	BoardHighest(ctx context.Context, serial string, highest protocol.VendID) error
}

// Rules is what the ledger says of serving at all.
type Rules interface {
	Standing(ctx context.Context) ([]protocol.FaultRaised, error) // faults recorded and not cleared
	DoorOpen(ctx context.Context) (bool, error)                   // as it was last recorded
	Paused() bool
	Clock() protocol.Clock
	Watch() <-chan struct{} // closed when any of it changes
}

// Recoverer settles what the board can answer for; it reports how much stays open.
type Recoverer interface {
	Recover(ctx context.Context) (open int, err error)
}

const (
	// grace is how long a silence lasts before it is a fault: a board that resets
	// or a reader that is plugged in again is back within it.
	grace = 5 * time.Second
	// healEvery is the pause between looks for something open. With nothing open
	// a look is one query of a few microseconds.
	healEvery = 5 * time.Second
	// wardenTick bounds how long a change nobody announces, such as the clock's,
	// stays unseen.
	wardenTick = 5 * time.Second
)

// Warden keeps the machine's condition: it records door, faults and climate,
// has open vends resolved whenever the board comes back, and says whether
// residents may be served.
type Warden struct {
	machine Machine
	plate   Plate
	book    Book
	rules   Rules
	mend    Recoverer
	log     *slog.Logger

	mu      sync.Mutex
	cond    Condition     // guarded by mu
	changed chan struct{} // guarded by mu; closed and replaced on each change

	// owned by Run
	session  int // of the board, told to the ledger
	healed   int // session for which Recover has run
	open     int // vends whose end nobody knows
	door     bool
	standing map[protocol.FaultRaised]bool
	silent   map[protocol.Fault]time.Time // since when a part does not answer
	air      climate
}

// NewWarden returns a warden that keeps the machine closed until Run.
func NewWarden(m Machine, p Plate, b Book, r Rules, mend Recoverer, log *slog.Logger) *Warden {
	return &Warden{machine: m, plate: p, book: b, rules: r, mend: mend, log: log,
		cond: Condition{Closed: protocol.FaultBoardSilent, Open: true}, changed: make(chan struct{}),
		standing: map[protocol.FaultRaised]bool{}, silent: map[protocol.Fault]time.Time{}}
}

// Watch returns the machine's condition and a channel closed when it goes stale.
func (w *Warden) Watch() (Condition, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cond, w.changed
}

// recovery is the answer of one Recover.
type recovery struct {
	session, open int
	err           error
}

// Run keeps watch until ctx ends. It fails only if the ledger cannot be written,
// because then the machine has to start again.
func (w *Warden) Run(ctx context.Context) error {
	was, err := w.rules.Standing(ctx)
	if err != nil {
		return fmt.Errorf("read standing faults: %w", err)
	}
	for _, f := range was {
		if judges(f.Fault) {
			w.standing[f] = true
		}
	}
	if w.door, err = w.rules.DoorOpen(ctx); err != nil {
		return fmt.Errorf("read the door: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ask := make(chan int, 1) // session to recover for; one request is as good as many
	healed := make(chan recovery, 1)
	var healer sync.WaitGroup
	healer.Go(func() { w.heal(ctx, ask, healed) })
	defer func() { stop(); healer.Wait() }()

	for ctx.Err() == nil {
		body, moved := w.machine.Watch()
		pres, laid := w.plate.Watch()
		ruled := w.rules.Watch()
		if body.Up && body.Session != w.session {
			// A board that cannot be believed serves nobody; another one may come.
			if err := w.book.BoardHighest(ctx, body.Serial, body.Highest); err != nil {
				w.log.Error("board not accepted", "device", body.Serial, "err", err)
			} else {
				w.session = body.Session
				request(ask, w.session)
			}
		}
		if err := w.record(ctx, body, pres); err != nil {
			return ended(ctx, err)
		}
		w.publish(Condition{Closed: w.closed(body, pres), Open: w.open > 0 || w.healed == 0 || w.healed != w.session, Door: body.DoorOpen || !body.Up, Percent: body.Percent})

		alarm := time.NewTimer(wardenTick)
		select {
		case <-ctx.Done():
		case <-moved:
		case <-laid:
		case <-ruled:
		case <-alarm.C:
		case r := <-healed:
			if r.err == nil {
				w.open, w.healed = r.open, r.session
			} else {
				w.open = max(1, r.open) // nobody could be asked
			}
		}
		alarm.Stop()
	}
	return nil
}

// ended returns nil where err is only ctx having ended.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func request(ask chan int, session int) {
	select {
	case <-ask:
	default:
	}
	ask <- session
}

// heal runs Recover for each new session of the board, and then on a timer,
// because an order may have left something open since. It has a goroutine of its own because an order may hold the dispenser.
func (w *Warden) heal(ctx context.Context, ask <-chan int, healed chan<- recovery) {
	var again <-chan time.Time
	session := 0
	for {
		select {
		case <-ctx.Done():
			return
		case session = <-ask:
		case <-again:
		}
		open, err := w.mend.Recover(ctx)
		if err != nil && ctx.Err() == nil {
			w.log.Warn("open vends not resolved", "open", open, "err", err)
		}
		select {
		case healed <- recovery{session, open, err}:
		case <-ctx.Done():
			return
		}
		again = time.After(healEvery)
	}
}

// record writes what changed since the last look: door, faults, climate.
func (w *Warden) record(ctx context.Context, body Body, pres Presence) error {
	if body.Up && body.DoorOpen != w.door {
		w.door = body.DoorOpen
		var e protocol.Event = protocol.DoorClosed{}
		if w.door {
			e = protocol.DoorOpened{}
		}
		if err := w.book.Append(ctx, e); err != nil {
			return fmt.Errorf("record door: %w", err)
		}
	}
	if err := w.recordFaults(ctx, w.faults(body, pres)); err != nil {
		return err
	}
	if hour, ok := w.air.add(time.Now(), body.Climate); ok {
		if err := w.book.Append(ctx, hour); err != nil {
			return fmt.Errorf("record climate: %w", err)
		}
	}
	return nil
}

func (w *Warden) recordFaults(ctx context.Context, now map[protocol.FaultRaised]bool) error {
	for f := range now {
		if !w.standing[f] {
			if err := w.book.Raise(ctx, f.Fault, f.Slot); err != nil {
				return fmt.Errorf("record fault %s: %w", f.Fault.Code(), err)
			}
			w.standing[f] = true
			w.log.Warn("fault", "code", f.Fault.Code(), "slot", f.Slot)
		}
	}
	for f := range w.standing {
		if !now[f] {
			if err := w.book.ClearFault(ctx, f.Fault, f.Slot); err != nil {
				return fmt.Errorf("record fault %s: %w", f.Fault.Code(), err)
			}
			delete(w.standing, f)
			w.log.Info("fault cleared", "code", f.Fault.Code(), "slot", f.Slot)
		}
	}
	return nil
}

// faults lists what stands now.
func (w *Warden) faults(body Body, pres Presence) map[protocol.FaultRaised]bool {
	now := map[protocol.FaultRaised]bool{}
	for _, f := range body.Faults {
		now[f] = true
	}
	if !body.Up { // what the board last said of itself still stands
		for f := range w.standing {
			if f.Fault < protocol.FaultBoardSilent {
				now[f] = true
			}
		}
	}
	add := func(f protocol.Fault, stands bool) {
		if stands {
			now[protocol.FaultRaised{Fault: f}] = true
		}
	}
	add(protocol.FaultBoardSilent, w.lasting(protocol.FaultBoardSilent, !body.Up))
	add(protocol.FaultReader, w.lasting(protocol.FaultReader, !pres.Ready))
	add(protocol.FaultClock, w.rules.Clock() == protocol.ClockUnset)
	return now
}

// judges reports whether a fault is the warden's to raise and to clear: the
// board's, and what does not answer. The others are the ledger's own.
func judges(f protocol.Fault) bool {
	switch f {
	case protocol.FaultBoardSilent, protocol.FaultBoardKnows, protocol.FaultReader, protocol.FaultClock, protocol.FaultWrongDevice:
		return true
	}
	return f < protocol.FaultBoardSilent
}

// lasting reports whether a silence has outlasted its grace.
func (w *Warden) lasting(f protocol.Fault, silent bool) bool {
	if !silent {
		delete(w.silent, f)
		return false
	}
	since, ok := w.silent[f]
	if !ok {
		since = time.Now()
		w.silent[f] = since
	}
	return time.Since(since) >= grace
}

// closed returns the first reason not to serve, the most telling one first.
func (w *Warden) closed(body Body, pres Presence) protocol.Fault {
	switch {
	case !body.Up || w.session != body.Session || w.healed != w.session:
		return protocol.FaultBoardSilent
	case body.DoorOpen:
		return protocol.FaultDoor
	}
	for _, f := range body.Faults {
		if info, _ := f.Fault.Info(); info.Severity == protocol.Urgent {
			return f.Fault
		}
	}
	switch {
	case w.rules.Clock() == protocol.ClockUnset:
		return protocol.FaultClock
	case !pres.Ready:
		return protocol.FaultReader
	case w.rules.Paused():
		return protocol.FaultPaused
	}
	return 0
}

func (w *Warden) publish(c Condition) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cond == c {
		return
	}
	w.cond = c
	close(w.changed)
	w.changed = make(chan struct{})
}

// climate gathers one hour of readings.
type climate struct {
	hour     time.Time
	min, max float64
	rh       float64 // sum
	n        int
	next     time.Time // readings are taken once a minute
}

// add takes a reading; when an hour is over it returns the hour's event.
func (c *climate) add(now time.Time, r *protocol.Climate) (protocol.ClimateHour, bool) {
	var done protocol.ClimateHour
	over := c.n > 0 && !now.Truncate(time.Hour).Equal(c.hour)
	if over {
		done = protocol.ClimateHour{MinC: c.min, MaxC: c.max, MeanRH: c.rh / float64(c.n), Samples: c.n}
		*c = climate{}
	}
	if r == nil || now.Before(c.next) {
		return done, over
	}
	if c.n == 0 {
		c.hour, c.min, c.max = now.Truncate(time.Hour), r.C, r.C
	}
	c.min, c.max, c.rh, c.n = min(c.min, r.C), max(c.max, r.C), c.rh+r.RH, c.n+1
	c.next = now.Add(time.Minute)
	return done, over
}
