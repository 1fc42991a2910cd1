package vending

import (
	"testing"

	"yaoju/protocol"
)

// Every report of the published table, and none besides, means something.
func TestEveryReport(t *testing.T) {
	moving := []byte{0x01, 0x10, 0x11, 0x14, 0x16, 0x18, 0x19, 0x22, 0x23, 0x26}
	ends := map[byte][2]protocol.Result{ // with a drop sensor, and without
		0x02: {{Outcome: protocol.Dispensed, Pieces: 1}, unknown()},
		0x24: {{Outcome: protocol.Dispensed, Pieces: 1}, unknown()},
		0x03: {{Outcome: protocol.Kept, Cause: protocol.FaultNoDrop}, {Outcome: protocol.Unknown, Cause: protocol.FaultNoDrop}},
		0x06: {{Outcome: protocol.Kept, Cause: protocol.FaultNoMotor}, {Outcome: protocol.Kept, Cause: protocol.FaultNoMotor}},
	}
	same := func(cause protocol.Fault, codes ...byte) {
		for _, c := range codes {
			r := protocol.Result{Outcome: protocol.Unknown, Cause: cause}
			ends[c] = [2]protocol.Result{r, r}
		}
	}
	same(protocol.FaultRunaway, 0x04)
	same(protocol.FaultElevator, 0x07, 0x12, 0x13)
	same(protocol.FaultMicrowave, 0x15, 0x17, 0x20, 0x21, 0x25, 0x28, 0x29, 0x30, 0x31, 0x32)
	same(protocol.FaultInterrupted, 0xFF)
	known := map[byte]bool{}
	for _, c := range moving {
		known[c] = true
		if p, _, ok := meaning(c); !ok || p != proofMoving {
			t.Errorf("%02x: got proof %d, %v; want moving", c, p, ok)
		}
	}
	for c, want := range ends {
		known[c] = true
		p, cause, ok := meaning(c)
		if !ok || p == proofMoving {
			t.Errorf("%02x: got proof %d, %v; want an end", c, p, ok)
		}
		for i, sensor := range []bool{true, false} {
			if got := judge(p, cause, sensor); got != want[i] {
				t.Errorf("%02x, drop sensor %v: got %+v, want %+v", c, sensor, got, want[i])
			}
		}
	}
	for c := range 256 {
		if _, _, ok := meaning(byte(c)); ok != known[byte(c)] {
			t.Errorf("%02x: known is %v", c, ok)
		}
	}
}

// Nothing but a drop that was seen is dispensed, whatever the board reports.
func TestDispensedNeedsADrop(t *testing.T) {
	for c := range 256 {
		p, cause, _ := meaning(byte(c))
		if r := judge(p, cause, false); r.Outcome == protocol.Dispensed || r.Pieces != 0 {
			t.Errorf("%02x without a drop sensor: %+v", c, r)
		}
		if r := judge(p, cause, true); (r.Outcome == protocol.Dispensed) != (p == proofTurned) || r.Cause == 0 && r.Outcome != protocol.Dispensed {
			t.Errorf("%02x: %+v", c, r)
		}
	}
}

func TestRefusals(t *testing.T) {
	for status, want := range map[byte]protocol.Fault{
		0x01: 0, 0x02: 0, 0x03: protocol.FaultNoMotor, 0x04: protocol.FaultPaused, 0x05: protocol.FaultNotTaken, 0x06: protocol.FaultHatch,
		0x07: protocol.FaultElevator, 0x08: protocol.FaultElevator, 0x09: protocol.FaultMicrowave, 0x12: protocol.FaultNotTaken, 0x17: protocol.FaultElevator, 0x18: protocol.FaultElevator, 0x23: protocol.FaultMicrowave,
	} {
		if got := refusal(status); got != want {
			t.Errorf("check answered by %02x: got %s, want %s", status, got.Code(), want.Code())
		}
	}
	for status, want := range map[byte]protocol.Fault{0: 0, 1: protocol.FaultNotTaken, 2: protocol.FaultHatch, 3: protocol.FaultElevator, 4: protocol.FaultElevator, 9: protocol.FaultElevator} {
		if got := liftFault(status); got != want {
			t.Errorf("elevator's condition %02x: got %s, want %s", status, got.Code(), want.Code())
		}
	}
}
