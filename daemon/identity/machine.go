package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"yaoju/daemon/durable"
	"yaoju/protocol"
)

// Files of a machine, in its folder. The key, the certificate and the district's
// root change together, so they are one file; a key whose certificate has not come
// yet waits in another. One that was made for a line of its own carries the token's
// name and stays until the next enrolment: the line may be used again.
const (
	machineFile  = "machine.pem"
	pendingStart = "pending"
	pendingFile  = pendingStart + ".pem"
)

func pendingFor(t Token) string { return fmt.Sprintf("%s-%x.pem", pendingStart, t[:8]) }

// Waits of a machine.
const (
	// askEvery is how often it asks whether there is something to renew. The
	// district's clock decides, so that a Pi without one renews in time as well.
	askEvery = 12 * time.Hour
	// lookEvery is how often it asks while an officer's consent is awaited, and how
	// soon it notices that it was enrolled.
	lookEvery = 15 * time.Minute
	// A district that does not answer is asked again, ever more rarely.
	retryMin = time.Minute
	retryMax = time.Hour
)

// ErrNotEnrolled says that the machine has no certificate yet.
var ErrNotEnrolled = errors.New("this machine is not enrolled: make a line on the district's computer with 'districtd enrol MACHINE' and use it here with 'yaoju enrol LINE'")

// Options is what a machine needs. Dir, Machine, Desk, Synced, Dial and Log are required.
type Options struct {
	Dir     string             // folder of its own, made if it is not there
	Machine protocol.MachineID // who it is
	Desk    string             // host:port of the district's enrolment
	Build   time.Time          // when this program was built: it is later than that; zero: not known
	Synced  func() bool        // whether the wall clock can be believed
	Dial    func(ctx context.Context, address string) (net.Conn, error)
	Log     *slog.Logger

	Vault      Vault // the computer's TPM; nil: there is none
	KeyInVault bool  // an enrolment makes new keys in Vault, and not in a file of mode 0600
}

// Machine is a machine's identity. It holds nothing in memory but how its last
// request went: the file is read for each connection, so what 'yaoju enrol' or a
// renewal brings is in use at the next.
//
// A Pi has no clock. So a machine judges the district's certificates at the latest
// moment it is sure of: the program's build, or if that is later its wall clock once
// that is synchronised, and until then the beginning of its own certificate. A
// certificate that begins later than that is good: it shows that the machine's clock
// is behind. What is given up is only that a district's certificate which ran out may
// be shown to a machine that has no time; its key never left the district's memory,
// and neither desired states nor commands are believed for a connection's sake.
type Machine struct {
	o Options

	// owned by Run
	retry time.Duration // before the next request, after one that failed
	said  string        // the complaint that was logged last
}

// New returns a machine's identity; there need not be a certificate yet.
func New(o Options) (*Machine, error) {
	if o.Dir == "" || o.Synced == nil || o.Dial == nil || o.Log == nil {
		return nil, errors.New("identity: an option is missing")
	}
	if err := o.Machine.Valid(); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if err := ValidAddress(o.Desk); err != nil {
		return nil, fmt.Errorf("identity: enrolment: %w", err)
	}
	return &Machine{o: o}, nil
}

// credentials are a machine's file, read and found sound.
type credentials struct {
	raw   []byte
	own   bundle // as the file has it; its certificates are not looked at
	key   crypto.Signer
	chain []*x509.Certificate // the machine's own first
	root  *x509.Certificate
}

func (c credentials) tls() *tls.Certificate {
	out := &tls.Certificate{PrivateKey: c.key, Leaf: c.chain[0]}
	for _, x := range c.chain {
		out.Certificate = append(out.Certificate, x.Raw)
	}
	return out
}

func (o Options) load() (credentials, error) {
	path := filepath.Join(o.Dir, machineFile)
	raw, err := readClosed(path)
	if errors.Is(err, fs.ErrNotExist) {
		return credentials{}, ErrNotEnrolled
	}
	if err != nil {
		return credentials{}, err
	}
	c, err := o.sound(raw)
	if err != nil {
		return credentials{}, fmt.Errorf("%s: %w: enrol the machine again, with 'yaoju enrol -new-key LINE'", path, err)
	}
	return c, nil
}

func (o Options) sound(raw []byte) (credentials, error) {
	u, err := decodeBundle(raw)
	if err != nil {
		return credentials{}, err
	}
	if len(u.certs) < 2 {
		return credentials{}, errors.New("a certificate is missing")
	}
	k, err := o.signer(u)
	if err != nil {
		return credentials{}, err
	}
	c := credentials{raw: raw, own: u, key: k, chain: u.certs, root: u.certs[len(u.certs)-1]}
	return c, o.fits(c)
}

// fits checks that a certificate is this machine's and leads to its root. Whether
// it still holds is the district's to say.
func (o Options) fits(c credentials) error {
	leaf := c.chain[0]
	m, err := machineOf(leaf)
	if err != nil {
		return err
	}
	if m != o.Machine {
		return fmt.Errorf("certificate: it is %s's, this machine is %s", m, o.Machine)
	}
	if !matches(leaf.PublicKey, c.key) {
		return errors.New("certificate: it is for another key")
	}
	if err := verify(c.chain, c.root, forMachine, "", within(leaf.NotBefore, c.chain)); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	return nil
}

// now is the latest moment the machine is sure of. Once it has a clock its own
// certificate says nothing more: the district's may have been wrong that day.
func (o Options) now(own *x509.Certificate) time.Time {
	t := o.Build
	also := time.Time{}
	switch {
	case o.Synced():
		also = time.Now()
	case own != nil:
		also = own.NotBefore
	}
	if also.After(t) {
		return also
	}
	return t
}

func (o Options) caller(c credentials, address string) caller {
	return caller{dial: o.Dial, address: address, own: c.tls(), at: o.now(c.chain[0]), root: known(c.root)}
}

// Dial opens a connection to a computer of the district at host:port, on which both
// sides know each other.
func (m *Machine) Dial(ctx context.Context, address string) (net.Conn, error) {
	c, err := m.o.load()
	if err != nil {
		return nil, err
	}
	return m.o.caller(c, address).open(ctx)
}

// Run keeps the certificate fresh until ctx ends, then returns nil. A machine that
// is not enrolled, or that the district refuses, goes on without.
func (m *Machine) Run(ctx context.Context) error {
	for wait := jitter(retryMin); ; {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		wait = jitter(m.look(ctx))
	}
}

// jitter spreads a wait over 75 to 125 %: all machines of a district start together
// after a power cut.
func jitter(d time.Duration) time.Duration { return d*3/4 + mathrand.N(d/2) }

// look renews what there is to renew and returns when to look again.
func (m *Machine) look(ctx context.Context) time.Duration {
	until, err := m.renew(ctx)
	if ctx.Err() != nil {
		return retryMin
	}
	var no *Refusal
	code := Code("")
	if errors.As(err, &no) {
		code = no.Code
	}
	if err == nil {
		m.o.Log.Info("certificate renewed", "until", until)
	}
	if err == nil || code == CodeCurrent {
		m.retry, m.said = 0, ""
		return askEvery
	}
	m.complain(err)
	switch {
	case code == CodeConsent, errors.Is(err, ErrNotEnrolled):
		return lookEvery
	case code == CodeRevoked:
		return askEvery
	}
	m.retry = min(max(2*m.retry, retryMin), retryMax)
	return m.retry
}

// complain logs what is wrong once, not at every attempt.
func (m *Machine) complain(err error) {
	if err.Error() == m.said {
		return
	}
	m.said = err.Error()
	m.o.Log.Error("the certificate cannot be renewed", "err", err)
}

// renew asks for the next certificate with the one there is.
func (m *Machine) renew(ctx context.Context) (until time.Time, err error) {
	c, err := m.o.load()
	if err != nil {
		return until, err
	}
	sealing, err := m.o.sealing(c.own.handle != nil)
	if err != nil {
		// What is sealed can be sealed again; the machine's name is worth more.
		m.o.Log.Error("the machine's sealing key cannot be used", "err", err)
	}
	chain, err := m.o.caller(c, m.o.Desk).ask(ctx, renewPath, protocol.Encode(renewRequest{Sealing: sealing.bytes()}))
	if err != nil {
		return until, err
	}
	next := credentials{own: c.own, key: c.key, chain: chain, root: c.root}
	if err := m.o.fits(next); err != nil {
		return until, fmt.Errorf("the district's answer: %w", err)
	}
	held, err := holdFolder(m.o.Dir)
	if err != nil {
		return until, err
	}
	defer held.Close()
	if raw, err := readSecret(filepath.Join(m.o.Dir, machineFile)); err != nil || !bytes.Equal(raw, c.raw) {
		return until, errors.Join(errors.New("the machine was enrolled anew in the meantime"), err)
	}
	return chain[0].NotAfter, m.o.keep(next)
}

// keep writes the machine's file. The root is kept as it was first known, whatever
// the district sent at the end of the chain.
func (o Options) keep(c credentials) error {
	certs := append([]*x509.Certificate{}, c.chain[:len(c.chain)-1]...)
	return writeBundle(filepath.Join(o.Dir, machineFile), bundle{key: c.own.key, handle: c.own.handle, certs: append(certs, c.root)})
}

// Enrol gets a machine its first certificate, or its next by a new line. It may be
// repeated with the same line if the answer was lost. It keeps the key, if there is one.
func Enrol(ctx context.Context, o Options, l Line) (Name, error) {
	return enrol(ctx, o, l, machineFile, pendingFile)
}

// EnrolAnew enrols a machine with a new key, as one needs whose key was revoked or
// may be known to others. It too may be repeated with the same line.
func EnrolAnew(ctx context.Context, o Options, l Line) (Name, error) {
	return enrol(ctx, o, l, pendingFor(l.Token))
}

// enrol asks for a certificate for the key in the first of the files that is there.
func enrol(ctx context.Context, o Options, l Line, files ...string) (Name, error) {
	if l.Machine != o.Machine {
		return Name{}, fmt.Errorf("enrol: the line is for %s, and this machine is %s: make one for it, or correct its configuration", l.Machine, o.Machine)
	}
	if err := makeFolder(o.Dir); err != nil {
		return Name{}, fmt.Errorf("enrol: %w", err)
	}
	own, err := o.enrolmentKey(files)
	if err != nil {
		return Name{}, fmt.Errorf("enrol: %w", err)
	}
	key, err := o.signer(own)
	if err != nil {
		return Name{}, fmt.Errorf("enrol: %w", err)
	}
	sealing, err := o.sealing(own.handle != nil)
	if err != nil {
		return Name{}, fmt.Errorf("enrol: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: string(o.Machine)}}, key)
	if err != nil {
		return Name{}, fmt.Errorf("enrol: %w", err)
	}
	// The root is what the fingerprint in the line says, and nothing else.
	c := credentials{own: own, key: key}
	find := pinned(l.Root)
	k := caller{dial: o.Dial, address: l.Address, at: o.now(nil), root: func(shown []*x509.Certificate) (*x509.Certificate, error) {
		var err error
		c.root, err = find(shown)
		return c.root, err
	}}
	if c.chain, err = k.ask(ctx, enrolPath, protocol.Encode(enrolRequest{Machine: o.Machine, Token: l.Token[:], CSR: csr, Sealing: sealing.bytes()})); err != nil {
		return Name{}, fmt.Errorf("enrol: %w", err)
	}
	if err := o.fits(c); err != nil {
		return Name{}, fmt.Errorf("enrol: the district's answer: %w", err)
	}
	if err := o.take(c, files); err != nil {
		return Name{}, fmt.Errorf("enrol: keep the certificate: %w", err)
	}
	id, err := keyID(key.Public())
	return Name{Machine: o.Machine, Key: id, Until: c.chain[0].NotAfter, Sealing: sealing}, err
}

// take puts the certificate in force, whatever a running kioskd does meanwhile, and
// removes the keys that wait for none any more.
func (o Options) take(c credentials, files []string) error {
	held, err := holdFolder(o.Dir)
	if err != nil {
		return err
	}
	defer held.Close()
	if err := o.keep(c); err != nil {
		return err
	}
	all, err := os.ReadDir(o.Dir)
	if err != nil {
		return err
	}
	for _, f := range all {
		if !strings.HasPrefix(f.Name(), pendingStart) || f.Name() == files[0] {
			continue
		}
		if err := os.Remove(filepath.Join(o.Dir, f.Name())); err != nil {
			return err
		}
	}
	return durable.SyncFolder(o.Dir)
}

// enrolmentKey is the key to ask for. One that was made for an answer that never
// came is used again, because the district may have given its certificate to that
// one. A new one comes with a new sealing key: who knows the one may know the other.
func (o Options) enrolmentKey(files []string) (bundle, error) {
	held, err := holdFolder(o.Dir) // somebody else may be enrolling it as well
	if err != nil {
		return bundle{}, err
	}
	defer held.Close()
	for _, name := range files {
		u, err := readBundle(filepath.Join(o.Dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && u.key == nil && u.handle == nil {
			err = fmt.Errorf("%s: it holds no key", filepath.Join(o.Dir, name))
		}
		if err != nil {
			return bundle{}, fmt.Errorf("%w (move it away and use -new-key to begin anew)", err)
		}
		return u, nil
	}
	u, err := o.machineKey()
	if err != nil {
		return bundle{}, err
	}
	if err := o.makeSealing(u.handle != nil); err != nil {
		return bundle{}, err
	}
	return u, writeBundle(filepath.Join(o.Dir, files[len(files)-1]), u)
}
