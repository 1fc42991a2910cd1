package ledger

import (
	"context"
	"fmt"

	"yaoju/protocol"
)

// Block makes a slot give nothing until that block is cleared. A slot may have
// several blocks, one of each kind; setting one that stands does nothing. The
// block of an unknown vend is the ledger's own and cannot be set by hand.
func (l *Ledger) Block(ctx context.Context, slot protocol.Slot, why protocol.Block, cause protocol.Fault, staff string) error {
	if err := byHand(slot, why); err != nil {
		return fmt.Errorf("ledger: block: %w", err)
	}
	return l.tx(ctx, fmt.Sprintf("block slot %d as %s", slot, why), func(t *tx) error {
		return t.block(protocol.SlotBlocked{Slot: slot, Why: why, Cause: cause, Staff: staff})
	})
}

// Clear ends one block of a slot; a block that does not stand is nothing to do.
// The block of an unknown vend ends only by resolving the vend.
func (l *Ledger) Clear(ctx context.Context, slot protocol.Slot, why protocol.Block, staff string) error {
	if err := byHand(slot, why); err != nil {
		return fmt.Errorf("ledger: clear: %w", err)
	}
	return l.tx(ctx, fmt.Sprintf("clear slot %d of %s", slot, why), func(t *tx) error {
		return t.clear(slot, why, staff)
	})
}

func byHand(slot protocol.Slot, why protocol.Block) error {
	if err := slot.Valid(); err != nil {
		return err
	}
	switch why {
	case protocol.BlockSuspect, protocol.BlockFault, protocol.BlockStaff, protocol.BlockDistrict:
		return nil
	}
	return fmt.Errorf("slot %d: block %q: want suspect, fault, staff or district", slot, why)
}

func (t *tx) block(e protocol.SlotBlocked) error {
	n, err := t.exec(`INSERT INTO block (slot, why, cause) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, e.Slot, e.Why, e.Cause)
	if err != nil || n == 0 {
		return err
	}
	return t.append(e)
}

func (t *tx) clear(slot protocol.Slot, why protocol.Block, staff string) error {
	n, err := t.exec(`DELETE FROM block WHERE slot = ? AND why = ?`, slot, why)
	if err != nil || n == 0 {
		return err
	}
	if why == protocol.BlockSuspect || why == protocol.BlockFault {
		if _, err := t.exec(`UPDATE slot SET failures = 0 WHERE slot = ?`, slot); err != nil {
			return err
		}
	}
	return t.append(protocol.SlotCleared{Slot: slot, Why: why, Staff: staff})
}

// Raise notes that a fault stands; slot is 0 for the whole machine. Only a change
// is written, and it survives a restart.
func (l *Ledger) Raise(ctx context.Context, fault protocol.Fault, slot protocol.Slot) error {
	return l.tx(ctx, "raise "+fault.Code(), func(t *tx) error { return t.raise(fault, slot) })
}

// ClearFault notes that a fault no longer stands. Only a change is written.
func (l *Ledger) ClearFault(ctx context.Context, fault protocol.Fault, slot protocol.Slot) error {
	return l.tx(ctx, "clear "+fault.Code(), func(t *tx) error { return t.clearFault(fault, slot) })
}

func (t *tx) raise(fault protocol.Fault, slot protocol.Slot) error {
	n, err := t.exec(`INSERT INTO fault (fault, slot) VALUES (?, ?) ON CONFLICT DO NOTHING`, fault, slot)
	if err != nil || n == 0 {
		return err
	}
	return t.append(protocol.FaultRaised{Fault: fault, Slot: slot})
}

func (t *tx) clearFault(fault protocol.Fault, slot protocol.Slot) error {
	n, err := t.exec(`DELETE FROM fault WHERE fault = ? AND slot = ?`, fault, slot)
	if err != nil || n == 0 {
		return err
	}
	return t.append(protocol.FaultCleared{Fault: fault, Slot: slot})
}
