package deploy

import (
	"bufio"
	"context"
	"fmt"
	"image/png"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// The session shows the machine's page on the whole screen, tells systemd that the page
// is alive, and no longer does when its process has died.
func TestScreen(t *testing.T) {
	t.Parallel()
	// The session's user reaches no folder that belongs to the test alone.
	short, err := os.MkdirTemp("/tmp", "yaoju-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { late(t, "rm", "-rf", short) })
	if err := os.Chmod(short, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, []string{"CGO_ENABLED=0"}, "go", "build", "-o", short+"/kioskd", "../cmd/kioskd")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: short + "/notify", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(short+"/notify", 0o777); err != nil {
		t.Fatal(err)
	}
	tree, err := filepath.Abs("kiosk/root")
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	all := asRoot("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "testdata/screen.sh", tree, short+"/kioskd", short)
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.Stderr = t.Output()
	orders, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			for _, name := range []string{"session.log", "kioskd.log"} {
				b, err := os.ReadFile(filepath.Join(short, name))
				t.Logf("%s: %v\n%s", name, err, b)
			}
		}
	}()
	lines := bufio.NewScanner(answers)
	next := func(order string) string {
		t.Helper()
		if _, err := io.WriteString(orders, order+"\n"); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() {
			t.Fatalf("the session's script ended: %v", lines.Err())
		}
		return lines.Text()
	}

	// Systemd hears all the time: who tells it something waits until it has been read.
	told := make(chan string, 64)
	var hearing sync.WaitGroup
	hearing.Go(func() {
		for buf := make([]byte, 4096); ; {
			n, err := notify.Read(buf)
			if err != nil {
				return // closed at the end
			}
			select {
			case told <- string(buf[:n]):
			default: // nobody waits for it
			}
		}
	})
	defer func() { notify.Close(); hearing.Wait() }()
	hears := func(want string) {
		t.Helper()
		limit := time.After(2 * time.Minute) // Chromium takes its time on a busy machine
		for {
			select {
			case got := <-told:
				if strings.Contains(got, want) {
					return
				}
			case <-limit:
				t.Fatalf("%s was not told", want)
			}
		}
	}
	hears("READY=1")
	hears("WATCHDOG=1")
	if got := next("ready"); got != "pictured" {
		t.Fatal(got)
	}
	if err := painted(filepath.Join(short, "picture.png")); err != nil {
		t.Error(err)
	}
	if got, want := next("pictured"), "after its page was killed: 404, browser runs"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// painted says whether a picture of the screen shows the page on all of it: its light
// ground in every corner, and something on it.
func painted(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := png.Decode(f)
	if err != nil {
		return err
	}
	b := m.Bounds()
	if b.Dx() >= b.Dy() {
		return fmt.Errorf("the picture is %d by %d: it was to be turned", b.Dx(), b.Dy())
	}
	light := func(x, y int) bool {
		r, g, b, _ := m.At(x, y).RGBA()
		return min(r, g, b) > 0xC000
	}
	for _, x := range []int{b.Min.X + 2, b.Max.X - 3} {
		for _, y := range []int{b.Min.Y + 2, b.Max.Y - 3} {
			if !light(x, y) {
				return fmt.Errorf("the page does not reach %d,%d of %v", x, y, b)
			}
		}
	}
	dark := 0
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			if !light(x, y) {
				dark++
			}
		}
	}
	if share := dark * 100 / (b.Dx() * b.Dy()); share < 2 || share > 60 {
		return fmt.Errorf("%d %% of the picture is dark: that is no page of ours", share)
	}
	return nil
}
