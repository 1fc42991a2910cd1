package card

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// command is a command and its parameter as they stand on the wire.
type command uint16

const (
	cmdReset       command = 0x10FF
	cmdSelfTest    command = 0x11FF
	cmdFind        command = 0x2001
	cmdSelect      command = 0x2002
	cmdReadText    command = 0x3001 // text and photograph
	cmdReadAddress command = 0x3003 // the newest address; here only to see whether a card that was read still lies there
)

func (c command) String() string {
	switch c {
	case cmdReset:
		return "reset"
	case cmdSelfTest:
		return "self-test"
	case cmdFind:
		return "find card"
	case cmdSelect:
		return "select card"
	case cmdReadText:
		return "read text"
	case cmdReadAddress:
		return "read address"
	}
	return fmt.Sprintf("command %04x", uint16(c))
}

// frame is the command as it goes out.
func (c command) frame() []byte {
	b := []byte{0xAA, 0xAA, 0xAA, 0x96, 0x69, 0x00, 0x03, byte(c >> 8), byte(c), 0}
	b[9] = b[5] ^ b[6] ^ b[7] ^ b[8]
	return b
}

// limit is how long an answer may take: what readers need in the field, plus
// the time that command and answer need on the wire at baud.
func (c command) limit(baud int) time.Duration {
	needs, answer := 200*time.Millisecond, 20 // vendors wait 100 to 200 ms for find and select
	switch c {
	case cmdSelfTest, cmdReset:
		needs = 300 * time.Millisecond
	case cmdReadText:
		needs, answer = 2*time.Second, 1295 // a read takes about 1 s
	case cmdReadAddress:
		needs, answer = 1500*time.Millisecond, 96 // 70 bytes of address
	}
	bits := 10 * (len(c.frame()) + answer) // a start and a stop bit with each byte
	return needs + time.Duration(bits)*time.Second/time.Duration(baud)
}

// status is the reader's verdict: the third byte of every answer.
type status byte

const (
	statusOK        status = 0x90
	statusFound     status = 0x9F
	statusNotFound  status = 0x80
	statusOrder     status = 0x34
	statusNoContent status = 0x91
	statusUnknown   status = 0x21 // of a command, not of a card
)

// String is the verdict in words, with its number.
func (s status) String() string {
	words, _ := s.meaning()
	return fmt.Sprintf("%s (%02x)", words, byte(s))
}

// blame is who must change something before it goes better.
type blame int

const (
	nobody   blame = iota
	theCard        // lay it again, or it is broken
	theLine        // bytes were lost or bent
	theSetup       // the reader is broken, or not made for this
)

// meaning is the one table of the reader's verdicts.
func (s status) meaning() (words string, who blame) {
	switch s {
	case statusOK:
		return "done", nobody
	case statusFound:
		return "card found", nobody
	case 0x10:
		return "the reader got a wrong checksum", theLine
	case 0x11:
		return "the reader got a wrong length, or too little in time", theLine
	case statusUnknown:
		return "the reader does not know the command", theSetup
	case 0x23:
		return "the reader may not carry out the command", theSetup
	case 0x24:
		return "the reader does not know what went wrong", theSetup
	case 0x31:
		return "the card does not accept the reader's security module", theCard
	case 0x32:
		return "the security module does not accept the card", theCard
	case 0x33:
		return "what the card says does not verify", theCard
	case statusOrder:
		return "no card found yet", theCard
	case 0x37:
		return "the fingerprint does not verify", theCard
	case 0x3F:
		return "what the card says has a wrong length", theCard
	case 0x40:
		return "not a kind of card the reader knows", theCard
	case 0x41:
		return "reading the card failed", theCard
	case 0x47:
		return "the card gave no random number", theCard
	case 0x50:
		return "writing the card failed", theCard
	case 0x60:
		return "the security module failed its self-test", theSetup
	case 0x61:
		return "the security module could not be logged in to", theSetup
	case 0x66:
		return "the security module is not authorised", theSetup
	case statusNotFound:
		return "no card, or the same card was not lifted", theCard
	case 0x81:
		return "selecting the card failed", theCard
	case statusNoContent:
		return "the card does not hold that", theCard
	}
	return "a status without a meaning", theSetup
}

const (
	preamble = "\xaa\xaa\xaa\x96\x69"

	textSize  = 256
	photoSize = 1024

	// verdict, two lengths, text, photograph, check byte
	textFrame = 3 + 4 + textSize + photoSize + 1

	// maxSize is the longest answer there is: text, photograph and fingerprints.
	maxSize = 0x090A
)

// decoder finds answers in a stream of bytes. It keeps the verdict and, when
// asked to, the text; everything else is summed and dropped as it arrives. It
// never looks for a preamble inside a frame, because photographs may hold one.
type decoder struct {
	at   int // bytes of the frame so far, preamble and length included
	size int // bytes after the length, as announced
	sum  byte
	text bool                   // keep the text
	kept [3 + 4 + textSize]byte // until wipe
}

// event is what a decoder has seen.
type event int

const (
	nothingYet event = iota
	whole            // a frame that adds up
	bent             // a frame that does not
)

// expect wipes the decoder and gets it ready for the answer to c. What an
// answer broke off is forgotten with it: the reader speaks only when spoken to.
func (d *decoder) expect(c command) {
	d.wipe()
	d.text = c == cmdReadText
}

// wipe forgets everything.
func (d *decoder) wipe() { *d = decoder{} }

// begun says if a frame has started and not ended.
func (d *decoder) begun() bool { return d.at >= len(preamble) }

// feed takes bytes up to the end of the first frame and says how many.
func (d *decoder) feed(b []byte) (n int, e event) {
	for i, c := range b {
		if e := d.step(c); e != nothingYet {
			return i + 1, e
		}
	}
	return len(b), nothingYet
}

func (d *decoder) step(b byte) event {
	switch {
	case d.at < len(preamble):
		d.hunt(b)
		return nothingYet
	case d.at == 5:
		d.size, d.sum = int(b)<<8, b
		d.at++
		return nothingYet
	case d.at == 6:
		d.length(b)
		return nothingYet
	}
	i := d.at - 7
	d.at++
	if i == d.size-1 {
		d.at = 0
		if b != d.sum {
			return bent
		}
		return whole
	}
	d.sum ^= b
	if i < 3 || d.text && i < len(d.kept) {
		d.kept[i] = b
	}
	// Some readers, when their card is slow, announce five bytes and send these
	// three. Waiting for the rest would only cost time.
	if i == 2 && d.size == 5 && d.kept[0] == 5 && d.kept[1] == 5 && d.kept[2] == 5 {
		d.at = 0
		return bent
	}
	return nothingYet
}

// hunt looks for the next byte of the preamble.
func (d *decoder) hunt(b byte) {
	switch {
	case b == preamble[d.at]:
		d.at++
	case b == 0xAA && d.at == 3:
		// one AA more than needed: the last three count
	case b == 0xAA:
		d.at = 1
	default:
		d.at = 0
	}
}

// length takes the second byte of the length. One that no answer has was not a
// length, so the preamble before it was noise, and these two bytes may begin a
// real one.
func (d *decoder) length(low byte) {
	high := byte(d.size >> 8)
	d.size |= int(low)
	d.sum ^= low
	d.at++
	if d.size < 4 || d.size > maxSize {
		d.at = 0
		d.hunt(high)
		d.hunt(low)
	}
}

// verdict of the last whole frame.
func (d *decoder) verdict() status { return status(d.kept[2]) }

// isText says if the last whole frame is a card's text and photograph.
func (d *decoder) isText() bool {
	return d.size == textFrame && [4]byte(d.kept[3:7]) == [4]byte{textSize >> 8, 0, photoSize >> 8, 0}
}

// block is the text of the last whole frame, in place: it goes with wipe.
func (d *decoder) block() *[textSize]byte { return (*[textSize]byte)(d.kept[7:]) }

// answers says if the last whole frame can be an answer to c. If it cannot it
// is the late answer to something asked before.
func (d *decoder) answers(c command) bool {
	switch {
	case c == cmdFind:
		return d.verdict() != statusOK
	case c == cmdReadText && d.verdict() == statusOK:
		return d.isText()
	}
	return d.verdict() != statusFound
}

// What can become of a question. Nobody outside branches on these.
var (
	errNoAnswer = errors.New("no answer")
	errBent     = errors.New("the answer is damaged")
	errBroken   = errors.New("the answer broke off")
	errForeign  = errors.New("the answers are to other questions")
	errOver     = errors.New("the line is over")
)

// dialogue is one line while it lasts. One goroutine asks; pump alone reads.
type dialogue struct {
	line   io.ReadWriteCloser
	baud   int
	dec    decoder
	chunks chan []byte   // pump's buffer, lent
	taken  chan struct{} // and given back
	over   chan struct{} // closed by close
	dead   chan error    // why pump ended; 1, so that it can
}

// open starts listening on line.
func open(line io.ReadWriteCloser, baud int) *dialogue {
	d := &dialogue{line: line, baud: baud, chunks: make(chan []byte), taken: make(chan struct{}),
		over: make(chan struct{}), dead: make(chan error, 1)}
	go d.pump()
	return d
}

// close ends the line and waits for pump.
func (d *dialogue) close() {
	close(d.over)
	d.line.Close() // ends pump's read; the line is given up, whatever it says
	for range d.chunks {
		// pump closes it
	}
	d.dec.wipe()
}

// pump lends what arrives until the line dies or close is called.
func (d *dialogue) pump() {
	defer close(d.chunks)
	buf := make([]byte, 512)
	defer clear(buf)
	for {
		n, err := d.line.Read(buf)
		if n > 0 {
			select {
			case d.chunks <- buf[:n]:
			case <-d.over:
				return
			}
			select {
			case <-d.taken:
			case <-d.over:
				return
			}
		}
		if err != nil {
			d.dead <- err
			return
		}
	}
}

// give wipes a chunk and gives it back.
func (d *dialogue) give(b []byte) {
	clear(b)
	d.taken <- struct{}{} // pump is waiting for it
}

// ask sends c and waits for its answer, whose text, if any, stays in d.dec
// until the next question.
func (d *dialogue) ask(ctx context.Context, c command) (status, error) {
	d.dec.expect(c)
	if _, err := d.line.Write(c.frame()); err != nil {
		return 0, fmt.Errorf("%v: %w: %w", c, errOver, err)
	}
	limit := c.limit(d.baud)
	t := time.NewTimer(limit)
	defer t.Stop()
	foreign := false
	for {
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%v: %w: %w", c, errOver, ctx.Err())
		case <-t.C:
			return 0, fmt.Errorf("%v: %w within %v", c, d.why(foreign), limit.Round(time.Millisecond))
		case b, ok := <-d.chunks:
			if !ok {
				return 0, fmt.Errorf("%v: %w: %w", c, errOver, <-d.dead)
			}
			e := d.hear(c, b, &foreign)
			d.give(b)
			if e == bent {
				return 0, fmt.Errorf("%v: %w", c, errBent)
			}
			if e == whole {
				return d.dec.verdict(), nil
			}
		}
	}
}

// hear feeds b until an answer to c ends, and passes over answers to anything else.
func (d *dialogue) hear(c command, b []byte, foreign *bool) event {
	for len(b) > 0 {
		n, e := d.dec.feed(b)
		b = b[n:]
		if e == bent || e == whole && d.dec.answers(c) {
			return e
		}
		if e == whole {
			*foreign = true
			d.dec.expect(c)
		}
	}
	return nothingYet
}

// why says what was wrong with an answer that did not come in time.
func (d *dialogue) why(foreign bool) error {
	switch {
	case d.dec.begun():
		return errBroken
	case foreign:
		return errForeign
	}
	return errNoAnswer
}
