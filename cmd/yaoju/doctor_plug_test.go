package main

import (
	"context"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	reader "yaoju/daemon/card/sim"
	"yaoju/daemon/machine/sim"
	"yaoju/daemon/port/pty"
)

// plugIn puts a motor board, or else a card reader, on a line at path until the test ends.
func plugIn(t *testing.T, path string, board bool) {
	t.Helper()
	socket := pty.NewSocket(path)
	line, err := socket.Plug()
	if err != nil {
		t.Fatal(err)
	}
	serve := reader.New(50 * time.Millisecond).Serve
	if board {
		serve = sim.New(sim.Options{Serial: boardSerial, Build: 1, Turn: time.Second, Rand: rand.New(rand.NewPCG(1, 2))}).Serve
	}
	ctx, stop := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { _ = serve(ctx, io.ReadWriteCloser(line)) }) // its end is the plug's
	t.Cleanup(func() {
		stop()
		if err := socket.Unplug(); err != nil {
			t.Error(err)
		}
		serving.Wait()
	})
}

// The doctor beside the real kioskd: all is well, a cable is pulled, kioskd hangs,
// kioskd is gone.
func TestDoctorBesideKioskd(t *testing.T) {
	t.Parallel()
	tn := open(t, quick(t, bayOf(1, "condom-52", 3, "2030-01-31")))
	p := newPatient(t)
	says := func(want string, not string) {
		t.Helper()
		for deadline := time.Now().Add(readyLimit); ; time.Sleep(time.Second) {
			x := p.examine(p.host(), tn.kioskConfig)
			if slices.Contains(codes(x), want) && !slices.Contains(codes(x), not) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the doctor does not come to say %s and not %s, but\n%s", want, not, x.report().text(false))
			}
		}
	}
	says("kioskd.running", "part.starting")
	says("part.up", "part.absent")
	if err := tn.rig.cable(t.Context(), readerLine, false); err != nil {
		t.Fatal(err)
	}
	says("part.absent", "kioskd.running")
	if err := tn.rig.cable(t.Context(), readerLine, true); err != nil {
		t.Fatal(err)
	}
	says("kioskd.running", "part.absent")
	if err := tn.kiosk.stop(); err != nil {
		t.Fatal(err)
	}
	says("kioskd.stopped", "kioskd.silent")
	held, err := holdData(filepath.Dir(tn.ledger))
	if err != nil {
		t.Fatal(err)
	}
	says("kioskd.silent", "kioskd.stopped")
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
}
