package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"yaoju/daemon/dispense"
	"yaoju/protocol"
)

// reserved is the outcome of a vend in the table before anything is known.
const reserved protocol.Outcome = 0

// suspectAfter is how many kept vends in a row make a slot suspect: one may be a
// gap in the queue, two are not chance.
const suspectAfter = 2

// maxVend is the highest vend id that is believed and minted. A board that claims
// to know more has lost its memory: a machine that turned once a second for 60
// years would not get there.
const maxVend = 1<<31 - 1

// machineHand stands for the account number where the machine itself corrects a
// count.
const machineHand = "machine"

// A vend is one attempt to turn one motor, as it is stored.
type vend struct {
	id      protocol.VendID
	pos     int64          // place in the queue its piece came from
	stock   protocol.Stock // what that piece is
	outcome protocol.Outcome
}

// Reserve decides whether the card may take the product today, picks the slot,
// sets one piece and the entitlement aside and mints the id, in one durable
// transaction. If the answer is no it writes nothing and returns a
// *dispense.DeniedError: closed, empty or early.
func (l *Ledger) Reserve(ctx context.Context, o dispense.Order) (dispense.Vend, error) {
	var v dispense.Vend
	err := l.tx(ctx, "reserve "+string(o.Product), func(t *tx) error {
		c, err := t.claim(o.Marks, o.Product)
		if err != nil {
			return err
		}
		y, err := t.tray()
		if err != nil {
			return err
		}
		b := y.choose(o.Product, o.Tried)
		if b == nil {
			return &dispense.DeniedError{Reason: protocol.DenialEmpty}
		}
		v, err = t.reserve(c, b.queue[0])
		return err
	})
	if err != nil {
		return dispense.Vend{}, err
	}
	return v, nil
}

// Entitled answers nil if the card may take the product today, as far as the
// quota decides, and a *dispense.DeniedError if not: closed or early, or empty
// for a product this machine does not have. An empty product asks whether the
// card may take any; early then names the first day on which it may.
func (l *Ledger) Entitled(ctx context.Context, marks dispense.Marks, product protocol.ProductID) error {
	return l.read(ctx, "entitlement to "+string(product), func(t *tx) error {
		if product != "" {
			_, err := t.claim(marks, product)
			return err
		}
		return t.claimAny(marks)
	})
}

// claimAny is claim for whichever product the card may take first.
func (t *tx) claimAny(marks dispense.Marks) error {
	var soonest *dispense.DeniedError
	if d := t.desired(); d != nil {
		for _, p := range d.Products {
			_, err := t.claim(marks, p.ID)
			denied, ok := errors.AsType[*dispense.DeniedError](err)
			if !ok {
				return err // allowed, or not to be read
			}
			if soonest == nil || !denied.Next.IsZero() && (soonest.Next.IsZero() || denied.Next.Before(soonest.Next)) {
				soonest = denied
			}
		}
	}
	if soonest == nil {
		return &dispense.DeniedError{Reason: protocol.DenialClosed} // nobody has said yet what there is
	}
	return soonest
}

// A claim is a card's right to one box today.
type claim struct {
	marks  dispense.Marks
	policy protocol.Policy
	want   take
	next   day // first day it may take the same again
	never  bool
}

// claim decides whether the machine serves and the card may take, and writes
// nothing.
func (t *tx) claim(marks dispense.Marks, product protocol.ProductID) (claim, error) {
	d := t.desired()
	if marks.Current == (dispense.Mark{}) {
		return claim{}, errors.New("the card has no mark")
	}
	if t.clock == protocol.ClockUnset || d == nil || t.paused() {
		return claim{}, &dispense.DeniedError{Reason: protocol.DenialClosed}
	}
	p, ok := findProduct(d, product)
	if !ok {
		return claim{}, &dispense.DeniedError{Reason: protocol.DenialEmpty}
	}
	taken, err := t.taken(marks)
	if err != nil {
		return claim{}, err
	}
	c := claim{marks: marks, policy: d.Policy, want: take{day: t.today(), class: p.Class, boxes: 1, units: p.Units}}
	first, ok := firstDay(d.Policy, taken, c.want)
	if !ok {
		return claim{}, &dispense.DeniedError{Reason: protocol.DenialEarly}
	}
	if first > c.want.day {
		return claim{}, &dispense.DeniedError{Reason: protocol.DenialEarly, Next: first.in(t.l.zone)}
	}
	c.next, ok = firstDay(d.Policy, append(taken, c.want), c.want)
	c.never = !ok
	return c, nil
}

func findProduct(d *protocol.Desired, id protocol.ProductID) (protocol.Product, bool) {
	for _, p := range d.Products {
		if p.ID == id {
			return p, true
		}
	}
	return protocol.Product{}, false
}

// taken lists what the card took under either of its marks and is still kept.
func (t *tx) taken(marks dispense.Marks) ([]take, error) {
	previous := marks.Previous
	if previous == (dispense.Mark{}) {
		previous = marks.Current // there was no key before
	}
	var taken []take
	err := t.each(func(rows *sql.Rows) error {
		var k take
		var date protocol.DateOnly
		if err := rows.Scan(&date, &k.class, &k.boxes, &k.units); err != nil {
			return err
		}
		var err error
		k.day, err = parseDay(date)
		taken = append(taken, k)
		return err
	}, `SELECT day, class, boxes, units FROM entitlement WHERE mark IN (?, ?)`, marks.Current[:], previous[:])
	return taken, err
}

// reserve takes one piece of front off its slot for the claim.
func (t *tx) reserve(c claim, front line) (dispense.Vend, error) {
	v := dispense.Vend{Slot: front.Slot}
	var next any // NULL where no day is known
	if !c.never {
		v.Next = c.next.in(t.l.zone)
		next = c.next.date()
	}
	last, err := t.lastVend()
	if err != nil {
		return v, err
	}
	if last >= maxVend {
		return v, fmt.Errorf("vend ids are used up at %d", last)
	}
	v.ID = last + 1
	if _, err := t.exec(`UPDATE meta SET last_vend = ?`, v.ID); err != nil {
		return v, err
	}
	if err := t.take(front, 1); err != nil {
		return v, err
	}
	_, err = t.exec(`INSERT INTO vend (id, slot, pos, product, batch, expiry, board, next_day) SELECT ?, ?, ?, ?, ?, ?, board, ? FROM meta`,
		v.ID, front.Slot, front.pos, front.Product, front.Batch, front.Expiry, next)
	if err != nil {
		return v, err
	}
	return v, t.entitle(c, v.ID)
}

// entitle counts the claim as taken. What no rule counts any more is forgotten by
// Purge, which runs only under a clock that can be believed.
func (t *tx) entitle(c claim, id protocol.VendID) error {
	last := lastCounted(c.policy, c.want)
	if last < c.want.day {
		return nil // no rule counts this class: there is nothing to remember
	}
	_, err := t.exec(`INSERT INTO entitlement (mark, day, class, vend, boxes, units, keep_until) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		c.marks.Current[:], c.want.day.date(), c.want.class, id, c.want.boxes, c.want.units, last.date())
	return err
}

func (t *tx) lastVend() (protocol.VendID, error) {
	var last protocol.VendID
	err := t.row(`SELECT last_vend FROM meta`).Scan(&last)
	return last, err
}

// Minted returns the highest vend id that was ever given out; 0 is none.
func (l *Ledger) Minted(ctx context.Context) (protocol.VendID, error) {
	var last protocol.VendID
	err := l.read(ctx, "the last vend id", func(t *tx) (err error) {
		last, err = t.lastVend()
		return err
	})
	return last, err
}

// BoardHighest notes which board answers, and raises the ids to be minted above
// the highest one it knows. A board that knows less than it once said has lost its
// memory: from then on it is another one, and cannot speak for vends given to it before.
func (l *Ledger) BoardHighest(ctx context.Context, serial string, highest protocol.VendID) error {
	if highest > maxVend {
		return fmt.Errorf("ledger: board %s: highest vend id %d is not plausible: its memory is not ours", serial, highest)
	}
	return l.tx(ctx, "board "+serial, func(t *tx) error {
		var before protocol.VendID
		err := t.row(`SELECT highest FROM board WHERE serial = ?`, serial).Scan(&before)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if before > highest {
			l.log.Warn("board forgot vends it knew", "device", serial, "vend", before, "err", fmt.Errorf("it now says %d", highest))
		}
		_, err = t.exec(`INSERT INTO board (serial, highest) VALUES (?1, ?2)
			ON CONFLICT DO UPDATE SET losses = losses + (highest > ?2), highest = ?2 WHERE highest <> ?2`, serial, highest)
		if err != nil {
			return err
		}
		if _, err := t.exec(`UPDATE meta SET board = b.serial || '/' || b.losses FROM board b
			WHERE b.serial = ?1 AND board <> b.serial || '/' || b.losses`, serial); err != nil {
			return err
		}
		_, err = t.exec(`UPDATE meta SET last_vend = ?1 WHERE last_vend < ?1`, highest)
		return err
	})
}

// Settle records how id ended, with its event, in one durable transaction.
// Settling the same outcome again does nothing; unknown may be followed by the
// truth; any other change is an error.
func (l *Ledger) Settle(ctx context.Context, id protocol.VendID, r protocol.Result) error {
	return l.settle(ctx, id, r, "board", "")
}

// Resolve closes a vend that is unknown by a decision: by is staff or district,
// staff the account number where a person at the machine decided. The same
// decision again does nothing.
func (l *Ledger) Resolve(ctx context.Context, id protocol.VendID, out protocol.Outcome, by, staff string) error {
	if by != "staff" && by != "district" {
		return fmt.Errorf("ledger: resolve vend %d: by %q: want staff or district", id, by)
	}
	r := protocol.Result{Outcome: out}
	switch out {
	case protocol.Dispensed:
		r.Pieces = 1
	case protocol.Kept:
	default:
		return fmt.Errorf("ledger: resolve vend %d as %v: want dispensed or kept", id, out)
	}
	return l.settle(ctx, id, r, by, staff)
}

// Open lists vends that are reserved or unknown, oldest first.
func (l *Ledger) Open(ctx context.Context) ([]dispense.Vend, error) {
	var open []dispense.Vend
	err := l.read(ctx, "list open vends", func(t *tx) error {
		return t.each(func(rows *sql.Rows) error {
			var v dispense.Vend
			var next sql.Null[protocol.DateOnly]
			if err := rows.Scan(&v.ID, &v.Slot, &next, &v.Orphan); err != nil {
				return err
			}
			if next.Valid {
				d, err := parseDay(next.V)
				if err != nil {
					return err
				}
				v.Next = d.in(l.zone)
			}
			open = append(open, v)
			return nil
		}, `SELECT id, slot, next_day, vend.board <> meta.board FROM vend, meta WHERE outcome < 2 ORDER BY id`)
	})
	return open, err
}

func (l *Ledger) settle(ctx context.Context, id protocol.VendID, r protocol.Result, by, staff string) error {
	what := fmt.Sprintf("settle vend %d as %v", id, r.Outcome)
	return l.tx(ctx, what, func(t *tx) error {
		v, err := t.vend(id)
		if err != nil {
			return err
		}
		switch {
		case v.outcome == r.Outcome && r.Outcome != reserved:
			return nil
		case v.outcome == protocol.Dispensed || v.outcome == protocol.Kept:
			return fmt.Errorf("it is already %v", v.outcome)
		case v.outcome == reserved && by != "board":
			return errors.New("it is not unknown: the machine is still at it")
		}
		return t.settle(v, r, by, staff)
	})
}

func (t *tx) vend(id protocol.VendID) (vend, error) {
	v := vend{id: id}
	err := t.row(`SELECT slot, pos, product, batch, expiry, outcome FROM vend WHERE id = ?`, id).
		Scan(&v.stock.Slot, &v.pos, &v.stock.Product, &v.stock.Batch, &v.stock.Expiry, &v.outcome)
	if errors.Is(err, sql.ErrNoRows) {
		return v, errors.New("this ledger never reserved it")
	}
	return v, err
}

// settle moves v to r.Outcome with all that follows from it.
func (t *tx) settle(v vend, r protocol.Result, by, staff string) error {
	var err error
	switch r.Outcome {
	case protocol.Unknown:
		err = t.settleUnknown(v, r)
	case protocol.Dispensed:
		err = t.settleDispensed(v, r, by, staff)
	case protocol.Kept:
		err = t.settleKept(v, r, by, staff)
	default:
		return fmt.Errorf("outcome %d is none", uint8(r.Outcome))
	}
	if err != nil || r.Outcome == protocol.Unknown {
		return err
	}
	if by == "board" && (r.Pieces > 0 || r.RunMS > 0) {
		// It has this vend in its memory; should it know less at its next hello, it has lost it.
		_, err := t.exec(`UPDATE board SET highest = ?1 WHERE highest < ?1 AND serial || '/' || losses = (SELECT board FROM vend WHERE id = ?1)`, v.id)
		if err != nil {
			return err
		}
	}
	if err := t.liftUnknown(v.stock.Slot, staff); err != nil {
		return err
	}
	return t.blame(v.stock.Slot, r, by)
}

func (t *tx) mark(v vend, out protocol.Outcome) error {
	_, err := t.exec(`UPDATE vend SET outcome = ?1, next_day = iif(?1 < 2, next_day, NULL) WHERE id = ?2`, out, v.id)
	return err
}

// settleUnknown leaves piece and entitlement set aside and blocks the slot.
func (t *tx) settleUnknown(v vend, r protocol.Result) error {
	if err := t.mark(v, protocol.Unknown); err != nil {
		return err
	}
	if r.Cause == protocol.FaultBoardKnows {
		// What the board has under this id is another vend: it cannot tell of this one.
		if _, err := t.exec(`UPDATE vend SET board = '?' WHERE id = ?`, v.id); err != nil {
			return err
		}
	}
	if err := t.append(protocol.VendUnknown{Vend: v.event(r)}); err != nil {
		return err
	}
	if err := t.touch(v.stock.Slot); err != nil {
		return err
	}
	if err := t.block(protocol.SlotBlocked{Slot: v.stock.Slot, Why: protocol.BlockUnknown, Cause: r.Cause}); err != nil {
		return err
	}
	return t.raise(protocol.FaultUnknownVend, v.stock.Slot)
}

// settleDispensed counts the piece as given, and those that fell with it.
func (t *tx) settleDispensed(v vend, r protocol.Result, by, staff string) error {
	r.Pieces = max(r.Pieces, 1) // whoever says dispensed saw one
	if err := t.takeExtra(v, r.Pieces-1); err != nil {
		return err
	}
	if err := t.mark(v, protocol.Dispensed); err != nil {
		return err
	}
	if _, err := t.exec(`UPDATE slot SET dispensed = dispensed + ?, failures = 0 WHERE slot = ?`, r.Pieces, v.stock.Slot); err != nil {
		return err
	}
	// The card is counted; that it was this vend is forgotten.
	_, err := t.exec(`INSERT INTO entitlement (mark, day, class, vend, boxes, units, keep_until)
		SELECT mark, day, class, 0, boxes, units, keep_until FROM entitlement WHERE vend = ? AND vend > 0
		ON CONFLICT DO UPDATE SET boxes = boxes + excluded.boxes, units = units + excluded.units, keep_until = max(keep_until, excluded.keep_until)`, v.id)
	if err != nil {
		return err
	}
	if err := t.disentitle(v.id); err != nil {
		return err
	}
	return t.tell(v, protocol.VendDispensed{Vend: v.event(r)}, v.event(r), r.Outcome, by, staff)
}

// settleKept returns the piece to where it stood, and the entitlement.
func (t *tx) settleKept(v vend, r protocol.Result, by, staff string) error {
	if r.Pieces > 0 {
		return fmt.Errorf("%d pieces were seen to fall: that is dispensed", r.Pieces)
	}
	if err := t.mark(v, protocol.Kept); err != nil {
		return err
	}
	if err := t.put(line{pos: v.pos, Stock: v.stock, pieces: 1}); err != nil {
		return err
	}
	if err := t.disentitle(v.id); err != nil {
		return err
	}
	return t.tell(v, protocol.VendKept{Vend: v.event(r)}, v.event(r), r.Outcome, by, staff)
}

func (t *tx) disentitle(id protocol.VendID) error {
	_, err := t.exec(`DELETE FROM entitlement WHERE vend = ? AND vend > 0`, id)
	return err
}

// tell appends plain, or the resolution of what was unknown.
func (t *tx) tell(v vend, plain protocol.Event, e protocol.Vend, out protocol.Outcome, by, staff string) error {
	if v.outcome == protocol.Unknown {
		plain = protocol.VendResolved{Vend: e, Outcome: out, By: by, Staff: staff}
	}
	if err := t.append(plain); err != nil {
		return err
	}
	return t.touch(v.stock.Slot)
}

// event is the vend as the chain tells it.
func (v vend) event(r protocol.Result) protocol.Vend {
	return protocol.Vend{Vend: v.id, Stock: v.stock, Pieces: r.Pieces, Cause: r.Cause, RunMS: r.RunMS, DropMS: r.DropMS}
}

// liftUnknown unblocks the slot once none of its vends is open any more.
func (t *tx) liftUnknown(slot protocol.Slot, staff string) error {
	var open int
	if err := t.row(`SELECT count(*) FROM vend WHERE outcome < 2 AND slot = ?`, slot).Scan(&open); err != nil || open > 0 {
		return err
	}
	if err := t.clear(slot, protocol.BlockUnknown, staff); err != nil {
		return err
	}
	return t.clearFault(protocol.FaultUnknownVend, slot)
}

// blame blocks a slot that cannot move, or that failed too often in a row.
func (t *tx) blame(slot protocol.Slot, r protocol.Result, by string) error {
	if stuck(r.Cause) {
		return t.block(protocol.SlotBlocked{Slot: slot, Why: protocol.BlockFault, Cause: r.Cause})
	}
	if by != "board" || r.Outcome != protocol.Kept || !slotsOwn(r.Cause) {
		return nil
	}
	var failures int
	if err := t.row(`UPDATE slot SET failures = failures + 1 WHERE slot = ? RETURNING failures`, slot).Scan(&failures); err != nil {
		return err
	}
	if failures < suspectAfter {
		return nil
	}
	return t.block(protocol.SlotBlocked{Slot: slot, Why: protocol.BlockSuspect, Cause: r.Cause})
}

// stuck reports causes after which the slot cannot move until somebody looks: the
// motor is off, held fast, or stands in mid-turn. They hold whatever fell.
func stuck(f protocol.Fault) bool {
	switch f {
	case protocol.FaultNoMotor, protocol.FaultShort, protocol.FaultStuckHome, protocol.FaultRunaway, protocol.FaultNotHome, protocol.FaultJam:
		return true
	}
	return false
}

// slotsOwn reports whether a failure is the slot's and not that of door, board or
// drop sensor. A kept vend without a cause is the slot's.
func slotsOwn(f protocol.Fault) bool {
	switch f {
	case protocol.FaultDoorOpened, protocol.FaultDoor, protocol.FaultInterrupted, protocol.FaultBoardReset, protocol.FaultBoardSilent,
		protocol.FaultBoardKnows, protocol.FaultJournal, protocol.FaultDropSensor,
		protocol.FaultElevator, protocol.FaultHatch, protocol.FaultNotTaken, protocol.FaultMicrowave:
		return false
	}
	return true
}
