package district

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// pgConnector makes connections to PostgreSQL for database/sql. They take statements
// as SQLite has them, and no more of the language than this package speaks.
type pgConnector struct{ config *pgx.ConnConfig }

// Connect opens one connection.
func (c pgConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, c.config)
	if err != nil {
		return nil, err
	}
	return &pgConn{conn: conn, texts: map[string]string{}}, nil
}

// Driver is what database/sql asks for and nobody uses.
func (c pgConnector) Driver() driver.Driver { return pgDriver{} }

type pgDriver struct{}

// Open is refused: connections are made with the connector.
func (pgDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("connections are made with the connector")
}

// pgConn is one connection.
type pgConn struct {
	conn  *pgx.Conn
	used  time.Time         // when it was last asked to serve
	until time.Time         // the transaction's end at the latest; zero: there is none
	texts map[string]string // statements as PostgreSQL has them; the program has some hundred
}

func (c *pgConn) text(q string) string {
	if t, ok := c.texts[q]; ok {
		return t
	}
	t := numbered(q)
	c.texts[q] = t
	return t
}

// numbered writes $1 for ? and ?1. No statement of ours has a question mark in a text.
func numbered(q string) string {
	var b strings.Builder
	next := 1
	for i := range len(q) {
		if q[i] != '?' {
			b.WriteByte(q[i])
			continue
		}
		b.WriteByte('$')
		if i+1 < len(q) && q[i+1] >= '0' && q[i+1] <= '9' {
			continue // its number follows
		}
		b.WriteString(strconv.Itoa(next))
		next++
	}
	return b.String()
}

// sent turns an error before anything was sent into the one on which database/sql
// tries another connection.
func sent(err error) error {
	if err != nil && pgconn.SafeToRetry(err) {
		return driver.ErrBadConn
	}
	return err
}

func values(args []driver.NamedValue) []any {
	out := make([]any, len(args))
	for i, a := range args {
		out[i] = a.Value
	}
	return out
}

// limit bounds a statement: by the end of its transaction, or by txLimit where it is
// in none. Whoever asks may have all the time in the world.
func (c *pgConn) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.until.IsZero() {
		return context.WithTimeout(ctx, txLimit)
	}
	return context.WithDeadline(ctx, c.until)
}

// ExecContext runs a statement; one without values may be several.
func (c *pgConn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	if c.conn.IsClosed() {
		return nil, driver.ErrBadConn
	}
	ctx, cancel := c.limit(ctx)
	defer cancel()
	tag, err := c.conn.Exec(ctx, c.text(q), values(args)...)
	if err != nil {
		return nil, sent(err)
	}
	return driver.RowsAffected(tag.RowsAffected()), nil
}

// QueryContext runs a query.
func (c *pgConn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	if c.conn.IsClosed() {
		return nil, driver.ErrBadConn
	}
	ctx, cancel := c.limit(ctx)
	r, err := c.conn.Query(ctx, c.text(q), values(args)...)
	if err != nil {
		cancel()
		return nil, sent(err)
	}
	// The library knows the columns, and whether the query was good, with the first row.
	out := &pgRows{rows: r, cancel: cancel, first: true, more: r.Next()}
	if err := r.Err(); err != nil {
		r.Close()
		cancel()
		return nil, sent(err)
	}
	return out, nil
}

// Prepare gives a statement that is run as it is: the library below prepares all it
// is given, once for each connection.
func (c *pgConn) Prepare(q string) (driver.Stmt, error) { return pgStmt{c, q}, nil }

// Begin is BeginTx with what is usual.
func (c *pgConn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// BeginTx begins a transaction that ends within txLimit. One that only reads sees the
// same moment in all its statements.
func (c *pgConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	if c.conn.IsClosed() {
		return nil, driver.ErrBadConn
	}
	var how pgx.TxOptions
	if o.ReadOnly {
		how = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	}
	ctx, cancel := context.WithTimeout(ctx, txLimit)
	tx, err := c.conn.BeginTx(ctx, how)
	if err != nil {
		cancel()
		return nil, sent(err)
	}
	c.until, _ = ctx.Deadline()
	return pgTx{c, ctx, tx, cancel}, nil
}

// CheckNamedValue makes texts fit for PostgreSQL, which refuses what SQLite keeps: a
// machine's word must not be able to stop the ingest.
func (c *pgConn) CheckNamedValue(v *driver.NamedValue) error {
	if r := reflect.ValueOf(v.Value); r.Kind() == reflect.String {
		v.Value = storable(r.String())
	}
	return nil
}

// pingAfter is how long a connection may have been idle before it is asked whether it
// is still there: a server that started again has forgotten it.
const pingAfter = time.Second

// ResetSession is asked before a connection serves again.
func (c *pgConn) ResetSession(ctx context.Context) error {
	if c.conn.IsClosed() || c.conn.PgConn().TxStatus() != 'I' {
		return driver.ErrBadConn
	}
	if time.Since(c.used) > pingAfter && c.conn.Ping(ctx) != nil {
		return driver.ErrBadConn
	}
	c.used = time.Now()
	return nil
}

// IsValid says whether the connection may go back to the others.
func (c *pgConn) IsValid() bool { return !c.conn.IsClosed() }

// Ping asks for a sign of life.
func (c *pgConn) Ping(ctx context.Context) error { return c.conn.Ping(ctx) }

// Close says goodbye.
func (c *pgConn) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), reachLimit)
	defer cancel()
	return c.conn.Close(ctx)
}

type pgTx struct {
	c      *pgConn
	ctx    context.Context // database/sql gives none to the end of a transaction
	tx     pgx.Tx
	cancel context.CancelFunc
}

// Commit makes the transaction durable.
func (t pgTx) Commit() error { defer t.end(); return t.tx.Commit(t.ctx) }

// Rollback undoes it.
func (t pgTx) Rollback() error { defer t.end(); return t.tx.Rollback(t.ctx) }

func (t pgTx) end() {
	t.c.until = time.Time{}
	t.cancel()
}

type pgStmt struct {
	c *pgConn
	q string
}

// Close has nothing to close.
func (pgStmt) Close() error { return nil }

// NumInput leaves the counting to the server.
func (pgStmt) NumInput() int { return -1 }

// ExecContext runs the statement.
func (s pgStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.c.ExecContext(ctx, s.q, args)
}

// QueryContext runs the query.
func (s pgStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.c.QueryContext(ctx, s.q, args)
}

var errNoContext = errors.New("a statement needs a context")

// Exec is for callers without a context, of which there are none.
func (pgStmt) Exec([]driver.Value) (driver.Result, error) { return nil, errNoContext }

// Query is for callers without a context, of which there are none.
func (pgStmt) Query([]driver.Value) (driver.Rows, error) { return nil, errNoContext }

// pgRows are the rows of a query.
type pgRows struct {
	rows   pgx.Rows
	cancel context.CancelFunc
	first  bool // the first row was read already
	more   bool // and was there
}

// Columns names the columns.
func (r *pgRows) Columns() []string {
	var out []string
	for _, f := range r.rows.FieldDescriptions() {
		out = append(out, f.Name)
	}
	return out
}

// Close drops the rows that are left.
func (r *pgRows) Close() error {
	r.rows.Close()
	r.cancel()
	return nil // an error came with the rows
}

// Next reads one row.
func (r *pgRows) Next(dest []driver.Value) error {
	more := r.more
	if !r.first {
		more = r.rows.Next()
	}
	r.first = false
	if !more {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return io.EOF
	}
	row, err := r.rows.Values()
	if err != nil {
		return err
	}
	for i, v := range row {
		switch v := v.(type) {
		case int32:
			dest[i] = int64(v)
		case driver.Valuer: // a numeric
			if dest[i], err = v.Value(); err != nil {
				return err
			}
		default:
			dest[i] = v
		}
	}
	return nil
}

// What database/sql asks of a connection beyond the least.
var (
	_ driver.ExecerContext     = (*pgConn)(nil)
	_ driver.QueryerContext    = (*pgConn)(nil)
	_ driver.ConnBeginTx       = (*pgConn)(nil)
	_ driver.NamedValueChecker = (*pgConn)(nil)
	_ driver.SessionResetter   = (*pgConn)(nil)
	_ driver.Validator         = (*pgConn)(nil)
	_ driver.Pinger            = (*pgConn)(nil)
	_ driver.StmtExecContext   = pgStmt{}
	_ driver.StmtQueryContext  = pgStmt{}
)
