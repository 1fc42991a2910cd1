package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// stopLimit is how long a program may take to end by itself: an order in hand is
// finished first: one slot's attempt takes 48 s at most on a vending board.
const stopLimit = 60 * time.Second

// process is one of our programs, running.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when it has ended
	err  error         // set before done is closed
}

// start runs a program with its output in a log file in dir.
func start(path, dir string, args ...string) (*process, error) {
	name := filepath.Base(path)
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, cmd: exec.Command(path, args...), log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// It must not outlive us, nor get the Ctrl-C that is for us.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w (make demo builds it)", name, err), log.Close())
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
		p.log.Close()
	}()
	return p, nil
}

// stop asks it to end and waits; if it does not, it is killed.
func (p *process) stop() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended by itself: %w", p.name, p.why())
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-p.done:
		return p.err
	case <-time.After(stopLimit):
		p.kill()
		return fmt.Errorf("%s did not end within %v and was killed", p.name, stopLimit)
	}
}

// kill ends it at once, as a power cut would.
func (p *process) kill() {
	p.cmd.Process.Kill() // it may have ended already
	<-p.done
}

// why tells how it ended, with the last of its log.
func (p *process) why() error {
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err
	}
	return fmt.Errorf("%v; its log ends:\n%s", p.err, text[max(0, len(text)-2000):])
}

// await polls until ready says so, the process ends, or the limit passes.
func (p *process) await(ctx context.Context, limit time.Duration, ready func() bool) error {
	deadline := time.After(limit)
	for !ready() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.done:
			return fmt.Errorf("%s ended: %w", p.name, p.why())
		case <-deadline:
			return fmt.Errorf("%s is not ready after %v: %w", p.name, limit, p.why())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}
