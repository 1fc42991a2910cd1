package ledger

import (
	"context"
	"fmt"
	"slices"

	"yaoju/protocol"
)

// Refusal is why something staff asked for was not done.
type Refusal string

const (
	RefusedSlot     Refusal = "slot"     // the planogram has no such slot
	RefusedProduct  Refusal = "product"  // the slot is planned for another product, or still holds one
	RefusedCapacity Refusal = "capacity" // more pieces than the slot takes
	RefusedExpired  Refusal = "expired"  // past its last day
	RefusedRecalled Refusal = "recalled" // the batch must not be given out
	RefusedAbsent   Refusal = "absent"   // fewer pieces than that are on record
	RefusedOpen     Refusal = "open"     // a vend of the slot is open: settle or resolve it first
	RefusedStale    Refusal = "stale"    // pieces moved since the count was made: count again
)

// A RefusedError is a decision, not a failure: the staff screen shows it. Nothing
// was written.
type RefusedError struct {
	Reason Refusal
	Slot   protocol.Slot
	Have   int // absent: pieces on record; capacity: pieces that would still fit
}

func (e *RefusedError) Error() string { return fmt.Sprintf("slot %d: refused: %s", e.Slot, e.Reason) }

// Batch is pieces of one batch that stand together in a slot.
type Batch struct {
	protocol.Stock
	Pieces int
	Usable bool // may be given out today
}

// Batches lists what stands in a slot and is not held, front first.
func (l *Ledger) Batches(ctx context.Context, slot protocol.Slot) ([]Batch, error) {
	if err := slot.Valid(); err != nil {
		return nil, fmt.Errorf("ledger: list batches: %w", err)
	}
	var out []Batch
	err := l.read(ctx, fmt.Sprintf("list batches of slot %d", slot), func(t *tx) error {
		y, err := t.tray()
		if err != nil {
			return err
		}
		b := y.bay(slot)
		for _, l := range b.queue {
			out = append(out, Batch{Stock: l.Stock, Pieces: l.pieces, Usable: y.usable(b, l.Stock)})
		}
		return nil
	})
	return out, err
}

// Load records that staff put pieces behind what stands in the slot. The answer
// may be a *RefusedError.
func (l *Ledger) Load(ctx context.Context, s protocol.Stock, pieces int, staff string) error {
	return l.change(ctx, "load", s, pieces, func(t *tx, y *tray, b *bay) error {
		if err := y.accept(b, s, pieces); err != nil {
			return err
		}
		if err := t.push(b, s, pieces); err != nil {
			return err
		}
		before := b.pieces()
		if err := t.odometer(s.Slot, "loaded", pieces); err != nil {
			return err
		}
		return t.tellStock(s.Slot, protocol.StockLoaded{Stock: s, Pieces: pieces, Before: before, After: before + pieces, Staff: staff})
	})
}

// accept decides whether pieces of s may go into b.
func (y *tray) accept(b *bay, s protocol.Stock, pieces int) error {
	room := b.plan.Capacity - b.pieces() - b.held
	refuse := func(r Refusal) error { return &RefusedError{Reason: r, Slot: b.slot, Have: max(room, 0)} }
	other := func(l line) bool { return l.Product != s.Product }
	switch {
	case b.plan.Product == "":
		return refuse(RefusedSlot)
	case b.plan.Product != s.Product || slices.ContainsFunc(b.queue, other):
		return refuse(RefusedProduct)
	case s.Expiry < y.today.date():
		return refuse(RefusedExpired)
	case y.recalled[protocol.Recall{Product: s.Product, Batch: s.Batch}]:
		return refuse(RefusedRecalled)
	case pieces > room:
		return refuse(RefusedCapacity)
	}
	return nil
}

// Remove records that staff took pieces of one batch out of a slot. The answer
// may be a *RefusedError.
func (l *Ledger) Remove(ctx context.Context, s protocol.Stock, pieces int, reason protocol.Removal, staff string) error {
	switch reason {
	case protocol.RemovedExpired, protocol.RemovedRecalled, protocol.RemovedDamaged, protocol.RemovedSample, protocol.RemovedReturned:
	default:
		return fmt.Errorf("ledger: remove from slot %d: reason %q is none", s.Slot, reason)
	}
	return l.change(ctx, "remove", s, pieces, func(t *tx, y *tray, b *bay) error {
		if have := b.of(s); have < pieces {
			return &RefusedError{Reason: RefusedAbsent, Slot: s.Slot, Have: have}
		}
		if err := t.takeOf(b, s, pieces); err != nil {
			return err
		}
		before := b.pieces()
		if err := t.odometer(s.Slot, "removed", pieces); err != nil {
			return err
		}
		return t.tellStock(s.Slot, protocol.StockRemoved{Stock: s, Pieces: pieces, Reason: reason, Before: before, After: before - pieces, Staff: staff})
	})
}

// Count records that staff counted one batch in a slot, as of the event seq the
// count was begun at; the variance is booked. A batch found that was not on
// record goes to the end of the queue. The answer may be a *RefusedError.
func (l *Ledger) Count(ctx context.Context, s protocol.Stock, counted int, asOf uint64, reason, staff string) error {
	if counted < 0 || counted > protocol.MaxPieces {
		return fmt.Errorf("ledger: count slot %d: %d pieces: 0 to %d are allowed", s.Slot, counted, protocol.MaxPieces)
	}
	return l.change(ctx, "count", s, 1, func(t *tx, y *tray, b *bay) error {
		expected := b.of(s)
		switch {
		case b.held > 0:
			return &RefusedError{Reason: RefusedOpen, Slot: s.Slot}
		case b.stockSeq > asOf:
			return &RefusedError{Reason: RefusedStale, Slot: s.Slot}
		case expected == 0 && counted > 0:
			if err := y.accept(b, s, counted); err != nil {
				return err
			}
		}
		return t.correct(b, protocol.StockCounted{Stock: s, Expected: expected, Counted: counted, AsOf: asOf, Reason: reason, Staff: staff})
	})
}

// correct books the variance of a count of one batch, and tells of it.
func (t *tx) correct(b *bay, e protocol.StockCounted) error {
	var err error
	switch variance := e.Counted - e.Expected; {
	case variance > 0:
		err = t.found(b, e.Stock, variance)
	case variance < 0:
		err = t.missed(b, e.Stock, -variance)
	}
	if err != nil {
		return err
	}
	return t.tellStock(e.Slot, e)
}

// Tested records that a test turn of a slot dropped pieces: they leave the stock
// from the front and never count as given out.
func (l *Ledger) Tested(ctx context.Context, slot protocol.Slot, pieces int, staff string) error {
	if err := slot.Valid(); err != nil {
		return fmt.Errorf("ledger: test: %w", err)
	}
	if pieces < 0 || pieces > protocol.MaxPieces {
		return fmt.Errorf("ledger: test of slot %d: %d pieces: 0 to %d are allowed", slot, pieces, protocol.MaxPieces)
	}
	return l.tx(ctx, fmt.Sprintf("test of slot %d", slot), func(t *tx) error {
		y, err := t.tray()
		if err != nil {
			return err
		}
		left := pieces
		for _, front := range y.bay(slot).queue {
			n := min(left, front.pieces)
			if n == 0 {
				break
			}
			left -= n
			if err := t.take(front, n); err != nil {
				return err
			}
			if err := t.odometer(slot, "removed", n); err != nil {
				return err
			}
			if err := t.tellStock(slot, protocol.StockTested{Stock: front.Stock, Pieces: n, Staff: staff}); err != nil {
				return err
			}
		}
		if left > 0 {
			l.log.Warn("more pieces fell in a test than were on record", "slot", slot, "err", fmt.Errorf("%d more", left))
		}
		return nil
	})
}

// change checks what staff entered and runs f on the slot.
func (l *Ledger) change(ctx context.Context, verb string, s protocol.Stock, pieces int, f func(*tx, *tray, *bay) error) error {
	what := fmt.Sprintf("%s slot %d, batch %s", verb, s.Slot, s.Batch)
	if err := s.Valid(); err != nil {
		return fmt.Errorf("ledger: %s: %w", verb, err)
	}
	if pieces < 1 || pieces > protocol.MaxPieces {
		return fmt.Errorf("ledger: %s: %d pieces: 1 to %d are allowed", what, pieces, protocol.MaxPieces)
	}
	return l.tx(ctx, what, func(t *tx) error {
		y, err := t.tray()
		if err != nil {
			return err
		}
		return f(t, y, y.bay(s.Slot))
	})
}

// of is how many pieces of the batch stand in the slot.
func (b *bay) of(s protocol.Stock) int {
	n := 0
	for _, l := range b.queue {
		if l.Stock == s {
			n += l.pieces
		}
	}
	return n
}

// takeExtra takes n pieces that fell together with the one of v. An event names
// one batch, so where that batch has too few on record, the next in the queue, or
// a piece nobody recorded, is booked over to it by counts in the machine's own
// hand: then every total follows from the events alone.
func (t *tx) takeExtra(v vend, n int) error {
	if n == 0 {
		return nil
	}
	y, err := t.tray()
	if err != nil {
		return err
	}
	if short := n - y.bay(v.stock.Slot).of(v.stock); short > 0 {
		if err := t.bookOver(y.bay(v.stock.Slot), v, short); err != nil {
			return err
		}
		if y, err = t.tray(); err != nil {
			return err
		}
	}
	return t.takeOf(y.bay(v.stock.Slot), v.stock, n)
}

func (t *tx) bookOver(b *bay, v vend, short int) error {
	head, err := t.tip()
	if err != nil {
		return err
	}
	count := protocol.StockCounted{AsOf: head.Seq, Reason: "several pieces fell at once", Staff: machineHand}
	left := short
	done := map[protocol.Stock]bool{v.stock: true}
	for _, l := range b.queue {
		if done[l.Stock] || left == 0 {
			continue
		}
		done[l.Stock] = true
		have := b.of(l.Stock)
		n := min(left, have)
		left -= n
		count.Stock, count.Expected, count.Counted = l.Stock, have, have-n
		if err := t.correct(b, count); err != nil {
			return err
		}
	}
	count.Stock, count.Expected = v.stock, b.of(v.stock)
	if v.outcome == reserved {
		count.Expected++ // no event has told yet that this piece is set aside
	}
	count.Counted = count.Expected + short
	return t.correct(b, count)
}

// take takes n of the line's pieces out of the table.
func (t *tx) take(l line, n int) error {
	query, args := `UPDATE stock SET pieces = pieces - ?3 WHERE slot = ?1 AND pos = ?2`, []any{l.Slot, l.pos, n}
	if n == l.pieces {
		query, args = `DELETE FROM stock WHERE slot = ?1 AND pos = ?2`, args[:2]
	}
	_, err := t.exec(query, args...)
	return err
}

// takeOf takes n pieces of one batch, the frontmost first; there must be so many.
func (t *tx) takeOf(b *bay, s protocol.Stock, n int) error {
	for _, l := range b.queue {
		if l.Stock != s || n == 0 {
			continue
		}
		k := min(n, l.pieces)
		n -= k
		if err := t.take(l, k); err != nil {
			return err
		}
	}
	return nil
}

// put puts pieces at a place of the queue.
func (t *tx) put(l line) error {
	_, err := t.exec(`INSERT INTO stock (slot, pos, product, batch, expiry, pieces) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET pieces = pieces + excluded.pieces`, l.Slot, l.pos, l.Product, l.Batch, l.Expiry, l.pieces)
	return err
}

// push puts pieces at the end of the queue; with the last batch if it is the same.
func (t *tx) push(b *bay, s protocol.Stock, n int) error {
	if k := len(b.queue); k > 0 && b.queue[k-1].Stock == s {
		return t.put(line{pos: b.queue[k-1].pos, Stock: s, pieces: n})
	}
	var pos int64
	if err := t.row(`UPDATE slot SET next_pos = next_pos + 1 WHERE slot = ? RETURNING next_pos - 1`, b.slot).Scan(&pos); err != nil {
		return err
	}
	return t.put(line{pos: pos, Stock: s, pieces: n})
}

// found books pieces that were there and not on record: with the last of their
// batch, or at the end.
func (t *tx) found(b *bay, s protocol.Stock, n int) error {
	if err := t.odometer(s.Slot, "loaded", n); err != nil {
		return err
	}
	for _, l := range slices.Backward(b.queue) {
		if l.Stock == s {
			return t.put(line{pos: l.pos, Stock: s, pieces: n})
		}
	}
	return t.push(b, s, n)
}

// missed books pieces that were on record and not there.
func (t *tx) missed(b *bay, s protocol.Stock, n int) error {
	if err := t.odometer(s.Slot, "removed", n); err != nil {
		return err
	}
	return t.takeOf(b, s, n)
}

// odometer adds n to one of a slot's totals: loaded or removed.
func (t *tx) odometer(slot protocol.Slot, which string, n int) error {
	_, err := t.exec(`UPDATE slot SET `+which+` = `+which+` + ? WHERE slot = ?`, n, slot)
	return err
}

// tellStock appends an event that moves the slot's pieces.
func (t *tx) tellStock(slot protocol.Slot, e protocol.Event) error {
	if err := t.append(e); err != nil {
		return err
	}
	return t.touch(slot)
}

// touch notes that the newest event moved the slot's pieces.
func (t *tx) touch(slot protocol.Slot) error {
	head, err := t.tip()
	if err != nil {
		return err
	}
	_, err = t.exec(`UPDATE slot SET stock_seq = ? WHERE slot = ?`, head.Seq, slot)
	return err
}
