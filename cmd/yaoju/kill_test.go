package main

import (
	"crypto/ed25519"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	sim "yaoju/daemon/card/sim"
	"yaoju/daemon/district"
	"yaoju/protocol"
)

var (
	seeds = flag.Int("seeds", 20, "kills of the running machine")
	seed  = flag.Uint64("seed", 1, "first seed")
)

// kioskd is killed at any moment of an order, and started again. Whoever was
// before it then tries once more: at the end everybody has exactly one box, each
// id turned at most once, ledger, tray and district agree.
func TestKill(t *testing.T) { onBothBoards(t, kills) }

// onBothBoards runs a test with the board in software and with the real firmware.
func onBothBoards(t *testing.T, test func(t *testing.T, firmware bool)) {
	for name, firmware := range map[string]bool{"twin": false, "firmware": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, firmware)
		})
	}
}

func kills(t *testing.T, firmware bool) {
	var bays []bay
	for slot := protocol.Slot(1); int(slot) <= 5+*seeds/10; slot++ {
		bays = append(bays, bayOf(slot, "condom-52", 12, "2030-01-31"))
	}
	plan, n, window := quick(t, bays...), *seeds, 1600
	if firmware {
		// Its spirals turn as slowly as real ones.
		plan.firmware, n, window = true, (*seeds+3)/4, 4000
	}
	tn := open(t, plan)
	p := newPerson(t, tn)
	killed := map[string]int{}
	for i := range n {
		rng := rand.New(rand.NewPCG(*seed+uint64(i), 9))
		who := sim.Resident("测试甲", "110105", fmt.Sprintf("19%02d0101", 50+i%49), i%1000)
		p.awaits("attract")
		p.tap("next", "")
		p.awaits("choose")
		p.tap("pick", "condom-52")
		p.awaits("scan")
		tn.rig.reader.Lay(who)
		// From before the card is found to after the box fell: find within 300 ms,
		// read 50 ms, journal 64 ms, a turn of 500 or 2500 ms, the fall, the thanks.
		time.Sleep(time.Duration(rng.IntN(window)) * time.Millisecond)
		_, _, screen := p.look()
		tn.kiosk.kill()
		killed[screen]++
		tn.rig.reader.Lift()
		if err := tn.startKiosk(t.Context()); err != nil {
			t.Fatalf("seed %d: %v", *seed+uint64(i), err)
		}
		p.awaits("attract")

		// The same person again: a box that fell is counted, a box that did not is not.
		p.tap("next", "")
		p.awaits("choose")
		p.tap("pick", "condom-52")
		p.awaits("scan")
		tn.rig.reader.Lay(who)
		end := p.awaits("take", "early")
		tn.rig.reader.Lift()
		p.tap("next", "")
		if end == "take" {
			p.awaits("done")
			p.tap("next", "")
		}
		fallen := 0
		for _, b := range bays {
			fallen += tn.rig.board.FallenFrom(b.slot)
		}
		if fallen != i+1 {
			t.Fatalf("seed %d: killed on %q; %d boxes fell for %d people (replay: go test ./cmd/yaoju -run TestKill -seeds 1 -seed %d)", *seed+uint64(i), screen, fallen, i+1, *seed+uint64(i))
		}
	}
	t.Logf("killed on: %v", killed)
	p.awaits("attract")
	agree(t, tn)
}

// agree stops the machine and checks that tray, ledger and district say the same.
func agree(t *testing.T, tn *town) {
	t.Helper()
	machine := siteOf(0).machine
	s := tn.settled(t)
	if s.Open != 0 {
		t.Errorf("%d vends open", s.Open)
	}
	for _, slot := range s.Slots {
		if in := tn.rig.board.Pieces(slot.Slot); slot.Pieces != in || slot.Held != 0 {
			t.Errorf("slot %d: ledger says %d pieces and %d held, %d stand in the spiral", slot.Slot, slot.Pieces, slot.Held, in)
		}
		if out := tn.rig.board.FallenFrom(slot.Slot); int(slot.Dispensed) != out {
			t.Errorf("slot %d: ledger says %d given out, %d fell", slot.Slot, slot.Dispensed, out)
		}
	}
	for id := protocol.VendID(1); tn.rig.twin != nil && id <= tn.rig.twin.Hello().Highest; id++ {
		if n := tn.rig.twin.Turns(id); n > 1 {
			t.Errorf("vend %d turned its motor %d times", id, n)
		}
	}
	if err := tn.district.stop(); err != nil {
		t.Fatal(err)
	}
	d := tn.openDistrict(t)
	defer d.Close()
	levels, err := d.Levels(t.Context(), machine)
	if err != nil {
		t.Fatal(err)
	}
	far := map[protocol.Slot]int{}
	for _, l := range levels {
		far[l.Slot] += l.Pieces
	}
	for _, slot := range s.Slots {
		if far[slot.Slot] != slot.Pieces {
			t.Errorf("slot %d: district says %d pieces, ledger %d", slot.Slot, far[slot.Slot], slot.Pieces)
		}
	}
}

// settled stops the machine once the district has acknowledged all it wrote, and
// returns what its ledger then says.
func (t *town) settled(tb testing.TB) protocol.State {
	tb.Helper()
	for range 20 {
		if err := t.kiosk.stop(); err != nil {
			tb.Fatal(err)
		}
		book := t.audit(tb)
		s, err := book.Snapshot(tb.Context())
		if err != nil {
			tb.Fatal(err)
		}
		if err := book.Close(); err != nil {
			tb.Fatal(err)
		}
		if s.Acked.Seq >= s.Head-1 { // opening it for the audit has added one record
			return s
		}
		if err := t.startKiosk(tb.Context()); err != nil {
			tb.Fatal(err)
		}
		newPerson(tb, t).awaits("attract", "empty")
	}
	tb.Fatal("the district does not acknowledge all the machine wrote")
	return protocol.State{}
}

// openDistrict opens the store of a district that is not running.
func (t *town) openDistrict(tb testing.TB) *district.District {
	tb.Helper()
	d, err := district.Open(tb.Context(), district.Options{Path: filepath.Join(t.dir, "district", "district.db"), Zone: t.zone,
		Signer: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	return d
}
