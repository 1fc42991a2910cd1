package staff

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"yaoju/daemon/durable"
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
	if err := durable.WriteFile(path, p[:]); err != nil {
		return Pepper{}, fmt.Errorf("staff: make the pepper: %w", err)
	}
	return p, nil
}
