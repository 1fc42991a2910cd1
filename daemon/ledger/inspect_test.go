package ledger_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"yaoju/daemon/ledger"
	"yaoju/protocol"
)

// files reads every file of the ledger's folder.
func (d *desk) files() map[string]string {
	d.t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(filepath.Dir(d.path))
	d.ok(err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(d.path), e.Name()))
		d.ok(err)
		all[e.Name()] = string(b)
	}
	return all
}

// A ledger is looked at while it is open, after it was closed, and as a power cut
// leaves it, and looking changes nothing.
func TestInspect(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	d.load(1, "B1", "2099-06-30", 4)
	d.reserve(condom(1))
	d.ok(d.SetAcked(d.ctx, protocol.Ack{Ledger: d.ID(), Generation: 1, Seq: 2}))
	want := ledger.Inspection{Machine: machine, Ledger: d.ID(), Version: ledger.Writes, Head: d.Head().Seq, Acked: 2, Open: 1, Boxes: 3}
	look := func(how string) {
		t.Helper()
		before := d.files()
		got, err := ledger.Inspect(d.ctx, d.path)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", how, got, err, want)
		}
		for name, text := range d.files() {
			if was, ok := before[name]; (!ok || was != text) && filepath.Ext(name) != ".db-shm" {
				t.Errorf("%s: %s changed", how, name)
			}
		}
	}
	look("open")
	cut := filepath.Join(t.TempDir(), "ledger.db")
	for _, part := range []string{"", "-wal"} {
		b, err := os.ReadFile(d.path + part)
		d.ok(err)
		d.ok(os.WriteFile(cut+part, b, 0o600))
	}
	d.ok(d.Close())
	look("closed")
	d.path = cut
	look("after a power cut")
	d.open()
}

func TestInspectDamage(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	d.load(1, "B1", "2099-06-30", 4)
	d.tamper(unlock, `UPDATE event SET hash = zeroblob(32) WHERE seq = 2`)
	if got, err := ledger.Inspect(d.ctx, d.path); err != nil || got.Damage == "" {
		t.Errorf("a broken chain: %+v, %v", got, err)
	}
	if len(d.aside()) > 0 {
		t.Error("it was moved aside")
	}
	d.ok(os.WriteFile(d.path, []byte("not a database at all, and long enough"), 0o600))
	if got, err := ledger.Inspect(d.ctx, d.path); err != nil || got.Damage == "" {
		t.Errorf("a file of text: %+v, %v", got, err)
	}
	if _, err := ledger.Inspect(d.ctx, filepath.Join(t.TempDir(), "none.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	d.ok(os.Remove(d.path))
	d.open()
}

// Nothing that a mark could be tried against is left in file and journal, everybody
// may take again, and a vend that was open can still be settled either way.
func TestForgetMarks(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	d.load(1, "B1", "2099-06-30", 4)
	taken := d.reserve(condom(1))
	d.ok(d.Settle(d.ctx, taken.ID, protocol.Result{Outcome: protocol.Dispensed, Pieces: 1, RunMS: 2500}))
	open := d.reserve(condom(2))
	d.refuses(protocol.DenialEarly, condom(1))
	mark := card(1).Current
	if !bytes.Contains([]byte(d.files()["ledger.db-wal"]+d.files()["ledger.db"]), mark[:]) {
		t.Fatal("the mark cannot be found by this test at all")
	}
	d.ok(d.ForgetMarks(d.ctx))
	for name, text := range d.files() {
		for _, m := range []int{1, 2} {
			if mark := card(m).Current; name != "ledger.db-shm" && bytes.Contains([]byte(text), mark[:]) {
				t.Errorf("mark %d is still in %s", m, name)
			}
		}
	}
	for _, n := range []int{1, 2} {
		d.ok(d.Entitled(d.ctx, card(n), "condom-52"))
	}
	d.ok(d.Settle(d.ctx, open.ID, protocol.Result{Outcome: protocol.Kept, RunMS: 2500}))
	if s := d.slot(1); s.Held != 0 || s.Dispensed != 1 || s.Loaded != 4 {
		t.Errorf("slot 1 is %+v", s)
	}
}
