package scan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

const (
	// lookPause is the pause after each look for a card: a person does not notice it.
	lookPause = 150 * time.Millisecond

	// goneAfter is how many looks in a row must miss a card before it counts as
	// taken away. PN532s miss a card that stays every second time, if its UID has 7
	// bytes (Adafruit-PN532 issue 52).
	goneAfter = 3

	// ackLimit bounds the acknowledgement of a command: the manual says 15 ms, USB
	// adapters add 16.
	ackLimit = 100 * time.Millisecond

	// answerLimit bounds an answer after that. Looking takes the longest: three tries
	// of about 30 ms each, and a frame needs up to 23 ms on the wire.
	answerLimit = 300 * time.Millisecond

	// repeats is how often a damaged answer is asked for again, or a command that was
	// not understood is sent again. More often means that the line is bad.
	repeats = 2

	// wakeLimit is how long a reader that was just plugged in may take to answer.
	wakeLimit = 1500 * time.Millisecond

	// patience is how many looks in a row may go wrong before the line is opened anew.
	patience = 3

	// chipPN532 is what the chip calls itself.
	chipPN532 = 0x32
)

// What can become of a command. Nobody outside branches on these.
var (
	errNoAnswer = errors.New("no answer")
	errBent     = errors.New("the answer is damaged")
	errSyntax   = errors.New("the reader does not understand the command")
	errNak      = errors.New("the reader does not get the command whole")
	errExtended = errors.New("the answer is longer than any")
	errAnswer   = errors.New("the answer makes no sense")

	errNameless = errors.New("card with a made-up UID, or half of one")
)

// PN532 is a staff card reader with NXP's PN532 on a serial line, 115200 baud.
// A card that is held against it makes one event, until it is taken away. It
// counts as up when the chip has said that it is one.
func PN532(name string, dial Dial) Device {
	n := &nfc{}
	return Device{name: name, dial: dial, serve: n.serve}
}

// nfc is what is in front of the reader. It outlives a line: a plug that
// bounces does not hold a card up anew. Owned by the device's goroutine.
type nfc struct {
	there  []byte // UID that lies there; empty: none
	missed int    // looks since it was last seen
}

func (n *nfc) serve(ctx context.Context, line io.ReadWriteCloser, o outlet) error {
	t := &talk{line: line, in: listen(line)}
	defer t.in.close()
	if err := t.wake(ctx); err != nil {
		return err
	}
	o.up()
	failed := 0
	for {
		err := n.look(ctx, t, o)
		if errors.Is(err, errOver) {
			return err
		}
		failed++
		if err == nil {
			failed = 0
		}
		if failed == patience {
			return fmt.Errorf("%d failures in a row: %w", patience, err)
		}
		if err := t.rest(ctx); err != nil {
			return err
		}
	}
}

// look takes one look for a card.
func (n *nfc) look(ctx context.Context, t *talk, o outlet) error {
	data, err := t.ask(ctx, cmdList, 1, 0) // one card, ISO 14443 A at 106 kbit/s
	if err != nil {
		return err
	}
	uid, ok := target(data)
	if !ok {
		return fmt.Errorf("%v: %w", cmdList, errAnswer)
	}
	n.saw(uid, o)
	return nil
}

// saw takes what a look showed; no bytes: nothing.
func (n *nfc) saw(uid []byte, o outlet) {
	made := nameless(uid)
	if made {
		uid = []byte{0} // all of them are one: each look shows another
	}
	if len(uid) > 0 && bytes.Equal(uid, n.there) {
		n.missed = 0
		return
	}
	// Two cards at once are seen in turns. The first stays the one that is there
	// until it is not seen any more.
	n.missed++
	if len(n.there) > 0 && n.missed < goneAfter {
		return
	}
	n.there, n.missed = bytes.Clone(uid), 0
	switch {
	case made:
		o.refuse(errNameless)
	case len(uid) > 0:
		o.held(NFC, uid)
	}
}

// talk is a conversation with the chip while the line lasts.
type talk struct {
	line  io.Writer
	in    *intake
	left  []byte // of what arrived, not yet looked at
	dec   deframer
	alien []byte // what came before the chip was known, at most alienLength
}

// alienLength is enough of what a wrong device sends to tell what it is.
const alienLength = 64

// wake waits until the chip answers, sees that it is the right one and sets it up.
func (t *talk) wake(ctx context.Context) error {
	until := time.Now().Add(wakeLimit)
	_, err := t.ask(ctx, cmdSAM, 1, 0, 1) // normal mode, no time-out, IRQ
	for errors.Is(err, errNoAnswer) && time.Now().Before(until) {
		_, err = t.ask(ctx, cmdSAM, 1, 0, 1)
	}
	if err != nil {
		return t.suspect(err)
	}
	data, err := t.ask(ctx, cmdFirmware)
	switch {
	case err != nil:
		return t.suspect(err)
	case len(data) != 4:
		return fmt.Errorf("%v: %w", cmdFirmware, errAnswer)
	case data[0] != chipPN532:
		return fmt.Errorf("wrong device: it calls itself chip %02X, not PN5%02X", data[0], chipPN532)
	}
	// Without this a look lasts until a card comes. Two tries more than one, because
	// a card that was seen before does not answer the first.
	_, err = t.ask(ctx, cmdRF, 5, 0xFF, 0x01, 0x02)
	return err
}

// suspect says more of a device that did not answer as a PN532 does. It tells
// what kind it is and nothing of what it sent: that may be a card.
func (t *talk) suspect(err error) error {
	switch {
	case errors.Is(err, errOver):
		return err
	case errors.Is(err, errNak), errors.Is(err, errSyntax):
		return fmt.Errorf("%w: it is a PN532, on a bad wire or one that is not sound", err) // nothing else says so
	case len(t.alien) == 0:
		return fmt.Errorf("%w: is it a PN532, switched to serial (HSU), at 115200 baud?", err)
	case bytes.Contains(t.alien, []byte("\xaa\xaa\xaa\x96\x69")):
		return fmt.Errorf("wrong device: it speaks as a residents' card reader does: %w", err)
	case bytes.Contains(t.alien, []byte("\xfa\xfb")):
		return fmt.Errorf("wrong device: it speaks as a vending board does: %w", err)
	case bytes.ContainsAny(t.alien, "\r\n") && !slices.ContainsFunc(t.alien, unprintable):
		return fmt.Errorf("wrong device: it sends lines as a barcode scanner does: %w", err)
	}
	return fmt.Errorf("wrong device or wrong speed: what it sends is not from a PN532: %w", err)
}

// unprintable says if b is in no line of a barcode scanner.
func unprintable(b byte) bool { return noise(b) && b != '\r' && b != '\n' }

// ask sends c and returns what the answer says, in place until the next ask.
func (t *talk) ask(ctx context.Context, c order, args ...byte) ([]byte, error) {
	t.dec, t.left = deframer{}, nil // a late answer is to something asked before
	frame := c.frame(args...)
	if err := t.say(c, frame); err != nil {
		return nil, err
	}
	acked, until := false, time.Now().Add(ackLimit)
	for again := 0; ; {
		h, err := t.hear(ctx, c, until, acked)
		if err != nil {
			return nil, err
		}
		switch h {
		case heardAck:
			if !acked { // a second one buys no time
				acked, until = true, time.Now().Add(answerLimit)
			}
			continue
		case heardAnswer:
			if t.dec.answers(c) { // even if its acknowledgement got lost
				t.alien = nil
				return t.dec.data(), nil
			}
			continue // the late answer to something asked before
		case heardError:
			return nil, fmt.Errorf("%v: %w", c, errSyntax)
		case heardExtended:
			return nil, fmt.Errorf("%v: %w", c, errExtended)
		case heardForeign:
			continue // our own frame, from a line that echoes, is no answer either
		}
		// Damaged on its way to us or to the chip.
		why, repeat := errBent, []byte(nakFrame)
		if h == heardNak {
			why, repeat = errNak, frame
		}
		if again++; again > repeats {
			return nil, fmt.Errorf("%v: %w", c, why)
		}
		if err := t.say(c, repeat); err != nil {
			return nil, err
		}
		until = time.Now().Add(answerLimit)
	}
}

func (t *talk) say(c order, frame []byte) error {
	if _, err := t.line.Write(frame); err != nil {
		return fmt.Errorf("%v: %w: %w", c, errOver, err)
	}
	return nil
}

// hear waits for the next frame, until a moment at most.
func (t *talk) hear(ctx context.Context, c order, until time.Time, acked bool) (heard, error) {
	for {
		n, h := t.dec.feed(t.left)
		t.left = t.left[n:]
		if h != heardNothing {
			return h, nil
		}
		limit := time.Until(until)
		if limit <= 0 {
			return 0, t.late(c, acked)
		}
		b, err := t.in.next(ctx, limit)
		switch {
		case errors.Is(err, errQuiet):
			return 0, t.late(c, acked)
		case err != nil:
			return 0, fmt.Errorf("%v: %w", c, err)
		}
		t.left = b
		t.alien = append(t.alien, b[:min(len(b), alienLength-len(t.alien))]...)
	}
}

// late says that nothing came in time, and has the chip stop what it does: it
// would take the next command for a mistake.
func (t *talk) late(c order, acked bool) error {
	if acked {
		if err := t.say(c, []byte(ackFrame)); err != nil {
			return err
		}
	}
	if t.dec.begun() {
		return fmt.Errorf("%v: %w: it broke off", c, errBent)
	}
	return fmt.Errorf("%v: %w", c, errNoAnswer)
}

// rest pauses between looks. What the chip sends now answers nobody.
func (t *talk) rest(ctx context.Context) error {
	until := time.Now().Add(lookPause)
	for limit := lookPause; limit > 0; limit = time.Until(until) {
		if _, err := t.in.next(ctx, limit); err != nil && !errors.Is(err, errQuiet) {
			return err
		}
	}
	return nil
}
