package district

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"yaoju/protocol"
)

// sheet is one transaction of the ingest: it reads what many messages need at once,
// takes them one after the other in memory, and writes the sum of them. What it says
// holds once the transaction is committed.
type sheet struct {
	d   *District
	tx  *sql.Tx
	now time.Time

	count   Counts
	touched map[protocol.MachineID]bool
	arrived []protocol.MachineID                     // machines that just came online
	answer  map[protocol.MachineID]protocol.LedgerID // machines to be acked, and for which ledger
	acks    map[protocol.MachineID]protocol.Ack      // and how far
	newLife bool                                     // a higher generation began: everybody is to be told

	chains    map[chainKey]*chainRow
	snapshots map[protocol.MachineID]snapshot
	events    [][]any // not written yet
	pending   sums    // not written yet
}

type chainKey struct {
	m protocol.MachineID
	l protocol.LedgerID
}

// chainRow is how far one ledger is stored.
type chainRow struct {
	head protocol.Head
	due  bool // has to be written
}

// snapshot is which moment the stored state of a machine speaks of.
type snapshot struct {
	ledger protocol.LedgerID
	head   uint64
}

// letter is a message, decoded.
type letter struct {
	message
	m      protocol.MachineID
	leaf   string
	err    error // why it cannot be understood
	batch  protocol.Batch
	state  protocol.State
	online protocol.Online
}

func newSheet(d *District, tx *sql.Tx, now time.Time) *sheet {
	return &sheet{
		d: d, tx: tx, now: now, touched: map[protocol.MachineID]bool{}, answer: map[protocol.MachineID]protocol.LedgerID{},
		acks: map[protocol.MachineID]protocol.Ack{}, chains: map[chainKey]*chainRow{}, snapshots: map[protocol.MachineID]snapshot{}, pending: newSums(),
	}
}

func insertMachine() insert {
	return insert{into: "machine (id, first_ms, seen_ms)", types: []string{"text", "bigint", "bigint"}, conflict: "ON CONFLICT DO NOTHING"}
}

func insertChain() insert {
	// A head that would move back says that somebody else wrote under our hands.
	return insert{into: "ledger (machine, ledger, head_seq, head_hash, first_ms)", types: []string{"text", "text", "bigint", "bytea", "bigint"},
		conflict: "ON CONFLICT (machine, ledger) DO UPDATE SET head_seq = excluded.head_seq, head_hash = excluded.head_hash WHERE ledger.head_seq <= excluded.head_seq"}
}

func insertEvent() insert {
	return insert{into: "event (machine, ledger, seq, at_ms, received_ms, kind, body, hash)",
		types: []string{"text", "text", "bigint", "bigint", "bigint", "text", "bytea", "bytea"}}
}

// takeAll takes the messages in their order and writes what they add up to.
func (s *sheet) takeAll(ctx context.Context, batch []message) error {
	letters := make([]letter, len(batch))
	for i, msg := range batch {
		letters[i] = openLetter(msg)
	}
	if err := s.load(ctx, letters); err != nil {
		return err
	}
	for i := range letters {
		if err := s.take(ctx, &letters[i]); err != nil {
			return err
		}
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	s.count.Messages = uint64(len(batch))
	return s.decideAcks(ctx)
}

// openLetter decodes a message.
func openLetter(msg message) letter {
	l := letter{message: msg}
	var err error
	if l.m, l.leaf, err = protocol.TopicMachine(msg.topic); err != nil {
		l.m, l.leaf, l.err = "", "", err // nobody's
		return l
	}
	switch l.leaf {
	case "events":
		l.batch, l.err = protocol.DecodeBatch(msg.payload)
		if n := len(l.batch.Records); l.err == nil && l.batch.Records[n-1].Seq >= maxSeq {
			l.err = fmt.Errorf("seq %d is not plausible", l.batch.Records[n-1].Seq)
		}
	case "state":
		l.state, l.err = protocol.DecodeState(msg.payload)
		if l.err == nil && l.state.Machine != l.m {
			l.err = fmt.Errorf("it speaks of machine %s", l.state.Machine)
		}
		if l.err == nil && (l.state.Head >= maxSeq || l.state.Acked.Seq >= maxSeq) {
			l.err = errors.New("a number in it is not plausible")
		}
	case "online":
		l.online, l.err = protocol.DecodeOnline(msg.payload)
		if l.err == nil && l.online.Connection >= maxSeq {
			l.err = fmt.Errorf("connection %d is not plausible", l.online.Connection)
		}
	default:
		l.err = errors.New("not a topic of machines")
	}
	return l
}

// load reads the heads and snapshots that the letters will ask for.
func (s *sheet) load(ctx context.Context, letters []letter) error {
	var chains, machines [][]string
	seen := map[protocol.MachineID]bool{}
	for i := range letters {
		l := &letters[i]
		if l.err != nil || l.m != l.from {
			continue
		}
		k := chainKey{l.m, l.batch.Ledger}
		if l.leaf == "state" {
			k.l = l.state.Ledger
		}
		if k.l != "" && s.chains[k] == nil {
			s.chains[k] = &chainRow{}
			chains = append(chains, []string{string(k.m), string(k.l)})
		}
		if !seen[l.m] {
			seen[l.m] = true
			machines = append(machines, []string{string(l.m)})
		}
	}
	if len(chains) == 0 {
		return nil
	}
	among, args := s.d.store.among(chains)
	err := rows(ctx, s.tx, `SELECT machine, ledger, head_seq, head_hash FROM ledger WHERE (machine, ledger) IN `+among, args, func(r *sql.Rows) error {
		var k chainKey
		var h protocol.Head
		var hash []byte
		err := r.Scan(&k.m, &k.l, &h.Seq, &hash)
		copy(h.Hash[:], hash)
		s.chains[k].head = h
		return err
	})
	if err != nil {
		return fmt.Errorf("read how far ledgers are stored: %w", err)
	}
	among, args = s.d.store.among(machines)
	err = rows(ctx, s.tx, `SELECT machine, ledger, head FROM state WHERE machine IN `+among, args, func(r *sql.Rows) error {
		var m protocol.MachineID
		var x snapshot
		err := r.Scan(&m, &x.ledger, &x.head)
		s.snapshots[m] = x
		return err
	})
	if err != nil {
		return fmt.Errorf("read what states there are: %w", err)
	}
	return nil
}

// take takes one letter. Its errors are the store's; a bad letter is none.
func (s *sheet) take(ctx context.Context, l *letter) error {
	if l.m != l.from {
		// The broker lets nobody get this far; another broker might.
		s.count.Refused++
		return raise(ctx, s.tx, l.from, "", alarmMachine, 0, "message on "+l.topic, s.now)
	}
	if l.m == "" {
		// A broker of its own lets through what no machine of ours can say.
		return s.putAside(ctx, "", "topic", l.err, l.payload)
	}
	s.touched[l.m] = true
	if l.err != nil {
		return s.putAside(ctx, l.m, l.leaf, l.err, l.payload)
	}
	switch l.leaf {
	case "events":
		return s.takeEvents(ctx, l.m, l.batch)
	case "state":
		return s.takeState(ctx, l.state, l.payload)
	default:
		return s.takeOnline(ctx, l.m, l.online)
	}
}

func (s *sheet) putAside(ctx context.Context, m protocol.MachineID, what string, reason error, b []byte) error {
	s.count.Quarantined++
	s.d.o.Log.Warn("message put aside", "device", m, "what", what, "err", reason)
	return quarantine(ctx, s.tx, m, clean(what), reason, b, s.now)
}

func (s *sheet) takeEvents(ctx context.Context, m protocol.MachineID, b protocol.Batch) error {
	c := s.chains[chainKey{m, b.Ledger}]
	// Whatever the batch is, its sender learns how far we are.
	s.answer[m] = b.Ledger
	c.due = true
	before := c.head
	if b.Records[0].Seq > before.Seq+1 {
		s.count.Gaps++
		return nil
	}
	if err := s.append(ctx, m, b, c); err != nil {
		return err
	}
	x := s.snapshots[m]
	if x.ledger != b.Ledger || x.head != c.head.Seq || before.Seq == c.head.Seq {
		return nil
	}
	// The events have reached the latest snapshot: only now both speak of the same moment.
	st, err := storedState(ctx, s.tx, m)
	if err != nil || st == nil {
		return err
	}
	return s.compare(ctx, *st)
}

// append stores the records of a batch that are new and follow; it stops at the
// first that does not.
func (s *sheet) append(ctx context.Context, m protocol.MachineID, b protocol.Batch, c *chainRow) error {
	known, err := s.knownHashes(ctx, m, b, c.head.Seq)
	if err != nil {
		return err
	}
	for _, r := range b.Records {
		if r.Seq <= c.head.Seq {
			have, ok := known[r.Seq]
			if !ok {
				// The store has lost what it said it had: one machine's trouble, not everybody's.
				s.count.Refused++
				delete(s.answer, m)
				s.d.o.Log.Error("a stored record is gone", "device", m, "seq", r.Seq)
				return raise(ctx, s.tx, m, b.Ledger, alarmChain, r.Seq, fmt.Sprintf("seq %d is not stored, though seq %d is", r.Seq, c.head.Seq), s.now)
			}
			if have != r.Hash {
				s.count.Refused++
				delete(s.answer, m) // an ack would tell a copy that its records are safe
				s.d.o.Log.Error("fork of an event chain refused", "device", m, "seq", r.Seq)
				return raise(ctx, s.tx, m, b.Ledger, alarmFork, r.Seq, "another record under a stored number", s.now)
			}
			s.count.Duplicates++
			continue
		}
		rec, next, err := r.Follow(m, b.Ledger, c.head)
		if err != nil {
			s.count.Refused++
			if err := s.putAside(ctx, m, "record", err, r.Body); err != nil {
				return err
			}
			return raise(ctx, s.tx, m, b.Ledger, alarmChain, r.Seq, err.Error(), s.now)
		}
		if err := s.store1(ctx, m, b.Ledger, rec, r); err != nil {
			return err
		}
		c.head, c.due = next, true
	}
	return nil
}

// knownHashes reads the hashes of those records of a batch that are stored already.
func (s *sheet) knownHashes(ctx context.Context, m protocol.MachineID, b protocol.Batch, head uint64) (map[uint64]protocol.Hash, error) {
	first, last := b.Records[0].Seq, min(head, b.Records[len(b.Records)-1].Seq)
	if first > last {
		return nil, nil
	}
	if err := s.flush(ctx); err != nil { // some may have come with this very transaction
		return nil, err
	}
	out := map[uint64]protocol.Hash{}
	err := rows(ctx, s.tx, `SELECT seq, hash FROM event WHERE machine = ? AND ledger = ? AND seq BETWEEN ? AND ?`, []any{m, b.Ledger, first, last}, func(r *sql.Rows) error {
		var seq uint64
		var hash []byte
		err := r.Scan(&seq, &hash)
		var h protocol.Hash
		copy(h[:], hash)
		out[seq] = h
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the hashes of %s from seq %d: %w", m, first, err)
	}
	return out, nil
}

// store1 stores one record that follows. One of a known kind that is malformed is
// stored as well, or the chain would end there, and put aside for a person.
func (s *sheet) store1(ctx context.Context, m protocol.MachineID, l protocol.LedgerID, r protocol.Record, sealed protocol.Sealed) error {
	s.events = append(s.events, []any{string(m), string(l), int64(sealed.Seq), r.AtMS, s.now.UnixMilli(), string(r.Kind), sealed.Body, sealed.Hash[:]})
	s.count.Records++
	e, err := protocol.DecodeEvent(r)
	if err != nil {
		return s.putAside(ctx, m, "record", err, sealed.Body)
	}
	if e == nil {
		return nil // a newer machine wrote it; it is kept
	}
	return s.fold(ctx, m, l, r, e)
}

// flush writes what was added up so far.
func (s *sheet) flush(ctx context.Context) error {
	var heads [][]any
	for k, c := range s.chains {
		if c.due {
			heads = append(heads, []any{string(k.m), string(k.l), int64(c.head.Seq), c.head.Hash[:], s.now.UnixMilli()})
			c.due = false
		}
	}
	n, err := s.d.store.put(ctx, s.tx, insertChain(), heads)
	if err != nil {
		return err
	}
	if n != int64(len(heads)) {
		return fmt.Errorf("%d of %d ledgers have moved on meanwhile", int64(len(heads))-n, len(heads))
	}
	if _, err := s.d.store.put(ctx, s.tx, insertEvent(), s.events); err != nil {
		return err
	}
	s.events = nil
	return s.pending.write(ctx, s.d.store, s.tx)
}

func (s *sheet) takeState(ctx context.Context, st protocol.State, payload []byte) error {
	m := st.Machine
	ours, err := generation(ctx, s.tx)
	if err != nil {
		return err
	}
	// A generation is the moment a store began. One machine must not be able to name a
	// later one for all: the district would have to go beyond it.
	if st.Acked.Generation > max(ours, uint64(s.now.Add(24*time.Hour).UnixMilli())) {
		return s.putAside(ctx, m, "state", errors.New("a number in it is not plausible"), payload)
	}
	_, err = s.tx.ExecContext(ctx, `INSERT INTO state (machine, ledger, head, body, received_ms) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (machine) DO UPDATE SET ledger = excluded.ledger, head = excluded.head, body = excluded.body, received_ms = excluded.received_ms`,
		m, st.Ledger, int64(st.Head), payload, s.now.UnixMilli())
	if err != nil {
		return fmt.Errorf("store the state of %s: %w", m, err)
	}
	s.snapshots[m] = snapshot{st.Ledger, st.Head}
	c := s.chains[chainKey{m, st.Ledger}]
	c.due = true // it has a row from now on
	if c.head.Seq == st.Head {
		if err := s.compare(ctx, st); err != nil {
			return err
		}
	}
	s.answer[m] = st.Ledger
	return s.checkLife(ctx, st, c.head, ours)
}

// lifePause is how soon a further generation may begin.
const lifePause = time.Hour

// checkLife begins a new generation if the machine has been told more than this
// store knows: then the store is an older copy, and its acks must be able to fall.
func (s *sheet) checkLife(ctx context.Context, st protocol.State, h protocol.Head, ours uint64) error {
	told := st.Acked
	if told.Generation < ours || told.Generation == ours && (told.Ledger != st.Ledger || told.Seq <= h.Seq) {
		return nil
	}
	// A copy of the store is put back once; whoever claims it again and again has every
	// machine send all it has each time.
	lately, err := s.begunLately(ctx, ours)
	if err != nil {
		return err
	}
	if !lately {
		if err := s.beginLife(ctx, st, h, ours); err != nil {
			return err
		}
	}
	return raise(ctx, s.tx, st.Machine, st.Ledger, alarmRestored, told.Seq, fmt.Sprintf("the machine was told seq %d, the store has %d", told.Seq, h.Seq), s.now)
}

// begunLately says whether a generation but the store's first began within lifePause.
// One that is ahead of the clock, because a machine named it, counts from its number.
func (s *sheet) begunLately(ctx context.Context, ours uint64) (bool, error) {
	var made uint64
	if err := s.tx.QueryRowContext(ctx, `SELECT made_ms FROM meta`).Scan(&made); err != nil {
		return false, fmt.Errorf("read when the store was made: %w", err)
	}
	return ours != made && uint64(s.now.Add(-lifePause).UnixMilli()) < ours, nil
}

func (s *sheet) beginLife(ctx context.Context, st protocol.State, h protocol.Head, ours uint64) error {
	told := st.Acked
	next := max(uint64(s.now.UnixMilli()), ours+1, told.Generation+1)
	if _, err := s.tx.ExecContext(ctx, `UPDATE meta SET generation = ?1 WHERE generation < ?1`, int64(next)); err != nil {
		return fmt.Errorf("begin generation %d: %w", next, err)
	}
	s.newLife = true
	s.d.o.Log.Error("the store is older than what machines were told: new generation", "device", st.Machine, "seq", told.Seq, "have", h.Seq, "generation", next)
	return nil
}

func (s *sheet) takeOnline(ctx context.Context, m protocol.MachineID, o protocol.Online) error {
	up := 0
	if o.Online {
		up = 1
	}
	r, err := s.tx.ExecContext(ctx, `INSERT INTO online (machine, online, connection, since_ms) VALUES (?1, ?2, ?3, ?4)
		ON CONFLICT (machine) DO UPDATE SET since_ms = CASE WHEN online.online = excluded.online THEN online.since_ms ELSE excluded.since_ms END,
		online = excluded.online, connection = excluded.connection WHERE online.connection <= excluded.connection`,
		m, up, int64(o.Connection), s.now.UnixMilli())
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
	s.arrived = append(s.arrived, m)
	if _, answered := s.answer[m]; !answered {
		s.answer[m] = "" // its present ledger, looked up at the end
	}
	return nil
}

// decideAcks reads how far each machine that is to be answered has got.
func (s *sheet) decideAcks(ctx context.Context) error {
	if len(s.answer) == 0 {
		return nil
	}
	g, err := generation(ctx, s.tx)
	if err != nil {
		return err
	}
	forks, err := forked(ctx, s.tx)
	if err != nil {
		return err
	}
	for m, l := range s.answer {
		if l == "" {
			if l, err = currentLedger(ctx, s.tx, m); err != nil {
				return err
			}
		}
		if l == "" || forks[chainKey{m, l}] {
			continue // it has never said anything, or is a copy, or was copied
		}
		c := s.chains[chainKey{m, l}]
		if c == nil {
			h, err := head(ctx, s.tx, m, l)
			if err != nil {
				return err
			}
			c = &chainRow{head: h}
		}
		s.acks[m] = protocol.Ack{Ledger: l, Generation: g, Seq: c.head.Seq}
	}
	return nil
}

// compare holds the sums of the events against the machine's own totals.
func (s *sheet) compare(ctx context.Context, st protocol.State) error {
	if err := s.flush(ctx); err != nil {
		return err
	}
	return compare(ctx, s.tx, st, s.now)
}
