package trial

import (
	"flag"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"yaoju/firmware/elf"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

var (
	tears = flag.Int("tears", 2, "seeds of torn bytes for each EEPROM write of the power-cut sweep")
	every = flag.Duration("every", 20*time.Millisecond, "distance of the power cuts in time")
)

// A sound vend and everything the board writes after it: two records, a drop's,
// and a checkpoint.
const (
	cutWrites = 16 + 16 + 16 + 32
	cutTime   = 3600 * time.Millisecond
)

// Power is lost at every byte the board writes to EEPROM in a vend, torn in every
// way, and at every 20 ms of it; then the host asks the same id again. Whatever
// happens the motor starts at most once for it, the word on it fits what fell, and
// older vends are as they were.
func TestPowerCuts(t *testing.T) {
	for n := 1; n <= cutWrites; n++ {
		for seed := range *tears {
			t.Run(fmt.Sprintf("write %d seed %d", n, seed), func(t *testing.T) {
				t.Parallel()
				sweep(t, uint64(1+seed*1000+n), func(b bench) { b.CutAfterWrites(n) }, func(b bench) { b.CutAfterWrites(0) })
			})
		}
	}
	for at := time.Duration(1); at < cutTime; at += *every {
		t.Run(fmt.Sprintf("at %v", at), func(t *testing.T) {
			t.Parallel()
			sweep(t, uint64(at.Milliseconds()), func(b bench) { b.CutAt(at) }, func(b bench) { b.CutAt(-1) })
		})
	}
}

func sweep(t *testing.T, seed uint64, cut, spare func(bench)) {
	b := ready(t, elf.Options{Seed: seed, EEPROM: filepath.Join(t.TempDir(), "eeprom")}, board.DefaultConfigure())
	b.Load(slot, 5)
	b.Load(slot+1, 5)
	old := b.ended(500, slot)
	b.pass(storeLimit)
	before := b.status()

	const id = 501
	cut(b)
	lost := false
	for asked, end := false, b.Now()+2*vendLimit; ; {
		if b.Now() > end {
			t.Fatal("no end")
		}
		if !b.Powered() {
			lost = true
			b.pass(time.Second)
			b.PowerOn()
			b.pass(bootLimit)
			continue
		}
		var q board.Message = board.Vend{ID: id, Slot: slot + 1}
		if asked && !lost {
			q = board.Query{ID: id}
		}
		a, err := b.Ask(q, answerLimit)
		if err != nil {
			if b.Err() != nil {
				t.Fatal(err)
			}
			continue // it lost power while it was asked
		}
		asked = true
		if n, ok := a.(board.Nak); ok {
			t.Fatalf("%+v", n)
		}
		if s := a.(board.VendState); s.State != board.StateRunning {
			break
		}
		b.Run(20 * time.Millisecond) // an error stays in b.Err
	}
	spare(b)
	b.pass(time.Second)
	if !b.Powered() {
		b.PowerOn()
	}
	b.pass(bootLimit)

	s := b.ask(board.Query{ID: id}).(board.VendState)
	fell, starts := b.FallenFrom(slot+1), b.Starts(slot+1)
	switch {
	case starts > 1:
		t.Errorf("%d starts for one id: %+v", starts, s)
	case s.State == board.StateEnded && (s.Drops != 1 || fell != 1 || starts != 1):
		t.Errorf("ended: %+v, and %d fell in %d starts", s, fell, starts)
	case s.State == board.StateInterrupted && int(s.Drops) > fell:
		t.Errorf("interrupted: %+v, and %d fell", s, fell)
	case s.State == board.StateInterrupted && !lost:
		t.Errorf("interrupted without a loss of power: %+v", s)
	case s.State != board.StateEnded && s.State != board.StateInterrupted:
		t.Errorf("%+v after it was asked for", s)
	}
	if s := b.ask(board.Query{ID: 500}).(board.VendState); s != with(old, true) {
		t.Errorf("the vend before is now %+v, and was %+v", s, old)
	}
	after := b.status()
	if want := before.Turns + 1; after.Turns != want {
		t.Errorf("%d turns on the counter, want %d", after.Turns, want)
	}
	if seen := after.Drops - before.Drops; int(seen) > fell || s.State == board.StateEnded && seen != 1 {
		t.Errorf("%d drops more on the counter, %d fell", seen, fell)
	}
	if away := after.NotHome.Has(slot + 1); away == (s.State == board.StateEnded) {
		t.Errorf("%+v: not home %v", s, away)
	}
	// The next vend is served.
	if s := b.ended(502, slot); s.Drops != 1 {
		t.Errorf("the next vend: %+v", s)
	}
	if h := b.ask(board.Hello{Proto: board.Version}).(board.HelloIs); h.Highest != 502 {
		t.Errorf("highest id %d", h.Highest)
	}
}

// with is s as a later answer has it.
func with(s board.VendState, repeat bool) board.VendState {
	s.Repeat = repeat
	return s
}

// The journal's promise over its whole length: JournalKeep vends are remembered,
// older ones are forgotten and never turn again, skipped ones are told apart.
func TestJournalWraps(t *testing.T) {
	t.Parallel()
	c := board.DefaultConfigure()
	b := ready(t, elf.Options{EEPROM: filepath.Join(t.TempDir(), "eeprom")}, c)
	b.Load(slot, 200)
	id := protocol.VendID(0)
	for range board.JournalKeep + 20 {
		id += 2 // the odd ones are skipped
		if s := b.ended(id, slot); s.Drops != 1 {
			t.Fatalf("vend %d: %+v", id, s)
		}
	}
	b.pass(storeLimit)
	for range 2 {
		starts := b.Starts(slot)
		for back := range protocol.VendID(board.JournalKeep) {
			if s := b.ask(board.Query{ID: id - 2*back}).(board.VendState); s.State != board.StateEnded || s.Drops != 1 {
				t.Fatalf("%d vends back: %+v", back, s)
			}
			if back == 0 {
				continue
			}
			if s := b.ask(board.Query{ID: id - 2*back + 1}).(board.VendState); s.State != board.StateSkipped {
				t.Fatalf("skipped, %d vends back: %+v", back, s)
			}
		}
		if s := b.ask(board.Query{ID: 1}).(board.VendState); s.State != board.StateForgotten {
			t.Errorf("the first: %+v", s)
		}
		if n, ok := b.ask(board.Vend{ID: 2, Slot: slot}).(board.Nak); !ok || n.Reason != board.NakStale {
			t.Errorf("the first again: %+v", n)
		}
		if h := b.ask(board.Hello{Proto: board.Version}).(board.HelloIs); h.Highest != id {
			t.Errorf("highest %d, want %d", h.Highest, id)
		}
		if n := b.Starts(slot); n != starts {
			t.Errorf("%d starts more", n-starts)
		}
		b.cycle()
	}
}
