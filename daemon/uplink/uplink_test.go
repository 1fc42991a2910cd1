package uplink_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"yaoju/daemon/uplink"
	"yaoju/protocol"
)

const machine = protocol.MachineID("m-0001")

var ledgerID = protocol.LedgerID(strings.Repeat("0a", 16))

// chain is a ledger in memory that polices the uplink.
type chain struct {
	t *testing.T

	mu         sync.Mutex
	records    []protocol.Sealed
	head       protocol.Head
	acked      protocol.Ack
	connection uint64
	changed    chan struct{}
	asked      int // most bytes ever asked for
	note       string
}

func newChain(t *testing.T, records int) *chain {
	c := &chain{t: t, changed: make(chan struct{})}
	for range records {
		c.add()
	}
	return c
}

func (c *chain) commit() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *chain) add() {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := protocol.Seal(machine, ledgerID, c.head, protocol.Stamp{AtMS: time.Now().UnixMilli(), Clock: protocol.ClockSynced, Boot: 1}, protocol.DoorOpened{})
	if err != nil {
		c.t.Error(err)
		return
	}
	c.records = append(c.records, s)
	c.head = protocol.Head{Seq: s.Seq, Hash: s.Hash}
	c.commit()
}

// change makes the state say something else without writing a record.
func (c *chain) change(note string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note = note
	c.commit()
}

func (c *chain) Since(_ context.Context, after uint64, maxBytes int) ([]protocol.Sealed, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if after > c.head.Seq {
		return nil, fmt.Errorf("asked for records after seq %d, the head is %d", after, c.head.Seq)
	}
	c.asked = max(c.asked, maxBytes)
	var out []protocol.Sealed
	size := 0
	for _, s := range c.records[after:] {
		if size += len(s.Body); size > maxBytes {
			break
		}
		out = append(out, s)
	}
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
	if a.Ledger != ledgerID || a.Generation < c.acked.Generation || a.Generation == c.acked.Generation && a.Seq <= c.acked.Seq {
		return nil
	}
	if a.Seq > c.head.Seq {
		return fmt.Errorf("seq %d was never written", a.Seq)
	}
	c.acked = a
	c.commit()
	return nil
}

func (c *chain) Watch() (uint64, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return 0, c.changed
}

func (c *chain) ID() protocol.LedgerID { return ledgerID }

func (c *chain) MintConnection(context.Context) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connection++
	return c.connection, nil
}

func (c *chain) state(context.Context) (protocol.State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return protocol.State{
		Machine: machine, Ledger: ledgerID, Software: "test" + c.note, Serving: protocol.ServingOpen, Head: c.head.Seq, Acked: c.acked,
		Stamp: protocol.Stamp{AtMS: time.Now().UnixMilli(), Clock: protocol.ClockSynced, Boot: 1}, Slots: []protocol.SlotState{}, Faults: []protocol.FaultRaised{},
	}, nil
}

// said is one message the broker was given.
type said struct {
	at       time.Time
	topic    string
	payload  []byte
	retained bool
}

// broker speaks just enough MQTT to hear a machine out. It confirms what it is
// given and delivers nothing, unless the test does.
type broker struct {
	mute   bool                    // never confirms a publish
	onward func(b *broker, s said) // called for every publish, if set

	mu    sync.Mutex
	conn  net.Conn
	heard []said
	wills []said
	dials int
	left  bool       // the machine said DISCONNECT
	lock  sync.Mutex // of writes to conn
}

func (b *broker) dial(context.Context) (net.Conn, error) {
	a, c := net.Pipe()
	b.mu.Lock()
	b.conn = c
	b.dials++
	b.mu.Unlock()
	go b.serve(c)
	return a, nil
}

func (b *broker) write(c net.Conn, p packets.ControlPacket) {
	go func() { // a pipe has no slack, and the machine may be writing too
		b.lock.Lock()
		defer b.lock.Unlock()
		_ = p.Write(c) // the connection may be gone
	}()
}

func (b *broker) serve(c net.Conn) {
	defer c.Close()
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return
		}
		switch p := p.(type) {
		case *packets.ConnectPacket:
			b.mu.Lock()
			b.wills = append(b.wills, said{time.Now(), p.WillTopic, p.WillMessage, p.WillRetain})
			b.mu.Unlock()
			b.write(c, packets.NewControlPacket(packets.Connack))
		case *packets.SubscribePacket:
			ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			ack.MessageID, ack.ReturnCodes = p.MessageID, slices.Repeat([]byte{1}, len(p.Topics))
			b.write(c, ack)
		case *packets.PublishPacket:
			s := said{time.Now(), p.TopicName, p.Payload, p.Retain}
			b.mu.Lock()
			b.heard = append(b.heard, s)
			b.mu.Unlock()
			if !b.mute {
				ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
				ack.MessageID = p.MessageID
				b.write(c, ack)
			}
			if b.onward != nil {
				b.onward(b, s)
			}
		case *packets.PingreqPacket:
			b.write(c, packets.NewControlPacket(packets.Pingresp))
		case *packets.DisconnectPacket:
			b.mu.Lock()
			b.left = true
			b.mu.Unlock()
			return
		}
	}
}

// send gives the machine a message.
func (b *broker) send(topic string, payload []byte) {
	b.mu.Lock()
	c := b.conn
	b.mu.Unlock()
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload = topic, payload
	b.write(c, p)
}

// on lists what was said on a topic.
func (b *broker) on(topic string) []said {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []said
	for _, s := range b.heard {
		if s.topic == topic {
			out = append(out, s)
		}
	}
	return out
}

// hangUp breaks the line.
func (b *broker) hangUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conn.Close()
}

// seen is how often it was dialled, the wills in order, and whether the machine
// said goodbye.
func (b *broker) seen() (dials int, wills []said, left bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dials, slices.Clone(b.wills), b.left
}

func signer(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize))
}

type running struct {
	*uplink.Uplink
	stop func()

	mu       sync.Mutex
	desired  []protocol.Desired
	commands []protocol.Command
}

// run starts an uplink in a bubble; slow is how long each command takes.
func run(t *testing.T, c *chain, dial func(context.Context) (net.Conn, error), slow time.Duration, log *slog.Logger) *running {
	t.Helper()
	r := &running{}
	u, err := uplink.New(uplink.Options{
		Machine: machine, Chain: c, Identity: c, State: c.state, Dial: dial, Log: log,
		Trust: protocol.Trust{Keys: []ed25519.PublicKey{signer(1).Public().(ed25519.PublicKey)}}, KeepTrust: keep,
		Desired: func(_ context.Context, d protocol.Desired) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.desired = append(r.desired, d)
			return nil
		},
		Command: func(_ context.Context, cmd protocol.Command) error {
			time.Sleep(slow)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.commands = append(r.commands, cmd)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	r.Uplink = u
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	}
	return r
}

var quiet = slog.New(slog.DiscardHandler)

func lastSeq(t *testing.T, payload []byte) uint64 {
	t.Helper()
	b, err := protocol.DecodeBatch(payload)
	if err != nil {
		t.Fatal(err)
	}
	return b.Records[len(b.Records)-1].Seq
}

// The broker confirms everything and delivers nothing: the acked seq stays, and
// the same records go out again, ever more rarely.
func TestConfirmedIsNotDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newChain(t, 3), &broker{}
		r := run(t, c, b.dial, 0, quiet)
		time.Sleep(time.Hour)
		r.stop()
		if a := c.Acked(); a.Seq != 0 {
			t.Errorf("acked %+v without an ack", a)
		}
		sent := b.on(protocol.EventsTopic(machine))
		if len(sent) < 9 || len(sent) > 14 { // 0:00, 0:30, 1:30, 3:30, 7:30, then every 8 min
			t.Fatalf("sent %d times in an hour, want about 11", len(sent))
		}
		for i := 1; i < len(sent); i++ {
			wait := min(30*time.Second<<(i-1), 8*time.Minute)
			got := sent[i].at.Sub(sent[i-1].at)
			if got < wait*3/4 || got > wait*5/4+time.Second {
				t.Errorf("sending %d came after %v, want %v give or take a quarter", i+1, got, wait)
			}
			if !bytes.Equal(sent[i].payload, sent[0].payload) {
				t.Errorf("sending %d differs from the first", i+1)
			}
		}
	})
}

// Ten thousand records wait. Never are more than two batches unacknowledged, and
// no more than a message is ever asked of the chain.
func TestBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const records = 10_000
		c := newChain(t, records)
		acks := make(chan uint64, 1000)
		b := &broker{}
		b.onward = func(_ *broker, s said) {
			if s.topic == protocol.EventsTopic(machine) {
				acks <- lastSeq(t, s.payload)
			}
		}
		r := run(t, c, b.dial, 0, quiet)
		for acked := uint64(0); acked < records; {
			time.Sleep(time.Second)
			if n := len(acks); n < 1 || n > 2 {
				t.Fatalf("%d batches in flight at seq %d, want 1 or 2", n, acked)
			}
			for range len(acks) {
				acked = <-acks
				b.send(protocol.AckTopic(machine), protocol.Encode(protocol.Ack{Ledger: ledgerID, Generation: 1, Seq: acked}))
			}
		}
		time.Sleep(time.Second)
		r.stop()
		if a := c.Acked(); a.Seq != records {
			t.Errorf("acked seq %d, want %d", a.Seq, records)
		}
		if c.asked > protocol.MaxMessage {
			t.Errorf("asked the chain for %d bytes at once", c.asked)
		}
	})
}

// A restored district begins a higher generation at a lower seq: it gets again
// what it lost. A lower seq of the same generation changes nothing.
func TestRestoredDistrict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newChain(t, 5), &broker{}
		r := run(t, c, b.dial, 0, quiet)
		time.Sleep(time.Second)
		ack := func(generation, seq uint64) int {
			b.send(protocol.AckTopic(machine), protocol.Encode(protocol.Ack{Ledger: ledgerID, Generation: generation, Seq: seq}))
			time.Sleep(time.Second)
			return len(b.on(protocol.EventsTopic(machine)))
		}
		if n := ack(10, 5); n != 1 {
			t.Errorf("%d batches sent, want 1", n)
		}
		if n := ack(10, 2); n != 1 {
			t.Errorf("%d batches sent after an old ack, want still 1", n)
		}
		if n := ack(11, 2); n != 2 {
			t.Errorf("%d batches sent after a new generation, want 2", n)
		}
		sent := b.on(protocol.EventsTopic(machine))
		batch, err := protocol.DecodeBatch(sent[len(sent)-1].payload)
		if err != nil || batch.Records[0].Seq != 3 {
			t.Errorf("sent again from %v, err %v; want from seq 3", batch.Records, err)
		}
		r.stop()
	})
}

func TestStateOnChangeAndEveryFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newChain(t, 0), &broker{}
		r := run(t, c, b.dial, 0, quiet)
		time.Sleep(time.Second)
		states := func() int { return len(b.on(protocol.StateTopic(machine))) }
		if n := states(); n != 1 {
			t.Errorf("%d states after connecting, want 1", n)
		}
		for i := range 30 { // half a minute of changes
			c.change(fmt.Sprint(i))
			time.Sleep(time.Second)
		}
		if n := states(); n != 4 {
			t.Errorf("%d states after 31 s of changes, want 4", n)
		}
		time.Sleep(16 * time.Minute)
		if n := states(); n < 7 || n > 8 { // the last change, then one each 5 min
			t.Errorf("%d states after 16 quiet minutes, want 7 or 8", n)
		}
		for _, s := range b.on(protocol.StateTopic(machine)) {
			if _, err := protocol.DecodeState(s.payload); err != nil || !s.retained {
				t.Errorf("state retained %v, err %v", s.retained, err)
			}
		}
		r.stop()
	})
}

func TestWillAndGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newChain(t, 0), &broker{}
		r := run(t, c, b.dial, 0, quiet)
		time.Sleep(time.Second)
		b.hangUp()
		time.Sleep(time.Minute)
		if !r.Status().Connected {
			t.Error("not connected a minute after the line broke")
		}
		r.stop()
		_, wills, left := b.seen()
		for i, w := range wills {
			o, err := protocol.DecodeOnline(w.payload)
			if want := (protocol.Online{Connection: uint64(i + 1)}); err != nil || o != want || !w.retained || w.topic != protocol.OnlineTopic(machine) {
				t.Errorf("will %d is %+v on %s, err %v; want %+v", i, o, w.topic, err, want)
			}
		}
		var got []protocol.Online
		for _, s := range b.on(protocol.OnlineTopic(machine)) {
			o, err := protocol.DecodeOnline(s.payload)
			if err != nil || !s.retained {
				t.Errorf("online retained %v, err %v", s.retained, err)
			}
			got = append(got, o)
		}
		if want := []protocol.Online{{Online: true, Connection: 1}, {Online: true, Connection: 2}, {Connection: 2}}; !slices.Equal(got, want) {
			t.Errorf("said online %+v, want %+v", got, want)
		}
		if !left {
			t.Error("left without DISCONNECT: the broker would send the will")
		}
	})
}

// A broker that never confirms must not make the library keep ever more.
func TestBrokerNeverConfirms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newChain(t, 1), &broker{mute: true}
		r := run(t, c, b.dial, 0, quiet)
		time.Sleep(3 * time.Hour)
		if dials, _, _ := b.seen(); dials < 2 {
			t.Error("the connection was kept though nothing was ever confirmed")
		}
		r.stop()
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		r := run(t, newChain(t, 0), func(context.Context) (net.Conn, error) {
			at = append(at, time.Now())
			return nil, errors.New("no route")
		}, 0, quiet)
		time.Sleep(time.Hour)
		r.stop()
		if n := len(at); n < 55 || n > 80 {
			t.Errorf("dialled %d times in an hour, want about 65", n)
		}
		for i := 1; i < len(at); i++ {
			if got := at[i].Sub(at[i-1]); got > 75*time.Second+time.Second {
				t.Errorf("waited %v before dial %d, at most 75 s are allowed", got, i+1)
			}
		}
	})
}

func desiredFor(m protocol.MachineID) protocol.Desired {
	return protocol.Desired{
		Machine: m, DesiredVersion: protocol.DesiredVersion{Generation: 1, Version: 1},
		Policy:   protocol.Policy{AgeFrom: 18, Rules: []protocol.Rule{{Max: 2, Per: protocol.PerDays, Days: 30}}},
		Products: []protocol.Product{{ID: "condom-52", Letter: "A", Class: "condom", Units: 10, Name: protocol.Text{ZH: "避孕套", EN: "Condoms"}, Note: protocol.Text{ZH: "10 只", EN: "10 pieces"}}},
		Texts:    protocol.Texts{Authority: protocol.Text{ZH: "示例单位", EN: "Sample office"}, Phone: "000-0000"},
	}
}

func commandFor(m protocol.MachineID, n uint64) protocol.Command {
	return protocol.Command{ID: fmt.Sprintf("c-%d", n), Machine: m, Generation: 1, Counter: n, NotBeforeMS: 1, ExpiresMS: 2, Verb: protocol.VerbPause}
}

func must(t *testing.T) func(b []byte, err error) []byte {
	return func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func TestOnlySignedAndForThisMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		c, b := newChain(t, 2), &broker{}
		r := run(t, c, b.dial, 0, slog.New(slog.NewTextHandler(&log, nil)))
		time.Sleep(time.Second)
		ok := must(t)
		desired, command, ack := protocol.DesiredTopic(machine), protocol.CommandTopic(machine), protocol.AckTopic(machine)
		bad := []struct {
			topic   string
			payload []byte
		}{
			{desired, ok(protocol.SignDesired(signer(2), desiredFor(machine)))},
			{desired, ok(protocol.SignDesired(signer(1), desiredFor("m-0002")))},
			{desired, ok(protocol.SignCommand(signer(1), commandFor(machine, 1)))},
			{desired, []byte("{}")},
			{command, ok(protocol.SignCommand(signer(2), commandFor(machine, 1)))},
			{command, ok(protocol.SignCommand(signer(1), commandFor("m-0002", 1)))},
			{command, []byte("\x00")},
			{ack, nil},
			{ack, protocol.Encode(protocol.Ack{Ledger: ledgerID, Generation: 1, Seq: 99})},
			{ack, bytes.Repeat([]byte(" "), protocol.MaxMessage+1)},
			{"yaoju/1/d/m-0002/ack", []byte("{}")},
		}
		for _, x := range bad {
			b.send(x.topic, x.payload)
			time.Sleep(time.Second)
		}
		if s := r.Status(); s.Refused != uint64(len(bad)) || !s.Connected {
			t.Errorf("status %+v, want %d refused and connected", s, len(bad))
		}
		if n := log.count("refused"); n != 5 { // desired, command, ack, size, topic: each once in this minute
			t.Errorf("%d log lines about it, want 5", n)
		}
		b.send(desired, ok(protocol.SignDesired(signer(1), desiredFor(machine))))
		b.send(command, ok(protocol.SignCommand(signer(1), commandFor(machine, 1))))
		time.Sleep(time.Second)
		r.stop()
		if len(r.desired) != 1 || len(r.commands) != 1 {
			t.Errorf("%d desired states and %d commands came through, want 1 and 1", len(r.desired), len(r.commands))
		}
	})
}

func TestNoCommandIsDroppedSilently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newChain(t, 0), &broker{}
		r := run(t, c, b.dial, time.Minute, quiet)
		time.Sleep(time.Second)
		const given = 40
		for n := uint64(1); n <= given; n++ {
			b.send(protocol.CommandTopic(machine), must(t)(protocol.SignCommand(signer(1), commandFor(machine, n))))
			synctest.Wait()
		}
		time.Sleep(2 * time.Hour)
		r.stop()
		if d := r.Status().Dropped; d == 0 || int(d)+len(r.commands) != given {
			t.Errorf("%d done and %d counted as dropped of %d", len(r.commands), d, given)
		}
		for i := range r.commands {
			if i > 0 && r.commands[i].Counter <= r.commands[i-1].Counter {
				t.Errorf("command %d was done after %d", r.commands[i].Counter, r.commands[i-1].Counter)
			}
		}
	})
}

func TestStateOnCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newChain(t, 0), &broker{}
		r := run(t, c, b.dial, 0, quiet)
		time.Sleep(time.Second)
		cmd := commandFor(machine, 1)
		cmd.Verb = protocol.VerbState
		b.send(protocol.CommandTopic(machine), must(t)(protocol.SignCommand(signer(1), cmd)))
		time.Sleep(time.Second)
		if n := len(b.on(protocol.StateTopic(machine))); n != 2 {
			t.Errorf("%d states, want one on connecting and one on command", n)
		}
		for range 3 { // as often as it changes, and not once more
			r.SendState()
		}
		time.Sleep(time.Second)
		if n := len(b.on(protocol.StateTopic(machine))); n < 3 || n > 4 {
			t.Errorf("%d states, want one more for what changed", n)
		}
		r.stop()
	})
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	c := newChain(t, 0)
	good := uplink.Options{
		Machine: machine, Chain: c, Identity: c, State: c.state, Log: quiet,
		Dial:    func(context.Context) (net.Conn, error) { return nil, errors.New("no route") },
		Desired: func(context.Context, protocol.Desired) error { return nil },
		Command: func(context.Context, protocol.Command) error { return nil },
		Trust:   protocol.Trust{Keys: []ed25519.PublicKey{signer(1).Public().(ed25519.PublicKey)}}, KeepTrust: keep,
	}
	for name, spoil := range map[string]func(*uplink.Options){
		"machine": func(o *uplink.Options) { o.Machine = "M 1" },
		"chain":   func(o *uplink.Options) { o.Chain = nil },
		"trusted": func(o *uplink.Options) { o.Trust.Keys = nil },
	} {
		o := good
		spoil(&o)
		if _, err := uplink.New(o); err == nil {
			t.Errorf("without a proper %s it was accepted", name)
		}
	}
	if _, err := uplink.New(good); err != nil {
		t.Error(err)
	}
}

// lines is a log that can be counted in.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, "message from the district refused") && strings.Contains(line, s) {
			n++
		}
	}
	return n
}
