package update

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// disk changes names below one folder. Nothing it did is sure to outlast a power cut
// before the file, and the folder that holds its name, are synced.
type disk interface {
	// write makes or overwrites a file.
	write(name string, b []byte) error
	// link makes a symbolic link, in the place of whatever has that name.
	link(target, name string) error
	// rename puts from in the place of to, in one step.
	rename(from, to string) error
	// sync makes durable what is in a file, or which names are in a folder.
	sync(name string) error
}

// folder is the disk below a real folder. It follows no link that leads out of it.
type folder struct{ *os.Root }

func (f folder) write(name string, b []byte) error {
	if err := f.remove(name); err != nil {
		return err
	}
	return f.WriteFile(name, b, 0o644)
}

func (f folder) link(target, name string) error {
	if err := f.remove(name); err != nil {
		return err
	}
	return f.Symlink(target, name)
}

// remove clears the way: what a power cut left may be another user's, who was root
// at a terminal, and could not be written over.
func (f folder) remove(name string) error {
	if err := f.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (f folder) rename(from, to string) error { return f.Rename(from, to) }

func (f folder) sync(name string) error {
	file, err := f.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// put replaces a file whole: after a power cut it is the old or the new one. The
// temporary name is always the same, so that nothing is left lying about; who calls
// holds the lock.
func put(d disk, name string, b []byte) error {
	fresh := name + ".new"
	if err := d.write(fresh, b); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := d.sync(fresh); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return replace(d, fresh, name)
}

// point makes a link lead to target, likewise.
func point(d disk, name, target string) error {
	fresh := name + ".new"
	if err := d.link(target, fresh); err != nil {
		return fmt.Errorf("point %s to %s: %w", name, target, err)
	}
	return replace(d, fresh, name)
}

func replace(d disk, fresh, name string) error {
	if err := d.rename(fresh, name); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	if err := d.sync("."); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	return nil
}
