package ledger

import (
	"context"
	"database/sql"
	"time"

	"yaoju/protocol"
)

// Shelf is a product and what of it could be given now.
type Shelf struct {
	protocol.Product
	Pieces int
}

// Offer lists every product of the machine in the order of the desired state,
// with the pieces that could be given now; none before the first desired state.
func (l *Ledger) Offer(ctx context.Context) ([]Shelf, error) {
	var out []Shelf
	err := l.read(ctx, "offer", func(t *tx) error {
		d := t.desired()
		if d == nil {
			return nil
		}
		y, err := t.tray()
		if err != nil {
			return err
		}
		ready := map[protocol.ProductID]int{}
		for i := range y.bays {
			ready[y.bays[i].plan.Product] += y.gives(&y.bays[i])
		}
		for _, p := range d.Products {
			out = append(out, Shelf{Product: p, Pieces: ready[p.ID]})
		}
		return nil
	})
	return out, err
}

// Snapshot fills a state with everything the ledger knows. Board, climate,
// door and serving are the caller's.
func (l *Ledger) Snapshot(ctx context.Context) (protocol.State, error) {
	s := protocol.State{Machine: l.machine, Ledger: l.id, Software: l.soft, Faults: []protocol.FaultRaised{}}
	err := l.read(ctx, "snapshot", func(t *tx) error {
		s.Stamp = protocol.Stamp{AtMS: t.now.UnixMilli(), Clock: t.clock, Boot: l.boot, UpMS: time.Since(l.start).Milliseconds()}
		s.Acked = l.Acked()
		if d := t.desired(); d != nil {
			s.Desired = d.DesiredVersion
		}
		head, err := t.tip()
		if err != nil {
			return err
		}
		s.Head = head.Seq
		y, err := t.tray()
		if err != nil {
			return err
		}
		s.Slots = y.states()
		for _, sl := range s.Slots {
			s.Open += sl.Held
		}
		// The lowest numbers first: a state has room for so many and no more.
		return t.each(func(rows *sql.Rows) error {
			var f protocol.FaultRaised
			err := rows.Scan(&f.Fault, &f.Slot)
			s.Faults = append(s.Faults, f)
			return err
		}, `SELECT fault, slot FROM fault ORDER BY fault, slot LIMIT ?`, 2*protocol.Slots)
	})
	return s, err
}

// states lists the slots of the planogram, and those that ever held anything.
func (y *tray) states() []protocol.SlotState {
	out := []protocol.SlotState{}
	for i := range y.bays {
		b := &y.bays[i]
		if b.plan.Product == "" && b.loaded == 0 {
			continue
		}
		s := protocol.SlotState{
			Slot: b.slot, Product: b.plan.Product, Capacity: b.plan.Capacity, Par: b.plan.Par,
			Pieces: y.ready(b), Held: b.held, Loaded: b.loaded, Removed: b.removed, Dispensed: b.dispensed,
		}
		for _, l := range b.queue {
			if s.Expiry == "" || l.Expiry < s.Expiry {
				s.Expiry = l.Expiry
			}
		}
		if len(b.blocks) > 0 {
			s.Blocked = b.blocks[0].Why
		}
		out = append(out, s)
	}
	return out
}
