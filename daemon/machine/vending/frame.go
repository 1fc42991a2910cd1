package vending

import "fmt"

// command is the kind of a frame, as it stands on the wire.
type command byte

// The commands this driver sends or understands. The board may send others; they
// are acknowledged and pass by.
const (
	cmdCheck     command = 0x01 // may this selection be driven?
	cmdSelection command = 0x02 // answer to it
	cmdReport    command = 0x04 // how the board gets on with a selection
	cmdKeypad    command = 0x05 // somebody chose at the board's own keypad; from us, with 0: cancelled
	cmdDrive     command = 0x06 // turn one motor
	cmdRestock   command = 0x17 // the board's own "all full" button
	cmdMoney     command = 0x21 // the board took money
	cmdSync      command = 0x31 // the board started, or wants to begin anew
	cmdPoll      command = 0x41 // it is the computer's turn to speak
	cmdAck       command = 0x42 // received, and nothing more
	cmdStatus    command = 0x51 // what is the machine's condition?
	cmdStatusIs  command = 0x52
	cmdLift      command = 0x53 // what is the elevator's condition?
	cmdLiftIs    command = 0x54
	cmdMenu      command = 0x70 // what else would be done at the keypad
	cmdMenuIs    command = 0x71
)

func (c command) String() string { return fmt.Sprintf("%02x", byte(c)) }

// frame is one message: a command, and the bytes its length counts.
type frame struct {
	cmd  command
	body []byte // PackNO first, then text; empty in POLL and ACK
}

const (
	head     = 4 // FA FB, command, length
	overhead = head + 1
)

// appendFrame appends the frame to b as it goes over the wire.
func appendFrame(b []byte, cmd command, body ...byte) []byte {
	from := len(b)
	b = append(b, 0xFA, 0xFB, byte(cmd), byte(len(body)))
	b = append(b, body...)
	return append(b, sum(b[from:]))
}

// sum is the check byte: all bytes from FA on, by exclusive or.
func sum(b []byte) (x byte) {
	for _, c := range b {
		x ^= c
	}
	return x
}

// decoder cuts what is read into frames. Noise and frames that do not check are
// passed over, one byte at a time, because a good frame may begin inside them.
type decoder struct {
	part []byte // begins with FA, or is empty
}

// feed takes bytes as they were read and returns the frames they complete.
func (d *decoder) feed(b []byte) []frame {
	d.part = append(d.part, b...)
	var all []frame
	for {
		d.seek()
		f, size := first(d.part)
		switch {
		case size == 0:
			return all
		case size < 0:
			size = 1
		default:
			all = append(all, f)
		}
		d.part = d.part[size:]
	}
}

// rest is told that the line paused: what was begun will not be completed. It
// returns the frames that a damaged length had swallowed.
func (d *decoder) rest() []frame {
	var all []frame
	for len(d.part) > 0 {
		d.part = d.part[1:]
		all = append(all, d.feed(nil)...)
	}
	return all
}

// seek drops what cannot be the beginning of a frame.
func (d *decoder) seek() {
	for i, c := range d.part {
		if c == 0xFA && (i+1 == len(d.part) || d.part[i+1] == 0xFB) {
			d.part = d.part[i:]
			return
		}
	}
	d.part = nil
}

// first reads the frame at the beginning of b. A size of 0 says that b is too
// short to tell, a negative one that there is no frame.
func first(b []byte) (f frame, size int) {
	if len(b) < head {
		return f, 0
	}
	cmd, n := command(b[2]), int(b[3])
	for _, n := range lengths(cmd, n) {
		if len(b) < overhead+n {
			return f, 0
		}
		if sum(b[:head+n]) == b[head+n] {
			return frame{cmd, append([]byte(nil), b[head:head+n]...)}, overhead + n
		}
	}
	return f, -1
}

// lengths lists what a stated length may mean. Boards are documented to leave
// PackNO out of the count in these two.
func lengths(cmd command, n int) []int {
	if cmd == cmdReport && n == 3 || cmd == cmdLiftIs && n == 1 {
		return []int{n, n + 1}
	}
	return []int{n}
}

// report is the content of a cmdReport frame.
type report struct {
	status    byte
	selection int
}

// maxSelection is the highest that boards number: ten trays of a hundred. What
// claims to be higher is noise with a check byte that fits by chance.
const maxSelection = 999

// parseReport reads PackNO, status, selection and, on some boards, one byte more.
// Three bytes are a selection in one byte.
func parseReport(body []byte) (r report, ok bool) {
	switch len(body) {
	case 3:
		r = report{body[1], int(body[2])}
	case 4, 5:
		r = report{body[1], int(body[2])<<8 | int(body[3])}
	default:
		return r, false
	}
	return r, r.selection <= maxSelection
}

// parseKeypad reads PackNO and the selection that was chosen; 0 is cancelled.
func parseKeypad(body []byte) (selection int, ok bool) {
	if len(body) != 3 {
		return 0, false
	}
	selection = int(body[1])<<8 | int(body[2])
	return selection, selection <= maxSelection
}

// sound reports whether f is what it claims to be, as far as that can be seen. What
// is not is left unacknowledged: if it was bent, it comes again.
func (f frame) sound() (ok bool) {
	switch f.cmd {
	case cmdReport:
		_, ok = parseReport(f.body)
	case cmdKeypad:
		_, ok = parseKeypad(f.body)
	case cmdStatusIs:
		_, ok = parseCondition(f.body)
	case cmdSelection:
		ok = len(f.body) == 4
	case cmdLiftIs:
		ok = len(f.body) == 2
	case cmdMenuIs:
		ok = len(f.body) >= 3
	default:
		ok = len(f.body) >= 1 // PackNO; the rest is not ours to judge
	}
	return ok
}

// condition is the content of a cmdStatusIs frame, as far as it concerns us.
type condition struct {
	doorOpen bool
	serial   uint64 // the ten-digit machine id; 0 if it is not a number
	celsius  int8
	warm     bool // there is a temperature
	humidity int  // percent
	damp     bool // there is a humidity
}

// noSensor stands where a temperature or humidity sensor is not connected.
const noSensor = 0xAA

// parseCondition reads PackNO, four conditions, the door, two sums of money, the
// machine id, eight temperatures and, on some boards, eight humidities. Captured
// frames have one temperature more, before the door, and the published table has
// not: the length tells which it is. Of any other length nobody knows where the
// door is.
func parseCondition(body []byte) (c condition, ok bool) {
	const id, sensors = 10, 8
	door := 5
	switch len(body) {
	case 33, 41:
		door = 6
	case 32, 40:
	default:
		return c, false
	}
	c.doorOpen = body[door] != 0
	rest := body[door+1+8:]
	c.serial = number(rest[:id])
	rest = rest[id:]
	for _, t := range rest[:sensors] {
		if !c.warm && t != noSensor {
			c.celsius, c.warm = int8(t), true
		}
	}
	for _, h := range rest[sensors:] {
		if !c.damp && h <= 100 {
			c.humidity, c.damp = int(h), true
		}
	}
	return c, true
}

func number(digits []byte) (n uint64) {
	for _, d := range digits {
		if d < '0' || d > '9' {
			return 0
		}
		n = 10*n + uint64(d-'0')
	}
	return n
}
