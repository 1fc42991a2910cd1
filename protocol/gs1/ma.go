package gs1

import (
	"fmt"
	"strings"
	"time"

	"yaoju/protocol"
)

// readMA reads a device code of the MA scheme:
//
//	MA.156.M0.100204.13351764.S0001.M220117.LA1.D20220118.E220130.V220129.C3
//
// issuer, country, trade, maker, product, and then in any order: serial number, day of
// production (P in older codes), batch, batch of sterilisation, the first day on which it is
// not good any more, the last on which it is, and check characters, whose rule was
// withdrawn and is not tried here.
func readMA(raw string, at int, today time.Time) (Carton, error) {
	parts := strings.Split(raw[at:], ".")
	const product = 5 // parts that name the product
	if len(parts) < product || !digits(parts[1]) || len(parts[1]) != 3 || !plain(parts[2]) || !plain(parts[3]) || !plain(parts[4]) {
		return Carton{}, &Error{Problem: Foreign, At: at + 1, Field: "MA code", What: "want MA.country.trade.maker.product"}
	}
	if len(parts[2]) != 2 || parts[2][0] != 'M' {
		return Carton{}, &Error{Problem: Foreign, At: at + 8, Field: "MA code", What: fmt.Sprintf("trade %q is not that of medical devices", clip(parts[2]))}
	}
	c := Carton{Scheme: MA, Product: strings.Join(parts[:product], ".")}
	at += len(c.Product)
	seen := map[byte]bool{}
	var until, gone protocol.DateOnly
	for _, part := range parts[product:] {
		at++ // the point
		if part == "" || !strings.ContainsRune("SMPLDEVC", rune(part[0])) {
			return Carton{}, &Error{Problem: UnknownAI, At: at + 1, Field: "MA code", What: fmt.Sprintf("part %q begins with none of S M P L D E V C", clip(part))}
		}
		name, value := part[0], part[1:]
		field := fmt.Sprintf("MA code, part %c", name)
		switch {
		case seen[name]:
			return Carton{}, &Error{Problem: Contradicts, At: at + 1, Field: field, What: "comes twice"}
		case !plain(value):
			return Carton{}, &Error{Problem: Characters, At: at + 2, Field: field, What: fmt.Sprintf("%q: want letters and digits", clip(value))}
		}
		seen[name] = true
		var err error
		switch name {
		case 'S':
			c.Serial = value
		case 'L':
			c.Batch = value
		case 'M', 'P':
			c.Made, err = day(value, today)
		case 'V':
			until, err = day(value, today)
		case 'E':
			gone, err = day(value, today)
		}
		switch {
		case err != nil:
			return Carton{}, &Error{Problem: Date, At: at + 2, Field: field, What: err.Error()}
		case len(c.Batch) > protocol.MaxBatch:
			return Carton{}, &Error{Problem: Length, At: at + 2, Field: field, What: fmt.Sprintf("%d characters: at most %d", len(value), protocol.MaxBatch)}
		}
		at += len(part)
	}
	if gone != "" {
		gone = dayBefore(gone)
	}
	c.Expiry = earlier(until, gone)
	return c, c.agrees()
}

// plain says if s is letters, digits, or signs that makers put into batch numbers.
func plain(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return r > 127 || !letter(byte(r)) && !digit(byte(r)) && !strings.ContainsRune("-_/+*#", r)
	}) < 0
}

// earlier is the earlier of two days, of which each may be empty.
func earlier(a, b protocol.DateOnly) protocol.DateOnly {
	if a == "" || b != "" && b < a {
		return b
	}
	return a
}

// agrees returns an error if c cannot be: it was good for use before it was made.
func (c Carton) agrees() error {
	if c.Expiry != "" && c.Made != "" && c.Expiry < c.Made {
		return &Error{Problem: Contradicts, What: fmt.Sprintf("made on %s, and good until %s", c.Made, c.Expiry)}
	}
	return nil
}

// clip shortens what is shown of a code.
func clip(s string) string {
	const most = 24
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
