package district

import (
	"context"
	"database/sql"
	_ "embed" // schema.sql, identity.sql
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the database driver

	"yaoju/protocol"
)

//go:embed schema.sql
var schema string

//go:embed identity.sql
var schemaIdentity string

// migrations bring an empty file to version 1, version 1 to 2, and so on. An
// entry that has been released is never edited.
func migrations() []string { return []string{schema, schemaIdentity} }

// Bounds of the store.
const (
	maxQuarantine = 10_000  // rows
	maxKept       = 4 << 10 // bytes of a quarantined message
	maxSeq        = 1 << 53 // JSON numbers above it are not exact, and no machine lives that long
)

// store is the database of a district. One connection writes, through tx alone;
// pages read through two others, which never wait for the writer.
type store struct {
	write *sql.DB
	read  *sql.DB
}

// readers is how many pages may read at once: reads are short.
const readers = 2

func openStore(ctx context.Context, path string, now time.Time) (*store, error) {
	s := &store{}
	var err error
	if s.write, err = sql.Open("sqlite", dsn(path, "&_txlock=immediate")); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s.write.SetMaxOpenConns(1)
	if err := s.migrate(ctx, now); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), s.close())
	}
	if s.read, err = sql.Open("sqlite", dsn(path, "&_pragma=query_only(1)")); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s for reading: %w", path, err), s.close())
	}
	s.read.SetMaxOpenConns(readers)
	return s, nil
}

// dsn carries every pragma: one sent with Exec would reach a single connection.
// psow=0 because a power cut may tear a sector, and the next write must not take the last one along.
func dsn(path, more string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?psow=0&_pragma=journal_mode(wal)&_pragma=synchronous(full)&_pragma=wal_autocheckpoint(1000)" +
		"&_pragma=journal_size_limit(67108864)&_pragma=foreign_keys(1)&_pragma=trusted_schema(0)&_pragma=busy_timeout(5000)" + more
}

func (s *store) close() error {
	var errs []error
	if s.read != nil {
		errs = append(errs, s.read.Close())
	}
	return errors.Join(append(errs, s.write.Close())...)
}

func (s *store) migrate(ctx context.Context, now time.Time) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		var have int
		if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&have); err != nil {
			return fmt.Errorf("read the schema version: %w", err)
		}
		all := migrations()
		if have > len(all) {
			return fmt.Errorf("schema version %d is from a newer program, this one knows %d", have, len(all))
		}
		for v := have; v < len(all); v++ {
			if _, err := tx.ExecContext(ctx, all[v]); err != nil {
				return fmt.Errorf("migrate to schema version %d: %w", v+1, err)
			}
		}
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, len(all))); err != nil {
			return fmt.Errorf("set the schema version: %w", err)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO meta (id, generation, made_ms) VALUES (1, ?1, ?1) ON CONFLICT DO NOTHING`, now.UnixMilli())
		return err
	})
}

// tx runs f in one transaction; durable when it returns nil. ctx bounds the wait for
// the connection and the statements, but the transaction is not tied to it: the
// library would roll back on its own goroutine then, and closing would not wait.
func (s *store) tx(ctx context.Context, f func(tx *sql.Tx) error) error {
	c, err := s.write.Conn(ctx)
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

// setHead keeps how far a ledger is stored.
func setHead(ctx context.Context, tx *sql.Tx, m protocol.MachineID, l protocol.LedgerID, h protocol.Head, now time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO ledger (machine, ledger, head_seq, head_hash, first_ms) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET head_seq = excluded.head_seq, head_hash = excluded.head_hash`, m, l, h.Seq, h.Hash[:], now.UnixMilli())
	if err != nil {
		return fmt.Errorf("keep the head of %s: %w", m, err)
	}
	return nil
}

func storedHash(ctx context.Context, q querier, m protocol.MachineID, l protocol.LedgerID, seq uint64) (h protocol.Hash, err error) {
	var b []byte
	if err := q.QueryRowContext(ctx, `SELECT hash FROM event WHERE machine = ? AND ledger = ? AND seq = ?`, m, l, seq).Scan(&b); err != nil {
		return h, fmt.Errorf("read the hash of %s seq %d: %w", m, seq, err)
	}
	copy(h[:], b)
	return h, nil
}

func insertEvent(ctx context.Context, tx *sql.Tx, m protocol.MachineID, l protocol.LedgerID, r protocol.Record, s protocol.Sealed, now time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO event (machine, ledger, seq, at_ms, received_ms, kind, body, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		m, l, s.Seq, r.AtMS, now.UnixMilli(), r.Kind, s.Body, s.Hash[:])
	if err != nil {
		return fmt.Errorf("store %s seq %d: %w", m, s.Seq, err)
	}
	return nil
}

// quarantine keeps aside what could not be understood, and forgets the oldest.
func quarantine(ctx context.Context, tx *sql.Tx, m protocol.MachineID, what string, reason error, body []byte, now time.Time) error {
	r, err := tx.ExecContext(ctx, `INSERT INTO quarantine (machine, received_ms, what, reason, bytes, body) VALUES (?, ?, ?, ?, ?, ?)`,
		m, now.UnixMilli(), what, clean(reason.Error()), len(body), append([]byte{}, body[:min(len(body), maxKept)]...))
	if err != nil {
		return fmt.Errorf("quarantine a message of %s: %w", m, err)
	}
	id, err := r.LastInsertId()
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

func raise(ctx context.Context, tx *sql.Tx, m protocol.MachineID, l protocol.LedgerID, kind string, seq uint64, detail string, now time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO alarm (machine, ledger, kind, seq, detail, first_ms, last_ms, times) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, 1)
		ON CONFLICT DO UPDATE SET seq = ?4, detail = ?5, last_ms = ?6, times = times + 1`, m, l, kind, int64(min(seq, maxSeq)), clean(detail), now.UnixMilli())
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
	return strings.ToValidUTF8(s, "\uFFFD")
}
