package district

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"yaoju/protocol"
)

// Bounds of the ingest.
const (
	// ingestQueue is how many messages wait, 32 MiB at most; then machines do. It holds
	// what a broker of its own sends without a word from us, 256 in deploy/district: its
	// library must not be kept waiting.
	ingestQueue = 512
	maxCommit   = 512 // messages in one transaction: some hundred milliseconds of work
	flushEvery  = time.Minute
	upkeepEvery = time.Hour
	commitLimit = time.Minute     // for one transaction; a database that takes longer is away
	roundLimit  = 3 * time.Minute // within which the ingest goes round: it flushes each minute, and a commit takes one at most
	againAfter  = time.Second     // when the database was away
	sayAgain    = 5 * time.Minute // how often we complain that it still is
)

// message is one message from a machine, on its way into the store.
type message struct {
	from    protocol.MachineID // who the broker says sent it
	topic   string
	payload []byte
	at      time.Time // when it came in
	done    func()    // called once it is stored; nil if nobody waits for that
}

// Counts is what came in since the district was opened.
type Counts struct {
	Messages    uint64 // of every kind
	Records     uint64 // stored
	Duplicates  uint64 // records that were stored already
	Gaps        uint64 // batches that began after the next record
	Quarantined uint64 // messages and records that could not be understood
	Refused     uint64 // forks, broken chains, messages in another machine's name or of one nobody entered
}

// Counts returns what came in so far.
func (d *District) Counts() Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count
}

func (c *Counts) add(more Counts) {
	c.Messages += more.Messages
	c.Records += more.Records
	c.Duplicates += more.Duplicates
	c.Gaps += more.Gaps
	c.Quarantined += more.Quarantined
	c.Refused += more.Refused
}

// receive queues a message and waits while the queue is full, which makes its
// sender wait too.
func (d *District) receive(ctx context.Context, msg message) {
	msg.at = time.Now()
	select {
	case d.queue <- msg:
	case <-ctx.Done():
	}
}

// ingest commits what is queued until ctx ends. An error means the store can no
// longer be trusted to take anything: the process should start again.
func (d *District) ingest(ctx context.Context) error {
	flush, upkeep := time.NewTicker(flushEvery), time.NewTicker(upkeepEvery)
	defer flush.Stop()
	defer upkeep.Stop()
	for {
		d.round(time.Now())
		var err error
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitLimit)
			defer cancel()
			if err := d.flushSeen(last); err != nil && !d.store.passing(err) {
				return err
			}
			return nil
		case <-flush.C:
			err = d.flushSeen(ctx)
		case now := <-upkeep.C:
			err = d.store.tx(ctx, func(tx *sql.Tx) error { return d.store.upkeep(ctx, tx, now) })
		case first := <-d.queue:
			err = d.persist(ctx, d.gather(first))
		}
		if err != nil && ctx.Err() == nil && !d.store.passing(err) {
			return err
		}
	}
}

// round notes that the ingest goes on: it took up something, or tries once more.
func (d *District) round(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rounded = now
}

// Ingesting is nil while what machines report is taken in, or waits for a database
// that is away and is asked again and again. An error says that nothing goes on any
// more, or has not begun: the process should start again if it stays so.
func (d *District) Ingesting(now time.Time) error {
	d.mu.Lock()
	last := d.rounded
	d.mu.Unlock()
	if last.IsZero() {
		return errors.New("the ingest has not begun")
	}
	if still := now.Sub(last); still > roundLimit {
		return fmt.Errorf("the ingest stands still for %v", still)
	}
	return nil
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

// persist commits messages, again and again while the database is away. It may have
// taken them and only its answer was lost; nothing is stored twice.
func (d *District) persist(ctx context.Context, batch []message) error {
	d.meter.begin(batch[0].at)
	defer d.meter.begin(time.Time{})
	var since, said time.Time
	for {
		d.round(time.Now())
		// What was begun is finished: it takes milliseconds, and a machine that
		// just said goodbye does not say it twice.
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitLimit)
		err := d.commit(limited, batch)
		cancel()
		if err != nil && d.store.refuses(err) {
			if len(batch) > 1 {
				return d.persistEach(ctx, batch)
			}
			err = d.putAsideAlone(ctx, batch[0], err)
		}
		if err == nil || !d.store.passing(err) {
			if err == nil && !since.IsZero() {
				d.o.Log.Warn("the database is back", "away", time.Since(since))
			}
			return err
		}
		if ctx.Err() != nil {
			return nil // the machines have no ack, and send again
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(said) >= sayAgain {
			said = time.Now()
			d.o.Log.Error("the database does not take what machines report; they keep it", "err", err)
		}
		pause := time.NewTimer(againAfter)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// persistEach commits messages one by one, because the store refuses one among them:
// that one must not keep the others out.
func (d *District) persistEach(ctx context.Context, batch []message) error {
	for i := range batch {
		if err := d.persist(ctx, batch[i:i+1]); err != nil || ctx.Err() != nil {
			return err // at the end the machines keep the rest
		}
	}
	return nil
}

// putAsideAlone puts a message aside that the store refuses, in the place of what
// it says.
func (d *District) putAsideAlone(ctx context.Context, msg message, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitLimit)
	defer cancel()
	now := time.Now()
	var s *sheet
	err := d.store.ingest(ctx, nil, now, func(tx *sql.Tx) error {
		s = newSheet(d, tx, now)
		s.count.Messages = 1
		return s.putAside(ctx, msg.from, "refused by the store", why, msg.payload)
	})
	if err != nil {
		return fmt.Errorf("put a message of %s aside: %w", msg.from, err)
	}
	d.conclude(s, []message{msg}, now)
	return nil
}

// conclude counts what was committed, and lets the broker know.
func (d *District) conclude(s *sheet, batch []message, began time.Time) {
	d.meter.committed(len(s.acks), batch, time.Since(began))
	d.mu.Lock()
	d.count.add(s.count)
	d.mu.Unlock()
	for _, msg := range batch {
		if msg.done != nil {
			msg.done()
		}
	}
}

// commit stores messages in one transaction and answers after it.
func (d *District) commit(ctx context.Context, batch []message) error {
	began := time.Now()
	batch, strangers, err := d.sift(ctx, batch)
	if err != nil {
		return err
	}
	var s *sheet
	err = d.store.ingest(ctx, senders(batch), began, func(tx *sql.Tx) error {
		s = newSheet(d, tx, began)
		return s.takeAll(ctx, batch)
	})
	if err != nil {
		return fmt.Errorf("ingest %d messages: %w", len(batch), err)
	}
	s.count.Refused += strangers
	d.conclude(s, batch, began)
	d.touch(s.touched, began)
	return d.say(ctx, s)
}

// sift drops the messages of machines nobody entered, and says how many they were.
// The embedded broker lets none of them connect; another broker knows only who has a
// certificate.
func (d *District) sift(ctx context.Context, batch []message) (rest []message, strangers uint64, err error) {
	for _, msg := range batch {
		known := msg.from.Valid() != nil || d.admit(msg.from) // one that is no machine is put aside
		if !known {
			err := mustKnow(ctx, d.store.write, msg.from) // another process may have entered it
			if err != nil && !errors.Is(err, ErrUnknownMachine) {
				return nil, 0, err
			}
			known = err == nil
		}
		if !known {
			strangers++
			d.o.Log.Warn("message of an unknown machine refused", "device", msg.from)
			if msg.done != nil {
				msg.done()
			}
			continue
		}
		rest = append(rest, msg)
	}
	return rest, strangers, nil
}

// senders lists the machines the messages come from, in order and once.
func senders(batch []message) []string {
	set := map[string]bool{}
	for _, msg := range batch {
		if m, _, err := protocol.TopicMachine(msg.topic); err == nil && m == msg.from {
			set[string(m)] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// say publishes what a committed transaction decided.
func (d *District) say(ctx context.Context, s *sheet) error {
	for _, m := range s.arrived {
		// It may be new here, and nothing retained for it yet.
		if chain := d.signing().chain; chain != nil {
			if err := d.line.publish(protocol.KeysTopic(m), chain, true); err != nil {
				return err
			}
		}
		if err := d.repeatCommands(ctx, m); err != nil {
			return err
		}
	}
	if s.newLife {
		return d.publishAcks(ctx)
	}
	for m, a := range s.acks {
		if err := d.line.publish(protocol.AckTopic(m), protocol.Encode(a), true); err != nil {
			return err
		}
	}
	return nil
}

// know makes sure the machine has its row.
func (d *District) know(ctx context.Context, tx *sql.Tx, m protocol.MachineID, now time.Time) error {
	if _, err := d.store.put(ctx, tx, insertMachine(), [][]any{{string(m), now.UnixMilli(), now.UnixMilli()}}); err != nil {
		return fmt.Errorf("register %s: %w", m, err)
	}
	return nil
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

// currentLedger is the ledger the machine last spoke of; empty if none.
func currentLedger(ctx context.Context, q querier, m protocol.MachineID) (l protocol.LedgerID, err error) {
	err = q.QueryRowContext(ctx, `SELECT coalesce((SELECT ledger FROM state WHERE machine = ?1),
		(SELECT ledger FROM ledger WHERE machine = ?1 ORDER BY first_ms DESC LIMIT 1), '')`, m).Scan(&l)
	if err != nil {
		return "", fmt.Errorf("read the ledger of %s: %w", m, err)
	}
	return l, nil
}

// forked lists the ledgers on which a fork alarm stands. Two machines write them, and
// an ack would tell one that the other's records are its own, stored and safe.
func forked(ctx context.Context, q querier) (map[chainKey]bool, error) {
	out := map[chainKey]bool{}
	err := rows(ctx, q, `SELECT machine, ledger FROM alarm WHERE kind = ?`, []any{alarmFork}, func(r *sql.Rows) error {
		var k chainKey
		err := r.Scan(&k.m, &k.l)
		out[k] = true
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the forks: %w", err)
	}
	return out, nil
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
	return d.line.publish(protocol.AckTopic(m), protocol.Encode(protocol.Ack{Ledger: l, Generation: g, Seq: h.Seq}), true)
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
	forks, err := forked(ctx, d.store.write)
	if err != nil {
		return err
	}
	for _, m := range all {
		l, err := currentLedger(ctx, d.store.write, m)
		if err != nil {
			return err
		}
		if l == "" || forks[chainKey{m, l}] {
			continue
		}
		if err := d.publishAck(ctx, m, l); err != nil {
			return err
		}
	}
	return nil
}

// touch notes that machines were heard here.
func (d *District) touch(ms map[protocol.MachineID]bool, now time.Time) {
	d.hear(ms, now)
	d.mu.Lock()
	defer d.mu.Unlock()
	for m := range ms {
		d.unsaved[m] = true
	}
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
		for _, m := range slices.Sorted(maps.Keys(at)) { // in the order in which the ingest holds them
			if _, err := tx.ExecContext(ctx, `UPDATE machine SET seen_ms = ?2 WHERE id = ?1 AND seen_ms < ?2`, m, at[m]); err != nil {
				return fmt.Errorf("note when %s was seen: %w", m, err)
			}
		}
		return nil
	})
}
