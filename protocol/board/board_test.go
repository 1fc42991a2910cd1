package board_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

const golden = "../testdata/board/"

// samples has one of every message; their frames are golden.
var samples = []board.Message{
	board.Ping{}, board.Pong{}, board.Hello{Proto: 1},
	board.HelloIs{Proto: 1, Serial: 0x0102030405060708, Build: 0x20260101, ConfigHash: 0xdeadbeef, Highest: 4711, Boot: 12,
		ResetCause: board.ResetBrownOut, UptimeMS: 86_400_000, Fitted: board.Slots(1, 8, 9, 60)},
	board.DefaultConfigure(),
	board.Configure{Fitted: board.Slots(1, 2, 3), Coupled: board.Slots(1), LeaveMS: 1, TurnMS: 2, SlowMS: 3, JamMA: 4, JamMS: 5, OpenMA: 6},
	board.Vend{ID: 1, Slot: 60}, board.Vend{ID: 0xffffffff, Slot: 1}, board.Query{ID: 0x00010000},
	board.VendState{ID: 7, Slot: 33, State: board.StateRunning, Phase: board.PhaseReturn, RunMS: 1200},
	board.VendState{ID: 7, Slot: 33, State: board.StateEnded, Repeat: true, Cause: uint8(protocol.FaultDoubleDrop), Drops: 2, RunMS: 2500, DropMS: 2120},
	board.VendState{ID: 8, State: board.StateSkipped, Repeat: true},
	board.Nak{Reason: board.NakLatched, Fault: uint8(protocol.FaultRunaway)},
	board.Status{},
	board.StatusIs{Boot: 12, UptimeMS: 1000, Turns: 500, Drops: 499, NotHome: board.Slots(17), CurrentMA: 300, Spontaneous: 1, CentiC: -525, CentiRH: 4550,
		DoorOpen: true, LockOpen: true, Light: 100, SensorDark: true, Curtain: board.CurtainGood, Climate: true, Motion: board.MotionTest, Slot: 5,
		Phase: board.PhaseDone, Cause: uint8(protocol.FaultJam), Latched: uint8(protocol.FaultRunaway), LatchedSlot: 17, JournalBad: true},
	board.Lock{OpenMS: 3000}, board.Light{Percent: 80}, board.Hold{Slot: 17, Motion: board.MotionHome, Press: 3}, board.Clear{Fault: 5},
}

func TestHeaderIsCurrent(t *testing.T) {
	got, err := os.ReadFile("../../firmware/core/proto.h")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, board.Header()) {
		t.Error("firmware/core/proto.h is stale: run go generate ./...")
	}
}

func TestCRC16(t *testing.T) {
	if got := board.CRC16([]byte("123456789")); got != 0x6f91 {
		t.Errorf("CRC16 = %#x, want 0x6f91", got)
	}
}

// Every message survives the line, is as long as the line allows and has its own kind.
func TestRoundTrip(t *testing.T) {
	seen := map[board.Kind]bool{}
	for i, want := range samples {
		b := board.Append(nil, uint8(i), want)
		if len(b) > board.MaxFrame || bytes.IndexByte(b, 0) != len(b)-1 {
			t.Errorf("%T: % x: want one zero byte, the last of at most %d", want, b, board.MaxFrame)
		}
		f, err := board.Decode(b[:len(b)-1])
		if err != nil {
			t.Fatalf("%T: %v", want, err)
		}
		got, err := f.Parse()
		if err != nil || got != want || f.Seq != uint8(i) || f.Kind != want.Kind() {
			t.Errorf("%+v came back as %+v (seq %d, %v)", want, got, f.Seq, err)
		}
		if n := reflect.TypeOf(want).Size(); len(f.Payload) > board.MaxPayload || n > 0 && len(f.Payload) == 0 {
			t.Errorf("%T: payload of %d bytes", want, len(f.Payload))
		}
		seen[f.Kind] = true
	}
	if len(seen) != 15 {
		t.Errorf("samples hold %d kinds, want all 15", len(seen))
	}
}

// The bytes of version 1 never change. A new message adds lines to the file.
func TestGoldenFrames(t *testing.T) {
	file, err := os.Open(golden + "frames-1.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var want []string
	for sc := bufio.NewScanner(file); sc.Scan(); {
		if !strings.HasPrefix(sc.Text(), "#") {
			want = append(want, sc.Text())
		}
	}
	for i, m := range samples {
		b := board.Append(nil, uint8(i), m)
		f, err := board.Decode(b[:len(b)-1])
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("%x %02x %02x %x", b, uint8(f.Kind), f.Seq, f.Payload)
		if i >= len(want) || strings.TrimSpace(got) != want[i] {
			t.Errorf("line %d, %T: got\n%s", i, m, got)
		}
	}
	if len(want) != len(samples) {
		t.Errorf("%d golden frames, %d samples", len(want), len(samples))
	}
}

func TestBadFrames(t *testing.T) {
	file, err := os.Open(golden + "bad-1.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	n := 0
	for sc := bufio.NewScanner(file); sc.Scan(); {
		if strings.HasPrefix(sc.Text(), "#") {
			continue
		}
		raw, why, _ := strings.Cut(sc.Text(), " ")
		b, err := hex.DecodeString(raw)
		if err != nil {
			t.Fatal(err)
		}
		if f, err := board.Decode(b); err == nil {
			t.Errorf("%s: %s: taken as %+v", raw, why, f)
		}
		n++
	}
	if n == 0 {
		t.Error("no bad frames in the file")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		frame board.Frame
		want  string
	}{
		{"unknown kind", board.Frame{Kind: 0x70}, "no such message"},
		{"short", board.Frame{Kind: board.KindVend, Payload: []byte{1, 0, 0, 0}}, "4 bytes, want 5"},
		{"long", board.Frame{Kind: board.KindPing, Payload: []byte{1}}, "1 bytes, want 0"},
		{"flag of 2", board.Frame{Kind: board.KindVendState, Payload: []byte{1, 0, 0, 0, 1, 3, 2, 0, 0, 0, 0, 0, 0, 0}}, "neither 0 nor 1"},
		{"other version", board.Frame{Kind: board.KindHelloIs, Payload: []byte{2, 0}}, "speaks version 2"},
	} {
		m, err := tt.frame.Parse()
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, %v; want an error with %q", tt.name, m, err, tt.want)
		}
	}
}

// After garbage, whatever it is, the frame behind the next zero byte is found.
func TestReaderGetsBackInStep(t *testing.T) {
	frame := board.Append([]byte{0}, 9, board.Vend{ID: 5, Slot: 6})
	for _, garbage := range [][]byte{nil, {0, 0, 0}, {1}, {0xff}, bytes.Repeat([]byte{7}, 10_000), frame[:5], frame[1:]} {
		in := append(append([]byte(nil), garbage...), frame...)
		for name, r := range map[string]io.Reader{"whole": bytes.NewReader(in), "bytewise": iotest.OneByteReader(bytes.NewReader(in))} {
			var last board.Frame
			br := board.NewReader(r)
			for {
				f, err := br.Next()
				if err != nil {
					break
				}
				last = f
			}
			if m, err := last.Parse(); err != nil || m != (board.Vend{ID: 5, Slot: 6}) || last.Seq != 9 {
				t.Errorf("garbage of %d bytes, %s: got %+v, %v", len(garbage), name, m, err)
			}
		}
	}
}

func TestReaderCountsBadFrames(t *testing.T) {
	r := board.NewReader(strings.NewReader("abc\x00\x00defgh\x00" + strings.Repeat("x", 500) + "\x00rest"))
	if f, err := r.Next(); err != io.EOF {
		t.Fatalf("got %v, %v; want EOF", f, err)
	}
	if r.Bad() != 3 {
		t.Errorf("Bad() = %d, want 3", r.Bad())
	}
}

func TestSlotSet(t *testing.T) {
	s := board.Slots(1, 8, 9, 60, 0, 61)
	if got := fmt.Sprint(s.List()); got != "[1 8 9 60]" {
		t.Errorf("list = %s", got)
	}
	if s.Without(8).Has(8) || !s.Without(8).Has(9) || s.Has(0) || s.Has(61) || s.Has(64) {
		t.Error("Has or Without is wrong")
	}
	if n := len(board.AllSlots().List()); n != protocol.Slots {
		t.Errorf("AllSlots has %d", n)
	}
}

func TestConfigureValid(t *testing.T) {
	with := func(f func(*board.Configure)) board.Configure {
		c := board.DefaultConfigure()
		f(&c)
		return c
	}
	for _, tt := range []struct {
		name string
		c    board.Configure
		want string
	}{
		{"default", board.DefaultConfigure(), ""},
		{"pair", with(func(c *board.Configure) { c.Coupled = board.Slots(1, 3, 9) }), ""},
		{"slot 61", with(func(c *board.Configure) { c.Fitted[7] |= 0x10 }), "slot 61 does not exist"},
		{"last of a row", with(func(c *board.Configure) { c.Coupled = board.Slots(10) }), "last of its row"},
		{"half a pair", with(func(c *board.Configure) { c.Coupled, c.Fitted = board.Slots(1), board.Slots(1) }), "both must be fitted"},
		{"three in a row", with(func(c *board.Configure) { c.Coupled = board.Slots(1, 2) }), "both its neighbours"},
		{"leave", with(func(c *board.Configure) { c.LeaveMS = 99 }), "leave limit"},
		{"turn", with(func(c *board.Configure) { c.TurnMS = board.MaxTurnMS + 1 }), "turn limit"},
		{"turn under leave", with(func(c *board.Configure) { c.TurnMS = c.LeaveMS }), "turn limit"},
		{"jam time", with(func(c *board.Configure) { c.JamMS = 0 }), "jam time"},
		{"jam current", with(func(c *board.Configure) { c.JamMA = c.OpenMA }), "jam current"},
	} {
		err := tt.c.Valid()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	pair := with(func(c *board.Configure) { c.Coupled = board.Slots(1) })
	if !pair.Turns(1) || pair.Turns(2) || !pair.Turns(3) || pair.Turns(61) {
		t.Error("Turns is wrong about a pair")
	}
	if a, b := board.DefaultConfigure().Hash(), pair.Hash(); a == b || a == 0 {
		t.Errorf("hashes %08x and %08x must differ", a, b)
	}
}

// What decodes, encodes to the same bytes; what parses, to the same payload.
func FuzzDecode(f *testing.F) {
	for i, m := range samples {
		b := board.Append(nil, uint8(i), m)
		f.Add(b[:len(b)-1])
	}
	f.Add([]byte{1})
	f.Add([]byte{0xff, 1, 2})
	f.Fuzz(func(t *testing.T, in []byte) {
		fr, err := board.Decode(in)
		if err != nil {
			return
		}
		m, err := fr.Parse()
		if err != nil {
			return
		}
		out := board.Append(nil, fr.Seq, m)
		back, err := board.Decode(out[:len(out)-1])
		if err != nil || back.Kind != fr.Kind || back.Seq != fr.Seq || !bytes.Equal(back.Payload, fr.Payload) {
			t.Fatalf("% x: %+v became %+v, %v", in, fr, back, err)
		}
	})
}

// Garbage never costs the frame after the next zero byte, and never the program.
func FuzzReader(f *testing.F) {
	f.Add([]byte("noise"), uint8(1))
	f.Add(board.Append(nil, 1, samples[3])[:20], uint8(2))
	f.Add(bytes.Repeat([]byte{1}, 300), uint8(0))
	f.Fuzz(func(t *testing.T, garbage []byte, seq uint8) {
		in := board.Append(append(garbage[:len(garbage):len(garbage)], 0), seq, board.Query{ID: 77})
		r := board.NewReader(bytes.NewReader(in))
		var last board.Frame
		n := 0
		for {
			fr, err := r.Next()
			if err != nil {
				break
			}
			last = fr
			n++
		}
		if m, err := last.Parse(); err != nil || m != (board.Query{ID: 77}) || last.Seq != seq {
			t.Fatalf("% x: last of %d frames is %+v", garbage, n, last)
		}
	})
}
