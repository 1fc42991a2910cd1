// Package status is what a running kioskd says of itself to whoever stands in front
// of the machine: one JSON document, told to each connection of a Unix socket.
//
// It owns the document's form, which changes only by being added to, and how it is
// told and asked for. It knows nothing of boards, readers or ledgers: kioskd fills
// the document in. There is no resident in it, no mark, no badge and no key.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Format is the version of the document.
//
//	1: first releases
const Format = 1

// DefaultPath is where a machine has the socket: its unit makes the folder.
const DefaultPath = "/run/yaoju/kioskd.sock"

// MaxPath is how long a path of a socket may be, in bytes; the kernel has no room for more.
const MaxPath = 107

// Document is one answer.
type Document struct {
	Format  int       `json:"format"`
	Machine string    `json:"machine"`
	Version string    `json:"version"` // of kioskd
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	At      time.Time `json:"at"`               // when it was made, by the wall clock
	Serving string    `json:"serving"`          // open, empty or closed
	Closed  string    `json:"closed,omitempty"` // the fault for which nobody is served, such as F-106
	Faults  []Fault   `json:"faults"`           // standing now
	Parts   []Part    `json:"parts"`
	Ledger  Ledger    `json:"ledger"`
	Disk    Disk      `json:"disk"`
	Uplink  Uplink    `json:"uplink"`
	Board   Board     `json:"board"`
	Update  *Update   `json:"update,omitempty"` // nil: this machine takes no updates
}

// Part is one part of the machine.
type Part struct {
	Part   string    `json:"part"`             // a Name
	Label  string    `json:"label,omitempty"`  // what the configuration calls it, where there may be several
	Device string    `json:"device,omitempty"` // where it is: a path, or an address
	State  State     `json:"state"`
	Why    string    `json:"why,omitempty"`   // in English, for the log and for people who read it
	Found  string    `json:"found,omitempty"` // wrong: the part that answers instead, vending for a vending board, other for none of ours
	Since  time.Time `json:"since"`           // of this state, by the wall clock
}

// The parts that every machine has, and those it may have.
const (
	PartBoard    = "board" // what turns the motors: a board of ours, a bought one, or GPIO lines
	PartReader   = "reader"
	PartScanner  = "scanner"
	PartBadge    = "badge" // reader of staff cards
	PartClimate  = "climate"
	PartScreen   = "screen"
	PartUplink   = "uplink"
	PartIdentity = "identity"
	PartClock    = "clock"
	PartLedger   = "ledger"
	PartDisk     = "disk"
)

// What may be found where another part should be, beside the parts themselves.
const (
	FoundVending = "vending" // a bought vending board
	FoundOther   = "other"   // no part of ours, or one at another speed
)

// State is how a part is, as a word that programs may rely on.
type State string

const (
	Up       State = "up"
	Starting State = "starting" // not up yet, and too early to say why
	Down     State = "down"     // Why says more
	Absent   State = "absent"   // there is nothing where it should be
	Silent   State = "silent"   // the line is there, and nobody answers
	Wrong    State = "wrong"    // another device answers; Why says which
	Off      State = "off"      // switched off by the configuration
)

// Fault is something that is wrong now, in the words of the fault table.
type Fault struct {
	Code string `json:"code"` // F-002
	Slot int    `json:"slot,omitempty"`
	ZH   string `json:"zh"`
	EN   string `json:"en"`
}

// Ledger is how far the event chain is, and how far the district has it.
type Ledger struct {
	ID    string `json:"id"`
	Head  uint64 `json:"head"`
	Acked uint64 `json:"acked"`
	Open  int    `json:"open_vends"` // vends whose end nobody knows
	Boxes int    `json:"boxes"`      // that could be given
}

// Disk is the room on the file system of the data folder.
type Disk struct {
	Free     int64 `json:"free"` // bytes
	Size     int64 `json:"size"` // bytes
	ReadOnly bool  `json:"read_only"`
}

// Uplink is the line to the district.
type Uplink struct {
	LastAck time.Time `json:"last_ack,omitzero"` // zero: none since the start
}

// Board is what turns the motors, as far as it says who it is.
type Board struct {
	Serial   string `json:"serial,omitempty"` // 16 hexadecimal digits
	Build    string `json:"build,omitempty"`  // 8 hexadecimal digits
	DoorOpen bool   `json:"door_open"`
}

// Update is how the machine's software stands.
type Update struct {
	Current  string `json:"current"`
	Previous string `json:"previous,omitempty"`
	Trial    string `json:"trial,omitempty"` // the version that has yet to prove itself
	Waits    string `json:"waits,omitempty"` // what an order waits for
	Last     string `json:"last,omitempty"`  // how the last order ended, in words
}

const (
	// answerLimit bounds one answer. The document comes out of memory and a few files.
	answerLimit = 5 * time.Second
	// maxDocument bounds what is read: a machine of 60 slots with every fault on each
	// stays under it.
	maxDocument = 256 << 10
	// restTime is how long to wait when a connection could not be taken.
	restTime = time.Second
)

// Serve tells the document that fill makes to one connection after the other until
// ctx ends, and then returns nil; the listener is closed. Whoever takes too long is
// hung up on. Fill must end when its context does.
func Serve(ctx context.Context, l net.Listener, fill func(context.Context) (Document, error)) error {
	stop := context.AfterFunc(ctx, func() { l.Close() }) // it would only say that it is closed
	defer stop()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close() // nothing was said
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("status: %w", err)
		}
		if err != nil { // no descriptor is free, say: that passes
			select {
			case <-ctx.Done():
			case <-time.After(restTime):
			}
			continue
		}
		tell(ctx, c, fill)
	}
}

// tell answers one connection. Who does not listen gets nothing, and that is no
// error of ours.
func tell(ctx context.Context, c net.Conn, fill func(context.Context) (Document, error)) {
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	d, err := fill(ctx)
	if err != nil {
		return
	}
	d.Format = Format
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return
	}
	end, _ := ctx.Deadline()
	if err := c.SetWriteDeadline(end); err != nil {
		return
	}
	_, _ = c.Write(append(text, '\n'))
}

// Ask asks the kioskd behind the socket at path. The error wraps fs.ErrNotExist if
// there is no socket, fs.ErrPermission if we may not ask, and syscall.ECONNREFUSED
// if nobody is behind it.
func Ask(ctx context.Context, path string) (Document, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*answerLimit) // somebody may be answered before us
	defer cancel()
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return Document{}, fmt.Errorf("ask kioskd: %w", err)
	}
	defer c.Close() // only read
	end, _ := ctx.Deadline()
	if err := c.SetReadDeadline(end); err != nil {
		return Document{}, fmt.Errorf("ask kioskd: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(c, maxDocument+1))
	if err != nil {
		return Document{}, fmt.Errorf("ask kioskd: %w", err)
	}
	return Parse(text)
}

// Parse reads a document. One of a newer form is good as far as we know it.
func Parse(text []byte) (Document, error) {
	var d Document
	switch err := json.Unmarshal(text, &d); {
	case len(text) == 0:
		return d, errors.New("ask kioskd: it hung up without an answer")
	case len(text) > maxDocument:
		return d, fmt.Errorf("ask kioskd: an answer of more than %d bytes", maxDocument)
	case err != nil:
		return d, fmt.Errorf("ask kioskd: its answer is no document: %w", err)
	case d.Format < 1 || d.Machine == "":
		return d, errors.New("ask kioskd: its answer is not kioskd's")
	}
	return d, nil
}

// Find returns the parts of one name.
func (d Document) Find(part string) (found []Part) {
	for _, p := range d.Parts {
		if p.Part == part {
			found = append(found, p)
		}
	}
	return found
}
