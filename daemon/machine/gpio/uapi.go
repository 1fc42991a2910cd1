package gpio

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's GPIO character device, version 2, as in linux/gpio.h. It is spoken
// here and not through periph, which finds the lines, because periph 3.8.5
//
//   - takes an output low first: one that is active low would turn its motor;
//   - reads an error as Low, and drops the time of an edge, without which a program
//     that was late cannot tell a box from a spark;
//   - keeps its file descriptors, which the guard has to hold as well.
const (
	lineGet   = 0xc250b407 // GPIO_V2_GET_LINE_IOCTL
	valuesGet = 0xc010b40e // GPIO_V2_LINE_GET_VALUES_IOCTL
	valuesSet = 0xc010b40f // GPIO_V2_LINE_SET_VALUES_IOCTL

	flagInput    = 1 << 2
	flagOutput   = 1 << 3
	flagRising   = 1 << 4
	flagFalling  = 1 << 5
	flagPullUp   = 1 << 8
	flagPullDown = 1 << 9

	attrFlags  = 1
	attrValues = 2

	// eventsLength is how many edges the kernel keeps for us: some 80 boxes, or a
	// second of a contact that chatters.
	eventsLength = 160

	// linesMax is how many lines one request may have.
	linesMax = 64
)

// attribute is struct gpio_v2_line_config_attribute.
type attribute struct {
	id      uint32
	padding uint32
	value   uint64
	mask    uint64
}

// request is struct gpio_v2_line_request, its line_config within.
type request struct {
	offsets      [linesMax]uint32
	consumer     [32]byte
	flags        uint64
	attrCount    uint32
	padding1     [5]uint32
	attrs        [10]attribute
	lineCount    uint32
	eventsLength uint32
	padding2     [5]uint32
	fd           int32
}

// values is struct gpio_v2_line_values.
type values struct{ bits, mask uint64 }

// event is struct gpio_v2_line_event.
type event struct {
	TimestampNS uint64 // CLOCK_MONOTONIC
	ID          uint32 // 1 is rising, 2 is falling
	Offset      uint32
	Seq         uint32
	LineSeq     uint32
	Padding     [6]uint32
}

func ioctl(fd int, op uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(op), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// newRequest is a request for lines of one chip, by their numbers.
func newRequest(flags uint64, offsets []uint32) *request {
	r := &request{flags: flags, lineCount: uint32(len(offsets))}
	copy(r.offsets[:], offsets)
	copy(r.consumer[:], "yaoju")
	return r
}

// with adds an attribute for the lines in mask.
func (r *request) with(id uint32, value, mask uint64) {
	r.attrs[r.attrCount] = attribute{id: id, value: value, mask: mask}
	r.attrCount++
}

// take takes the lines and returns their descriptor.
func (r *request) take(chip int) (fd int, err error) {
	if err := ioctl(chip, lineGet, unsafe.Pointer(r)); err != nil {
		return -1, err
	}
	return int(r.fd), nil
}

// setValues drives the lines in mask to bits.
func setValues(fd int, bits, mask uint64) error {
	v := values{bits, mask}
	if err := ioctl(fd, valuesSet, unsafe.Pointer(&v)); err != nil {
		return fmt.Errorf("set lines: %w", err)
	}
	return nil
}

// getValues reads the lines in mask.
func getValues(fd int, mask uint64) (bits uint64, err error) {
	v := values{0, mask}
	if err := ioctl(fd, valuesGet, unsafe.Pointer(&v)); err != nil {
		return 0, fmt.Errorf("read lines: %w", err)
	}
	return v.bits, nil
}
