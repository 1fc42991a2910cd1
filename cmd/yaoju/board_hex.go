package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"yaoju/protocol/board"
)

// The motor board's flash, in bytes. The bootloader of a Mega takes the last 8 KiB.
const (
	flashSize  = 256 << 10
	pageSize   = 256
	loaderAt   = 0x3e000
	maxHexFile = 4 << 20 // a full flash in records of one byte each
)

// Where an image says who it is: firmware/core/identity.h.
const (
	identityAt     = 0x3fe0
	identityMagic  = "YAOJU\x00MB"
	identityBuild  = 8
	identityProto  = 12
	identitySerial = 16
	identityLen    = 24
)

// Intel HEX record kinds.
const (
	hexData          = 0
	hexEnd           = 1
	hexSegment       = 2 // upper address bits, in steps of 16 bytes
	hexStartSegment  = 3
	hexLinear        = 4 // upper address bits, in steps of 64 KiB
	hexStartLinear   = 5
	hexRecordBytes   = 16
	hexRecordMin     = 5 // count, address, kind, checksum
	hexRecordMaxText = 1 + 2*(255+hexRecordMin)
)

// firmware is an image for the motor board.
type firmware struct {
	image []byte // flash from address 0; gaps are 0xff
	build uint32
}

// openFirmware reads a HEX file and refuses what is not for this board, or not for
// this program.
func openFirmware(path string) (firmware, error) {
	f, err := os.Open(path)
	if err != nil {
		return firmware{}, fmt.Errorf("firmware: %w", err)
	}
	defer f.Close()
	image, err := readHex(io.LimitReader(f, maxHexFile))
	if err != nil {
		return firmware{}, fmt.Errorf("%s: %w", path, err)
	}
	fw, err := identify(image)
	if err != nil {
		return firmware{}, fmt.Errorf("%s: %w", path, err)
	}
	return fw, nil
}

// identify finds out what an image is.
func identify(image []byte) (firmware, error) {
	if len(image) < identityAt+identityLen || !bytes.HasPrefix(image[identityAt:], []byte(identityMagic)) {
		return firmware{}, errors.New("this is not firmware of the motor board: it does not say who it is")
	}
	id := image[identityAt : identityAt+identityLen]
	if v := id[identityProto]; v != board.Version {
		return firmware{}, fmt.Errorf("this firmware speaks protocol version %d and this program version %d: take those of one release", v, board.Version)
	}
	return firmware{image: image, build: binary.LittleEndian.Uint32(id[identityBuild:])}, nil
}

// withSerial returns the image of one board.
func (f firmware) withSerial(serial uint64) []byte {
	image := bytes.Clone(f.image)
	binary.LittleEndian.PutUint64(image[identityAt+identitySerial:], serial)
	return image
}

// wholePages fills the last page of an image up.
func wholePages(image []byte) []byte {
	image = bytes.Clone(image)
	for len(image)%pageSize != 0 {
		image = append(image, 0xff)
	}
	return image
}

// jumpToLoader is the instruction `jmp 0x3e000` as it stands in flash: 1001 010k kkkk
// 110k, then k 15 to 0, where k is the address in words; each word low byte first.
var jumpToLoader = []byte{0x0d, 0x94, 0x00, 0xf0}

// guard returns an image whose first page does nothing but lead into the bootloader.
func guard(image []byte) []byte {
	image = bytes.Clone(image)
	copy(image[copy(image, jumpToLoader):pageSize], bytes.Repeat([]byte{0xff}, pageSize))
	return image
}

// readHex reads an Intel HEX file into the bytes of the flash. A file that is
// damaged, cut short, says two things of one byte, or reaches into the bootloader
// is refused.
func readHex(r io.Reader) ([]byte, error) {
	var image []byte
	var set [flashSize / 64]uint64 // bytes that were given
	base, ended := 0, false
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, hexRecordMaxText+2)
	for n := 1; lines.Scan(); n++ {
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		if ended {
			return nil, fmt.Errorf("line %d: the file goes on after its end record", n)
		}
		rec, err := parseRecord(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		switch rec.kind {
		case hexEnd:
			ended = true
		case hexSegment:
			base = int(binary.BigEndian.Uint16(rec.data)) << 4
		case hexLinear:
			base = int(binary.BigEndian.Uint16(rec.data)) << 16
		case hexData:
			at := base + rec.addr
			if end := at + len(rec.data); end > loaderAt {
				return nil, fmt.Errorf("line %d: it reaches to 0x%x, and the bootloader begins at 0x%x: too large for this board, or for another one", n, end, loaderAt)
			}
			for i, x := range rec.data {
				if set[(at+i)/64]&(1<<((at+i)%64)) != 0 {
					return nil, fmt.Errorf("line %d: the byte at 0x%x was given before", n, at+i)
				}
				set[(at+i)/64] |= 1 << ((at + i) % 64)
				for len(image) <= at+i {
					image = append(image, 0xff)
				}
				image[at+i] = x
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("not an Intel HEX file: %w", err)
	}
	if !ended {
		return nil, errors.New("the end record is missing: was the file cut short, or is it no Intel HEX file?")
	}
	return image, nil
}

// hexRecord is one line of an Intel HEX file.
type hexRecord struct {
	kind byte
	addr int // lower 16 bits
	data []byte
}

func parseRecord(text []byte) (hexRecord, error) {
	if text[0] != ':' {
		return hexRecord{}, errors.New("not a record of an Intel HEX file: it does not begin with a colon")
	}
	raw := make([]byte, hex.DecodedLen(len(text)-1))
	if _, err := hex.Decode(raw, text[1:]); err != nil {
		return hexRecord{}, err
	}
	if len(raw) < hexRecordMin || len(raw) != hexRecordMin+int(raw[0]) {
		return hexRecord{}, errors.New("the record has not the length it says")
	}
	sum := byte(0)
	for _, b := range raw {
		sum += b
	}
	if sum != 0 {
		return hexRecord{}, errors.New("the checksum is wrong: the file is damaged")
	}
	rec := hexRecord{kind: raw[3], addr: int(binary.BigEndian.Uint16(raw[1:])), data: raw[4 : len(raw)-1]}
	want := map[byte]int{hexEnd: 0, hexSegment: 2, hexStartSegment: 4, hexLinear: 2, hexStartLinear: 4}
	if n, fixed := want[rec.kind]; fixed && len(rec.data) != n {
		return hexRecord{}, fmt.Errorf("a record of kind %d has %d bytes, want %d", rec.kind, len(rec.data), n)
	}
	if rec.kind > hexStartLinear {
		return hexRecord{}, fmt.Errorf("records of kind %d are unknown", rec.kind)
	}
	return rec, nil
}

// writeHex writes an image as an Intel HEX file.
func writeHex(w io.Writer, image []byte) error {
	out := bufio.NewWriter(w)
	put := func(addr int, kind byte, data []byte) {
		raw := append([]byte{byte(len(data)), byte(addr >> 8), byte(addr), kind}, data...)
		sum := byte(0)
		for _, b := range raw {
			sum -= b
		}
		fmt.Fprintf(out, ":%X\n", append(raw, sum)) // Flush tells of errors
	}
	for at := 0; at < len(image); at += hexRecordBytes {
		if at&0xffff == 0 {
			put(0, hexLinear, []byte{byte(at >> 24), byte(at >> 16)})
		}
		put(at&0xffff, hexData, image[at:min(at+hexRecordBytes, len(image))])
	}
	put(0, hexEnd, nil)
	return out.Flush()
}
