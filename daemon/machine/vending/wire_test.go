package vending_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/machine"
	lines "yaoju/daemon/machine/sim"
	"yaoju/daemon/machine/vending"
	"yaoju/daemon/machine/vending/sim"
	"yaoju/protocol"
)

// master is the board's end of a line, played by a test byte by byte.
type master struct {
	*testing.T
	*vending.Board
	line io.Writer

	mu    *sync.Mutex
	heard *[]byte // guarded by mu
}

func play(t *testing.T, f func(m master)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		host, device := lines.Line()
		taken := false
		b := vending.New(func(context.Context) (io.ReadWriteCloser, error) {
			if taken {
				return nil, errors.New("one line is all there is")
			}
			taken = true
			return host, nil
		}, slog.New(slog.DiscardHandler), sensor)
		m := master{t, b, device, new(sync.Mutex), new([]byte)}
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() { b.Run(ctx) })
		g.Go(func() {
			var chunk [256]byte
			for {
				n, err := device.Read(chunk[:])
				if err != nil {
					return
				}
				m.mu.Lock()
				*m.heard = append(*m.heard, chunk[:n]...)
				m.mu.Unlock()
			}
		})
		f(m)
		cancel()
		g.Wait()
	})
}

// says writes bytes in one piece, and wants the driver to answer exactly this at
// once; empty is nothing.
func (m master) says(say, want string) {
	m.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(say, " ", ""))
	if err != nil {
		m.Fatal(err)
	}
	if _, err := m.line.Write(b); err != nil {
		m.Fatal(err)
	}
	synctest.Wait()
	m.mu.Lock()
	got := fmt.Sprintf("% X", *m.heard)
	*m.heard = nil
	m.mu.Unlock()
	if got != want {
		m.Fatalf("to %s the driver says %q, want %q", say, got, want)
	}
	time.Sleep(200 * time.Millisecond)
}

const (
	poll = "FA FB 41 00 40"
	ack  = "FA FB 42 00 43"

	// captured: door closed, 19 degrees
	condition = "FA FB 52 21 54 00 01 00 00 13 00 00 00 00 00 00 00 00 00 30 30 30 30 30 30 30 30 30 30 13 AA AA AA AA AA AA AA 8D"
)

// meet is how every session begins.
func (m master) meet() {
	m.Helper()
	m.says(poll, "FA FB 51 01 01 50")
	m.says(ack, "")
	m.says(condition, ack)
	if s, _ := m.Watch(); !s.Up || s.Session != 1 || s.DoorOpen {
		m.Fatalf("after the captured condition: %+v", s)
	}
}

// A whole vend in published bytes.
func TestConversation(t *testing.T) {
	play(t, func(m master) {
		m.meet()
		m.says(poll, ack)
		done := make(chan protocol.Result, 1)
		go func() {
			res, _ := m.Vend(m.Context(), 1, 60)
			done <- res
		}()
		synctest.Wait()
		m.says(poll, "FA FB 01 04 02 00 3C 00 3A")
		m.says(ack, "")
		m.says("FA FB 02 04 A2 01 00 3C 98", ack)
		m.says(poll, "FA FB 06 05 03 01 00 00 3C 3C")
		m.says(ack, "")
		m.says("FA FB 04 04 A3 01 00 3C 9F", ack)
		m.says(poll, ack)
		m.says("FA FB 04 04 A4 02 00 3C 9B", ack)
		m.says("FA FB 04 04 A4 02 00 3C 9B", ack)
		if res := <-done; res.Outcome != protocol.Dispensed || res.Pieces != 1 {
			t.Errorf("got %+v", res)
		}
		m.says(poll, "FA FB 51 01 04 55")
	})
}

// The drive goes unanswered: it is not said again, whatever comes or does not.
func TestDriveIsNeverRepeated(t *testing.T) {
	play(t, func(m master) {
		m.meet()
		done := make(chan protocol.Result, 1)
		go func() {
			res, _ := m.Vend(m.Context(), 1, 5)
			done <- res
		}()
		synctest.Wait()
		m.says(poll, "FA FB 01 04 02 00 05 00 03")
		m.says(ack, "")
		m.says("FA FB 02 04 01 02 00 05 01", ack) // out of stock: the board's own count
		m.says(poll, "FA FB 06 05 03 01 00 00 05 05")
		for range 150 {
			m.says(poll, ack)
		}
		m.says("FA FB 31 01 07 36", ack)
		m.says(poll, "FA FB 31 01 04 35")
		m.says(ack, "")
		for range 40 {
			m.says(poll, ack)
		}
		if res := <-done; res != nobody {
			t.Errorf("got %+v", res)
		}
	})
}

// A command that is not acknowledged is said six times under one PackNO, and then
// asked anew under the next.
func TestResends(t *testing.T) {
	play(t, func(m master) {
		for range 6 {
			m.says(poll, "FA FB 51 01 01 50")
		}
		m.says(poll, "FA FB 51 01 02 53")
		m.says(ack, "")
		for range 4 { // acknowledged: the answer may take a second
			m.says(poll, ack)
		}
		m.says("FA FB 54 01 09 00 5D", ack) // the answer to something else, its length understated
	})
}

// What the board says again because our acknowledgement was lost happens once, and
// the reports of a vend may come out of the next poll as well.
func TestRepeats(t *testing.T) {
	play(t, func(m master) {
		m.meet()
		m.says("FA FB 31 01 07 36", ack)
		m.says(poll, "FA FB 31 01 02 33")
		m.says(ack, "")
		m.says("FA FB 31 01 07 36", ack)
		m.says(poll, "FA FB 51 01 03 52")
		m.says(ack, "")
		m.says(condition, ack)
		if s, _ := m.Watch(); s.Session != 2 {
			t.Errorf("session %d", s.Session)
		}
	})
}

// A report that was said again, and again after the next vend was sent, is not the
// report of that one.
func TestRepeatedReport(t *testing.T) {
	play(t, func(m master) {
		m.meet()
		results := make(chan protocol.Result, 1)
		vend := func(id protocol.VendID) {
			go func() {
				res, _ := m.Vend(m.Context(), id, 5)
				results <- res
			}()
			synctest.Wait()
		}
		vend(1)
		m.says(poll, "FA FB 01 04 02 00 05 00 03")
		m.says(ack, "")
		m.says("FA FB 02 04 11 01 00 05 12", ack)
		m.says(poll, "FA FB 06 05 03 01 00 00 05 05")
		m.says("FA FB 04 04 11 01 00 05 14", ack)
		m.says("FA FB 04 04 12 02 00 05 14", ack)
		if res := <-results; res.Outcome != protocol.Dispensed {
			t.Errorf("first: %+v", res)
		}
		m.says(poll, "FA FB 51 01 04 55")
		m.says(ack, "")
		m.says(condition, ack)
		vend(2)
		time.Sleep(1500 * time.Millisecond)
		m.says(poll, "FA FB 01 04 05 00 05 00 04")
		m.says(ack, "")
		m.says("FA FB 02 04 13 01 00 05 10", ack)
		m.says(poll, "FA FB 06 05 06 01 00 00 05 00")
		m.says("FA FB 04 04 12 02 00 05 14", ack) // and again
		for range 190 {
			m.says(poll, ack)
		}
		if res := <-results; res != nobody {
			t.Errorf("second: %+v", res)
		}
	})
}

// Only what the board still listens for is answered.
func TestStalePolls(t *testing.T) {
	play(t, func(m master) {
		m.says(poll+poll+poll, "FA FB 51 01 01 50")
		m.says("", "")
		m.says(poll+ack, "")
		m.says(condition+poll, ack)
		m.says("FA FB 04 04 01 01 00 09 F2"+poll[:8], "")   // wrong check byte, and half a poll
		m.says(poll[8:], ack[:0])                           // its other half, too late
		m.says("00 FF FA 41 FB "+poll, "FA FB 51 01 02 53") // noise before it
		m.says(ack, "")
		m.says("FA FB 04 FF 00 00 00", "")     // a length that swallows
		m.says(poll, ack)                      // but not past a pause
		m.says("FA FB 53 01 02 52", "")        // published with a wrong check byte
		m.says("FA FB 53 01 02 51", ack)       // right, though no board says it
		m.says("FA FB 99 03 01 02 03 9B", ack) // what nobody knows is acknowledged
		m.says("FA FB 99 00 98", "")           // but not without a PackNO
		m.says(poll, "FA FB 51 01 03 52")      // and life goes on
	})
}

// A poll that was hidden in noise comes to light with the next bytes. It is not
// answered then: the board would take it for the answer to those.
func TestHiddenPoll(t *testing.T) {
	play(t, func(m master) {
		m.meet()
		m.says("FA FB 04 FA "+poll, "")
		m.says("FA FB 05 03 09", "") // half a frame, lost
		m.says("FA FB 05 03 09 00 05 0B", ack)
	})
}

// The answer to a poll waits for no log and no caller.
func TestNothingHoldsUpAPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		twin := sim.New(sim.Options{})
		twin.Load(5, 99)
		c := &cable{ctx: ctx, twin: twin, plugged: true}
		free := make(chan struct{})
		b := vending.New(c.dial, slog.New(blocked{free}), sensor)
		var g sync.WaitGroup
		g.Go(func() { b.Run(ctx) })
		r := rig{T: t, Board: b, twin: twin, cable: c}
		r.await("up", func(s machine.Status) bool { return s.Up })
		for range 100 {
			twin.Restock()
			twin.Coin()
		}
		time.Sleep(2 * time.Minute)
		if res := r.vend(1, 5); res.Outcome != protocol.Dispensed {
			t.Errorf("got %+v", res)
		}
		close(free)
		cancel()
		g.Wait()
		c.lines.Wait()
	})
}

// blocked is a log whose disk does not answer until free is closed.
type blocked struct{ free chan struct{} }

func (b blocked) Enabled(context.Context, slog.Level) bool  { return true }
func (b blocked) Handle(context.Context, slog.Record) error { <-b.free; return nil }
func (b blocked) WithAttrs([]slog.Attr) slog.Handler        { return b }
func (b blocked) WithGroup(string) slog.Handler             { return b }
