package scan

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of the kernel's input.h; the same numbers on amd64 and arm64.
const (
	eviocGVersion = 0x80044501
	eviocGKeys    = 0x80604521 // EVIOCGBIT(EV_KEY, keyBytes)
	eviocGrab     = 0x40044590

	keyBytes = 96 // KEY_CNT / 8
)

// OpenKeyboard opens the keyboard at path, best one of /dev/input/by-id, and
// takes it for this process alone, so that no keystroke reaches the screen. The
// kernel gives it back when it is closed or the process dies. A keyboard that
// cannot be taken is not used: the error says so.
func OpenKeyboard(path string) (io.ReadWriteCloser, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, keyboardError(path, err)
	}
	if err := seize(fd); err != nil {
		unix.Close(fd) // nothing was read: the first error tells all
		return nil, keyboardError(path, err)
	}
	// It does not block, so Go's poller does the waiting and Close ends a Read.
	file := os.NewFile(uintptr(fd), path)
	if err := file.SetDeadline(time.Time{}); err != nil {
		file.Close() // as above
		return nil, keyboardError(path, err)
	}
	return file, nil
}

var (
	errNoInput    = errors.New("not an input device: want one of /dev/input/by-id that ends in -event-kbd")
	errNoKeyboard = errors.New("an input device without digits and Enter: not a barcode scanner")
	errNotAlone   = errors.New("another program holds it, so its keystrokes cannot be kept from the screen: not used")
)

// seize checks that fd is a keyboard and takes it for us alone.
func seize(fd int) error {
	var version int32
	if err := ioctl(fd, eviocGVersion, unsafe.Pointer(&version)); err != nil {
		return errNoInput
	}
	var can [keyBytes]byte
	if err := ioctl(fd, eviocGKeys, unsafe.Pointer(&can)); err != nil {
		return fmt.Errorf("ask for its keys: %w", err)
	}
	for _, key := range []uint{2, 3, 4, 5, 6, 7, 8, 9, 10, 11, keyEnter} { // 1 to 0
		if can[key/8]&(1<<(key%8)) == 0 {
			return errNoKeyboard
		}
	}
	if err := unix.IoctlSetInt(fd, eviocGrab, 1); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return errNotAlone
		}
		return fmt.Errorf("take it from the screen: %w: not used", err)
	}
	return drain(fd)
}

// drain throws away what was typed before the grab: the screen has it too.
func drain(fd int) error {
	buf := make([]byte, 64*eventSize) // the kernel's buffer for a keyboard
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			// again
		case errors.Is(err, unix.EAGAIN), err == nil && n == 0:
			return nil
		case err != nil:
			return fmt.Errorf("read: %w", err)
		}
	}
}

func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// keyboardError says why a keyboard cannot be used and what a person can do.
func keyboardError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("open %s: not there: is the scanner plugged in?: %w", path, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("open %s: not allowed: add the user to group input: %w", path, err)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("open %s: the scanner is gone: was it unplugged?: %w", path, err)
	}
	return fmt.Errorf("open %s: %w", path, err)
}
