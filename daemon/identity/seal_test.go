package identity

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"yaoju/protocol"
)

// sealer is a machine that has a sealing key.
func sealer(t testing.TB, m protocol.MachineID) (*Machine, SealingKey) {
	t.Helper()
	o := Options{Dir: filepath.Join(t.TempDir(), "identity"), Machine: m}
	if err := makeFolder(o.Dir); err != nil {
		t.Fatal(err)
	}
	k, err := o.sealing(false)
	if err != nil || !k.Known() {
		t.Fatalf("got %x, %v", k, err)
	}
	if again, err := o.sealing(false); err != nil || again != k {
		t.Fatalf("the key changed by itself: %v", err)
	}
	return &Machine{o: o}, k
}

// What is sealed opens on the machine it is for, for the purpose it is for, whole.
func TestSeal(t *testing.T) {
	m, k := sealer(t, "m-0001")
	plain := []byte("account 7")
	sealed, err := Seal(k, "m-0001", "staff", plain)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := m.Open("staff", sealed); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("got %q, %v", got, err)
	}
	if twice, err := Seal(k, "m-0001", "staff", plain); err != nil || bytes.Equal(twice, sealed) {
		t.Errorf("the same text can be told by its form: %v", err)
	}
	if bytes.Contains(sealed, plain) {
		t.Error("it can be read")
	}
	if _, err := m.Open("texts", sealed); err == nil {
		t.Error("opened for another purpose")
	}
	other, otherKey := sealer(t, "m-0002")
	if _, err := other.Open("staff", sealed); err == nil {
		t.Error("another machine opened it")
	}
	renamed := &Machine{o: m.o}
	renamed.o.Machine = "m-0002"
	if _, err := renamed.Open("staff", sealed); err == nil {
		t.Error("opened under another name")
	}
	if b, err := Seal(otherKey, "m-0001", "staff", plain); err != nil {
		t.Error(err)
	} else if _, err := m.Open("staff", b); err == nil {
		t.Error("opened what was sealed to another key")
	}
	for i := range sealed {
		bent := bytes.Clone(sealed)
		bent[i] ^= 1
		if _, err := m.Open("staff", bent); err == nil {
			t.Errorf("opened with byte %d bent", i)
		}
		if _, err := m.Open("staff", sealed[:i]); err == nil {
			t.Errorf("opened when cut to %d bytes", i)
		}
	}
	if _, err := m.Open("staff", make([]byte, MaxSealed+1)); err == nil {
		t.Error("opened more than a message holds")
	}
	for _, weak := range []SealingKey{{}, {1}} { // points of low order: anybody could open it
		if _, err := Seal(weak, "m-0001", "staff", plain); err == nil {
			t.Errorf("sealed to the key %x", weak[:2])
		}
	}
	path := filepath.Join(m.o.Dir, sealingFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("-----BEGIN X-----\n-----END X-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Open("staff", sealed); err == nil || !strings.Contains(err.Error(), sealingFile) {
		t.Errorf("a damaged key: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Open("staff", sealed); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no key: %v", err)
	}
}

func FuzzSealed(f *testing.F) {
	m, k := sealer(f, "m-0001")
	good, err := Seal(k, "m-0001", "staff", []byte("hello"))
	if err != nil {
		f.Fatal(err)
	}
	key, err := m.o.sealingKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:33])
	f.Add([]byte{sealVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := unseal(key, "m-0001", "staff", b); err == nil && !bytes.Equal(b, good) {
			t.Error("opened what nobody sealed")
		}
	})
}

func FuzzSealingKey(f *testing.F) {
	m, _ := sealer(f, "m-0001")
	good, err := os.ReadFile(filepath.Join(m.o.Dir, sealingFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:40])
	f.Add([]byte("-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := m.o.decodeSealing(b); err == nil && len(k.Bytes()) != 32 {
			t.Error("took another kind of key")
		}
	})
}
