package web

import (
	"net/http"
	"sync"
	"time"
)

// pulseTime is how long a page counts as alive after it has drawn: it draws with each
// beat of its stream, and may miss one.
const pulseTime = 2*beatTime + 5*time.Second

// pulse is what the page tells of itself: that it has drawn. Whoever keeps the browser
// asks for it, and starts another one when it stays away. A page that crashed, was
// left for an error page, hangs, or is not drawn any more has none.
type pulse struct {
	mu   sync.Mutex
	last time.Time // guarded by mu: when a page last said so; zero: none yet
}

func (p *pulse) beat(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = time.Now()
	w.WriteHeader(http.StatusNoContent)
}

// ask answers 204 while a page is alive, else 404.
func (p *pulse) ask(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last.IsZero() || time.Since(p.last) > pulseTime {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
