package district

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"yaoju/protocol"
)

// Limits of a rollout.
const (
	maxWaves  = 10
	maxWithin = 90 * 24 * time.Hour
)

// maxAgain bounds how often a machine is ordered anew because another command overtook
// its order: officers' commands do that once, and three times is no accident.
const maxAgain = 3

// answerSlack is how long after an order's deadline its answer may still come: the
// switch at the last moment, ten minutes of proving, and a line that is down.
const answerSlack = 30 * time.Minute

// Release is what a rollout brings.
type Release struct {
	Version string `json:"version"`
	Arch    string `json:"arch"`   // of the machines it is for: amd64 or arm64
	SHA256  string `json:"sha256"` // of the bundle
	Size    int64  `json:"size"`   // of the bundle in bytes
}

// Plan is how carefully a release goes out.
type Plan struct {
	Canary    int           `json:"canary"`     // machines of the first wave, at least 1
	Percents  []int         `json:"percents"`   // of all machines that have been ordered with each further wave: rising, the last is 100
	MaxFailed int           `json:"max_failed"` // machines of one wave that may fail or not answer; one more stops the rollout
	Within    time.Duration `json:"within_ns"`  // from the order to the switch, an hour to 90 days
	Soak      time.Duration `json:"soak_ns"`    // how long a wave has to have been through before the next begins, 0 to 90 days
}

// Valid reports what is wrong with it, or nil.
func (p Plan) Valid() error {
	switch {
	case p.Canary < 1 || p.Canary > maxMachines:
		return fmt.Errorf("plan: canary %d: 1 to %d machines are allowed", p.Canary, maxMachines)
	case len(p.Percents) == 0 || len(p.Percents) >= maxWaves || p.Percents[len(p.Percents)-1] != 100:
		return fmt.Errorf("plan: percents %v: want 1 to %d of them, the last 100", p.Percents, maxWaves-1)
	case p.MaxFailed < 0 || p.MaxFailed > maxMachines:
		return fmt.Errorf("plan: max_failed %d: 0 to %d are allowed", p.MaxFailed, maxMachines)
	case p.Within < time.Hour || p.Within > maxWithin:
		return fmt.Errorf("plan: within %v: 1 h to %v are allowed", p.Within, maxWithin)
	case p.Soak < 0 || p.Soak > maxWithin:
		return fmt.Errorf("plan: soak %v: 0 to %v are allowed", p.Soak, maxWithin)
	}
	before := 0
	for _, n := range p.Percents {
		if n <= before {
			return fmt.Errorf("plan: percents %v: each must be above the one before", p.Percents)
		}
		before = n
	}
	return nil
}

// Course is where a rollout stands.
type Course string

const (
	Running Course = "running"
	Paused  Course = "paused"  // by a person; what was ordered goes on
	Stopped Course = "stopped" // by itself because too many machines failed, or by a person; what no machine has come to the switch of is taken back
	Done    Course = "done"    // every machine has been ordered and has come to an end
)

// Stage is how far one machine is.
type Stage string

const (
	Waiting   Stage = "waiting"   // for its wave
	Ordered   Stage = "ordered"   // no answer yet
	Confirmed Stage = "confirmed" // the release runs and has proved itself
	Failed    Stage = "failed"    // the machine refused it, gave it up, or found no time for it
	Missing   Stage = "missing"   // no answer in time
)

// Target is one machine of a rollout.
type Target struct {
	Machine   protocol.MachineID `json:"machine"`
	Wave      int                `json:"wave"` // counted from 1
	Stage     Stage              `json:"stage"`
	Order     string             `json:"order,omitempty"`      // id of its newest command; empty: none yet
	OrderedMS int64              `json:"ordered_ms,omitempty"` // Unix milliseconds
	Void      string             `json:"void,omitempty"`       // id of the command that made its newest order void; empty: none
	Again     int                `json:"again,omitempty"`      // how often it was ordered anew because another command overtook its order
	Words     string             `json:"words,omitempty"`      // why it failed
}

// Rollout is a release on its way to many machines. It is only memory and rule: the
// district stores it, sends the orders, and tells it of answers.
type Rollout struct {
	ID      string   `json:"id"`
	MadeMS  int64    `json:"made_ms"` // Unix milliseconds
	Release Release  `json:"release"`
	Older   bool     `json:"older,omitempty"` // machines take it even if they have run a newer one
	Plan    Plan     `json:"plan"`
	Course  Course   `json:"course"`
	Why     string   `json:"why,omitempty"` // it is paused or stopped
	Wave    int      `json:"wave"`          // the one that goes out, counted from 1
	Through int64    `json:"through_ms"`    // Unix milliseconds since when the wave has come to its end; 0: it has not
	Forgave []int    `json:"forgave"`       // failures of each wave that a person went on in spite of
	Targets []Target `json:"targets"`       // in the order in which they are ordered
}

// NewRollout deals the machines into waves. Who is a canary follows from the id
// alone: it is another machine each time, and the same after a restart.
func NewRollout(id string, r Release, p Plan, machines []protocol.MachineID) (Rollout, error) {
	if err := p.Valid(); err != nil {
		return Rollout{}, err
	}
	if len(machines) == 0 || len(machines) > maxMachines {
		return Rollout{}, fmt.Errorf("rollout %s: %d machines: 1 to %d are allowed", clean(id), len(machines), maxMachines)
	}
	out := Rollout{ID: id, Release: r, Plan: p, Course: Running, Wave: 1, Forgave: make([]int, 1+len(p.Percents))}
	for _, m := range machines {
		if err := m.Valid(); err != nil {
			return Rollout{}, fmt.Errorf("rollout %s: %w", clean(id), err)
		}
		out.Targets = append(out.Targets, Target{Machine: m, Stage: Waiting})
	}
	place := func(t Target) []byte { h := sha256.Sum256([]byte(id + "\n" + string(t.Machine))); return h[:] }
	slices.SortFunc(out.Targets, func(a, b Target) int { return bytes.Compare(place(a), place(b)) })
	for i := range out.Targets {
		if i > 0 && out.Targets[i].Machine == out.Targets[i-1].Machine {
			return Rollout{}, fmt.Errorf("rollout %s: machine %s appears twice", clean(id), out.Targets[i].Machine)
		}
		out.Targets[i].Wave = p.waveOf(i, len(machines))
	}
	if err := out.Update(Target{Wave: 1}, time.UnixMilli(0)).Valid(); err != nil {
		return Rollout{}, fmt.Errorf("rollout %s: %w", clean(id), err)
	}
	return out, nil
}

// waveOf returns the wave of the machine with this place, counted from 0.
func (p Plan) waveOf(place, machines int) int {
	if place < p.Canary {
		return 1
	}
	for i, percent := range p.Percents {
		if place < (machines*percent+99)/100 {
			return i + 2
		}
	}
	return len(p.Percents) + 1
}

// Update is what one machine is to do, begun now.
func (r *Rollout) Update(t Target, now time.Time) protocol.Update {
	return protocol.Update{Version: r.Release.Version, SHA256: r.Release.SHA256, Size: r.Release.Size,
		NotBeforeMS: now.UnixMilli(), DeadlineMS: now.Add(r.Plan.Within).UnixMilli(), Wave: t.Wave, Older: r.Older}
}

// Due brings the rollout up to now and returns the machines to be ordered. It
// returns them again until Ordered was told, so an order that was cut off before it
// was stored is not lost.
func (r *Rollout) Due(now time.Time) []Target {
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.Stage == Ordered && now.UnixMilli() > t.OrderedMS+(r.Plan.Within+answerSlack).Milliseconds() {
			t.Stage, t.Words = Missing, "no answer in time"
		}
	}
	r.judge()
	for r.Course == Running && r.through(now) {
		if r.Wave == len(r.Forgave) {
			r.Course = Done
			return nil
		}
		if now.UnixMilli() < r.Through+r.Plan.Soak.Milliseconds() {
			return nil
		}
		r.Wave, r.Through = r.Wave+1, 0
	}
	if r.Course != Running {
		return nil
	}
	var due []Target
	for _, t := range r.Targets {
		if t.Wave == r.Wave && t.Stage == Waiting {
			due = append(due, t)
		}
	}
	return due
}

// through says whether every machine of the wave has come to an end, and notes
// since when. A wave without machines is through at once and soaks nothing.
func (r *Rollout) through(now time.Time) bool {
	empty := true
	for _, t := range r.Targets {
		if t.Wave == r.Wave {
			empty = false
			if t.Stage == Waiting || t.Stage == Ordered {
				r.Through = 0
				return false
			}
		}
	}
	if empty {
		r.Through = now.Add(-r.Plan.Soak).UnixMilli()
		return true
	}
	if r.Through == 0 {
		r.Through = now.UnixMilli()
	}
	return true
}

// judge stops the rollout if a wave has more failures than it may.
func (r *Rollout) judge() {
	if r.Course != Running {
		return
	}
	for wave, n := range r.failures() {
		if n > r.Plan.MaxFailed+r.Forgave[wave] {
			r.Course = Stopped
			r.Why = fmt.Sprintf("%d machines of wave %d failed or did not answer, %d may", n, wave+1, r.Plan.MaxFailed+r.Forgave[wave])
			return
		}
	}
}

// failures counts them in each wave, from wave 1 on.
func (r *Rollout) failures() []int {
	n := make([]int, len(r.Forgave))
	for _, t := range r.Targets {
		if t.Stage == Failed || t.Stage == Missing {
			n[t.Wave-1]++
		}
	}
	return n
}

func (r *Rollout) find(m protocol.MachineID) (*Target, error) {
	for i := range r.Targets {
		if r.Targets[i].Machine == m {
			return &r.Targets[i], nil
		}
	}
	return nil, fmt.Errorf("rollout %s: machine %s is not in it", r.ID, m)
}

// Ordered notes that a machine's order is stored and will be sent; command is its id.
func (r *Rollout) Ordered(m protocol.MachineID, command string, now time.Time) error {
	t, err := r.find(m)
	if err != nil {
		return err
	}
	if t.Wave > r.Wave {
		return fmt.Errorf("rollout %s: machine %s is of wave %d, and wave %d goes out", r.ID, m, t.Wave, r.Wave)
	}
	if t.Stage != Waiting {
		return fmt.Errorf("rollout %s: machine %s is %s", r.ID, m, t.Stage)
	}
	t.Stage, t.Order, t.Void, t.OrderedMS = Ordered, command, "", now.UnixMilli()
	return nil
}

// Recalled notes that a machine's order was taken back before the machine answered:
// it waits again. If the order had reached it all the same, its answer still counts.
func (r *Rollout) Recalled(m protocol.MachineID) error {
	t, err := r.find(m)
	if err != nil {
		return err
	}
	if t.Stage != Ordered {
		return fmt.Errorf("rollout %s: machine %s is %s", r.ID, m, t.Stage)
	}
	t.Stage = Waiting // OrderedMS stays: an answer that comes all the same is of that order
	return nil
}

// Voided notes that a machine which had taken its order was told, by another command,
// that it is void: it waits again. If it had come to its switch, the order's end still counts.
func (r *Rollout) Voided(m protocol.MachineID, command string) error {
	if err := r.Recalled(m); err != nil {
		return err
	}
	t, err := r.find(m)
	if err != nil {
		return err
	}
	t.Void = command
	return nil
}

// Heard notes what a machine answered to the command of its order: that it was
// taken, or why not.
func (r *Rollout) Heard(m protocol.MachineID, result protocol.CommandResult, detail string) error {
	t, err := r.find(m)
	if err != nil {
		return err
	}
	switch {
	case result == protocol.CommandOK && t.Stage == Waiting && t.Void == "":
		t.Stage = Ordered // it was taken back too late
	case result == protocol.CommandOK:
	case t.Stage == Ordered && detail == protocol.LaterHeard && t.Again < maxAgain:
		t.Stage = Waiting // nothing is wrong with the release or the machine
		t.Again++
	case t.Stage == Ordered:
		t.Stage, t.Words = Failed, cmp.Or(detail, "the machine answers: "+string(result))
		r.judge()
	}
	return nil
}

// Note takes a machine's result. The last one counts: a machine that was given up
// for missing may still confirm, and one that has confirmed may be rolled back by hand.
// One of another order says nothing here, unless it is about this release: then
// somebody at the machine has put it back.
func (r *Rollout) Note(m protocol.MachineID, answer protocol.UpdateResult) error {
	t, err := r.find(m)
	if err != nil {
		return err
	}
	byHand := answer.Order == "" && answer.Version == r.Release.Version && t.Stage == Confirmed
	if t.Order == "" || answer.Order != t.Order && !byHand {
		return nil
	}
	switch answer.End {
	case protocol.UpdateConfirmed:
		t.Stage, t.Words = Confirmed, ""
	default: // an end we do not know is a newer machine's, and not the one we wanted
		t.Stage, t.Words = Failed, cmp.Or(answer.Words, "the machine answers: "+string(answer.End))
	}
	r.judge()
	return nil
}

// Has notes that a machine runs the release already, and has proved it: it needs no order.
func (r *Rollout) Has(m protocol.MachineID) error {
	t, err := r.find(m)
	if err != nil {
		return err
	}
	if t.Stage == Waiting {
		t.Stage, t.Words = Confirmed, ""
	}
	return nil
}

// Stop ends it until somebody lets it go on.
func (r *Rollout) Stop(why string) error {
	if r.Course != Running && r.Course != Paused {
		return fmt.Errorf("rollout %s: it is %s", r.ID, r.Course)
	}
	r.Course, r.Why = Stopped, why
	return nil
}

// Pause orders nobody else until Resume.
func (r *Rollout) Pause(why string) error {
	if r.Course != Running {
		return fmt.Errorf("rollout %s: it is %s", r.ID, r.Course)
	}
	r.Course, r.Why = Paused, why
	return nil
}

// Resume goes on. After a stop it is a person's word that the failures so far are
// no reason: only further ones stop it again.
func (r *Rollout) Resume() error {
	switch r.Course {
	case Paused:
	case Stopped:
		r.Forgave = r.failures()
	case Running, Done:
		return fmt.Errorf("rollout %s: it is %s", r.ID, r.Course)
	default:
		return errors.New("rollout: it was never begun")
	}
	r.Course, r.Why = Running, ""
	r.judge()
	return nil
}
