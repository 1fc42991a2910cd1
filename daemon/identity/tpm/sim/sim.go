// Package sim starts a TPM for tests: swtpm, of Debian's package of that name.
//
// It owns the process and its socket, and lets one user in after the other, as the
// kernel's resource manager does. It does not know what is said to the chip.
package sim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// startLimit is how long the process may take to listen, on a machine busy with tests.
const startLimit = 20 * time.Second

// TPM is a chip that nobody has used yet.
type TPM struct {
	dir  string
	turn chan struct{} // holds one value while somebody is in
	cmd  *exec.Cmd
}

// Start starts a chip, which lives until Stop.
func Start() (*TPM, error) {
	dir, err := os.MkdirTemp("", "tpm") // a socket's path has to be short
	if err != nil {
		return nil, fmt.Errorf("simulated TPM: %w", err)
	}
	t := &TPM{dir: dir, turn: make(chan struct{}, 1)}
	t.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+t.socket(), "--flags", "not-need-init,startup-clear")
	var said bytes.Buffer
	t.cmd.Stdout, t.cmd.Stderr = &said, &said
	if err := t.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("simulated TPM: %w: install the package swtpm", err), os.RemoveAll(dir))
	}
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) { // until another program listens
		c, err := net.Dial("unix", t.socket())
		if err == nil {
			return t, c.Close()
		}
		if time.Since(begin) > startLimit {
			return nil, errors.Join(fmt.Errorf("simulated TPM: %w: %s", err, &said), t.Stop())
		}
	}
}

func (t *TPM) socket() string { return filepath.Join(t.dir, "s") }

// Open opens the chip; whoever is in before ends first.
func (t *TPM) Open() (io.ReadWriteCloser, error) {
	t.turn <- struct{}{}
	leave := sync.OnceFunc(func() { <-t.turn })
	c, err := net.Dial("unix", t.socket())
	if err != nil {
		leave()
		return nil, err
	}
	return &line{ReadWriteCloser: c, leave: leave}, nil
}

// Stop ends the chip and all it knew.
func (t *TPM) Stop() error {
	t.cmd.Process.Kill() // may have ended by itself
	t.cmd.Wait()         // says that it was killed
	return os.RemoveAll(t.dir)
}

// line is somebody's turn.
type line struct {
	io.ReadWriteCloser
	leave func()
}

func (l *line) Close() error {
	defer l.leave()
	return l.ReadWriteCloser.Close()
}
