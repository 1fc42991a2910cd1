package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"unicode/utf16"
)

// Layout is a kind of card, by the letter that marks it in the text block.
type Layout byte

// The four kinds of card.
const (
	Mainland      Layout = ' ' // resident identity card
	Permit        Layout = 'J' // residence permit for Hong Kong, Macao and Taiwan residents
	Foreigner2017 Layout = 'I' // foreign permanent resident identity card, 2017
	Foreigner2023 Layout = 'Y' // foreign permanent resident identity card, 2023
)

// Forever is the ValidTo of a card without an end.
const Forever = "长期"

// Person is an invented resident and what is on the card. The builders make
// people whose numbers have right check digits; a test that wants a wrong card
// changes a field afterwards.
type Person struct {
	Layout    Layout
	Number    string // 18 characters; 15 on Foreigner2017
	Name      string
	Birth     string // YYYYMMDD
	ValidFrom string // YYYYMMDD
	ValidTo   string // YYYYMMDD or Forever
	Country   string // ISO 3166 alpha-3; foreigners only
	Former    string // Foreigner2023: three digits that lead to the number of an earlier card, or empty
}

// validFrom and validTo are what the builders give everybody.
const validFrom, validTo = "20190101", "20390101"

// Resident invents a person with a mainland card: area is six digits, birth
// YYYYMMDD, seq 0 to 999 (odd for men).
func Resident(name, area, birth string, seq int) Person {
	return Person{Layout: Mainland, Number: number18(fmt.Sprintf("%s%s%03d", area, birth, seq)),
		Name: name, Birth: birth, ValidFrom: validFrom, ValidTo: validTo}
}

// PermitHolder invents a person with a residence permit: region is 810000
// (Hong Kong), 820000 (Macao) or 830000 (Taiwan), seq 0 to 999.
func PermitHolder(name, region, birth string, seq int) Person {
	p := Resident(name, region, birth, seq)
	p.Layout = Permit
	return p
}

// Foreigner invents a person with a card of 2017: country is three letters,
// region four digits, seq 0 to 9.
func Foreigner(name, country, region, birth string, seq int) Person {
	body := fmt.Sprintf("%s%s%s%d", country, region, birth[2:], seq)
	return Person{Layout: Foreigner2017, Number: number15(body), Name: name, Birth: birth,
		ValidFrom: validFrom, ValidTo: validTo, Country: country}
}

// NewForeigner invents a person whose first card is of 2023: country is three
// letters, code the country's three digits, province two digits, seq 0 to 999.
func NewForeigner(name, country, code, province, birth string, seq int) Person {
	return Person{Layout: Foreigner2023, Number: number18(fmt.Sprintf("9%s%s%s%03d", province, code, birth, seq)),
		Name: name, Birth: birth, ValidFrom: validFrom, ValidTo: validTo, Country: country}
}

// Renewed gives the holder of a card of 2017 the card of 2023: code is the
// country's three digits, seq 0 to 999.
func (p Person) Renewed(code string, seq int) Person {
	next := NewForeigner(p.Name, p.Country, code, p.Number[3:5], p.Birth, seq)
	next.Former = p.Number[5:7] + p.Number[13:14]
	return next
}

// number18 adds the check character of GB 11643 to 17 digits.
func number18(body string) string {
	sum, weight := 0, 1
	for i := len(body) - 1; i >= 0; i-- {
		weight = weight * 2 % 11
		sum += int(body[i]-'0') * weight
	}
	return body + string("10X98765432"[sum%11])
}

// number15 adds the check digit of a 2017 card to 14 characters.
func number15(body string) string {
	sum := 0
	for i, c := range body {
		v := int(c - '0')
		if c >= 'A' {
			v = int(c-'A') + 10
		}
		sum += v * []int{7, 3, 1}[i%3]
	}
	return fmt.Sprintf("%s%d", body, sum%10)
}

// Someone invents a person of any kind, born 1930 to 2014.
func Someone(rng *rand.Rand) Person {
	given := []rune("甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥")
	name := "测试" + string(given[rng.IntN(len(given))]) + string(given[rng.IntN(len(given))])
	birth := fmt.Sprintf("%04d%02d%02d", 1930+rng.IntN(85), 1+rng.IntN(12), 1+rng.IntN(28))
	seq := rng.IntN(1000)
	countries := [][2]string{{"BRA", "076"}, {"CAN", "124"}, {"KEN", "404"}, {"NZL", "554"}}
	c := countries[rng.IntN(len(countries))]
	switch rng.IntN(8) {
	case 0:
		return PermitHolder(name, []string{"810000", "820000", "830000"}[rng.IntN(3)], birth, seq)
	case 1:
		return Foreigner(name, c[0], "1101", birth, seq%10)
	case 2:
		return NewForeigner(name, c[0], c[1], "44", birth, seq)
	case 3:
		return Foreigner(name, c[0], "3405", birth, seq%10).Renewed(c[1], seq)
	}
	p := Resident(name, []string{"110105", "440524", "340524"}[rng.IntN(3)], birth, seq)
	if birth < "19700101" {
		p.ValidTo = Forever
	}
	return p
}

// Block is the text as the card holds it: 256 bytes of UTF-16LE. It panics on
// a field that does not fit.
func (p Person) Block() [256]byte {
	var b [256]byte
	for i := 0; i < len(b); i += 2 {
		b[i] = ' '
	}
	put := func(at, size int, s string) {
		units := utf16.Encode([]rune(s))
		if 2*len(units) > size {
			panic(fmt.Sprintf("%q does not fit the field at %d", s, at))
		}
		for i, u := range units {
			b[at+2*i], b[at+2*i+1] = byte(u), byte(u>>8)
		}
	}
	put(188, 16, p.ValidFrom)
	put(204, 16, p.ValidTo)
	put(248, 2, string(rune(p.Layout)))
	if p.Layout == Foreigner2017 {
		put(0, 120, "TEST, "+strings.Repeat("X", 8))
		put(120, 2, "1")
		put(122, 30, p.Number)
		put(152, 6, p.Country)
		put(158, 30, p.Name)
		put(220, 16, p.Birth)
		put(236, 4, "02")
		put(240, 8, "1500")
		return b
	}
	put(0, 30, p.Name)
	put(30, 2, []string{"2", "1"}[(p.Number[16]-'0')%2])
	put(36, 16, p.Birth)
	put(122, 36, p.Number)
	switch p.Layout {
	case Foreigner2023:
		put(32, 4, "00")
		put(52, 70, "TEST, "+strings.Repeat("X", 8))
		put(242, 6, p.Country)
		put(250, 6, p.Former)
	case Permit:
		put(52, 70, "测试区测试路1号")
		put(158, 30, "测试公安局")
		put(220, 18, "T00000000")
		put(238, 4, "01")
	default:
		put(32, 4, "01")
		put(52, 70, "测试区测试路1号")
		put(158, 30, "测试公安局")
	}
	return b
}
