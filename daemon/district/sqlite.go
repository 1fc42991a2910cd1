package district

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	driver "modernc.org/sqlite"
)

// sqlite is a small district's database: one file, and one process that has it.
type sqlite struct{}

func openSQLite(path string) (*store, error) {
	write, err := sql.Open("sqlite", dsn(path, "&_txlock=immediate"))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	read, err := sql.Open("sqlite", dsn(path, "&_pragma=query_only(1)"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s for reading: %w", path, err), write.Close())
	}
	return &store{write: write, read: read, engine: sqlite{}}, nil
}

// dsn carries every pragma: one sent with Exec would reach a single connection.
// psow=0 because a power cut may tear a sector, and the next write must not take the last one along.
func dsn(path, more string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?psow=0&_pragma=journal_mode(wal)&_pragma=synchronous(full)&_pragma=wal_autocheckpoint(1000)" +
		"&_pragma=journal_size_limit(67108864)&_pragma=foreign_keys(1)&_pragma=trusted_schema(0)&_pragma=busy_timeout(5000)" + more
}

func (sqlite) name() string { return "sqlite" }

func (sqlite) migrate(ctx context.Context, tx *sql.Tx, all []string) error {
	var have int
	if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&have); err != nil {
		return fmt.Errorf("read the schema version: %w", err)
	}
	if have > len(all) {
		return tooNew(have, len(all))
	}
	for v := have; v < len(all); v++ {
		if _, err := tx.ExecContext(ctx, all[v]); err != nil {
			return fmt.Errorf("migrate to schema version %d: %w", v+1, err)
		}
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, len(all))); err != nil {
		return fmt.Errorf("set the schema version: %w", err)
	}
	return nil
}

// alone has nothing to do: a transaction that writes has the file for itself.
func (sqlite) alone(context.Context, *sql.Tx) error { return nil }

func (s sqlite) hold(ctx context.Context, tx *sql.Tx, machines []string, now time.Time) error {
	var rows [][]any
	for _, m := range machines {
		rows = append(rows, []any{m, now.UnixMilli(), now.UnixMilli()})
	}
	_, err := s.put(ctx, tx, insertMachine(), rows)
	return err
}

func (sqlite) put(ctx context.Context, tx *sql.Tx, in insert, rows [][]any) (n int64, err error) {
	if len(rows) == 0 {
		return 0, nil
	}
	q := "INSERT INTO " + in.into + " VALUES (?" + strings.Repeat(", ?", len(in.types)-1) + ") " + in.conflict
	st, err := tx.PrepareContext(ctx, q)
	if err != nil {
		return 0, fmt.Errorf("insert into %s: %w", in.into, err)
	}
	defer st.Close() // what it did is done
	for _, row := range rows {
		r, err := st.ExecContext(ctx, row...)
		if err != nil {
			return 0, fmt.Errorf("insert into %s: %w", in.into, err)
		}
		one, err := r.RowsAffected()
		if err != nil {
			return 0, fmt.Errorf("insert into %s: %w", in.into, err)
		}
		n += one
	}
	return n, nil
}

func (sqlite) among(keys [][]string) (string, []any) {
	var args []any
	for _, k := range keys {
		for _, v := range k {
			args = append(args, v)
		}
	}
	row := "(?" + strings.Repeat(", ?", len(keys[0])-1) + ")"
	return "(VALUES " + row + strings.Repeat(", "+row, len(keys)-1) + ")", args
}

// tell has nobody to tell.
func (sqlite) tell(context.Context, *sql.Tx, []string) error { return nil }

func (sqlite) upkeep(context.Context, *sql.Tx, time.Time) error { return nil }

func (sqlite) size(ctx context.Context, q querier) (n int64, err error) {
	err = q.QueryRowContext(ctx, `SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()`).Scan(&n)
	return n, err
}

// refuses: a value does not fit its column, or breaks a rule of the schema.
func (sqlite) refuses(err error) bool {
	var said *driver.Error
	if !errors.As(err, &said) {
		return false
	}
	const tooBig, constraint, mismatch = 18, 19, 20 // SQLite's result codes; what is above 255 tells which rule
	return slices.Contains([]int{tooBig, constraint, mismatch}, said.Code()&0xff)
}

// passing is never so: no other process has the file, and a disk that fails once
// is not to be trusted.
func (sqlite) passing(error) bool { return false }
