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
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"yaoju/daemon/cabinet"
	reader "yaoju/daemon/card/sim"
	"yaoju/daemon/ledger"
	"yaoju/daemon/machine/gpio"
	plant "yaoju/daemon/machine/gpio/sim"
	own "yaoju/daemon/machine/sim"
	vmc "yaoju/daemon/machine/vending/sim"
	"yaoju/daemon/port/pty"
	"yaoju/protocol"
)

// stageLimit bounds what these tests wait for, on a machine that does other things.
const stageLimit = 60 * time.Second

// stage is a whole kioskd on software hardware, with one resident before it.
type stage struct {
	t      *testing.T
	dir    string
	screen string
	cards  *reader.Reader

	stop    context.CancelFunc
	running sync.WaitGroup
	ended   error // of run; after running
	said    journal
	ctx     context.Context
	serving sync.WaitGroup
	sockets map[string]*pty.Socket
}

// newStage stocks slots 1 and 2 of a machine with three boxes each. Nothing runs yet.
func newStage(t *testing.T) *stage {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	s := &stage{t: t, dir: t.TempDir(), screen: l.Addr().String(), cards: reader.New(50 * time.Millisecond), ctx: ctx, stop: stop, sockets: map[string]*pty.Socket{}}
	s.withBook(func(b *ledger.Ledger) error {
		d := protocol.Desired{Machine: "m-0017", DesiredVersion: protocol.DesiredVersion{Generation: 1, Version: 1},
			Policy:    protocol.Policy{AgeFrom: 18, Rules: []protocol.Rule{{Max: 1, Per: protocol.PerDays, Days: 30}}},
			Products:  []protocol.Product{{ID: "condom-52", Letter: "A", Class: "condom", Units: 10, Name: protocol.Text{ZH: "避孕套", EN: "Condoms"}, Note: protocol.Text{ZH: "10 只装", EN: "Pack of 10"}}},
			Texts:     protocol.Texts{Authority: protocol.Text{ZH: "示例", EN: "Sample"}, Phone: "000-0000-0000"},
			Planogram: []protocol.SlotPlan{{Slot: 1, Product: "condom-52", Capacity: 12, Par: 1}, {Slot: 2, Product: "condom-52", Capacity: 12, Par: 1}}}
		if err := b.Apply(t.Context(), d); err != nil {
			return err
		}
		for slot := range protocol.Slot(2) {
			if err := b.Load(t.Context(), protocol.Stock{Slot: slot + 1, Product: "condom-52", Batch: "B2801", Expiry: "2030-01-31"}, 3, "s-01"); err != nil {
				return err
			}
		}
		return nil
	})
	t.Cleanup(s.end)
	return s
}

// withBook opens the ledger while no kioskd has it.
func (s *stage) withBook(f func(*ledger.Ledger) error) {
	s.t.Helper()
	b, err := ledger.Open(s.t.Context(), ledger.Options{Path: filepath.Join(s.dir, "ledger.db"), Machine: "m-0017", Software: "test", Zone: time.UTC,
		Log: slog.New(slog.DiscardHandler), Synced: func() bool { return true }})
	if err != nil {
		s.t.Fatal(err)
	}
	defer b.Close()
	if err := f(b); err != nil {
		s.t.Fatal(err)
	}
}

// plug plugs a device into the line of that name; nil pulls what is there.
func (s *stage) plug(name string, serve func(context.Context, io.ReadWriteCloser) error) {
	s.t.Helper()
	socket := s.sockets[name]
	if socket == nil {
		socket = pty.NewSocket(filepath.Join(s.dir, name))
		s.sockets[name] = socket
	}
	if err := socket.Unplug(); err != nil {
		s.t.Fatal(err)
	}
	if serve == nil {
		return
	}
	line, err := socket.Plug()
	if err != nil {
		s.t.Fatal(err)
	}
	s.serving.Go(func() { serve(s.ctx, line) }) // ends when the plug is pulled
}

// run runs kioskd with this board until the test ends.
func (s *stage) run(board string, with cabinet.Means) {
	s.t.Helper()
	text := strings.ReplaceAll(`machine = "m-0017"
data = "%s"
clock = "trusted"
status = "%s/status"
[screen]
listen = "`+s.screen+`"
[reader]
path = "%s/reader"
[district]
broker = "tcp://127.0.0.1:9"
tls = "off"
keys = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
`+board, "%s", s.dir)
	cfg, err := cabinet.Parse("kioskd.toml", strings.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	s.running.Go(func() { s.ended = run(s.ctx, cfg, with, slog.New(slog.NewTextHandler(&s.said, nil))) })
}

// end ends kioskd, and then the hardware.
func (s *stage) end() {
	s.stop()
	s.running.Wait()
	if s.ended != nil {
		s.t.Error(s.ended)
	}
	if s.t.Failed() {
		s.t.Log("kioskd said:\n" + s.said.String())
	}
	for _, socket := range s.sockets {
		if err := socket.Unplug(); err != nil {
			s.t.Error(err)
		}
	}
	s.serving.Wait()
}

var rootTag = regexp.MustCompile(`<html [^>]*data-token="([^"]+)"[^>]*data-serial="(\d+)"[^>]*data-screen="([a-z]+)"`)

// look reads the page; "" while nobody answers.
func (s *stage) look() (token string, serial json.Number, screen string) {
	client := http.Client{Timeout: 5 * time.Second}
	r, err := client.Get("http://" + s.screen + "/")
	if err != nil {
		return "", "", ""
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if m := rootTag.FindSubmatch(text); err == nil && m != nil {
		return string(m[1]), json.Number(m[2]), string(m[3])
	}
	return "", "", ""
}

func (s *stage) awaits(screens ...string) string {
	s.t.Helper()
	last := ""
	for deadline := time.Now().Add(stageLimit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, _, last = s.look(); slices.Contains(screens, last) {
			return last
		}
	}
	s.t.Fatalf("the screen shows %q, waiting for %v", last, screens)
	return ""
}

// tap presses a button until the screen is another one.
func (s *stage) tap(tap string, product protocol.ProductID) {
	s.t.Helper()
	_, _, screen := s.look()
	for deadline := time.Now().Add(stageLimit); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		token, serial, at := s.look()
		if at != screen && at != "" {
			return
		}
		body, err := json.Marshal(map[string]any{"token": token, "serial": serial, "tap": tap, "arg": product})
		if err != nil {
			s.t.Fatal(err)
		}
		if r, err := http.Post("http://"+s.screen+"/tap", "application/json", bytes.NewReader(body)); err == nil {
			r.Body.Close()
		}
	}
	s.t.Fatalf("%s on %s does nothing", tap, screen)
}

// visit lets a resident take one box, and returns the screen it ended with.
func (s *stage) visit(seq int) string {
	s.t.Helper()
	s.awaits("attract")
	s.tap("next", "")
	s.awaits("choose")
	s.tap("pick", "condom-52")
	s.awaits("scan")
	s.cards.Lay(reader.Resident("测试甲", "110105", "19900101", seq))
	end := s.awaits("take", "unsure", "jam", "early", "fault")
	s.cards.Lift()
	s.tap("next", "")
	return end
}

// dispensed ends kioskd and counts what the ledger says was given out.
func (s *stage) dispensed() (n uint64) {
	s.t.Helper()
	s.stop()
	s.running.Wait()
	s.withBook(func(b *ledger.Ledger) error {
		state, err := b.Snapshot(s.t.Context())
		for _, slot := range state.Slots {
			n += slot.Dispensed
		}
		return err
	})
	return n
}

// A machine with an off-the-shelf board serves a resident, is unplugged, and serves
// the next one.
func TestVendingMachineServes(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	board := vmc.New(vmc.Options{Turn: 300 * time.Millisecond, Reply: time.Second})
	for slot := range protocol.Slot(2) {
		board.Load(slot+1, 3)
	}
	s.plug("board", board.Serve)
	s.plug("reader", s.cards.Serve)
	s.run("[board]\nkind = \"vending\"\npath = \"%s/board\"\nslots = [\"1-2\"]\ndrop_sensor = true\n", cabinet.Means{})
	if end := s.visit(2); end != "take" {
		t.Fatalf("the first visit ends with %s", end)
	}
	s.awaits("done", "attract")
	s.plug("board", nil)
	s.awaits("fault")
	s.plug("board", board.Serve)
	if end := s.visit(4); end != "take" {
		t.Fatalf("the second visit ends with %s", end)
	}
	if n := s.dispensed(); n != 2 || board.Fallen(1)+board.Fallen(2) != 2 {
		t.Errorf("the ledger says %d, %d fell from slot 1 and %d from slot 2; want 2 in all", n, board.Fallen(1), board.Fallen(2))
	}
	for _, broken := range board.Broken() {
		t.Errorf("the board heard %s", broken)
	}
}

// A machine without any board serves a resident, and has its outputs off at the end.
// Where the computer is too busy to look at the switches in time, the driver stops the
// motor and keeps the box; that is as it should be, and then it is tried again.
func TestGPIOMachineServes(t *testing.T) {
	for range 5 {
		if servesOnLines(t) {
			return
		}
	}
	t.Fatal("the computer was too busy five times")
}

// servesOnLines reports whether a resident was served; false is that the driver was
// held up.
func servesOnLines(t *testing.T) bool {
	s := newStage(t)
	lines := gpio.Config{Curtain: "GPIO17", Emitter: "GPIO27", Door: "!GPIO22", Enable: "GPIO4", Motors: []gpio.Motor{
		{Slot: 1, Line: "GPIO5", Home: "!GPIO6"}, {Slot: 2, Row: "GPIO13", Column: "GPIO19", Home: "!GPIO26"}}}
	// The plant tells an edge to whoever looks in time; the kernel would keep it.
	p := plant.New(plant.Options{Config: lines, Pieces: 3, Shadow: 200 * time.Millisecond, Complain: func(what string) { t.Error(what) }})
	s.plug("reader", s.cards.Serve)
	s.run(`[board]
kind = "gpio"
[board.gpio]
enable = "GPIO4"
curtain = "GPIO17"
emitter = "GPIO27"
door = "!GPIO22"
[[board.gpio.motor]]
slot = 1
line = "GPIO5"
home = "!GPIO6"
[[board.gpio.motor]]
slot = 2
row = "GPIO13"
column = "GPIO19"
home = "!GPIO26"
`, cabinet.Means{Chip: p})
	end := s.visit(2)
	n := s.dispensed()
	fallen := p.Fallen(1) + p.Fallen(2)
	for _, line := range []gpio.Line{"GPIO4", "GPIO5", "GPIO13", "GPIO19"} {
		if p.On(line) {
			t.Errorf("%s is on", line)
		}
	}
	interrupted := fmt.Sprintf("cause=%d", protocol.FaultInterrupted)
	switch {
	case strings.Contains(s.said.String(), interrupted) && int(n) == fallen:
		return end == "take"
	case end != "take" || n != 1 || fallen != 1:
		t.Errorf("the visit ends with %s, the ledger says %d, and %d fell; want 1; the motors: %v", end, n, fallen, p.Moves())
	}
	return true
}

// Lines that are not there are all named, and the machine does not start.
func TestGPIOLinesAbsent(t *testing.T) {
	s := newStage(t)
	p := plant.New(plant.Options{Config: gpio.Config{Curtain: "GPIO17", Door: "GPIO22"}})
	s.run(`[board]
kind = "gpio"
[board.gpio]
curtain = "GPIO17"
emitter = "GPIO99"
door = "!GPIO22"
[[board.gpio.motor]]
slot = 1
line = "GPIO98"
home = "!GPIO97"
`, cabinet.Means{Chip: p})
	s.running.Wait()
	err := s.ended
	s.ended = nil // it is what we want
	for _, want := range []string{"motor of slot 1: there is no line GPIO98", "home switch: there is no line GPIO97", "emitter: there is no line GPIO99"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// Board and reader are exchanged: the machine serves nobody, says so to the district,
// and heals when they are right again.
func TestExchangedPlugs(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	board := own.New(own.Options{Serial: 7, Turn: 300 * time.Millisecond})
	for slot := range protocol.Slot(2) {
		board.Load(slot+1, 3)
	}
	s.plug("board", s.cards.Serve)
	s.plug("reader", board.Serve)
	s.run("[board]\npath = \"%s/board\"\n", cabinet.Means{Patience: time.Second})
	s.awaits("fault")
	s.awaitsLog("wrong device", "the line of the card reader", "is answered by a motor board", "exchange the two plugs or the two paths")
	s.awaitsLog("msg=fault ", "code=F-110")
	s.plug("board", board.Serve)
	s.plug("reader", s.cards.Serve)
	if end := s.visit(2); end != "take" {
		t.Fatalf("the visit ends with %s", end)
	}
	s.awaitsLog("fault cleared", "code=F-110")
}

// awaitsLog waits until kioskd has logged a line with all of these in it.
func (s *stage) awaitsLog(wants ...string) {
	s.t.Helper()
	said := ""
	for deadline := time.Now().Add(stageLimit); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		said = s.said.String()
		for line := range strings.Lines(said) {
			if !slices.ContainsFunc(wants, func(w string) bool { return !strings.Contains(line, w) }) {
				return
			}
		}
	}
	s.t.Fatalf("no line with %q in:\n%s", wants, said)
}

// journal is what kioskd logged.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}
