package district

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"yaoju/protocol"
)

// Bounds of the embedded broker.
const (
	maxConnections = maxMachines + 600          // those who have not shown yet who they are beside them
	shakeLimit     = 20 * time.Second           // TLS over a mobile line that has just woken up
	helloLimit     = 10 * time.Second           // from accepting a connection, or its handshake, to its CONNECT
	maxKeepalive   = 300                        // seconds; 0 would be for ever
	maxPacket      = protocol.MaxMessage + 1024 // topic and headers beside the message
	maxPending     = 64                         // messages waiting for one machine: acks are cumulative
	maxWill        = 256                        // bytes
)

// broker is the embedded MQTT broker, and all this package knows of the library.
// Its own listeners and event loop stay unused: we accept, we join, and nothing
// of ours ever expires.
type broker struct {
	d   *District
	srv *mochi.Server
	log *slog.Logger

	mu   sync.Mutex
	open map[net.Conn]Peer // guarded by mu: who is there; the zero Peer until that is known
	ctx  context.Context   // guarded by mu: of run; ends the wait for a place in the queue
}

func newBroker(d *District) (*broker, error) {
	b := &broker{d: d, log: d.o.Log, open: map[net.Conn]Peer{}}
	caps := mochi.NewDefaultServerCapabilities()
	caps.MaximumMessageExpiryInterval = 0 // else retained messages are gone after a day
	caps.MaximumPacketSize = maxPacket
	caps.MaximumClientWritesPending = maxPending
	caps.MaximumInflight = maxPending
	caps.ReceiveMaximum = maxPending
	caps.MinimumProtocolVersion = 4
	caps.SharedSubAvailable = 0
	caps.WildcardSubAvailable = 0
	b.srv = mochi.New(&mochi.Options{
		InlineClient: true,
		Capabilities: caps,
		Logger:       slog.New(slog.DiscardHandler), // it logs whole packets; the gate logs what matters
	})
	if err := b.srv.AddHook(&gate{b: b}, nil); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	for i, filter := range []string{protocol.AllEvents, protocol.AllStates, protocol.AllOnline} {
		err := b.srv.Subscribe(filter, i+1, func(_ *mochi.Client, _ packets.Subscription, pk packets.Packet) {
			d.receive(b.waiting(), message{from: protocol.MachineID(pk.Origin), topic: pk.TopicName, payload: pk.Payload})
		})
		if err != nil {
			return nil, fmt.Errorf("broker: subscribe to %s: %w", filter, err)
		}
	}
	return b, nil
}

// publish sends a message down to whoever has subscribed, and keeps it if it is
// retained. It never waits for a machine.
func (b *broker) publish(topic string, payload []byte, retained bool) error {
	if err := b.srv.Publish(topic, payload, retained, 1); err != nil {
		return fmt.Errorf("publish on %s: %w", topic, err)
	}
	return nil
}

func (b *broker) waiting() context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ctx
}

// up: it is in here.
func (b *broker) up() bool { return true }

// run accepts connections until ctx ends, and returns when the last has ended.
func (b *broker) run(ctx context.Context, l net.Listener) error {
	b.mu.Lock()
	b.ctx = ctx
	b.mu.Unlock()
	var serving sync.WaitGroup
	defer serving.Wait()
	stop := context.AfterFunc(ctx, func() {
		l.Close() // ends Accept; a second Close does no harm
		b.closeAll()
	})
	defer stop()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			var temporary interface{ Temporary() bool }
			if errors.As(err, &temporary) && temporary.Temporary() {
				// Out of descriptors, say: those that are open may end.
				time.Sleep(100 * time.Millisecond)
				continue
			}
			return fmt.Errorf("accept machines: %w", err)
		}
		if !b.hold(ctx, c) {
			c.Close()
			continue
		}
		serving.Go(func() {
			defer b.release(c)
			b.serve(c)
		})
	}
}

// serve runs one connection. A machine that dies or lies ends its own connection
// and nothing else.
func (b *broker) serve(c net.Conn) {
	defer func() {
		if p := recover(); p != nil {
			// The library decodes foreign bytes; a bug in it must not end the service.
			b.log.Error("broker failed on one connection", "err", fmt.Errorf("panic: %v", p))
		}
	}()
	if b.d.o.Identify != nil {
		p, err := b.identify(c)
		if err != nil {
			b.log.Warn("connection refused", "from", c.RemoteAddr().String(), "err", err)
			return
		}
		// A certificate is worth nothing on the day after, and a connection may last
		// for months.
		ends := time.AfterFunc(time.Until(p.Until), func() { hangUp(c) })
		defer ends.Stop()
	}
	// The library sets its own deadlines after CONNECT, and none before.
	if err := c.SetDeadline(time.Now().Add(helloLimit)); err != nil {
		return
	}
	if err := b.srv.EstablishConnection("machines", c); err != nil {
		b.log.Debug("connection ended", "err", err)
	}
}

func (b *broker) hold(ctx context.Context, c net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() != nil || len(b.open) >= maxConnections {
		return false
	}
	b.open[c] = Peer{}
	return true
}

// identify waits for the handshake and notes who is there, before it is asked
// whether the key is still good: a revocation in between finds the connection.
func (b *broker) identify(c net.Conn) (Peer, error) {
	if err := c.SetDeadline(time.Now().Add(shakeLimit)); err != nil {
		return Peer{}, err
	}
	p, err := b.d.o.Identify(b.waiting(), c)
	if err != nil {
		return Peer{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open[c] = p
	return p, nil
}

// speaksFor says whether the one on a connection may speak for m.
func (b *broker) speaksFor(c net.Conn, m protocol.MachineID) bool {
	if b.d.o.Identify == nil {
		return true
	}
	b.mu.Lock()
	p := b.open[c]
	b.mu.Unlock()
	if p.Machine != m {
		return false
	}
	ok, err := b.d.owns(b.waiting(), p)
	if err != nil {
		b.log.Error("a machine's key could not be looked up", "device", m, "err", err)
	}
	return ok && err == nil
}

// hangUp ends the connections of a machine that are not made with key.
func (b *broker) hangUp(m protocol.MachineID, key [32]byte) {
	b.mu.Lock()
	var gone []net.Conn
	for c, p := range b.open {
		if p.Machine == m && p.Key != key {
			gone = append(gone, c)
		}
	}
	b.mu.Unlock()
	for _, c := range gone {
		hangUp(c)
	}
}

// hangUp closes a connection without a word. TLS would say goodbye first, and wait
// for a line that does not take it.
func hangUp(c net.Conn) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		t.NetConn().Close() // closing what is below ends the rest
	}
	c.Close() // usually closed already
}

func (b *broker) release(c net.Conn) {
	hangUp(c)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, c)
}

func (b *broker) closeAll() {
	b.mu.Lock()
	all := make([]net.Conn, 0, len(b.open))
	for c := range b.open {
		all = append(all, c)
	}
	b.mu.Unlock()
	for _, c := range all {
		hangUp(c)
	}
}

// gate is the broker's hook: who may connect, and what about.
type gate struct {
	mochi.HookBase
	b *broker
}

// ID names the hook to the library.
func (g *gate) ID() string { return "gate" }

// Provides lists what the gate decides.
func (g *gate) Provides(what byte) bool {
	switch what {
	case mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.OnPublishDropped:
		return true
	}
	return false
}

// OnConnectAuthenticate admits a machine under its own id with a will on its own
// topic: the library publishes wills without asking again.
func (g *gate) OnConnectAuthenticate(cl *mochi.Client, pk packets.Packet) bool {
	m := protocol.MachineID(pk.Connect.ClientIdentifier)
	var why string
	switch {
	case m.Valid() != nil:
		why = "client id is not a machine id"
	case pk.ProtocolVersion != 4:
		why = "not MQTT 3.1.1"
	case !pk.Connect.Clean:
		why = "session is not clean"
	case pk.Connect.Keepalive == 0 || pk.Connect.Keepalive > maxKeepalive:
		why = "keepalive is out of range"
	case pk.Connect.WillFlag && (pk.Connect.WillTopic != protocol.OnlineTopic(m) || len(pk.Connect.WillPayload) > maxWill):
		why = "will is not its own"
	case !g.b.speaksFor(cl.Net.Conn, m):
		why = "certificate is not its own any more, or another machine's"
	case !g.b.d.admit(m):
		why = "unknown machine"
	default:
		return true
	}
	g.b.log.Warn("connection refused", "device", clean(string(m)), "why", why)
	return false
}

// OnACLCheck lets a machine speak and listen in its own name only.
func (g *gate) OnACLCheck(cl *mochi.Client, topic string, write bool) bool {
	m := protocol.MachineID(cl.ID)
	if write {
		return topic == protocol.EventsTopic(m) || topic == protocol.StateTopic(m) || topic == protocol.OnlineTopic(m)
	}
	return topic == protocol.AckTopic(m) || topic == protocol.KeysTopic(m) || topic == protocol.DesiredTopic(m) || topic == protocol.CommandTopic(m)
}

// OnPublishDropped notes a message a machine was too slow to take. Acks and
// desired states come again; a command is given again at the next connection.
func (g *gate) OnPublishDropped(cl *mochi.Client, pk packets.Packet) {
	g.b.log.Warn("machine too slow, message dropped", "device", cl.ID, "topic", pk.TopicName)
}
