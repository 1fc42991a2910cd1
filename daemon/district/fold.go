package district

import (
	"context"
	"database/sql"
	"errors"
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

// sums are the changes of many events, each row once.
type sums struct {
	levels    map[levelKey]*levelSum
	odometers map[slotKey]*odometerSum
	given     map[givenKey]int
}

type slotKey struct {
	m protocol.MachineID
	l protocol.LedgerID
	s protocol.Slot
}

type levelKey struct {
	slotKey
	product protocol.ProductID
	batch   string
}

type levelSum struct {
	expiry       protocol.DateOnly
	since        uint64
	pieces, held int
}

type odometerSum struct{ loaded, removed, given int }

type givenKey struct {
	m       protocol.MachineID
	day     string
	product protocol.ProductID
}

func newSums() sums {
	return sums{levels: map[levelKey]*levelSum{}, odometers: map[slotKey]*odometerSum{}, given: map[givenKey]int{}}
}

// add adds a change that the event at seq makes.
func (x *sums) add(m protocol.MachineID, l protocol.LedgerID, seq uint64, c change) {
	slot := slotKey{m, l, c.stock.Slot}
	at := levelKey{slot, c.stock.Product, storable(c.stock.Batch)}
	sum := x.levels[at]
	if sum == nil {
		sum = &levelSum{since: seq}
		x.levels[at] = sum
	}
	sum.expiry = c.stock.Expiry
	sum.pieces += c.pieces
	sum.held += c.held
	meter := x.odometers[slot]
	if meter == nil {
		meter = &odometerSum{}
		x.odometers[slot] = meter
	}
	meter.loaded += c.loaded
	meter.removed += c.removed
	meter.given += c.given
}

// write adds the sums to what is stored, and empties them.
func (x *sums) write(ctx context.Context, s *store, tx *sql.Tx) error {
	var levels, odometers, given [][]any
	for k, v := range x.levels {
		levels = append(levels, []any{string(k.m), string(k.l), int64(k.s), string(k.product), k.batch, string(v.expiry), int64(v.since), int64(v.pieces), int64(v.held)})
	}
	for k, v := range x.odometers {
		odometers = append(odometers, []any{string(k.m), string(k.l), int64(k.s), int64(v.loaded), int64(v.removed), int64(v.given)})
	}
	for k, n := range x.given {
		given = append(given, []any{string(k.m), k.day, string(k.product), int64(n)})
	}
	if _, err := s.put(ctx, tx, insert{into: "level (machine, ledger, slot, product, batch, expiry, since, pieces, held)",
		types:    []string{"text", "text", "bigint", "text", "text", "text", "bigint", "bigint", "bigint"},
		conflict: "ON CONFLICT (machine, ledger, slot, product, batch) DO UPDATE SET pieces = level.pieces + excluded.pieces, held = level.held + excluded.held, expiry = excluded.expiry"}, levels); err != nil {
		return err
	}
	if _, err := s.put(ctx, tx, insert{into: "odometer (machine, ledger, slot, loaded, removed, given)",
		types:    []string{"text", "text", "bigint", "bigint", "bigint", "bigint"},
		conflict: "ON CONFLICT (machine, ledger, slot) DO UPDATE SET loaded = odometer.loaded + excluded.loaded, removed = odometer.removed + excluded.removed, given = odometer.given + excluded.given"}, odometers); err != nil {
		return err
	}
	if _, err := s.put(ctx, tx, insert{into: "given (machine, day, product, pieces)", types: []string{"text", "text", "text", "bigint"},
		conflict: "ON CONFLICT (machine, day, product) DO UPDATE SET pieces = given.pieces + excluded.pieces"}, given); err != nil {
		return err
	}
	*x = newSums()
	return nil
}

// fold adds one stored event to everything that is kept as a sum.
func (s *sheet) fold(ctx context.Context, m protocol.MachineID, l protocol.LedgerID, r protocol.Record, e protocol.Event) error {
	switch e := e.(type) {
	case protocol.LedgerStarted:
		if e.Previous != "" {
			return raise(ctx, s.tx, m, l, alarmLedger, r.Seq, e.Reason, s.now)
		}
	case protocol.CommandDone:
		_, err := s.tx.ExecContext(ctx, `UPDATE command SET result = ?, detail = ? WHERE id = ? AND machine = ? AND result IS NULL`,
			e.Result, clean(e.Detail), e.ID, m)
		if err != nil {
			return fmt.Errorf("note the answer to command %s: %w", e.ID, err)
		}
	}
	c, ok := changeOf(e)
	if !ok {
		return nil
	}
	s.pending.add(m, l, r.Seq, c)
	if c.given > 0 {
		s.pending.given[givenKey{m, s.d.dayOf(r, s.now), c.stock.Product}] += c.given
	}
	if c.spill == 0 {
		return nil
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	if err := c.spillOver(ctx, s.tx, m, l); err != nil {
		return fmt.Errorf("level of %s, slot %d, at seq %d: %w", m, c.stock.Slot, r.Seq, err)
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

// spillOver takes the further pieces of a double drop off the same batch, then
// off those behind it.
func (c change) spillOver(ctx context.Context, tx *sql.Tx, m protocol.MachineID, l protocol.LedgerID) error {
	s := c.stock
	for left := c.spill; left > 0; {
		var product, batch string
		var pieces int
		err := tx.QueryRowContext(ctx, `SELECT product, batch, pieces FROM level WHERE machine = ? AND ledger = ? AND slot = ? AND pieces > 0
			ORDER BY (product = ? AND batch = ?) DESC, since LIMIT 1`, m, l, s.Slot, s.Product, storable(s.Batch)).Scan(&product, &batch, &pieces)
		if errors.Is(err, sql.ErrNoRows) {
			// More fell than was known to be there: the named batch goes below 0,
			// and the machine's totals will show it.
			product, batch, pieces = string(s.Product), storable(s.Batch), left
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
