package card

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Mark is the keyed pseudonym of a card: HMAC-SHA-256 under an epoch's key of
// the holder's normalised number, cut to 16 bytes.
type Mark [16]byte

// Marks are a card's marks under the current and the previous epoch's key.
// Previous is zero if there was none.
type Marks struct{ Current, Previous Mark }

// Keys makes marks. It owns the file with the epoch keys, which are derived
// forward: with the old key destroyed, a mark can no longer be tried against
// numbers. On flash memory the old bytes may live on in a worn block, which
// only sealing by a TPM would cure. Keys may be used from anywhere.
type Keys struct {
	path string

	mu sync.Mutex
	// guarded by mu
	ring  ring
	epoch time.Duration // of the epochs to come
}

// ring is what the file holds.
type ring struct {
	number            int           // of the epoch, from 0
	start             time.Time     // of the epoch
	length            time.Duration // of the epoch
	current, previous [32]byte      // previous is zero in epoch 0
}

// ringFile is ring as JSON. Version 1: the first.
type ringFile struct {
	Version  int    `json:"version"`
	Epoch    int    `json:"epoch"`
	StartMS  int64  `json:"start_ms"`  // Unix time
	LengthMS int64  `json:"length_ms"` // of the running epoch
	Current  string `json:"current"`   // hex, 32 bytes
	Previous string `json:"previous"`  // hex, 32 bytes; empty in epoch 0
	Check    string `json:"check"`     // hex: SHA-256 of this file with an empty check
}

// OpenKeys reads the keys at path, or makes the first one if there is no such
// file. Epochs that begin from now on last epoch, which must be at least the
// longest quota window: a card is known for one to two epochs. The epoch that
// is running keeps the length it began with, so a change of setting forgets
// nobody.
func OpenKeys(path string, epoch time.Duration) (*Keys, error) {
	if epoch < time.Hour {
		return nil, fmt.Errorf("open mark keys %s: an epoch of %v is shorter than any quota window", path, epoch)
	}
	k := &Keys{path: path, epoch: epoch}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("open mark keys %s: %w", path, err)
	}
	err := k.load()
	if errors.Is(err, fs.ErrNotExist) {
		err = k.first()
	}
	if err != nil {
		return nil, fmt.Errorf("open mark keys %s: %w", path, err)
	}
	return k, nil
}

// removeStale destroys keys that a power cut left half written.
func removeStale(path string) error {
	left, err := filepath.Glob(path + ".new-*")
	if err != nil {
		return err
	}
	for _, f := range left {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return nil
}

// first makes the first key.
func (k *Keys) first() error {
	r := ring{start: time.Now().Truncate(time.Millisecond), length: k.epoch}
	rand.Read(r.current[:]) // never fails
	if err := save(k.path, r); err != nil {
		return err
	}
	k.ring = r
	return nil
}

func (k *Keys) load() error {
	f, err := os.Open(k.path)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others may read it (mode %#o): chmod 600 it, and take the keys for known to whoever can log in", st.Mode().Perm())
	}
	// A real file is under 400 bytes.
	b := make([]byte, 4096)
	n, err := f.Read(b)
	if err != nil && n == 0 {
		return damaged(err)
	}
	k.ring, err = parseRing(b[:n])
	return err
}

// damaged says what a person gives up by replacing the file.
func damaged(err error) error {
	return fmt.Errorf("damaged (%w): bring back a copy; "+
		"if it is removed a new key is made and the memory of who had what in the quota window is lost", err)
}

// parseRing reads the file's bytes.
func parseRing(b []byte) (ring, error) {
	var f ringFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return ring{}, damaged(err)
	}
	if f.Version != 1 {
		return ring{}, fmt.Errorf("version %d: this program knows version 1", f.Version)
	}
	r := ring{number: f.Epoch, start: time.UnixMilli(f.StartMS), length: time.Duration(f.LengthMS) * time.Millisecond}
	cur, err1 := hex.DecodeString(f.Current)
	prev, err2 := hex.DecodeString(f.Previous)
	if err := errors.Join(err1, err2); err != nil {
		return ring{}, damaged(err)
	}
	copy(r.current[:], cur)
	copy(r.previous[:], prev)
	// Written anew it must be the same, check and all.
	if again, err := r.encode(); err != nil || !bytes.Equal(again, b) || r.length < time.Hour || r.number < 0 {
		return ring{}, damaged(errors.New("its check does not fit"))
	}
	return r, nil
}

// encode is the file for r.
func (r ring) encode() ([]byte, error) {
	f := ringFile{Version: 1, Epoch: r.number, StartMS: r.start.UnixMilli(), LengthMS: r.length.Milliseconds(),
		Current: hex.EncodeToString(r.current[:])}
	if r.number > 0 {
		f.Previous = hex.EncodeToString(r.previous[:])
	}
	b, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	f.Check = hex.EncodeToString(sum[:])
	b, err = json.Marshal(f)
	return append(b, '\n'), err
}

// save writes r so that after a power cut either the old or the new file is there.
func save(path string, r ring) (err error) {
	b, err := r.encode()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Advance moves on to the epoch of now and destroys keys that are past their
// time; mostly there is nothing to do. It is durable when it returns. If the
// clock went back nothing happens; keys are never brought back. marks calls
// it, so that no mark is made under a key past its time.
func (k *Keys) Advance(now time.Time) error {
	k.mu.Lock()
	next, epoch := k.ring, k.epoch
	k.mu.Unlock()
	was := next.number
	for !now.Before(next.start.Add(next.length)) {
		next = next.next(epoch)
	}
	if next.number == was {
		return nil
	}
	// Two callers at once write the same bytes: the next keys follow from these.
	if err := save(k.path, next); err != nil {
		return fmt.Errorf("advance mark keys %s to epoch %d: %w", k.path, next.number, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ring.number < next.number {
		k.ring = next
	}
	return nil
}

// next is the ring of the epoch after r, which lasts length.
func (r ring) next(length time.Duration) ring {
	n := ring{number: r.number + 1, start: r.start.Add(r.length), length: length, previous: r.current}
	h := hmac.New(sha256.New, r.current[:])
	h.Write([]byte("yaoju mark key"))
	h.Sum(n.current[:0])
	return n
}

// marks makes a number's marks at now.
func (k *Keys) marks(num *number, now time.Time) (Marks, error) {
	if err := k.Advance(now); err != nil {
		return Marks{}, err
	}
	k.mu.Lock()
	r := k.ring
	k.mu.Unlock()
	m := Marks{Current: mark(&r.current, num)}
	if r.number > 0 {
		m.Previous = mark(&r.previous, num)
	}
	return m, nil
}

// mark hashes num.
func mark(key *[32]byte, num *number) Mark {
	h := hmac.New(sha256.New, key[:])
	h.Write(num.bytes())
	m := Mark(h.Sum(nil)[:16])
	// The hash keeps its last bytes until others take their place.
	h.Reset()
	h.Write(make([]byte, h.BlockSize()-1))
	return m
}
