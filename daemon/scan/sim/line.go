// Package sim is barcode scanners and staff card readers without hardware: a
// PN532, a scanner on a serial line, one that plays a keyboard, and a Wiegand
// reader. They speak the device's side of the wire, fail on demand, and keep
// what a real device would not stand as a complaint. They have their own
// encoders and know nothing of the daemon, so that each checks the other.
package sim

import (
	"context"
	"errors"
	"io"
	"sync"
)

// slack is what a line holds in each direction before Write waits, as the
// kernel's buffers do.
const slack = 4096

// pipe makes a line in memory. Closing either end cuts it for both: what was
// written can still be read, then comes io.EOF.
func pipe() (near, far *end) {
	there, back := make(chan byte, slack), make(chan byte, slack)
	c := &cut{done: make(chan struct{})}
	return &end{in: back, out: there, cut: c}, &end{in: there, out: back, cut: c}
}

// cut is the state both ends share.
type cut struct {
	once sync.Once
	done chan struct{}
}

type end struct {
	in  <-chan byte
	out chan<- byte
	cut *cut
}

func (e *end) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	select {
	case b[0] = <-e.in:
	case <-e.cut.done:
		select {
		case b[0] = <-e.in: // written before the cut
		default:
			return 0, io.EOF
		}
	}
	for n := 1; n < len(b); n++ {
		select {
		case b[n] = <-e.in:
		default:
			return n, nil
		}
	}
	return len(b), nil
}

func (e *end) Write(b []byte) (int, error) {
	for n := range b {
		select {
		case <-e.cut.done:
			return n, io.ErrClosedPipe
		default:
		}
		select {
		case e.out <- b[n]:
		case <-e.cut.done:
			return n, io.ErrClosedPipe
		}
	}
	return len(b), nil
}

func (e *end) Close() error {
	e.cut.once.Do(func() { close(e.cut.done) })
	return nil
}

// Plug is where a device's line is plugged in. The zero value is plugged in,
// with nobody on the line.
type Plug struct {
	mu sync.Mutex
	// guarded by mu
	out  bool
	line *end // the device's end; nil until a program dials
}

// Dial connects a program in the same process, in place of the one before.
func (p *Plug) Dial(context.Context) (io.ReadWriteCloser, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out {
		return nil, errors.New("open simulated device: not there")
	}
	if p.line != nil {
		p.line.Close() // in memory: it cannot fail
	}
	near, far := pipe()
	p.line = far
	return near, nil
}

// Pull pulls the plug: the line is dead, and Dial fails until Push.
func (p *Plug) Pull() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = true
	if p.line != nil {
		p.line.Close() // as above
	}
}

// Push plugs it in again.
func (p *Plug) Push() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = false
}

// Write sends bytes to the program, if there is one: nobody else hears them.
func (p *Plug) Write(b []byte) (int, error) {
	p.mu.Lock()
	line := p.line
	p.mu.Unlock()
	if line != nil {
		// Whether the program is still there makes no difference to a device.
		_, _ = line.Write(b)
	}
	return len(b), nil
}

// current is the device's end, if a program is there.
func (p *Plug) current() *end {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.line
}
