package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"modernc.org/sqlite"

	"yaoju/protocol"
)

// Inspection is what a look at a ledger's file found.
type Inspection struct {
	Machine protocol.MachineID // whose memory it is
	Ledger  protocol.LedgerID
	Version int    // of the file
	Head    uint64 // newest seq of the event chain
	Acked   uint64 // how far the district has it
	Open    int    // vends whose end is not settled
	Boxes   int    // pieces in stock, blocked and expired ones too
	Damage  string // what is wrong with the content; empty: sound from end to end
}

// Inspect reads a ledger's file from end to end and changes nothing: it records no
// start and moves nothing aside. It may be used beside a running kioskd, which waits
// for it no longer than for its own disk. The error is nil if the file could be read,
// though its content may be damaged; it wraps fs.ErrNotExist if there is none.
func Inspect(ctx context.Context, path string) (Inspection, error) {
	var found Inspection
	if _, err := os.Stat(path); err != nil {
		return found, fmt.Errorf("inspect the ledger: %w", err)
	}
	err := precheck(path)
	if err == nil {
		err = inspect(ctx, path, &found)
	}
	if isDamage(err) || code(err) == codeError {
		found.Damage = err.Error()
		return found, nil
	}
	if err != nil {
		return found, fmt.Errorf("inspect the ledger %s: %w", path, err)
	}
	return found, nil
}

// inspect fills in what it finds, in one consistent view.
func inspect(ctx context.Context, path string, found *Inspection) error {
	db, err := connectToRead(path)
	if err != nil {
		return err
	}
	defer db.Close() // only read
	version, err := fileVersion(ctx, db)
	if err != nil {
		return err
	}
	if found.Version = version; version == 0 {
		return brokenError("the file is empty")
	}
	if known := len(migrations()); version > known {
		return fmt.Errorf("the file has version %d, but this program knows only %d", version, known)
	}
	t, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer t.Rollback() // nothing was written
	if err := quickCheck(ctx, t); err != nil {
		return err
	}
	err = t.QueryRowContext(ctx, `SELECT machine, ledger, acked_seq, (SELECT count(*) FROM vend WHERE outcome < 2),
		(SELECT coalesce(sum(pieces), 0) FROM stock) FROM meta`).Scan(&found.Machine, &found.Ledger, &found.Acked, &found.Open, &found.Boxes)
	if errors.Is(err, sql.ErrNoRows) {
		return brokenError("it does not say whose it is")
	}
	if err != nil {
		return err
	}
	rows, err := t.QueryContext(ctx, `SELECT seq, body, hash FROM event ORDER BY seq`)
	if err != nil {
		return err
	}
	head, err := follow(rows, found.Machine, found.Ledger)
	if err != nil {
		return err
	}
	if found.Head = head.Seq; head.Seq < found.Acked {
		return brokenError(fmt.Sprintf("event chain ends at seq %d, but the district has it up to %d", head.Seq, found.Acked))
	}
	return nil
}

// connectToRead prepares a connection that cannot write. A file without a journal is
// nobody's at the moment; then SQLite is told so, because it would make a journal to
// read by.
func connectToRead(path string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	q := url.Values{"mode": {"ro"}, "_dqs": {"0"}, "_pragma": {"busy_timeout(2000)", "query_only(1)", "trusted_schema(0)"}}
	if fileSize(path+"-wal") < 0 {
		q.Set("immutable", "1")
	}
	u := url.URL{Scheme: "file", Path: abs, RawQuery: q.Encode()}
	c, err := sqlite.NewConnector(u.String())
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(1)
	return db, nil
}

// ForgetMarks deletes the marks of everybody, also of those whose vends are open, and
// overwrites them in the file and its journal: no card is known any more, and each may
// take again. Stock and events stay. It is durable when it returns.
func (l *Ledger) ForgetMarks(ctx context.Context) error {
	err := l.tx(ctx, "forget all marks", func(t *tx) error {
		if _, err := t.exec(`DELETE FROM entitlement`); err != nil {
			return err
		}
		_, err := t.exec(`UPDATE vend SET next_day = NULL WHERE next_day IS NOT NULL`)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := l.db.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		return fmt.Errorf("ledger: forget marks in the journal: %w", l.judge(err))
	}
	return nil
}
