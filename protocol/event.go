package protocol

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"
)

// Kind names what a record is about. A retired name is never reused.
type Kind string

const (
	KindBoot           Kind = "boot"
	KindLedgerStarted  Kind = "ledger.started"
	KindVendDispensed  Kind = "vend.dispensed"
	KindVendKept       Kind = "vend.kept"
	KindVendUnknown    Kind = "vend.unknown"
	KindVendResolved   Kind = "vend.resolved"
	KindOrderDenied    Kind = "order.denied"
	KindStockLoaded    Kind = "stock.loaded"
	KindStockCounted   Kind = "stock.counted"
	KindStockRemoved   Kind = "stock.removed"
	KindStockTested    Kind = "stock.tested"
	KindSlotBlocked    Kind = "slot.blocked"
	KindSlotCleared    Kind = "slot.cleared"
	KindStaffIn        Kind = "staff.in"
	KindStaffOut       Kind = "staff.out"
	KindStaffLocked    Kind = "staff.locked"
	KindDoorOpened     Kind = "door.opened"
	KindDoorClosed     Kind = "door.closed"
	KindFaultRaised    Kind = "fault.raised"
	KindFaultCleared   Kind = "fault.cleared"
	KindClimateHour    Kind = "climate.hour"
	KindItemLeft       Kind = "item.uncollected"
	KindCardLeft       Kind = "card.left"
	KindDesiredApplied Kind = "desired.applied"
	KindCommandDone    Kind = "command.done"
	KindClockSet       Kind = "clock.set"
)

// Event is the content of one record. No event carries a resident: no mark, no
// age, no card kind, and no field from which one visit can be tied to another.
type Event interface {
	Kind() Kind
	Valid() error // what is wrong with it, or nil
}

// DateOnly is a calendar day, "2027-06-30".
type DateOnly string

// Valid reports what is wrong with the date, or nil.
func (d DateOnly) Valid() error {
	if _, err := time.Parse(time.DateOnly, string(d)); err != nil {
		return fmt.Errorf("date %q: want year-month-day such as 2027-06-30", clip(string(d)))
	}
	return nil
}

// Stock is a number of pieces of one batch in one slot.
type Stock struct {
	Slot    Slot      `json:"slot"`
	Product ProductID `json:"product"`
	Batch   string    `json:"batch"`  // as printed on the carton, 1 to 20 characters
	Expiry  DateOnly  `json:"expiry"` // last day of use
}

// Valid reports what is wrong with it, or nil.
func (s Stock) Valid() error {
	if err := s.Slot.Valid(); err != nil {
		return err
	}
	if err := s.Product.Valid(); err != nil {
		return err
	}
	if s.Batch == "" || len(s.Batch) > MaxBatch {
		return fmt.Errorf("batch %q: 1 to %d characters are allowed", clip(s.Batch), MaxBatch)
	}
	return s.Expiry.Valid()
}

// MaxPieces is more than any slot holds; larger numbers on the wire are refused.
const MaxPieces = 999

func validPieces(what string, n int) error {
	if n < 0 || n > MaxPieces {
		return fmt.Errorf("%s %d: 0 to %d are allowed", what, n, MaxPieces)
	}
	return nil
}

// Boot is written at every start of the daemon.
type Boot struct {
	Software string `json:"software"`        // version of the daemon
	Board    string `json:"board,omitempty"` // serial number of the motor board, hexadecimal
}

// LedgerStarted is the first record of every ledger.
type LedgerStarted struct {
	Reason   string   `json:"reason"`             // "new", or why the one before was moved aside
	Previous LedgerID `json:"previous,omitempty"` // the ledger before, where it is known
}

// Vend is the end of one attempt to turn one motor, or, as vend.unknown, the news
// that its end is not known.
type Vend struct {
	Vend VendID `json:"vend"`
	Stock
	Pieces int   `json:"pieces"`            // pieces the drop sensor saw: more than 1 is a double drop
	Cause  Fault `json:"cause,omitempty"`   // why it is not a plain success
	RunMS  int   `json:"run_ms"`            // how long the motor ran, milliseconds
	DropMS int   `json:"drop_ms,omitempty"` // from motor start to the first drop, milliseconds
}

// Valid reports what is wrong with it, or nil.
func (v Vend) Valid() error {
	if v.Vend == 0 {
		return fmt.Errorf("vend is missing or 0")
	}
	if err := validPieces("pieces", v.Pieces); err != nil {
		return err
	}
	return v.Stock.Valid()
}

type (
	// VendDispensed means: the drop sensor saw it fall.
	VendDispensed struct{ Vend }
	// VendKept means: nothing left the slot; piece and entitlement are back.
	VendKept struct{ Vend }
	// VendUnknown means: nobody can tell; piece and entitlement stay set aside and the slot is blocked.
	VendUnknown struct{ Vend }
)

// VendResolved closes a vend that was unknown.
type VendResolved struct {
	Vend
	Outcome Outcome `json:"outcome"`         // 2 dispensed or 3 kept
	By      string  `json:"by"`              // board, staff or district
	Staff   string  `json:"staff,omitempty"` // account number, where a person decided
}

// Valid reports what is wrong with it, or nil.
func (v VendResolved) Valid() error {
	if v.Outcome != Dispensed && v.Outcome != Kept {
		return fmt.Errorf("outcome %d: want 2 (dispensed) or 3 (kept)", v.Outcome)
	}
	return v.Vend.Valid()
}

// OrderDenied says that somebody was turned away, and why; nothing about whom.
type OrderDenied struct {
	Reason Denial `json:"reason"`
}

// Denial is why an order was turned away.
type Denial string

const (
	DenialEarly   Denial = "early"   // the next date is not reached
	DenialAge     Denial = "age"     // outside the age window
	DenialExpired Denial = "expired" // the card is past its last day
	DenialEmpty   Denial = "empty"   // no slot can give this product
	DenialCard    Denial = "card"    // the card could not be read
	DenialClosed  Denial = "closed"  // door open, paused, clock not set or machine at fault
)

// StockLoaded means: staff put pieces in.
type StockLoaded struct {
	Stock
	Pieces int    `json:"pieces"`
	Before int    `json:"before"` // pieces in the slot before
	After  int    `json:"after"`
	Staff  string `json:"staff"` // account number
}

// StockCounted means: staff counted one batch in one slot.
type StockCounted struct {
	Stock
	Expected int    `json:"expected"`
	Counted  int    `json:"counted"`
	AsOf     uint64 `json:"as_of"` // seq the count was made at
	Reason   string `json:"reason,omitempty"`
	Staff    string `json:"staff"`
}

// StockRemoved means: staff took pieces out.
type StockRemoved struct {
	Stock
	Pieces int     `json:"pieces"`
	Reason Removal `json:"reason"`
	Before int     `json:"before"`
	After  int     `json:"after"`
	Staff  string  `json:"staff"`
}

// Removal is why pieces were taken out.
type Removal string

const (
	RemovedExpired  Removal = "expired"
	RemovedRecalled Removal = "recalled"
	RemovedDamaged  Removal = "damaged"
	RemovedSample   Removal = "sample"
	RemovedReturned Removal = "returned"
)

// StockTested means: a test turn dropped pieces; they never count as given out.
type StockTested struct {
	Stock
	Pieces int    `json:"pieces"`
	Staff  string `json:"staff"`
}

// Block is why a slot gives nothing.
type Block string

const (
	BlockUnknown  Block = "unknown"  // a vend of this slot is open
	BlockSuspect  Block = "suspect"  // two failed drops in a row
	BlockFault    Block = "fault"    // its motor, or it stands in mid-turn
	BlockStaff    Block = "staff"    // switched off at the machine
	BlockDistrict Block = "district" // switched off from afar
)

// SlotBlocked means: the slot gives nothing until it is cleared.
type SlotBlocked struct {
	Slot  Slot   `json:"slot"`
	Why   Block  `json:"why"`
	Cause Fault  `json:"cause,omitempty"`
	Staff string `json:"staff,omitempty"`
}

// SlotCleared means: the slot gives again.
type SlotCleared struct {
	Slot  Slot   `json:"slot"`
	Why   Block  `json:"why"` // the block that ended
	Staff string `json:"staff,omitempty"`
}

type (
	// StaffIn means: somebody signed in at the machine.
	StaffIn struct {
		Staff string `json:"staff"`
	}
	// StaffOut means: the session ended.
	StaffOut struct {
		Staff string `json:"staff"`
	}
	// StaffLocked means: wrong PINs locked an account for a while.
	StaffLocked struct {
		Staff   string `json:"staff"`
		Minutes int    `json:"minutes"` // for how long
	}
	// DoorOpened means: the service door was opened.
	DoorOpened struct{}
	// DoorClosed means: the service door was closed.
	DoorClosed struct{}
	// ItemUncollected means: a piece fell and was not taken from the hatch in time.
	ItemUncollected struct{}
	// CardLeft means: a card stayed on the reader.
	CardLeft struct{}
)

// FaultRaised means: something went wrong.
type FaultRaised struct {
	Fault Fault `json:"fault"`
	Slot  Slot  `json:"slot,omitempty"`
}

// FaultCleared means: it is right again.
type FaultCleared struct {
	Fault Fault `json:"fault"`
	Slot  Slot  `json:"slot,omitempty"`
}

// ClimateHour is one hour inside the cabinet.
type ClimateHour struct {
	MinC    float64 `json:"min_c"` // degrees Celsius
	MaxC    float64 `json:"max_c"`
	MeanRH  float64 `json:"mean_rh"` // percent
	Samples int     `json:"samples"`
}

// DesiredApplied means: the machine now runs on this version of the desired state.
type DesiredApplied struct {
	Generation uint64 `json:"generation"`
	Version    uint64 `json:"version"`
}

// CommandDone answers a command, whatever came of it.
type CommandDone struct {
	ID     string        `json:"id"`
	Verb   Verb          `json:"verb"`
	Result CommandResult `json:"result"`
	Detail string        `json:"detail,omitempty"` // for officers, at most 200 bytes
}

// CommandResult is what came of a command.
type CommandResult string

const (
	CommandOK          CommandResult = "ok"
	CommandFailed      CommandResult = "failed"
	CommandExpired     CommandResult = "expired"
	CommandUnsupported CommandResult = "unsupported"
)

// LaterHeard is the detail of a command that failed only because one with a higher
// counter came first. The district knows it by these words, and may give the same
// anew: machines of every version say them, so they must not change.
const LaterHeard = "a later command was already heard"

// ClockSet means: the wall clock jumped, or was set by hand.
type ClockSet struct {
	FromMS int64  `json:"from_ms"` // what it showed before, Unix milliseconds
	By     string `json:"by"`      // network or staff
}

// Kind methods: the type is the kind.
func (Boot) Kind() Kind            { return KindBoot }
func (LedgerStarted) Kind() Kind   { return KindLedgerStarted }
func (VendDispensed) Kind() Kind   { return KindVendDispensed }
func (VendKept) Kind() Kind        { return KindVendKept }
func (VendUnknown) Kind() Kind     { return KindVendUnknown }
func (VendResolved) Kind() Kind    { return KindVendResolved }
func (OrderDenied) Kind() Kind     { return KindOrderDenied }
func (StockLoaded) Kind() Kind     { return KindStockLoaded }
func (StockCounted) Kind() Kind    { return KindStockCounted }
func (StockRemoved) Kind() Kind    { return KindStockRemoved }
func (StockTested) Kind() Kind     { return KindStockTested }
func (SlotBlocked) Kind() Kind     { return KindSlotBlocked }
func (SlotCleared) Kind() Kind     { return KindSlotCleared }
func (StaffIn) Kind() Kind         { return KindStaffIn }
func (StaffOut) Kind() Kind        { return KindStaffOut }
func (StaffLocked) Kind() Kind     { return KindStaffLocked }
func (DoorOpened) Kind() Kind      { return KindDoorOpened }
func (DoorClosed) Kind() Kind      { return KindDoorClosed }
func (ItemUncollected) Kind() Kind { return KindItemLeft }
func (CardLeft) Kind() Kind        { return KindCardLeft }
func (FaultRaised) Kind() Kind     { return KindFaultRaised }
func (FaultCleared) Kind() Kind    { return KindFaultCleared }
func (ClimateHour) Kind() Kind     { return KindClimateHour }
func (DesiredApplied) Kind() Kind  { return KindDesiredApplied }
func (CommandDone) Kind() Kind     { return KindCommandDone }
func (ClockSet) Kind() Kind        { return KindClockSet }

// Valid reports what is wrong with it, or nil.
func (b Boot) Valid() error { return validText("software", b.Software) }

// Valid reports what is wrong with it, or nil.
func (l LedgerStarted) Valid() error {
	if l.Previous != "" {
		if err := l.Previous.Valid(); err != nil {
			return err
		}
	}
	return validText("reason", l.Reason)
}

// Valid reports what is wrong with it, or nil.
func (o OrderDenied) Valid() error { return validText("reason", string(o.Reason)) }

// Valid reports what is wrong with it, or nil.
func (s StockLoaded) Valid() error {
	return firstError(s.Stock.Valid(), validPieces("pieces", s.Pieces), validPieces("before", s.Before), validPieces("after", s.After), validText("staff", s.Staff))
}

// Valid reports what is wrong with it, or nil.
func (s StockCounted) Valid() error {
	return firstError(s.Stock.Valid(), validPieces("expected", s.Expected), validPieces("counted", s.Counted), validText("staff", s.Staff))
}

// Valid reports what is wrong with it, or nil.
func (s StockRemoved) Valid() error {
	return firstError(s.Stock.Valid(), validPieces("pieces", s.Pieces), validPieces("before", s.Before), validPieces("after", s.After), validText("reason", string(s.Reason)), validText("staff", s.Staff))
}

// Valid reports what is wrong with it, or nil.
func (s StockTested) Valid() error {
	return firstError(s.Stock.Valid(), validPieces("pieces", s.Pieces), validText("staff", s.Staff))
}

// Valid reports what is wrong with it, or nil.
func (s SlotBlocked) Valid() error {
	return firstError(s.Slot.Valid(), validText("why", string(s.Why)))
}

// Valid reports what is wrong with it, or nil.
func (s SlotCleared) Valid() error {
	return firstError(s.Slot.Valid(), validText("why", string(s.Why)))
}

// Valid reports what is wrong with it, or nil.
func (s StaffIn) Valid() error { return validText("staff", s.Staff) }

// Valid reports what is wrong with it, or nil.
func (s StaffOut) Valid() error { return validText("staff", s.Staff) }

// Valid reports what is wrong with it, or nil.
func (s StaffLocked) Valid() error {
	if s.Minutes < 1 || s.Minutes > 24*60 {
		return fmt.Errorf("minutes %d: 1 to %d are allowed", s.Minutes, 24*60)
	}
	return validText("staff", s.Staff)
}

// Valid is always nil: there is nothing to be wrong.
func (DoorOpened) Valid() error { return nil }

// Valid is always nil: there is nothing to be wrong.
func (DoorClosed) Valid() error { return nil }

// Valid is always nil: there is nothing to be wrong.
func (ItemUncollected) Valid() error { return nil }

// Valid is always nil: there is nothing to be wrong.
func (CardLeft) Valid() error { return nil }

// Valid reports what is wrong with it, or nil.
func (f FaultRaised) Valid() error { return validFault(f.Fault, f.Slot) }

// Valid reports what is wrong with it, or nil.
func (f FaultCleared) Valid() error { return validFault(f.Fault, f.Slot) }

// Valid reports what is wrong with it, or nil.
func (c ClimateHour) Valid() error {
	if c.MinC < -60 || c.MaxC > 125 || c.MinC > c.MaxC || c.MeanRH < 0 || c.MeanRH > 100 {
		return fmt.Errorf("climate %v to %v °C, %v %%: not plausible", c.MinC, c.MaxC, c.MeanRH)
	}
	return nil
}

// Valid reports what is wrong with it, or nil.
func (d DesiredApplied) Valid() error {
	if d.Generation == 0 || d.Version == 0 {
		return fmt.Errorf("generation and version begin at 1")
	}
	return nil
}

// Valid reports what is wrong with it, or nil.
func (c CommandDone) Valid() error {
	return firstError(validText("id", c.ID), validText("verb", string(c.Verb)), validText("result", string(c.Result)))
}

// Valid reports what is wrong with it, or nil.
func (c ClockSet) Valid() error { return validText("by", c.By) }

func validFault(f Fault, s Slot) error {
	if f == 0 {
		return fmt.Errorf("fault is missing or 0")
	}
	if s != 0 {
		return s.Valid()
	}
	return nil
}

// maxText bounds every free text in an event: a sentence, not a story.
const maxText = 200

func validText(what, s string) error {
	if s == "" || len(s) > maxText {
		return fmt.Errorf("%s %q: 1 to %d characters are allowed", what, clip(s), maxText)
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// events lists one empty event of every kind this version knows.
var events = []Event{
	Boot{},
	LedgerStarted{},
	VendDispensed{},
	VendKept{},
	VendUnknown{},
	VendResolved{},
	OrderDenied{},
	StockLoaded{},
	StockCounted{},
	StockRemoved{},
	StockTested{},
	SlotBlocked{},
	SlotCleared{},
	StaffIn{},
	StaffOut{},
	StaffLocked{},
	DoorOpened{},
	DoorClosed{},
	ItemUncollected{},
	CardLeft{},
	FaultRaised{},
	FaultCleared{},
	ClimateHour{},
	DesiredApplied{},
	CommandDone{},
	ClockSet{},
}

// Events returns one empty event of every kind this version knows.
func Events() []Event { return append([]Event(nil), events...) }

// DecodeEvent decodes the data of a record whose kind this version knows. For a
// kind it does not know it returns nil and no error: a newer machine wrote it.
func DecodeEvent(r Record) (Event, error) {
	for _, e := range events {
		if e.Kind() == r.Kind {
			return decodeAs(r, reflect.New(reflect.TypeOf(e)))
		}
	}
	return nil, nil
}

func decodeAs(r Record, into reflect.Value) (Event, error) {
	if err := json.Unmarshal(r.Data, into.Interface()); err != nil {
		return nil, fmt.Errorf("record %d, %s: %w", r.Seq, r.Kind, err)
	}
	e := into.Elem().Interface().(Event)
	if err := e.Valid(); err != nil {
		return nil, fmt.Errorf("record %d, %s: %w", r.Seq, r.Kind, err)
	}
	return e, nil
}
