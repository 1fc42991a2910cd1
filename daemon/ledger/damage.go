package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"yaoju/protocol"
)

// A damageError says why a ledger was moved aside, and where to.
type damageError struct {
	why      error
	aside    string            // path of the old file now
	previous protocol.LedgerID // id of the old ledger; empty if it could not be read
}

func (e *damageError) Error() string { return fmt.Sprintf("%v; it is now %s", e.why, e.aside) }
func (e *damageError) Unwrap() error { return e.why }

// reason is the cause in the length an event allows.
func (e *damageError) reason() string {
	s := e.why.Error()
	return s[:min(len(s), 200)]
}

// A brokenError is damage that is not an error of SQLite's own.
type brokenError string

func (e brokenError) Error() string { return string(e) }

// isDamage reports whether err says that the file's content is wrong. Anything
// else, a missing right or a full disk, is no reason to give up a memory.
func isDamage(err error) bool {
	if _, ok := errors.AsType[brokenError](err); ok {
		return true
	}
	c := code(err)
	return c == codeCorrupt || c == codeNotADB
}

// precheck looks at the files before SQLite does. SQLite would delete a journal
// whose file is missing, because a move was cut short, and fold or delete one
// whose file it gives up on.
func precheck(path string) error {
	size := fileSize(path)
	if size <= 0 {
		if fileSize(path+"-wal") > 0 {
			return brokenError("the ledger is missing, but its journal is there")
		}
		return nil // there is none yet
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var h [24]byte
	if _, err := io.ReadFull(f, h[:]); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if !soundHeader(h) {
		return brokenError("the file is not a database any more")
	}
	return nil
}

// soundHeader checks the part of a database's header that never changes: the
// magic text, a page size that is a power of two, the journal modes we can read,
// and three constants (sqlite.org/fileformat2.html).
func soundHeader(h [24]byte) bool {
	size := int(h[16])<<8 | int(h[17])
	return string(h[:16]) == "SQLite format 3\x00" && (size == 1 || size >= 512 && size&(size-1) == 0) &&
		h[18] >= 1 && h[18] <= 2 && h[19] == h[18] && h[21] == 64 && h[22] == 32 && h[23] == 32
}

// fileSize returns the length of a file in bytes, or -1 where there is none.
func fileSize(path string) int64 {
	i, err := os.Stat(path)
	if err != nil {
		return -1
	}
	return i.Size()
}

// setAside renames the file, its journal and the journal's index together, and
// returns the *damageError that tells of it. The file goes first: a crash in
// between leaves a journal without a file, which the next start moves as well.
func setAside(path string, previous protocol.LedgerID, why error) error {
	aside := fmt.Sprintf("%s.damaged-%s-%s", path, time.Now().UTC().Format("20060102T150405Z"), protocol.NewLedgerID()[:8])
	for _, part := range []string{"", "-wal", "-shm"} {
		if err := os.Rename(path+part, aside+part); err != nil && !errors.Is(err, os.ErrNotExist) {
			return errors.Join(why, fmt.Errorf("move aside: %w", err))
		}
	}
	if err := syncDir(path); err != nil {
		return errors.Join(why, fmt.Errorf("move aside: %w", err))
	}
	return &damageError{why: why, aside: aside, previous: previous}
}

// load checks the file from end to end and reads what is kept in memory. In an
// empty file it makes the tables.
func (l *Ledger) load(ctx context.Context) error {
	version, err := fileVersion(ctx, l.db)
	if err == nil && version > 0 {
		err = quickCheck(ctx, l.db)
	}
	if code(err) == codeError {
		// Before any statement of ours ran, a general error is the file's.
		return brokenError(err.Error())
	}
	if err != nil {
		return err
	}
	if err := migrate(ctx, l.db, migrations(), Writes); err != nil {
		return err
	}
	if err := l.loadMeta(ctx); err != nil {
		return err
	}
	if err := l.loadDesired(ctx); err != nil {
		return err
	}
	return l.verify(ctx)
}

// quickCheck asks SQLite whether the file is well formed.
func quickCheck(ctx context.Context, q querier) error {
	var first string
	if err := q.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&first); err != nil {
		return fmt.Errorf("check the file: %w", err)
	}
	if first != "ok" {
		return brokenError("check the file: " + first)
	}
	return nil
}

// earliest is a time before this program existed: a clock that shows less was
// never set.
func earliest() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// loadMeta reads the one row of meta, or writes it in a new file.
func (l *Ledger) loadMeta(ctx context.Context) error {
	_, err := l.db.ExecContext(ctx, `INSERT INTO meta (one, machine, ledger, wall_ms) VALUES (1, ?, ?, ?) ON CONFLICT DO NOTHING`,
		l.machine, protocol.NewLedgerID(), earliest().UnixMilli())
	if err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	var machine protocol.MachineID
	err = l.db.QueryRowContext(ctx, `SELECT machine, ledger, boot + 1, wall_ms, paused, acked_generation, acked_seq FROM meta`).
		Scan(&machine, &l.id, &l.boot, &l.wallMS, &l.paused, &l.acked.Generation, &l.acked.Seq)
	if err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	if err := l.id.Valid(); err != nil {
		l.id = ""
		return brokenError("meta: " + err.Error())
	}
	if machine != l.machine {
		return fmt.Errorf("it is the memory of machine %q, not of %q", machine, l.machine)
	}
	l.acked.Ledger = l.id
	return nil
}

func (l *Ledger) loadDesired(ctx context.Context) error {
	var body []byte
	err := l.db.QueryRowContext(ctx, `SELECT body FROM desired`).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("desired state: %w", err)
	}
	d := new(protocol.Desired)
	if err := json.Unmarshal(body, d); err != nil {
		return brokenError("desired state: " + err.Error())
	}
	if err := d.Valid(); err != nil {
		return brokenError("desired state: " + err.Error())
	}
	l.desired = d
	return nil
}

// verify follows the whole chain.
func (l *Ledger) verify(ctx context.Context) error {
	rows, err := l.db.QueryContext(ctx, `SELECT seq, body, hash FROM event ORDER BY seq`)
	if err != nil {
		return fmt.Errorf("event chain: %w", err)
	}
	head, err := follow(rows, l.machine, l.id)
	if err != nil {
		return err
	}
	if head.Seq < l.acked.Seq {
		return brokenError(fmt.Sprintf("event chain ends at seq %d, but the district has it up to %d", head.Seq, l.acked.Seq))
	}
	l.head = head
	return nil
}

// follow follows the chain through all rows and closes them.
func follow(rows *sql.Rows, m protocol.MachineID, id protocol.LedgerID) (protocol.Head, error) {
	defer rows.Close()
	var head protocol.Head
	for rows.Next() {
		s, err := scanSealed(rows)
		if err != nil {
			return head, fmt.Errorf("event chain: %w", err)
		}
		if _, head, err = s.Follow(m, id, head); err != nil {
			return head, brokenError(err.Error())
		}
	}
	if err := rows.Err(); err != nil {
		return head, fmt.Errorf("event chain: %w", err)
	}
	return head, nil
}

func scanSealed(rows *sql.Rows) (protocol.Sealed, error) {
	var s protocol.Sealed
	var hash []byte
	if err := rows.Scan(&s.Seq, &s.Body, &hash); err != nil {
		return s, err
	}
	copy(s.Hash[:], hash)
	return s, nil
}
