package ledger

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"

	"yaoju/daemon/dispense"
	"yaoju/protocol"
)

//go:embed schema.sql
var schema string

//go:embed update.sql
var schemaUpdate string

//go:embed staff.sql
var schemaStaff string

// migrations lead from an empty file to the newest version. The version of a
// file is how many of them it has seen; one that was released is never changed. The
// last ones may be read only: Writes says how far a file is brought.
func migrations() []string { return []string{schema, schemaUpdate, schemaStaff} }

// applicationID marks a file as ours; schema.sql sets it.
const applicationID = 0x79616f6a

// Primary result codes of SQLite that we decide on.
const (
	codeError   = 1  // SQLITE_ERROR
	codeIOErr   = 10 // SQLITE_IOERR
	codeCorrupt = 11 // SQLITE_CORRUPT
	codeNotADB  = 26 // SQLITE_NOTADB
)

// code returns SQLite's primary result code for err, or 0.
func code(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// connect prepares the one connection. Pragmas ride in the DSN, so that a
// connection which database/sql replaces has them too.
//
//   - psow=0: a torn sector may damage its neighbours; without it garbage in torn
//     sectors corrupted the file in 385 of 4,000 power cuts, with it in none.
//   - wal_autocheckpoint 64 pages and the size limit keep the journal near 256 KiB
//     and bound how long an overwritten mark can be found in it.
//   - secure_delete overwrites what is deleted: a purged mark is gone from the file.
//   - busy_timeout: an operator's tool that reads may hold a lock for a moment.
func connect(path string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	q := url.Values{
		"psow":    {"0"},
		"_txlock": {"immediate"},
		"_dqs":    {"0"},
		"_pragma": {
			"busy_timeout(2000)",
			"journal_mode(wal)",
			"synchronous(full)",
			"wal_autocheckpoint(64)",
			"journal_size_limit(1048576)",
			"foreign_keys(1)",
			"trusted_schema(0)",
			"secure_delete(1)",
		},
	}
	u := url.URL{Scheme: "file", Path: abs, RawQuery: q.Encode()}
	c, err := sqlite.NewConnector(u.String())
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(1) // it is the lock: one change at a time, never SQLITE_BUSY from ourselves
	return db, nil
}

// create makes an empty file only we may read, because it will hold marks.
// SQLite gives its journal the same permissions.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return syncDir(path)
}

// syncDir makes the names in path's folder durable.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// A tx is one transaction. It lives within one call, so it may hold the call's
// context.
type tx struct {
	*sql.Tx
	ctx     context.Context
	l       *Ledger
	now     time.Time      // wall clock
	clock   protocol.Clock // how far now may be trusted
	wallMS  int64          // latest wall clock believed before
	changed bool           // a row was written
	head    *protocol.Head // nil: not read yet
	after   []func()       // run under mu once it is committed
}

// tx runs f in one transaction and publishes what changed. f's error rolls
// everything back. A decision comes back as it is; any other error says what was
// being done.
func (l *Ledger) tx(ctx context.Context, what string, f func(*tx) error) error {
	return l.run(ctx, what, &sql.TxOptions{}, f)
}

// read runs f on one consistent view and writes nothing.
func (l *Ledger) read(ctx context.Context, what string, f func(*tx) error) error {
	return l.run(ctx, what, &sql.TxOptions{ReadOnly: true}, f)
}

func (l *Ledger) run(ctx context.Context, what string, opts *sql.TxOptions, f func(*tx) error) error {
	err := l.try(ctx, opts, f)
	if err == nil {
		return nil
	}
	if _, decided := errors.AsType[*dispense.DeniedError](err); decided {
		return err
	}
	if _, decided := errors.AsType[*RefusedError](err); decided {
		return err
	}
	return fmt.Errorf("ledger: %s: %w", what, l.judge(err))
}

func (l *Ledger) try(ctx context.Context, opts *sql.TxOptions, f func(*tx) error) error {
	if l.failed() {
		return ErrFailed
	}
	// The connection is held until what was committed is published, so memory
	// follows the file in the order of commits.
	conn, err := l.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	// ctx bounds the wait for the connection and each statement, but not the
	// transaction: the library would roll back on a goroutine of its own, and Close
	// could overtake it.
	sqlTx, err := conn.BeginTx(context.WithoutCancel(ctx), opts)
	if err != nil {
		return err
	}
	defer sqlTx.Rollback() // after a commit it does nothing

	t := l.begin(ctx, sqlTx)
	if err := f(t); err != nil {
		return err
	}
	if !t.changed {
		return nil
	}
	if err := t.noteTime(); err != nil {
		return err
	}
	if err := t.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	l.publish(t)
	return nil
}

func (l *Ledger) begin(ctx context.Context, sqlTx *sql.Tx) *tx {
	t := &tx{Tx: sqlTx, ctx: ctx, l: l, now: time.Now()}
	l.mu.Lock()
	t.wallMS = l.wallMS
	l.mu.Unlock()
	t.clock = trust(t.now, t.wallMS, l.synced())
	return t
}

// publish brings memory up to a committed transaction and wakes who watches.
func (l *Ledger) publish(t *tx) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.head != nil {
		l.head = *t.head
	}
	l.wallMS = t.wallMS
	for _, f := range t.after {
		f()
	}
	l.version++
	close(l.changed)
	l.changed = make(chan struct{})
}

// judge marks the ledger as failed where its file can no longer be trusted:
// after a failed write to disk SQLite may take for durable what is not.
func (l *Ledger) judge(err error) error {
	switch code(err) {
	case codeIOErr, codeCorrupt, codeNotADB:
		l.mu.Lock()
		if !l.broken {
			l.broken = true
			close(l.failure)
		}
		l.mu.Unlock()
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	return err
}

// Failed is closed when the disk failed: the ledger has to be opened again.
func (l *Ledger) Failed() <-chan struct{} { return l.failure }

func (l *Ledger) failed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.broken
}

// exec runs one statement and returns how many rows it wrote.
func (t *tx) exec(query string, args ...any) (int, error) {
	res, err := t.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	if n > 0 {
		t.changed = true
	}
	return int(n), err
}

func (t *tx) row(query string, args ...any) *sql.Row { return t.QueryRowContext(t.ctx, query, args...) }

// each calls f for every row of a query; f scans it.
func (t *tx) each(f func(*sql.Rows) error, query string, args ...any) error {
	rows, err := t.QueryContext(t.ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// tip returns the newest record, including what this transaction appended.
func (t *tx) tip() (protocol.Head, error) {
	if t.head != nil {
		return *t.head, nil
	}
	h, err := readHead(t.ctx, t.Tx)
	if err == nil {
		t.head = &h
	}
	return h, err
}

// append writes e as the next record of the chain.
func (t *tx) append(e protocol.Event) error {
	head, err := t.tip()
	if err != nil {
		return err
	}
	at := protocol.Stamp{
		AtMS:  t.now.UnixMilli(),
		Clock: t.clock,
		Boot:  t.l.boot,
		UpMS:  time.Since(t.l.start).Milliseconds(),
	}
	s, err := protocol.Seal(t.l.machine, t.l.id, head, at, e)
	if err != nil {
		return err
	}
	if _, err := t.exec(`INSERT INTO event (seq, body, hash) VALUES (?, ?, ?)`, s.Seq, s.Body, s.Hash[:]); err != nil {
		return fmt.Errorf("append %s: %w", e.Kind(), err)
	}
	t.head = &protocol.Head{Seq: s.Seq, Hash: s.Hash}
	return nil
}

// noteTime moves the latest believed wall clock forward.
func (t *tx) noteTime() error {
	now := t.now.UnixMilli()
	if t.clock == protocol.ClockUnset || now <= t.wallMS {
		return nil
	}
	t.wallMS = now
	_, err := t.exec(`UPDATE meta SET wall_ms = ?`, now)
	return err
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func readHead(ctx context.Context, q querier) (protocol.Head, error) {
	var h protocol.Head
	var hash []byte
	err := q.QueryRowContext(ctx, `SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1`).Scan(&h.Seq, &hash)
	if errors.Is(err, sql.ErrNoRows) {
		return protocol.Head{}, nil
	}
	if err != nil {
		return protocol.Head{}, fmt.Errorf("newest event: %w", err)
	}
	copy(h.Hash[:], hash)
	return h, nil
}

// migrate brings the file to the version we write, one transaction a step. A newer
// one that we know stays as it is: the program after us was here.
func migrate(ctx context.Context, db *sql.DB, steps []string, writes int) error {
	version, err := fileVersion(ctx, db)
	if err != nil {
		return err
	}
	if version > len(steps) {
		return fmt.Errorf("the file has version %d, but this program knows only %d: a newer program wrote it; install that one again", version, len(steps))
	}
	for i, step := range steps[version:max(version, writes)] {
		if err := migrateTo(ctx, db, version+i+1, step); err != nil {
			return fmt.Errorf("migrate to version %d: %w", version+i+1, err)
		}
	}
	return nil
}

func migrateTo(ctx context.Context, db *sql.DB, version int, step string) error {
	t, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer t.Rollback() // after a commit it does nothing
	if _, err := t.ExecContext(ctx, step); err != nil {
		return err
	}
	if _, err := t.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, version)); err != nil {
		return err
	}
	return t.Commit()
}

// fileVersion returns the version of the file, 0 if it is empty, and refuses a
// database that is not ours.
func fileVersion(ctx context.Context, db *sql.DB) (int, error) {
	var version, app, tables int
	err := db.QueryRowContext(ctx, `SELECT (SELECT user_version FROM pragma_user_version),
		(SELECT application_id FROM pragma_application_id), (SELECT count(*) FROM sqlite_schema)`).Scan(&version, &app, &tables)
	if err != nil {
		return 0, fmt.Errorf("version of the file: %w", err)
	}
	if app != applicationID && (tables > 0 || version != 0) {
		return 0, errors.New("the file is a database, but not a ledger")
	}
	return version, nil
}
