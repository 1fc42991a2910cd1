package scan_test

import (
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	line "yaoju/daemon/card/sim"
	"yaoju/daemon/scan"
	"yaoju/daemon/scan/sim"
)

// A PN532 is known by what it calls itself.
func TestProbePN532(t *testing.T) {
	for _, tt := range []struct {
		name  string
		chip  byte
		fault sim.Fault
		want  bool
	}{
		{name: "PN532", chip: 0x32, want: true},
		{name: "another chip", chip: 0x33},
		{name: "asleep at first", chip: 0x32, fault: sim.Fault{Kind: sim.Silent, Times: 1}, want: true},
		{name: "silent", chip: 0x32, fault: sim.Fault{Kind: sim.Silent, Times: 100}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := line.Pipe()
				chip := sim.NewPN532(tt.chip)
				if tt.fault != (sim.Fault{}) {
					chip.Break(tt.fault)
				}
				var serving sync.WaitGroup
				serving.Go(func() { chip.Serve(t.Context(), far) }) // ends with the line
				if got := scan.ProbePN532(t.Context(), near); got != tt.want {
					t.Errorf("got %v", got)
				}
				serving.Wait()
				if n := chip.Asked(sim.List); n > 0 || len(chip.Complaints()) > 0 {
					t.Errorf("asked for a card %d times; %v", n, chip.Complaints())
				}
			})
		})
	}
}

// Whole lines are a scanner's; anything else that comes is not.
func TestListen(t *testing.T) {
	for said, want := range map[string]scan.Sound{
		"":                     scan.Silence,
		"6901234567892\r\n":    scan.Text,
		"]d2010690\x1d10A1\r":  scan.Text,
		"6901234567892":        scan.Noise, // and no end
		"\r\n":                 scan.Noise,
		"\xfa\xfb\x41\x00\x40": scan.Noise,
		"\x00\xff12345678\r\n": scan.Noise,
		"AT\r":                 scan.Noise,
	} {
		synctest.Test(t, func(t *testing.T) {
			near, far := line.Pipe()
			defer far.Close()
			var telling sync.WaitGroup
			telling.Go(func() {
				time.Sleep(time.Second)
				io.WriteString(far, said) // the line has room for it
			})
			if got := scan.Listen(t.Context(), near, 1500*time.Millisecond); got != want {
				t.Errorf("%q: got %d, want %d", said, got, want)
			}
			telling.Wait()
		})
	}
}
