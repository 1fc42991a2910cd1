package ledger_test

import (
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/ledger"
	"yaoju/protocol"
)

// An order outlasts a restart until it was handed over; a newer one replaces it, and
// one that was heard before is answered and not kept again.
func TestUpdateOrders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := at(t, "2027-03-01 10:00")
		now := time.Now().UnixMilli()
		order := func(id string, counter uint64, version string) protocol.Command {
			return protocol.Command{ID: id, Machine: machine, Generation: 1, Counter: counter, NotBeforeMS: now, ExpiresMS: now + 86_400_000, Verb: protocol.VerbUpdate,
				Update: &protocol.Update{Version: version, SHA256: strings.Repeat("ab", 32), Size: 1, NotBeforeMS: now, DeadlineMS: now + 86_400_000, Wave: 1}}
		}
		do := func(c protocol.Command, want protocol.CommandResult, events string) {
			t.Helper()
			head := d.Head()
			done, err := d.Do(d.ctx, c)
			d.ok(err)
			if got := d.kinds(head.Seq); done.Result != want || got != events {
				t.Errorf("%s: got %+v and events %q, want %s and %q", c.ID, done, got, want, events)
			}
		}
		ordered := func(id string) {
			t.Helper()
			got, u, ok, err := d.Ordered(d.ctx)
			d.ok(err)
			if got != id || ok != (id != "") || ok && u.SHA256 != strings.Repeat("ab", 32) {
				t.Errorf("ordered %q %+v %v, want %q", got, u, ok, id)
			}
		}
		// Without somebody who carries it out it is not taken.
		do(order("c-0", 1, "1.1"), "failed", "command.done")
		ordered("")

		d.ok(d.Close())
		o := d.options()
		o.Updates = true
		l, err := ledger.Open(d.ctx, o)
		d.ok(err)
		d.Ledger = l
		do(order("c-1", 2, "1.1"), "ok", "command.done")
		do(order("c-1", 2, "1.1"), "ok", "")
		ordered("c-1")
		do(order("c-2", 3, "1.2"), "ok", "command.done")
		d.reopen()
		ordered("c-2")
		d.ok(d.HandedOver(d.ctx, "c-1")) // of an order that was replaced meanwhile
		ordered("c-2")
		for range 2 {
			d.ok(d.HandedOver(d.ctx, "c-2"))
			ordered("")
		}
		do(order("c-2", 3, "1.2"), "ok", "")
		ordered("")
	})
}

// While nobody can tell what time it is an order has no answer, and is taken once the
// clock is set; another command moves the counter past it all the same.
func TestUpdateWithoutClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := at(t, "2027-03-01 10:00")
		d.unsynced = true
		d.wall(d.moment("2027-03-01 10:03"))
		d.ok(d.Close())
		o := d.options()
		o.Updates = true
		l, err := ledger.Open(d.ctx, o)
		d.ok(err)
		d.Ledger = l
		now := time.Now().UnixMilli()
		order := func(id string, counter uint64) protocol.Command {
			return protocol.Command{ID: id, Machine: machine, Generation: 1, Counter: counter, NotBeforeMS: now, ExpiresMS: now + 86_400_000, Verb: protocol.VerbUpdate,
				Update: &protocol.Update{Version: "1.1", SHA256: strings.Repeat("ab", 32), Size: 1, NotBeforeMS: now, DeadlineMS: now + 86_400_000, Wave: 1}}
		}
		head := d.Head()
		if done, err := d.Do(d.ctx, order("c-1", 2)); err == nil || d.Head() != head {
			t.Errorf("answered %+v while the clock is unset", done)
		}
		pause := protocol.Command{ID: "c-2", Machine: machine, Generation: 1, Counter: 1, NotBeforeMS: now, ExpiresMS: now + 60_000, Verb: protocol.VerbPause}
		if done, err := d.Do(d.ctx, pause); err != nil || done.Detail == protocol.LaterHeard {
			t.Errorf("the order that has no answer moved the counter: %+v, %v", done, err)
		}
		d.unsynced = false
		if done, err := d.Do(d.ctx, order("c-1", 2)); err != nil || done.Result != protocol.CommandOK {
			t.Errorf("with the clock set: %+v, %v", done, err)
		}
		if done, err := d.Do(d.ctx, order("c-0", 1)); err != nil || done.Result != protocol.CommandFailed || done.Detail != protocol.LaterHeard {
			t.Errorf("one that was overtaken: %+v, %v", done, err)
		}
	})
}

// What a manifest says of a release is what this program does.
func TestFileVersions(t *testing.T) {
	t.Parallel()
	d := setUp(t)
	d.ok(d.Close())
	found, err := ledger.Inspect(d.ctx, filepath.Clean(d.path))
	if err != nil || found.Version != ledger.Writes {
		t.Errorf("a new file has version %d, %v; want %d", found.Version, err, ledger.Writes)
	}
	if ledger.Oldest < 1 || ledger.Oldest > ledger.Writes || ledger.Writes > ledger.Newest {
		t.Errorf("oldest %d, writes %d, newest %d", ledger.Oldest, ledger.Writes, ledger.Newest)
	}
}
