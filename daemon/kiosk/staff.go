package kiosk

import (
	"context"
	"slices"
	"time"

	"yaoju/protocol"
)

// Account is who signed in at the machine.
type Account struct {
	Staff string // account number
	Role  protocol.Role
}

// changes says whether the account may change anything, or only count and look.
func (a Account) changes() bool { return a.Role != protocol.RoleAuditor }

// Verdict is the answer to a PIN.
type Verdict struct {
	OK     bool
	Left   int           // wrong: tries before the account is locked
	Locked time.Duration // how long it takes no PIN at all; 0: it does
}

// Lobby knows who may come in.
type Lobby interface {
	// Who returns whose badge it is; ok is false for a badge that nobody here has.
	Who(ctx context.Context, b protocol.Badge) (a Account, ok bool, err error)
	// Still returns what an account may do now; ok is false once it was taken back.
	Still(ctx context.Context, staff string) (a Account, ok bool, err error)
	// Check judges a PIN. It may take a second: that is its point.
	Check(ctx context.Context, staff, pin string) (Verdict, error)
}

// Carton is what a scanned code says of the boxes in it.
type Carton struct {
	Code    string             // GTIN or other product code, as scanned
	Product protocol.ProductID // empty: nobody here knows the code yet
	Batch   string             // empty: the code does not say
	Expiry  protocol.DateOnly  // last day of use; empty: the code does not say
}

// Brought is what staff held against a reader: a badge, a carton, or a code that is
// neither.
type Brought struct {
	Badge  *protocol.Badge
	Carton *Carton
	Unread protocol.Text // why a code is no carton, and what to do
}

// Hands are the staff's card reader and barcode scanner.
type Hands interface {
	// Next waits for the next thing that is brought, and ends with ctx.
	Next(ctx context.Context) (Brought, error)
}

// Bay is one slot as staff see it.
type Bay struct {
	protocol.SlotPlan
	Lots    []Lot             // what stands in it, front first
	Held    int               // pieces set aside for vends whose end nobody knows
	Blocked []protocol.Block  // why it gives nothing; empty: it gives
	Unknown []protocol.VendID // vends of it whose end nobody knows
}

// Pieces is how many stand in the bay and are not held.
func (b Bay) Pieces() int {
	n := 0
	for _, l := range b.Lots {
		n += l.Pieces
	}
	return n
}

// Batches are what stands in the bay, one of each batch, in the order of the first of
// each: boxes of one batch can only be counted and taken out together.
func (b Bay) Batches() []Lot {
	var all []Lot
	for _, l := range b.Lots {
		same := func(o Lot) bool { return o.Product == l.Product && o.Batch == l.Batch && o.Expiry == l.Expiry }
		if i := slices.IndexFunc(all, same); i >= 0 {
			all[i].Pieces += l.Pieces
			continue
		}
		all = append(all, l)
	}
	return all
}

// Room is how many more it takes.
func (b Bay) Room() int { return max(0, b.Capacity-b.Pieces()-b.Held) }

// Lot is pieces of one batch in a bay.
type Lot struct {
	Product protocol.ProductID
	Batch   string
	Expiry  protocol.DateOnly
	Pieces  int
	Usable  bool // may be given out today
}

// stock names a lot in its slot.
func (l Lot) stock(s protocol.Slot) protocol.Stock {
	return protocol.Stock{Slot: s, Product: l.Product, Batch: l.Batch, Expiry: l.Expiry}
}

// RefusedError is a decision of the stockroom: nothing was written.
type RefusedError struct {
	Reason string // slot, product, capacity, expired, recalled, absent, open or stale
	Have   int    // capacity: pieces that would still fit; absent: pieces on record
}

func (e *RefusedError) Error() string { return "refused: " + e.Reason }

// Stockroom is the ledger as staff write it. Its answers may be *RefusedError.
type Stockroom interface {
	// Bays lists the slots of the planogram, lowest first, and the seq of the newest event.
	Bays(ctx context.Context) (bays []Bay, head uint64, err error)
	Load(ctx context.Context, s protocol.Stock, pieces int, staff string) error
	Remove(ctx context.Context, s protocol.Stock, pieces int, reason protocol.Removal, staff string) error
	Count(ctx context.Context, s protocol.Stock, counted int, asOf uint64, reason, staff string) error
	Tested(ctx context.Context, slot protocol.Slot, pieces int, staff string) error
	Block(ctx context.Context, slot protocol.Slot, why protocol.Block, cause protocol.Fault, staff string) error
	Clear(ctx context.Context, slot protocol.Slot, why protocol.Block, staff string) error
	Resolve(ctx context.Context, id protocol.VendID, out protocol.Outcome, by, staff string) error
}

// Bench moves one motor for staff, while a finger holds a button.
type Bench interface {
	// TestTurn makes one turn and Home brings the slot home, while ctx lives.
	TestTurn(ctx context.Context, slot protocol.Slot) error
	Home(ctx context.Context, slot protocol.Slot) error
	// Settled waits until the last motion is over, its drops seen and counted, or for ctx.
	Settled(ctx context.Context)
	// Drops is how many pieces the drop sensor has seen in its life; ok is false where
	// there is no such count.
	Drops() (n int, ok bool)
}

// Service is what is behind the service door. Without a Lobby the machine has no
// staff menu.
type Service struct {
	Lobby Lobby
	Hands Hands
	Stock Stockroom
	Bench Bench
}

// The staff's screens.
const (
	StaffDoor Screen = "staffdoor" // the service door is open: who may come in holds a badge
	StaffPIN  Screen = "staffpin"
	StaffWork Screen = "staffwork" // the grid of slots, and a panel beside it
	StaffDone Screen = "staffdone" // what was recorded, and what is left to do
)

// The taps of the staff's screens. Some carry a number or a word.
const (
	TapDigit   Tap = "digit"   // argument: 0 to 9
	TapErase   Tap = "erase"   // the last digit
	TapSlot    Tap = "slot"    // argument: its number
	TapLess    Tap = "less"    // one piece less
	TapPlus    Tap = "plus"    // one piece more
	TapFill    Tap = "fill"    // up to the capacity
	TapFillAll Tap = "fillall" // every slot whose product was scanned
	TapSave    Tap = "save"
	TapCancel  Tap = "cancel"
	TapPanel   Tap = "panel"  // argument: load, take, count, expiry or batch
	TapLot     Tap = "lot"    // argument: its place among the batches, from 0
	TapYear    Tap = "year"   // argument: + or -
	TapMonth   Tap = "month"  // likewise
	TapKey     Tap = "key"    // argument: one character of a batch number
	TapReason  Tap = "reason" // argument: why pieces leave, or why a count differs
	TapOff     Tap = "off"    // the slot gives nothing until TapOn
	TapOn      Tap = "on"     // every block that staff may lift is lifted
	TapGave    Tap = "gave"   // the unknown vend did give its box
	TapKept    Tap = "kept"   // it did not
	TapHold    Tap = "hold"   // argument: test or home; the finger came
	TapStill   Tap = "still"  // again and again while it stays; it never begins anything
	TapLet     Tap = "let"    // it left
	TapFinish  Tap = "finish"
	TapExit    Tap = "exit"
)

// Panel is what stands beside the grid.
type Panel string

const (
	PanelNeed    Panel = "need"    // what is to be brought
	PanelLoad    Panel = "load"    // pieces put in
	PanelTake    Panel = "take"    // pieces taken out
	PanelCount   Panel = "count"   // pieces counted, without being told how many there should be
	PanelDiffers Panel = "differs" // the count differs: why
	PanelExpiry  Panel = "expiry"
	PanelBatch   Panel = "batch"
	PanelUnknown Panel = "unknown" // a vend whose end somebody has to look at
	PanelSure    Panel = "sure"    // fill all?
)

// Note is one line that says what just came of a tap or a scan.
type Note struct {
	Key  string        // of the catalogue; empty: Text
	Text protocol.Text // in words of its own; empty: nothing to say
	N    int
	Name string // a word of the world outside, such as a batch number
	Bad  bool   // it did not work
}

// Draft is what is being entered for one slot.
type Draft struct {
	N      int // pieces: in the slot afterwards, to take out, or counted
	Batch  string
	Expiry protocol.DateOnly
	Lot    int  // which lot is taken out or counted
	Typed  bool // the number was entered
}

// Need is what one product lacks in the whole machine.
type Need struct {
	Product protocol.ProductID
	Slots   int
	Pieces  int
}

// Mark is what stands on a slot of the grid, the weightiest first.
type Mark string

const (
	MarkUnknown Mark = "unknown" // the end of a vend is not known
	MarkOff     Mark = "off"     // set by staff or district
	MarkJam     Mark = "jam"     // gave nothing twice, or its motor is at fault
	MarkBad     Mark = "bad"     // expired, recalled or of another product
	MarkDone    Mark = "done"    // saved in this session
	MarkEmpty   Mark = "empty"
	MarkNear    Mark = "near" // expires soon
	MarkLow     Mark = "low"
	MarkOK      Mark = "ok"
)

// Cell is a slot in the grid of the staff.
type Cell struct {
	Bay
	Mark Mark
}

// StaffView is what the staff's screens show beside the public part of a view.
type StaffView struct {
	Account Account
	Door    bool // the service door is known to be open
	Typed   int  // digits of the PIN
	Note    Note
	Leaves  time.Duration // until the session ends by itself, in steps of 10 s; under a minute in seconds

	Products []Choice
	Cells    []Cell
	Need     []Need
	Ready    []Carton // scanned in this session, one for each product
	Panel    Panel
	Slot     protocol.Slot // the one picked; 0: none
	Draft    Draft
	Expected int    // differs: what the record says
	Held     string // test or home, while a finger holds it
	Loaded   int    // pieces put in during this session
	Slots    int    // slots they were put into
	Took     time.Duration
}

// Earlier says that the batch being entered expires before one that stands in front
// of it: it would leave too late.
func (v *StaffView) Earlier() bool {
	return v.puts() && v.Draft.Expiry != "" && slices.ContainsFunc(v.Cell().Lots, func(l Lot) bool { return l.Expiry > v.Draft.Expiry })
}

// Other says that another batch stands in the slot already.
func (v *StaffView) Other() bool {
	return v.puts() && v.Draft.Batch != "" && slices.ContainsFunc(v.Cell().Lots, func(l Lot) bool { return l.Batch != v.Draft.Batch })
}

// puts says that saving would put pieces in.
func (v *StaffView) puts() bool { return v.Draft.N > v.Cell().Pieces() }

// Fills is how many pieces a tap on "fill all" would record.
func (v *StaffView) Fills() int {
	n := 0
	for _, c := range v.Cells {
		if _, ok := v.ready(c); ok {
			n += c.Room()
		}
	}
	return n
}

// ready returns the batch that "fill all" puts into a slot.
func (v *StaffView) ready(c Cell) (Carton, bool) {
	if c.Room() == 0 || c.Mark == MarkOff || c.Mark == MarkJam || c.Mark == MarkUnknown || c.Mark == MarkBad {
		return Carton{}, false
	}
	i := slices.IndexFunc(v.Ready, func(r Carton) bool { return r.Product == c.Product && r.Batch != "" && r.Expiry != "" })
	if i < 0 {
		return Carton{}, false
	}
	return v.Ready[i], true
}

// Cell returns the picked slot.
func (v *StaffView) Cell() Cell {
	for _, c := range v.Cells {
		if c.Slot == v.Slot {
			return c
		}
	}
	return Cell{}
}
