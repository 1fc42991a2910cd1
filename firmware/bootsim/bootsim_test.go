package bootsim_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/port/pty"
	"yaoju/firmware/bootsim"
	"yaoju/protocol/board"
)

// echo is a firmware that says back what it hears. The chip passes on only what is a
// frame of the motor board's.
type echo struct{}

func (echo) Serve(_ context.Context, line io.ReadWriteCloser) error {
	_, err := io.Copy(line, line)
	return err
}

// served puts a chip on a line of its own and returns the path of the line.
func served(t *testing.T, c *bootsim.Chip) string {
	t.Helper()
	line, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- c.Serve(ctx, line) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return line.Path()
}

// ihex writes data at address 0 of an Intel HEX file.
func ihex(t *testing.T, data []byte) string {
	t.Helper()
	var b strings.Builder
	record := func(addr int, kind byte, p []byte) {
		r := append([]byte{byte(len(p)), byte(addr >> 8), byte(addr), kind}, p...)
		sum := byte(0)
		for _, x := range r {
			sum -= x
		}
		fmt.Fprintf(&b, ":%s\n", strings.ToUpper(hex.EncodeToString(append(r, sum))))
	}
	for at := 0; at < len(data); at += 16 {
		if at%0x10000 == 0 {
			record(0, 4, []byte{0, byte(at >> 16)})
		}
		record(at&0xffff, 0, data[at:min(at+16, len(data))])
	}
	record(0, 1, nil)
	path := filepath.Join(t.TempDir(), "image.hex")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func avrdude(t *testing.T, line string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "avrdude", append([]string{"-p", "m2560", "-c", "wiring", "-P", line, "-b", "115200", "-D"}, args...)...).CombinedOutput()
	return string(out), err
}

// The real avrdude writes an image that crosses the 64 and 128 KiB lines, reads it
// back, and finds every byte where it belongs.
func TestAvrdude(t *testing.T) {
	t.Parallel()
	c := bootsim.New(bootsim.Options{App: echo{}})
	image := someImage(140 << 10)
	out, err := avrdude(t, served(t, c), "-U", "flash:w:"+ihex(t, image)+":i")
	if err != nil {
		t.Fatalf("avrdude: %v\n%s", err, out)
	}
	if got := c.Flash()[:len(image)]; !bytes.Equal(got, image) {
		t.Error("the flash has not what was written")
	}
	if w := c.Wrong(); len(w) > 0 {
		t.Errorf("avrdude did: %v", w)
	}
	if !c.Runs() {
		t.Error("what was written does not run")
	}
}

// guarded is an image whose first page leads into the bootloader.
func guarded(image []byte) []byte {
	g := bytes.Clone(image)
	copy(g, bytes.Repeat([]byte{0xff}, bootsim.PageSize))
	copy(g, "\x0d\x94\x00\xf0")
	return g
}

// The first page can be written last by a second run of avrdude, which writes and
// verifies that page alone. It cannot in the same run: the bootloader goes on
// erasing where it was, so the first page is written over what stood in it, and what
// is left of that starts nothing any more.
func TestAvrdudeFirstPageLast(t *testing.T) {
	t.Parallel()
	image := someImage(4000)
	step1, step2 := "flash:w:"+ihex(t, guarded(image))+":i", "flash:w:"+ihex(t, image[:bootsim.PageSize])+":i"
	var pages []int
	note := func(addr int, _ []byte) bootsim.Power {
		pages = append(pages, addr/bootsim.PageSize)
		return bootsim.Steady
	}
	whole := func(flash []byte) bool { return bytes.Equal(flash[:len(image)], image) }

	c := bootsim.New(bootsim.Options{App: echo{}, Page: note, Whole: whole})
	line := served(t, c)
	for _, step := range []string{step1, step2} {
		if c.Runs() {
			t.Error("the program runs before its first page is written")
		}
		if out, err := avrdude(t, line, "-U", step); err != nil || !strings.Contains(out, "verified") {
			t.Fatalf("avrdude: %v\n%s", err, out)
		}
	}
	if want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0}; !slices.Equal(pages, want) {
		t.Errorf("pages were written in the order %v, want %v", pages, want)
	}
	if !c.Runs() {
		t.Error("what was written does not run")
	}

	c = bootsim.New(bootsim.Options{App: echo{}, Page: note, Whole: whole})
	out, err := avrdude(t, served(t, c), "-U", step1, "-U", step2)
	if err == nil || !strings.Contains(out, "verification mismatch") {
		t.Fatalf("avrdude in one run: %v\n%s", err, out)
	}
	c.Reset()
	time.Sleep(100 * time.Millisecond) // the reset is taken by the goroutine that serves
	if got := c.Flash()[:4]; !bytes.Equal(got, []byte{0x0d & image[0], 0x94 & image[1], 0, 0xf0 & image[3]}) || c.Runs() {
		t.Errorf("after one run the flash begins with % x, and it runs: %v", got, c.Runs())
	}
}

// A programmer that goes on when an answer was lost does harm: the board had
// restarted, and its bootloader erases from the first page on again. avrdude does.
func TestAvrdudeGoesOn(t *testing.T) {
	t.Parallel()
	image := someImage(4000)
	var c *bootsim.Chip
	lost := false
	c = bootsim.New(bootsim.Options{App: echo{}, Page: func(addr int, _ []byte) bootsim.Power {
		if lost || addr != 5*bootsim.PageSize {
			return bootsim.Steady
		}
		lost = true
		c.Reset() // the power is back at once
		return bootsim.CutAfter
	}})
	out, err := avrdude(t, served(t, c), "-U", "flash:w:"+ihex(t, guarded(image))+":i")
	if err == nil {
		t.Fatalf("avrdude did not notice:\n%s", out)
	}
	if got := c.Flash()[:4]; !bytes.Equal(got, []byte{0xff, 0xff, 0xff, 0xff}) {
		t.Errorf("the flash begins with % x: avrdude and the bootloader are better than they were", got)
	}
}

// someImage is a program of n bytes.
func someImage(n int) []byte {
	image := make([]byte, n)
	for i := range image {
		image[i] = byte(i*7 + i>>9)
	}
	return image
}

// plugged puts a chip on a line and returns the programmer's end of it.
func plugged(t *testing.T, c *bootsim.Chip) net.Conn {
	t.Helper()
	programmer, device := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Serve(t.Context(), device) // its error says that the line ended
	}()
	t.Cleanup(func() {
		programmer.Close()
		<-ended
	})
	return programmer
}

// says sends bytes and returns what comes back within a while of virtual time.
func says(t *testing.T, line net.Conn, sent string, within time.Duration) string {
	t.Helper()
	if _, err := io.WriteString(line, sent); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for deadline := time.Now().Add(within); ; {
		if err := line.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 512)
		n, err := line.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			return string(got)
		}
	}
}

func ping() string { return string(board.Append(nil, 1, board.Ping{})) }

const (
	signOn = "\x1b\x01\x00\x01\x0e\x01\x14"
	leave  = "\x1b\x02\x00\x01\x0e\x11\x07"
)

// RESTART brings the bootloader; unheard it gives up after 0.83 s, and once it has
// heard anything after 5 s of silence. Leaving it starts the firmware at once.
func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := bootsim.New(bootsim.Options{App: agrees{}, Image: []byte{1, 2, 3}})
		line := plugged(t, c)
		const tick = 10 * time.Millisecond
		restart := func() {
			t.Helper()
			if got := says(t, line, "\x00"+string(board.Append(nil, 7, board.Restart{Key: board.RestartKey})), tick); got != string(board.Append(nil, 7, board.Pong{})) {
				t.Fatalf("asked to restart the firmware said %q", got)
			}
		}
		restart()
		time.Sleep(700 * time.Millisecond)
		if got := says(t, line, signOn, tick); !strings.Contains(got, "AVRISP_2") {
			t.Fatalf("after 0.7 s the bootloader said %q", got)
		}
		time.Sleep(4900 * time.Millisecond)
		if c.Runs() {
			t.Fatal("after 4.9 s of silence the firmware runs")
		}
		if got := says(t, line, ping(), tick); got != "" {
			t.Fatalf("after 4.9 s of silence it said %q", got)
		}
		time.Sleep(5100 * time.Millisecond)
		if !c.Runs() {
			t.Fatal("after 5.1 s of silence the firmware does not run")
		}
		restart()
		time.Sleep(900 * time.Millisecond)
		if got := says(t, line, signOn, tick); got != "" || !c.Runs() {
			t.Fatalf("after 0.9 s it said %q to a programmer", got)
		}
		restart()
		if got := says(t, line, leave, tick); !strings.HasPrefix(got, "\x1b\x02") || !c.Runs() {
			t.Fatalf("told to leave it said %q", got)
		}
	})
}

// agrees is a firmware that answers every frame with PONG.
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

// A reset begins at address 0, whatever stands there.
func TestReset(t *testing.T) {
	blank := bytes.Repeat([]byte{0xff}, 2*bootsim.PageSize)
	for _, c := range []struct {
		name   string
		image  []byte
		no     bool // bootloader
		loader bool
		mixed  bool
		runs   bool
	}{
		{name: "a program", image: []byte{1, 2, 3}, runs: true},
		{name: "a program without a bootloader", image: []byte{1, 2, 3}, no: true, runs: true},
		{name: "pages of two programs", image: []byte{1, 2, 3}, mixed: true},
		{name: "a jump to the bootloader", image: guarded(someImage(1000)), loader: true},
		{name: "a jump to where no bootloader is", image: guarded(someImage(1000)), no: true},
		{name: "blank", loader: true},
		{name: "blank without a bootloader", no: true},
		{name: "a first page that was erased", image: append(blank, 1, 2, 3)},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				chip := bootsim.New(bootsim.Options{App: echo{}, Image: c.image, NoLoader: c.no, Whole: func([]byte) bool { return !c.mixed }})
				line := plugged(t, chip)
				for _, when := range []string{"at first", "after a minute", "after a reset"} {
					got := says(t, line, signOn+"\x00", 10*time.Millisecond)
					if loader := strings.Contains(got, "AVRISP_2"); loader != c.loader || chip.Runs() != c.runs {
						t.Errorf("%s: it said %q, and runs: %v", when, got, chip.Runs())
					}
					if when == "at first" {
						time.Sleep(time.Minute)
						continue
					}
					chip.Reset()
					synctest.Wait()
				}
			})
		})
	}
}

// Power that is lost in mid-write leaves what was written so far, and nothing
// answers until it is back.
func TestCut(t *testing.T) {
	old, page := bytes.Repeat([]byte{0x0f}, bootsim.PageSize), bytes.Repeat([]byte{0x35}, bootsim.PageSize)
	erased := bytes.Repeat([]byte{0xff}, bootsim.PageSize)
	torn := append(page[:bootsim.PageSize/2:bootsim.PageSize/2], erased[:bootsim.PageSize/2]...)
	for power, want := range map[bootsim.Power][]byte{bootsim.CutBefore: old, bootsim.CutErased: erased, bootsim.CutTorn: torn, bootsim.CutAfter: page, bootsim.Steady: page} {
		synctest.Test(t, func(t *testing.T) {
			const tick = 10 * time.Millisecond
			image := append(guarded(someImage(bootsim.PageSize)), old...)
			first := true
			c := bootsim.New(bootsim.Options{App: echo{}, Image: image, Page: func(int, []byte) bootsim.Power {
				if first {
					first = false
					return bootsim.Steady
				}
				return power
			}})
			line := plugged(t, c)
			says(t, line, program(image[:bootsim.PageSize]), tick)
			got := says(t, line, program(page), tick)
			if (got != "") != (power == bootsim.Steady) {
				t.Errorf("cut %d: it answered % x", power, got)
			}
			if got := c.Flash()[bootsim.PageSize : 2*bootsim.PageSize]; !bytes.Equal(got, want) {
				t.Errorf("cut %d: the page holds % x", power, got)
			}
			if power == bootsim.Steady {
				return
			}
			time.Sleep(time.Minute)
			if got := says(t, line, signOn, tick); got != "" {
				t.Errorf("cut %d: without power it said %q", power, got)
			}
			c.Reset()
			synctest.Wait()
			if got := says(t, line, signOn, tick); !strings.Contains(got, "AVRISP_2") {
				t.Errorf("cut %d: when the power was back it said %q", power, got)
			}
		})
	}
}

// program is the message that writes a whole page where the last one ended.
func program(page []byte) string {
	m := "\x1b\x03\x01\x0a\x0e\x13\x01\x00\xc1\x0a\x40\x4c\x20\xff\xff" + string(page)
	return m + string(sum(m))
}

// sum is the byte that ends a message.
func sum(msg string) []byte {
	x := byte(0)
	for i := range len(msg) {
		x ^= msg[i]
	}
	return []byte{x}
}

// What a programmer must not do is refused and noted.
func TestWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tick = 10 * time.Millisecond
		c := bootsim.New(bootsim.Options{App: echo{}})
		line := plugged(t, c)
		for _, m := range []string{
			"\x1b\x01\x00\x01\x0e\x12", // erase the chip
			"\x1b\x02\x00\x0b\x0e\x15\x00\x01\x00\x00\x00\x00\x00\x00\x00\xaa",                                                 // write EEPROM
			"\x1b\x03\x00\x05\x0e\x06\x80\x01\xf0\x00", "\x1b\x04\x00\x0c\x0e\x13\x00\x02\x00\x00\x00\x00\x00\x00\x00\xaa\xbb", // into the bootloader
			"\x1b\x05\x00\x05\x0e\x06\x00\x00\x00\x01", "\x1b\x06\x00\x0c\x0e\x13\x00\x02\x00\x00\x00\x00\x00\x00\x00\xaa\xbb", // beside a page
		} {
			got := says(t, line, m+string(sum(m)), tick)
			if m[5] != 0x06 && (len(got) < 7 || got[6] != 0xc0) {
				t.Errorf("command %#x was answered % x", m[5], got)
			}
		}
		w := c.Wrong()
		for i, want := range []string{"the chip is erased", "EEPROM is written", "the bootloader is written over at 0x3e000", "at 0x2, which is no page"} {
			if i >= len(w) || !strings.Contains(w[i], want) {
				t.Errorf("complaints %q, want one with %q at %d", w, want, i)
			}
		}
	})
}
