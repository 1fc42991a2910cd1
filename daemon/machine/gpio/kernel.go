package gpio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"periph.io/x/conn/v3/driver/driverreg"
	"periph.io/x/host/v3/gpioioctl"
)

// Kernel is the lines of this computer, as /dev/gpiochip* has them.
type Kernel struct {
	// Guard is the command line of a program whose main calls Guard: of this one, as
	// a rule, such as {"/proc/self/exe"}. It gets GuardWord and more behind it.
	Guard []string
}

// place is where a line is.
type place struct {
	chip   string // path of its device
	offset uint32
}

// places lists all lines by name. The names are periph's, so that they are the same
// wherever the configuration names a line; it puts the chip's name before one that an
// earlier chip has too, and here both are the same line twice.
func places() (map[string][]place, error) {
	if err := startPeriph(); err != nil {
		return nil, err
	}
	all := map[string][]place{}
	for _, chip := range gpioioctl.Chips {
		for _, line := range chip.Lines() {
			name := strings.TrimPrefix(line.Name(), chip.Name()+"-")
			if name == "" || name == "_" || name == "-" { // as a chip without names has them
				name = fmt.Sprintf("%s:%d", chip.Label(), line.Number())
			}
			all[name] = append(all[name], place{chip.Path(), uint32(line.Number())})
		}
	}
	return all, nil
}

// startPeriph has periph look for lines; it does so once in a process.
func startPeriph() error {
	state, err := driverreg.Init()
	if err != nil {
		return fmt.Errorf("periph: %w", err)
	}
	for _, failed := range append(state.Failed, state.Skipped...) {
		if failed.D.String() == "ioctl-gpio" {
			return fmt.Errorf("periph: %w", failed.Err)
		}
	}
	// Where a chip is there under two names, as gpiochip0 and gpiochip4 of a Pi 5,
	// periph 3.8.5 closes descriptor 0 with the second. A line that got this number
	// would be none to periph, so nothing sits there but /dev/null.
	if _, err := unix.FcntlInt(0, unix.F_GETFD, 0); errors.Is(err, unix.EBADF) {
		if _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); err != nil { // the lowest number: 0
			return fmt.Errorf("standard input: %w", err)
		}
	}
	return nil
}

// Names implements Chip. Call it, or New, before other parts of the program open
// files: for the reason in startPeriph.
func (k Kernel) Names() ([]string, error) {
	all, err := places()
	var names []string
	for name, at := range all {
		for range at {
			names = append(names, name)
		}
	}
	return names, err
}

// where is a line that was taken, and the bits of its level when it is off.
type where struct {
	fd  int
	bit uint64
	off uint64
	at  note // of an output: where the guard has it
}

// taken are lines of the kernel.
type taken struct {
	lines   map[string]where
	outs    []watched // of each descriptor
	outFDs  []*os.File
	ins     []*os.File
	curtain *os.File
	guard   *guard
}

// busyLimit is how long lines may be taken by a guard that outlived its ward.
const busyLimit = 2 * time.Second

// Open implements Chip.
func (k Kernel) Open(w Wires) (Pins, error) {
	if len(k.Guard) == 0 {
		return nil, errors.New("no guard: without one a crash may leave a motor on")
	}
	all, err := places()
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(busyLimit); ; time.Sleep(busyLimit / 40) {
		t := &taken{lines: map[string]where{}}
		if err = t.take(w, all); err == nil {
			t.guard, err = post(k.Guard, t.outFDs, t.outs)
		}
		if err == nil {
			return t, nil
		}
		err = errors.Join(err, t.release())
		if !errors.Is(err, unix.EBUSY) || time.Now().After(until) {
			return nil, err
		}
	}
}

// take takes all lines: outputs first, so that they are off, one request for each
// chip.
func (t *taken) take(w Wires, all map[string][]place) error {
	byChip := map[string]*asked{}
	var order []string
	ask := func(name string) (*asked, error) {
		at := all[name]
		if len(at) != 1 {
			return nil, fmt.Errorf("line %s: %d of them", name, len(at))
		}
		a := byChip[at[0].chip]
		if a == nil {
			a = &asked{}
			byChip[at[0].chip] = a
			order = append(order, at[0].chip)
		}
		return a, nil
	}
	for _, o := range w.Outs {
		a, err := ask(o.Name)
		if err != nil {
			return err
		}
		a.outs.add(o.Name, all[o.Name][0].offset, o.Off)
		a.longest = append(a.longest, o.Longest)
	}
	for _, in := range w.Ins {
		a, err := ask(in.Name)
		if err != nil {
			return err
		}
		a.ins.add(in.Name, all[in.Name][0].offset, in.PullUp)
	}
	a, err := ask(w.Curtain.Name)
	if err != nil {
		return err
	}
	a.curtain.add(w.Curtain.Name, all[w.Curtain.Name][0].offset, w.Curtain.PullUp)
	for _, chip := range order {
		if err := t.takeOf(chip, byChip[chip]); err != nil {
			return fmt.Errorf("%s: %w", chip, err)
		}
	}
	return nil
}

// group is lines of one chip that are asked for together. bits are the levels at
// which outputs are off, or the inputs that are pulled up.
type group struct {
	names   []string
	offsets []uint32
	bits    uint64
}

// asked is what is asked of one chip.
type asked struct {
	outs, ins, curtain group
	longest            []time.Duration // of each of outs
}

func (g *group) add(name string, offset uint32, bit bool) {
	if bit {
		g.bits |= 1 << len(g.names)
	}
	g.names, g.offsets = append(g.names, name), append(g.offsets, offset)
}

// mask is all lines of g. There are at most 36: a row and a column for each motor, and four.
func (g *group) mask() uint64 { return 1<<len(g.names) - 1 }

// pulls asks for the inputs of g with their resistors.
func (g *group) pulls(edges uint64) *request {
	r := newRequest(flagInput|flagPullDown|edges, g.offsets)
	if g.bits != 0 {
		r.with(attrFlags, flagInput|flagPullUp|edges, g.bits)
	}
	return r
}

// takeOf takes the lines of one chip.
func (t *taken) takeOf(path string, a *asked) error {
	chip, err := os.Open(path)
	if err != nil {
		return err
	}
	defer chip.Close()
	take := func(g *group, r *request) (*os.File, error) {
		fd, err := r.take(int(chip.Fd()))
		if err != nil {
			return nil, fmt.Errorf("take %s: %w", strings.Join(g.names, ", "), err)
		}
		for i, name := range g.names {
			t.lines[name] = where{fd, 1 << i, g.bits & (1 << i), note{request: byte(len(t.outs)), line: byte(i)}}
		}
		if g == &a.curtain { // the runtime's poller waits for its edges
			if err := unix.SetNonblock(fd, true); err != nil {
				return nil, errors.Join(err, unix.Close(fd))
			}
		}
		return os.NewFile(uintptr(fd), g.names[0]), nil
	}
	if len(a.outs.names) > 0 {
		r := newRequest(flagOutput, a.outs.offsets)
		r.with(attrValues, a.outs.bits, a.outs.mask())
		f, err := take(&a.outs, r)
		if err != nil {
			return err
		}
		t.outFDs, t.outs = append(t.outFDs, f), append(t.outs, watched{values{a.outs.bits, a.outs.mask()}, a.longest})
	}
	if len(a.ins.names) > 0 {
		f, err := take(&a.ins, a.ins.pulls(0))
		if err != nil {
			return err
		}
		t.ins = append(t.ins, f)
	}
	if len(a.curtain.names) > 0 {
		r := a.curtain.pulls(flagRising | flagFalling)
		r.eventsLength = eventsLength
		if t.curtain, err = take(&a.curtain, r); err != nil {
			return err
		}
	}
	return nil
}

// Write implements Pins. Without its guard no output is driven but off. The guard is told
// before a line is on, and after it is off: what it does not know of is not on.
func (t *taken) Write(name string, high bool) error {
	at, ok := t.lines[name]
	if !ok {
		return fmt.Errorf("line %s is not taken", name)
	}
	bits := uint64(0)
	if high {
		bits = at.bit
	}
	n := at.at
	if bits == at.off {
		return errors.Join(setValues(at.fd, bits, at.bit), t.guard.tell(n))
	}
	n.on = 1
	if err := t.guard.tell(n); err != nil {
		return err
	}
	return setValues(at.fd, bits, at.bit)
}

// Read implements Pins.
func (t *taken) Read(name string) (high bool, err error) {
	at, ok := t.lines[name]
	if !ok {
		return false, fmt.Errorf("line %s is not taken", name)
	}
	bits, err := getValues(at.fd, at.bit)
	return bits&at.bit != 0, err
}

// Edge implements Pins.
func (t *taken) Edge(limit time.Duration) (Edge, bool, error) {
	if err := t.curtain.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return Edge{}, false, err
	}
	var e event
	switch err := binary.Read(t.curtain, binary.NativeEndian, &e); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Edge{}, false, nil
	case err != nil:
		return Edge{}, false, fmt.Errorf("read edges: %w", err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return Edge{}, false, fmt.Errorf("read clock: %w", err)
	}
	ago := time.Duration(now.Nano() - int64(e.TimestampNS))
	return Edge{At: time.Now().Add(-ago), High: e.ID == 1}, true, nil
}

// Close implements Pins.
func (t *taken) Close() error {
	var err error
	for i, f := range t.outFDs {
		err = errors.Join(err, setValues(int(f.Fd()), t.outs[i].off.bits, t.outs[i].off.mask))
	}
	return errors.Join(err, t.guard.dismiss(), t.release())
}

// release gives back what was taken.
func (t *taken) release() error {
	var err error
	for _, f := range append(append([]*os.File{}, t.outFDs...), t.ins...) {
		err = errors.Join(err, f.Close())
	}
	if t.curtain != nil {
		err = errors.Join(err, t.curtain.Close())
	}
	return err
}
