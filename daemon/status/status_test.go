package status_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"yaoju/daemon/status"
)

func serve(t *testing.T, path string, fill func(context.Context) (status.Document, error)) (stop func()) {
	t.Helper()
	l, err := status.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := status.Serve(ctx, l, fill); err != nil {
			t.Error(err)
		}
	})
	return func() { cancel(); running.Wait() }
}

func TestAsk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	at := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	stop := serve(t, path, func(context.Context) (status.Document, error) {
		return status.Document{Machine: "m-0001", At: at, Parts: []status.Part{{Part: status.PartBoard, State: status.Wrong, Why: "a card reader answers", Since: at}}}, nil
	})
	info, err := os.Stat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("socket has mode %v, %v", info.Mode(), err)
	}
	idle, err := net.Dial("unix", path) // who asks and does not listen stops nobody
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	for range 3 {
		d, err := status.Ask(t.Context(), path)
		if err != nil || d.Format != status.Format || len(d.Find(status.PartBoard)) != 1 || d.Find(status.PartBoard)[0].State != status.Wrong || !d.At.Equal(at) {
			t.Fatalf("got %+v, %v", d, err)
		}
	}
	if _, err := status.Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "another kioskd") {
		t.Errorf("a second one: %v", err)
	}
	stop()
	if _, err := status.Ask(t.Context(), path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the end: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A socket of a process that died is replaced, anything else is not.
func TestListenOver(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := status.Ask(t.Context(), path); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody behind it: %v", err)
	}
	again, err := status.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{file, filepath.Join(dir, "none", "s.sock"), filepath.Join(dir, strings.Repeat("long", 30))} {
		if _, err := status.Listen(t.Context(), bad); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "mine" {
		t.Errorf("the file is now %q, %v", b, err)
	}
}

// A kioskd that cannot tell hangs up; one that hangs is hung up on.
func TestAskNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	stop := serve(t, path, func(ctx context.Context) (status.Document, error) { return status.Document{}, ctx.Err() })
	if _, err := status.Ask(t.Context(), path); err == nil {
		t.Error("no error for an answer of nobody")
	}
	stop()
	stop = serve(t, path, func(ctx context.Context) (status.Document, error) { <-ctx.Done(); return status.Document{}, ctx.Err() })
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := status.Ask(ctx, path); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a kioskd that hangs: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"format":1,"machine":"m-1","parts":[{"part":"board","state":"up","since":"2026-01-01T00:00:00Z"}]}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := status.Parse(b); err == nil && (d.Format < 1 || d.Machine == "") {
			t.Errorf("accepted %+v", d)
		}
	})
}
