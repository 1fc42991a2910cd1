package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"yaoju/daemon/identity/tpm/sim"
)

// simulated is a TPM of its own for the test.
func simulated(t testing.TB) func() (io.ReadWriteCloser, error) {
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
	return s.Open
}

func newSigner(t testing.TB, c *Chip) ([]byte, crypto.Signer) {
	t.Helper()
	handle, err := c.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	k, err := c.Key(handle)
	if err != nil {
		t.Fatal(err)
	}
	return handle, k
}

// A key signs as often as it is asked, comes back from what was stored, and is worth
// nothing in another chip.
func TestKey(t *testing.T) {
	t.Parallel()
	c := New(simulated(t))
	handle, _ := newSigner(t, c)
	digest := sha256.Sum256([]byte("hello"))
	var all sync.WaitGroup
	for range 8 { // more than the chip has places for
		all.Go(func() {
			k, err := c.Key(handle)
			if err != nil {
				t.Error(err)
				return
			}
			s, err := k.Sign(nil, digest[:], crypto.SHA256)
			if err != nil || !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest[:], s) {
				t.Errorf("a signature that is none: %v", err)
			}
		})
	}
	all.Wait()
	k, err := c.Key(handle)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(nil, make([]byte, 48), crypto.SHA384); err == nil {
		t.Error("signed another kind of digest")
	}
	if _, other := newSigner(t, c); k.Public().(*ecdsa.PublicKey).Equal(other.Public()) {
		t.Error("a second key is the first")
	}
	foreign, err := New(simulated(t)).Key(handle)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := foreign.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, errForeign) {
		t.Errorf("in another computer: %v", err)
	}
}

func TestSeal(t *testing.T) {
	t.Parallel()
	c := New(simulated(t))
	secret := bytes.Repeat([]byte("secret"), 5)
	handle, err := c.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(handle, secret[:6]) {
		t.Error("the secret can be read in what is stored")
	}
	for range 4 {
		if got, err := c.Unseal(handle); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if _, err := New(simulated(t)).Unseal(handle); !errors.Is(err, errForeign) {
		t.Errorf("in another computer: %v", err)
	}
	key, _ := newSigner(t, c)
	if _, err := c.Unseal(key); err == nil {
		t.Error("a key was unsealed")
	}
	if _, err := c.Key(handle); err == nil {
		t.Error("a secret signs")
	}
	for _, n := range []int{0, MaxSecret + 1} {
		if _, err := c.Seal(make([]byte, n)); err == nil {
			t.Errorf("sealed %d bytes", n)
		}
	}
	if _, err := c.Seal(make([]byte, MaxSecret)); err != nil {
		t.Error(err)
	}
}

// A bent byte of what is stored is found out: by us or by the chip.
func TestBent(t *testing.T) {
	t.Parallel()
	c := New(simulated(t))
	handle, k := newSigner(t, c)
	digest := sha256.Sum256(nil)
	for i := 0; i < len(handle); i += 5 {
		bent := bytes.Clone(handle)
		bent[i] ^= 0x10
		b, err := c.Key(bent)
		if err != nil {
			continue
		}
		if s, err := b.Sign(nil, digest[:], crypto.SHA256); err == nil && !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest[:], s) {
			t.Errorf("byte %d bent: another key signed", i)
		}
	}
}

// What a computer without a TPM says, and one whose TPM hangs up or talks nonsense.
func TestNone(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{"none": fs.ErrNotExist, "not allowed": fs.ErrPermission} {
		c := New(func() (io.ReadWriteCloser, error) { return nil, &fs.PathError{Op: "open", Path: Device, Err: err} })
		if _, err := c.NewKey(); !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), Device) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, answer := range map[string][]byte{
		"hangs up": {}, "half a header": {0x80, 1, 0, 0}, "too long": {0x80, 1, 0xff, 0, 0, 0, 0, 0, 0, 0},
		"too short": {0x80, 1, 0, 0, 0, 2, 0, 0, 0, 0}, "cut off": {0x80, 1, 0, 0, 0, 100, 0, 0, 0, 0, 1, 2}, "nothing in it": {0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0},
		"a warning": {0x80, 1, 0, 0, 0, 10, 0, 0, 9, 0x22},
	} {
		c := New(func() (io.ReadWriteCloser, error) { return &liar{answer: bytes.NewReader(answer)}, nil })
		if _, err := c.NewKey(); err == nil || errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// liar is a line that gives one answer to everything.
type liar struct{ answer *bytes.Reader }

func (l *liar) Write(b []byte) (int, error) { return len(b), nil }
func (l *liar) Read(b []byte) (int, error)  { return l.answer.Read(b) }
func (l *liar) Close() error                { return nil }

func FuzzDecode(f *testing.F) {
	c := New(simulated(f))
	key, _ := newSigner(f, c)
	secret, err := c.Seal([]byte("secret"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(key)
	f.Add(secret)
	f.Add(key[:50])
	closed := New(func() (io.ReadWriteCloser, error) { return nil, fs.ErrNotExist })
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := closed.Key(b); err == nil {
			if _, ok := k.Public().(*ecdsa.PublicKey); !ok {
				t.Error("took a key of another kind")
			}
		}
		if _, err := closed.Unseal(b); err == nil {
			t.Error("unsealed without a chip")
		}
	})
}

// FuzzAnswer is a chip that says anything.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0})
	f.Add([]byte{0x80, 2, 0, 0, 0, 14, 0, 0, 0, 0, 0x80, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := New(func() (io.ReadWriteCloser, error) { return &liar{answer: bytes.NewReader(b)}, nil })
		if _, err := c.Seal([]byte("x")); err == nil {
			t.Error("sealed by a liar")
		}
	})
}
