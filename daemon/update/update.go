// Package update puts a new version of the machine's software in the place of the
// old one, and the old one back if the new one does not prove itself.
//
// It owns the bundle a release travels in, the folder of versions with its links
// `current` and `previous`, the small state file beside them, and the order of
// steps in which all of these change, so that a power cut at any of them leaves a
// machine that starts. For the district it owns the rule by which a release goes
// out in waves. It does not know vends, residents, boards, SQL or MQTT: whether the
// machine is free, what works on it and how it is restarted are functions it is
// given, and where the bytes come from is its Source's affair.
//
// The folder of versions:
//
//	versions/VERSION/{kioskd,yaoju,manifest.json}   complete, or not there
//	current, previous                               links to one of them, or to the base
//	state.json                                      what is being tried, and for how long
//	incoming/SHA256.part                            a bundle on its way
//
// The base is the version the machine was installed with, in a folder of the root
// file system that updates never write to: what is left when all else is damaged.
package update

import (
	"errors"
	"fmt"
	"time"

	"yaoju/protocol"
)

// RefusedError is a release or an order this machine does not take, in words for
// the person who gave it. Trying again would not change the answer.
type RefusedError struct{ Words string }

func (e *RefusedError) Error() string { return e.Words }

func refusef(format string, args ...any) error {
	return &RefusedError{Words: fmt.Sprintf(format, args...)}
}

// Order asks one machine for one release. It reaches the machine inside a command
// that the district signed; the release itself is signed by those who made it.
type Order struct {
	ID          string `json:"id"`              // the command's; the same order twice is one order
	Version     string `json:"version"`         // that the bundle must hold
	SHA256      string `json:"sha256"`          // of the bundle, 64 lower-case hexadecimal digits
	Size        int64  `json:"size"`            // of the bundle in bytes, 1 to MaxBundle
	NotBeforeMS int64  `json:"not_before_ms"`   // Unix milliseconds; the bundle is fetched before, and taken into use after
	DeadlineMS  int64  `json:"deadline_ms"`     // Unix milliseconds; afterwards the order is void
	Wave        int    `json:"wave"`            // counted from 1; 0: the machine was ordered alone
	Older       bool   `json:"older,omitempty"` // a release older than the newest this machine has run is meant
}

// Valid reports what is wrong with it, or nil.
func (o Order) Valid() error {
	if o.ID == "" || len(o.ID) > protocol.MaxCommandID {
		return fmt.Errorf("update order: id %q: 1 to %d characters are allowed", clip(o.ID), protocol.MaxCommandID)
	}
	if err := validVersion(o.Version); err != nil {
		return fmt.Errorf("update order: %w", err)
	}
	if !validSum(o.SHA256) {
		return fmt.Errorf("update order: sha256 %q: want 64 lower-case hexadecimal digits", clip(o.SHA256))
	}
	switch {
	case o.Size < 1 || o.Size > MaxBundle:
		return fmt.Errorf("update order: size %d: 1 to %d bytes are allowed", o.Size, MaxBundle)
	case o.NotBeforeMS < 0 || o.DeadlineMS <= o.NotBeforeMS:
		return errors.New("update order: its deadline is before it begins")
	case o.Wave < 0:
		return fmt.Errorf("update order: wave %d: waves are counted from 1", o.Wave)
	}
	return nil
}

func (o Order) late(now time.Time) bool { return now.UnixMilli() >= o.DeadlineMS }

// Signs are what shows that the machine works.
type Signs struct {
	Ledger bool `json:"ledger"` // opened and answering
	Board  bool `json:"board"`  // the motor board has said hello
	Screen bool `json:"screen"` // its page was answered
	Uplink bool `json:"uplink"` // connected to the district
}

// missing says what a version on trial lacks: ledger and screen have to work, the
// board and the line to the district if they did under the version before. A
// machine without its cable must not lose an update to it.
func (s Signs) missing(before Signs) string {
	switch {
	case !s.Ledger:
		return "the ledger does not answer"
	case !s.Screen:
		return "the screen does not answer"
	case before.Board && !s.Board:
		return "the motor board does not answer, and did before"
	case before.Uplink && !s.Uplink:
		return "the district is out of reach, and was not before"
	}
	return ""
}

// End is how an order ended.
type End string

const (
	EndConfirmed  End = "confirmed"   // the version runs and has proved itself
	EndRolledBack End = "rolled_back" // it did not, and the one before runs again
	EndRefused    End = "refused"     // it was never taken into use
	EndLate       End = "late"        // the deadline came first
)

// Result is the end of the last order, or of a rollback somebody asked for.
type Result struct {
	Order   string `json:"order,omitempty"` // its id; empty: nobody ordered it from afar
	Version string `json:"version"`
	End     End    `json:"end"`
	Words   string `json:"words,omitempty"` // why, for people
}

// clip bounds foreign text before it enters a message.
func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}
