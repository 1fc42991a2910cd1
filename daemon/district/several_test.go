package district_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/jackc/pgx/v5"

	"yaoju/daemon/district"
	"yaoju/daemon/identity"
	"yaoju/protocol"
)

// town is two real districtd over one real PostgreSQL and one real Mosquitto, which
// has the configuration that deploy/district installs.
type town struct {
	t        *testing.T
	dir      string
	database district.PostgresCluster
	address  string // of the database
	port     string // of the broker
	broker   *district.Program
	houses   [2]*house
}

// house is one districtd.
type house struct {
	dir, config string
	console     string
	metrics     string
	desk        string
	process     *district.Program
}

func build(t *testing.T, dir string) string {
	t.Helper()
	bin := filepath.Join(dir, "districtd")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "yaoju/cmd/districtd").CombinedOutput(); err != nil {
		t.Fatalf("build districtd: %v\n%s", err, out)
	}
	return bin
}

// freePorts are ports on loopback that were free a moment ago, each once.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // only when all are known
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, port)
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openTown(t *testing.T) *town {
	t.Helper()
	ports := freePorts(t, 7)
	w := &town{t: t, dir: t.TempDir(), port: ports[6]}
	w.address = w.database.Fresh(t)
	t.Cleanup(func() {
		if err := w.database.Stop(); err != nil {
			t.Error(err)
		}
	})
	for i := range w.houses {
		h := &house{dir: filepath.Join(w.dir, fmt.Sprint(i)), console: "127.0.0.1:" + ports[3*i], metrics: "127.0.0.1:" + ports[3*i+1], desk: "127.0.0.1:" + ports[3*i+2]}
		w.houses[i] = h
		must(t, os.Mkdir(h.dir, 0o700))
		h.config = filepath.Join(h.dir, "districtd.toml")
		name := "DISTRICT"
		if i > 0 {
			name += fmt.Sprint("-", i+1)
		}
		text := fmt.Sprintf("data = %q\ndatabase = %q\nmetrics = %q\naccept_unknown = true\nname = {zh = \"示例区\", en = \"Sample\"}\n"+
			"[console]\nlisten = %q\n[mqtt]\nbroker = \"tls://127.0.0.1:%s\"\nname = %q\n[identity]\nlisten = %q\nnames = [\"127.0.0.1\"]\n",
			filepath.Join(h.dir, "data"), w.address, h.metrics, h.console, w.port, name, h.desk)
		must(t, os.WriteFile(h.config, []byte(text), 0o600))
	}
	// The first makes the keys; the second is given them, as an officer would do it.
	bin := build(t, w.dir)
	w.start(bin, 0)
	w.wait("the broker's files", func() bool { _, err := os.Stat(w.files("revoked.txt")); return err == nil })
	data := filepath.Join(w.houses[1].dir, "data")
	must(t, os.Mkdir(data, 0o700))
	must(t, os.CopyFS(filepath.Join(data, "ca"), os.DirFS(filepath.Join(w.houses[0].dir, "data", "ca"))))
	key, err := os.ReadFile(filepath.Join(w.houses[0].dir, "data", "district.key"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(data, "district.key"), key, 0o600))
	for _, f := range []string{"root.pem", "root.key", "issuing.pem"} {
		must(t, os.Chmod(filepath.Join(data, "ca", f), 0o600))
	}
	must(t, os.Chmod(filepath.Join(data, "ca"), 0o700))
	w.start(bin, 1)
	w.startBroker()
	for i := range w.houses {
		w.ready(i)
	}
	return w
}

func (w *town) files(name string) string {
	return filepath.Join(w.houses[0].dir, "data", "broker", name)
}

func (w *town) start(bin string, i int) {
	w.t.Helper()
	h := w.houses[i]
	var err error
	h.process, err = district.StartProgram("", bin, "-config", h.config)
	must(w.t, err)
	w.t.Cleanup(func() {
		said, err := h.process.Stop()
		if err != nil || w.t.Failed() {
			w.t.Errorf("districtd %d: %v\n%s", i+1, err, said)
		}
	})
}

// again starts a districtd that was killed.
func (w *town) again(i int) {
	w.t.Helper()
	var err error
	w.houses[i].process, err = district.StartProgram("", filepath.Join(w.dir, "districtd"), "-config", w.houses[i].config)
	must(w.t, err)
}

// startBroker starts Mosquitto as deploy/district configures it, but for the port and
// the folders.
func (w *town) startBroker() {
	w.t.Helper()
	const from = "../../deploy/district/root/usr/share/yaoju-district/mosquitto"
	conf, err := os.ReadFile(filepath.Join(from, "yaoju.conf"))
	must(w.t, err)
	acl, err := os.ReadFile(filepath.Join(from, "yaoju.acl"))
	must(w.t, err)
	must(w.t, os.WriteFile(w.files("acl"), acl, 0o600))
	text := strings.NewReplacer("\nlistener 8883\n", "\nlistener "+w.port+" 127.0.0.1\n", "/etc/mosquitto/yaoju/", w.files("")+"/").Replace(string(conf))
	if os.Geteuid() == 0 {
		text += "user root\n" // the folder is ours alone
	}
	path := filepath.Join(w.dir, "mosquitto.conf")
	must(w.t, os.WriteFile(path, []byte(text), 0o600))
	w.broker, err = district.StartProgram("", "/usr/sbin/mosquitto", "-c", path)
	must(w.t, err)
	p := w.broker
	w.t.Cleanup(func() {
		if said, err := p.Stop(); err != nil || w.t.Failed() {
			w.t.Errorf("mosquitto: %v\n%s", err, said)
		}
	})
}

// wait waits until something is so.
func (w *town) wait(what string, so func() bool) {
	w.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !so(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: not within two minutes", what)
		}
	}
}

// figure reads one line of a districtd's metrics; empty if it is not there.
func (w *town) figure(i int, line string) string {
	r, err := http.Get("http://" + w.houses[i].metrics + "/metrics")
	if err != nil {
		return ""
	}
	defer r.Body.Close()
	var b bytes.Buffer
	b.ReadFrom(r.Body) // what is missing is not found below
	for l := range strings.Lines(b.String()) {
		if value, ok := strings.CutPrefix(l, line+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// ready waits until a districtd has its broker and its database.
func (w *town) ready(i int) {
	w.t.Helper()
	w.wait(fmt.Sprintf("districtd %d is ready", i+1), func() bool {
		return w.figure(i, `yaoju_broker_connected{broker="external"}`) == "1" && w.figure(i, `yaoju_database_up{engine="postgresql"}`) == "1"
	})
}

// enrol gives a machine its certificate, at the desk of either districtd, and returns
// how it dials the broker.
func (w *town) enrol(m protocol.MachineID, i int) func(context.Context) (net.Conn, error) {
	w.t.Helper()
	h := w.houses[i]
	out, err := exec.CommandContext(w.t.Context(), filepath.Join(w.dir, "districtd"), "-config", h.config, "enrol", string(m)).CombinedOutput()
	if err != nil {
		w.t.Fatalf("districtd enrol: %v\n%s", err, out)
	}
	text, _, _ := strings.Cut(string(out), "\n")
	l, err := identity.ParseLine(text)
	must(w.t, err)
	var d net.Dialer
	o := identity.Options{Dir: filepath.Join(w.dir, string(m)), Machine: m, Desk: h.desk, Synced: func() bool { return true }, Log: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }}
	_, err = identity.EnrolAnew(w.t.Context(), o, l)
	must(w.t, err)
	id, err := identity.New(o)
	must(w.t, err)
	return func(ctx context.Context) (net.Conn, error) { return id.Dial(ctx, "127.0.0.1:"+w.port) }
}

// Two districtd share the work of one database and one broker. Either, the broker and
// the database are killed while machines report; in the end every record is there
// once, and the sums are right.
func TestSeveral(t *testing.T) {
	t.Parallel()
	w := openTown(t)
	machines := []protocol.MachineID{"m-0001", "m-0002", "m-0003", "m-0004", "m-0005", "m-0006"}
	var chains []*chain
	for i, m := range machines {
		c := newChain(t, m)
		c.load(1, 900)
		chains = append(chains, c)
		_, stop := connect(t, c, w.enrol(m, i%2))
		t.Cleanup(stop)
	}
	id := protocol.VendID(0)
	report := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(40 * time.Millisecond) {
			for _, c := range chains {
				id++
				c.vend(id, 1)
			}
		}
	}
	report(2 * time.Second)
	for _, kill := range []struct {
		what       string
		end, begin func()
	}{
		{"the first districtd", func() { must(t, w.houses[0].process.Kill()) }, func() { w.again(0) }},
		{"the second districtd", func() { must(t, w.houses[1].process.Kill()) }, func() { w.again(1) }},
		{"the broker", func() { must(t, w.broker.Kill()) }, w.startBroker},
		{"the database", func() { must(t, w.database.Kill()) }, func() { must(t, w.database.Serve()) }},
	} {
		t.Log("killing", kill.what)
		kill.end()
		report(1500 * time.Millisecond)
		kill.begin()
		report(1500 * time.Millisecond)
	}
	for i := range w.houses {
		w.ready(i)
	}
	report(time.Second)
	for _, c := range chains {
		w.wait(fmt.Sprintf("all of %s is acked", c.machine), func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.acked.Seq == c.head.Seq
		})
	}
	w.count(chains)
	for i := range w.houses {
		if n := w.figure(i, "yaoju_ingest_commits_total"); n == "" || n == "0" {
			t.Errorf("districtd %d committed %q times, want its share", i+1, n)
		}
	}
	if a, b := w.figure(0, "yaoju_leader"), w.figure(1, "yaoju_leader"); a == b {
		t.Errorf("%q and %q lead, want one", a, b)
	}
	w.apart(chains)
}

// count holds the database against what the machines wrote.
func (w *town) count(chains []*chain) {
	w.t.Helper()
	ctx := w.t.Context()
	db, err := pgx.Connect(ctx, w.address)
	must(w.t, err)
	defer db.Close(ctx)
	for _, c := range chains {
		verifyRows(w.t, db, c)
		var pieces int
		must(w.t, db.QueryRow(ctx, `SELECT pieces FROM level WHERE machine = $1`, c.machine).Scan(&pieces))
		if want := c.slots[1].Pieces; pieces != want {
			w.t.Errorf("%s: %d pieces by the events, the machine has %d", c.machine, pieces, want)
		}
		var online int
		must(w.t, db.QueryRow(ctx, `SELECT online FROM online WHERE machine = $1`, c.machine).Scan(&online))
		if online != 1 {
			w.t.Errorf("%s is offline at the district", c.machine)
		}
	}
	for what, query := range map[string]string{"alarms": `SELECT count(*) FROM alarm`, "messages put aside": `SELECT count(*) FROM quarantine`,
		"records outside their month": `SELECT count(*) FROM event_other`} {
		var n int
		must(w.t, db.QueryRow(ctx, query).Scan(&n))
		if n != 0 {
			w.t.Errorf("%d %s, want none", n, what)
		}
	}
}

func verifyRows(t *testing.T, db *pgx.Conn, c *chain) {
	t.Helper()
	r, err := db.Query(t.Context(), `SELECT seq, body, hash FROM event WHERE machine = $1 AND ledger = $2 ORDER BY seq`, c.machine, c.ledger)
	must(t, err)
	defer r.Close()
	var h protocol.Head
	for r.Next() {
		var s protocol.Sealed
		var hash []byte
		must(t, r.Scan(&s.Seq, &s.Body, &hash))
		copy(s.Hash[:], hash)
		_, h, err = s.Follow(c.machine, c.ledger, h)
		must(t, err) // a record that is there twice does not follow itself
	}
	must(t, r.Err())
	if h != c.head {
		t.Errorf("%s: the district has seq %d, the machine wrote %d", c.machine, h.Seq, c.head.Seq)
	}
}

// apart: a machine with a good certificate can neither write nor read what is
// another's, nor take its place at the broker.
func (w *town) apart(chains []*chain) {
	t := w.t
	t.Helper()
	dial := w.enrol("m-0066", 0)
	victim := chains[0]
	victim.mu.Lock()
	before, connections := victim.head, victim.connection
	victim.mu.Unlock()
	heard := make(chan string, 64)
	forged, err := protocol.Seal(victim.machine, victim.ledger, before, protocol.Stamp{AtMS: time.Now().UnixMilli(), Clock: protocol.ClockSynced, Boot: 1}, protocol.DoorOpened{})
	must(t, err)
	batch, _ := protocol.AppendBatch(nil, victim.ledger, []protocol.Sealed{forged})
	for topic, payload := range map[string][]byte{
		protocol.EventsTopic(victim.machine): batch,
		protocol.OnlineTopic(victim.machine): protocol.Encode(protocol.Online{Connection: 1 << 40}),
		protocol.AckTopic("m-0066"):          protocol.Encode(protocol.Ack{Ledger: victim.ledger, Generation: 1 << 50, Seq: 1}),
	} {
		rogue := w.client(dial, victim.machine, heard)
		// Whether the broker says so or hangs up, nobody hears it.
		rogue.Publish(topic, 1, true, payload).WaitTimeout(10 * time.Second)
		rogue.Disconnect(100)
	}
	rogue := w.client(dial, victim.machine, heard)
	defer rogue.Disconnect(100)
	for _, topic := range []string{protocol.AckTopic("m-0066"), protocol.AckTopic(victim.machine), "yaoju/1/d/+/ack", "yaoju/1/m/+/events", "$share/yaoju/yaoju/1/m/+/events", "#"} {
		if s := rogue.Subscribe(topic, 1, nil); !s.WaitTimeout(10*time.Second) || s.Error() != nil {
			t.Fatalf("subscribe to %s: %v", topic, s.Error())
		}
	}
	// Something of its own must reach it, or this shows nothing.
	state := protocol.State{Machine: "m-0066", Ledger: protocol.NewLedgerID(), Software: "test", Serving: protocol.ServingOpen, Slots: []protocol.SlotState{},
		Stamp: protocol.Stamp{AtMS: time.Now().UnixMilli(), Clock: protocol.ClockSynced, Boot: 1}, Faults: []protocol.FaultRaised{}}
	rogue.Publish(protocol.StateTopic("m-0066"), 1, true, protocol.Encode(state)).WaitTimeout(10 * time.Second)
	// A record that the broker would give to the rogue instead comes again after 30 s.
	began := time.Now()
	for i := range uint64(12) {
		victim.vend(protocol.VendID(1<<30+i), 1)
		w.wait("the victim goes on", func() bool { return victim.Acked().Seq == before.Seq+1+i })
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("12 records took %v to be acked", took)
	}
	own := false
	for end := time.After(2 * time.Second); ; { // for what must not come
		select {
		case topic := <-heard:
			own = own || topic == protocol.AckTopic("m-0066")
			if topic != protocol.AckTopic("m-0066") {
				t.Errorf("m-0066 hears %s", topic)
			}
			continue
		case <-end:
		}
		break
	}
	if !own || !rogue.IsConnectionOpen() {
		t.Errorf("m-0066 heard its own ack: %v, is connected: %v", own, rogue.IsConnectionOpen())
	}
	w.count(chains)
	victim.mu.Lock()
	defer victim.mu.Unlock()
	if victim.connection != connections {
		t.Error("the victim's connection was ended")
	}
}

// client connects with a machine's certificate under a client id, and puts into heard
// what it is told.
func (w *town) client(dial func(context.Context) (net.Conn, error), id protocol.MachineID, heard chan<- string) mqtt.Client {
	w.t.Helper()
	conn, err := dial(w.t.Context())
	must(w.t, err)
	o := mqtt.NewClientOptions().AddBroker("tcp://broker").SetClientID(string(id)).SetProtocolVersion(4).SetAutoReconnect(false)
	o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return conn, nil })
	o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { heard <- m.Topic() })
	c := mqtt.NewClient(o)
	if s := c.Connect(); !s.WaitTimeout(10*time.Second) || s.Error() != nil {
		w.t.Fatalf("connect: %v", s.Error())
	}
	return c
}

// A command that was given while there was no broker reaches the machine once there is
// one, though the machine noticed nothing.
func TestCommandWithoutBroker(t *testing.T) {
	t.Parallel()
	dir, port := t.TempDir(), freePorts(t, 1)[0]
	path := filepath.Join(dir, "mosquitto.conf")
	must(t, os.WriteFile(path, []byte("listener "+port+" 127.0.0.1\nallow_anonymous true\n"), 0o644))
	p, err := district.StartProgram("", "/usr/sbin/mosquitto", "-c", path)
	must(t, err)
	defer p.Stop()
	dial := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", "127.0.0.1:"+port)
	}
	w := &town{t: t}
	w.wait("a broker", func() bool {
		c, err := dial(t.Context())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	heard := make(chan string, 64)
	machine := w.client(dial, "m-0001", heard)
	defer machine.Disconnect(100)
	if s := machine.Subscribe("yaoju/1/d/m-0001/#", 1, nil); !s.WaitTimeout(10*time.Second) || s.Error() != nil {
		t.Fatal(s.Error())
	}
	d, err := district.Open(t.Context(), district.Options{Path: filepath.Join(dir, "d.db"), Name: protocol.Text{ZH: "示例区", EN: "Sample"}, Zone: time.UTC,
		Signer: key(1), Broker: &district.Broker{Dial: dial, Name: "DISTRICT"}, Log: quiet})
	must(t, err)
	must(t, d.PutMachine(t.Context(), district.Place{Machine: "m-0001"}))
	_, err = d.Send(t.Context(), "m-0001", protocol.VerbPause, 0)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, nil) }()
	select {
	case topic := <-heard:
		if topic != protocol.CommandTopic("m-0001") {
			t.Errorf("heard %s, want the command", topic)
		}
	case <-time.After(30 * time.Second):
		t.Error("the machine hears nothing")
	}
	cancel()
	must(t, <-done)
	must(t, d.Close())
}
