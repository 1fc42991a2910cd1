package district

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/protocol"
)

func TestNumbered(t *testing.T) {
	for in, want := range map[string]string{
		"SELECT 1": "SELECT 1",
		"INSERT INTO x VALUES (?, ?) ON CONFLICT DO NOTHING": "INSERT INTO x VALUES ($1, $2) ON CONFLICT DO NOTHING",
		"UPDATE x SET a = ?2 WHERE b = ?1 AND c = ?2":        "UPDATE x SET a = $2 WHERE b = $1 AND c = $2",
		"SELECT * FROM unnest(?::text[], ?::bigint[])":       "SELECT * FROM unnest($1::text[], $2::bigint[])",
		"?": "$1",
	} {
		if got := numbered(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

// columns lists the tables of a database with their columns.
func columns(t *testing.T, s *store) map[string]string {
	t.Helper()
	query := `SELECT m.name, group_concat(c.name, ' ') FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' GROUP BY m.name`
	if s.name() == "postgresql" {
		query = `SELECT table_name, string_agg(column_name, ' ' ORDER BY ordinal_position) FROM information_schema.columns WHERE table_schema = 'public'
			AND table_name <> 'schema_version' AND table_name NOT LIKE 'event\_%' GROUP BY table_name`
	}
	out := map[string]string{}
	err := rows(t.Context(), s.read, query, nil, func(r *sql.Rows) error {
		var table, names string
		err := r.Scan(&table, &names)
		out[table] = names
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The schema is one: both databases have the same tables with the same columns.
func TestOneSchema(t *testing.T) {
	small, large := open(t, filepath.Join(t.TempDir(), "d.db")), open(t, FreshPostgres(t))
	if a, b := columns(t, small.store), columns(t, large.store); len(a) < 10 || !maps.Equal(a, b) {
		t.Errorf("SQLite has\n%v\nPostgreSQL has\n%v", a, b)
	}
}

// Several programs may start at once on an empty database; one makes the tables.
func TestMigrateAtOnce(t *testing.T) {
	address := FreshPostgres(t)
	var opening sync.WaitGroup
	for range 4 {
		opening.Go(func() {
			d, err := Open(t.Context(), sample(address))
			if err != nil {
				t.Error(err)
				return
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	opening.Wait()
}

func partitions(t *testing.T, d *District) []string {
	t.Helper()
	var out []string
	err := rows(t.Context(), d.store.read, `SELECT relid::regclass::text FROM pg_partition_tree('event') WHERE isleaf ORDER BY 1`, nil, func(r *sql.Rows) error {
		var s string
		err := r.Scan(&s)
		out = append(out, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// There is a partition for this month and two more, again and again; what a wrong
// clock has put elsewhere stays readable.
func TestPartitions(t *testing.T) {
	address := FreshPostgres(t)
	synctest.Test(t, func(t *testing.T) { // the year begins with 2000
		d, err := Open(t.Context(), sample(address))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if got, want := partitions(t, d), []string{"event_200001", "event_200002", "event_200003", "event_other"}; !slices.Equal(got, want) {
			t.Errorf("partitions %v, want %v", got, want)
		}
		w := newWriter("m-0001")
		take(t, d, w.batch(w.seal(t, loaded(1, 5))...))
		time.Sleep(100 * 24 * time.Hour) // in which nobody looked
		take(t, d, w.batch(w.seal(t, dispensed(1, 1))...))
		upkeep := func() {
			t.Helper()
			if err := d.store.tx(t.Context(), func(tx *sql.Tx) error { return d.store.upkeep(t.Context(), tx, time.Now()) }); err != nil {
				t.Fatal(err)
			}
		}
		upkeep()
		time.Sleep(31 * 24 * time.Hour)
		take(t, d, w.batch(w.seal(t, dispensed(2, 1))...))
		upkeep()
		// April has a record in event_other, and stays there.
		if got, want := partitions(t, d), []string{"event_200001", "event_200002", "event_200003", "event_200005", "event_200006", "event_200007", "event_other"}; !slices.Equal(got, want) {
			t.Errorf("partitions %v, want %v", got, want)
		}
		again := newWriter("m-0001")
		take(t, d, w.batch(again.seal(t, loaded(1, 5))...)) // read across partitions, and known
		if got := headOf(t, d, w); got != 3 {
			t.Errorf("head %d, want 3", got)
		}
	})
}

// Two processes that have messages of the same machines at the same time store every
// record once, and none waits for the other for ever.
func TestAtOnce(t *testing.T) {
	address := FreshPostgres(t)
	var ds []*District
	for range 2 {
		ds = append(ds, open(t, address))
	}
	const machines, records = 20, 15
	var batches [][]message
	var writers []*writer
	for i := range machines {
		w := newWriter(protocol.MachineID(fmt.Sprintf("m-%04d", i)))
		writers = append(writers, w)
		var mine []message
		first := w.seal(t, loaded(1, 500))
		for n := range records {
			first = append(first, w.seal(t, dispensed(protocol.VendID(n+1), 1))...)
			mine = append(mine, w.batch(first...)) // each with all before it, as after a lost ack
		}
		batches = append(batches, mine)
	}
	var working sync.WaitGroup
	for i, d := range ds {
		working.Go(func() {
			for n := range records {
				var msgs []message
				for k := range machines {
					at := k
					if i == 1 {
						at = machines - 1 - k // the other way round
					}
					msgs = append(msgs, batches[at][n])
				}
				if err := d.commit(t.Context(), msgs); err != nil {
					t.Error(err)
				}
			}
		})
	}
	working.Wait()
	var stored uint64
	for _, d := range ds {
		stored += d.Counts().Records
	}
	if want := uint64(machines * (records + 1)); stored != want {
		t.Errorf("%d records stored, want %d", stored, want)
	}
	for _, w := range writers {
		if got := headOf(t, ds[0], w); got != records+1 {
			t.Errorf("%s: head %d, want %d", w.m, got, records+1)
		}
		levels, err := ds[1].Levels(t.Context(), w.m)
		if err != nil || len(levels) != 1 || levels[0].Pieces != 500-records {
			t.Errorf("%s: levels %+v, err %v; want %d pieces", w.m, levels, err, 500-records)
		}
	}
}

// Versions and counters are given out once, whoever asks.
func TestNumbersAtOnce(t *testing.T) {
	address := FreshPostgres(t)
	ds := []*District{open(t, address), open(t, address)}
	if err := ds[0].PutMachine(t.Context(), Place{Machine: "m-0001"}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var counters, versions []uint64
	var working sync.WaitGroup
	for i, d := range ds {
		working.Go(func() {
			for n := range 20 {
				c, err := d.Send(t.Context(), "m-0001", protocol.VerbPause, 0)
				if err != nil {
					t.Error(err)
				}
				want := someDesired("m-0001")
				want.Policy.AgeFrom = 10 + 2*n + i // never the same again
				v, err := d.SetDesired(t.Context(), want)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				counters, versions = append(counters, c.Counter), append(versions, v.Version)
				mu.Unlock()
			}
		})
	}
	working.Wait()
	for what, got := range map[string][]uint64{"counters": counters, "versions": versions} {
		slices.Sort(got)
		if got = slices.Compact(got); len(got) != 40 || got[39] != 40 {
			t.Errorf("%s given out: %v, want 1 to 40", what, got)
		}
	}
}

// What a machine says, PostgreSQL must be able to take: NUL is no character there.
func TestHostileText(t *testing.T) {
	d := open(t, "")
	w := newWriter("m-0001")
	odd := protocol.Stock{Slot: 1, Product: "condom-52", Batch: "B\x001", Expiry: "2031-12-31"}
	take(t, d, w.batch(w.seal(t,
		protocol.StockLoaded{Stock: odd, Pieces: 5, After: 5, Staff: "7"},
		protocol.VendDispensed{Vend: protocol.Vend{Vend: 1, Stock: odd, Pieces: 3}},
		protocol.CommandDone{ID: "c-\x00", Verb: protocol.VerbPause, Result: protocol.CommandOK, Detail: "a\x00b\xff"},
		protocol.LedgerStarted{Previous: protocol.LedgerID(strings.Repeat("0b", 16)), Reason: "lost\x00"})...))
	take(t, d, letterOf(w.m, protocol.EventsTopic(w.m), []byte("\x00{")), letterOf(w.m, "yaoju/1/m/m-0001/\x00", nil), letterOf("m\x00", "\x00", nil))
	if got := headOf(t, d, w); got == 0 {
		t.Error("nothing was stored")
	}
	levels, err := d.Levels(t.Context(), w.m)
	if err != nil || len(levels) != 1 || levels[0].Pieces != 2 {
		t.Errorf("levels %+v, err %v; want 2 pieces", levels, err)
	}
}

// A broker of its own knows who has a certificate, not who was entered.
func TestStrangerIsRefused(t *testing.T) {
	path := fresh(t)
	o := sample(path)
	o.AcceptUnknown = false
	d, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	w, done := newWriter("m-0009"), 0
	msg := w.batch(w.seal(t, loaded(1, 5))...)
	msg.done = func() { done++ }
	take(t, d, msg)
	if got := d.Counts(); got != (Counts{Refused: 1}) || done != 1 || retained(t, d, w.m) != nil {
		t.Errorf("counts %+v, told the broker %d times, ack %v; want one refused, told once, no ack", got, done, retained(t, d, w.m))
	}
	if err := d.PutMachine(t.Context(), Place{Machine: w.m}); err != nil {
		t.Fatal(err)
	}
	take(t, d, msg)
	if headOf(t, d, w) != 1 || done != 2 {
		t.Errorf("head %d, told %d times; want 1 and 2", headOf(t, d, w), done)
	}
}

// A computer that died keeps the lead, and any lock, for seconds: less than a second
// districtd with a broker of its own waits before it gives up.
func TestServerNoticesTheDead(t *testing.T) {
	t.Parallel()
	c, err := postgresConfig("postgres://db.example/yaoju")
	if err != nil {
		t.Fatal(err)
	}
	n := func(name string) int {
		v, err := strconv.Atoi(c.RuntimeParams[name])
		if err != nil || v <= 0 {
			t.Errorf("%s: %q", name, c.RuntimeParams[name])
		}
		return v
	}
	dead := time.Duration(n("tcp_keepalives_idle")+n("tcp_keepalives_interval")*n("tcp_keepalives_count")) * time.Second
	dead = max(dead, time.Duration(n("tcp_user_timeout"))*time.Millisecond)
	if dead+watchBeat+watchReply >= aloneLimit {
		t.Errorf("the dead are noticed after %v, and asked for every %v; we wait %v", dead, watchBeat, aloneLimit)
	}
	conn := rawConn(t, FreshPostgres(t)) // the server has to take them
	for name, want := range map[string]string{"lock_timeout": "30s", "idle_in_transaction_session_timeout": "1min"} {
		var got string
		if err := conn.conn.QueryRow(t.Context(), "SHOW "+name).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, err %v; want %s", name, got, err, want)
		}
	}
}

// No statement goes on beyond the end of its transaction, whatever its caller waits.
func TestStatementEnds(t *testing.T) {
	t.Parallel()
	conn := rawConn(t, FreshPostgres(t))
	conn.until = time.Now().Add(200 * time.Millisecond)
	_, err := conn.ExecContext(t.Context(), `SELECT pg_sleep(60)`, nil)
	if !errors.Is(err, context.DeadlineExceeded) || !(postgres{}).passing(err) {
		t.Errorf("it ended with %v; want an error that passes", err)
	}
	if _, err := conn.QueryContext(t.Context(), `SELECT 1`, nil); !errors.Is(err, driver.ErrBadConn) {
		t.Errorf("the connection goes on: %v", err)
	}
}

func rawConn(t *testing.T, address string) *pgConn {
	t.Helper()
	config, err := postgresConfig(address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pgConnector{config}.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c.(*pgConn)
}

// A database that goes away keeps nobody's records: they are stored when it is back.
func TestDatabaseGoesAway(t *testing.T) {
	var c PostgresCluster
	address := c.Fresh(t)
	defer c.Stop()
	d := open(t, address)
	w := newWriter("m-0001")
	take(t, d, w.batch(w.seal(t, loaded(1, 5))...))
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	msg := w.batch(w.seal(t, dispensed(1, 1))...)
	if err := d.commit(t.Context(), []message{msg}); err == nil || !d.store.passing(err) {
		t.Errorf("without a database: %v; want an error that passes", err)
	}
	if page := metricsOf(t, d); page[`yaoju_database_up{engine="postgresql"}`] != 0 || len(page) < 20 {
		t.Errorf("metrics without a database: %v", page)
	}
	persisted := make(chan error)
	go func() { persisted <- d.persist(t.Context(), []message{msg}) }()
	if err := c.Serve(); err != nil {
		t.Fatal(err)
	}
	if err := <-persisted; err != nil {
		t.Error(err)
	}
	if got := headOf(t, d, w); got != 2 {
		t.Errorf("head %d, want 2", got)
	}
	if d.store.passing(errors.New("no such table")) || d.store.passing(fmt.Errorf("x: %w", sql.ErrNoRows)) {
		t.Error("a mistake is taken for a database that is away")
	}
}

// One of those who share a database leads; when it goes, another does. What one was
// told, the pages of the other show.
func TestLead(t *testing.T) {
	address := FreshPostgres(t)
	start := func() (*District, context.CancelFunc, chan error) {
		o := sample(address)
		o.Broker = &Broker{Dial: noBroker, Name: "DISTRICT"}
		d, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx, nil) }()
		return d, cancel, done
	}
	end := func(d *District, cancel context.CancelFunc, done chan error) {
		cancel()
		if err := errors.Join(<-done, d.Close()); err != nil {
			t.Error(err)
		}
	}
	a, stopA, doneA := start()
	waitFor(t, a, true)
	b, stopB, doneB := start()
	w := newWriter("m-0001")
	take(t, a, w.batch(w.seal(t, loaded(1, 5))...))
	for limit := time.After(20 * time.Second); ; {
		_, changed := b.Watch()
		views, err := b.allViews(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if len(views) == 1 {
			break
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatal("the other process was not told of a change")
		}
	}
	waitFor(t, b, false)
	end(a, stopA, doneA)
	waitFor(t, b, true)
	end(b, stopB, doneB)
}

func noBroker(context.Context) (net.Conn, error) { return nil, errors.New("no route") }

func waitFor(t *testing.T, d *District, want bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		leads, changed := d.leads()
		if leads == want {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("leads is %v", leads)
		}
	}
}

// metricsOf reads the page that Prometheus reads, and checks its form.
func metricsOf(t *testing.T, d *District) map[string]float64 {
	t.Helper()
	w := httptest.NewRecorder()
	d.Metrics().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("metrics: %d %s", w.Code, w.Header().Get("Content-Type"))
	}
	line := regexp.MustCompile(`^([a-z_]+)(\{[a-z]+="[^"\\]*"(,[a-z]+="[^"\\]*")*\})? ([0-9.e+-]+)$`)
	out, typed := map[string]float64{}, map[string]string{}
	for l := range strings.Lines(w.Body.String()) {
		l = strings.TrimSuffix(l, "\n")
		if f := strings.Fields(l); f[0] == "#" {
			if f[1] == "TYPE" {
				if typed[f[2]] != "" {
					t.Errorf("%s is declared twice", f[2])
				}
				typed[f[2]] = f[3]
			}
			continue
		}
		m := line.FindStringSubmatch(l)
		if m == nil {
			t.Errorf("not a sample: %s", l)
			continue
		}
		name := m[1]
		for _, tail := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, tail); ok && typed[base] == "histogram" {
				name = base
			}
		}
		if typed[name] == "" || strings.HasSuffix(name, "_total") != (typed[name] == "counter") {
			t.Errorf("%s is of type %q", name, typed[name])
		}
		if _, twice := out[m[1]+m[2]]; twice {
			t.Errorf("%s is there twice", m[1]+m[2])
		}
		v, err := strconv.ParseFloat(m[4], 64)
		if err != nil {
			t.Errorf("%s: %v", l, err)
		}
		out[m[1]+m[2]] = v
	}
	return out
}

func TestMetrics(t *testing.T) {
	path := fresh(t)
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(t.Context(), sample(path))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		w := newWriter("m-0001")
		var events []protocol.Event
		events = append(events, loaded(1, 20))
		for i := range 13 {
			events = append(events, dispensed(protocol.VendID(i+1), 1))
		}
		take(t, d, w.batch(w.seal(t, events...)...), letterOf(w.m, protocol.OnlineTopic(w.m), protocol.Encode(protocol.Online{Online: true, Connection: 1})),
			letterOf(w.m, protocol.EventsTopic(w.m), []byte("{")))
		st := w.state(protocol.Ack{}, protocol.SlotState{Slot: 1, Product: "condom-52", Pieces: 7, Capacity: 20, Par: 2, Loaded: 20, Dispensed: 13})
		take(t, d, st)
		check := func(when string, want map[string]float64) {
			t.Helper()
			got := metricsOf(t, d)
			for k, v := range want {
				if n, ok := got[k]; !ok || n != v {
					t.Errorf("%s: %s is %v, %v; want %v", when, k, n, ok, v)
				}
			}
		}
		check("at first", map[string]float64{
			`yaoju_ingest_messages_total{kind="events"}`: 2, `yaoju_ingest_messages_total{kind="state"}`: 1, `yaoju_ingest_messages_total{kind="online"}`: 1,
			"yaoju_ingest_records_total": 14, "yaoju_ingest_quarantined_total": 1, "yaoju_quarantine_messages": 1, "yaoju_ingest_commits_total": 2,
			"yaoju_ingest_acks_total": 2, "yaoju_ingest_commit_seconds_count": 2, `yaoju_ingest_commit_seconds_bucket{le="+Inf"}`: 2,
			`yaoju_alarms{kind="fork"}`: 0, `yaoju_alarms{kind="balance"}`: 0, `yaoju_machines{standing="ok"}`: 1, `yaoju_machines{standing="offline"}`: 0,
			"yaoju_machines_connected": 1, "yaoju_machines_silent": 0, "yaoju_machines_behind": 0, "yaoju_ingest_oldest_seconds": 0,
			"yaoju_pieces_given_total":                       0, // today's are nobody's business yet
			`yaoju_broker_connected{broker="embedded"}`:      1,
			`yaoju_database_up{engine="` + d.Engine() + `"}`: 1,
		})
		take(t, d, w.state(protocol.Ack{}), w.batch(w.seal(t, protocol.DoorOpened{})...))
		time.Sleep(59 * time.Minute)
		check("in the same hour", map[string]float64{"yaoju_ingest_records_total": 14, "yaoju_ingest_acks_total": 2, `yaoju_ingest_messages_total{kind="events"}`: 2,
			`yaoju_ingest_messages_total{kind="state"}`: 1, "yaoju_ingest_commits_total": 3, "yaoju_ingest_commit_seconds_count": 3})
		time.Sleep(time.Minute)
		check("in the next", map[string]float64{"yaoju_ingest_records_total": 15, "yaoju_ingest_acks_total": 3, `yaoju_ingest_messages_total{kind="events"}`: 3, `yaoju_ingest_messages_total{kind="state"}`: 2})
		take(t, d, st) // and of the same moment again
		time.Sleep(23 * time.Hour)
		check("a day later", map[string]float64{"yaoju_pieces_given_total": 10, `yaoju_machines{standing="offline"}`: 1, "yaoju_machines_silent": 1})
		w.seal(t, dispensed(14, 1)) // which it could not send yet
		faulty := w.state(protocol.Ack{}, protocol.SlotState{Slot: 1, Product: "condom-52", Pieces: 6, Capacity: 20, Par: 2, Loaded: 20, Dispensed: 14})
		decoded, err := protocol.DecodeState(faulty.payload)
		if err != nil {
			t.Fatal(err)
		}
		decoded.Faults = []protocol.FaultRaised{{Fault: protocol.FaultJam, Slot: 1}, {Fault: protocol.FaultJam, Slot: 2}}
		faulty.payload = protocol.Encode(decoded)
		take(t, d, faulty)
		check("with a jam", map[string]float64{"yaoju_machines_behind": 1, `yaoju_faults{fault="jam",severity="warning"}`: 1, `yaoju_machines{standing="fault"}`: 1})
		for k := range metricsOf(t, d) {
			if strings.Contains(k, "m-0001") || strings.Contains(k, "condom") {
				t.Errorf("%s speaks of one machine or product", k)
			}
		}
	})
}

// Brokers in here know nothing of each other, so only one districtd with its own may
// use a database: the second says so and ends.
func TestNotAlone(t *testing.T) {
	t.Parallel()
	address := FreshPostgres(t)
	run := func(ctx context.Context) (*District, chan error) {
		d, err := Open(t.Context(), sample(address))
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx, l) }()
		return d, done
	}
	ctx, cancel := context.WithCancel(t.Context())
	a, doneA := run(ctx)
	waitFor(t, a, true)
	b, doneB := run(ctx)
	select {
	case err := <-doneB:
		if !errors.Is(err, errNotAlone) {
			t.Errorf("the second ended with %v", err)
		}
	case <-time.After(2 * aloneLimit):
		t.Error("the second goes on")
	}
	cancel()
	if err := errors.Join(<-doneA, a.Close(), b.Close()); err != nil {
		t.Error(err)
	}
}
