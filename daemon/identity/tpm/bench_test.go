//go:build bench

package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"testing"
	"time"
)

// The computer's own TPM, by way of its kernel: on a Pi with one, as root,
// go test -tags bench -run TestDevice -v ./daemon/identity/tpm
func TestDevice(t *testing.T) {
	c := New(Open)
	begin := time.Now()
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	t.Logf("the storage key is derived in %v", time.Since(begin))
	_, k := newSigner(t, c)
	digest := sha256.Sum256([]byte("hello"))
	for range 5 {
		begin := time.Now()
		s, err := k.Sign(nil, digest[:], crypto.SHA256)
		if err != nil || !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest[:], s) {
			t.Fatalf("a signature that is none: %v", err)
		}
		t.Logf("signed in %v", time.Since(begin))
	}
	h, err := c.Seal([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := c.Unseal(h); err != nil || string(b) != "secret" {
		t.Errorf("got %q, %v", b, err)
	}
}
