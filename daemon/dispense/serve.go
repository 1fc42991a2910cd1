package dispense

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"yaoju/protocol"
)

// Dispenser serves one order at a time.
type Dispenser struct {
	ledger Ledger
	motor  Motor
	limit  time.Duration // of one slot's attempt
	log    *slog.Logger
	turn   chan struct{} // holds one token: who has it serves or recovers
}

// New returns a dispenser for one machine. limit bounds one slot's attempt: what is
// not answered by then is unknown. It belongs to the motors: an elevator takes
// minutes for what a spiral does in seconds.
func New(l Ledger, m Motor, limit time.Duration, log *slog.Logger) *Dispenser {
	return &Dispenser{ledger: l, motor: m, limit: limit, log: log, turn: make(chan struct{}, 1)}
}

// Serve gives one box for o. A slot that keeps its box is followed by another that
// holds the same product, at most MaxSlots in all, and none once ctx has ended: then
// the program is to stop. The Vend and Result are those of the last slot tried. An error with a Result in it means the outcome could not
// be recorded yet; Recover will.
func (d *Dispenser) Serve(ctx context.Context, o Order) (Vend, protocol.Result, error) {
	if err := d.begin(ctx); err != nil {
		return Vend{}, protocol.Result{Outcome: protocol.Kept}, err
	}
	defer d.end()

	var v Vend
	r := protocol.Result{Outcome: protocol.Kept}
	o.Tried = slices.Clone(o.Tried)
	asked := ctx
	for len(o.Tried) < MaxSlots {
		next, err := d.reserve(ctx, o)
		if denied := (*DeniedError)(nil); errors.As(err, &denied) && len(o.Tried) > 0 {
			return v, r, nil // no other slot has it: the order ends as the last slot did
		}
		if err != nil {
			return v, r, err
		}
		v = next

		// The reservation is on disk. A crash from here on is healed by Recover,
		// and a session that ends must no longer stop us.
		ctx = context.WithoutCancel(ctx)
		r = d.move(ctx, v)
		if err := d.settle(ctx, v.ID, r); err != nil {
			return v, r, err
		}
		if r.Outcome != protocol.Kept || !elsewhere(r.Cause) || asked.Err() != nil {
			return v, r, nil
		}
		o.Tried = append(o.Tried, v.Slot)
	}
	return v, r, nil
}

// elsewhere reports whether another slot may do better: the fault is the slot's
// own, and the machine as a whole is sound.
func elsewhere(f protocol.Fault) bool {
	switch f {
	case protocol.FaultRunaway, protocol.FaultDoorOpened, protocol.FaultDoor, protocol.FaultDropSensor, protocol.FaultJournal,
		protocol.FaultBoardSilent, protocol.FaultBoardKnows, protocol.FaultBoardReset,
		protocol.FaultElevator, protocol.FaultHatch, protocol.FaultNotTaken, protocol.FaultMicrowave:
		return false
	}
	return true
}

// move runs the motor once and never guesses: whatever is not answered is unknown.
func (d *Dispenser) move(ctx context.Context, v Vend) protocol.Result {
	ctx, cancel := context.WithTimeout(ctx, d.limit)
	defer cancel()
	r, err := d.motor.Vend(ctx, v.ID, v.Slot)
	if err != nil {
		// The command or its answer was lost; the motor may have turned.
		d.log.Warn("vend unanswered", "vend", v.ID, "slot", v.Slot, "err", err)
		return protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultBoardSilent}
	}
	return r
}

// Recover asks the board about every open vend and settles those it can answer
// for. Run it before the first resident, whenever the board comes back, and on a
// timer while anything is open. It reports how many are still open.
func (d *Dispenser) Recover(ctx context.Context) (open int, err error) {
	if err := d.begin(ctx); err != nil {
		return 0, err
	}
	defer d.end()
	vends, err := d.ledger.Open(ctx)
	if err != nil {
		return 0, fmt.Errorf("list open vends: %w", err)
	}
	for i, v := range vends {
		r := protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultUnknownVend}
		if !v.Orphan {
			if r, err = d.ask(ctx, v); err != nil {
				return open + len(vends) - i, err
			}
		}
		if err := d.settle(ctx, v.ID, r); err != nil {
			return open + len(vends) - i, err
		}
		if r.Outcome == protocol.Unknown {
			open++
		}
	}
	return open, nil
}

func (d *Dispenser) ask(ctx context.Context, v Vend) (protocol.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, d.limit) // it may still be turning from before we started
	defer cancel()
	r, err := d.motor.Result(ctx, v.ID)
	if err != nil {
		return r, fmt.Errorf("ask about vend %d: %w", v.ID, err)
	}
	return r, nil
}

// settleLimit bounds a ledger transaction whose session may be gone: a slow card
// takes a second, a dead one never answers.
const settleLimit = 20 * time.Second

func (d *Dispenser) reserve(ctx context.Context, o Order) (Vend, error) {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	return d.ledger.Reserve(ctx, o)
}

func (d *Dispenser) settle(ctx context.Context, id protocol.VendID, r protocol.Result) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	if err := d.ledger.Settle(ctx, id, r); err != nil {
		return fmt.Errorf("settle vend %d as %v: %w", id, r.Outcome, err)
	}
	d.log.Info("vend settled", "vend", id, "outcome", r.Outcome.String(), "cause", uint16(r.Cause))
	return nil
}

func (d *Dispenser) begin(ctx context.Context) error {
	select {
	case d.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *Dispenser) end() { <-d.turn }
