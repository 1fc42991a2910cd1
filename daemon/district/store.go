package district

import (
	"context"
	"database/sql"
	_ "embed" // schema.sql, identity.sql, identity_sealing.sql
	"errors"
	"fmt"
	"strings"
	"time"

	"yaoju/protocol"
)

//go:embed schema.sql
var schema string

//go:embed identity.sql
var schemaIdentity string

//go:embed identity_sealing.sql
var schemaSealing string

//go:embed rollout.sql
var schemaRollout string

// migrations bring an empty database to version 1, version 1 to 2, and so on. An
// entry that has been released is never edited. They are written for SQLite, with
// STRICT tables of TEXT, INTEGER and BLOB; PostgreSQL is given a translation.
func migrations() []string { return []string{schema, schemaIdentity, schemaSealing, schemaRollout} }

// Bounds of the store.
const (
	maxQuarantine = 10_000  // rows
	maxKept       = 4 << 10 // bytes of a quarantined message
	maxSeq        = 1 << 53 // JSON numbers above it are not exact, and no machine lives that long
)

// store is the database of a district: SQLite or PostgreSQL, one schema and one set
// of statements for both. Statements have ? or ?1 where values go, name the columns of
// a conflict and the table of an old value, and ask for no time; what differs lies in
// sqlite.go and postgres.go.
//
// One connection writes, through tx or ingest alone; pages read through two others,
// which never wait for the writer.
type store struct {
	write *sql.DB
	read  *sql.DB
	engine
}

// engine is what the two databases do differently.
type engine interface {
	// name is the engine's, as metrics and messages have it.
	name() string
	// migrate brings the schema to the newest version; repeatable, and safe against
	// another process that does the same.
	migrate(ctx context.Context, tx *sql.Tx, all []string) error
	// alone waits until no other process is in a transaction that waited here too,
	// and keeps further ones waiting until tx ends.
	alone(ctx context.Context, tx *sql.Tx) error
	// hold enters the machines that have no row yet and keeps other processes off the
	// records of all of them until tx ends. They are in order and there once.
	hold(ctx context.Context, tx *sql.Tx, machines []string, now time.Time) error
	// put runs one INSERT for many rows and returns how many it changed.
	put(ctx context.Context, tx *sql.Tx, in insert, rows [][]any) (int64, error)
	// among is the right side of IN for keys of one or more columns, and its values.
	among(keys [][]string) (clause string, args []any)
	// tell lets other processes know, once tx is committed, which machines changed.
	tell(ctx context.Context, tx *sql.Tx, machines []string) error
	// upkeep prepares the database for the time to come; repeatable.
	upkeep(ctx context.Context, tx *sql.Tx, now time.Time) error
	// size is how many bytes the database takes.
	size(ctx context.Context, q querier) (int64, error)
	// refuses reports whether err says that what was to be stored can never be: the
	// same again will not do, the rest of a batch without it may.
	refuses(err error) bool
	// passing reports whether err says that the database is away or busy, so that
	// the same again may do.
	passing(err error) bool
}

// insert is one INSERT for many rows.
type insert struct {
	into     string   // table and columns: "given (machine, day, product, pieces)"
	types    []string // of the columns: text, bigint or bytea
	conflict string   // "ON CONFLICT ...", or empty
}

// readers is how many pages may read at once: reads are short.
const readers = 2

// openStore opens the database at an address: that of a PostgreSQL database, which
// begins with postgres://, or the path of a file.
func openStore(ctx context.Context, database string, now time.Time) (s *store, err error) {
	if isPostgres(database) {
		s, err = openPostgres(database)
	} else {
		s, err = openSQLite(database)
	}
	if err != nil {
		return nil, err
	}
	s.write.SetMaxOpenConns(1)
	s.read.SetMaxOpenConns(readers)
	if err := s.migrate(ctx, now); err != nil {
		return nil, errors.Join(fmt.Errorf("open the store: %w", err), s.close())
	}
	return s, nil
}

func (s *store) close() error { return errors.Join(s.read.Close(), s.write.Close()) }

func (s *store) migrate(ctx context.Context, now time.Time) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		if err := s.engine.migrate(ctx, tx, migrations()); err != nil {
			return err
		}
		if err := s.upkeep(ctx, tx, now); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO meta (id, generation, made_ms) VALUES (1, ?1, ?1) ON CONFLICT DO NOTHING`, now.UnixMilli())
		return err
	})
}

// tooNew says that the schema is of a version this program does not know.
func tooNew(have, known int) error {
	return fmt.Errorf("schema version %d is from a newer program, this one knows %d", have, known)
}

// tx runs f in one transaction, with no other beside it but those that ingest; durable
// when it returns nil. ctx bounds the wait for the connection and the statements, and
// both have limits of their own besides, but the transaction is not tied to it: the
// library would roll back on its own goroutine then, and closing would not wait.
func (s *store) tx(ctx context.Context, f func(tx *sql.Tx) error) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		if err := s.alone(ctx, tx); err != nil {
			return err
		}
		return f(tx)
	})
}

// ingest runs f in one transaction that has the records of the machines for itself;
// they are in order and there once. Durable when it returns nil.
func (s *store) ingest(ctx context.Context, machines []string, now time.Time, f func(tx *sql.Tx) error) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		if err := s.hold(ctx, tx, machines, now); err != nil {
			return err
		}
		if err := f(tx); err != nil {
			return err
		}
		return s.tell(ctx, tx, machines)
	})
}

func (s *store) transact(ctx context.Context, f func(tx *sql.Tx) error) error {
	limited, cancel := context.WithTimeout(ctx, commitLimit)
	defer cancel()
	c, err := s.write.Conn(limited)
	if err != nil {
		return fmt.Errorf("wait for the store: %w", err)
	}
	defer c.Close() // gives it back; never fails for a connection that was not closed
	tx, err := c.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := f(tx); err != nil {
		// The transaction is lost either way; err says why.
		_ = tx.Rollback()
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// querier is a transaction or a reading connection.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// rows calls scan for every row of a query.
func rows(ctx context.Context, q querier, query string, args []any, scan func(*sql.Rows) error) error {
	r, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer r.Close()
	for r.Next() {
		if err := scan(r); err != nil {
			return err
		}
	}
	return r.Err()
}

func generation(ctx context.Context, q querier) (g uint64, err error) {
	if err := q.QueryRowContext(ctx, `SELECT generation FROM meta`).Scan(&g); err != nil {
		return 0, fmt.Errorf("read the generation: %w", err)
	}
	return g, nil
}

// head returns how far a ledger is stored; the zero Head if it is not known.
func head(ctx context.Context, q querier, m protocol.MachineID, l protocol.LedgerID) (protocol.Head, error) {
	var h protocol.Head
	var hash []byte
	err := q.QueryRowContext(ctx, `SELECT head_seq, head_hash FROM ledger WHERE machine = ? AND ledger = ?`, m, l).Scan(&h.Seq, &hash)
	if errors.Is(err, sql.ErrNoRows) {
		return protocol.Head{}, nil
	}
	if err != nil {
		return protocol.Head{}, fmt.Errorf("read the head of %s: %w", m, err)
	}
	copy(h.Hash[:], hash)
	return h, nil
}

// quarantine keeps aside what could not be understood, and forgets the oldest.
func quarantine(ctx context.Context, tx *sql.Tx, m protocol.MachineID, what string, reason error, body []byte, now time.Time) error {
	var id int64
	err := tx.QueryRowContext(ctx, `INSERT INTO quarantine (machine, received_ms, what, reason, bytes, body) VALUES (?, ?, ?, ?, ?, ?) RETURNING id`,
		m, now.UnixMilli(), what, clean(reason.Error()), len(body), append([]byte{}, body[:min(len(body), maxKept)]...)).Scan(&id)
	if err != nil {
		return fmt.Errorf("quarantine a message of %s: %w", m, err)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM quarantine WHERE id <= ?`, id-maxQuarantine); err != nil {
		return fmt.Errorf("bound the quarantine: %w", err)
	}
	return nil
}

// Kinds of alarm, as they are stored.
const (
	alarmFork     = "fork"     // the same seq with another hash: a copied or restored machine
	alarmChain    = "chain"    // a record that does not follow the one before
	alarmMachine  = "machine"  // a message in another machine's name
	alarmBalance  = "balance"  // events and the machine's own totals differ
	alarmRestored = "restored" // this store is older than what the machine was told
	alarmLedger   = "ledger"   // the machine began a new ledger
)

// alarmKinds lists them.
func alarmKinds() []string {
	return []string{alarmFork, alarmChain, alarmMachine, alarmBalance, alarmRestored, alarmLedger}
}

func raise(ctx context.Context, tx *sql.Tx, m protocol.MachineID, l protocol.LedgerID, kind string, seq uint64, detail string, now time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO alarm (machine, ledger, kind, seq, detail, first_ms, last_ms, times) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, 1)
		ON CONFLICT (machine, ledger, kind) DO UPDATE SET seq = excluded.seq, detail = excluded.detail, last_ms = excluded.last_ms, times = alarm.times + 1`, m, l, kind, int64(min(seq, maxSeq)), clean(detail), now.UnixMilli())
	if err != nil {
		return fmt.Errorf("raise %s of %s: %w", kind, m, err)
	}
	return nil
}

// calm takes an alarm back whose cause has gone by itself.
func calm(ctx context.Context, tx *sql.Tx, m protocol.MachineID, l protocol.LedgerID, kind string) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM alarm WHERE machine = ? AND ledger = ? AND kind = ?`, m, l, kind); err != nil {
		return fmt.Errorf("calm %s of %s: %w", kind, m, err)
	}
	return nil
}

// clean makes foreign text fit to be stored and shown.
func clean(s string) string {
	const limit = 300
	if len(s) > limit {
		s = s[:limit]
	}
	return storable(s)
}

// storable is text as both databases take it.
func storable(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
}
