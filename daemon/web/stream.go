package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// maxStreams bounds the pages that follow the session at once: the screen, the
	// bench beside it, and old connections whose end nobody noticed.
	maxStreams = 4
	// beatTime is how often an idle stream shows that it is alive; the page takes
	// three missed beats for a daemon that hangs.
	beatTime = 15 * time.Second
	// gapTime is the least time between two pictures: the eye sees no more, and the
	// steps of a motor come faster.
	gapTime = 50 * time.Millisecond
	// writeTime bounds one write: on loopback a browser that takes longer is gone.
	writeTime = 10 * time.Second
)

// streams are the pages that follow the session, oldest first.
type streams struct {
	mu   sync.Mutex
	open []*stream // guarded by mu
}

type stream struct{ end context.CancelFunc }

// join adds a stream and ends the oldest if there is one too many.
func (s *streams) join(end context.CancelFunc) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) == maxStreams {
		s.open[0].end()
		s.open = slices.Delete(s.open, 0, 1)
	}
	one := &stream{end}
	s.open = append(s.open, one)
	return one
}

func (s *streams) leave(one *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = slices.DeleteFunc(s.open, func(o *stream) bool { return o == one })
}

// events follows the session and sends each picture that differs from the one
// before. A page that reads slowly misses pictures, never the last one.
func (c *screen) events(w http.ResponseWriter, r *http.Request) {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		c.refuse(w, http.StatusForbidden, errors.New("stream asked for by another page"))
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer c.streams.leave(c.streams.join(cancel))

	w.Header().Set("Content-Type", "text/event-stream")
	out := &eventWriter{w: w, rc: http.NewResponseController(w)}
	beat := time.NewTicker(beatTime)
	defer beat.Stop()
	var last []byte
	for {
		v, stale := c.session.Watch()
		now := c.draw.message(v, c.start)
		if !bytes.Equal(now, last) {
			if out.send("data: %s\n\n", now) != nil {
				return // the browser went away
			}
			last = now
			if !rest(ctx, gapTime) {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-stale:
		case <-beat.C:
			if out.send("event: beat\ndata:\n\n") != nil {
				return
			}
		}
	}
}

// rest waits; it reports false if ctx ended first.
func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// eventWriter writes events, each within its time limit.
type eventWriter struct {
	w  io.Writer
	rc *http.ResponseController
}

func (e *eventWriter) send(format string, args ...any) error {
	// A writer that knows no deadline is a test's, and never blocks.
	if err := e.rc.SetWriteDeadline(time.Now().Add(writeTime)); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if _, err := fmt.Fprintf(e.w, format, args...); err != nil {
		return err
	}
	return e.rc.Flush()
}
