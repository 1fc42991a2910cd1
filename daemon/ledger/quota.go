package ledger

import (
	"cmp"
	"slices"
	"time"

	"yaoju/protocol"
)

// A day is a calendar day of the machine's zone, counted from 1 January 1970. It
// has no hours, so daylight saving cannot shift it.
type day int

// dayOf returns the calendar day t shows in its own zone.
func dayOf(t time.Time) day {
	y, m, d := t.Date()
	return civil(y, m, d)
}

// civil returns a day by its name; like time.Date it accepts month 13 and day 32.
func civil(y int, m time.Month, d int) day {
	return day(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / (24 * 60 * 60))
}

func parseDay(d protocol.DateOnly) (day, error) {
	t, err := time.Parse(time.DateOnly, string(d))
	return dayOf(t), err
}

func (d day) utc() time.Time { return time.Unix(int64(d)*24*60*60, 0).UTC() }

func (d day) date() protocol.DateOnly { return protocol.DateOnly(d.utc().Format(time.DateOnly)) }

// in returns the first moment of the day in zone.
func (d day) in(zone *time.Location) time.Time {
	y, m, dd := d.utc().Date()
	return time.Date(y, m, dd, 0, 0, 0, 0, zone)
}

// A take is what one card took, or wants to take.
type take struct {
	day   day
	class string
	boxes int
	units int // single items in those boxes
}

// amount is what the rule counts of a take: 0 if it is of another class.
func amount(r protocol.Rule, t take) int {
	switch {
	case r.Class != "" && r.Class != t.class:
		return 0
	case r.Units:
		return t.units
	}
	return t.boxes
}

// free returns the first day on which the rule no longer counts what was taken
// on d. A take in days to come counts from now on, so a count never rises by
// waiting.
func free(r protocol.Rule, d day) day {
	y, m, _ := d.utc().Date()
	switch r.Per {
	case protocol.PerMonth:
		return civil(y, m+1, 1)
	case protocol.PerYear:
		return civil(y+1, time.January, 1)
	}
	return d + day(r.Days)
}

// firstDay returns the first day from want.day on which the policy lets want be
// taken after all of taken; ok is false if no day does, because want alone is
// more than a rule allows.
func firstDay(p protocol.Policy, taken []take, want take) (first day, ok bool) {
	first = want.day
	for _, r := range p.Rules {
		d, ok := ruleDay(r, taken, want)
		if !ok {
			return 0, false
		}
		first = max(first, d)
	}
	return first, true
}

// ruleDay is firstDay for one rule: the day on which enough of the oldest takes
// have left its window.
func ruleDay(r protocol.Rule, taken []take, want take) (first day, ok bool) {
	more := amount(r, want)
	if more == 0 {
		return want.day, true
	}
	if more > r.Max {
		return 0, false
	}
	var counted []take
	sum := 0
	for _, t := range taken {
		if n := amount(r, t); n > 0 && free(r, t.day) > want.day {
			counted = append(counted, t)
			sum += n
		}
	}
	slices.SortFunc(counted, func(a, b take) int { return cmp.Compare(a.day, b.day) })
	first = want.day
	for _, t := range counted {
		if sum+more <= r.Max {
			break
		}
		sum -= amount(r, t)
		first = free(r, t.day)
	}
	return first, true
}

// lastCounted returns the last day on which any rule of the policy counts t: its
// mark is kept so long and no longer. A day before t.day means not at all.
func lastCounted(p protocol.Policy, t take) day {
	last := t.day - 1
	for _, r := range p.Rules {
		if amount(r, t) > 0 {
			last = max(last, free(r, t.day)-1)
		}
	}
	return last
}
