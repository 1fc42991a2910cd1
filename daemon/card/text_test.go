package card

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
	"unicode/utf16"

	"yaoju/daemon/card/sim"
)

var (
	// The national standard's own examples.
	example1 = sim.Resident("测试甲", "110105", "19491231", 2)
	example2 = sim.Resident("测试乙", "440524", "18800101", 1)
	example3 = sim.Resident("测试丙", "340524", "19800101", 1)

	permit  = sim.PermitHolder("测试丁", "810000", "19920229", 3)
	foreign = sim.Foreigner("测试戊", "CAN", "1101", "19910704", 5)
	renewed = foreign.Renewed("124", 17)
	newer   = sim.NewForeigner("测试己", "KEN", "404", "44", "19720815", 4)
)

// verdict is all that judge says, comparable.
type verdict struct {
	number         string
	ageOK, validOK bool
	err            string
}

func judgeBlock(b [256]byte, today day, window Age) verdict {
	var num number
	ageOK, validOK, err := judge(&b, today, window, &num)
	if err != nil {
		return verdict{err: err.Error()}
	}
	return verdict{number: string(num.bytes()), ageOK: ageOK, validOK: validOK}
}

func TestLayouts(t *testing.T) {
	t.Parallel()
	today := day{2026, 3, 1}
	lower := example1
	lower.Number = "11010519491231002x"
	forever := example3
	forever.ValidTo = sim.Forever
	zeroes := newer
	zeroes.Former = "000"
	for name, c := range map[string]struct {
		p    sim.Person
		want verdict
	}{
		"standard's example 1":      {example1, verdict{number: "11010519491231002X", validOK: true}},
		"standard's example 2":      {example2, verdict{number: "440524188001010014", validOK: true}},
		"standard's example 3":      {example3, verdict{number: "34052419800101001X", ageOK: true, validOK: true}},
		"small x":                   {lower, verdict{number: "11010519491231002X", validOK: true}},
		"for ever":                  {forever, verdict{number: "34052419800101001X", ageOK: true, validOK: true}},
		"permit":                    {permit, verdict{number: permit.Number, ageOK: true, validOK: true}},
		"foreigner 2017":            {foreign, verdict{number: foreign.Number, ageOK: true, validOK: true}},
		"foreigner 2023, renewed":   {renewed, verdict{number: foreign.Number, ageOK: true, validOK: true}},
		"foreigner 2023":            {newer, verdict{number: newer.Number, ageOK: true, validOK: true}},
		"foreigner 2023, no former": {zeroes, verdict{number: newer.Number, ageOK: true, validOK: true}},
	} {
		if got := judgeBlock(c.p.Block(), today, Age{From: 18, To: 60}); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestWrongCardsAreRefused(t *testing.T) {
	t.Parallel()
	with := func(p sim.Person, change func(*sim.Person)) sim.Person {
		change(&p)
		return p
	}
	for name, c := range map[string]struct {
		p    sim.Person
		want error
	}{
		"29 February of a common year": {sim.Resident("测试甲", "110105", "19910229", 2), errBirth},
		"month 13":                     {sim.Resident("测试甲", "110105", "19911301", 2), errBirth},
		"born tomorrow":                {sim.Resident("测试甲", "110105", "20260302", 2), errBirth},
		"born in 1879":                 {sim.Resident("测试甲", "110105", "18791231", 2), errBirth},
		"no birth date":                {with(example3, func(p *sim.Person) { p.Birth = "" }), errBirth},
		"check digit":                  {with(example3, func(p *sim.Person) { p.Number = "340524198001010010" }), errNumber},
		"letter in the number":         {with(example3, func(p *sim.Person) { p.Number = "3405241980010100AX" }), errNumber},
		"short number":                 {with(example3, func(p *sim.Person) { p.Number = "34052419800101001" }), errNumber},
		"birth date of another":        {with(example3, func(p *sim.Person) { p.Birth = "19800102" }), errBirthID},
		"permit from elsewhere":        {with(example3, func(p *sim.Person) { p.Layout = sim.Permit }), errNumber},
		"2023 without the 9":           {with(example3, func(p *sim.Person) { p.Layout = sim.Foreigner2023 }), errNumber},
		"mainland with the 9":          {with(newer, func(p *sim.Person) { p.Layout = sim.Mainland }), errNumber},
		"2017 check digit":             {with(foreign, func(p *sim.Person) { p.Number = "CAN110191070450" }), errNumber},
		"2017 nationality of another":  {with(foreign, func(p *sim.Person) { p.Country = "KEN" }), errCountry},
		"2017 birth of another":        {with(foreign, func(p *sim.Person) { p.Birth = "19910705" }), errBirthID},
		"2023 without nationality":     {with(renewed, func(p *sim.Person) { p.Country = "" }), errCountry},
		"no first day":                 {with(example3, func(p *sim.Person) { p.ValidFrom = "" }), errValid},
		"no last day":                  {with(example3, func(p *sim.Person) { p.ValidTo = "" }), errValid},
		"last day that is none":        {with(example3, func(p *sim.Person) { p.ValidTo = "20300631" }), errValid},
		"ends before it begins":        {with(example3, func(p *sim.Person) { p.ValidTo = "20180101" }), errValid},
		"half for ever":                {with(example3, func(p *sim.Person) { p.ValidTo = "长" }), errValid},
	} {
		var num number
		b := c.p.Block()
		if _, _, err := judge(&b, day{2026, 3, 1}, Age{}, &num); err != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestAgeAndValidity(t *testing.T) {
	t.Parallel()
	born := func(birth string) sim.Person { return sim.Resident("测试甲", "110105", birth, 2) }
	until := func(to string) sim.Person {
		p := born("19800101")
		p.ValidFrom, p.ValidTo = "20160301", to
		return p
	}
	for _, c := range []struct {
		p              sim.Person
		today          day
		window         Age
		ageOK, validOK bool
	}{
		{born("20080301"), day{2026, 2, 28}, Age{18, 60}, false, true},
		{born("20080301"), day{2026, 3, 1}, Age{18, 60}, true, true},
		{born("20080301"), day{2026, 3, 1}, Age{19, 60}, false, true},
		{born("19650302"), day{2026, 3, 1}, Age{18, 60}, true, true},
		{born("19650301"), day{2026, 3, 1}, Age{18, 60}, false, true},
		{born("19650301"), day{2026, 3, 1}, Age{18, 0}, true, true},
		{born("20260301"), day{2026, 3, 1}, Age{0, 0}, true, true},
		{born("20080229"), day{2026, 2, 28}, Age{18, 0}, false, true},
		{born("20080229"), day{2026, 3, 1}, Age{18, 0}, true, true},
		{born("20080229"), day{2028, 2, 29}, Age{20, 20}, true, true},
		{until("20260301"), day{2026, 2, 28}, Age{}, true, true},
		{until("20260301"), day{2026, 3, 1}, Age{}, true, true},
		{until("20260301"), day{2026, 3, 2}, Age{}, true, false},
		{until("20260301"), day{2027, 1, 1}, Age{}, true, false},
		{until(sim.Forever), day{2099, 1, 1}, Age{}, true, true},
	} {
		got := judgeBlock(c.p.Block(), c.today, c.window)
		if got.err != "" || got.ageOK != c.ageOK || got.validOK != c.validOK {
			t.Errorf("born %s, until %s, on %v, window %v: %+v, want age %t, valid %t",
				c.p.Birth, c.p.ValidTo, c.today, c.window, got, c.ageOK, c.validOK)
		}
	}
}

// Any byte of a card's text changed to anything is refused or changes nothing,
// except where the card says a thing once only: then that thing alone may
// change. (On the wire the frame's check byte stands guard over all of them.)
func TestEveryByteCorrupted(t *testing.T) {
	t.Parallel()
	today := day{2026, 3, 1}
	window := Age{From: 18, To: 60}
	for name, p := range map[string]sim.Person{
		"mainland": example3, "x": example1, "permit": permit,
		"2017": foreign, "2023": newer, "renewed": renewed,
	} {
		good := p.Block()
		want := judgeBlock(good, today, window)
		if want.err != "" {
			t.Fatalf("%s: %s", name, want.err)
		}
		for at := range good {
			for v := range 256 {
				b := good
				b[at] = byte(v)
				got := judgeBlock(b, today, window)
				if got.err != "" || got == want {
					continue
				}
				// The last day is said once.
				if at >= atTo && at < atTo+16 {
					got.validOK = want.validOK
				}
				// So is the century of birth on a card of 2017.
				if p.Layout == sim.Foreigner2017 && at >= atBirth17 && at < atBirth17+4 {
					got.ageOK = want.ageOK
				}
				// So are nationality and the digits of the earlier number.
				if p.Layout == sim.Foreigner2023 && (at >= atCountry23 && at < atCountry23+6 || at >= atFormer23) {
					got.number = want.number
				}
				if got != want {
					t.Errorf("%s: byte %d = %02x: %+v, want %+v or refused", name, at, v, got, want)
				}
			}
		}
	}
}

// Two encoders, two decoders: what the simulated people say of themselves is
// what is read from their cards.
func TestInventedPeople(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	today := day{2026, 3, 1}
	for range 2000 {
		p := sim.Someone(rng)
		var birth day
		if _, err := fmt.Sscanf(p.Birth, "%4d%2d%2d", &birth.year, &birth.month, &birth.day); err != nil {
			t.Fatal(err)
		}
		years := age(birth, today)
		got := judgeBlock(p.Block(), today, Age{years, years})
		if got.err != "" || !got.ageOK || !got.validOK {
			t.Errorf("%c %s: %+v", p.Layout, p.Birth, got)
		}
		if p.Former == "" && got.number != p.Number {
			t.Errorf("%c: number %s, want %s", p.Layout, got.number, p.Number)
		}
		if judgeBlock(p.Block(), today, Age{years + 1, 0}).ageOK {
			t.Errorf("%s is not over %d", p.Birth, years)
		}
	}
}

func FuzzText(f *testing.F) {
	for _, p := range []sim.Person{example1, example2, example3, foreign, renewed, newer} {
		b := p.Block()
		f.Add(b[:])
	}
	f.Add(bytes.Repeat([]byte{' ', 0}, 128))
	f.Add(bytes.Repeat([]byte{0xFF}, 256))
	f.Fuzz(func(t *testing.T, in []byte) {
		var b [256]byte
		copy(b[:], in)
		got := judgeBlock(b, day{2026, 3, 1}, Age{0, 0})
		if got.err != "" {
			return
		}
		if n := len(got.number); n != 18 && n != 15 || !got.ageOK {
			t.Fatalf("%+v", got)
		}
		// A number that is taken stands on the card, but for an earlier card's.
		var units []uint16
		for i := 0; i < len(b); i += 2 {
			units = append(units, uint16(b[i])|uint16(b[i+1])<<8)
		}
		text := string(utf16.Decode(units))
		if b[atKind] != kindNewer && !bytes.Contains(bytes.ToUpper([]byte(text)), []byte(got.number)) {
			t.Fatalf("%s is not on the card", got.number)
		}
	})
}

func TestDayOf(t *testing.T) {
	t.Parallel()
	shanghai := time.FixedZone("CST", 8*3600)
	at := time.Date(2026, 2, 28, 16, 0, 0, 0, time.UTC)
	if got := dayOf(at.In(shanghai)); got != (day{2026, 3, 1}) {
		t.Errorf("%v in Shanghai is %v", at, got)
	}
}
