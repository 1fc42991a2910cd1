package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A configuration that cannot be used ends with a status of its own, which systemd
// tells from a panic: that is 2.
func TestBadConfigStatus(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "bad.toml")
	if err := os.WriteFile(path, []byte("colour = 'teal'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"kioskd", "districtd"} {
		for _, args := range [][]string{{"-config", path}, {"-check", "-config", path}, {"-config", path + ".absent"}} {
			out, err := exec.Command(filepath.Join(programs, program), args...).CombinedOutput()
			end, ok := errors.AsType[*exec.ExitError](err)
			if !ok || end.ExitCode() != 78 || len(out) == 0 {
				t.Errorf("%s %v: %v, said %q; want status 78 and a reason", program, args, err, out)
			}
		}
	}
}
