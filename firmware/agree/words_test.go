package agree_test

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"yaoju/daemon/machine/sim"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// The words of the scripts for the numbers on the wire.
var (
	stateWords  = map[board.State]string{1: "none", 2: "forgotten", 3: "running", 4: "ended", 5: "interrupted", 6: "skipped"}
	phaseWords  = map[board.Phase]string{1: "store", 2: "leave", 3: "return", 4: "watch", 5: "again", 6: "end", 7: "done"}
	motionWords = map[board.Motion]string{1: "vend", 2: "test", 3: "home"}
	resetWords  = map[board.ResetCause]string{1: "power", 2: "external", 3: "brown-out", 4: "watchdog"}
	curtainWord = map[board.Curtain]string{0: "untested", 1: "good", 2: "blind"}
	reasonWords = map[board.Reason]string{1: "BAD_MSG", 2: "BAD_SLOT", 3: "BUSY", 4: "DOOR_OPEN", 5: "JOURNAL", 6: "LATCHED",
		7: "STALE", 8: "NOT_HOME", 9: "DROP_SENSOR", 10: "BAD_VALUE"}
)

func word[K ~uint8](words map[K]string, k K) string {
	if w, ok := words[k]; ok {
		return w
	}
	return fmt.Sprintf("(%d)", k)
}

func faultWord(f uint8) string {
	info, _ := protocol.Fault(f).Info()
	return strings.ToLower(info.Name)
}

// phrase collects what is worth saying of an answer.
type phrase []string

func (p *phrase) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

func (p *phrase) addIf(say bool, format string, args ...any) {
	if say {
		p.add(format, args...)
	}
}

// say returns m in words. What is zero is left out; figures that depend on a clock
// or a converter carry their unit.
func say(m board.Message) string {
	var p phrase
	switch m := m.(type) {
	case board.Pong:
		p.add("pong")
	case board.Nak:
		p.add("refused %s", word(reasonWords, m.Reason))
		p.addIf(m.Fault != 0, "%s", faultWord(m.Fault))
	case board.VendState:
		sayVend(&p, m)
	case board.HelloIs:
		p.add("hello version %d serial %d boot %d by %s up %dms", m.Proto, m.Serial, m.Boot, word(resetWords, m.ResetCause), m.UptimeMS)
		p.addIf(m.Highest != 0, "highest %d", m.Highest)
		p.addIf(m.ConfigHash != 0, "config %08x", m.ConfigHash)
		p.addIf(m.Fitted != board.SlotSet{}, "fitted %s", saySlots(m.Fitted))
	case board.StatusIs:
		sayStatus(&p, m)
	default:
		p.add("%T %+v", m, m)
	}
	return strings.Join(p, " ")
}

func sayVend(p *phrase, m board.VendState) {
	p.add("vend %d %s", m.ID, word(stateWords, m.State))
	p.addIf(m.Phase != 0, "%s", word(phaseWords, m.Phase))
	p.addIf(m.Slot != 0, "slot %d", m.Slot)
	p.addIf(m.Cause != 0, "%s", faultWord(m.Cause))
	p.addIf(m.Drops != 0, "drops %d after %dms", m.Drops, m.DropMS)
	p.addIf(m.Drops == 0 && m.DropMS != 0, "no drop, but after %dms", m.DropMS)
	p.addIf(m.RunMS != 0, "ran %dms", m.RunMS)
	p.addIf(m.Repeat, "repeat")
}

func sayStatus(p *phrase, m board.StatusIs) {
	p.add("status boot %d up %dms", m.Boot, m.UptimeMS)
	if m.Motion != board.MotionNone || m.Slot != 0 || m.Phase != 0 {
		p.add("%s slot %d %s", word(motionWords, m.Motion), m.Slot, word(phaseWords, m.Phase))
	}
	p.addIf(m.Cause != 0, "%s", faultWord(m.Cause))
	p.addIf(m.CurrentMA != 0, "%dmA", m.CurrentMA)
	p.addIf(m.Turns != 0, "turns %d", m.Turns)
	p.addIf(m.Drops != 0, "drops %d", m.Drops)
	p.addIf(m.Spontaneous != 0, "spontaneous %d", m.Spontaneous)
	p.addIf(m.NotHome != board.SlotSet{}, "not home %s", saySlots(m.NotHome))
	p.addIf(m.Latched != 0 || m.LatchedSlot != 0, "latched %s slot %d", faultWord(m.Latched), m.LatchedSlot)
	p.addIf(m.JournalBad, "journal bad")
	p.addIf(m.DoorOpen, "door open")
	p.addIf(m.LockOpen, "lock open")
	p.addIf(m.Light != board.DimPercent, "light %d", m.Light)
	p.addIf(m.SensorDark, "sensor dark")
	p.addIf(m.Curtain != board.CurtainGood, "curtain %s", word(curtainWord, m.Curtain))
	p.addIf(m.Climate || m.CentiC != 0 || m.CentiRH != 0, "climate %d %d", m.CentiC, m.CentiRH)
}

// saySlots writes a set as 1-3,7.
func saySlots(s board.SlotSet) string {
	var parts []string
	for l := s.List(); len(l) > 0; {
		n := 1
		for n < len(l) && l[n] == l[0]+protocol.Slot(n) {
			n++
		}
		if parts = append(parts, fmt.Sprint(l[0])); n > 1 {
			parts[len(parts)-1] += fmt.Sprintf("-%d", l[n-1])
		}
		l = l[n:]
	}
	return strings.Join(parts, ",")
}

// words takes apart what a script says. The first thing it cannot read stays in err.
type words struct {
	left []string
	err  error
}

func (w *words) more() bool { return len(w.left) > 0 }

func (w *words) next() string {
	if len(w.left) == 0 {
		w.fail("a word is missing")
		return ""
	}
	s := w.left[0]
	w.left = w.left[1:]
	return s
}

func (w *words) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

func (w *words) number(max uint64) uint64 {
	s := w.next()
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil || n > max {
		w.fail("%q is no number up to %d", s, max)
	}
	return n
}

func (w *words) signed(max int64) int64 {
	s := w.next()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > max || n < -max {
		w.fail("%q is no number from -%d to %d", s, max, max)
	}
	return n
}

func (w *words) slot() protocol.Slot { return protocol.Slot(w.number(255)) }

func (w *words) duration() time.Duration {
	s := w.next()
	d, err := time.ParseDuration(s)
	if err != nil {
		w.fail("%q is no time", s)
	}
	return d
}

// one reads one of two words and reports whether it was yes.
func (w *words) one(yes, no string) bool {
	s := w.next()
	if s != yes && s != no {
		w.fail("%q is neither %s nor %s", s, yes, no)
	}
	return s == yes
}

func (w *words) slots() (s board.SlotSet) {
	for part := range strings.SplitSeq(w.next(), ",") {
		from, to, two := strings.Cut(part, "-")
		a, err := strconv.Atoi(from)
		b := a
		if two && err == nil {
			b, err = strconv.Atoi(to)
		}
		if err != nil {
			w.fail("%q is no slot", part)
		}
		for n := a; n <= b; n++ {
			if n > 60 { // a set has room for four that do not exist
				s[(n-1)/8] |= 1 << ((n - 1) % 8)
				continue
			}
			s = s.With(protocol.Slot(n))
		}
	}
	return s
}

func (w *words) bytes() (p []byte) {
	for w.more() {
		s := w.next()
		b, err := hex.DecodeString(s)
		if err != nil {
			w.fail("%q: %v", s, err)
		}
		p = append(p, b...)
	}
	return p
}

func (w *words) fault() uint8 {
	s := w.next()
	for _, f := range protocol.Faults() {
		if strings.EqualFold(f.Name, s) {
			return uint8(f.Fault)
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		w.fail("%q is no fault", s)
	}
	return uint8(n)
}

// question reads a message.
func (w *words) question() board.Message {
	switch what := w.next(); what {
	case "ping":
		return board.Ping{}
	case "hello":
		m := board.Hello{Proto: board.Version}
		if w.more() {
			m.Proto = uint8(w.number(255))
		}
		return m
	case "configure":
		return w.configure()
	case "vend":
		return board.Vend{ID: protocol.VendID(w.number(1<<32 - 1)), Slot: w.slot()}
	case "query":
		return board.Query{ID: protocol.VendID(w.number(1<<32 - 1))}
	case "status":
		return board.Status{}
	case "lock":
		return board.Lock{OpenMS: uint16(w.number(1<<16 - 1))}
	case "light":
		return board.Light{Percent: uint8(w.number(255))}
	case "hold":
		return w.hold()
	case "clear":
		return board.Clear{Fault: w.fault()}
	case "restart":
		m := board.Restart{Key: board.RestartKey}
		if w.more() {
			m.Key = uint32(w.number(1<<32 - 1))
		}
		return m
	default:
		w.fail("%q is no question", what)
		return board.Ping{}
	}
}

// hold reads what is held, where, and the number of the press.
func (w *words) hold() board.Hold {
	var m board.Hold
	switch s := w.next(); s {
	case "test":
		m.Motion = board.MotionTest
	case "home":
		m.Motion = board.MotionHome
	case "vend":
		m.Motion = board.MotionVend // refused
	default:
		w.fail("%q cannot be held", s)
	}
	m.Slot, m.Press = w.slot(), uint8(w.number(255))
	return m
}

// configure is the usual configuration but for what is said.
func (w *words) configure() board.Configure {
	c := board.DefaultConfigure()
	for w.more() {
		switch s := w.next(); s {
		case "fitted":
			c.Fitted = w.slots()
		case "pairs":
			c.Coupled = w.slots()
		case "leave":
			c.LeaveMS = uint16(w.number(1<<16 - 1))
		case "turn":
			c.TurnMS = uint16(w.number(1<<16 - 1))
		case "slow":
			c.SlowMS = uint16(w.number(1<<16 - 1))
		case "jam":
			c.JamMA, c.JamMS = uint16(w.number(1<<16-1)), uint16(w.number(1<<16-1))
		case "open":
			c.OpenMA = uint16(w.number(1<<16 - 1))
		default:
			w.fail("%q is not configured", s)
		}
	}
	return c
}

// wrong reads what is wrong with a slot; nothing mends it.
func (w *words) wrong() (f sim.Faults) {
	for w.more() {
		switch s := w.next(); s {
		case "jam":
			f.Jam = true
		case "nomotor":
			f.NoMotor = true
		case "stuckhome":
			f.StuckHome = true
		case "runaway":
			f.Runaway = true
		case "double":
			f.Double = true
		case "short":
			f.Short = true
		case "hang":
			f.Hang = int(w.number(100))
		case "late":
			f.Late = w.duration()
		case "slow":
			f.Slow = float64(w.number(1000)) / 100 // in percent of the usual time
		default:
			w.fail("%q is no fault of a slot", s)
		}
	}
	return f
}

// split cuts a line of a script into words.
func split(line string) *words { return &words{left: slices.Collect(strings.FieldsSeq(line))} }
