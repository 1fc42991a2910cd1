package identity

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"yaoju/protocol"
)

// TokenSize is the length of an enrolment token: 8 bytes that name it and 16 that
// nobody can guess.
const TokenSize = 8 + 16

// Token lets one machine have its first certificate.
type Token [TokenSize]byte

// Line is what a person carries from the district to a machine: one word without
// blanks or quotes, to be copied whole.
type Line struct {
	Machine protocol.MachineID
	Address string            // host:port of the district's enrolment
	Root    [sha256.Size]byte // fingerprint of the district's CA
	Token   Token
}

// lineVersion begins every line; a change of its parts changes it.
const lineVersion = "yaoju1"

// maxLine bounds a line: a host name has at most 253 characters.
const maxLine = 512

func (l Line) String() string {
	e := base64.RawURLEncoding
	return strings.Join([]string{lineVersion, string(l.Machine), l.Address, e.EncodeToString(l.Root[:]), e.EncodeToString(l.Token[:])}, "/")
}

// ParseLine reads a line. Its errors say what a person with a keyboard can do and
// never repeat the token.
func ParseLine(text string) (Line, error) {
	var l Line
	if len(text) > maxLine {
		return l, fmt.Errorf("enrolment line: longer than %d characters: copy the one line that districtd enrol prints", maxLine)
	}
	part := strings.Split(strings.TrimSpace(text), "/")
	if part[0] != lineVersion {
		return l, fmt.Errorf("enrolment line: it does not begin with %s/: copy the one line that districtd enrol prints", lineVersion)
	}
	if len(part) != 5 {
		return l, errors.New("enrolment line: it is cut off or something was added: copy all of it and nothing else")
	}
	l.Machine, l.Address = protocol.MachineID(part[1]), part[2]
	if err := l.Machine.Valid(); err != nil {
		return Line{}, fmt.Errorf("enrolment line: %w", err)
	}
	if err := ValidAddress(l.Address); err != nil {
		return Line{}, fmt.Errorf("enrolment line: %w", err)
	}
	if !decodeExactly(l.Root[:], part[3]) || !decodeExactly(l.Token[:], part[4]) {
		return Line{}, errors.New("enrolment line: it is cut off or mistyped: copy all of it and nothing else")
	}
	return l, nil
}

func decodeExactly(into []byte, text string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != len(into) || strings.ContainsAny(text, "\r\n") {
		return false
	}
	copy(into, b)
	return true
}

// ValidAddress reports what is wrong with host:port, or nil.
func ValidAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("address %.80q: want host:port", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("address %.80q: want a port from 1 to 65535", address)
	}
	return ValidHost(host)
}

// ValidHost reports what is wrong with a host name or an address, or nil.
func ValidHost(host string) error {
	if net.ParseIP(host) != nil {
		return nil
	}
	if host == "" || len(host) > 253 || strings.Trim(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") != "" {
		return fmt.Errorf("host %.80q: want a host name or an address", host)
	}
	return nil
}
