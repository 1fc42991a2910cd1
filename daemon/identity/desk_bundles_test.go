package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// shelf is a Library of one bundle.
type shelf struct {
	book  *book
	bytes []byte
	broke bool
}

var shelfSum = strings.Repeat("ab", 32)

func (s *shelf) OpenBundle(_ context.Context, n Name, sum string) (io.ReadSeeker, error) {
	own := false
	s.book.set(func() { own = s.book.keys[n.Key] })
	switch {
	case s.broke:
		return nil, errors.New("disk error")
	case !own:
		return nil, Refuse(CodeRevoked, nil)
	case sum != shelfSum:
		return nil, fmt.Errorf("bundle %s: %w", sum, fs.ErrNotExist)
	}
	return bytes.NewReader(s.bytes), nil
}

// A machine fetches a bundle from any byte on, at its own speed, for as long as its
// key is its own; nobody else gets a byte.
func TestBundles(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := &shelf{book: w.book, bytes: make([]byte, 12<<20)}
		rand.NewChaCha8([32]byte{1}).Read(s.bytes)
		hub, desk := newHub(), NewDesk(w.server, w.book, quiet)
		desk.Lend(s)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- desk.Run(ctx, hub) }()
		o := w.o
		o.Dial = func(ctx context.Context, _ string) (net.Conn, error) { return hub.dial(ctx) }
		m, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		get := func(method, path, part string, slow time.Duration) (int, []byte) {
			t.Helper()
			q, err := http.NewRequestWithContext(t.Context(), method, "https://"+deskAddress+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if part != "" {
				q.Header.Set("Range", part)
			}
			r, err := m.Client().Do(q)
			if err != nil {
				return 0, []byte(err.Error())
			}
			defer r.Body.Close()
			var all []byte
			for buf := make([]byte, 256<<10); ; {
				n, err := io.ReadFull(r.Body, buf)
				all = append(all, buf[:n]...)
				if err == io.EOF || err == io.ErrUnexpectedEOF {
					return r.StatusCode, all // short ones are noticed by their bytes
				}
				if err != nil {
					return r.StatusCode, []byte(err.Error())
				}
				if len(all) < len(s.bytes)/2 { // what is under way when the desk has said all has seconds left
					time.Sleep(slow)
				}
			}
		}
		path := "/releases/" + shelfSum + ".bundle"
		if code, said := get("GET", path, "", 0); code != 0 || !strings.Contains(string(said), "not enrolled") {
			t.Errorf("before it is enrolled: %d %.200s", code, said)
		}
		n := w.enrol(w.line(1))
		if code, b := get("GET", path, "", 3*time.Second); code != 200 || !bytes.Equal(b, s.bytes) {
			t.Errorf("slowly: %d, %d bytes", code, len(b))
		}
		if code, b := get("GET", path, "bytes=2097153-", 0); code != 206 || !bytes.Equal(b, s.bytes[2097153:]) {
			t.Errorf("the rest: %d, %d bytes", code, len(b))
		}
		for what, c := range map[string]struct {
			method, path string
			want         int
		}{
			"another bundle": {"GET", strings.Replace(path, "ab", "cd", 1), 404},
			"no bundle":      {"GET", "/releases/../ca.pem", 404},
			"a folder":       {"GET", "/releases/", 404},
			"to write":       {"PUT", path, 404},
		} {
			if code, said := get(c.method, c.path, "", 0); code != c.want {
				t.Errorf("%s: %d %.200s, want %d", what, code, said, c.want)
			}
		}
		s.broke = true
		if code, said := get("GET", path, "", 0); code != 500 || strings.Contains(string(said), "disk") {
			t.Errorf("a broken disk: %d %s", code, said)
		}
		s.broke = false
		w.book.set(func() { w.book.keys[n.Key] = false })
		if code, said := get("GET", path, "", 0); code != 403 {
			t.Errorf("revoked: %d %.200s", code, said)
		}
		w.book.set(func() { w.book.keys[n.Key] = true })
		busy := 0
		for range 2 * burst {
			if code, _ := get("GET", path, "bytes=0-0", 0); code == 503 {
				busy++
			}
		}
		if busy == 0 {
			t.Error("who asks without end is never told to wait")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
