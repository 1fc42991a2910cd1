package district

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"yaoju/protocol"
)

// Bounds of the ingest.
const (
	ingestQueue = 256 // messages, 16 MiB at most; then machines wait for their turn
	maxCommit   = 128 // messages in one transaction: some ten milliseconds of work
	flushEvery  = time.Minute
)

// message is one message from a machine, on its way into the store.
type message struct {
	from    protocol.MachineID // who the broker says sent it
	topic   string
	payload []byte
}

// Counts is what came in since the district was opened.
type Counts struct {
	Messages    uint64 // of every kind
	Records     uint64 // stored
	Duplicates  uint64 // records that were stored already
	Gaps        uint64 // batches that began after the next record
	Quarantined uint64 // messages and records that could not be understood
	Refused     uint64 // forks, broken chains, messages in another machine's name
}

type counters struct {
	messages, records, duplicates, gaps, quarantined, refused atomic.Uint64
}

// Counts returns what came in so far.
func (d *District) Counts() Counts {
	return Counts{
		d.count.messages.Load(), d.count.records.Load(), d.count.duplicates.Load(),
		d.count.gaps.Load(), d.count.quarantined.Load(), d.count.refused.Load(),
	}
}

// receive queues a message and waits while the queue is full, which makes its
// sender wait too.
func (d *District) receive(ctx context.Context, msg message) {
	select {
	case d.queue <- msg:
	case <-ctx.Done():
	}
}

// ingest commits what is queued until ctx ends. An error means the store can no
// longer be trusted to take anything: the process should start again.
func (d *District) ingest(ctx context.Context) error {
	flush := time.NewTicker(flushEvery)
	defer flush.Stop()
	for {
		select {
		case <-ctx.Done():
			return d.flushSeen(context.WithoutCancel(ctx))
		case <-flush.C:
			if err := d.flushSeen(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		case first := <-d.queue:
			// What was begun is finished: it takes milliseconds, and a machine that
			// just said goodbye does not say it twice.
			if err := d.commit(context.WithoutCancel(ctx), d.gather(first)); err != nil {
				return err
			}
		}
	}
}

// gather takes what else is waiting, so that one commit serves many machines.
func (d *District) gather(first message) []message {
	out := []message{first}
	for len(out) < maxCommit {
		select {
		case m := <-d.queue:
			out = append(out, m)
		default:
			return out
		}
	}
	return out
}

// outcome is what one transaction decided, to be said once it is durable.
type outcome struct {
	answer  map[protocol.MachineID]protocol.LedgerID // machines to be acked, and for which ledger
	arrived []protocol.MachineID                     // machines that just came online
	touched map[protocol.MachineID]bool
	newLife bool // a higher generation began: everybody is to be told
}

// commit stores messages in one transaction and answers after it.
func (d *District) commit(ctx context.Context, batch []message) error {
	now := time.Now()
	out := outcome{answer: map[protocol.MachineID]protocol.LedgerID{}, touched: map[protocol.MachineID]bool{}}
	err := d.store.tx(ctx, func(tx *sql.Tx) error {
		for _, msg := range batch {
			if err := d.take(ctx, tx, msg, now, &out); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("ingest %d messages: %w", len(batch), err)
	}
	d.count.messages.Add(uint64(len(batch)))
	if err := d.say(ctx, out); err != nil {
		return err
	}
	d.touch(out.touched, now)
	return nil
}

// say publishes what a committed transaction decided.
func (d *District) say(ctx context.Context, out outcome) error {
	for _, m := range out.arrived {
		// It may be new here, and nothing retained for it yet.
		if chain := d.signing().chain; chain != nil {
			if err := d.broker.publish(protocol.KeysTopic(m), chain, true); err != nil {
				return err
			}
		}
		if err := d.repeatCommands(ctx, m); err != nil {
			return err
		}
	}
	if out.newLife {
		return d.publishAcks(ctx)
	}
	for m, l := range out.answer {
		if err := d.publishAck(ctx, m, l); err != nil {
			return err
		}
	}
	return nil
}

// take stores one message. Its errors are the store's; a bad message is none.
func (d *District) take(ctx context.Context, tx *sql.Tx, msg message, now time.Time, out *outcome) error {
	m, leaf, err := protocol.TopicMachine(msg.topic)
	if err != nil || m != msg.from {
		// The broker lets nobody get this far; another broker might.
		d.count.refused.Add(1)
		return raise(ctx, tx, msg.from, "", alarmMachine, 0, "message on "+msg.topic, now)
	}
	if err := d.know(ctx, tx, m, now); err != nil {
		return err
	}
	out.touched[m] = true
	switch leaf {
	case "events":
		return d.takeEvents(ctx, tx, m, msg.payload, now, out)
	case "state":
		return d.takeState(ctx, tx, m, msg.payload, now, out)
	case "online":
		return d.takeOnline(ctx, tx, m, msg.payload, now, out)
	}
	return d.putAside(ctx, tx, m, leaf, errors.New("not a topic of machines"), msg.payload, now)
}

// know makes sure the machine has its row.
func (d *District) know(ctx context.Context, tx *sql.Tx, m protocol.MachineID, now time.Time) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO machine (id, first_ms, seen_ms) VALUES (?1, ?2, ?2) ON CONFLICT DO NOTHING`, m, now.UnixMilli()); err != nil {
		return fmt.Errorf("register %s: %w", m, err)
	}
	return nil
}

func (d *District) putAside(ctx context.Context, tx *sql.Tx, m protocol.MachineID, what string, reason error, b []byte, now time.Time) error {
	d.count.quarantined.Add(1)
	d.o.Log.Warn("message put aside", "device", m, "what", what, "err", reason)
	return quarantine(ctx, tx, m, clean(what), reason, b, now)
}

func (d *District) takeEvents(ctx context.Context, tx *sql.Tx, m protocol.MachineID, payload []byte, now time.Time, out *outcome) error {
	b, err := protocol.DecodeBatch(payload)
	if err == nil && b.Records[len(b.Records)-1].Seq >= maxSeq {
		err = fmt.Errorf("seq %d is not plausible", b.Records[len(b.Records)-1].Seq)
	}
	if err != nil {
		return d.putAside(ctx, tx, m, "events", err, payload, now)
	}
	h, err := head(ctx, tx, m, b.Ledger)
	if err != nil {
		return err
	}
	// Whatever the batch is, its sender learns how far we are.
	out.answer[m] = b.Ledger
	if b.Records[0].Seq > h.Seq+1 {
		d.count.gaps.Add(1)
		return setHead(ctx, tx, m, b.Ledger, h, now)
	}
	next, err := d.append(ctx, tx, m, b, h, now, out)
	if err != nil {
		return err
	}
	if err := setHead(ctx, tx, m, b.Ledger, next, now); err != nil {
		return err
	}
	return d.caughtUp(ctx, tx, m, b.Ledger, h, next, now)
}

// append stores the records of a batch that are new and follow; it stops at the
// first that does not.
func (d *District) append(ctx context.Context, tx *sql.Tx, m protocol.MachineID, b protocol.Batch, h protocol.Head, now time.Time, out *outcome) (protocol.Head, error) {
	if err := setHead(ctx, tx, m, b.Ledger, h, now); err != nil { // events refer to it
		return h, err
	}
	for _, s := range b.Records {
		if s.Seq <= h.Seq {
			have, err := storedHash(ctx, tx, m, b.Ledger, s.Seq)
			if err != nil {
				return h, err
			}
			if have != s.Hash {
				d.count.refused.Add(1)
				delete(out.answer, m) // an ack would tell a copy that its records are safe
				d.o.Log.Error("fork of an event chain refused", "device", m, "seq", s.Seq)
				return h, raise(ctx, tx, m, b.Ledger, alarmFork, s.Seq, "another record under a stored number", now)
			}
			d.count.duplicates.Add(1)
			continue
		}
		r, next, err := s.Follow(m, b.Ledger, h)
		if err != nil {
			d.count.refused.Add(1)
			if err := d.putAside(ctx, tx, m, "record", err, s.Body, now); err != nil {
				return h, err
			}
			return h, raise(ctx, tx, m, b.Ledger, alarmChain, s.Seq, err.Error(), now)
		}
		if err := d.store1(ctx, tx, m, b.Ledger, r, s, now); err != nil {
			return h, err
		}
		h = next
	}
	return h, nil
}

// store1 stores one record that follows. One of a known kind that is malformed is
// stored as well, or the chain would end there, and put aside for a person.
func (d *District) store1(ctx context.Context, tx *sql.Tx, m protocol.MachineID, l protocol.LedgerID, r protocol.Record, s protocol.Sealed, now time.Time) error {
	if err := insertEvent(ctx, tx, m, l, r, s, now); err != nil {
		return err
	}
	d.count.records.Add(1)
	e, err := protocol.DecodeEvent(r)
	if err != nil {
		return d.putAside(ctx, tx, m, "record", err, s.Body, now)
	}
	if e == nil {
		return nil // a newer machine wrote it; it is kept
	}
	return d.fold(ctx, tx, m, l, r, e, now)
}

// caughtUp compares the sums when the events have reached the seq of the latest
// snapshot: only then do both speak of the same moment.
func (d *District) caughtUp(ctx context.Context, tx *sql.Tx, m protocol.MachineID, l protocol.LedgerID, before, after protocol.Head, now time.Time) error {
	st, err := storedState(ctx, tx, m)
	if err != nil || st == nil || st.Ledger != l || st.Head != after.Seq || before.Seq == after.Seq {
		return err
	}
	return compare(ctx, tx, *st, now)
}

// storedState returns the latest snapshot of a machine, or nil.
func storedState(ctx context.Context, q querier, m protocol.MachineID) (*protocol.State, error) {
	var body []byte
	err := q.QueryRowContext(ctx, `SELECT body FROM state WHERE machine = ?`, m).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the state of %s: %w", m, err)
	}
	st, err := protocol.DecodeState(body)
	if err != nil {
		return nil, fmt.Errorf("stored state of %s: %w", m, err)
	}
	return &st, nil
}

func (d *District) takeState(ctx context.Context, tx *sql.Tx, m protocol.MachineID, payload []byte, now time.Time, out *outcome) error {
	st, err := protocol.DecodeState(payload)
	if err == nil && st.Machine != m {
		err = fmt.Errorf("it speaks of machine %s", st.Machine)
	}
	ours, gerr := generation(ctx, tx)
	if gerr != nil {
		return gerr
	}
	// A generation is the moment a store began. One machine must not be able to name a
	// later one for all: the district would have to go beyond it.
	latest := max(ours, uint64(now.Add(24*time.Hour).UnixMilli()))
	if err == nil && (st.Head >= maxSeq || st.Acked.Seq >= maxSeq || st.Acked.Generation > latest) {
		err = errors.New("a number in it is not plausible")
	}
	if err != nil {
		return d.putAside(ctx, tx, m, "state", err, payload, now)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO state (machine, ledger, head, body, received_ms) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET ledger = excluded.ledger, head = excluded.head, body = excluded.body, received_ms = excluded.received_ms`,
		m, st.Ledger, st.Head, payload, now.UnixMilli())
	if err != nil {
		return fmt.Errorf("store the state of %s: %w", m, err)
	}
	h, err := head(ctx, tx, m, st.Ledger)
	if err != nil {
		return err
	}
	if err := setHead(ctx, tx, m, st.Ledger, h, now); err != nil {
		return err
	}
	if h.Seq == st.Head {
		if err := compare(ctx, tx, st, now); err != nil {
			return err
		}
	}
	out.answer[m] = st.Ledger
	return d.checkLife(ctx, tx, st, h, now, out)
}

// checkLife begins a new generation if the machine has been told more than this
// store knows: then the store is an older copy, and its acks must be able to fall.
func (d *District) checkLife(ctx context.Context, tx *sql.Tx, st protocol.State, h protocol.Head, now time.Time, out *outcome) error {
	ours, err := generation(ctx, tx)
	if err != nil {
		return err
	}
	told := st.Acked
	if told.Generation < ours || told.Generation == ours && (told.Ledger != st.Ledger || told.Seq <= h.Seq) {
		return nil
	}
	next := max(uint64(now.UnixMilli()), ours+1, told.Generation+1)
	if _, err := tx.ExecContext(ctx, `UPDATE meta SET generation = ?`, next); err != nil {
		return fmt.Errorf("begin generation %d: %w", next, err)
	}
	out.newLife = true
	d.o.Log.Error("the store is older than what machines were told: new generation", "device", st.Machine, "seq", told.Seq, "have", h.Seq, "generation", next)
	return raise(ctx, tx, st.Machine, st.Ledger, alarmRestored, told.Seq, fmt.Sprintf("the machine was told seq %d, the store has %d", told.Seq, h.Seq), now)
}

func (d *District) takeOnline(ctx context.Context, tx *sql.Tx, m protocol.MachineID, payload []byte, now time.Time, out *outcome) error {
	o, err := protocol.DecodeOnline(payload)
	if err == nil && o.Connection >= maxSeq {
		err = fmt.Errorf("connection %d is not plausible", o.Connection)
	}
	if err != nil {
		return d.putAside(ctx, tx, m, "online", err, payload, now)
	}
	r, err := tx.ExecContext(ctx, `INSERT INTO online (machine, online, connection, since_ms) VALUES (?1, ?2, ?3, ?4)
		ON CONFLICT DO UPDATE SET since_ms = iif(online = ?2, since_ms, ?4), online = ?2, connection = ?3 WHERE connection <= ?3`,
		m, o.Online, o.Connection, now.UnixMilli())
	if err != nil {
		return fmt.Errorf("store that %s is online: %w", m, err)
	}
	changed, err := r.RowsAffected()
	if err != nil {
		return fmt.Errorf("store that %s is online: %w", m, err)
	}
	if changed == 0 || !o.Online {
		return nil // the will of an old connection, or a goodbye
	}
	out.arrived = append(out.arrived, m)
	if l, err := currentLedger(ctx, tx, m); err != nil || l == "" {
		return err
	} else if _, answered := out.answer[m]; !answered {
		out.answer[m] = l
	}
	return nil
}

// currentLedger is the ledger the machine last spoke of; empty if none.
func currentLedger(ctx context.Context, q querier, m protocol.MachineID) (l protocol.LedgerID, err error) {
	err = q.QueryRowContext(ctx, `SELECT coalesce((SELECT ledger FROM state WHERE machine = ?1),
		(SELECT ledger FROM ledger WHERE machine = ?1 ORDER BY first_ms DESC LIMIT 1), '')`, m).Scan(&l)
	if err != nil {
		return "", fmt.Errorf("read the ledger of %s: %w", m, err)
	}
	return l, nil
}

// publishAck tells a machine how far one of its ledgers is stored.
func (d *District) publishAck(ctx context.Context, m protocol.MachineID, l protocol.LedgerID) error {
	g, err := generation(ctx, d.store.write)
	if err != nil {
		return err
	}
	h, err := head(ctx, d.store.write, m, l)
	if err != nil {
		return err
	}
	return d.broker.publish(protocol.AckTopic(m), protocol.Encode(protocol.Ack{Ledger: l, Generation: g, Seq: h.Seq}), true)
}

// publishAcks tells every machine.
func (d *District) publishAcks(ctx context.Context) error {
	var all []protocol.MachineID
	err := rows(ctx, d.store.write, `SELECT id FROM machine`, nil, func(r *sql.Rows) error {
		var m protocol.MachineID
		err := r.Scan(&m)
		all = append(all, m)
		return err
	})
	if err != nil {
		return fmt.Errorf("list the machines: %w", err)
	}
	for _, m := range all {
		l, err := currentLedger(ctx, d.store.write, m)
		if err != nil {
			return err
		}
		if l == "" {
			continue
		}
		if err := d.publishAck(ctx, m, l); err != nil {
			return err
		}
	}
	return nil
}

// touch notes that machines were heard, in memory, and wakes the pages.
func (d *District) touch(ms map[protocol.MachineID]bool, now time.Time) {
	if len(ms) == 0 {
		return
	}
	d.mu.Lock()
	for m := range ms {
		d.seen[m] = now
		d.stale[m] = true
		d.unsaved[m] = true
	}
	d.version++
	close(d.changed)
	d.changed = make(chan struct{})
	d.mu.Unlock()
}

// flushSeen writes down when machines were last heard: once a minute, because a
// row per sign of life wears a disk out and says nothing.
func (d *District) flushSeen(ctx context.Context) error {
	d.mu.Lock()
	due := d.unsaved
	d.unsaved = map[protocol.MachineID]bool{}
	at := make(map[protocol.MachineID]int64, len(due))
	for m := range due {
		at[m] = d.seen[m].UnixMilli()
	}
	d.mu.Unlock()
	if len(at) == 0 {
		return nil
	}
	return d.store.tx(ctx, func(tx *sql.Tx) error {
		for m, ms := range at {
			if _, err := tx.ExecContext(ctx, `UPDATE machine SET seen_ms = ? WHERE id = ?`, ms, m); err != nil {
				return fmt.Errorf("note when %s was seen: %w", m, err)
			}
		}
		return nil
	})
}
