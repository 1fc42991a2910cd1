package gpio

import (
	"sync"
	"time"
)

// A box that falls half a metre crosses a beam of 20 mm in about 6 ms. A gap in a
// box is not the gap between two: those fall 40 ms apart. As firmware/core/beam.h.
const (
	beamDark  = 2 * time.Millisecond
	beamLight = 10 * time.Millisecond
)

// stuckAfter is how long the curtain may be dark before something stands in it: a
// box that falls is through in a tenth of that.
const stuckAfter = time.Second

// beam turns light and dark into pieces. It counts by the times at which the
// kernel saw the edges, so a program that was late counts the same.
type beam struct {
	mu     sync.Mutex
	dark   bool      // guarded by mu, as is all that follows
	since  time.Time // of the last change
	broken bool      // a piece is passing, and counted
	muted  bool      // the self-test is on
}

// take notes the level at a time. It reports a piece that became certain with it,
// and when its shadow began.
func (b *beam) take(at time.Time, dark bool) (fell time.Time, piece bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.muted || at.Before(b.since) {
		return time.Time{}, false // of the self-test, or told already by a look at the level
	}
	long := at.Sub(b.since)
	switch {
	case b.dark && long >= beamDark && !b.broken:
		b.broken, fell, piece = true, b.since, true
	case !b.dark && long >= beamLight:
		b.broken = false
	}
	if dark != b.dark {
		b.dark, b.since = dark, at
	}
	return fell, piece
}

// patience is how long to wait for the next edge before the level itself is looked at.
func (b *beam) patience() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dark && !b.broken && !b.muted {
		return beamDark
	}
	return edgeSlice
}

// mute stops counting, because the emitter goes off.
func (b *beam) mute() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.muted = true
}

// unmute counts again. Edges from before now are of the self-test.
func (b *beam) unmute(now time.Time, dark bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.muted, b.dark, b.broken, b.since = false, dark, dark, now
}

// stuck reports that the curtain has been dark for too long.
func (b *beam) stuck(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dark && !b.muted && now.Sub(b.since) >= stuckAfter
}
