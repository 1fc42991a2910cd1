package machine

import (
	"context"
	"errors"
	"io"
	"time"

	"yaoju/protocol/board"
)

// probeTries is how often a probe asks: as often as a session does.
const probeTries = tries

// Probe reports whether one of our motor boards answers on line, and closes line. It
// says HELLO, which moves nothing. A board of another version is one as well.
func Probe(ctx context.Context, line io.ReadWriteCloser) bool {
	heard := make(chan bool, 1) // holds the one answer: the reader never waits
	read := make(chan struct{})
	go func() {
		defer close(read)
		heard <- hearsBoard(line)
	}()
	defer func() {
		line.Close() // frees the reader; the line is given up, so its error tells nothing
		<-read
	}()
	for seq := range uint8(probeTries) {
		if _, err := line.Write(board.Append([]byte{0}, seq+1, board.Hello{Proto: board.Version})); err != nil {
			return false
		}
		limit := time.NewTimer(answerLimit)
		select {
		case yes := <-heard:
			limit.Stop()
			return yes
		case <-limit.C:
		case <-ctx.Done():
			limit.Stop()
			return false
		}
	}
	return false
}

// hearsBoard waits until a board has answered HELLO, or line ends.
func hearsBoard(line io.Reader) bool {
	for r := board.NewReader(line); ; {
		f, err := r.Next()
		if err != nil {
			return false
		}
		m, err := f.Parse()
		if _, other := errors.AsType[*board.VersionError](err); other {
			return true
		}
		if _, is := m.(board.HelloIs); is {
			return true
		}
		if _, refused := m.(board.Nak); refused {
			return true
		}
	}
}
