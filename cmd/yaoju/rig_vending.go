package main

import (
	"sync"
	"time"

	"yaoju/daemon/machine/vending/sim"
	"yaoju/protocol"
)

// boughtReply is how long the bought board listens for an answer: longer than in life,
// because here two programs and a browser share the computer with it.
const boughtReply = time.Second

// bought is an off-the-shelf vending board in software, with a drop sensor.
type bought struct {
	*sim.VMC
	mu     sync.Mutex
	loaded map[protocol.Slot]int // guarded by mu
	open   bool                  // guarded by mu: the door
}

func newBought(turn time.Duration) *bought {
	b := &bought{VMC: sim.New(sim.Options{Turn: turn, ID: "0000041342", Reply: boughtReply}), loaded: map[protocol.Slot]int{}}
	b.Adjust(func(c *sim.Cabinet) { c.Celsius, c.Humidity = 21, 45 })
	return b
}

func (b *bought) Load(slot protocol.Slot, pieces int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.loaded[slot] += pieces
	b.VMC.Load(slot, pieces)
}

func (b *bought) Pieces(slot protocol.Slot) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.loaded[slot] - b.Fallen(slot)
}

func (b *bought) FallenFrom(slot protocol.Slot) int { return b.Fallen(slot) }

// Spoil lasts: kioskd gives nothing more from such a slot until somebody has looked.
func (b *bought) Spoil(slot protocol.Slot) { b.SetFaults(slot, sim.Faults{Hang: true}) }

func (b *bought) Door(open bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = open
	b.Adjust(func(c *sim.Cabinet) { c.DoorOpen = open })
}

func (b *bought) DoorOpen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

func (b *bought) Cut(off time.Duration) { b.Restart(off) }

func (b *bought) Close() error { return nil }
