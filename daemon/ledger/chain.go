package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"

	"yaoju/protocol"
)

// Append records something that happened at the machine and changes nothing the
// ledger keeps: doors, sessions, climate, things left behind. What it does keep
// is told by the method that changes it.
func (l *Ledger) Append(ctx context.Context, e protocol.Event) error {
	switch e.(type) {
	case protocol.StaffIn, protocol.StaffOut, protocol.DoorOpened, protocol.DoorClosed, protocol.ItemUncollected,
		protocol.CardLeft, protocol.ClimateHour, protocol.OrderDenied:
	default:
		return fmt.Errorf("ledger: append %s: it is written by the change it tells of", e.Kind())
	}
	return l.tx(ctx, "append "+string(e.Kind()), func(t *tx) error { return t.append(e) })
}

// DoorOpen says how the chain left the service door: a daemon that starts with the door
// shut has to record that it was shut, if the last it heard was that it was opened.
func (l *Ledger) DoorOpen(ctx context.Context) (open bool, err error) {
	err = l.read(ctx, "last word on the door", func(t *tx) error {
		var kind string
		err := t.row(`SELECT json_extract(CAST(body AS TEXT), '$.kind') AS kind FROM event WHERE kind IN (?, ?) ORDER BY seq DESC LIMIT 1`,
			protocol.KindDoorOpened, protocol.KindDoorClosed).Scan(&kind)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		open = kind == string(protocol.KindDoorOpened)
		return err
	})
	return open, err
}

// Head returns the newest record of the chain.
func (l *Ledger) Head() protocol.Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Since returns the records after seq, oldest first: as many as have bodies of at
// most maxBytes together, but at least one if there is one.
func (l *Ledger) Since(ctx context.Context, after uint64, maxBytes int) ([]protocol.Sealed, error) {
	var out []protocol.Sealed
	enough := errors.New("enough")
	err := l.read(ctx, fmt.Sprintf("records after seq %d", after), func(t *tx) error {
		size := 0
		err := t.each(func(rows *sql.Rows) error {
			s, err := scanSealed(rows)
			if err != nil {
				return err
			}
			size += len(s.Body)
			if len(out) > 0 && size > maxBytes {
				return enough
			}
			out = append(out, s)
			return nil
		}, `SELECT seq, body, hash FROM event WHERE seq > ? ORDER BY seq`, int64(min(after, 1<<62)))
		if errors.Is(err, enough) {
			return nil
		}
		return err
	})
	return out, err
}

// Acked returns what the district last acknowledged; generation 0 is nothing yet.
func (l *Ledger) Acked() protocol.Ack {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// SetAcked notes an acknowledgement, durably. Within a generation it only rises
// and a lower one does nothing; a higher generation may lower it; an older
// generation or another ledger does nothing. An ack of what was never written is
// an error.
func (l *Ledger) SetAcked(ctx context.Context, a protocol.Ack) error {
	if a.Ledger != l.id {
		return nil // of the ledger before this one, still retained at the broker
	}
	what := fmt.Sprintf("ack of seq %d in generation %d", a.Seq, a.Generation)
	return l.tx(ctx, what, func(t *tx) error {
		now := l.Acked()
		if a.Generation < now.Generation || a.Generation == now.Generation && a.Seq <= now.Seq {
			return nil
		}
		head, err := t.tip()
		if err != nil {
			return err
		}
		if a.Seq > head.Seq {
			return fmt.Errorf("the chain ends at seq %d: that was never sent", head.Seq)
		}
		t.after = append(t.after, func() { l.acked = a })
		_, err = t.exec(`UPDATE meta SET acked_generation = ?, acked_seq = ?`, a.Generation, a.Seq)
		return err
	})
}

// MintConnection returns a number for a new connection to the broker, durably
// above every one before, also of an earlier ledger of this machine as long as
// its clock is right.
func (l *Ledger) MintConnection(ctx context.Context) (uint64, error) {
	var n uint64
	err := l.tx(ctx, "mint a connection number", func(t *tx) error {
		if _, err := t.exec(`UPDATE meta SET connection = max(connection + 1, ?)`, t.now.UnixMilli()); err != nil {
			return err
		}
		return t.row(`SELECT connection FROM meta`).Scan(&n)
	})
	return n, err
}

// Backup writes a whole copy to path, which must not exist. The copy holds marks
// for as long as it exists: keep it as the ledger itself is kept.
func (l *Ledger) Backup(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("ledger: back up: %w", err)
	}
	defer f.Close()
	_, err = l.db.ExecContext(ctx, `VACUUM INTO ?`, path)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncDir(path)
	}
	if err != nil {
		return fmt.Errorf("ledger: back up to %s: %w", path, errors.Join(err, os.Remove(path)))
	}
	return nil
}
