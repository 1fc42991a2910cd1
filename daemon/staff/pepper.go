package staff

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// OpenPepper reads the machine's pepper, and makes it, durably, if there is none. A
// machine that loses it takes no PIN until its accounts come again from the district.
func OpenPepper(path string) (Pepper, error) {
	var p Pepper
	b, err := os.ReadFile(path)
	switch {
	case err == nil && len(b) == len(p):
		copy(p[:], b)
		return p, nil
	case err == nil:
		return p, fmt.Errorf("staff: %s has %d bytes, want %d: move it aside, and send the accounts again", path, len(b), len(p))
	case !errors.Is(err, fs.ErrNotExist):
		return p, fmt.Errorf("staff: %w", err)
	}
	rand.Read(p[:]) // never fails: crypto/rand ends the process instead
	if err := WriteFile(path, p[:]); err != nil {
		return Pepper{}, fmt.Errorf("staff: make the pepper: %w", err)
	}
	return p, nil
}

// WriteFile puts a new file in its place whole, durably and for its owner's eyes only.
func WriteFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone by then, unless something failed
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
