package main

import (
	"testing"

	sim "yaoju/daemon/card/sim"
	"yaoju/protocol"
)

// The demo's other board: residents are served, and a jam is said.
func TestBoughtBoard(t *testing.T) {
	plan := quick(t, bayOf(1, "condom-52", 3, "2029-01-31"), bayOf(11, "gel", 3, "2030-01-31"))
	plan.bought = true
	tn := open(t, plan)
	p := newPerson(t, tn)
	order := func(seq int, product protocol.ProductID) {
		t.Helper()
		p.awaits("attract")
		p.tap("next", "")
		p.awaits("choose")
		p.tap("pick", product)
		p.awaits("scan")
		tn.rig.reader.Lay(sim.Resident("测试甲", "110105", "19900101", seq))
	}
	order(2, "condom-52")
	p.awaits("take")
	tn.rig.reader.Lift()
	p.tap("next", "")
	p.awaits("done")
	p.tap("next", "")
	tn.rig.board.Spoil(11)
	order(4, "gel")
	p.awaits("jam")
	if n, left := tn.rig.board.FallenFrom(1), tn.rig.board.Pieces(11); n != 1 || left != 3 {
		t.Errorf("%d boxes fell from slot 1 and %d are left in slot 11, want 1 and 3", n, left)
	}
}
