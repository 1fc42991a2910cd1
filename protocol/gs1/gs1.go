// Package gs1 reads what is printed on cartons of supplies as bar codes: GS1 element
// strings (GS1-128, GS1 DataMatrix, GS1 QR code) and Digital Links, article numbers
// alone (EAN-13 and its relatives), device codes of the MA scheme, and 20-digit trace
// codes of drugs.
//
// It owns the shapes of codes and what scanners make of them. It knows no product, no
// stock and no scanner, and never guesses: where a scanner left out a separator the code
// says two things, and Parse says that, not one of them. Texts that come out of codes are
// letters, digits and signs of ASCII without control characters.
package gs1

import (
	"strings"
	"time"

	"yaoju/protocol"
)

// MaxCode is the longest code that is read, in bytes. A GS1 symbol holds some 150.
const MaxCode = 512

// Scheme says whose numbers a code has. Schemes are stored with products, so they never
// change.
type Scheme string

// The schemes.
const (
	GS1   Scheme = "gs1"   // article numbers of GS1, on nearly everything
	MA    Scheme = "ma"    // device codes of ZIIOT, "MA.156.M0..."
	Trace Scheme = "trace" // 20 digits, of drugs and, as AHM, of devices
)

// Carton is what a code says. What it does not say is empty.
type Carton struct {
	Scheme Scheme
	// Product is the number of the product: 14 digits of GS1 (shorter ones with zeros
	// before them); "MA.156.M0.100204.13351764"; the first 7 digits of a trace code. A
	// carton and the boxes in it have different numbers.
	Product string
	Batch   string            // 1 to 20 characters
	Expiry  protocol.DateOnly // last day of use
	Made    protocol.DateOnly // day of production
	Serial  string
	Pieces  int // in it, as the code has it; 0 is not said

	// Doubt is set where the batch or serial may have swallowed what follows it in the
	// code, because its separator is not there: what that would be. Whoever scanned has
	// to compare with the print.
	Doubt string

	Raw string // the code as it was scanned
}

// Parse reads one code as a scanner sent it, with or without an AIM identifier before
// it. today settles the century of two-digit years: 50 years before it to 50 after. An
// error is a *Error.
func Parse(code []byte, today time.Time) (Carton, error) {
	raw := strings.TrimRight(string(code), " ")
	switch {
	case len(raw) == 0:
		return Carton{}, &Error{Problem: Foreign, What: "nothing was scanned"}
	case len(raw) > MaxCode:
		return Carton{}, &Error{Problem: Foreign, What: "longer than any carton's code"}
	}
	aim := identifier(raw)
	c, err := read(aim, raw, len(aim), today)
	if err != nil {
		return Carton{}, err
	}
	c.Raw = string(code)
	return c, nil
}

// identifier is the AIM identifier that raw begins with, or empty.
func identifier(raw string) string {
	if len(raw) < 3 || raw[0] != ']' || !letter(raw[1]) || !letter(raw[2]) && !digit(raw[2]) {
		return ""
	}
	return raw[:3]
}

func digit(b byte) bool  { return b >= '0' && b <= '9' }
func letter(b byte) bool { return b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z' }

// digits says if s is some, and nothing else.
func digits(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}

// read reads raw from at on, by its identifier or else by its shape.
func read(aim, raw string, at int, today time.Time) (Carton, error) {
	body := raw[at:]
	switch aim {
	case "]C1", "]e0", "]d2", "]Q3", "]J1": // GS1-128, DataBar, DataMatrix, QR code, DotCode
		return readElements(raw, at, today)
	case "]E0", "]E4", "]I0", "]I1": // EAN-13 and UPC, EAN-8, ITF-14
		return readNumber(body, at)
	}
	switch {
	case strings.HasPrefix(body, "MA."):
		return readMA(raw, at, today)
	case strings.HasPrefix(body, "http://"), strings.HasPrefix(body, "https://"), strings.HasPrefix(body, "HTTP://"), strings.HasPrefix(body, "HTTPS://"):
		return readLink(raw, at, today)
	case strings.HasPrefix(body, "("):
		return readPrinted(raw, at, today)
	case strings.HasPrefix(body, envelope05):
		return readElements(strings.TrimSuffix(raw, envelopeEnd), at+len(envelope05), today)
	case strings.HasPrefix(body, "[)>"):
		return Carton{}, &Error{Problem: Foreign, At: at + 1, What: "an ISO 15434 message of another kind than GS1"}
	case !digits(body):
		return readElements(raw, at, today)
	}
	switch len(body) {
	case 8, 12, 13, 14:
		return readNumber(body, at)
	case 20:
		if body[0] == '8' {
			// No published rule for the last digit, so nothing is checked.
			return Carton{Scheme: Trace, Product: body[:7], Serial: body[7:]}, nil
		}
	}
	return readElements(raw, at, today)
}

// ISO 15434 wraps element strings like this; some symbols have it built in (macro 05).
const (
	envelope05  = "[)>\x1e05\x1d"
	envelopeEnd = "\x1e\x04"
)

// readNumber reads an article number alone: 8, 12, 13 or 14 digits.
func readNumber(body string, at int) (Carton, error) {
	switch {
	case !digits(body):
		return Carton{}, &Error{Problem: Characters, At: at + 1, Field: "GTIN", What: "not digits alone"}
	case len(body) != 8 && len(body) != 12 && len(body) != 13 && len(body) != 14:
		return Carton{}, &Error{Problem: Length, At: at + 1, Field: "GTIN", What: "neither 8, 12, 13 nor 14 digits"}
	}
	n, err := gtin(body, at)
	if err != nil {
		return Carton{}, err
	}
	return Carton{Scheme: GS1, Product: n}, nil
}

// gtin checks an article number and writes it with 14 digits.
func gtin(s string, at int) (string, error) {
	switch {
	case strings.Trim(s, "0") == "":
		return "", &Error{Problem: CheckDigit, At: at + 1, Field: "GTIN", What: "all zeros"}
	case !checks(s):
		return "", &Error{Problem: CheckDigit, At: at + len(s), Field: "GTIN", What: "the check digit of " + s + " is wrong"}
	}
	return strings.Repeat("0", 14-len(s)) + s, nil
}

// checks says if the last digit of s is its check digit: weights 3 and 1 from the right.
func checks(s string) bool {
	sum := 0
	for i := range len(s) {
		d := int(s[len(s)-1-i] - '0')
		if i%2 == 1 {
			d *= 3
		}
		sum += d
	}
	return sum%10 == 0
}
