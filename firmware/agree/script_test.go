package agree_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"yaoju/daemon/machine/sim"
	"yaoju/protocol/board"
)

// A script is lines. One that begins with '>' is played; one that is indented is
// what came of it, with the time since the script began; '#' begins a comment.
//
//	> vend 9 5                 ask; '>' may name several, separated by ';', sent in one piece
//	> seq 7 vend 9 5           ... under this seq
//	> lame vend 9 5            ... without the zero byte before it
//	> bent vend 9 5            ... with one bit another
//	> frame 04 01 00           a frame of this kind with this payload
//	> bytes 07 00              these bytes
//	> press test 5 1 2s        HOLD every 100 ms for so long; the first answer is shown
//	> wait 3s
//	> load 5 3                 three pieces more in slot 5; see act for all that can be done to the cabinet
//
// Nothing is asked while a board may already have stopped and may still turn: the
// times of two boards differ by up to slack.

// stepTime is what each line of a script takes, a wait aside, whenever its answer
// came: so both boards are asked the next thing at the same time. A frame takes up to
// 5 ms on the line each way, a board 6 ms to test its drop sensor, 20 ms to believe
// its door switch, and some more to look through a full journal.
const stepTime = 40 * time.Millisecond

// holdEvery is how often a held button asks, three times within HoldMS.
const holdEvery = 100 * time.Millisecond

// player plays a script on a rig and writes down what came of it.
type player struct {
	rig   rig
	began time.Duration
	seq   uint8
	moved int // moves written down
	out   strings.Builder
}

// begin starts a board and gives it the usual configuration, unless it is to be
// left blank.
func begin(r rig, blank bool) (*player, error) {
	p := &player{rig: r}
	r.climate(sim.Climate{}) // its first reading may come at any time
	r.wait(bootTime)
	if !blank {
		if err := p.play("configure"); err != nil {
			return nil, err
		}
	}
	r.wait(settleTime - r.now())
	p.out.Reset()
	p.began = r.now()
	return p, nil
}

// play does one line and writes down what came of it.
func (p *player) play(line string) error {
	first, _, _ := strings.Cut(line, " ")
	var err error
	switch first {
	case "wait":
		w := split(line)
		w.next()
		if d := w.duration(); w.err == nil {
			p.rig.wait(d)
		}
		err = w.err
	case "press":
		err = p.press(split(line))
	default:
		if known, acted := p.act(split(line)); known {
			err = acted
			break
		}
		err = p.ask(line)
	}
	p.moves()
	if err != nil {
		return fmt.Errorf("%q: %w", line, err)
	}
	return nil
}

// act does what is no question. known is false for anything else.
func (p *player) act(w *words) (known bool, err error) {
	r := p.rig
	switch w.next() {
	case "load":
		r.load(w.slot(), int(w.number(1000)))
	case "faults":
		r.faults(w.slot(), w.wrong())
	case "door":
		r.door(w.one("open", "shut"))
	case "sensor":
		dark, blind := false, false
		switch s := w.next(); s {
		case "dark":
			dark = true
		case "blind":
			blind = true
		case "clear":
		default:
			w.fail("a sensor is dark, blind or clear, not %q", s)
		}
		r.sensor(dark, blind)
	case "journal":
		r.journal(w.one("fails", "works"))
	case "line":
		r.silent(w.one("dead", "alive"))
	case "climate":
		var c sim.Climate
		if w.more() {
			c = sim.Climate{OK: true, CentiC: int16(w.signed(1 << 14)), CentiRH: uint16(w.number(10000))}
		}
		r.climate(c)
	case "fall":
		r.spontaneous(w.slot())
	case "power":
		r.power(w.one("on", "off"))
	case "reset":
		r.reset()
	case "hang":
		r.hang()
	case "tray":
		s := w.slot()
		t := r.tray(s)
		p.write(r.now(), fmt.Sprintf("slot %d: %d left, %d fell, started %d times", s, t.pieces, t.fallen, t.starts))
	default:
		return false, nil
	}
	if w.more() {
		w.fail("%q is too much", w.left)
	}
	r.wait(stepTime)
	return true, w.err
}

// ask sends the questions of line in one piece and writes down the answers.
func (p *player) ask(line string) error {
	var all []byte
	var seqs []uint8
	for part := range strings.SplitSeq(line, ";") {
		b, seq, err := p.frame(split(part))
		if err != nil {
			return err
		}
		all = append(all, b...)
		seqs = append(seqs, seq)
	}
	at := p.rig.now()
	answers, err := p.exchange(all)
	if err != nil {
		return err
	}
	return p.hear(at, answers, seqs)
}

// hear writes down the answers to what was asked at that time under seqs.
func (p *player) hear(at time.Duration, answers []board.Frame, seqs []uint8) error {
	if len(answers) == 0 {
		p.write(at, "no answer")
	}
	for i, f := range answers {
		text, err := heard(f)
		if err != nil {
			return err
		}
		if i >= len(seqs) || f.Seq != seqs[i] {
			text = fmt.Sprintf("seq %d: %s", f.Seq, text)
		}
		p.write(at, text)
	}
	return nil
}

// frame returns the bytes of one question and the seq of its answer.
func (p *player) frame(w *words) (b []byte, seq uint8, err error) {
	p.seq++
	seq = p.seq
	lead, bent := []byte{0}, false
	for w.more() {
		switch w.left[0] {
		case "seq":
			w.next()
			seq = uint8(w.number(255))
			continue
		case "lame":
			w.next()
			lead = nil
			continue
		case "bent":
			w.next()
			bent = true
			continue
		case "bytes":
			w.next()
			return w.bytes(), seq, w.err
		case "frame":
			w.next()
			if raw := w.bytes(); w.err == nil {
				b = enframe(raw[0], seq, raw[1:])
			}
		default:
			m := w.question()
			if c, ok := m.(board.Configure); ok {
				p.rig.pair(c.Coupled)
			}
			b = board.Append(nil, seq, m)
		}
		break
	}
	if w.more() {
		w.fail("%q is too much", w.left)
	}
	if bent && len(b) > 2 {
		b[2] ^= 0x10 // a byte inside, which stays other than zero in every frame of the scripts
	}
	return append(lead, b...), seq, w.err
}

// enframe is board.Append for what is no message.
func enframe(kind, seq uint8, payload []byte) []byte {
	raw := append([]byte{kind, seq}, payload...)
	crc := board.CRC16(raw)
	raw = append(raw, byte(crc), byte(crc>>8))
	var out []byte
	for _, run := range bytes.Split(raw, []byte{0}) {
		out = append(append(out, byte(len(run)+1)), run...)
	}
	return append(out, 0)
}

// exchange sends b and returns the frames that came back within stepTime.
func (p *player) exchange(b []byte) ([]board.Frame, error) {
	p.rig.received() // what came late belongs to nobody
	p.rig.send(b)
	p.rig.wait(stepTime)
	var frames []board.Frame
	in := board.NewReader(bufio.NewReader(bytes.NewReader(p.rig.received())))
	for {
		f, err := in.Next()
		switch {
		case errors.Is(err, io.EOF) && in.Bad() > 0:
			return nil, errors.New("the board sent what is no frame")
		case errors.Is(err, io.EOF):
			return frames, nil
		case err != nil:
			return nil, err
		}
		frames = append(frames, f)
	}
}

// heard returns an answer in words. The build is who the board is, not what it does.
func heard(f board.Frame) (string, error) {
	m, err := f.Parse()
	if err != nil {
		return "", fmt.Errorf("the board's answer: %w", err)
	}
	return say(m), nil
}

// press holds a button.
func (p *player) press(w *words) error {
	w.next()
	hold, long := w.hold(), w.duration()
	if w.err != nil {
		return w.err
	}
	for n := range int(long / holdEvery) {
		at := p.rig.now()
		p.seq++
		answers, err := p.exchange(board.Append([]byte{0}, p.seq, hold))
		if err != nil {
			return err
		}
		if n == 0 {
			if err := p.hear(at, answers, []uint8{p.seq}); err != nil {
				return err
			}
		}
		p.rig.wait(holdEvery - stepTime)
	}
	return nil
}

// moves writes down what moved since the last call.
func (p *player) moves() {
	all := inOrder(p.rig.moves())
	for _, m := range all[p.moved:] {
		text := fmt.Sprintf("motor %d off", m.slot)
		if m.on {
			text = fmt.Sprintf("motor %d on", m.slot)
		}
		p.write(m.at, text)
	}
	p.moved = len(all)
}

func (p *player) write(at time.Duration, text string) {
	fmt.Fprintf(&p.out, "%10.3f  %s\n", (at - p.began).Seconds(), text)
}
