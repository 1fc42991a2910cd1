// Package ledger is the machine's memory: stock as queues of batches, what each
// card took, vends, standing faults, the desired state in force, commands that
// were done, and the event chain, in one SQLite file. Every change and the event
// that tells of it are one transaction, durable when the call returns.
//
// It decides who may take what today, which slot gives it, and when a slot gives
// nothing. It knows nothing of motors, screens, readers or MQTT, it has no way
// to a card number, and it starts no goroutine. It is safe for concurrent use;
// changes happen one after the other.
package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"yaoju/protocol"
)

// ErrFailed means that the disk failed under the ledger: nothing is written any
// more, because SQLite might take for durable what is not. It has to be opened
// again, which checks the whole file.
var ErrFailed = errors.New("the ledger's disk failed; it must be opened and checked again")

// Options say where the memory lies and whose it is.
type Options struct {
	Path     string // the file; its journal lies beside it
	Machine  protocol.MachineID
	Software string         // version of the daemon, for the boot event
	Zone     *time.Location // quota days, expiry and dates on the screen are days of this zone
	Log      *slog.Logger
	Synced   func() bool // is the wall clock synchronised by the network; must not block
	Updates  bool        // somebody carries out what Ordered returns; without that an order is answered with no
}

// Ledger is the machine's memory.
type Ledger struct {
	db      *sql.DB
	path    string
	machine protocol.MachineID
	soft    string // version of the daemon
	id      protocol.LedgerID
	zone    *time.Location
	log     *slog.Logger
	synced  func() bool
	updates bool      // orders of another version of the software are taken
	boot    uint32    // this start, counted from 1
	start   time.Time // of this start, monotonic

	mu      sync.Mutex
	broken  bool              // guarded by mu
	failure chan struct{}     // closed when broken
	head    protocol.Head     // guarded by mu; like all below, as of the last commit
	acked   protocol.Ack      // guarded by mu
	wallMS  int64             // guarded by mu
	paused  bool              // guarded by mu
	desired *protocol.Desired // guarded by mu; what it points to is never changed; nil: none yet
	version uint64            // guarded by mu
	changed chan struct{}     // guarded by mu; closed by the next commit
}

// Open opens or makes the ledger, checks all of it, and records the start. A
// file that fails the check is moved aside with its journal, never deleted, and
// a new ledger with a new id begins, empty: nothing in the old one can be
// trusted to count by. A file of a newer program, or of another machine, is an
// error and stays where it is.
func Open(ctx context.Context, o Options) (*Ledger, error) {
	if err := o.valid(); err != nil {
		return nil, fmt.Errorf("ledger %s: %w", o.Path, err)
	}
	started := protocol.LedgerStarted{Reason: "new"}
	l, err := open(ctx, o, started)
	damaged, ok := errors.AsType[*damageError](err)
	if ok {
		o.Log.Error("ledger damaged and moved aside", "err", damaged)
		started = protocol.LedgerStarted{Reason: damaged.reason(), Previous: damaged.previous}
		l, err = open(ctx, o, started)
	}
	if err != nil {
		return nil, fmt.Errorf("ledger %s: %w", o.Path, err)
	}
	if ok {
		if err := l.Raise(ctx, protocol.FaultChain, 0); err != nil {
			l.db.Close() // the first error tells all
			return nil, err
		}
	}
	return l, nil
}

func (o Options) valid() error {
	if err := o.Machine.Valid(); err != nil {
		return err
	}
	if o.Path == "" || o.Software == "" || o.Zone == nil || o.Log == nil || o.Synced == nil {
		return errors.New("path, software, zone, log and synced are all needed")
	}
	return nil
}

// open opens the file once. A *damageError means that the file was moved aside
// and that a second call begins a new one.
func open(ctx context.Context, o Options, started protocol.LedgerStarted) (*Ledger, error) {
	if err := precheck(o.Path); err != nil {
		if isDamage(err) {
			err = setAside(o.Path, "", err)
		}
		return nil, err
	}
	if err := create(o.Path); err != nil {
		return nil, err
	}
	db, err := connect(o.Path)
	if err != nil {
		return nil, err
	}
	l := &Ledger{
		db: db, path: o.Path, machine: o.Machine, soft: o.Software, zone: o.Zone, log: o.Log, synced: o.Synced, updates: o.Updates,
		start: time.Now(), changed: make(chan struct{}), failure: make(chan struct{}),
	}
	err = l.load(ctx)
	if err == nil {
		err = l.tx(ctx, "record the start", func(t *tx) error { return t.started(started) })
	}
	if err == nil {
		return l, nil
	}
	if isDamage(err) {
		// Moved before it is closed: closing folds the journal into the file and
		// deletes it by name, and neither must happen to what may be evidence.
		err = setAside(o.Path, l.id, err)
	}
	return nil, errors.Join(err, db.Close())
}

// started records the start, and the birth of the ledger before the first one.
func (t *tx) started(birth protocol.LedgerStarted) error {
	if _, err := t.exec(`UPDATE meta SET boot = ?`, t.l.boot); err != nil {
		return err
	}
	head, err := t.tip()
	if err != nil {
		return err
	}
	if head.Seq == 0 {
		if err := t.append(birth); err != nil {
			return err
		}
	}
	return t.append(protocol.Boot{Software: t.l.soft})
}

// Close folds the journal into the file and closes it.
func (l *Ledger) Close() error { return l.db.Close() }

// ID names this ledger file.
func (l *Ledger) ID() protocol.LedgerID { return l.id }

// Watch returns a number that rises with every commit, and a channel that the
// next commit closes.
func (l *Ledger) Watch() (version uint64, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.version, l.changed
}
