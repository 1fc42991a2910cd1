package bootsim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Messages of STK500v2 (Atmel's application note AVR068): start, number, length,
// token, body, and a byte that makes the exclusive or of all zero.
const (
	start    = 0x1b
	token    = 0x0e
	overhead = 6
	maxBody  = 275 // a page and its command
)

// Commands the bootloader knows.
const (
	cmdSignOn       = 0x01
	cmdSetParameter = 0x02
	cmdGetParameter = 0x03
	cmdLoadAddress  = 0x06
	cmdEnter        = 0x10
	cmdLeave        = 0x11
	cmdChipErase    = 0x12
	cmdProgramFlash = 0x13
	cmdReadFlash    = 0x14
	cmdProgramEE    = 0x15
	cmdReadEE       = 0x16
	cmdSignature    = 0x1b
	cmdSPI          = 0x1d

	statusOK     = 0x00
	statusFailed = 0xc0
)

// load is the bootloader: from its start until the programmer leaves or nobody
// speaks. Then the chip begins at address 0 again.
func (c *Chip) load(in <-chan []byte, line io.Writer) error {
	s := session{c: c}
	for limit := loaderWait; ; limit = loaderIdle {
		quiet := time.NewTimer(limit)
		select {
		case b, ok := <-in:
			quiet.Stop()
			if !ok {
				return io.EOF
			}
			for _, x := range b {
				answer, leave := s.take(x)
				if len(answer) > 0 {
					line.Write(answer) // a line that died shows in reading it
				}
				if leave {
					c.begin()
				}
				if leave || s.cut {
					return nil
				}
			}
		case <-c.reset:
			quiet.Stop()
			return errReset
		case <-quiet.C:
			if c.empty() && limit == loaderIdle {
				continue // in mid-session it does not start what is not there
			}
			c.begin()
			return nil
		}
	}
}

// empty reports what the bootloader looks at: nothing stands at address 0.
func (c *Chip) empty() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flash[0] == 0xff && c.flash[1] == 0xff
}

// session is one life of the bootloader.
type session struct {
	c     *Chip
	msg   []byte
	addr  int  // of the next access, in bytes
	erase int  // of the page that is erased next, in bytes: it counts up whatever page is written
	cut   bool // power was lost
}

// take takes one byte; a message that is whole is answered.
func (s *session) take(x byte) (answer []byte, leave bool) {
	s.msg = append(s.msg, x)
	m := s.msg
	size := 0
	if len(m) >= 4 {
		size = int(binary.BigEndian.Uint16(m[2:]))
	}
	switch {
	case m[0] != start, len(m) == 5 && m[4] != token, size > maxBody:
		s.msg = nil // not a message: wait for the next start
		return nil, false
	case len(m) < 5, len(m) < size+overhead:
		return nil, false
	}
	s.msg = nil
	sum := byte(0)
	for _, b := range m {
		sum ^= b
	}
	if sum != 0 || size == 0 {
		return nil, false
	}
	body := m[5 : 5+size]
	reply := s.obey(body)
	if s.cut {
		return nil, false
	}
	out := []byte{start, m[1], byte(len(reply) >> 8), byte(len(reply)), token}
	out = append(out, reply...)
	sum = 0
	for _, b := range out {
		sum ^= b
	}
	return append(out, sum), body[0] == cmdLeave
}

// obey carries out one command and returns the body of its answer.
func (s *session) obey(b []byte) []byte {
	ok := []byte{b[0], statusOK}
	failed := []byte{b[0], statusFailed}
	arg := func(i int) byte { // a command that is too short has zeros there
		if i < len(b) {
			return b[i]
		}
		return 0
	}
	switch b[0] {
	case cmdSignOn:
		return append(append(ok, 8), "AVRISP_2"...)
	case cmdGetParameter:
		return append(ok, map[byte]byte{0x90: 0x0f, 0x91: 2, 0x92: 10}[arg(1)]) // hardware and software versions
	case cmdSetParameter, cmdEnter, cmdLeave:
		return ok
	case cmdLoadAddress:
		if len(b) < 5 {
			return failed
		}
		s.addr = int(binary.BigEndian.Uint32(b[1:])&0x7fffffff) * 2 // it comes in words; bit 31 says that it is a long one
		return ok
	case cmdSignature:
		return append(ok, []byte{0x1e, 0x98, 0x01, 0}[arg(4)&3], statusOK)
	case cmdSPI:
		return s.spi(b)
	case cmdProgramFlash:
		n := int(arg(1))<<8 | int(arg(2))
		if len(b) != 10+n || !s.program(b[10:]) {
			return failed
		}
		return ok
	case cmdReadFlash:
		n := int(arg(1))<<8 | int(arg(2))
		s.c.mu.Lock()
		defer s.c.mu.Unlock()
		if n > PageSize || s.addr+n > FlashSize {
			return failed
		}
		ok = append(append(ok, s.c.flash[s.addr:s.addr+n]...), statusOK)
		s.addr += n
		return ok
	case cmdProgramEE:
		s.c.complain("EEPROM is written at 0x%x", s.addr)
		return failed
	case cmdChipErase:
		s.c.complain("the chip is erased")
		return failed // the bootloader cannot
	}
	return failed
}

// spi answers the one command of a real programmer's pins that the bootloader
// acts out: the signature. Everything else reads as zero.
func (s *session) spi(b []byte) []byte {
	if len(b) < 8 {
		return []byte{cmdSPI, statusFailed}
	}
	out := append([]byte{cmdSPI, statusOK}, make([]byte, int(b[2]))...)
	if b[4] == 0x30 && b[2] == 4 {
		out[5] = []byte{0x1e, 0x98, 0x01, 0}[b[6]&3]
	}
	return append(out, statusOK)
}

// program erases a page and writes one, and writing only takes bits away. They are
// the same page as long as all pages are written in order, from the first on, in one
// life of the bootloader.
func (s *session) program(page []byte) bool {
	page = bytes.Clone(page)
	if s.addr%PageSize != 0 || len(page) > PageSize {
		s.c.complain("%d bytes are written at 0x%x, which is no page", len(page), s.addr)
		return false
	}
	if s.addr+len(page) > Loader {
		s.c.complain("the bootloader is written over at 0x%x", s.addr)
		return false
	}
	power := Steady
	if s.c.opt.Page != nil {
		power = s.c.opt.Page(s.addr, page)
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if power != CutBefore && s.erase < Loader {
		for i := range PageSize {
			s.c.flash[s.erase+i] = 0xff
		}
		s.erase += PageSize
	}
	written := map[Power]int{Steady: len(page), CutTorn: len(page) / 2, CutAfter: len(page)}[power]
	for i, x := range page[:written] {
		s.c.flash[s.addr+i] &= x
	}
	s.addr += len(page)
	if s.cut = power != Steady; s.cut {
		s.c.runs = inNothing
	}
	return true
}

func (c *Chip) complain(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}
