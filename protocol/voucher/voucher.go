// Package voucher makes and reads the one-time codes that stand in for a card:
// eight characters a desk hands to a resident, typed at one machine, good for one
// box. Desk and machine share a key, so a machine without a network can tell a
// code that a desk made from one that somebody made up.
//
// It owns the characters, the check character and the seal. It does not know
// which codes were used, who may make them, or what a code is good for: the
// machine's ledger counts, and its screen slows down whoever guesses. A code holds
// a day, a desk and a number; nothing of a person, and to who has no key it looks
// drawn at random.
package voucher

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"yaoju/protocol"
)

const (
	// Length is how many characters a code has.
	Length = 8
	// KeySize is the length of a key in bytes.
	KeySize = 32
	// PerDay is how many codes one desk can make for one machine on one day.
	PerDay = 512
	// MaxDays is the longest that a code may be good for.
	MaxDays = 14
	// Alphabet is what codes are written in: no I, L, O or U, which are taken for
	// 1, 1, 0 and V. A reader accepts those four all the same.
	Alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
)

// Desk is who made a code. Each counts its own numbers.
type Desk uint8

const (
	District Desk = 0 // the district's console or its command
	Machine  Desk = 1 // the tool on the machine itself
)

// Key is shared by one machine and those who make codes for it.
type Key [KeySize]byte

// Voucher is what a code says. Two codes of one machine never say the same.
type Voucher struct {
	Day    protocol.DateOnly // on which it was made
	Desk   Desk
	Number int // 0 to PerDay-1, of that desk on that day
}

// The reasons why a code is not taken.
var (
	ErrLength = fmt.Errorf("a code has %d characters", Length)
	ErrSign   = errors.New("a character that no code has")
	ErrTyping = errors.New("the check character does not fit: one character is wrong, or two stand in each other's place")
	ErrFalse  = errors.New("not a code for this machine, or too old")
)

// A code is seven characters of five bits, and the check character: 20 bits of a
// seal, then 15 bits that say day, desk and number, masked with the seal.
const (
	sealBits  = 20
	dayBits   = 5 // the day modulo 32: the machine knows which of them is near
	deskBits  = 1
	countBits = 9
	saidBits  = dayBits + deskBits + countBits
)

// Make returns the code of v for machine m.
func Make(k Key, m protocol.MachineID, v Voucher) (string, error) {
	day, err := dayOf(v.Day)
	if err != nil {
		return "", fmt.Errorf("voucher: %w", err)
	}
	if v.Desk > Machine {
		return "", fmt.Errorf("voucher: desk %d: want 0 (district) or 1 (machine)", v.Desk)
	}
	if v.Number < 0 || v.Number >= PerDay {
		return "", fmt.Errorf("voucher: number %d: 0 to %d are allowed", v.Number, PerDay-1)
	}
	seal := sealOf(k, m, day, v)
	said := uint64(day&31)<<(deskBits+countBits) | uint64(v.Desk)<<countBits | uint64(v.Number)
	return write(seal<<saidBits | said ^ mask(k, m, seal)), nil
}

// Read returns what a typed code says, if it is one for machine m and its day is
// at most days before today, or tomorrow: the clocks of two computers differ.
// Spaces, hyphens and small letters do not matter. The error is one of those above.
func Read(k Key, m protocol.MachineID, typed string, today protocol.DateOnly, days int) (Voucher, error) {
	bits, err := parse(typed)
	if err != nil {
		return Voucher{}, err
	}
	now, err := dayOf(today)
	if err != nil {
		return Voucher{}, fmt.Errorf("voucher: today: %w", err)
	}
	seal := bits >> saidBits
	said := bits&(1<<saidBits-1) ^ mask(k, m, seal)
	v := Voucher{Desk: Desk(said >> countBits & 1), Number: int(said & (1<<countBits - 1))}
	day := now + 1 // the newest day it could have been made on
	day -= (day - int64(said>>(deskBits+countBits))) & 31
	v.Day = protocol.DateOnly(time.Unix(day*24*60*60, 0).UTC().Format(time.DateOnly))
	var want, have [4]byte
	binary.BigEndian.PutUint32(want[:], uint32(sealOf(k, m, day, v)))
	binary.BigEndian.PutUint32(have[:], uint32(seal))
	if !hmac.Equal(want[:], have[:]) || day < now-int64(min(days, MaxDays)) {
		return Voucher{}, ErrFalse
	}
	return v, nil
}

// dayOf counts a day from 1 January 1970.
func dayOf(d protocol.DateOnly) (int64, error) {
	if err := d.Valid(); err != nil {
		return 0, err
	}
	t, err := time.Parse(time.DateOnly, string(d))
	return t.Unix() / (24 * 60 * 60), err
}

// sealOf proves that who made the code had the key.
func sealOf(k Key, m protocol.MachineID, day int64, v Voucher) uint64 {
	var b [12]byte
	binary.BigEndian.PutUint64(b[:], uint64(day))
	b[8] = byte(v.Desk)
	binary.BigEndian.PutUint16(b[9:], uint16(v.Number))
	return derive(k, "seal", m, b[:]) & (1<<sealBits - 1)
}

// mask hides day, desk and number: codes made one after the other do not look so.
func mask(k Key, m protocol.MachineID, seal uint64) uint64 {
	return derive(k, "mask", m, binary.BigEndian.AppendUint64(nil, seal)) & (1<<saidBits - 1)
}

func derive(k Key, what string, m protocol.MachineID, b []byte) uint64 {
	h := hmac.New(sha256.New, k[:])
	fmt.Fprintf(h, "yaoju voucher %s\x00%s\x00", what, m) // a hash never fails to be written
	h.Write(b)
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// write puts 35 bits and their check character into characters.
func write(bits uint64) string {
	var b [Length]byte
	var sum byte
	for i := range Length - 1 {
		c := byte(bits >> (5 * (Length - 2 - i)) & 31)
		b[i] = Alphabet[c]
		sum ^= times(c, i)
	}
	b[Length-1] = Alphabet[sum]
	return string(b[:])
}

func parse(typed string) (bits uint64, err error) {
	n := 0
	var sum, last byte
	for _, r := range typed {
		switch r {
		case ' ', '-', '\u3000': // how people group; a Chinese keyboard's space is the wide one
			continue
		}
		c := value(r)
		if c < 0 {
			return 0, ErrSign
		}
		switch n++; {
		case n > Length:
			return 0, ErrLength
		case n == Length:
			last = byte(c)
		default:
			bits = bits<<5 | uint64(c)
			sum ^= times(byte(c), n-1)
		}
	}
	switch {
	case n != Length:
		return 0, ErrLength
	case sum != last:
		return 0, ErrTyping
	}
	return bits, nil
}

// value is the number of a character, -1 if no code has it.
func value(r rune) int {
	switch r {
	case 'O', 'o':
		r = '0'
	case 'I', 'i', 'L', 'l':
		r = '1'
	case 'U', 'u':
		r = 'V'
	}
	if r >= 'a' && r <= 'z' {
		r += 'A' - 'a'
	}
	return strings.IndexRune(Alphabet, r)
}

// times multiplies c by x^i in the field of 32 elements with x^5 = x^2 + 1. Every
// place has a factor of its own, so one wrong character and two exchanged ones
// never go unseen.
func times(c byte, i int) byte {
	for range i + 1 {
		c <<= 1
		if c&32 != 0 {
			c ^= 0b100101
		}
	}
	return c
}

// Grouped is a code as people read it out: two groups of four.
func Grouped(code string) string {
	if len(code) != Length {
		return code
	}
	return code[:4] + " " + code[4:]
}
