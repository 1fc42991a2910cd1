package scan_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"yaoju/daemon/port"
	"yaoju/daemon/port/pty"
	"yaoju/daemon/scan"
	"yaoju/daemon/scan/sim"
)

// On real lines: a card, a code, and both again after the plugs were pulled.
func TestOnRealLines(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nfcSocket, gunSocket := pty.NewSocket(filepath.Join(dir, "nfc")), pty.NewSocket(filepath.Join(dir, "gun"))
	open := func(path string, baud int) scan.Dial {
		return func(context.Context) (io.ReadWriteCloser, error) { return port.Open(path, baud) }
	}
	chip := sim.NewPN532(0x32)
	all := scan.New(slog.New(slog.DiscardHandler),
		scan.PN532("nfc", open(nfcSocket.Path(), 115200)), scan.Serial("gun", open(gunSocket.Path(), 9600), scan.Framing{}))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // it takes 3 s; ptys on a loaded machine may take more
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		if err := all.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for round := range 2 {
		nfc, err := nfcSocket.Plug()
		if err != nil {
			t.Fatal(err)
		}
		gun, err := gunSocket.Plug()
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		serving.Go(func() {
			if chip.Serve(ctx, nfc) == nil && ctx.Err() == nil {
				t.Error("the line ended without an error")
			}
		})
		await(ctx, t, all, true)
		chip.Hold([]byte{0xA1, 0xB2, 0xC3, byte(round)})
		if e, err := all.Next(ctx); err != nil || e.Badge == nil || e.Badge.UID != fmt.Sprintf("A1B2C3%02X", round) {
			t.Fatalf("round %d: %+v, %v", round, e, err)
		}
		// The first line ends whatever had begun before the scanner's line was opened.
		want := fmt.Sprintf("69012345678%02d", round)
		fmt.Fprintf(gun, "tail\r\n%s\r\n", want)
		e, err := all.Next(ctx)
		if err == nil && e.Scan != nil && string(e.Scan.Code) == "tail" {
			e, err = all.Next(ctx)
		}
		if err != nil || e.Scan == nil || string(e.Scan.Code) != want {
			t.Fatalf("round %d: %+v, %v", round, e, err)
		}
		if err := nfcSocket.Unplug(); err != nil {
			t.Error(err)
		}
		if err := gunSocket.Unplug(); err != nil {
			t.Error(err)
		}
		serving.Wait()
		await(ctx, t, all, false)
	}
	for _, c := range chip.Complaints() {
		t.Errorf("the chip complains: %s", c)
	}
}

// await waits until every device is up, or none is.
func await(ctx context.Context, t *testing.T, all *scan.Devices, up bool) {
	t.Helper()
	for {
		states, stale := all.Watch()
		if !slices.ContainsFunc(states, func(s scan.State) bool { return s.Up != up }) {
			return
		}
		select {
		case <-stale:
		case <-ctx.Done():
			t.Fatalf("want up %v: %+v", up, states)
		}
	}
}
