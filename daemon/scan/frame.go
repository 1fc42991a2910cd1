package scan

// PN532 frames on a serial line (NXP UM0701-02, 6.2):
//
//	00 00 FF LEN LCS D4|D5 CMD data.. DCS 00
//
// LEN + LCS = 0 and the bytes from D4|D5 to DCS sum to 0, both modulo 256.

// order is a command's number; an answer has the next one.
type order byte

const (
	cmdFirmware order = 0x02
	cmdSAM      order = 0x14
	cmdRF       order = 0x32
	cmdList     order = 0x4A
)

func (c order) String() string {
	switch c {
	case cmdFirmware:
		return "firmware version"
	case cmdSAM:
		return "SAM configuration"
	case cmdRF:
		return "RF configuration"
	case cmdList:
		return "list cards"
	}
	return "unknown command"
}

const (
	fromHost = 0xD4
	toHost   = 0xD5

	ackFrame = "\x00\x00\xff\x00\xff\x00" // the frame came; from us also: stop what you do
	nakFrame = "\x00\x00\xff\xff\x00\x00" // say that again
)

// frame is a command as it goes out. The one that comes first wakes the chip.
func (c order) frame(args ...byte) []byte {
	var out []byte
	if c == cmdSAM {
		out = append(out, 0x55, 0x55, 0x00, 0x00, 0x00)
	}
	size := byte(2 + len(args))
	out = append(out, 0x00, 0x00, 0xFF, size, -size, fromHost, byte(c))
	out = append(out, args...)
	sum := byte(fromHost) + byte(c)
	for _, b := range args {
		sum += b
	}
	return append(out, -sum, 0x00)
}

// heard is what a decoder has seen.
type heard int

const (
	heardNothing  heard = iota
	heardAck            // the command came
	heardNak            // it did not
	heardAnswer         // a frame that adds up, for us
	heardError          // the chip does not understand the command
	heardBent           // a frame that does not add up
	heardForeign        // a frame that adds up and is not from a PN532
	heardExtended       // a frame of the long kind, which no answer we ask for needs
)

// deframer finds frames in a stream of bytes. The zero value is ready.
type deframer struct {
	at   int // bytes of the frame so far: 0 hunting, 1 after 00, 2 after 00 FF, 3 after LEN, more: body
	size int // of the body, without its check byte
	sum  byte
	body [255]byte
}

// feed takes bytes up to the end of the first frame and says how many.
func (d *deframer) feed(b []byte) (n int, h heard) {
	for i, c := range b {
		if h := d.step(c); h != heardNothing {
			return i + 1, h
		}
	}
	return len(b), heardNothing
}

func (d *deframer) step(b byte) heard {
	switch d.at {
	case 0, 1:
		d.hunt(b)
		return heardNothing
	case 2:
		d.size = int(b)
		d.at++
		return heardNothing
	case 3:
		return d.length(b)
	}
	i := d.at - 4
	d.at++
	d.sum += b
	if i < d.size {
		d.body[i] = b
		return heardNothing
	}
	d.at = 0
	return d.judge()
}

// hunt looks for the next byte of 00 FF. The bytes before them tell nothing.
func (d *deframer) hunt(b byte) {
	switch {
	case b == 0x00:
		d.at = 1
	case b == 0xFF && d.at == 1:
		d.at = 2
	default:
		d.at = 0
	}
}

// length takes the byte after LEN. If the two are no length, what came before
// them was noise, and they may begin a frame themselves.
func (d *deframer) length(b byte) heard {
	first := byte(d.size)
	d.at = 0
	switch {
	case first == 0x00 && b == 0xFF:
		return heardAck
	case first == 0xFF && b == 0x00:
		return heardNak
	case first == 0xFF && b == 0xFF:
		return heardExtended
	case first == 0 || first+b != 0:
		d.hunt(first)
		d.hunt(b)
		return heardNothing
	}
	d.at, d.sum = 4, 0
	return heardNothing
}

// judge says what the frame is whose last byte has come.
func (d *deframer) judge() heard {
	switch {
	case d.sum != 0:
		return heardBent
	case d.size == 1 && d.body[0] == 0x7F:
		return heardError
	case d.size < 2 || d.body[0] != toHost:
		return heardForeign
	}
	return heardAnswer
}

// answers says if the answer last heard is one to c.
func (d *deframer) answers(c order) bool { return d.body[1] == byte(c)+1 }

// data is what the answer last heard says, in place until the next byte.
func (d *deframer) data() []byte { return d.body[2:d.size] }

// begun says if a frame has started and not ended.
func (d *deframer) begun() bool { return d.at >= 2 }

// target is the card in an answer to cmdList, in place; nil if there is none.
// ok is false for an answer that no PN532 gives.
func target(data []byte) (uid []byte, ok bool) {
	if len(data) == 1 && data[0] == 0 {
		return nil, true
	}
	// count, number, ATQA (2), SAK, length of the UID, UID, and for some cards ATS,
	// whose first byte is its own length
	if len(data) < 6 || data[0] != 1 || data[1] != 1 {
		return nil, false
	}
	size := int(data[5])
	if size != 4 && size != 7 && size != 10 || len(data) < 6+size {
		return nil, false
	}
	uid, ats := data[6:6+size], data[6+size:]
	if len(ats) > 0 && int(ats[0]) != len(ats) {
		return nil, false
	}
	return uid, true
}

// nameless says if a UID tells nobody from anybody: cards and telephones that
// do not want to be known make up a new one each time (ISO 14443-3: 4 bytes,
// the first 08); one that begins with the cascade tag 88 is half of a longer one.
func nameless(uid []byte) bool {
	return len(uid) == 4 && (uid[0] == 0x08 || uid[0] == 0x88)
}
