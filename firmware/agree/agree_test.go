// Package agree holds the board's codec in C and the daemon's codec in Go to the
// same frames: good, damaged, overlong and spread over several reads. It owns the
// comparison only; both codecs and what their messages mean lie elsewhere.
package agree

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"yaoju/protocol/board"
)

// frames is how many frames both codecs are asked about.
const frames = 20000

// codecLimit bounds the compiler and the C program: both take about a second.
const codecLimit = 2 * time.Minute

// kinds are all messages, with the length of their payload.
var kinds = []struct {
	kind board.Kind
	size int
}{
	{board.KindPing, binary.Size(board.Ping{})},
	{board.KindHello, binary.Size(board.Hello{})},
	{board.KindConfigure, binary.Size(board.Configure{})},
	{board.KindVend, binary.Size(board.Vend{})},
	{board.KindQuery, binary.Size(board.Query{})},
	{board.KindStatus, binary.Size(board.Status{})},
	{board.KindLock, binary.Size(board.Lock{})},
	{board.KindLight, binary.Size(board.Light{})},
	{board.KindHold, binary.Size(board.Hold{})},
	{board.KindClear, binary.Size(board.Clear{})},
	{board.KindRestart, binary.Size(board.Restart{})},
	{board.KindPong, binary.Size(board.Pong{})},
	{board.KindHelloIs, binary.Size(board.HelloIs{})},
	{board.KindVendState, binary.Size(board.VendState{})},
	{board.KindStatusIs, binary.Size(board.StatusIs{})},
	{board.KindNak, binary.Size(board.Nak{})},
}

func TestCodecs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), codecLimit)
	defer cancel()
	rnd := rand.New(rand.NewPCG(3, 72))
	var stream []byte
	for range frames {
		stream = append(stream, stretch(rnd)...)
	}
	stream = append(stream, 0)

	want := goFrames(t, stream)
	got := cFrames(t, runCodec(ctx, t, lines(rnd, stream)))
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Fatalf("frame %d: C has none, Go has %s", i, text(want[i]))
		case i >= len(want):
			t.Fatalf("frame %d: Go has none, C has %s", i, text(got[i].frame))
		case text(got[i].frame) != text(want[i]):
			t.Fatalf("frame %d: C has %s, Go has %s", i, text(got[i].frame), text(want[i]))
		}
		compareEncoding(t, want[i], got[i].encoded)
	}
	if good := len(want); good < frames/3 || good > frames {
		t.Errorf("%d good frames of %d stretches: too few or too many to say much", good, frames)
	}
}

// compareEncoding holds what C made of frame f to what Go makes of it and reads in it.
func compareEncoding(t *testing.T, f board.Frame, encoded []byte) {
	t.Helper()
	if len(encoded) == 0 || encoded[len(encoded)-1] != 0 {
		t.Fatalf("%s: C encodes it as %x, without a zero at its end", text(f), encoded)
	}
	back, err := board.Decode(encoded[:len(encoded)-1])
	if err != nil || text(back) != text(f) {
		t.Fatalf("%s: C encodes it as %x, and Go reads that as %s, error %v", text(f), encoded, text(back), err)
	}
	m, err := f.Parse()
	if err != nil {
		return // no message of this version: Go has no encoding to compare
	}
	if want := board.Append(nil, f.Seq, m); !bytes.Equal(encoded, want) {
		t.Fatalf("%#v with seq %d: C encodes it as %x, Go as %x", m, f.Seq, encoded, want)
	}
}

func TestGoldenFrames(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), codecLimit)
	defer cancel()
	good := hexFields(t, "frames-1.txt")
	bad := hexFields(t, "bad-1.txt")
	var stream []byte
	for i := range max(len(good), len(bad)) {
		if i < len(good) {
			stream = append(stream, good[i]...)
		}
		if i < len(bad) {
			stream = append(append(stream, bad[i]...), 0)
		}
	}
	var encoded []byte
	for _, f := range cFrames(t, runCodec(ctx, t, hex.EncodeToString(stream)+"\n")) {
		encoded = append(encoded, f.encoded...)
	}
	if want := bytes.Join(good, nil); !bytes.Equal(encoded, want) {
		t.Errorf("C reads and writes again\n%x, want\n%x", encoded, want)
	}
}

// hexFields returns the first field of each line of a golden file.
func hexFields(t *testing.T, name string) [][]byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../protocol/testdata/board", name))
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		field, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		b, err := hex.DecodeString(field)
		if err != nil {
			t.Fatalf("%s: %q: %v", name, line, err)
		}
		all = append(all, b)
	}
	return all
}

// stretch returns bytes as they might come: mostly one frame, whole or damaged.
func stretch(rnd *rand.Rand) []byte {
	switch rnd.IntN(10) {
	case 0:
		return frame(rnd, byte(rnd.Uint32()), rnd.IntN(board.MaxPayload+1))
	case 1:
		return frame(rnd, byte(rnd.Uint32()), board.MaxPayload-2+rnd.IntN(200)) // most are overlong
	case 2, 3:
		return damaged(rnd, message(rnd))
	case 4:
		return noise(rnd)
	}
	return message(rnd)
}

// message returns a frame of one of the kinds, with its own length.
func message(rnd *rand.Rand) []byte {
	k := kinds[rnd.IntN(len(kinds))]
	return frame(rnd, byte(k.kind), k.size)
}

// frame returns kind with n bytes of payload, one in three of them zero and many of
// them one: what stuffing and flags are about.
func frame(rnd *rand.Rand, kind byte, n int) []byte {
	raw := []byte{kind, byte(rnd.Uint32())}
	for range n {
		b := byte(rnd.Uint32())
		switch rnd.IntN(3) {
		case 0:
			b = 0
		case 1:
			b &= 1
		}
		raw = append(raw, b)
	}
	raw = binary.LittleEndian.AppendUint16(raw, board.CRC16(raw))
	out := []byte{1}
	mark := 0
	for _, b := range raw {
		switch {
		case b == 0:
			mark = len(out)
			out = append(out, 1)
			continue
		case out[mark] == 0xfe: // the longest run the codes of a frame can name
			mark = len(out)
			out = append(out, 1)
		}
		out = append(out, b)
		out[mark]++
	}
	return append(out, 0)
}

// damaged returns f with a flipped bit, or a byte lost, doubled, inserted or zeroed.
func damaged(rnd *rand.Rand, f []byte) []byte {
	for range 1 + rnd.IntN(3) {
		if len(f) == 0 {
			return f
		}
		at := rnd.IntN(len(f))
		switch rnd.IntN(5) {
		case 0:
			f[at] ^= 1 << rnd.IntN(8)
		case 1:
			f = append(f[:at], f[at+1:]...)
		case 2:
			f = append(f[:at+1], f[at:]...)
		case 3:
			f = append(f[:at+1], append([]byte{byte(rnd.Uint32())}, f[at+1:]...)...)
		case 4:
			f[at] = 0
		}
	}
	return f
}

func noise(rnd *rand.Rand) []byte {
	b := make([]byte, rnd.IntN(80))
	for i := range b {
		b[i] = byte(rnd.Uint32())
		if rnd.IntN(12) == 0 {
			b[i] = 0
		}
	}
	return b
}

// lines cuts the stream into lines of hexadecimal of any length, empty ones too.
func lines(rnd *rand.Rand, stream []byte) string {
	var s strings.Builder
	for len(stream) > 0 {
		n := min(rnd.IntN(100), len(stream))
		fmt.Fprintf(&s, "%x\n", stream[:n])
		stream = stream[n:]
	}
	return s.String()
}

// runCodec builds the C program under the sanitizers and returns what it says of in.
func runCodec(ctx context.Context, t *testing.T, in string) string {
	t.Helper()
	readSources(t)
	if out, err := exec.CommandContext(ctx, "make", "-C", "..", "out/codec").CombinedOutput(); err != nil {
		t.Fatalf("make out/codec: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(ctx, "../out/codec")
	cmd.Stdin = strings.NewReader(in)
	var said, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &complaint
	if err := cmd.Run(); err != nil {
		t.Fatalf("codec: %v\n%s", err, &complaint)
	}
	return said.String()
}

// readSources opens what the C program is made of: the test cache notices edits of
// files a test has read, and of no others.
func readSources(t *testing.T) {
	t.Helper()
	names, err := filepath.Glob("../core/*.[ch]")
	if err != nil || len(names) == 0 {
		t.Fatalf("no C sources in ../core: %v", err)
	}
	for _, name := range append(names, "../test/codec.c", "../test/test.mk", "../Makefile") {
		if _, err := os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
}

// heard is one frame that the C codec has accepted, and what it makes of it.
type heard struct {
	frame   board.Frame
	encoded []byte
}

func cFrames(t *testing.T, said string) []heard {
	t.Helper()
	var all []heard
	s := bufio.NewScanner(strings.NewReader(said))
	for s.Scan() {
		if s.Text() == "." {
			continue
		}
		field := strings.Fields(s.Text())
		if len(field) != 4 {
			t.Fatalf("codec says %q, want kind, seq, payload and frame", s.Text())
		}
		var b [4][]byte
		for i := range field {
			var err error
			if b[i], err = hex.DecodeString(strings.Trim(field[i], "-")); err != nil {
				t.Fatalf("codec says %q: %v", s.Text(), err)
			}
		}
		all = append(all, heard{board.Frame{Kind: board.Kind(b[0][0]), Seq: b[1][0], Payload: b[2]}, b[3]})
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func goFrames(t *testing.T, stream []byte) []board.Frame {
	t.Helper()
	var all []board.Frame
	r := board.NewReader(bytes.NewReader(stream))
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
}

func text(f board.Frame) string {
	return fmt.Sprintf("kind %02x seq %02x payload %x", uint8(f.Kind), f.Seq, f.Payload)
}
