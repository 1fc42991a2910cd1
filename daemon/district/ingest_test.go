package district

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/protocol"
)

// sample is a district that takes in everybody.
func sample(path string) Options {
	return Options{
		Path: path, Name: protocol.Text{ZH: "示例区", EN: "Sample"}, Zone: time.FixedZone("CST", 8*3600),
		Hosts: []string{"district.test"}, Signer: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)),
		AcceptUnknown: true, Log: slog.New(slog.DiscardHandler),
	}
}

// open opens a district on a fresh database, or on path if one is given.
func open(t testing.TB, path string) *District {
	t.Helper()
	if path == "" {
		path = fresh(t)
	}
	d, err := Open(t.Context(), sample(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// writer seals the records of one ledger.
type writer struct {
	m    protocol.MachineID
	l    protocol.LedgerID
	head protocol.Head
}

func newWriter(m protocol.MachineID) *writer {
	return &writer{m: m, l: protocol.LedgerID(strings.Repeat("0a", 16))}
}

func (w *writer) seal(t testing.TB, events ...protocol.Event) []protocol.Sealed {
	t.Helper()
	var out []protocol.Sealed
	for _, e := range events {
		s, err := protocol.Seal(w.m, w.l, w.head, protocol.Stamp{AtMS: time.Now().UnixMilli(), Clock: protocol.ClockSynced, Boot: 1}, e)
		if err != nil {
			t.Fatal(err)
		}
		w.head = protocol.Head{Seq: s.Seq, Hash: s.Hash}
		out = append(out, s)
	}
	return out
}

func (w *writer) batch(records ...protocol.Sealed) message {
	b, _ := protocol.AppendBatch(nil, w.l, records)
	return letterOf(w.m, protocol.EventsTopic(w.m), b)
}

func (w *writer) state(ack protocol.Ack, slots ...protocol.SlotState) message {
	st := protocol.State{
		Machine: w.m, Ledger: w.l, Software: "test", Serving: protocol.ServingOpen, Head: w.head.Seq, Acked: ack,
		Stamp: protocol.Stamp{AtMS: time.Now().UnixMilli(), Clock: protocol.ClockSynced, Boot: 1}, Slots: slots, Faults: []protocol.FaultRaised{},
	}
	return letterOf(w.m, protocol.StateTopic(w.m), protocol.Encode(st))
}

func letterOf(m protocol.MachineID, topic string, payload []byte) message {
	return message{from: m, topic: topic, payload: payload}
}

func take(t testing.TB, d *District, msgs ...message) {
	t.Helper()
	if err := d.commit(t.Context(), msgs); err != nil {
		t.Fatal(err)
	}
}

func headOf(t testing.TB, d *District, w *writer) uint64 {
	t.Helper()
	h, err := head(t.Context(), d.store.read, w.m, w.l)
	if err != nil {
		t.Fatal(err)
	}
	return h.Seq
}

// alarmsOf lists the kinds of alarm of a machine.
func alarmsOf(t testing.TB, d *District, m protocol.MachineID) []string {
	t.Helper()
	var out []string
	err := rows(t.Context(), d.store.read, `SELECT kind FROM alarm WHERE machine = ? ORDER BY kind`, []any{m}, func(r *sql.Rows) error {
		var k string
		err := r.Scan(&k)
		out = append(out, k)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// retained is the last ack the broker keeps for a machine; nil if none.
func retained(t testing.TB, d *District, m protocol.MachineID) *protocol.Ack {
	t.Helper()
	pk, ok := d.line.(*broker).srv.Topics.Retained.Get(protocol.AckTopic(m))
	if !ok {
		return nil
	}
	a, err := protocol.DecodeAck(pk.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return &a
}

func someStock(s protocol.Slot) protocol.Stock {
	return protocol.Stock{Slot: s, Product: "condom-52", Batch: "B1", Expiry: "2031-12-31"}
}

func loaded(s protocol.Slot, n int) protocol.Event {
	return protocol.StockLoaded{Stock: someStock(s), Pieces: n, After: n, Staff: "7"}
}

func dispensed(id protocol.VendID, s protocol.Slot) protocol.Event {
	return protocol.VendDispensed{Vend: protocol.Vend{Vend: id, Stock: someStock(s), Pieces: 1}}
}

func TestIngest(t *testing.T) {
	bent := func(r protocol.Sealed) protocol.Sealed {
		r.Body = []byte(strings.Replace(string(r.Body), `"pieces":5`, `"pieces":6`, 1))
		return r
	}
	for _, c := range []struct {
		name   string
		send   func(w *writer, r []protocol.Sealed) []message // r is seq 1 to 4
		head   uint64
		acked  int64 // -1: no ack at all
		alarms []string
		counts Counts
	}{
		{"in order", func(w *writer, r []protocol.Sealed) []message {
			return []message{w.batch(r[:2]...), w.batch(r[2:]...)}
		}, 4, 4, nil, Counts{Messages: 2, Records: 4}},
		{"doubled", func(w *writer, r []protocol.Sealed) []message {
			return []message{w.batch(r...), w.batch(r...), w.batch(r[1])}
		}, 4, 4, nil, Counts{Messages: 3, Records: 4, Duplicates: 5}},
		{"overlapping", func(w *writer, r []protocol.Sealed) []message {
			return []message{w.batch(r[:3]...), w.batch(r[1:]...)}
		}, 4, 4, nil, Counts{Messages: 2, Records: 4, Duplicates: 2}},
		{"gap", func(w *writer, r []protocol.Sealed) []message {
			return []message{w.batch(r[0]), w.batch(r[2:]...)}
		}, 1, 1, nil, Counts{Messages: 2, Records: 1, Gaps: 1}},
		{"gap at the start", func(w *writer, r []protocol.Sealed) []message {
			return []message{w.batch(r[2:]...)}
		}, 0, 0, nil, Counts{Messages: 1, Gaps: 1}},
		{"bytes changed", func(w *writer, r []protocol.Sealed) []message {
			return []message{w.batch(bent(r[0]), r[1])}
		}, 0, 0, []string{alarmChain}, Counts{Messages: 1, Quarantined: 1, Refused: 1}},
		{"another chain after seq 2", func(w *writer, r []protocol.Sealed) []message {
			other := newWriter(w.m)
			x := other.seal(t, loaded(2, 1), loaded(2, 2), loaded(2, 3))
			return []message{w.batch(r[:2]...), w.batch(x[2])}
		}, 2, 2, []string{alarmChain}, Counts{Messages: 2, Records: 2, Quarantined: 1, Refused: 1}},
		{"not JSON", func(w *writer, r []protocol.Sealed) []message {
			return []message{letterOf(w.m, protocol.EventsTopic(w.m), []byte("\xff{"))}
		}, 0, -1, nil, Counts{Messages: 1, Quarantined: 1}},
		{"in another machine's name", func(w *writer, r []protocol.Sealed) []message {
			m := w.batch(r...)
			m.from = "m-0666"
			return []message{m}
		}, 0, -1, nil, Counts{Messages: 1, Refused: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := open(t, "")
			w := newWriter("m-0001")
			r := w.seal(t, loaded(1, 5), dispensed(1, 1), dispensed(2, 1), dispensed(3, 1))
			take(t, d, c.send(w, r)...)
			if got := headOf(t, d, w); got != c.head {
				t.Errorf("head %d, want %d", got, c.head)
			}
			switch a := retained(t, d, w.m); {
			case c.acked < 0 && a != nil:
				t.Errorf("acked %+v, want no ack", *a)
			case c.acked >= 0 && (a == nil || a.Seq != uint64(c.acked) || a.Ledger != w.l || a.Generation == 0):
				t.Errorf("acked %+v, want seq %d", a, c.acked)
			}
			if got := alarmsOf(t, d, w.m); !slices.Equal(got, c.alarms) {
				t.Errorf("alarms %v, want %v", got, c.alarms)
			}
			if got := d.Counts(); got != c.counts {
				t.Errorf("counts %+v, want %+v", got, c.counts)
			}
		})
	}
}

// A copied machine writes other records under numbers that are taken. Its ack does
// not move, and what is stored stays.
func TestForkIsRefused(t *testing.T) {
	d := open(t, "")
	w := newWriter("m-0001")
	r := w.seal(t, loaded(1, 5), dispensed(1, 1))
	take(t, d, w.batch(r...))
	before := *retained(t, d, w.m)
	twin := newWriter("m-0001")
	x := twin.seal(t, loaded(1, 5), loaded(2, 9), loaded(3, 9))
	for range 3 {
		take(t, d, twin.batch(x...))
	}
	if got := headOf(t, d, w); got != 2 {
		t.Errorf("head %d, want 2", got)
	}
	if got := *retained(t, d, w.m); got != before {
		t.Errorf("ack moved from %+v to %+v", before, got)
	}
	if got := alarmsOf(t, d, w.m); !slices.Equal(got, []string{alarmFork}) {
		t.Errorf("alarms %v, want one fork", got)
	}
	// Whoever of the two says that it is there learns nothing either, nor at a restart.
	take(t, d, twin.state(protocol.Ack{}), letterOf(w.m, protocol.OnlineTopic(w.m), protocol.Encode(protocol.Online{Online: true, Connection: 1})))
	take(t, d, w.batch(w.seal(t, loaded(1, 5))...))
	if err := d.publishAcks(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := *retained(t, d, w.m); got != before || headOf(t, d, w) != 3 {
		t.Errorf("ack moved from %+v to %+v; head %d", before, got, headOf(t, d, w))
	}
	var times int
	if err := d.store.read.QueryRow(`SELECT times FROM alarm WHERE kind = 'fork'`).Scan(&times); err != nil || times != 3 {
		t.Errorf("alarm counted %d times, err %v; want 3", times, err)
	}
}

// forged is an event whose data is malformed though its record is sound.
type forged struct{}

func (forged) Kind() protocol.Kind          { return protocol.KindVendDispensed }
func (forged) Valid() error                 { return nil }
func (forged) MarshalJSON() ([]byte, error) { return []byte(`{"vend":"x"}`), nil }

// newer is an event of a kind this version does not know.
type newer struct{}

func (newer) Kind() protocol.Kind { return "drone.landed" }
func (newer) Valid() error        { return nil }

func TestMalformedEventIsKeptAndPutAside(t *testing.T) {
	d := open(t, "")
	w := newWriter("m-0001")
	take(t, d, w.batch(w.seal(t, loaded(1, 5), forged{}, newer{}, dispensed(1, 1))...))
	if got := headOf(t, d, w); got != 4 {
		t.Errorf("head %d, want 4: the chain must go on", got)
	}
	if got := d.Counts(); got.Quarantined != 1 {
		t.Errorf("%d put aside, want 1: a newer kind is not malformed", got.Quarantined)
	}
	levels, err := d.Levels(t.Context(), w.m)
	if err != nil || len(levels) != 1 || levels[0].Pieces != 4 {
		t.Errorf("levels %+v, err %v; want 4 pieces", levels, err)
	}
}

func TestQuarantineIsBounded(t *testing.T) {
	d := open(t, "")
	full := make([][]any, maxQuarantine-5)
	for i := range full {
		full[i] = []any{"m-0001", int64(i), "events", "bad", int64(10), make([]byte, 10)}
	}
	err := d.store.tx(t.Context(), func(tx *sql.Tx) error {
		_, err := d.store.put(t.Context(), tx, insert{into: "quarantine (machine, received_ms, what, reason, bytes, body)", types: []string{"text", "bigint", "text", "text", "bigint", "bytea"}}, full)
		for range 20 {
			err = errors.Join(err, quarantine(t.Context(), tx, "m-0001", "events", errors.New("bad"), make([]byte, 10), time.Now()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := d.store.read.QueryRow(`SELECT count(*) FROM quarantine`).Scan(&n); err != nil || n != maxQuarantine {
		t.Errorf("%d rows, err %v; want %d", n, err, maxQuarantine)
	}
}

// The levels are what the events add up to, whatever kind they are.
func TestLevels(t *testing.T) {
	d := open(t, "")
	w := newWriter("m-0001")
	late := protocol.Stock{Slot: 1, Product: "condom-52", Batch: "B2", Expiry: "2033-01-31"}
	v := func(id protocol.VendID, pieces int) protocol.Vend {
		return protocol.Vend{Vend: id, Stock: someStock(1), Pieces: pieces}
	}
	steps := []struct {
		event        protocol.Event
		first, later int // pieces of B1 and B2
		held         int
	}{
		{loaded(1, 5), 5, 0, 0},
		{protocol.StockLoaded{Stock: late, Pieces: 4, Before: 5, After: 9, Staff: "7"}, 5, 4, 0},
		{protocol.VendDispensed{Vend: v(1, 1)}, 4, 4, 0},
		{protocol.VendKept{Vend: v(2, 0)}, 4, 4, 0},
		{protocol.VendUnknown{Vend: v(3, 0)}, 3, 4, 1},
		{protocol.VendResolved{Vend: v(3, 0), Outcome: protocol.Kept, By: "board"}, 4, 4, 0},
		{protocol.VendUnknown{Vend: v(4, 0)}, 3, 4, 1},
		{protocol.VendResolved{Vend: v(4, 1), Outcome: protocol.Dispensed, By: "staff"}, 3, 4, 0},
		{protocol.StockTested{Stock: someStock(1), Pieces: 1, Staff: "7"}, 2, 4, 0},
		{protocol.VendDispensed{Vend: v(5, 3)}, 0, 3, 0}, // a triple drop goes on into the next batch
		{protocol.StockCounted{Stock: late, Expected: 3, Counted: 2, Staff: "7"}, 0, 2, 0},
		{protocol.StockRemoved{Stock: late, Pieces: 1, Reason: protocol.RemovedSample, Before: 2, After: 1, Staff: "7"}, 0, 1, 0},
	}
	for _, s := range steps {
		take(t, d, w.batch(w.seal(t, s.event)...))
		levels, err := d.Levels(t.Context(), w.m)
		if err != nil {
			t.Fatal(err)
		}
		var first, later, held int
		for _, l := range levels {
			held += l.Held
			if l.Batch == "B1" {
				first += l.Pieces
			} else {
				later += l.Pieces
			}
		}
		if first != s.first || later != s.later || held != s.held {
			t.Errorf("after %s: %d of B1, %d of B2, %d held; want %d, %d, %d", s.event.Kind(), first, later, held, s.first, s.later, s.held)
		}
	}
	// 9 loaded, 5 given (1+1+3), 3 removed: tested, variance, sample.
	take(t, d, w.state(protocol.Ack{}, protocol.SlotState{Slot: 1, Product: "condom-52", Pieces: 1, Capacity: 12, Loaded: 9, Removed: 3, Dispensed: 5}))
	if got := alarmsOf(t, d, w.m); got != nil {
		t.Errorf("alarms %v, want none: the machine's totals agree", got)
	}
	take(t, d, w.state(protocol.Ack{}, protocol.SlotState{Slot: 1, Product: "condom-52", Pieces: 2, Capacity: 12, Loaded: 9, Removed: 3, Dispensed: 4}))
	if got := alarmsOf(t, d, w.m); !slices.Equal(got, []string{alarmBalance}) {
		t.Errorf("alarms %v, want balance", got)
	}
}

func TestCountFallsWithoutWaitingForTheState(t *testing.T) {
	d := open(t, "")
	w := newWriter("m-0001")
	take(t, d, w.batch(w.seal(t, loaded(1, 5))...))
	take(t, d, w.state(protocol.Ack{}, protocol.SlotState{Slot: 1, Product: "condom-52", Pieces: 5, Capacity: 12, Par: 2, Loaded: 5}))
	for _, want := range []int{5, 4, 3} {
		views, err := d.allViews(t.Context(), time.Now())
		if err != nil || len(views) != 1 || len(views[0].slots) != 1 {
			t.Fatalf("views %v, err %v", views, err)
		}
		if got := views[0].slots[0].Pieces; got != want {
			t.Errorf("page shows %d pieces, want %d", got, want)
		}
		take(t, d, w.batch(w.seal(t, dispensed(protocol.VendID(want), 1))...))
	}
}

func TestOldWillIsIgnored(t *testing.T) {
	d := open(t, "")
	m := protocol.MachineID("m-0001")
	for _, c := range []struct {
		online     bool
		connection uint64
		want       bool
	}{
		{true, 5, true}, {true, 6, true}, {false, 5, true}, {false, 6, false}, {true, 5, false}, {true, 7, true},
	} {
		take(t, d, letterOf(m, protocol.OnlineTopic(m), protocol.Encode(protocol.Online{Online: c.online, Connection: c.connection})))
		var got bool
		if err := d.store.read.QueryRow(`SELECT online FROM online WHERE machine = ?`, m).Scan(&got); err != nil || got != c.want {
			t.Errorf("after online=%v of connection %d: %v, err %v; want %v", c.online, c.connection, got, err, c.want)
		}
	}
}

func TestGeneration(t *testing.T) {
	path := fresh(t)
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(t.Context(), sample(path))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		w := newWriter("m-0001")
		take(t, d, w.batch(w.seal(t, loaded(1, 5))...))
		for _, c := range []struct {
			name  string
			after time.Duration
			told  uint64 // seq; 0: nothing at all
			by    int64  // a generation that much above the present one
			rises bool
		}{
			{"never told anything", 0, 0, 0, false},
			{"told what we have", 0, 1, 0, false},
			{"told more by an earlier life", 0, 9, -1, false},
			{"told more by this life", 0, 2, 0, true},
			{"once more", 0, 2, 0, false},
			{"once more within the hour", 59 * time.Minute, 2, 1 << 20, false},
			{"after an hour", 2 * time.Minute, 2, 0, true},
			{"told by a later life", time.Hour, 1, 1 << 22, true},
			{"which is a little ahead of the clock", time.Hour, 2, 0, false},
			{"told by a life that cannot have begun yet", 24 * time.Hour, 9, 1 << 30, false},
		} {
			time.Sleep(c.after)
			before := retained(t, d, w.m).Generation
			var told protocol.Ack
			if c.told > 0 {
				told = protocol.Ack{Ledger: w.l, Generation: uint64(int64(before) + c.by), Seq: c.told}
			}
			take(t, d, w.state(told))
			after := retained(t, d, w.m)
			if rises := after.Generation > before; rises != c.rises || after.Seq != 1 {
				t.Errorf("%s: ack %+v after generation %d, want rise %v and seq 1", c.name, *after, before, c.rises)
			}
			if c.rises && after.Generation <= told.Generation {
				t.Errorf("%s: generation %d is not above %d", c.name, after.Generation, told.Generation)
			}
		}
		take(t, d, w.state(protocol.Ack{Ledger: w.l, Generation: 1 << 60, Seq: 1}))
		if g := retained(t, d, w.m).Generation; g >= 1<<53 {
			t.Errorf("a machine's word made the generation %d", g)
		}
		var times int // an alarm for every claim, whether it was heeded or not
		if err := d.store.read.QueryRow(`SELECT times FROM alarm WHERE kind = ?`, alarmRestored).Scan(&times); err != nil || times != 6 {
			t.Errorf("the alarm was raised %d times, err %v; want 6", times, err)
		}
	})
}

// What a broker of its own lets through, though nobody of ours can have said it, stays
// out of everybody else's way.
func TestNobodysTopic(t *testing.T) {
	t.Parallel()
	d := open(t, "")
	w := newWriter("m-0001")
	told := 0
	odd := letterOf("", "yaoju/1/m/Foo/state", protocol.Encode(protocol.Online{Online: true, Connection: 1}))
	odd.done = func() { told++ }
	take(t, d, w.batch(w.seal(t, loaded(1, 5))...), odd, letterOf("", "yaoju/1/m/Foo/online", odd.payload))
	if got := headOf(t, d, w); got != 1 || told != 1 {
		t.Errorf("head %d, broker told %d times; want 1 and 1", got, told)
	}
	if got := d.Counts(); got != (Counts{Messages: 3, Records: 1, Quarantined: 2}) {
		t.Errorf("counts %+v", got)
	}
	var machines int
	if err := d.store.read.QueryRow(`SELECT count(*) FROM machine`).Scan(&machines); err != nil || machines != 1 {
		t.Errorf("%d machines, err %v; want 1", machines, err)
	}
}

// A message that the store refuses is put aside; those that came with it are stored.
func TestRefusedByTheStore(t *testing.T) {
	t.Parallel()
	d := open(t, "")
	// A rule that what machines may say breaks.
	if _, err := d.store.write.Exec(`CREATE UNIQUE INDEX odd ON state (head)`); err != nil {
		t.Fatal(err)
	}
	a, b := newWriter("m-0001"), newWriter("m-0002")
	told := 0
	batch := []message{a.state(protocol.Ack{}), b.state(protocol.Ack{}), a.batch(a.seal(t, loaded(1, 5))...), b.batch(b.seal(t, loaded(1, 5))...)}
	for i := range batch {
		batch[i].done = func() { told++ }
	}
	if err := d.persist(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if headOf(t, d, a) != 1 || headOf(t, d, b) != 1 || told != len(batch) {
		t.Errorf("heads %d and %d, broker told %d times", headOf(t, d, a), headOf(t, d, b), told)
	}
	if got := d.Counts(); got != (Counts{Messages: 4, Records: 2, Quarantined: 1}) {
		t.Errorf("counts %+v", got)
	}
	var from string
	if err := d.store.read.QueryRow(`SELECT machine FROM quarantine`).Scan(&from); err != nil || from != "m-0002" {
		t.Errorf("put aside: %q, err %v", from, err)
	}
}

// A record that the store has lost is its machine's alarm, and keeps no other out.
func TestLostRecord(t *testing.T) {
	t.Parallel()
	d := open(t, "")
	a, b := newWriter("m-0001"), newWriter("m-0002")
	records := a.seal(t, loaded(1, 5), dispensed(1, 1))
	take(t, d, a.batch(records...))
	if _, err := d.store.write.Exec(`DELETE FROM event WHERE seq = 1`); err != nil {
		t.Fatal(err)
	}
	take(t, d, a.batch(records...), b.batch(b.seal(t, loaded(1, 5))...))
	if got := alarmsOf(t, d, a.m); !slices.Equal(got, []string{alarmChain}) || headOf(t, d, b) != 1 {
		t.Errorf("alarms %v, head of the other %d; want one of the chain, and 1", got, headOf(t, d, b))
	}
}

// The ingest goes round though nobody says anything, and is missed when it stands.
func TestIngesting(t *testing.T) {
	o := sample(filepath.Join(t.TempDir(), "d.db"))
	o.Broker = &Broker{Dial: noBroker, Name: "DISTRICT"}
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if d.Ingesting(time.Now()) == nil {
			t.Error("it goes round before it began")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx, nil) }()
		for range 100 {
			time.Sleep(time.Minute)
			if err := d.Ingesting(time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if err := errors.Join(<-done, d.Close()); err != nil {
			t.Error(err)
		}
		time.Sleep(roundLimit + time.Minute)
		if d.Ingesting(time.Now()) == nil {
			t.Error("nobody misses it")
		}
	})
}

func TestReopenKeepsAcksDesiredAndRefusesNewerFiles(t *testing.T) {
	path := fresh(t)
	d := open(t, path)
	w := newWriter("m-0001")
	take(t, d, w.batch(w.seal(t, loaded(1, 5))...))
	v, err := d.SetDesired(t.Context(), someDesired(w.m))
	if err != nil || v.Version != 1 {
		t.Fatalf("version %+v, err %v", v, err)
	}
	if v, err = d.SetDesired(t.Context(), someDesired(w.m)); err != nil || v.Version != 1 {
		t.Fatalf("the same again: version %+v, err %v; want 1", v, err)
	}
	other := someDesired(w.m)
	other.Policy.AgeFrom++
	if v, err = d.SetDesired(t.Context(), other); err != nil || v.Version != 2 {
		t.Fatalf("another: version %+v, err %v; want 2", v, err)
	}
	want := *retained(t, d, w.m)
	again := open(t, path)
	if got := retained(t, again, w.m); got == nil || *got != want {
		t.Errorf("after reopening the broker retains ack %+v, want %+v", got, want)
	}
	pk, ok := again.line.(*broker).srv.Topics.Retained.Get(protocol.DesiredTopic(w.m))
	if !ok {
		t.Fatal("after reopening the broker retains no desired state")
	}
	got, err := protocol.OpenDesired(pk.Payload, []ed25519.PublicKey{again.o.Signer.Public().(ed25519.PublicKey)})
	if err != nil || got.DesiredVersion != v {
		t.Errorf("desired version %+v, err %v; want %+v", got.DesiredVersion, err, v)
	}
	newer := `PRAGMA user_version = 99`
	if *onPostgres {
		newer = `UPDATE schema_version SET version = 99`
	}
	if _, err := again.store.write.Exec(newer); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(t.Context(), path, time.Now()); err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("a newer file: err %v", err)
	}
}

func someDesired(m protocol.MachineID) protocol.Desired {
	return protocol.Desired{
		Machine: m,
		Policy:  protocol.Policy{AgeFrom: 18, Rules: []protocol.Rule{{Max: 2, Per: protocol.PerDays, Days: 30}}},
		Products: []protocol.Product{{ID: "condom-52", Letter: "A", Class: "condom", Units: 10,
			Name: protocol.Text{ZH: "避孕套 <标准型>", EN: "Condoms <standard>"}, Note: protocol.Text{ZH: "10 只", EN: "10 pieces"}}},
		Planogram: []protocol.SlotPlan{{Slot: 1, Product: "condom-52", Capacity: 12, Par: 2}},
		Texts:     protocol.Texts{Authority: protocol.Text{ZH: "示例单位", EN: "Sample office"}, Phone: "000-0000"},
	}
}

func TestSendNeedsAKnownMachine(t *testing.T) {
	d := open(t, "")
	if _, err := d.Send(t.Context(), "m-0009", protocol.VerbPause, 0); err == nil {
		t.Error("a command to a machine nobody knows was accepted")
	}
	if err := d.PutMachine(t.Context(), Place{Machine: "m-0009"}); err != nil {
		t.Fatal(err)
	}
	for want := uint64(1); want <= 3; want++ {
		c, err := d.Send(t.Context(), "m-0009", protocol.VerbBlock, 3)
		if err != nil || c.Counter != want {
			t.Errorf("counter %d, err %v; want %d", c.Counter, err, want)
		}
	}
	if _, err := d.Send(t.Context(), "m-0009", protocol.VerbBlock, 0); err == nil {
		t.Error("block without a slot was accepted")
	}
}

// Whatever arrives, the store takes it or puts it aside, and stays sound.
func FuzzIngest(f *testing.F) {
	w := newWriter("m-0001")
	good := w.batch(w.seal(f, loaded(1, 5), dispensed(1, 1), forged{}, newer{})...)
	f.Add(good.topic, good.payload)
	st := w.state(protocol.Ack{Ledger: w.l, Generation: 7, Seq: 3}, protocol.SlotState{Slot: 1, Pieces: 3, Loaded: 1 << 63})
	f.Add(st.topic, st.payload)
	f.Add(protocol.OnlineTopic(w.m), protocol.Encode(protocol.Online{Online: true, Connection: 1 << 63}))
	f.Add(protocol.OnlineTopic(w.m), []byte(`{"online":true,"connection":1}`))
	f.Add("yaoju/1/m/m-0001/\xff", []byte("{}"))
	f.Add("yaoju/1/m/m-0002/events", good.payload)
	f.Add(good.topic, []byte(`{"ledger":"`+string(w.l)+`","records":[{"seq":18446744073709551615}]}`))
	d := open(f, "")
	f.Fuzz(func(t *testing.T, topic string, payload []byte) {
		take(t, d, letterOf(w.m, topic, payload))
		take(t, d, letterOf(w.m, protocol.EventsTopic(w.m), payload), letterOf(w.m, protocol.StateTopic(w.m), payload), letterOf(w.m, protocol.OnlineTopic(w.m), payload))
		if _, err := d.allViews(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
	})
}

// BenchmarkIngest gives records per second as the ingest stores them, acks decided,
// next to the same rows inserted with nothing else done: one event in a message and
// fifty, as many messages in a commit as wait in a busy district. With -postgres on
// PostgreSQL; its server does not wait for the disk there, on SQLite the file does.
func BenchmarkIngest(b *testing.B) {
	const machines = 200
	for _, n := range []int{1, 50} {
		fill := func(writers []*writer) (msgs []message, records int) {
			for _, w := range writers {
				var events []protocol.Event
				for i := range n {
					events = append(events, dispensed(protocol.VendID(i+1), 1))
				}
				msgs = append(msgs, w.batch(w.seal(b, events...)...))
			}
			return msgs, n * len(writers)
		}
		b.Run(fmt.Sprintf("events=%d", n), func(b *testing.B) {
			d := open(b, "")
			var writers []*writer
			for i := range machines {
				writers = append(writers, newWriter(protocol.MachineID(fmt.Sprintf("m-%04d", i))))
			}
			records := 0
			for b.Loop() {
				b.StopTimer()
				msgs, more := fill(writers)
				records += more
				b.StartTimer()
				if err := d.commit(context.Background(), msgs); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
		})
	}
	b.Run("raw", func(b *testing.B) {
		d := open(b, "")
		w := newWriter("m-0001")
		take(b, d, w.state(protocol.Ack{})) // its ledger has a row
		body := w.seal(b, dispensed(1, 1))[0]
		seq := 0
		const at1000 = 1000
		for b.Loop() {
			batch := make([][]any, at1000)
			for i := range batch {
				seq++
				batch[i] = []any{string(w.m), string(w.l), int64(seq), time.Now().UnixMilli(), time.Now().UnixMilli(), "vend.dispensed", body.Body, body.Hash[:]}
			}
			err := d.store.transact(context.Background(), func(tx *sql.Tx) error {
				_, err := d.store.put(context.Background(), tx, insertEvent(), batch)
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(seq)/b.Elapsed().Seconds(), "records/s")
	})
}
