package ledger

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"yaoju/protocol"
)

// Account is what is kept of a member of staff; Kept is for package staff alone.
type Account struct {
	Staff string
	Kept  []byte
}

// Accounts lists who may sign in, by account number.
func (l *Ledger) Accounts(ctx context.Context) ([]Account, error) {
	var all []Account
	err := l.read(ctx, "list accounts", func(t *tx) (err error) {
		all, err = t.accounts()
		return err
	})
	return all, err
}

func (t *tx) accounts() ([]Account, error) {
	var all []Account
	err := t.each(func(rows *sql.Rows) error {
		var a Account
		err := rows.Scan(&a.Staff, &a.Kept)
		all = append(all, a)
		return err
	}, `SELECT staff, kept FROM account ORDER BY staff`)
	return all, err
}

// SetAccounts puts these accounts in the place of all others. An account that is as it
// was keeps its lock; with another PIN, badge or role it begins anew.
func (l *Ledger) SetAccounts(ctx context.Context, all []Account) error {
	return l.tx(ctx, "set accounts", func(t *tx) error {
		was, err := t.accounts()
		if err != nil {
			return err
		}
		want := map[string][]byte{}
		for _, a := range all {
			want[a.Staff] = a.Kept
		}
		for _, a := range was {
			if kept, stays := want[a.Staff]; stays && bytes.Equal(kept, a.Kept) {
				delete(want, a.Staff)
				continue
			}
			if _, err := t.exec(`DELETE FROM account WHERE staff = ?`, a.Staff); err != nil {
				return err
			}
		}
		for staff, kept := range want {
			if _, err := t.exec(`INSERT INTO account (staff, kept) VALUES (?, ?)`, staff, kept); err != nil {
				return err
			}
		}
		return nil
	})
}

// StaffLock is how far wrong PINs have locked an account.
type StaffLock struct {
	Wrong int           // PINs since the last right one
	Round int           // locks since then
	Left  time.Duration // of the running lock, in milliseconds
}

// Lock returns an account's lock; the zero value if nobody has tried.
func (l *Ledger) Lock(ctx context.Context, staff string) (StaffLock, error) {
	var s StaffLock
	err := l.read(ctx, "lock of account "+staff, func(t *tx) error {
		var ms int64
		err := t.row(`SELECT wrong, round, left_ms FROM account_lock WHERE staff = ?`, staff).Scan(&s.Wrong, &s.Round, &ms)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		s.Left = time.Duration(ms) * time.Millisecond
		return err
	})
	return s, err
}

// SetLock keeps an account's lock. With locked it records as well that it was locked.
func (l *Ledger) SetLock(ctx context.Context, staff string, s StaffLock, locked bool) error {
	return l.tx(ctx, "lock of account "+staff, func(t *tx) error {
		_, err := t.exec(`INSERT INTO account_lock (staff, wrong, round, left_ms) VALUES (?1, ?2, ?3, ?4)
			ON CONFLICT DO UPDATE SET wrong = ?2, round = ?3, left_ms = ?4`, staff, s.Wrong, s.Round, s.Left.Milliseconds())
		if err != nil || !locked {
			return err
		}
		return t.append(protocol.StaffLocked{Staff: staff, Minutes: int((s.Left + time.Minute - 1) / time.Minute)})
	})
}

// A Bay is one slot as staff see it.
type Bay struct {
	protocol.SlotPlan
	Batches []Batch
	Held    int
	Blocked []protocol.Block
	Unknown []protocol.VendID // vends of it whose end nobody knows
}

// Bays lists the slots of the planogram, and those that hold something without being
// in it, lowest first; head is the newest event.
func (l *Ledger) Bays(ctx context.Context) (bays []Bay, head uint64, err error) {
	err = l.read(ctx, "list slots", func(t *tx) error {
		y, err := t.tray()
		if err != nil {
			return err
		}
		tip, err := t.tip()
		if err != nil {
			return err
		}
		head = tip.Seq
		at := map[protocol.Slot]int{}
		for i := range y.bays {
			b := &y.bays[i]
			if b.plan.Product == "" && len(b.queue) == 0 && b.held == 0 {
				continue
			}
			out := Bay{SlotPlan: b.plan, Held: b.held}
			out.Slot = b.slot
			for _, l := range b.queue {
				out.Batches = append(out.Batches, Batch{Stock: l.Stock, Pieces: l.pieces, Usable: y.usable(b, l.Stock)})
			}
			for _, e := range b.blocks {
				out.Blocked = append(out.Blocked, e.Why)
			}
			at[b.slot] = len(bays)
			bays = append(bays, out)
		}
		return t.each(func(rows *sql.Rows) error {
			var id protocol.VendID
			var slot protocol.Slot
			if err := rows.Scan(&id, &slot); err != nil {
				return err
			}
			i, ok := at[slot]
			if !ok {
				return fmt.Errorf("vend %d is open in slot %d, which holds nothing", id, slot)
			}
			bays[i].Unknown = append(bays[i].Unknown, id)
			return nil
		}, `SELECT id, slot FROM vend WHERE outcome = ? ORDER BY id`, protocol.Unknown)
	})
	return bays, head, err
}
