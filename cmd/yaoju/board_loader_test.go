package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/firmware/bootsim"
	"yaoju/protocol/board"
)

// agrees is firmware that answers everything with PONG, RESTART too.
type agrees struct{}

func (agrees) Serve(_ context.Context, line io.ReadWriteCloser) error {
	for r := board.NewReader(line); ; {
		f, err := r.Next()
		if err == nil {
			_, err = line.Write(board.Append(nil, f.Seq, board.Pong{}))
		}
		if err != nil {
			return err
		}
	}
}

// pages is a program of n pages, none of which is in one of another kind.
func pages(kind byte, n int) []byte {
	image := make([]byte, n*pageSize)
	for i := range image {
		image[i] = byte(i/pageSize)<<2 | kind
	}
	return image
}

// chipOn puts a chip that runs an old program on a line in memory. Written says what
// becomes of its power at each page.
func chipOn(t *testing.T, written func(c *bootsim.Chip) bootsim.Power) (*bootsim.Chip, *line) {
	t.Helper()
	old := pages(1, manyPages)
	var c *bootsim.Chip
	c = bootsim.New(bootsim.Options{App: agrees{}, Image: old, Page: func(int, []byte) bootsim.Power { return written(c) },
		Whole: func(flash []byte) bool {
			return bytes.HasPrefix(flash, old) || bytes.HasPrefix(flash, pages(2, manyPages))
		}})
	host, device := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Serve(t.Context(), device) // its error says that the line ended
	}()
	l := newLine("a line", host)
	t.Cleanup(func() {
		l.close()
		<-ended
		if w := c.Wrong(); len(w) > 0 {
			t.Errorf("the programmer did what it must not: %v", w)
		}
	})
	return c, l
}

const manyPages = 20

// held brings a chip into its bootloader, if it is not there.
func held(t *testing.T, c *bootsim.Chip, l *line) (*loader, error) {
	if c.Runs() {
		_, err := l.ask(t.Context(), board.Restart{Key: board.RestartKey}, restartLimit)
		if err != nil && !errors.Is(err, errSilent) { // its answer may be lost in what was heard before
			return nil, err
		}
	}
	b := &loader{l: l}
	return b, b.hold(t.Context(), 2*time.Second)
}

// flashOnce writes the new program.
func flashOnce(t *testing.T, c *bootsim.Chip, l *line) error {
	b, err := held(t, c, l)
	if err != nil {
		return err
	}
	err = b.writeImage(t.Context(), pages(2, manyPages))
	synctest.Wait() // the chip starts the program when it has said that it will
	return err
}

// Power may fail at any page that is written, at any moment of it, and come back at
// once or later: unless it was the first page, and that was half written, the board
// can be flashed again by the line alone.
func TestLoaderPowerFails(t *testing.T) {
	t.Parallel()
	const writes = manyPages + 1
	for n := range writes {
		for _, power := range []bootsim.Power{bootsim.CutBefore, bootsim.CutErased, bootsim.CutTorn, bootsim.CutAfter} {
			for _, atOnce := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					var count atomic.Int64
					c, l := chipOn(t, func(c *bootsim.Chip) bootsim.Power {
						if int(count.Add(1)) != n+1 {
							return bootsim.Steady
						}
						if atOnce {
							c.Reset()
						}
						return power
					})
					name := fmt.Sprintf("write %d of %d, cut %d, back at once %v", n, writes, power, atOnce)
					if err := flashOnce(t, c, l); !errors.Is(err, errNoAnswer) {
						t.Fatalf("%s: error %v, want a missing answer", name, err)
					}
					if int(count.Load()) != n+1 {
						t.Errorf("%s: it went on writing", name)
					}
					if !atOnce {
						c.Reset()
					}
					time.Sleep(time.Minute)

					lost := (n == 0 || n == writes-1) && (power == bootsim.CutErased || power == bootsim.CutTorn)
					runs := n == 0 && power == bootsim.CutBefore || n == writes-1 && power == bootsim.CutAfter
					if c.Runs() != runs {
						t.Errorf("%s: it runs a program: %v", name, c.Runs())
					}
					err := flashOnce(t, c, l)
					if lost && errors.Is(err, errNoLoader) {
						return
					}
					if err != nil || !c.Runs() || !bytes.HasPrefix(c.Flash(), pages(2, manyPages)) {
						t.Errorf("%s: flashed again: %v; it runs: %v", name, err, c.Runs())
					}
				})
			}
		}
	}
}

// A programmer that was killed leaves a bootloader that goes on erasing where it was.
// It is noticed, and where the first page allows it begun anew.
func TestLoaderInMidWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := chipOn(t, func(*bootsim.Chip) bootsim.Power { return bootsim.Steady })
		killed, err := held(t, c, l)
		if err := errors.Join(err, killed.write(guard(pages(3, 7)))); err != nil {
			t.Fatal(err)
		}
		if err := flashOnce(t, c, l); err != nil || !c.Runs() {
			t.Fatalf("after a programmer that was killed: %v; it runs: %v", err, c.Runs())
		}

		// This one was killed when the first page was written, and all was good.
		killed, err = held(t, c, l)
		if err := errors.Join(err, killed.write(pages(2, 1))); err != nil {
			t.Fatal(err)
		}
		err = flashOnce(t, c, l)
		if _, untouched := errors.AsType[untouchedError](err); !untouched || !strings.Contains(err.Error(), "wait ten seconds") {
			t.Errorf("in mid-work it said %v", err)
		}
		time.Sleep(10 * time.Second)
		if err := flashOnce(t, c, l); err != nil || !c.Runs() {
			t.Errorf("ten seconds later: %v; it runs: %v", err, c.Runs())
		}
	})
}

// The first page leads into the bootloader, by the word of the disassembler.
func TestGuard(t *testing.T) {
	t.Parallel()
	g := guard(pages(2, 2))
	if want := append(bytes.Repeat([]byte{0xff}, pageSize-4), pages(2, 2)[pageSize:]...); !bytes.Equal(g[4:], want) {
		t.Errorf("behind the jump stands % x", g[4:])
	}
	path := filepath.Join(t.TempDir(), "guard.bin")
	if err := os.WriteFile(path, g[:4], 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "avr-objdump", "-D", "-b", "binary", "-m", "avr:6", path).CombinedOutput()
	if err != nil {
		t.Fatalf("avr-objdump: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), fmt.Sprintf("jmp\t0x%x", loaderAt)) {
		t.Errorf("the guard is not a jump to 0x%x:\n%s", loaderAt, out)
	}
}

func TestFindAnswer(t *testing.T) {
	t.Parallel()
	good := "\x1b\x05\x00\x03\x0e\x13\x00\xaa"
	good += string([]byte{xor([]byte(good))})
	for _, c := range []struct{ name, heard, want string }{
		{"alone", good, "\x13\x00\xaa"},
		{"behind noise", "\x1b\x05\xff\xff\x1b" + good, "\x13\x00\xaa"},
		{"behind half a one", good[:6] + good, "\x13\x00\xaa"},
		{"not whole", good[:len(good)-1], ""},
		{"bent", strings.Replace(good, "\xaa", "\xab", 1), ""},
		{"another number", "\x1b\x06" + good[2:], ""},
		{"too short for a status", "\x1b\x05\x00\x01\x0e\x13\x12", ""},
	} {
		if got := findAnswer([]byte(c.heard), 5, 0x13); string(got) != c.want {
			t.Errorf("%s: % x, want % x", c.name, got, c.want)
		}
	}
}

// Whatever is heard, an answer has a command and a status.
func FuzzFindAnswer(f *testing.F) {
	f.Add([]byte("\x1b\x01\x00\x0b\x0e\x01\x00\x08AVRISP_2\x02"))
	f.Add([]byte("\x1b\x01\x1b\x01\x00\x02\x0e\x01\x00\x17"))
	f.Add([]byte("\x1b\x01\xff\xff\x0e\x01\x00"))
	f.Fuzz(func(t *testing.T, heard []byte) {
		if a := findAnswer(heard, 1, stkSignOn); a != nil && (len(a) < 2 || a[0] != stkSignOn || !bytes.Contains(heard, a)) {
			t.Errorf("answer % x in % x", a, heard)
		}
	})
}
