package vending

import (
	"context"
	"io"
	"time"
)

// probeLimit is longer than the longest pause between polls that a board can be set
// to, 2 s.
const probeLimit = 2300 * time.Millisecond

// Probe reports whether a vending board polls on line, and closes line. It only
// listens: a board that nobody answers polls on.
func Probe(ctx context.Context, line io.ReadCloser) bool {
	polled := make(chan bool, 1) // holds the one answer: the reader never waits
	read := make(chan struct{})
	go func() {
		defer close(read)
		polled <- hearsPoll(line)
	}()
	defer func() {
		line.Close() // frees the reader; the line is given up, so its error tells nothing
		<-read
	}()
	limit := time.NewTimer(probeLimit)
	defer limit.Stop()
	select {
	case yes := <-polled:
		return yes
	case <-limit.C:
	case <-ctx.Done():
	}
	return false
}

// hearsPoll waits until a board has polled, or line ends.
func hearsPoll(line io.Reader) bool {
	var d decoder
	var chunk [256]byte
	for {
		n, err := line.Read(chunk[:])
		for _, f := range d.feed(chunk[:n]) {
			if f.cmd == cmdPoll {
				return true
			}
		}
		if err != nil {
			return false
		}
	}
}
