// Package agree_test holds the firmware and its twin in daemon/machine/sim to the
// same histories: each plays the scripts in testdata, and random ones, and both
// must say and move the same. The scripts are the rules of protocol/board by
// example. The package knows how to drive both boards and nothing of how they work.
package agree_test

import (
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/machine/sim"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// serial is the serial number of both boards.
const serial = 4711

// What a board gets before a script begins: it promises to answer within 300 ms, and
// takes 130 ms more to store its configuration.
const (
	bootTime   = 300 * time.Millisecond
	settleTime = 600 * time.Millisecond
)

// rig is a board in its cabinet, as a script sees it. Errors end the test.
type rig interface {
	now() time.Duration // since power came first
	wait(d time.Duration)
	send(p []byte)
	received() []byte // since the last call
	moves() []move    // all so far, oldest first

	load(slot protocol.Slot, n int)
	faults(slot protocol.Slot, f sim.Faults) // while slot is at rest
	pair(left board.SlotSet)                 // these slots drive their right neighbour too
	door(open bool)
	sensor(dark, blind bool)
	journal(fails bool)
	silent(on bool)
	climate(c sim.Climate)
	spontaneous(slot protocol.Slot)
	power(on bool)
	reset() // by the reset line
	hang()  // the program hangs until the watchdog bites
	tray(slot protocol.Slot) tray
}

// move is a motor that got or lost power.
type move struct {
	at   time.Duration
	slot protocol.Slot
	on   bool
}

// tray is the truth about one slot.
type tray struct{ pieces, fallen, starts int }

// A board hangs for watchdogTime before its watchdog bites; hang takes hangTime.
const (
	watchdogTime = 512 * time.Millisecond
	hangTime     = 600 * time.Millisecond
)

// twin is the rig around daemon/machine/sim. It lives in a synctest bubble.
type twin struct {
	b     *sim.Board
	line  io.ReadWriteCloser
	began time.Time
	dead  bool // the line

	mu  sync.Mutex
	got []byte // guarded by mu
}

// onTwin runs f with a new twin, in virtual time.
func onTwin(t *testing.T, f func(t *testing.T, w *twin)) {
	synctest.Test(t, func(t *testing.T) {
		near, far := sim.Line()
		w := &twin{b: sim.New(sim.Options{Serial: serial, Blank: true}), line: near, began: time.Now()}
		var served sync.WaitGroup
		served.Go(func() { w.b.Serve(t.Context(), far) }) // it ends with the line
		served.Go(w.listen)
		f(t, w)
		near.Close()
		served.Wait()
	})
}

// listen collects what the board says until the line ends.
func (w *twin) listen() {
	var chunk [256]byte
	for {
		n, err := w.line.Read(chunk[:])
		w.mu.Lock()
		w.got = append(w.got, chunk[:n]...)
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (w *twin) now() time.Duration { return time.Since(w.began) }

func (w *twin) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *twin) send(p []byte) {
	w.line.Write(p) // a line in memory takes a few frames; it fails once closed, which is after the test
}

func (w *twin) received() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.got
	w.got = nil
	return p
}

func (w *twin) moves() (all []move) {
	for _, m := range w.b.Moves() {
		all = append(all, move{m.At.Sub(w.began), m.Slot, m.On})
	}
	return all
}

func (w *twin) load(slot protocol.Slot, n int)          { w.b.Load(slot, n) }
func (w *twin) faults(slot protocol.Slot, f sim.Faults) { w.b.SetFaults(slot, f) }
func (w *twin) pair(board.SlotSet)                      {} // it knows from its configuration
func (w *twin) door(open bool)                          { w.b.Adjust(func(c *sim.Cabinet) { c.DoorOpen = open }) }
func (w *twin) journal(fails bool)                      { w.b.Adjust(func(c *sim.Cabinet) { c.JournalFails = fails }) }
func (w *twin) climate(k sim.Climate)                   { w.b.Adjust(func(c *sim.Cabinet) { c.Climate = k }) }
func (w *twin) spontaneous(slot protocol.Slot)          { w.b.Spontaneous(slot) }
func (w *twin) reset()                                  { w.b.Reset(board.ResetExternal) }
func (w *twin) sensor(dark, blind bool) {
	w.b.Adjust(func(c *sim.Cabinet) { c.SensorDark, c.SensorBlind = dark, blind })
}

func (w *twin) silent(on bool) {
	w.dead = on
	w.b.Adjust(func(c *sim.Cabinet) { c.Silent = on })
}

func (w *twin) power(on bool) {
	if on {
		w.b.PowerOn()
		return
	}
	w.b.PowerOff()
}

// hang is what it looks like from outside: silence, then another boot. A motion
// that would end meanwhile would end here and not on a board that hangs.
func (w *twin) hang() {
	dead := w.dead
	w.silent(true)
	w.wait(watchdogTime)
	w.b.Reset(board.ResetWatchdog)
	w.silent(dead)
	w.wait(hangTime - watchdogTime)
}

func (w *twin) tray(slot protocol.Slot) tray {
	return tray{w.b.Pieces(slot), w.b.FallenFrom(slot), w.b.Starts(slot)}
}

// inOrder sorts moves of the same instant by slot: a pair's motors get their power
// a few microseconds one after the other.
func inOrder(moves []move) []move {
	slices.SortStableFunc(moves, func(a, b move) int {
		if d := a.at - b.at; d.Abs() > 2*time.Millisecond {
			return int(max(-1, min(1, d)))
		}
		return int(a.slot) - int(b.slot)
	})
	return moves
}
