package scan

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"periph.io/x/conn/v3/gpio"
)

// What is no keyboard is refused with a word on what it is.
func TestOpenKeyboardErrors(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "event0")
	if err := os.WriteFile(file, make([]byte, 10*eventSize), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                "not an input device",
		os.DevNull:          "not an input device",
		t.TempDir():         "not an input device",
		file + "-not-there": "is the scanner plugged in?",
	} {
		k, err := OpenKeyboard(path)
		if k != nil || err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func TestLinesErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		gpio   GPIO
		d0, d1 int
		want   string
	}{
		{GPIO{}, 17, 18, "no such chip"},
		{GPIO{}, 17, 17, "one line cannot be both"},
		{GPIO{err: errors.New("none here")}, 17, 18, "none here"},
	} {
		if l, err := c.gpio.Lines("gpiochip0", c.d0, c.d1); l != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d, %d: %v, want %q", c.d0, c.d1, err, c.want)
		}
	}
}

// kernel is a line set as the library has it: a Close that meets a wait, and
// anything after a Close, is a descriptor that may be another's.
type kernel struct {
	t       *testing.T
	waiting atomic.Bool
	closed  atomic.Bool
	number  int
	err     error
}

func (k *kernel) WaitForEdge(timeout time.Duration) (int, gpio.Edge, error) {
	if k.closed.Load() || timeout <= 0 {
		k.t.Errorf("wait of %v, closed %v", timeout, k.closed.Load())
	}
	k.waiting.Store(true)
	time.Sleep(timeout)
	k.waiting.Store(false)
	return k.number, gpio.FallingEdge, k.err
}

func (k *kernel) Close() error {
	if k.waiting.Load() || k.closed.Swap(true) {
		k.t.Error("closed while waiting, or twice")
	}
	return nil
}

func TestLineSetIsClosedByWhoComesLast(t *testing.T) {
	t.Parallel()
	for range 50 {
		k := &kernel{t: t}
		l := &lineSet{set: k, d0: 17}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				if _, _, err := l.Wait(100 * time.Microsecond); err != nil {
					if !errors.Is(err, fs.ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
		for range 2 {
			wg.Go(func() {
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if !k.closed.Load() {
			t.Fatal("never closed")
		}
	}
}

func TestLineSetNamesItsLines(t *testing.T) {
	t.Parallel()
	for number, want := range map[int]int{17: 0, 18: 1} {
		l := &lineSet{set: &kernel{t: t, number: number}, d0: 17}
		if n, edge, err := l.Wait(time.Millisecond); n != want || edge != gpio.FallingEdge || err != nil {
			t.Errorf("line %d: %d, %v, %v; want %d", number, n, edge, err, want)
		}
	}
	l := &lineSet{set: &kernel{t: t, err: os.ErrDeadlineExceeded}, d0: 17}
	if _, edge, err := l.Wait(time.Millisecond); edge != gpio.NoEdge || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, %v, want no edge and a deadline", edge, err)
	}
}
