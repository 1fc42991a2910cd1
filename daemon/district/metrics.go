package district

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"yaoju/protocol"
)

// scrapeLimit bounds one scrape: below the 10 s after which Prometheus gives up.
const scrapeLimit = 8 * time.Second

// stepGiven is the step in which the count of pieces given out moves, once a day at
// most: a number that moved with each would tell the minute of a visit.
const stepGiven = 5

// stepCounts is how often the counts of records, acks and messages move that are shown,
// and the latencies with them: one that moved with each would do the same. Rates of
// them are taken over two hours or more.
const stepCounts = time.Hour

// meter counts what Prometheus is shown and the store does not know. Nothing in it
// speaks of one machine or of one person.
type meter struct {
	scraping sync.Mutex // held by the one scrape at a time; a second is refused

	mu       sync.Mutex
	commits  uint64            // guarded by mu
	acks     uint64            // guarded by mu
	connects uint64            // guarded by mu: to a broker of its own
	kinds    map[string]uint64 // guarded by mu: messages
	commit   histogram         // guarded by mu: seconds of a transaction
	latency  histogram         // guarded by mu: seconds from arrival to commit
	oldest   time.Time         // guarded by mu: when the oldest message being committed came in; zero: none is
	shown    shown             // guarded by mu
}

// shown is what the page says until it is stepCounts old.
type shown struct {
	at      time.Time // zero: never yet
	records uint64
	acks    uint64
	kinds   map[string]uint64
	latency histogram
}

func newMeter() *meter {
	return &meter{kinds: map[string]uint64{"events": 0, "state": 0, "online": 0, "other": 0}}
}

// bounds are the upper ends of a histogram's buckets, in seconds.
func bounds() [15]float64 {
	return [...]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}
}

// histogram counts durations by their length.
type histogram struct {
	buckets [15]uint64 // up to each of bounds, and above the one before
	count   uint64
	sum     float64
}

func (h *histogram) observe(d time.Duration) {
	h.count++
	h.sum += d.Seconds()
	for i, b := range bounds() {
		if d.Seconds() <= b {
			h.buckets[i]++
			return
		}
	}
}

// begin notes when the oldest message that is being committed came in; zero: none is.
func (m *meter) begin(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.oldest = at
}

func (m *meter) connected() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.connects++
}

// committed counts one transaction.
func (m *meter) committed(acks int, batch []message, took time.Duration) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commits++
	m.acks += uint64(acks)
	m.commit.observe(took)
	for _, msg := range batch {
		kind := msg.topic[strings.LastIndexByte(msg.topic, '/')+1:]
		if _, ok := m.kinds[kind]; !ok {
			kind = "other"
		}
		m.kinds[kind]++
		if !msg.at.IsZero() {
			m.latency.observe(now.Sub(msg.at))
		}
	}
}

// Metrics returns the page that Prometheus asks for. It has no sign-in: it is for
// loopback.
func (d *District) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !d.meter.scraping.TryLock() {
			http.Error(w, "another scrape is under way", http.StatusServiceUnavailable)
			return
		}
		defer d.meter.scraping.Unlock()
		ctx, cancel := context.WithTimeout(r.Context(), scrapeLimit)
		defer cancel()
		page := d.scrape(ctx, time.Now())
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		w.Write(page) // an error here means that nobody listens any more
	})
}

// point is one line of a metric.
type point struct {
	labels string // a="b",c="d"
	value  float64
}

// exposition is a page in Prometheus' text format, version 0.0.4.
type exposition struct{ bytes.Buffer }

// head writes what is said once of a metric.
func (x *exposition) head(name, kind, help string) {
	fmt.Fprintf(x, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (x *exposition) line(name, labels string, v float64) {
	x.WriteString(name)
	if labels != "" {
		x.WriteString("{" + labels + "}")
	}
	x.WriteString(" " + strconv.FormatFloat(v, 'g', -1, 64) + "\n")
}

// put writes a metric; one whose name ends in _total only rises.
func (x *exposition) put(name, help string, points ...point) {
	kind := "gauge"
	if strings.HasSuffix(name, "_total") {
		kind = "counter"
	}
	x.head(name, kind, help)
	for _, s := range points {
		x.line(name, s.labels, s.value)
	}
}

// one is a metric without labels.
func (x *exposition) one(name, help string, v float64) { x.put(name, help, point{"", v}) }

// by writes a metric with a line for each value of a label.
func by[K ~string, V int | uint64](x *exposition, name, help, label string, n map[K]V) {
	var out []point
	for _, k := range slices.Sorted(maps.Keys(n)) {
		out = append(out, point{label + "=" + strconv.Quote(string(k)), float64(n[k])})
	}
	x.put(name, help, out...)
}

func (x *exposition) spread(name, help string, h histogram) {
	x.head(name, "histogram", help)
	var below uint64
	for i, b := range bounds() {
		below += h.buckets[i]
		x.line(name+"_bucket", `le="`+strconv.FormatFloat(b, 'g', -1, 64)+`"`, float64(below))
	}
	x.line(name+"_bucket", `le="+Inf"`, float64(h.count))
	x.line(name+"_sum", "", h.sum)
	x.line(name+"_count", "", float64(h.count))
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// scrape writes the page. A store that does not answer is said to be down, and what
// it would have said is left out.
func (d *District) scrape(ctx context.Context, now time.Time) []byte {
	var x exposition
	d.scrapeMemory(&x, now)
	scrapeProcess(&x)
	err := d.scrapeStore(ctx, &x, now)
	if err != nil && ctx.Err() == nil {
		d.o.Log.Warn("the store did not answer a scrape", "err", err)
	}
	x.put("yaoju_database_up", "1 if the store answered this scrape.", point{`engine="` + d.store.name() + `"`, oneIf(err == nil)})
	return x.Bytes()
}

func (d *District) scrapeMemory(x *exposition, now time.Time) {
	c, m := d.Counts(), d.meter
	leads, _ := d.leads()
	broker := `broker="embedded"`
	if d.o.Broker != nil {
		broker = `broker="external"`
	}
	x.put("yaoju_build_info", "1; the version is in the label.", point{"version=" + strconv.Quote(d.o.Version), 1})
	x.put("yaoju_broker_connected", "1 if machines can be heard.", point{broker, oneIf(d.line.up())})
	x.one("yaoju_leader", "1 in the one districtd that does what only one may.", oneIf(leads))
	x.one("yaoju_ingest_duplicates_total", "Records that were stored already.", float64(c.Duplicates))
	x.one("yaoju_ingest_gaps_total", "Batches that began after the next record.", float64(c.Gaps))
	x.one("yaoju_ingest_refused_total", "Forks, broken chains, messages in another's name or of unknown machines.", float64(c.Refused))
	x.one("yaoju_ingest_quarantined_total", "Messages and records put aside.", float64(c.Quarantined))
	x.one("yaoju_ingest_queue_messages", "Messages waiting for their turn.", float64(len(d.queue)))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shown.at.IsZero() || now.Sub(m.shown.at) >= stepCounts {
		m.shown = shown{now, c.Records, m.acks, maps.Clone(m.kinds), m.latency}
	}
	oldest := 0.0
	if !m.oldest.IsZero() {
		oldest = now.Sub(m.oldest).Seconds()
	}
	x.one("yaoju_ingest_oldest_seconds", "Age of the oldest message that is not committed; 0 if none waits.", oldest)
	x.one("yaoju_ingest_records_total", "Records stored, each once; moves once an hour.", float64(m.shown.records))
	x.one("yaoju_ingest_commits_total", "Transactions of the ingest.", float64(m.commits))
	x.one("yaoju_ingest_acks_total", "Acks published; moves once an hour.", float64(m.shown.acks))
	x.one("yaoju_broker_connects_total", "Connections made to a broker that is a program of its own.", float64(m.connects))
	by(x, "yaoju_ingest_messages_total", "Messages committed, by kind; moves once an hour.", "kind", m.shown.kinds)
	x.spread("yaoju_ingest_commit_seconds", "Duration of one transaction of the ingest.", m.commit)
	x.spread("yaoju_ingest_latency_seconds", "From the arrival of a message to its commit; moves once an hour.", m.shown.latency)
}

// scrapeProcess says what the process takes, under the names every exporter uses. What
// the kernel does not tell is left out.
func scrapeProcess(x *exposition) {
	x.one("go_goroutines", "Goroutines.", float64(runtime.NumGoroutine()))
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		x.one("process_open_fds", "Open file descriptors.", float64(len(fds)))
	}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, resident float64
		if _, err := fmt.Sscan(string(b), &size, &resident); err == nil {
			x.one("process_resident_memory_bytes", "Resident memory.", resident*float64(os.Getpagesize()))
		}
	}
}

// scrapeStore is what the store says.
func (d *District) scrapeStore(ctx context.Context, x *exposition, now time.Time) error {
	for _, m := range []struct{ name, help, query string }{
		{"yaoju_quarantine_messages", "Messages kept aside for a person.", `SELECT count(*) FROM quarantine`},
		{"yaoju_machines_connected", "Machines whose connection is open.", `SELECT count(*) FROM online WHERE online = 1`},
		{"yaoju_machines_behind", "Machines that have records the store has not.",
			`SELECT count(*) FROM state JOIN ledger ON ledger.machine = state.machine AND ledger.ledger = state.ledger WHERE state.head > ledger.head_seq`},
	} {
		var n int64
		if err := d.store.read.QueryRowContext(ctx, m.query).Scan(&n); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		x.one(m.name, m.help, float64(n))
	}
	var given int64
	err := d.store.read.QueryRowContext(ctx, `SELECT CAST(coalesce(sum(pieces), 0) AS BIGINT) FROM given WHERE day < ?`, d.lastDays(now, 1)[0]).Scan(&given)
	if err != nil {
		return fmt.Errorf("pieces given: %w", err)
	}
	x.one("yaoju_pieces_given_total", "Pieces given out up to the end of yesterday, rounded down to fives.", float64(given-given%stepGiven))
	size, err := d.store.size(ctx, d.store.read)
	if err != nil {
		return fmt.Errorf("size of the database: %w", err)
	}
	x.one("yaoju_database_size_bytes", "Size of the database.", float64(size))
	if err := d.scrapeAlarms(ctx, x); err != nil {
		return err
	}
	return d.scrapeMachines(ctx, x, now)
}

func (d *District) scrapeAlarms(ctx context.Context, x *exposition) error {
	n := map[string]int{}
	for _, kind := range alarmKinds() {
		n[kind] = 0
	}
	err := rows(ctx, d.store.read, `SELECT kind, count(DISTINCT machine) FROM alarm GROUP BY kind`, nil, func(r *sql.Rows) error {
		var kind string
		var machines int
		err := r.Scan(&kind, &machines)
		n[kind] = machines
		return err
	})
	if err != nil {
		return fmt.Errorf("count the alarms: %w", err)
	}
	by(x, "yaoju_alarms", "Machines on which an alarm stands, by kind.", "kind", n)
	return nil
}

// scrapeMachines counts machines as the pages show them.
func (d *District) scrapeMachines(ctx context.Context, x *exposition, now time.Time) error {
	views, err := d.allViews(ctx, now)
	if err != nil {
		return err
	}
	stands, faults := map[string]int{}, map[string]int{}
	for _, s := range standings() {
		stands[s.word()] = 0
	}
	silent, open := 0, 0
	for _, v := range views {
		stands[v.standing(now).word()]++
		if v.connected && (v.state == nil || now.Sub(v.stateAt) > staleAfter) {
			silent++
		}
		if v.state == nil {
			continue
		}
		if v.state.Open > 0 {
			open++
		}
		mine := map[string]bool{} // several slots may have the same
		for _, f := range v.state.Faults {
			info, _ := f.Fault.Info()
			mine[fmt.Sprintf("fault=%q,severity=%q", strings.ToLower(info.Name), severity(info.Severity))] = true
		}
		for f := range mine {
			faults[f]++
		}
	}
	by(x, "yaoju_machines", "Machines by their worst standing.", "standing", stands)
	x.one("yaoju_machines_silent", "Machines that are connected and sent no snapshot for 11 minutes.", float64(silent))
	x.one("yaoju_machines_vend_open", "Machines with a vend whose end nobody knows.", float64(open))
	var lines []point
	for _, f := range slices.Sorted(maps.Keys(faults)) {
		lines = append(lines, point{f, float64(faults[f])})
	}
	x.put("yaoju_faults", "Machines that report a fault.", lines...)
	return nil
}

func severity(s protocol.Severity) string {
	switch s {
	case protocol.Notice:
		return "notice"
	case protocol.Warning:
		return "warning"
	}
	return "urgent"
}
