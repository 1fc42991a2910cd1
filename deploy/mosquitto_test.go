package deploy

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"yaoju/daemon/identity"
	"yaoju/protocol"
)

// anyone is a Registry that lets every machine in; what it decides has tests elsewhere.
type anyone struct{}

func (anyone) Redeem(context.Context, identity.Token, identity.Name) error { return nil }
func (anyone) Renew(context.Context, identity.Name) error                  { return nil }

// enrolled gives machines certificates of a CA in dir/ca, as the district does, and
// returns the folder of each with its key.
func enrolled(t *testing.T, dir string, machines ...string) (*identity.CA, []string, []identity.KeyID) {
	t.Helper()
	ca, err := identity.MakeCA(filepath.Join(dir, "ca"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	server, err := identity.NewServer(ca, []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- identity.NewDesk(server, anyone{}, slog.New(slog.DiscardHandler)).Run(ctx, l) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	var folders []string
	var keys []identity.KeyID
	for i, m := range machines {
		folder := filepath.Join(dir, fmt.Sprintf("machine%d", i))
		o := identity.Options{Dir: folder, Machine: protocol.MachineID(m), Desk: l.Addr().String(), Synced: func() bool { return true }, Log: slog.New(slog.DiscardHandler),
			Dial: func(ctx context.Context, address string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", address)
			}}
		line := identity.Line{Machine: o.Machine, Address: o.Desk, Root: ca.Root(), Token: identity.Token{byte(i)}}
		name, err := identity.Enrol(ctx, o, line)
		if err != nil {
			t.Fatal(err)
		}
		folders, keys = append(folders, folder), append(keys, name.Key)
	}
	return ca, folders, keys
}

// forged is a certificate for name, signed by the issuing key of the CA in folder ca,
// or by nobody.
func forged(t *testing.T, ca, name string, usage x509.ExtKeyUsage) tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}}
	parent, by := c, crypto.Signer(k)
	if ca != "" {
		issuing, err := tls.LoadX509KeyPair(filepath.Join(ca, "issuing.pem"), filepath.Join(ca, "issuing.pem"))
		if err != nil {
			t.Fatal(err)
		}
		parent, by = issuing.Leaf, issuing.PrivateKey.(crypto.Signer)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, k.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der, parent.Raw}, PrivateKey: k}
}

// broker is a Mosquitto of our configuration, on a port of its own.
type broker struct {
	t       *testing.T
	dir     string // what /etc/mosquitto/yaoju is in the field
	config  string
	address string
	cmd     *exec.Cmd
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	b := &broker{t: t, dir: t.TempDir(), address: address}
	b.config = filepath.Join(b.dir, "mosquitto.conf")
	text, err := os.ReadFile("district/root/usr/share/yaoju-district/mosquitto/yaoju.conf")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(address)
	conf := strings.ReplaceAll(string(text), "/etc/mosquitto/yaoju", b.dir)
	conf = strings.Replace(conf, "listener 8883", "listener "+port+" 127.0.0.1", 1)
	if os.Getuid() == 0 {
		conf += "user root\n"
	}
	acl, err := os.ReadFile("district/root/usr/share/yaoju-district/mosquitto/yaoju.acl")
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{b.config: conf, filepath.Join(b.dir, "acl"): string(acl)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// start runs the broker until stop, and returns when it answers.
func (b *broker) start() {
	b.t.Helper()
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto"
	}
	b.cmd = exec.Command(path, "-c", b.config)
	b.cmd.Stderr = b.t.Output()
	if err := b.cmd.Start(); err != nil {
		b.t.Fatalf("%v: make tools installs it", err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", b.address)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("mosquitto does not answer: %v", err)
		}
	}
}

func (b *broker) stop() {
	b.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself, which Wait tells
	if err := b.cmd.Wait(); err != nil {
		b.t.Errorf("mosquitto: %v", err)
	}
}

// clientLimit bounds each exchange with the broker.
const clientLimit = 5 * time.Second

// silence is how long nothing must come before we believe that nothing does.
const silence = 300 * time.Millisecond

// connect makes an MQTT connection with a certificate, or says why there is none.
func (b *broker) connect(root *x509.Certificate, own *tls.Certificate, id string, version uint16) (mqtt.Client, error) {
	c := &tls.Config{MinVersion: version, MaxVersion: version, RootCAs: x509.NewCertPool(), ServerName: "127.0.0.1"}
	c.RootCAs.AddCert(root)
	if own != nil {
		c.Certificates = []tls.Certificate{*own}
	}
	m := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("ssl://" + b.address).SetTLSConfig(c).SetClientID(id).
		SetProtocolVersion(4).SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(clientLimit))
	token := m.Connect()
	if !token.WaitTimeout(clientLimit) {
		return nil, fmt.Errorf("no answer within %v", clientLimit)
	}
	return m, token.Error()
}

// The district's broker takes certificates of the district's CA and of nobody else,
// holds each machine to its own topics, and a revoked key is out.
func TestMosquitto(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, folders, keys := enrolled(t, dir, "m-0001", "m-0002")
	b := newBroker(t)
	if err := ca.KeepBroker(b.dir, []string{"127.0.0.1"}, nil, time.Now()); err == nil {
		t.Fatal("a folder that others may enter was taken for keys")
	}
	if err := os.Chmod(b.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	keep := func(revoked ...identity.KeyID) {
		t.Helper()
		if err := ca.KeepBroker(b.dir, []string{"127.0.0.1"}, revoked, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	keep()
	b.start()
	defer func() { b.stop() }()

	root := rootOf(t, filepath.Join(dir, "ca"))
	var machines []tls.Certificate
	for _, f := range folders {
		c, err := tls.LoadX509KeyPair(filepath.Join(f, "machine.pem"), filepath.Join(f, "machine.pem"))
		if err != nil {
			t.Fatal(err)
		}
		machines = append(machines, c)
	}
	caFolder := filepath.Join(dir, "ca")
	office := forged(t, caFolder, "DISTRICT", x509.ExtKeyUsageClientAuth)
	alone := machines[0]
	alone.Certificate = alone.Certificate[:1]
	ran := func(c tls.Certificate) *tls.Certificate { return &c }

	for _, c := range []struct {
		who     string
		own     *tls.Certificate
		version uint16
		good    bool
	}{
		{"a machine", &machines[0], tls.VersionTLS13, true},
		{"a machine that shows its own certificate alone", &alone, tls.VersionTLS13, true},
		{"with TLS 1.2", &machines[0], tls.VersionTLS12, false},
		{"without a certificate", nil, tls.VersionTLS13, false},
		{"with a certificate of nobody's", ran(forged(t, "", "m-0001", x509.ExtKeyUsageClientAuth)), tls.VersionTLS13, false},
		{"with a server's certificate", ran(forged(t, caFolder, "DISTRICT", x509.ExtKeyUsageServerAuth)), tls.VersionTLS13, false},
	} {
		m, err := b.connect(root, c.own, "m-0001", c.version)
		if (err == nil) != c.good {
			t.Errorf("%s: %v", c.who, err)
		}
		if err == nil {
			m.Disconnect(0)
		}
	}

	join := func(own *tls.Certificate, id string) mqtt.Client {
		t.Helper()
		m, err := b.connect(root, own, id, tls.VersionTLS13)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	type clients map[string]mqtt.Client
	all := func() clients { // Mosquitto hangs up on who speaks where it may not
		return clients{"a": join(&machines[0], "m-0001"), "b": join(&machines[1], "m-0002"), "district": join(&office, "whatever")}
	}
	for _, c := range []struct {
		hears, filter, speaks, topic string
		good                         bool
	}{
		{"district", "yaoju/1/m/+/events", "a", "yaoju/1/m/m-0001/events", true},
		{"district", "$share/yaoju/yaoju/1/m/+/events", "a", "yaoju/1/m/m-0001/events", true},
		{"district", "yaoju/1/m/+/state", "a", "yaoju/1/m/m-0001/state", true},
		{"district", "yaoju/1/m/+/online", "a", "yaoju/1/m/m-0001/online", true},
		{"district", "yaoju/1/m/+/events", "a", "yaoju/1/m/m-0002/events", false},
		{"district", "yaoju/1/m/+/events", "b", "yaoju/1/m/m-0001/events", false},
		{"a", protocol.AckTopic("m-0001"), "district", protocol.AckTopic("m-0001"), true},
		{"a", protocol.DesiredTopic("m-0001"), "district", protocol.DesiredTopic("m-0001"), true},
		{"a", protocol.KeysTopic("m-0001"), "district", protocol.KeysTopic("m-0001"), true},
		{"a", protocol.CommandTopic("m-0001"), "district", protocol.CommandTopic("m-0001"), true},
		{"b", protocol.CommandTopic("m-0001"), "district", protocol.CommandTopic("m-0001"), false},
		{"b", "yaoju/1/d/#", "district", protocol.CommandTopic("m-0001"), false},
		{"b", "#", "a", "yaoju/1/m/m-0001/events", false},
		{"a", protocol.CommandTopic("m-0001"), "b", protocol.CommandTopic("m-0001"), false},
		{"a", protocol.AckTopic("m-0001"), "a", protocol.AckTopic("m-0001"), false},
		{"district", "yaoju/1/m/+/events", "district", "yaoju/1/m/m-0001/events", false},
		{"a", "$SYS/#", "b", "yaoju/1/m/m-0002/events", false},
	} {
		all := all()
		if got := b.heard(all[c.hears], c.filter, all[c.speaks], c.topic); got != c.good {
			t.Errorf("%s hears %s on %s: %v", c.hears, c.speaks, c.topic, got)
		}
		for _, m := range all {
			m.Disconnect(0)
		}
	}

	// Another machine cannot end m-0001's connection by calling itself m-0001.
	there := all()
	thief := join(&machines[1], "m-0001")
	if !b.heard(there["district"], "yaoju/1/m/+/events", there["a"], "yaoju/1/m/m-0001/events") {
		t.Error("m-0002 ended the connection of m-0001")
	}
	thief.Disconnect(0)

	// The broker's own certificate is made anew while it runs.
	served := func() string {
		t.Helper()
		m, err := tls.Dial("tcp", b.address, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) // who it is, is what we ask
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		return m.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	had := served()
	if err := ca.KeepBroker(b.dir, []string{"127.0.0.1", "district.example"}, nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(clientLimit); served() == had; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the broker shows its old certificate after it was told of the new one")
		}
	}
	if !b.heard(there["district"], "yaoju/1/m/+/events", there["a"], "yaoju/1/m/m-0001/events") {
		t.Error("a new certificate cost a connection")
	}

	// The list read again: a new connection of the revoked key is refused, others are not.
	keep(keys[0])
	if err := b.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	refused := func() bool {
		m, err := b.connect(root, &machines[0], "m-0001", tls.VersionTLS13)
		if err == nil {
			m.Disconnect(0)
		}
		return err != nil
	}
	for end := time.Now().Add(clientLimit); !refused(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a revoked machine is let in after the list was read again")
		}
	}
	join(&machines[1], "m-0002").Disconnect(0)

	// Started again, as on every revocation, it hangs up on the revoked too; and the
	// machine that was let back has a place.
	b.stop()
	if there["a"].IsConnectionOpen() {
		t.Error("a connection outlived the broker")
	}
	b.start()
	if !refused() {
		t.Error("a revoked machine is let in after a restart")
	}
	keep()
	b.stop()
	b.start()
	if refused() {
		t.Error("a machine whose key is good again is refused")
	}
}

func rootOf(t *testing.T, ca string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(ca, "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// heard says whether one client hears on filter what the other says on topic.
func (b *broker) heard(ear mqtt.Client, filter string, mouth mqtt.Client, topic string) bool {
	b.t.Helper()
	word := fmt.Sprintf("%x", sha256.Sum256([]byte(filter+topic+time.Now().String())))
	got := make(chan string, 16)
	sub := ear.Subscribe(filter, 1, func(_ mqtt.Client, m mqtt.Message) {
		select {
		case got <- string(m.Payload()):
		default: // more than anybody asked for
		}
	})
	if !sub.WaitTimeout(clientLimit) {
		b.t.Fatalf("subscribe to %s: no answer", filter)
	}
	defer func() { ear.Unsubscribe(filter).WaitTimeout(clientLimit) }()
	if pub := mouth.Publish(topic, 1, false, word); !pub.WaitTimeout(clientLimit) {
		b.t.Fatalf("publish on %s: no answer", topic)
	}
	for end := time.After(silence); ; {
		select {
		case w := <-got:
			if w == word {
				return true
			}
		case <-end:
			return false
		}
	}
}
