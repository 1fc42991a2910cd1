package district

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"yaoju/protocol"
)

var release11 = Release{Version: "1.1", Arch: "arm64", SHA256: strings.Repeat("ab", 32), Size: 1000}

func fleet(n int) (all []protocol.MachineID) {
	for i := range n {
		all = append(all, protocol.MachineID(fmt.Sprintf("m-%04d", i+1)))
	}
	return all
}

// office is a district that brings a release out, in hours since it began.
type rolled struct {
	t *testing.T
	r Rollout
}

func begin(t *testing.T, p Plan, machines int) *rolled {
	t.Helper()
	r, err := NewRollout("r-1", release11, p, fleet(machines))
	if err != nil {
		t.Fatal(err)
	}
	return &rolled{t, r}
}

func atHour(hours float64) time.Time {
	return time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(hours * float64(time.Hour)))
}

// due orders what is due and returns it.
func (o *rolled) due(hours float64) []Target {
	o.t.Helper()
	due := o.r.Due(atHour(hours))
	for _, d := range due {
		if err := o.r.Ordered(d.Machine, "c-"+string(d.Machine), atHour(hours)); err != nil {
			o.t.Error(err)
		}
	}
	return due
}

func (o *rolled) note(d Target, end protocol.UpdateEnd) {
	o.t.Helper()
	if err := o.r.Note(d.Machine, protocol.UpdateResult{Order: "c-" + string(d.Machine), Version: "1.1", End: end, Words: string(end)}); err != nil {
		o.t.Error(err)
	}
}

func (o *rolled) want(course Course, wave int) {
	o.t.Helper()
	if o.r.Course != course || o.r.Wave != wave {
		o.t.Errorf("%s (%s) in wave %d, want %s in wave %d", o.r.Course, o.r.Why, o.r.Wave, course, wave)
	}
}

var plan = Plan{Canary: 2, Percents: []int{10, 50, 100}, MaxFailed: 1, Within: 24 * time.Hour, Soak: 12 * time.Hour}

// All goes well: each wave waits for the one before, and for its time.
func TestWaves(t *testing.T) {
	o := begin(t, plan, 40)
	var sizes []int
	hour := 0.0
	for range 4 {
		due := o.due(hour)
		sizes = append(sizes, len(due))
		if again := o.r.Due(atHour(hour)); len(again) != 0 {
			t.Errorf("%d machines are due twice", len(again))
		}
		for i, d := range due {
			if i == len(due)-1 && len(o.due(hour+1)) != 0 {
				t.Error("a wave began before the one before was through")
			}
			o.note(d, protocol.UpdateConfirmed)
		}
		if hour += 2; len(o.due(hour)) != 0 && o.r.Course == Running {
			t.Error("a wave began before its time")
		}
		hour += 12
	}
	if want := []int{2, 2, 16, 20}; !slices.Equal(sizes, want) {
		t.Errorf("waves of %v, want %v", sizes, want)
	}
	o.due(hour)
	o.want(Done, 4)
}

// What is returned as due stays due until it was stored.
func TestDueAgain(t *testing.T) {
	o := begin(t, plan, 40)
	first := o.r.Due(atHour(0))
	if again := o.r.Due(atHour(1)); !slices.Equal(first, again) || len(first) != 2 {
		t.Errorf("got %v, then %v", first, again)
	}
	if err := o.r.Ordered(first[0].Machine, "c-1", atHour(1)); err != nil {
		t.Error(err)
	}
	if again := o.r.Due(atHour(2)); !slices.Equal(first[1:], again) {
		t.Errorf("got %v, want %v", again, first[1:])
	}
	order := o.r.Update(first[0], atHour(1))
	if order.Version != "1.1" || order.Wave != 1 || order.NotBeforeMS != atHour(1).UnixMilli() || order.DeadlineMS != atHour(25).UnixMilli() {
		t.Errorf("got %+v", order)
	}
}

// One failure too many stops it by itself, whichever kind it is; a person lets it
// go on, and only further failures stop it again.
func TestWavesStop(t *testing.T) {
	for _, end := range []protocol.UpdateEnd{protocol.UpdateRolledBack, protocol.UpdateRefused, protocol.UpdateLate, "silence"} {
		t.Run(string(end), func(t *testing.T) {
			o := begin(t, plan, 40)
			fail := func(d Target) {
				if end != "silence" {
					o.note(d, end)
				}
			}
			for _, d := range o.due(0) {
				o.note(d, protocol.UpdateConfirmed)
			}
			for _, d := range o.due(0.5) { // notes that the wave is through
				t.Errorf("%v is due", d)
			}
			two := o.due(13)
			fail(two[0])
			if o.due(14); o.r.Course != Running {
				t.Errorf("one failure stopped it: %s", o.r.Why)
			}
			o.note(two[1], protocol.UpdateConfirmed)
			o.due(38) // the silent one is missing by now
			o.want(Running, 2)
			three := o.due(51)
			o.want(Running, 3)
			fail(three[0])
			fail(three[1])
			for _, d := range three[2:] {
				o.note(d, protocol.UpdateConfirmed)
			}
			if due := o.due(76); len(due) != 0 {
				t.Errorf("%d due", len(due))
			}
			o.want(Stopped, 3)
			if !strings.Contains(o.r.Why, "2 machines of wave 3 failed or did not answer, 1 may") {
				t.Errorf("why: %s", o.r.Why)
			}
			if due := o.due(1000); len(due) != 0 {
				t.Error("it went on by itself")
			}
			if err := o.r.Resume(); err != nil {
				t.Fatal(err)
			}
			o.due(1001)
			if due := o.due(1014); len(due) != 20 {
				t.Errorf("%d due, want 20", len(due))
			}
			o.want(Running, 4)
		})
	}
}

// A machine that answers late is no failure any more, and one that is rolled back
// later is.
func TestLastAnswerCounts(t *testing.T) {
	o := begin(t, plan, 40)
	one := o.due(0)
	o.due(24.4)
	if o.r.Course != Running {
		t.Errorf("missing too early: %s", o.r.Why)
	}
	o.due(24.6)
	o.want(Stopped, 1)
	o.note(one[0], protocol.UpdateConfirmed)
	o.note(one[1], protocol.UpdateConfirmed)
	o.want(Stopped, 1)
	if err := o.r.Resume(); err != nil {
		t.Fatal(err)
	}
	o.want(Running, 1)
	o.note(one[0], protocol.UpdateRolledBack)
	o.want(Running, 1)
	o.note(one[1], protocol.UpdateRolledBack)
	o.want(Stopped, 1)
	if err := o.r.Note(one[0].Machine, protocol.UpdateResult{Order: "c-0", Version: "1.0", End: protocol.UpdateConfirmed}); err != nil || o.r.Resume() != nil {
		t.Errorf("another order's answer: %v", err)
	}
	o.note(one[0], protocol.UpdateConfirmed)
	if err := o.r.Note(one[0].Machine, protocol.UpdateResult{Version: "1.1", End: protocol.UpdateRolledBack, Words: "it hums"}); err != nil {
		t.Error(err)
	}
	if x, err := o.r.find(one[0].Machine); err != nil || x.Stage != Failed || x.Words != "it hums" {
		t.Errorf("rolled back by hand: %+v, %v", x, err)
	}
}

func TestPause(t *testing.T) {
	o := begin(t, plan, 40)
	if err := o.r.Resume(); err == nil {
		t.Error("resumed what runs")
	}
	one := o.due(0)
	if err := o.r.Pause("holiday"); err != nil {
		t.Fatal(err)
	}
	for _, d := range one {
		o.note(d, protocol.UpdateConfirmed)
	}
	if due := o.due(500); len(due) != 0 || o.r.Why != "holiday" {
		t.Errorf("%d due, %q", len(due), o.r.Why)
	}
	if err := o.r.Pause("twice"); err == nil {
		t.Error("paused twice")
	}
	if err := o.r.Resume(); err != nil {
		t.Fatal(err)
	}
	o.due(500)
	if due := o.due(512); len(due) != 2 {
		t.Errorf("%d due, want 2", len(due))
	}
	// What fails while it is paused is judged when it goes on.
	if err := o.r.Pause("again"); err != nil {
		t.Fatal(err)
	}
	for _, d := range o.r.Targets {
		if d.Wave == 2 {
			o.note(d, protocol.UpdateRefused)
		}
	}
	o.want(Paused, 2)
	if err := o.r.Resume(); err != nil {
		t.Fatal(err)
	}
	o.want(Stopped, 2)
}

// What a machine says to its command counts, and what was taken back waits again,
// unless the machine had it already.
func TestCommandAnswers(t *testing.T) {
	o := begin(t, plan, 40)
	one := o.due(0)
	stage := func(i int) Stage {
		x, err := o.r.find(one[i].Machine)
		if err != nil {
			t.Fatal(err)
		}
		return x.Stage
	}
	say := func(i int, r protocol.CommandResult) {
		if err := o.r.Heard(one[i].Machine, r, ""); err != nil {
			t.Error(err)
		}
	}
	say(0, protocol.CommandOK)
	say(1, protocol.CommandUnsupported)
	if stage(0) != Ordered || stage(1) != Failed {
		t.Errorf("stages %s and %s", stage(0), stage(1))
	}
	if err := o.r.Stop("an officer said so"); err != nil {
		t.Fatal(err)
	}
	if err := o.r.Recalled(one[0].Machine); err != nil || stage(0) != Waiting || o.r.Recalled(one[1].Machine) == nil {
		t.Errorf("taken back: %s, %v", stage(0), err)
	}
	if say(0, protocol.CommandOK); stage(0) != Ordered {
		t.Errorf("taken back too late: %s", stage(0))
	}
	if err := o.r.Recalled(one[0].Machine); err != nil || o.r.Resume() != nil {
		t.Error(err)
	}
	if due := o.due(2); len(due) != 1 || due[0].Machine != one[0].Machine {
		t.Errorf("due again: %+v", due)
	}
	// A machine that has the release needs no order.
	p := begin(t, plan, 1)
	if err := p.r.Has("m-0001"); err != nil || len(p.due(0)) != 0 {
		t.Error("a machine that has it was ordered", err)
	}
}

// A fleet smaller than its first waves is ordered whole, without waiting for waves
// that have nobody.
func TestSmallFleet(t *testing.T) {
	o := begin(t, plan, 1)
	o.note(o.due(0)[0], protocol.UpdateConfirmed)
	o.due(1)
	o.due(13.5)
	o.want(Done, 4)
}

// Who is a canary depends on the rollout, and on nothing else.
func TestCanaries(t *testing.T) {
	machines := fleet(100)
	one, err := NewRollout("r-1", release11, plan, machines)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(machines)
	same, err := NewRollout("r-1", release11, plan, machines)
	if err != nil || !slices.Equal(one.Targets, same.Targets) {
		t.Errorf("another order of machines gave other waves, %v", err)
	}
	other, err := NewRollout("r-2", release11, plan, machines)
	if err != nil || slices.Equal(one.Targets, other.Targets) {
		t.Errorf("another rollout has the same canaries, %v", err)
	}
}

func TestRolloutComplaints(t *testing.T) {
	bend := func(f func(*Plan)) Plan { p := plan; f(&p); return p }
	for want, c := range map[string]struct {
		p        Plan
		r        Release
		machines []protocol.MachineID
	}{
		"canary 0":            {bend(func(p *Plan) { p.Canary = 0 }), release11, fleet(3)},
		"want 1 to 9 of them": {bend(func(p *Plan) { p.Percents = []int{10, 90} }), release11, fleet(3)},
		"each must be above":  {bend(func(p *Plan) { p.Percents = []int{50, 50, 100} }), release11, fleet(3)},
		"max_failed -1":       {bend(func(p *Plan) { p.MaxFailed = -1 }), release11, fleet(3)},
		"within 1m0s":         {bend(func(p *Plan) { p.Within = time.Minute }), release11, fleet(3)},
		"soak -1ns":           {bend(func(p *Plan) { p.Soak = -1 }), release11, fleet(3)},
		"0 machines":          {plan, release11, nil},
		"appears twice":       {plan, release11, []protocol.MachineID{"m-1", "m-2", "m-1"}},
		"only a-z":            {plan, release11, []protocol.MachineID{"M 1"}},
		"size 0":              {plan, Release{Version: "1.1", SHA256: release11.SHA256}, fleet(3)},
	} {
		if _, err := NewRollout("r-1", c.r, c.p, c.machines); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	o := begin(t, plan, 40)
	if err := o.r.Note("m-9999", protocol.UpdateResult{Version: "1.1", End: protocol.UpdateConfirmed}); err == nil {
		t.Error("took the answer of a stranger")
	}
	if err := o.r.Note("m-0001", protocol.UpdateResult{Version: "1.1", End: protocol.UpdateConfirmed}); err != nil || len(o.r.Due(atHour(0))) != 2 {
		t.Errorf("took an answer to an order nobody gave, %v", err)
	}
}
