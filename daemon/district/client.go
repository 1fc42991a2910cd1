package district

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"yaoju/protocol"
)

// Broker is an MQTT 3.1.1 broker that is a program of its own, such as Mosquitto.
//
// It is trusted to let a machine publish on its own topics alone: the topic is all we
// see of who sent a message. Records are sealed to their machine's chain besides, so
// one machine cannot write into another's unnoticed; states are believed.
type Broker struct {
	Dial func(ctx context.Context) (net.Conn, error) // reaches the broker, TLS included
	Name string                                      // our client id: no other client of the broker has it
}

// share is the filter for our part of the records, which the broker divides among the
// members of a group. Mosquitto lets any client subscribe to anything and drops what it
// may not read only when it is its turn: a machine that knew the group could make
// records vanish, and others wait until they come again. So the group's name is a
// secret, the same in every districtd that has the signing key.
func share(key ed25519.PrivateKey) string {
	sum := sha256.Sum256(append([]byte("yaoju share group\x00"), key.Seed()...))
	return "$share/" + hex.EncodeToString(sum[:16]) + "/" + protocol.AllEvents
}

// Limits of the connection to a broker.
const (
	clientKeepAlive = 20 * time.Second
	clientPing      = 10 * time.Second
	clientConnect   = 30 * time.Second // dialling, TLS, CONNACK
	clientGrant     = 30 * time.Second // for a subscription
	clientWrite     = 10 * time.Second // one message: the broker is in the same house
	clientGoodbye   = time.Second
	pauseFirst      = time.Second // after a lost connection, then doubling
	pauseLongest    = 30 * time.Second
)

// client is the line over a broker of its own, and all this package knows of the MQTT
// client's library.
//
// Its sessions are clean: what we have not acked a machine sends again, and the queue
// of a district that died would keep from the others what they could take. Each
// connection is a client of its own, because the library's reconnecting keeps messages
// without bound.
type client struct {
	d   *District
	b   *Broker
	log *slog.Logger

	mu   sync.Mutex
	open mqtt.Client // guarded by mu; nil while there is no connection
}

func (c *client) up() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open != nil
}

// hangUp has nothing to do: the broker is told by its list of revoked certificates.
func (c *client) hangUp(protocol.MachineID, [32]byte) {}

func (c *client) publish(topic string, payload []byte, retained bool) error {
	c.mu.Lock()
	open := c.open
	c.mu.Unlock()
	if open == nil {
		return nil
	}
	t := open.Publish(topic, 1, retained, payload)
	select {
	case <-t.Done():
		// The connection is at its end, and its session will say so. What was not
		// published is announced on the next.
		if err := t.Error(); err != nil {
			c.log.Debug("not published", "topic", topic, "err", err)
		}
	default:
	}
	return nil
}

// run keeps a session until ctx ends. It returns no error: a broker comes back.
func (c *client) run(ctx context.Context, _ net.Listener) error {
	pause := pauseFirst
	for {
		began := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > pauseLongest {
			pause = pauseFirst
		}
		c.log.Warn("no broker", "err", err, "again", pause)
		wait := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil
		}
		pause = min(2*pause, pauseLongest)
	}
}

// session is one connection, from dialling to its end.
func (c *client) session(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	lost := make(chan error, 1)
	open, err := c.connect(ctx, lost)
	if err != nil {
		return err
	}
	// What waits for a place in the queue is let go first: the library waits for it.
	defer open.Disconnect(uint(clientGoodbye.Milliseconds()))
	defer stop()
	if err := c.subscribe(ctx, open, lost, share(c.d.signing().key)); err != nil {
		return err
	}
	c.set(open)
	defer c.set(nil)
	c.d.meter.connected()
	c.log.Info("broker found")
	if err := c.d.announce(ctx); err != nil {
		return err
	}
	return c.hear(ctx, open, lost)
}

func (c *client) set(open mqtt.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = open
}

// hear takes in states, too, while we are the one who does: they are retained, so
// whoever begins to is given the latest of every machine.
func (c *client) hear(ctx context.Context, open mqtt.Client, lost chan error) error {
	hears := false
	for {
		leads, changed := c.d.leads()
		switch {
		case leads && !hears:
			if err := c.subscribe(ctx, open, lost, protocol.AllStates, protocol.AllOnline); err != nil {
				return err
			}
		case hears && !leads:
			// The library says when the broker has let go; until then we hear a little more.
			open.Unsubscribe(protocol.AllStates, protocol.AllOnline)
		}
		hears = leads
		select {
		case <-ctx.Done():
			return nil
		case err := <-lost:
			return fmt.Errorf("connection lost: %w", err)
		case <-changed:
		}
	}
}

// connect says hello on a fresh connection, which ends with ctx.
func (c *client) connect(ctx context.Context, lost chan<- error) (mqtt.Client, error) {
	limited, cancel := context.WithTimeout(ctx, clientConnect)
	defer cancel()
	conn, err := c.b.Dial(limited)
	if err != nil {
		return nil, fmt.Errorf("reach the broker: %w", err)
	}
	// The goodbye is said after ctx has ended; then the library closes.
	o := mqtt.NewClientOptions()
	o.AddBroker("tcp://broker") // required by the library; the connection is there already
	o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return conn, nil })
	o.SetProtocolVersion(4)
	o.SetClientID(c.b.Name)
	o.SetCleanSession(true)
	o.SetStore(mqtt.NewMemoryStore())
	o.SetAutoReconnect(false)
	o.SetConnectRetry(false)
	o.SetOrderMatters(true)    // the batches of a machine follow each other
	o.SetAutoAckDisabled(true) // acks come after the commit
	o.SetKeepAlive(clientKeepAlive)
	o.SetPingTimeout(clientPing)
	o.SetConnectTimeout(clientConnect)
	o.SetWriteTimeout(clientWrite)
	o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
		from, _, err := protocol.TopicMachine(m.Topic())
		if err != nil {
			from = "" // nobody's; it is refused where it is counted
		}
		c.d.receive(ctx, message{from: from, topic: m.Topic(), payload: m.Payload(), done: m.Ack})
	})
	o.SetConnectionLostHandler(func(_ mqtt.Client, err error) { lost <- err })
	open := mqtt.NewClient(o)
	t := open.Connect()
	select {
	case <-t.Done():
	case <-limited.Done():
		conn.Close() // frees a handshake that waits
		<-t.Done()
	}
	if err := t.Error(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to the broker: %w", err)
	}
	return open, nil
}

// subscribe asks for topics and waits until the broker has granted them.
func (c *client) subscribe(ctx context.Context, open mqtt.Client, lost <-chan error, topics ...string) error {
	want := map[string]byte{}
	for _, t := range topics {
		want[t] = 1
	}
	t := open.SubscribeMultiple(want, nil)
	limit := time.NewTimer(clientGrant)
	defer limit.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-lost:
		return fmt.Errorf("connection lost: %w", err)
	case <-limit.C:
		return errors.New("subscribe: the broker did not answer in time")
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
