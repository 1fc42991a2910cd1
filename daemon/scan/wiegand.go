package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"time"

	"periph.io/x/conn/v3/gpio"
)

const (
	// frameGap ends a frame: bits follow each other within 1 to 2 ms, and readers
	// pause 25 to 50 ms between frames at least.
	frameGap = 50 * time.Millisecond

	// lastLook is one look more before a frame is taken for ended: a process that
	// was held up for longer than frameGap finds its pulses waiting.
	lastLook = time.Millisecond

	// lookOut bounds each wait between frames, so that the end of the program is
	// noticed.
	lookOut = 100 * time.Millisecond

	// sameHold is how long after its last frame a badge counts as still held: some
	// readers repeat it all the while.
	sameHold = 1500 * time.Millisecond
)

// LineSet is a reader's two lines, D0 and D1, with their pulses in the order in
// which they came.
type LineSet interface {
	// Wait returns the next edge and its line, 0 or 1. If none comes within timeout,
	// which is more than 0, the error is os.ErrDeadlineExceeded.
	Wait(timeout time.Duration) (line int, edge gpio.Edge, err error)
	// Close gives the lines back, at any time and any number of times. A waiting
	// Wait ends within its timeout.
	Close() error
}

// Why a frame is refused.
var (
	errBits   = errors.New("frame of neither 26 nor 34 bits")
	errParity = errors.New("frame with wrong parity")
	errMiddle = errors.New("frame had begun before the lines were opened")
)

// Wiegand is a staff card reader on two GPIO lines, 26 or 34 bits. A card makes
// one event until its reader has not sent it for 1.5 s. The wire does not tell
// whether a reader is there: it counts as up while the lines are open.
func Wiegand(name string, open func(context.Context) (LineSet, error)) Device {
	dial := func(ctx context.Context) (io.ReadWriteCloser, error) {
		lines, err := open(ctx)
		if err != nil {
			return nil, err
		}
		return wires{lines}, nil
	}
	w := &wiegand{}
	return Device{name: name, dial: dial, serve: w.serve}
}

// wires lets port.Keep hold a LineSet, which is no stream of bytes.
type wires struct{ LineSet }

func (wires) Read([]byte) (int, error)  { return 0, errors.ErrUnsupported }
func (wires) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

// wiegand is what a reader sent last. Owned by the device's goroutine.
type wiegand struct {
	last badgeBits
	at   time.Time // when it was last sent
}

func (w *wiegand) serve(ctx context.Context, line io.ReadWriteCloser, o outlet) error {
	lines, ok := line.(wires)
	if !ok {
		panic("scan: a Wiegand reader on something else than its lines") // Wiegand dials wires only
	}
	o.up()
	f := frame{bad: errMiddle} // until a first gap
	for wait := frameGap; ; {
		n, edge, err := lines.Wait(wait)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("wait for a pulse: %w", ctx.Err())
		case errors.Is(err, os.ErrDeadlineExceeded) && wait == frameGap:
			wait = lastLook
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			w.take(&f, o)
			wait = lookOut
			continue
		case err != nil:
			return fmt.Errorf("wait for a pulse: %w", err)
		}
		if edge == gpio.FallingEdge {
			f.pulse(n)
		}
		wait = frameGap
	}
}

// take takes a frame that has ended, if there was one, and makes f ready for the
// next.
func (w *wiegand) take(f *frame, o outlet) {
	got := *f
	*f = frame{}
	if got.n == 0 {
		return
	}
	b, err := got.badge()
	if err != nil {
		o.refuse(err)
		return
	}
	now := time.Now()
	held := b == w.last && now.Sub(w.at) < sameHold
	w.last, w.at = b, now
	if !held {
		o.held(b.kind, b.uid())
	}
}

// frame is the bits between two gaps.
type frame struct {
	bits uint64 // the first sent is the highest; only the last 64
	n    int
	bad  error
}

// pulse takes a pulse on D0 or D1.
func (f *frame) pulse(line int) {
	f.bits = f.bits<<1 | uint64(line)
	f.n++
	if line != 0 && line != 1 {
		f.bad = errBits
	}
}

// badgeBits is what a good frame says.
type badgeBits struct {
	kind BadgeKind
	data uint32
}

// uid is the data, first bit first.
func (b badgeBits) uid() []byte {
	d := []byte{byte(b.data >> 24), byte(b.data >> 16), byte(b.data >> 8), byte(b.data)}
	if b.kind == Wiegand26 {
		return d[1:]
	}
	return d
}

// badge checks the frame: its first half, parity bit included, has an even
// number of ones and its second half an odd one.
func (f *frame) badge() (badgeBits, error) {
	kind, half := Wiegand26, 13
	if f.n == 34 {
		kind, half = Wiegand34, 17
	}
	switch {
	case f.bad != nil:
		return badgeBits{}, f.bad
	case f.n != 2*half:
		return badgeBits{}, errBits
	}
	mask := uint64(1)<<half - 1
	if bits.OnesCount64(f.bits>>half&mask)%2 != 0 || bits.OnesCount64(f.bits&mask)%2 != 1 {
		return badgeBits{}, errParity
	}
	data := f.bits >> 1 & (1<<(2*half-2) - 1)
	return badgeBits{kind, uint32(data)}, nil
}
