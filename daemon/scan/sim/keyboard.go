package sim

import (
	"encoding/binary"
	"io"
	"strings"
)

// Keyboard types as a scanner does that plays a US keyboard, as the kernel's
// stream of input events on a 64-bit machine. To is the line, such as a Plug.
type Keyboard struct{ To io.Writer }

// Key numbers as in the kernel's input-event-codes.h.
const (
	KeyEsc       = 1
	KeyTab       = 15
	KeyEnter     = 28
	KeyLeftCtrl  = 29
	KeyLeftShift = 42
	KeyLeftAlt   = 56
	KeySpace     = 57
	KeyCapsLock  = 58
)

// rows are the keys of the layout by the number of the first, and what they
// type with Shift.
func rows() map[uint16][2]string {
	return map[uint16][2]string{
		2:        {"1234567890-=", "!@#$%^&*()_+"},
		16:       {"qwertyuiop[]", "QWERTYUIOP{}"},
		30:       {"asdfghjkl;'`", "ASDFGHJKL:\"~"},
		43:       {"\\zxcvbnm,./", "|ZXCVBNM<>?"},
		KeySpace: {" ", ""},
	}
}

// Type types text: GS and other control characters with Ctrl, bytes above 126 as
// Alt codes on the keypad.
func (k Keyboard) Type(text string) {
	for _, c := range []byte(text) {
		switch {
		case c < ' ':
			k.control(c)
		case c > 126:
			k.Alt(int(c))
		default:
			k.plain(c)
		}
	}
}

// Scan types text and Enter.
func (k Keyboard) Scan(text string) {
	k.Type(text)
	k.Tap(KeyEnter)
}

// Alt types a code as scanners do that know no control characters: digits of
// the keypad while Alt is held.
func (k Keyboard) Alt(code int) {
	keypad := []uint16{82, 79, 80, 81, 75, 76, 77, 71, 72, 73} // 0 to 9
	k.Event(1, KeyLeftAlt, 1)
	for _, d := range []int{0, code / 100, code / 10 % 10, code % 10} {
		k.Tap(keypad[d])
	}
	k.Event(1, KeyLeftAlt, 0)
}

// Tap presses a key and lets it go.
func (k Keyboard) Tap(key uint16) {
	k.Event(4, 4, int32(key)) // the scan code comes first
	k.Event(1, key, 1)
	k.Event(0, 0, 0)
	k.Event(1, key, 0)
	k.Event(0, 0, 0)
}

// Lose tells that the kernel's buffer overflowed.
func (k Keyboard) Lose() {
	k.Event(0, 3, 0)
	k.Event(1, KeyEsc, 1) // part of the report that is to be thrown away
	k.Event(0, 0, 0)
}

// Event sends one event as it is.
func (k Keyboard) Event(kind, code uint16, value int32) {
	b := make([]byte, 16, 24)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, code)
	b = binary.NativeEndian.AppendUint32(b, uint32(value))
	// Nobody there to type to is no error of a keyboard.
	_, _ = k.To.Write(b)
}

func (k Keyboard) control(c byte) {
	k.Event(1, KeyLeftCtrl, 1)
	k.plain(c | 0x40)
	k.Event(1, KeyLeftCtrl, 0)
}

func (k Keyboard) plain(c byte) {
	for first, row := range rows() {
		if i := strings.IndexByte(row[0], c); i >= 0 {
			k.Tap(first + uint16(i))
		} else if i := strings.IndexByte(row[1], c); i >= 0 {
			k.Event(1, KeyLeftShift, 1)
			k.Tap(first + uint16(i))
			k.Event(1, KeyLeftShift, 0)
		}
	}
}
