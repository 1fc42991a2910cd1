package voucher_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"yaoju/protocol"
	"yaoju/protocol/voucher"
)

var (
	key   = voucher.Key{1, 2, 3}
	today = protocol.DateOnly("2027-03-01")
)

const machine = protocol.MachineID("m-0001")

func make1(t *testing.T, v voucher.Voucher) string {
	t.Helper()
	code, err := voucher.Make(key, machine, v)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func daysAgo(n int) protocol.DateOnly {
	d, err := time.Parse(time.DateOnly, string(today))
	if err != nil {
		panic(err)
	}
	return protocol.DateOnly(d.AddDate(0, 0, -n).Format(time.DateOnly))
}

func TestEveryCodeOfADay(t *testing.T) {
	seen := map[string]bool{}
	for desk := voucher.District; desk <= voucher.Machine; desk++ {
		for n := range voucher.PerDay {
			v := voucher.Voucher{Day: today, Desk: desk, Number: n}
			code := make1(t, v)
			if seen[code] || len(code) != voucher.Length || strings.Trim(code, voucher.Alphabet) != "" {
				t.Fatalf("%+v: %q", v, code)
			}
			seen[code] = true
			if got, err := voucher.Read(key, machine, code, today, 1); err != nil || got != v {
				t.Fatalf("%q: %+v, %v; want %+v", code, got, err, v)
			}
		}
	}
}

func TestDays(t *testing.T) {
	for _, c := range []struct {
		ago, days int
		want      error
	}{
		{0, 0, nil}, {-1, 0, nil}, {1, 1, nil}, {7, 7, nil}, {voucher.MaxDays, voucher.MaxDays, nil},
		{1, 0, voucher.ErrFalse}, {8, 7, voucher.ErrFalse}, {-2, 7, voucher.ErrFalse}, {31, voucher.MaxDays, voucher.ErrFalse},
		{32, 31, voucher.ErrFalse}, {voucher.MaxDays + 1, 1000, voucher.ErrFalse}, {365, voucher.MaxDays, voucher.ErrFalse},
	} {
		v := voucher.Voucher{Day: daysAgo(c.ago), Number: 7}
		got, err := voucher.Read(key, machine, make1(t, v), today, c.days)
		if !errors.Is(err, c.want) || err == nil && got != v {
			t.Errorf("made %d days ago, good for %d: %+v, %v; want %v", c.ago, c.days, got, err, c.want)
		}
	}
}

func TestHowPeopleType(t *testing.T) {
	v := voucher.Voucher{Day: today, Number: 41}
	code := make1(t, v)
	for _, typed := range []string{strings.ToLower(code), voucher.Grouped(code), " " + code[:3] + "-" + code[3:] + " ", code[:4] + "\u3000" + code[4:]} {
		if got, err := voucher.Read(key, machine, typed, today, 0); err != nil || got != v {
			t.Errorf("%q: %+v, %v", typed, got, err)
		}
	}
	swap := strings.NewReplacer("0", "o", "1", "l", "V", "u")
	found := false
	for n := range voucher.PerDay {
		code := make1(t, voucher.Voucher{Day: today, Number: n})
		if typed := swap.Replace(code); typed != code {
			found = true
			if got, err := voucher.Read(key, machine, typed, today, 0); err != nil || got.Number != n {
				t.Errorf("%q for %q: %+v, %v", typed, code, got, err)
			}
		}
	}
	if !found {
		t.Error("no code has a character that looks like another")
	}
	for typed, want := range map[string]error{"": voucher.ErrLength, code[:7]: voucher.ErrLength, code + "0": voucher.ErrLength,
		code[:7] + "!": voucher.ErrSign, code[:7] + "药": voucher.ErrSign} {
		if _, err := voucher.Read(key, machine, typed, today, 0); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", typed, err, want)
		}
	}
}

// One wrong character, or two neighbours exchanged, is a slip of the finger: the
// screen can say so, and does not count it as a guess.
func TestSlips(t *testing.T) {
	for n := range 40 {
		code := make1(t, voucher.Voucher{Day: today, Number: n})
		slip := func(b []byte) {
			if string(b) == code {
				return
			}
			if _, err := voucher.Read(key, machine, string(b), today, 0); !errors.Is(err, voucher.ErrTyping) {
				t.Errorf("%q for %q: %v", b, code, err)
			}
		}
		for i := range code {
			for _, c := range []byte(voucher.Alphabet) {
				b := []byte(code)
				b[i] = c
				slip(b)
			}
			for j := range i {
				b := []byte(code)
				b[i], b[j] = b[j], b[i]
				slip(b)
			}
		}
	}
}

func TestOtherMachineOtherKey(t *testing.T) {
	code := make1(t, voucher.Voucher{Day: today})
	if _, err := voucher.Read(key, "m-0002", code, today, 1); !errors.Is(err, voucher.ErrFalse) {
		t.Errorf("at another machine: %v", err)
	}
	if _, err := voucher.Read(voucher.Key{9}, machine, code, today, 1); !errors.Is(err, voucher.ErrFalse) {
		t.Errorf("with another key: %v", err)
	}
}

// Who guesses hits a code of the days in force about once in 2^20 tries.
func TestGuesses(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	hits := 0
	for range 1 << 18 {
		var b [voucher.Length]byte
		for i := range b {
			b[i] = voucher.Alphabet[dice.IntN(32)]
		}
		if _, err := voucher.Read(key, machine, string(b[:]), today, voucher.MaxDays); err == nil {
			hits++
		}
	}
	if hits > 1 { // one in 2^25 x 2 of these is expected to pass check character, seal and day
		t.Errorf("%d of %d guesses were codes", hits, 1<<18)
	}
}

func TestRefusedMaking(t *testing.T) {
	for _, v := range []voucher.Voucher{{}, {Day: "2027-02-30"}, {Day: today, Number: -1}, {Day: today, Number: voucher.PerDay}, {Day: today, Desk: 2}} {
		if code, err := voucher.Make(key, machine, v); err == nil {
			t.Errorf("%+v: %q", v, code)
		}
	}
}

func FuzzRead(f *testing.F) {
	code, err := voucher.Make(key, machine, voucher.Voucher{Day: today, Number: 5})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(code, 3)
	f.Add("0O1l-Ii  uU", 0)
	f.Fuzz(func(t *testing.T, typed string, days int) {
		v, err := voucher.Read(key, machine, typed, today, days)
		if err != nil {
			return
		}
		again, err := voucher.Make(key, machine, v)
		if err != nil {
			t.Fatalf("%q says %+v: %v", typed, v, err)
		}
		if got, err := voucher.Read(key, machine, again, today, days); err != nil || got != v {
			t.Fatalf("%q says %+v, and %q %+v, %v", typed, v, again, got, err)
		}
	})
}
