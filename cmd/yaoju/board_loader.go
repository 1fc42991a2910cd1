package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Messages of STK500v2 (Atmel's application note AVR068) that writing flash takes.
const (
	stkStart, stkToken = 0x1b, 0x0e
	stkOverhead        = 6 // start, number, length of two bytes, token; sum

	stkSignOn       = 0x01
	stkLoadAddress  = 0x06
	stkEnter        = 0x10
	stkLeave        = 0x11
	stkProgramFlash = 0x13
	stkReadFlash    = 0x14
	stkSignature    = 0x1b

	stkOK = 0x00
)

const (
	// loaderAnswer bounds the wait for one answer. Page and command are 25 ms on the
	// line, erasing and writing take 9; a busy Pi is late by some hundred.
	loaderAnswer = time.Second

	// signOnAnswer bounds the wait for a bootloader that may not be there. One that
	// has just started waits 0.83 s for a programmer.
	signOnAnswer = 100 * time.Millisecond

	// leaveTime is longer than a chip takes from leaving its bootloader to being in
	// it anew: through blank flash that is 8 to 16 ms.
	leaveTime = 50 * time.Millisecond
)

// The ATmega2560.
var chipSignature = []byte{0x1e, 0x98, 0x01}

var (
	errNoAnswer = errors.New("the bootloader did not answer")
	errNoLoader = errors.New("no bootloader answered")
)

// An untouchedError is a flash that ended before anything was written.
type untouchedError struct{ error }

// loader is the bootloader at the other end of a line.
//
// Nothing is asked twice once writing has begun. An answer that does not come may
// mean that the board has restarted; the bootloader of a Mega would then erase the
// first page before it writes the next, and with that page the way back to it.
type loader struct {
	l   *line
	seq byte
}

// ask sends one message and returns what comes behind the status in its answer.
func (b *loader) ask(limit time.Duration, body ...byte) ([]byte, error) {
	b.seq++
	m := append([]byte{stkStart, b.seq, byte(len(body) >> 8), byte(len(body)), stkToken}, body...)
	b.l.forget()
	if _, err := b.l.rw.Write(append(m, xor(m))); err != nil {
		return nil, err
	}
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for {
		heard, news, err := b.l.lately()
		if answer := findAnswer(heard, b.seq, body[0]); answer != nil {
			if answer[1] != stkOK {
				return nil, fmt.Errorf("the bootloader refuses command 0x%02x: status 0x%02x", body[0], answer[1])
			}
			return answer[2:], nil
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-news:
		case <-deadline.C:
			return nil, fmt.Errorf("%w to command 0x%02x within %v", errNoAnswer, body[0], limit)
		}
	}
}

// findAnswer finds the body of the answer to a command in what was heard: command,
// status, data. Nil is that it is not there, or not yet whole.
func findAnswer(heard []byte, seq, command byte) []byte {
	head := []byte{stkStart, seq}
	for at := bytes.Index(heard, head); at >= 0; {
		if m := heard[at:]; len(m) >= stkOverhead {
			end := stkOverhead - 1 + int(binary.BigEndian.Uint16(m[2:]))
			if m[4] == stkToken && end < len(m) && end >= stkOverhead+1 && m[5] == command && xor(m[:end]) == m[end] {
				return m[5:end]
			}
		}
		next := bytes.Index(heard[at+1:], head)
		if next < 0 {
			return nil
		}
		at += 1 + next
	}
	return nil
}

// xor is the byte that ends a message.
func xor(m []byte) (sum byte) {
	for _, x := range m {
		sum ^= x
	}
	return sum
}

// hold asks for the bootloader until it answers. From then on it waits some seconds
// for more.
func (b *loader) hold(ctx context.Context, limit time.Duration) error {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline) && ctx.Err() == nil; {
		b.seq = 0 // some take no other number first
		name, err := b.ask(signOnAnswer, stkSignOn)
		switch {
		case err == nil && bytes.Contains(name, []byte("AVRISP_2")):
			return nil
		case err == nil:
			return fmt.Errorf("a programmer on %s calls itself %q: it is not the board's bootloader", b.l.path, name)
		case !errors.Is(err, errNoAnswer):
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%w on %s within %v", errNoLoader, b.l.path, limit)
}

// enter makes sure of the chip and begins.
func (b *loader) enter() error {
	for i, want := range chipSignature {
		got, err := b.ask(loaderAnswer, stkSignature, 4, 0x30, 0, byte(i), 0)
		if err != nil {
			return err
		}
		if len(got) == 0 || got[0] != want {
			return fmt.Errorf("the chip is no ATmega2560: byte %d of its signature is % x, not %02x", i, got, want)
		}
	}
	// How a programmer of pins would wake the chip; a bootloader needs none of it.
	_, err := b.ask(loaderAnswer, stkEnter, 200, 100, 25, 32, 0, 0x53, 3, 0xac, 0x53, 0, 0)
	return err
}

// again leaves the bootloader and comes back to it, through a first page that leads
// there. Only a bootloader that has just started erases the first page before it
// writes it.
func (b *loader) again(ctx context.Context) error {
	if _, err := b.ask(loaderAnswer, stkLeave, 1, 1); err != nil {
		return err
	}
	if err := sleep(ctx, leaveTime); err != nil {
		return err
	}
	if err := b.hold(ctx, loaderLimit); err != nil {
		return err
	}
	return b.enter()
}

// begin gets a bootloader that has just started. A programmer that was killed may
// have left this one in mid-work: then it does not read on from the first page.
func (b *loader) begin(ctx context.Context) error {
	if err := b.enter(); err != nil {
		return err
	}
	next, err := b.readOn()
	if err != nil {
		return err
	}
	first, err := b.read(0)
	switch {
	case err != nil:
		return err
	case bytes.Equal(next, first):
		return nil
	case bytes.HasPrefix(first, jumpToLoader):
		return b.again(ctx)
	}
	return errors.New("the bootloader is busy with an earlier programmer: wait ten seconds and start again")
}

// load says where the next page is read or written, in bytes.
func (b *loader) load(at int) error {
	words := binary.BigEndian.AppendUint32([]byte{stkLoadAddress}, uint32(at/2)|1<<31) // the bit: an address of more than 16
	_, err := b.ask(loaderAnswer, words...)
	return err
}

// write writes pages from the first on, in order: the bootloader of a Mega erases in
// that order, whichever page it is told to write.
func (b *loader) write(pages []byte) error {
	for at := 0; at < len(pages); at += pageSize {
		err := b.load(at)
		if err == nil {
			body := append([]byte{stkProgramFlash, pageSize >> 8, pageSize & 0xff, 0xc1, 10, 0x40, 0x4c, 0x20, 0xff, 0xff}, pages[at:at+pageSize]...)
			_, err = b.ask(loaderAnswer, body...)
		}
		if err != nil {
			return fmt.Errorf("write the page at 0x%05x: %w", at, err)
		}
	}
	return nil
}

// readOn reads the page that follows what was read or written last.
func (b *loader) readOn() ([]byte, error) {
	page, err := b.ask(loaderAnswer, stkReadFlash, pageSize>>8, pageSize&0xff, 0x20)
	if err == nil && len(page) != pageSize+1 { // a status ends it
		err = fmt.Errorf("asked for a page the bootloader sends %d bytes", len(page))
	}
	if err != nil {
		return nil, err
	}
	return page[:pageSize], nil
}

// read reads the page at an address.
func (b *loader) read(at int) ([]byte, error) {
	err := b.load(at)
	var page []byte
	if err == nil {
		page, err = b.readOn()
	}
	if err != nil {
		return nil, fmt.Errorf("read the page at 0x%05x: %w", at, err)
	}
	return page, nil
}

// check reads pages back.
func (b *loader) check(pages []byte) error {
	for at := 0; at < len(pages); at += pageSize {
		page, err := b.read(at)
		if err != nil {
			return err
		}
		for i, want := range pages[at : at+pageSize] {
			if page[i] != want {
				return fmt.Errorf("read back, 0x%05x holds %02x and not %02x: the flash is worn, or writing was disturbed", at+i, page[i], want)
			}
		}
	}
	return nil
}

// writeImage writes an image in two steps, and reads each back. From the first page of
// the first step to that of the second, every start of the board leads into its
// bootloader. Only while one of those two is erased and written is nothing sure.
func (b *loader) writeImage(ctx context.Context, image []byte) error {
	image = wholePages(image)
	first, guarded := image[:pageSize], guard(image)
	if err := b.begin(ctx); err != nil {
		return untouchedError{err}
	}
	for _, step := range []func() error{
		func() error { return b.write(guarded) },
		func() error { return b.check(guarded) },
		func() error { return b.again(ctx) },
		func() error { return b.write(first) },
		func() error { return b.check(first) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	// Unheard it starts what was written when it has been silent for some seconds.
	if _, err := b.ask(loaderAnswer, stkLeave, 1, 1); err != nil && !errors.Is(err, errNoAnswer) {
		return err
	}
	return nil
}
