package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"yaoju/daemon/ledger"
	"yaoju/firmware/elf"
	"yaoju/protocol"
)

// programs is the folder of kioskd and districtd as built for these tests.
var programs string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "yaoju-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		cmd := exec.Command("go", "build", "-trimpath", "-o", dir, "yaoju/cmd/kioskd", "yaoju/cmd/districtd")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
			return 1
		}
		programs = dir
		if err := elf.Make(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// bayOf is one slot of a test's tray.
func bayOf(slot protocol.Slot, product protocol.ProductID, pieces int, expiry protocol.DateOnly) bay {
	return bay{slot: slot, product: product, capacity: 12, par: 1, pieces: pieces, batch: "B2801", expiry: expiry}
}

// quick is a tray whose motors and cards are faster than life, so that tests are.
func quick(t testing.TB, bays ...bay) plan {
	return plan{dir: t.TempDir(), bin: programs, bays: bays, turn: 500 * time.Millisecond, readTakes: 50 * time.Millisecond, log: slog.New(slog.DiscardHandler)}
}

// open builds a town and runs its hardware, its district and its machine until the
// test ends.
func open(t testing.TB, p plan) *town {
	t.Helper()
	tn := assemble(t, p)
	if err := tn.startDistrict(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := tn.startKiosk(t.Context()); err != nil {
		t.Fatal(err)
	}
	return tn
}

// assemble builds a town and runs its hardware alone.
func assemble(t testing.TB, p plan) *town {
	t.Helper()
	tn, err := build(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	tn.run(t)
	return tn
}

// run runs the hardware until the test ends, and ends the programs with it.
func (t *town) run(tb testing.TB) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	var hardware sync.WaitGroup
	hardware.Go(func() {
		if err := t.rig.Run(ctx); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(func() {
		for _, p := range []*process{t.kiosk, t.district} {
			if p != nil {
				p.kill() // a test that wants a clean end has stopped them
			}
		}
		cancel()
		hardware.Wait()
		if tb.Failed() {
			for _, name := range []string{"kioskd.log", "districtd.log"} {
				text, _ := os.ReadFile(filepath.Join(t.dir, name))
				tb.Logf("%s ends:\n%s", name, text[max(0, len(text)-4000):])
			}
		}
	})
}

// audit opens the ledger of a machine that is not running.
func (t *town) audit(tb testing.TB) *ledger.Ledger {
	tb.Helper()
	l, err := ledger.Open(tb.Context(), ledger.Options{Path: t.ledger, Machine: siteOf(0).machine, Software: "audit", Zone: t.zone,
		Log: slog.New(slog.DiscardHandler), Synced: func() bool { return true }})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

// person stands before the screen: reads the page and presses buttons, over HTTP.
type person struct {
	t      testing.TB
	town   *town
	client *http.Client
	saw    io.Writer // every byte the page sent; nil: not kept
}

func newPerson(t testing.TB, tn *town) *person {
	return &person{t: t, town: tn, client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: time.Second}).DialContext}}}
}

var rootTag = regexp.MustCompile(`<html [^>]*data-token="([^"]+)"[^>]*data-serial="(\d+)"[^>]*data-screen="([a-z]+)"`)

// look reads the page: its token, serial and screen; "" while nobody answers.
func (p *person) look() (token string, serial json.Number, screen string) {
	r, err := p.client.Get("http://" + p.town.screen + "/")
	if err != nil {
		return "", "", ""
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return "", "", ""
	}
	if p.saw != nil {
		p.saw.Write(text)
	}
	m := rootTag.FindSubmatch(text)
	if m == nil {
		p.t.Fatalf("the page does not say what it shows:\n%.600s", text)
	}
	return string(m[1]), json.Number(m[2]), string(m[3])
}

// awaits waits for one of the screens and returns it.
func (p *person) awaits(screens ...string) string {
	p.t.Helper()
	deadline := time.Now().Add(40 * time.Second)
	last := ""
	for time.Now().Before(deadline) {
		_, _, last = p.look()
		for _, s := range screens {
			if last == s {
				return s
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.t.Fatalf("the screen shows %q, waiting for %s", last, strings.Join(screens, " or "))
	return ""
}

// tap presses a button until the screen is another one: a press within the
// bounce time of the last does nothing, as in life.
func (p *person) tap(tap string, product protocol.ProductID) {
	p.t.Helper()
	_, _, screen := p.look()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		token, serial, at := p.look()
		if at != screen && at != "" {
			return
		}
		body, err := json.Marshal(map[string]any{"token": token, "serial": serial, "tap": tap, "arg": product})
		if err != nil {
			p.t.Fatal(err)
		}
		if r, err := p.client.Post("http://"+p.town.screen+"/tap", "application/json", bytes.NewReader(body)); err == nil {
			r.Body.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.t.Fatalf("%s on %s does nothing", tap, screen)
}
