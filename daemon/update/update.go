// Package update puts a new version of the machine's software in the place of the
// old one, and the old one back if the new one does not prove itself.
//
// It owns the bundle a release travels in, the folder of versions with its links
// `current` and `previous`, the small state file beside them, and the order of
// steps in which all of these change, so that a power cut at any of them leaves a
// machine that starts. It does not know vends, residents, boards, SQL or MQTT: whether the
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
	"fmt"
	"strings"
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
	ID string `json:"id"` // the command's; the same order twice is one order
	protocol.Update
}

// Valid reports what is wrong with it, or nil.
func (o Order) Valid() error {
	if o.ID == "" || len(o.ID) > protocol.MaxCommandID {
		return fmt.Errorf("update order: id %q: 1 to %d characters are allowed", clip(o.ID), protocol.MaxCommandID)
	}
	return o.Update.Valid()
}

func (o Order) late(now time.Time) bool { return now.UnixMilli() >= o.DeadlineMS }

// Signs are what shows that the machine works.
type Signs struct {
	Ledger bool `json:"ledger"` // opened and answering
	Board  bool `json:"board"`  // the motor board has said hello
	Screen bool `json:"screen"` // its page was answered
	Uplink bool `json:"uplink"` // connected to the district
	Reach  bool `json:"reach"`  // the district's address takes a connection, whoever makes it
}

// missing says what a version on trial lacks: ledger and screen have to work, the
// board and the line to the district if they did while the order was in hand. Outage says that all it
// lacks is a district that nobody could reach: that says nothing about the version.
func (s Signs) missing(before Signs) (why string, outage bool) {
	switch {
	case !s.Ledger:
		return "the ledger does not answer", false
	case !s.Screen:
		return "the screen does not answer", false
	case before.Board && !s.Board:
		return "the motor board does not answer, and did before", false
	case before.Uplink && !s.Uplink && s.Reach:
		return "the district is there and this version does not get through to it, as the one before did", false
	case before.Uplink && !s.Uplink:
		return "the district cannot be reached", true
	}
	return "", false
}

// result is how something ended, as far as its words may go.
func result(order, version string, end protocol.UpdateEnd, words string) *protocol.UpdateResult {
	if len(words) > protocol.MaxWords {
		words = strings.ToValidUTF8(words[:protocol.MaxWords-3], "") + "..."
	}
	return &protocol.UpdateResult{Order: order, Version: version, End: end, Words: words}
}

// clip bounds foreign text before it enters a message.
func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}
