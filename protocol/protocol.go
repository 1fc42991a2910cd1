// Package protocol is what a machine and the district say to each other:
// identifiers, outcomes, records with their hash chain, acknowledgements, state,
// desired state, commands, topics and fault codes. Both programs import it, so
// neither can drift from the other.
//
// It owns the JSON on the wire and the exact bytes that are hashed. It knows
// nothing of MQTT, SQL, screens or motors, and it imports the standard library
// only. asyncapi.yaml and the JSON Schemas beside it describe the same wire to
// people who do not read Go; a test holds them to these types.
//
// Numbers that leave the process are written out, never iota; a retired one is
// never reused. Readers accept newer records and refuse malformed ones.
package protocol

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// Version is the version of the wire contract, the number in every topic.
//
//	1: first field trial
const Version = 1

// MachineID names one machine for its life: 1 to 32 of a-z, 0-9 and '-', such as
// "m-0017". It is the MQTT client id and the name in the machine's certificate.
type MachineID string

// LedgerID names one ledger file: 32 hexadecimal digits, drawn at random when
// the file is made, so that a machine that lost its ledger never re-uses a
// sequence number the district knows.
type LedgerID string

// VendID names one attempt to turn one motor. The ledger mints it, above every
// id it or the board has seen; the board remembers it; it is never 0.
type VendID uint32

// Slot is the position of one spiral as printed on the tray: 1 to 60, six rows of ten.
type Slot uint8

// ProductID names a product in planogram and stock: 1 to 32 of a-z, 0-9 and '-',
// such as "condom-52".
type ProductID string

// Limits of the identifiers.
const (
	MaxName = 32 // bytes of a MachineID or ProductID
	Slots   = 60 // slots are 1 to Slots
	Rows    = 6  // rows of slots, counted from the top
	Columns = 10 // slots in a row, counted from the left
)

// MaxBatch is the longest batch number, as GS1 limits it.
const MaxBatch = 20

// Valid reports what is wrong with the name, or nil.
func (m MachineID) Valid() error { return validName("machine id", string(m)) }

// Valid reports what is wrong with the name, or nil.
func (p ProductID) Valid() error { return validName("product id", string(p)) }

func validName(what, s string) error {
	if s == "" || len(s) > MaxName {
		return fmt.Errorf("%s %q: 1 to %d characters are allowed", what, clip(s), MaxName)
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("%s %q: only a-z, 0-9 and '-' are allowed", what, clip(s))
		}
	}
	return nil
}

// Valid reports what is wrong with the id, or nil.
func (l LedgerID) Valid() error {
	if b, err := hex.DecodeString(string(l)); err != nil || len(b) != 16 || hex.EncodeToString(b) != string(l) {
		return fmt.Errorf("ledger id %q: want 32 lower-case hexadecimal digits", clip(string(l)))
	}
	return nil
}

// NewLedgerID draws an id for a new ledger file.
func NewLedgerID() LedgerID {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return LedgerID(hex.EncodeToString(b[:]))
}

// Valid reports what is wrong with the slot, or nil.
func (s Slot) Valid() error {
	if s < 1 || s > Slots {
		return fmt.Errorf("slot %d: slots are 1 to %d", s, Slots)
	}
	return nil
}

// clip bounds foreign text before it enters an error message.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}

// Outcome is how a vend ended.
type Outcome uint8

const (
	Unknown   Outcome = 1 // nobody can tell yet: piece and entitlement stay set aside
	Dispensed Outcome = 2 // the drop sensor saw it fall
	Kept      Outcome = 3 // the evidence says nothing left the slot
)

func (o Outcome) String() string {
	switch o {
	case Unknown:
		return "unknown"
	case Dispensed:
		return "dispensed"
	case Kept:
		return "kept"
	}
	return fmt.Sprintf("Outcome(%d)", uint8(o))
}

// Result is how a vend ended, with the evidence for it.
type Result struct {
	Outcome Outcome
	Pieces  int   // pieces the drop sensor saw fall: 0, 1, or more when the spiral let go of two
	Cause   Fault // why it is not a plain success; 0 when it is
	RunMS   int   // how long the motor ran, milliseconds
	DropMS  int   // from motor start to the first drop, milliseconds; 0 if none
}
