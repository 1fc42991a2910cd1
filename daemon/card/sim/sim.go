// Package sim is a card reader without hardware: it speaks the reader's side
// of the wire, holds invented people's cards, and fails on demand. It polices
// its contract: what a real reader would not stand is kept as a complaint. It
// has its own encoder and knows nothing of the daemon, so that each checks the
// other.
package sim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Command is a command and its parameter as they stand on the wire.
type Command uint16

// The commands the reader knows.
const (
	Any         Command = 0 // in a Fault: whichever comes
	Reset       Command = 0x10FF
	SelfTest    Command = 0x11FF
	SAMNumber   Command = 0x12FF
	Find        Command = 0x2001
	Select      Command = 0x2002
	ReadText    Command = 0x3001
	ReadAddress Command = 0x3003
)

// ReadTakes is how long a real reader takes to read a card's text.
const ReadTakes = time.Second

// shortestFind is the pause a reader needs between two finds: 300 ms, less
// what a loaded machine may move them together.
const shortestFind = 280 * time.Millisecond

// dialLimit is how long Dial waits for Run to be done with the line before:
// longer than a read.
const dialLimit = 2 * time.Second

// Kind is a way to fail.
type Kind int

// The ways to fail.
const (
	Silent   Kind = iota // does not answer
	Checksum             // answers with a wrong check byte
	Slow                 // answers in small pieces
	Noise                // sends rubbish, then answers
	Status               // answers with Fault.Status and does nothing
	Broken               // stops half way through the answer
	Vendor               // sends the malformed time-out frame seen in the wild
	Oversize             // announces a frame longer than any, then answers
	Twice                // sends the answer before last once more, then answers
)

// Fault is something that goes wrong with answers.
type Fault struct {
	Kind   Kind
	On     Command // Any: with every command
	Status byte    // for Kind Status
	Times  int     // how many answers; 0: until Heal
}

// state is how far the card on the plate has come.
type state int

const (
	fresh    state = iota // laid, not found
	found                 // find succeeded
	selected              // select succeeded
	done                  // read, and authenticated until it is lifted
	failed                // a read failed: it must be lifted
)

// Reader is the simulated reader. All methods may be called from anywhere.
type Reader struct {
	readTakes time.Duration
	lines     chan io.ReadWriteCloser // Dial to Run

	mu sync.Mutex
	// guarded by mu
	card       *Person // nil: nothing lies there
	state      state
	laid       int // counts Lay, Lift and Unplug, so that a read notices
	fault      *Fault
	asked      map[Command]int
	lastFind   time.Time
	complaints []string
	last       []byte // the answer before
	unplugged  bool
	findsOnce  bool
	line       io.Closer // the line Serve uses
}

// New makes a plugged-in reader with an empty plate. Reading a card's text
// takes readTakes.
func New(readTakes time.Duration) *Reader {
	return &Reader{readTakes: readTakes, lines: make(chan io.ReadWriteCloser), asked: map[Command]int{}}
}

// Lay puts a person's card on the plate, in place of any that lies there.
func (r *Reader) Lay(p Person) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.card, r.state = &p, fresh
	r.laid++
}

// Lift takes the card away.
func (r *Reader) Lift() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.card, r.state = nil, fresh
	r.laid++
}

// Break makes f happen from the next answer on, in place of any fault before.
func (r *Reader) Break(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = &f
}

// Heal ends the fault.
func (r *Reader) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = nil
}

// FindsOnce makes the reader one of those that find a card once only, until it
// is lifted, though it was not read.
func (r *Reader) FindsOnce() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.findsOnce = true
}

// Asked is how often a command came.
func (r *Reader) Asked(c Command) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[c]
}

// Complaints lists what a real reader would not have stood.
func (r *Reader) Complaints() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.complaints)
}

// Unplug cuts the line and the power. Dial fails until Plug.
func (r *Reader) Unplug() {
	r.mu.Lock()
	r.unplugged, r.state = true, fresh
	r.laid++ // a read under way comes to nothing
	line := r.line
	r.mu.Unlock()
	if line != nil {
		line.Close() // it is gone: there is nobody to tell
	}
}

// Plug brings line and power back. A card that lies there is as if newly laid.
func (r *Reader) Plug() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unplugged, r.state = false, fresh
}

// Dial connects a program in the same process. It needs Run.
func (r *Reader) Dial(ctx context.Context) (io.ReadWriteCloser, error) {
	r.mu.Lock()
	unplugged := r.unplugged
	r.mu.Unlock()
	if unplugged {
		return nil, errors.New("open simulated reader: not there")
	}
	near, far := Pipe()
	select {
	case r.lines <- far:
		return near, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("open simulated reader: %w", ctx.Err())
	case <-time.After(dialLimit):
		return nil, errors.New("open simulated reader: in use, or nobody runs it")
	}
}

// Run serves the lines that Dial makes, one after the other, until ctx ends.
func (r *Reader) Run(ctx context.Context) error {
	for {
		select {
		case line := <-r.lines:
			// A line that ended is the other side's affair: the next is served.
			_ = r.Serve(ctx, line)
		case <-ctx.Done():
			return nil
		}
	}
}

// Serve answers on one line until ctx ends (nil) or the line does (its error).
// It closes the line.
func (r *Reader) Serve(ctx context.Context, line io.ReadWriteCloser) error {
	r.mu.Lock()
	r.line = line
	r.mu.Unlock()
	ended, closed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(closed)
		select {
		case <-ctx.Done():
		case <-ended:
		}
		line.Close() // ends the read below; the other side learns it from its own end
	}()
	err := r.serve(ctx, line)
	close(ended)
	<-closed
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (r *Reader) serve(ctx context.Context, line io.ReadWriter) error {
	in := bufio.NewReader(line)
	for {
		c, status, err := r.next(in)
		if err != nil {
			return fmt.Errorf("simulated reader: %w", err)
		}
		var answer []byte
		if status != 0 {
			answer = frame(status, nil)
		} else if answer, err = r.act(ctx, c); err != nil {
			return err
		}
		if err := r.say(ctx, line, c, answer); err != nil {
			return fmt.Errorf("simulated reader: %w", err)
		}
	}
}

// next reads one command. A command that is no frame gets a status of its own.
func (r *Reader) next(in *bufio.Reader) (c Command, status byte, err error) {
	const start = "\xaa\xaa\xaa\x96\x69"
	for at := 0; at < len(start); {
		b, err := in.ReadByte()
		if err != nil {
			return 0, 0, err
		}
		if b != start[at] {
			r.complain("byte %#02x in place %d of the preamble", b, at)
			at = 0
			continue
		}
		at++
	}
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, 0, err
	}
	size := int(head[0])<<8 | int(head[1])
	if size < 3 || size > 64 {
		r.complain("a command of %d bytes", size)
		return 0, 0x11, nil
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(in, body); err != nil {
		return 0, 0, err
	}
	sum := head[0] ^ head[1]
	for _, b := range body[:size-1] {
		sum ^= b
	}
	if sum != body[size-1] {
		r.complain("command % x: check byte should be %02x", body, sum)
		return 0, 0x10, nil
	}
	return Command(body[0])<<8 | Command(body[1]), 0, nil
}

func (r *Reader) complain(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.complaints = append(r.complaints, fmt.Sprintf(format, args...))
}

// act does what c asks and returns the answer.
func (r *Reader) act(ctx context.Context, c Command) ([]byte, error) {
	r.mu.Lock()
	r.asked[c]++
	laid := r.laid
	wrong := r.fault != nil && r.fault.Kind == Status && r.fault.covers(c)
	answer := r.begin(c, wrong)
	r.mu.Unlock()
	if answer != nil {
		return answer, nil
	}

	// Only reading takes time, and the card may be lifted meanwhile.
	select {
	case <-time.After(r.readTakes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.laid != laid || r.card == nil || r.unplugged {
		return frame(0x41, nil), nil
	}
	r.state = done
	text := r.card.Block()
	data := append([]byte{0x01, 0x00, 0x04, 0x00}, text[:]...)
	return frame(0x90, append(data, photo()...)), nil
}

// begin acts at once, or returns nil if the text is to be read. Caller holds mu.
func (r *Reader) begin(c Command, wrong bool) []byte {
	if wrong {
		if c == ReadText {
			r.state = failed
		}
		return frame(r.fault.Status, nil)
	}
	switch c {
	case Reset:
		r.state = fresh
		return frame(0x90, nil)
	case SelfTest:
		return frame(0x90, nil)
	case SAMNumber:
		return frame(0x90, make([]byte, 16))
	case Find:
		if gap := time.Since(r.lastFind); !r.lastFind.IsZero() && gap < shortestFind {
			r.complaints = append(r.complaints, fmt.Sprintf("find %v after find", gap))
		}
		r.lastFind = time.Now()
		if r.card == nil || r.state == done || r.state == failed {
			return frame(0x80, nil)
		}
		if r.findsOnce && r.state != fresh {
			return frame(0x80, nil)
		}
		r.state = found
		return frame(0x9F, make([]byte, 4))
	case Select:
		if r.card == nil {
			return frame(0x81, nil)
		}
		if r.state != found && r.state != selected {
			return frame(0x34, nil)
		}
		r.state = selected
		return frame(0x90, make([]byte, 8))
	case ReadText:
		if r.card != nil && r.state != selected {
			r.complaints = append(r.complaints, "read without select")
			return frame(0x34, nil)
		}
		if r.card == nil {
			return frame(0x41, nil)
		}
		return nil
	case ReadAddress:
		if r.card == nil || r.state != done {
			return frame(0x41, nil)
		}
		return frame(0x91, nil)
	}
	r.complaints = append(r.complaints, fmt.Sprintf("unknown command %04x", uint16(c)))
	return frame(0x21, nil)
}

// covers says if f concerns c.
func (f *Fault) covers(c Command) bool { return f.On == Any || f.On == c }

// say sends the answer, or what the fault makes of it.
func (r *Reader) say(ctx context.Context, line io.Writer, c Command, answer []byte) error {
	r.mu.Lock()
	kind, broken := Silent, false
	if f := r.fault; f != nil && f.covers(c) {
		kind, broken = f.Kind, true
		if f.Times == 1 {
			r.fault = nil
		}
		f.Times-- // 0, for ever, only goes further down
	}
	last := r.last
	r.last = answer
	r.mu.Unlock()
	if broken {
		return spoil(ctx, line, kind, answer, last)
	}
	_, err := line.Write(answer)
	return err
}

// spoil sends answer as a reader with the fault would.
func spoil(ctx context.Context, line io.Writer, kind Kind, answer, last []byte) error {
	out := slices.Clone(answer)
	switch kind {
	case Silent:
		return nil
	case Checksum:
		out[len(out)-1] ^= 0x5A
	case Slow:
		return slowly(ctx, line, out)
	case Noise:
		out = append([]byte{0x00, 0xAA, 0xAA, 0x96, 0x69, 0xFF, 0xAA}, out...)
	case Broken:
		out = out[:len(out)/2]
	case Vendor:
		out = []byte{0xAA, 0xAA, 0xAA, 0x96, 0x69, 0x00, 0x05, 0x05, 0x05, 0x05}
	case Oversize:
		out = append([]byte{0xAA, 0xAA, 0xAA, 0x96, 0x69, 0xFF, 0xFF}, out...)
	case Twice:
		out = append(slices.Clone(last), out...)
	}
	_, err := line.Write(out)
	return err
}

// slowly sends out in about 50 pieces over about half a second.
func slowly(ctx context.Context, line io.Writer, out []byte) error {
	for piece := range slices.Chunk(out, 1+len(out)/50) {
		if _, err := line.Write(piece); err != nil {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// frame wraps an answer.
func frame(status byte, data []byte) []byte {
	size := 4 + len(data)
	out := append([]byte{0xAA, 0xAA, 0xAA, 0x96, 0x69, byte(size >> 8), byte(size), 0, 0, status}, data...)
	var sum byte
	for _, b := range out[5:] {
		sum ^= b
	}
	return append(out, sum)
}

// photo is 1024 bytes that begin as photographs do and have a preamble inside,
// as a photograph may.
func photo() []byte {
	p := make([]byte, 1024)
	copy(p, "WLf\x00\x7e\x002\x00")
	for i := 8; i < len(p); i++ {
		p[i] = byte(i * 7)
	}
	copy(p[500:], "\xaa\xaa\xaa\x96\x69\x00\x04\x00\x00\x80\x84")
	return p
}
