package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"yaoju/daemon/port"
	"yaoju/protocol/board"
)

const (
	// answerLimit bounds one try: question and answer take 10 ms on the line, and
	// the board answers VEND, the slowest, within 60 ms.
	answerLimit = 200 * time.Millisecond

	// askLimit bounds one question to a board that has answered before: it is longer
	// than a board that resets itself is away.
	askLimit = 2 * time.Second

	// quietTime is how long a board on USB is left alone after the line was opened:
	// opening resets it, and the bootloader of one whose fuses are as they came takes
	// any byte in its first second for a programmer and stays.
	quietTime = 2 * time.Second

	// tailLength is how much of what was heard last is kept: a bootloader's longest
	// answer is 265 bytes.
	tailLength = 1024
)

// errSilent says that nobody answered.
var errSilent = errors.New("no motor board answers")

// line is an open serial line with a motor board or its bootloader at the end.
type line struct {
	path   string
	rw     io.ReadWriteCloser
	frames chan board.Frame
	news   chan struct{} // has room for one: something was heard, or reading ended
	done   sync.WaitGroup
	seq    uint8

	mu    sync.Mutex
	tail  []byte // guarded by mu: heard last
	heard int    // guarded by mu: bytes in all
	err   error  // guarded by mu: why reading ended
}

// openLine opens path, and waits until a board that this has reset listens.
func openLine(ctx context.Context, path string, baud int) (*line, error) {
	rw, err := port.Open(path, baud)
	if err != nil {
		return nil, err
	}
	l := newLine(path, rw)
	if onUSB(path) {
		err = sleep(ctx, quietTime)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func newLine(path string, rw io.ReadWriteCloser) *line {
	l := &line{path: path, rw: rw, frames: make(chan board.Frame, 8), news: make(chan struct{}, 1)} // more frames than come for one question
	l.done.Go(l.read)
	return l
}

// onUSB reports whether path leads to a USB adapter, whose DTR line resets the board.
func onUSB(path string) bool {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		real = path
	}
	name := filepath.Base(real)
	return strings.HasPrefix(name, "ttyUSB") || strings.HasPrefix(name, "ttyACM")
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// close gives the line back.
func (l *line) close() {
	l.rw.Close() // nothing is on its way: an error would only say that the device is gone
	l.done.Wait()
}

func (l *line) read() {
	defer close(l.frames)
	r := board.NewReader(l)
	for {
		f, err := r.Next()
		if err != nil {
			l.mu.Lock()
			l.err = err
			l.mu.Unlock()
			l.tell()
			return
		}
		select {
		case l.frames <- f:
		default: // nobody asked for so many
		}
	}
}

// tell says that there is something new to look at.
func (l *line) tell() {
	select {
	case l.news <- struct{}{}:
	default: // it is said already
	}
}

// Read is what the frames are read from; it notes what passes.
func (l *line) Read(p []byte) (int, error) {
	n, err := l.rw.Read(p)
	l.mu.Lock()
	l.heard += n
	l.tail = append(l.tail, p[:n]...)
	l.tail = l.tail[max(0, len(l.tail)-tailLength):]
	l.mu.Unlock()
	l.tell()
	return n, err
}

// lately returns what was heard since forget, a channel that gets something when
// there is more, and why reading ended, if it did.
func (l *line) lately() (heard []byte, news <-chan struct{}, ended error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.tail), l.news, l.err
}

// forget forgets what was heard.
func (l *line) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = l.tail[:0]
}

func (l *line) ended() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// ask repeats question m until it is answered, for so long. Every question may be
// repeated. The answer is a board.Nak or the kind that belongs to the question.
func (l *line) ask(ctx context.Context, m board.Message, limit time.Duration) (board.Message, error) {
	deadline := time.Now().Add(limit)
	for time.Now().Before(deadline) {
		l.seq++
		if _, err := l.rw.Write(board.Append([]byte{0}, l.seq, m)); err != nil {
			return nil, err
		}
		answer, err := l.wait(ctx, m.Kind().Answer())
		if answer != nil || err != nil {
			return answer, err
		}
	}
	return nil, l.silent()
}

// wait waits for the answer to the question just sent; nil, nil is none in time.
func (l *line) wait(ctx context.Context, want board.Kind) (board.Message, error) {
	limit := time.NewTimer(answerLimit)
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-limit.C:
			return nil, nil
		case f, ok := <-l.frames:
			if !ok {
				return nil, l.ended()
			}
			if f.Seq != l.seq {
				continue // to a question that was given up
			}
			m, err := f.Parse()
			if _, other := errors.AsType[*board.VersionError](err); other {
				return nil, err
			}
			if err == nil && (m.Kind() == want || m.Kind() == board.KindNak) {
				return m, nil
			}
		}
	}
}

// silent is the error of a question that nobody answered.
func (l *line) silent() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.heard > 0 {
		return fmt.Errorf("%w on %s: what comes from there (%d bytes) is not its language: is it the right line, at the right speed?", errSilent, l.path, l.heard)
	}
	return fmt.Errorf("%w on %s: has it power, and is it the right line?", errSilent, l.path)
}

// hello asks who is there.
func (l *line) hello(ctx context.Context, limit time.Duration) (board.HelloIs, error) {
	m, err := l.ask(ctx, board.Hello{Proto: board.Version}, limit)
	if err != nil {
		return board.HelloIs{}, err
	}
	h, ok := m.(board.HelloIs)
	if !ok {
		return h, fmt.Errorf("the motor board on %s refuses to say who it is: %v", l.path, m)
	}
	return h, nil
}

// status asks how the board stands.
func (l *line) status(ctx context.Context) (board.StatusIs, error) {
	m, err := l.ask(ctx, board.Status{}, askLimit)
	if err != nil {
		return board.StatusIs{}, err
	}
	s, ok := m.(board.StatusIs)
	if !ok {
		return s, fmt.Errorf("the motor board on %s refuses to say how it stands: %v", l.path, m)
	}
	return s, nil
}
