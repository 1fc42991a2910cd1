package district

import (
	"slices"
	"testing"
	"time"
)

// What another broker must not take: keys that were revoked or replaced, until their
// last certificate has run out.
func TestEndedKeys(t *testing.T) {
	t.Parallel()
	desk(t, func(t *testing.T, d *District, again func() *District) {
		check := func(d *District, what string, want ...byte) {
			t.Helper()
			keys, err := d.EndedKeys(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []byte
			for _, k := range keys {
				got = append(got, k[0])
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
		redeem := func(p Peer) {
			t.Helper()
			if err := d.Redeem(t.Context(), mint(t, d, p.Machine), p); err != nil {
				t.Fatal(err)
			}
		}
		redeem(peerOf("m-0001", 1))
		redeem(peerOf("m-0002", 2))
		check(d, "all are somebody's")
		redeem(peerOf("m-0001", 3))
		check(d, "replaced", 1)
		redeem(peerOf("m-0001", 1))
		check(d, "taken up again", 3)
		if err := d.Revoke(t.Context(), "m-0002"); err != nil {
			t.Fatal(err)
		}
		check(d, "revoked", 2, 3)
		d = again()
		check(d, "after a restart", 2, 3)
		// A certificate that ends sooner than the one before leaves that one good.
		last, short := peerOf("m-0004", 4), peerOf("m-0004", 4)
		short.Until = time.Now().Add(time.Hour)
		redeem(last)
		if err := d.Renew(t.Context(), short); err != nil {
			t.Fatal(err)
		}
		if err := d.Revoke(t.Context(), "m-0004"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		check(d, "after the shorter one", 2, 3, 4)
		time.Sleep(401 * 24 * time.Hour)
		check(d, "run out")
	})
}
