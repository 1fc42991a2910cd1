package port_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/port"
)

// logged collects messages and errors, one a line, without times.
func logged(buf *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(buf, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func TestKeepDialsAgainWithGrowingPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var buf bytes.Buffer
		var at []time.Time
		dial := func(context.Context) (io.ReadWriteCloser, error) {
			at = append(at, time.Now())
			return nil, errors.New("not there")
		}
		if err := port.Keep(ctx, dial, nil, logged(&buf)); err != nil {
			t.Fatal(err)
		}
		want := 250 * time.Millisecond
		for i := 1; i < len(at); i++ {
			if got := at[i].Sub(at[i-1]); got > want || got < want*3/4 {
				t.Errorf("pause %d: %v, want %v less up to a quarter", i, got, want)
			}
			want = min(2*want, 5*time.Second)
		}
		if got, want := buf.String(), "level=WARN msg=\"line down\" err=\"not there\"\n"; got != want {
			t.Errorf("log:\n%swant:\n%s", got, want)
		}
	})
}

func TestKeepLogsChangesOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var buf bytes.Buffer
		tries := 0
		dial := func(context.Context) (io.ReadWriteCloser, error) {
			tries++
			if tries < 4 {
				return nil, errors.New("not there")
			}
			near, _ := net.Pipe()
			return near, nil
		}
		serve := func(ctx context.Context, line io.ReadWriteCloser) error {
			switch {
			case tries < 9: // opens but dies at once, again and again
				return errors.New("no answer")
			case tries == 9:
				time.Sleep(time.Hour)
				return errors.New("no answer")
			case tries == 10:
				time.Sleep(time.Hour)
				return nil // done with this line, nothing wrong
			}
			cancel()
			_, err := line.Read(make([]byte, 1)) // ends because Keep closes the line
			return err
		}
		if err := port.Keep(ctx, dial, serve, logged(&buf)); err != nil {
			t.Fatal(err)
		}
		want := strings.Join([]string{
			`level=WARN msg="line down" err="not there"`,
			`level=WARN msg="line down" err="no answer"`,
			`level=INFO msg="line up"`,
			`level=WARN msg="line down" err="no answer"`,
			`level=INFO msg="line up"`,
			"",
		}, "\n")
		if got := buf.String(); got != want {
			t.Errorf("log:\n%swant:\n%s", got, want)
		}
	})
}

func TestKeepClosesTheLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var far net.Conn
		dial := func(context.Context) (near io.ReadWriteCloser, err error) {
			near, far = net.Pipe()
			return near, nil
		}
		serve := func(context.Context, io.ReadWriteCloser) error {
			// The next line is dialled only after this one was closed.
			if far != nil {
				time.AfterFunc(time.Second, cancel)
			}
			return errors.New("enough")
		}
		first := make(chan struct{})
		go func() {
			defer close(first)
			if err := port.Keep(ctx, dial, serve, slog.New(slog.DiscardHandler)); err != nil {
				t.Error(err)
			}
		}()
		<-first
		if _, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the last line is still open: %v", err)
		}
	})
}
