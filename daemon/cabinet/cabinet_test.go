package cabinet

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"yaoju/daemon/card"
	reader "yaoju/daemon/card/sim"
	own "yaoju/daemon/machine/sim"
	vmc "yaoju/daemon/machine/vending/sim"
	"yaoju/daemon/port/pty"
	"yaoju/daemon/scan"
	badge "yaoju/daemon/scan/sim"
	"yaoju/daemon/status"
)

// short is the patience of these tests. The questions that follow it take some
// seconds in real time.
const short = time.Second

// healLimit bounds what a test waits for: pauses of 5 s between two tries, questions
// that take 9 s, twice over, on a machine that does other things too.
const healLimit = 60 * time.Second

// gun is a barcode scanner at the end of a line: nothing but text.
type gun struct {
	mu   sync.Mutex
	line io.Writer // guarded by mu
}

func (g *gun) Serve(_ context.Context, line io.ReadWriteCloser) error {
	g.mu.Lock()
	g.line = line
	g.mu.Unlock()
	_, err := io.Copy(io.Discard, line)
	return err
}

func (g *gun) scan(code string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fmt.Fprintf(g.line, "%s\r\n", code)
}

// scanning has somebody scan a carton again and again, because nothing happens, until
// the returned function is called.
func (b *bench) scanning() (stop func()) {
	ended := make(chan struct{})
	var hand sync.WaitGroup
	hand.Go(func() {
		for {
			b.gun.scan("6901234567892")
			select {
			case <-ended:
				return
			case <-time.After(300 * time.Millisecond):
			}
		}
	})
	return func() { close(ended); hand.Wait() }
}

// device is what can be plugged in.
type device interface {
	Serve(ctx context.Context, line io.ReadWriteCloser) error
}

// bench is a cabinet that runs on real lines, and what may be plugged into them.
type bench struct {
	t       *testing.T
	ctx     context.Context
	dir     string
	sockets map[string]*pty.Socket
	serving sync.WaitGroup
	*Cabinet

	motors  device
	vending device
	cards   device
	chip    *badge.PN532
	gun     *gun
}

// newBench runs a cabinet as the rest of a kioskd.toml has it, with nothing plugged in.
// %s in it is the folder of the lines.
func newBench(t *testing.T, fitted string) *bench {
	t.Helper()
	dir := t.TempDir()
	text := strings.ReplaceAll(`machine = "m-0017"
data = "%s"
[district]
broker = "tls://broker.example:8883"
keys = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
`+fitted, "%s", dir)
	cfg, err := Parse("kioskd.toml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := card.OpenKeys(filepath.Join(dir, "marks.key"), 366*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(cfg, Means{Keys: keys, Patience: short}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	b := &bench{t: t, ctx: ctx, dir: dir, sockets: map[string]*pty.Socket{}, Cabinet: c,
		motors: own.New(own.Options{Serial: 7, Turn: 300 * time.Millisecond}), vending: vmc.New(vmc.Options{Reply: time.Second}),
		cards: reader.New(50 * time.Millisecond), chip: badge.NewPN532(0x32), gun: &gun{}}
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		for _, s := range b.sockets {
			if err := s.Unplug(); err != nil {
				t.Error(err)
			}
		}
		b.serving.Wait()
	})
	return b
}

// plug plugs d into the line of that name; nil pulls what is there.
func (b *bench) plug(name string, d device) {
	b.t.Helper()
	s := b.sockets[name]
	if s == nil {
		s = pty.NewSocket(filepath.Join(b.dir, name))
		b.sockets[name] = s
	}
	if err := s.Unplug(); err != nil {
		b.t.Fatal(err)
	}
	if d == nil {
		return
	}
	line, err := s.Plug()
	if err != nil {
		b.t.Fatal(err)
	}
	b.serving.Go(func() { d.Serve(b.ctx, line) }) // ends when the plug is pulled
}

// await waits until every part is as is wants it.
func (b *bench) await(what string, is func(State) bool) State {
	b.t.Helper()
	limit := time.NewTimer(healLimit)
	defer limit.Stop()
	for {
		s, stale := b.Watch()
		if is(s) {
			return s
		}
		select {
		case <-stale:
		case <-limit.C:
			b.t.Fatalf("%s: not after %v: %+v", what, healLimit, s.Parts)
		}
	}
}

// sound waits until every part works and none is wrong.
func (b *bench) sound() {
	b.t.Helper()
	b.await("all is right", func(s State) bool {
		for _, p := range s.Parts {
			if p.State != status.Up || p.Why != "" {
				return false
			}
		}
		return true
	})
}

// says waits until part i is said to be this, with %s for the folder.
func (b *bench) says(i int, wrong bool, want string) {
	b.t.Helper()
	want = strings.ReplaceAll(want, "%s", b.dir)
	b.await(want, func(s State) bool {
		return s.Parts[i].Why == want && (s.Parts[i].State == status.Wrong) == wrong && s.Wrong() == wrong
	})
}

const usualFittings = `[board]
path = "%s/board"
[reader]
path = "%s/reader"
[[scanner]]
name = "front"
path = "%s/scanner"
[[badge]]
name = "staff"
pn532 = "%s/badge"
`

// Two plugs are exchanged: both lines say so, and heal when they are right again.
func TestExchanged(t *testing.T) {
	for _, tt := range []struct {
		name          string
		first, second string // lines whose plugs are exchanged
		part          [2]int
		want          [2]string
	}{
		{"motor board and card reader", "board", "reader", [2]int{0, 1}, [2]string{
			"the line of the motor board (%s/board) is answered by a card reader, and that of the card reader (%s/reader) by a motor board: exchange the two plugs or the two paths",
			"the line of the card reader (%s/reader) is answered by a motor board, and that of the motor board (%s/board) by a card reader: exchange the two plugs or the two paths"}},
		{"both card readers", "reader", "badge", [2]int{1, 3}, [2]string{
			"the line of the card reader (%s/reader) is answered by a staff card reader (PN532), and that of the staff card reader staff (%s/badge) by a card reader: exchange the two plugs or the two paths",
			"the line of the staff card reader staff (%s/badge) is answered by a card reader, and that of the card reader (%s/reader) by a staff card reader (PN532): exchange the two plugs or the two paths"}},
		// A scanner says nothing of itself.
		{"card reader and scanner", "reader", "scanner", [2]int{1, 2}, [2]string{
			"nobody answers on the line of the card reader (%s/reader), and a card reader answers on that of the scanner front (%s/scanner): exchange the two plugs or the two paths",
			"the line of the scanner front (%s/scanner) is answered by a card reader, which is missing on that of the card reader (%s/reader): exchange the two plugs or the two paths"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, usualFittings)
			devices := map[string]device{"board": b.motors, "reader": b.cards, "scanner": b.gun, "badge": b.chip}
			plug := func() {
				for name, d := range devices {
					b.plug(name, d)
				}
			}
			devices[tt.first], devices[tt.second] = devices[tt.second], devices[tt.first]
			plug()
			for i, want := range tt.want {
				b.says(tt.part[i], true, want)
			}
			devices[tt.first], devices[tt.second] = devices[tt.second], devices[tt.first]
			plug()
			b.sound()
		})
	}
}

// A device that belongs nowhere is named, and so is a speed that is not right.
func TestWrongDevice(t *testing.T) {
	t.Run("vending board for a motor board", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, usualFittings)
		b.plug("board", b.vending)
		b.says(0, true, "the line of the motor board (%s/board) is answered by a vending board: plug a motor board in, or set board.kind to what is fitted")
		b.plug("board", b.motors)
		b.await("motor board up", func(s State) bool { return s.Parts[0].State == status.Up && !s.Wrong() })
	})
	t.Run("motor board for a vending board", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, strings.Replace(usualFittings, "[board]", "[board]\nkind = \"vending\"", 1))
		b.plug("board", b.motors)
		b.says(0, true, "the line of the vending board (%s/board) is answered by a motor board: plug a vending board in, or set board.kind to what is fitted")
		b.plug("board", b.vending)
		b.await("vending board up", func(s State) bool { return s.Parts[0].State == status.Up && !s.Wrong() })
	})
	t.Run("motor board for a scanner", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, usualFittings)
		b.plug("scanner", b.motors) // and its own line is not there at all
		b.plug("reader", b.cards)
		b.plug("board", &gun{})
		b.says(2, true, "the line of the scanner front (%s/scanner) is answered by a motor board, which is missing on that of the motor board (%s/board): exchange the two plugs or the two paths")
	})
	t.Run("scanner for a card reader", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, usualFittings)
		b.plug("reader", b.gun)
		b.await("asked", func(State) bool { return !b.parts[1].condition().asked.IsZero() })
		defer b.scanning()()
		b.says(1, true, "the line of the card reader (%s/reader) is answered by a barcode scanner, which is missing on that of the scanner front (%s/scanner): exchange the two plugs or the two paths")
	})
	t.Run("vending board for a scanner, and nothing is missing", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, usualFittings)
		for name, d := range map[string]device{"board": b.motors, "reader": b.cards, "badge": b.chip} {
			b.plug(name, d)
		}
		talker := vmc.New(vmc.Options{Reply: time.Second})
		talker.Adjust(func(c *vmc.Cabinet) { c.Poll = 10 * time.Millisecond })
		b.plug("scanner", talker)
		b.says(2, true, "the line of the scanner front (%s/scanner) is answered by a vending board, which is missing nowhere: plug a barcode scanner in")
		b.plug("scanner", b.gun)
		b.sound()
	})
	t.Run("silence", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, usualFittings)
		b.plug("reader", &gun{})
		b.says(1, false, "nobody answers on the line of the card reader (%s/reader): has it power, and is its plug in the right place?")
	})
}

// What is not there does not stop the rest; what comes is used, and used again after
// its plug was pulled.
func TestAbsentAndBack(t *testing.T) {
	for _, tt := range []struct{ name, fitted string }{
		{"motor board", usualFittings},
		{"vending board", strings.Replace(usualFittings, "[board]", "[board]\nkind = \"vending\"", 1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, tt.fitted)
			devices := []device{b.motors, b.cards, b.gun, b.chip}
			if tt.name == "vending board" {
				devices[0] = b.vending
			}
			names := []string{"board", "reader", "scanner", "badge"}
			for i, name := range names {
				b.await(name+" is not there", func(s State) bool {
					return s.Parts[i].State != status.Up && strings.Contains(s.Parts[i].Why, "is the device plugged in?")
				})
			}
			for i, name := range names {
				b.plug(name, devices[i])
				b.await(name+" works", func(s State) bool {
					for k := range names {
						if (s.Parts[k].State == status.Up) != (k <= i) {
							return false
						}
					}
					return s.Parts[i].Why == "" && !s.Wrong()
				})
			}
			for i, name := range names {
				b.plug(name, nil)
				b.await(name+" is gone", func(s State) bool { return s.Status(time.Now())[i].State == status.Absent && s.Parts[i].Why != "" })
				b.plug(name, devices[i])
				b.sound()
			}
		})
	}
}

// Codes and badges are taken and dropped, and only counted.
func TestCodesAreCounted(t *testing.T) {
	t.Parallel()
	b := newBench(t, usualFittings)
	b.plug("scanner", b.gun)
	b.plug("badge", b.chip)
	b.await("scanner and badge up", func(s State) bool { return s.Parts[2].State == status.Up && s.Parts[3].State == status.Up })
	b.chip.Hold([]byte{1, 2, 3, 4})
	b.await("a badge", func(s State) bool { return s.Codes == 1 })
	defer b.scanning()()
	b.await("a code", func(s State) bool { return s.Codes == 2 })
}

// One device under two names is refused before anything is opened.
func TestSharedDevice(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"board", "reader"} {
		if err := os.Symlink("/dev/null", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	text := strings.ReplaceAll(good, "/dev/ttyAMA0", dir+"/board")
	cfg, err := Parse("kioskd.toml", strings.NewReader(strings.ReplaceAll(text, "/dev/ttyUSB0", dir+"/reader")))
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(cfg, Means{}, slog.New(slog.DiscardHandler))
	want := fmt.Sprintf("board.path (%s/board) and reader.path (%s/reader) are one device, /dev/null", dir, dir)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	for _, p := range Inspect(t.Context(), cfg, scan.GPIO{}, nil).Parts {
		if p.State != status.Down || !strings.Contains(p.Why, want) {
			t.Errorf("got %+v, want %q", p, want)
		}
	}
}

// Without a kioskd the parts are asked once, and told apart as well.
func TestInspect(t *testing.T) {
	t.Parallel()
	b := &bench{t: t, ctx: t.Context(), dir: t.TempDir(), sockets: map[string]*pty.Socket{}}
	b.plug("board", own.New(own.Options{Serial: 7}))
	b.plug("reader", badge.NewPN532(0x32))
	b.plug("scanner", &gun{})
	defer func() {
		for _, s := range b.sockets {
			if err := s.Unplug(); err != nil {
				t.Error(err)
			}
		}
		b.serving.Wait()
	}()
	text := strings.NewReplacer("/dev/ttyAMA0", b.dir+"/board", "/dev/ttyUSB0", b.dir+"/reader").Replace(good) + strings.ReplaceAll(`
[[scanner]]
name = "front"
path = "%s/scanner"
[[scanner]]
name = "hand"
keyboard = "%s/keyboard"
[[badge]]
name = "staff"
pn532 = "%s/badge"
[[badge]]
name = "door"
wiegand = {chip = "none", d0 = 1, d1 = 2}
[climate]
bus = 250
`, "%s", b.dir)
	cfg, err := Parse("kioskd.toml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	got := Inspect(t.Context(), cfg, scan.GPIO{}, nil).Status(time.Now())
	for i, want := range []struct {
		state status.State
		why   string
	}{
		{status.Up, ""},
		{status.Wrong, "the line of the card reader (%s/reader) is answered by a staff card reader (PN532), which is missing on that of the staff card reader staff (%s/badge): exchange the two plugs or the two paths"},
		{status.Up, ""},
		{status.Absent, "keyboard"},
		{status.Absent, "is the device plugged in?"},
		{status.Down, "no such chip"},
		{status.Absent, "/dev/i2c-250"},
	} {
		why := strings.ReplaceAll(want.why, "%s", b.dir)
		if got[i].State != want.state || !strings.Contains(got[i].Why, why) || (why == "") != (got[i].Why == "") {
			t.Errorf("part %d: got %+v, want %s, %q", i, got[i], want.state, why)
		}
	}
}
