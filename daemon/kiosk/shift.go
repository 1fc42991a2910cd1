package kiosk

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"yaoju/protocol"
)

const (
	staffIdle  = 10 * time.Minute       // without a touch or a scan, then the session ends
	staffWarn  = time.Minute            // of it under a cover that says so
	pinIdle    = 30 * time.Second       // on the PIN's screen
	holdLapse  = 600 * time.Millisecond // the page tells five times a second that the finger stays
	holdFresh  = 300 * time.Millisecond // a hold that waited longer is not begun
	holdLook   = 30 * time.Millisecond  // between two looks at finger and door while a motor turns
	settleTime = 3 * time.Second        // for a motor to stop and for what it let go to fall
	blindTime  = 2 * time.Minute        // how long a session lasts while nobody can tell whether the door is shut
	nearDays   = 60                     // a batch that expires within so many days is marked
	lowPart    = 4                      // a slot under a quarter of its capacity is marked
	batchChars = protocol.MaxBatch
)

// broughtQueue bounds what was brought and not yet looked at: a scanner in a quick
// hand.
const broughtQueue = 4

// shift is one stay of staff at the open door.
type shift struct {
	k       *Kiosk
	s       Service
	brought chan Brought
	v       StaffView
	screen  Screen
	warned  bool // the cover is shown

	head    uint64 // newest event when the stockroom was last read
	counted uint64 // newest event when the count in hand began
	begun   time.Time
	touched time.Time
	saved   map[protocol.Slot]bool
	before  Draft     // as it was before expiry or batch were entered by hand
	blind   time.Time // since when nobody can tell whether the door is shut; zero: somebody can
	holding *hold
}

// hold is a motor that runs while a finger stays on its button.
type hold struct {
	what   string // test or home
	slot   protocol.Slot
	stop   context.CancelFunc
	done   chan error
	before int // drops seen before it
	counts bool
	let    atomic.Bool // the finger left before the end
	joined sync.WaitGroup
}

// finger is the finger on a button that is held. The page tells of it without the
// queue of taps: what only says that it is still there must never begin anything.
type finger struct {
	mu   sync.Mutex
	seen time.Time // guarded by mu; zero: it left
}

func (f *finger) came() { f.set(time.Now()) }
func (f *finger) left() { f.set(time.Time{}) }

func (f *finger) set(at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = at
}

// stays is told again and again; a finger that had gone does not come back by it.
func (f *finger) stays() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.seen) < holdLapse {
		f.seen = time.Now()
	}
}

func (f *finger) there() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.seen) < holdLapse
}

// visit plays everything from the open door to the shut one. With the door open no
// resident is served; where the board is silent nobody can tell, and staff may still
// come in, but the screen does not invite them.
func (k *Kiosk) visit(ctx context.Context) {
	s := &shift{k: k, s: k.o.Service, brought: make(chan Brought, broughtQueue)}
	hctx, stop := context.WithCancel(ctx)
	var hands sync.WaitGroup
	hands.Go(func() { s.fetch(hctx) })
	defer func() { stop(); hands.Wait() }()
	for s.open() && ctx.Err() == nil {
		if a, ok := s.signIn(ctx); ok {
			s.stay(ctx, a)
		}
	}
}

// stay is one session, with its two records. Who cannot be recorded does not come in.
func (s *shift) stay(ctx context.Context, a Account) {
	bctx, cancel := context.WithTimeout(ctx, bookLimit)
	err := s.k.shelf.Append(bctx, protocol.StaffIn{Staff: a.Staff})
	cancel()
	if err != nil {
		s.k.o.Log.Error("staff not let in", "err", err)
		return
	}
	defer s.k.append(context.WithoutCancel(ctx), protocol.StaffOut{Staff: a.Staff})
	s.work(ctx, a)
}

// fetch takes what is brought. What nobody looks at is dropped: it would be stale.
func (s *shift) fetch(ctx context.Context) {
	for {
		b, err := s.s.Hands.Next(ctx)
		if err != nil {
			return
		}
		select {
		case s.brought <- b:
		default:
		}
	}
}

func (s *shift) open() bool {
	cond, _ := s.k.guard.Watch()
	return cond.Door
}

// happening is what ended a wait of the staff's screens.
type happening struct {
	tap     Tap
	arg     string
	brought *Brought
	held    error // of the motor that was held
	ended   bool  // the motor came to its end
	gone    bool  // door shut, nobody there, or ctx ended
	closed  bool  // the machine's condition changed
}

// signIn waits for a badge, and asks for its PIN.
func (s *shift) signIn(ctx context.Context) (Account, bool) {
	s.v, s.warned, s.blind = StaffView{}, false, time.Time{}
	cond, _ := s.k.guard.Watch()
	s.v.Door = cond.Closed == protocol.FaultDoor
	s.touched = time.Now()
	for {
		s.screen = StaffDoor
		if !s.v.Door {
			s.screen = Fault
		}
		s.show()
		h := s.wait(ctx, 0)
		switch {
		case h.gone:
			return Account{}, false
		case h.closed:
			return Account{}, false // look again what is wrong
		case h.brought == nil || h.brought.Badge == nil:
			continue
		}
		bctx, cancel := context.WithTimeout(ctx, bookLimit)
		a, ok, err := s.s.Lobby.Who(bctx, *h.brought.Badge)
		cancel()
		switch {
		case err != nil:
			s.fail(err)
			continue
		case !ok:
			s.note(Note{Key: "staff.stranger", Bad: true})
			continue
		}
		if s.pin(ctx, a) {
			return a, true
		}
		return Account{}, false
	}
}

// pin asks for the six digits.
func (s *shift) pin(ctx context.Context, a Account) bool {
	typed := ""
	s.screen, s.v.Account, s.v.Note, s.blind = StaffPIN, a, Note{}, time.Time{}
	for {
		s.v.Typed = len(typed)
		s.show()
		h := s.wait(ctx, pinIdle)
		switch {
		case h.gone:
			return false
		case h.tap == TapExit:
			return false
		case h.tap == TapErase && typed != "":
			typed = typed[:len(typed)-1]
		case h.tap == TapDigit && len(h.arg) == 1 && h.arg[0] >= '0' && h.arg[0] <= '9' && len(typed) < protocol.PINDigits:
			typed += h.arg
			s.v.Note = Note{}
		}
		if len(typed) < protocol.PINDigits {
			continue
		}
		s.v.Typed = len(typed)
		s.show()
		bctx, cancel := context.WithTimeout(ctx, bookLimit)
		verdict, err := s.s.Lobby.Check(bctx, a.Staff, typed)
		cancel()
		typed = ""
		switch {
		case err != nil:
			s.fail(err)
		case verdict.OK:
			s.v.Note, s.v.Typed = Note{}, 0
			return true
		case verdict.Locked > 0:
			s.note(Note{Key: "staff.locked", N: int((verdict.Locked + time.Minute - 1) / time.Minute), Bad: true})
		default:
			s.note(Note{Key: "staff.wrongpin", N: verdict.Left, Bad: true})
		}
	}
}

// fail says that something could not be read or written.
func (s *shift) fail(err error) {
	s.k.o.Log.Error("staff menu", "err", err)
	s.note(Note{Key: "staff.failed", Bad: true})
}

func (s *shift) note(n Note) { s.v.Note = n }

// show puts the staff's view up. A panel, or a slot, that is another one is another
// screen: a finger on its way must not press a button that has taken its place.
func (s *shift) show() {
	v := s.v
	view := View{Screen: s.screen, Covered: s.warned, Seconds: int(v.Leaves / time.Second), Staff: &v}
	if s.screen == Fault {
		cond, _ := s.k.guard.Watch()
		view.Code, view.Open, view.Staff = cond.Closed.Code(), cond.Open, nil
	}
	was := s.k.now.Staff
	if was != nil && s.k.now.Screen == s.screen && (was.Panel != v.Panel || was.Slot != v.Slot) {
		s.k.now.Serial++
	}
	s.k.show(view)
}

// wait waits for the next thing that staff do. limit is how long they may do
// nothing; 0: for ever. In the last minute of a long one a cover says so.
func (s *shift) wait(ctx context.Context, limit time.Duration) happening {
	cond, _ := s.k.guard.Watch()
	for {
		now, stale := s.k.guard.Watch()
		phones, plug := s.k.o.Jack.Watch()
		s.k.listen(phones)
		quiet := time.Since(s.touched)
		due := time.Now().Add(time.Minute)
		switch {
		case ctx.Err() != nil, !now.Door:
			return happening{gone: true}
		case now.Closed != cond.Closed && limit == 0:
			return happening{closed: true}
		case s.blinded(now) && limit > 0:
			return happening{gone: true}
		case limit > 0 && quiet >= limit:
			return happening{gone: true}
		case limit > 0:
			due = s.countDown(limit - quiet)
		case quiet < idleTime:
			due = s.touched.Add(idleTime)
		case s.k.modesDue: // whoever set them has gone
			s.k.clear()
			s.show()
		}
		var done chan error
		if s.holding != nil {
			done = s.holding.done
		}
		alarm := time.NewTimer(time.Until(due))
		select {
		case <-ctx.Done():
		case <-alarm.C:
		case <-stale:
		case <-plug:
		case err := <-done:
			alarm.Stop()
			return happening{held: err, ended: true}
		case b := <-s.brought:
			alarm.Stop()
			if s.holding != nil {
				continue
			}
			s.touch()
			return happening{brought: &b}
		case t := <-s.k.taps:
			alarm.Stop()
			if h, ok := s.press(t); ok {
				return h
			}
		}
		alarm.Stop()
	}
}

// blinded says that nobody could tell for too long whether the door is shut: a menu that
// was left open must not wait on the public's screen for a touch.
func (s *shift) blinded(c Condition) bool {
	if c.Closed != protocol.FaultBoardSilent {
		s.blind = time.Time{}
		return false
	}
	if s.blind.IsZero() {
		s.blind = time.Now()
	}
	return time.Since(s.blind) >= blindTime
}

// countDown shows how long the session lasts, and returns when to look again.
func (s *shift) countDown(left time.Duration) time.Time {
	step := 10 * time.Second
	warned := s.screen == StaffWork && left <= staffWarn
	if warned {
		step = time.Second
	}
	shown := (left + step - 1) / step * step
	if shown != s.v.Leaves || warned != s.warned {
		s.v.Leaves, s.warned = shown, warned
		s.show()
	}
	return time.Now().Add(left - (shown - step))
}

func (s *shift) touch() { s.touched, s.warned = time.Now(), false }

// press judges one tap.
func (s *shift) press(t press) (happening, bool) {
	if t.serial != s.k.now.Serial {
		return happening{}, false
	}
	if flipped := s.k.now.Modes.flip(t.tap); flipped != s.k.now.Modes {
		s.k.now.Modes, s.k.modesDue = flipped, true
		s.touch()
		s.show()
		return happening{}, false
	}
	if s.warned {
		if t.tap == TapNext {
			s.touch()
			s.show()
		}
		return happening{gone: t.tap == TapOther}, t.tap == TapOther
	}
	s.touch()
	if s.holding != nil || t.tap == TapHold && (time.Since(t.at) > holdFresh || !s.k.finger.there()) {
		return happening{}, false // a motor moves, or would for a finger that has gone
	}
	return happening{tap: t.tap, arg: t.arg}, true
}

// work is the menu itself: one tap, one answer, until somebody leaves.
func (s *shift) work(ctx context.Context, a Account) {
	s.screen, s.begun, s.saved = StaffWork, time.Now(), map[protocol.Slot]bool{}
	s.v.Account, s.v.Panel, s.v.Slot, s.blind = a, PanelNeed, 0, time.Time{}
	s.touch()
	defer s.release(ctx)
	for {
		if s.holding == nil {
			if err := s.look(ctx); err != nil {
				s.fail(err)
			}
		}
		s.show()
		h := s.wait(ctx, staffIdle)
		switch {
		case h.gone, h.tap == TapExit:
			return
		case h.ended:
			s.turned(ctx, h.held)
		case h.brought != nil:
			s.take(*h.brought)
		case h.tap != "":
			if !s.still(ctx) {
				return
			}
			s.answer(ctx, h.tap, h.arg)
		}
	}
}

// still asks whether the account is what it was when it came in: it may be taken back
// while its holder stands here.
func (s *shift) still(ctx context.Context) bool {
	bctx, cancel := context.WithTimeout(ctx, bookLimit)
	defer cancel()
	a, ok, err := s.s.Lobby.Still(bctx, s.v.Account.Staff)
	if err != nil {
		s.fail(err)
		return true // what it does next is refused by the same disk
	}
	return ok && a == s.v.Account
}

// release stops a motor that is still held, and records what it let go.
func (s *shift) release(ctx context.Context) {
	if s.holding != nil {
		s.holding.let.Store(true)
		s.holding.stop()
		s.turned(context.WithoutCancel(ctx), <-s.holding.done) // the board stops it within 300 ms
	}
}

// look reads the stockroom.
func (s *shift) look(ctx context.Context) error {
	bctx, cancel := context.WithTimeout(ctx, bookLimit)
	defer cancel()
	bays, head, err := s.s.Stock.Bays(bctx)
	if err != nil {
		return err
	}
	offer, err := s.k.offer(ctx)
	if err != nil {
		return err
	}
	s.head = head
	s.v.Products, s.v.Cells, s.v.Need = offer, nil, nil
	today := protocol.DateOnly(time.Now().In(s.k.o.Zone).Format(time.DateOnly))
	soon := protocol.DateOnly(time.Now().In(s.k.o.Zone).AddDate(0, 0, nearDays).Format(time.DateOnly))
	for _, b := range bays {
		s.v.Cells = append(s.v.Cells, Cell{Bay: b, Mark: s.mark(b, today, soon)})
		if b.Room() == 0 {
			continue
		}
		i := slices.IndexFunc(s.v.Need, func(n Need) bool { return n.Product == b.Product })
		if i < 0 {
			s.v.Need = append(s.v.Need, Need{Product: b.Product})
			i = len(s.v.Need) - 1
		}
		s.v.Need[i].Slots++
		s.v.Need[i].Pieces += b.Room()
	}
	return nil
}

func (s *shift) mark(b Bay, today, soon protocol.DateOnly) Mark {
	has := func(all ...protocol.Block) bool {
		return slices.ContainsFunc(all, func(w protocol.Block) bool { return slices.Contains(b.Blocked, w) })
	}
	bad := func(l Lot) bool { return !l.Usable }
	near := func(l Lot) bool { return l.Expiry >= today && l.Expiry <= soon }
	switch {
	case len(b.Unknown) > 0:
		return MarkUnknown
	case has(protocol.BlockStaff, protocol.BlockDistrict):
		return MarkOff
	case has(protocol.BlockFault, protocol.BlockSuspect):
		return MarkJam
	case slices.ContainsFunc(b.Lots, bad):
		return MarkBad
	case s.saved[b.Slot]:
		return MarkDone
	case b.Pieces() == 0:
		return MarkEmpty
	case slices.ContainsFunc(b.Lots, near):
		return MarkNear
	case b.Pieces()*lowPart <= b.Capacity:
		return MarkLow
	}
	return MarkOK
}

// take answers what was brought to the grid.
func (s *shift) take(b Brought) {
	switch {
	case b.Unread != (protocol.Text{}):
		s.note(Note{Text: b.Unread, Bad: true})
	case b.Carton == nil: // a badge, of whoever: somebody is signed in already
	case b.Carton.Product == "":
		s.note(Note{Key: "staff.code.unknown", Name: b.Carton.Code, Bad: true})
	default:
		s.carton(*b.Carton)
	}
}

// carton remembers what was scanned, and enters it where a slot of that product is open.
func (s *shift) carton(c Carton) {
	s.v.Ready = slices.DeleteFunc(s.v.Ready, func(r Carton) bool { return r.Product == c.Product })
	s.v.Ready = append(s.v.Ready, c)
	if s.v.Panel == PanelSure {
		s.home() // what was asked is no longer what would be recorded
	}
	cell := s.v.Cell()
	switch {
	case s.v.Slot == 0 || s.v.Panel != PanelLoad:
		s.note(Note{Key: "staff.scanned", Name: c.Batch})
	case cell.Product != c.Product:
		s.note(Note{Key: "staff.otherproduct", N: int(s.v.Slot), Bad: true})
	default:
		s.v.Draft.Batch, s.v.Draft.Expiry = c.Batch, c.Expiry
		if !s.v.Draft.Typed {
			s.v.Draft.N = cell.Pieces() + cell.Room()
		}
		s.note(Note{Key: "staff.scanned", Name: c.Batch})
	}
}

// pick opens the panel that a slot needs most.
func (s *shift) pick(slot protocol.Slot) {
	s.v.Slot, s.v.Note = slot, Note{}
	cell := s.v.Cell()
	switch {
	case cell.Slot == 0:
		s.home()
	case !s.v.Account.changes():
		s.count(0)
	case len(cell.Unknown) > 0:
		s.v.Panel = PanelUnknown
	default:
		s.load()
	}
}

// home goes back to what is to be brought.
func (s *shift) home() { s.v.Slot, s.v.Panel, s.v.Draft = 0, PanelNeed, Draft{} }

// load begins to enter pieces that were put in: up to the capacity, of the batch that
// was scanned for this product, or else of the one that stands last.
func (s *shift) load() {
	cell := s.v.Cell()
	d := Draft{N: cell.Pieces() + cell.Room()}
	if i := slices.IndexFunc(s.v.Ready, func(c Carton) bool { return c.Product == cell.Product }); i >= 0 {
		d.Batch, d.Expiry = s.v.Ready[i].Batch, s.v.Ready[i].Expiry
	} else if n := len(cell.Lots); n > 0 && cell.Lots[n-1].Product == cell.Product && cell.Lots[n-1].Usable {
		d.Batch, d.Expiry = cell.Lots[n-1].Batch, cell.Lots[n-1].Expiry
	}
	s.v.Panel, s.v.Draft = PanelLoad, d
}

// count begins to count one lot. What should be there is not shown.
func (s *shift) count(lot int) {
	cell := s.v.Cell()
	if lot >= len(cell.Batches()) {
		if lot == 0 {
			s.note(Note{Key: "staff.nothing", N: int(s.v.Slot)})
		}
		if !s.v.Account.changes() {
			s.home()
			return
		}
		s.load()
		return
	}
	l := cell.Batches()[lot]
	s.counted = s.head
	s.v.Panel, s.v.Draft = PanelCount, Draft{Lot: lot, Batch: l.Batch, Expiry: l.Expiry}
}

// answer does what a tap asks.
func (s *shift) answer(ctx context.Context, t Tap, arg string) {
	d := &s.v.Draft
	if s.screen == StaffDone && t != TapNext {
		return
	}
	switch t {
	case TapSlot:
		if n, err := strconv.Atoi(arg); err == nil {
			s.pick(protocol.Slot(min(max(n, 0), protocol.Slots+1)))
		}
		return
	case TapCancel:
		s.v.Note = Note{}
		switch s.v.Panel {
		case PanelExpiry, PanelBatch:
			s.v.Panel, s.v.Draft = PanelLoad, s.before
		case PanelDiffers:
			s.count(s.v.Draft.Lot)
		case PanelTake, PanelCount:
			if s.v.Account.changes() {
				s.load()
				return
			}
			s.home()
		default:
			s.home()
		}
		return
	case TapNext:
		s.screen = StaffWork
		return
	case TapFinish:
		s.home()
		s.v.Note = Note{}
		s.screen, s.v.Took = StaffDone, time.Since(s.begun)
		return
	}
	s.v.Note = Note{}
	switch s.v.Panel {
	case PanelCount:
		s.counting(ctx, t, arg)
		return
	case PanelDiffers:
		if t == TapReason {
			s.bookCount(ctx, arg)
		}
		return
	}
	if !s.v.Account.changes() {
		return
	}
	switch s.v.Panel {
	case PanelNeed:
		if t == TapFillAll && s.v.Fills() > 0 {
			s.v.Panel, d.N = PanelSure, s.v.Fills()
		} else if t == TapFillAll {
			s.note(Note{Key: "staff.scanfirst"})
		}
	case PanelSure:
		switch {
		case t == TapSave && d.N == s.v.Fills():
			s.fillAll(ctx)
		case t == TapSave:
			s.home() // something moved meanwhile: it is asked again
		}
	case PanelLoad:
		s.loading(ctx, t, arg)
	case PanelExpiry:
		s.dating(t, arg)
	case PanelBatch:
		s.naming(t, arg)
	case PanelTake:
		s.taking(ctx, t, arg)
	case PanelUnknown:
		s.resolving(ctx, t)
	}
}

// turnTo opens another panel of the same slot.
func (s *shift) turnTo(arg string) {
	cell := s.v.Cell()
	switch Panel(arg) {
	case PanelLoad:
		s.load()
	case PanelTake:
		if len(cell.Lots) == 0 {
			s.note(Note{Key: "staff.nothing", N: int(s.v.Slot)})
			return
		}
		front := cell.Batches()[0]
		s.v.Panel, s.v.Draft = PanelTake, Draft{N: front.Pieces, Batch: front.Batch, Expiry: front.Expiry}
	case PanelCount:
		s.count(0)
	case PanelExpiry, PanelBatch:
		s.before, s.v.Panel = s.v.Draft, Panel(arg)
	}
}

func (s *shift) loading(ctx context.Context, t Tap, arg string) {
	cell := s.v.Cell()
	d := &s.v.Draft
	full := cell.Pieces() + cell.Room()
	switch t {
	case TapLess:
		d.N, d.Typed = max(cell.Pieces(), d.N-1), true
	case TapPlus:
		d.N, d.Typed = min(full, d.N+1), true
	case TapFill:
		d.N, d.Typed = full, false
	case TapPanel:
		s.turnTo(arg)
	case TapOff:
		s.do(ctx, s.v.Slot, Note{Key: "staff.off", N: int(s.v.Slot)}, func(ctx context.Context) error {
			return s.s.Stock.Block(ctx, s.v.Slot, protocol.BlockStaff, 0, s.v.Account.Staff)
		})
	case TapOn:
		s.lift(ctx, cell)
	case TapHold:
		s.hold(ctx, arg)
	case TapSave:
		n := d.N - cell.Pieces()
		switch {
		case n <= 0:
			s.home()
		case d.Batch == "":
			s.note(Note{Key: "staff.nobatch", Bad: true})
		case d.Expiry == "":
			s.note(Note{Key: "staff.noexpiry", Bad: true})
		default:
			lot := Lot{Product: cell.Product, Batch: d.Batch, Expiry: d.Expiry}
			if s.put(ctx, cell.Slot, lot, n) {
				s.home()
			}
		}
	}
}

// put records pieces that were put in.
func (s *shift) put(ctx context.Context, slot protocol.Slot, l Lot, n int) bool {
	ok := s.do(ctx, slot, Note{Key: "staff.saved", N: int(slot)}, func(ctx context.Context) error {
		return s.s.Stock.Load(ctx, l.stock(slot), n, s.v.Account.Staff)
	})
	if ok {
		if !s.saved[slot] {
			s.v.Slots++
		}
		s.saved[slot] = true
		s.v.Loaded += n
	}
	return ok
}

// lift ends the blocks that a person at the machine may end.
func (s *shift) lift(ctx context.Context, c Cell) {
	s.do(ctx, c.Slot, Note{Key: "staff.on", N: int(c.Slot)}, func(ctx context.Context) error {
		for _, why := range c.Blocked {
			if why != protocol.BlockStaff && why != protocol.BlockSuspect && why != protocol.BlockFault {
				continue
			}
			if err := s.s.Stock.Clear(ctx, c.Slot, why, s.v.Account.Staff); err != nil {
				return err
			}
		}
		return nil
	})
}

// do writes something, and says what came of it.
func (s *shift) do(ctx context.Context, slot protocol.Slot, good Note, f func(context.Context) error) bool {
	bctx, cancel := context.WithTimeout(ctx, bookLimit)
	defer cancel()
	err := f(bctx)
	if no, ok := errors.AsType[*RefusedError](err); ok {
		s.note(Note{Key: "staff.refused." + no.Reason, N: no.Have, Bad: true})
		return false
	}
	if err != nil {
		s.fail(err)
		return false
	}
	s.note(good)
	return true
}

// fillAll fills what can be filled; the first that is refused ends it, and says where.
func (s *shift) fillAll(ctx context.Context) {
	all := 0
	for _, c := range s.v.Cells {
		r, ok := s.v.ready(c)
		if !ok {
			continue
		}
		if !s.put(ctx, c.Slot, Lot{Product: c.Product, Batch: r.Batch, Expiry: r.Expiry}, c.Room()) {
			s.v.Slot = c.Slot
			s.v.Panel, s.v.Draft = PanelLoad, Draft{N: c.Pieces() + c.Room(), Batch: r.Batch, Expiry: r.Expiry}
			return
		}
		all += c.Room()
	}
	s.home()
	s.note(Note{Key: "staff.filled", N: all})
}

// dating moves the expiry: cartons name a month, and its last day counts.
func (s *shift) dating(t Tap, arg string) {
	at, err := time.Parse(time.DateOnly, string(s.v.Draft.Expiry))
	if err != nil {
		at = time.Now().In(s.k.o.Zone).AddDate(2, 0, 0)
	}
	y, m, _ := at.Date()
	step := map[string]int{"+": 1, "-": -1}[arg]
	switch t {
	case TapYear:
		y += step
	case TapMonth:
		m += time.Month(step)
	case TapSave:
		s.v.Panel = PanelLoad
		return
	default:
		return
	}
	s.v.Draft.Expiry = protocol.DateOnly(time.Date(y, m+1, 0, 0, 0, 0, 0, time.UTC).Format(time.DateOnly))
}

// naming types a batch number.
func (s *shift) naming(t Tap, arg string) {
	d := &s.v.Draft
	switch t {
	case TapKey:
		if len(arg) == 1 && strings.ContainsAny(arg, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-/.") && len(d.Batch) < batchChars {
			d.Batch += arg
		}
	case TapErase:
		d.Batch = d.Batch[:max(0, len(d.Batch)-1)]
	case TapSave:
		s.v.Panel = PanelLoad
	}
}

// taking takes pieces of one lot out.
func (s *shift) taking(ctx context.Context, t Tap, arg string) {
	cell := s.v.Cell()
	d := &s.v.Draft
	lots := cell.Batches()
	if d.Lot >= len(lots) {
		s.home()
		return
	}
	l := lots[d.Lot]
	switch t {
	case TapLot:
		if i, err := strconv.Atoi(arg); err == nil && i >= 0 && i < len(lots) {
			l = lots[i]
			*d = Draft{Lot: i, N: l.Pieces, Batch: l.Batch, Expiry: l.Expiry}
		}
	case TapLess:
		d.N = max(1, d.N-1)
	case TapPlus:
		d.N = min(l.Pieces, d.N+1)
	case TapFill:
		d.N = l.Pieces
	case TapReason:
		reason := protocol.Removal(arg)
		switch reason {
		case protocol.RemovedExpired, protocol.RemovedRecalled, protocol.RemovedDamaged, protocol.RemovedSample, protocol.RemovedReturned:
		default:
			return
		}
		if s.do(ctx, cell.Slot, Note{Key: "staff.taken", N: d.N}, func(ctx context.Context) error {
			return s.s.Stock.Remove(ctx, l.stock(cell.Slot), d.N, reason, s.v.Account.Staff)
		}) {
			s.home()
		}
	}
}

// counting enters what was counted of one lot.
func (s *shift) counting(ctx context.Context, t Tap, arg string) {
	cell := s.v.Cell()
	d := &s.v.Draft
	if d.Lot >= len(cell.Batches()) {
		s.home()
		return
	}
	switch t {
	case TapDigit:
		if n, err := strconv.Atoi(d.number() + arg); err == nil && len(arg) == 1 && n <= protocol.MaxPieces {
			d.N, d.Typed = n, true
		}
	case TapErase:
		d.N /= 10
		d.Typed = d.N > 0
	case TapSave:
		if !d.Typed {
			s.note(Note{Key: "staff.countfirst"})
			return
		}
		s.v.Expected = cell.Batches()[d.Lot].Pieces
		if d.N == s.v.Expected {
			s.bookCount(ctx, "")
			return
		}
		s.v.Panel = PanelDiffers
	}
}

// number is what was typed so far.
func (d *Draft) number() string {
	if !d.Typed {
		return ""
	}
	return strconv.Itoa(d.N)
}

// Why a count differs from the record.
var countReasons = []string{"missing", "found", "miscount", "damaged"}

// bookCount records a count, as of the moment its panel was opened.
func (s *shift) bookCount(ctx context.Context, reason string) {
	cell := s.v.Cell()
	d := s.v.Draft
	lots := cell.Batches()
	if reason != "" && !slices.Contains(countReasons, reason) || d.Lot >= len(lots) {
		return
	}
	ok := s.do(ctx, cell.Slot, Note{Key: "staff.counted", N: int(cell.Slot)}, func(ctx context.Context) error {
		return s.s.Stock.Count(ctx, lots[d.Lot].stock(cell.Slot), d.N, s.counted, reason, s.v.Account.Staff)
	})
	switch {
	case ok && d.Lot+1 < len(lots):
		n := s.v.Note
		if err := s.look(ctx); err != nil { // what was counted as none is gone from the queue
			s.fail(err)
			return
		}
		s.count(d.Lot + min(1, d.N))
		s.note(n)
	case ok:
		s.home()
	default:
		n := s.v.Note
		s.count(d.Lot)
		s.note(n)
	}
}

// resolving closes a vend whose end nobody knew: somebody has looked.
// Its motor is not touched before.
func (s *shift) resolving(ctx context.Context, t Tap) {
	cell := s.v.Cell()
	out := map[Tap]protocol.Outcome{TapGave: protocol.Dispensed, TapKept: protocol.Kept}[t]
	if out == 0 || len(cell.Unknown) == 0 {
		return
	}
	if s.do(ctx, cell.Slot, Note{Key: "staff.resolved", N: int(cell.Slot)}, func(ctx context.Context) error {
		return s.s.Stock.Resolve(ctx, cell.Unknown[0], out, "staff", s.v.Account.Staff)
	}) {
		s.home()
	}
}

// hold starts a motor that runs while the finger stays. A slot with an open vend is
// not touched: what falls could be the box that vend is about.
func (s *shift) hold(ctx context.Context, what string) {
	move := map[string]func(context.Context, protocol.Slot) error{"test": s.s.Bench.TestTurn, "home": s.s.Bench.Home}[what]
	if err := s.look(ctx); err != nil {
		s.fail(err)
		return
	}
	cell := s.v.Cell()
	switch {
	case move == nil:
		return
	case len(cell.Unknown) > 0 || cell.Held > 0:
		s.note(Note{Key: "staff.refused.open", Bad: true})
		return
	}
	hctx, stop := context.WithCancel(ctx)
	h := &hold{what: what, slot: s.v.Slot, stop: stop, done: make(chan error, 1)}
	h.before, h.counts = s.s.Bench.Drops()
	h.joined.Go(func() { // looks by itself: the menu may be waiting for the disk
		again := time.NewTicker(holdLook)
		defer again.Stop()
		for hctx.Err() == nil {
			if cond, _ := s.k.guard.Watch(); !cond.Door || !s.k.finger.there() {
				h.let.Store(true)
				stop()
			}
			select {
			case <-again.C:
			case <-hctx.Done():
			}
		}
	})
	h.joined.Go(func() {
		h.done <- move(hctx, h.slot)
		stop()
	})
	s.holding, s.v.Held = h, what
}

// turned records what a held motor did.
func (s *shift) turned(ctx context.Context, err error) {
	h := s.holding
	h.stop()
	h.joined.Wait()
	s.holding, s.v.Held = nil, ""
	s.k.finger.left() // one turn for one touch
	sctx, cancel := context.WithTimeout(ctx, settleTime)
	s.s.Bench.Settled(sctx)
	cancel()
	fell, counts := s.s.Bench.Drops()
	fell -= h.before
	switch {
	case counts && h.counts && fell > 0:
		s.do(ctx, h.slot, Note{Key: "staff.fell", N: fell}, func(ctx context.Context) error {
			return s.s.Stock.Tested(ctx, h.slot, fell, s.v.Account.Staff)
		})
		if d := &s.v.Draft; s.v.Panel == PanelLoad && s.v.Slot == h.slot {
			d.N, d.Typed = max(0, d.N-fell), true // it is about what stands in the slot, and that is less now
		}
	case err != nil:
		s.k.o.Log.Warn("motor held by staff", "slot", h.slot, "err", err)
		s.note(Note{Key: "staff.notturned", N: int(h.slot), Bad: true})
	case h.let.Load():
		s.note(Note{Key: "staff.stopped", N: int(h.slot)})
	case h.what == "test":
		s.note(Note{Key: "staff.nonefell", N: int(h.slot), Bad: true})
	default:
		s.note(Note{Key: "staff.homed", N: int(h.slot)})
	}
}
