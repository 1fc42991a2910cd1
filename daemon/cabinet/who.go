package cabinet

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"yaoju/daemon/card"
	"yaoju/daemon/machine"
	"yaoju/daemon/machine/vending"
	"yaoju/daemon/port"
	"yaoju/daemon/scan"
	"yaoju/daemon/status"
	"yaoju/protocol/board"
)

// who is a kind of device that may be at the end of a serial line, in words.
type who string

const (
	nobody         who = "" // or it cannot be asked
	motorBoard     who = "a motor board"
	vendingBoard   who = "a vending board"
	cardReader     who = "a card reader"
	badgeReader    who = "a staff card reader (PN532)"
	barcodeScanner who = "a barcode scanner"
	stranger       who = "a device that is none of ours, or has another speed,"
)

// finding is who answered on a line, and at which speed.
type finding struct {
	who  who
	baud int
}

const (
	// listenTime is how long a scanner's line is listened to: a person who sees that it
	// does not work tries again and again.
	listenTime = 1500 * time.Millisecond

	// quietTime is how long a board on USB is left alone after its line was opened:
	// opening resets it, and a bootloader takes any byte in its first second for a
	// programmer and stays.
	quietTime = 2 * time.Second
)

// question finds out whether one kind of device is at the end of a line. is closes
// the line.
type question struct {
	who  who
	baud int
	is   func(context.Context, io.ReadWriteCloser) bool
}

// questions are all that may be asked on p's line. A driver that speaks has been
// speaking there already, so on its line what speaks comes first, because it is
// quicker; else what only listens does.
func (p *part) questions(sound *scan.Sound) []question {
	own, text := board.Baud, usualScannerBaud
	switch p.kind {
	case motorBoard:
		own = p.baud
	case barcodeScanner:
		text = p.baud
	}
	speaking := []question{
		{motorBoard, own, func(ctx context.Context, line io.ReadWriteCloser) bool {
			if onUSB(p.path) {
				sleep(ctx, quietTime)
			}
			return machine.Probe(ctx, line)
		}},
		{badgeReader, scan.BaudPN532, func(ctx context.Context, line io.ReadWriteCloser) bool { return scan.ProbePN532(ctx, line) }},
	}
	bauds := []int{115200, 9600} // what card readers are set to
	if p.kind == cardReader && !slices.Contains(bauds, p.baud) {
		bauds = append(bauds, p.baud)
	}
	for _, baud := range bauds {
		speaking = append(speaking, question{cardReader, baud, func(ctx context.Context, line io.ReadWriteCloser) bool { return card.Probe(ctx, line, baud) }})
	}
	listening := []question{
		{vendingBoard, vending.Baud, func(ctx context.Context, line io.ReadWriteCloser) bool { return vending.Probe(ctx, line) }},
		{barcodeScanner, text, func(ctx context.Context, line io.ReadWriteCloser) bool {
			heard := scan.Listen(ctx, line, listenTime)
			*sound = max(*sound, heard)
			return heard == scan.Text
		}},
	}
	if p.kind == vendingBoard || p.kind == barcodeScanner {
		return append(listening, speaking...)
	}
	return append(speaking, listening...)
}

// ask finds out who is at the end of p's line, in at most some 9 s. Nothing that it
// asks moves anything. The line is free again when it returns. The error is that the
// line cannot be opened, or that of ctx.
func ask(ctx context.Context, p *part) (finding, error) {
	var sound scan.Sound
	for _, q := range p.questions(&sound) {
		line, err := port.Open(p.path, q.baud)
		if err != nil {
			return finding{}, err
		}
		if q.is(ctx, line) {
			return finding{q.who, q.baud}, nil
		}
		if ctx.Err() != nil {
			return finding{}, ctx.Err()
		}
	}
	if sound == scan.Noise {
		return finding{who: stranger}, nil
	}
	return finding{}, nil
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// onUSB reports whether path leads to a USB adapter, whose DTR line resets a board.
func onUSB(path string) bool {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		real = path
	}
	name := filepath.Base(real)
	return strings.HasPrefix(name, "ttyUSB") || strings.HasPrefix(name, "ttyACM")
}

// judge says how each part is, in words.
func judge(parts []*part) []Part {
	now := make([]condition, len(parts))
	for i, p := range parts {
		now[i] = p.condition()
	}
	all := make([]Part, len(parts))
	for i, p := range parts {
		all[i] = Part{Key: p.key, Name: p.name, What: p.what, Device: p.path, Refused: now[i].refused, answers: now[i].found.who}
		all[i].State, all[i].Why = verdict(i, parts, now)
	}
	return all
}

// verdict says how part i is, and what is wrong with it: Wrong if another device is
// in its place, or it in another's.
func verdict(i int, parts []*part, now []condition) (status.State, string) {
	p, c := parts[i], now[i]
	f := c.found
	line := fmt.Sprintf("the line of the %s (%s)", p.what, p.path)
	switch {
	case f.who == nobody && c.up:
		return status.Up, ""
	case f.who == stranger:
		return status.Wrong, line + " is answered by " + string(f.who) + ": is it the right plug, and the right speed?"
	case f.who != nobody && f.who != p.kind:
		return status.Wrong, line + " is answered by " + string(f.who) + remedy(i, parts, now)
	case f.who != nobody && f.baud != p.baud:
		return status.Down, fmt.Sprintf("the %s (%s) answers at %d bits per second and not at %d: set its baud to %d", p.what, p.path, f.baud, p.baud, f.baud)
	case c.up:
		return status.Up, ""
	case c.doubted:
		return status.Starting, line + " is being asked, because another part is missing"
	case f.who == nobody && !c.asked.IsZero():
		if at := answering(p.kind, parts, now); at >= 0 && at != i {
			return status.Wrong, fmt.Sprintf("nobody answers on %s, and %s answers on that of the %s (%s): exchange the two plugs or the two paths",
				line, p.kind, parts[at].what, parts[at].path)
		}
		return status.Silent, "nobody answers on " + line + ": has it power, and is its plug in the right place?"
	case c.why != "":
		return status.Down, c.why
	}
	return status.Starting, "no answer yet"
}

// remedy says what to do about the device found on the line of part i.
func remedy(i int, parts []*part, now []condition) string {
	for k, other := range parts {
		if k == i || other.kind != now[i].found.who || now[k].up && now[k].found.who == nobody && other.kind != barcodeScanner {
			continue
		}
		if now[k].found.who == parts[i].kind {
			return fmt.Sprintf(", and that of the %s (%s) by %s: exchange the two plugs or the two paths", other.what, other.path, parts[i].kind)
		}
		return fmt.Sprintf(", which is missing on that of the %s (%s): exchange the two plugs or the two paths", other.what, other.path)
	}
	found := now[i].found.who
	boards := (found == motorBoard || found == vendingBoard) && (parts[i].kind == motorBoard || parts[i].kind == vendingBoard)
	if boards {
		return ": plug " + string(parts[i].kind) + " in, or set board.kind to what is fitted"
	}
	return ", which is missing nowhere: plug " + string(parts[i].kind) + " in"
}

// answering is the part on whose line a device of this kind was found in place of its
// own, or -1.
func answering(kind who, parts []*part, now []condition) int {
	for k, p := range parts {
		if now[k].found.who == kind && p.kind != kind {
			return k
		}
	}
	return -1
}
