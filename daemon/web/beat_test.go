package web

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// The page is alive while it says so, and may miss one beat.
func TestBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := handler(newStage(t), "")
		alive := func(want int, when string) {
			t.Helper()
			if got := ask(h, http.MethodGet, "/beat", "", nil).Code; got != want {
				t.Errorf("%s: %d, want %d", when, got, want)
			}
		}
		alive(404, "before the first page")
		for range 3 {
			if got := ask(h, http.MethodPost, "/beat", "", nil).Code; got != 204 {
				t.Errorf("beat: %d", got)
			}
			alive(204, "drawn")
			time.Sleep(2 * beatTime)
			alive(204, "one beat missed")
		}
		time.Sleep(beatTime)
		alive(404, "two beats missed")
		foreign := func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }
		if got := ask(h, http.MethodPost, "/beat", "", foreign).Code; got != 403 {
			t.Errorf("beat of another site: %d, want 403", got)
		}
		alive(404, "another site's page drew")
	})
}
