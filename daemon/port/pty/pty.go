// Package pty gives tests and demonstrations a serial line without hardware:
// a pseudo terminal that can be unplugged and plugged in again. It owns what a
// pty does unlike a wire, and knows neither the daemon's side of the line nor
// what is said on it.
package pty

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// slice is how often a waiting Read clears an exclusive mark that a killed
// program left on the other side. The program that follows waits no longer.
const slice = 100 * time.Millisecond

// listenLimit is how long Write waits for room. The kernel holds 4 KiB; when
// they are full nobody is listening.
const listenLimit = time.Second

// Pair is one line. The Pair itself is the device's end, raw and without echo;
// the program under test opens Path. One goroutine may read and one may write.
type Pair struct {
	master *os.File
	slave  *os.File // held open, so that a program may come and go without ending Read
	path   string
}

// Open makes a line.
func Open() (*Pair, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("make a pty: %w", err)
	}
	p := &Pair{slave: slave, path: slave.Name()}
	p.master, err = pollable(master)
	// The library left its own handle in blocking mode, where Close would not end a Read.
	err = errors.Join(err, master.Close())
	if err == nil {
		err = raw(slave)
	}
	if err != nil {
		if p.master != nil {
			p.master.Close() // never used: the first error tells all
		}
		slave.Close()
		return nil, fmt.Errorf("set up pty %s: %w", p.path, err)
	}
	return p, nil
}

// pollable returns a second handle of f that Go's poller serves.
func pollable(f *os.File) (*os.File, error) {
	fd := -1
	err := control(f, func(old int) (err error) {
		if fd, err = unix.FcntlInt(uintptr(old), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.SetNonblock(fd, true)
	})
	if fd < 0 {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), err
}

// raw makes the line carry bytes as they are.
func raw(f *os.File) error {
	return control(f, func(fd int) error {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return err
		}
		t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		return unix.IoctlSetTermios(fd, unix.TCSETS, t)
	})
}

// control runs f on the descriptor, which stays open meanwhile.
func control(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// Path is where a program opens the line.
func (p *Pair) Path() string { return p.path }

// Read waits for bytes from the program, through any number of programs that
// open and close the line, until Close.
func (p *Pair) Read(b []byte) (int, error) {
	for {
		if err := p.master.SetReadDeadline(time.Now().Add(slice)); err != nil {
			return 0, err
		}
		n, err := p.master.Read(b)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		// A killed program's TIOCEXCL outlives it here, because we hold the
		// line open. Failing means closed, and then Read says so next.
		_ = control(p.slave, func(fd int) error { return unix.IoctlSetInt(fd, unix.TIOCNXCL, 0) })
	}
}

// Write sends b to the program. As on a wire, bytes that nobody takes are lost.
func (p *Pair) Write(b []byte) (int, error) {
	if err := p.master.SetWriteDeadline(time.Now().Add(listenLimit)); err != nil {
		return 0, err
	}
	n, err := p.master.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return len(b), nil
	}
	return n, err
}

// Close unplugs the line: the program's reads and writes fail. A second Close
// does nothing.
func (p *Pair) Close() error {
	// The master first: closing it is what hangs up the other side.
	err := errors.Join(p.master.Close(), p.slave.Close())
	if err != nil && !errors.Is(err, fs.ErrClosed) {
		return fmt.Errorf("close pty %s: %w", p.path, err)
	}
	return nil
}

// Socket is a fixed path into which lines are plugged, one at a time, as udev
// keeps one name for a device whatever number it gets. One goroutine plugs and
// unplugs.
type Socket struct {
	path string
	pair *Pair // nil while unplugged
}

// NewSocket makes an empty socket. Nothing is at path until Plug.
func NewSocket(path string) *Socket { return &Socket{path: path} }

// Path is what a program has in its configuration.
func (s *Socket) Path() string { return s.path }

// Plug puts a fresh line at Path and returns the device's end of it. What was
// plugged in before is unplugged.
func (s *Socket) Plug() (*Pair, error) {
	if err := s.Unplug(); err != nil {
		return nil, err
	}
	pair, err := Open()
	if err != nil {
		return nil, err
	}
	if err := os.Symlink(pair.Path(), s.path); err != nil {
		pair.Close() // nobody has it: the first error tells all
		return nil, fmt.Errorf("plug in %s: %w", s.path, err)
	}
	s.pair = pair
	return pair, nil
}

// Unplug pulls the line: Path is gone and the program's reads and writes fail.
// With nothing plugged in it does nothing.
func (s *Socket) Unplug() error {
	if s.pair == nil {
		return nil
	}
	// The name first, or a program could find it and open a dead line.
	err := os.Remove(s.path)
	err = errors.Join(err, s.pair.Close())
	s.pair = nil
	if err != nil {
		return fmt.Errorf("unplug %s: %w", s.path, err)
	}
	return nil
}
