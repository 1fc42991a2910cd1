package ledger

import (
	"cmp"
	"database/sql"
	"slices"

	"yaoju/protocol"
)

// A line is pieces of one batch that stand together in a slot.
type line struct {
	pos int64 // place in the queue
	protocol.Stock
	pieces int
}

// A bay is one slot with all that decides whether it gives.
type bay struct {
	slot      protocol.Slot
	plan      protocol.SlotPlan      // zero: not in the planogram
	queue     []line                 // front first
	held      int                    // pieces set aside for open vends
	blocks    []protocol.SlotBlocked // weightiest first
	failures  int                    // kept vends in a row
	loaded    uint64
	removed   uint64
	dispensed uint64
	stockSeq  uint64 // seq of the latest event that moved its pieces
}

// A tray is every slot of the machine, and the day's rules about batches.
type tray struct {
	bays     [protocol.Slots]bay
	today    day
	recalled map[protocol.Recall]bool
}

// weight orders blocks: what hides the others on the screens comes first.
func weight(b protocol.Block) int {
	return slices.Index([]protocol.Block{protocol.BlockUnknown, protocol.BlockFault, protocol.BlockSuspect,
		protocol.BlockStaff, protocol.BlockDistrict}, b)
}

// pieces is how many stand in the slot and are not held.
func (b *bay) pieces() int {
	n := 0
	for _, l := range b.queue {
		n += l.pieces
	}
	return n
}

// usable reports whether pieces of s may be given out today.
func (y *tray) usable(b *bay, s protocol.Stock) bool {
	return s.Product == b.plan.Product && s.Expiry >= y.today.date() && !y.recalled[protocol.Recall{Product: s.Product, Batch: s.Batch}]
}

// ready is how many pieces could leave the slot if it turned now: a slot is a
// queue, so a batch that must not be given keeps back all behind it.
func (y *tray) ready(b *bay) int {
	n := 0
	for _, l := range b.queue {
		if !y.usable(b, l.Stock) {
			break
		}
		n += l.pieces
	}
	return n
}

// gives is ready for a slot that may turn, and 0 for one that may not.
func (y *tray) gives(b *bay) int {
	if len(b.blocks) > 0 || b.held > 0 {
		return 0
	}
	return y.ready(b)
}

// choose picks the slot that gives p: nearest expiry first, then the fuller slot,
// then the lower number; nil if none does.
func (y *tray) choose(p protocol.ProductID, tried []protocol.Slot) *bay {
	var best *bay
	for i := range y.bays {
		b := &y.bays[i]
		if b.plan.Product != p || slices.Contains(tried, b.slot) || y.gives(b) == 0 {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(b.queue[0].Expiry, best.queue[0].Expiry), cmp.Compare(best.pieces(), b.pieces())) < 0 {
			best = b
		}
	}
	return best
}

// bay returns one slot; s must be valid.
func (y *tray) bay(s protocol.Slot) *bay { return &y.bays[s-1] }

// tray reads every slot.
func (t *tx) tray() (*tray, error) {
	y := &tray{today: t.today(), recalled: map[protocol.Recall]bool{}}
	for i := range y.bays {
		y.bays[i].slot = protocol.Slot(i + 1)
	}
	if d := t.desired(); d != nil {
		for _, p := range d.Planogram {
			y.bay(p.Slot).plan = p
		}
		for _, r := range d.Recalls {
			y.recalled[r] = true
		}
	}
	for _, fill := range []func(*tray) error{t.fillSlots, t.fillStock, t.fillBlocks, t.fillHeld} {
		if err := fill(y); err != nil {
			return nil, err
		}
	}
	return y, nil
}

func (t *tx) fillSlots(y *tray) error {
	return t.each(func(rows *sql.Rows) error {
		var b bay
		if err := rows.Scan(&b.slot, &b.failures, &b.loaded, &b.removed, &b.dispensed, &b.stockSeq); err != nil {
			return err
		}
		b.plan = y.bay(b.slot).plan
		*y.bay(b.slot) = b
		return nil
	}, `SELECT slot, failures, loaded, removed, dispensed, stock_seq FROM slot`)
}

func (t *tx) fillStock(y *tray) error {
	return t.each(func(rows *sql.Rows) error {
		var l line
		if err := rows.Scan(&l.Slot, &l.pos, &l.Product, &l.Batch, &l.Expiry, &l.pieces); err != nil {
			return err
		}
		b := y.bay(l.Slot)
		b.queue = append(b.queue, l)
		return nil
	}, `SELECT slot, pos, product, batch, expiry, pieces FROM stock ORDER BY slot, pos`)
}

func (t *tx) fillBlocks(y *tray) error {
	err := t.each(func(rows *sql.Rows) error {
		var e protocol.SlotBlocked
		if err := rows.Scan(&e.Slot, &e.Why, &e.Cause); err != nil {
			return err
		}
		b := y.bay(e.Slot)
		b.blocks = append(b.blocks, e)
		return nil
	}, `SELECT slot, why, cause FROM block`)
	for i := range y.bays {
		slices.SortFunc(y.bays[i].blocks, func(a, b protocol.SlotBlocked) int { return cmp.Compare(weight(a.Why), weight(b.Why)) })
	}
	return err
}

func (t *tx) fillHeld(y *tray) error {
	return t.each(func(rows *sql.Rows) error {
		var slot protocol.Slot
		if err := rows.Scan(&slot); err != nil {
			return err
		}
		y.bay(slot).held++
		return nil
	}, `SELECT slot FROM vend WHERE outcome < 2`)
}
