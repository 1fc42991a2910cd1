package district_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	mqttpackets "github.com/eclipse/paho.mqtt.golang/packets"

	"yaoju/daemon/district"
	"yaoju/daemon/uplink"
	"yaoju/protocol"
)

// chain is a machine's ledger in memory. It keeps the contract of uplink.Chain and
// fails the test when the district breaks its own.
type chain struct {
	t       *testing.T
	machine protocol.MachineID
	ledger  protocol.LedgerID

	mu         sync.Mutex
	records    []protocol.Sealed
	head       protocol.Head
	acked      protocol.Ack
	connection uint64
	version    uint64
	changed    chan struct{}
	slots      map[protocol.Slot]*protocol.SlotState
	commands   []protocol.Command
	desired    protocol.Desired
	largest    int  // most bytes Since ever returned
	lies       bool // the district is known to ack what this copy never wrote
}

func newChain(t *testing.T, m protocol.MachineID) *chain {
	return &chain{t: t, machine: m, ledger: protocol.NewLedgerID(), changed: make(chan struct{}), slots: map[protocol.Slot]*protocol.SlotState{}}
}

func (c *chain) commit() {
	c.version++
	close(c.changed)
	c.changed = make(chan struct{})
}

// add seals an event and does to the slots what it says.
func (c *chain) add(e protocol.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := protocol.Seal(c.machine, c.ledger, c.head, protocol.Stamp{AtMS: time.Now().UnixMilli(), Clock: protocol.ClockSynced, Boot: 1}, e)
	if err != nil {
		c.t.Error(err)
		return
	}
	c.records = append(c.records, s)
	c.head = protocol.Head{Seq: s.Seq, Hash: s.Hash}
	switch e := e.(type) {
	case protocol.StockLoaded:
		x := c.slot(e.Slot)
		x.Product, x.Expiry = e.Product, e.Expiry
		x.Pieces += e.Pieces
		x.Loaded += uint64(e.Pieces)
	case protocol.VendDispensed:
		x := c.slot(e.Slot)
		x.Pieces--
		x.Dispensed++
	}
	c.commit()
}

func (c *chain) slot(s protocol.Slot) *protocol.SlotState {
	if c.slots[s] == nil {
		c.slots[s] = &protocol.SlotState{Slot: s, Capacity: 12, Par: 3}
	}
	return c.slots[s]
}

func (c *chain) Since(_ context.Context, after uint64, maxBytes int) ([]protocol.Sealed, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if after > c.head.Seq {
		c.t.Errorf("%s: asked for records after seq %d, the head is %d", c.machine, after, c.head.Seq)
		return nil, nil
	}
	var out []protocol.Sealed
	size := 0
	for _, s := range c.records[after:] {
		if size += len(s.Body); size > maxBytes && len(out) > 0 {
			break
		}
		out = append(out, s)
	}
	c.largest = max(c.largest, size)
	return out, nil
}

func (c *chain) Acked() protocol.Ack {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acked
}

func (c *chain) SetAcked(_ context.Context, a protocol.Ack) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case a.Ledger != c.ledger:
		return nil
	case a.Seq > c.head.Seq:
		if !c.lies {
			c.t.Errorf("%s: acked seq %d, the head is %d", c.machine, a.Seq, c.head.Seq)
		}
		return fmt.Errorf("seq %d was never written", a.Seq)
	case a.Generation < c.acked.Generation, a.Generation == c.acked.Generation && a.Seq <= c.acked.Seq:
		return nil
	}
	c.acked = a
	c.commit()
	return nil
}

func (c *chain) Watch() (uint64, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version, c.changed
}

func (c *chain) ID() protocol.LedgerID { return c.ledger }

func (c *chain) MintConnection(context.Context) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connection++
	return c.connection, nil
}

func (c *chain) state(context.Context) (protocol.State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := protocol.State{
		Machine: c.machine, Ledger: c.ledger, Software: "test", Serving: protocol.ServingOpen,
		Stamp: protocol.Stamp{AtMS: time.Now().UnixMilli(), Clock: protocol.ClockSynced, Boot: 1},
		Head:  c.head.Seq, Acked: c.acked, Slots: []protocol.SlotState{}, Faults: []protocol.FaultRaised{}, Desired: c.desired.DesiredVersion,
	}
	for s := protocol.Slot(1); s <= protocol.Slots; s++ {
		if x := c.slots[s]; x != nil {
			st.Slots = append(st.Slots, *x)
		}
	}
	return st, nil
}

func (c *chain) apply(_ context.Context, d protocol.Desired) error {
	c.mu.Lock()
	newer := d.Newer(c.desired.DesiredVersion)
	if newer {
		c.desired = d
	}
	c.mu.Unlock()
	if newer {
		c.add(protocol.DesiredApplied{Generation: d.Generation, Version: d.Version})
	}
	return nil
}

func (c *chain) obey(_ context.Context, cmd protocol.Command) error {
	c.mu.Lock()
	known := slices.ContainsFunc(c.commands, func(x protocol.Command) bool { return x.ID == cmd.ID })
	if !known {
		c.commands = append(c.commands, cmd)
	}
	c.mu.Unlock()
	if !known {
		c.add(protocol.CommandDone{ID: cmd.ID, Verb: cmd.Verb, Result: protocol.CommandOK})
	}
	return nil
}

func (c *chain) load(s protocol.Slot, n int) {
	c.add(protocol.StockLoaded{Stock: stockOf(s), Pieces: n, After: n, Staff: "7"})
}

func (c *chain) vend(id protocol.VendID, s protocol.Slot) {
	c.add(protocol.VendDispensed{Vend: protocol.Vend{Vend: id, Stock: stockOf(s), Pieces: 1, RunMS: 4100, DropMS: 3900}})
}

func stockOf(s protocol.Slot) protocol.Stock {
	return protocol.Stock{Slot: s, Product: "condom-52", Batch: "B1", Expiry: "2031-12-31"}
}

// hub is a listener whose connections never touch the kernel.
type hub struct {
	conns chan net.Conn
	gone  chan struct{}
	once  sync.Once
}

func newHub() *hub { return &hub{conns: make(chan net.Conn), gone: make(chan struct{})} }

func (h *hub) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.gone:
		return nil, net.ErrClosed
	}
}

func (h *hub) Close() error   { h.once.Do(func() { close(h.gone) }); return nil }
func (h *hub) Addr() net.Addr { return &net.TCPAddr{} }

func (h *hub) dial(ctx context.Context) (net.Conn, error) {
	a, b := cable()
	select {
	case h.conns <- b:
		return a, nil
	case <-h.gone:
	case <-ctx.Done():
	}
	a.Close()
	b.Close()
	return nil, errors.New("no route")
}

// cable is net.Pipe with the slack a kernel gives a socket. Without it two
// libraries that hold a lock while they write can wait for each other for ever.
func cable() (net.Conn, net.Conn) {
	a, b := net.Pipe()
	return slacken(a), slacken(b)
}

type slack struct {
	net.Conn
	queue chan []byte
	gone  chan struct{}
	once  sync.Once
}

func slacken(c net.Conn) net.Conn {
	s := &slack{Conn: c, queue: make(chan []byte, 1024), gone: make(chan struct{})}
	go func() {
		defer c.Close()
		for {
			select {
			case b := <-s.queue:
				if _, err := c.Write(b); err != nil {
					return
				}
				continue
			default:
			}
			select {
			case b := <-s.queue:
				if _, err := c.Write(b); err != nil {
					return
				}
			case <-s.gone:
				if len(s.queue) == 0 {
					return
				}
			}
		}
	}()
	return s
}

func (s *slack) Write(b []byte) (int, error) {
	select {
	case s.queue <- slices.Clone(b):
		return len(b), nil
	case <-s.gone:
		return 0, net.ErrClosed
	}
}

// Deadlines of writes are not for what waits here: TLS sets one in the past behind its
// last word, which a kernel would still deliver.
func (s *slack) SetWriteDeadline(time.Time) error { return nil }
func (s *slack) SetDeadline(t time.Time) error    { return s.Conn.SetReadDeadline(t) }

// Close lets what was written before reach the other side, as a kernel does.
func (s *slack) Close() error {
	s.once.Do(func() { close(s.gone) })
	return errors.Join(s.Conn.SetReadDeadline(time.Now()), s.Conn.SetWriteDeadline(time.Now().Add(10*time.Second)))
}

// network stands between machines and the hub of the moment, and mistreats them
// until it is healed.
type network struct {
	healed atomic.Bool
	hub    atomic.Pointer[hub]
	eaten  atomic.Int64 // publishes confirmed but never delivered

	mu sync.Mutex
	r  *rand.Rand
}

func (n *network) chance(in100 int) bool {
	if n.healed.Load() {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.r.IntN(100) < in100
}

func (n *network) upTo(d time.Duration) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Duration(n.r.Int64N(int64(d)))
}

func (n *network) dial(ctx context.Context) (net.Conn, error) {
	h := n.hub.Load()
	if h == nil || n.chance(30) {
		return nil, errors.New("no route")
	}
	up, err := h.dial(ctx)
	if err != nil {
		return nil, err
	}
	machine, near := cable()
	var tell sync.Mutex // near is written by both directions
	closeAll := func() { near.Close(); up.Close() }
	go func() { n.carryUp(near, up, &tell); closeAll() }()
	go func() { n.carryDown(up, near, &tell); closeAll() }()
	if !n.healed.Load() {
		time.AfterFunc(n.upTo(3*time.Minute), func() {
			if !n.healed.Load() {
				closeAll()
			}
		})
	}
	return machine, nil
}

// carryUp loses, doubles and delays what the machine publishes. A lost publish is
// confirmed all the same, as a broker without a disk would.
func (n *network) carryUp(near, up net.Conn, tell *sync.Mutex) {
	in := bufio.NewReader(near)
	var late []byte
	for {
		p, err := packet(in)
		if err != nil {
			return
		}
		var out [][]byte
		switch id, publish := publishID(p); {
		case publish && n.chance(20):
			n.eaten.Add(1)
			tell.Lock()
			_, err = near.Write([]byte{0x40, 2, byte(id >> 8), byte(id)})
			tell.Unlock()
		case publish && n.chance(20):
			out = [][]byte{p, p}
		case publish && late == nil && n.chance(20):
			late = p
		default:
			out = [][]byte{p}
			if late != nil {
				out = append(out, late)
				late = nil
			}
		}
		for _, b := range out {
			if _, e := up.Write(b); e != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (n *network) carryDown(up, near net.Conn, tell *sync.Mutex) {
	in := bufio.NewReader(up)
	for {
		p, err := packet(in)
		if err != nil {
			return
		}
		if p[0]&0xf0 == 0x30 && n.chance(20) {
			continue // an ack or a command that gets lost
		}
		tell.Lock()
		_, err = near.Write(p)
		tell.Unlock()
		if err != nil {
			return
		}
	}
}

// packet reads one MQTT packet.
func packet(r *bufio.Reader) ([]byte, error) {
	first, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	size, err := binary.ReadUvarint(r) // MQTT's length has the same form
	if err != nil {
		return nil, err
	}
	p := binary.AppendUvarint([]byte{first}, size)
	head := len(p)
	p = append(p, make([]byte, size)...)
	_, err = io.ReadFull(r, p[head:])
	return p, err
}

// publishID returns the packet id of a publish of events with QoS 1.
func publishID(p []byte) (id uint16, ok bool) {
	if p[0]&0xf6 != 0x32 {
		return 0, false
	}
	_, n := binary.Uvarint(p[1:])
	rest := p[1+n:]
	topic := int(binary.BigEndian.Uint16(rest))
	if !strings.HasSuffix(string(rest[2:2+topic]), "/events") {
		return 0, false
	}
	return binary.BigEndian.Uint16(rest[2+topic:]), true
}

var quiet = slog.New(slog.DiscardHandler)

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize))
}

// service is a district that can be stopped and started over the same file.
type service struct {
	t    *testing.T
	path string
	n    *network
	d    *district.District
	stop func()

	// What differs from a district without certificates; nil: nothing.
	change func(*district.Options)
	wrap   func(net.Listener) net.Listener
}

// keep is KeepTrust of a machine whose disk is of no interest.
func keep(context.Context, protocol.Trust) error { return nil }

func (s *service) start() {
	s.t.Helper()
	o := district.Options{
		Path: s.path, Name: protocol.Text{ZH: "示例区", EN: "Sample"}, Zone: time.UTC, Hosts: []string{"district.test"},
		Signer: key(1), AcceptUnknown: true, Log: quiet,
	}
	if s.change != nil {
		s.change(&o)
	}
	d, err := district.Open(s.t.Context(), o)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	h := newHub()
	done := make(chan error, 1)
	var l net.Listener = h
	if s.wrap != nil {
		l = s.wrap(h)
	}
	go func() { done <- d.Run(ctx, l) }()
	s.d = d
	s.n.hub.Store(h)
	s.stop = func() {
		s.n.hub.Store(nil)
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
		if err := d.Close(); err != nil {
			s.t.Error(err)
		}
	}
}

// connect starts the uplink of a machine and returns how to stop it.
func connect(t *testing.T, c *chain, dial func(context.Context) (net.Conn, error)) (*uplink.Uplink, func()) {
	t.Helper()
	u, err := uplink.New(uplink.Options{
		Machine: c.machine, Chain: c, Identity: c, State: c.state, Desired: c.apply, Command: c.obey,
		Trust: protocol.Trust{Keys: []ed25519.PublicKey{key(1).Public().(ed25519.PublicKey)}}, KeepTrust: keep, Dial: dial, Log: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	return u, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// verify reads the district's file and checks that it holds exactly what the
// machine wrote.
func verify(t *testing.T, path string, c *chain) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r, err := db.Query(`SELECT seq, body, hash FROM event WHERE machine = ? AND ledger = ? ORDER BY seq`, c.machine, c.ledger)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var h protocol.Head
	for r.Next() {
		var s protocol.Sealed
		var hash []byte
		if err := r.Scan(&s.Seq, &s.Body, &hash); err != nil {
			t.Fatal(err)
		}
		copy(s.Hash[:], hash)
		if _, h, err = s.Follow(c.machine, c.ledger, h); err != nil {
			t.Fatal(err)
		}
	}
	if h != c.head {
		t.Errorf("%s: district has seq %d, machine wrote %d", c.machine, h.Seq, c.head.Seq)
	}
	if c.acked.Seq != c.head.Seq {
		t.Errorf("%s: acked seq %d, machine wrote %d", c.machine, c.acked.Seq, c.head.Seq)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	for _, tail := range []string{"-wal", "-shm"} {
		os.Remove(to + tail)
	}
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Cables are pulled, publishes are lost after being confirmed, doubled and
// delayed, acks are lost, the district is stopped, started, and once put back to
// an older copy of its file. Then everything heals and every record must be there
// exactly once.
func TestBadNetwork(t *testing.T) {
	for _, seed := range []uint64{1, 2, 3} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) { badNetwork(t, dir, seed) })
		})
	}
}

func badNetwork(t *testing.T, dir string, seed uint64) {
	n := &network{r: rand.New(rand.NewPCG(seed, seed))}
	s := &service{t: t, path: filepath.Join(dir, "d.db"), n: n}
	s.start()
	var machines []*chain
	var stops []func()
	for i := range 3 {
		c := newChain(t, protocol.MachineID(fmt.Sprintf("m-%04d", i+1)))
		c.load(1, 200)
		_, stop := connect(t, c, n.dial)
		machines, stops = append(machines, c), append(stops, stop)
	}
	copied := filepath.Join(dir, "older.db")
	for i := range 120 {
		for _, c := range machines {
			c.vend(protocol.VendID(i+1), 1)
		}
		time.Sleep(n.upTo(time.Minute))
		switch i {
		case 30:
			s.stop()
			copyFile(t, s.path, copied)
			time.Sleep(5 * time.Minute)
			s.start()
		case 60:
			s.stop()
			s.start()
		case 90:
			s.stop()
			copyFile(t, copied, s.path)
			s.start()
		}
	}
	n.healed.Store(true)
	time.Sleep(20 * time.Minute)
	if n.eaten.Load() == 0 {
		t.Error("the network lost nothing: this test proves nothing")
	}
	for _, c := range machines {
		a, err := s.d.Ack(t.Context(), c.machine)
		if err != nil || a != c.acked {
			t.Errorf("%s: district acks %+v, machine knows %+v, err %v", c.machine, a, c.acked, err)
		}
		levels, err := s.d.Levels(t.Context(), c.machine)
		if err != nil || len(levels) != 1 || levels[0].Pieces != 80 {
			t.Errorf("%s: levels %+v, err %v; want 80 pieces", c.machine, levels, err)
		}
	}
	for _, stop := range stops {
		stop()
	}
	s.stop()
	for _, c := range machines {
		verify(t, s.path, c)
	}
}

// healthy is a network that does nothing to anybody.
func healthy() *network {
	n := &network{r: rand.New(rand.NewPCG(1, 1))}
	n.healed.Store(true)
	return n
}

// page draws a page of the console, in English.
func (s *service) page(path string) string {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), http.MethodGet, path+"?lang=en", nil)
	r.Host, r.RemoteAddr = "district.test", "127.0.0.1:5"
	w := httptest.NewRecorder()
	s.d.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		s.t.Errorf("%s answered %d", path, w.Code)
	}
	return w.Body.String()
}

// mute is a line whose far end hears nothing more once it is cut, not even that
// it was closed: a mobile network that lost its state.
type mute struct {
	net.Conn
	cut *atomic.Bool
}

func (m mute) Write(b []byte) (int, error) {
	if m.cut.Load() {
		return len(b), nil
	}
	return m.Conn.Write(b)
}

func (m mute) Close() error {
	if m.cut.Load() {
		return m.Conn.SetReadDeadline(time.Now()) // frees the reader, tells nobody
	}
	return m.Conn.Close()
}

// The broker notices the loss of the first connection only when the second is
// up: the will it then sends must not mark the machine offline.
func TestWillOfAnOldConnection(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := healthy()
		s := &service{t: t, path: filepath.Join(dir, "d.db"), n: n}
		s.start()
		c := newChain(t, "m-0001")
		c.load(1, 9)
		cut := new(atomic.Bool)
		var dials atomic.Int32
		var first net.Conn
		_, stop := connect(t, c, func(ctx context.Context) (net.Conn, error) {
			l, err := n.hub.Load().dial(ctx)
			if dials.Add(1) == 1 && err == nil {
				first = l
				return mute{l, cut}, nil
			}
			return l, err
		})
		time.Sleep(10 * time.Second)
		if p := s.page("/"); !strings.Contains(p, "pill ok") {
			t.Error("not shown as online at first")
		}
		cut.Store(true)
		time.Sleep(3 * time.Minute)
		if dials.Load() < 2 {
			t.Fatal("the uplink never noticed that its line was dead")
		}
		if p := s.page("/"); !strings.Contains(p, "pill ok") {
			t.Error("shown as offline: the will of the old connection was believed")
		}
		stop()
		time.Sleep(time.Second)
		if p := s.page("/"); !strings.Contains(p, "pill offl") {
			t.Error("still shown as online after saying goodbye")
		}
		first.Close()
		s.stop()
	})
}

// Desired states and commands reach a machine that was away when they were given,
// each is done once, and the page says so.
func TestDesiredAndCommands(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := healthy()
		s := &service{t: t, path: filepath.Join(dir, "d.db"), n: n}
		s.start()
		c := newChain(t, "m-0001")
		if err := s.d.PutMachine(t.Context(), district.Place{Machine: c.machine, Name: protocol.Text{ZH: "示例站", EN: "Sample station"}}); err != nil {
			t.Fatal(err)
		}
		want := protocol.Desired{
			Machine:  c.machine,
			Policy:   protocol.Policy{AgeFrom: 18, Rules: []protocol.Rule{{Max: 2, Per: protocol.PerDays, Days: 30}}},
			Products: []protocol.Product{{ID: "condom-52", Letter: "A", Class: "condom", Units: 10, Name: protocol.Text{ZH: "避孕套", EN: "Condoms"}, Note: protocol.Text{ZH: "10 只", EN: "10 pieces"}}},
			Texts:    protocol.Texts{Authority: protocol.Text{ZH: "示例单位", EN: "Sample office"}, Phone: "000-0000"},
		}
		v, err := s.d.SetDesired(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		for _, verb := range []protocol.Verb{protocol.VerbPause, protocol.VerbResume} {
			if _, err := s.d.Send(t.Context(), c.machine, verb, 0); err != nil {
				t.Fatal(err)
			}
		}
		if p := s.page("/machines/m-0001"); strings.Count(p, "waiting for the machine") != 2 {
			t.Error("the page does not show two waiting commands")
		}
		_, stop := connect(t, c, n.dial)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if c.desired.DesiredVersion != v {
			t.Errorf("machine runs on %+v, want %+v", c.desired.DesiredVersion, v)
		}
		if len(c.commands) != 2 || c.commands[0].Verb != protocol.VerbPause {
			t.Errorf("machine was given %+v", c.commands)
		}
		p := s.page("/machines/m-0001")
		if strings.Contains(p, "waiting for the machine") || !strings.Contains(p, "Version 1, in force") {
			t.Error("the page does not show that everything was done")
		}
		stop()
		_, stop = connect(t, c, n.dial) // answered commands are not given again
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if len(c.commands) != 2 {
			t.Errorf("machine was given %d commands, want 2", len(c.commands))
		}
		stop()
		s.stop()
		verify(t, s.path, c)
	})
}

// A machine that was cut off for a year brings ten thousand records.
func TestBacklog(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := healthy()
		s := &service{t: t, path: filepath.Join(dir, "d.db"), n: n}
		s.start()
		c := newChain(t, "m-0001")
		c.load(1, 999)
		for i := range 10_000 - 1 {
			if i < 900 {
				c.vend(protocol.VendID(i+1), 1)
				continue
			}
			c.add(protocol.DoorOpened{})
		}
		_, stop := connect(t, c, n.dial)
		time.Sleep(time.Minute)
		stop()
		synctest.Wait()
		if c.largest > protocol.MaxMessage+protocol.MaxRecord {
			t.Errorf("%d bytes were taken from the chain at once", c.largest)
		}
		s.stop()
		verify(t, s.path, c)
	})
}

// A ledger copied to a second machine's card: both write on under the same id.
func TestCopiedLedger(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := healthy()
		s := &service{t: t, path: filepath.Join(dir, "d.db"), n: n}
		s.start()
		c := newChain(t, "m-0001")
		c.load(1, 9)
		twin := newChain(t, "m-0001")
		twin.ledger, twin.records, twin.head, twin.lies = c.ledger, slices.Clone(c.records), c.head, true
		twin.connection = 100
		c.vend(1, 1)
		c.vend(2, 1)
		_, stop := connect(t, c, n.dial)
		time.Sleep(time.Minute)
		stop()
		twin.add(protocol.DoorOpened{})
		_, stop = connect(t, twin, n.dial)
		time.Sleep(time.Minute)
		if p := s.page("/machines/m-0001"); !strings.Contains(p, "Two records under one number") {
			t.Error("no alarm about the fork on the page")
		}
		stop()
		if twin.acked.Seq > twin.head.Seq {
			t.Errorf("the copy was acked seq %d", twin.acked.Seq)
		}
		s.stop()
		verify(t, s.path, c)
	})
}

// A hostile client is turned away at the door, or speaks in its own name only.
func TestBrokerKeepsMachinesApart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := healthy()
		s := &service{t: t, path: filepath.Join(dir, "d.db"), n: n}
		s.start()
		own := func() *mqttpackets.ConnectPacket {
			p := mqttpackets.NewControlPacket(mqttpackets.Connect).(*mqttpackets.ConnectPacket)
			p.ProtocolName, p.ProtocolVersion, p.CleanSession, p.ClientIdentifier, p.Keepalive = "MQTT", 4, true, "m-0666", 60
			return p
		}
		for name, spoil := range map[string]func(p *mqttpackets.ConnectPacket){
			"id":        func(p *mqttpackets.ConnectPacket) { p.ClientIdentifier = "M/+" },
			"long id":   func(p *mqttpackets.ConnectPacket) { p.ClientIdentifier = strings.Repeat("m", 33) },
			"session":   func(p *mqttpackets.ConnectPacket) { p.CleanSession = false },
			"keepalive": func(p *mqttpackets.ConnectPacket) { p.Keepalive = 0 },
			"foreign will": func(p *mqttpackets.ConnectPacket) {
				p.WillFlag, p.WillTopic, p.WillMessage = true, "yaoju/1/m/m-0001/online", []byte("{}")
			},
			"command will": func(p *mqttpackets.ConnectPacket) {
				p.WillFlag, p.WillTopic, p.WillMessage = true, "yaoju/1/d/m-0001/command", []byte("{}")
			},
			"wildcard will": func(p *mqttpackets.ConnectPacket) { p.WillFlag, p.WillTopic, p.WillMessage = true, "#", []byte("{}") },
		} {
			p := own()
			spoil(p)
			if code := hello(t, n, p, nil); code == 0 {
				t.Errorf("bad %s: admitted", name)
			}
		}
		for _, topic := range []string{"yaoju/1/m/m-0001/events", "yaoju/1/d/m-0666/ack", "yaoju/1/d/m-0001/command", "$SYS/x"} {
			hello(t, n, own(), func(c net.Conn) {
				p := mqttpackets.NewControlPacket(mqttpackets.Publish).(*mqttpackets.PublishPacket)
				p.TopicName, p.Qos, p.MessageID, p.Payload = topic, 1, 1, []byte("{}")
				if err := p.Write(c); err != nil {
					t.Error(err)
				}
				if a, err := mqttpackets.ReadPacket(c); err == nil {
					if _, confirmed := a.(*mqttpackets.PubackPacket); confirmed {
						t.Errorf("publish on %s was confirmed", topic)
					}
				}
			})
		}
		for _, filter := range []string{"#", "yaoju/1/#", "yaoju/1/d/+/command", "yaoju/1/d/m-0001/desired", "yaoju/1/m/m-0666/events", "$SYS/#", "$share/x/yaoju/1/d/m-0666/ack"} {
			hello(t, n, own(), func(c net.Conn) {
				p := mqttpackets.NewControlPacket(mqttpackets.Subscribe).(*mqttpackets.SubscribePacket)
				p.Topics, p.Qoss, p.MessageID = []string{filter}, []byte{1}, 1
				if err := p.Write(c); err != nil {
					t.Error(err)
				}
				if a, err := mqttpackets.ReadPacket(c); err == nil {
					if s, ok := a.(*mqttpackets.SubackPacket); ok && s.ReturnCodes[0] < 0x80 {
						t.Errorf("subscription to %s was granted", filter)
					}
				}
			})
		}
		silent, err := n.hub.Load().dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := silent.Read(make([]byte, 1)); err == nil || time.Since(start) > time.Minute {
			t.Errorf("a client that says nothing was kept for %v, err %v", time.Since(start), err)
		}
		silent.Close()
		s.stop()
	})
}

// hello connects with p, runs then if it was admitted, and returns the code.
func hello(t *testing.T, n *network, p *mqttpackets.ConnectPacket, then func(c net.Conn)) byte {
	t.Helper()
	c, err := n.hub.Load().dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		c.Close()
		synctest.Wait()
	}()
	if err := p.Write(c); err != nil {
		t.Fatal(err)
	}
	a, err := mqttpackets.ReadPacket(c)
	if err != nil {
		return 0xff
	}
	ack, ok := a.(*mqttpackets.ConnackPacket)
	if !ok {
		t.Fatalf("answered %v", a)
	}
	if ack.ReturnCode == 0 && then != nil {
		then(c)
	}
	return ack.ReturnCode
}
