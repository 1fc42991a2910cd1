package card

import (
	"errors"
	"time"
)

// Where things stand in a card's text: bytes of UTF-16LE, from 0. The first
// three kinds of card share the places that are named without a kind.
const (
	atBirth     = 36  // 8 digits, YYYYMMDD
	atNumber    = 122 // 18 characters
	atFrom      = 188 // 8 digits
	atTo        = 204 // 8 digits, or 长期
	atKind      = 248 // one letter
	atBirth17   = 220 // foreigner's card of 2017
	atCountry17 = 152 // 3 letters, as in the number
	atCountry23 = 242 // foreigner's card of 2023: 3 letters
	atFormer23  = 250 // 3 digits that lead to the number of an earlier card
)

// kind of card: the letter at atKind. Any other letter is a mainland card, and
// then the number must be one.
const (
	kindPermit  = 'J' // residence permit for Hong Kong, Macao and Taiwan residents
	kindForeign = 'I' // foreign permanent resident, 2017
	kindNewer   = 'Y' // foreign permanent resident, 2023
)

// What can be wrong with a card's text. No text of the card is ever in them,
// and nobody outside branches on them.
var (
	errBirth   = errors.New("its birth date cannot be")
	errValid   = errors.New("its period of validity cannot be")
	errNumber  = errors.New("its number does not add up")
	errBirthID = errors.New("its birth date and number disagree")
	errCountry = errors.New("its nationality and number disagree")
)

// day is a calendar day.
type day struct{ year, month, day int }

func (d day) before(e day) bool {
	if d.year != e.year {
		return d.year < e.year
	}
	if d.month != e.month {
		return d.month < e.month
	}
	return d.day < e.day
}

// dayOf is the calendar day of t where t is.
func dayOf(t time.Time) day {
	y, m, d := t.Date()
	return day{y, int(m), d}
}

// age is whole years from birth to today. Who was born on 29 February is a
// year older on 1 March of a common year.
func age(birth, today day) int {
	years := today.year - birth.year
	if today.month < birth.month || today.month == birth.month && today.day < birth.day {
		years--
	}
	return years
}

// number is a person's number as it is hashed. Its owner wipes it.
type number struct {
	c [18]byte
	n int // 18, or 15
}

func (n *number) bytes() []byte { return n.c[:n.n] }

func (n *number) wipe() { *n = number{} }

// judge reads a card's text: it fills num, and says if the holder's age today
// is in window and the card still valid. An error means that the text is not
// one a card can hold, and num is of no use.
func judge(text *[textSize]byte, today day, window Age, num *number) (ageOK, validOK bool, err error) {
	placed := atBirth
	if text[atKind] == kindForeign && text[atKind+1] == 0 {
		placed = atBirth17
	}
	var digits [8]byte
	defer clear(digits[:])
	birth, ok := date(text[placed:placed+16], &digits)
	if !ok || birth.year < 1880 || today.before(birth) {
		return false, false, errBirth
	}
	if err := readNumber(text, &digits, num); err != nil {
		return false, false, err
	}
	validOK, err = valid(text, today)
	if err != nil {
		return false, false, err
	}
	years := age(birth, today)
	return years >= window.From && (window.To == 0 || years <= window.To), validOK, nil
}

// readNumber reads and checks the number, by kind of card, against the birth
// date's digits.
func readNumber(text *[textSize]byte, birth *[8]byte, num *number) error {
	kind := text[atKind]
	if text[atKind+1] != 0 {
		kind = 0
	}
	if kind == kindForeign {
		return readForeign(text, birth, num)
	}
	num.n = 18
	if !ascii(num.c[:], text[atNumber:atNumber+36]) {
		return errNumber
	}
	if num.c[17] == 'x' {
		num.c[17] = 'X'
	}
	if !adds18(&num.c) || !region(kind, &num.c) {
		return errNumber
	}
	if [8]byte(num.c[6:14]) != *birth {
		return errBirthID
	}
	if kind == kindNewer {
		return former(text, num)
	}
	return nil
}

// region says if a number can begin so on that kind of card.
func region(kind byte, c *[18]byte) bool {
	switch kind {
	case kindPermit:
		return c[0] == '8' && c[1] >= '1' && c[1] <= '3' && [4]byte(c[2:6]) == [4]byte{'0', '0', '0', '0'}
	case kindNewer:
		return c[0] == '9'
	}
	return c[0] >= '1' && c[0] <= '8'
}

// readForeign reads the 15 characters of a card of 2017: 3 letters for the
// country, 4 digits for the region, YYMMDD, a digit, a check digit.
func readForeign(text *[textSize]byte, birth *[8]byte, num *number) error {
	num.n = 15
	if !ascii(num.c[:15], text[atNumber:atNumber+30]) || !letters(num.c[:3]) ||
		!allDigits(num.c[3:15]) || check15(num.c[:14]) != num.c[14] {
		return errNumber
	}
	var country [3]byte
	if !ascii(country[:], text[atCountry17:atCountry17+6]) || country != [3]byte(num.c[:3]) {
		return errCountry
	}
	if [6]byte(num.c[7:13]) != [6]byte(birth[2:]) {
		return errBirthID
	}
	return nil
}

// former turns the number of a card of 2023 into that of the same person's
// card of 2017, if there was one, so that both give the same mark. The card
// holds the three digits that the new number lacks. Without them (spaces, or
// 000) the new number stays.
func former(text *[textSize]byte, num *number) error {
	var lacks [3]byte
	defer clear(lacks[:])
	if !ascii(lacks[:], text[atFormer23:atFormer23+6]) || !allDigits(lacks[:]) || lacks == [3]byte{'0', '0', '0'} {
		return nil
	}
	var old [18]byte
	defer clear(old[:])
	if !ascii(old[:3], text[atCountry23:atCountry23+6]) || !letters(old[:3]) {
		return errCountry
	}
	copy(old[3:5], num.c[1:3])   // province
	copy(old[5:7], lacks[:2])    // the rest of the region
	copy(old[7:13], num.c[8:14]) // YYMMDD
	old[13] = lacks[2]
	old[14] = check15(old[:14])
	num.c, num.n = old, 15
	return nil
}

// adds18 says if 17 digits are followed by the check character of GB 11643.
func adds18(c *[18]byte) bool {
	if !allDigits(c[:17]) {
		return false
	}
	sum := 0
	for i, w := range [17]int{7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2} {
		sum += w * int(c[i]-'0')
	}
	return c[17] == "10X98765432"[sum%11]
}

// check15 is the check digit of 14 digits and capital letters: weights 7, 3, 1
// over and over, letters from A = 10.
func check15(c []byte) byte {
	sum := 0
	for i, b := range c {
		v := int(b - '0')
		if b >= 'A' {
			v = int(b-'A') + 10
		}
		sum += v * [3]int{7, 3, 1}[i%3]
	}
	return '0' + byte(sum%10)
}

// valid says if today is not after the card's last day.
func valid(text *[textSize]byte, today day) (bool, error) {
	var digits [8]byte
	defer clear(digits[:])
	from, ok := date(text[atFrom:atFrom+16], &digits)
	if !ok {
		return false, errValid
	}
	// 长期 and spaces: for ever.
	if [16]byte(text[atTo:atTo+16]) == [16]byte{0x7F, 0x95, 0x1F, 0x67, ' ', 0, ' ', 0, ' ', 0, ' ', 0, ' ', 0, ' ', 0} {
		return true, nil
	}
	to, ok := date(text[atTo:atTo+16], &digits)
	if !ok || !from.before(to) {
		return false, errValid
	}
	return !to.before(today), nil
}

// date reads eight digits, which it leaves in digits, as a day that exists.
func date(field []byte, digits *[8]byte) (day, bool) {
	if !ascii(digits[:], field) || !allDigits(digits[:]) {
		return day{}, false
	}
	n := 0
	for _, c := range digits {
		n = n*10 + int(c-'0')
	}
	d := day{n / 10000, n / 100 % 100, n % 100}
	// time.Date turns 31 April into 1 May.
	return d, dayOf(time.Date(d.year, time.Month(d.month), d.day, 0, 0, 0, 0, time.UTC)) == d
}

// ascii reads UTF-16LE that must be printable ASCII. No strings: they cannot be wiped.
func ascii(to, from []byte) bool {
	for i := range to {
		lo, hi := from[2*i], from[2*i+1]
		if hi != 0 || lo < ' ' || lo > '~' {
			return false
		}
		to[i] = lo
	}
	return true
}

func allDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

func letters(b []byte) bool {
	for _, c := range b {
		if c < 'A' || c > 'Z' {
			return false
		}
	}
	return true
}
