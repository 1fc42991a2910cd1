package update

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"
)

// Source is where bundles come from.
type Source interface {
	// Open returns the bytes of the bundle with this sum, from the offset on. It may
	// be asked again at any offset. Reading ends with ctx.
	Open(ctx context.Context, sha256 string, from int64) (io.ReadCloser, error)
}

const (
	// chunk is what is read before the rate is looked at again: at the slowest rate
	// allowed, a second of it.
	chunk = 16 << 10
	// syncEvery bounds what a power cut costs: it is fetched again.
	syncEvery = 1 << 20
	// stallLimit ends an attempt on a line that brings nothing: a mobile line that
	// changes its cell is back well before.
	stallLimit = time.Minute
)

// MinRate is the lowest rate of a download, in bytes a second.
const MinRate = chunk

// partName is where an order's bundle lies while it is on its way.
func partName(o Order) string { return path.Join(incomingDir, o.SHA256+".part") }

// errDamaged says that all bytes came and are not the ordered ones.
var errDamaged = errors.New("what came is not the bundle that was ordered")

// Fetch brings the order's bundle, going on where it was cut off, at most rate
// bytes a second. No error means that all of it is on the disk and has the ordered
// sum. What has another sum is removed.
func (s *Store) Fetch(ctx context.Context, src Source, o Order, rate int) error {
	f, err := s.root.OpenFile(partName(o), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", o.Version, err)
	}
	defer f.Close()
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", o.Version, err)
	}
	if have < o.Size {
		if err := s.room(o.Size - have); err != nil {
			return err
		}
		if err := fill(ctx, f, src, o, have, max(rate, MinRate)); err != nil {
			return fmt.Errorf("fetch %s from byte %d: %w", o.Version, have, err)
		}
	}
	err = whole(f, o)
	if errors.Is(err, errDamaged) {
		err = errors.Join(err, s.root.Remove(partName(o)))
	}
	if err != nil {
		return fmt.Errorf("fetch %s: %w", o.Version, err)
	}
	return nil
}

// fetched says how much of an order's bundle is here, in bytes, for people.
func (s *Store) fetched(o Order) int64 {
	info, err := s.root.Stat(partName(o))
	if err != nil {
		return 0 // nothing yet, and otherwise Fetch will say so
	}
	return info.Size()
}

// fill reads what is missing into f.
func fill(ctx context.Context, f *os.File, src Source, o Order, have int64, rate int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stallLimit, func() { cancel(errStalled) })
	defer stalled.Stop()
	body, err := src.Open(ctx, o.SHA256, have)
	if err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	defer body.Close()
	var buf [chunk]byte
	pace := newPace(rate)
	for synced := have; have < o.Size; {
		n, err := io.ReadFull(body, buf[:min(chunk, o.Size-have)])
		if n > 0 {
			stalled.Reset(stallLimit)
			if _, err := f.Write(buf[:n]); err != nil {
				return err
			}
			have += int64(n)
		}
		if have-synced >= syncEvery || have == o.Size || err != nil {
			if err := f.Sync(); err != nil {
				return err
			}
			synced = have
		}
		if err != nil {
			return errors.Join(unexpected(err), context.Cause(ctx))
		}
		if err := pace.wait(ctx, n); err != nil {
			return err
		}
		stalled.Reset(stallLimit)
	}
	return nil
}

var errStalled = fmt.Errorf("nothing came for %v", stallLimit)

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// pace keeps a download at its rate.
type pace struct {
	perByte time.Duration
	next    time.Time // when the next byte is due
}

func newPace(rate int) *pace {
	return &pace{perByte: time.Second / time.Duration(rate), next: time.Now()}
}

// wait lets n bytes' time pass. A line that was slower has nothing to make up for.
func (p *pace) wait(ctx context.Context, n int) error {
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(n) * p.perByte)
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(p.next.Sub(now)):
		return nil
	}
}

// whole compares what is in f with what was ordered.
func whole(f *os.File, o Order) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, o.Size+1))
	if err != nil {
		return err
	}
	if n != o.Size || hex.EncodeToString(h.Sum(nil)) != o.SHA256 {
		return errDamaged
	}
	return nil
}
