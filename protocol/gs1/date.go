package gs1

import (
	"fmt"
	"time"

	"yaoju/protocol"
)

// day reads YYMMDD or YYYYMMDD. Day 00 is the last of its month.
func day(s string, today time.Time) (protocol.DateOnly, error) {
	var year, month, d int
	switch {
	case digits(s) && len(s) == 6:
		year = century(number(s[:2]), today.Year())
	case digits(s) && len(s) == 8:
		year = number(s[:4])
	default:
		return "", fmt.Errorf("%q is no day: want YYMMDD or YYYYMMDD", s)
	}
	month, d = number(s[len(s)-4:len(s)-2]), number(s[len(s)-2:])
	last := time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
	if d == 0 {
		d = last
	}
	if month < 1 || month > 12 || d > last || year < 1 {
		return "", fmt.Errorf("there is no day %s", s)
	}
	return protocol.DateOnly(fmt.Sprintf("%04d-%02d-%02d", year, month, d)), nil
}

// century finds the year with these last two digits that is 49 years before this one to 50
// after, as the GS1 General Specifications have it.
func century(yy, thisYear int) int {
	year := thisYear - thisYear%100 + yy
	switch diff := yy - thisYear%100; {
	case diff >= 51:
		return year - 100
	case diff <= -50:
		return year + 100
	}
	return year
}

// number is the value of digits, of which there are at most 8.
func number(s string) (n int) {
	for i := range len(s) {
		n = n*10 + int(s[i]-'0')
	}
	return n
}

// dayBefore is the last day on which something is good that is not any more on d.
func dayBefore(d protocol.DateOnly) protocol.DateOnly {
	t, err := time.Parse(time.DateOnly, string(d))
	if err != nil {
		panic("gs1: a date of our own does not parse: " + err.Error()) // day made it
	}
	return protocol.DateOnly(t.AddDate(0, 0, -1).Format(time.DateOnly))
}
