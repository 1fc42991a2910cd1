package gs1_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"yaoju/protocol"
	"yaoju/protocol/gs1"
)

var today = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// The numbers are the standards' own examples, or invented.
const (
	box   = "06901234567892"
	plain = "01" + box
	gs    = "\x1d"
)

func TestParse(t *testing.T) {
	full := gs1.Carton{Scheme: gs1.GS1, Product: box, Batch: "A213B1", Expiry: "2027-07-07", Made: "2024-12-31", Serial: "1234"}
	alone := gs1.Carton{Scheme: gs1.GS1, Product: box}
	with := func(c gs1.Carton, f func(*gs1.Carton)) gs1.Carton { f(&c); return c }
	elements := plain + "11241231" + "17270707" + "10A213B1" + gs + "211234"
	tests := []struct {
		name, code string
		want       gs1.Carton
	}{
		{"DataMatrix", "]d2" + elements, full},
		{"GS1-128", "]C1" + elements, full},
		{"QR code", "]Q3" + elements, full},
		{"DataBar", "]e0" + elements, full},
		{"no AIM identifier", elements, full},
		{"identifier of a DataMatrix without FNC1 in front", "]d1" + elements, full},
		{"FNC1 in front is sent", "]d2" + gs + elements, full},
		{"separators where none need be", "]d2" + strings.ReplaceAll(elements, "17270707", "17270707"+gs) + gs, full},
		{"separator twice", "]d2" + strings.ReplaceAll(elements, gs, gs+gs), full},
		{"another order", "]d2" + "10A213B1" + gs + "211234" + gs + plain + "17270707" + "11241231", full},
		{"ISO 15434 around it", "[)>\x1e05" + gs + elements + "\x1e\x04", full},
		{"blanks behind", elements + "  ", full},
		{"brackets", "(01)" + box + "(11)241231(17)270707(10)A213B1(21)1234", full},
		{"brackets in a batch", "(01)" + box + "(10)A(2)B(", with(alone, func(c *gs1.Carton) { c.Batch = "A(2)B(" })},
		{"digital link", "https://id.gs1.org/01/" + box + "/10/A213B1/21/1234?17=270707&11=241231&linkType=all", full},
		{"digital link with 13 digits and signs", "https://example.cn/some/shop/01/" + box[1:] + "/10/A%2FB", with(alone, func(c *gs1.Carton) { c.Batch = "A/B" })},
		{"batch with 21 and 17 in it, separated", "]d2" + plain + "10" + "A21B17270707" + gs + "17270707",
			with(alone, func(c *gs1.Carton) { c.Batch, c.Expiry = "A21B17270707", "2027-07-07" })},
		{"batch that could be an expiry, with one there already", plain + "17270707" + "10" + "X17280101",
			with(alone, func(c *gs1.Carton) { c.Batch, c.Expiry = "X17280101", "2027-07-07" })},
		{"batch of 20", plain + "10" + strings.Repeat("Z", 20), with(alone, func(c *gs1.Carton) { c.Batch = strings.Repeat("Z", 20) })},
		{"every sign", plain + "10" + `!"%&'()*+,-./:;<=>?`, with(alone, func(c *gs1.Carton) { c.Batch = `!"%&'()*+,-./:;<=>?` })},
		{"day 00", plain + "17280200", with(alone, func(c *gs1.Carton) { c.Expiry = "2028-02-29" })},
		{"day 00 of December", plain + "17271200", with(alone, func(c *gs1.Carton) { c.Expiry = "2027-12-31" })},
		{"50 years on", plain + "17761231", with(alone, func(c *gs1.Carton) { c.Expiry = "2076-12-31" })},
		{"49 years ago", plain + "11770101", with(alone, func(c *gs1.Carton) { c.Made = "1977-01-01" })},
		{"expiry with hour", plain + "7003" + "2707071530", with(alone, func(c *gs1.Carton) { c.Expiry = "2027-07-07" })},
		{"the earlier of two", plain + "17270709" + "7003" + "2707071530", with(alone, func(c *gs1.Carton) { c.Expiry = "2027-07-07" })},
		{"parts we have no use for", plain + "3103001250" + "240ABC" + gs + "422156" + "17270707" + "10A1" + gs + "91X" + gs + "8200https://a.b",
			with(alone, func(c *gs1.Carton) { c.Batch, c.Expiry = "A1", "2027-07-07" })},
		{"a case", "02" + box + "37120" + gs + "17270707", with(alone, func(c *gs1.Carton) { c.Pieces, c.Expiry = 120, "2027-07-07" })},
		{"a case with its pallet", "00" + "106141412345678908" + "02" + box + "37120", with(alone, func(c *gs1.Carton) { c.Pieces = 120 })},
		{"the same twice", plain + plain + "17270707", with(alone, func(c *gs1.Carton) { c.Expiry = "2027-07-07" })},
		{"EAN-13", box[1:], alone},
		{"EAN-13 with identifier", "]E0" + box[1:], alone},
		{"GTIN-14 as ITF", "]I1" + "16901234567899", with(alone, func(c *gs1.Carton) { c.Product = "16901234567899" })},
		{"GTIN-12", "614141000036", with(alone, func(c *gs1.Carton) { c.Product = "00614141000036" })},
		{"GTIN-8", "]E496385074", with(alone, func(c *gs1.Carton) { c.Product = "00000096385074" })},
		{"trace code", "81000010000000000001", gs1.Carton{Scheme: gs1.Trace, Product: "8100001", Serial: "0000000000001"}},
		{"trace code as Code 128", "]C083999990123456789012", gs1.Carton{Scheme: gs1.Trace, Product: "8399999", Serial: "0123456789012"}},
		{"20 digits of GS1", plain + "1012", with(alone, func(c *gs1.Carton) { c.Batch = "12" })},
		{"MA", "MA.156.M0.100204.13351764.Sx00008.M220117.LA1.D20220118.E270130.V270129.C3",
			gs1.Carton{Scheme: gs1.MA, Product: "MA.156.M0.100204.13351764", Serial: "x00008", Made: "2022-01-17", Batch: "A1", Expiry: "2027-01-29"}},
		{"MA product alone", "]Q1MA.156.M0.100204.13351764", gs1.Carton{Scheme: gs1.MA, Product: "MA.156.M0.100204.13351764"}},
		{"MA of before, with long dates", "MA.156.M0.100204.13351764.P20190101.LABS20191201.E20271201",
			gs1.Carton{Scheme: gs1.MA, Product: "MA.156.M0.100204.13351764", Made: "2019-01-01", Batch: "ABS20191201", Expiry: "2027-11-30"}},
		{"MA that contradicts by a day", "MA.156.M0.100204.13351764.E270130.V270131",
			gs1.Carton{Scheme: gs1.MA, Product: "MA.156.M0.100204.13351764", Expiry: "2027-01-29"}},
	}
	for _, text := range []string{"{GS}", "<GS>", "[GS]", "{FNC1}", "<FNC1>", "[FNC1]", "{1D}", "<1D>", `\x1d`, `\x1D`, `\u001d`, "^]", "|", "\u241d"} {
		tests = append(tests, struct {
			name, code string
			want       gs1.Carton
		}{"separator sent as " + text, "]d2" + strings.ReplaceAll(elements, gs, text), full})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := test.want
			want.Raw = test.code
			if got, err := gs1.Parse([]byte(test.code), today); err != nil || got != want {
				t.Errorf("%q:\ngot  %+v, %v\nwant %+v", test.code, got, err, want)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	tests := []struct {
		name, code string
		want       gs1.Problem
		at         int
		says       string
	}{
		{"nothing", "", gs1.Foreign, 0, "nothing was scanned"},
		{"too long", strings.Repeat("1", 513), gs1.Foreign, 0, "longer"},
		{"an identifier alone", "]d2", gs1.NoProduct, 0, "no GTIN"},
		{"a word", "HELLO", gs1.Foreign, 1, "no code of a carton"},
		{"a web address", "https://example.cn/p/1", gs1.Foreign, 1, "no GS1 Digital Link"},
		{"half a digital link", "https://example.cn/01", gs1.Foreign, 1, "without its value"},
		{"an unknown part in a link", "https://example.cn/01/" + box + "/05/1", gs1.UnknownAI, 1, "05"},
		{"a part of a link that is too long", "https://example.cn/01/" + box + "1", gs1.Length, 1, "want 14"},
		{"a German drug", "[)>\x1e06" + gs + "9N110375286414\x1e\x04", gs1.Foreign, 1, "15434"},
		{"no product", "17270707" + "10A1", gs1.NoProduct, 0, "no GTIN"},
		{"a pallet", "00" + "106141412345678908", gs1.NoProduct, 0, "pallet"},
		{"a pallet misread", "00" + "106141412345678907", gs1.CheckDigit, 20, "(00)"},
		{"20 digits of nobody", "91000010000000000001", gs1.NoProduct, 0, "no GTIN"},
		{"GTIN misread", "0106901234567893", gs1.CheckDigit, 16, "06901234567893"},
		{"GTIN of zeros", "0100000000000000", gs1.CheckDigit, 3, "zeros"},
		{"EAN-13 misread", "6901234567893", gs1.CheckDigit, 13, "6901234567893"},
		{"EAN-13 with its supplement", "]E0690123456789212", gs1.Length, 4, "8, 12, 13 nor 14"},
		{"EAN-13 with a letter", "]E069012345678X2", gs1.Characters, 4, "digits"},
		{"GTIN cut short", "]d2" + "010690123", gs1.Length, 13, "at least 14"},
		{"a letter in a GTIN", "]d2" + "010690123X567892", gs1.Characters, 13, "among digits"},
		{"a separator in a GTIN", "]d2" + "010690" + gs + "1234567892", gs1.Length, 10, "at least 14"},
		{"empty batch", plain + "10" + gs + "17270707", gs1.Length, 19, "batch (10)"},
		{"batch of 21", plain + "10" + strings.Repeat("Z", 21) + gs + "17270707", gs1.Length, 19, "at most 20"},
		{"unknown part", plain + "05123", gs1.UnknownAI, 17, "05123"},
		{"a number sign for a separator", plain + "10A1#17270707", gs1.Characters, 21, "ASCII 29"},
		{"rest of a bad separator", plain + "10A1 17270707", gs1.Characters, 21, "ASCII 29"},
		{"no such day", plain + "17270230", gs1.Date, 19, "expiry (17)"},
		{"no such month", plain + "17271301", gs1.Date, 19, "271301"},
		{"month 00", plain + "17270001", gs1.Date, 19, "270001"},
		{"29 February of no leap year", plain + "17270229", gs1.Date, 19, "270229"},
		{"two batches", plain + "10A1" + gs + "10A2", gs1.Contradicts, 24, "before"},
		{"good before it was made", plain + "11270708" + "17270707", gs1.Contradicts, 0, "2027-07-08"},
		{"no separator behind a batch, too long", "]d2" + "1021072911" + "17240531" + plain, gs1.Separator, 26, "separator behind it is missing"},
		{"no separator behind a batch, and the expiry in it", plain + "10A213B1" + "17270707", gs1.Separator, 25, "expiry (17) 270707"},
		{"no separators, and expiry and serial in it", plain + "10A1" + "17270707" + "21X", gs1.Separator, 21, "serial (21) X"},
		{"no separator behind a serial, and the expiry in it", plain + "21X12Y9" + "17210806" + "10176", gs1.Separator, 24, "batch (10) 176"},
		{"brackets without an end", "(01", gs1.Foreign, 1, "no code"},
		{"brackets around nothing known", "(01)" + box + "(05)1", gs1.Length, 5, "at most 14"},
		{"MA without product", "MA.156.M0.100204", gs1.Foreign, 1, "maker.product"},
		{"MA of another trade", "MA.156.10.1003.16291", gs1.Foreign, 8, "medical devices"},
		{"MA with an unknown part", "MA.156.M0.100204.13351764.X1", gs1.UnknownAI, 27, "X1"},
		{"MA with an empty part", "MA.156.M0.100204.13351764..L1", gs1.UnknownAI, 27, "begins with none"},
		{"MA with an empty batch", "MA.156.M0.100204.13351764.L", gs1.Characters, 28, "part L"},
		{"MA with two batches", "MA.156.M0.100204.13351764.L1.L1", gs1.Contradicts, 30, "twice"},
		{"MA with a long batch", "MA.156.M0.100204.13351764.L" + strings.Repeat("1", 21), gs1.Length, 28, "at most 20"},
		{"MA with no such day", "MA.156.M0.100204.13351764.V270230", gs1.Date, 28, "270230"},
		{"MA with half a day", "MA.156.M0.100204.13351764.V2702", gs1.Date, 28, "YYMMDD"},
		{"MA good before it was made", "MA.156.M0.100204.13351764.M270101.V260101", gs1.Contradicts, 0, "2027-01-01"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, err := gs1.Parse([]byte(test.code), today)
			var e *gs1.Error
			if !errors.As(err, &e) || c != (gs1.Carton{}) {
				t.Fatalf("%q: %+v, %v", test.code, c, err)
			}
			if _, en := test.want.Words(); e.Problem != test.want || e.At != test.at || !strings.Contains(e.Error(), test.says) || !strings.HasSuffix(e.Error(), en) {
				t.Errorf("%q: %s at %d: %v\nwant %s at %d, %q", test.code, e.Problem, e.At, err, test.want, test.at, test.says)
			}
		})
	}
}

// A batch number that may have swallowed a serial number is taken, with a doubt: "21" is
// in many a batch.
func TestDoubt(t *testing.T) {
	for _, test := range []struct{ code, batch, doubt string }{
		{plain + "17270707" + "10A213B1" + "211234", "A213B1211234", "batch (10) A, serial (21) 3B1211234"},
		{plain + "17270707" + "1020210915", "20210915", "batch (10) 20, serial (21) 0915"},
		{plain + "17270707" + "10A1" + gs + "2110XYZ10B", "A1", ""},
		{plain + "17270707" + "1021", "21", ""},
		{plain + "17270707" + "10ABC", "ABC", ""},
		{gs + plain + "17270707" + "10A" + gs, "A", ""},
	} {
		c, err := gs1.Parse([]byte(test.code), today)
		if err != nil || c.Batch != test.batch || c.Doubt != test.doubt {
			t.Errorf("%q: batch %q, doubt %q, %v; want %q, %q", test.code, c.Batch, c.Doubt, err, test.batch, test.doubt)
		}
	}
}

func TestWords(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range []gs1.Problem{gs1.Foreign, gs1.Separator, gs1.UnknownAI, gs1.CheckDigit, gs1.Date, gs1.Contradicts, gs1.NoProduct, "of a newer version"} {
		zh, en := p.Words()
		if zh == "" || en == "" || seen[zh] || seen[en] || strings.ContainsAny(zh+en, "!！") || strings.Contains(zh, "错误") || strings.Contains(zh, "非法") || strings.Contains(zh, "失败") || strings.Contains(zh, "拒绝") {
			t.Errorf("%s: %q, %q", p, zh, en)
		}
		seen[zh], seen[en] = true, true
	}
}

// What comes out of any code at all is fit for a ledger and a screen, is the same each
// time, and a code made of what came out says the same again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"]d2" + plain + "11241231" + "17270700" + "10A213B1" + gs + "211234", box[1:], "81000010000000000001", "00" + "106141412345678908",
		"MA.156.M0.100204.13351764.Sx00008.M220117.LA1.E270130.V270129.C3", "(01)" + box + "(10)A(21)B", "https://id.gs1.org/01/" + box + "/10/A?17=270707",
		"[)>\x1e05" + gs + plain + "\x1e\x04", plain + "10A1{GS}17270707", plain + "10A117270707", "]e0", "(", "MA.", "https://a/01/"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, code []byte) {
		c, err := gs1.Parse(code, today)
		again, err2 := gs1.Parse(code, today)
		if c != again || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Fatalf("%q: %+v, %v; and again %+v, %v", code, c, err, again, err2)
		}
		if err != nil {
			var e *gs1.Error
			if !errors.As(err, &e) || c != (gs1.Carton{}) || e.At < 0 || e.At > len(code)+1 || e.What == "" {
				t.Fatalf("%q: %+v, %#v", code, c, err)
			}
			return
		}
		for _, s := range []string{c.Product, c.Batch, c.Serial} {
			if strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 {
				t.Fatalf("%q: %+v", code, c)
			}
		}
		for _, d := range []protocol.DateOnly{c.Expiry, c.Made} {
			if d != "" && d.Valid() != nil {
				t.Fatalf("%q: %+v", code, c)
			}
		}
		if c.Product == "" || len(c.Batch) > protocol.MaxBatch || c.Pieces < 0 || c.Scheme == gs1.GS1 && len(c.Product) != 14 || c.Raw != string(code) {
			t.Fatalf("%q: %+v", code, c)
		}
		if c.Scheme != gs1.GS1 {
			return
		}
		made := "]d2" + "01" + c.Product
		if c.Batch != "" {
			made += "10" + c.Batch + gs
		}
		if c.Expiry != "" && c.Expiry > "1977" && c.Expiry < "2077" {
			made += "17" + strings.ReplaceAll(string(c.Expiry[2:]), "-", "")
		}
		got, err := gs1.Parse([]byte(made), today)
		if err != nil || got.Product != c.Product || got.Batch != c.Batch || got.Expiry != "" && got.Expiry != c.Expiry {
			t.Fatalf("%q says %+v; made of it %q says %+v, %v", code, c, made, got, err)
		}
	})
}
