// Package port owns serial lines: how one is opened, read, written and closed
// so that a dead line is always an error and never a surprise, and how a line
// that died is opened again. It knows no protocol, no device and no frame.
//
// It is the one adapter over go.bug.st/serial, which sets a line's speed and
// raw mode, odd speeds included. That library's own Read, Write and Close have
// traps: a read timeout arrives as (0, nil), a Write after Close reaches
// whatever took the descriptor, Close does not free a blocked Write, a
// descriptor above 1023 panics, and its descriptor is inherited by children.
// So its handle lives only while a line is being set up. Bytes go through an
// os.File in Go's poller, which has none of these.
package port

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"go.bug.st/serial"
	"golang.org/x/sys/unix"
)

// writeLimit bounds one Write beyond the time its bytes need on the wire.
// There is no flow control, so a line that takes nothing for so long is stuck.
const writeLimit = 2 * time.Second

// Port is one open serial line: 8 data bits, no parity, 1 stop bit, raw, no
// flow control. One goroutine may read and one may write; Close may be called
// from anywhere, any number of times.
type Port struct {
	file *os.File
	path string
	baud int
}

// Open takes the serial line at path for this process alone and sets it to
// baud bits per second. What arrived before is thrown away: it answers nobody.
// The error says what is wrong and what to do about it.
func Open(path string, baud int) (*Port, error) {
	if baud <= 0 {
		// The library takes 0 for 9600.
		return nil, fmt.Errorf("open %s: %d baud is no speed", path, baud)
	}
	// O_NONBLOCK: do not wait for a carrier, and let Go's poller do the waiting.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	if err := setUp(file, path, baud); err != nil {
		file.Close() // nothing was written: the first error tells all
		return nil, err
	}
	return &Port{file: file, path: path, baud: baud}, nil
}

// setUp locks the line and gives it its speed and modes.
func setUp(file *os.File, path string, baud int) error {
	// TIOCEXCL does not stop root, so the lock is a flock. It goes first: a line
	// that another program uses must not have its speed changed.
	if err := control(file, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		return openError(path, err)
	}
	if err := file.SetDeadline(time.Time{}); err != nil {
		return openError(path, unix.ENOTTY) // a plain file: the poller cannot wait for it
	}
	// InitialStatusBits stays nil: setting modem lines fails on a pty.
	line, err := serial.Open(path, &serial.Mode{BaudRate: baud, DataBits: 8})
	if err != nil {
		return openError(path, err)
	}
	err = line.ResetInputBuffer()
	if err := errors.Join(err, line.Close()); err != nil {
		return openError(path, err)
	}
	// For programs that know no flock; the library gave its own up in Close.
	if err := control(file, func(fd int) error { return unix.IoctlSetInt(fd, unix.TIOCEXCL, 0) }); err != nil {
		return openError(path, err)
	}
	return nil
}

// control runs f on the descriptor, which stays open meanwhile.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// Read waits for at least one byte. It ends early only with an error: the line
// is dead, or Close was called (fs.ErrClosed). It never returns 0, nil except
// for an empty p.
func (p *Port) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := p.file.Read(b)
	if err != nil {
		return n, p.lineError("read", err)
	}
	return n, nil
}

// Write sends all of b. It fails if the line takes nothing for 2 s, dies, or
// is closed (fs.ErrClosed); after an error only reopening helps, because half
// of b may be on the wire.
func (p *Port) Write(b []byte) (int, error) {
	wire := time.Duration(len(b)) * 10 * time.Second / time.Duration(p.baud)
	if err := p.file.SetWriteDeadline(time.Now().Add(writeLimit + wire)); err != nil {
		// Open made sure that deadlines work, so this is Close. os gives it an
		// error of its own here.
		return 0, p.lineError("write", fs.ErrClosed)
	}
	n, err := p.file.Write(b)
	if err != nil {
		return n, p.lineError("write", err)
	}
	return n, nil
}

// Close gives the line back and ends a waiting Read or Write. A second Close
// does nothing.
func (p *Port) Close() error {
	// A pty whose other side is held open would stay exclusive. An error means
	// the line is dead or closed, and then there is nothing to give up.
	_ = control(p.file, func(fd int) error { return unix.IoctlSetInt(fd, unix.TIOCNXCL, 0) })
	if err := p.file.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return fmt.Errorf("close %s: %w", p.path, err)
	}
	return nil
}

// lineError says what became of an open line.
func (p *Port) lineError(op string, err error) error {
	switch {
	case errors.Is(err, fs.ErrClosed):
		return fmt.Errorf("%s %s: the line was closed: %w", op, p.path, fs.ErrClosed)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s %s: the line takes no bytes: %w", op, p.path, os.ErrDeadlineExceeded)
	case errors.Is(err, io.EOF), errors.Is(err, unix.EIO), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%s %s: the device is gone: was it unplugged?: %w", op, p.path, err)
	}
	return fmt.Errorf("%s %s: %w", op, p.path, err)
}

// openError says why a line cannot be opened and what a person can do.
func openError(path string, err error) error {
	var quirk *serial.PortError
	busy := errors.As(err, &quirk) && quirk.Code() == serial.PortBusy
	notLine := errors.As(err, &quirk) && quirk.Code() == serial.InvalidSerialPort
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("open %s: not there: is the device plugged in?: %w", path, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("open %s: not allowed: add the user to group dialout: %w", path, err)
	case busy, errors.Is(err, unix.EBUSY), errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("open %s: in use by another program: find it with fuser -v: %w", path, err)
	case errors.Is(err, unix.EIO), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("open %s: no device behind it: is it plugged in?: %w", path, err)
	case notLine, errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EISDIR):
		return fmt.Errorf("open %s: not a serial line: check the path: %w", path, err)
	}
	return fmt.Errorf("open %s: %w", path, err)
}
