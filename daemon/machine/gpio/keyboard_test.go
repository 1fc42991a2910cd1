package gpio_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"yaoju/daemon/scan"
)

// wedge is a barcode scanner that types, made of the kernel's uinput.
type wedge struct{ control *os.File }

const wedgeName = "yaoju test scanner"

// plugWedge makes the kernel believe that a scanner was plugged in, and returns where it is.
func plugWedge() (wedge, string) {
	const (
		setEvent = 0x40045564 // UI_SET_EVBIT
		setKey   = 0x40045565 // UI_SET_KEYBIT
		setUp    = 0x405c5503 // UI_DEV_SETUP
		create   = 0x5501     // UI_DEV_CREATE
		keys     = 128
	)
	control, err := os.OpenFile("/dev/uinput", os.O_WRONLY, 0)
	die("open uinput", err)
	fd := int(control.Fd())
	die("events", unix.IoctlSetInt(fd, setEvent, 1)) // EV_KEY
	for key := 1; key < keys; key++ {
		die("keys", unix.IoctlSetInt(fd, setKey, key))
	}
	var setup [92]byte // input_id, name, force feedback
	copy(setup[8:], wedgeName)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), setUp, uintptr(unsafe.Pointer(&setup))); errno != 0 {
		die("set up", errno)
	}
	die("create", unix.IoctlSetInt(fd, create, 0))
	for range 100 {
		names, err := filepath.Glob("/sys/class/input/event*/device/name")
		die("look for it", err)
		for _, n := range names {
			name, err := os.ReadFile(n)
			path := "/dev/input/" + strings.Split(n, "/")[4]
			if _, missing := os.Stat(path); err == nil && missing == nil && string(bytes.TrimSpace(name)) == wedgeName {
				return wedge{control}, path
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	die("look for it", errors.New("no such input device"))
	return wedge{}, ""
}

// types presses digits and Enter.
func (w wedge) types(code string) {
	press := func(key uint16) {
		for _, e := range [][3]uint16{{1, key, 1}, {0, 0, 0}, {1, key, 0}, {0, 0, 0}} {
			var b [24]byte
			binary.NativeEndian.PutUint16(b[16:], e[0])
			binary.NativeEndian.PutUint16(b[18:], e[1])
			binary.NativeEndian.PutUint32(b[20:], uint32(e[2]))
			_, err := w.control.Write(b[:])
			die("type", err)
		}
	}
	for _, c := range code {
		press(2 + uint16(c-'0'+9)%10) // 1 is key 2, and 0 key 11
	}
	press(28)
}

// keyboard holds a scanner that types against the driver, on this kernel: what it types
// reaches the driver and, while that has it, not the screen.
func keyboard() {
	loadModule("evdev")
	loadModule("uinput")
	w, path := plugWedge()
	screen, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0) // as a desktop holds every keyboard
	die("open as the screen does", err)
	seen := func() int {
		time.Sleep(200 * time.Millisecond) // far more than the kernel needs
		b := make([]byte, 4096)
		n, err := unix.Read(screen, b)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENODEV) {
			return 0
		}
		die("read as the screen does", err)
		return n
	}
	want := func(ok bool, format string, args ...any) {
		if !ok {
			die("keyboard", fmt.Errorf(format, args...))
		}
	}
	w.types("1")
	want(seen() > 0, "nothing was typed at all")

	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	all := scan.New(slog.New(slog.NewTextHandler(os.Stdout, nil)), scan.Keyboard("wedge",
		func(context.Context) (io.ReadWriteCloser, error) { return scan.OpenKeyboard(path) }, scan.Framing{}))
	done := make(chan error)
	go func() { done <- all.Run(ctx) }()
	until := func(up bool) string {
		for {
			states, stale := all.Watch()
			if states[0].Up == up {
				return states[0].Why
			}
			select {
			case <-stale:
			case <-ctx.Done():
				die("keyboard", fmt.Errorf("up is not %v: %s", up, states[0].Why))
			}
		}
	}
	scanned := func(code string) {
		time.Sleep(300 * time.Millisecond) // a line has to be quiet at first
		w.types(code)
		e, err := all.Next(ctx)
		die("next", err)
		want(e.Scan != nil && string(e.Scan.Code) == code, "got %+v, want %s", e.Scan, code)
	}
	until(true)
	scanned("6901234567892")
	want(seen() == 0, "the screen saw it")
	_, err = scan.OpenKeyboard(path)
	want(err != nil && strings.Contains(err.Error(), "another program holds it"), "taken twice: %v", err)
	say("grabbed")

	die("unplug", w.control.Close())
	say("unplugged: %s", until(false))
	die("close as the screen does", unix.Close(screen))
	w, path = plugWedge()
	screen, err = unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	die("open as the screen does", err)
	until(true)
	scanned("06901234567892")
	want(seen() == 0, "plugged in again, the screen saw it")

	stop()
	die("run", <-done)
	w.types("1")
	want(seen() > 0, "given back, and the screen sees nothing")
	die("unplug", w.control.Close())
	die("close", unix.Close(screen))
}
