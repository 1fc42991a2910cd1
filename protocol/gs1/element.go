package gs1

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"yaoju/protocol"
)

// spec is what may follow one application identifier.
type spec struct {
	ai       string // its first digits
	size     int    // digits it has; those behind ai tell where the decimal point is, or number parts
	min, max int    // length of what follows
	numeric  bool
	name     string // for messages, of those that matter here
}

// specs is the table of application identifiers, of GS1's Barcode Syntax Dictionary.
// Those that carry nothing we need are here for their lengths.
var specs = []spec{
	{"00", 2, 18, 18, true, "shipping unit"}, {"01", 2, 14, 14, true, "GTIN"}, {"02", 2, 14, 14, true, "GTIN inside"}, {"03", 2, 14, 14, true, ""},
	{"10", 2, 1, 20, false, "batch"}, {"11", 2, 6, 6, true, "production date"}, {"12", 2, 6, 6, true, ""}, {"13", 2, 6, 6, true, ""},
	{"15", 2, 6, 6, true, "best before"}, {"16", 2, 6, 6, true, ""}, {"17", 2, 6, 6, true, "expiry"}, {"20", 2, 2, 2, true, ""},
	{"21", 2, 1, 20, false, "serial"}, {"22", 2, 1, 20, false, ""}, {"235", 3, 1, 28, false, ""},
	{"240", 3, 1, 30, false, "additional number"}, {"241", 3, 1, 30, false, ""}, {"242", 3, 1, 6, true, ""}, {"243", 3, 1, 20, false, ""},
	{"250", 3, 1, 30, false, ""}, {"251", 3, 1, 30, false, ""}, {"253", 3, 13, 30, false, ""}, {"254", 3, 1, 20, false, ""}, {"255", 3, 13, 25, true, ""},
	{"30", 2, 1, 8, true, "count"}, {"31", 4, 6, 6, true, ""}, {"32", 4, 6, 6, true, ""}, {"33", 4, 6, 6, true, ""}, {"34", 4, 6, 6, true, ""},
	{"35", 4, 6, 6, true, ""}, {"36", 4, 6, 6, true, ""}, {"37", 2, 1, 8, true, "count"},
	{"390", 4, 1, 15, true, ""}, {"391", 4, 4, 18, true, ""}, {"392", 4, 1, 15, true, ""}, {"393", 4, 4, 18, true, ""}, {"394", 4, 4, 4, true, ""}, {"395", 4, 6, 6, true, ""},
	{"400", 3, 1, 30, false, ""}, {"401", 3, 1, 30, false, ""}, {"402", 3, 17, 17, true, ""}, {"403", 3, 1, 30, false, ""},
	{"410", 3, 13, 13, true, ""}, {"411", 3, 13, 13, true, ""}, {"412", 3, 13, 13, true, ""}, {"413", 3, 13, 13, true, ""},
	{"414", 3, 13, 13, true, ""}, {"415", 3, 13, 13, true, ""}, {"416", 3, 13, 13, true, ""}, {"417", 3, 13, 13, true, ""},
	{"420", 3, 1, 20, false, ""}, {"421", 3, 4, 12, false, ""}, {"422", 3, 3, 3, true, ""}, {"423", 3, 3, 15, true, ""}, {"424", 3, 3, 3, true, ""},
	{"425", 3, 3, 15, true, ""}, {"426", 3, 3, 3, true, ""}, {"427", 3, 1, 3, false, ""},
	{"4300", 4, 1, 35, false, ""}, {"4301", 4, 1, 35, false, ""}, {"4302", 4, 1, 70, false, ""}, {"4303", 4, 1, 70, false, ""}, {"4304", 4, 1, 70, false, ""},
	{"4305", 4, 1, 70, false, ""}, {"4306", 4, 1, 70, false, ""}, {"4307", 4, 2, 2, false, ""}, {"4308", 4, 1, 30, false, ""}, {"4309", 4, 20, 20, true, ""},
	{"4310", 4, 1, 35, false, ""}, {"4311", 4, 1, 35, false, ""}, {"4312", 4, 1, 70, false, ""}, {"4313", 4, 1, 70, false, ""}, {"4314", 4, 1, 70, false, ""},
	{"4315", 4, 1, 70, false, ""}, {"4316", 4, 1, 70, false, ""}, {"4317", 4, 2, 2, false, ""}, {"4318", 4, 1, 20, false, ""}, {"4319", 4, 1, 30, false, ""},
	{"4320", 4, 1, 35, false, ""}, {"4321", 4, 1, 1, true, ""}, {"4322", 4, 1, 1, true, ""}, {"4323", 4, 1, 1, true, ""}, {"4324", 4, 10, 10, true, ""},
	{"4325", 4, 10, 10, true, ""}, {"4326", 4, 6, 6, true, ""}, {"4330", 4, 6, 7, false, ""}, {"4331", 4, 6, 7, false, ""}, {"4332", 4, 6, 7, false, ""}, {"4333", 4, 6, 7, false, ""},
	{"7001", 4, 13, 13, true, ""}, {"7002", 4, 1, 30, false, ""}, {"7003", 4, 10, 10, true, "expiry and time"}, {"7004", 4, 1, 4, true, ""}, {"7005", 4, 1, 12, false, ""},
	{"7006", 4, 6, 6, true, ""}, {"7007", 4, 6, 12, true, ""}, {"7008", 4, 1, 3, false, ""}, {"7009", 4, 1, 10, false, ""}, {"7010", 4, 1, 2, false, ""}, {"7011", 4, 6, 10, true, ""},
	{"7020", 4, 1, 20, false, ""}, {"7021", 4, 1, 20, false, ""}, {"7022", 4, 1, 20, false, ""}, {"7023", 4, 1, 30, false, ""}, {"703", 4, 4, 30, false, ""}, {"7040", 4, 4, 4, false, ""},
	{"710", 3, 1, 20, false, ""}, {"711", 3, 1, 20, false, ""}, {"712", 3, 1, 20, false, ""}, {"713", 3, 1, 20, false, ""}, {"714", 3, 1, 20, false, ""}, {"715", 3, 1, 20, false, ""},
	{"723", 4, 3, 30, false, ""}, {"7240", 4, 1, 20, false, ""}, {"7241", 4, 2, 2, true, ""}, {"7242", 4, 1, 25, false, ""},
	{"8001", 4, 14, 14, true, ""}, {"8002", 4, 1, 20, false, ""}, {"8003", 4, 14, 30, false, ""}, {"8004", 4, 1, 30, false, ""}, {"8005", 4, 6, 6, true, ""}, {"8006", 4, 18, 18, true, ""},
	{"8007", 4, 1, 34, false, ""}, {"8008", 4, 8, 12, true, ""}, {"8009", 4, 1, 50, false, ""}, {"8010", 4, 1, 30, false, ""}, {"8011", 4, 1, 12, true, ""}, {"8012", 4, 1, 20, false, ""},
	{"8013", 4, 1, 25, false, ""}, {"8017", 4, 18, 18, true, ""}, {"8018", 4, 18, 18, true, ""}, {"8019", 4, 1, 10, true, ""}, {"8020", 4, 1, 25, false, ""}, {"8026", 4, 18, 18, true, ""},
	{"8030", 4, 1, 90, false, ""}, {"8110", 4, 1, 70, false, ""}, {"8111", 4, 4, 4, true, ""}, {"8112", 4, 1, 70, false, ""}, {"8200", 4, 1, 70, false, ""},
	{"90", 2, 1, 30, false, "internal"}, {"91", 2, 1, 90, false, "internal"}, {"92", 2, 1, 90, false, "internal"}, {"93", 2, 1, 90, false, "internal"}, {"94", 2, 1, 90, false, "internal"},
	{"95", 2, 1, 90, false, "internal"}, {"96", 2, 1, 90, false, "internal"}, {"97", 2, 1, 90, false, "internal"}, {"98", 2, 1, 90, false, "internal"}, {"99", 2, 1, 90, false, "internal"},
}

// find returns the identifier that s begins with and what may follow it.
func find(s string) (ai string, sp spec, ok bool) {
	for _, sp := range specs {
		if strings.HasPrefix(s, sp.ai) && len(s) >= sp.size && digits(s[:sp.size]) {
			return s[:sp.size], sp, true
		}
	}
	return "", spec{}, false
}

// field is what a message calls the part with ai.
func (sp spec) field(ai string) string {
	if sp.name == "" {
		return "(" + ai + ")"
	}
	return sp.name + " (" + ai + ")"
}

// separators are what scanners send for FNC1 between parts: GS, or one of the texts that
// scanners send whose makers or owners set them to. None of them can be in a part, but for
// "<GS>", which nobody prints.
var separators = []string{"\x1d", "{GS}", "<GS>", "[GS]", "{FNC1}", "<FNC1>", "[FNC1]", "{1D}", "<1D>", "[1D]",
	`\x1d`, `\x1D`, `\u001d`, `\u001D`, "^]", "|", "\u241d"}

// separator is the length of the separator that s begins with; 0 is none.
func separator(s string) int {
	for _, sep := range separators {
		if strings.HasPrefix(s, sep) {
			return len(sep)
		}
	}
	return 0
}

// part is one element string.
type part struct {
	ai, value string
	at        int  // of value in the code
	open      bool // it could have been longer, and was ended by the end of the code
}

// elements are the parts of a code.
type elements struct {
	parts     []part
	separated bool // a separator was seen, so the scanner does send them
}

// get returns the value of ai, empty if it is not there.
func (e *elements) get(ai string) string {
	if i := slices.IndexFunc(e.parts, func(p part) bool { return p.ai == ai }); i >= 0 {
		return e.parts[i].value
	}
	return ""
}

// put adds a part, if it says nothing else than one before it.
func (e *elements) put(p part, sp spec) error {
	was := e.get(p.ai)
	if was != "" && was != p.value {
		return &Error{Problem: Contradicts, At: p.at + 1, Field: sp.field(p.ai), What: fmt.Sprintf("%q, and before %q", clip(p.value), clip(was))}
	}
	if was == "" {
		e.parts = append(e.parts, p)
	}
	return nil
}

// readElements reads an element string.
func readElements(raw string, at int, today time.Time) (Carton, error) {
	e, err := split(raw, at)
	if err != nil {
		return Carton{}, err
	}
	c, err := e.carton(today)
	if err != nil {
		return Carton{}, err
	}
	c.Doubt, err = e.swallowed(today)
	return c, err
}

// split cuts an element string into its parts.
func split(raw string, at int) (e elements, err error) {
	for at < len(raw) {
		if n := separator(raw[at:]); n > 0 {
			e.separated = e.separated || len(e.parts) > 0 // one at the front is FNC1 in the first place
			at += n
			continue
		}
		ai, sp, ok := find(raw[at:])
		if !ok {
			return e, unknown(raw, at, e)
		}
		p, end, err := cut(raw, at, ai, sp)
		if err != nil {
			return e, err
		}
		if err := e.put(p, sp); err != nil {
			return e, err
		}
		at = end
	}
	return e, nil
}

// unknown is the error for what no part begins with.
func unknown(raw string, at int, e elements) error {
	if len(e.parts) == 0 {
		return &Error{Problem: Foreign, At: at + 1, What: fmt.Sprintf("%q is no code of a carton", clip(raw[at:]))}
	}
	return &Error{Problem: UnknownAI, At: at + 1, What: fmt.Sprintf("%q begins with no application identifier of GS1", clip(raw[at:]))}
}

// cut takes the part with ai, which begins at at, and says where the next one begins.
func cut(raw string, at int, ai string, sp spec) (p part, end int, err error) {
	start := at + len(ai)
	stop := start
	for stop < len(raw) && separator(raw[stop:]) == 0 {
		stop++
	}
	n := stop - start
	if sp.min == sp.max {
		n = min(n, sp.max)
	}
	p = part{ai: ai, value: raw[start : start+n], at: start, open: sp.min < sp.max && stop == len(raw)}
	return p, start + n, p.valid(sp, n)
}

// valid returns what is wrong with p, which has n characters.
func (p part) valid(sp spec, n int) error {
	wrong := func(why Problem, at int, format string, args ...any) error {
		return &Error{Problem: why, At: at + 1, Field: sp.field(p.ai), What: fmt.Sprintf(format, args...)}
	}
	switch {
	case n > sp.max && p.open:
		return wrong(Separator, p.at+sp.max, "runs on for %d characters, and has at most %d: the separator behind it is missing", n, sp.max)
	case n > sp.max:
		return wrong(Length, p.at, "%d characters: at most %d", n, sp.max)
	case n < sp.min:
		return wrong(Length, p.at+n, "%d characters: at least %d", n, sp.min)
	}
	for i := range n {
		if b := p.value[i]; sp.numeric && !digit(b) {
			return wrong(Characters, p.at+i, "%q among digits", b)
		} else if !sign(b) {
			return wrong(Characters, p.at+i, "%q, which GS1 does not have; where it stands for a separator, the scanner is to send GS (ASCII 29)", b)
		}
	}
	return nil
}

// sign says if b is in GS1's set of 82 signs. Of the parts that may have others, none is on
// what we give out.
func sign(b byte) bool {
	return letter(b) || digit(b) || strings.IndexByte("!\"%&'()*+,-./:;<=>?_", b) >= 0
}

// carton is what the parts say.
func (e *elements) carton(today time.Time) (c Carton, err error) {
	c = Carton{Scheme: GS1, Batch: e.get("10"), Serial: e.get("21")}
	for _, p := range e.parts {
		var d protocol.DateOnly
		switch p.ai {
		case "01", "02":
			if _, err := gtin(p.value, p.at); err != nil {
				return c, err
			}
		case "00":
			if !checks(p.value) {
				return c, &Error{Problem: CheckDigit, At: p.at + len(p.value), Field: "shipping unit (00)", What: "its check digit is wrong"}
			}
		case "30", "37":
			c.Pieces = number(p.value)
		case "11", "17", "7003":
			if d, err = day(p.value[:6], today); err != nil {
				_, sp, _ := find(p.ai)
				return c, &Error{Problem: Date, At: p.at + 1, Field: sp.field(p.ai), What: err.Error()}
			}
		}
		switch p.ai {
		case "11":
			c.Made = d
		case "17", "7003":
			c.Expiry = earlier(c.Expiry, d)
		}
	}
	if c.Product = e.get("01"); c.Product == "" {
		c.Product = e.get("02") // of a case: what is in it is what goes into the slot
	}
	switch {
	case c.Product == "" && e.get("00") != "":
		return c, &Error{Problem: NoProduct, What: "the label of a pallet or parcel"}
	case c.Product == "":
		return c, &Error{Problem: NoProduct, What: "no GTIN (01)"}
	}
	return c, c.agrees()
}

// swallowed looks whether the last part, which only the end of the code ended, has
// swallowed others because its separator is not there. A scanner that sent one separator
// sends all. If the code else lacks an expiry or a product and these would be in it, that is
// an error; other readings are a doubt, because "21" and "10" are in many batch numbers.
func (e *elements) swallowed(today time.Time) (doubt string, err error) {
	if e.separated || len(e.parts) == 0 || !e.parts[len(e.parts)-1].open {
		return "", nil
	}
	last := e.parts[len(e.parts)-1]
	if last.ai != "10" && last.ai != "21" && last.ai != "240" {
		return "", nil
	}
	_, sp, _ := find(last.ai)
	for i := 1; i < len(last.value); i++ {
		rest, err := split(last.value, i)
		if err != nil || !e.plausible(rest, today) {
			continue
		}
		reading := fmt.Sprintf("%s %s", sp.field(last.ai), last.value[:i])
		for _, p := range rest.parts {
			_, sp, _ := find(p.ai)
			reading += fmt.Sprintf(", %s %s", sp.field(p.ai), p.value)
		}
		if rest.get("17") != "" || rest.get("01") != "" {
			return "", &Error{Problem: Separator, At: last.at + i + 1, Field: sp.field(last.ai),
				What: fmt.Sprintf("%q may be that, or %s: the separator between them is missing", last.value, reading)}
		}
		if doubt == "" {
			doubt = reading
		}
	}
	return doubt, nil
}

// plausible says if rest may be what follows e: parts that cartons have and e has not, with
// values that can be.
func (e *elements) plausible(rest elements, today time.Time) bool {
	if len(rest.parts) == 0 {
		return false
	}
	for _, p := range rest.parts {
		if e.get(p.ai) != "" {
			return false
		}
		switch p.ai {
		case "10", "21":
		case "01":
			if _, err := gtin(p.value, 0); err != nil {
				return false
			}
		case "11", "17":
			if _, err := day(p.value, today); err != nil {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// readPrinted reads what is printed below codes, identifiers in brackets, which some makers
// put into the code itself.
func readPrinted(raw string, at int, today time.Time) (Carton, error) {
	var e elements
	for at < len(raw) {
		size := strings.IndexByte(raw[at:], ')') - 1
		ai, sp, ok := find(raw[at+1:])
		if raw[at] != '(' || size < 2 || !ok || ai != raw[at+1:at+1+size] {
			return Carton{}, unknown(raw, at, e)
		}
		start := at + size + 2
		stop := start + next(raw[start:])
		p := part{ai: ai, value: raw[start:stop], at: start}
		if err := p.valid(sp, stop-start); err != nil {
			return Carton{}, err
		}
		if err := e.put(p, sp); err != nil {
			return Carton{}, err
		}
		at = stop
	}
	return e.carton(today)
}

// next is where the next identifier in brackets begins in s, or its end.
func next(s string) int {
	for i := range len(s) {
		if s[i] != '(' {
			continue
		}
		if ai, _, ok := find(s[i+1:]); ok && strings.HasPrefix(s[i+1+len(ai):], ")") {
			return i
		}
	}
	return len(s)
}

// readLink reads a GS1 Digital Link: https://any.host/01/GTIN/10/batch/21/serial?17=261231
func readLink(raw string, at int, today time.Time) (Carton, error) {
	foreign := func(why string) error { return &Error{Problem: Foreign, At: at + 1, Field: "web address", What: why} }
	u, err := url.Parse(raw[at:])
	if err != nil {
		return Carton{}, foreign("it does not parse")
	}
	steps := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
	from := slices.Index(steps, "01")
	if from < 0 {
		return Carton{}, foreign("it is no GS1 Digital Link: no /01/ and GTIN")
	}
	if len(steps[from:])%2 != 0 {
		return Carton{}, foreign("a part without its value")
	}
	var e elements
	for ; from < len(steps); from += 2 {
		value, err := url.PathUnescape(steps[from+1])
		if err != nil {
			return Carton{}, foreign("it does not parse")
		}
		if err := e.link(steps[from], value, at); err != nil {
			return Carton{}, err
		}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Carton{}, foreign("it does not parse")
	}
	for _, key := range slices.Sorted(maps.Keys(query)) { // in one order, so that one error is told
		if !digits(key) {
			continue // of the web site
		}
		for _, value := range query[key] {
			if err := e.link(key, value, at); err != nil {
				return Carton{}, err
			}
		}
	}
	return e.carton(today)
}

// link adds a part of a web address.
func (e *elements) link(key, value string, at int) error {
	ai, sp, ok := find(key)
	if !ok || ai != key {
		return &Error{Problem: UnknownAI, At: at + 1, Field: "web address", What: fmt.Sprintf("%q is no application identifier of GS1", clip(key))}
	}
	if ai == "01" && digits(value) && (len(value) == 8 || len(value) == 12 || len(value) == 13) {
		value = strings.Repeat("0", 14-len(value)) + value
	}
	p := part{ai: ai, value: value, at: at}
	if sp.min == sp.max && len(value) > sp.max {
		return &Error{Problem: Length, At: at + 1, Field: sp.field(ai), What: fmt.Sprintf("%d characters: want %d", len(value), sp.max)}
	}
	if err := p.valid(sp, len(value)); err != nil {
		return err
	}
	return e.put(p, sp)
}
