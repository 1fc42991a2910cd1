package identity

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"yaoju/daemon/identity/tpm"
	"yaoju/daemon/identity/tpm/sim"
	"yaoju/protocol"
)

// A machine whose key is in a TPM renews its certificate with it, and its file holds
// no key afterwards either. In real time: a TPM is a process of its own.
func TestRenewalByTPM(t *testing.T) {
	t.Parallel()
	chip, err := sim.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := chip.Stop(); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	begin := time.Now().Add(-300 * 24 * time.Hour)
	ca, err := MakeCA(filepath.Join(dir, "ca"), begin)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(ca, []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &book{t: t, used: map[Token]KeyID{}, keys: map[KeyID]bool{}, tokens: map[Token]protocol.MachineID{{1}: "m-0001"}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- NewDesk(s, b, quiet).Run(ctx, l) }()
	o := Options{Dir: filepath.Join(dir, "identity"), Machine: "m-0001", Desk: l.Addr().String(), Synced: func() bool { return true }, Log: quiet,
		Vault: tpm.New(chip.Open), KeyInVault: true,
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}}
	n, err := Enrol(t.Context(), o, Line{Machine: "m-0001", Address: o.Desk, Root: ca.Root(), Token: Token{1}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := o.load()
	if err != nil {
		t.Fatal(err)
	}
	if c.chain[0], err = ca.issue("m-0001", c.key.Public(), begin, begin.Add(Validity)); err != nil { // as it is after 300 days
		t.Fatal(err)
	}
	if err := o.keep(c); err != nil {
		t.Fatal(err)
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	until, err := m.renew(t.Context())
	if err != nil || time.Until(until) < Validity-time.Hour {
		t.Errorf("renewed until %v, %v", until, err)
	}
	if c, err = o.load(); err != nil || !c.chain[0].NotAfter.Equal(until) || !b.keys[n.Key] {
		t.Errorf("another certificate or key is in the file, or %v", err)
	}
	if raw, err := os.ReadFile(filepath.Join(o.Dir, machineFile)); err != nil || bytes.Contains(raw, []byte("BEGIN PRIVATE KEY")) {
		t.Errorf("the file holds a private key, or %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
