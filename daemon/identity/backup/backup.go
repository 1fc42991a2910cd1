// Package backup seals a few small files under a passphrase and opens them again.
//
// It owns the format: age with its scrypt recipient, so that the age program opens
// a backup too when nothing of ours is left, around one JSON object of names and
// contents. It does not know what the files are.
package backup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

// MinPassphrase is the shortest passphrase, in bytes: whoever finds the file has
// all the time there is.
const MinPassphrase = 12

// Work is the cost of one guess, as a power of two: 256 MiB and about a second.
// MaxWork is the most that opening a foreign file may cost.
const (
	Work    = 18
	MaxWork = 20
)

// maxBackup bounds what is opened: keys and certificates of one district are 50 KiB.
const maxBackup = 4 << 20

// content is what is sealed.
type content struct {
	Version int               `json:"version"` // 1
	Files   map[string][]byte `json:"files"`
}

// Seal writes files, by name, to w. Work is what a guess costs; see Work.
func Seal(w io.Writer, passphrase string, work int, files map[string][]byte) error {
	if len(passphrase) < MinPassphrase {
		return fmt.Errorf("backup: the passphrase has %d characters, want at least %d", len(passphrase), MinPassphrase)
	}
	r, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	r.SetWorkFactor(work)
	sealed, err := age.Encrypt(w, r)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if err := errors.Join(json.NewEncoder(sealed).Encode(content{Version: 1, Files: files}), sealed.Close()); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// Open returns the files that were sealed, every byte as it was.
func Open(r io.Reader, passphrase string) (map[string][]byte, error) {
	id, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	id.SetMaxWorkFactor(MaxWork)
	plain, err := age.Decrypt(io.LimitReader(r, maxBackup), id)
	if err != nil {
		return nil, fmt.Errorf("backup: the passphrase is another, or this is no backup of ours: %w", err)
	}
	b, err := io.ReadAll(plain)
	if err != nil {
		return nil, fmt.Errorf("backup: the file is damaged or cut off: %w", err)
	}
	return decode(b)
}

func decode(b []byte) (map[string][]byte, error) {
	var c content
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&c); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	if c.Version != 1 {
		return nil, fmt.Errorf("backup: version %d, this program reads 1", c.Version)
	}
	return c.Files, nil
}
