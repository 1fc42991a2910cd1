// Package kiosk plays the session at the machine: one person at a time, one
// goroutine, written as the script a bystander would describe. It owns every
// state, timer and decision of the resident's screens, and, in Warden, the
// condition of the machine that decides whether anybody is served.
//
// It knows nothing of SQL, serial lines, HTML or MQTT: the card reader, the shelf
// and the machine's body are interfaces below, and the page only draws a View and
// sends a Tap.
package kiosk

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"yaoju/daemon/dispense"
	"yaoju/protocol"
)

// Plate is where the card lies.
type Plate interface {
	// Watch returns whether a card lies on the reader, and a channel closed when
	// that changes. It never reads the card's text.
	Watch() (Presence, <-chan struct{})
}

// Cards is the residents' card reader.
type Cards interface {
	Plate
	// Read waits for a card and reads it. It blocks until the card was read, could
	// not be read, or ctx ends; nothing of the card outlives the call but Holder.
	Read(ctx context.Context, ages protocol.Policy) (Holder, error)
}

// Presence is what the reader notices without reading.
type Presence struct {
	Ready bool // the reader answers
	Card  bool // a card lies on it
}

// Holder is what a card says of its bearer: a mark and two answers.
type Holder struct {
	Marks   dispense.Marks
	AgeOK   bool // inside the age window
	ValidOK bool // the card is not past its last day
}

// Shelf is the ledger as the session asks it.
type Shelf interface {
	// Offer lists the products of the planogram in the order of their letters.
	Offer(ctx context.Context) ([]Choice, error)
	// Entitled returns a *dispense.DeniedError if the card may not take the
	// product now; an empty product asks whether it may take any.
	Entitled(ctx context.Context, m dispense.Marks, p protocol.ProductID) error
	// Append records an event, durably.
	Append(ctx context.Context, e protocol.Event) error
	// Watch returns a channel closed when stock, policy or texts change.
	Watch() <-chan struct{}
}

// Counter hands out one box for one order.
type Counter interface {
	Serve(ctx context.Context, o dispense.Order) (dispense.Vend, protocol.Result, error)
}

// Guard says whether residents may be served.
type Guard interface {
	// Watch returns the machine's condition and a channel closed when it goes stale.
	Watch() (Condition, <-chan struct{})
}

// Jack is the socket for headphones.
type Jack interface {
	// Watch returns whether a plug is in, and a channel closed when that changes.
	Watch() (in bool, stale <-chan struct{})
}

// noJack is a machine whose socket, if it has one, does not tell.
type noJack struct{}

func (noJack) Watch() (bool, <-chan struct{}) { return false, nil }

// Condition is the machine as far as a session must know it.
type Condition struct {
	Closed  protocol.Fault // why nobody is served; 0: open
	Open    bool           // a vend may be open: nobody can promise that nothing was counted
	Door    bool           // the service door is open, or nobody can tell
	Percent int            // progress of the motor that turns, 0 to 100
}

// The times of the screens.
const (
	idleTime     = 60 * time.Second // without touch, then the cover
	noticeTime   = 90 * time.Second // the full notice takes longer to read
	resultTime   = 30 * time.Second // on a result, then the cover
	coverTime    = 20 * time.Second // on the cover, then the session ends
	doneTime     = 8 * time.Second  // on the last screen
	takeTime     = 30 * time.Second // on the hatch screen: without a hatch sensor nobody can tell longer
	takeAgain    = 15 * time.Second // then the voice says once more where it lies
	checkTime    = 8 * time.Second  // to read and judge a card
	firstTime    = 2 * time.Second  // card first: the notice is shown this long before the card is read
	holdTime     = 60 * time.Second // how long a card that was read stays good for another choice
	slowTime     = 20 * time.Second // motion that takes longer is excused on the screen
	dimTime      = 10 * time.Minute // nobody: the waiting screen dims
	bounceTime   = 400 * time.Millisecond
	turnTime     = 4 * time.Second // typical turn and drop, for "about n seconds"
	cardGrace    = 5 * time.Second // to pick the card up before we say something
	cardCallTime = 2 * time.Second // between two calls
	cardCallsEnd = 30 * time.Second
	bookLimit    = 5 * time.Second // a ledger question that takes longer is a fault
)

// deskAfter is how many unread cards in a row make the desk the first advice.
const deskAfter = 3

// tapQueue bounds taps not yet looked at: more than one hand can press.
const tapQueue = 4

// Options are the settings of a session.
type Options struct {
	Machine protocol.MachineID
	Zone    *time.Location // of dates on the screen
	Consent bool           // the card's text is read only after a tap (consent = tap)
	Service Service
	Jack    Jack // nil: nobody can tell whether headphones are in, so nothing private is ever spoken
	Log     *slog.Logger
	// Desired returns the desired state in force; ok is false before the first.
	Desired func() (d protocol.Desired, ok bool)
}

// Kiosk is the resident's side of the machine.
type Kiosk struct {
	cards   Cards
	shelf   Shelf
	counter Counter
	guard   Guard
	o       Options
	taps    chan press
	finger  finger // on a button of the staff that is held

	mu      sync.Mutex
	view    View          // guarded by mu
	changed chan struct{} // guarded by mu; closed and replaced on each change

	// owned by Run
	now      View      // what is shown, before it is published
	lastTap  time.Time // when a tap last did something
	touched  time.Time // when somebody last did something
	cardWas  bool      // a card lay on the reader when we last looked
	left     leftover
	modesDue bool // modes differ from the usual and end with the session
	plugged  bool // headphones were in when we last looked
}

type press struct {
	serial uint64
	tap    Tap
	arg    string
	at     time.Time
}

// New returns a kiosk that shows nothing until Run.
func New(cards Cards, shelf Shelf, counter Counter, guard Guard, o Options) *Kiosk {
	k := &Kiosk{cards: cards, shelf: shelf, counter: counter, guard: guard, o: o,
		taps: make(chan press, tapQueue), changed: make(chan struct{})}
	if k.o.Jack == nil {
		k.o.Jack = noJack{}
	}
	k.now = View{Screen: Fault, Code: protocol.FaultBoardSilent.Code(), Open: true, Modes: usual(), Now: time.Now().In(o.Zone)}
	k.now.Place = k.place()
	k.view = k.now
	return k
}

// Watch returns the current view and a channel closed when it goes stale.
func (k *Kiosk) Watch() (View, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.view, k.changed
}

// Tap says that a button was pressed on the screen with this serial; arg is what some
// of them say besides, such as a product. It never blocks; a tap too many is dropped, as it would be by a person.
func (k *Kiosk) Tap(serial uint64, t Tap, arg string) {
	switch t {
	case TapHold:
		k.finger.came()
	case TapStill:
		k.finger.stays()
		return
	case TapLet:
		k.finger.left()
		return
	}
	select {
	case k.taps <- press{serial, t, arg, time.Now()}:
	default:
	}
}

// Run serves people until ctx ends.
func (k *Kiosk) Run(ctx context.Context) error {
	k.touched = time.Now()
	for redrawn := false; ctx.Err() == nil; {
		if !redrawn {
			k.clear()
		}
		redrawn = k.rest(ctx)
	}
	return nil
}

// rest shows the waiting screen and plays the session that begins there. With
// nothing to give or something broken it says so instead, for as long as it lasts.
// It reports whether it ended only because the shelf may look different now.
func (k *Kiosk) rest(ctx context.Context) (redraw bool) {
	cond, _ := k.guard.Watch()
	shelf := k.shelf.Watch() // before looking, so that no change is missed
	offer, err := k.offer(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		k.o.Log.Error("shelf not readable", "err", err)
		k.show(View{Screen: Fault, Code: protocol.FaultLedger.Code(), Open: true})
		k.wait(ctx, pause{rest: true, busy: true, unsure: true, ends: bookLimit})
	case cond.Door && k.o.Service.Lobby != nil:
		k.visit(ctx)
	case cond.Closed != 0:
		k.show(View{Screen: Fault, Code: cond.Closed.Code(), Open: cond.Open})
		k.wait(ctx, pause{rest: true, closed: cond.Closed})
	case !slices.ContainsFunc(offer, inStock):
		k.show(View{Screen: Empty})
		return k.wait(ctx, pause{rest: true, shelf: shelf, taps: []Tap{TapNext}}).what == cueShelf
	default:
		k.show(View{Screen: Attract})
		switch c := k.wait(ctx, pause{rest: true, shelf: shelf, card: true, taps: []Tap{TapNext}}); c.what {
		case cueTap:
			k.choose(ctx, hand{})
		case cueCard:
			k.present(ctx, hand{})
		case cueShelf:
			return true
		}
	}
	return false
}

func inStock(c Choice) bool { return c.Stock }

// hand is what the person has put on the counter so far.
type hand struct {
	product protocol.ProductID
	holder  Holder
	read    time.Time // when the card was read; zero: not yet
}

// good reports whether the card that was read still counts as present.
func (h hand) good() bool { return !h.read.IsZero() && time.Since(h.read) < holdTime }

// choose asks for a product.
func (k *Kiosk) choose(ctx context.Context, h hand) {
	for redrawn := false; ; redrawn = true {
		shelf := k.shelf.Watch() // before looking, so that no change is missed
		offer, err := k.offer(ctx)
		if err != nil || !slices.ContainsFunc(offer, inStock) {
			return // the waiting screen says what is wrong
		}
		k.show(View{Screen: Choose, Products: offer, Covered: redrawn && k.now.Covered})
		c := k.wait(ctx, pause{idle: idleTime, redrawn: redrawn, shelf: shelf, taps: []Tap{TapPick, TapBack}})
		switch {
		case c.what == cueShelf:
			continue
		case c.what != cueTap || c.tap == TapBack:
			return
		}
		i := slices.IndexFunc(offer, func(p Choice) bool { return string(p.ID) == c.arg })
		if i < 0 || !offer[i].Stock {
			continue
		}
		h.product = offer[i].ID
		if h.good() {
			k.judge(ctx, h)
		} else {
			k.present(ctx, h)
		}
		return
	}
}

// present asks for the card and reads it. A card that was laid first sees the
// notice before its text is read.
func (k *Kiosk) present(ctx context.Context, h hand) {
	fails := 0
	consented := !k.o.Consent
	for {
		pres, _ := k.cards.Watch()
		k.show(View{Screen: Scan, Consent: k.o.Consent, Consented: consented})
		if h.product == "" && pres.Card && consented && fails == 0 {
			if c := k.wait(ctx, pause{ends: firstTime, taps: []Tap{TapMore, TapBack}}); c.what == cueTap || c.what == cueClosed {
				if c.what == cueTap && c.tap == TapMore && k.notice(ctx) {
					continue
				}
				return
			}
		}
		c := k.scan(ctx, &h, &consented)
		switch c.what {
		case cueRead:
			if c.reading.err == nil {
				k.judge(ctx, h)
				return
			}
			k.o.Log.Info("card not read", "err", c.reading.err)
			fails++
			k.append(ctx, protocol.OrderDenied{Reason: protocol.DenialCard})
			k.show(View{Screen: CardFail, Attempts: fails})
			k.cardMayStay()
			c := k.wait(ctx, pause{idle: resultTime, taps: []Tap{TapNext, TapOther}})
			retry := TapNext
			if fails >= deskAfter {
				retry = TapOther // the desk is the primary button now
			}
			if c.what != cueTap || c.tap != retry {
				return
			}
		case cueTap:
			switch c.tap {
			case TapMore:
				if !k.notice(ctx) {
					return
				}
			case TapBack:
				if h.product != "" {
					k.choose(ctx, hand{})
				}
				return
			}
		default:
			return
		}
	}
}

// notice shows the full privacy notice; it reports whether the person came back.
func (k *Kiosk) notice(ctx context.Context) bool {
	k.show(View{Screen: Privacy})
	c := k.wait(ctx, pause{idle: noticeTime, taps: []Tap{TapNext, TapBack}})
	return c.what == cueTap
}

// reading is the answer of the card reader.
type reading struct {
	holder Holder
	err    error
}

// scan waits on the scan screen for a card, and on the checking screen for its
// answer. The card's text is read only here, and never before consent.
func (k *Kiosk) scan(ctx context.Context, h *hand, consented *bool) cue {
	if !*consented {
		c := k.wait(ctx, pause{idle: idleTime, taps: []Tap{TapNext, TapMore, TapBack}})
		if c.what != cueTap || c.tap != TapNext {
			return c
		}
		*consented = true
		k.show(View{Screen: Scan, Consent: true, Consented: true})
	}
	rctx, cancel := context.WithCancel(ctx)
	answer := make(chan reading, 1)
	var reader sync.WaitGroup
	reader.Go(func() {
		holder, err := k.cards.Read(rctx, k.place().Policy)
		answer <- reading{holder, err}
	})
	defer func() { cancel(); reader.Wait() }()

	c := k.wait(ctx, pause{idle: idleTime, present: true, read: answer, taps: []Tap{TapMore, TapBack}})
	if c.what == cueCard {
		k.show(View{Screen: Checking})
		c = k.wait(ctx, pause{ends: checkTime, read: answer})
		if c.what == cueGone && ctx.Err() == nil {
			c = cue{what: cueRead, reading: reading{err: errors.New("not read in time")}}
		}
	}
	if c.what == cueRead && c.reading.err == nil {
		h.holder, h.read = c.reading.holder, time.Now()
		k.now.Beep++ // one beep on card read, whatever the answer will be
	}
	return c
}

// judge answers the card: a box, another day, or another way to get one.
func (k *Kiosk) judge(ctx context.Context, h hand) {
	k.cardMayStay()
	switch {
	case !h.holder.AgeOK:
		k.turnAway(ctx, protocol.DenialAge, View{Screen: Age})
		return
	case !h.holder.ValidOK:
		k.turnAway(ctx, protocol.DenialExpired, View{Screen: Expired})
		return
	}
	bctx, cancel := context.WithTimeout(ctx, bookLimit)
	err := k.shelf.Entitled(bctx, h.holder.Marks, h.product)
	cancel()
	switch denied := (*dispense.DeniedError)(nil); {
	case errors.As(err, &denied):
		k.deny(ctx, denied)
	case err != nil:
		k.o.Log.Error("entitlement not readable", "err", err)
	case h.product == "":
		k.choose(ctx, h)
	default:
		k.serve(ctx, h)
	}
}

func (k *Kiosk) deny(ctx context.Context, d *dispense.DeniedError) {
	v := View{Screen: Early, Next: d.Next, Days: daysUntil(k.now.Now, d.Next)}
	if d.Reason == protocol.DenialEmpty {
		v = View{Screen: Empty}
	}
	if d.Reason == protocol.DenialClosed {
		k.append(ctx, protocol.OrderDenied{Reason: d.Reason})
		return // the waiting screen says why
	}
	k.turnAway(ctx, d.Reason, v)
}

func (k *Kiosk) turnAway(ctx context.Context, why protocol.Denial, v View) {
	k.append(ctx, protocol.OrderDenied{Reason: why})
	k.show(v)
	k.wait(ctx, pause{idle: resultTime, taps: []Tap{TapNext}})
}

func daysUntil(now, then time.Time) int {
	day := func(t time.Time) time.Time {
		y, m, d := t.Date()
		return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	}
	return max(1, int(day(then.In(now.Location())).Sub(day(now))/(24*time.Hour)))
}

// served is the answer of the counter.
type served struct {
	vend   dispense.Vend
	result protocol.Result
	err    error
}

// serve hands out the box. Once it has begun, nothing but its end stops it.
func (k *Kiosk) serve(ctx context.Context, h hand) {
	k.show(View{Screen: Dispense, Seconds: int(turnTime / time.Second)})
	answer := make(chan served, 1)
	var counter sync.WaitGroup
	counter.Go(func() {
		v, r, err := k.counter.Serve(ctx, dispense.Order{Marks: h.holder.Marks, Product: h.product})
		answer <- served{v, r, err}
	})
	c := k.wait(ctx, pause{busy: true, served: answer})
	counter.Wait() // bounded by dispense: three slots, each with its limit
	if c.what != cueServed {
		return
	}
	s := c.served
	k.cardMayStay()
	if denied := (*dispense.DeniedError)(nil); errors.As(s.err, &denied) {
		k.deny(ctx, denied)
		return
	}
	if s.err != nil {
		k.o.Log.Error("order not settled", "vend", s.vend.ID, "err", s.err)
	}
	switch {
	case s.result.Outcome == protocol.Dispensed:
		k.hatch(ctx, s.vend.Next)
	case s.result.Outcome == protocol.Kept && s.err == nil:
		k.jam(ctx, h)
	case s.vend.ID == 0:
		// nothing was reserved: the waiting screen says what is wrong
	default: // "nothing was counted" is said only when nothing is open
		k.unsure(ctx)
	}
}

// unsure sends the person to the desk: nobody can tell yet what happened.
func (k *Kiosk) unsure(ctx context.Context) {
	k.show(View{Screen: Unsure})
	k.wait(ctx, pause{busy: true, idle: resultTime, taps: []Tap{TapNext}})
}

// hatch asks the person to take the box. The drop sensor saw it fall, so "nothing
// came out" is answered by asking to look again, then by the desk; a tap never
// earns a second box. A fault of the machine does not hide where the box lies.
func (k *Kiosk) hatch(ctx context.Context, next time.Time) {
	for _, again := range []bool{false, true} {
		k.show(View{Screen: Take, LookAgain: again})
		c := k.wait(ctx, pause{busy: true, ends: takeTime, again: takeAgain, taps: []Tap{TapNext, TapOther}})
		if c.what != cueTap || c.tap != TapOther {
			k.show(View{Screen: Done, Next: next})
			k.wait(ctx, pause{busy: true, ends: doneTime, taps: []Tap{TapNext}})
			return
		}
	}
	k.unsure(ctx)
}

// jam says that nothing came out and nothing was counted. While the card is still
// good the person may choose something else.
func (k *Kiosk) jam(ctx context.Context, h hand) {
	offer, err := k.offer(ctx)
	other := err == nil && slices.ContainsFunc(offer, func(c Choice) bool { return c.Stock && c.ID != h.product })
	k.show(View{Screen: Jam, Other: other})
	c := k.wait(ctx, pause{busy: true, idle: resultTime, taps: []Tap{TapNext, TapOther}})
	if c.what == cueTap && c.tap == TapNext && other {
		k.choose(ctx, hand{holder: h.holder, read: h.read})
	}
}

// offer asks the shelf, within its limit.
func (k *Kiosk) offer(ctx context.Context) ([]Choice, error) {
	ctx, cancel := context.WithTimeout(ctx, bookLimit)
	defer cancel()
	return k.shelf.Offer(ctx)
}

// append records an event of the session. A ledger that cannot take it refuses the
// next order too, so here it is enough to say so.
func (k *Kiosk) append(ctx context.Context, e protocol.Event) {
	ctx, cancel := context.WithTimeout(ctx, bookLimit)
	defer cancel()
	if err := k.shelf.Append(ctx, e); err != nil && ctx.Err() == nil {
		k.o.Log.Error("event not recorded", "kind", string(e.Kind()), "err", err)
	}
}

// place gathers what the words need to know of policy and place.
func (k *Kiosk) place() Place {
	p := Place{Machine: k.o.Machine, Boxes: 1}
	d, ok := k.o.Desired()
	if !ok {
		return p
	}
	p.Policy, p.KeepDays, p.Texts, p.Nearby = d.Policy, d.Policy.KeepDays(), d.Texts, d.Nearby
	if t, err := time.ParseInLocation(time.DateOnly, string(d.Texts.RestockBy), k.o.Zone); err == nil {
		p.RestockBy = t
	}
	return p
}
