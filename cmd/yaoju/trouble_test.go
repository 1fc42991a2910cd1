package main

import (
	"io"
	"strings"
	"testing"
	"time"

	sim "yaoju/daemon/card/sim"
)

// Everything is unplugged, cut or killed once, and heals by itself when it is right
// again; what nobody can know is said to be unknown.
func TestTrouble(t *testing.T) { onBothBoards(t, trouble) }

func trouble(t *testing.T, firmware bool) {
	plan := quick(t, bayOf(1, "condom-52", 3, "2029-01-31"), bayOf(2, "condom-52", 3, "2030-01-31"))
	plan.firmware = firmware
	tn := open(t, plan)
	p := newPerson(t, tn)
	order := func(seq int) {
		t.Helper()
		p.awaits("attract")
		p.tap("next", "")
		p.awaits("choose")
		p.tap("pick", "condom-52")
		p.awaits("scan")
		tn.rig.reader.Lay(sim.Resident("测试甲", "110105", "19900101", seq))
	}
	ends := func(screen string) {
		t.Helper()
		p.awaits(screen)
		tn.rig.reader.Lift()
		p.tap("next", "")
	}

	for _, device := range []string{readerLine, boardLine} {
		p.awaits("attract")
		if err := tn.rig.cable(t.Context(), device, false); err != nil {
			t.Fatal(err)
		}
		p.awaits("fault")
		if err := tn.rig.cable(t.Context(), device, true); err != nil {
			t.Fatal(err)
		}
		p.awaits("attract")
	}

	// Power fails under the board in mid-turn: nobody can tell, so the desk it is, and
	// the slot gives nothing more. The other one does.
	order(2)
	p.awaits("dispense")
	for deadline := time.Now().Add(10 * time.Second); !tn.rig.board.Turning(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no motor turns")
		}
	}
	tn.rig.board.Cut(time.Second)
	ends("unsure")
	p.awaits("attract")
	order(2)
	ends("early") // held: it counts as taken until somebody has looked
	order(4)
	ends("take")
	ends("done")
	if n := tn.rig.board.FallenFrom(2); n != 1 {
		t.Errorf("%d boxes fell from the other slot, want 1", n)
	}

	// The district is killed while residents come, and started again.
	tn.district.kill()
	order(6)
	ends("take")
	ends("done")
	if err := tn.startDistrict(t.Context()); err != nil {
		t.Fatal(err)
	}
	page := func() string {
		r, err := p.client.Get("http://" + tn.console + "/machines/" + string(siteOf(0).machine) + "?lang=en")
		if err != nil {
			return ""
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return ""
		}
		return string(text)
	}
	told := func() bool {
		text := page()
		return strings.Contains(text, "F-108") && strings.Contains(text, "2 given out")
	}
	if err := tn.district.await(t.Context(), 90*time.Second, told); err != nil { // the uplink's longest pause
		t.Fatalf("%v\nthe console says:\n%s", err, page())
	}

	s := tn.settled(t)
	if s.Open != 1 || len(s.Slots) != 2 || s.Slots[0].Held != 1 || s.Slots[0].Blocked != "unknown" || s.Slots[1].Dispensed != 2 || s.Slots[1].Pieces != 1 {
		t.Errorf("the ledger says %+v", s)
	}
}
