package uplink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"yaoju/protocol"
)

// Limits of the connection.
const (
	keepAlive      = 30 * time.Second // a dead mobile line is noticed after 45 s at the broker
	pingLimit      = 10 * time.Second
	connectLimit   = 30 * time.Second // dialling, TLS over a slow mobile line, CONNACK
	subscribeLimit = 30 * time.Second
	writeLimit     = 20 * time.Second // one message of 64 KiB at 32 kbit/s
	goodbyeLimit   = 2 * time.Second  // systemd waits longer than this for a stop

	// maxUnconfirmed bounds what the library keeps for a broker that never confirms.
	maxUnconfirmed = 16
)

// errLate says that the broker did not confirm in time.
var errLate = errors.New("broker did not confirm in time")

// link is one connection over the MQTT library, and all this package knows of it.
// The library's own reconnecting is off: the last will carries the number of the
// connection, so each connection is a client of its own.
type link struct {
	client mqtt.Client
	lost   chan error // one value when the connection ends by itself
	hangUp context.CancelFunc

	tokens []mqtt.Token // owned by the session: not yet confirmed by the broker
}

// dial opens the line to the broker.
func (u *Uplink) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	return u.o.Dial(ctx)
}

// open says hello on a fresh line, which is closed if that fails.
func (u *Uplink) open(ctx context.Context, conn net.Conn, number uint64) (*link, error) {
	// The connection outlives ctx by the goodbye.
	line, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	l := &link{lost: make(chan error, 1), hangUp: hangUp}

	o := mqtt.NewClientOptions()
	o.AddBroker("tcp://district") // required by the library; the line is there already
	held := hold(line, conn)
	o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return held, nil })
	o.SetProtocolVersion(4) // MQTT 3.1.1; else a refused connection is tried again as 3.1
	o.SetClientID(string(u.o.Machine))
	o.SetCleanSession(true)
	o.SetStore(mqtt.NewMemoryStore()) // the file store never syncs and panics; the chain is our store
	o.SetAutoReconnect(false)
	o.SetConnectRetry(false)
	o.SetOrderMatters(true) // commands in the order they were given; receive never blocks
	o.SetKeepAlive(keepAlive)
	o.SetPingTimeout(pingLimit)
	o.SetConnectTimeout(connectLimit)
	o.SetWriteTimeout(writeLimit)
	o.SetBinaryWill(protocol.OnlineTopic(u.o.Machine), protocol.Encode(protocol.Online{Connection: number}), 1, true)
	o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { u.receive(m.Topic(), m.Payload()) })
	o.SetConnectionLostHandler(func(_ mqtt.Client, err error) { l.lost <- err })
	l.client = mqtt.NewClient(o)

	t := l.client.Connect()
	select {
	case <-t.Done():
	case <-ctx.Done():
		hangUp() // frees a handshake that waits
		<-t.Done()
	}
	if err := t.Error(); err != nil {
		hangUp()
		return nil, fmt.Errorf("connect to the broker: %w", err)
	}
	return l, nil
}

// subscribe asks for topics and waits until the broker has granted them.
func (l *link) subscribe(ctx context.Context, topics ...string) error {
	want := map[string]byte{}
	for _, t := range topics {
		want[t] = 1
	}
	t := l.client.SubscribeMultiple(want, nil)
	limit := time.NewTimer(subscribeLimit)
	defer limit.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-l.lost:
		return fmt.Errorf("connection lost: %w", err)
	case <-limit.C:
		return fmt.Errorf("subscribe: %w", errLate)
	case <-t.Done():
	}
	if err := t.Error(); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	for topic, granted := range t.(*mqtt.SubscribeToken).Result() {
		if granted > 1 {
			return fmt.Errorf("subscribe: the broker refuses %s", topic)
		}
	}
	return nil
}

// publish hands a message to the broker. No error does not mean it arrived; too
// many that the broker never confirmed means the connection is no good.
func (l *link) publish(topic string, b []byte, retained bool) error {
	l.tokens = slices.DeleteFunc(l.tokens, func(t mqtt.Token) bool {
		select {
		case <-t.Done():
			return true
		default:
			return false
		}
	})
	if len(l.tokens) >= maxUnconfirmed {
		return fmt.Errorf("publish on %s: %d messages before it: %w", topic, len(l.tokens), errLate)
	}
	t := l.client.Publish(topic, 1, retained, b)
	select {
	case <-t.Done():
		if err := t.Error(); err != nil {
			return fmt.Errorf("publish on %s: %w", topic, err)
		}
	default:
		l.tokens = append(l.tokens, t)
	}
	return nil
}

// settle waits for the broker's confirmations, at most limit.
func (l *link) settle(limit time.Duration) error {
	late := time.NewTimer(limit)
	defer late.Stop()
	for _, t := range l.tokens {
		select {
		case <-t.Done():
		case <-late.C:
			return errLate
		}
	}
	return nil
}

// close ends the connection; after a settled goodbye the broker drops the will.
func (l *link) close() {
	l.client.Disconnect(uint(goodbyeLimit.Milliseconds()))
	l.hangUp()
}

// heldConn is a connection that closes when its line is hung up, whatever the
// library is doing with it.
type heldConn struct {
	net.Conn
	once    sync.Once
	release func() bool
}

func hold(line context.Context, c net.Conn) net.Conn {
	h := &heldConn{Conn: c}
	h.release = context.AfterFunc(line, func() { c.Close() }) // a second Close does no harm
	return h
}

func (h *heldConn) Close() error {
	h.once.Do(func() { h.release() })
	return h.Conn.Close()
}
