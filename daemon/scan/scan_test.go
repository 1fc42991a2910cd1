package scan_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/scan"
	"yaoju/daemon/scan/sim"
)

// Invented: no card has these.
var (
	four  = []byte{0xA1, 0xB2, 0xC3, 0xD4}
	seven = []byte{0x04, 0xA1, 0xB2, 0xC3, 0xD4, 0xE5, 0xF6}
	ten   = []byte{0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0x01, 0x02, 0x03}
)

// bench is every kind of device on one machine: the PN532 "nfc", the serial
// scanner "gun", the keyboard "wedge" and the Wiegand reader "door".
type bench struct {
	t     *testing.T
	nfc   *sim.PN532
	gun   *sim.Plug
	wedge *sim.Plug
	door  *sim.Wiegand
	all   *scan.Devices
	log   *bytes.Buffer // read it only when nobody writes
}

func newBench(t *testing.T, chip byte, framing scan.Framing) *bench {
	b := &bench{t: t, nfc: sim.NewPN532(chip), gun: &sim.Plug{}, wedge: &sim.Plug{}, door: sim.NewWiegand(), log: &bytes.Buffer{}}
	log := slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.all = scan.New(log,
		scan.PN532("nfc", b.nfc.Dial),
		scan.Serial("gun", b.gun.Dial, framing),
		scan.Keyboard("wedge", b.wedge.Dial, framing),
		scan.Wiegand("door", func(context.Context) (scan.LineSet, error) { return b.door.Open(), nil }))
	return b
}

// onBench runs f in a bubble with every device up and settled. Afterwards the
// twins must have nothing to complain of, and no badge may be in the log.
func onBench(t *testing.T, framing scan.Framing, f func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0x32, framing)
		b.run(func() {
			for _, name := range []string{"nfc", "gun", "wedge", "door"} {
				b.until(name, true)
			}
			time.Sleep(time.Second)
			f(t, b)
		})
		for _, c := range append(b.nfc.Complaints(), b.door.Complaints()...) {
			t.Errorf("a device complains: %s", c)
		}
		for _, uid := range [][]byte{four, seven, ten} {
			for _, form := range []string{"%X", "%x", "%d", "% x"} {
				if s := fmt.Sprintf(form, uid); strings.Contains(b.log.String(), s) {
					t.Errorf("a badge is in the log as %s", s)
				}
			}
		}
	})
}

// run runs the devices while f does.
func (b *bench) run(f func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{b.nfc.Run, b.all.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				b.t.Error(err)
			}
		})
	}
	f()
	cancel()
	wg.Wait()
	states, _ := b.all.Watch()
	for _, s := range states {
		if s.Up {
			b.t.Errorf("%s is up after the end", s.Device)
		}
	}
}

func (b *bench) state(device string) scan.State {
	b.t.Helper()
	states, _ := b.all.Watch()
	for _, s := range states {
		if s.Device == device {
			return s
		}
	}
	b.t.Fatalf("no device %s", device)
	return scan.State{}
}

// until waits until a device is up, or not, at most a virtual minute.
func (b *bench) until(device string, up bool) scan.State {
	b.t.Helper()
	limit := time.After(time.Minute)
	for {
		_, stale := b.all.Watch()
		if s := b.state(device); s.Up == up {
			return s
		}
		select {
		case <-stale:
		case <-limit:
			b.t.Fatalf("%+v, want up %v", b.state(device), up)
		}
	}
}

// next takes the next event, if one comes within a second.
func (b *bench) next() (scan.Event, bool) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Second)
	defer cancel()
	e, err := b.all.Next(ctx)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		b.t.Fatal(err)
	}
	return e, err == nil
}

// badge wants one badge from a device, and nothing after it.
func (b *bench) badge(device string, kind scan.BadgeKind, uid string) {
	b.t.Helper()
	e, ok := b.next()
	if !ok || e.Badge == nil || e.Scan != nil || e.Device != device || e.Badge.Kind != kind || e.Badge.UID != uid {
		b.t.Fatalf("got %+v, %v; want %s badge %s from %s", e, ok, kind, uid, device)
	}
	if !e.Badge.At.Equal(time.Now()) && time.Since(e.Badge.At) > time.Second {
		b.t.Errorf("held at %v, now it is %v", e.Badge.At, time.Now())
	}
	b.nothing()
}

// code wants one code from a device.
func (b *bench) code(device, code string) {
	b.t.Helper()
	e, ok := b.next()
	if !ok || e.Scan == nil || e.Badge != nil || e.Device != device || string(e.Scan.Code) != code {
		b.t.Fatalf("got %+v, %v; want code %q from %s", e, ok, code, device)
	}
}

func (b *bench) nothing() {
	b.t.Helper()
	if e, ok := b.next(); ok {
		b.t.Fatalf("got %+v, want nothing", e)
	}
}

func TestACardIsOneEventUntilItIsTakenAway(t *testing.T) {
	t.Parallel()
	for _, uid := range [][]byte{four, seven, ten} {
		onBench(t, scan.Framing{}, func(t *testing.T, b *bench) {
			want := fmt.Sprintf("%X", uid)
			b.nfc.Hold(uid)
			b.badge("nfc", scan.NFC, want)
			time.Sleep(time.Hour)
			b.nothing()
			b.nfc.Hold()
			time.Sleep(time.Second)
			b.nfc.Hold(uid)
			b.badge("nfc", scan.NFC, want)
		})
	}
}

func TestCardsThatFollowEachOther(t *testing.T) {
	t.Parallel()
	onBench(t, scan.Framing{}, func(t *testing.T, b *bench) {
		b.nfc.Hold(four)
		b.badge("nfc", scan.NFC, "A1B2C3D4")
		b.nfc.Hold(ten) // faster than a look
		b.badge("nfc", scan.NFC, "8899AABBCCDDEE010203")
		b.nfc.Hold(four, ten) // both: neither is new
		b.nothing()
		time.Sleep(time.Minute)
		b.nothing()
	})
}

func TestMadeUpUIDsAreRefusedOnce(t *testing.T) {
	t.Parallel()
	onBench(t, scan.Framing{}, func(t *testing.T, b *bench) {
		b.nfc.Hold([]byte{0x08})
		time.Sleep(time.Minute)
		b.nothing()
		if n := b.state("nfc").Refused; n != 1 {
			t.Errorf("%d refused, want 1", n)
		}
		b.nfc.Hold(four)
		b.badge("nfc", scan.NFC, "A1B2C3D4")
	})
}

// Whatever goes wrong with a few answers, the card comes through once and the
// line stands.
func TestAnswersThatHealThemselves(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]sim.Fault{
		"silent twice":     {Kind: sim.Silent, Times: 2},
		"mute twice":       {Kind: sim.Mute, Times: 2},
		"no ack":           {Kind: sim.NoAck},
		"bent once":        {Kind: sim.Once, Times: 1},
		"bent, each once":  {Kind: sim.Once, Times: 8},
		"nak twice":        {Kind: sim.Nak, Times: 2},
		"noise everywhere": {Kind: sim.Noise},
		"slow everywhere":  {Kind: sim.Slow},
		"echo everywhere":  {Kind: sim.Echo},
		"stale answers":    {Kind: sim.Stale},
		"broken off twice": {Kind: sim.Broken, Times: 2},
		"long kind twice":  {Kind: sim.Extended, Times: 2},
		"syntax twice":     {Kind: sim.Syntax, Times: 2},
		"nonsense twice":   {Kind: sim.Nonsense, Times: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBench(t, scan.Framing{}, func(t *testing.T, b *bench) {
				b.nfc.Break(f)
				time.Sleep(2 * time.Second)
				b.nfc.Hold(four)
				e, ok := b.next()
				if !ok {
					e, ok = b.next()
				}
				if !ok || e.Badge == nil || e.Badge.UID != "A1B2C3D4" {
					t.Errorf("got %+v, %v", e, ok)
				}
				b.nothing()
				if strings.Contains(b.log.String(), "line down") {
					t.Errorf("a passing fault brought the line down:\n%s", b.log)
				}
			})
		})
	}
}

// A reader that stays broken goes down and says why; when it heals it comes up.
func TestReaderThatStaysBroken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind sim.Kind
		why  string
	}{
		"silent":   {sim.Silent, "no answer"},
		"mute":     {sim.Mute, "no answer"},
		"bent":     {sim.Checksum, "damaged"},
		"nak":      {sim.Nak, "whole"},
		"broken":   {sim.Broken, "broke off"},
		"extended": {sim.Extended, "longer than any"},
		"syntax":   {sim.Syntax, "does not understand"},
		"nonsense": {sim.Nonsense, "makes no sense"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBench(t, scan.Framing{}, func(t *testing.T, b *bench) {
				b.nfc.Hold(four)
				b.badge("nfc", scan.NFC, "A1B2C3D4")
				b.nfc.Break(sim.Fault{Kind: c.kind, On: sim.List})
				if s := b.until("nfc", false); !strings.Contains(s.Why, c.why) {
					t.Errorf("why %q, want %q", s.Why, c.why)
				}
				for _, other := range []string{"gun", "wedge", "door"} {
					if s := b.state(other); !s.Up {
						t.Errorf("it took %s with it: %s", other, s.Why)
					}
				}
				b.nfc.Heal()
				b.until("nfc", true)
				b.nothing() // the card lies there still
			})
		})
	}
}

// A chip that does not get its very first command whole, as clones do that need longer to
// wake, comes up; one that never does is not called another device.
func TestFirstCommandRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		times int
		up    bool
	}{"twice": {2, true}, "for ever": {0, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, 0x32, scan.Framing{})
				b.nfc.Break(sim.Fault{Kind: sim.Nak, On: sim.SAM, Times: c.times})
				b.run(func() {
					time.Sleep(5 * time.Second)
					if s := b.state("nfc"); s.Up != c.up || !c.up && (!strings.Contains(s.Why, "it is a PN532") || strings.Contains(s.Why, "wrong device")) {
						t.Errorf("%+v", s)
					}
				})
			})
		})
	}
}

func TestWrongDeviceIsNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sends string
		want  string
	}{
		"silence":         {"", "is it a PN532, switched to serial"},
		"residents' card": {"\xaa\xaa\xaa\x96\x69\x00\x04\x00\x00\x21\x25", "residents' card reader"},
		"vending board":   {"\xfa\xfb\x41\x00\x40", "vending board"},
		"barcode scanner": {"6901234567892\r\n", "barcode scanner"},
		"wrong speed":     {"\x80\x9c\xe0\x1f", "wrong speed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				other := &sim.Plug{}
				all := scan.New(slog.New(slog.DiscardHandler), scan.PN532("nfc", other.Dial))
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() {
					if err := all.Run(ctx); err != nil {
						t.Error(err)
					}
				})
				for range 20 {
					time.Sleep(100 * time.Millisecond)
					if _, err := other.Write([]byte(c.sends)); err != nil {
						t.Error(err)
					}
				}
				states, _ := all.Watch()
				if !strings.Contains(states[0].Why, c.want) || states[0].Up {
					t.Errorf("%+v, want %q", states[0], c.want)
				}
				cancel()
				wg.Wait()
			})
		})
	}
	t.Run("another chip", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, 0x33, scan.Framing{})
			b.run(func() {
				time.Sleep(2 * time.Second)
				if s := b.state("nfc"); s.Up || !strings.Contains(s.Why, "chip 33, not PN532") {
					t.Errorf("%+v", s)
				}
			})
		})
	})
}

func TestUnpluggedAndBack(t *testing.T) {
	t.Parallel()
	onBench(t, scan.Framing{}, func(t *testing.T, b *bench) {
		b.nfc.Hold(four)
		b.badge("nfc", scan.NFC, "A1B2C3D4")
		for name, plug := range map[string]*sim.Plug{"nfc": &b.nfc.Plug, "gun": b.gun, "wedge": b.wedge} {
			plug.Pull()
			b.until(name, false)
			time.Sleep(time.Minute)
			if s := b.state(name); !strings.Contains(s.Why, "not there") {
				t.Errorf("%+v", s)
			}
			plug.Push()
			b.until(name, true)
		}
		if err := b.door.Close(); err != nil { // as if the chip's driver were reloaded
			t.Fatal(err)
		}
		b.until("door", false)
		b.until("door", true)
		b.nothing()
		time.Sleep(time.Second)
		fmt.Fprint(b.gun, "6901234567892\r")
		b.code("gun", "6901234567892")
		b.door.Hold26(0xD41B81)
		b.badge("door", scan.Wiegand26, "D41B81")
		sim.Keyboard{To: b.wedge}.Scan("6901234567892")
		b.code("wedge", "6901234567892")
	})
}

// A device that is absent from the start stops nobody.
func TestAbsentAtStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0x32, scan.Framing{})
		b.nfc.Pull()
		b.wedge.Pull()
		b.run(func() {
			b.until("gun", true)
			b.until("door", true)
			time.Sleep(time.Minute)
			b.door.Hold34(0x01020304)
			b.badge("door", scan.Wiegand34, "01020304")
			b.nfc.Push()
			b.until("nfc", true)
			if s := b.state("wedge"); s.Up || s.Why == "" {
				t.Errorf("%+v", s)
			}
		})
	})
}

func TestCodesOnASerialLine(t *testing.T) {
	t.Parallel()
	gs1 := "]d2011012345678901017270101" + "10A1\x1d21XYZ"
	for name, c := range map[string]struct {
		framing scan.Framing
		sends   []string // with a pause of 5 ms between
		want    []string
		refused int
	}{
		"CR":                 {sends: []string{"123\r"}, want: []string{"123"}},
		"LF":                 {sends: []string{"123\n"}, want: []string{"123"}},
		"CRLF":               {sends: []string{"123\r\n456\r\n"}, want: []string{"123", "456"}},
		"CR and later LF":    {sends: []string{"123\r", "\n"}, want: []string{"123"}},
		"byte by byte":       {sends: strings.Split("12345\r\n", ""), want: []string{"12345"}},
		"GS and AIM kept":    {sends: []string{gs1 + "\r"}, want: []string{gs1}},
		"ISO 15434":          {sends: []string{"[)>\x1e06\x1d9N1\x1e\x04\r"}, want: []string{"[)>\x1e06\x1d9N1\x1e\x04"}},
		"Chinese in UTF-8":   {sends: []string{"药具一\r"}, want: []string{"药具一"}},
		"only an AIM":        {sends: []string{"]d2\r"}, refused: 1},
		"empty lines":        {sends: []string{"\r\n\r\n\n\r"}},
		"longest":            {sends: []string{strings.Repeat("7", 512) + "\r"}, want: []string{strings.Repeat("7", 512)}},
		"too long":           {sends: []string{strings.Repeat("7", 513) + "\r123\r"}, want: []string{"123"}, refused: 1},
		"far too long":       {sends: []string{strings.Repeat("7", 3000) + "\r123\r"}, want: []string{"123"}, refused: 1},
		"control characters": {sends: []string{"12\x003\r1\x7f2\r1\xff2\r1\x1b2\r1\t2\r123\r"}, want: []string{"123"}, refused: 5},
		"broken off":         {sends: []string{"123"}, refused: 1},
		"affixes":            {framing: scan.Framing{Prefix: "\x02", Suffix: "\x03"}, sends: []string{"\x02123\x03\r\x02456\r123\x03\r\x03\r\x02\x03\r"}, want: []string{"123"}, refused: 4},
		"ended by a gap":     {framing: scan.Framing{Gap: 50 * time.Millisecond}, sends: []string{"12", "3"}, want: []string{"123"}},
		"gap and line end":   {framing: scan.Framing{Gap: 50 * time.Millisecond}, sends: []string{"123\r", "456"}, want: []string{"123", "456"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBench(t, c.framing, func(t *testing.T, b *bench) {
				for _, s := range c.sends {
					fmt.Fprint(b.gun, s)
					time.Sleep(5 * time.Millisecond)
				}
				for _, want := range c.want {
					b.code("gun", want)
				}
				b.nothing()
				if n := b.state("gun").Refused; n != c.refused {
					t.Errorf("%d refused, want %d", n, c.refused)
				}
			})
		})
	}
}

func TestSymbology(t *testing.T) {
	t.Parallel()
	onBench(t, scan.Framing{}, func(t *testing.T, b *bench) {
		for code, want := range map[string]string{"]d2010": "]d2", "]C1010": "]C1", "]Q3a": "]Q3", "]e0a": "]e0", "]E06901": "]E0", "690": "", "]": "", "]d": "", "]1a23": "", "]d 23": ""} {
			fmt.Fprint(b.gun, code+"\r")
			if e, ok := b.next(); !ok || e.Scan == nil || e.Scan.Symbology != want || string(e.Scan.Code) != code {
				t.Errorf("%q: got %+v, want symbology %q and the code whole", code, e.Scan, want)
			}
		}
	})
}

// A code whose beginning may have been missed is no code.
func TestCodeThatHadBegunBeforeTheLineWasOpened(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0x32, scan.Framing{})
		b.run(func() {
			b.until("gun", true)
			fmt.Fprint(b.gun, "4567892\r")
			b.nothing()
			if n := b.state("gun").Refused; n != 1 {
				t.Errorf("%d refused, want 1", n)
			}
			fmt.Fprint(b.gun, "6901234567892\r")
			b.code("gun", "6901234567892")
		})
	})
}

func TestCodesFromAKeyboard(t *testing.T) {
	t.Parallel()
	var printable strings.Builder
	for c := byte(' '); c < 0x7F; c++ {
		printable.WriteByte(c)
	}
	for name, c := range map[string]struct {
		types   func(k sim.Keyboard)
		want    []string
		refused int
	}{
		"every character": {func(k sim.Keyboard) { k.Scan(printable.String()) }, []string{printable.String()}, 0},
		"GS with Ctrl":    {func(k sim.Keyboard) { k.Scan("]d210A\x1d21B\x1e\x04") }, []string{"]d210A\x1d21B\x1e\x04"}, 0},
		"GS as Alt code": {func(k sim.Keyboard) {
			k.Type("10A")
			k.Alt(29)
			k.Scan("21B")
		}, []string{"10A\x1d21B"}, 0},
		"UTF-8 as Alt codes": {func(k sim.Keyboard) { k.Scan("药") }, []string{"药"}, 0},
		"everything as Alt codes": {func(k sim.Keyboard) {
			for _, c := range []byte("123\r") {
				k.Alt(int(c))
			}
		}, []string{"123"}, 0},
		"Tab ends": {func(k sim.Keyboard) {
			k.Type("123")
			k.Tap(sim.KeyTab)
			k.Scan("456")
		}, []string{"123", "456"}, 0},
		"Enter alone":      {func(k sim.Keyboard) { k.Tap(sim.KeyEnter) }, nil, 0},
		"Enter with Ctrl":  {func(k sim.Keyboard) { k.Type("123\r456\n") }, []string{"123", "456"}, 0},
		"Alt code too big": {func(k sim.Keyboard) { k.Alt(256); k.Scan("1") }, nil, 1},
		"Alt code 0":       {func(k sim.Keyboard) { k.Alt(0); k.Scan("1") }, nil, 1},
		"Caps Lock": {func(k sim.Keyboard) {
			k.Tap(sim.KeyCapsLock)
			k.Scan("abc")
			k.Scan("abc")
		}, []string{"abc"}, 1},
		"keystrokes lost": {func(k sim.Keyboard) {
			k.Event(1, sim.KeyLeftShift, 1)
			k.Type("12")
			k.Lose()
			k.Scan("34")
			k.Scan("ab")
		}, []string{"ab"}, 1},
		"broken off": {func(k sim.Keyboard) { k.Type("123") }, nil, 1},
		"the kernel repeats": {func(k sim.Keyboard) {
			k.Event(1, 2, 1)
			k.Event(1, 2, 2)
			k.Event(1, 2, 2)
			k.Event(1, 2, 0)
			k.Scan("2")
		}, []string{"12"}, 0},
		"lights and noise": {func(k sim.Keyboard) { k.Event(17, 0, 1); k.Event(2, 0, 5); k.Event(99, 9, 9); k.Scan("12") }, []string{"12"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBench(t, scan.Framing{}, func(t *testing.T, b *bench) {
				c.types(sim.Keyboard{To: b.wedge})
				for _, want := range c.want {
					b.code("wedge", want)
				}
				b.nothing()
				if n := b.state("wedge").Refused; n != c.refused {
					t.Errorf("%d refused, want %d", n, c.refused)
				}
			})
		})
	}
}

func TestWiegand(t *testing.T) {
	t.Parallel()
	good26, good34 := sim.Bits(0xD41B81, 24), sim.Bits(0xDEADBEEF, 32)
	if want := "11101010000011011100000010"; good26 != want {
		t.Fatalf("the twin sends %s, want %s", good26, want)
	}
	for name, c := range map[string]struct {
		sends   []string // with a pause of 100 ms after each
		want    []scan.Badge
		refused int
	}{
		"26 bits":          {[]string{good26}, []scan.Badge{{UID: "D41B81", Kind: scan.Wiegand26}}, 0},
		"34 bits":          {[]string{good34}, []scan.Badge{{UID: "DEADBEEF", Kind: scan.Wiegand34}}, 0},
		"leading zeros":    {[]string{sim.Bits(0x000007, 24)}, []scan.Badge{{UID: "000007", Kind: scan.Wiegand26}}, 0},
		"two badges":       {[]string{good26, good34}, []scan.Badge{{UID: "D41B81", Kind: scan.Wiegand26}, {UID: "DEADBEEF", Kind: scan.Wiegand34}}, 0},
		"repeated":         {[]string{good26, good26, good26}, []scan.Badge{{UID: "D41B81", Kind: scan.Wiegand26}}, 0},
		"bit lost":         {[]string{good26[:25], good34[:33]}, nil, 2},
		"bit too many":     {[]string{good26 + "0", good34 + "1"}, nil, 2},
		"two in one":       {[]string{good26 + good26}, nil, 1},
		"100 bits":         {[]string{strings.Repeat("01", 50)}, nil, 1},
		"a keypad's key":   {[]string{"1110", "11100001"}, nil, 2},
		"one line is dead": {[]string{strings.Repeat("0", 26), strings.Repeat("1", 26), strings.Repeat("0", 34)}, nil, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBench(t, scan.Framing{}, func(t *testing.T, b *bench) {
				for _, s := range c.sends {
					b.door.Send(s)
					time.Sleep(100 * time.Millisecond)
				}
				for _, want := range c.want {
					if e, ok := b.next(); !ok || e.Badge == nil || e.Badge.UID != want.UID || e.Badge.Kind != want.Kind {
						t.Errorf("got %+v, want %s", e, want.UID)
					}
				}
				b.nothing()
				if n := b.state("door").Refused; n != c.refused {
					t.Errorf("%d refused, want %d", n, c.refused)
				}
			})
		})
	}
	// Each half is guarded: any one bit that flips is noticed.
	onBench(t, scan.Framing{}, func(t *testing.T, b *bench) {
		for _, good := range []string{good26, good34} {
			for i := range good {
				b.door.Send(good[:i] + string(good[i]^1) + good[i+1:])
				time.Sleep(100 * time.Millisecond)
			}
		}
		b.nothing()
		if n := b.state("door").Refused; n != 26+34 {
			t.Errorf("%d refused, want %d", n, 26+34)
		}
	})
}

// A process that was held up finds a whole frame waiting, and takes it whole.
func TestWiegandFrameThatWaited(t *testing.T) {
	t.Parallel()
	onBench(t, scan.Framing{}, func(t *testing.T, b *bench) {
		for _, bit := range sim.Bits(0xD41B81, 24) {
			b.door.Pulse(int(bit - '0'))
		}
		b.badge("door", scan.Wiegand26, "D41B81")
	})
}

func TestSameBadgeAgain(t *testing.T) {
	t.Parallel()
	onBench(t, scan.Framing{}, func(t *testing.T, b *bench) {
		b.door.Hold26(0xD41B81)
		b.badge("door", scan.Wiegand26, "D41B81")
		for range 20 { // held for 10 s
			b.door.Hold26(0xD41B81)
			time.Sleep(500 * time.Millisecond)
		}
		b.nothing()
		time.Sleep(2 * time.Second)
		b.door.Hold26(0xD41B81)
		b.badge("door", scan.Wiegand26, "D41B81")
	})
}

func TestQueue(t *testing.T) {
	t.Parallel()
	onBench(t, scan.Framing{}, func(t *testing.T, b *bench) {
		for i := range 20 { // the queue holds 16
			fmt.Fprintf(b.gun, "%02d\r", i)
		}
		synctest.Wait()
		for i := 4; i < 20; i++ {
			e, ok := b.next()
			if !ok || string(e.Scan.Code) != fmt.Sprintf("%02d", i) {
				t.Fatalf("got %+v, want %02d", e, i)
			}
			if want := map[bool]int{true: 4}[i == 4]; e.Missed != want {
				t.Errorf("%02d: %d missed, want %d", i, e.Missed, want)
			}
		}
		b.nothing()

		// What nobody took in time is gone, and counted.
		b.door.Hold26(0xD41B81)
		fmt.Fprint(b.gun, "old\r")
		time.Sleep(10*time.Second + 100*time.Millisecond)
		b.nothing()
		fmt.Fprint(b.gun, "new\r")
		if e, ok := b.next(); !ok || string(e.Scan.Code) != "new" || e.Missed != 2 {
			t.Errorf("got %+v, want the new one and 2 missed", e)
		}
	})
}

func TestNextEndsWithItsContext(t *testing.T) {
	t.Parallel()
	all := scan.New(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := all.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
}

// Whoever prints a badge does not print its UID.
func TestBadgeDoesNotPrint(t *testing.T) {
	t.Parallel()
	b := scan.Badge{UID: "A1B2C3D4", Kind: scan.NFC, At: time.Now()}
	e := scan.Event{Device: "nfc", Badge: &b}
	var out bytes.Buffer
	for _, v := range []any{b, &b, e, &e, []scan.Badge{b}, struct{ B scan.Badge }{b}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			fmt.Fprintf(&out, verb, v)
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "device", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "device", v)
	}
	if s := out.String(); strings.Contains(s, b.UID) || strings.Contains(s, fmt.Sprintf("%x", b.UID)) {
		t.Errorf("printed:\n%s", s)
	}
}

func TestFramingValid(t *testing.T) {
	t.Parallel()
	for _, f := range []scan.Framing{{}, {Prefix: "\x02", Suffix: "\x03"}, {Gap: 20 * time.Millisecond}, {Gap: 500 * time.Millisecond}} {
		if err := f.Valid(); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
	}
	for _, f := range []scan.Framing{{Prefix: strings.Repeat("x", 17)}, {Suffix: "\r"}, {Prefix: "a\n"}, {Gap: time.Millisecond}, {Gap: time.Second}, {Gap: -time.Second}} {
		if f.Valid() == nil {
			t.Errorf("%+v is valid", f)
		}
	}
}
