package sim

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Commands of the chip.
const (
	Any      byte = 0 // in a Fault: whichever comes
	Firmware byte = 0x02
	SAM      byte = 0x14
	RF       byte = 0x32
	List     byte = 0x4A
)

// Kind is a way to fail.
type Kind int

// The ways to fail.
const (
	Silent   Kind = iota // does not even acknowledge
	Mute                 // acknowledges and does not answer
	NoAck                // answers without acknowledging
	Checksum             // answers with a wrong sum, again and again
	Once                 // answers with a wrong sum, and well when asked to repeat
	Nak                  // says that the command did not come whole
	Noise                // sends rubbish, then answers
	Slow                 // answers byte by byte, 2 ms apart
	Broken               // stops half way through the answer
	Extended             // answers with a frame of the long kind
	Syntax               // says that it does not understand
	Stale                // sends the answer to another command first
	Echo                 // sends the command back first, as a line with echo does
	Nonsense             // answers with a sound frame that makes no sense
)

// Fault is something that goes wrong with answers.
type Fault struct {
	Kind  Kind
	On    byte // a command, or Any
	Times int  // how many answers; 0: until Heal
}

// PN532 is the simulated chip. All methods may be called from anywhere.
type PN532 struct {
	Plug
	chip  byte
	dials chan *end

	mu sync.Mutex
	// guarded by mu
	cards      [][]byte // in the field
	turn       int      // looks since power on
	fault      *Fault
	awake      bool // was sent the wake-up
	set        bool // SAM configured
	limited    bool // looking ends by itself
	asked      map[byte]int
	lastTo     byte // command
	last       []byte
	complaints []string
}

// NewPN532 makes a plugged-in reader with nothing in front of it. chip is what
// it calls itself: 0x32 if it is a PN532.
func NewPN532(chip byte) *PN532 {
	return &PN532{chip: chip, dials: make(chan *end, 1), asked: map[byte]int{}}
}

// Hold holds cards with these UIDs against the reader, in place of others; with
// none it takes them away.
func (p *PN532) Hold(uids ...[]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cards = uids
}

// Break makes f happen from the next answer on, in place of any fault before.
func (p *PN532) Break(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = &f
}

// Heal ends the fault.
func (p *PN532) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = nil
}

// Asked is how often a command came.
func (p *PN532) Asked(c byte) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[c]
}

// Complaints lists what a real chip would not have stood.
func (p *PN532) Complaints() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.complaints)
}

// Dial connects a program in the same process. It needs Run.
func (p *PN532) Dial(ctx context.Context) (io.ReadWriteCloser, error) {
	line, err := p.Plug.Dial(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.dials: // a line that nobody served yet is dead by now
	default:
	}
	p.dials <- p.current()
	return line, nil
}

// Run serves the lines that Dial makes, one after the other, until ctx ends.
// Each finds the chip as after power on.
func (p *PN532) Run(ctx context.Context) error {
	for {
		select {
		case line := <-p.dials:
			// A line that ended is the other side's affair: the next is served.
			_ = p.Serve(ctx, line)
		case <-ctx.Done():
			return nil
		}
	}
}

// Serve answers on one line until ctx ends (nil) or the line does (its error).
// It closes the line.
func (p *PN532) Serve(ctx context.Context, line io.ReadWriteCloser) error {
	p.mu.Lock()
	p.awake, p.set, p.limited, p.turn = false, false, false, 0
	p.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { line.Close() }) // ends the read below
	defer stop()
	defer line.Close() // the other side learns it from its own end
	in := bufio.NewReader(line)
	for {
		body, err := p.next(in)
		if err == nil {
			err = p.answer(line, body)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("simulated PN532: %w", err)
		}
	}
}

// next reads a frame and returns it from D4 to its last byte of data; no bytes
// for one that asks to repeat, or to stop.
func (p *PN532) next(in *bufio.Reader) ([]byte, error) {
	before := []byte{0, 0, 0}
	for !slices.Equal(before, []byte{0x00, 0x00, 0xFF}) {
		b, err := in.ReadByte()
		if err != nil {
			return nil, err
		}
		if b == 0x55 {
			p.wake()
		}
		before = append(before[1:], b)
	}
	head := make([]byte, 2)
	if _, err := io.ReadFull(in, head); err != nil {
		return nil, err
	}
	switch {
	case head[0] == 0xFF && head[1] == 0x00:
		return []byte{}, nil
	case head[0] == 0x00 && head[1] == 0xFF:
		return nil, nil
	case head[0]+head[1] != 0 || head[0] < 2:
		p.complain("length % x", head)
		return nil, nil
	}
	body := make([]byte, int(head[0])+2) // check byte and 00
	if _, err := io.ReadFull(in, body); err != nil {
		return nil, err
	}
	var sum byte
	for _, b := range body[:head[0]+1] {
		sum += b
	}
	if sum != 0 || body[0] != 0xD4 || body[head[0]+1] != 0 {
		p.complain("frame % x does not add up", body)
		return nil, nil
	}
	return body[:head[0]], nil
}

func (p *PN532) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.awake = true
}

func (p *PN532) complain(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.complaints = append(p.complaints, fmt.Sprintf(format, args...))
}

// answer does what a command asks and says so, or what the fault makes of it.
func (p *PN532) answer(line io.Writer, body []byte) error {
	if body == nil {
		return nil // stop: we have
	}
	if len(body) == 0 {
		return p.repeat(line)
	}
	c := body[1]
	data, silent := p.act(c, body[2:])
	kind, broken := p.failure(c)
	if silent || broken && kind == Silent {
		return nil
	}
	out := []byte(ack)
	good := frame(append([]byte{0xD5, c + 1}, data...))
	p.mu.Lock()
	p.lastTo, p.last = c, good
	p.mu.Unlock()
	if broken {
		out = spoil(kind, body, good)
	} else {
		out = append(out, good...)
	}
	if broken && kind == Slow {
		return slowly(line, out)
	}
	_, err := line.Write(out)
	return err
}

const ack = "\x00\x00\xff\x00\xff\x00"

// repeat sends the last answer again, which a fault may bend again.
func (p *PN532) repeat(line io.Writer) error {
	p.mu.Lock()
	c, out := p.lastTo, slices.Clone(p.last)
	p.mu.Unlock()
	if len(out) == 0 {
		p.complain("asked to repeat, and there was no answer")
		return nil
	}
	if kind, broken := p.failure(c); broken && kind == Checksum {
		out[len(out)-2] ^= 0x5A
	}
	_, err := line.Write(out)
	return err
}

// failure says if something goes wrong with the answer to c.
func (p *PN532) failure(c byte) (Kind, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.fault
	if f == nil || f.On != Any && f.On != c {
		return 0, false
	}
	if f.Times == 1 {
		p.fault = nil
	}
	f.Times-- // 0, for ever, only goes further down
	return f.Kind, true
}

// act carries a command out. It is silent while it looks for a card without a
// limit.
func (p *PN532) act(c byte, args []byte) (data []byte, silent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[c]++
	if !p.awake {
		p.complaints = append(p.complaints, "a command before the wake-up")
	}
	switch {
	case c == Firmware:
		return []byte{p.chip, 1, 6, 7}, false
	case c == SAM:
		p.set = true
		return nil, false
	case c == RF && len(args) == 4 && args[0] == 5:
		p.limited = args[3] != 0xFF
		return nil, false
	case c == List:
		return p.list()
	}
	p.complaints = append(p.complaints, fmt.Sprintf("unknown command %02x", c))
	return nil, true
}

// list looks for a card. As real ones do, it misses a 7-byte card that stays
// every second time, and sees two cards in turns. Caller holds mu.
func (p *PN532) list() ([]byte, bool) {
	if !p.set {
		p.complaints = append(p.complaints, "a look before the SAM was configured")
	}
	p.turn++
	if len(p.cards) == 0 {
		return []byte{0}, !p.limited
	}
	uid := p.cards[p.turn%len(p.cards)]
	if len(p.cards) == 1 && len(uid) == 7 && p.turn%2 == 0 {
		return []byte{0}, !p.limited
	}
	if slices.Equal(uid, []byte{0x08}) { // makes one up each time
		uid = []byte{0x08, byte(p.turn >> 8), byte(p.turn), 0x11}
	}
	data := append([]byte{1, 1, 0x00, 0x04, 0x20, byte(len(uid))}, uid...)
	return append(data, 0x05, 0x75, 0x77, 0x81, 0x02), false // ATS
}

// spoil is what a reader with the fault sends instead of acknowledgement and answer.
func spoil(kind Kind, asked, good []byte) []byte {
	out := []byte(ack)
	bad := slices.Clone(good)
	switch kind {
	case Mute:
		return out
	case NoAck:
		return good
	case Checksum, Once:
		bad[len(bad)-2] ^= 0x5A
		return append(out, bad...)
	case Nak:
		return []byte("\x00\x00\xff\xff\x00\x00")
	case Noise:
		return slices.Concat([]byte{0xFF, 0x00, 0x12, 0x00, 0xFF, 0x07, 0x07}, out, []byte{0x80, 0x00}, good)
	case Broken:
		return append(out, bad[:len(bad)/2]...)
	case Extended:
		return append(out, 0x00, 0x00, 0xFF, 0xFF, 0xFF, 0x01, 0x00, 0xFF)
	case Syntax:
		return append(out, 0x00, 0x00, 0xFF, 0x01, 0xFF, 0x7F, 0x81, 0x00)
	case Stale:
		return slices.Concat(out, frame([]byte{0xD5, asked[1] + 3, 1}), good)
	case Echo:
		return slices.Concat(frame(asked), out, good)
	case Nonsense:
		return append(out, frame([]byte{0xD5, asked[1] + 1, 9, 9, 9})...)
	}
	return append(out, good...)
}

// slowly sends out byte by byte.
func slowly(line io.Writer, out []byte) error {
	for _, b := range out {
		if _, err := line.Write([]byte{b}); err != nil {
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

// frame wraps a body.
func frame(body []byte) []byte {
	size := byte(len(body))
	out := append([]byte{0x00, 0x00, 0xFF, size, -size}, body...)
	var sum byte
	for _, b := range body {
		sum += b
	}
	return append(out, -sum, 0x00)
}
