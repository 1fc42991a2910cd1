// Package board is what the Pi and the motor board say to each other on their
// serial line: frames, messages, the words in them and the limits both sides
// keep. The C header of the firmware is written from the types here, so neither
// side can drift from the other.
//
// A frame is COBS(id, seq, payload, crc16) and a zero byte. All numbers are
// little-endian and every message has one length. The host asks, the board
// answers with the same seq, and nothing is sent without being asked for: one
// question is open at a time, and only the host repeats. Every question may be
// repeated, because none of them does a thing twice: VEND is guarded by its id,
// HOLD by the number of the press, and the others set what is set already.
//
// The board's promises, which firmware and the twin in daemon/machine/sim keep:
//
//   - VEND with an id the board knows answers that vend's state and moves
//     nothing. An id at or below the highest one, and not known, is refused as
//     STALE. Any other is written to the journal and read back before the motor
//     gets power. If the journal does not take it, the vend has ENDED with cause
//     JOURNAL, which the board knows until its next boot, and the highest id stays.
//   - VEND is refused for the first of: BAD_VALUE (id 0), STALE, BUSY, JOURNAL,
//     LATCHED, BAD_SLOT, DOOR_OPEN, DROP_SENSOR (tested anew), NOT_HOME (marked so,
//     or the switch is open). HOLD: BAD_VALUE, BUSY, JOURNAL, LATCHED, BAD_SLOT, and
//     for TEST NOT_HOME. Neither the door nor the sensor stops a held motion.
//   - A turn must leave home within LeaveMS (else STUCK_HOME) and be home again
//     within TurnMS (else RUNAWAY, which is latched and survives power loss).
//     Current over JamMA for JamMS after InrushMS stops it (JAM), current under
//     OpenMA for OpenMS then too (NO_MOTOR), current over ShortMA for ShortMS at any time
//     (SHORT), and so does the door (DOOR_OPENED). Each start of the motor is held
//     to these limits anew. Both motors of a pair have to leave and to come home,
//     and each stops at its own home.
//   - The drop sensor is watched from motor start to WatchMS after each stop,
//     whatever the stop was for; once a piece has fallen to SettleMS after stop or
//     first drop, whichever is later, so that a second piece close behind is still
//     counted. Nothing seen and nothing wrong: half a turn (half the time the full
//     turn took), PauseMS, on to home, PauseMS, and a third half that runs through
//     to home. A drop ends this at the next home, without a pause on the way; an
//     open door ends it with DOOR_OPENED.
//   - The cause of a vend is the first thing that stopped it; else NO_DROP without a
//     drop, DOUBLE_DROP with two or more, SLOW if the first turn took over SlowMS.
//   - A drop is in the journal before the end of the vend is: power lost in
//     between leaves INTERRUPTED with its drops and cause INTERRUPTED.
//   - Whatever darkens the sensor for 2 ms is a drop; it is over after 10 ms of light.
//     A drop outside a watch is spontaneous. A test or homing is watched as a vend is.
//   - A slot whose motor stopped away from home, or lost power before the end of its
//     vend was written, answers NOT_HOME until HOLD with HOME brought it back. That
//     is noted before the motor gets power.
//   - HOLD moves for HoldMS after the last such frame and no longer. TEST makes
//     one turn for each press and stops at home. A press that is over stays over:
//     its number again moves nothing, until HELLO or another press.
//   - Without a valid frame for HeartbeatMS the board locks and dims. A turn in
//     progress ends as it would have.
//
// It owns bytes and numbers. It knows nothing of ports, retries, outcomes or stock.
package board

//go:generate go run ./gen ../../firmware/core/proto.h

import (
	"fmt"
	"hash/crc32"

	"yaoju/protocol"
)

// Version is the version of this wire, the first byte of HELLO and HELLO_IS.
// That byte stays where it is in all versions.
//
//	1: first boards
const Version = 1

// What both sides are built for.
const (
	Baud       = 115200 // bits per second, 8N1: 87 microseconds a byte
	MaxPayload = 48     // bytes of one message
	MaxFrame   = 54     // bytes of one frame on the line, its zero byte included
)

// Limits the board keeps whatever it is told, in milliseconds. Those a machine
// may need otherwise are in Configure.
const (
	InrushMS    = 100   // current is not judged this soon after motor start, but for a short circuit
	OpenMS      = 20    // current under OpenMA must last this long: brushes lift for a moment
	WatchMS     = 1500  // the drop sensor is watched this long after the motor stopped
	SettleMS    = 300   // and only this long once a piece has fallen
	PauseMS     = 300   // between the half-turns that follow a turn without a drop
	HalfTurns   = 3     // such half-turns at most; a count
	HoldMS      = 300   // TEST and HOME stop this long after the last HOLD
	HeartbeatMS = 5000  // no valid frame for so long: lock, dim
	DimPercent  = 10    // the light without a host; percent
	MaxTurnMS   = 7000  // the largest TurnMS that Configure may ask for
	MaxLockMS   = 10000 // the longest the lock's coil may have power
	ShortMA     = 3000  // current over this is a short circuit, inrush or not; mA
	ShortMS     = 5     // once it lasted this long
	JournalKeep = 72    // vends that are remembered at least, of one piece each: a ring of 216 records, three to such a vend
)

// Kind says which message a frame carries. Answers have the high bit set.
type Kind uint8

// The messages. Every question has one good answer; NAK is the other.
const (
	KindPing      Kind = 0x01 // -> PONG
	KindHello     Kind = 0x02 // -> HELLO_IS
	KindConfigure Kind = 0x03 // -> HELLO_IS with the new hash
	KindVend      Kind = 0x04 // -> VEND_STATE
	KindQuery     Kind = 0x05 // -> VEND_STATE
	KindStatus    Kind = 0x06 // -> STATUS_IS
	KindLock      Kind = 0x07 // -> STATUS_IS
	KindLight     Kind = 0x08 // -> STATUS_IS
	KindHold      Kind = 0x09 // -> STATUS_IS
	KindClear     Kind = 0x0a // -> STATUS_IS
	KindRestart   Kind = 0x0b // -> PONG, and then the board restarts
	KindPong      Kind = 0x81
	KindHelloIs   Kind = 0x82
	KindVendState Kind = 0x84
	KindStatusIs  Kind = 0x86
	KindNak       Kind = 0x8f
)

// Message is one of the message types below, by value.
type Message interface{ Kind() Kind }

// Ping asks whether anybody is there.
type Ping struct{}

// Pong answers Ping.
type Pong struct{}

// Hello asks the board who it is. Proto is the host's version.
type Hello struct{ Proto uint8 }

// HelloIs is who the board is and what it remembers.
type HelloIs struct {
	Proto      uint8           // the board's version of this wire
	Serial     uint64          // serial number of the board, for its life
	Build      uint32          // firmware build
	ConfigHash uint32          // Configure.Hash of the stored configuration; 0 if none was ever stored
	Highest    protocol.VendID // highest vend id the board has journalled; 0 if none
	Boot       uint32          // boots in the board's life
	ResetCause ResetCause      // why the last boot happened
	UptimeMS   uint32          // since boot; wraps after 49 days
	Fitted     SlotSet         // slots with a motor, as configured
}

// Configure tells the board what hangs on it. It is in force at once and stored
// a moment later: after a loss of power in between, HELLO_IS has the hash of the
// one before. It is refused as BUSY while a motion is in hand. Without one no slot is fitted.
type Configure struct {
	Fitted  SlotSet // slots with a motor
	Coupled SlotSet // slots whose right neighbour turns with them; the neighbour alone is a BAD_SLOT
	LeaveMS uint16  // home switch must open within this of motor start; 100 to 2000
	TurnMS  uint16  // motor is cut off after this; LeaveMS+100 to MaxTurnMS
	SlowMS  uint16  // a turn that took longer is reported SLOW
	JamMA   uint16  // current over this is a jam; above OpenMA
	JamMS   uint16  // once it lasted this long; 10 to 1000
	OpenMA  uint16  // current under this is a missing motor
}

// Vend turns the motor of Slot once for ID, unless ID is known.
type Vend struct {
	ID   protocol.VendID
	Slot protocol.Slot
}

// Query asks what became of ID and moves nothing.
type Query struct{ ID protocol.VendID }

// VendState is what the board knows of one vend.
type VendState struct {
	ID     protocol.VendID
	Slot   protocol.Slot // 0 when the state is NONE, SKIPPED or FORGOTTEN
	State  State
	Repeat bool   // answered from memory: this frame started nothing. A VEND with id and seq of the one that started the running vend is that frame again, and false
	Phase  Phase  // where a RUNNING vend is; 0 otherwise
	Cause  uint8  // protocol.Fault below 100; 0 is none
	Drops  uint8  // pieces seen so far
	RunMS  uint16 // the motor has run this long in all
	DropMS uint16 // from motor start to the first drop; 0 if none
}

// Nak refuses a question. Nothing has moved or changed because of it.
type Nak struct {
	Reason Reason
	Fault  uint8 // the latched protocol.Fault for LATCHED; 0 otherwise
}

// Status asks for StatusIs.
type Status struct{}

// StatusIs is the state of everything that is not a vend.
type StatusIs struct {
	Boot        uint32 // as in HelloIs: another number is another boot
	UptimeMS    uint32
	Turns       uint32  // vends and tests whose beginning is on record, in the board's life: all that got motor power
	Drops       uint32  // pieces seen in the board's life
	NotHome     SlotSet // slots that refuse VEND until homed; without the one in motion
	CurrentMA   uint16  // of the common motor line
	Spontaneous uint16  // pieces seen while no motor ran, since boot or CLEAR
	CentiC      int16   // temperature, 0.01 degrees Celsius; 0 without Climate
	CentiRH     uint16  // relative humidity, 0.01 percent; 0 without Climate
	DoorOpen    bool
	LockOpen    bool
	Light       uint8         // percent
	SensorDark  bool          // the light of the drop sensor is interrupted
	Curtain     Curtain       // its self-test
	Climate     bool          // CentiC and CentiRH are readings
	Motion      Motion        // what the motor is in use for
	Slot        protocol.Slot // whose motor; 0 without Motion
	Phase       Phase         // PhaseDone: a held motion is over, the press is not
	Cause       uint8         // why the held motion ended early; protocol.Fault, 0 is none
	Latched     uint8         // fault that forbids all motion until CLEAR; 0 is none
	LatchedSlot protocol.Slot // where; 0 if none
	JournalBad  bool          // the journal does not take records: no motor turns
}

// Lock gives the lock's coil power for OpenMS, at most MaxLockMS; 0 locks now.
type Lock struct{ OpenMS uint16 }

// Light sets the light to 0 to 100 percent.
type Light struct{ Percent uint8 }

// Hold moves a motor while a finger is on a button: the first frame of a press
// starts it, each further one lets it go on for HoldMS. Press is another number
// for each press, so that TEST makes one turn for each.
type Hold struct {
	Slot   protocol.Slot
	Motion Motion // MotionTest or MotionHome
	Press  uint8
}

// Clear takes back a latched fault, tries the journal or the drop sensor again,
// or sets the count of spontaneous drops to zero. Clearing what is not there is
// no error. NOT_HOME is cleared by homing only.
type Clear struct{ Fault uint8 }

// Restart restarts the board, into its serial bootloader if it has one. Refused as
// BUSY while a motion is in hand, and as BAD_VALUE with another key.
type Restart struct{ Key uint32 } // RestartKey

// RestartKey is the key of Restart: a damaged frame does not restart a board.
const RestartKey = 0x746f6f62 // "boot" on the line

// Kind implements Message.
func (Ping) Kind() Kind      { return KindPing }
func (Pong) Kind() Kind      { return KindPong }
func (Hello) Kind() Kind     { return KindHello }
func (HelloIs) Kind() Kind   { return KindHelloIs }
func (Configure) Kind() Kind { return KindConfigure }
func (Vend) Kind() Kind      { return KindVend }
func (Query) Kind() Kind     { return KindQuery }
func (VendState) Kind() Kind { return KindVendState }
func (Nak) Kind() Kind       { return KindNak }
func (Status) Kind() Kind    { return KindStatus }
func (StatusIs) Kind() Kind  { return KindStatusIs }
func (Lock) Kind() Kind      { return KindLock }
func (Light) Kind() Kind     { return KindLight }
func (Hold) Kind() Kind      { return KindHold }
func (Clear) Kind() Kind     { return KindClear }
func (Restart) Kind() Kind   { return KindRestart }

// State is how a vend stands on the board.
type State uint8

// The states of a vend.
const (
	StateNone        State = 1 // above the highest id: never heard of
	StateForgotten   State = 2 // at or below the highest, and the journal does not reach back that far
	StateRunning     State = 3 // not over: see Phase
	StateEnded       State = 4 // over: Drops and Cause tell
	StateInterrupted State = 5 // power was lost or the board restarted before the end
	StateSkipped     State = 6 // below the highest, not in the journal, and no record since a lower id, or since the first of all, is missing: never turned, never will
)

// Phase is the step of a motion.
type Phase uint8

// The steps, in their order.
const (
	PhaseStore  Phase = 1 // the journal takes the id; the motor is still
	PhaseLeave  Phase = 2 // turning, home switch still closed
	PhaseReturn Phase = 3 // turning towards home
	PhaseWatch  Phase = 4 // still, watching the drop sensor
	PhaseAgain  Phase = 5 // turning on, because nothing fell
	PhaseEnd    Phase = 6 // the journal takes the end
	PhaseDone   Phase = 7 // only of TEST and HOME: over, and still held
)

// Reason says why a question was refused.
type Reason uint8

// The reasons.
const (
	NakBadMsg     Reason = 1  // unknown id, or a length that is not its own
	NakBadSlot    Reason = 2  // no such slot, not fitted, or turned by its left neighbour
	NakBusy       Reason = 3  // a motor turns
	NakDoorOpen   Reason = 4  // the service door stands open
	NakJournal    Reason = 5  // the journal does not take records
	NakLatched    Reason = 6  // a latched fault waits for CLEAR
	NakStale      Reason = 7  // the id is not above the highest one, and its record is gone
	NakNotHome    Reason = 8  // the spiral stands in mid-turn
	NakDropSensor Reason = 9  // the drop sensor is dark or failed its self-test
	NakBadValue   Reason = 10 // a field is out of range
)

// Motion is what a motor is used for.
type Motion uint8

// The uses. HOLD carries the last two.
const (
	MotionNone Motion = 0
	MotionVend Motion = 1
	MotionTest Motion = 2
	MotionHome Motion = 3
)

// Curtain is the result of the drop sensor's self-test: emitter off must be dark.
type Curtain uint8

// The results.
const (
	CurtainUntested Curtain = 0
	CurtainGood     Curtain = 1
	CurtainBlind    Curtain = 2
)

// ResetCause is why the board booted.
type ResetCause uint8

// The causes.
const (
	ResetPower    ResetCause = 1 // power came
	ResetExternal ResetCause = 2 // reset line or programmer
	ResetBrownOut ResetCause = 3 // supply voltage dipped
	ResetWatchdog ResetCause = 4 // firmware hung
)

// SlotSet is a set of slots: slot n is bit (n-1)%8 of byte (n-1)/8.
type SlotSet [8]byte

// Slots returns the set of the slots given. A slot that does not exist is left out.
func Slots(slots ...protocol.Slot) SlotSet {
	var s SlotSet
	for _, n := range slots {
		s = s.With(n)
	}
	return s
}

// AllSlots returns the set of slots 1 to 60.
func AllSlots() SlotSet {
	var s SlotSet
	for n := protocol.Slot(1); n <= protocol.Slots; n++ {
		s = s.With(n)
	}
	return s
}

// Has reports whether slot is in the set.
func (s SlotSet) Has(slot protocol.Slot) bool {
	return slot.Valid() == nil && s[(slot-1)/8]&(1<<((slot-1)%8)) != 0
}

// With returns the set with slot in it.
func (s SlotSet) With(slot protocol.Slot) SlotSet {
	if slot.Valid() == nil {
		s[(slot-1)/8] |= 1 << ((slot - 1) % 8)
	}
	return s
}

// Without returns the set with slot not in it.
func (s SlotSet) Without(slot protocol.Slot) SlotSet {
	if slot.Valid() == nil {
		s[(slot-1)/8] &^= 1 << ((slot - 1) % 8)
	}
	return s
}

// List returns the slots of the set, lowest first.
func (s SlotSet) List() []protocol.Slot {
	var l []protocol.Slot
	for n := protocol.Slot(1); n <= protocol.Slots; n++ {
		if s.Has(n) {
			l = append(l, n)
		}
	}
	return l
}

// DefaultConfigure is for 60 single slots with gear motors of about 2.5 s a turn and 300 mA.
func DefaultConfigure() Configure {
	return Configure{
		Fitted:  AllSlots(),
		LeaveMS: 900,  // measured 150 to 300, dust and cold three times that
		TurnMS:  5000, // twice a turn
		SlowMS:  3500,
		JamMA:   900, // three times the running current
		JamMS:   120, // longer than any inrush after a half-turn
		OpenMA:  50,
	}
}

// Valid reports what is wrong with the configuration, or nil. The board refuses
// the same with BAD_VALUE.
func (c Configure) Valid() error {
	for n := 60; n < 64; n++ {
		if (c.Fitted[n/8]|c.Coupled[n/8])&(1<<(n%8)) != 0 {
			return fmt.Errorf("configuration: slot %d does not exist", n+1)
		}
	}
	for _, s := range c.Coupled.List() {
		switch {
		case s%protocol.Columns == 0:
			return fmt.Errorf("configuration: slot %d is the last of its row and cannot be coupled to its right", s)
		case !c.Fitted.Has(s) || !c.Fitted.Has(s+1):
			return fmt.Errorf("configuration: slots %d and %d are coupled, so both must be fitted", s, s+1)
		case c.Coupled.Has(s + 1):
			return fmt.Errorf("configuration: slot %d is coupled to both its neighbours", s+1)
		}
	}
	switch {
	case c.LeaveMS < 100 || c.LeaveMS > 2000:
		return fmt.Errorf("configuration: leave limit %d ms: 100 to 2000 are allowed", c.LeaveMS)
	case c.TurnMS < c.LeaveMS+100 || c.TurnMS > MaxTurnMS:
		return fmt.Errorf("configuration: turn limit %d ms: %d to %d are allowed", c.TurnMS, c.LeaveMS+100, MaxTurnMS)
	case c.JamMS < 10 || c.JamMS > 1000:
		return fmt.Errorf("configuration: jam time %d ms: 10 to 1000 are allowed", c.JamMS)
	case c.JamMA <= c.OpenMA:
		return fmt.Errorf("configuration: jam current %d mA must be above open current %d mA", c.JamMA, c.OpenMA)
	}
	return nil
}

// Turns reports whether VEND and HOLD may name slot: fitted, and not the right half of a pair.
func (c Configure) Turns(slot protocol.Slot) bool {
	return c.Fitted.Has(slot) && !c.Coupled.Has(slot-1)
}

// Hash names the configuration: CRC-32 (ISO-HDLC, as in zip) of its payload bytes.
func (c Configure) Hash() uint32 { return crc32.ChecksumIEEE(payload(c)) }

// Answer is the kind of the good answer to question k.
func (k Kind) Answer() Kind {
	switch k {
	case KindPing, KindRestart:
		return KindPong
	case KindHello, KindConfigure:
		return KindHelloIs
	case KindVend, KindQuery:
		return KindVendState
	}
	return KindStatusIs
}
