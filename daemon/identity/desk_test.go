package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/protocol"
)

// from is a connection that comes from an address.
type from struct {
	net.Conn
	addr net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

// dialFrom connects from an address, which the desk sees.
func (h *hub) dialFrom(t *testing.T, ip string) net.Conn {
	t.Helper()
	a, b := net.Pipe()
	select {
	case h.conns <- from{slacken(b), &net.TCPAddr{IP: net.ParseIP(ip), Port: 1000}}:
	case <-h.gone:
		t.Fatal("the desk is closed")
	}
	return slacken(a)
}

// hungUp says whether the other side has closed a connection on which it had nothing
// to say.
func hungUp(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(time.Millisecond)) // a pipe takes any
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe)
}

// Callers who say nothing, or say it slowly, hold a place for 20 seconds and take it
// from nobody else meanwhile.
func TestDeskUnderSiege(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var silent []net.Conn
		defer func() {
			for _, c := range silent {
				c.Close()
			}
		}()
		count := func(hung bool) (n int) {
			for _, c := range silent {
				if hungUp(c) == hung {
					n++
				}
			}
			return n
		}
		for range 3 * maxFromOne {
			silent = append(silent, w.hub.dialFrom(t, "192.0.2.66"))
		}
		synctest.Wait()
		if n := count(false); n != maxFromOne {
			t.Errorf("%d of one address are inside, want %d", n, maxFromOne)
		}
		w.o.Dial = func(context.Context, string) (net.Conn, error) { return w.hub.dialFrom(t, "192.0.2.1"), nil }
		w.enrol(w.line(1))
		for i := range 2 * maxCallers {
			silent = append(silent, w.hub.dialFrom(t, fmt.Sprintf("198.51.100.%d", i)))
		}
		synctest.Wait()
		if n := count(false); n != maxCallers {
			t.Errorf("%d are inside, want %d", n, maxCallers)
		}
		if _, err := Enrol(t.Context(), w.o, w.line(2)); err == nil {
			t.Error("one more was let in")
		}
		time.Sleep(callLimit + time.Second)
		synctest.Wait()
		if n := count(false); n != 0 {
			t.Errorf("%d are inside after %v", n, callLimit)
		}
		w.enrol(w.line(3))

		slow := tls.Client(w.hub.dialFrom(t, "192.0.2.66"), &tls.Config{InsecureSkipVerify: true})
		defer slow.Close()
		begin := time.Now()
		_, err := io.WriteString(slow, "POST "+enrolPath+" HTTP/1.1\r\nHost: x\r\nContent-Length: 600\r\n\r\n")
		for err == nil && time.Since(begin) < time.Hour {
			time.Sleep(time.Second)
			if _, err = slow.Write([]byte("{")); err == nil && hungUp(slow.NetConn()) {
				err = io.EOF
			}
		}
		if lasted := time.Since(begin); lasted > 2*callLimit {
			t.Errorf("a byte a second kept a place for %v", lasted)
		}
	})
}

// Strangers who begin handshakes and never end them leave room for the machines, who
// are not counted once they have shown who they are.
func TestMachinesUnderSiege(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.enrol(w.line(1))
		l := newHub()
		machines := w.server.Machines(l)
		var served sync.WaitGroup
		served.Go(func() {
			for {
				c, err := machines.Accept()
				if err != nil {
					return
				}
				served.Go(func() {
					defer c.Close()
					ctx, cancel := context.WithTimeout(t.Context(), callLimit)
					defer cancel()
					if _, err := w.server.Identify(ctx, c); err == nil {
						c.Read(make([]byte, 1)) // until the machine goes
					}
				})
			}
		})
		var open []net.Conn
		defer func() {
			for _, c := range open {
				c.Close()
			}
			l.Close()
			served.Wait()
		}()
		for range 2 * maxShakingFromOne {
			open = append(open, l.dialFrom(t, "192.0.2.66"))
		}
		w.o.Dial = func(context.Context, string) (net.Conn, error) { return l.dialFrom(t, "192.0.2.1"), nil }
		m, err := New(w.o)
		if err != nil {
			t.Fatal(err)
		}
		for range maxShakingFromOne + 5 {
			c, err := m.Dial(t.Context(), "district.example:8883")
			if err != nil {
				t.Fatalf("machine %d: %v", len(open)-2*maxShakingFromOne, err)
			}
			open = append(open, c)
			synctest.Wait()
		}
		hung := 0
		for _, c := range open[:2*maxShakingFromOne] {
			if hungUp(c) {
				hung++
			}
		}
		if hung != maxShakingFromOne {
			t.Errorf("%d of %d from one address were hung up on", hung, 2*maxShakingFromOne)
		}
	})
}

// TLS 1.2 is refused at both doors of the district, and by the machine at its own.
func TestOldTLS(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.enrol(w.line(1))
		c, err := w.o.load()
		if err != nil {
			t.Fatal(err)
		}
		old := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*c.tls()}}
		l := newHub()
		machines := w.server.Machines(l)
		shaken := make(chan error, 1)
		shake := func(c net.Conn, err error) {
			if err == nil {
				defer c.Close()
				err = c.(*tls.Conn).HandshakeContext(t.Context())
			}
			shaken <- err
		}
		go func() { shake(machines.Accept()) }()
		for name, h := range map[string]*hub{"enrolment": w.hub, "broker": l} {
			c, err := h.dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := tls.Client(c, old).HandshakeContext(t.Context()); err == nil {
				t.Errorf("%s: TLS 1.2 was spoken", name)
			}
			c.Close()
		}
		if err := <-shaken; err == nil {
			t.Error("the broker shook hands by TLS 1.2")
		}
		own, err := w.server.certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		back := newHub()
		go func() {
			shake(tls.NewListener(back, &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*own}}).Accept())
		}()
		w.o.Dial = func(ctx context.Context, _ string) (net.Conn, error) { return back.dial(ctx) }
		m, err := New(w.o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Dial(t.Context(), deskAddress); err == nil {
			t.Error("the machine speaks TLS 1.2")
		}
		<-shaken
	})
}

// What no machine says is refused with a code and nothing else, whatever its size.
func TestDeskRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var n byte
		ask := func(method, path string, body []byte) (int, string) {
			t.Helper()
			n++ // each from another address: nobody is too many
			c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				c := tls.Client(w.hub.dialFrom(t, fmt.Sprintf("203.0.113.%d", n)), &tls.Config{InsecureSkipVerify: true})
				return c, c.HandshakeContext(ctx)
			}}}
			q, err := http.NewRequestWithContext(t.Context(), method, "https://"+deskAddress+path, bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r, err := c.Do(q)
			if err != nil {
				return 0, err.Error()
			}
			defer r.Body.Close()
			b, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			return r.StatusCode, string(b)
		}
		unknown := protocol.Encode(enrolRequest{Machine: "m-0001", Token: make([]byte, TokenSize), CSR: []byte("no request at all")})
		for name, tt := range map[string]struct {
			method, path string
			body         []byte
		}{
			"nothing":        {"POST", enrolPath, nil},
			"a get":          {"GET", enrolPath, nil},
			"no such path":   {"POST", "/", nil},
			"much too large": {"POST", enrolPath, bytes.Repeat([]byte(" "), 1<<20)},
			"no request":     {"POST", enrolPath, unknown},
			"no certificate": {"POST", renewPath, []byte("{}")},
			"large renewal":  {"POST", renewPath, bytes.Repeat([]byte(" "), 1<<20)},
		} {
			code, text := ask(tt.method, tt.path, tt.body)
			if code != 0 && (code != http.StatusBadRequest || strings.TrimSpace(text) != `{"code":"request"}`) {
				t.Errorf("%s: answered %d %q", name, code, text)
			}
			if code == 0 && len(tt.body) < maxRequest { // one that sends on and on may be hung up on
				t.Errorf("%s: %s", name, text)
			}
		}
		if len(w.book.used) != 0 || w.book.asked != 0 {
			t.Error("the registry was asked")
		}
	})
}

// A certificate that was made while the district's clock was years ahead is of no use
// once it is right again: it is replaced at the next renewal, not by a visit.
func TestClockWasAhead(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.enrol(w.line(1))
		c, err := w.o.load()
		if err != nil {
			t.Fatal(err)
		}
		ahead := time.Now().Add(2 * 365 * 24 * time.Hour)
		leaf, err := w.ca.issue(w.o.Machine, c.key.Public(), ahead, ahead.Add(Validity))
		if err != nil {
			t.Fatal(err)
		}
		c.chain[0] = leaf
		if err := w.o.keep(c); err != nil {
			t.Fatal(err)
		}
		w.live(10 * time.Minute)
		if got := time.Until(w.until()); got > Validity || got < Validity-time.Hour {
			t.Errorf("the certificate ends in %v", got)
		}
	})
}

// A computer whose clock has fallen back to its first day gives no certificates.
func TestClockIsBehind(t *testing.T) {
	dir := t.TempDir() + "/ca"
	now := time.Now()
	if _, err := MakeCA(dir, now); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCA(dir, now.Add(-365*24*time.Hour)); err == nil || !strings.Contains(err.Error(), "set the clock") {
		t.Errorf("got %v", err)
	}
}
