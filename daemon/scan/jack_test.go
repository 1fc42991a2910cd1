package scan_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/scan"
)

// socket is a headphone socket made of a pipe.
type socket struct {
	io.ReadCloser
	io.Writer
	in bool
}

func (s socket) Plugged() (bool, error) { return s.in, nil }

func event(w io.Writer, kind, code uint16, value uint32) error {
	var e [24]byte
	binary.NativeEndian.PutUint16(e[16:], kind)
	binary.NativeEndian.PutUint16(e[18:], code)
	binary.NativeEndian.PutUint32(e[20:], value)
	_, err := w.Write(e[:])
	return err
}

// A plug is seen when it goes in and out, where it stood at the start, and after
// events were lost; a socket that is gone has none.
func TestJack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var kernel io.WriteCloser
		there, in := true, true
		j := scan.NewJack(func(context.Context) (scan.JackLine, error) {
			mu.Lock()
			defer mu.Unlock()
			if !there {
				return nil, errors.New("no such device")
			}
			r, w := io.Pipe()
			kernel = w
			return socket{r, io.Discard, in}, nil
		}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := j.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		defer func() { cancel(); running.Wait() }()
		is := func(what string, want bool) {
			t.Helper()
			synctest.Wait()
			if got, _ := j.Watch(); got != want {
				t.Errorf("%s: plugged in: %t, want %t", what, got, want)
			}
		}
		tell := func(kind, code uint16, value uint32) {
			t.Helper()
			mu.Lock()
			line := kernel
			mu.Unlock()
			if err := event(line, kind, code, value); err != nil {
				t.Fatal(err)
			}
		}
		is("in at the start", true)
		tell(5, 2, 0)
		is("pulled", false)
		_, stale := j.Watch()
		tell(5, 4, 1)   // the microphone's
		tell(1, 164, 1) // a key on the cable
		tell(0, 0, 0)   // end of a report
		is("something else", false)
		tell(5, 2, 1)
		is("put in", true)
		select {
		case <-stale:
		default:
			t.Error("nobody was told")
		}
		tell(5, 2, 0)
		tell(0, 3, 0) // events were lost: it says now what it said at the start
		is("after lost events", true)
		mu.Lock()
		there = false
		kernel.Close()
		mu.Unlock()
		is("the card is gone", false)
		mu.Lock()
		there, in = true, false
		mu.Unlock()
		time.Sleep(10 * time.Second)
		tell(5, 2, 1)
		is("it is back", true)
	})
}

func TestOpenJackRefuses(t *testing.T) {
	for _, path := range []string{"/dev/null", "/dev/input/no-such", t.TempDir()} {
		if line, err := scan.OpenJack(path); err == nil {
			line.Close()
			t.Errorf("%s is taken for a headphone socket", path)
		}
	}
}
