package sim

import (
	"fmt"
	"slices"
	"time"

	"yaoju/protocol"
)

// What the board reports of a selection.
const (
	reportMoving     = 0x01
	reportSuccess    = 0x02
	reportNoDrop     = 0x03
	reportRunaway    = 0x04
	reportNoMotor    = 0x06
	reportLiftFails  = 0x07
	reportTerminated = 0xFF
)

// noSensor stands where a temperature or humidity sensor is not connected.
const noSensor = 0xAA

// turn is the board's turn on the line: what it says, whether that is a poll, and
// how long until its next turn. A nil say is silence.
func (v *VMC) turn() (pause time.Duration, say []byte, poll bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	v.advance(now)
	v.spoke = now
	pause = v.cabinet.Poll
	if pause == 0 {
		pause = 200 * time.Millisecond
	}
	if now.Before(v.off) {
		return v.off.Sub(now), nil, false
	}
	if v.cabinet.LatePolls > 0 && v.opt.Rand.Float64() < v.cabinet.LatePolls {
		pause += time.Second + time.Duration(v.opt.Rand.IntN(1000))*time.Millisecond
	}
	if len(v.outbox) == 0 {
		return pause, frame(cmdPoll), true
	}
	t := v.outbox[0]
	if v.tries == 0 && !t.repeat {
		v.count()
	}
	if v.tries++; v.tries > resends {
		v.said()
	}
	return pause, frame(t.cmd, append([]byte{v.pack}, t.text...)...), false
}

// count gives the next telling its PackNO, 1 to 255.
func (v *VMC) count() {
	if v.cabinet.SamePack {
		return
	}
	if v.pack++; v.pack == 0 {
		v.pack = 1
	}
}

// said is done with the oldest telling.
func (v *VMC) said() {
	v.outbox, v.tries = v.outbox[1:], 0
}

func (v *VMC) spoil(b []byte, toHost bool) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	if toHost {
		return v.cabinet.ToHost.spoil(v.opt.Rand, b)
	}
	return v.cabinet.ToBoard.spoil(v.opt.Rand, b)
}

// tell has something told at its time.
func (v *VMC) tell(at time.Time, cmd byte, text ...byte) {
	v.coming = append(v.coming, telling{at: at, cmd: cmd, text: text})
}

// hear acts on a reply and reports whether to acknowledge it.
func (v *VMC) hear(cmd byte, body []byte, poll bool) (ack bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	v.advance(now)
	if now.Before(v.off) || len(body) == 0 && cmd != cmdAck {
		return false // nothing; or by its length a command, by one bent bit
	}
	if cmd == cmdAck {
		if !poll && len(v.outbox) > 0 && v.tries > 0 {
			v.said()
		}
		return false
	}
	if !poll || body[0] == 0 {
		v.breach("command %02x % x out of turn, or without PackNO", cmd, body)
		return false
	}
	if cmd == cmdDrive && body[0] == v.heard {
		v.breach("drive % x under the PackNO of the command before", body)
	}
	v.heard = body[0]
	text := body[1:]
	switch {
	case cmd == cmdDrive && len(text) == 4:
		return v.drive(now, text)
	case cmd == cmdCheck && (len(text) == 2 || len(text) == 3):
		v.check(now, text)
	case cmd == cmdStatus && len(text) == 0:
		if !v.cabinet.NoStatus {
			v.tell(now, cmdStatusIs, v.condition()...)
		}
	case cmd == cmdLift && len(text) == 0:
		v.tell(now, cmdLiftIs, v.cabinet.Lift)
	case cmd == cmdChoice && len(text) == 2 && text[0] == 0 && text[1] == 0:
		v.keyed = 0
	case cmd == cmdSync && len(text) == 0:
	case cmd == cmdMenu && len(text) == 2 && text[0] == 0x32 && text[1] == 1:
		v.cleared++
		v.tell(now, cmdMenuIs, 0x32, 1, 0)
	default:
		if v.cabinet.ToBoard == (Spoil{}) { // a bent length may check by chance
			v.breach("command %02x % x is none of mine", cmd, body)
		}
		return false
	}
	return true
}

// breach notes what no computer should say.
func (v *VMC) breach(format string, args ...any) {
	v.broken = append(v.broken, fmt.Sprintf(format, args...))
}

func (v *VMC) check(now time.Time, text []byte) {
	if v.cabinet.NoCheck {
		return
	}
	status := byte(3) // no such selection
	if text[0] == 0 && protocol.Slot(text[1]).Valid() == nil {
		status = max(1, v.faults[text[1]].Check)
	}
	v.tell(now, cmdSelection, status, text[0], text[1])
}

// condition is the text of a condition: money, temperature control, door, machine
// id, temperatures, humidities.
func (v *VMC) condition() []byte {
	c := &v.cabinet
	text := []byte{0, 0, 0, 0}
	if !c.PublishedForm {
		text = append(text, byte(c.Celsius))
	}
	text = append(text, number(c.DoorOpen))
	text = append(text, make([]byte, 8)...)
	text = append(text, v.opt.ID...)
	text = append(text, byte(c.Celsius))
	text = append(text, slices.Repeat([]byte{noSensor}, 7)...)
	if !c.NoHumidity {
		text = append(text, c.Humidity)
		text = append(text, slices.Repeat([]byte{noSensor}, 7)...)
	}
	return text
}

func number(on bool) byte {
	if on {
		return 1
	}
	return 0
}

// drive carries out a drive, and does so again for a repeated one: nobody has
// promised that boards do not.
func (v *VMC) drive(now time.Time, text []byte) (ack bool) {
	slot := protocol.Slot(text[3])
	if text[0] > 1 || text[1] > 1 || text[2] != 0 || slot.Valid() != nil {
		v.breach("drive % x", text)
		return false
	}
	f := &v.faults[slot]
	if f.Lost {
		return false
	}
	v.orders[slot]++
	switch {
	case v.motion != nil && v.motion.driven:
		v.breach("drive of slot %d while slot %d turns", slot, v.motion.slot)
	case v.motion == nil && !v.cabinet.DoorOpen && !f.Idle:
		v.drives[slot]++
		v.start(now, slot, true, text[0] == 1)
	}
	return !f.NoAck
}

// start starts the motor of slot, and has told what comes of it.
func (v *VMC) start(now time.Time, slot protocol.Slot, driven, sensor bool) {
	f, turn := &v.faults[slot], v.opt.Turn
	m := &motion{slot: slot, driven: driven, endAt: now.Add(turn + dropWindow)}
	end, falls := byte(reportSuccess), 1
	switch {
	case f.NoMotor:
		end, falls, m.endAt = reportNoMotor, 0, now
	case f.Terminated:
		end, falls, m.endAt = reportTerminated, 0, now
	case f.Jam:
		end, falls, m.endAt = reportNoDrop, 0, now.Add(turn/2)
	case f.Hang:
		falls = 0
		if sensor {
			end, m.endAt = reportNoDrop, m.endAt.Add(turn)
		}
	case f.Runaway:
		end, falls, m.endAt = reportRunaway, 2, now.Add(2*turn)
	case f.LiftFails:
		end = reportLiftFails
	}
	if falls = min(falls, v.pieces[slot]); falls == 0 && end == reportSuccess && sensor {
		end = reportNoDrop // the spiral was empty
	}
	for n := range falls {
		m.fallAt = append(m.fallAt, now.Add(time.Duration(n)*turn+turn*3/4))
	}
	if !f.NoMotor && !f.Terminated {
		v.turns[slot]++
	}
	v.motion = m
	v.report(now, m, f, end)
	v.advance(now)
}

// report has told how a motion goes, as far as it is told at all.
func (v *VMC) report(now time.Time, m *motion, f *Faults, end byte) {
	text := func(status byte) []byte {
		switch v.cabinet.ReportLength {
		case 3:
			return []byte{status, byte(m.slot)}
		case 5:
			return []byte{status, 0, byte(m.slot), 0}
		}
		return []byte{status, 0, byte(m.slot)}
	}
	if !f.NoStart && m.endAt.After(now) {
		v.tell(now, cmdReport, text(reportMoving)...)
	}
	if f.OddStatus != 0 {
		end = f.OddStatus
	}
	at := m.endAt
	if f.ReportsLate {
		at = at.Add(time.Minute)
	}
	if !f.NoEnd {
		v.tell(at, cmdReport, text(end)...)
	}
	switch {
	case f.Twice:
		v.coming = append(v.coming, telling{at: at, cmd: cmdReport, text: text(end), repeat: true})
	case f.TwiceAnew:
		v.tell(at.Add(1500*time.Millisecond), cmdReport, text(end)...)
	}
}

// advance lets happen what was to happen until now.
func (v *VMC) advance(now time.Time) {
	if m := v.motion; m != nil {
		for len(m.fallAt) > 0 && !now.Before(m.fallAt[0]) {
			m.fallAt = m.fallAt[1:]
			v.pieces[m.slot]--
			v.fallen[m.slot]++
			if m.driven {
				v.given[m.slot]++
			}
		}
		if !now.Before(m.endAt) {
			v.motion = nil
		}
	}
	if now.Before(v.off) {
		return
	}
	if v.keyed != 0 && v.motion == nil && !now.Before(v.keyedAt.Add(keypadPause)) {
		slot := v.keyed
		v.keyed = 0
		v.start(now, slot, false, true)
	}
	v.coming = slices.DeleteFunc(v.coming, func(t telling) bool {
		if now.Before(t.at) {
			return false
		}
		v.outbox = append(v.outbox, t)
		return true
	})
	unplugged := now.Sub(v.spoke) > frameLimit+2*time.Second // the longest pause between polls
	for unplugged && len(v.outbox) > 0 && now.Sub(v.outbox[0].at) > frameLimit {
		v.said() // it was told five times more, to nobody
	}
}
