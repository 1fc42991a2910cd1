package card_test

import (
	"context"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"yaoju/daemon/card"
	"yaoju/daemon/card/sim"
)

// A reader is known by its answer, whatever that says of it, and is not asked for a
// card; a line that is silent, or speaks otherwise, has none.
func TestProbe(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault sim.Fault
		want  bool
	}{
		{name: "well", want: true},
		{name: "broken", fault: sim.Fault{Kind: sim.Status, Status: 0x60}, want: true},
		{name: "bent once", fault: sim.Fault{Kind: sim.Checksum, Times: 1}, want: true},
		{name: "silent", fault: sim.Fault{Kind: sim.Silent, Times: 100}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := sim.Pipe()
				dev := sim.New(sim.ReadTakes)
				dev.Lay(ada)
				if tt.fault != (sim.Fault{}) {
					dev.Break(tt.fault)
				}
				var serving sync.WaitGroup
				serving.Go(func() { dev.Serve(t.Context(), far) }) // ends with the line
				if got := card.Probe(t.Context(), near, baud); got != tt.want {
					t.Errorf("got %v", got)
				}
				serving.Wait() // the line was closed
				if n := dev.Asked(sim.Find) + dev.Asked(sim.Select) + dev.Asked(sim.ReadText); n > 0 || len(dev.Complaints()) > 0 {
					t.Errorf("asked for a card %d times; %v", n, dev.Complaints())
				}
			})
		})
	}
}

// A caller who leaves does not wait for the limits.
func TestProbeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := sim.Pipe()
		defer far.Close()
		var reading sync.WaitGroup
		reading.Go(func() { io.Copy(io.Discard, far) }) // ends with the line
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if card.Probe(ctx, near, baud) {
			t.Error("somebody answers")
		}
		reading.Wait()
	})
}
