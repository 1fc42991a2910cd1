package scan

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
)

// Why a code typed by a scanner is refused.
var (
	errKey  = errors.New("a key that is in no code: set the scanner to a US keyboard without Caps Lock")
	errAlt  = errors.New("an Alt code that is no byte")
	errLost = errors.New("keystrokes were lost")
)

// Keyboard is a barcode scanner that plays a USB keyboard with US layout. dial
// is OpenKeyboard with its path. It counts as up while it is open and grabbed.
func Keyboard(name string, dial Dial, framing Framing) Device {
	return Device{name: name, dial: dial, serve: func(ctx context.Context, line io.ReadWriteCloser, o outlet) error {
		t := &text{framing: framing}
		k := &keys{text: t, code: o.code}
		return gather(ctx, line, o, t, k.feed)
	}}
}

// One struct input_event of a 64-bit kernel: 16 bytes of time, then type, code
// and value. 32-bit systems, where it is shorter, are not supported anywhere.
const (
	eventSize = 24

	evSyn      = 0
	synReport  = 0
	synDropped = 3 // the kernel's buffer overflowed
	evKey      = 1

	keyUp   = 0
	keyDown = 1 // 2 is the kernel's own repeating, which no scanner means
)

// Keys by their number in the kernel's input-event-codes.h.
const (
	keyTab     = 15
	keyEnter   = 28
	keyNumLock = 69
	keypad7    = 71
	keypadDot  = 83
	keypadStar = 55
	keypadEnt  = 96
	keypadDiv  = 98
	keySpace   = 57
)

// The US layout by key number, without and with Shift; \0 is no character.
const (
	plain   = "\x00\x001234567890-=\x00\x00qwertyuiop[]\x00\x00asdfghjkl;'`\x00\\zxcvbnm,./"
	shifted = "\x00\x00!@#$%^&*()_+\x00\x00QWERTYUIOP{}\x00\x00ASDFGHJKL:\"~\x00|ZXCVBNM<>?"
	// keypad begins at keypad7. Num Lock is taken to be on, as scanners want it.
	keypad = "789-456+1230."
)

// modifier is a set of keys that are held down.
type modifier uint8

const (
	leftShift modifier = 1 << iota
	rightShift
	leftCtrl
	rightCtrl
	leftAlt
	rightAlt
	leftMeta
	rightMeta

	shift = leftShift | rightShift
	ctrl  = leftCtrl | rightCtrl
	alt   = leftAlt | rightAlt
	meta  = leftMeta | rightMeta
)

// modifierOf is the modifier that a key is, or 0.
func modifierOf(key uint16) modifier {
	switch key {
	case 42:
		return leftShift
	case 54:
		return rightShift
	case 29:
		return leftCtrl
	case 97:
		return rightCtrl
	case 56:
		return leftAlt
	case 100:
		return rightAlt
	case 125:
		return leftMeta
	case 126:
		return rightMeta
	}
	return 0
}

// keys turns keystrokes into the text they type.
type keys struct {
	text *text
	code func([]byte, error) // takes what text returns

	part  []byte // of an event that has not come whole; less than eventSize
	lost  bool   // until the next report
	held  modifier
	typed int // digits typed on the keypad while Alt is held
	value int // and the number they make
}

// feed takes a piece of the stream of events.
func (k *keys) feed(b []byte) {
	k.part = append(k.part, b...)
	for len(k.part) >= eventSize {
		e := k.part[16:eventSize]
		k.event(binary.NativeEndian.Uint16(e), binary.NativeEndian.Uint16(e[2:]), int32(binary.NativeEndian.Uint32(e[4:])))
		k.part = append(k.part[:0], k.part[eventSize:]...)
	}
}

func (k *keys) event(kind, code uint16, value int32) {
	switch {
	case kind == evSyn && code == synDropped:
		k.lost, k.held, k.typed, k.value = true, 0, 0, 0
		k.text.spoil(errLost)
	case kind == evSyn && code == synReport:
		k.lost = false
	case kind != evKey || k.lost:
		// scan codes, lights; or the rest of a report that is not whole
	case modifierOf(code) != 0:
		k.modify(modifierOf(code), value)
	case value == keyDown:
		k.press(code)
	}
}

// modify notes that a modifier went down or up. Letting go of Alt types what was
// entered on the keypad.
func (k *keys) modify(m modifier, value int32) {
	switch value {
	case keyDown:
		k.held |= m
	case keyUp:
		k.held &^= m
	}
	if k.held&alt != 0 || k.typed == 0 {
		return
	}
	v := k.value
	k.typed, k.value = 0, 0
	if v < 1 || v > 255 {
		k.text.spoil(errAlt)
		return
	}
	k.put(byte(v))
}

// press takes a key that is no modifier.
func (k *keys) press(key uint16) {
	c := character(key, k.held&shift != 0)
	switch {
	case key == keyEnter || key == keypadEnt || key == keyTab:
		k.put('\r')
	case key == keyNumLock:
		// some scanners see to it that it is on, which we take for granted
	case k.held&meta != 0 || c == 0:
		k.text.spoil(errKey)
	case k.held&alt != 0:
		k.digit(key, c)
	case k.held&ctrl != 0:
		k.control(c)
	default:
		k.put(c)
	}
}

// digit takes a key while Alt is held: a digit of the keypad, or nothing known.
func (k *keys) digit(key uint16, c byte) {
	if key < keypad7 || key > keypadDot || c < '0' || c > '9' {
		k.text.spoil(errKey)
		return
	}
	k.typed++
	k.value = min(k.value*10+int(c-'0'), 1000) // anything above 255 is as wrong
}

// control takes a character while Ctrl is held: Ctrl+] is how scanners type GS.
func (k *keys) control(c byte) {
	if c >= 'a' && c <= 'z' {
		c -= 'a' - 'A'
	}
	if c < 'A' || c > '_' {
		k.text.spoil(errKey)
		return
	}
	k.put(c & 0x1F)
}

// put gives a character to the text; Tab ends a code as Enter does.
func (k *keys) put(c byte) {
	if c == '\t' {
		c = '\r'
	}
	k.code(k.text.put(c))
}

// character is what a key types, or 0.
func character(key uint16, withShift bool) byte {
	switch {
	case key == keySpace:
		return ' '
	case key == keypadStar:
		return '*'
	case key == keypadDiv:
		return '/'
	case key >= keypad7 && key <= keypadDot:
		return keypad[key-keypad7]
	case int(key) >= len(plain):
		return 0
	case withShift:
		return shifted[key]
	}
	return plain[key]
}
