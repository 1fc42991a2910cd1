package card

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const epoch = 30 * 24 * time.Hour

func openKeys(t *testing.T, path string, length time.Duration) *Keys {
	t.Helper()
	k, err := OpenKeys(path, length)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// someone's number.
func anyNumber() *number {
	return &number{c: [18]byte([]byte("11010519491231002X")), n: 18}
}

func marksAt(t *testing.T, k *Keys, at time.Time) Marks {
	t.Helper()
	m, err := k.marks(anyNumber(), at)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMarkIsTheDocumentedHash(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "marks")
	k := openKeys(t, path, epoch)
	now := time.Now()
	m := marksAt(t, k, now)
	if m.Previous != (Mark{}) {
		t.Error("a previous mark in the first epoch")
	}
	var f struct{ Current, Previous string }
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	key, err := hex.DecodeString(f.Current)
	if err != nil || len(key) != 32 {
		t.Fatalf("key of %d bytes, %v", len(key), err)
	}
	sum := func(key []byte, s string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(s))
		return h.Sum(nil)
	}
	if want := Mark(sum(key, "11010519491231002X")[:16]); m.Current != want {
		t.Errorf("mark %x, want %x", m.Current, want)
	}
	next := marksAt(t, k, now.Add(epoch))
	if want := Mark(sum(sum(key, "yaoju mark key"), "11010519491231002X")[:16]); next.Current != want {
		t.Errorf("mark in the next epoch %x, want %x", next.Current, want)
	}
	if next.Previous != m.Current {
		t.Error("the next epoch does not know the card")
	}
	if b, err = os.ReadFile(path); err != nil || !strings.Contains(string(b), f.Current) {
		t.Errorf("the key of the epoch before is gone: %v", err)
	}
	marksAt(t, k, now.Add(2*epoch))
	if b, err = os.ReadFile(path); err != nil || strings.Contains(string(b), f.Current) {
		t.Errorf("a key is not destroyed after two epochs: %v", err)
	}
}

// A card must be known for at least one epoch after it was seen, however the
// epochs fall, across restarts, and whether or not the machine ran.
func TestACardIsKnownForAnEpoch(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "marks")
	k := openKeys(t, path, epoch)
	start := time.Now().Add(time.Hour)
	for step := time.Duration(0); step < 3*epoch; step += epoch / 7 {
		then := marksAt(t, k, start.Add(step))
		k = openKeys(t, path, epoch)
		now := marksAt(t, k, start.Add(step+epoch-time.Hour))
		if now.Current != then.Current && now.Previous != then.Current {
			t.Fatalf("seen at %v, forgotten within an epoch", step)
		}
		start = start.Add(epoch) // the clock never goes back here
	}
	then := marksAt(t, k, start.Add(4*epoch))
	now := marksAt(t, k, start.Add(9*epoch))
	if now.Current == then.Current || now.Previous == then.Current || now.Previous == (Mark{}) {
		t.Error("known after five epochs without a visit")
	}
}

func TestTheClockNeverBringsAKeyBack(t *testing.T) {
	t.Parallel()
	k := openKeys(t, filepath.Join(t.TempDir(), "marks"), epoch)
	now := time.Now()
	late := marksAt(t, k, now.Add(3*epoch))
	for _, back := range []time.Duration{0, -epoch, -30 * 365 * 24 * time.Hour, 3 * epoch} {
		if got := marksAt(t, k, now.Add(back)); got != late {
			t.Errorf("with the clock at %v: other marks", back)
		}
	}
}

func TestANewLengthForgetsNobody(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, c := range []struct{ before, after time.Duration }{{90 * day, 7 * day}, {7 * day, 90 * day}} {
		synctest.Test(t, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "marks")
			k := openKeys(t, path, c.before)
			time.Sleep(c.before * 2 / 3)
			seen := marksAt(t, k, time.Now())
			k = openKeys(t, path, c.after)
			window := min(c.before, c.after)
			for range 10 {
				time.Sleep(window / 10)
				if m := marksAt(t, k, time.Now()); m.Current != seen.Current && m.Previous != seen.Current {
					t.Fatalf("from %v to %v: forgotten", c.before, c.after)
				}
			}
			// After the running epoch the new length counts.
			time.Sleep(c.before)
			a := marksAt(t, k, time.Now())
			time.Sleep(c.after)
			if b := marksAt(t, k, time.Now()); b.Previous != a.Current {
				t.Errorf("from %v to %v: the new length does not count", c.before, c.after)
			}
		})
	}
}

func TestKeysSurviveARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "marks")
	now := time.Now()
	k := openKeys(t, path, epoch)
	first := marksAt(t, k, now)
	if got := marksAt(t, openKeys(t, path, epoch), now); got != first {
		t.Error("other marks after a restart")
	}
	second := marksAt(t, k, now.Add(epoch))
	if got := marksAt(t, openKeys(t, path, epoch), now); got != second {
		t.Error("other marks after a restart in the next epoch")
	}
	if other := marksAt(t, openKeys(t, filepath.Join(dir, "other"), epoch), now); other == first {
		t.Error("two machines have one key")
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*new*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestOpenKeysRefuses(t *testing.T) {
	t.Parallel()
	good := func(t *testing.T) (string, []byte) {
		path := filepath.Join(t.TempDir(), "marks")
		marksAt(t, openKeys(t, path, epoch), time.Now().Add(epoch))
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return path, b
	}
	write := func(t *testing.T, path string, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(t *testing.T, path, want string) {
		t.Helper()
		_, err := OpenKeys(path, epoch)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	t.Run("every byte", func(t *testing.T) {
		t.Parallel()
		_, b := good(t)
		for i := range b {
			for _, x := range []byte{1, 0x20, 0xFF} {
				bad := bytes.Clone(b)
				bad[i] ^= x
				if _, err := parseRing(bad); err == nil {
					t.Errorf("byte %d ^ %02x: taken", i, x)
				}
			}
			if _, err := parseRing(b[:i]); err == nil {
				t.Errorf("cut to %d bytes: taken", i)
			}
		}
	})
	t.Run("damaged", func(t *testing.T) {
		t.Parallel()
		path, b := good(t)
		write(t, path, bytes.Replace(b, []byte(`"epoch":1`), []byte(`"epoch":2`), 1))
		refused(t, path, "memory of who had what in the quota window is lost")
		write(t, path, nil)
		refused(t, path, "memory of who had what in the quota window is lost")
	})
	t.Run("newer", func(t *testing.T) {
		t.Parallel()
		path, b := good(t)
		write(t, path, bytes.Replace(b, []byte(`"version":1`), []byte(`"version":2`), 1))
		refused(t, path, "version 2")
	})
	t.Run("readable by others", func(t *testing.T) {
		t.Parallel()
		for _, mode := range []os.FileMode{0o640, 0o604, 0o644, 0o620, 0o660} {
			path, _ := good(t)
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			refused(t, path, "chmod 600")
		}
	})
	t.Run("short epoch", func(t *testing.T) {
		t.Parallel()
		path, _ := good(t)
		if _, err := OpenKeys(path, 0); err == nil {
			t.Error("an epoch of 0 was taken")
		}
	})
	t.Run("no folder", func(t *testing.T) {
		t.Parallel()
		refused(t, filepath.Join(t.TempDir(), "no", "marks"), "no such file")
	})
}

// What a power cut left half written is destroyed: it holds keys.
func TestHalfWrittenKeysAreRemoved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "marks")
	left := path + ".new-123"
	if err := os.WriteFile(left, []byte("keys"), 0o600); err != nil {
		t.Fatal(err)
	}
	openKeys(t, path, epoch)
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
}

// No mark is made under a key that is past its time and cannot be replaced.
func TestNoMarkWithoutADurableKey(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	k := openKeys(t, filepath.Join(dir, "marks"), epoch)
	now := time.Now()
	first := marksAt(t, k, now)
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.marks(anyNumber(), now.Add(epoch)); err == nil {
		t.Error("a mark was made though the new key could not be written")
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	if got := marksAt(t, k, now.Add(epoch)); got.Previous != first.Current {
		t.Error("the failed attempt changed the keys")
	}
}

func FuzzKeys(f *testing.F) {
	r := ring{start: time.UnixMilli(1_700_000_000_000), length: epoch, current: [32]byte{1}}
	for _, r := range []ring{r, r.next(epoch)} {
		b, err := r.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRing(b)
		if err != nil {
			return
		}
		if again, err := r.encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("taken, but written anew it is %s (%v)", again, err)
		}
	})
}
