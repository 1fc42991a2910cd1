// Package trial puts the motor board's real firmware on trial, as it was compiled
// for the chip: every fault its cabinet can have, power cuts at every step, a hung
// program, a bad line, and the daemon's ledger over all of it.
//
// It knows nothing of how the firmware is made; the rules it holds it to are in
// the text of protocol/board.
package trial

import (
	"fmt"
	"os"
	"testing"
	"time"

	"yaoju/firmware/elf"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

func TestMain(m *testing.M) {
	if err := elf.Make(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const (
	bootLimit   = 300 * time.Millisecond // from power to the first answer
	answerLimit = 100 * time.Millisecond // the daemon's own
	storeLimit  = 300 * time.Millisecond // a configuration or a checkpoint in EEPROM

	// vendLimit bounds a vend: four starts of at most TurnMS, each with its watch.
	vendLimit = 4 * (5000 + board.WatchMS) * time.Millisecond
)

// bench is a board in lock step that fails its test with everything that goes wrong.
type bench struct {
	testing.TB
	*elf.Board
}

// blank starts a board that was never told anything.
func blank(t testing.TB, o elf.Options) bench {
	t.Helper()
	b, err := elf.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("the simulated board: %v", err)
		}
	})
	r := bench{t, b}
	r.pass(bootLimit)
	return r
}

// ready starts a board that knows what hangs on it.
func ready(t testing.TB, o elf.Options, c board.Configure) bench {
	t.Helper()
	b := blank(t, o)
	if h, ok := b.ask(c).(board.HelloIs); !ok || h.ConfigHash != c.Hash() {
		t.Fatalf("configured: %+v", h)
	}
	b.pass(storeLimit)
	for _, left := range c.Coupled.List() {
		b.Pair(left)
	}
	return b
}

func (b bench) pass(d time.Duration) {
	b.Helper()
	if err := b.Run(d); err != nil {
		b.Fatal(err)
	}
}

func (b bench) ask(m board.Message) board.Message {
	b.Helper()
	a, err := b.Ask(m, answerLimit)
	if err != nil {
		b.Fatal(err)
	}
	return a
}

func (b bench) status() board.StatusIs {
	b.Helper()
	s, ok := b.ask(board.Status{}).(board.StatusIs)
	if !ok {
		b.Fatalf("STATUS was not answered with one")
	}
	return s
}

// vend asks for a vend and lets it come to its end.
func (b bench) vend(id protocol.VendID, slot protocol.Slot) board.Message {
	b.Helper()
	a := b.ask(board.Vend{ID: id, Slot: slot})
	for end := b.Now() + vendLimit; b.Now() < end; b.pass(50 * time.Millisecond) {
		s, ok := a.(board.VendState)
		if !ok || s.State != board.StateRunning {
			return a
		}
		a = b.ask(board.Query{ID: id})
	}
	b.Fatalf("vend %d is not over after %v", id, vendLimit)
	return nil
}

// ended is vend for one that is expected to end by itself.
func (b bench) ended(id protocol.VendID, slot protocol.Slot) board.VendState {
	b.Helper()
	s, ok := b.vend(id, slot).(board.VendState)
	if !ok || s.State != board.StateEnded {
		b.Fatalf("vend %d: %+v, want it to end", id, s)
	}
	return s
}

// cycle takes power away for a second.
func (b bench) cycle() {
	b.Helper()
	b.PowerOff()
	b.pass(time.Second)
	b.PowerOn()
	b.pass(bootLimit)
}

// longest returns how long a motor ran without a pause at most.
func (b bench) longest() (d time.Duration) {
	for _, m := range b.Moves() {
		d = max(d, m.Ran)
	}
	return d
}
