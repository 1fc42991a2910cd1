package elf

import (
	"context"
	"io"
	"sync"
	"time"
)

const (
	// talkStep is how often bytes of the board are fetched while an answer may be on
	// its way: well under what a host waits, and about what a USB adapter does.
	talkStep = time.Millisecond

	// talkTime is how long that may be: twice the longest answer, which is that to
	// VEND, with its question 15 ms.
	talkTime = 30 * time.Millisecond

	// quietStep is how far the board may be behind while nobody has asked it for
	// something, and it has nothing to say. It costs a fifth of talkStep.
	quietStep = 5 * time.Millisecond

	// stall is how far the board may fall behind real time before it gives up the
	// time it lost, as a busy machine's simulation must. In virtual time it never does.
	stall = 50 * time.Millisecond

	// pieceLength and pieces bound what the host has written and the board has not
	// taken yet: 4 KiB, about what a UART driver and a USB adapter buffer between them.
	pieceLength = 256
	pieces      = 16
)

// Serve connects the board to line and lets its time pass as package time has it,
// until ctx ends or the line does, and closes line. Between two lines the board's
// time stands still. One line at a time; nothing else may call Run or Ask meanwhile.
// What a test changes in the cabinet comes up to 5 ms early.
func (b *Board) Serve(ctx context.Context, line io.ReadWriteCloser) error {
	in := make(chan []byte, pieces)
	dead := make(chan error, 1)
	stop := make(chan struct{})
	var listening sync.WaitGroup
	listening.Go(func() { dead <- listen(line, in, stop) })
	err := b.serve(ctx, line, in, dead)
	close(stop)
	line.Close() // frees listen; the line is given up, so its error tells nothing
	listening.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// listen passes on what comes from line until it ends, and closes in.
func listen(line io.Reader, in chan<- []byte, stop <-chan struct{}) error {
	defer close(in)
	for {
		p := make([]byte, pieceLength)
		n, err := line.Read(p)
		if n > 0 {
			select {
			case in <- p[:n]:
			case <-stop:
				return nil
			}
		}
		if err != nil {
			return err
		}
	}
}

func (b *Board) serve(ctx context.Context, line io.Writer, in <-chan []byte, dead <-chan error) error {
	origin := time.Now().Add(-b.Now()) // of the board's time
	asked := time.Now()
	next := time.NewTimer(talkStep)
	defer next.Stop()
	for {
		var p []byte
		select {
		case <-ctx.Done():
			return nil
		case piece, open := <-in:
			if !open {
				return <-dead
			}
			p, asked = piece, time.Now()
		case <-next.C:
		}
		if late := time.Since(origin) - b.Now(); late > stall {
			origin = origin.Add(late - talkStep)
		}
		out, err := b.exchange(time.Since(origin), p)
		if err != nil {
			return err
		}
		if len(out) > 0 {
			if _, err := line.Write(out); err != nil {
				return err
			}
		}
		if time.Since(asked) < talkTime {
			next.Reset(talkStep)
		} else {
			next.Reset(quietStep)
		}
	}
}

// exchange lets time pass up to end, gives the board bytes of the host and returns
// the board's.
func (b *Board) exchange(end time.Duration, p []byte) ([]byte, error) {
	<-b.turn
	defer b.looked()
	for b.now < end && b.err == nil {
		b.run(end - b.now) // ends early when power is lost; an error stays in b.err
	}
	b.send(p)
	out := b.received
	b.received = nil
	return out, b.err
}
