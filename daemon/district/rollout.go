package district

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"yaoju/protocol"
)

const (
	// rolloutEvery is how often rollouts are looked after: a machine tells its state
	// no more often.
	rolloutEvery = 10 * time.Second
	// stateSlack is how long before a look a state may have come in that the look did
	// not find yet: a transaction that ingests takes no longer.
	stateSlack = time.Minute
	// ordersAtOnce bounds one transaction: 200 signatures and rows are a tenth of a second.
	ordersAtOnce = 200
	// repeatEvery is how often a machine that is online and has not answered its order
	// is given it again: one whose clock is not set answers nothing until it is.
	repeatEvery = 10 * time.Minute
	// provingSlack is how old a state may be that says a machine is proving the release:
	// it tells its state every five minutes, and one that is silent for three of them may never again.
	provingSlack = 15 * time.Minute
)

// ErrUnknownRollout says that the district has no such rollout.
var ErrUnknownRollout = errors.New("no such rollout")

// StartRollout begins to bring a release out, to some machines or, with none named,
// to all there are. RunRollouts carries it on, in this process or another.
func (d *District) StartRollout(ctx context.Context, version string, p Plan, machines []protocol.MachineID, older bool) (Rollout, error) {
	var out Rollout
	err := d.store.tx(ctx, func(tx *sql.Tx) error {
		r, err := findRelease(ctx, tx, version)
		if err != nil {
			return err
		}
		all, err := everyMachine(ctx, tx)
		if err != nil {
			return err
		}
		if len(machines) == 0 {
			machines = all
		}
		for _, m := range machines {
			if !slices.Contains(all, m) {
				return fmt.Errorf("%s: %w", clean(string(m)), ErrUnknownMachine)
			}
		}
		if out, err = NewRollout(newRolloutID(), r, p, machines); err != nil {
			return err
		}
		out.MadeMS, out.Older = time.Now().UnixMilli(), older
		if err := mayRun(ctx, tx, out); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO rollout (id, version, course, made_ms, body) VALUES (?, ?, ?, ?, ?)`, out.ID, version, out.Course, out.MadeMS, protocol.Encode(out))
		return err
	})
	if err != nil {
		return Rollout{}, fmt.Errorf("bring %s out: %w", clean(version), err)
	}
	d.o.Log.Info("rollout started", "rollout", out.ID, "version", version, "machines", len(out.Targets))
	return out, nil
}

func newRolloutID() string {
	var b [4]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return "r-" + hex.EncodeToString(b[:])
}

func everyMachine(ctx context.Context, q querier) (all []protocol.MachineID, err error) {
	err = rows(ctx, q, `SELECT id FROM machine ORDER BY id`, nil, func(r *sql.Rows) error {
		var m protocol.MachineID
		err := r.Scan(&m)
		all = append(all, m)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the machines: %w", err)
	}
	return all, nil
}

// mayRun refuses a rollout to a machine that another one is at: it would be asked for
// two versions at once.
func mayRun(ctx context.Context, q querier, r Rollout) error {
	open, err := openRollouts(ctx, q)
	if err != nil {
		return err
	}
	for _, o := range open {
		if o.ID == r.ID || o.Course == Stopped {
			continue
		}
		for _, t := range r.Targets {
			if _, err := o.find(t.Machine); err == nil {
				return fmt.Errorf("%s is in rollout %s of %s, which is %s: stop that one first", t.Machine, o.ID, o.Release.Version, o.Course)
			}
		}
	}
	return nil
}

// Rollouts lists the rollouts, newest first.
func (d *District) Rollouts(ctx context.Context) ([]Rollout, error) {
	all, err := readRollouts(ctx, d.store.read, `SELECT body FROM rollout ORDER BY made_ms DESC, id`)
	if err != nil {
		return nil, fmt.Errorf("list the rollouts: %w", err)
	}
	return all, nil
}

// openRollouts are those that are not done, oldest first.
func openRollouts(ctx context.Context, q querier) ([]Rollout, error) {
	return readRollouts(ctx, q, `SELECT body FROM rollout WHERE course <> 'done' ORDER BY made_ms, id`)
}

func readRollouts(ctx context.Context, q querier, query string) (all []Rollout, err error) {
	err = rows(ctx, q, query, nil, func(row *sql.Rows) error {
		var body []byte
		if err := row.Scan(&body); err != nil {
			return err
		}
		r, err := decodeRollout(body)
		all = append(all, r)
		return err
	})
	return all, err
}

func decodeRollout(body []byte) (r Rollout, err error) {
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fmt.Errorf("stored rollout: %w", err)
	}
	return r, nil
}

// changeRollout lets f change a rollout, and stores it if f has no error.
func (d *District) changeRollout(ctx context.Context, id string, f func(*sql.Tx, *Rollout) error) error {
	return d.store.tx(ctx, func(tx *sql.Tx) error {
		var was []byte
		err := tx.QueryRowContext(ctx, `SELECT body FROM rollout WHERE id = ?`, id).Scan(&was)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrUnknownRollout
		}
		if err != nil {
			return err
		}
		r, err := decodeRollout(was)
		if err != nil {
			return err
		}
		if err := f(tx, &r); err != nil {
			return err
		}
		body := protocol.Encode(r)
		if bytes.Equal(body, was) {
			return nil
		}
		_, err = tx.ExecContext(ctx, `UPDATE rollout SET course = ?, body = ? WHERE id = ?`, r.Course, body, id)
		return err
	})
}

// PauseRollout orders nobody else until ResumeRollout.
func (d *District) PauseRollout(ctx context.Context, id, why string) error {
	return d.steer(ctx, id, "paused", func(_ *sql.Tx, r *Rollout) error { return r.Pause(why) })
}

// StopRollout ends a rollout until somebody resumes it, and takes back what no
// machine has answered. Machines that have taken their order and not come to its
// switch are told by RunRollouts, here or in another process, when it looks next.
func (d *District) StopRollout(ctx context.Context, id, why string) error {
	return d.steer(ctx, id, "stopped", func(tx *sql.Tx, r *Rollout) error {
		if err := r.Stop(why); err != nil {
			return err
		}
		return recall(ctx, tx, r, time.Now())
	})
}

// ResumeRollout goes on, in spite of the failures so far.
func (d *District) ResumeRollout(ctx context.Context, id string) error {
	return d.steer(ctx, id, "resumed", func(tx *sql.Tx, r *Rollout) error {
		if _, err := findRelease(ctx, tx, r.Release.Version); err != nil {
			return err
		}
		if err := mayRun(ctx, tx, *r); err != nil {
			return err
		}
		if err := r.Resume(); err != nil || r.Course != Stopped {
			return err
		}
		return recall(ctx, tx, r, time.Now()) // what failed while it was paused stops it at once
	})
}

func (d *District) steer(ctx context.Context, id, did string, f func(*sql.Tx, *Rollout) error) error {
	if err := d.changeRollout(ctx, id, f); err != nil {
		return fmt.Errorf("rollout %s: %w", clean(id), err)
	}
	d.o.Log.Info("rollout "+did, "rollout", id)
	return nil
}

// RunRollouts carries rollouts on until ctx ends, then returns nil. What it learns it
// reads from the store, so nothing is lost while nobody runs.
func (d *District) RunRollouts(ctx context.Context) error {
	var since time.Time    // states that came in before have been looked at
	var repeated time.Time // when orders were last given again
	for {
		begun := time.Now()
		if leads, _ := d.leads(); !leads {
			since = time.Time{}
		} else if err := d.lookAfter(ctx, since, &repeated); err == nil {
			since = begun.Add(-stateSlack)
		} else if ctx.Err() == nil && !d.store.passing(err) {
			return err
		} else if ctx.Err() == nil {
			d.o.Log.Warn("rollouts have to wait for the store", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rolloutEvery):
		}
	}
}

// lookAfter carries rollouts on, and now and then gives orders again.
func (d *District) lookAfter(ctx context.Context, since time.Time, repeated *time.Time) error {
	if err := d.carryOn(ctx, since); err != nil {
		return err
	}
	now := time.Now()
	if now.Sub(*repeated) < repeatEvery {
		return nil
	}
	*repeated = now
	return d.repeatOrders(ctx, now)
}

// repeatOrders gives machines that are online and have not answered their order all
// they have not answered, in the order of the counters.
func (d *District) repeatOrders(ctx context.Context, now time.Time) error {
	var due []protocol.MachineID
	err := rows(ctx, d.store.read, `SELECT DISTINCT c.machine FROM command c JOIN online o ON o.machine = c.machine
		WHERE o.online = 1 AND c.verb = ? AND c.result IS NULL AND c.expires_ms > ? AND c.made_ms <= ?`,
		[]any{protocol.VerbUpdate, now.UnixMilli(), now.Add(-repeatEvery).UnixMilli()}, func(r *sql.Rows) error {
			var m protocol.MachineID
			err := r.Scan(&m)
			due = append(due, m)
			return err
		})
	if err != nil {
		return fmt.Errorf("list the orders without an answer: %w", err)
	}
	for _, m := range due {
		if err := d.repeatCommands(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// given is a command that is stored and to be sent.
type given struct {
	machine protocol.MachineID
	message []byte
}

// carryOn brings every rollout up to now.
func (d *District) carryOn(ctx context.Context, since time.Time) error {
	open, err := openRollouts(ctx, d.store.read)
	if err != nil || len(open) == 0 {
		return err
	}
	states, err := d.software(ctx, `SELECT body FROM state WHERE received_ms >= ?`, since.UnixMilli())
	if err != nil {
		return err
	}
	for _, o := range open {
		var out []given
		err := d.changeRollout(ctx, o.ID, func(tx *sql.Tx, r *Rollout) (err error) {
			was := r.Course
			if out, err = d.advance(ctx, tx, r, states, time.Now()); err != nil {
				return err
			}
			if r.Course != was {
				d.o.Log.Warn("rollout changed its course", "rollout", r.ID, "version", r.Release.Version, "course", r.Course, "why", r.Why)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("rollout %s: %w", o.ID, err)
		}
		for _, g := range out {
			d.wake(g.machine)
			if err := d.line.publish(protocol.CommandTopic(g.machine), g.message, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// Software is what runs on a machine, as it last said.
type Software struct {
	Machine protocol.MachineID
	Version string
	Update  protocol.UpdateState // zero: it takes no updates
}

// Software lists what runs where, of machines that have told.
func (d *District) Software(ctx context.Context) ([]Software, error) {
	all, err := d.software(ctx, `SELECT body FROM state WHERE received_ms >= ? ORDER BY machine`, 0)
	if err != nil {
		return nil, fmt.Errorf("list what runs: %w", err)
	}
	return all, nil
}

func (d *District) software(ctx context.Context, query string, arg any) (all []Software, err error) {
	return softwareOf(ctx, d.store.read, query, arg)
}

func softwareOf(ctx context.Context, q querier, query string, arg any) (all []Software, err error) {
	err = rows(ctx, q, query, []any{arg}, func(r *sql.Rows) error {
		var body []byte
		if err := r.Scan(&body); err != nil {
			return err
		}
		st, err := protocol.DecodeState(body)
		if err != nil {
			return nil // of a program that was more lenient; the machine sends another one within minutes
		}
		s := Software{Machine: st.Machine, Version: st.Software}
		if st.Update != nil {
			s.Update = *st.Update
		}
		all = append(all, s)
		return nil
	})
	return all, err
}

// advance brings one rollout up to now: it hears what machines have answered, orders
// who is due, and takes orders back if it has stopped.
func (d *District) advance(ctx context.Context, tx *sql.Tx, r *Rollout, states []Software, now time.Time) ([]given, error) {
	if err := hearAnswers(ctx, tx, r); err != nil {
		return nil, err
	}
	for _, s := range states {
		if _, err := r.find(s.Machine); err != nil || s.Update.Last == nil {
			continue
		}
		if err := r.Note(s.Machine, *s.Update.Last); err != nil {
			return nil, err
		}
	}
	due := r.Due(now)
	if r.Course == Stopped {
		// At every look: an answer may come, and a machine tell what it has in hand, after the stop.
		if err := recall(ctx, tx, r, now); err != nil {
			return nil, err
		}
		return d.void(ctx, tx, r, now)
	}
	return d.orderAll(ctx, tx, r, due[:min(len(due), ordersAtOnce)], now)
}

// hearAnswers tells a rollout what machines answered to its commands.
func hearAnswers(ctx context.Context, tx *sql.Tx, r *Rollout) error {
	return rows(ctx, tx, `SELECT id, machine, result, coalesce(detail, '') FROM command WHERE verb = ? AND made_ms >= ? AND result IS NOT NULL`,
		[]any{protocol.VerbUpdate, r.MadeMS}, func(row *sql.Rows) error {
			var id, detail string
			var m protocol.MachineID
			var result protocol.CommandResult
			if err := row.Scan(&id, &m, &result, &detail); err != nil {
				return err
			}
			if t, err := r.find(m); err != nil || t.Order != id {
				return nil // another rollout's, or an order that was given anew
			}
			return r.Heard(m, result, detail)
		})
}

// orderAll orders the release for machines that do not have it yet.
func (d *District) orderAll(ctx context.Context, tx *sql.Tx, r *Rollout, due []Target, now time.Time) (out []given, err error) {
	for _, t := range due {
		have, err := softwareOf(ctx, tx, `SELECT body FROM state WHERE machine = ?`, t.Machine)
		if err != nil {
			return nil, err
		}
		if len(have) == 1 && have[0].Version == r.Release.Version && have[0].Update.Trial == "" {
			if err := r.Has(t.Machine); err != nil {
				return nil, err
			}
			continue
		}
		proving, err := proves(ctx, tx, have, r.Release.Version, now)
		if err != nil {
			return nil, err
		}
		if proving {
			continue // it is looked at again: by then it has the release, or needs it
		}
		u := r.Update(t, now)
		c := protocol.Command{ID: newCommandID(), Machine: t.Machine, NotBeforeMS: now.Add(-commandSlack).UnixMilli(), ExpiresMS: u.DeadlineMS, Verb: protocol.VerbUpdate, Update: &u}
		message, err := d.give(ctx, tx, &c, now)
		if err != nil {
			return nil, fmt.Errorf("order %s for %s: %w", u.Version, t.Machine, err)
		}
		if err := r.Ordered(t.Machine, c.ID, now); err != nil {
			return nil, err
		}
		out = append(out, given{t.Machine, message})
	}
	return out, nil
}

// proves says whether a machine is proving a version, as it told a short while ago.
func proves(ctx context.Context, tx *sql.Tx, have []Software, version string, now time.Time) (bool, error) {
	if len(have) != 1 || have[0].Update.Trial != version {
		return false, nil
	}
	var told int64
	err := tx.QueryRowContext(ctx, `SELECT received_ms FROM state WHERE machine = ?`, have[0].Machine).Scan(&told)
	if err != nil {
		return false, fmt.Errorf("when %s told its state: %w", have[0].Machine, err)
	}
	return now.UnixMilli()-told < provingSlack.Milliseconds(), nil
}

// void makes the order void of machines that have taken it and not come to its switch:
// they are given one whose deadline is past, which takes its place. Who is proving the
// release already brings that to its end.
func (d *District) void(ctx context.Context, tx *sql.Tx, r *Rollout, now time.Time) (out []given, err error) {
	for _, t := range r.Targets {
		if t.Stage != Ordered || len(out) == ordersAtOnce {
			continue
		}
		holds, err := inHand(ctx, tx, t, r.Release.Version)
		if err != nil {
			return nil, err
		}
		if !holds {
			continue
		}
		u := r.Update(t, now)
		u.NotBeforeMS, u.DeadlineMS = 0, 1
		c := protocol.Command{ID: newCommandID(), Machine: t.Machine, NotBeforeMS: now.Add(-commandSlack).UnixMilli(), ExpiresMS: now.Add(r.Plan.Within).UnixMilli(), Verb: protocol.VerbUpdate, Update: &u}
		message, err := d.give(ctx, tx, &c, now)
		if err != nil {
			return nil, fmt.Errorf("make the order of %s void: %w", t.Machine, err)
		}
		if err := r.Voided(t.Machine, c.ID); err != nil {
			return nil, err
		}
		out = append(out, given{t.Machine, message})
	}
	return out, nil
}

// inHand says whether a machine has a target's order in hand and has not come to its
// switch. An order that was given later, by another rollout, is none of our business.
func inHand(ctx context.Context, tx *sql.Tx, t Target, version string) (bool, error) {
	have, err := softwareOf(ctx, tx, `SELECT body FROM state WHERE machine = ?`, t.Machine)
	if err != nil || len(have) != 1 || have[0].Update.Ordered != version || have[0].Update.Trial != "" {
		return false, err
	}
	var newest string
	err = tx.QueryRowContext(ctx, `SELECT id FROM command WHERE machine = ? AND verb = ? ORDER BY generation DESC, counter DESC LIMIT 1`, t.Machine, protocol.VerbUpdate).Scan(&newest)
	if err != nil {
		return false, fmt.Errorf("newest order of %s: %w", t.Machine, err)
	}
	return newest == t.Order, nil
}

// recall takes back what no machine has answered: it is not given again.
func recall(ctx context.Context, tx *sql.Tx, r *Rollout, now time.Time) error {
	for _, t := range r.Targets {
		if t.Stage != Ordered {
			continue
		}
		res, err := tx.ExecContext(ctx, `UPDATE command SET expires_ms = ? WHERE id = ? AND result IS NULL`, now.UnixMilli(), t.Order)
		if err != nil {
			return fmt.Errorf("take the order of %s back: %w", t.Machine, err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return fmt.Errorf("take the order of %s back: %w", t.Machine, err)
		}
		if n == 0 {
			continue // it was taken
		}
		if err := r.Recalled(t.Machine); err != nil {
			return err
		}
	}
	return nil
}
