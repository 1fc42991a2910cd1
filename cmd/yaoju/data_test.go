package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"yaoju/daemon/card"
	"yaoju/daemon/dispense"
	"yaoju/daemon/ledger"
	"yaoju/protocol"
)

// cardBox is a machine's card: its configuration and its data folder.
type cardBox struct {
	t            *testing.T
	config, data string
}

// newCard makes a card with the configuration of a demo machine and nothing on it.
func newCard(t *testing.T) cardBox {
	p := newPatient(t)
	return cardBox{t, p.config("/dev/none-board", "/dev/none-reader", ""), filepath.Join(p.dir, "data")}
}

func (c cardBox) path(name string) string { return filepath.Join(c.data, name) }

func (c cardBox) ok(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c cardBox) open() *ledger.Ledger {
	c.t.Helper()
	l, err := ledger.Open(c.t.Context(), ledger.Options{Path: c.path(ledgerFile), Machine: "m-0001", Software: "test", Zone: time.UTC,
		Log: quick(c.t).log, Synced: func() bool { return true }})
	c.ok(err)
	return l
}

// marksOf are a person's marks.
var marksOf = dispense.Marks{Current: dispense.Mark{1, 2, 3, 0xAB, 0xCD, 0xEF, 9, 9, 9}, Previous: dispense.Mark{2, 7}}

// live fills the machine, and one person takes a box.
func (c cardBox) live() {
	c.t.Helper()
	bays := []bay{bayOf(1, "condom-52", 3, "2099-01-31")}
	c.ok(stockLedger(c.t.Context(), c.path(ledgerFile), desired("m-0001", bays, time.Now()), bays, time.UTC, quick(c.t).log))
	l := c.open()
	v, err := l.Reserve(c.t.Context(), dispense.Order{Marks: marksOf, Product: "condom-52"})
	c.ok(err)
	c.ok(errors.Join(l.Settle(c.t.Context(), v.ID, protocol.Result{Outcome: protocol.Dispensed, Pieces: 1, RunMS: 2000}), l.Close()))
	_, err = card.OpenKeys(c.path(marksFile), 400*24*time.Hour)
	c.ok(err)
	c.ok(errors.Join(os.Mkdir(c.path("identity"), 0o700), os.WriteFile(c.path("identity/machine.pem"), []byte("a key"), 0o600), os.WriteFile(c.path("trust.json"), []byte("{}"), 0o600)))
}

// early says whether the person who took a box would be refused now.
func (c cardBox) early() bool {
	c.t.Helper()
	l := c.open()
	defer l.Close()
	err := l.Entitled(c.t.Context(), marksOf, "condom-52")
	no, denied := errors.AsType[*dispense.DeniedError](err)
	if err != nil && !denied {
		c.t.Fatal(err)
	}
	return denied && no.Reason == protocol.DenialEarly
}

func (c cardBox) run(code int, args ...string) string {
	c.t.Helper()
	var out, errs bytes.Buffer
	if got := dataCommand(c.t.Context(), append(args, "-config", c.config), terminal{out: &out, err: &errs}); got != code {
		c.t.Fatalf("data %v: exit %d, want %d\n%s%s", args, got, code, &out, &errs)
	}
	return out.String() + errs.String()
}

// A machine's memory is carried to another card: stock, quota, keys and certificate
// arrive, the old card does not go on, and nothing of it can be brought in twice.
func TestDataCarried(t *testing.T) {
	t.Parallel()
	old, fresh := newCard(t), newCard(t)
	old.live()
	key, err := os.ReadFile(old.path(marksFile))
	old.ok(err)
	file := filepath.Join(t.TempDir(), "carry")
	if text := old.run(0, "export", file); !strings.Contains(text, "2 boxes") {
		t.Errorf("export said %s", text)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the export: %v, %v", info, err)
	}
	for _, name := range []string{ledgerFile, marksFile, "identity", "trust.json"} {
		if _, err := os.Stat(old.path(name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the old card has %s still: %v", name, err)
		}
	}
	old.run(1, "export", filepath.Join(t.TempDir(), "again"))
	fresh.run(0, "import", file)
	if !fresh.early() {
		t.Error("the person may take again: quota was lost")
	}
	for name, want := range map[string]string{marksFile: string(key), "identity/machine.pem": "a key", "trust.json": "{}"} {
		if got, err := os.ReadFile(fresh.path(name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if text := fresh.run(1, "import", file); !strings.Contains(text, "memory of its own") {
		t.Errorf("a second import said %s", text)
	}
	left, err := filepath.Glob(fresh.path("import*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// What was changed, cut off or is another machine's is not taken, and nothing of it stays.
func TestDataImportRefuses(t *testing.T) {
	t.Parallel()
	old := newCard(t)
	old.live()
	file := filepath.Join(t.TempDir(), "carry")
	old.run(0, "export", "-keep", file)
	if !old.early() {
		t.Error("with -keep the card does not go on")
	}
	good, err := os.ReadFile(file)
	old.ok(err)
	flipped := slices.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, b := range map[string][]byte{
		"cut off":         good[:len(good)/2],
		"a bit":           flipped,
		"empty":           nil,
		"another machine": bytes.Replace(good, []byte(`"machine": "m-0001"`), []byte(`"machine": "m-0009"`), 1),
		"climbing":        rename(t, good, marksFile, "../"+marksFile[3:]),
	} {
		fresh := newCard(t)
		bad := filepath.Join(t.TempDir(), "bad")
		fresh.ok(os.WriteFile(bad, b, 0o600))
		fresh.run(1, "import", bad)
		left, err := os.ReadDir(fresh.data)
		if err != nil || slices.ContainsFunc(left, func(e fs.DirEntry) bool { return e.Name() != lockFile }) {
			t.Errorf("%s: left behind: %v, %v", name, left, err)
		}
	}
}

// rename gives a file of an export another name, in its description too.
func rename(t *testing.T, b []byte, from, to string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == manifestName {
			text = bytes.ReplaceAll(text, []byte(`"`+from+`"`), []byte(`"`+to+`"`))
			h.Size = int64(len(text))
		}
		if h.Name == from {
			h.Name = to
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Marks are wiped from ledger, journal and key file; everything else stays.
func TestDataWipeMarks(t *testing.T) {
	t.Parallel()
	c := newCard(t)
	c.live()
	if !c.early() {
		t.Fatal("the person is not refused before")
	}
	if text := c.run(2, "wipe-marks"); !strings.Contains(text, "-yes") {
		t.Errorf("without a word of consent: %s", text)
	}
	c.run(0, "wipe-marks", "-yes")
	if _, err := os.Stat(c.path(marksFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the key: %v", err)
	}
	for _, part := range []string{"", "-wal"} {
		if b, err := os.ReadFile(c.path(ledgerFile) + part); err == nil && bytes.Contains(b, marksOf.Current[:]) {
			t.Errorf("the mark is still in ledger.db%s", part)
		}
	}
	if c.early() {
		t.Error("the person is still known")
	}
	if found, err := ledger.Inspect(t.Context(), c.path(ledgerFile)); err != nil || found.Boxes != 2 || found.Damage != "" {
		t.Errorf("the ledger: %+v, %v", found, err)
	}
	if _, err := os.Stat(c.path("identity/machine.pem")); err != nil {
		t.Error(err)
	}
}

// A machine is retired when the district has everything and nothing is in it; then
// its keys are gone and its ledger remains.
func TestDataRetire(t *testing.T) {
	t.Parallel()
	c := newCard(t)
	c.live()
	if text := c.run(1, "retire", "-yes"); !strings.Contains(text, "0 of ") || !strings.Contains(text, "2 boxes") {
		t.Errorf("a machine in use: %s", text)
	}
	l := c.open()
	c.ok(errors.Join(l.Remove(t.Context(), protocol.Stock{Slot: 1, Product: "condom-52", Batch: "B2801", Expiry: "2099-01-31"}, 2, protocol.RemovedReturned, restocker),
		l.SetAcked(t.Context(), protocol.Ack{Ledger: l.ID(), Generation: 1, Seq: l.Head().Seq}), l.Close()))
	c.ok(os.WriteFile(c.path(ledgerFile+".damaged-20260101T000000Z-0a0b0c0d"), marksOf.Current[:], 0o600))
	c.run(0, "retire", "-yes")
	left, err := os.ReadDir(c.data)
	var names []string
	for _, e := range left {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	if err != nil || !slices.Equal(names, []string{ledgerFile, lockFile}) {
		t.Errorf("left: %v, %v", names, err)
	}
	if inside, err := os.ReadDir(c.path("identity")); err != nil || len(inside) > 0 {
		t.Errorf("left of the identity: %v, %v", inside, err)
	}
}

// What was put into slots gets into the ledger, and nothing that does not belong there.
func TestDataFill(t *testing.T) {
	t.Parallel()
	c := newCard(t)
	fill := func(code int, slots, pieces, want string) {
		t.Helper()
		if text := c.run(code, "fill", "-slots", slots, "-pieces", pieces, "-batch", "B3001", "-expiry", "2099-06-30", "-staff", "s-01"); !strings.Contains(text, want) {
			t.Errorf("slots %s: said %s, want %q", slots, text, want)
		}
	}
	fill(1, "1", "3", "start kioskd")
	c.live()
	fill(0, "1", "3", "slot 1: 3 of condom-52")
	fill(1, "1-2", "1", "slot 2: nothing belongs there")
	fill(1, "1", "90", "slot 1")
	fill(2, "0-3", "1", "want numbers")
	fill(2, "1", "0", "say -pieces")
	if found, err := ledger.Inspect(t.Context(), c.path(ledgerFile)); err != nil || found.Boxes != 5 {
		t.Errorf("the ledger: %+v, %v, want 5 boxes", found, err)
	}
}

func TestDataKeepsOut(t *testing.T) {
	t.Parallel()
	c := newCard(t)
	c.live()
	held, err := holdData(c.data)
	c.ok(err)
	defer held.Close()
	if text := c.run(1, "export", filepath.Join(t.TempDir(), "x")); !strings.Contains(text, "stop kioskd") {
		t.Errorf("beside a kioskd: %s", text)
	}
	for _, args := range [][]string{{"export"}, {"import", "a", "b"}, {"nothing"}, {"retire"}} {
		c.run(2, args...)
	}
}

// What kioskd could put in the lock's place leads root nowhere, and a lock that root
// makes is the folder's owner's.
func TestDataLock(t *testing.T) {
	t.Parallel()
	owner := func(path string) int {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return int(info.Sys().(*syscall.Stat_t).Uid)
	}
	theirs := os.Getuid()
	if theirs == 0 {
		theirs = 65534
	}
	for _, kind := range []string{"a link", "a link to nothing", "a second name", "a folder", "a pipe", "nothing"} {
		dir := t.TempDir()
		target, lock := filepath.Join(t.TempDir(), "roots"), filepath.Join(dir, lockFile)
		if err := errors.Join(os.WriteFile(target, []byte("kept"), 0o600), os.Chown(dir, theirs, -1)); err != nil {
			t.Fatal(err)
		}
		var err error
		switch kind {
		case "a link":
			err = os.Symlink(target, lock)
		case "a link to nothing":
			err = os.Symlink(target+"-none", lock)
		case "a second name":
			err = os.Link(target, lock)
		case "a folder":
			err = os.Mkdir(lock, 0o700)
		case "a pipe":
			err = syscall.Mkfifo(lock, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		held, err := holdData(dir)
		if (err == nil) != (kind == "nothing") {
			t.Errorf("%s as lock: %v", kind, err)
		}
		if err == nil {
			if got := owner(lock); got != theirs {
				t.Errorf("the lock is user %d's, and the folder %d's", got, theirs)
			}
			held.Close()
		}
		if got := owner(target); got != os.Getuid() {
			t.Errorf("%s as lock: what it leads to is user %d's now", kind, got)
		}
		if _, err := os.Lstat(target + "-none"); err == nil {
			t.Errorf("%s as lock: a file was made where it leads", kind)
		}
	}
}

// exportAs is set by TestDataExportOfAnother for the process it starts: the
// configuration, and the file to write.
var exportAs = flag.String("export-as", "", "configuration and file of an export, with a comma between")

// Root exports another user's data as that user, into a folder that only root writes;
// the file is the person's who stands behind sudo.
func TestDataExportOfAnother(t *testing.T) {
	if config, file, ok := strings.Cut(*exportAs, ","); ok {
		os.Exit(dataCommand(t.Context(), []string{"export", "-config", config, file}, terminal{out: os.Stdout, err: os.Stderr}))
	}
	if os.Geteuid() != 0 {
		return // only root can be another user
	}
	c := newCard(t)
	c.live()
	roots := t.TempDir()
	c.ok(errors.Join(os.Chmod(roots, 0o755), os.WriteFile(filepath.Join(roots, "secret"), []byte("root's"), 0o600)))
	for p := c.data; p != "/"; p = filepath.Dir(p) {
		if info, err := os.Stat(p); err == nil && strings.HasPrefix(p, os.TempDir()+"/") {
			c.ok(os.Chmod(p, info.Mode().Perm()|0o011)) // whoever owns what is below gets there
		}
	}
	c.ok(filepath.WalkDir(c.data, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, 65534, 65534))
	}))
	file := filepath.Join(roots, "carry")
	export := func() (string, error) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestDataExportOfAnother$", "-export-as", c.config+","+file)
		cmd.Env = append(os.Environ(), "SUDO_UID=12345", "SUDO_GID=12346")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	// What only root may read is not read for it, and the file that this left is empty.
	c.ok(os.Link(filepath.Join(roots, "secret"), c.path("trust2.json")))
	if out, err := export(); err == nil {
		t.Fatalf("root's file was read: %s", out)
	}
	if info, err := os.Stat(file); err == nil && info.Size() != 0 {
		t.Errorf("a file of %d bytes is left", info.Size())
	}
	c.ok(os.Remove(c.path("trust2.json")))
	if out, err := export(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(file)
	c.ok(err)
	if own := info.Sys().(*syscall.Stat_t); own.Uid != 12345 || own.Gid != 12346 || info.Mode().Perm() != 0o600 || info.Size() == 0 {
		t.Errorf("the file is %d:%d's, %v, %d bytes", own.Uid, own.Gid, info.Mode(), info.Size())
	}
}

func FuzzUnpackExport(f *testing.F) {
	f.Add([]byte("not a tar"))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	head := `{"format":1,"machine":"m-0001","files":[{"name":"../x","size":1,"sha256":""}]}`
	_ = w.WriteHeader(&tar.Header{Name: manifestName, Size: int64(len(head)), Mode: 0o600}) // into memory
	_, _ = w.Write([]byte(head))
	_ = w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := filepath.Join(t.TempDir(), "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		_, _ = unpackExport(bytes.NewReader(b), dir, "m-0001")
		if out, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(out) != 1 {
			t.Errorf("something was written outside: %v, %v", out, err)
		}
	})
}
