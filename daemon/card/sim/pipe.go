package sim

import (
	"io"
	"sync"
)

// slack is what a line holds in each direction before Write waits, as the
// kernel's buffers do. A frame with text and photograph is 1295 bytes.
const slack = 4096

// Pipe makes a line in memory and returns its two ends. Unlike net.Pipe it has
// slack. Closing either end cuts the line for both: what was written can still
// be read, then comes io.EOF.
func Pipe() (near, far io.ReadWriteCloser) {
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
