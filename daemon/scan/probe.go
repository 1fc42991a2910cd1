package scan

import (
	"context"
	"errors"
	"io"
	"time"
)

// BaudPN532 is the speed of a PN532 on a serial line, as it comes.
const BaudPN532 = 115200

const (
	// probeTries is how often a probe asks: the first may only wake the chip.
	probeTries = 3

	// soundLength is how much of what a line says is looked at: some codes.
	soundLength = 256

	// textLength is the shortest line that counts as text: no carton has a shorter
	// code, and noise seldom makes as much.
	textLength = 4
)

// ProbePN532 reports whether a PN532 answers on line, and closes line. It wakes the
// chip and asks for its version.
func ProbePN532(ctx context.Context, line io.ReadWriteCloser) bool {
	t := &talk{line: line, in: listen(line)}
	defer t.in.close()
	for range probeTries {
		_, err := t.ask(ctx, cmdSAM, 1, 0, 1)
		if err == nil {
			var data []byte
			if data, err = t.ask(ctx, cmdFirmware); err == nil {
				return len(data) == 4 && data[0] == chipPN532
			}
		}
		if errors.Is(err, errOver) {
			return false
		}
	}
	return false
}

// Sound is what is to be heard on a line without asking.
type Sound int

const (
	Silence Sound = iota
	Text          // lines, as a barcode scanner sends them
	Noise         // something else
)

// Listen listens on line for a while, and closes line. What was heard is forgotten.
func Listen(ctx context.Context, line io.ReadCloser, limit time.Duration) Sound {
	in := listen(line)
	defer in.close()
	var said []byte
	for until := time.Now().Add(limit); len(said) < soundLength; {
		left := time.Until(until)
		if left <= 0 {
			break
		}
		b, err := in.next(ctx, left)
		if err != nil {
			break // the time is over, or the line
		}
		said = append(said, b...)
		if isText(said) {
			break
		}
	}
	defer clear(said)
	switch {
	case isText(said):
		return Text
	case len(said) > 0:
		return Noise
	}
	return Silence
}

// isText says if said ends with a whole line and has nothing that no scanner sends.
func isText(said []byte) bool {
	n := 0
	for _, b := range said {
		if noise(b) && b != '\r' && b != '\n' {
			return false
		}
		if !noise(b) {
			n++
		}
	}
	last := len(said) - 1
	return n >= textLength && (said[last] == '\r' || said[last] == '\n')
}
