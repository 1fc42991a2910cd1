package elf

import (
	"fmt"
	"slices"
	"time"

	"yaoju/protocol"
)

// Move is one motor that got power or lost it.
type Move struct {
	At   time.Duration // in the board's time
	Slot protocol.Slot
	On   bool
	Ran  time.Duration // when it lost power: how long it had it
}

// Span is a stretch of the board's time.
type Span struct{ From, To time.Duration }

// Fall is a piece that came to the drop sensor, seen or not.
type Fall struct {
	At   time.Duration
	Slot protocol.Slot
}

// Restart is a reset that was no loss of power.
type Restart struct {
	At    time.Duration
	Flags uint8 // MCUSR as the firmware found it: 2 is the reset line, 8 the watchdog
}

// TornByte is a byte of EEPROM whose writing was cut short.
type TornByte struct {
	At            time.Duration
	Addr          uint16
	Old, New, Got uint8
}

// Usage is what the firmware has used of its chip.
type Usage struct {
	EEPROMWrites int // since Start
	Resets       int // since Start, losses of power aside
	LineDrops    int // bytes that came faster than the firmware took them, since Start
	StackFree    int // bytes between variables and stack that were never touched since power on
}

// evidence is what boardsim has told of the board.
type evidence struct {
	moves    []Move
	unlocked []Span
	open     bool // the last of unlocked is not over
	falls    []Fall
	restarts []Restart
	torn     []TornByte
	slot     event // the last answer to slot
	status   event // the last answer to status
}

func (s *evidence) take(at time.Duration, e event) {
	switch e.Ev {
	case "motor":
		s.moves = append(s.moves, Move{At: at, Slot: e.Slot, On: e.On, Ran: time.Duration(e.Us) * time.Microsecond})
	case "lock":
		if e.On {
			s.unlocked = append(s.unlocked, Span{From: at})
		} else if s.open {
			s.unlocked[len(s.unlocked)-1].To = at
		}
		s.open = e.On
	case "fell":
		s.falls = append(s.falls, Fall{At: at, Slot: e.Slot})
	case "reset":
		s.restarts = append(s.restarts, Restart{At: at, Flags: e.MCUSR})
	case "torn":
		s.torn = append(s.torn, TornByte{At: at, Addr: e.Addr, Old: e.Old, New: e.New, Got: e.Got})
	case "slot":
		s.slot = e
	case "status":
		s.status = e
	}
}

func (b *Board) aboutSlot(slot protocol.Slot) event {
	<-b.turn
	defer b.looked()
	if b.tell(fmt.Sprintf("slot %d", slot)) != nil {
		return event{} // the error stays in b.err
	}
	return b.seen.slot
}

func (b *Board) aboutAll() event {
	<-b.turn
	defer b.looked()
	if b.tell("status") != nil {
		return event{} // the error stays in b.err
	}
	return b.seen.status
}

// Starts returns how often slot's motor got power.
func (b *Board) Starts(slot protocol.Slot) int { return b.aboutSlot(slot).Starts }

// Turns returns how often slot's spiral came back to its home.
func (b *Board) Turns(slot protocol.Slot) int { return b.aboutSlot(slot).Turns }

// Pieces returns how many pieces are left in slot.
func (b *Board) Pieces(slot protocol.Slot) int { return b.aboutSlot(slot).Pieces }

// FallenFrom returns how many pieces fell from slot, for whatever reason.
func (b *Board) FallenFrom(slot protocol.Slot) int { return b.aboutSlot(slot).Fallen }

// Light returns the brightness of the light, percent.
func (b *Board) Light() int { return b.aboutAll().Light }

// Emitter reports whether the drop sensor's emitter is on.
func (b *Board) Emitter() bool { return b.aboutAll().Emitter }

// Usage returns what the firmware has used of its chip.
func (b *Board) Usage() Usage {
	e := b.aboutAll()
	return Usage{EEPROMWrites: e.EEPROMWrites, Resets: e.Resets, LineDrops: e.LineDrops, StackFree: e.StackFree}
}

// Moves returns every start and stop of a motor since Start, oldest first.
func (b *Board) Moves() []Move {
	b.look()
	defer b.looked()
	return slices.Clone(b.seen.moves)
}

// Unlocked returns when the lock had power, oldest first. While it has, the last
// one ends now.
func (b *Board) Unlocked() []Span {
	b.look()
	defer b.looked()
	l := slices.Clone(b.seen.unlocked)
	if b.seen.open {
		l[len(l)-1].To = b.now
	}
	return l
}

// Falls returns every piece that fell since Start, in the order they came to the drop sensor.
func (b *Board) Falls() []Fall {
	b.look()
	defer b.looked()
	return slices.Clone(b.seen.falls)
}

// Restarts returns every reset since Start, oldest first. Power on is none.
func (b *Board) Restarts() []Restart {
	b.look()
	defer b.looked()
	return slices.Clone(b.seen.restarts)
}

// TornBytes returns every byte of EEPROM that a loss of power tore, oldest first.
func (b *Board) TornBytes() []TornByte {
	b.look()
	defer b.looked()
	return slices.Clone(b.seen.torn)
}
