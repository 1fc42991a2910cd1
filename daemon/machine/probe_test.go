package machine_test

import (
	"sync"
	"testing"
	"testing/synctest"

	"yaoju/daemon/machine"
	"yaoju/daemon/machine/sim"
)

// A board is known by its answer to HELLO and moves nothing for it.
func TestProbe(t *testing.T) {
	for name, silent := range map[string]bool{"a board": false, "a board without power": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				host, device := sim.Line()
				b := sim.New(sim.Options{Serial: 7})
				b.Adjust(func(c *sim.Cabinet) { c.Silent = silent })
				var serving sync.WaitGroup
				serving.Go(func() { b.Serve(t.Context(), device) }) // ends with the line
				if machine.Probe(t.Context(), host) == silent {
					t.Errorf("silent %v, and the answer is the same", silent)
				}
				serving.Wait() // the line was closed
				if moves := b.Moves(); len(moves) > 0 {
					t.Errorf("moved: %v", moves)
				}
			})
		})
	}
}

// Noise is no board.
func TestProbeNoise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, device := sim.Line()
		if _, err := device.Write([]byte("\x00\xfa\xfb\x41\x00\x40\x00code\r\n\x00")); err != nil {
			t.Fatal(err)
		}
		if machine.Probe(t.Context(), host) {
			t.Error("noise is taken for a board")
		}
	})
}
