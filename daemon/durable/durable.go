// Package durable puts files in their place so that a power cut leaves the old or the
// new one, whole. It owns how that is done; it does not know what is in them.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// WriteFile puts a file in the place of another at once: a power cut leaves the
// one or the other. It is of mode 0600 and belongs to whoever owns the folder, though
// root may write it. One file is written by one at a time.
func WriteFile(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	// Always the same name, so that what a power cut left behind, which may hold a key,
	// is gone with the next; and never through a link.
	name := filepath.Join(dir, ".new-"+filepath.Base(path))
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(b)
	if err := errors.Join(err, LikeFolder(f, dir), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncFolder(dir)
}

// LikeFolder gives f to the owner of dir, if we are somebody else, which only root
// can be: kioskd has to read what a technician's sudo wrote.
func LikeFolder(f *os.File, dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Uid) == os.Geteuid() {
		return nil
	}
	return f.Chown(int(owner.Uid), int(owner.Gid))
}

// SyncFolder makes durable which files a folder holds: a new one, a rename, a removal.
func SyncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
