package scan

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"periph.io/x/conn/v3/driver/driverreg"
	"periph.io/x/conn/v3/gpio"
	"periph.io/x/host/v3/gpioioctl"
)

// GPIO is the machine's GPIO chips.
type GPIO struct {
	chips []*gpioioctl.GPIOChip
	err   error // why there are none
}

// FindGPIO looks for the GPIO chips. It belongs at the very start of main,
// before any file is opened and any goroutine started: where one chip has two
// names, as on a Pi 5, periph 3.8.5 closes that chip's descriptor twice, and
// descriptor 0 as well, whatever they are by then. FindGPIO fills 0 again. A
// machine without chips gets a GPIO whose Lines says so.
func FindGPIO() GPIO {
	_, err := driverreg.Init()
	if err == nil && len(gpioioctl.Chips) == 0 {
		err = errors.New("no GPIO chip that may be opened: is there a /dev/gpiochip0, and is the user in group gpio?")
	}
	return GPIO{chips: gpioioctl.Chips, err: errors.Join(err, fillStdin())}
}

// fillStdin sees to it that descriptor 0 is taken, so that no file of ours gets
// a number that others think is theirs to close.
func fillStdin() error {
	if _, err := unix.FcntlInt(0, unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		return err
	}
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("fill descriptor 0: %w", err)
	}
	if fd != 0 {
		return errors.Join(fmt.Errorf("fill descriptor 0: got %d", fd), unix.Close(fd))
	}
	return nil
}

// Lines takes two lines of a chip for Wiegand, by their numbers on it: D0 and D1,
// pulled up. chip is its name or label, such as "gpiochip0" or "pinctrl-rp1".
func (g GPIO) Lines(chip string, d0, d1 int) (LineSet, error) {
	set, err := g.lines(chip, d0, d1)
	if err != nil {
		return nil, fmt.Errorf("open lines %d and %d of %s: %w", d0, d1, chip, err)
	}
	return set, nil
}

func (g GPIO) lines(chip string, d0, d1 int) (LineSet, error) {
	if g.err != nil {
		return nil, g.err
	}
	if d0 == d1 {
		return nil, errors.New("one line cannot be both")
	}
	for _, c := range g.chips {
		if c.Name() == chip || c.Label() == chip {
			return takeLines(c, d0, d1)
		}
	}
	return nil, errors.New("no such chip")
}

// takeLines takes two lines of c. The library knows lines by name, and names may be
// missing or double, so it is asked afterwards which it took.
func takeLines(c *gpioioctl.GPIOChip, d0, d1 int) (LineSet, error) {
	cfg := gpioioctl.LineSetConfig{DefaultDirection: gpioioctl.LineInput, DefaultEdge: gpio.FallingEdge, DefaultPull: gpio.PullUp}
	for _, n := range []int{d0, d1} {
		if n < 0 || n >= c.LineCount() {
			return nil, fmt.Errorf("no line %d: it has 0 to %d", n, c.LineCount()-1)
		}
		cfg.Lines = append(cfg.Lines, c.ByNumber(n).Name())
	}
	set, err := c.LineSetFromConfig(&cfg)
	if err != nil {
		return nil, err
	}
	if got := set.Lines(); got[0].Number() != d0 || got[1].Number() != d1 {
		return nil, errors.Join(errors.New("the lines have no names of their own"), set.Close())
	}
	return &lineSet{set: set, d0: d0}, nil
}

// lineSet is a pair of real lines. The library's Close must not meet its
// WaitForEdge: a wait after it would read from descriptor 0. So whoever comes
// last closes.
type lineSet struct {
	set edges // *gpioioctl.LineSet
	d0  int   // its number on the chip

	mu sync.Mutex
	// guarded by mu
	waiting bool
	closed  bool
}

// edges is what is used of the library's LineSet.
type edges interface {
	// WaitForEdge returns the next edge and its line's number on the chip, or
	// os.ErrDeadlineExceeded. 0 means for ever, and less not at all.
	WaitForEdge(timeout time.Duration) (number int, edge gpio.Edge, err error)
	Close() error
}

// Wait implements LineSet.
func (l *lineSet) Wait(timeout time.Duration) (int, gpio.Edge, error) {
	if timeout <= 0 {
		panic("scan: a wait without a limit") // 0 means for ever to the library
	}
	if !l.enter() {
		return 0, gpio.NoEdge, fs.ErrClosed
	}
	number, edge, err := l.set.WaitForEdge(timeout)
	if err := l.leave(); err != nil {
		return 0, gpio.NoEdge, err
	}
	if err != nil {
		return 0, gpio.NoEdge, err
	}
	if number == l.d0 {
		return 0, edge, nil
	}
	return 1, edge, nil
}

// enter notes that a wait begins, if the lines are open.
func (l *lineSet) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = !l.closed
	return l.waiting
}

// leave notes that a wait has ended, and closes the lines if they were closed
// meanwhile.
func (l *lineSet) leave() error {
	l.mu.Lock()
	l.waiting = false
	closed := l.closed
	l.mu.Unlock()
	if !closed {
		return nil
	}
	return errors.Join(fs.ErrClosed, l.set.Close())
}

// Close implements LineSet.
func (l *lineSet) Close() error {
	l.mu.Lock()
	last := !l.closed && !l.waiting
	l.closed = true
	l.mu.Unlock()
	if last {
		return l.set.Close()
	}
	return nil
}
