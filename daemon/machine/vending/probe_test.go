package vending_test

import (
	"context"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	host "yaoju/daemon/machine/sim"
	"yaoju/daemon/machine/vending"
	"yaoju/daemon/machine/vending/sim"
)

// A board is known by its polls, and hears nothing.
func TestProbe(t *testing.T) {
	for _, poll := range []time.Duration{100 * time.Millisecond, 2 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			near, far := host.Line()
			v := sim.New(sim.Options{})
			v.Adjust(func(c *sim.Cabinet) { c.Poll = poll })
			ctx, cancel := context.WithCancel(t.Context())
			var serving sync.WaitGroup
			serving.Go(func() { v.Serve(ctx, far) }) // ends with the line
			if !vending.Probe(ctx, near) {
				t.Errorf("a board that polls every %v is not heard", poll)
			}
			cancel()
			serving.Wait()
			if said := v.Broken(); len(said) > 0 {
				t.Errorf("the board heard %v", said)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		near, far := host.Line()
		if _, err := io.WriteString(far, "6901234567892\r\n\xfa\xfb\x41\x00\x00"); err != nil { // text, and a poll that does not check
			t.Fatal(err)
		}
		if vending.Probe(t.Context(), near) {
			t.Error("something else is taken for a board")
		}
	})
}
