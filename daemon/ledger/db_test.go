package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"yaoju/protocol"
)

func testOptions(path string) Options {
	return Options{Path: path, Machine: "m-0017", Software: "test", Zone: time.UTC,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Synced: func() bool { return true }}
}

func openTest(t *testing.T, path string) *Ledger {
	t.Helper()
	l, err := Open(context.Background(), testOptions(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestPragmasAreInForce(t *testing.T) {
	t.Parallel()
	l := openTest(t, filepath.Join(t.TempDir(), "a folder with ? # and %", "..", "ledger.db"))
	for pragma, want := range map[string]string{
		"journal_mode": "wal", "synchronous": "2", "wal_autocheckpoint": "64", "journal_size_limit": "1048576",
		"foreign_keys": "1", "trusted_schema": "0", "secure_delete": "1", "application_id": fmt.Sprint(applicationID),
	} {
		var got string
		if err := l.db.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s: got %q %v, want %q", pragma, got, err, want)
		}
	}
	if n := l.db.Stats().MaxOpenConnections; n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// psow has no pragma to ask; it shows in the journal, where a commit is then
// padded to a whole sector.
func TestPowersafeOverwriteIsOff(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := connect(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`CREATE TABLE x (a)`); err != nil {
		t.Fatal(err)
	}
	before := fileSize(path + "-wal")
	if _, err := db.Exec(`INSERT INTO x VALUES (1)`); err != nil {
		t.Fatal(err)
	}
	const frame = 4096 + 24
	if got := fileSize(path+"-wal") - before; got <= frame {
		t.Errorf("a commit of one page took %d bytes of journal, want more than its frame of %d", got, frame)
	}
}

// TestMigratesAnOldFile adds a step to the list and opens a file that was written
// before it.
func TestMigratesAnOldFile(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := openTest(t, filepath.Join(t.TempDir(), "ledger.db"))
	if err := l.Raise(ctx, protocol.FaultReader, 0); err != nil {
		t.Fatal(err)
	}
	if len(migrations()) != Newest {
		t.Errorf("%d steps are known, and Newest is %d", len(migrations()), Newest)
	}
	steps := append(migrations(), `ALTER TABLE fault ADD COLUMN since_ms INTEGER NOT NULL DEFAULT 0`)
	// A step that is known and not to be taken yet is not.
	if err := migrate(ctx, l.db, steps, Writes); err != nil {
		t.Fatal(err)
	}
	if v, err := fileVersion(ctx, l.db); v != Writes || err != nil {
		t.Errorf("version %d %v, want %d", v, err, Writes)
	}
	for range 2 {
		if err := migrate(ctx, l.db, steps, len(steps)); err != nil {
			t.Fatal(err)
		}
	}
	var faults, since int
	if err := l.db.QueryRow(`SELECT count(*), sum(since_ms) FROM fault`).Scan(&faults, &since); err != nil || faults != 1 {
		t.Errorf("after migration: %d faults, %v", faults, err)
	}
	head := l.head
	if err := l.verify(ctx); err != nil || l.head != head {
		t.Errorf("after migration the chain is %+v, %v", l.head, err)
	}
	// The program before this one goes on with it if it knows the new version, and must
	// not touch it if it does not.
	if err := migrate(ctx, l.db, steps, Writes); err != nil {
		t.Errorf("the program before: %v", err)
	}
	if err := migrate(ctx, l.db, migrations(), Writes); err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("an older program: %v", err)
	}
	// A step that fails leaves the file as it was.
	if err := migrate(ctx, l.db, append(steps, `DROP TABLE fault; no such statement`), len(steps)+1); err == nil {
		t.Error("a broken step passed")
	}
	if v, err := fileVersion(ctx, l.db); v != len(steps) || err != nil {
		t.Errorf("version %d %v, want %d", v, err, len(steps))
	}
	if err := l.db.QueryRow(`SELECT count(*) FROM fault`).Scan(&faults); err != nil {
		t.Errorf("half a migration stayed: %v", err)
	}
}

// TestDiskFull fills the file to its last page: what does not fit is refused
// whole, what was there stays, and with space again it goes on.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := openTest(t, filepath.Join(t.TempDir(), "ledger.db"))
	if _, err := l.db.Exec(`PRAGMA max_page_count = 1`); err != nil { // no more than it has now
		t.Fatal(err)
	}
	var err error
	var head protocol.Head
	for range 1000 {
		head = l.Head()
		if err = l.Append(ctx, protocol.DoorOpened{}); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "append door.opened") || !strings.Contains(err.Error(), "full") {
		t.Fatalf("got %v, want a full disk and what was being done", err)
	}
	if l.Head() != head {
		t.Errorf("the head moved to %+v with a change that failed", l.Head())
	}
	if _, err := l.db.Exec(`PRAGMA max_page_count = 100000`); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(ctx, protocol.DoorOpened{}); err != nil || l.Head().Seq != head.Seq+1 {
		t.Errorf("with space again: %v, head %+v", err, l.Head())
	}
	if err := l.verify(ctx); err != nil {
		t.Error(err)
	}
}

// TestFailedDiskEndsTheLedger cuts the file off under the open ledger: from the
// first error on nothing is written any more, though parts would still work.
func TestFailedDiskEndsTheLedger(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := openTest(t, filepath.Join(t.TempDir(), "ledger.db"))
	for _, s := range []string{`PRAGMA wal_checkpoint(TRUNCATE)`, `PRAGMA shrink_memory`} {
		if _, err := l.db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(l.path, 4096); err != nil {
		t.Fatal(err)
	}
	err := l.Append(ctx, protocol.DoorOpened{})
	if !errors.Is(err, ErrFailed) || code(err) == 0 {
		t.Fatalf("got %v, want that the disk failed, and how", err)
	}
	if _, err := l.MintConnection(ctx); !errors.Is(err, ErrFailed) {
		t.Errorf("the next change: %v, want that the disk failed", err)
	}
	if _, err := l.Offer(ctx); !errors.Is(err, ErrFailed) {
		t.Errorf("the next question: %v, want that the disk failed", err)
	}
}
