// Package district is the district service: it takes in what machines say, keeps
// it, answers how far it has got, tells machines what should be so, and shows it
// all to the people who look after them.
//
// It owns the district's database, on SQLite or PostgreSQL, the embedded broker or the
// way to another, the console's pages and the metrics.
// It does not know how a machine works inside: all it has are the records, states
// and words of package protocol, and no resident is in any of them.
package district

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"yaoju/daemon/words"
	"yaoju/protocol"
)

// Secrets seal what only one machine is to read.
type Secrets struct {
	Plain func(m protocol.MachineID) []byte // JSON of protocol.Secrets
	Seal  func(key [32]byte, m protocol.MachineID, plain []byte) ([]byte, error)
}

// Options is what a district needs.
type Options struct {
	Path   string             // of the database file, made if it is not there; or the address of a PostgreSQL database, which begins with postgres://
	Name   protocol.Text      // of the district, for the head of every page
	Zone   *time.Location     // calendar days are counted in it
	Lang   string             // language of pages that ask for none: "zh-CN" or "en"; empty: zh-CN
	Hosts  []string           // exact Host values the pages answer to, such as "127.0.0.1:8090"
	Signer ed25519.PrivateKey // signs desired states and commands
	Keys   []byte             // keys message that leads machines to Signer; nil: there was never another key

	// Broker reaches an MQTT broker that is a program of its own. Nil: there is one in
	// here, which takes the connections Run is given.
	Broker *Broker

	// Identify says who is on a connection, by its certificate; it waits for the
	// handshake, for which the connection has a deadline. Nil: nobody has one, and
	// whoever connects is believed to be who it says, as is right on loopback alone.
	Identify func(ctx context.Context, c net.Conn) (Peer, error)

	// Secrets are what desired states hold for the eyes of their machines alone. Nil:
	// nothing.
	Secrets *Secrets

	// AcceptUnknown lets a machine nobody entered connect and be registered, as a
	// demo wants; otherwise only machines entered with PutMachine may connect.
	AcceptUnknown bool

	Version string // of the program, for metrics; empty is fine
	Log     *slog.Logger
}

// maxMachines bounds what unknown machines can make the district keep; one
// process serves no more in any case.
const maxMachines = 5000

// District is one district, open.
type District struct {
	o      Options
	store  *store
	line   line
	pages  *console
	queue  chan message
	meter  *meter
	leader leadership

	mu      sync.Mutex
	sign    signing                          // guarded by mu
	count   Counts                           // guarded by mu
	known   map[protocol.MachineID]bool      // guarded by mu: may connect
	seen    map[protocol.MachineID]time.Time // guarded by mu: last heard of
	unsaved map[protocol.MachineID]bool      // guarded by mu: seen is newer than the store
	stale   map[protocol.MachineID]bool      // guarded by mu: views must be read again
	views   map[protocol.MachineID]*view     // guarded by mu: as pages show them; never edited
	rounded time.Time                        // guarded by mu: when the ingest last went round; zero: it has not begun
	version uint64                           // guarded by mu: rises with every change
	changed chan struct{}                    // guarded by mu: closed at the next change
}

// Open opens the store, migrating it if it is older, and starts nothing.
func Open(ctx context.Context, o Options) (*District, error) {
	if o.Zone == nil || o.Log == nil || len(o.Signer) != ed25519.PrivateKeySize {
		return nil, errors.New("district: zone, log or signer is missing")
	}
	book, err := words.Load()
	if err != nil {
		return nil, fmt.Errorf("district: %w", err)
	}
	d := &District{
		o:       o,
		sign:    signing{o.Signer, o.Keys},
		queue:   make(chan message, ingestQueue),
		known:   map[protocol.MachineID]bool{},
		seen:    map[protocol.MachineID]time.Time{},
		unsaved: map[protocol.MachineID]bool{},
		stale:   map[protocol.MachineID]bool{},
		views:   map[protocol.MachineID]*view{},
		changed: make(chan struct{}),
	}
	if d.pages, err = newConsole(d, book); err != nil {
		return nil, fmt.Errorf("district: %w", err)
	}
	d.leader.changed = make(chan struct{})
	d.leader.leads = !isPostgres(o.Path)
	d.meter = newMeter()
	if o.Broker != nil {
		d.line = &client{d: d, b: o.Broker, log: o.Log}
	} else if d.line, err = newBroker(d); err != nil {
		return nil, fmt.Errorf("district: %w", err)
	}
	if d.store, err = openStore(ctx, o.Path, time.Now()); err != nil {
		return nil, fmt.Errorf("district: %w", err)
	}
	if err := d.load(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("district: %w", err), d.store.close())
	}
	return d, nil
}

// load fills the memory from the store and the broker with what is retained.
func (d *District) load(ctx context.Context) error {
	// Nobody is connected to a broker in here that has not run yet; the connection
	// numbers stay, so that an old will stays old. Another broker runs on without us,
	// and tells.
	if d.o.Broker == nil {
		err := d.store.tx(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE online SET online = 0, since_ms = ? WHERE online = 1`, time.Now().UnixMilli())
			return err
		})
		if err != nil {
			return fmt.Errorf("mark everybody offline: %w", err)
		}
	}
	if err := d.refresh(ctx); err != nil {
		return err
	}
	if err := d.signAnew(ctx); err != nil { // the key may have changed while we were away
		return err
	}
	return d.announce(ctx)
}

// Close closes the store. Run must have returned, and no page may be open.
func (d *District) Close() error {
	if err := d.store.close(); err != nil {
		return fmt.Errorf("close the district's store: %w", err)
	}
	return nil
}

// Run serves machines until ctx ends, then returns nil: those that come to the
// listener, which is closed in the end, or those of another broker, where it is nil.
// An error means the process should start again.
func (d *District) Run(ctx context.Context, mqtt net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var serving sync.WaitGroup
	var lineErr, watchErr error
	serving.Go(func() {
		defer stop()
		lineErr = d.line.run(ctx, mqtt)
	})
	serving.Go(func() {
		if watchErr = d.watch(ctx); watchErr != nil {
			stop()
		}
	})
	err := d.ingest(ctx)
	stop()
	serving.Wait()
	return errors.Join(err, lineErr, watchErr)
}

// Engine names the database: sqlite or postgresql.
func (d *District) Engine() string { return d.store.name() }

// Handler returns the console's pages.
func (d *District) Handler() http.Handler { return d.pages }

// Watch returns a number that rises whenever something that pages show changes,
// and a channel that is closed at the next change.
func (d *District) Watch() (version uint64, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.version, d.changed
}

// Place is where a machine stands, as people know it.
type Place struct {
	Machine protocol.MachineID
	Name    protocol.Text // of the site
	Street  protocol.Text // street or township
	Where   protocol.Text // in the building
}

// PutMachine enters a machine, or changes what is known of its place.
func (d *District) PutMachine(ctx context.Context, p Place) error {
	if err := p.Machine.Valid(); err != nil {
		return fmt.Errorf("enter a machine: %w", err)
	}
	for _, s := range []string{p.Name.ZH, p.Name.EN, p.Street.ZH, p.Street.EN, p.Where.ZH, p.Where.EN} {
		if len(s) > 200 {
			return fmt.Errorf("enter machine %s: a text has %d bytes, at most 200 are allowed", p.Machine, len(s))
		}
	}
	now := time.Now()
	err := d.store.tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO machine (id, name_zh, name_en, street_zh, street_en, place_zh, place_en, first_ms, seen_ms)
			VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0)
			ON CONFLICT (id) DO UPDATE SET name_zh = ?2, name_en = ?3, street_zh = ?4, street_en = ?5, place_zh = ?6, place_en = ?7`,
			p.Machine, p.Name.ZH, p.Name.EN, p.Street.ZH, p.Street.EN, p.Where.ZH, p.Where.EN, now.UnixMilli())
		return err
	})
	if err != nil {
		return fmt.Errorf("enter machine %s: %w", p.Machine, err)
	}
	d.mu.Lock()
	d.known[p.Machine] = true
	d.mu.Unlock()
	d.wake(p.Machine)
	return nil
}

// admit decides whether a machine may connect.
func (d *District) admit(m protocol.MachineID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known[m] {
		return true
	}
	if !d.o.AcceptUnknown || len(d.known) >= maxMachines {
		return false
	}
	d.known[m] = true // its row is made with its first message
	return true
}

// wake makes pages read a machine again.
func (d *District) wake(m protocol.MachineID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stale[m] = true
	d.turn()
}
