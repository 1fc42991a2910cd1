package machine

import (
	"reflect"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

// Status is what the driver last heard from its board. The slices are not to be changed.
type Status struct {
	Up      bool  // the board answers
	Session int   // rises with every hello: then tell the ledger Hello.Highest and recover
	Hello   Hello // of this session
	// DoorOpen, Lock and the rest stand as they were while the board is not up.
	DoorOpen     bool
	LockOpen     bool
	Light        int // percent
	DropSensorOK bool
	Climate      Climate
	Odometer     Odometer
	Faults       []Fault // lowest number first, then slot
	Motion       Motion
}

// Hello is who the board is.
type Hello struct {
	Serial     uint64
	Build      uint32
	ConfigHash uint32
	Highest    protocol.VendID // the ledger mints above it
	Boot       uint32          // boots in the board's life
}

// Climate is the air in the cabinet.
type Climate struct {
	OK      bool // there is a reading
	CentiC  int  // 0.01 degrees Celsius
	CentiRH int  // 0.01 percent relative humidity
}

// Odometer counts over the board's life.
type Odometer struct {
	Turns int // vends and tests that got motor power
	Drops int // pieces the drop sensor saw
}

// Fault is something wrong now, and at which slot; 0 is none in particular.
type Fault struct {
	Fault protocol.Fault
	Slot  protocol.Slot
}

// Motion is what a motor does now. The zero value is nothing.
type Motion struct {
	Vend    protocol.VendID // 0 for a test or homing
	Slot    protocol.Slot
	Percent int // 0 to 100, of a vend
	Phase   board.Phase
}

// Watch returns the newest status, and a channel that is closed when it is no
// longer the newest.
func (b *Board) Watch() (Status, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status, b.stale
}

// update changes the status and tells those who watch, if anything is different.
func (b *Board) update(f func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status
	f(&s)
	s.Faults = faults(s.Up, b.heard, b.known, b.restarted)
	if reflect.DeepEqual(s, b.status) {
		return
	}
	b.status = s
	close(b.stale)
	b.stale = make(chan struct{})
}

// take puts what the board says into the status.
func (s *Status) take(is board.StatusIs) {
	s.DoorOpen, s.LockOpen, s.Light = is.DoorOpen, is.LockOpen, int(is.Light)
	s.DropSensorOK = sensorOK(is)
	s.Climate = Climate{OK: is.Climate, CentiC: int(is.CentiC), CentiRH: int(is.CentiRH)}
	s.Odometer = Odometer{Turns: int(is.Turns), Drops: int(is.Drops)}
	switch {
	case is.Motion == board.MotionNone:
		s.Motion = Motion{}
	case is.Motion != board.MotionVend:
		s.Motion = Motion{Slot: is.Slot, Phase: is.Phase}
	}
}

func sensorOK(is board.StatusIs) bool { return !is.SensorDark && is.Curtain != board.CurtainBlind }

// faults lists what is wrong, from what the board last said and what the driver noticed itself.
func faults(up bool, is board.StatusIs, known, restarted bool) []Fault {
	var l []Fault
	add := func(when bool, f protocol.Fault, slot protocol.Slot) {
		if when {
			l = append(l, Fault{f, slot})
		}
	}
	if up {
		add(is.Latched != 0, protocol.Fault(is.Latched), is.LatchedSlot)
		add(!sensorOK(is), protocol.FaultDropSensor, 0)
		add(is.Spontaneous > 0, protocol.FaultSpontaneous, 0)
		add(is.JournalBad, protocol.FaultJournal, 0)
		for _, slot := range is.NotHome.List() {
			add(true, protocol.FaultNotHome, slot)
		}
		add(!is.Climate, protocol.FaultClimate, 0)
		add(restarted, protocol.FaultBoardReset, 0)
	}
	add(!up, protocol.FaultBoardSilent, 0)
	add(known, protocol.FaultBoardKnows, 0)
	return l
}
