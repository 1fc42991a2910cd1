package update_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"yaoju/daemon/update"
	"yaoju/protocol"
)

// key is a release key named by a byte.
func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(seed byte) ed25519.PublicKey { return key(seed).Public().(ed25519.PublicKey) }

// software is an invented release: programs that say their version.
func software(version string) fstest.MapFS {
	return fstest.MapFS{
		"kioskd": {Data: []byte("#!/bin/sh\necho kioskd " + version + "\n")},
		"yaoju":  {Data: []byte("#!/bin/sh\necho yaoju " + version + "\n")},
	}
}

// manifest describes a release for amd64, built on day n.
func manifest(t testing.TB, version string, day int) update.Manifest {
	t.Helper()
	m := update.Manifest{Format: 1, Version: version, Arch: "amd64", BuiltMS: time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC).UnixMilli(),
		Ledger: update.Schema{Writes: 1, Oldest: 1, Newest: 1}, Firmware: 7}
	for _, name := range []string{"kioskd", "yaoju"} {
		f, err := update.Sum(name, bytes.NewReader(software(version)[name].Data))
		if err != nil {
			t.Fatal(err)
		}
		m.Files = append(m.Files, f)
	}
	return m
}

// bundle makes the bundle of a release, signed by key 1.
func bundle(t testing.TB, m update.Manifest) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := update.WriteBundle(&b, key(1), m, software(m.Version)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sumOf(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

// order asks for a bundle within a day.
func order(id string, m update.Manifest, b []byte) update.Order {
	now := time.Now()
	return update.Order{ID: id, Update: protocol.Update{Version: m.Version, SHA256: sumOf(b), Size: int64(len(b)), NotBeforeMS: now.UnixMilli(), DeadlineMS: now.Add(24 * time.Hour).UnixMilli(), Wave: 1}}
}

// machine is a folder of versions and a base of version 1.0 beside it.
type machine struct {
	t     testing.TB
	dir   string
	base  string
	store *update.Store
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, dir: filepath.Join(dir, "versions"), base: filepath.Join(dir, "base")}
	for _, d := range []string{m.dir, m.base} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.installed("1.0", 1)
	m.store = m.open()
	return m
}

// installed puts a version in the place of the base, as a package does.
func (m *machine) installed(version string, day int) {
	m.t.Helper()
	text, err := update.Unsigned(manifest(m.t, version, day))
	if err != nil {
		m.t.Fatal(err)
	}
	m.write(filepath.Join(m.base, "manifest.json"), text, 0o644)
	for name, f := range software(version) {
		m.write(filepath.Join(m.base, name), f.Data, 0o755)
	}
}

func (m *machine) write(path string, b []byte, mode fs.FileMode) {
	m.t.Helper()
	if err := os.WriteFile(path, b, mode); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) options() update.StoreOptions {
	return update.StoreOptions{Dir: m.dir, Base: m.base, Arch: "amd64", Keys: []ed25519.PublicKey{public(1)}}
}

func (m *machine) open() *update.Store {
	m.t.Helper()
	s, err := update.OpenStore(m.options())
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { s.Close() })
	return s
}

// check starts the machine as far as systemd's ExecStartPre goes.
func (m *machine) check() string {
	m.t.Helper()
	did, err := m.store.Check()
	if err != nil {
		m.t.Fatalf("check: %v", err)
	}
	return did
}

func (m *machine) status() update.Status {
	m.t.Helper()
	st, err := m.store.Status()
	if err != nil {
		m.t.Fatal(err)
	}
	return st
}

// runs says which version the next start would run, by what current leads to.
func (m *machine) runs() string {
	m.t.Helper()
	out, err := os.ReadFile(filepath.Join(m.dir, "current", "kioskd"))
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(out), "#!/bin/sh\necho kioskd "))
}

// memory is a source whose line can break. It fails the test if it is asked for
// what does not exist.
type memory struct {
	t       testing.TB
	bundles map[string][]byte
	breaks  []int64 // the line breaks after so many bytes, once each
	asked   []int64 // offsets
}

func sourceOf(t testing.TB, bundles ...[]byte) *memory {
	s := &memory{t: t, bundles: map[string][]byte{}}
	for _, b := range bundles {
		s.bundles[sumOf(b)] = b
	}
	return s
}

var errLine = errors.New("the line broke")

func (s *memory) Open(_ context.Context, sum string, from int64) (io.ReadCloser, error) {
	b, ok := s.bundles[sum]
	if !ok {
		return nil, errors.New("no such bundle")
	}
	if from < 0 || from >= int64(len(b)) {
		s.t.Errorf("asked from byte %d of %d", from, len(b))
	}
	s.asked = append(s.asked, from)
	r := io.Reader(bytes.NewReader(b[from:]))
	if len(s.breaks) > 0 {
		r = io.MultiReader(io.LimitReader(r, s.breaks[0]), broken{})
		s.breaks = s.breaks[1:]
	}
	return io.NopCloser(r), nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errLine }

// staged brings a release to where only the switch is left.
func (m *machine) staged(id string, man update.Manifest) update.Order {
	m.t.Helper()
	b := bundle(m.t, man)
	o := order(id, man, b)
	if err := m.store.Take(o); err != nil {
		m.t.Fatal(err)
	}
	if err := m.store.Fetch(context.Background(), sourceOf(m.t, b), o, 1<<30); err != nil {
		m.t.Fatal(err)
	}
	if err := m.store.Stage(context.Background(), o); err != nil {
		m.t.Fatal(err)
	}
	return o
}

// upgraded runs a release and lets it prove itself.
func (m *machine) upgraded(id string, man update.Manifest) {
	m.t.Helper()
	if err := m.store.Switch(m.staged(id, man), update.Signs{}); err != nil {
		m.t.Fatal(err)
	}
	m.check()
	if err := m.store.Confirm(man.Version); err != nil {
		m.t.Fatal(err)
	}
}
