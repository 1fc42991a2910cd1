package durable

import (
	"os"
	"path/filepath"
	"testing"
)

// A file is the old one or the new one, and nothing is left beside it.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	for _, text := range []string{"one", "two"} {
		if err := WriteFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		holds(t, path, text)
	}
	if err := WriteFile(filepath.Join(dir, "none", "x"), nil); err == nil {
		t.Error("wrote into a folder that is not there")
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("%d files are left, %v", len(all), err)
	}
}

// What a power cut left behind is gone with the next write, and a link that somebody
// put in its place leads nowhere.
func TestWriteFileLeftover(t *testing.T) {
	dir := t.TempDir()
	path, target := filepath.Join(dir, "x"), filepath.Join(t.TempDir(), "target")
	for name, leave := range map[string]func(string) error{
		"half a file": func(at string) error { return os.WriteFile(at, []byte("half a key"), 0o644) },
		"a link":      func(at string) error { return os.Symlink(target, at) },
	} {
		if err := leave(filepath.Join(dir, ".new-x")); err != nil {
			t.Fatal(err)
		}
		if err := WriteFile(path, []byte("new")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		holds(t, path, "new")
		if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
			t.Errorf("%s: %d files are left, %v", name, len(all), err)
		}
	}
	if _, err := os.Stat(target); err == nil {
		t.Error("it was written through the link")
	}
}

// holds checks that the file says want, to its owner alone.
func holds(t *testing.T, path, want string) {
	t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("got %q, %v", b, err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("it is %v, want a file of mode 0600", info.Mode())
	}
}
