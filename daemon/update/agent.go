package update

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"yaoju/protocol"
)

const (
	// confirmLimit is how long a new version has to prove itself. The chain of years
	// is checked within 5 minutes at worst, a mobile line is up a minute later.
	confirmLimit = 10 * time.Minute
	// outageLimit is how long it may stay on trial because the district cannot be
	// reached: by then the district, or the line, has been mended, and a version that
	// only thinks so has taken the machine away for long enough.
	outageLimit = 7 * 24 * time.Hour
	// settleTime is how long everything has to work without a break: a version that
	// falls over after its first hello is not one to keep.
	settleTime = 30 * time.Second
	// signEvery is how often it is looked at.
	signEvery = 5 * time.Second
	// gateEvery is how often a busy machine is asked again, or a trial whether it is
	// over: residents are gone within two minutes.
	gateEvery = 15 * time.Second
	// attemptLimit bounds one attempt to fetch, so that the deadline, which is by a
	// wall clock that may be set meanwhile, is looked at now and then.
	attemptLimit = time.Hour
	// restartLimit is how long the process may take to end once a restart was asked
	// for: a vend that was begun is brought to its end first.
	restartLimit = 2 * time.Minute
)

// Waits after a failed attempt: the first because a line is often back at once, the
// last is what a district whose server is down should see from each machine.
const (
	retryMin = 10 * time.Second
	retryMax = 10 * time.Minute
)

// Orders is where orders come from.
type Orders interface {
	// Ordered returns the order that was taken and is not handed over yet, with its
	// id; ok is false if there is none.
	Ordered(ctx context.Context) (id string, u protocol.Update, ok bool, err error)
	// HandedOver forgets it, durably. It may be told twice.
	HandedOver(ctx context.Context, id string) error
	// Watch returns a channel that is closed when there may be another one.
	Watch() <-chan struct{}
}

// Options is what an agent needs. Every field is required.
type Options struct {
	Store   *Store
	Version string // of the program that runs
	Orders  Orders
	Source  Source
	Rate    int // of a download in bytes a second, at least MinRate

	// Try asks a staged version, in this folder below the store's, whether it runs here.
	// A *RefusedError means that it does not.
	Try func(ctx context.Context, version string) error
	// Gate closes the machine to residents if no vend is open, nobody is in a session
	// and the clock is believed. It says why not, or returns what opens it again.
	// It waits no longer than a session takes to see that it is closed.
	Gate func(ctx context.Context) (open func(), why string)
	// Signs looks at what works, now. It must not take longer than ctx allows.
	Signs func(ctx context.Context) Signs
	// Restart asks for this process to be ended and started again, and may return
	// before that happens.
	Restart func(ctx context.Context) error
	// Changed is told that State says something new. It must not block.
	Changed func()

	Log *slog.Logger
}

// Agent carries out orders on one machine, and lets a new version prove itself.
type Agent struct {
	o     Options
	taken chan struct{} // an order was taken

	mu      sync.Mutex
	waiting string // guarded by mu: what the order in hand waits for
}

// NewAgent returns an agent that Run brings to life.
func NewAgent(o Options) (*Agent, error) {
	if o.Store == nil || o.Version == "" || o.Orders == nil || o.Source == nil || o.Try == nil || o.Gate == nil || o.Signs == nil || o.Restart == nil || o.Changed == nil || o.Log == nil {
		return nil, errors.New("update: an option is missing")
	}
	if o.Rate < MinRate {
		return nil, fmt.Errorf("update: rate %d: at least %d bytes a second are needed", o.Rate, MinRate)
	}
	return &Agent{o: o, taken: make(chan struct{}, 1)}, nil
}

// hear takes orders over, one after the other, until ctx ends.
func (a *Agent) hear(ctx context.Context) {
	for ctx.Err() == nil {
		next := a.o.Orders.Watch() // before looking, so that none is missed
		var again <-chan time.Time
		if err := a.take(ctx); errors.Is(err, errTrial) {
			again = time.After(gateEvery)
		} else if err != nil && ctx.Err() == nil {
			a.o.Log.Error("order of an update not taken", "err", err)
			again = time.After(retryMin)
		}
		select {
		case <-ctx.Done():
		case <-next:
		case <-again:
		}
	}
}

// take takes an order over, if there is one: first it is written down here, then
// it is forgotten there.
func (a *Agent) take(ctx context.Context) error {
	id, u, ok, err := a.o.Orders.Ordered(ctx)
	if err != nil || !ok {
		return err
	}
	err = a.o.Store.Take(Order{ID: id, Update: u})
	if no, refused := errors.AsType[*RefusedError](err); refused {
		a.o.Log.Warn("update not done", "version", u.Version, "end", protocol.UpdateRefused, "err", no.Words)
		a.o.Changed()
		return a.o.Orders.HandedOver(ctx, id)
	}
	if err != nil {
		return err
	}
	select {
	case a.taken <- struct{}{}:
	default: // one look is as good as many
	}
	a.o.Changed() // it may have come to its end at once
	return a.o.Orders.HandedOver(ctx, id)
}

// State is how the machine's software stands, in the district's words.
func (a *Agent) State() (*protocol.UpdateState, error) {
	st, waits, err := a.Status()
	if err != nil {
		return nil, err
	}
	u := &protocol.UpdateState{Trial: st.Trial, Waits: strings.ToValidUTF8(waits[:min(len(waits), protocol.MaxWords)], ""), Last: st.Last}
	if st.Order != nil {
		u.Ordered = st.Order.Version
	}
	return u, nil
}

// Status says how the machine's software stands, and what an order waits for.
func (a *Agent) Status() (Status, string, error) {
	st, err := a.o.Store.Status()
	a.mu.Lock()
	defer a.mu.Unlock()
	return st, a.waiting, err
}

func (a *Agent) waitFor(what string) {
	a.mu.Lock()
	news := a.waiting != what
	a.waiting = what
	a.mu.Unlock()
	if news {
		a.o.Changed()
	}
}

// Run lets the running version prove itself if it is on trial, and then carries out
// orders until ctx ends. It fails only if the process has to end so that another
// version starts.
func (a *Agent) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var hearing sync.WaitGroup
	hearing.Go(func() { a.hear(ctx) })
	defer hearing.Wait()
	defer stop()
	if err := a.prove(ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		st, err := a.o.Store.Status()
		if err != nil {
			a.o.Log.Error("software's state cannot be read", "err", err)
		}
		if err := a.until(ctx, st); err != nil {
			return err
		}
	}
	return nil
}

// until carries out the order in hand, if there is one, until it is done or another
// one was taken.
func (a *Agent) until(ctx context.Context, st Status) error {
	done := make(chan error, 1)
	ctx, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer stop()
	if st.Order != nil && st.Trial == "" {
		work.Go(func() { done <- a.carry(ctx, *st.Order, st.Staged) })
	}
	select {
	case <-ctx.Done():
		return nil
	case <-a.taken:
		return nil
	case err := <-done:
		return err
	}
}

// errBusy says that residents come first.
var errBusy = errors.New("the machine is busy")

// carry brings an order to its end. An error means that the process has to end.
func (a *Agent) carry(ctx context.Context, o Order, staged bool) error {
	defer a.waitFor("")
	j := job{a: a, o: o, staged: staged}
	for wait := retryMin; ; {
		if o.late(time.Now()) {
			a.finish(ctx, o, protocol.UpdateLate, "the deadline came first: "+j.why)
			return nil
		}
		j.look(ctx)
		err := j.step(ctx)
		refused, no := errors.AsType[*RefusedError](err)
		switch {
		case ctx.Err() != nil:
			return nil
		case j.switched:
			return err
		case no:
			a.finish(ctx, o, protocol.UpdateRefused, refused.Words)
			return nil
		case err == nil:
			wait = retryMin
			continue
		}
		j.why = err.Error()
		a.waitFor(j.why)
		pause := gateEvery
		if !errors.Is(err, errBusy) {
			pause = wait/2 + rand.N(wait/2)
			wait = min(2*wait, retryMax)
			a.o.Log.Warn("update does not get on, trying again", "version", o.Version, "err", err, "retry", pause)
		}
		sleep(ctx, min(pause, time.Until(time.UnixMilli(o.DeadlineMS))))
	}
}

func (a *Agent) finish(ctx context.Context, o Order, end protocol.UpdateEnd, words string) {
	a.o.Log.Warn("update not done", "version", o.Version, "end", end, "err", words)
	defer a.o.Changed()
	for err := a.o.Store.finish(o, end, words); err != nil; err = a.o.Store.finish(o, end, words) {
		a.o.Log.Error("end of an update not written down", "version", o.Version, "err", err)
		if !sleep(ctx, retryMax) {
			return
		}
	}
}

// job is one order on its way. It is owned by carry.
type job struct {
	a        *Agent
	o        Order
	staged   bool
	damaged  int // bundles that came whole and wrong
	tried    bool
	board    bool   // the motor board has answered while the order was in hand
	switched bool   // another version starts next: no way back from here but a restart
	why      string // what it last waited for
}

// look notes what works while the order is in hand, and returns what works now.
func (j *job) look(ctx context.Context) Signs {
	ctx, cancel := context.WithTimeout(ctx, signEvery)
	defer cancel()
	now := j.a.o.Signs(ctx)
	j.board = j.board || now.Board
	return now
}

// step takes the order one step on. No error means that the next step is due.
func (j *job) step(ctx context.Context) error {
	switch {
	case !j.staged:
		return j.bring(ctx)
	case !j.tried:
		err := j.a.o.Try(ctx, j.o.Version)
		j.tried = err == nil
		return err
	}
	if begins := time.UnixMilli(j.o.NotBeforeMS); time.Now().Before(begins) {
		return fmt.Errorf("it begins at %s: %w", begins.UTC().Format(time.RFC3339), errBusy)
	}
	return j.swap(ctx)
}

// bring fetches and unpacks the bundle.
func (j *job) bring(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	j.a.waitFor("the bundle comes")
	err := j.a.o.Store.Fetch(ctx, j.a.o.Source, j.o, j.a.o.Rate)
	if errors.Is(err, errDamaged) {
		// Once may be a power cut's doing, while it came in parts.
		if j.damaged++; j.damaged > 1 {
			return refusef("the district's bundle of %s is not the one that was ordered", j.o.Version)
		}
	}
	if err != nil {
		return err
	}
	if err := j.a.o.Store.Stage(ctx, j.o); err != nil {
		return err
	}
	j.a.o.Log.Info("update staged", "version", j.o.Version)
	j.staged = true
	return nil
}

// swap makes the staged version the next to start, and has the process restarted.
func (j *job) swap(ctx context.Context) error {
	open, why := j.a.o.Gate(ctx)
	if why != "" {
		return fmt.Errorf("%s: %w", why, errBusy)
	}
	// A moment in which a plug hangs loose must not spare the new version its proof: a
	// board that was there since the order came has to be there again, and the order
	// itself came over the line to the district.
	before := j.look(ctx)
	before.Board, before.Uplink = j.board, true
	if err := j.a.o.Store.Switch(j.o, before); err != nil {
		open()
		return err
	}
	// From here on the machine stays closed: this process only has to end.
	j.switched = true
	j.a.o.Log.Info("switched to a new version, restarting", "version", j.o.Version)
	return j.a.restart(ctx)
}

// restart ends the process, one way or the other: if nobody does it, the error does.
func (a *Agent) restart(ctx context.Context) error {
	if err := a.o.Restart(ctx); err != nil {
		return fmt.Errorf("update: ask for a restart: %w", err)
	}
	if !sleep(ctx, restartLimit) {
		return nil
	}
	return fmt.Errorf("update: not restarted within %v", restartLimit)
}

// prove watches a version on trial until it is confirmed or given up.
func (a *Agent) prove(ctx context.Context) error {
	st, err := a.o.Store.load()
	if err != nil {
		// Check could not read it either, or has mended it; nothing is on trial that we know of.
		a.o.Log.Error("software's state cannot be read", "err", err)
		return nil
	}
	if st.Phase != trial {
		a.prune()
		return nil
	}
	if st.Trial.Version != a.o.Version {
		a.o.Log.Error("another version is on trial than the one that runs", "version", st.Trial.Version)
		return nil
	}
	return a.watch(ctx, *st.Trial)
}

// watch looks at the running version until it is judged. While nobody could reach
// the district its time stands still: an outage must not undo a good version, and
// must not let one stay that has never been seen to get through.
func (a *Agent) watch(ctx context.Context, t tried) error {
	last := time.Now() // when we looked last
	limit, well, good := last.Add(confirmLimit), last, last
	for vouched := false; ; {
		looked, cancel := context.WithTimeout(ctx, signEvery)
		why, outage := a.o.Signs(looked).missing(t.Before)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		now := time.Now()
		switch { // good since: all works; well since: all but the district
		case outage:
			good, limit = now, limit.Add(now.Sub(last))
		case why != "":
			good, well = now, now
		}
		last = now
		switch {
		case now.Sub(good) >= settleTime:
			return a.confirm(ctx)
		case outage && now.UnixMilli()-t.BegunMS >= outageLimit.Milliseconds():
			return a.giveUp(ctx, t, fmt.Sprintf("%s, for %v, and could before", why, outageLimit))
		case !now.Before(limit):
			return a.giveUp(ctx, t, cmp.Or(why, "it did not stay well for "+settleTime.String()))
		case outage && !vouched && now.Sub(well) >= settleTime:
			vouched = a.vouch()
		}
		a.waitFor(cmp.Or(why, "the new version proves itself"))
		if !sleep(ctx, signEvery) {
			return nil
		}
	}
}

// vouch notes that the version works, as far as one can tell without the district.
func (a *Agent) vouch() bool {
	err := a.o.Store.Vouch(a.o.Version)
	if err != nil {
		a.o.Log.Error("that the new version works is not written down; its starts are counted", "version", a.o.Version, "err", err)
	}
	return err == nil
}

// confirm writes down that the version stays. As long as that fails it is on trial.
func (a *Agent) confirm(ctx context.Context) error {
	for {
		err := a.o.Store.Confirm(a.o.Version)
		if err == nil {
			a.o.Log.Info("the new version has proved itself", "version", a.o.Version)
			a.waitFor("")
			a.prune()
			return nil
		}
		if st, also := a.o.Store.load(); also == nil && st.Phase != trial {
			a.o.Log.Warn("the new version was given up by hand", "version", a.o.Version)
			return nil
		}
		a.o.Log.Error("the new version cannot be confirmed", "version", a.o.Version, "err", err)
		if !sleep(ctx, retryMin) {
			return nil
		}
	}
}

// giveUp has the version before put back by the next start.
func (a *Agent) giveUp(ctx context.Context, t tried, why string) error {
	a.o.Log.Error("the new version did not prove itself", "version", a.o.Version, "err", why)
	if t.Failed != "" {
		return nil // it was given up before, and no Check has judged that: a restart would not help
	}
	if err := a.o.Store.Fail(a.o.Version, why); err != nil {
		a.o.Log.Error("that is not written down; its starts are counted", "version", a.o.Version, "err", err)
	}
	return a.restart(ctx)
}

// prune clears up. What stays lies there until the next time.
func (a *Agent) prune() {
	if err := a.o.Store.Prune(); err != nil {
		a.o.Log.Warn("old versions not removed", "err", err)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
