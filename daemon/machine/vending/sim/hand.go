package sim

import (
	"slices"
	"time"

	"yaoju/protocol"
)

// do calls f with everything that was to happen until now behind it.
func (v *VMC) do(f func(now time.Time)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	v.advance(now)
	f(now)
}

// Adjust changes the cabinet. f must not call the board.
func (v *VMC) Adjust(f func(*Cabinet)) {
	v.do(func(time.Time) { f(&v.cabinet) })
}

// SetFaults sets what is wrong with slot, from its next motion on. A zero Faults mends it.
func (v *VMC) SetFaults(slot protocol.Slot, f Faults) {
	v.do(func(time.Time) { v.faults[slot] = f })
}

// Load puts n pieces more into slot.
func (v *VMC) Load(slot protocol.Slot, n int) {
	v.do(func(time.Time) { v.pieces[slot] += n })
}

// Restart takes the power away for a while. The motor stops where it is, and what
// the board was going to say is lost; back again, it wants to begin anew.
func (v *VMC) Restart(off time.Duration) {
	v.do(func(now time.Time) {
		v.motion, v.coming, v.outbox, v.tries = nil, nil, nil, 0
		v.pack, v.heard, v.keyed = 0, 0, 0
		v.off = now.Add(off)
		v.tell(v.off, cmdSync)
	})
}

// Keypad chooses slot at the board's own keypad. Unless the choice is cancelled,
// the motor turns 2 s later.
func (v *VMC) Keypad(slot protocol.Slot) {
	v.do(func(now time.Time) {
		v.keyed, v.keyedAt = slot, now
		v.tell(now, cmdChoice, 0, byte(slot))
	})
}

// Restock presses the board's own "all full" button.
func (v *VMC) Restock() {
	v.do(func(now time.Time) { v.tell(now, cmdRestock) })
}

// Sync lets the board want to begin anew, without a restart.
func (v *VMC) Sync() {
	v.do(func(now time.Time) { v.tell(now, cmdSync) })
}

// Coin puts money into the board's own slot.
func (v *VMC) Coin() {
	v.do(func(now time.Time) { v.tell(now, cmdMoney, 2, 0, 0, 0, 100) })
}

// Say has the board say anything at all: a command of any number and text.
func (v *VMC) Say(cmd byte, text ...byte) {
	v.do(func(now time.Time) { v.tell(now, cmd, text...) })
}

// Turns returns how often slot's motor was started, for whatever reason.
func (v *VMC) Turns(slot protocol.Slot) (n int) {
	v.do(func(time.Time) { n = v.turns[slot] })
	return n
}

// Drives returns how many drives of slot were heard and carried out.
func (v *VMC) Drives(slot protocol.Slot) (n int) {
	v.do(func(time.Time) { n = v.drives[slot] })
	return n
}

// Orders returns how many drives of slot were heard, carried out or not.
func (v *VMC) Orders(slot protocol.Slot) (n int) {
	v.do(func(time.Time) { n = v.orders[slot] })
	return n
}

// Turning reports that a motor has power, for whatever reason.
func (v *VMC) Turning() (on bool) {
	v.do(func(time.Time) { on = v.motion != nil })
	return on
}

// Fallen returns how many pieces really fell from slot.
func (v *VMC) Fallen(slot protocol.Slot) (n int) {
	v.do(func(time.Time) { n = v.fallen[slot] })
	return n
}

// Given returns how many of them fell because of a drive.
func (v *VMC) Given(slot protocol.Slot) (n int) {
	v.do(func(time.Time) { n = v.given[slot] })
	return n
}

// Cleared returns how often the board was told to forget its jams.
func (v *VMC) Cleared() (n int) {
	v.do(func(time.Time) { n = v.cleared })
	return n
}

// Broken returns what no computer should have said.
func (v *VMC) Broken() (all []string) {
	v.do(func(time.Time) { all = slices.Clone(v.broken) })
	return all
}
