package ledger_test

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"yaoju/daemon/ledger"
	"yaoju/protocol"
)

// tamper closes the ledger and changes its file behind its back.
func (d *desk) tamper(statements ...string) {
	d.t.Helper()
	d.ok(d.Close())
	db, err := sql.Open("sqlite", d.path)
	d.ok(err)
	db.SetMaxOpenConns(1)
	for _, s := range statements {
		_, err := db.Exec(s)
		d.ok(err)
	}
	d.ok(db.Close())
}

// aside lists the files that were moved aside.
func (d *desk) aside() []string {
	d.t.Helper()
	files, err := filepath.Glob(d.path + ".damaged-*")
	d.ok(err)
	return files
}

const unlock = `DROP TRIGGER event_no_update; DROP TRIGGER event_no_delete`

func TestDamagedLedgerIsMovedAside(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		damage func(*desk)
		reason string
		known  bool // the old id could be read
	}{
		{"a record's bytes", func(d *desk) {
			d.tamper(unlock, `UPDATE event SET body = CAST(replace(CAST(body AS TEXT), '"pieces":4', '"pieces":3') AS BLOB) WHERE seq = 4`)
		}, "seq 4", true},
		{"a record is gone", func(d *desk) { d.tamper(unlock, `DELETE FROM event WHERE seq = 3`) }, "seq 4", true},
		{"the end is gone", func(d *desk) {
			d.ok(d.SetAcked(d.ctx, protocol.Ack{Ledger: d.ID(), Generation: 1, Seq: d.Head().Seq}))
			d.tamper(unlock, `DELETE FROM event WHERE seq = (SELECT max(seq) FROM event)`)
		}, "the district has it", true},
		{"a hash", func(d *desk) { d.tamper(unlock, `UPDATE event SET hash = zeroblob(32) WHERE seq = 2`) }, "seq 2", true},
		{"the desired state", func(d *desk) { d.tamper(`UPDATE desired SET body = '{'`) }, "desired state", true},
		{"the id", func(d *desk) { d.tamper(`UPDATE meta SET ledger = 'X' || substr(ledger, 2)`) }, "ledger id", false},
		{"the file is text", func(d *desk) {
			d.ok(d.Close())
			d.ok(os.WriteFile(d.path, []byte(strings.Repeat("not a database\n", 1000)), 0o600))
		}, "not a database", false},
		{"pages are zeroes", func(d *desk) {
			d.ok(d.Close())
			b, err := os.ReadFile(d.path)
			d.ok(err)
			clear(b[4096:])
			d.ok(os.WriteFile(d.path, b, 0o600))
		}, "", false},
		{"cut short", func(d *desk) {
			d.ok(d.Close())
			d.ok(os.Truncate(d.path, 3*4096))
		}, "", false},
		{"only the journal is left", func(d *desk) {
			d.ok(d.Close())
			d.ok(os.Rename(d.path, d.path+"-wal"))
		}, "journal", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := setUp(t)
			d.load(1, "B1", "2099-06-30", 4)
			id := d.ID()
			tt.damage(d)

			d.open()
			if d.ID() == id {
				t.Fatal("the same ledger goes on")
			}
			if len(d.aside()) == 0 {
				t.Fatal("nothing was kept of the old ledger")
			}
			d.expect(0, "ledger.started boot fault.raised")
			e, err := protocol.DecodeEvent(d.records(0)[0])
			d.ok(err)
			started := e.(protocol.LedgerStarted)
			if !strings.Contains(started.Reason, tt.reason) || tt.known != (started.Previous == id) {
				t.Errorf("told as %+v, want %q and the old id %v", started, tt.reason, tt.known)
			}
			s, err := d.Snapshot(d.ctx)
			d.ok(err)
			if len(s.Slots) != 0 || len(s.Faults) != 1 || s.Faults[0].Fault != protocol.FaultChain {
				t.Errorf("a new ledger begins with %+v, %+v", s.Slots, s.Faults)
			}
			d.refuses(protocol.DenialClosed, condom(1)) // until the desired state comes again
			kept := len(d.aside())
			d.reopen()
			if len(d.aside()) != kept {
				t.Error("the new ledger was moved aside as well")
			}
		})
	}
}

// TestDamageKeepsTheJournal opens what a power cut left, damaged: file and journal
// are moved as they are, neither folded together nor deleted.
func TestDamageKeepsTheJournal(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	d.load(1, "B1", "2099-06-30", 4)
	crashed := filepath.Join(t.TempDir(), "ledger.db")
	b, err := os.ReadFile(d.path)
	d.ok(err)
	copy(b, "damaged header")
	d.ok(os.WriteFile(crashed, b, 0o600))
	journal, err := os.ReadFile(d.path + "-wal")
	d.ok(err)
	d.ok(os.WriteFile(crashed+"-wal", journal[:40], 0o600))
	d.ok(d.Close())
	d.path = crashed
	d.open()
	found := map[string]int{}
	for _, f := range d.aside() {
		content, err := os.ReadFile(f)
		d.ok(err)
		if strings.HasSuffix(f, "-wal") {
			found["-wal"] = len(content)
		} else if !strings.HasSuffix(f, "-shm") {
			found[""] = len(content)
		}
	}
	if found[""] != len(b) || found["-wal"] != 40 {
		t.Errorf("moved aside: %v bytes, want %d of the file and 40 of the journal", found, len(b))
	}
}

func TestOpenRefusesWhatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		prepare func(*desk)
		want    string
	}{
		{"newer program", func(d *desk) { d.tamper(`PRAGMA user_version = 99`) }, "newer program"},
		{"another machine", func(d *desk) { d.tamper(`UPDATE meta SET machine = 'm-0018'`) }, "m-0018"},
		{"another kind of database", func(d *desk) { d.tamper(`PRAGMA application_id = 1`) }, "not a ledger"},
		{"a folder", func(d *desk) {
			d.ok(d.Close())
			d.ok(os.Remove(d.path))
			d.ok(os.Mkdir(d.path, 0o700))
		}, "directory"},
		{"no such folder", func(d *desk) {
			d.ok(d.Close())
			d.path = filepath.Join(d.path+".d", "ledger.db")
		}, "no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := setUp(t)
			tt.prepare(d)
			l, err := ledger.Open(d.ctx, d.options())
			if err == nil {
				l.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), d.path) {
				t.Errorf("got %v, want %q and the path", err, tt.want)
			}
			if len(d.aside()) != 0 {
				t.Errorf("moved aside: %v", d.aside())
			}
		})
	}
}

func TestOpenChecksItsOptions(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	o := d.options()
	o.Synced = nil
	if _, err := ledger.Open(d.ctx, o); err == nil {
		t.Error("opened without a way to ask for the clock")
	}
	o = d.options()
	o.Machine = "M 17"
	if _, err := ledger.Open(d.ctx, o); err == nil {
		t.Error("opened for a machine without a proper name")
	}
}

// TestFlippedBits damages one byte somewhere in the file, many times. Whatever
// happens, the daemon either has a chain that follows from its beginning, or says
// why it does not start.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	d.load(1, "B1", "2099-06-30", 9)
	for i := range 6 {
		d.ok(d.Settle(d.ctx, d.reserve(condom(i)).ID, dropped))
	}
	d.ok(d.Close())
	whole, err := os.ReadFile(d.path)
	d.ok(err)
	dir, moved, refused := t.TempDir(), 0, 0
	rng := rand.New(rand.NewPCG(1, 2))
	const times = 150
	for i := range times {
		d.path = filepath.Join(dir, fmt.Sprintf("%d.db", i))
		b := append([]byte(nil), whole...)
		at := rng.IntN(len(b))
		if i < 50 {
			at = i * 2 // the header, where every byte means something
		}
		b[at] ^= 1 << rng.IntN(8)
		d.ok(os.WriteFile(d.path, b, 0o600))
		l, err := ledger.Open(d.ctx, d.options())
		if err != nil {
			refused++
			t.Logf("bit of byte %d: %v", at, err)
			continue
		}
		d.Ledger = l
		moved += min(1, len(d.aside()))
		var head protocol.Head
		sealed, err := d.Since(d.ctx, 0, 1<<30)
		d.ok(err)
		for _, s := range sealed {
			_, head, err = s.Follow(machine, d.ID(), head)
			d.ok(err)
		}
		d.ok(d.Close())
	}
	d.open() // for the clean-up
	t.Logf("%d of %d moved aside, %d refused", moved, times, refused)
	if refused > times/10 {
		t.Errorf("%d of %d flipped bits keep the machine from starting", refused, times)
	}
}
