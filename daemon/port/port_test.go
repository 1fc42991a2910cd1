package port_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"yaoju/daemon/port"
	"yaoju/daemon/port/pty"
)

// soon is far longer than any of these waits should take on a loaded machine.
const soon = 10 * time.Second

func within(t *testing.T, what string, c <-chan error) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(soon):
		t.Fatalf("%s: still waiting after %v", what, soon)
		return nil
	}
}

func pair(t *testing.T) *pty.Pair {
	t.Helper()
	p, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func open(t *testing.T, path string) *port.Port {
	t.Helper()
	p, err := port.Open(path, 115200)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestBytesPassUnchanged(t *testing.T) {
	t.Parallel()
	dev := pair(t)
	p := open(t, dev.Path())
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	got := make([]byte, len(all))

	if n, err := p.Write(all); n != len(all) || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	if _, err := io.ReadFull(dev, got); err != nil || !bytes.Equal(got, all) {
		t.Fatalf("device got % x, %v", got, err)
	}
	clear(got)
	if _, err := dev.Write(all); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(p, got); err != nil || !bytes.Equal(got, all) {
		t.Fatalf("port got % x, %v", got, err)
	}
	if n, err := p.Read(nil); n != 0 || err != nil {
		t.Fatalf("read into nothing: %d, %v", n, err)
	}
}

func TestOpenThrowsAwayWhatWasSaidBefore(t *testing.T) {
	t.Parallel()
	dev := pair(t)
	if _, err := dev.Write([]byte("an answer to somebody else")); err != nil {
		t.Fatal(err)
	}
	p := open(t, dev.Path())
	if _, err := dev.Write([]byte("now")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3)
	if _, err := io.ReadFull(p, got); err != nil || string(got) != "now" {
		t.Fatalf("read %q, %v; want now", got, err)
	}
}

func TestCloseEndsARead(t *testing.T) {
	t.Parallel()
	p := open(t, pair(t).Path())
	ended := make(chan error, 1)
	go func() {
		_, err := p.Read(make([]byte, 1))
		ended <- err
	}()
	time.Sleep(20 * time.Millisecond) // most likely waiting by now; right either way
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := within(t, "read", ended); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("read: %v, want closed", err)
	}
	if err := p.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
}

func TestCloseEndsAWrite(t *testing.T) {
	t.Parallel()
	p := open(t, pair(t).Path())
	ended := make(chan error, 1)
	go func() {
		_, err := p.Write(make([]byte, 1<<20)) // nobody reads: the line fills up
		ended <- err
	}()
	time.Sleep(20 * time.Millisecond) // most likely waiting by now; right either way
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := within(t, "write", ended); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("write: %v, want closed", err)
	}
}

func TestAStuckLineIsAnError(t *testing.T) {
	t.Parallel()
	dev := pair(t)
	p, err := port.Open(dev.Path(), 4000000) // so that 64 KiB need only 0.2 s on the wire
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := p.Write(make([]byte, 1<<16))
		ended <- err
	}()
	if err := within(t, "write", ended); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("write: %v, want a deadline", err)
	}
}

// A descriptor that is free again belongs to whoever opens next: a ledger, for one.
func TestWriteAfterCloseReachesNobody(t *testing.T) {
	t.Parallel()
	p := open(t, pair(t).Path())
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var files []*os.File
	for range 16 {
		f, err := os.CreateTemp(dir, "ledger")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	if _, err := p.Write([]byte("stray")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("write: %v, want closed", err)
	}
	for _, f := range files {
		if st, err := f.Stat(); err != nil || st.Size() != 0 {
			t.Errorf("%s was written to (%v)", f.Name(), err)
		}
	}
}

func TestUnpluggedIsAnError(t *testing.T) {
	t.Parallel()
	dev := pair(t)
	p := open(t, dev.Path())
	ended := make(chan error, 1)
	go func() {
		_, err := p.Read(make([]byte, 1))
		ended <- err
	}()
	time.Sleep(20 * time.Millisecond) // most likely waiting by now; right either way
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	if err := within(t, "read", ended); err == nil || !strings.Contains(err.Error(), "the device is gone") {
		t.Errorf("read: %v, want gone", err)
	}
	if _, err := p.Write([]byte("?")); err == nil || !strings.Contains(err.Error(), "the device is gone") {
		t.Errorf("write: %v, want gone", err)
	}
	if _, err := p.Read(make([]byte, 1)); err == nil {
		t.Error("read again: no error")
	}
}

func TestOnlyOneProgram(t *testing.T) {
	t.Parallel()
	dev := pair(t)
	p := open(t, dev.Path())
	if _, err := port.Open(dev.Path(), 9600); err == nil || !strings.Contains(err.Error(), "in use by another program") {
		t.Fatalf("second open: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dev.Path())
}

func TestOpenErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		baud int
		want string
	}{
		{filepath.Join(dir, "ttyUSB0"), 115200, "not there: is the device plugged in?"},
		{plain, 115200, "not a serial line"},
		{dir, 115200, "not a serial line"},
		{"/dev/null", 115200, "not a serial line"},
		{plain, 0, "0 baud is no speed"},
		{pair(t).Path(), -1, "-1 baud is no speed"},
	} {
		p, err := port.Open(c.path, c.baud)
		if err == nil {
			p.Close()
			t.Errorf("open %s at %d: no error", c.path, c.baud)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("open %s at %d: %q, want %q", c.path, c.baud, err, c.want)
		}
	}
}

func TestSpeeds(t *testing.T) {
	t.Parallel()
	for _, baud := range []int{9600, 57600, 115200, 250000, 12345} {
		p, err := port.Open(pair(t).Path(), baud)
		if err != nil {
			t.Errorf("%d: %v", baud, err)
			continue
		}
		p.Close()
	}
}

// select(2) knows descriptors up to 1023 only.
func TestHighDescriptors(t *testing.T) {
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
		if f.Fd() > 1100 {
			break
		}
	}
	dev := pair(t)
	p := open(t, dev.Path())
	if _, err := dev.Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 2)
	if _, err := io.ReadFull(p, got); err != nil || string(got) != "hi" {
		t.Fatalf("read %q, %v", got, err)
	}
}
