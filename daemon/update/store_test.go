package update_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/update"
	"yaoju/protocol"
)

// refused wants a decision, not a failure, in these words.
func refused(t *testing.T, err error, want string) {
	t.Helper()
	if r, ok := errors.AsType[*update.RefusedError](err); !ok || !strings.Contains(r.Words, want) {
		t.Errorf("got %v, want a refusal with %q", err, want)
	}
}

// A machine that was never updated starts what it was installed with, and one whose
// bundle came runs it, on trial, with the one before to go back to.
func TestSwitch(t *testing.T) {
	m := newMachine(t)
	m.check()
	if st := m.status(); st.Current != "base" || st.Previous != "" || m.runs() != "1.0" {
		t.Errorf("got %+v, runs %s", st, m.runs())
	}
	o := m.staged("c-1", manifest(t, "1.1", 2))
	if err := m.store.Switch(o, update.Signs{}); err != nil {
		t.Fatal(err)
	}
	if did := m.check(); !strings.Contains(did, "1.1 is on trial, start 1 of 3") || m.runs() != "1.1" {
		t.Errorf("%q, runs %s", did, m.runs())
	}
	if st := m.status(); st.Trial != "1.1" || st.Previous != "base" || st.Starts != 1 || st.Order == nil {
		t.Errorf("got %+v", st)
	}
	if err := m.store.Confirm("1.1"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		m.check()
	}
	if st := m.status(); st.Current != "1.1" || st.Trial != "" || st.Order != nil || st.Last.End != protocol.UpdateConfirmed || st.Last.Order != "c-1" {
		t.Errorf("got %+v, %+v", st, st.Last)
	}
	info, err := os.Stat(filepath.Join(m.dir, "current", "kioskd"))
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("kioskd has mode %v, %v", info.Mode(), err)
	}
}

// A version that never proves itself is started three times; then the one before is back.
func TestThreeStarts(t *testing.T) {
	m := newMachine(t)
	m.check()
	if err := m.store.Switch(m.staged("c-1", manifest(t, "1.1", 2)), update.Signs{}); err != nil {
		t.Fatal(err)
	}
	var ran []string
	for range 5 {
		m.check()
		ran = append(ran, m.runs())
	}
	if want := []string{"1.1", "1.1", "1.1", "1.0", "1.0"}; !slices.Equal(ran, want) {
		t.Errorf("ran %v, want %v", ran, want)
	}
	if l := m.status().Last; l.End != protocol.UpdateRolledBack || !strings.Contains(l.Words, "started 3 times") || l.Order != "c-1" {
		t.Errorf("last %+v", l)
	}
}

// Which release may follow which is decided before anything is unpacked, and again
// before the switch.
func TestRefusedReleases(t *testing.T) {
	ledger := func(writes, oldest, newest int) func(*update.Manifest) {
		return func(m *update.Manifest) {
			m.Ledger = update.Schema{Writes: writes, Oldest: oldest, Newest: newest}
		}
	}
	// What runs is 1.1, built on day 5: it writes ledgers of version 2 and reads 1 to 3.
	cases := []struct {
		name  string
		bend  func(*update.Manifest)
		older bool
		want  string // "": taken
	}{
		{"the next one", ledger(2, 1, 3), false, ""},
		{"the first that writes what the one before reads", ledger(3, 1, 3), false, ""},
		{"for another machine", func(m *update.Manifest) { m.Arch = "arm64" }, false, "is for arm64"},
		{"built before", func(m *update.Manifest) { m.BuiltMS -= 3 * 24 * 3600 * 1000; ledger(2, 1, 3)(m) }, false, "nobody asked for an older one"},
		{"built before, and meant", func(m *update.Manifest) { m.BuiltMS -= 3 * 24 * 3600 * 1000; ledger(2, 1, 3)(m) }, true, ""},
		{"cannot read the ledger", ledger(1, 1, 1), false, "this machine's has version 2"},
		{"cannot read the ledger, though it is meant", ledger(1, 1, 1), true, "this machine's has version 2"},
		{"reads newer ledgers only", ledger(3, 3, 3), false, "this machine's has version 2"},
		{"writes what the one before could not read", ledger(4, 1, 4), false, "could not read if it had to come back"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			m.check()
			base := manifest(t, "1.0", 1)
			base.Ledger.Newest = 3
			text, err := update.Unsigned(base)
			if err != nil {
				t.Fatal(err)
			}
			m.write(filepath.Join(m.base, "manifest.json"), text, 0o644)
			now := manifest(t, "1.1", 5)
			ledger(2, 1, 3)(&now)
			m.upgraded("first", now)

			man := manifest(t, "1.2", 6)
			c.bend(&man)
			b := bundle(t, man)
			o := order("second", man, b)
			o.Older = c.older
			if err := m.store.Take(o); err != nil {
				t.Fatal(err)
			}
			if err := m.store.Fetch(context.Background(), sourceOf(t, b), o, 1<<30); err != nil {
				t.Fatal(err)
			}
			err = m.store.Stage(context.Background(), o)
			if c.want != "" {
				refused(t, err, c.want)
				return
			}
			if err == nil {
				err = m.store.Switch(o, update.Signs{})
			}
			if err != nil {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The version that runs, a bundle with another version inside, and a bundle that is
// signed and still not made as one must be, are refused; nothing stays of them.
func TestRefusedBundles(t *testing.T) {
	m := newMachine(t)
	m.check()
	man, base := manifest(t, "1.1", 2), manifest(t, "1.0", 1)
	good := bundle(t, man)
	hostile := squeeze(t, pack(t, signed(t, 1, man), entry{"kioskd", tar.TypeSymlink, "/bin/sh", nil}))
	stage := func(o update.Order, b []byte) error {
		if err := m.store.Take(o); err != nil {
			t.Fatal(err)
		}
		if err := m.store.Fetch(context.Background(), sourceOf(t, b), o, 1<<30); err != nil {
			t.Fatal(err)
		}
		return m.store.Stage(context.Background(), o)
	}
	refused(t, stage(order("c-1", base, bundle(t, base)), bundle(t, base)), "runs already")
	other := order("c-2", man, good)
	other.Version = "1.7"
	refused(t, stage(other, good), "1.7 was ordered, and the bundle holds 1.1")
	refused(t, stage(order("c-3", man, hostile), hostile), "where the file kioskd must be")
	m.store.SetFree(33 << 20)
	if err := stage(order("c-4", man, good), good); err != nil {
		t.Errorf("got %v", err)
	}
	names, err := filepath.Glob(filepath.Join(m.dir, "versions", "*"))
	if hidden, _ := filepath.Glob(filepath.Join(m.dir, "versions", ".*")); err != nil || len(names) != 1 || len(hidden) != 0 {
		t.Errorf("there are %v and %v", names, hidden)
	}
}

// What was staged and changed since is not taken into use.
func TestSwitchLooksAgain(t *testing.T) {
	for name, spoil := range map[string]func(m *machine, at string){
		"another program": func(m *machine, at string) { m.write(at, []byte("#!/bin/sh\necho other\n"), 0o755) },
		"gone": func(m *machine, at string) {
			if err := os.Remove(at); err != nil {
				m.t.Fatal(err)
			}
		},
		"not executable": func(m *machine, at string) {
			if err := os.Chmod(at, 0o644); err != nil {
				m.t.Fatal(err)
			}
		},
		"a link that leads out": func(m *machine, at string) {
			if err := errors.Join(os.Remove(at), os.Symlink("/bin/sh", at)); err != nil {
				m.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.check()
			o := m.staged("c-1", manifest(t, "1.1", 2))
			spoil(m, filepath.Join(m.dir, "versions", "1.1", "kioskd"))
			refused(t, m.store.Switch(o, update.Signs{}), "not sound")
			if m.check(); m.runs() != "1.0" {
				t.Errorf("runs %s", m.runs())
			}
		})
	}
}

// A version that reads the ledger is never left for one that does not.
func TestNothingToGoBackTo(t *testing.T) {
	m := newMachine(t)
	m.check()
	one, two := manifest(t, "1.1", 2), manifest(t, "1.2", 3)
	one.Ledger.Newest = 2
	two.Ledger.Writes, two.Ledger.Newest = 2, 2
	m.upgraded("c-1", one)
	m.upgraded("c-2", two)
	m.write(filepath.Join(m.dir, "versions", "1.1", "kioskd"), []byte("damaged"), 0o755)
	_, err := m.store.Rollback("it hums")
	refused(t, err, "no other version that is whole and can read this machine's ledger")
	m.write(filepath.Join(m.dir, "versions", "1.2", "yaoju"), []byte("damaged"), 0o755)
	if _, err := m.store.Check(); err == nil || !strings.Contains(err.Error(), "there is nothing else") || m.runs() != "1.2" {
		t.Errorf("got %v, runs %s", err, m.runs())
	}
}

// A trial that failed with nothing to go back to has an end: the version stays, and a
// later release takes its place.
func TestStaysForWantOfAnother(t *testing.T) {
	m := newMachine(t)
	m.check()
	m.upgraded("c-1", manifest(t, "1.1", 2))
	if err := m.store.Switch(m.staged("c-2", manifest(t, "1.2", 3)), update.Signs{}); err != nil {
		t.Fatal(err)
	}
	m.check()
	for _, dir := range []string{m.base, filepath.Join(m.dir, "versions", "1.1")} {
		m.write(filepath.Join(dir, "kioskd"), []byte("damaged"), 0o755)
	}
	if err := m.store.Fail("1.2", "it hums"); err != nil {
		t.Fatal(err)
	}
	if did := m.check(); !strings.Contains(did, "nothing to go back to, it stays") {
		t.Errorf("did %q", did)
	}
	st := m.status()
	if st.Trial != "" || st.Order != nil || m.runs() != "1.2" || st.Last.Order != "c-2" || st.Last.End != protocol.UpdateRolledBack || !strings.Contains(st.Last.Words, "it stays: it hums") {
		t.Errorf("%+v, %+v", st, st.Last)
	}
	m.upgraded("c-3", manifest(t, "1.3", 4))
	if m.check(); m.runs() != "1.3" {
		t.Errorf("runs %s", m.runs())
	}
}

// Going back by hand counts from the next start, and goes back once.
func TestRollback(t *testing.T) {
	m := newMachine(t)
	m.check()
	_, err := m.store.Rollback("why not")
	refused(t, err, "none before it")
	m.upgraded("c-1", manifest(t, "1.1", 2))
	if did, err := m.store.Rollback("it hums"); err != nil || !strings.Contains(did, "it hums") {
		t.Errorf("%q, %v", did, err)
	}
	if m.check(); m.runs() != "1.0" {
		t.Errorf("runs %s", m.runs())
	}
	_, err = m.store.Rollback("again")
	refused(t, err, "none before it")
}

// An order is taken once, whatever became of it.
func TestTake(t *testing.T) {
	m := newMachine(t)
	m.check()
	man := manifest(t, "1.1", 2)
	b := bundle(t, man)
	good := order("c-1", man, b)
	for want, bend := range map[string]func(*update.Order){
		"id":                     func(o *update.Order) { o.ID = "" },
		"version":                func(o *update.Order) { o.Version = "../../etc" },
		"lower-case hexadecimal": func(o *update.Order) { o.SHA256 = "../../../etc/passwd" },
		"size 0":                 func(o *update.Order) { o.Size = 0 },
		"size 134217729":         func(o *update.Order) { o.Size = protocol.MaxBundle + 1 },
		"before it begins":       func(o *update.Order) { o.DeadlineMS = o.NotBeforeMS },
		"wave -1":                func(o *update.Order) { o.Wave = -1 },
	} {
		o := good
		bend(&o)
		refused(t, m.store.Take(o), want)
	}
	o := m.staged("c-1", man)
	if err := m.store.Take(o); err != nil || !m.status().Staged {
		t.Errorf("the same order again: %v, %+v", err, m.status())
	}
	if err := m.store.Switch(o, update.Signs{}); err != nil {
		t.Fatal(err)
	}
	if err := m.store.Take(order("c-2", man, b)); err == nil || !strings.Contains(err.Error(), "a version is on trial") {
		t.Errorf("taken while another is on trial: %v", err)
	}
	m.check()
	if err := m.store.Confirm("1.1"); err != nil {
		t.Fatal(err)
	}
	if err := m.store.Take(o); err != nil || m.status().Order != nil {
		t.Errorf("a done order again: %v, %+v", err, m.status())
	}
	bare := m.options()
	bare.Keys = nil
	s, err := update.OpenStore(bare)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	good.ID = "c-3"
	refused(t, s.Take(good), "trusts no release key")
	if st := m.status(); st.Order != nil || st.Last == nil || st.Last.Order != "c-3" || st.Last.End != protocol.UpdateRefused {
		t.Errorf("after a refusal: %+v, %+v", st, st.Last)
	}
	// What was rolled back by hand does not come again because somebody repeats its order.
	if _, err := m.store.Rollback("it hums"); err != nil {
		t.Fatal(err)
	}
	if err := m.store.Take(good); err != nil || m.status().Order != nil {
		t.Errorf("the last order again: %v, %+v", err, m.status())
	}
}

// A package that somebody installs by hand is taken if it is later than what runs,
// once: an order for an older version after it stays.
func TestPackageInstalled(t *testing.T) {
	m := newMachine(t)
	m.check()
	m.upgraded("c-1", manifest(t, "1.1", 5))
	if did := m.check(); did != "" || m.runs() != "1.1" {
		t.Errorf("check did %q, %s runs", did, m.runs())
	}
	m.installed("1.0.1", 3) // earlier than what runs
	if did := m.check(); did != "" || m.runs() != "1.1" {
		t.Errorf("an earlier package: check did %q, %s runs", did, m.runs())
	}
	m.installed("1.2", 6)
	if did := m.check(); !strings.Contains(did, "version 1.2 was installed since, and is later than 1.1") || m.runs() != "1.2" {
		t.Errorf("a later package: check did %q, %s runs", did, m.runs())
	}
	if st := m.status(); st.Current != "base" || st.Previous != "1.1" || st.Trial != "" {
		t.Errorf("got %+v", st)
	}
	o := m.staged("c-2", manifest(t, "1.3", 7))
	if err := m.store.Switch(o, update.Signs{}); err != nil {
		t.Fatal(err)
	}
	m.installed("1.4", 8) // while another one is on trial
	if did := m.check(); !strings.Contains(did, "1.3 is on trial") {
		t.Errorf("check did %q", did)
	}
	if err := m.store.Confirm("1.3"); err != nil {
		t.Fatal(err)
	}
	if did := m.check(); !strings.Contains(did, "version 1.4 was installed since") || m.runs() != "1.4" {
		t.Errorf("check did %q, %s runs", did, m.runs())
	}
	if did := m.check(); did != "" || m.runs() != "1.4" {
		t.Errorf("check did %q, %s runs", did, m.runs())
	}
}

// Nothing is left of what nobody needs, and nothing goes that somebody does.
func TestPrune(t *testing.T) {
	m := newMachine(t)
	m.check()
	for i, v := range []string{"1.1", "1.2", "1.3"} {
		m.upgraded("c-"+v, manifest(t, v, 2+i))
	}
	m.write(filepath.Join(m.dir, "incoming", "left.part"), []byte("x"), 0o644)
	next := manifest(t, "1.4", 8)
	m.staged("c-1.4", next)
	if err := m.store.Prune(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, pattern := range []string{"versions/*", "versions/.*", "incoming/*"} {
		found, err := filepath.Glob(filepath.Join(m.dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			names = append(names, filepath.Base(f))
		}
	}
	if want := []string{"1.2", "1.3", "1.4"}; !slices.Equal(names, want) {
		t.Errorf("there are %v, want %v", names, want)
	}
}

// A broken line goes on where it was cut off; bytes that are not the ordered ones
// are thrown away.
func TestFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		m.check()
		man := manifest(t, "1.1", 2)
		b := bundle(t, man)
		o := order("c-1", man, b)
		src := sourceOf(t, b)
		src.breaks = []int64{100, 0, 50}
		for range 3 {
			if err := m.store.Fetch(t.Context(), src, o, 1<<30); !errors.Is(err, errLine) {
				t.Errorf("got %v", err)
			}
		}
		if err := m.store.Fetch(t.Context(), src, o, 1<<30); err != nil || !slices.Equal(src.asked, []int64{0, 100, 100, 150}) {
			t.Errorf("got %v, asked %v", err, src.asked)
		}
		wrong := o
		wrong.SHA256 = strings.Repeat("ab", 32)
		src.bundles[wrong.SHA256] = b
		for range 2 {
			src.asked = nil
			if err := m.store.Fetch(t.Context(), src, wrong, 1<<30); err == nil || !strings.Contains(err.Error(), "not the bundle that was ordered") || !slices.Equal(src.asked, []int64{0}) {
				t.Errorf("got %v, asked %v", err, src.asked)
			}
		}
		m.store.SetFree(32 << 20)
		refused(t, m.store.Fetch(t.Context(), src, wrong, 1<<30), "the disk has 32 MiB left, and the update needs 33")
	})
}

// A download keeps to its rate, and a line that brings nothing is given up.
func TestFetchPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		b := bytes.Repeat([]byte("x"), 1<<20)
		o := order("c-1", manifest(t, "1.1", 2), b)
		begun := time.Now()
		if err := m.store.Fetch(t.Context(), sourceOf(t, b), o, 64<<10); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took < 15*time.Second || took > 17*time.Second {
			t.Errorf("1 MiB at 64 KiB a second took %v", took)
		}
		begun = time.Now()
		o.SHA256 = strings.Repeat("ab", 32)
		err := m.store.Fetch(t.Context(), silent{}, o, 64<<10)
		if err == nil || !strings.Contains(err.Error(), "nothing came for 1m0s") || time.Since(begun) != time.Minute {
			t.Errorf("got %v after %v", err, time.Since(begun))
		}
	})
}

// silent is a source whose line stands and brings nothing.
type silent struct{}

func (silent) Open(ctx context.Context, _ string, _ int64) (io.ReadCloser, error) {
	return waiting{ctx}, nil
}

type waiting struct{ ctx context.Context }

func (w waiting) Read([]byte) (int, error) {
	<-w.ctx.Done()
	return 0, w.ctx.Err()
}

func (waiting) Close() error { return nil }
