package ledger_test

import "testing"

// The highest id is known across a start, and nothing is written to learn it.
func TestMinted(t *testing.T) {
	d := setUp(t)
	minted := func(want uint64) {
		t.Helper()
		head := d.Head()
		got, err := d.Minted(d.ctx)
		d.ok(err)
		if uint64(got) != want || d.Head() != head {
			t.Errorf("got %d with the chain at %v, want %d and %v", got, d.Head(), want, head)
		}
	}
	minted(0)
	d.load(1, "B2801", "2030-01-31", 3)
	d.reserve(condom(1))
	minted(1)
	d.reopen()
	minted(1)
	d.ok(d.BoardHighest(d.ctx, "00000000000000a1", 41))
	minted(41)
}
