package machine

import (
	"testing"
	"time"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		name string
		s    board.VendState
		want protocol.Result
	}{
		{"one fell", board.VendState{State: board.StateEnded, Drops: 1, RunMS: 2500, DropMS: 2100},
			protocol.Result{Outcome: protocol.Dispensed, Pieces: 1, RunMS: 2500, DropMS: 2100}},
		{"two fell", board.VendState{State: board.StateEnded, Drops: 2, Cause: uint8(protocol.FaultDoubleDrop)},
			protocol.Result{Outcome: protocol.Dispensed, Pieces: 2, Cause: protocol.FaultDoubleDrop}},
		{"two fell, and the board thought of something else", board.VendState{State: board.StateEnded, Drops: 2, Cause: uint8(protocol.FaultRunaway)},
			protocol.Result{Outcome: protocol.Dispensed, Pieces: 2, Cause: protocol.FaultDoubleDrop}},
		{"fell, then jammed", board.VendState{State: board.StateEnded, Drops: 1, Cause: uint8(protocol.FaultJam)},
			protocol.Result{Outcome: protocol.Dispensed, Pieces: 1, Cause: protocol.FaultJam}},
		{"fell, then power was lost", board.VendState{State: board.StateInterrupted, Drops: 1, Cause: uint8(protocol.FaultInterrupted)},
			protocol.Result{Outcome: protocol.Dispensed, Pieces: 1, Cause: protocol.FaultInterrupted}},
		{"jam", board.VendState{State: board.StateEnded, Cause: uint8(protocol.FaultJam), RunMS: 900},
			protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultJam, RunMS: 900}},
		{"full turns, nothing fell", board.VendState{State: board.StateEnded, Cause: uint8(protocol.FaultNoDrop)},
			protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultNoDrop}},
		{"nothing fell and no cause given", board.VendState{State: board.StateEnded},
			protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultNoDrop}},
		{"power lost, nothing seen", board.VendState{State: board.StateInterrupted},
			protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultInterrupted}},
		{"forgotten", board.VendState{State: board.StateForgotten},
			protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultUnknownVend}},
		{"still running, although one fell", board.VendState{State: board.StateRunning, Drops: 1},
			protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultUnknownVend}},
		{"a state of tomorrow", board.VendState{State: 99, Drops: 1},
			protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultUnknownVend}},
		{"never heard of", board.VendState{State: board.StateNone},
			protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultBoardSilent}},
		{"never will turn", board.VendState{State: board.StateSkipped},
			protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultBoardSilent}},
	} {
		if got := judge(tt.s); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// A refusal always has a cause, and one that blames the slot only where it is to blame.
func TestRefusal(t *testing.T) {
	for reason, want := range map[board.Reason]protocol.Fault{
		board.NakBadMsg: protocol.FaultBoardSilent, board.NakBadSlot: protocol.FaultNoMotor, board.NakBusy: protocol.FaultBoardSilent,
		board.NakDoorOpen: protocol.FaultDoor, board.NakJournal: protocol.FaultJournal, board.NakStale: protocol.FaultBoardSilent,
		board.NakNotHome: protocol.FaultNotHome, board.NakDropSensor: protocol.FaultDropSensor, board.NakBadValue: protocol.FaultBoardSilent,
		board.NakLatched: protocol.FaultRunaway,
	} {
		if got := refusal(board.Nak{Reason: reason, Fault: uint8(protocol.FaultRunaway)}); got != want {
			t.Errorf("reason %d: %s, want %s", reason, got.Code(), want.Code())
		}
	}
}

func TestProgress(t *testing.T) {
	const usual = 2500 * time.Millisecond
	last := 0
	for _, tt := range []struct {
		phase board.Phase
		ran   uint16
		want  int
	}{
		{board.PhaseStore, 0, 0},
		{board.PhaseLeave, 100, 3},
		{board.PhaseReturn, 1250, 40},
		{board.PhaseReturn, 2500, 80},
		{board.PhaseReturn, 4000, 80},
		{board.PhaseWatch, 2500, 80},
		{board.PhaseAgain, 5000, 89},
		{board.PhaseWatch, 7500, 98},
		{board.PhaseAgain, 20000, 98},
		{board.PhaseEnd, 20000, 99},
	} {
		got := progress(board.VendState{Phase: tt.phase, RunMS: tt.ran}, usual)
		if got != tt.want || got < last {
			t.Errorf("phase %d after %d ms: %d, want %d", tt.phase, tt.ran, got, tt.want)
		}
		last = got
	}
}
