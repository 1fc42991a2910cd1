package district_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	mqttpackets "github.com/eclipse/paho.mqtt.golang/packets"

	"yaoju/daemon/district"
	"yaoju/daemon/identity"
	"yaoju/protocol"
)

// registry is the district as the enrolment asks it.
type registry struct{ s *service }

func named(n identity.Name) district.Peer {
	return district.Peer{Machine: n.Machine, Key: n.Key, Until: n.Until, RanOut: n.RanOut, Sealing: n.Sealing}
}

func refused(err error) error {
	switch {
	case errors.Is(err, district.ErrToken):
		return identity.Refuse(identity.CodeToken, err)
	case errors.Is(err, district.ErrRevoked):
		return identity.Refuse(identity.CodeRevoked, err)
	case errors.Is(err, district.ErrConsent):
		return identity.Refuse(identity.CodeConsent, err)
	}
	return err
}

func (r registry) Redeem(ctx context.Context, t identity.Token, n identity.Name) error {
	return refused(r.s.d.Redeem(ctx, district.Token(t), named(n)))
}

func (r registry) Renew(ctx context.Context, n identity.Name) error {
	return refused(r.s.d.Renew(ctx, named(n)))
}

// guarded is a district whose machines show certificates.
type guarded struct {
	*service
	dir    string
	ca     *identity.CA
	server *identity.Server
	desk   *hub
	ending func() // of the desk
}

func guard(t *testing.T, dir string) *guarded {
	t.Helper()
	g := &guarded{service: &service{t: t, path: filepath.Join(dir, "d.db"), n: healthy()}, dir: dir, desk: newHub()}
	var err error
	if g.ca, err = identity.MakeCA(filepath.Join(dir, "ca"), time.Now()); err != nil {
		t.Fatal(err)
	}
	if g.server, err = identity.NewServer(g.ca, []string{"district.example"}); err != nil {
		t.Fatal(err)
	}
	g.change = func(o *district.Options) {
		o.Identify = func(ctx context.Context, c net.Conn) (district.Peer, error) {
			n, err := g.server.Identify(ctx, c)
			return named(n), err
		}
	}
	g.wrap = g.server.Machines
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	desk := identity.NewDesk(g.server, registry{g.service}, quiet)
	go func() { done <- desk.Run(ctx, g.desk) }()
	g.ending = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute) // lines that nobody reads any more give up
		synctest.Wait()
	}
	g.start()
	return g
}

// options are those of a machine with a folder of its own.
func (g *guarded) options(m protocol.MachineID, folder string) identity.Options {
	return identity.Options{Dir: filepath.Join(g.dir, folder), Machine: m, Desk: "district.example:8884", Synced: func() bool { return true }, Log: quiet,
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			if address == "district.example:8884" {
				return g.desk.dial(ctx)
			}
			h := g.n.hub.Load()
			if h == nil {
				return nil, errors.New("no route")
			}
			return h.dial(ctx)
		}}
}

// enrol gives a machine a certificate and returns how it dials the broker.
func (g *guarded) enrol(m protocol.MachineID, folder string) func(context.Context) (net.Conn, error) {
	g.t.Helper()
	token, _, err := g.d.MintToken(g.t.Context(), m)
	if err != nil {
		g.t.Fatal(err)
	}
	o := g.options(m, folder)
	l := identity.Line{Machine: m, Address: o.Desk, Root: g.ca.Root(), Token: identity.Token(token)}
	if _, err := identity.EnrolAnew(g.t.Context(), o, l); err != nil {
		g.t.Fatal(err)
	}
	id, err := identity.New(o)
	if err != nil {
		g.t.Fatal(err)
	}
	return func(ctx context.Context) (net.Conn, error) { return id.Dial(ctx, "district.example:8883") }
}

// greet connects as m, runs then if it was admitted, and returns the code; 0xff if
// there was no answer at all.
func (g *guarded) greet(dial func(context.Context) (net.Conn, error), m protocol.MachineID, then func(net.Conn)) byte {
	g.t.Helper()
	c, err := dial(g.t.Context())
	if err != nil {
		return 0xff
	}
	defer func() {
		c.Close()
		synctest.Wait()
	}()
	p := mqttpackets.NewControlPacket(mqttpackets.Connect).(*mqttpackets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.CleanSession, p.ClientIdentifier, p.Keepalive = "MQTT", 4, true, string(m), 60
	if err := p.Write(c); err != nil {
		return 0xff
	}
	a, err := mqttpackets.ReadPacket(c)
	if err != nil {
		return 0xff
	}
	code := a.(*mqttpackets.ConnackPacket).ReturnCode
	if code == 0 && then != nil {
		then(c)
	}
	return code
}

// The certificate says who a machine is, whatever it calls itself; and what is
// another machine's it can neither read nor write.
func TestCertificateIsTheName(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		g := guard(t, dir)
		a, b := g.enrol("m-0001", "a"), g.enrol("m-0002", "b")
		for _, tt := range []struct {
			name string
			dial func(context.Context) (net.Conn, error)
			as   protocol.MachineID
			ok   bool
		}{
			{"A as A", a, "m-0001", true},
			{"B as B", b, "m-0002", true},
			{"A as B", a, "m-0002", false},
			{"B as A", b, "m-0001", false},
			{"A as somebody new", a, "m-0003", false},
			{"nobody as A", g.n.hub.Load().dial, "m-0001", false},
		} {
			if code := g.greet(tt.dial, tt.as, nil); (code == 0) != tt.ok {
				t.Errorf("%s: answered %#x", tt.name, code)
			}
		}
		for _, topic := range []string{"yaoju/1/m/m-0002/events", "yaoju/1/m/m-0002/state", "yaoju/1/m/m-0002/online", "yaoju/1/d/m-0002/command", "yaoju/1/d/m-0001/keys"} {
			g.greet(a, "m-0001", func(c net.Conn) {
				p := mqttpackets.NewControlPacket(mqttpackets.Publish).(*mqttpackets.PublishPacket)
				p.TopicName, p.Qos, p.MessageID, p.Payload = topic, 1, 1, []byte("{}")
				if err := p.Write(c); err != nil {
					t.Error(err)
				}
				if r, err := mqttpackets.ReadPacket(c); err == nil {
					if _, confirmed := r.(*mqttpackets.PubackPacket); confirmed {
						t.Errorf("publish on %s was confirmed", topic)
					}
				}
			})
		}
		for filter, want := range map[string]bool{"yaoju/1/d/m-0002/desired": false, "yaoju/1/d/m-0002/keys": false, "yaoju/1/d/m-0002/ack": false, "yaoju/1/m/m-0002/events": false,
			"yaoju/1/d/+/keys": false, "yaoju/1/d/m-0001/keys": true, "yaoju/1/d/m-0001/desired": true} {
			g.greet(a, "m-0001", func(c net.Conn) {
				p := mqttpackets.NewControlPacket(mqttpackets.Subscribe).(*mqttpackets.SubscribePacket)
				p.Topics, p.Qoss, p.MessageID = []string{filter}, []byte{1}, 1
				if err := p.Write(c); err != nil {
					t.Error(err)
				}
				granted := false
				if r, err := mqttpackets.ReadPacket(c); err == nil {
					s, ok := r.(*mqttpackets.SubackPacket)
					granted = ok && s.ReturnCodes[0] < 0x80
				}
				if granted != want {
					t.Errorf("subscription to %s: granted %v, want %v", filter, granted, want)
				}
			})
		}
		g.stop()
		g.ending()
	})
}

// A machine that is revoked is gone at once, is not let in again, not after a restart
// of the district either, and comes back with a new line and a new key.
func TestRevokedIsGone(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		g := guard(t, dir)
		c, other := newChain(t, "m-0001"), newChain(t, "m-0002")
		c.load(1, 9)
		other.load(1, 9)
		u, stop := connect(t, c, g.enrol("m-0001", "a"))
		v, stopOther := connect(t, other, g.enrol("m-0002", "b"))
		time.Sleep(time.Minute)
		if !u.Status().Connected || c.Acked().Seq != 1 {
			t.Fatalf("it did not connect: %+v, acked %+v", u.Status(), c.Acked())
		}
		since := v.Status().Since
		if err := g.d.Revoke(t.Context(), "m-0001"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		if u.Status().Connected {
			t.Error("still connected a tenth of a second after it was revoked")
		}
		for i := range 2 {
			time.Sleep(10 * time.Minute)
			if u.Status().Connected || c.Acked().Seq != 1 {
				t.Errorf("a revoked machine is back, %d restarts later", i)
			}
			c.vend(protocol.VendID(i+1), 1)
			if i == 0 {
				if s := v.Status(); !s.Connected || !s.Since.Equal(since) {
					t.Errorf("another machine lost its connection: %+v", s)
				}
				g.stop()
				g.start()
			}
		}
		stop()
		u, stop = connect(t, c, g.enrol("m-0001", "new"))
		time.Sleep(10 * time.Minute)
		if !u.Status().Connected || c.Acked().Seq != 3 {
			t.Errorf("enrolled anew, it is not back: %+v, acked %+v", u.Status(), c.Acked())
		}
		stop()
		stopOther()
		g.stop()
		g.ending()
		verify(t, g.path, c)
		verify(t, g.path, other)
	})
}

// A card copied whole, key and ledger, runs in two machines at once: they throw each
// other out, the console says that there are two of them, and one visit with a new key
// ends the other.
func TestCopiedCard(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		g := guard(t, dir)
		c := newChain(t, "m-0001")
		c.load(1, 9)
		dial := g.enrol("m-0001", "a")
		_, stop := connect(t, c, dial)
		time.Sleep(time.Minute)
		twin := newChain(t, "m-0001")
		c.mu.Lock()
		twin.ledger, twin.records, twin.head, twin.acked, twin.lies = c.ledger, slices.Clone(c.records), c.head, c.acked, true
		c.mu.Unlock()
		u, stopTwin := connect(t, twin, dial)
		for i := range 10 {
			time.Sleep(time.Minute)
			c.vend(protocol.VendID(i+1), 1)
			twin.add(protocol.DoorOpened{})
		}
		if p := g.page("/machines/m-0001"); !strings.Contains(p, "Two records under one number") {
			t.Error("the console does not say that there are two of them")
		}
		stop()
		_, stop = connect(t, c, g.enrol("m-0001", "new"))
		time.Sleep(10 * time.Minute)
		if u.Status().Connected {
			t.Error("the other one is let in with the old key")
		}
		stop()
		stopTwin()
		g.stop()
		g.ending()
	})
}

// A connection ends with its certificate. What ran out comes back with the old key
// and an officer's consent, and without a visit.
func TestCertificateEnds(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		g := guard(t, dir)
		c := newChain(t, "m-0001")
		dial := g.enrol("m-0001", "a")
		time.Sleep(identity.Validity - 2*time.Hour)
		u, stop := connect(t, c, dial)
		time.Sleep(time.Minute)
		if !u.Status().Connected {
			t.Fatal("it did not connect on its last day")
		}
		time.Sleep(3 * time.Hour)
		if u.Status().Connected {
			t.Error("a connection outlived its certificate")
		}
		id, err := identity.New(g.options("m-0001", "a"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- id.Run(ctx) }()
		time.Sleep(time.Hour)
		if u.Status().Connected {
			t.Error("it came back without consent")
		}
		if _, err := g.d.Consent(t.Context(), "m-0001"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Minute)
		if !u.Status().Connected {
			t.Error("it is not back after the consent")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		stop()
		g.stop()
		g.ending()
	})
}

// The signing key changes while one machine listens and another is away for two
// changes: both obey the new key, without a visit, and the old one no more.
func TestSigningKeyChanges(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := healthy()
		s := &service{t: t, path: filepath.Join(dir, "d.db"), n: n}
		signer := identity.Signer{Key: key(1)}
		s.change = func(o *district.Options) {
			o.Signer = signer.Key
			if len(signer.Links) > 0 {
				o.Keys = signer.Chain()
			}
		}
		s.start()
		here, away := newChain(t, "m-0001"), newChain(t, "m-0002")
		for _, c := range []*chain{here, away} {
			if err := s.d.PutMachine(t.Context(), district.Place{Machine: c.machine}); err != nil {
				t.Fatal(err)
			}
			want := protocol.Desired{
				Machine: c.machine, Policy: protocol.Policy{AgeFrom: 18, Rules: []protocol.Rule{{Max: 2, Per: protocol.PerDays, Days: 30}}},
				Products: []protocol.Product{{ID: "condom-52", Letter: "A", Class: "condom", Units: 10, Name: protocol.Text{ZH: "避孕套", EN: "Condoms"}, Note: protocol.Text{ZH: "10 只", EN: "10 pieces"}}},
				Texts:    protocol.Texts{Authority: protocol.Text{ZH: "示例单位", EN: "Sample office"}, Phone: "000-0000"},
			}
			if _, err := s.d.SetDesired(t.Context(), want); err != nil {
				t.Fatal(err)
			}
		}
		_, stop := connect(t, here, n.dial)
		time.Sleep(time.Minute)
		change := func(f func(identity.Signer, time.Time) (identity.Signer, error)) {
			next, err := f(signer, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			signer = next
			if err := s.d.SetSigner(t.Context(), signer.Key, signer.Chain()); err != nil {
				t.Fatal(err)
			}
		}
		change(identity.Signer.Rotate)
		change(identity.Signer.Retire)
		change(identity.Signer.Rotate)
		time.Sleep(time.Minute)
		if _, err := s.d.Send(t.Context(), here.machine, protocol.VerbPause, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(here.commands) != 1 {
			t.Errorf("the machine that listened was given %d commands by the new key, want 1", len(here.commands))
		}
		s.stop()
		s.start()
		_, stopAway := connect(t, away, n.dial)
		time.Sleep(time.Minute)
		if _, err := s.d.Send(t.Context(), away.machine, protocol.VerbPause, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(away.commands) != 1 || away.desired.Version == 0 {
			t.Errorf("the machine that was away: %d commands, desired version %d", len(away.commands), away.desired.Version)
		}
		stop()
		stopAway()
		s.stop()
		verify(t, s.path, here)
		verify(t, s.path, away)
		if signer.Public().Equal(key(1).Public().(ed25519.PublicKey)) {
			t.Error("the key never changed: this test proves nothing")
		}
	})
}
