package ledger

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"yaoju/protocol"
)

func mustDay(t testing.TB, s string) day {
	t.Helper()
	d, err := parseDay(protocol.DateOnly(s))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestFirstDay(t *testing.T) {
	type rules = []protocol.Rule
	days := func(max, n int) protocol.Rule { return protocol.Rule{Max: max, Per: protocol.PerDays, Days: n} }
	month := protocol.Rule{Max: 1, Per: protocol.PerMonth}
	year := protocol.Rule{Max: 120, Units: true, Class: "condom", Per: protocol.PerYear}
	tests := []struct {
		name  string
		rules rules
		taken []string // days, one box of ten condoms each
		want  string   // class
		on    string
		first string // empty: never
	}{
		{"nothing taken", rules{days(1, 22)}, nil, "condom", "2027-03-01", "2027-03-01"},
		{"same day", rules{days(1, 22)}, []string{"2027-03-01"}, "condom", "2027-03-01", "2027-03-23"},
		{"last day of 22", rules{days(1, 22)}, []string{"2027-03-01"}, "condom", "2027-03-22", "2027-03-23"},
		{"the day after 22", rules{days(1, 22)}, []string{"2027-03-01"}, "condom", "2027-03-23", "2027-03-23"},
		{"one day only", rules{days(1, 1)}, []string{"2027-03-01"}, "condom", "2027-03-01", "2027-03-02"},
		{"over 29 February", rules{days(1, 22)}, []string{"2028-02-20"}, "condom", "2028-02-20", "2028-03-13"},
		{"over 28 February", rules{days(1, 22)}, []string{"2027-02-20"}, "condom", "2027-02-20", "2027-03-14"},
		{"two in 14, one taken", rules{days(2, 14)}, []string{"2027-03-01"}, "condom", "2027-03-02", "2027-03-02"},
		{"two in 14, two taken", rules{days(2, 14)}, []string{"2027-03-05", "2027-03-01"}, "condom", "2027-03-06", "2027-03-15"},
		{"month, last day", rules{month}, []string{"2027-01-31"}, "condom", "2027-01-31", "2027-02-01"},
		{"month, first day", rules{month}, []string{"2027-01-31"}, "condom", "2027-02-01", "2027-02-01"},
		{"month, leap day", rules{month}, []string{"2028-02-01"}, "condom", "2028-02-29", "2028-03-01"},
		{"month, December", rules{month}, []string{"2027-12-01"}, "condom", "2027-12-31", "2028-01-01"},
		{"year in units, 11 taken", rules{year}, slices.Repeat([]string{"2027-02-01"}, 11), "condom", "2027-12-31", "2027-12-31"},
		{"year in units, 12 taken", rules{year}, slices.Repeat([]string{"2027-02-01"}, 12), "condom", "2027-12-31", "2028-01-01"},
		{"year is of another class", rules{year}, slices.Repeat([]string{"2027-02-01"}, 12), "external", "2027-12-31", "2027-12-31"},
		{"month and year", rules{month, year}, slices.Repeat([]string{"2027-12-05"}, 12), "condom", "2027-12-06", "2028-01-01"},
		{"days reach past the month", rules{month, days(1, 22)}, []string{"2027-01-31"}, "condom", "2027-02-01", "2027-02-22"},
		{"rule of one class, other taken", rules{{Class: "external", Max: 1, Per: protocol.PerMonth}}, []string{"2027-01-31"}, "external", "2027-01-31", "2027-01-31"},
		{"rule of every class", rules{month}, []string{"2027-01-02"}, "external", "2027-01-31", "2027-02-01"},
		{"one box is more than the rule", rules{{Max: 9, Units: true, Per: protocol.PerYear}}, nil, "condom", "2027-01-31", ""},
		{"taken in days to come", rules{days(1, 22)}, []string{"2027-03-10"}, "condom", "2027-03-01", "2027-04-01"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var taken []take
			for _, d := range tt.taken {
				taken = append(taken, take{mustDay(t, d), "condom", 1, 10})
			}
			first, ok := firstDay(protocol.Policy{Rules: tt.rules}, taken, take{mustDay(t, tt.on), tt.want, 1, 10})
			got := ""
			if ok {
				got = string(first.date())
			}
			if got != tt.first {
				t.Errorf("first day of %s on %s after %v: got %q, want %q", tt.want, tt.on, tt.taken, got, tt.first)
			}
		})
	}
}

// naive asks a policy about one day by looking at every day of each window.
func naive(p protocol.Policy, taken []take, want take, on day) bool {
	for _, r := range p.Rules {
		if r.Class != "" && r.Class != want.class {
			continue
		}
		sum := 0
		for _, k := range append(slices.Clone(taken), want) {
			if r.Class != "" && r.Class != k.class || k != want && !naiveCounts(r, k.day, on) {
				continue
			}
			if r.Units {
				sum += k.units
			} else {
				sum += k.boxes
			}
		}
		if sum > r.Max {
			return false
		}
	}
	return true
}

func naiveCounts(r protocol.Rule, taken, on day) bool {
	a, b := taken.utc(), on.utc()
	switch r.Per {
	case protocol.PerMonth:
		return a.Year() == b.Year() && a.Month() == b.Month()
	case protocol.PerYear:
		return a.Year() == b.Year()
	}
	for back := range r.Days {
		if b.AddDate(0, 0, -back).Equal(a) {
			return true
		}
	}
	return false
}

func TestFirstDayAgainstOracle(t *testing.T) {
	classes := []string{"condom", "external"}
	rapid.Check(t, func(t *rapid.T) {
		var p protocol.Policy
		for range rapid.IntRange(1, 3).Draw(t, "rules") {
			r := protocol.Rule{
				Class: rapid.SampledFrom([]string{"", "condom", "external"}).Draw(t, "class"),
				Max:   rapid.IntRange(1, 4).Draw(t, "max"),
				Units: rapid.Bool().Draw(t, "units"),
				Per:   rapid.SampledFrom([]protocol.Per{protocol.PerDays, protocol.PerMonth, protocol.PerYear}).Draw(t, "per"),
			}
			if r.Per == protocol.PerDays {
				r.Days = rapid.IntRange(1, 60).Draw(t, "days")
			}
			p.Rules = append(p.Rules, r)
		}
		on := civil(2027, 12, 1) + day(rapid.IntRange(0, 130).Draw(t, "on"))
		var taken []take
		for i := range rapid.IntRange(0, 6).Draw(t, "taken") {
			taken = append(taken, take{
				day:   on - day(rapid.IntRange(0, 80).Draw(t, "ago")),
				class: rapid.SampledFrom(classes).Draw(t, "took"),
				boxes: 1,
				units: 1 + i%2,
			})
		}
		// No take has 3 units, so the wish is never mistaken for one of them.
		want := take{day: on, class: rapid.SampledFrom(classes).Draw(t, "want"), boxes: 1, units: 3}

		// Every window has ended 400 days on: later days decide alike.
		expect, found := day(0), false
		for d := on; d <= on+400 && !found; d++ {
			if naive(p, taken, want, d) {
				expect, found = d, true
			}
		}
		got, ok := firstDay(p, taken, want)
		if ok != found || ok && got != expect {
			t.Fatalf("%+v after %v: got %v %v, want %v %v", p.Rules, taken, got.date(), ok, expect.date(), found)
		}

		// A mark that is forgotten on time changes no answer.
		var kept []take
		for _, k := range taken {
			if lastCounted(p, k) >= on {
				kept = append(kept, k)
			}
		}
		if again, okAgain := firstDay(p, kept, want); again != got || okAgain != ok {
			t.Fatalf("%+v after %v: %v with all, %v with what is kept", p.Rules, taken, got.date(), again.date())
		}
	})
}

func TestDayIsTheZonesDay(t *testing.T) {
	shanghai := time.FixedZone("CST", 8*60*60)
	for at, want := range map[string]string{
		"2027-03-01T15:59:59Z": "2027-03-01",
		"2027-03-01T16:00:00Z": "2027-03-02",
		"2027-12-31T16:00:00Z": "2028-01-01",
	} {
		when, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		d := dayOf(when.In(shanghai))
		if got := string(d.date()); got != want {
			t.Errorf("day of %s in Shanghai: got %s, want %s", at, got, want)
		}
		if got := d.in(shanghai).UTC().Format("15:04"); got != "16:00" {
			t.Errorf("start of %s in Shanghai: got %s UTC, want 16:00", d.date(), got)
		}
	}
}
