package ledger

import (
	"context"
	"fmt"
	"time"

	"yaoju/protocol"
)

// clockSlack is how far a held clock may lie behind the last record: a Pi that
// saved its time at shutdown comes back with it a little late.
const clockSlack = 2 * time.Minute

// trust judges a wall clock against the latest one believed before.
func trust(now time.Time, wallMS int64, synced bool) protocol.Clock {
	switch {
	case synced:
		return protocol.ClockSynced
	case now.Add(clockSlack).UnixMilli() >= wallMS:
		return protocol.ClockHeld
	}
	return protocol.ClockUnset
}

// Clock says how far the wall clock may be trusted. While it is unset, nobody is
// served.
func (l *Ledger) Clock() protocol.Clock {
	l.mu.Lock()
	wallMS := l.wallMS
	l.mu.Unlock()
	return trust(time.Now(), wallMS, l.synced())
}

// believed is the time that decides about quota and expiry: it never goes back,
// so that a clock put back gives nobody a second box.
func (t *tx) believed() time.Time {
	if w := time.UnixMilli(t.wallMS); w.After(t.now) {
		return w
	}
	return t.now
}

// today is the day that decides about quota and expiry.
func (t *tx) today() day { return dayOf(t.believed().In(t.l.zone)) }

// SetClock records that the wall clock jumped from the time it showed before to
// the present one; by is network or staff. Where the network puts it back, the
// believed time follows it, and what was taken in days that are still to come
// counts as taken today: otherwise a wrong year would close the machine for good.
func (l *Ledger) SetClock(ctx context.Context, from time.Time, by string) error {
	if by != "network" && by != "staff" {
		return fmt.Errorf("ledger: set clock: by %q: want network or staff", by)
	}
	return l.tx(ctx, "set clock", func(t *tx) error {
		if by == "network" && t.clock == protocol.ClockSynced && t.now.Add(clockSlack).UnixMilli() < t.wallMS {
			if err := t.putBack(); err != nil {
				return err
			}
		}
		return t.append(protocol.ClockSet{FromMS: from.UnixMilli(), By: by})
	})
}

// clockEvery is how often KeepClock looks; clockJump is how far the wall clock may
// drift from the monotonic one in between before it counts as set.
const (
	clockEvery = 10 * time.Second
	clockJump  = 5 * time.Second
)

// KeepClock watches the wall clock until ctx ends and records each time the
// network sets it, first of all where this ledger was last written under a clock
// that ran ahead.
func (l *Ledger) KeepClock(ctx context.Context) error {
	wall, mono := time.Now().Round(0), time.Now()
	for {
		now := time.Now()
		passed := now.Sub(mono)
		jump := now.Round(0).Sub(wall) - passed
		l.mu.Lock()
		ahead := time.UnixMilli(l.wallMS)
		l.mu.Unlock()
		var err error
		switch behind := l.synced() && now.Add(clockSlack).Before(ahead); {
		case jump.Abs() > clockJump:
			err = l.SetClock(ctx, wall.Add(passed), "network")
		case behind:
			err = l.SetClock(ctx, ahead, "network")
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		wall, mono = now.Round(0), now
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(clockEvery):
		}
	}
}

func (t *tx) putBack() error {
	t.wallMS = t.now.UnixMilli()
	if _, err := t.exec(`UPDATE meta SET wall_ms = ?`, t.wallMS); err != nil {
		return err
	}
	today := t.today().date()
	_, err := t.exec(`INSERT INTO entitlement (mark, day, class, vend, boxes, units, keep_until)
		SELECT mark, ?1, class, vend, sum(boxes), sum(units), max(keep_until) FROM entitlement WHERE day > ?1 GROUP BY mark, class, vend
		ON CONFLICT DO UPDATE SET boxes = boxes + excluded.boxes, units = units + excluded.units`, today)
	if err != nil {
		return err
	}
	if _, err := t.exec(`DELETE FROM entitlement WHERE day > ?`, today); err != nil {
		return err
	}
	return t.keep()
}
