package staff_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/staff"
	"yaoju/protocol"
)

// memory is a store that survives a restart of the book, and can fail.
type memory struct {
	mu     sync.Mutex
	all    []staff.Kept
	locks  map[string]staff.Lock
	locked []string // accounts, in the order in which locks were recorded
	fails  error    // of every write
	writes int
}

func newMemory() *memory { return &memory{locks: map[string]staff.Lock{}} }

func (m *memory) Accounts(context.Context) ([]staff.Kept, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.all), nil
}

func (m *memory) SetAccounts(_ context.Context, all []staff.Kept) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails != nil {
		return m.fails
	}
	for account := range m.locks {
		same := func(k staff.Kept) bool {
			return k.Staff == account && slices.ContainsFunc(m.all, func(o staff.Kept) bool { return o.Staff == account && bytes.Equal(o.PIN, k.PIN) })
		}
		if !slices.ContainsFunc(all, same) {
			delete(m.locks, account)
		}
	}
	m.all = all
	return nil
}

func (m *memory) Lock(_ context.Context, account string) (staff.Lock, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.locks[account], nil
}

func (m *memory) SetLock(_ context.Context, account string, l staff.Lock, locked bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails != nil {
		return m.fails
	}
	m.writes++
	m.locks[account] = l
	if locked {
		m.locked = append(m.locked, account)
	}
	return nil
}

var pepper = staff.Pepper{7, 7, 7}

const (
	right = "830417"
	wrong = "194028"
)

var theirBadge = protocol.Badge{Kind: "nfc", UID: "04A1B2C3D4E5F6"}

// account is one whose PIN costs little to check.
func account(t *testing.T, number, pin string, badge protocol.Badge) protocol.Account {
	t.Helper()
	p, err := staff.NewPIN(pin)
	if err != nil {
		t.Fatal(err)
	}
	return protocol.Account{Staff: number, Role: protocol.RoleRestocker, Badges: []protocol.Badge{badge}, PIN: p}
}

func open(t *testing.T, m *memory) *staff.Book {
	t.Helper()
	b, err := staff.Open(t.Context(), m, pepper)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func book(t *testing.T, m *memory) *staff.Book {
	t.Helper()
	b := open(t, m)
	if err := b.Replace(t.Context(), []protocol.Account{account(t, "s-104", right, theirBadge)}); err != nil {
		t.Fatal(err)
	}
	return b
}

// run keeps a book counting until the test ends its world.
func run(t *testing.T, b *staff.Book) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestSignIn(t *testing.T) {
	m := newMemory()
	b := book(t, m)
	who, role, ok, err := b.Who(t.Context(), theirBadge)
	if err != nil || !ok || who != "s-104" || role != protocol.RoleRestocker {
		t.Fatalf("%q %q %v %v", who, role, ok, err)
	}
	for _, other := range []protocol.Badge{{Kind: "wiegand26", UID: theirBadge.UID}, {Kind: "nfc", UID: "04A1B2"}, {}} {
		if who, _, ok, err := b.Who(t.Context(), other); ok || err != nil {
			t.Errorf("%+v is %q, %v", other, who, err)
		}
	}
	if err := b.Check(t.Context(), who, right); err != nil {
		t.Error(err)
	}
	for i, pin := range []string{wrong, "", "12345", "1234567", "８３０４１７", right + " "} {
		if err := b.Check(t.Context(), who, right); err != nil {
			t.Error(err)
		}
		if _, ok := errors.AsType[*staff.WrongError](b.Check(t.Context(), who, pin)); !ok {
			t.Errorf("wrong PIN %d was taken", i)
		}
	}
	if err := b.Check(t.Context(), "s-105", right); !errors.Is(err, staff.ErrGone) {
		t.Errorf("an account that is none: %v", err)
	}
}

// What is stored says nothing to who has no pepper.
func TestStoredIsPeppered(t *testing.T) {
	m := newMemory()
	book(t, m)
	b, err := json.Marshal(m.all)
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.ToUpper(string(b)); strings.Contains(text, theirBadge.UID) || strings.Contains(text, right) {
		t.Errorf("the store holds a badge or a PIN: %s", b)
	}
	other, err := staff.Open(t.Context(), m, staff.Pepper{1})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok, err := other.Who(t.Context(), theirBadge); ok || err != nil {
		t.Errorf("another machine knows the badge: %v", err)
	}
	if err := other.Check(t.Context(), "s-104", right); err == nil {
		t.Error("another machine takes the PIN")
	}
}

func TestLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		b := book(t, m)
		defer run(t, b)()
		for round, want := range []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, time.Hour} {
			for left := staff.TriesPerLock - 1; left >= 0; left-- {
				w, ok := errors.AsType[*staff.WrongError](b.Check(t.Context(), "s-104", wrong))
				if !ok || left > 0 && (w.Left != left || w.For != 0) || left == 0 && w.For != want {
					t.Fatalf("round %d, %d left: %+v", round, left, w)
				}
			}
			if len(m.locked) != round+1 {
				t.Errorf("%d locks recorded, want %d", len(m.locked), round+1)
			}
			time.Sleep(want - time.Second)
			if l, ok := errors.AsType[*staff.LockedError](b.Check(t.Context(), "s-104", right)); !ok || l.For != time.Second {
				t.Fatalf("round %d, a second before the end: %+v", round, l)
			}
			time.Sleep(time.Second)
		}
		if err := b.Check(t.Context(), "s-104", right); err != nil {
			t.Fatal(err)
		}
		if w, ok := errors.AsType[*staff.WrongError](b.Check(t.Context(), "s-104", wrong)); !ok || w.Left != staff.TriesPerLock-1 {
			t.Errorf("after a right one the count begins again: %+v", w)
		}
	})
}

// No restart gives more tries, and none shortens a lock.
func TestRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		book(t, m)
		for range staff.TriesPerLock {
			b := open(t, m)
			if err := b.Check(t.Context(), "s-104", wrong); err == nil {
				t.Fatal("taken")
			}
		}
		if len(m.locked) != 1 {
			t.Fatalf("%d locks, want 1", len(m.locked))
		}
		spent := time.Duration(0) // while a daemon ran
		for spent < 50*time.Second {
			stop := run(t, open(t, m))
			time.Sleep(15 * time.Second)
			spent += 10 * time.Second // written down every ten seconds
			stop()
			time.Sleep(time.Hour) // nobody runs: this does not count
		}
		b := open(t, m)
		if l, ok := errors.AsType[*staff.LockedError](b.Check(t.Context(), "s-104", right)); !ok || l.For > 10*time.Second {
			t.Fatalf("after %v: %+v", spent, l)
		}
		defer run(t, b)()
		time.Sleep(11 * time.Second)
		if err := b.Check(t.Context(), "s-104", right); err != nil {
			t.Error(err)
		}
	})
}

// The power fails between the fifth wrong PIN and its lock.
func TestCutBeforeLock(t *testing.T) {
	m := newMemory()
	book(t, m)
	m.locks["s-104"] = staff.Lock{Wrong: staff.TriesPerLock}
	b := open(t, m)
	if len(m.locked) != 1 || m.locks["s-104"].Left != time.Minute {
		t.Errorf("not locked at the start: %+v", m.locks["s-104"])
	}
	if _, ok := errors.AsType[*staff.LockedError](b.Check(t.Context(), "s-104", right)); !ok {
		t.Error("not locked")
	}
}

// A try that cannot be written down is not judged.
func TestDiskFails(t *testing.T) {
	m := newMemory()
	b := book(t, m)
	m.fails = errors.New("disk full")
	for range 20 {
		if err := b.Check(t.Context(), "s-104", right); !errors.Is(err, m.fails) {
			t.Fatalf("%v", err)
		}
	}
	if err := b.Replace(t.Context(), nil); !errors.Is(err, m.fails) {
		t.Errorf("replaced: %v", err)
	}
}

func TestReplace(t *testing.T) {
	m := newMemory()
	b := book(t, m)
	for range staff.TriesPerLock {
		_ = b.Check(t.Context(), "s-104", wrong) // it is wrong each time; TestLocks looks at how
	}
	same := m.all
	if err := m.SetAccounts(t.Context(), same); err != nil {
		t.Fatal(err)
	}
	if _, ok := errors.AsType[*staff.LockedError](b.Check(t.Context(), "s-104", right)); !ok {
		t.Error("the same accounts again end a lock")
	}
	if err := b.Replace(t.Context(), []protocol.Account{account(t, "s-104", "506172", theirBadge)}); err != nil {
		t.Fatal(err)
	}
	if err := b.Check(t.Context(), "s-104", "506172"); err != nil {
		t.Errorf("a new PIN ends the lock: %v", err)
	}
	if err := b.Check(t.Context(), "s-104", right); err == nil {
		t.Error("the old PIN is taken")
	}
	if err := b.Replace(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, _, ok, err := b.Who(t.Context(), theirBadge); ok || err != nil {
		t.Errorf("revoked, and known: %v", err)
	}
	if err := b.Check(t.Context(), "s-104", "506172"); !errors.Is(err, staff.ErrGone) {
		t.Errorf("revoked: %v", err)
	}
}

func TestValidPIN(t *testing.T) {
	for _, pin := range []string{"000000", "999999", "123456", "654321", "890123", "321098", "121212", "123123", "404404", "12345", "1234567", "12345a", "", "１２３４５７"} {
		if err := staff.ValidPIN(pin); err == nil {
			t.Errorf("%q is taken", pin)
		} else if pin != "" && strings.Contains(err.Error(), pin) {
			t.Errorf("the error holds the PIN: %v", err)
		}
	}
	for _, pin := range []string{right, wrong, "100000", "112233", "135790"} {
		if err := staff.ValidPIN(pin); err != nil {
			t.Errorf("%q: %v", pin, err)
		}
	}
}

func TestPepper(t *testing.T) {
	path := filepath.Join(t.TempDir(), "staff.pepper")
	p, err := staff.OpenPepper(path)
	if err != nil || p == (staff.Pepper{}) {
		t.Fatalf("%v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v; want only ours", info.Mode(), err)
	}
	if again, err := staff.OpenPepper(path); err != nil || again != p {
		t.Errorf("another one at the second start: %v", err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := staff.OpenPepper(path); err == nil {
		t.Error("a damaged one is used")
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(wrong)
	f.Add("")
	f.Fuzz(func(t *testing.T, pin string) {
		if pin == right {
			return
		}
		b := book(t, newMemory())
		if _, ok := errors.AsType[*staff.WrongError](b.Check(t.Context(), "s-104", pin)); !ok {
			t.Errorf("%q was taken", pin)
		}
	})
}
