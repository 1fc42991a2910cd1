package elf

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// makeLimit bounds building everything on a busy machine: it takes 10 s on a quiet one.
const makeLimit = 5 * time.Minute

// Make builds firmware and boardsim if they are not up to date. Several processes
// may call it at once. It reads their sources, so that go test sees when its cached
// results are of other ones.
func Make() error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, "firmware")
	if err := readSources(dir); err != nil {
		return fmt.Errorf("build the firmware: %w", err)
	}
	unlock, err := lockOut(filepath.Join(dir, "out"))
	if err != nil {
		return fmt.Errorf("build the firmware: %w", err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(context.Background(), makeLimit)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "make", "-s", "-C", dir, "all", "boardsim").CombinedOutput(); err != nil {
		return fmt.Errorf("build the firmware: make -C firmware all boardsim: %w\n%s", err, out)
	}
	return nil
}

func readSources(dir string) error {
	for _, part := range []string{"", "core", "avr", "boardsim"} {
		files, err := os.ReadDir(filepath.Join(dir, part))
		if err != nil {
			return err
		}
		for _, f := range files {
			if !slices.Contains([]string{".c", ".h", ""}, filepath.Ext(f.Name())) || f.IsDir() {
				continue
			}
			if _, err := os.ReadFile(filepath.Join(dir, part, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// lockOut waits until no other process builds.
func lockOut(out string) (unlock func(), err error) {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(out, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
