package district

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"yaoju/protocol"
)

// Limits of the connection on which processes that share a database hear of each other.
const (
	watchBeat  = 5 * time.Second // how often we ask whether we may lead, and whether the database is there
	watchReply = 5 * time.Second
	// One that died is noticed sooner: by the server after 11 s, and by us at our next
	// question.
	aloneLimit = 30 * time.Second
)

// leadership says whether we are the one who does what only one may do: hear states,
// run a roll-out. On SQLite there is nobody else.
type leadership struct {
	mu      sync.Mutex
	leads   bool          // guarded by mu
	changed chan struct{} // guarded by mu: closed at the next change
}

func (l *leadership) get() (bool, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leads, l.changed
}

func (l *leadership) set(leads bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leads == leads {
		return
	}
	l.leads = leads
	close(l.changed)
	l.changed = make(chan struct{})
}

// leads says whether we are the one who does what only one may do, and returns a
// channel that is closed when that changes. Transactions keep their promises without
// it: it saves work, and does not guard anything.
func (d *District) leads() (bool, <-chan struct{}) { return d.leader.get() }

// errNotAlone says that a second districtd with a broker of its own is on the database.
var errNotAlone = errors.New("another districtd uses this database: several need a broker that is a program of its own (mqtt.broker)")

// watch hears of what other processes changed, and leads when nobody does, until ctx
// ends. An error means that there is another process where only one may be.
func (d *District) watch(ctx context.Context) error {
	if !isPostgres(d.o.Path) {
		return nil // it leads from the start
	}
	alone := d.o.Broker == nil
	began := time.Now()
	for ctx.Err() == nil {
		err := d.watchOnce(ctx, func() error {
			if leads, _ := d.leads(); alone && !leads && time.Since(began) > aloneLimit {
				return errNotAlone
			}
			return nil
		})
		d.leader.set(false)
		if errors.Is(err, errNotAlone) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		d.o.Log.Warn("not in touch with the database", "err", err)
		pause := time.NewTimer(againAfter)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
	return nil
}

// watchOnce is one connection of watch. The lead is a lock that ends with it.
func (d *District) watchOnce(ctx context.Context, check func() error) error {
	config, err := postgresConfig(d.o.Path)
	if err != nil {
		return err
	}
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), watchReply)
		defer cancel()
		c.Close(last) // it is over either way
	}()
	if _, err := c.Exec(ctx, "LISTEN "+changes); err != nil {
		return err
	}
	if err := d.refresh(ctx); err != nil { // what was said before is missed
		return err
	}
	for {
		if err := d.tryLead(ctx, c); err != nil {
			return err
		}
		if err := check(); err != nil {
			return err
		}
		if err := d.listen(ctx, c); err != nil {
			return err
		}
	}
}

// tryLead takes the lead if nobody has it, and asks for a sign of life if we have.
func (d *District) tryLead(ctx context.Context, c *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, watchReply)
	defer cancel()
	if leads, _ := d.leads(); leads {
		return c.Ping(ctx)
	}
	var got bool
	if err := c.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, int64(lockLead)).Scan(&got); err != nil {
		return fmt.Errorf("ask for the lead: %w", err)
	}
	if got {
		d.o.Log.Info("leading")
		d.leader.set(true)
	}
	return nil
}

// listen takes notices for watchBeat.
func (d *District) listen(ctx context.Context, c *pgx.Conn) error {
	limited, cancel := context.WithTimeout(ctx, watchBeat)
	defer cancel()
	for {
		n, err := c.WaitForNotification(limited)
		if err != nil {
			if ctx.Err() == nil && (errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err)) && !c.IsClosed() {
				return nil
			}
			return err
		}
		if n.PID == c.PgConn().PID() {
			continue
		}
		touched := map[protocol.MachineID]bool{}
		for _, m := range strings.Fields(n.Payload) {
			touched[protocol.MachineID(m)] = true
		}
		d.hear(touched, time.Now())
	}
}

// hear notes that machines were heard, here or by another process, and wakes the pages.
func (d *District) hear(ms map[protocol.MachineID]bool, now time.Time) {
	if len(ms) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for m := range ms {
		d.known[m] = true
		d.seen[m] = now
		d.stale[m] = true
	}
	d.turn()
}

// refresh reads which machines there are, and makes pages read every one again.
func (d *District) refresh(ctx context.Context) error {
	at := map[protocol.MachineID]time.Time{}
	err := rows(ctx, d.store.read, `SELECT id, seen_ms FROM machine`, nil, func(r *sql.Rows) error {
		var m protocol.MachineID
		var ms int64
		err := r.Scan(&m, &ms)
		at[m] = time.UnixMilli(ms)
		return err
	})
	if err != nil {
		return fmt.Errorf("list the machines: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for m, seen := range at {
		d.known[m], d.stale[m] = true, true
		if seen.After(d.seen[m]) {
			d.seen[m] = seen
		}
	}
	d.turn()
	return nil
}

// turn says that something changed; the caller holds mu.
func (d *District) turn() {
	d.version++
	close(d.changed)
	d.changed = make(chan struct{})
}
