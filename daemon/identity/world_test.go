package identity

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/protocol"
)

var quiet = slog.New(slog.DiscardHandler)

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
	a, b := net.Pipe()
	select {
	case h.conns <- slacken(b):
		return slacken(a), nil
	case <-h.gone:
	case <-ctx.Done():
	}
	return nil, errors.Join(errors.New("no route"), a.Close(), b.Close())
}

// slack gives a pipe the buffer a kernel gives a socket.
type slack struct {
	net.Conn
	queue chan []byte
	gone  chan struct{}
	once  sync.Once
}

func slacken(c net.Conn) net.Conn {
	s := &slack{Conn: c, queue: make(chan []byte, 256), gone: make(chan struct{})}
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

// book is a Registry in memory. It fails the test if it is asked to give a
// certificate that ends in the past.
type book struct {
	t *testing.T

	mu      sync.Mutex
	tokens  map[Token]protocol.MachineID
	used    map[Token]KeyID
	keys    map[KeyID]bool // true: the machine's own; false: revoked
	consent bool
	failing bool
	asked   int // renewals
	sealing SealingKey
}

func (b *book) Redeem(_ context.Context, t Token, n Name) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n.Until.Before(time.Now()) {
		b.t.Errorf("a certificate until %v was asked for", n.Until)
	}
	if b.failing {
		return errors.New("disk full")
	}
	if b.tokens[t] != n.Machine {
		return Refuse(CodeToken, errors.New("no such token"))
	}
	if k, used := b.used[t]; used && k != n.Key {
		return Refuse(CodeToken, errors.New("used"))
	}
	if own, known := b.keys[n.Key]; known && !own {
		return Refuse(CodeRevoked, nil)
	}
	b.used[t], b.keys[n.Key], b.sealing = n.Key, true, n.Sealing
	return nil
}

func (b *book) Renew(_ context.Context, n Name) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	b.sealing = n.Sealing
	own, known := b.keys[n.Key]
	switch {
	case b.failing:
		return errors.New("disk full")
	case known && !own:
		return Refuse(CodeRevoked, nil)
	case (!known || n.RanOut) && !b.consent:
		return Refuse(CodeConsent, nil)
	}
	b.keys[n.Key] = true
	return nil
}

func (b *book) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// world is a district's desk and one machine, in a bubble.
type world struct {
	t      *testing.T
	ca     *CA
	server *Server
	book   *book
	hub    *hub
	o      Options
	down   bool // the network is; set before it is used
	stop   func()
}

const deskAddress = "district.example:8884"

func newWorld(t *testing.T, dir string) *world {
	t.Helper()
	w := &world{t: t, hub: newHub(), book: &book{t: t, tokens: map[Token]protocol.MachineID{}, used: map[Token]KeyID{}, keys: map[KeyID]bool{}}}
	var err error
	if w.ca, err = MakeCA(filepath.Join(dir, "ca"), time.Now()); err != nil {
		t.Fatal(err)
	}
	if w.server, err = NewServer(w.ca, []string{"district.example", "192.0.2.7"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	desk := NewDesk(w.server, w.book, quiet)
	go func() { done <- desk.Run(ctx, w.hub) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	w.o = Options{Dir: filepath.Join(dir, "identity"), Machine: "m-0001", Desk: deskAddress, Synced: func() bool { return true }, Log: quiet,
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			if w.down {
				return nil, errors.New("no route")
			}
			return w.hub.dial(ctx)
		}}
	return w
}

// line makes a line for the machine.
func (w *world) line(n byte) Line {
	l := Line{Machine: w.o.Machine, Address: deskAddress, Root: w.ca.Root(), Token: Token{0: n, 23: n}}
	w.book.set(func() { w.book.tokens[l.Token] = l.Machine })
	return l
}

func (w *world) enrol(l Line) Name {
	w.t.Helper()
	n, err := Enrol(w.t.Context(), w.o, l)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// until is the end of the certificate the machine has.
func (w *world) until() time.Time {
	w.t.Helper()
	c, err := w.o.load()
	if err != nil {
		w.t.Fatal(err)
	}
	return c.chain[0].NotAfter
}

// live runs the machine for so long.
func (w *world) live(d time.Duration) {
	w.t.Helper()
	m, err := New(w.o)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	defer cancel()
	if err := m.Run(ctx); err != nil {
		w.t.Error(err)
	}
}

// bubble runs a test in virtual time, with folders made outside it.
func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		f(t, w)
		w.stop()
		time.Sleep(time.Minute) // lines that nobody reads any more give up
		synctest.Wait()
	})
}

func codeOf(err error) Code {
	var no *Refusal
	if errors.As(err, &no) {
		return no.Code
	}
	return ""
}

// The answer is lost, the machine asks again with the same line: same key, and a
// second key never gets anything for it.
func TestEnrol(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		l := w.line(1)
		w.book.set(func() { w.book.failing = true })
		if _, err := Enrol(t.Context(), w.o, l); codeOf(err) != CodeFailed {
			t.Errorf("a district that fails: %v", err)
		}
		w.book.set(func() { w.book.failing = false })
		first := w.enrol(l)
		if err := os.Remove(filepath.Join(w.o.Dir, machineFile)); err != nil {
			t.Fatal(err)
		}
		if _, err := Enrol(t.Context(), w.o, l); codeOf(err) != CodeToken {
			t.Errorf("another key with a used line: %v", err)
		}
		again := w.enrol(w.line(2))
		if again.Key == first.Key {
			t.Error("the key of a file that is gone came back")
		}
		if third := w.enrol(w.line(3)); third.Key != again.Key {
			t.Error("enrolled again, it did not keep its key")
		}
		if got := time.Until(w.until()); got < Validity-time.Minute || got > Validity {
			t.Errorf("the certificate lasts %v, want %v", got, Validity)
		}
		for _, name := range []string{".", machineFile} {
			if info, err := os.Stat(filepath.Join(w.o.Dir, name)); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
			}
		}
	})
}

// A machine tells its sealing key at its enrolment and at each question; one that was
// enrolled before there were any makes one and tells it within minutes.
func TestSealingKeyIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.enrol(w.line(1))
		told := func() (k SealingKey) {
			w.book.set(func() { k = w.book.sealing })
			return k
		}
		if !n.Sealing.Known() || told() != n.Sealing {
			t.Errorf("at the enrolment: %v, the machine has %v", told(), n.Sealing)
		}
		if err := os.Remove(filepath.Join(w.o.Dir, sealingFile)); err != nil {
			t.Fatal(err)
		}
		w.live(5 * time.Minute)
		k, err := w.o.sealing(false)
		if err != nil || k == n.Sealing || told() != k {
			t.Errorf("an older machine: %v, told %v, %v", k, told(), err)
		}
		if again, err := Enrol(t.Context(), w.o, w.line(2)); err != nil || again.Sealing != k {
			t.Errorf("enrolled again with its key: %v", err)
		}
		if anew, err := EnrolAnew(t.Context(), w.o, w.line(3)); err != nil || anew.Sealing == k || told() != anew.Sealing {
			t.Errorf("a new key, and the sealing key is the old one: %v", err)
		}
		if err := os.WriteFile(filepath.Join(w.o.Dir, sealingFile), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		was := told()
		w.live(5 * time.Minute)
		if k, err := w.o.sealing(false); err != nil || k == was || told() != k {
			t.Errorf("a damaged one is not replaced: %v, told %v, %v", k, told(), err)
		}
		if err := os.Chmod(filepath.Join(w.o.Dir, sealingFile), 0o644); err != nil {
			t.Fatal(err)
		}
		w.live(5 * time.Minute)
		if told().Known() {
			t.Error("told a key that others may have read")
		}
	})
}

func TestEnrolAnew(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		old := w.enrol(w.line(1))
		w.book.set(func() { w.book.keys[old.Key] = false })
		l := w.line(2)
		if _, err := Enrol(t.Context(), w.o, l); codeOf(err) != CodeRevoked || !strings.Contains(err.Error(), "-new-key") {
			t.Errorf("a revoked key with a good line: %v", err)
		}
		var n Name
		for range 3 {
			var err error
			if n, err = EnrolAnew(t.Context(), w.o, l); err != nil {
				t.Fatal(err)
			}
		}
		if n.Key == old.Key {
			t.Error("the new key is the old one")
		}
		if next, err := EnrolAnew(t.Context(), w.o, w.line(3)); err != nil || next.Key == n.Key {
			t.Errorf("a second new key: %v", err)
		}
	})
}

// Whoever answers in the district's place is found out before the token is sent.
func TestEnrolStranger(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		l := w.line(1)
		l.Root[5] ^= 1
		if _, err := Enrol(t.Context(), w.o, l); err == nil || !strings.Contains(err.Error(), "not the district") {
			t.Errorf("another CA: %v", err)
		}
		l = w.line(1)
		l.Address = "elsewhere.example:8884"
		if _, err := Enrol(t.Context(), w.o, l); err == nil {
			t.Error("another name was accepted")
		}
		if len(w.book.used) != 0 {
			t.Error("a token was used")
		}
		l = w.line(1)
		l.Machine = "m-0002"
		if _, err := Enrol(t.Context(), w.o, l); err == nil || !strings.Contains(err.Error(), "is for m-0002") {
			t.Errorf("a line for another machine: %v", err)
		}
		l = w.line(1)
		l.Token[20] ^= 1
		_, err := Enrol(t.Context(), w.o, l)
		if codeOf(err) != CodeToken || strings.Contains(err.Error(), "no such") {
			t.Errorf("a token that is not good: %v, want what to do and not why", err)
		}
	})
}

// Renewal comes at two thirds, with a clock or without one, and not before.
func TestRenewal(t *testing.T) {
	for name, synced := range map[string]bool{"clock": true, "no clock": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.o.Synced = func() bool { return synced }
				w.enrol(w.line(1))
				for range 2 {
					first := w.until()
					time.Sleep(Validity*2/3 - 12*24*time.Hour)
					w.live(7 * 24 * time.Hour)
					if w.until() != first {
						t.Error("renewed before two thirds")
					}
					w.live(8 * 24 * time.Hour)
					if w.until() == first {
						t.Error("not renewed after two thirds")
					}
				}
			})
		})
	}
}

// A district that is down is asked again, but not hammered at.
func TestRenewalOutage(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.enrol(w.line(1))
		first := w.until()
		time.Sleep(Validity * 3 / 4)
		w.book.set(func() { w.book.failing = true })
		w.live(10 * 24 * time.Hour)
		if n := w.book.asked; n < 200 || n > 400 {
			t.Errorf("asked %d times in ten days, want about once an hour", n)
		}
		w.book.set(func() { w.book.failing = false })
		w.live(2 * time.Hour)
		if w.until() == first {
			t.Error("not renewed when the district was back")
		}
	})
}

// A certificate that ran out in store is renewed with the old key once an officer
// consents, and no sooner.
func TestConsent(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		old := w.enrol(w.line(1))
		time.Sleep(Validity + 24*time.Hour)
		if r := Describe(w.o); r.Good || !strings.Contains(strings.Join(r.Words, " "), "districtd consent m-0001") {
			t.Errorf("doctor says %+v", r)
		}
		w.live(5 * time.Hour)
		if !w.until().Before(time.Now()) {
			t.Fatal("renewed without consent")
		}
		w.book.set(func() { w.book.consent = true })
		w.live(20 * time.Minute)
		if !w.until().After(time.Now()) {
			t.Fatal("not renewed 20 minutes after the consent")
		}
		if c, err := w.o.load(); err != nil || mustID(t, c.own.key) != old.Key {
			t.Errorf("it has another key now: %v", err)
		}
		if r := Describe(w.o); !r.Good {
			t.Errorf("doctor says %+v", r)
		}
	})
}

// A revoked machine is told so within hours and does not ask on and on.
func TestRevoked(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.enrol(w.line(1))
		w.book.set(func() { w.book.keys[n.Key] = false })
		first := w.until()
		w.live(30 * 24 * time.Hour)
		if asked := w.book.asked; asked < 40 || asked > 90 {
			t.Errorf("asked %d times in 30 days, want about twice a day", asked)
		}
		if w.until() != first {
			t.Error("renewed although it is revoked")
		}
	})
}

// Both sides of a connection know each other, whatever the machine's clock says.
func TestDial(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.enrol(w.line(1))
		l := newHub()
		machines := w.server.Machines(l)
		accept := func() (got Name, err error) {
			c, err := machines.Accept()
			if err != nil {
				return got, err
			}
			defer c.Close()
			return w.server.Identify(t.Context(), c)
		}
		dial := func(o Options, address string) (Name, error) {
			o.Dial = func(ctx context.Context, _ string) (net.Conn, error) { return l.dial(ctx) }
			m, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			type result struct {
				n   Name
				err error
			}
			accepted := make(chan result, 1)
			go func() {
				n, err := accept()
				accepted <- result{n, err}
			}()
			c, err := m.Dial(t.Context(), address)
			r := <-accepted
			if err == nil {
				err = errors.Join(r.err, c.Close())
			}
			return r.n, err
		}
		if got, err := dial(w.o, "district.example:8883"); err != nil || got.Machine != "m-0001" || got.Key != n.Key {
			t.Errorf("got %+v, %v", got, err)
		}
		if _, err := dial(w.o, "192.0.2.7:8883"); err != nil {
			t.Errorf("by its address: %v", err)
		}
		if _, err := dial(w.o, "elsewhere.example:8883"); err == nil {
			t.Error("a server of another name was believed")
		}
		behind := w.o
		behind.Synced = func() bool { return false }
		time.Sleep(200 * 24 * time.Hour) // the server has made itself two new certificates since
		if _, err := dial(behind, "district.example:8883"); err != nil {
			t.Errorf("without a clock: %v", err)
		}
		time.Sleep(Validity)
		if _, err := dial(w.o, "district.example:8883"); err == nil {
			t.Error("a certificate that ran out was let in")
		}
		plain, _ := net.Pipe()
		if _, err := w.server.Identify(t.Context(), plain); err == nil {
			t.Error("a connection without TLS has a name")
		}
	})
}

// Nobody gets in with a certificate of another CA, a server's certificate, or a
// certificate that he signed himself with the one he has.
func TestWho(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	ca, err := MakeCA(filepath.Join(dir, "a"), now)
	if err != nil {
		t.Fatal(err)
	}
	other, err := MakeCA(filepath.Join(dir, "b"), now)
	if err != nil {
		t.Fatal(err)
	}
	k, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	until := now.Add(Validity)
	leaf, err := ca.issue("m-0001", k.Public(), now, until)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := other.issue("m-0001", k.Public(), now, until)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(ca, []string{"district.example"})
	if err != nil {
		t.Fatal(err)
	}
	server, err := s.certificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := (&CA{root: ca.root, issuing: leaf, key: k}).issue("m-0002", k.Public(), now, until)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := ca.who(ca.chain(leaf), now); err != nil || n.Machine != "m-0001" || n.RanOut {
		t.Errorf("its own: %+v, %v", n, err)
	}
	if n, err := ca.who([]*certificate{leaf}, now); err != nil || n.Machine != "m-0001" {
		t.Errorf("without what leads to the root: %+v, %v", n, err)
	}
	if n, err := ca.who(ca.chain(leaf), until.Add(time.Hour)); err != nil || !n.RanOut {
		t.Errorf("one that ran out: %+v, %v", n, err)
	}
	for name, chain := range map[string][]*certificate{
		"nothing":                 nil,
		"another CA's":            other.chain(theirs),
		"another CA's, our chain": ca.chain(theirs),
		"a server's":              ca.chain(server.Leaf),
		"self-signed":             {forged, leaf, ca.issuing, ca.root},
		"the CA's own":            {ca.issuing, ca.root},
		"too many":                {leaf, ca.issuing, ca.root, ca.root, ca.root, ca.root},
	} {
		if n, err := ca.who(chain, now); err == nil {
			t.Errorf("%s: taken for %+v", name, n)
		}
	}
	if n, err := ca.who(ca.chain(leaf), now.Add(-24*time.Hour)); err != nil || !n.Early {
		t.Errorf("one that begins later: %+v, %v", n, err)
	}
	if err := verify(ca.chain(leaf), ca.root, forDistrict, "district.example", now); err == nil {
		t.Error("a machine's certificate passes for the district's")
	}
}
