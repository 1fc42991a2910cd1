package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A machine that is revoked is soon in the list of a broker of its own.
func TestKeepBroker(t *testing.T) {
	t.Parallel()
	cfg := settled(t, "")
	o, err := openOffice(t.Context(), cfg, nil, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := o.d.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := o.brokerFiles(t.Context()); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(cfg.Data, brokerFolder)
	for _, f := range []string{"ca.crt", "broker.pem", "revoked.crl", "revoked.txt"} {
		if info, err := os.Stat(filepath.Join(folder, f)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", f, info, err)
		}
	}

	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	if err := os.Remove(filepath.Join(folder, "revoked.crl")); err != nil {
		t.Fatal(err)
	}
	go func() { done <- o.keepBroker(ctx) }()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(folder, "revoked.crl")); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the list did not come back")
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
