package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"yaoju/protocol"
)

// Apply puts a desired state in force, durably. The version in force again does
// nothing; an older one is an error. Pieces of a product that a slot is no longer
// planned for stay on record and are not given out; the slot takes nothing new
// until they are removed.
func (l *Ledger) Apply(ctx context.Context, d protocol.Desired) error {
	if err := d.Valid(); err != nil {
		return fmt.Errorf("ledger: apply desired state: %w", err)
	}
	if d.Machine != l.machine {
		return fmt.Errorf("ledger: apply desired state: it is for machine %q, this is %q", d.Machine, l.machine)
	}
	body := protocol.Encode(d)
	what := fmt.Sprintf("apply desired state %d of generation %d", d.Version, d.Generation)
	return l.tx(ctx, what, func(t *tx) error {
		if now := t.desired(); now != nil && !d.Newer(now.DesiredVersion) {
			if now.DesiredVersion != d.DesiredVersion {
				return fmt.Errorf("it is older than %d of generation %d, which is in force", now.Version, now.Generation)
			}
			if string(protocol.Encode(*now)) != string(body) {
				return errors.New("it differs from the state of the same version in force")
			}
			return nil
		}
		_, err := t.exec(`INSERT INTO desired (one, generation, version, body) VALUES (1, ?1, ?2, ?3)
			ON CONFLICT DO UPDATE SET generation = ?1, version = ?2, body = ?3`, d.Generation, d.Version, string(body))
		if err != nil {
			return err
		}
		if err := t.keepBy(d.Policy); err != nil {
			return err
		}
		t.after = append(t.after, func() { l.desired = &d })
		return t.append(protocol.DesiredApplied{Generation: d.Generation, Version: d.Version})
	})
}

// Desired returns the desired state in force; ok is false before the first. What
// it holds must not be changed.
func (l *Ledger) Desired() (d protocol.Desired, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.desired == nil {
		return protocol.Desired{}, false
	}
	return *l.desired, true
}

// desired is what is in force in this transaction; nil: none yet.
func (t *tx) desired() *protocol.Desired {
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	return t.l.desired
}

// keep gives every entitlement the last day on which the policy in force counts it.
func (t *tx) keep() error {
	d := t.desired()
	if d == nil {
		return nil
	}
	return t.keepBy(d.Policy)
}

func (t *tx) keepBy(p protocol.Policy) error {
	takes, err := t.takes()
	if err != nil {
		return err
	}
	for _, k := range takes {
		_, err := t.exec(`UPDATE entitlement SET keep_until = ? WHERE day = ? AND class = ?`, lastCounted(p, k).date(), k.day.date(), k.class)
		if err != nil {
			return err
		}
	}
	return nil
}

// takes lists each day and class that was taken, once: what a policy decides by.
func (t *tx) takes() ([]take, error) {
	var out []take
	err := t.each(func(rows *sql.Rows) error {
		var date protocol.DateOnly
		k := take{boxes: 1, units: 1}
		if err := rows.Scan(&date, &k.class); err != nil {
			return err
		}
		var err error
		k.day, err = parseDay(date)
		out = append(out, k)
		return err
	}, `SELECT DISTINCT day, class FROM entitlement`)
	return out, err
}

// Purge forgets the marks that no rule counts any more, and takes them out of the
// journal too: secure_delete overwrites them in the file, but the journal may
// hold the pages as they were until it is folded in. What a flash card keeps of
// overwritten blocks is out of our hands.
func (l *Ledger) Purge(ctx context.Context) error {
	purged := 0
	err := l.tx(ctx, "purge marks", func(t *tx) error {
		var err error
		purged, err = t.exec(`DELETE FROM entitlement WHERE keep_until < ?`, t.today().date())
		return err
	})
	if err != nil || purged == 0 {
		return err
	}
	if _, err := l.db.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		return fmt.Errorf("ledger: purge marks from the journal: %w", l.judge(err))
	}
	return nil
}
