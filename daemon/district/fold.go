package district

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"yaoju/protocol"
)

// change is what one event does to the stock of a slot.
type change struct {
	stock                  protocol.Stock
	pieces                 int // more, or fewer, of this batch in the slot
	held                   int // more, or fewer, set aside
	spill                  int // further pieces that left the front of the slot
	loaded, removed, given int
}

// changeOf reads an event; ok is false if it leaves the stock alone. That holds
// for vend.kept too: the piece it speaks of never left.
func changeOf(e protocol.Event) (c change, ok bool) {
	switch e := e.(type) {
	case protocol.VendDispensed:
		n := max(1, e.Pieces)
		return change{stock: e.Stock, pieces: -1, spill: n - 1, given: n}, true
	case protocol.VendUnknown:
		return change{stock: e.Stock, pieces: -1, held: 1}, true
	case protocol.VendResolved:
		if e.Outcome == protocol.Kept {
			return change{stock: e.Stock, pieces: 1, held: -1}, true
		}
		n := max(1, e.Pieces)
		return change{stock: e.Stock, held: -1, spill: n - 1, given: n}, true
	case protocol.StockLoaded:
		return change{stock: e.Stock, pieces: e.Pieces, loaded: e.Pieces}, true
	case protocol.StockRemoved:
		return change{stock: e.Stock, pieces: -e.Pieces, removed: e.Pieces}, true
	case protocol.StockTested:
		return change{stock: e.Stock, pieces: -e.Pieces, removed: e.Pieces}, true
	case protocol.StockCounted:
		diff := e.Counted - e.Expected
		return change{stock: e.Stock, pieces: diff, loaded: max(0, diff), removed: max(0, -diff)}, true
	}
	return change{}, false
}

// fold adds one stored event to everything that is kept as a sum.
func (d *District) fold(ctx context.Context, tx *sql.Tx, m protocol.MachineID, l protocol.LedgerID, r protocol.Record, e protocol.Event, now time.Time) error {
	switch e := e.(type) {
	case protocol.LedgerStarted:
		if e.Previous != "" {
			return raise(ctx, tx, m, l, alarmLedger, r.Seq, e.Reason, now)
		}
	case protocol.CommandDone:
		_, err := tx.ExecContext(ctx, `UPDATE command SET result = ?, detail = ? WHERE id = ? AND machine = ? AND result IS NULL`,
			e.Result, clean(e.Detail), e.ID, m)
		if err != nil {
			return fmt.Errorf("note the answer to command %s: %w", e.ID, err)
		}
	}
	c, ok := changeOf(e)
	if !ok {
		return nil
	}
	if err := c.level(ctx, tx, m, l, r.Seq); err != nil {
		return fmt.Errorf("level of %s, slot %d, at seq %d: %w", m, c.stock.Slot, r.Seq, err)
	}
	if c.given == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO given (machine, day, product, pieces) VALUES (?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET pieces = pieces + excluded.pieces`, m, d.dayOf(r, now), c.stock.Product, c.given)
	if err != nil {
		return fmt.Errorf("count what %s gave out at seq %d: %w", m, r.Seq, err)
	}
	return nil
}

// dayOf is the calendar day a record counts for. A machine whose clock is not to
// be believed is given the day on which the record came in.
func (d *District) dayOf(r protocol.Record, now time.Time) string {
	at := r.Time()
	if r.Clock == protocol.ClockUnset || at.After(now.Add(24*time.Hour)) || at.Year() < 2000 {
		at = now
	}
	return at.In(d.o.Zone).Format(time.DateOnly)
}

func (c change) level(ctx context.Context, tx *sql.Tx, m protocol.MachineID, l protocol.LedgerID, seq uint64) error {
	s := c.stock
	if _, err := tx.ExecContext(ctx, `INSERT INTO level (machine, ledger, slot, product, batch, expiry, since, pieces, held) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET pieces = pieces + excluded.pieces, held = held + excluded.held, expiry = excluded.expiry`,
		m, l, s.Slot, s.Product, s.Batch, s.Expiry, seq, c.pieces, c.held); err != nil {
		return err
	}
	if err := c.spillOver(ctx, tx, m, l); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO odometer (machine, ledger, slot, loaded, removed, given) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET loaded = loaded + excluded.loaded, removed = removed + excluded.removed, given = given + excluded.given`,
		m, l, s.Slot, c.loaded, c.removed, c.given)
	return err
}

// spillOver takes the further pieces of a double drop off the same batch, then
// off those behind it.
func (c change) spillOver(ctx context.Context, tx *sql.Tx, m protocol.MachineID, l protocol.LedgerID) error {
	s := c.stock
	for left := c.spill; left > 0; {
		var product, batch string
		var pieces int
		err := tx.QueryRowContext(ctx, `SELECT product, batch, pieces FROM level WHERE machine = ? AND ledger = ? AND slot = ? AND pieces > 0
			ORDER BY (product = ? AND batch = ?) DESC, since LIMIT 1`, m, l, s.Slot, s.Product, s.Batch).Scan(&product, &batch, &pieces)
		if err == sql.ErrNoRows {
			// More fell than was known to be there: the named batch goes below 0,
			// and the machine's totals will show it.
			product, batch, pieces = string(s.Product), s.Batch, left
		} else if err != nil {
			return err
		}
		take := min(left, pieces)
		if _, err := tx.ExecContext(ctx, `UPDATE level SET pieces = pieces - ? WHERE machine = ? AND ledger = ? AND slot = ? AND product = ? AND batch = ?`,
			take, m, l, s.Slot, product, batch); err != nil {
			return err
		}
		left -= take
	}
	return nil
}

// compare holds the sums of the events against the machine's own totals, taken at
// the same seq, and raises or calms the alarm. Odometers are compared, not the
// pieces shown: those leave out what has expired since.
func compare(ctx context.Context, tx *sql.Tx, st protocol.State, now time.Time) error {
	ours := map[protocol.Slot]int{}
	err := rows(ctx, tx, `SELECT slot, sum(pieces + held) FROM level WHERE machine = ? AND ledger = ? GROUP BY slot`, []any{st.Machine, st.Ledger}, func(r *sql.Rows) error {
		var s protocol.Slot
		var n int
		err := r.Scan(&s, &n)
		ours[s] = n
		return err
	})
	if err != nil {
		return fmt.Errorf("compare the levels of %s: %w", st.Machine, err)
	}
	for _, s := range st.Slots {
		theirs := int64(s.Loaded - s.Removed - s.Dispensed) // odometers may wrap; the difference does not
		if n := ours[s.Slot]; int64(n) != theirs {
			return raise(ctx, tx, st.Machine, st.Ledger, alarmBalance, st.Head, fmt.Sprintf("slot %d: %d by events, %d by the machine", s.Slot, n, theirs), now)
		}
	}
	return calm(ctx, tx, st.Machine, st.Ledger, alarmBalance)
}
