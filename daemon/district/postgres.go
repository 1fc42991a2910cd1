package district

import (
	"context"
	"database/sql"
	"database/sql/driver"
	_ "embed" // event_pg.sql
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Bounds of what we wait for PostgreSQL.
const (
	reachLimit = 10 * time.Second // to connect: a server that starts again takes some
	txLimit    = time.Minute      // for one transaction and for one statement, the wait for others included
	lockLimit  = 30 * time.Second // for one lock: transactions of others take a second at most
)

// Keys of advisory locks. They are the same in every process, so they are never changed.
const (
	lockOffice = 0x79616f6a7501 // transactions that give out versions, counters and tokens
	lockLead   = 0x79616f6a7502 // held by the process that does what only one may do
)

// changes is the channel on which processes tell each other which machines changed.
const changes = "yaoju_changes"

// maxNotice is how many bytes of machine ids one notification carries; PostgreSQL
// takes 7999.
const maxNotice = 7000

// Partitions of the event chains: one for each month by the day of their arrival, made
// monthsAhead before they are needed; an hourly look would do with none.
const monthsAhead = 3

//go:embed event_pg.sql
var eventTable string

// postgres is a larger district's database, shared by several processes.
type postgres struct{}

func isPostgres(database string) bool {
	return strings.HasPrefix(database, "postgres://") || strings.HasPrefix(database, "postgresql://")
}

// ValidDatabase checks the address of a database without opening it.
func ValidDatabase(database string) error {
	if !isPostgres(database) {
		return nil
	}
	_, err := postgresConfig(database)
	return err
}

func postgresConfig(database string) (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(database)
	if err != nil {
		return nil, fmt.Errorf("address of the database: %w", err) // the library leaves the password out
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = reachLimit
	}
	c.RuntimeParams["application_name"] = "districtd"
	// A commit is durable when it says so, whatever the server's configuration says.
	c.RuntimeParams["synchronous_commit"] = "on"
	// A computer that died says no goodbye, and its locks, the lead among them, would
	// stay for the two hours of the kernel's own patience. The server asks it after 5 s,
	// three times, and waits no longer for an answer to what it sent.
	c.RuntimeParams["tcp_keepalives_idle"] = "5"     // s
	c.RuntimeParams["tcp_keepalives_interval"] = "2" // s
	c.RuntimeParams["tcp_keepalives_count"] = "3"
	c.RuntimeParams["tcp_user_timeout"] = "11000" // ms: as long as the three together
	// One that lives and hangs lets go as well, and nobody waits for it without end.
	c.RuntimeParams["idle_in_transaction_session_timeout"] = strconv.FormatInt(txLimit.Milliseconds(), 10)
	c.RuntimeParams["lock_timeout"] = strconv.FormatInt(lockLimit.Milliseconds(), 10)
	return c, nil
}

func openPostgres(database string) (*store, error) {
	c, err := postgresConfig(database)
	if err != nil {
		return nil, err
	}
	readOnly := c.Copy()
	readOnly.RuntimeParams["default_transaction_read_only"] = "on"
	return &store{write: sql.OpenDB(pgConnector{c}), read: sql.OpenDB(pgConnector{readOnly}), engine: postgres{}}, nil
}

func (postgres) name() string { return "postgresql" }

func (postgres) migrate(ctx context.Context, tx *sql.Tx, all []string) error {
	if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS schema_version (id BIGINT PRIMARY KEY CHECK (id = 1), version BIGINT NOT NULL)`); err != nil {
		return fmt.Errorf("make the schema's version: %w", err)
	}
	var have int
	err := tx.QueryRowContext(ctx, `SELECT version FROM schema_version`).Scan(&have)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read the schema version: %w", err)
	}
	if have > len(all) {
		return tooNew(have, len(all))
	}
	for v := have; v < len(all); v++ {
		if _, err := tx.ExecContext(ctx, translated(all[v])); err != nil {
			return fmt.Errorf("migrate to schema version %d: %w", v+1, err)
		}
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO schema_version (id, version) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET version = ?1`, len(all))
	if err != nil {
		return fmt.Errorf("set the schema version: %w", err)
	}
	return nil
}

// translated is a migration as PostgreSQL has it: the same tables, with its names for
// the types, and the event chains in partitions.
func translated(migration string) string {
	if before, rest, ok := strings.Cut(migration, "CREATE TABLE event ("); ok {
		_, after, _ := strings.Cut(rest, ";")
		migration = before + eventTable + after
	}
	return strings.NewReplacer(
		"INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
		"INTEGER", "BIGINT",
		"BLOB", "BYTEA",
		") STRICT, WITHOUT ROWID", ")",
		") STRICT", ")",
	).Replace(migration)
}

// alone queues behind the transactions of every process that give out numbers.
func (postgres) alone(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(?)`, int64(lockOffice)); err != nil {
		return fmt.Errorf("wait for other transactions: %w", err)
	}
	return nil
}

// hold locks the machines' rows, in their order: two processes that have messages of
// the same machines wait for each other, never both.
func (postgres) hold(ctx context.Context, tx *sql.Tx, machines []string, now time.Time) error {
	if len(machines) == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO machine (id, first_ms, seen_ms) SELECT m, ?2, ?2 FROM unnest(?1::text[]) AS m ON CONFLICT DO NOTHING`, machines, now.UnixMilli())
	if err != nil {
		return fmt.Errorf("register machines: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `SELECT id FROM machine WHERE id = ANY(?) ORDER BY id COLLATE "C" FOR NO KEY UPDATE`, machines); err != nil {
		return fmt.Errorf("hold machines: %w", err)
	}
	return nil
}

// put sends the rows column by column: one statement, whatever their number.
func (postgres) put(ctx context.Context, tx *sql.Tx, in insert, rows [][]any) (int64, error) {
	if len(rows) == 0 {
		return 0, nil
	}
	columns := make([]any, len(in.types))
	marks := make([]string, len(in.types))
	for i, kind := range in.types {
		marks[i] = "?::" + kind + "[]"
		switch kind {
		case "text":
			columns[i] = column(rows, i, storable)
		case "bigint":
			columns[i] = column(rows, i, func(n int64) int64 { return n })
		case "bytea":
			columns[i] = column(rows, i, func(b []byte) []byte { return b })
		}
	}
	r, err := tx.ExecContext(ctx, "INSERT INTO "+in.into+" SELECT * FROM unnest("+strings.Join(marks, ", ")+") "+in.conflict, columns...)
	if err != nil {
		return 0, fmt.Errorf("insert into %s: %w", in.into, err)
	}
	return r.RowsAffected()
}

func column[T any](rows [][]any, i int, fit func(T) T) []T {
	out := make([]T, len(rows))
	for n, row := range rows {
		out[n] = fit(row[i].(T))
	}
	return out
}

func (postgres) among(keys [][]string) (string, []any) {
	args := make([]any, len(keys[0]))
	for i := range args {
		values := make([]string, len(keys))
		for n, k := range keys {
			values[n] = k[i]
		}
		args[i] = values
	}
	return "(SELECT * FROM unnest(?::text[]" + strings.Repeat(", ?::text[]", len(args)-1) + "))", args
}

func (postgres) tell(ctx context.Context, tx *sql.Tx, machines []string) error {
	for len(machines) > 0 {
		n, size := 0, 0
		for n < len(machines) && size < maxNotice {
			size += len(machines[n]) + 1
			n++
		}
		if _, err := tx.ExecContext(ctx, `SELECT pg_notify(?, ?)`, changes, strings.Join(machines[:n], " ")); err != nil {
			return fmt.Errorf("tell of changes: %w", err)
		}
		machines = machines[n:]
	}
	return nil
}

// upkeep makes the partitions of this month and of those to come. What belongs to none,
// because a clock was wrong, lies in event_other.
func (postgres) upkeep(ctx context.Context, tx *sql.Tx, now time.Time) error {
	first := time.Date(now.UTC().Year(), now.UTC().Month(), 1, 0, 0, 0, 0, time.UTC)
	for n := range monthsAhead {
		from, until := first.AddDate(0, n, 0), first.AddDate(0, n+1, 0)
		name := "event_" + from.Format("200601")
		var there, taken bool
		err := tx.QueryRowContext(ctx, `SELECT to_regclass(?) IS NOT NULL, EXISTS (SELECT FROM event_other WHERE received_ms >= ? AND received_ms < ?)`,
			name, from.UnixMilli(), until.UnixMilli()).Scan(&there, &taken)
		if err != nil {
			return fmt.Errorf("look for partition %s: %w", name, err)
		}
		if there || taken { // taken: made with a clock that ran ahead; they stay together
			continue
		}
		_, err = tx.ExecContext(ctx, fmt.Sprintf(`CREATE TABLE %s PARTITION OF event FOR VALUES FROM (%d) TO (%d)`, name, from.UnixMilli(), until.UnixMilli()))
		if err != nil {
			return fmt.Errorf("make partition %s: %w", name, err)
		}
	}
	return nil
}

func (postgres) size(ctx context.Context, q querier) (n int64, err error) {
	err = q.QueryRowContext(ctx, `SELECT pg_database_size(current_database())`).Scan(&n)
	return n, err
}

// refuses: a value does not fit its column, or breaks a rule of the schema.
func (postgres) refuses(err error) bool {
	var said *pgconn.PgError
	return errors.As(err, &said) && (strings.HasPrefix(said.Code, "22") || strings.HasPrefix(said.Code, "23"))
}

// passing: the connection broke or was refused, the server goes down or comes up, has
// no room, or ended one of two transactions that waited for each other.
func (postgres) passing(err error) bool {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		class := said.Code[:min(2, len(said.Code))]
		return slices.Contains([]string{"08", "40", "53", "57"}, class) || said.Code == "55P03" || said.Code == "25P03"
	}
	var unreached *pgconn.ConnectError
	var broken net.Error
	return errors.As(err, &unreached) || errors.As(err, &broken) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, context.DeadlineExceeded) || pgconn.SafeToRetry(err)
}
