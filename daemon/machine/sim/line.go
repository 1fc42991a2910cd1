package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// slack is what one direction of a Line holds before Write waits: about what a
// UART driver and a USB adapter buffer between them.
const slack = 4096

// Line returns the two ends of a serial line in memory. Unlike net.Pipe it has
// slack, so writing does not wait for a reader. Closing either end ends both;
// what was written before can still be read, then Read gives io.EOF.
func Line() (host, device io.ReadWriteCloser) {
	down, up := newPipe(), newPipe()
	return &end{in: up, out: down}, &end{in: down, out: up}
}

type end struct{ in, out *pipe }

func (e *end) Read(p []byte) (int, error)  { return e.in.read(p) }
func (e *end) Write(p []byte) (int, error) { return e.out.write(p) }

func (e *end) Close() error {
	e.in.close()
	e.out.close()
	return nil
}

// pipe is one direction.
type pipe struct {
	mu     sync.Mutex
	change sync.Cond // of what follows
	buf    []byte    // guarded by mu
	closed bool      // guarded by mu
}

func newPipe() *pipe {
	p := new(pipe)
	p.change.L = &p.mu
	return p
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.buf) == 0 && !p.closed && len(b) > 0 {
		p.change.Wait()
	}
	if len(p.buf) == 0 && p.closed {
		return 0, io.EOF
	}
	n := copy(b, p.buf)
	p.buf = append(p.buf[:0], p.buf[n:]...)
	p.change.Broadcast()
	return n, nil
}

func (p *pipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := 0; ; {
		if p.closed {
			return n, io.ErrClosedPipe
		}
		k := min(slack-len(p.buf), len(b)-n)
		p.buf = append(p.buf, b[n:n+k]...)
		p.change.Broadcast()
		if n += k; n == len(b) {
			return n, nil
		}
		p.change.Wait()
	}
}

func (p *pipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.change.Broadcast()
}

var errUnplugged = errors.New("no such device")

// Cable is a line in memory between a host and whichever board is plugged in.
type Cable struct {
	fresh chan io.ReadWriteCloser // device ends for Run, as Dial makes them

	mu    sync.Mutex
	board *Board             // guarded by mu; nil while unplugged
	line  io.ReadWriteCloser // guarded by mu; the device end in use
}

// NewCable returns a cable with b at its end; nil leaves it unplugged.
func NewCable(b *Board) *Cable {
	return &Cable{board: b, fresh: make(chan io.ReadWriteCloser)} // Dial waits for Run: a line nobody serves is none
}

// Run serves the board's end of each line until ctx ends.
func (c *Cable) Run(ctx context.Context) error {
	var served sync.WaitGroup
	defer served.Wait()
	for {
		select {
		case <-ctx.Done():
			c.Unplug()
			return nil
		case line := <-c.fresh:
			c.mu.Lock()
			if c.line != nil {
				c.line.Close()
			}
			b := c.board
			c.line = line
			c.mu.Unlock()
			if b == nil {
				line.Close()
				continue
			}
			served.Go(func() {
				b.Serve(ctx, line) // its error says that the line is closed, which the host sees too
			})
		}
	}
}

// Dial opens the line, as a serial port is opened. It fails while nothing is plugged in.
func (c *Cable) Dial(ctx context.Context) (io.ReadWriteCloser, error) {
	c.mu.Lock()
	b := c.board
	c.mu.Unlock()
	if b == nil {
		return nil, fmt.Errorf("open the motor board's cable: %w", errUnplugged)
	}
	host, device := Line()
	select {
	case c.fresh <- device:
		return host, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Plug puts b at the end of the cable, in place of what was there.
func (c *Cable) Plug(b *Board) {
	c.Unplug()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.board = b
}

// Unplug ends the line in use. The board itself goes on.
func (c *Cable) Unplug() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.board = nil
	if c.line != nil {
		c.line.Close()
		c.line = nil
	}
}
