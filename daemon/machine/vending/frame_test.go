package vending

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// published are frames from vendors' papers and from captures, with good check bytes.
var published = []struct {
	wire string
	cmd  command
	body string
}{
	{"FA FB 41 00 40", cmdPoll, ""},
	{"FA FB 42 00 43", cmdAck, ""},
	{"FA FB 06 05 A6 01 00 00 3C 99", cmdDrive, "A6 01 00 00 3C"},
	{"FA FB 06 05 01 01 01 00 0D 0E", cmdDrive, "01 01 01 00 0D"},
	{"FA FB 06 05 01 01 00 00 0D 0F", cmdDrive, "01 01 00 00 0D"},
	{"FA FB 06 05 04 01 00 00 01 06", cmdDrive, "04 01 00 00 01"},
	{"FA FB 04 04 A3 01 00 3C 9F", cmdReport, "A3 01 00 3C"},
	{"FA FB 04 04 A4 02 00 3C 9B", cmdReport, "A4 02 00 3C"},
	{"FA FB 04 04 9E 03 00 3C A0", cmdReport, "9E 03 00 3C"},
	{"FA FB 03 03 01 00 0D 0D", 0x03, "01 00 0D"},
	{"FA FB 31 01 01 30", cmdSync, "01"},
	{"FA FB 21 06 D5 01 00 01 86 A0 D5", cmdMoney, "D5 01 00 01 86 A0"},
	{"FA FB 21 06 10 08 00 00 00 02 3C", cmdMoney, "10 08 00 00 00 02"},
	{"FA FB 52 21 54 00 01 00 00 13 00 00000000 00000000 30303030303030303030 13AAAAAAAAAAAAAA 8D", cmdStatusIs,
		"54 00 01 00 00 13 00 00000000 00000000 30303030303030303030 13AAAAAAAAAAAAAA"},
	{"FA FB 52 21 B5 00 00 00 00 00 00 00000000 00000000 30303030303030303030 AAAAAAAAAAAAAAAA C7", cmdStatusIs,
		"B5 00 00 00 00 00 00 00000000 00000000 30303030303030303030 AAAAAAAAAAAAAAAA"},
}

func TestPublishedFrames(t *testing.T) {
	for _, p := range published {
		wire, body := unhex(t, p.wire), unhex(t, p.body)
		var d decoder
		got := d.feed(wire)
		if len(got) != 1 || got[0].cmd != p.cmd || !bytes.Equal(got[0].body, body) || len(d.part) != 0 {
			t.Errorf("%s: got %v", p.wire, got)
		}
		if again := appendFrame(nil, p.cmd, body...); !bytes.Equal(again, wire) {
			t.Errorf("%s: written as % X", p.wire, again)
		}
	}
}

// Two published frames have wrong check bytes. They are no frames, and hide none.
func TestPublishedWrongFrames(t *testing.T) {
	for _, wire := range []string{"FA FB 53 01 02 52", "FA FB 16 02 03 05 10"} {
		var d decoder
		got := d.feed(append(unhex(t, wire), appendFrame(nil, cmdPoll)...))
		if len(got) != 1 || got[0].cmd != cmdPoll {
			t.Errorf("%s and a poll: got %v", wire, got)
		}
		good := unhex(t, wire)
		good[len(good)-1] = sum(good[:len(good)-1])
		if got := new(decoder).feed(good); len(got) != 1 {
			t.Errorf("% X: got %v", good, got)
		}
	}
}

// Where PackNO is left out of the count, the check byte tells.
func TestUnderstatedLengths(t *testing.T) {
	for _, tt := range []struct {
		bytes string // without the check byte
		body  string
	}{
		{"FA FB 04 03 A4 02 00 3C", "A4 02 00 3C"},
		{"FA FB 04 03 A4 02 3C", "A4 02 3C"},
		{"FA FB 04 05 A4 02 00 3C 01", "A4 02 00 3C 01"},
		{"FA FB 54 01 07 03", "07 03"},
		{"FA FB 54 02 07 03", "07 03"},
	} {
		b := unhex(t, tt.bytes)
		b = append(b, sum(b))
		var d decoder
		var got []frame
		for _, c := range b { // byte by byte
			got = append(got, d.feed([]byte{c})...)
		}
		if len(got) != 1 || !bytes.Equal(got[0].body, unhex(t, tt.body)) {
			t.Errorf("% X: got %v", b, got)
		}
	}
}

func TestReports(t *testing.T) {
	for body, want := range map[string]report{
		"01 02 3C":       {2, 60},
		"01 02 00 3C":    {2, 60},
		"01 02 01 3C 09": {2, 316},
		"01 02 03 E7":    {2, 999},
	} {
		if got, ok := parseReport(unhex(t, body)); !ok || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", body, got, ok, want)
		}
	}
	for _, body := range []string{"", "01", "01 02", "01 02 00 3C 09 09", "01 02 03 E8"} {
		if got, ok := parseReport(unhex(t, body)); ok {
			t.Errorf("%q: got %+v", body, got)
		}
	}
}

// Two halves of a keypad frame make one whose check byte fits. It must not be
// acknowledged, or the board believes that its choice was heard.
func TestUnsoundFrames(t *testing.T) {
	for wire, sound := range map[string]bool{
		"FA FB 05 03 FA FB 05 03":          false,
		"FA FB 05 03 74 00 03 70":          true,
		"FA FB 99 01 07 9E":                true,
		"FA FB 99 00 98":                   false,
		"FA FB 02 04 A2 01 00 3C 98":       true,
		"FA FB 71 03 01 32 01 41":          true,
		"FA FB 71 02 01 32 41":             false,
		"FA FB 54 02 07 03 53":             true,
		"FA FB 52 03 01 02 03 50":          false,
		"FA FB 04 06 01 02 00 05 00 00 05": false,
	} {
		got := new(decoder).feed(unhex(t, wire))
		if len(got) != 1 || got[0].sound() != sound {
			t.Errorf("%s: %v, sound is to be %v", wire, got, sound)
		}
	}
}

func TestConditions(t *testing.T) {
	const money, id = "00000000 00000000", "30303030303030313737"
	for body, want := range map[string]condition{
		published[13].body: {celsius: 19, warm: true},
		published[14].body: {},
		"01 00 00 00 00 05 01" + money + id + "AA05AAAAAAAAAAAA":                  {doorOpen: true, serial: 177, celsius: 5, warm: true},
		"01 00 00 00 00 05 00" + money + id + "FBAAAAAAAAAAAAAA AA2DAAAAAAAAAAAA": {serial: 177, celsius: -5, warm: true, humidity: 45, damp: true},
		"01 00 00 00 00 01" + money + id + "05AAAAAAAAAAAAAA 2DAAAAAAAAAAAAAA":    {doorOpen: true, serial: 177, celsius: 5, warm: true, humidity: 45, damp: true},
		"01 00 00 00 00 00" + money + "41303030303030313737" + "05AAAAAAAAAAAAAA": {celsius: 5, warm: true},
	} {
		if got, ok := parseCondition(unhex(t, body)); !ok || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", body, got, ok, want)
		}
	}
	for n := range 60 {
		_, ok := parseCondition(make([]byte, n))
		if want := slices.Contains([]int{32, 33, 40, 41}, n); ok != want {
			t.Errorf("a condition of %d bytes: %v", n, ok)
		}
	}
}

// One bit is another: no frame comes out of it, and the next one is found.
func TestEveryBitFlipped(t *testing.T) {
	for _, p := range published {
		wire := unhex(t, p.wire)
		for i := range 8 * len(wire) {
			bent := slices.Clone(wire)
			bent[i/8] ^= 1 << (i % 8)
			var d decoder
			got := d.feed(bent)
			got = append(got, d.rest()...)
			got = append(got, d.feed(appendFrame(nil, cmdPoll))...)
			if len(got) != 1 || got[0].cmd != cmdPoll {
				t.Errorf("%s with bit %d flipped, then a poll: got %v", p.wire, i, got)
			}
		}
	}
}

// A damaged length swallows what follows, until the line pauses.
func TestDamagedLengthSwallows(t *testing.T) {
	var d decoder
	long := []byte{0xFA, 0xFB, 0x04, 0xF0, 1, 2}
	got := d.feed(append(long, appendFrame(nil, cmdReport, 7, 2, 0, 5)...))
	if len(got) != 0 {
		t.Fatalf("got %v", got)
	}
	if got = d.rest(); len(got) != 1 || got[0].cmd != cmdReport || len(d.part) != 0 {
		t.Errorf("after a pause: %v, left % X", got, d.part)
	}
}

func FuzzDecoder(f *testing.F) {
	for _, p := range published {
		f.Add(unhex(f, p.wire), 3)
	}
	f.Add(unhex(f, "FAFAFBFAFB410040FAFB0403A402003C9CFAFB540107035A"), 5)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		cut = min(max(cut, 0), len(b))
		var whole, parts decoder
		all := append(whole.feed(b), whole.rest()...)
		two := append(parts.feed(b[:cut]), parts.feed(b[cut:])...)
		two = append(two, parts.rest()...)
		if len(all) != len(two) || len(whole.part) != 0 {
			t.Fatalf("% X: %v in one piece, %v cut at %d", b, all, two, cut)
		}
		for i, fr := range all {
			if two[i].cmd != fr.cmd || !bytes.Equal(two[i].body, fr.body) {
				t.Fatalf("% X: %v in one piece, %v cut at %d", b, all, two, cut)
			}
			understated := appendFrame(nil, fr.cmd, fr.body...)
			understated[3]--
			n := len(understated) - 1
			understated[n] = sum(understated[:n])
			if !bytes.Contains(b, appendFrame(nil, fr.cmd, fr.body...)) && !bytes.Contains(b, understated) {
				t.Fatalf("% X: frame %v is not in it", b, fr)
			}
			parseReport(fr.body)
			parseCondition(fr.body)
		}
	})
}
