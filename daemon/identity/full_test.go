package identity

import (
	"context"
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"yaoju/protocol"
)

// full is set by TestDiskFull for the process it starts, which has a small disk of
// its own mounted there.
var full = flag.String("full", "", "folder to mount a small disk on")

// TestDiskFull runs itself again in a process that may mount a disk only it sees.
func TestDiskFull(t *testing.T) {
	if *full != "" {
		diskFull(t, *full)
		return
	}
	t.Parallel()
	c := exec.Command(os.Args[0], "-test.run=^TestDiskFull$", "-full", t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// A disk that is full while the key or the certificate is written leaves nothing that
// is half of anything; no token is spent for a key that was not kept, and the same
// line is good once there is room.
func diskFull(t *testing.T, disk string) {
	const page = 4096
	err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	if err := errors.Join(err, syscall.Mount("none", disk, "tmpfs", 0, "size=64k")); err != nil {
		t.Fatal(err)
	}
	ca, err := MakeCA(filepath.Join(t.TempDir(), "ca"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(ca, []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	line := Line{Machine: "m-0001", Address: l.Addr().String(), Root: ca.Root()}
	b := &book{t: t, tokens: map[Token]protocol.MachineID{line.Token: "m-0001"}, used: map[Token]KeyID{}, keys: map[KeyID]bool{}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- NewDesk(s, b, quiet).Run(ctx, l) }()
	o := Options{Dir: filepath.Join(disk, "identity"), Machine: "m-0001", Desk: line.Address, Synced: func() bool { return true }, Log: quiet,
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}}
	filler := filepath.Join(disk, "filler")
	var filled int64
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, page))
		filled += page
	}
	if !errors.Is(err, syscall.ENOSPC) || f.Close() != nil {
		t.Fatalf("fill the disk: %v", err)
	}
	filled -= page
	for pages, asked := range []int{0, 0, 1} { // sealing key, then key, then certificate
		if err := os.Truncate(filler, filled-int64(pages)*page); err != nil {
			t.Fatal(err)
		}
		if _, err := Enrol(t.Context(), o, line); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("with %d pages free: %v", pages, err)
		}
		all, err := os.ReadDir(o.Dir)
		if err != nil || len(all) != pages || len(b.used) != asked {
			t.Errorf("with %d pages free: %d files are left, %d tokens used, %v", pages, len(all), len(b.used), err)
		}
	}
	spent := b.used[line.Token]
	if err := os.Truncate(filler, 0); err != nil {
		t.Fatal(err)
	}
	if n, err := Enrol(t.Context(), o, line); err != nil || n.Key != spent {
		t.Errorf("with room again: %v, key %x after %x", err, n.Key[:4], spent[:4])
	}
	if r := Describe(o); !r.Good {
		t.Errorf("doctor says %+v", r)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
