package port

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	firstPause = 250 * time.Millisecond // a plug that bounced is back at once
	longPause  = 5 * time.Second        // a person who plugs it in again does not wait longer than this

	// held is how long a line must serve before it counts as up. Shorter lives
	// keep the pauses growing and are logged once, not each time.
	held = 5 * time.Second
)

// Keep holds a line open until ctx ends: it dials, runs serve on the fresh
// line, closes it when serve returns, pauses, and dials again. The pause
// doubles from 250 ms to 5 s, less up to a quarter at random, and starts anew
// once a line held for 5 s. When ctx ends Keep closes the line at once, so a
// serve that waits in Read gets an error and returns; Close must stand being
// called twice. A change of state is logged once: "line up" when a line has
// held, "line down" with each new reason. Keep returns nil, when ctx ends and
// serve has returned.
func Keep(ctx context.Context, dial func(context.Context) (io.ReadWriteCloser, error),
	serve func(context.Context, io.ReadWriteCloser) error, log *slog.Logger) error {
	pause, reason := firstPause, ""
	for ctx.Err() == nil {
		up, err := once(ctx, dial, serve, log)
		if ctx.Err() != nil {
			break
		}
		if up {
			pause, reason = firstPause, ""
		}
		if err != nil && err.Error() != reason {
			reason = err.Error()
			log.Warn("line down", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause - rand.N(pause/4)):
		}
		pause = min(2*pause, longPause)
	}
	return nil
}

// once serves one line from dial to close and says whether it held.
func once(ctx context.Context, dial func(context.Context) (io.ReadWriteCloser, error),
	serve func(context.Context, io.ReadWriteCloser) error, log *slog.Logger) (up bool, err error) {
	line, err := dial(ctx)
	if err != nil {
		return false, err
	}
	done, ended := make(chan struct{}), make(chan bool)
	go func() { ended <- attend(ctx, line, done, log) }()
	err = serve(ctx, line)
	close(done)
	up = <-ended
	line.Close() // the line is given up either way; serve's error is the one that tells
	return up, err
}

// attend says when a line has held and closes it when ctx ends, until done.
func attend(ctx context.Context, line io.Closer, done <-chan struct{}, log *slog.Logger) (up bool) {
	t := time.NewTimer(held)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			up = true
			log.Info("line up")
		case <-ctx.Done():
			line.Close() // frees a waiting Read; the error would only say it is gone already
			<-done
			return up
		case <-done:
			return up
		}
	}
}
