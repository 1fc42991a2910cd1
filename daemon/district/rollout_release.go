package district

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"yaoju/protocol"
)

// Bounds of the releases.
const (
	maxReleases = 50      // kept at once; remove what no machine needs
	partSize    = 1 << 20 // bytes of a bundle in one row: read in milliseconds, so that pages do not wait
	partsAtOnce = 8       // rows in one transaction: machines' records wait for it
)

// ErrUnknownRelease says that the district has no such release.
var ErrUnknownRelease = errors.New("no such release")

// Valid reports what is wrong with it, or nil.
func (r Release) Valid() error {
	if r.Arch != "amd64" && r.Arch != "arm64" {
		return fmt.Errorf("release %s: arch %q: want amd64 or arm64", clean(r.Version), clean(r.Arch))
	}
	return protocol.Update{Version: r.Version, SHA256: r.SHA256, Size: r.Size, DeadlineMS: 1}.Valid()
}

// AddRelease keeps a bundle for machines to fetch. Who made it, and what is in it,
// the caller has judged. The same release again changes nothing; another of the same
// version is refused. All of it is durable when AddRelease returns.
func (d *District) AddRelease(ctx context.Context, r Release, bundle io.Reader) error {
	if err := d.addRelease(ctx, r, bundle); err != nil {
		return fmt.Errorf("add release %s: %w", clean(r.Version), err)
	}
	d.o.Log.Info("release added", "version", r.Version, "arch", r.Arch)
	return nil
}

func (d *District) addRelease(ctx context.Context, r Release, bundle io.Reader) error {
	if err := r.Valid(); err != nil {
		return err
	}
	known := false
	err := d.store.tx(ctx, func(tx *sql.Tx) error {
		var err error
		if known, err = mayAdd(ctx, tx, r); err != nil || known {
			return err
		}
		// What was left by one that was cut off.
		_, err = tx.ExecContext(ctx, `DELETE FROM release_part WHERE sha256 NOT IN (SELECT sha256 FROM release)`)
		return err
	})
	if err != nil || known {
		return err
	}
	if err := d.addParts(ctx, r, bundle); err != nil {
		return err
	}
	return d.store.tx(ctx, func(tx *sql.Tx) error {
		if known, err := mayAdd(ctx, tx, r); err != nil || known {
			return err
		}
		if err := whole(ctx, tx, r); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO release (sha256, version, arch, size, added_ms) VALUES (?, ?, ?, ?, ?)`, r.SHA256, r.Version, r.Arch, r.Size, time.Now().UnixMilli())
		return err
	})
}

// whole says no if parts are missing that were written: whoever adds another release
// meanwhile takes them for what was left behind.
func whole(ctx context.Context, q querier, r Release) error {
	var parts, size int64
	err := q.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(length(bytes)), 0) FROM release_part WHERE sha256 = ?`, r.SHA256).Scan(&parts, &size)
	if err != nil {
		return fmt.Errorf("count the parts: %w", err)
	}
	if parts != (r.Size+partSize-1)/partSize || size != r.Size {
		return errors.New("cut off by another; add it again")
	}
	return nil
}

// mayAdd says whether a release is there already, or why it may not come.
func mayAdd(ctx context.Context, q querier, r Release) (known bool, err error) {
	all, err := releases(ctx, q)
	if err != nil {
		return false, err
	}
	for _, have := range all {
		switch {
		case have == r:
			return true, nil
		case have.Version == r.Version || have.SHA256 == r.SHA256:
			return false, fmt.Errorf("the district has another bundle of it (%.12s for %s): a version is one release; give the new one another version", have.SHA256, have.Arch)
		}
	}
	if len(all) >= maxReleases {
		return false, fmt.Errorf("the district has %d releases, and keeps no more: remove one that no machine needs", len(all))
	}
	return false, nil
}

// addParts writes the bundle and checks that it is the one it should be.
func (d *District) addParts(ctx context.Context, r Release, bundle io.Reader) error {
	sum, rest := sha256.New(), io.LimitReader(bundle, r.Size+1)
	total := int64(0)
	for part, last := 0, false; !last; {
		var batch [][]byte
		for len(batch) < partsAtOnce && !last {
			b := make([]byte, partSize)
			n, err := io.ReadFull(rest, b)
			if last = err == io.EOF || err == io.ErrUnexpectedEOF; err != nil && !last {
				return fmt.Errorf("read the bundle: %w", err)
			}
			if n > 0 {
				sum.Write(b[:n])
				batch = append(batch, b[:n])
				total += int64(n)
			}
		}
		err := d.store.tx(ctx, func(tx *sql.Tx) error {
			for i, b := range batch {
				if _, err := tx.ExecContext(ctx, `INSERT INTO release_part (sha256, part, bytes) VALUES (?, ?, ?)`, r.SHA256, part+i, b); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("store the bundle: %w", err)
		}
		part += len(batch)
	}
	if total != r.Size || hex.EncodeToString(sum.Sum(nil)) != r.SHA256 {
		return errors.New("the bundle changed while it was read")
	}
	return nil
}

// Releases lists the releases, newest first.
func (d *District) Releases(ctx context.Context) ([]Release, error) {
	all, err := releases(ctx, d.store.read)
	if err != nil {
		return nil, fmt.Errorf("list the releases: %w", err)
	}
	return all, nil
}

func releases(ctx context.Context, q querier) (all []Release, err error) {
	err = rows(ctx, q, `SELECT version, arch, sha256, size FROM release ORDER BY added_ms DESC, version`, nil, func(row *sql.Rows) error {
		var r Release
		err := row.Scan(&r.Version, &r.Arch, &r.SHA256, &r.Size)
		all = append(all, r)
		return err
	})
	return all, err
}

func findRelease(ctx context.Context, q querier, version string) (Release, error) {
	all, err := releases(ctx, q)
	if err != nil {
		return Release{}, err
	}
	for _, r := range all {
		if r.Version == version {
			return r, nil
		}
	}
	return Release{}, ErrUnknownRelease
}

// RemoveRelease forgets a release that goes out to nobody any more.
func (d *District) RemoveRelease(ctx context.Context, version string) error {
	err := d.store.tx(ctx, func(tx *sql.Tx) error {
		r, err := findRelease(ctx, tx, version)
		if err != nil {
			return err
		}
		open, err := openRollouts(ctx, tx)
		if err != nil {
			return err
		}
		for _, o := range open {
			if o.Release.Version == version && o.Course != Stopped {
				return fmt.Errorf("rollout %s of it is %s: stop it first", o.ID, o.Course)
			}
		}
		for _, q := range []string{`DELETE FROM release WHERE sha256 = ?`, `DELETE FROM release_part WHERE sha256 = ?`} {
			if _, err := tx.ExecContext(ctx, q, r.SHA256); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove release %s: %w", clean(version), err)
	}
	return nil
}

// OpenBundle returns a release's bundle for a machine: ErrRevoked if the key on the
// line is not the machine's own, ErrUnknownRelease if there is no such bundle.
func (d *District) OpenBundle(ctx context.Context, p Peer, sum string) (io.ReadSeeker, error) {
	ok, err := d.owns(ctx, p)
	if err == nil && !ok {
		err = ErrRevoked
	}
	if err != nil {
		return nil, fmt.Errorf("bundle for %s: %w", p.Machine, err)
	}
	b := &bundle{ctx: ctx, q: d.store.read, sum: sum, part: -1}
	err = d.store.read.QueryRowContext(ctx, `SELECT size FROM release WHERE sha256 = ?`, sum).Scan(&b.size)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrUnknownRelease
	}
	if err != nil {
		return nil, fmt.Errorf("bundle %.12s for %s: %w", clean(sum), p.Machine, err)
	}
	return b, nil
}

// bundle reads a bundle part by part. It lives within one request, so it may hold
// the request's context.
type bundle struct {
	ctx  context.Context
	q    querier
	sum  string
	size int64

	at   int64
	part int64 // the one in bytes; -1: none
	have []byte
}

// Read reads on from where Seek went.
func (b *bundle) Read(p []byte) (int, error) {
	if b.at >= b.size {
		return 0, io.EOF
	}
	if part := b.at / partSize; part != b.part {
		err := b.q.QueryRowContext(b.ctx, `SELECT bytes FROM release_part WHERE sha256 = ? AND part = ?`, b.sum, part).Scan(&b.have)
		if err != nil {
			return 0, fmt.Errorf("read part %d of bundle %.12s: %w", part, b.sum, err)
		}
		b.part = part
	}
	from := b.at % partSize
	if from >= int64(len(b.have)) {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, b.have[from:])
	b.at += int64(n)
	return n, nil
}

// Seek goes to a byte of the bundle.
func (b *bundle) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.at
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 {
		return b.at, errors.New("before the beginning")
	}
	b.at = offset
	return offset, nil
}
