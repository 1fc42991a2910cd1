// Package uplink carries a machine's event chain to the district and brings its
// desired state and commands back, over MQTT.
//
// It owns the connection: its number, its last will, what is in flight on it and
// how long to wait before the next one. Only the district's own ack moves the
// acked seq; what the broker or the MQTT library calls delivered counts for
// nothing. It does not know what a record says, how the chain is stored, or what
// a command does: the ledger and the caller know that.
package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"yaoju/protocol"
)

// Chain is the event chain of the machine, as the uplink sees it.
type Chain interface {
	// Since returns the records after seq, oldest first and without a gap, about
	// maxBytes of them; none if there are none. It never blocks on the network.
	Since(ctx context.Context, after uint64, maxBytes int) ([]protocol.Sealed, error)
	// Acked is how far the district has the chain.
	Acked() protocol.Ack
	// SetAcked keeps an ack, durable when it returns. It ignores one that changes
	// nothing and refuses one that cannot be true.
	SetAcked(ctx context.Context, a protocol.Ack) error
	// Watch returns a number that rises with every commit, and a channel that is
	// closed at the next one.
	Watch() (version uint64, changed <-chan struct{})
}

// Identity is who the machine is to the district.
type Identity interface {
	// ID names the ledger behind the chain.
	ID() protocol.LedgerID
	// MintConnection returns a number above every one before it, durable when it
	// returns.
	MintConnection(ctx context.Context) (uint64, error)
}

// Options is what an uplink needs. Every field is required.
type Options struct {
	Machine  protocol.MachineID
	Chain    Chain
	Identity Identity

	// State is the machine's snapshot of itself, now.
	State func(ctx context.Context) (protocol.State, error)
	// Desired puts a desired state into force. It is called again with the same
	// one at every connection, because it is retained.
	Desired func(ctx context.Context, d protocol.Desired) error
	// Command does what a command asks and records the answer. A command that was
	// done before is answered again, not done again: that is its task too.
	Command func(ctx context.Context, c protocol.Command) error

	// Trust is whose desired state and commands are obeyed. KeepTrust keeps what it
	// becomes when the district changes its keys, durable when it returns.
	Trust     protocol.Trust
	KeepTrust func(ctx context.Context, t protocol.Trust) error

	Dial func(ctx context.Context) (net.Conn, error) // a fresh connection to the broker, TLS done
	Log  *slog.Logger
}

// Waits of the reconnect loop: the first is short because most losses are a
// restarted broker, the last is what a district that is down should see from each
// of its machines.
const (
	backoffMin = time.Second
	backoffMax = time.Minute
)

// Lengths of the queues between the library's callbacks and the uplink.
const (
	ackQueue     = 8  // acks are cumulative: the oldest may go
	keysQueue    = 1  // each message holds all that came before it
	desiredQueue = 1  // a newer desired state replaces an older one
	commandQueue = 32 // more than a person presses while one is carried out
)

// Status is what staff and `doctor` see of the uplink.
type Status struct {
	Connected bool      // to the broker, this moment
	Since     time.Time // when Connected last changed; zero before the first connection
	LastAck   time.Time // when the district last acknowledged anything; zero: not since start
	Refused   uint64    // messages that were malformed, not for this machine or not signed
	Dropped   uint64    // commands lost because the queue was full
}

// Uplink is one machine's line to its district.
type Uplink struct {
	o Options

	// Filled by the library's callbacks, which never block.
	acks     chan []byte
	keys     chan []byte
	desired  chan []byte
	commands chan []byte

	stateNow chan struct{} // a state is wanted out of turn

	// owned by obey
	trust   protocol.Trust
	unheard []byte // a desired state whose key is not trusted yet; nil: none

	mu     sync.Mutex
	status Status               // guarded by mu
	logged map[string]time.Time // guarded by mu: when a refusal of each kind was last logged
}

// New returns an uplink that Run brings to life.
func New(o Options) (*Uplink, error) {
	if err := o.Machine.Valid(); err != nil {
		return nil, fmt.Errorf("uplink: %w", err)
	}
	if o.Chain == nil || o.Identity == nil || o.State == nil || o.Desired == nil || o.Command == nil || o.KeepTrust == nil || o.Dial == nil || o.Log == nil {
		return nil, errors.New("uplink: an option is missing")
	}
	if len(o.Trust.Keys) == 0 {
		return nil, errors.New("uplink: no trusted key: desired state and commands could never be obeyed")
	}
	return &Uplink{
		o:        o,
		trust:    o.Trust,
		acks:     make(chan []byte, ackQueue),
		keys:     make(chan []byte, keysQueue),
		desired:  make(chan []byte, desiredQueue),
		commands: make(chan []byte, commandQueue),
		stateNow: make(chan struct{}, 1),
		logged:   map[string]time.Time{},
	}, nil
}

// Status returns how the line stands.
func (u *Uplink) Status() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status
}

// SendState has the state sent now, because it says something new that no commit told
// of. It does not block.
func (u *Uplink) SendState() {
	select {
	case u.stateNow <- struct{}{}:
	default: // one is wanted already
	}
}

// Run keeps the line up until ctx ends, then says goodbye and returns nil. A
// district that cannot be reached is not an error.
func (u *Uplink) Run(ctx context.Context) error {
	var obeying sync.WaitGroup
	obeying.Go(func() { u.obey(ctx) })
	defer obeying.Wait()

	for wait := backoffMin; ; {
		acked, err := u.connect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if acked {
			wait = backoffMin
		}
		pause := jitter(wait)
		u.o.Log.Warn("district connection ended", "err", err, "retry", pause)
		if !sleep(ctx, pause) {
			return nil
		}
		wait = min(2*wait, backoffMax)
	}
}

// connect runs one connection from dialling to its end, and reports whether the
// district answered on it.
func (u *Uplink) connect(ctx context.Context) (acked bool, err error) {
	conn, err := u.dial(ctx)
	if err != nil {
		return false, fmt.Errorf("reach the broker: %w", err)
	}
	// Only a line that stands is numbered: a number is a write to the disk, and a
	// district may be out of reach for weeks.
	number, err := u.o.Identity.MintConnection(ctx)
	if err != nil {
		return false, errors.Join(fmt.Errorf("number the connection: %w", err), conn.Close())
	}
	l, err := u.open(ctx, conn, number)
	if err != nil {
		return false, err
	}
	defer l.close()

	u.setConnected(true)
	defer u.setConnected(false)
	s := session{u: u, link: l, number: number}
	err = s.run(ctx)
	return s.acked, err
}

// obey carries out desired states and commands, one at a time and beside the
// connection, so that a slow one does not hold up the records.
func (u *Uplink) obey(ctx context.Context) {
	for {
		select { // keys go first: what waits behind them may be signed by a new one
		case b := <-u.keys:
			u.obeyKeys(ctx, b)
			continue
		default:
		}
		select {
		case <-ctx.Done():
			return
		case b := <-u.keys:
			u.obeyKeys(ctx, b)
		case b := <-u.desired:
			u.obeyDesired(ctx, b)
		case b := <-u.commands:
			u.obeyCommand(ctx, b)
		}
	}
}

// obeyKeys follows the district to newer keys, and hears what a new one signed.
func (u *Uplink) obeyKeys(ctx context.Context, b []byte) {
	t, err := u.trust.Follow(b)
	if err != nil {
		u.refuse("keys", err)
	}
	if t.Serial == u.trust.Serial {
		return
	}
	if err := u.o.KeepTrust(ctx, t); err != nil {
		if ctx.Err() == nil {
			// They are retained: the next connection brings them again.
			u.o.Log.Error("new keys of the district not kept", "serial", t.Serial, "err", err)
		}
		return
	}
	u.o.Log.Info("the district signs with a new list of keys", "serial", t.Serial)
	u.trust = t
	if b := u.unheard; b != nil {
		u.obeyDesired(ctx, b)
	}
}

func (u *Uplink) obeyDesired(ctx context.Context, b []byte) {
	u.unheard = nil
	d, err := protocol.OpenDesired(b, u.trust.Keys)
	if errors.Is(err, protocol.ErrNotTrusted) {
		u.unheard = b // the broker may have sent it ahead of the keys
	}
	if err == nil && d.Machine != u.o.Machine {
		err = fmt.Errorf("desired state is for machine %s", d.Machine)
	}
	if err != nil {
		u.refuse("desired", err)
		return
	}
	if err := u.o.Desired(ctx, d); err != nil && ctx.Err() == nil {
		// It is retained: the next connection brings it again.
		u.o.Log.Error("desired state not applied", "version", d.Version, "err", err)
	}
}

func (u *Uplink) obeyCommand(ctx context.Context, b []byte) {
	c, err := protocol.OpenCommand(b, u.trust.Keys)
	if err == nil && c.Machine != u.o.Machine {
		err = fmt.Errorf("command is for machine %s", c.Machine)
	}
	if err != nil {
		u.refuse("command", err)
		return
	}
	if err := u.o.Command(ctx, c); err != nil && ctx.Err() == nil {
		// Nothing was recorded, so the district sees no answer and sends it again.
		u.o.Log.Error("command not done", "command", c.ID, "verb", c.Verb, "err", err)
	}
	if c.Verb == protocol.VerbState {
		u.SendState()
	}
}

// receive takes a message from the library's callback: it must not block.
func (u *Uplink) receive(topic string, b []byte) {
	if len(b) > protocol.MaxMessage {
		u.refuse("size", fmt.Errorf("%d bytes on %s, at most %d are allowed", len(b), topic, protocol.MaxMessage))
		return
	}
	switch topic {
	case protocol.AckTopic(u.o.Machine):
		offerNewest(u.acks, b)
	case protocol.KeysTopic(u.o.Machine):
		offerNewest(u.keys, b)
	case protocol.DesiredTopic(u.o.Machine):
		offerNewest(u.desired, b)
	case protocol.CommandTopic(u.o.Machine):
		select {
		case u.commands <- b:
		default:
			u.mu.Lock()
			u.status.Dropped++
			n := u.status.Dropped
			u.mu.Unlock()
			u.o.Log.Error("command dropped, queue is full", "dropped", n)
		}
	default:
		u.refuse("topic", fmt.Errorf("message on %s, which was not asked for", topic))
	}
}

// offerNewest puts b into a full queue by dropping the oldest entry.
func offerNewest(q chan []byte, b []byte) {
	for {
		select {
		case q <- b:
			return
		default:
		}
		select {
		case <-q:
		default:
		}
	}
}

// refuse counts a bad message and logs the first of its kind in each minute.
func (u *Uplink) refuse(kind string, err error) {
	now := time.Now()
	u.mu.Lock()
	u.status.Refused++
	n := u.status.Refused
	last, seen := u.logged[kind]
	quiet := seen && now.Sub(last) < time.Minute
	if !quiet {
		u.logged[kind] = now
	}
	u.mu.Unlock()
	if !quiet {
		u.o.Log.Warn("message from the district refused", "kind", kind, "refused", n, "err", err)
	}
}

func (u *Uplink) setConnected(up bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.status.Connected, u.status.Since = up, time.Now()
}

func (u *Uplink) noteAck() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.status.LastAck = time.Now()
}

// jitter spreads a wait over 75 to 125 %, so that the machines of a district do
// not all come back in the same second.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
