package update

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// tryLimit bounds one question to a new program: it only reads a file, but the
// first start after an update reads the program itself from a slow card.
const tryLimit = 30 * time.Second

// maxSaid bounds what is kept of a program's words.
const maxSaid = 4 << 10

// Try asks a staged version whether it is what it says, runs on this machine, and
// understands this machine's configuration.
func Try(ctx context.Context, dir, version, config string) error {
	if _, err := os.Stat(config); err != nil {
		return fmt.Errorf("this machine's configuration: %w", err)
	}
	for _, program := range []string{kioskd, yaoju} {
		said, err := ask(ctx, filepath.Join(dir, program), versionWords(program)...)
		if ctx.Err() != nil {
			return ctx.Err() // it was not the program that failed
		}
		if busy(err) {
			return fmt.Errorf("ask %s of version %s: %w", program, version, err)
		}
		if err != nil {
			return refusef("%s of version %s does not run here: %v", program, version, err)
		}
		if want := program + " " + version; strings.TrimSpace(said) != want {
			return refusef("%s says it is %q, and the release says %q", program, clip(strings.TrimSpace(said)), want)
		}
	}
	if said, err := ask(ctx, filepath.Join(dir, kioskd), "-check", "-config", config); err != nil && ctx.Err() == nil {
		return refusef("version %s does not take this machine's configuration: %s", version, strings.TrimSpace(said+" "+err.Error()))
	}
	return ctx.Err()
}

// busy says that this machine could not start a program just now, whatever program.
func busy(err error) bool {
	return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ETXTBSY)
}

// versionWords is how each program is asked for its version.
func versionWords(program string) []string {
	if program == kioskd {
		return []string{"-version"}
	}
	return []string{"version"}
}

func ask(ctx context.Context, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{} // nothing is read from it
	cmd.WaitDelay = time.Second
	var said head
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	return string(said), err
}

// head keeps the first words of a program and lets the others pass.
type head []byte

func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p[:min(len(p), maxSaid-len(*h))]...)
	return len(p), nil
}
