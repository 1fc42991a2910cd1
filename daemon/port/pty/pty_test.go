package pty_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"yaoju/daemon/port/pty"
)

// program opens the line as a program under test would.
func program(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestProgramsComeAndGo(t *testing.T) {
	t.Parallel()
	p, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, say := range []string{"one", "two"} {
		f := program(t, p.Path())
		if _, err := f.WriteString(say); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 3)
		if _, err := io.ReadFull(p, got); err != nil || string(got) != say {
			t.Fatalf("device read %q, %v; want %q", got, err, say)
		}
		if _, err := p.Write([]byte("\r\x03\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(f, got); err != nil || string(got) != "\r\x03\n" {
			t.Fatalf("program read %q, %v", got, err)
		}
		f.Close()
	}
}

func TestBytesNobodyTakesAreLost(t *testing.T) {
	t.Parallel()
	p, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if n, err := p.Write(make([]byte, 1<<17)); n != 1<<17 || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
}

func TestCloseEndsARead(t *testing.T) {
	t.Parallel()
	p, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := p.Read(make([]byte, 1))
		ended <- err
	}()
	time.Sleep(20 * time.Millisecond) // most likely waiting by now; right either way
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("read: %v, want closed", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("read: still waiting")
	}
	if err := p.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// A program killed while it held the line for itself must not lock out the next.
func TestExclusiveMarkOfADeadProgramIsCleared(t *testing.T) {
	t.Parallel()
	p, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = p.Read(make([]byte, 1)) // a device always listens; ends with Close
	}()
	defer p.Close()
	f := program(t, p.Path())
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TIOCEXCL, 0); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		excl, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGEXCL)
		if err != nil {
			t.Fatal(err)
		}
		if excl == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond) // polls the kernel, which tells nobody
	}
	t.Fatal("still exclusive")
}

func TestSocket(t *testing.T) {
	t.Parallel()
	s := pty.NewSocket(filepath.Join(t.TempDir(), "reader"))
	if err := s.Unplug(); err != nil {
		t.Fatalf("unplug an empty socket: %v", err)
	}
	for range 3 {
		dev, err := s.Plug()
		if err != nil {
			t.Fatal(err)
		}
		f := program(t, s.Path())
		if _, err := dev.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(f, got); err != nil || string(got) != "hello" {
			t.Fatalf("read %q, %v", got, err)
		}
		if err := s.Unplug(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read(got); err == nil {
			t.Error("the program does not notice that the line is gone")
		}
		if _, err := os.Stat(s.Path()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("path after unplug: %v", err)
		}
	}
}
