package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

var (
	// errQuiet: nothing came within the limit.
	errQuiet = errors.New("nothing came")
	// errOver: the line is of no more use.
	errOver = errors.New("the line is over")
)

// intake is a line while it lasts. Its Read cannot be given a limit, so a
// goroutine of its own does nothing but read.
type intake struct {
	line   io.Closer
	chunks chan []byte
	over   chan struct{} // closed by close
	dead   chan error    // why reading ended; 1, so that it can
}

// listen starts reading line.
func listen(line io.ReadCloser) *intake {
	in := &intake{line: line, chunks: make(chan []byte), over: make(chan struct{}), dead: make(chan error, 1)}
	go in.pump(line)
	return in
}

// close ends the line and waits for pump.
func (in *intake) close() {
	close(in.over)
	in.line.Close() // ends pump's Read; the line is given up, whatever it says
	for range in.chunks {
		// pump closes it
	}
}

// pump passes on what arrives until the line dies or close is called.
func (in *intake) pump(line io.Reader) {
	defer close(in.chunks)
	// 20 keystrokes of 24 bytes, or the longest PN532 frame, and some more.
	buf := make([]byte, 1024)
	for {
		n, err := line.Read(buf)
		if n > 0 {
			select {
			case in.chunks <- slices.Clone(buf[:n]):
			case <-in.over:
				return
			}
		}
		if err != nil {
			in.dead <- err
			return
		}
	}
}

// next returns what arrives next, or errQuiet after limit, or errOver. With
// limit 0 it waits as long as the line lasts: nobody may scan for a month.
func (in *intake) next(ctx context.Context, limit time.Duration) ([]byte, error) {
	var late <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		late = t.C
	}
	select {
	case b, ok := <-in.chunks:
		if !ok {
			return nil, fmt.Errorf("%w: %w", errOver, <-in.dead)
		}
		return b, nil
	case <-late:
		return nil, errQuiet
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errOver, ctx.Err())
	}
}
