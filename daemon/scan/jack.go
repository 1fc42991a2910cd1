package scan

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"yaoju/daemon/port"
)

// The switch of a headphone socket, by its numbers in the kernel's
// input-event-codes.h.
const (
	evSwitch    = 5
	inHeadphone = 2 // SW_HEADPHONE_INSERT
)

// Jack is a socket for headphones that tells whether a plug is in it, as most sound
// cards do by an input device of their own ("... Headphone Jack").
type Jack struct {
	dial func(context.Context) (JackLine, error)
	log  *slog.Logger

	mu    sync.Mutex
	in    bool          // guarded by mu
	stale chan struct{} // guarded by mu; closed when in changes
}

// JackLine is an open socket: its events, and how it stands before the first.
type JackLine interface {
	io.ReadWriteCloser
	Plugged() (bool, error)
}

// NewJack makes a socket that dial opens, each time it is needed: OpenJack with its
// path.
func NewJack(dial func(context.Context) (JackLine, error), log *slog.Logger) *Jack {
	return &Jack{dial: dial, log: log, stale: make(chan struct{})}
}

// Watch returns whether a plug is in, and a channel that is closed when that changes.
// A socket that is lost has none: what is private must not go on from the loudspeaker.
func (j *Jack) Watch() (in bool, stale <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.in, j.stale
}

// Run follows the socket until ctx ends, and opens it again when it is lost.
func (j *Jack) Run(ctx context.Context) error {
	dial := func(ctx context.Context) (io.ReadWriteCloser, error) { return j.dial(ctx) }
	return port.Keep(ctx, dial, func(_ context.Context, line io.ReadWriteCloser) error {
		defer j.set(false)
		return j.follow(line.(JackLine)) // it is what dial made
	}, j.log)
}

func (j *Jack) follow(line JackLine) error {
	in, err := line.Plugged()
	if err != nil {
		return err
	}
	j.set(in)
	var e [eventSize]byte
	for {
		if _, err := io.ReadFull(line, e[:]); err != nil {
			return fmt.Errorf("headphone socket: %w", err)
		}
		kind, code := binary.NativeEndian.Uint16(e[16:]), binary.NativeEndian.Uint16(e[18:])
		switch {
		case kind == evSwitch && code == inHeadphone:
			j.set(binary.NativeEndian.Uint32(e[20:]) != 0)
		case kind == evSyn && code == synDropped: // ask again what we missed
			if in, err = line.Plugged(); err != nil {
				return err
			}
			j.set(in)
		}
	}
}

func (j *Jack) set(in bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if in == j.in {
		return
	}
	j.in = in
	close(j.stale)
	j.stale = make(chan struct{})
}

// ioctls of evdev: which switches there are, and how they stand, in 2 bytes each.
const (
	eviocGSwitches = 0x80024525
	eviocGSwitch   = 0x8002451b
)

var errNoJack = errors.New("an input device without a headphone switch: want the one whose name ends in Headphone Jack (cat /proc/bus/input/devices)")

type jackFile struct{ *os.File }

// OpenJack opens the socket at path, such as /dev/input/by-path/platform-...-event.
func OpenJack(path string) (JackLine, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("headphone socket %s: %w", path, err)
	}
	var has [2]byte
	if err := ioctl(fd, eviocGSwitches, unsafe.Pointer(&has)); err != nil || has[0]&(1<<inHeadphone) == 0 {
		unix.Close(fd) // nothing was read: the first error tells all
		return nil, fmt.Errorf("headphone socket %s: %w", path, errNoJack)
	}
	// It does not block, so Go's poller does the waiting and Close ends a Read.
	file := os.NewFile(uintptr(fd), path)
	if err := file.SetDeadline(time.Time{}); err != nil {
		file.Close() // as above
		return nil, fmt.Errorf("headphone socket %s: %w", path, err)
	}
	return jackFile{file}, nil
}

// Plugged asks how the switch stands.
func (f jackFile) Plugged() (bool, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return false, fmt.Errorf("headphone socket: %w", err)
	}
	var is [2]byte
	err = errors.Join(err, raw.Control(func(fd uintptr) { err = ioctl(int(fd), eviocGSwitch, unsafe.Pointer(&is)) }))
	if err != nil {
		return false, fmt.Errorf("headphone socket: %w", err)
	}
	return is[0]&(1<<inHeadphone) != 0, nil
}
