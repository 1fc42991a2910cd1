package sim

import (
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"slices"
	"sync"
	"time"

	"periph.io/x/conn/v3/gpio"
)

// spacing is the time from one bit to the next.
const spacing = 2 * time.Millisecond

// kernelHolds is how many edges of two lines wait in the kernel; more are lost.
const kernelHolds = 32

// Wiegand is a staff card reader's two lines. All methods may be called from
// anywhere.
type Wiegand struct {
	edges chan int

	mu sync.Mutex
	// guarded by mu
	opened     int           // how often
	closed     chan struct{} // closed by Close
	complaints []string
}

// NewWiegand makes a reader with nothing in front of it, not open.
func NewWiegand() *Wiegand {
	w := &Wiegand{edges: make(chan int, kernelHolds), closed: make(chan struct{})}
	close(w.closed)
	return w
}

// Open opens the lines. They are pulled up, and no edge waits.
func (w *Wiegand) Open() *Wiegand {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened++
	w.closed = make(chan struct{})
	for len(w.edges) > 0 {
		<-w.edges
	}
	return w
}

// Opened is how often the lines were opened.
func (w *Wiegand) Opened() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opened
}

// Wait is the lines as the program waits for them.
func (w *Wiegand) Wait(timeout time.Duration) (int, gpio.Edge, error) {
	w.mu.Lock()
	closed := w.closed
	if timeout <= 0 {
		w.complaints = append(w.complaints, fmt.Sprintf("wait with a limit of %v: for ever, or not at all", timeout))
	}
	w.mu.Unlock()
	select {
	case <-closed:
		return 0, gpio.NoEdge, fs.ErrClosed
	case n := <-w.edges:
		return n, gpio.FallingEdge, nil
	default:
	}
	select {
	case <-closed:
		return 0, gpio.NoEdge, fs.ErrClosed
	case n := <-w.edges:
		return n, gpio.FallingEdge, nil
	case <-time.After(timeout):
		return 0, gpio.NoEdge, os.ErrDeadlineExceeded
	}
}

// Close gives the lines back.
func (w *Wiegand) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.closed:
	default:
		close(w.closed)
	}
	return nil
}

// Complaints lists what real lines would not have stood.
func (w *Wiegand) Complaints() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.complaints)
}

// Hold26 holds a card of 24 bits against the reader; it returns when the frame
// is sent.
func (w *Wiegand) Hold26(data uint32) { w.Send(Bits(uint64(data), 24)) }

// Hold34 holds a card of 32 bits against it.
func (w *Wiegand) Hold34(data uint32) { w.Send(Bits(uint64(data), 32)) }

// Send sends bits, each as a pulse on its line, 2 ms apart.
func (w *Wiegand) Send(frame string) {
	for _, b := range frame {
		w.Pulse(int(b - '0'))
		time.Sleep(spacing)
	}
}

// Pulse pulls one line down. Nobody who takes it, and a full buffer: it is lost.
func (w *Wiegand) Pulse(line int) {
	select {
	case w.edges <- line:
	default:
	}
}

// Bits is a frame: size bits of data between an even parity of its first half
// and an odd one of its second.
func Bits(data uint64, size int) string {
	half := size / 2
	even := bits.OnesCount64(data>>half) % 2
	odd := 1 - bits.OnesCount64(data&(1<<half-1))%2
	return fmt.Sprintf("%d%0*b%d", even, size, data, odd)
}
