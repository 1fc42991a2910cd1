package tpm_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"yaoju/daemon/identity"
	"yaoju/daemon/identity/tpm"
	"yaoju/daemon/identity/tpm/sim"
	"yaoju/protocol"
)

var quiet = slog.New(slog.DiscardHandler)

// book is a registry that lets everybody in and notes which sealing key was told.
type book struct {
	mu   sync.Mutex
	last identity.Name
}

func (b *book) Redeem(_ context.Context, _ identity.Token, n identity.Name) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = n
	return nil
}

func (b *book) Renew(ctx context.Context, n identity.Name) error {
	return b.Redeem(ctx, identity.Token{}, n)
}

func chip(t *testing.T) *tpm.Chip {
	t.Helper()
	s, err := sim.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return tpm.New(s.Open)
}

// A machine whose keys are in the TPM enrols, is known over TLS, asks for its next
// certificate, and opens what is sealed to it, over restarts; its files hold no key;
// and the same files in another computer are worth nothing.
func TestIdentity(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, err := identity.MakeCA(filepath.Join(dir, "ca"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s, err := identity.NewServer(ca, []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	door, broker := listen(), s.Machines(listen())
	defer broker.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	book := &book{}
	go func() { done <- identity.NewDesk(s, book, quiet).Run(ctx, door) }()
	o := identity.Options{Dir: filepath.Join(dir, "identity"), Machine: "m-0001", Desk: door.Addr().String(), Synced: func() bool { return true }, Log: quiet,
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}}
	line := identity.Line{Machine: "m-0001", Address: o.Desk, Root: ca.Root()}

	o.Vault, o.KeyInVault = chip(t), true
	first, err := identity.Enrol(t.Context(), o, line)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := identity.Enrol(t.Context(), o, line); err != nil || again.Key != first.Key || again.Sealing != first.Sealing || !first.Sealing.Known() {
		t.Errorf("a second time: %+v after %+v, %v", again, first, err)
	}
	if book.last.Sealing != first.Sealing {
		t.Error("the district was told another sealing key")
	}
	if r := identity.Describe(o); !r.Good || !strings.Contains(strings.Join(r.Words, "\n"), "TPM, which never lets it out") {
		t.Errorf("doctor says %+v", r)
	}
	files, err := os.ReadDir(o.Dir)
	if err != nil || len(files) != 2 {
		t.Errorf("%d files, %v; want the machine's and the sealing key's", len(files), err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(o.Dir, f.Name()))
		if err != nil || strings.Contains(string(b), "BEGIN PRIVATE KEY") || !strings.Contains(string(b), "BEGIN TSS2 PRIVATE KEY") {
			t.Errorf("%s: %v\n%s", f.Name(), err, b)
		}
	}
	sealed, err := identity.Seal(first.Sealing, "m-0001", "staff", []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	known := func(o identity.Options) (protocol.MachineID, error) {
		m, err := identity.New(o)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := m.Open("staff", sealed); err != nil || string(b) != "hello" {
			return "", errors.Join(errors.New("what is sealed to it stays sealed"), err)
		}
		accepted := make(chan identity.Name, 1)
		go func() {
			defer close(accepted)
			c, err := broker.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			if n, err := s.Identify(t.Context(), c); err == nil {
				accepted <- n
			}
		}()
		c, err := m.Dial(t.Context(), broker.Addr().String())
		if err != nil {
			<-accepted
			return "", err
		}
		defer c.Close()
		return (<-accepted).Machine, nil
	}
	for range 2 { // each time as a program that has just been started
		if m, err := known(o); err != nil || m != "m-0001" {
			t.Errorf("known as %q, %v", m, err)
		}
	}
	old := o
	old.Vault = nil
	if r := identity.Describe(old); r.Good || !strings.Contains(r.Words[0], "TPM") {
		t.Errorf("without the TPM: %+v", r)
	}
	copied := o
	copied.Vault = chip(t)
	if _, err := known(copied); err == nil {
		t.Error("a copy of the disk passes for the machine")
	}
	if r := identity.Describe(copied); r.Good || !strings.Contains(strings.Join(r.Words, "\n"), "-new-key") {
		t.Errorf("a copy of the disk: doctor says %+v", r)
	}
	if next, err := identity.EnrolAnew(t.Context(), copied, line); err != nil || next.Key == first.Key || next.Sealing == first.Sealing {
		t.Errorf("enrolled anew in the other computer: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
