package scan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

const (
	// settleTime is how long a line must be quiet after it was opened, or what
	// comes is taken for the end of a code whose beginning was missed. Bytes of
	// one code follow each other within 10 ms, at 9600 baud and on USB.
	settleTime = 100 * time.Millisecond

	// stallTime is how long a code may pause before it counts as broken off. A
	// person takes longer to aim again.
	stallTime = 500 * time.Millisecond

	// maxAffix bounds what a scanner may be set to put around codes, in bytes.
	maxAffix = 16
)

// Framing is how a scanner is set up to mark where a code begins and ends.
// Enter, a carriage return, a line feed or both always end one; a keyboard's Tab
// does too.
type Framing struct {
	// Prefix and Suffix are what the scanner puts around each code, at most 16
	// bytes each. They are taken off; a code without them is damaged and refused.
	Prefix, Suffix string
	// Gap is for scanners that send no line end: a pause so long ends a code, 20 ms
	// to 500 ms. 0: only a line end does, and a code that stalls for 500 ms is
	// refused, because half a code can look like a whole one.
	Gap time.Duration
}

// Valid says what is wrong with a setting.
func (f Framing) Valid() error {
	for _, s := range []string{f.Prefix, f.Suffix} {
		if len(s) > maxAffix || strings.ContainsAny(s, "\r\n") {
			return fmt.Errorf("prefix or suffix %q: want at most %d bytes without a line end", s, maxAffix)
		}
	}
	if f.Gap != 0 && (f.Gap < 20*time.Millisecond || f.Gap > stallTime) {
		return fmt.Errorf("gap %v: want 0, or 20 ms to %v", f.Gap, stallTime)
	}
	return nil
}

// Why a code is refused.
var (
	errLong   = errors.New("code too long")
	errNoise  = errors.New("bytes that are in no code")
	errAffix  = errors.New("code without the prefix or suffix that was set")
	errEmpty  = errors.New("nothing between prefix and suffix")
	errBroken = errors.New("code broke off")
	errMidway = errors.New("code had begun before the line was opened")
)

// text gathers the bytes of one code after the other.
type text struct {
	framing Framing
	got     []byte // at most longest
	bad     error  // why the code being gathered will be refused
}

// longest is how many bytes can belong to one code, prefix and suffix included.
const longest = MaxCode + 2*maxAffix

// begun says if a code has begun and not ended.
func (t *text) begun() bool { return len(t.got) > 0 || t.bad != nil }

// spoil has the code that is being gathered refused when it ends.
func (t *text) spoil(why error) {
	if t.bad == nil {
		t.bad = why
	}
}

// put takes one byte. When it ends a code, that is returned, or why it is
// refused; else neither.
func (t *text) put(b byte) ([]byte, error) {
	switch {
	case b == '\r' || b == '\n':
		return t.end()
	case t.bad != nil:
		// refused anyway
	case len(t.got) == longest:
		t.spoil(errLong)
	default:
		t.got = append(t.got, b)
	}
	return nil, nil
}

// pause tells that nothing came for t.patience, and returns as put does.
func (t *text) pause() ([]byte, error) {
	if t.framing.Gap == 0 {
		t.spoil(errBroken)
	}
	return t.end()
}

// patience is how long to wait for the next byte of a code that has begun.
func (t *text) patience() time.Duration {
	if t.framing.Gap > 0 {
		return t.framing.Gap
	}
	return stallTime
}

// end ends the code, if one has begun: a line feed after a carriage return ends
// nothing.
func (t *text) end() ([]byte, error) {
	if !t.begun() {
		return nil, nil
	}
	got, bad := t.got, t.bad
	t.got, t.bad = t.got[:0], nil
	if bad != nil {
		return nil, bad
	}
	code, pre := bytes.CutPrefix(got, []byte(t.framing.Prefix))
	code, suf := bytes.CutSuffix(code, []byte(t.framing.Suffix))
	switch {
	case !pre || !suf:
		return nil, errAffix
	case len(code) == len(symbology(code)):
		return nil, errEmpty
	case len(code) > MaxCode:
		return nil, errLong
	case slices.ContainsFunc(code, noise):
		return nil, errNoise
	}
	return slices.Clone(code), nil
}

// noise says if b is in no code: control characters but the separators of GS1
// and ISO 15434, and 0xFF, which is in no encoding and is what a bad line gives.
func noise(b byte) bool {
	switch {
	case b == 0x04, b >= 0x1C && b <= 0x1F: // EOT; FS, GS, RS, US
		return false
	}
	return b < ' ' || b == 0x7F || b == 0xFF
}

// symbology is the AIM identifier that code begins with, or empty.
func symbology(code []byte) string {
	if len(code) < 3 || code[0] != ']' {
		return ""
	}
	letter := code[1] >= 'A' && code[1] <= 'Z' || code[1] >= 'a' && code[1] <= 'z'
	modifier := code[2] >= '0' && code[2] <= '9' || code[2] >= 'A' && code[2] <= 'Z' || code[2] >= 'a' && code[2] <= 'z'
	if !letter || !modifier {
		return ""
	}
	return string(code[:3])
}

// Serial is a barcode scanner on a serial line. Its wire does not tell whether
// a scanner is at the other end: it counts as up while the line is open.
func Serial(name string, dial Dial, framing Framing) Device {
	return Device{name: name, dial: dial, serve: func(ctx context.Context, line io.ReadWriteCloser, o outlet) error {
		t := &text{framing: framing}
		return gather(ctx, line, o, t, func(b []byte) {
			for _, c := range b {
				o.code(t.put(c))
			}
		})
	}}
}

// code passes on what text returned.
func (o outlet) code(code []byte, err error) {
	switch {
	case err != nil:
		o.refuse(err)
	case code != nil:
		o.scanned(code)
	}
}

// gather reads line until it is over and gives what arrives to feed, which
// fills t.
func gather(ctx context.Context, line io.ReadWriteCloser, o outlet, t *text, feed func([]byte)) error {
	in := listen(line)
	defer in.close()
	o.up()
	b, err := in.next(ctx, settleTime)
	if err == nil {
		t.spoil(errMidway)
	}
	for {
		switch {
		case errors.Is(err, errQuiet):
			if t.begun() {
				o.code(t.pause())
			}
		case err != nil:
			return err
		}
		feed(b)
		wait := time.Duration(0)
		if t.begun() {
			wait = t.patience()
		}
		b, err = in.next(ctx, wait)
	}
}
