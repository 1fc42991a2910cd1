package update_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"yaoju/daemon/update"
	"yaoju/protocol"
)

var release = update.Release{Version: "1.1", SHA256: strings.Repeat("ab", 32), Size: 1000}

func fleet(n int) (all []protocol.MachineID) {
	for i := range n {
		all = append(all, protocol.MachineID(fmt.Sprintf("m-%04d", i+1)))
	}
	return all
}

// office is a district that brings a release out, in hours since it began.
type office struct {
	t *testing.T
	r update.Rollout
}

func begin(t *testing.T, p update.Plan, machines int) *office {
	t.Helper()
	r, err := update.NewRollout("r-1", release, p, fleet(machines))
	if err != nil {
		t.Fatal(err)
	}
	return &office{t, r}
}

func at(hours float64) time.Time {
	return time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(hours * float64(time.Hour)))
}

// due orders what is due and returns it.
func (o *office) due(hours float64) []update.Target {
	o.t.Helper()
	due := o.r.Due(at(hours))
	for _, d := range due {
		if err := o.r.Ordered(d.Machine, at(hours)); err != nil {
			o.t.Error(err)
		}
	}
	return due
}

func (o *office) note(d update.Target, end update.End) {
	o.t.Helper()
	if err := o.r.Note(d.Machine, update.Result{Version: "1.1", End: end, Words: string(end)}); err != nil {
		o.t.Error(err)
	}
}

func (o *office) want(course update.Course, wave int) {
	o.t.Helper()
	if o.r.Course != course || o.r.Wave != wave {
		o.t.Errorf("%s (%s) in wave %d, want %s in wave %d", o.r.Course, o.r.Why, o.r.Wave, course, wave)
	}
}

var plan = update.Plan{Canary: 2, Percents: []int{10, 50, 100}, MaxFailed: 1, Within: 24 * time.Hour, Soak: 12 * time.Hour}

// All goes well: each wave waits for the one before, and for its time.
func TestWaves(t *testing.T) {
	o := begin(t, plan, 40)
	var sizes []int
	hour := 0.0
	for range 4 {
		due := o.due(hour)
		sizes = append(sizes, len(due))
		if again := o.r.Due(at(hour)); len(again) != 0 {
			t.Errorf("%d machines are due twice", len(again))
		}
		for i, d := range due {
			if i == len(due)-1 && len(o.due(hour+1)) != 0 {
				t.Error("a wave began before the one before was through")
			}
			o.note(d, update.EndConfirmed)
		}
		if hour += 2; len(o.due(hour)) != 0 && o.r.Course == update.Running {
			t.Error("a wave began before its time")
		}
		hour += 12
	}
	if want := []int{2, 2, 16, 20}; !slices.Equal(sizes, want) {
		t.Errorf("waves of %v, want %v", sizes, want)
	}
	o.due(hour)
	o.want(update.Done, 4)
}

// What is returned as due stays due until it was stored.
func TestDueAgain(t *testing.T) {
	o := begin(t, plan, 40)
	first := o.r.Due(at(0))
	if again := o.r.Due(at(1)); !slices.Equal(first, again) || len(first) != 2 {
		t.Errorf("got %v, then %v", first, again)
	}
	if err := o.r.Ordered(first[0].Machine, at(1)); err != nil {
		t.Error(err)
	}
	if again := o.r.Due(at(2)); !slices.Equal(first[1:], again) {
		t.Errorf("got %v, want %v", again, first[1:])
	}
	order, err := o.r.Order("c-1", first[0], at(1))
	if err != nil || order.Version != "1.1" || order.Wave != 1 || order.NotBeforeMS != at(1).UnixMilli() || order.DeadlineMS != at(25).UnixMilli() {
		t.Errorf("got %+v, %v", order, err)
	}
}

// One failure too many stops it by itself, whichever kind it is; a person lets it
// go on, and only further failures stop it again.
func TestWavesStop(t *testing.T) {
	for _, end := range []update.End{update.EndRolledBack, update.EndRefused, update.EndLate, "silence"} {
		t.Run(string(end), func(t *testing.T) {
			o := begin(t, plan, 40)
			fail := func(d update.Target) {
				if end != "silence" {
					o.note(d, end)
				}
			}
			for _, d := range o.due(0) {
				o.note(d, update.EndConfirmed)
			}
			for _, d := range o.due(0.5) { // notes that the wave is through
				t.Errorf("%v is due", d)
			}
			two := o.due(13)
			fail(two[0])
			if o.due(14); o.r.Course != update.Running {
				t.Errorf("one failure stopped it: %s", o.r.Why)
			}
			o.note(two[1], update.EndConfirmed)
			o.due(38) // the silent one is missing by now
			o.want(update.Running, 2)
			three := o.due(51)
			o.want(update.Running, 3)
			fail(three[0])
			fail(three[1])
			for _, d := range three[2:] {
				o.note(d, update.EndConfirmed)
			}
			if due := o.due(76); len(due) != 0 {
				t.Errorf("%d due", len(due))
			}
			o.want(update.Stopped, 3)
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
			o.want(update.Running, 4)
		})
	}
}

// A machine that answers late is no failure any more, and one that is rolled back
// later is.
func TestLastAnswerCounts(t *testing.T) {
	o := begin(t, plan, 40)
	one := o.due(0)
	o.due(24.4)
	if o.r.Course != update.Running {
		t.Errorf("missing too early: %s", o.r.Why)
	}
	o.due(24.6)
	o.want(update.Stopped, 1)
	o.note(one[0], update.EndConfirmed)
	o.note(one[1], update.EndConfirmed)
	o.want(update.Stopped, 1)
	if err := o.r.Resume(); err != nil {
		t.Fatal(err)
	}
	o.want(update.Running, 1)
	o.note(one[0], update.EndRolledBack)
	o.want(update.Running, 1)
	o.note(one[1], update.EndRolledBack)
	o.want(update.Stopped, 1)
	if err := o.r.Note(one[0].Machine, update.Result{Version: "1.0", End: update.EndConfirmed}); err != nil || o.r.Resume() != nil {
		t.Errorf("another version's answer: %v", err)
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
		o.note(d, update.EndConfirmed)
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
			o.note(d, update.EndRefused)
		}
	}
	o.want(update.Paused, 2)
	if err := o.r.Resume(); err != nil {
		t.Fatal(err)
	}
	o.want(update.Stopped, 2)
}

// A fleet smaller than its first waves is ordered whole, without waiting for waves
// that have nobody.
func TestSmallFleet(t *testing.T) {
	o := begin(t, plan, 1)
	o.note(o.due(0)[0], update.EndConfirmed)
	o.due(1)
	o.due(13.5)
	o.want(update.Done, 4)
}

// Who is a canary depends on the rollout, and on nothing else.
func TestCanaries(t *testing.T) {
	machines := fleet(100)
	one, err := update.NewRollout("r-1", release, plan, machines)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(machines)
	same, err := update.NewRollout("r-1", release, plan, machines)
	if err != nil || !slices.Equal(one.Targets, same.Targets) {
		t.Errorf("another order of machines gave other waves, %v", err)
	}
	other, err := update.NewRollout("r-2", release, plan, machines)
	if err != nil || slices.Equal(one.Targets, other.Targets) {
		t.Errorf("another rollout has the same canaries, %v", err)
	}
}

func TestRolloutComplaints(t *testing.T) {
	bend := func(f func(*update.Plan)) update.Plan { p := plan; f(&p); return p }
	for want, c := range map[string]struct {
		p        update.Plan
		r        update.Release
		machines []protocol.MachineID
	}{
		"canary 0":            {bend(func(p *update.Plan) { p.Canary = 0 }), release, fleet(3)},
		"want 1 to 9 of them": {bend(func(p *update.Plan) { p.Percents = []int{10, 90} }), release, fleet(3)},
		"each must be above":  {bend(func(p *update.Plan) { p.Percents = []int{50, 50, 100} }), release, fleet(3)},
		"max_failed -1":       {bend(func(p *update.Plan) { p.MaxFailed = -1 }), release, fleet(3)},
		"within 1m0s":         {bend(func(p *update.Plan) { p.Within = time.Minute }), release, fleet(3)},
		"soak -1ns":           {bend(func(p *update.Plan) { p.Soak = -1 }), release, fleet(3)},
		"0 machines":          {plan, release, nil},
		"appears twice":       {plan, release, []protocol.MachineID{"m-1", "m-2", "m-1"}},
		"only a-z":            {plan, release, []protocol.MachineID{"M 1"}},
		"size 0":              {plan, update.Release{Version: "1.1", SHA256: release.SHA256}, fleet(3)},
	} {
		if _, err := update.NewRollout("r-1", c.r, c.p, c.machines); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	o := begin(t, plan, 40)
	if err := o.r.Note("m-9999", update.Result{Version: "1.1", End: update.EndConfirmed}); err == nil {
		t.Error("took the answer of a stranger")
	}
	if err := o.r.Note("m-0001", update.Result{Version: "1.1", End: update.EndConfirmed}); err == nil {
		t.Error("took an answer to an order nobody gave")
	}
}
