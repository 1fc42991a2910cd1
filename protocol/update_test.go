package protocol

import (
	"strings"
	"testing"
)

func TestUpdateRefuses(t *testing.T) {
	for want, bend := range map[string]func(*Update){
		"version \"\"":         func(u *Update) { u.Version = "" },
		"version \"../1\"":     func(u *Update) { u.Version = "../1" },
		"1 to 40":              func(u *Update) { u.Version = strings.Repeat("1", 41) },
		"only letters, digits": func(u *Update) { u.Version = "1/2" },
		"sha256":               func(u *Update) { u.SHA256 = strings.Repeat("AB", 32) },
		"size 0":               func(u *Update) { u.Size = 0 },
		"size 134217729":       func(u *Update) { u.Size = MaxBundle + 1 },
		"before it begins":     func(u *Update) { u.DeadlineMS = u.NotBeforeMS },
		"waves are counted":    func(u *Update) { u.Wave = -1 },
	} {
		c := goldenUpdate
		u := *c.Update
		bend(&u)
		c.Update = &u
		if err := c.Valid(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", u, err, want)
		}
	}
	c := goldenUpdate
	c.Update = nil
	if err := c.Valid(); err == nil {
		t.Error("an update of nothing is valid")
	}
}

func TestUpdateStateRefuses(t *testing.T) {
	for name, u := range map[string]UpdateState{
		"trial":   {Trial: "a b"},
		"ordered": {Ordered: "/"},
		"waits":   {Waits: strings.Repeat("x", MaxWords+1)},
		"no end":  {Last: &UpdateResult{Version: "1.1"}},
		"version": {Last: &UpdateResult{End: UpdateLate}},
		"words":   {Last: &UpdateResult{Version: "1.1", End: UpdateLate, Words: strings.Repeat("x", MaxWords+1)}},
	} {
		s := goldenState
		s.Update = &u
		if err := s.Valid(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// A newer machine may end an update in a way we do not know.
	s := goldenState
	s.Update = &UpdateState{Last: &UpdateResult{Version: "1.1", End: "postponed"}}
	if _, err := DecodeState(Encode(s)); err != nil {
		t.Error(err)
	}
}
