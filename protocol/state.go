package protocol

import (
	"errors"
	"fmt"
)

// Serving is what the machine does for residents right now.
type Serving string

const (
	ServingOpen   Serving = "open"   // somebody could take a box
	ServingEmpty  Serving = "empty"  // nothing left to give
	ServingClosed Serving = "closed" // door open, paused, clock not set or at fault; Faults says which
)

// State is the machine's snapshot of itself: retained, sent on change but at most
// every 10 s, and every 5 min.
type State struct {
	Machine  MachineID      `json:"machine"`
	Ledger   LedgerID       `json:"ledger"`
	Stamp                   // when the snapshot was taken
	Software string         `json:"software"`
	Board    BoardState     `json:"board"`
	Serving  Serving        `json:"serving"`
	Head     uint64         `json:"head"`       // newest seq of the event chain
	Acked    Ack            `json:"acked"`      // what the district last acknowledged
	Open     int            `json:"open_vends"` // vends whose end nobody knows
	DoorOpen bool           `json:"door_open"`
	Climate  *Climate       `json:"climate,omitempty"` // nil: no reading
	Slots    []SlotState    `json:"slots"`             // lowest slot first
	Faults   []FaultRaised  `json:"faults"`            // standing now
	Desired  DesiredVersion `json:"desired"`           // the desired state that is in force; zero: none yet
	Update   *UpdateState   `json:"update,omitempty"`  // nil: the machine takes no updates
}

// BoardState identifies the motor board.
type BoardState struct {
	Up     bool   `json:"up"`
	Serial string `json:"serial,omitempty"` // 16 hexadecimal digits
	Build  uint32 `json:"build,omitempty"`  // of its firmware
}

// Climate is the air inside the cabinet.
type Climate struct {
	C  float64 `json:"c"`  // degrees Celsius
	RH float64 `json:"rh"` // relative humidity, percent
}

// SlotState is one slot, with the totals of its life on this ledger: an odometer
// lets the district's sums heal even if an event were missing.
type SlotState struct {
	Slot      Slot      `json:"slot"`
	Product   ProductID `json:"product,omitempty"`
	Pieces    int       `json:"pieces"`           // that could be given: not held, not expired
	Held      int       `json:"held,omitempty"`   // set aside for open vends
	Capacity  int       `json:"capacity"`         // pieces the spiral takes
	Par       int       `json:"par"`              // restock below this
	Expiry    DateOnly  `json:"expiry,omitempty"` // of the nearest batch
	Blocked   Block     `json:"blocked,omitempty"`
	Loaded    uint64    `json:"loaded"`    // pieces ever put in
	Removed   uint64    `json:"removed"`   // pieces ever taken out by staff, test turns and count variance included
	Dispensed uint64    `json:"dispensed"` // pieces ever given out
}

// DesiredVersion is a version of the desired state; it is qualified by the generation of
// the district's store, so that a restored district never re-uses one.
type DesiredVersion struct {
	Generation uint64 `json:"generation"`
	Version    uint64 `json:"version"`
}

// Newer reports whether v supersedes w.
func (v DesiredVersion) Newer(w DesiredVersion) bool {
	if v.Generation != w.Generation {
		return v.Generation > w.Generation
	}
	return v.Version > w.Version
}

// DecodeState decodes a state message.
func DecodeState(b []byte) (State, error) {
	var s State
	if err := decode("state", b, MaxMessage, &s); err != nil {
		return State{}, err
	}
	if err := s.Valid(); err != nil {
		return State{}, fmt.Errorf("state: %w", err)
	}
	return s, nil
}

// Valid reports what is wrong with it, or nil.
func (s State) Valid() error {
	if err := firstError(s.Machine.Valid(), s.Ledger.Valid(), s.Clock.Valid()); err != nil {
		return err
	}
	if len(s.Slots) > Slots {
		return fmt.Errorf("%d slots, at most %d are allowed", len(s.Slots), Slots)
	}
	last := Slot(0)
	for _, sl := range s.Slots {
		err := firstError(sl.Slot.Valid(), validPieces("pieces", sl.Pieces), validPieces("held", sl.Held), validPieces("capacity", sl.Capacity), validPieces("par", sl.Par))
		if err == nil && sl.Product != "" {
			err = sl.Product.Valid()
		}
		if err == nil && sl.Expiry != "" {
			err = sl.Expiry.Valid()
		}
		if err == nil && sl.Slot <= last {
			err = errors.New("slots are not in rising order")
		}
		if err != nil {
			return fmt.Errorf("slot %d: %w", sl.Slot, err)
		}
		last = sl.Slot
	}
	if s.Update != nil {
		if err := s.Update.valid(); err != nil {
			return fmt.Errorf("update: %w", err)
		}
	}
	if len(s.Faults) > 2*Slots {
		return fmt.Errorf("%d faults, at most %d are allowed", len(s.Faults), 2*Slots)
	}
	for _, f := range s.Faults {
		if err := f.Valid(); err != nil {
			return err
		}
	}
	return nil
}

// Online says whether a machine is connected: sent retained on connecting, and
// with Online false as the last will. Connection rises with every connection of
// the machine's life, so that the will of an old one cannot silence a new one.
type Online struct {
	Online     bool   `json:"online"`
	Connection uint64 `json:"connection"`
}

// DecodeOnline decodes an online message.
func DecodeOnline(b []byte) (Online, error) {
	var o Online
	if err := decode("online", b, MaxMessage, &o); err != nil {
		return Online{}, err
	}
	if o.Connection == 0 {
		return Online{}, errors.New("online: connection is missing or 0")
	}
	return o, nil
}
