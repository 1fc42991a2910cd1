// Package dispense is the heart of the machine: it turns one order into at most
// one box and exactly one settled line in the ledger for every motor turned.
//
// It knows nothing of SQL, serial lines, screens or MQTT. What it needs from them
// it states below as Ledger and Motor.
package dispense

import (
	"context"
	"time"

	"yaoju/protocol"
)

// MaxSlots is how many slots one order may try. A third failure in a row is the
// machine's fault, not the slot's, and the resident has waited long enough.
const MaxSlots = 3

// Mark is the keyed pseudonym of a card, nothing else.
type Mark [16]byte

// Marks are one card's marks under the current and the previous key, so that a
// change of key resets nobody. Previous is zero where there was no key before.
type Marks struct{ Current, Previous Mark }

// Order is what a person asked for.
type Order struct {
	Marks   Marks
	Product protocol.ProductID
	Tried   []protocol.Slot // slots that already kept their piece in this order
}

// Vend is an order the ledger has accepted and set one piece aside for.
type Vend struct {
	ID   protocol.VendID
	Slot protocol.Slot
	Next time.Time // first day the same card may take again, if this piece counts

	// Orphan, of an open vend: it was given to another board than the one that
	// answers now, or to one that has lost its memory since. Only a person can tell.
	Orphan bool
}

// A DeniedError is a decision, not a failure: the screen shows it.
type DeniedError struct {
	Reason protocol.Denial
	Next   time.Time // for early: the first day the answer is yes
}

func (e *DeniedError) Error() string { return "denied: " + string(e.Reason) }

// Ledger remembers. Every method is durable when it returns nil.
type Ledger interface {
	// Reserve decides entitlement, picks a slot and sets one piece aside, in one
	// transaction. It returns a *DeniedError if the answer is no.
	Reserve(ctx context.Context, o Order) (Vend, error)
	// Settle records how id ended, with its event, in one transaction. Settling
	// the same outcome again does nothing; unknown may be followed by the truth;
	// any other change is an error.
	Settle(ctx context.Context, id protocol.VendID, r protocol.Result) error
	// Open lists vends that are reserved or unknown, oldest first.
	Open(ctx context.Context) ([]Vend, error)
}

// Motor moves.
type Motor interface {
	// Vend turns slot's motor once for id and returns when motion is over.
	// Called again with an id it has seen, it moves nothing and returns what is
	// remembered. An error means nobody can tell whether the motor turned.
	Vend(ctx context.Context, id protocol.VendID, slot protocol.Slot) (protocol.Result, error)
	// Result returns what is known about id without moving anything; while the
	// motor still turns for id it waits for the end, or for ctx.
	Result(ctx context.Context, id protocol.VendID) (protocol.Result, error)
}
