package vending_test

import (
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"yaoju/daemon/machine/vending"
	"yaoju/daemon/port"
	"yaoju/daemon/port/pty"
)

// cell is what a collector has to follow.
type cell struct{ left, right *cell }

// TestDeadline measures, in real time and over a pty, how long the driver takes to answer
// a poll while the collector runs without a pause over a heap of several times the daemon's,
// and garbage is made. Boards listen for 100 ms. On two cores that seven other test runs
// kept busy, half of the answers took 0.4 ms and the worst 50 ms. With a goroutine that
// computes without end on each core as well, one in twelve came too late: that costs a
// poll, and where it was the drive makes a vend unknown, never a second one. The limit
// leaves room for machines that are busier still.
func TestDeadline(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	line, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	dial := func(context.Context) (io.ReadWriteCloser, error) { return port.Open(line.Path(), vending.Baud) }
	b := vending.New(dial, slog.New(slog.DiscardHandler), sensor)
	var g sync.WaitGroup
	g.Go(func() { b.Run(ctx) })
	defer func() {
		cancel()
		g.Wait()
		if err := line.Close(); err != nil {
			t.Error(err)
		}
	}()

	var heap []*cell
	for range 1 << 20 { // 64 MB with what follows
		heap = append(heap, &cell{&cell{}, &cell{}})
	}
	g.Go(func() {
		for ctx.Err() == nil {
			runtime.GC()
		}
	})
	g.Go(func() {
		for i := 0; ctx.Err() == nil; i = (i + 1) % len(heap) {
			heap[i].left.left = &cell{}
			if i%1000 == 0 {
				time.Sleep(time.Millisecond) // a million pieces of garbage a second
			}
		}
	})

	heard := make(chan []byte, 16)
	go func() { // ends with the line
		for {
			chunk := make([]byte, 64)
			n, err := line.Read(chunk)
			if err != nil {
				return
			}
			heard <- chunk[:n]
		}
	}()
	const listens, polls = 100 * time.Millisecond, 200
	var took []time.Duration
	late := 0
	// says is one turn of the board: it speaks and listens. The answer is nil if it is late.
	says := func(frame []byte) (answer []byte) {
		asked := time.Now()
		if _, err := line.Write(frame); err != nil {
			t.Fatal(err)
		}
		for over := time.After(listens); ; {
			select {
			case b := <-heard:
				if answer = append(answer, b...); len(answer) < 5 || len(answer) < 5+int(answer[3]) {
					continue
				}
				took = append(took, time.Since(asked))
				return answer
			case <-over:
				late++
				return nil
			}
		}
	}
	for len(took)+late < polls {
		answer := says(bytesOf(t, poll))
		if len(answer) > 2 && answer[2] == 0x51 {
			if _, err := line.Write(bytesOf(t, ack)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
			says(bytesOf(t, condition))
		}
		time.Sleep(5 * time.Millisecond) // boards pause for longer
	}
	runtime.KeepAlive(heap)
	slices.Sort(took)
	if late > polls/2 {
		t.Fatalf("%d of %d polls were not answered within %v", late, polls, listens)
	}
	t.Logf("%d polls: half answered within %v, 99 percent within %v, all within %v; %d late", polls,
		took[len(took)/2], took[len(took)*99/100], took[len(took)-1], late)
}

func bytesOf(t *testing.T, frame string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(frame, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
