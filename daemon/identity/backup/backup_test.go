package backup

import (
	"bytes"
	"maps"
	"strings"
	"testing"
)

// cheap makes a guess cost little: what is tested here is not how long one takes.
const cheap = 4

const passphrase = "correct horse battery"

func sealed(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Seal(&b, passphrase, cheap, files); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestBackup(t *testing.T) {
	files := map[string][]byte{"a": []byte("one"), "ca/b": {0, 1, 2}, "empty": {}}
	b := sealed(t, files)
	if bytes.Contains(b, []byte("one")) {
		t.Error("a secret can be read in the backup")
	}
	got, err := Open(bytes.NewReader(b), passphrase)
	if err != nil || !maps.EqualFunc(got, files, bytes.Equal) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := Open(bytes.NewReader(b), passphrase+"x"); err == nil || !strings.Contains(err.Error(), "passphrase") {
		t.Errorf("another passphrase: %v", err)
	}
	for i := range b {
		if _, err := Open(bytes.NewReader(b[:i]), passphrase); err == nil {
			t.Errorf("cut to %d bytes: opened", i)
		}
	}
	for i := range b {
		bent := bytes.Clone(b)
		bent[i] ^= 1
		if got, err := Open(bytes.NewReader(bent), passphrase); err == nil && !maps.EqualFunc(got, files, bytes.Equal) {
			t.Errorf("byte %d bent: opened as %v", i, got)
		}
	}
	if err := Seal(new(bytes.Buffer), "short", cheap, files); err == nil {
		t.Error("a short passphrase was taken")
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"version":1,"files":{"a":"AAAA"}}`))
	f.Add([]byte(`{"version":2}`))
	f.Add(sealed(f, map[string][]byte{"a": {1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if files, err := decode(b); err == nil && len(files) > len(b) {
			t.Error("more files than bytes")
		}
	})
}
