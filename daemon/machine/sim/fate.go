package sim

import (
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

// Step is a moment in a vend at which power may be lost.
type Step uint8

// The steps, in the order a vend passes them.
const (
	Never       Step = 0
	BeforeStore Step = 1 // the id is not in the journal yet
	AfterStore  Step = 2 // it is, and the motor has not moved
	MidTurn     Step = 3 // half way round
	AfterDrop   Step = 4 // a piece was seen, and the journal does not say so yet
	BeforeEnd   Step = 5 // the journal has the drop, and not the end
)

// cut is a loss of power, or a reset, that is to come.
type cut struct {
	step  Step
	cause board.ResetCause // what the next boot says
	off   time.Duration    // until power is back; 0 is until PowerOn
}

// CutAt lets the next vend lose power at step. Power is back after off and the
// board then boots with cause; off 0 waits for PowerOn. A watchdog is a cut with
// board.ResetWatchdog and a millisecond.
func (b *Board) CutAt(step Step, cause board.ResetCause, off time.Duration) {
	b.do(func(time.Time) { b.plan = cut{step, cause, off} })
}

// nextPlan is how the vend that starts now will lose power.
func (b *Board) nextPlan() cut {
	p := b.plan
	b.plan = cut{}
	c := &b.cabinet.Chances
	switch step := Step(1 + b.opt.Rand.IntN(int(BeforeEnd))); {
	case p.step != Never:
	case b.chance(c.Cut):
		p = cut{step, board.ResetPower, time.Second + time.Duration(b.opt.Rand.IntN(4000))*time.Millisecond}
	case b.chance(c.Reset):
		p = cut{step, board.ResetWatchdog, time.Millisecond}
	}
	return p
}

func (b *Board) cutPower(now time.Time, c cut) {
	b.halt(now)
	b.back, b.backAs = time.Time{}, c.cause
	if c.off > 0 {
		b.back = now.Add(c.off)
	}
}

// PowerOff takes the board's power away until PowerOn.
func (b *Board) PowerOff() {
	b.do(func(now time.Time) { b.cutPower(now, cut{}) })
}

// PowerOn gives the board power.
func (b *Board) PowerOn() {
	b.do(func(now time.Time) {
		if !b.powered {
			b.boot(now, board.ResetPower)
		}
	})
}

// Reset restarts the firmware as cause says. What lies in EEPROM stays.
func (b *Board) Reset(cause board.ResetCause) {
	b.do(func(now time.Time) {
		b.halt(now)
		b.boot(now, cause)
	})
}

// Adjust changes the cabinet. f must not call the board.
func (b *Board) Adjust(f func(*Cabinet)) {
	b.do(func(now time.Time) {
		was := b.dark()
		if f(&b.cabinet); b.dark() && !was {
			b.seen(now) // whatever darkens the sensor is counted as a piece
		}
	})
}

// SetFaults sets what is wrong with slot, from its next motion on. A zero Faults mends it.
func (b *Board) SetFaults(slot protocol.Slot, f Faults) {
	b.do(func(time.Time) {
		b.slots[slot].faults = f
		if b.move == nil || !slices.Contains(b.halves(b.move.slot), slot) {
			b.clearLuck(slot)
		}
	})
}

// Load puts n pieces more into slot.
func (b *Board) Load(slot protocol.Slot, n int) {
	b.do(func(time.Time) { b.slots[slot].pieces += n })
}

// Spontaneous lets one piece of slot fall by itself, if there is one.
func (b *Board) Spontaneous(slot protocol.Slot) {
	b.do(func(now time.Time) { b.fallFree(slot, now) })
}

func (b *Board) fallFree(slot protocol.Slot, t time.Time) {
	if b.slots[slot].pieces > 0 {
		b.slots[slot].pieces--
		b.drop(slot, 0, t, 1)
	}
}

// Turns returns how often the motor was started for vend id: half-turns that
// follow a turn are part of it. More than 1 is what must never be.
func (b *Board) Turns(id protocol.VendID) (n int) {
	b.do(func(time.Time) { n = b.truth.turns[id] })
	return n
}

// Fallen returns how many pieces really fell because of vend id, seen or not.
func (b *Board) Fallen(id protocol.VendID) (n int) {
	b.do(func(time.Time) { n = b.truth.fallen[id] })
	return n
}

// FallenFrom returns how many pieces fell from slot, for whatever reason.
func (b *Board) FallenFrom(slot protocol.Slot) (n int) {
	b.do(func(time.Time) { n = b.slots[slot].fallen })
	return n
}

// Starts returns how often slot's motor got power, for whatever reason.
func (b *Board) Starts(slot protocol.Slot) (n int) {
	b.do(func(time.Time) { n = b.slots[slot].starts })
	return n
}

// Moves returns which motors got and lost power and when, oldest first: the last few thousand.
func (b *Board) Moves() (all []Move) {
	b.do(func(time.Time) { all = slices.Clone(b.moves) })
	return all
}

// Next returns when something happens next without a frame and without anybody's
// hand; zero is never.
func (b *Board) Next() (at time.Time) {
	b.do(func(time.Time) {
		var e earliest
		b.physical(&e)
		e.add(b.nextEvent())
		at = e.at
	})
	return at
}

// Pieces returns how many pieces are left in slot.
func (b *Board) Pieces(slot protocol.Slot) (n int) {
	b.do(func(time.Time) { n = b.slots[slot].pieces })
	return n
}

// Status returns what the board would answer to STATUS, whether or not it is connected.
func (b *Board) Status() (s board.StatusIs) {
	b.do(func(now time.Time) { s = b.statusIs(now) })
	return s
}

// Hello returns what the board would answer to HELLO.
func (b *Board) Hello() (h board.HelloIs) {
	b.do(func(now time.Time) { h = b.helloIs(now) })
	return h
}

// Noise is what the line does to frames in either direction.
type Noise struct{ ToBoard, ToHost Spoil }

// Spoil is what happens to frames, each with a probability of 0 to 1.
type Spoil struct {
	Lose   float64 // the frame is gone
	Flip   float64 // one bit is another
	Repeat float64 // it comes twice
}

func (s Spoil) spoil(r *rand.Rand, frame []byte) []byte {
	if s == (Spoil{}) || len(frame) < 2 {
		return frame
	}
	if r.Float64() < s.Lose {
		return nil
	}
	out := append([]byte(nil), frame...)
	if r.Float64() < s.Flip {
		out[r.IntN(len(out))] ^= 1 << r.IntN(8)
	}
	if r.Float64() < s.Repeat {
		out = append(out, out...)
	}
	return out
}

// noisy spoils frames on their way to the board.
type noisy struct {
	r     io.Reader
	spoil func([]byte) []byte
	part  []byte // of a frame that is not complete yet
	out   []byte // spoiled, to be read
}

func (n *noisy) Read(p []byte) (int, error) {
	for len(n.out) == 0 {
		var chunk [64]byte
		k, err := n.r.Read(chunk[:])
		for _, c := range chunk[:k] {
			n.part = append(n.part, c)
			if c == 0 || len(n.part) > board.MaxFrame {
				n.out = append(n.out, n.spoil(n.part)...)
				n.part = n.part[:0]
			}
		}
		if err != nil && len(n.out) == 0 {
			return 0, err
		}
	}
	k := copy(p, n.out)
	n.out = append(n.out[:0], n.out[k:]...)
	return k, nil
}
