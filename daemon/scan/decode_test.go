package scan

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// From the chip's manual and from published captures.
func TestPN532Commands(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		order order
		args  []byte
		want  string
	}{
		{cmdSAM, []byte{1, 0, 1}, "55 55 00 00 00 00 00 ff 05 fb d4 14 01 00 01 16 00"},
		{cmdFirmware, nil, "00 00 ff 02 fe d4 02 2a 00"},
		{cmdList, []byte{1, 0}, "00 00 ff 04 fc d4 4a 01 00 e1 00"},
		{cmdRF, []byte{5, 0xFF, 1, 2}, "00 00 ff 06 fa d4 32 05 ff 01 02 f3 00"},
	} {
		if got := fmt.Sprintf("% x", c.order.frame(c.args...)); got != c.want {
			t.Errorf("%v: %s, want %s", c.order, got, c.want)
		}
	}
}

// frames lists what d hears in the chunks.
func frames(d *deframer, chunks ...[]byte) (out []string) {
	for _, b := range chunks {
		for len(b) > 0 {
			n, h := d.feed(b)
			b = b[n:]
			switch h {
			case heardAnswer:
				out = append(out, fmt.Sprintf("%x:%x", d.body[1], d.data()))
			case heardNothing:
				// more to come
			default:
				out = append(out, []string{"", "ack", "nak", "", "error", "bent", "foreign", "extended"}[h])
			}
		}
	}
	return out
}

func TestPN532Frames(t *testing.T) {
	t.Parallel()
	const firmware = "\x00\x00\xff\x06\xfa\xd5\x03\x32\x01\x06\x07\xe8\x00"
	for name, c := range map[string]struct {
		in   string
		want string
	}{
		"ack, answer":               {ackFrame + firmware, "ack 3:32010607"},
		"nak":                       {nakFrame, "nak"},
		"error":                     {"\x00\x00\xff\x01\xff\x7f\x81\x00", "error"},
		"extended":                  {"\x00\x00\xff\xff\xff\x01\x00\xff", "extended"},
		"no preamble":               {firmware[1:], "3:32010607"},
		"long preamble":             {"\x00\x00\x00\x00" + firmware, "3:32010607"},
		"noise before":              {"\xff\xff\x12\x00\x13\x00\xff\x05\x05" + firmware, "3:32010607"},
		"length of no frame":        {"\x00\xff\x06\x00" + firmware[1:], "3:32010607"},
		"length cut by a new frame": {"\x00\x00\xff" + firmware, "3:32010607"},
		"bent":                      {strings.Replace(firmware, "\x32", "\x33", 1) + firmware, "bent 3:32010607"},
		"our own":                   {string(cmdFirmware.frame()) + firmware, "foreign 3:32010607"},
		"one byte":                  {"\x00\xff\x01\xff\xd5\x2b\x00", "foreign"},
		"no byte":                   {"\x00\xff\x00\x00\x00", ""},
	} {
		for _, cut := range []bool{false, true} {
			chunks := [][]byte{[]byte(c.in)}
			if cut {
				chunks = slices.Collect(slices.Chunk([]byte(c.in), 1))
			}
			if got := strings.Join(frames(&deframer{}, chunks...), " "); got != c.want {
				t.Errorf("%s, in pieces %v: %q, want %q", name, cut, got, c.want)
			}
		}
	}
}

func TestTarget(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		data string
		want string
		ok   bool
	}{
		{"00", "", true},
		{"0101000408" + "04a1b2c3d4", "a1b2c3d4", true},
		{"0101004420" + "0704a1b2c3d4e5f6" + "0575778102", "04a1b2c3d4e5f6", true},
		{"0101000420" + "0a8899aabbccddee010203", "8899aabbccddee010203", true},
		{"0101000408" + "04a1b2c3", "", false},
		{"0101000408" + "03a1b2c3", "", false},
		{"0101000408" + "00", "", false},
		{"0101000408" + "ffa1b2c3d4", "", false},
		{"0101004420" + "04a1b2c3d4" + "0675778102", "", false},
		{"0102000408" + "04a1b2c3d4", "", false},
		{"0201000408" + "04a1b2c3d4", "", false},
		{"0000", "", false},
		{"01", "", false},
		{"", "", false},
	} {
		var data []byte
		if _, err := fmt.Sscanf(c.data+"|", "%x|", &data); err != nil && c.data != "" {
			t.Fatal(err)
		}
		uid, ok := target(data)
		if got := fmt.Sprintf("%x", uid); ok != c.ok || got != c.want {
			t.Errorf("%s: %s, %v; want %s, %v", c.data, got, ok, c.want, c.ok)
		}
	}
}

// However it is damaged and cut up, a stream gives no answer that does not add
// up, and one that is whole after enough silence is heard.
func FuzzPN532(f *testing.F) {
	const firmware = "\x00\x00\xff\x06\xfa\xd5\x03\x32\x01\x06\x07\xe8\x00"
	f.Add([]byte(ackFrame+firmware), uint8(3))
	f.Add([]byte(nakFrame+"\x00\x00\xff\x01\xff\x7f\x81\x00"), uint8(1))
	f.Add([]byte("\x00\x00\xff\xff\xff\x01\x00\xff\xd5\x4b"), uint8(7))
	f.Add([]byte("\x00\x00\xff\x0c\xf4\xd5\x4b\x01\x01\x00\x04\x08\x04\xa1\xb2\xc3\xd4\x00\x00"), uint8(2))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		whole := frames(&deframer{}, in)
		var d deframer
		if cut := frames(&d, slices.Collect(slices.Chunk(in, 1+int(size)))...); !slices.Equal(whole, cut) {
			t.Errorf("whole %q, cut %q", whole, cut)
		}
		for _, s := range whole {
			if cmd, _, ok := strings.Cut(s, ":"); ok && !bytes.Contains(in, []byte{toHost}) {
				t.Errorf("answer %s out of nothing", cmd)
			}
		}
		// After the longest frame there can be, whatever had begun is over.
		got := frames(&d, make([]byte, 300), []byte(firmware))
		if len(got) == 0 || got[len(got)-1] != "3:32010607" {
			t.Errorf("not heard after silence: %q", got)
		}
		if uid, ok := target(in); ok && len(uid) != 0 && len(uid) != 4 && len(uid) != 7 && len(uid) != 10 {
			t.Errorf("target %x: %x", in, uid)
		}
	})
}

// wellFormed checks what every code that is taken must be.
func wellFormed(t *testing.T, code []byte) {
	t.Helper()
	if len(code) == 0 || len(code) > MaxCode || slices.ContainsFunc(code, noise) || bytes.ContainsAny(code, "\r\n\t") {
		t.Errorf("code %q", code)
	}
}

func FuzzSerial(f *testing.F) {
	f.Add([]byte("]d2010690123456789210A1\x1d21X\r\n"), "", "", false)
	f.Add([]byte("\x02123\x03\n\x02456"), "\x02", "\x03", true)
	f.Add(bytes.Repeat([]byte("7"), 600), "", "", true)
	f.Fuzz(func(t *testing.T, in []byte, prefix, suffix string, gap bool) {
		x := text{framing: Framing{Prefix: prefix, Suffix: suffix}}
		if x.framing.Valid() != nil {
			return
		}
		if gap {
			x.framing.Gap = stallTime
		}
		took := func(code []byte, err error) {
			if code == nil {
				return
			}
			wellFormed(t, code)
			if err != nil || !bytes.Contains(in, []byte(prefix+string(code)+suffix)) {
				t.Errorf("code %q is not in %q; %v", code, in, err)
			}
		}
		for _, b := range in {
			took(x.put(b))
			if len(x.got) > longest {
				t.Fatalf("%d bytes kept", len(x.got))
			}
		}
		took(x.pause())
		if x.begun() {
			t.Error("begun after a pause")
		}
		// What follows a line end is not hurt by what came before it.
		for _, b := range []byte(prefix + "6901234567892" + suffix) {
			x.put(b)
		}
		if code, err := x.put('\r'); string(code) != "6901234567892" || err != nil {
			t.Errorf("next code: %q, %v", code, err)
		}
	})
}

// inputEvents makes a stream of events out of three bytes each.
func inputEvents(in []byte) (out []byte) {
	for c := range slices.Chunk(in, 3) {
		if len(c) < 3 {
			break
		}
		out = append(out, make([]byte, 16)...)
		out = binary.NativeEndian.AppendUint16(out, uint16(c[0]))
		out = binary.NativeEndian.AppendUint16(out, uint16(c[1]))
		out = binary.NativeEndian.AppendUint32(out, uint32(c[2]))
	}
	return out
}

func FuzzKeyboard(f *testing.F) {
	f.Add([]byte{1, 42, 1, 1, 30, 1, 1, 30, 0, 1, 42, 0, 1, 28, 1}, uint8(5))
	f.Add([]byte{1, 29, 1, 1, 27, 1, 1, 29, 0, 1, 2, 1, 1, 15, 1}, uint8(24))
	f.Add([]byte{1, 56, 1, 1, 80, 1, 1, 73, 1, 1, 56, 0, 0, 3, 0, 1, 2, 1, 0, 0, 0, 1, 96, 1}, uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		run := func(chunks ...[]byte) (out []string, k *keys) {
			k = &keys{text: &text{}, code: func(code []byte, err error) {
				switch {
				case err != nil:
					out = append(out, err.Error())
				case code != nil:
					wellFormed(t, code)
					out = append(out, string(code))
				}
			}}
			for _, c := range chunks {
				k.feed(c)
				if len(k.part) >= eventSize {
					t.Fatalf("%d bytes kept", len(k.part))
				}
			}
			return out, k
		}
		for _, stream := range [][]byte{in, inputEvents(in)} {
			whole, _ := run(stream)
			cut, _ := run(slices.Collect(slices.Chunk(stream, 1+int(size)))...)
			if !slices.Equal(whole, cut) {
				t.Errorf("whole %q, cut %q", whole, cut)
			}
		}
	})
}

func FuzzWiegand(f *testing.F) {
	f.Add([]byte("11101010000011011100000010"))
	f.Add([]byte("0110111101010110110111110111011111"))
	f.Add([]byte("012"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var x frame
		for _, b := range in {
			x.pulse(int(b) - '0')
		}
		got, err := x.badge()
		if err != nil {
			return
		}
		if len(in) != 26 && len(in) != 34 || len(bytes.Trim(in, "01")) != 0 {
			t.Fatalf("%q is a badge", in)
		}
		half := len(in) / 2
		if bytes.Count(in[:half], []byte("1"))%2 != 0 || bytes.Count(in[half:], []byte("1"))%2 != 1 {
			t.Errorf("%q: parity", in)
		}
		var bits string
		for _, b := range got.uid() {
			bits += fmt.Sprintf("%08b", b)
		}
		if bits != string(in[1:len(in)-1]) {
			t.Errorf("%q: badge %s", in, bits)
		}
	})
}

// A real line hands bytes over as it likes.
func TestIntakeEndsWithItsLine(t *testing.T) {
	t.Parallel()
	line := struct {
		*bytes.Reader
		closer
	}{bytes.NewReader([]byte("123")), closer{}}
	in := listen(line)
	if b, err := in.next(t.Context(), 0); string(b) != "123" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := in.next(t.Context(), 0); err == nil {
		t.Error("no end")
	}
	in.close()

	in = listen(struct {
		endless
		closer
	}{})
	in.close() // nobody took what came
}

type closer struct{}

func (closer) Close() error { return nil }

type endless struct{}

func (endless) Read(b []byte) (int, error) { return copy(b, "x"), nil }
