package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"yaoju/daemon/uplink"
	"yaoju/protocol"
)

// history is how much of its past a light machine brings along.
const history = 3 * 24 * time.Hour

// visitEvery is how often a restocker looks in.
const visitEvery = 36 * time.Hour

// keptShare is the share of vends in which nothing comes out.
const keptShare = 0.015

// lightMachine makes the records a machine would make, with a chain, a clock and
// residents of its own, and speaks to the district over the real uplink. It has
// no ledger file, no board and no screen: hundreds of them fit in one process.
type lightMachine struct {
	site  site
	id    protocol.LedgerID
	rand  *rand.Rand // owned by live
	speed float64
	start time.Time

	mu      sync.Mutex
	chain   []protocol.Sealed // guarded by mu, as is all that follows
	head    protocol.Head
	acked   protocol.Ack
	now     time.Time // of its own clock, at the last event
	conn    uint64
	vend    protocol.VendID
	bays    []bay
	odo     map[protocol.Slot]*protocol.SlotState
	desired protocol.DesiredVersion
	paused  bool
	done    map[string]bool // commands answered
	version uint64
	changed chan struct{}
}

func newLightMachine(s site, speed float64, start time.Time) *lightMachine {
	return &lightMachine{site: s, id: protocol.NewLedgerID(), speed: speed, start: start, now: start.Add(-history),
		rand: rand.New(rand.NewPCG(uint64(start.UnixNano()), uint64(len(s.machine)))), bays: tray(start),
		odo: map[protocol.Slot]*protocol.SlotState{}, done: map[string]bool{}, changed: make(chan struct{})}
}

// Run lives until ctx ends. The past is lived through at once; then residents come
// as the clock on the wall goes, speed times as often as in life.
func (m *lightMachine) Run(ctx context.Context, broker string, trusted ed25519.PublicKey, log *slog.Logger) error {
	line, err := uplink.New(uplink.Options{Machine: m.site.machine, Chain: m, Identity: m, State: m.state, Desired: m.apply, Command: m.obey,
		Trust: protocol.Trust{Keys: []ed25519.PublicKey{trusted}}, KeepTrust: func(context.Context, protocol.Trust) error { return nil }, // it lives no longer than the demo
		Log: log, Dial: func(ctx context.Context) (net.Conn, error) {
			d := net.Dialer{Timeout: 5 * time.Second} // it is this very host
			return d.DialContext(ctx, "tcp", broker)
		}})
	if err != nil {
		return err
	}
	m.begin()
	visit := m.start.Add(-history).Add(visitEvery)
	for at := m.start.Add(-history); ; {
		at = at.Add(m.gap(at))
		if at.After(m.start) {
			break
		}
		if at.After(visit) {
			m.restock(visit)
			visit = visit.Add(visitEvery)
		}
		m.serve(at)
	}
	var living sync.WaitGroup
	living.Go(func() { m.live(ctx) })
	defer living.Wait()
	return line.Run(ctx)
}

// live lets residents come until ctx ends.
func (m *lightMachine) live(ctx context.Context) {
	visit := time.Now().Add(m.hurried(visitEvery))
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(m.hurried(m.gap(time.Now()))):
		}
		if now := time.Now(); now.After(visit) {
			m.restock(now)
			visit = now.Add(m.hurried(visitEvery))
		}
		m.serve(time.Now())
	}
}

func (m *lightMachine) hurried(d time.Duration) time.Duration {
	return time.Duration(float64(d) / m.speed)
}

// gap draws the time to the next resident: few come at night.
func (m *lightMachine) gap(at time.Time) time.Duration {
	rate := m.site.busy / 24 // an hour
	switch hour := at.UTC().Add(8 * time.Hour).Hour(); {
	case hour < 7:
		rate *= 0.2
	case hour >= 17 && hour < 22:
		rate *= 2
	}
	return time.Duration(m.rand.ExpFloat64() / rate * float64(time.Hour))
}

// begin starts the chain and fills the spirals.
func (m *lightMachine) begin() {
	m.change(m.start.Add(-history), func() {
		m.append(protocol.LedgerStarted{Reason: "new"})
		m.append(protocol.Boot{Software: version})
		for i := range m.bays {
			full := m.bays[i].capacity
			m.bays[i].pieces = 0
			m.odo[m.bays[i].slot] = &protocol.SlotState{}
			m.load(&m.bays[i], full-m.rand.IntN(full))
		}
	})
}

// serve plays one resident.
func (m *lightMachine) serve(at time.Time) {
	m.change(at, func() {
		want := products[m.rand.IntN(len(products))].ID
		if m.rand.IntN(2) == 0 {
			want = products[0].ID // most come for this one
		}
		i := slices.IndexFunc(m.bays, func(b bay) bool { return b.product == want && b.pieces > 0 })
		switch {
		case m.paused:
			m.append(protocol.OrderDenied{Reason: protocol.DenialClosed})
			return
		case i < 0:
			m.append(protocol.OrderDenied{Reason: protocol.DenialEmpty})
			return
		case m.rand.Float64() < 0.05:
			m.append(protocol.OrderDenied{Reason: protocol.DenialEarly})
			return
		}
		b := &m.bays[i]
		m.vend++
		v := protocol.Vend{Vend: m.vend, Stock: b.stock(), RunMS: 2400 + m.rand.IntN(300)}
		if m.rand.Float64() < keptShare {
			v.Cause = protocol.FaultNoDrop
			m.append(protocol.VendKept{Vend: v})
			return
		}
		b.pieces--
		m.odo[b.slot].Dispensed++
		v.Pieces, v.DropMS = 1, v.RunMS-500
		m.append(protocol.VendDispensed{Vend: v})
	})
}

// restock plays a visit: whatever is below its par level is filled.
func (m *lightMachine) restock(at time.Time) {
	m.change(at, func() {
		if !slices.ContainsFunc(m.bays, func(b bay) bool { return b.pieces <= b.par }) {
			return
		}
		m.append(protocol.DoorOpened{})
		m.append(protocol.StaffIn{Staff: restocker})
		for i := range m.bays {
			if b := &m.bays[i]; b.pieces < b.capacity/2 {
				m.load(b, b.capacity-b.pieces)
			}
		}
		m.append(protocol.StaffOut{Staff: restocker})
		m.append(protocol.DoorClosed{})
	})
}

func (m *lightMachine) load(b *bay, pieces int) {
	m.append(protocol.StockLoaded{Stock: b.stock(), Pieces: pieces, Before: b.pieces, After: b.pieces + pieces, Staff: restocker})
	b.pieces += pieces
	m.odo[b.slot].Loaded += uint64(pieces)
}

func (b bay) stock() protocol.Stock {
	return protocol.Stock{Slot: b.slot, Product: b.product, Batch: b.batch, Expiry: b.expiry}
}

// change makes events at one moment of the machine's own clock, which never goes back.
func (m *lightMachine) change(at time.Time, f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at.After(m.now) {
		m.now = at
	}
	f()
	m.version++
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *lightMachine) stamp() protocol.Stamp {
	return protocol.Stamp{AtMS: m.now.UnixMilli(), Clock: protocol.ClockSynced, Boot: 1, UpMS: m.now.Sub(m.start.Add(-history)).Milliseconds()}
}

// append seals an event into the chain. Caller holds mu.
func (m *lightMachine) append(e protocol.Event) {
	s, err := protocol.Seal(m.site.machine, m.id, m.head, m.stamp(), e)
	if err != nil {
		panic(err) // the generator made an event that cannot be
	}
	m.chain = append(m.chain, s)
	m.head = protocol.Head{Seq: s.Seq, Hash: s.Hash}
}

// The rest is what the uplink asks of a ledger.

func (m *lightMachine) Since(_ context.Context, after uint64, maxBytes int) (out []protocol.Sealed, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	size := 0
	for _, s := range m.chain[min(after, uint64(len(m.chain))):] {
		if size += len(s.Body); size > maxBytes && len(out) > 0 {
			break
		}
		out = append(out, s)
	}
	return out, nil
}

func (m *lightMachine) Acked() protocol.Ack {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.acked
}

func (m *lightMachine) SetAcked(_ context.Context, a protocol.Ack) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.Seq > m.head.Seq {
		return fmt.Errorf("seq %d is acknowledged, the chain ends at %d", a.Seq, m.head.Seq)
	}
	if a.Ledger == m.id && (a.Generation > m.acked.Generation || a.Generation == m.acked.Generation && a.Seq > m.acked.Seq) {
		m.acked = a
	}
	return nil
}

func (m *lightMachine) Watch() (uint64, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.version, m.changed
}

func (m *lightMachine) ID() protocol.LedgerID { return m.id }

func (m *lightMachine) MintConnection(context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conn = max(m.conn+1, uint64(time.Now().UnixMilli()))
	return m.conn, nil
}

func (m *lightMachine) state(context.Context) (protocol.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := protocol.State{Machine: m.site.machine, Ledger: m.id, Stamp: m.stamp(), Software: version, Serving: protocol.ServingEmpty,
		Board: protocol.BoardState{Up: true, Serial: fmt.Sprintf("%016x", m.start.UnixNano()), Build: 1},
		Head:  m.head.Seq, Acked: m.acked, Climate: &protocol.Climate{C: 22.5, RH: 46}, Desired: m.desired, Faults: []protocol.FaultRaised{}}
	for _, b := range m.bays {
		st := *m.odo[b.slot]
		st.Slot, st.Product, st.Pieces, st.Capacity, st.Par = b.slot, b.product, b.pieces, b.capacity, b.par
		if b.pieces > 0 {
			st.Expiry = b.expiry
			s.Serving = protocol.ServingOpen
		}
		s.Slots = append(s.Slots, st)
	}
	if m.paused {
		s.Serving = protocol.ServingClosed
		s.Faults = append(s.Faults, protocol.FaultRaised{Fault: protocol.FaultPaused})
	}
	return s, nil
}

func (m *lightMachine) apply(_ context.Context, d protocol.Desired) error {
	m.change(time.Now(), func() {
		if d.DesiredVersion.Newer(m.desired) {
			m.desired = d.DesiredVersion
			m.append(protocol.DesiredApplied(d.DesiredVersion))
		}
	})
	return nil
}

func (m *lightMachine) obey(_ context.Context, c protocol.Command) error {
	m.change(time.Now(), func() {
		if m.done[c.ID] {
			return
		}
		m.done[c.ID] = true
		result := protocol.CommandOK
		switch c.Verb {
		case protocol.VerbPause:
			m.paused = true
		case protocol.VerbResume:
			m.paused = false
		case protocol.VerbState:
		default:
			result = protocol.CommandUnsupported
		}
		m.append(protocol.CommandDone{ID: c.ID, Verb: c.Verb, Result: result})
	})
	return nil
}
