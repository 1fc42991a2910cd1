package sim_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	lines "yaoju/daemon/machine/sim"
	"yaoju/daemon/machine/vending/sim"
)

const (
	poll = "FA FB 41 00 40"
	ack  = "FA FB 42 00 43"
)

// computer is the other end of the board's line, played by a test.
type computer struct {
	*testing.T
	line io.ReadWriter
}

func play(t *testing.T, opt sim.Options, f func(c computer, v *sim.VMC)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		v := sim.New(opt)
		ctx, cancel := context.WithCancel(t.Context())
		host, device := lines.Line()
		var g sync.WaitGroup
		g.Go(func() {
			if err := v.Serve(ctx, device); err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
		f(computer{t, host}, v)
		cancel()
		g.Wait()
	})
}

// hears reads one frame and wants it to be exactly this, and says how long it took.
func (c computer) hears(want string) time.Duration {
	c.Helper()
	start := time.Now()
	got := make([]byte, len(strings.ReplaceAll(want, " ", ""))/2)
	if _, err := io.ReadFull(c.line, got); err != nil {
		c.Fatal(err)
	}
	if s := fmt.Sprintf("% X", got); s != want {
		c.Fatalf("heard %s, want %s", s, want)
	}
	return time.Since(start)
}

func (c computer) says(frame string) {
	c.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(frame, " ", ""))
	if err != nil {
		c.Fatal(err)
	}
	if _, err := c.line.Write(b); err != nil {
		c.Fatal(err)
	}
}

// The published conversations, byte for byte.
func TestPublishedFrames(t *testing.T) {
	for _, tt := range []struct {
		name   string
		pack   byte
		faults sim.Faults
		do     func(v *sim.VMC)
		lines  []string // the board's, and after > the computer's
	}{
		{"drive with success", 0xA2, sim.Faults{}, nil, []string{poll, "> FA FB 06 05 A6 01 00 00 3C 99", ack,
			"FA FB 04 04 A3 01 00 3C 9F", "> " + ack, "polls 14", "FA FB 04 04 A4 02 00 3C 9B", "> " + ack, poll}},
		{"drop failed", 0x9C, sim.Faults{Hang: true}, nil, []string{poll, "> FA FB 06 05 A6 01 00 00 3C 99", ack,
			"FA FB 04 04 9D 01 00 3C A1", "> " + ack, "polls 26", "FA FB 04 04 9E 03 00 3C A0", "> " + ack, poll}},
		{"sync", 0, sim.Faults{}, func(v *sim.VMC) { v.Sync() }, []string{poll, "> " + ack, "FA FB 31 01 01 30", "> " + ack, poll, "> FA FB 31 01 01 30", ack, poll}},
		{"note", 0xD4, sim.Faults{}, func(v *sim.VMC) { v.Say(0x21, 1, 0, 1, 0x86, 0xA0) }, []string{poll, "> " + ack, "FA FB 21 06 D5 01 00 01 86 A0 D5", "> " + ack}},
		{"swallowed note", 0x0F, sim.Faults{}, func(v *sim.VMC) { v.Say(0x21, 8, 0, 0, 0, 2) }, []string{poll, "> " + ack, "FA FB 21 06 10 08 00 00 00 02 3C", "> " + ack}},
		{"condition", 0x53, sim.Faults{}, func(v *sim.VMC) {
			v.Adjust(func(c *sim.Cabinet) { c.Celsius, c.NoHumidity = 15, true })
		}, []string{poll, "> FA FB 51 01 01 50", ack,
			"FA FB 52 21 54 00 00 00 00 0F 00 00 00 00 00 00 00 00 00 30 30 30 30 30 30 30 30 30 30 0F AA AA AA AA AA AA AA 8C"}},
		{"wrong check byte", 0, sim.Faults{}, nil, []string{poll, "> FA FB 53 01 02 52", poll, "> FA FB 16 02 03 05 10", poll}},
		{"not acknowledged: six times, and given up", 0, sim.Faults{}, func(v *sim.VMC) { v.Restock() }, []string{poll,
			"FA FB 17 01 01 16", "FA FB 17 01 01 16", "FA FB 17 01 01 16", "FA FB 17 01 01 16", "FA FB 17 01 01 16", "FA FB 17 01 01 16", poll}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, sim.Options{Pack: tt.pack}, func(c computer, v *sim.VMC) {
				v.Load(60, 1)
				v.SetFaults(60, tt.faults)
				time.Sleep(time.Millisecond) // the first poll is on the line
				if tt.do != nil {
					tt.do(v)
				}
				for _, l := range tt.lines {
					if say, ok := strings.CutPrefix(l, "> "); ok {
						c.says(say)
						continue
					}
					n := 0
					if _, err := fmt.Sscanf(l, "polls %d", &n); err == nil {
						for range n {
							c.hears(poll)
							c.says(ack)
						}
						continue
					}
					c.hears(l)
				}
			})
		})
	}
}

// An answer that comes after 100 ms is heard by nobody.
func TestLateAnswer(t *testing.T) {
	play(t, sim.Options{}, func(c computer, v *sim.VMC) {
		v.Load(5, 1)
		for _, late := range []time.Duration{99 * time.Millisecond, 101 * time.Millisecond} {
			c.hears(poll)
			time.Sleep(late)
			c.says("FA FB 06 05 01 01 00 00 05 07")
			time.Sleep(10 * time.Second)
			io.CopyN(io.Discard, c.line, 5) // whatever came meanwhile
			if late > 100*time.Millisecond && v.Orders(5) != 1 || v.Turns(5) != 1 || v.Fallen(5) != 1 {
				t.Fatalf("after %v: %d orders, %d turns, %d fell", late, v.Orders(5), v.Turns(5), v.Fallen(5))
			}
			drain(c)
		}
	})
}

// drain reads until the board has just polled.
func drain(c computer) {
	var b [4096]byte
	for {
		start := time.Now()
		n, err := c.line.Read(b[:])
		if err != nil {
			c.Fatal(err)
		}
		if time.Since(start) > 0 && bytes.HasPrefix(b[:n], []byte{0xFA, 0xFB, 0x41}) {
			c.says(ack)
			return
		}
	}
}

// The twin polices what a computer says.
func TestBrokenContract(t *testing.T) {
	for _, frame := range []string{"FA FB 06 05 00 01 00 00 05 06", "FA FB 06 04 01 01 00 00 03", "FA FB 99 01 01 98"} {
		play(t, sim.Options{}, func(c computer, v *sim.VMC) {
			c.hears(poll)
			c.says(frame)
			c.hears(poll)
			if len(v.Broken()) != 1 {
				t.Errorf("%s: the twin says %q", frame, v.Broken())
			}
		})
	}
}
