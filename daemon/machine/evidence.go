package machine

import (
	"errors"
	"fmt"
	"time"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

// judge is the one place where evidence becomes an outcome. A drop seen is
// dispensed, whatever came after. A vend that ended without one is kept. Where
// the end is not on record nobody can tell.
func judge(s board.VendState) protocol.Result {
	r := protocol.Result{Outcome: protocol.Unknown, Cause: protocol.Fault(s.Cause), RunMS: int(s.RunMS), DropMS: int(s.DropMS)}
	switch s.State {
	case board.StateEnded, board.StateInterrupted:
		if s.Drops > 0 {
			r.Outcome, r.Pieces = protocol.Dispensed, int(s.Drops)
		}
		if s.Drops > 1 {
			r.Cause = protocol.FaultDoubleDrop
		}
		if s.Drops > 0 {
			return r
		}
		if s.State == board.StateInterrupted {
			r.Cause = protocol.FaultInterrupted
			return r
		}
		r.Outcome = protocol.Kept
		if r.Cause == 0 {
			r.Cause = protocol.FaultNoDrop
		}
	case board.StateNone, board.StateSkipped:
		// It never turned. Where it was sent at all, the line or the board was dead.
		return protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultBoardSilent}
	default: // forgotten, still running, or a state this version does not know
		return protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultUnknownVend}
	}
	return r
}

// refusal is the fault that a NAK to a vend or a held motion stands for.
func refusal(n board.Nak) protocol.Fault {
	switch n.Reason {
	case board.NakDoorOpen:
		return protocol.FaultDoor
	case board.NakJournal:
		return protocol.FaultJournal
	case board.NakNotHome:
		return protocol.FaultNotHome
	case board.NakDropSensor:
		return protocol.FaultDropSensor
	case board.NakBadSlot:
		return protocol.FaultNoMotor // the board has none there
	case board.NakLatched:
		return protocol.Fault(n.Fault)
	}
	// Busy above all: some motion of before goes on. That is no fault of the
	// slot, and to whoever waits the board is as good as silent.
	return protocol.FaultBoardSilent
}

// ErrUnsupported says that this kind of machine has no such thing at all.
var ErrUnsupported = errors.New("this kind of machine cannot do it")

// RefusedError says that the board did not do what it was asked, and why.
type RefusedError struct {
	Fault protocol.Fault
	Slot  protocol.Slot // 0 if no slot is to blame
}

func (e *RefusedError) Error() string {
	info, _ := e.Fault.Info()
	if e.Slot == 0 {
		return fmt.Sprintf("motor board: %s (%s)", info.EN, e.Fault.Code())
	}
	return fmt.Sprintf("motor board, slot %d: %s (%s)", e.Slot, info.EN, e.Fault.Code())
}

// progress is how much of a vend is over, 0 to 100, for one whose turn takes
// usual. Within a vend it never goes back, because phases and running time do not.
func progress(s board.VendState, usual time.Duration) int {
	const turned, again = 80, 98 // what a full turn is worth, and the last before the end
	ran := time.Duration(s.RunMS) * time.Millisecond
	switch s.Phase {
	case board.PhaseStore:
		return 0
	case board.PhaseLeave, board.PhaseReturn:
		return int(min(turned, turned*ran/usual))
	case board.PhaseEnd:
		return 99
	}
	// Watching and turning on: what a second and third turn would take.
	more := max(0, ran-usual)
	return turned + int(min(again-turned, (again-turned)*more/(2*usual)))
}
