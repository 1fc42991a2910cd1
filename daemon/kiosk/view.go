package kiosk

import (
	"time"

	"yaoju/protocol"
)

// Screen names what the resident sees. The names are part of the page.
type Screen string

// The screens of the resident's flow.
const (
	Attract  Screen = "attract"  // waiting for somebody
	Choose   Screen = "choose"   // pick a product
	Scan     Screen = "scan"     // lay the card on the reader
	Privacy  Screen = "privacy"  // the full notice
	Checking Screen = "checking" // the card is being read and judged
	Dispense Screen = "dispense" // a motor turns
	Take     Screen = "take"     // a box lies in the hatch
	Done     Screen = "done"     // thank you, and the next date
	Early    Screen = "early"    // the next date is not reached
	Age      Screen = "age"      // outside the age window
	Expired  Screen = "expired"  // the card is past its last day
	CardFail Screen = "cardfail" // the card could not be read
	Empty    Screen = "empty"    // nothing left in the machine
	Jam      Screen = "jam"      // nothing came out, nothing was counted
	Unsure   Screen = "unsure"   // nobody can tell yet: ask at the desk
	Fault    Screen = "fault"    // not in service
)

// Tap is a button the resident pressed.
type Tap string

// The taps a page may send. What they do depends on the screen; a tap that a
// screen does not offer does nothing.
const (
	TapNext     Tap = "next"     // the primary button
	TapBack     Tap = "back"     // back
	TapOther    Tap = "other"    // the secondary button: the desk, "nothing came out", "finish"
	TapMore     Tap = "more"     // the full privacy notice
	TapPick     Tap = "pick"     // a product; the argument says which
	TapLang     Tap = "lang"     // the other language
	TapBig      Tap = "big"      // large text on or off
	TapContrast Tap = "contrast" // high contrast on or off
	TapDiscreet Tap = "discreet" // product names hidden or shown
	TapVoice    Tap = "voice"    // the voice on or off
	TapVolume   Tap = "volume"   // the voice one step louder, after the loudest the softest
)

// Lang is a language of the screen.
type Lang string

const (
	ZH Lang = "zh-CN"
	EN Lang = "en"
)

// Modes are how the page is drawn for this person; they end with the session.
type Modes struct {
	Lang     Lang
	Big      bool // large text
	Contrast bool // black ground
	Discreet bool // product names hidden
	Voice    bool // lines are spoken
	Volume   int  // of the voice: 1 to MaxVolume
}

// MaxVolume is the loudest step of the voice; everybody begins in the middle.
const MaxVolume = 5

// usual are the modes that every session begins with.
func usual() Modes { return Modes{Lang: ZH, Volume: (MaxVolume + 1) / 2} }

// View is everything the page needs to draw. It holds nothing personal; the only
// personal outcome is a date.
type View struct {
	Serial  uint64 // of the screen: a tap names it, so a tap meant for the screen before does nothing
	Screen  Screen
	Covered bool // the idle cover lies over Screen: "still there?"
	Modes   Modes
	Now     time.Time // wall clock, in the machine's zone

	Products  []Choice  // choose: in the order of their letters
	Consent   bool      // scan: the text is read only after a tap (consent = tap)
	Consented bool      // scan: that tap was given
	Next      time.Time // done, early: first day to collect again
	Days      int       // early: days until Next
	Seconds   int       // cover: seconds left; dispense: about how many remain
	Percent   int       // dispense: progress of the motion, 0 to 100
	Slow      bool      // dispense: longer than 20 s, "nearly there"
	Attempts  int       // cardfail: cards not read in a row; from 3 on the desk is the primary button
	Other     bool      // jam: another product can be chosen with the card still valid
	CardLeft  bool      // a card lies on the reader after the box came: "please take your card"
	LookAgain bool      // take: "nothing came out" was tapped, but the drop sensor saw it fall: please look again
	Code      string    // fault: small staff code, F-103
	Open      bool      // fault: a vend may be open, so "nothing was counted" is not said
	Dim       bool      // attract: nobody for 10 minutes
	Phones    bool      // headphones are plugged in: what is private may be spoken
	Repeat    int       // take: how often the voice's line is due again
	Beep      uint64    // rises when the reader's beep is due, and when a card left lying calls

	Staff *StaffView // the staff's screens

	Place Place // what differs from place to place
}

// Choice is one product on the choose screen.
type Choice struct {
	ID     protocol.ProductID
	Letter string
	Name   protocol.Text
	Note   protocol.Text
	Stock  bool // false: none left
}

// Place is what the words on the screen need to know of policy and place. It
// changes only with the desired state.
type Place struct {
	Machine   protocol.MachineID
	Boxes     int // boxes each time: always 1
	Policy    protocol.Policy
	KeepDays  int       // how long a mark is kept
	RestockBy time.Time // zero: not known
	Texts     protocol.Texts
	Nearby    []protocol.Nearby
}
