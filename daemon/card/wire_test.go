package card

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// answerFrame builds an answer as a reader sends it.
func answerFrame(payload ...byte) []byte {
	size := len(payload) + 1
	b := append([]byte(preamble), byte(size>>8), byte(size))
	b = append(b, payload...)
	var sum byte
	for _, c := range b[5:] {
		sum ^= c
	}
	return append(b, sum)
}

// textAnswer is an answer with text and photograph; the photograph holds a
// whole frame of another answer.
func textAnswer() []byte {
	p := append([]byte{0, 0, 0x90, 1, 0, 4, 0}, bytes.Repeat([]byte{'t', 0}, textSize/2)...)
	p = append(p, bytes.Repeat([]byte{0xAA}, 200)...)
	p = append(p, answerFrame(0, 0, 0x80)...)
	return answerFrame(append(p, make([]byte, 3+4+textSize+photoSize-len(p))...)...)
}

func TestCommandFrames(t *testing.T) {
	t.Parallel()
	// From the vendors' manuals.
	for c, want := range map[command]string{
		cmdReset:       "aaaaaa9669000310ffec",
		cmdSelfTest:    "aaaaaa9669000311ffed",
		cmdFind:        "aaaaaa96690003200122",
		cmdSelect:      "aaaaaa96690003200221",
		cmdReadText:    "aaaaaa96690003300132",
		cmdReadAddress: "aaaaaa96690003300330",
	} {
		if got := fmt.Sprintf("%x", c.frame()); got != want {
			t.Errorf("%v: %s, want %s", c, got, want)
		}
		if strings.HasPrefix(c.String(), "command ") {
			t.Errorf("%04x has no name", uint16(c))
		}
	}
}

func TestLimitsGrowOnSlowLines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cmd      command
		baud     int
		min, max time.Duration
	}{
		{cmdFind, 115200, 200 * time.Millisecond, 210 * time.Millisecond},
		{cmdFind, 9600, 220 * time.Millisecond, 250 * time.Millisecond},
		{cmdReadText, 115200, 2100 * time.Millisecond, 2200 * time.Millisecond},
		{cmdReadText, 9600, 3350 * time.Millisecond, 3450 * time.Millisecond},
		{cmdReadAddress, 115200, 1500 * time.Millisecond, 1520 * time.Millisecond},
		{cmdSelfTest, 115200, 300 * time.Millisecond, 310 * time.Millisecond},
	} {
		if got := c.cmd.limit(c.baud); got < c.min || got > c.max {
			t.Errorf("%v at %d baud: %v, want %v to %v", c.cmd, c.baud, got, c.min, c.max)
		}
	}
}

func TestEveryStatusHasWords(t *testing.T) {
	t.Parallel()
	known := map[status]blame{
		0x90: nobody, 0x9F: nobody,
		0x10: theLine, 0x11: theLine,
		0x21: theSetup, 0x23: theSetup, 0x24: theSetup, 0x60: theSetup, 0x61: theSetup, 0x66: theSetup,
		0x31: theCard, 0x32: theCard, 0x33: theCard, 0x34: theCard, 0x37: theCard, 0x3F: theCard, 0x40: theCard,
		0x41: theCard, 0x47: theCard, 0x50: theCard, 0x80: theCard, 0x81: theCard, 0x91: theCard,
	}
	seen := map[string]status{}
	for i := range 256 {
		st := status(i)
		words, who := st.meaning()
		want, is := known[st]
		if !is {
			if words != "a status without a meaning" || who != theSetup {
				t.Errorf("%02x: %q, %v; it is in no manual", i, words, who)
			}
			continue
		}
		if who != want || words == "" {
			t.Errorf("%02x: %q blames %v, want %v", i, words, who, want)
		}
		if other, twice := seen[words]; twice {
			t.Errorf("%02x and %02x both say %q", i, byte(other), words)
		}
		seen[words] = st
	}
}

// decode feeds the chunks and lists what was seen.
func decode(d *decoder, chunks ...[]byte) (out []string) {
	for _, b := range chunks {
		for len(b) > 0 {
			n, e := d.feed(b)
			b = b[n:]
			switch e {
			case bent:
				out = append(out, "bent")
			case whole:
				out = append(out, fmt.Sprintf("%02x", byte(d.verdict())))
			}
		}
	}
	return out
}

func TestDecoder(t *testing.T) {
	t.Parallel()
	find := answerFrame(0, 0, 0x9F, 0, 0, 0, 0)
	gone := answerFrame(0, 0, 0x80)
	bad := bytes.Clone(find)
	bad[len(bad)-2] ^= 1
	for name, c := range map[string]struct {
		in   []byte
		want string
	}{
		"find ok of the manual":   {[]byte("\xaa\xaa\xaa\x96\x69\x00\x08\x00\x00\x9f\x00\x00\x00\x00\x97"), "9f"},
		"not found of the manual": {[]byte("\xaa\xaa\xaa\x96\x69\x00\x04\x00\x00\x80\x84"), "80"},
		"select of the manual":    {[]byte("\xaa\xaa\xaa\x96\x69\x00\x0c\x00\x00\x90\x00\x00\x00\x00\x00\x00\x00\x00\x9c"), "90"},
		"card's own word":         {answerFrame(0x69, 0x82, 0x41), "41"},
		"two in a row":            {append(bytes.Clone(find), gone...), "9f 80"},
		"noise before":            {append([]byte{0, 0x96, 0x69, 0xFF}, gone...), "80"},
		"an AA too many":          {append([]byte{0xAA}, gone...), "80"},
		"three AA too many":       {append([]byte{0xAA, 0xAA, 0xAA}, gone...), "80"},
		"half a preamble":         {append([]byte{0xAA, 0xAA, 0xAA, 0x96}, gone...), "80"},
		"preamble, then a frame":  {append([]byte(preamble), gone...), "80"},
		"preamble, AA, a frame":   {append([]byte(preamble+"\xff"), gone...), "80"},
		"length 3":                {append([]byte(preamble+"\x00\x03"), gone...), "80"},
		"length over the cap":     {append([]byte(preamble+"\x09\x0b"), gone...), "80"},
		"length FFFF":             {append([]byte(preamble+"\xff\xff"), gone...), "80"},
		"bent":                    {bad, "bent"},
		"bent, then right":        {append(bytes.Clone(bad), gone...), "bent 80"},
		"vendor's time-out frame": {append([]byte(preamble+"\x00\x05\x05\x05\x05"), gone...), "bent 80"},
		"text, photo with frame":  {append(textAnswer(), gone...), "90 80"},
		"longest there is":        {append(answerFrame(make([]byte, maxSize-1)...), gone...), "00 80"},
	} {
		for _, cmd := range []command{cmdFind, cmdReadText} {
			var d decoder
			d.expect(cmd)
			if got := strings.Join(decode(&d, c.in), " "); got != c.want {
				t.Errorf("%s: got %s, want %s", name, got, c.want)
			}
			for i := range c.in {
				d.expect(cmd)
				if got := strings.Join(decode(&d, c.in[:i], c.in[i:]), " "); got != c.want {
					t.Errorf("%s split at %d: got %s, want %s", name, i, got, c.want)
				}
			}
			d.expect(cmd)
			if got := strings.Join(decode(&d, bytes.SplitAfter(c.in, nil)...), " "); got != c.want {
				t.Errorf("%s byte by byte: got %s, want %s", name, got, c.want)
			}
		}
	}
}

func TestDecoderKeepsTextOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	var d decoder
	d.expect(cmdReadText)
	decode(&d, textAnswer())
	if !d.isText() || !bytes.Equal(d.block()[:], bytes.Repeat([]byte{'t', 0}, textSize/2)) {
		t.Error("text is not there")
	}
	d.wipe()
	if d != (decoder{}) {
		t.Error("wipe leaves something")
	}
	d.expect(cmdReadAddress)
	decode(&d, textAnswer())
	if *d.block() != [textSize]byte{} {
		t.Error("text was kept though nobody asked for it")
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte{}, byte(3))
	f.Add(answerFrame(0, 0, 0x9F, 0, 0, 0, 0), byte(1))
	f.Add([]byte(preamble+"\x00\x05\x05\x05\x05"), byte(4))
	f.Add([]byte(preamble+"\xff\xff"+preamble), byte(7))
	f.Add(append([]byte{0xAA, 0xAA}, textAnswer()...), byte(200))
	f.Fuzz(func(t *testing.T, in []byte, chunk byte) {
		var one, many decoder
		one.expect(cmdReadText)
		many.expect(cmdReadText)
		want := decode(&one, in)
		var chunks [][]byte
		for size := int(chunk) + 1; len(in) > 0; {
			n := min(size, len(in))
			chunks = append(chunks, in[:n])
			in = in[n:]
		}
		if got := decode(&many, chunks...); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Fatalf("in chunks %v, at once %v", got, want)
		}
		if one != many {
			t.Fatal("chunks leave the decoder in another state")
		}
		// Whatever came, the answer to the next question is understood.
		one.expect(cmdFind)
		if got := decode(&one, answerFrame(0, 0, 0x80)); len(got) != 1 || got[0] != "80" {
			t.Fatalf("next answer: %v", got)
		}
	})
}
