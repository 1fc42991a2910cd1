package vending

import (
	"context"
	"fmt"
	"time"

	"yaoju/daemon/machine"
	"yaoju/protocol"
)

// stage is how far a vend has come.
type stage uint8

const (
	stageAsked   stage = 1 // nothing was said of it to the board
	stageChecked stage = 2 // the board has nothing against it, or does not say
	stageSent    stage = 3 // the drive is out, perhaps: it is never sent again
	stageNever   stage = 4 // it was not sent and never will be
)

// vend is what this process knows of one vend. Its fields are guarded by Board.mu.
type vend struct {
	id     protocol.VendID
	slot   protocol.Slot
	stage  stage
	sentAt time.Time
	result protocol.Result // without an outcome while nothing is known
	// Of what the board reported since:
	started bool
	told    bool // the end
	doubt   bool // somebody chose the same selection at the keypad

	moved chan struct{} // closed with stageSent or stageNever
	over  chan struct{} // closed with the first result
}

// end sets the result. The first one ends the wait, and only the truth may follow
// Unknown.
func (v *vend) end(r protocol.Result) {
	switch {
	case v.result.Outcome == 0:
		v.result = r
		close(v.over)
	case v.result.Outcome == protocol.Unknown && r.Outcome != protocol.Unknown:
		v.result = r
	}
}

// refuse ends a vend that was not sent.
func (v *vend) refuse(cause protocol.Fault) {
	v.stage = stageNever
	close(v.moved)
	v.end(protocol.Result{Outcome: protocol.Kept, Cause: cause})
}

// unknown is the result where nobody can tell.
func unknown() protocol.Result {
	return protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultUnknownVend}
}

// until is when the board has had all the time it needs. A report that comes later
// belongs to something else.
func (b *Board) until(v *vend) time.Time { return v.sentAt.Add(b.opt.motion()) }

// find returns what is remembered of id, or nil.
func (b *Board) find(id protocol.VendID) *vend {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, v := range b.vends {
		if v.id == id {
			return v
		}
	}
	return nil
}

// enter remembers id from now on. It returns nil for an id that is not new: it
// was remembered already, or is forgotten and may have turned.
func (b *Board) enter(id protocol.VendID, slot protocol.Slot) (v *vend) {
	b.update(func(*machine.Status) {
		if id <= b.highest {
			return
		}
		b.highest = id
		v = &vend{id: id, slot: slot, stage: stageAsked, moved: make(chan struct{}), over: make(chan struct{})}
		if b.busy(time.Now()) {
			v.refuse(protocol.FaultBoardSilent) // no fault of the slot; to whoever waits the board is as good as silent
		}
		if len(b.vends) == vendsLength {
			b.vends = b.vends[1:]
		}
		b.vends = append(b.vends, v)
	})
	return v
}

// busy reports that the newest vend is to be sent or may still be moving. The
// caller holds mu.
func (b *Board) busy(now time.Time) bool {
	v := b.current()
	return v != nil && (v.stage != stageSent || b.moves(v, now))
}

// moves reports that the board may be at work for v. The caller holds mu.
func (b *Board) moves(v *vend, now time.Time) bool {
	return v != nil && v.stage == stageSent && !v.told && now.Before(b.until(v))
}

// current is the newest vend, if it is not over or its end is Unknown; nil is none.
// The caller holds mu.
func (b *Board) current() *vend {
	for i := len(b.vends) - 1; i >= 0; i-- {
		if v := b.vends[i]; v.stage != stageNever {
			if v.result.Outcome == protocol.Dispensed || v.result.Outcome == protocol.Kept {
				return nil
			}
			return v
		}
	}
	return nil
}

// await waits until v is over, or nothing more can come of it.
func (b *Board) await(ctx context.Context, v *vend) (protocol.Result, error) {
	select {
	case <-v.moved:
	case <-ctx.Done():
		return protocol.Result{Outcome: protocol.Unknown}, fmt.Errorf("vend %d in slot %d: not sent yet: %w", v.id, v.slot, ctx.Err())
	}
	b.mu.Lock()
	wait := time.Until(b.until(v))
	b.mu.Unlock()
	limit := time.NewTimer(wait)
	defer limit.Stop()
	select {
	case <-v.over:
	case <-limit.C:
		b.update(func(s *machine.Status) { b.end(s, v, unknown()) })
	case <-ctx.Done():
		return protocol.Result{Outcome: protocol.Unknown}, fmt.Errorf("vend %d in slot %d: no end reported yet: %w", v.id, v.slot, ctx.Err())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return v.result, nil
}

// start waits until v was sent or refused. One that cannot be sent in time is
// withdrawn: then it is certain that nothing moved.
func (b *Board) start(ctx context.Context, v *vend) {
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	select {
	case <-v.moved:
		return
	case <-limit.C:
	case <-ctx.Done():
	}
	b.update(func(*machine.Status) {
		if v.stage < stageSent {
			v.refuse(protocol.FaultBoardSilent)
		}
	})
}

// end ends v and clears its motion off the status. How long the motor ran is the
// time from the drive to the report, a few polls too much. The caller is update.
func (b *Board) end(s *machine.Status, v *vend, r protocol.Result) {
	if s.Motion.Vend == v.id {
		s.Motion = machine.Motion{}
	}
	if r.RunMS = 0; v.stage == stageSent && r.Outcome != protocol.Unknown {
		r.RunMS = int(time.Since(v.sentAt).Milliseconds())
	}
	v.end(r)
}

// The methods below are called by the owner of the line. They do not wait.

// waiting returns the vend that is to be sent, nil without one. One that must not
// be sent as things stand is refused here.
func (b *Board) waiting() *vend {
	var w *vend
	b.update(func(s *machine.Status) {
		v := b.current()
		if v == nil || v.stage >= stageSent || !s.Up {
			return // while the board is not up the vend waits, and gives up by itself
		}
		if cause := b.obstacle(*s, v.slot); cause != 0 {
			v.refuse(cause)
			return
		}
		w = v
	})
	return w
}

// obstacle is why slot may not move; 0 is no reason. The caller holds mu.
func (b *Board) obstacle(s machine.Status, slot protocol.Slot) protocol.Fault {
	switch {
	case s.DoorOpen:
		return protocol.FaultDoor
	case b.runaway != nil && b.runaway.Slot == slot:
		return protocol.FaultRunaway
	case b.runaway != nil:
		return protocol.FaultBoardSilent // not this slot's: it must not be blocked for it
	case b.lift != 0:
		return b.lift
	case time.Now().Before(b.owes[slot]):
		return protocol.FaultBoardSilent // nor is it this slot's fault that a report is late
	}
	return 0
}

// checked takes the board's answer to the check of v; 0 is none.
func (b *Board) checked(v *vend, cause protocol.Fault) {
	b.update(func(*machine.Status) {
		switch {
		case v.stage != stageAsked:
		case cause != 0:
			v.refuse(cause)
		default:
			v.stage = stageChecked
		}
	})
}

// commit marks v as sent, if it is still to be and its time has come. After true
// the drive is written, once.
func (b *Board) commit(v *vend) (yes bool) {
	now := time.Now()
	b.update(func(s *machine.Status) {
		if v.stage != stageChecked || now.Sub(b.reported) < quiet || now.Sub(b.stranger) < strangerLimit {
			return
		}
		yes = true
		v.stage, v.sentAt = stageSent, now
		b.owes[v.slot] = b.until(v).Add(lateLimit)
		close(v.moved)
		s.Motion = machine.Motion{Vend: v.id, Slot: v.slot}
	})
	return yes
}

// moving reports whether the board may be at work for a vend, and moves its
// progress on.
func (b *Board) moving() (yes bool) {
	now := time.Now()
	b.update(func(s *machine.Status) {
		v := b.current()
		if yes = b.moves(v, now); yes && v.result.Outcome == 0 {
			const last = 95 // the board's word is the rest
			s.Motion = machine.Motion{Vend: v.id, Slot: v.slot, Percent: int(min(last, last*now.Sub(v.sentAt)/b.opt.Turn))}
		}
	})
	return yes
}

// heardReport takes what the board reports of a selection. It returns what there
// is to tell about it, or nothing.
func (b *Board) heardReport(r report) (tell string) {
	now := time.Now()
	p, cause, known := meaning(r.status)
	b.update(func(s *machine.Status) {
		b.reported = now
		v := b.sentTo(r.selection, now)
		switch {
		case !known:
			tell = "board reports what is in no document"
		case v == nil:
			tell = b.heardStranger(r, p, now)
		case p == proofMoving:
			v.started = true
		case v.doubt, !v.started && p != proofNoTurn:
			// This end or the next may be of what was chosen at the keypad, before we
			// spoke or after. A drive of ours has its start reported, too.
			r := judge(p, cause, b.opt.DropSensor)
			if r.Outcome != protocol.Unknown {
				r = unknown()
			}
			b.end(s, v, r)
		default:
			v.told = true
			b.owes[v.slot] = time.Time{}
			b.end(s, v, judge(p, cause, b.opt.DropSensor))
		}
		if known && cause == protocol.FaultRunaway {
			b.runaway = &machine.Fault{Fault: cause, Slot: slotOf(r.selection)}
			tell = "motor did not stop"
		}
	})
	return tell
}

// sentTo returns the vend that a report of selection may be about: the newest one
// there, if its time is not over and its end not certain. The caller holds mu.
func (b *Board) sentTo(selection int, now time.Time) *vend {
	v := b.current()
	if v == nil || v.stage != stageSent || int(v.slot) != selection || !now.Before(b.until(v)) {
		return nil
	}
	return v
}

// heardStranger takes a report of what nobody here asked for. The end of the last
// vend may be said again, and that of one whose outcome is unknown may come too late to be
// believed, when a person looks into the tray anyway. Anything else was the keypad's, and
// what fell is in no record. The caller holds mu.
func (b *Board) heardStranger(r report, p proof, now time.Time) (tell string) {
	if p == proofMoving {
		b.stranger = now
		return "board moves by itself"
	}
	slot := slotOf(r.selection)
	late := b.stranger.IsZero() && now.Before(b.owes[slot]) // nobody chose it, and nothing else began
	switch {
	case p != proofTurned || b.dispensedLast(r.selection):
	case late:
		tell = "board told an end too late to be believed"
	default:
		b.loose[slot] = true
		tell = "board gave by itself"
	}
	b.stranger = time.Time{}
	return tell
}

// dispensedLast reports whether the newest vend that was sent is a known success of
// selection. The caller holds mu.
func (b *Board) dispensedLast(selection int) bool {
	for i := len(b.vends) - 1; i >= 0; i-- {
		if v := b.vends[i]; v.stage == stageSent {
			return int(v.slot) == selection && v.result.Outcome == protocol.Dispensed
		}
	}
	return false
}

// slotOf is the slot with the number of a selection; 0 is none that we have.
func slotOf(selection int) protocol.Slot {
	if selection < 1 || selection > protocol.Slots {
		return 0
	}
	return protocol.Slot(selection)
}

// heardKeypad takes a choice at the board's own keypad: what is reported of that
// selection from now on may be of it. It reports whether to cancel the choice,
// which must not be while a motor turns for us.
func (b *Board) heardKeypad(selection int) (cancel bool) {
	now := time.Now()
	b.update(func(*machine.Status) {
		b.stranger = now
		b.owes[slotOf(selection)] = now.Add(strangerLimit + lateLimit)
		if v := b.sentTo(selection, now); v != nil {
			v.doubt = true
		}
		cancel = !b.moves(b.current(), now)
	})
	return cancel
}

// heardCondition takes the machine's condition. fresh says that a session begins.
func (b *Board) heardCondition(c condition, fresh bool) {
	b.update(func(s *machine.Status) {
		if fresh || !s.Up {
			s.Session++
		}
		s.Up, s.DoorOpen = true, c.doorOpen
		s.Hello.Serial = serialOf(c.serial)
		// A temperature without a humidity is no reading: 0 percent would be a lie.
		s.Climate = machine.Climate{}
		if c.warm && c.damp {
			s.Climate = machine.Climate{OK: true, CentiC: 100 * int(c.celsius), CentiRH: 100 * c.humidity}
		}
	})
}

// serialOf makes a serial number that none of our own boards has: FAFB above the
// ten digits set in this one.
func serialOf(id uint64) uint64 { return 0xFAFB<<48 | id }

// heardLift takes the elevator's condition.
func (b *Board) heardLift(f protocol.Fault) {
	b.update(func(*machine.Status) { b.lift = f })
}

// down says that the board does not answer.
func (b *Board) down() {
	b.update(func(s *machine.Status) { s.Up = false })
}

// asking reports whether v still has to be checked.
func (b *Board) asking(v *vend) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return v.stage == stageAsked
}
