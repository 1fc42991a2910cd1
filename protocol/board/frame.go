package board

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
)

// Frame is one frame whose checksum was right. Parse says what it means.
type Frame struct {
	Kind    Kind
	Seq     uint8 // of the question, echoed in the answer
	Payload []byte
}

// overhead is id, seq and checksum around the payload.
const overhead = 4

var (
	errCOBS   = errors.New("malformed stuffing")
	errLength = errors.New("shorter or longer than a frame can be")
	errCRC    = errors.New("wrong checksum")
)

// VersionError says that the board speaks another version of this wire.
type VersionError struct{ Board uint8 }

func (e *VersionError) Error() string {
	return fmt.Sprintf("the motor board speaks version %d and this program version %d: update one of them", e.Board, Version)
}

// CRC16 is CRC-16/MCRF4XX, avr-libc's _crc_ccitt_update from 0xffff: "123456789" gives 0x6f91.
func CRC16(p []byte) uint16 {
	crc := uint16(0xffff)
	for _, b := range p {
		b ^= byte(crc)
		b ^= b << 4
		crc = uint16(b)<<8 | crc>>8
		crc ^= uint16(b>>4) ^ uint16(b)<<3
	}
	return crc
}

// Append appends the frame of m, its zero byte included. A host puts one more
// zero before it: whatever noise the board has collected then ends there.
func Append(dst []byte, seq uint8, m Message) []byte {
	raw := append(make([]byte, 0, MaxPayload+overhead), uint8(m.Kind()), seq)
	raw = append(raw, payload(m)...)
	raw = binary.LittleEndian.AppendUint16(raw, CRC16(raw))

	// A frame is shorter than 254 bytes, so no run needs the code 0xff.
	start := len(dst)
	dst = append(dst, 0)
	for _, b := range raw {
		if b == 0 {
			dst[start] = byte(len(dst) - start)
			start = len(dst)
		}
		dst = append(dst, b)
	}
	dst[start] = byte(len(dst) - start)
	return append(dst, 0)
}

// payload is the bytes of m: its fields in order, little-endian, bool as 0 or 1.
func payload(m Message) []byte {
	b, err := binary.Append(nil, binary.LittleEndian, m)
	if err != nil {
		panic(fmt.Sprintf("board: %T has a field without a fixed size: %v", m, err))
	}
	return b
}

// Decode decodes one frame as it came from the line, without its zero byte.
func Decode(stuffed []byte) (Frame, error) {
	if len(stuffed) > MaxFrame-1 {
		return Frame{}, errLength
	}
	if bytes.IndexByte(stuffed, 0) >= 0 {
		return Frame{}, errCOBS
	}
	raw := make([]byte, 0, MaxFrame)
	for p := stuffed; len(p) > 0; {
		n := int(p[0])
		if n == 0 || n > len(p) {
			return Frame{}, errCOBS
		}
		raw = append(raw, p[1:n]...)
		if p = p[n:]; len(p) > 0 {
			raw = append(raw, 0)
		}
	}
	n := len(raw) - 2
	if len(raw) < overhead || len(raw) > MaxPayload+overhead {
		return Frame{}, errLength
	}
	if CRC16(raw[:n]) != binary.LittleEndian.Uint16(raw[n:]) {
		return Frame{}, errCRC
	}
	return Frame{Kind: Kind(raw[0]), Seq: raw[1], Payload: raw[2:n:n]}, nil
}

// Parse returns the message in the frame. It refuses unknown kinds, lengths that
// are not the kind's own and bools other than 0 and 1. A HELLO_IS of another
// version, of whatever length, is a *VersionError.
func (f Frame) Parse() (Message, error) {
	if f.Kind == KindHelloIs && len(f.Payload) > 0 && f.Payload[0] != Version {
		return nil, &VersionError{f.Payload[0]}
	}
	for _, s := range messages {
		if s.zero.Kind() != f.Kind {
			continue
		}
		m := reflect.New(reflect.TypeOf(s.zero))
		if n, err := binary.Decode(f.Payload, binary.LittleEndian, m.Interface()); err != nil || n != len(f.Payload) {
			return nil, fmt.Errorf("frame %s: %d bytes, want %d", s.name, len(f.Payload), binary.Size(s.zero))
		}
		msg := m.Elem().Interface().(Message)
		if !bytes.Equal(payload(msg), f.Payload) {
			return nil, fmt.Errorf("frame %s: a flag is neither 0 nor 1", s.name)
		}
		return msg, nil
	}
	return nil, fmt.Errorf("frame 0x%02x: no such message", uint8(f.Kind))
}

// Reader finds frames in a byte stream. It holds one frame's bytes at most.
type Reader struct {
	r    *bufio.Reader
	buf  [MaxFrame]byte
	n    int  // bytes in buf
	over bool // what stands in buf was longer than a frame
	bad  int
}

// NewReader returns a reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 256)} }

// Next returns the next frame with a right checksum and passes over all others.
// Its errors are those of the stream, which is then of no more use.
func (r *Reader) Next() (Frame, error) {
	for {
		c, err := r.r.ReadByte()
		if err != nil {
			return Frame{}, err
		}
		if c != 0 {
			if r.n == len(r.buf) {
				r.over = true
				continue
			}
			r.buf[r.n] = c
			r.n++
			continue
		}
		n, over := r.n, r.over
		r.n, r.over = 0, false
		if n == 0 {
			continue // one more delimiter is how a peer gets back in step
		}
		if f, err := Decode(r.buf[:n]); err == nil && !over {
			return f, nil
		}
		r.bad++
	}
}

// Bad returns how many stretches between delimiters were no frame. Call it from
// the goroutine that calls Next.
func (r *Reader) Bad() int { return r.bad }
