package gpio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// GuardWord is the first argument of a process that is a guard. main looks for it
// before anything else and calls Guard with the rest.
const GuardWord = "gpio-guard"

// guardFD is the first descriptor that a guard inherits.
const guardFD = 3

// goneLimit is how long a guard may take to end: it sets some lines and exits.
const goneLimit = 2 * time.Second

// Guard holds the outputs that it inherited until the pipe on its standard input
// breaks, which is when the process at the other end is gone, however it went. Then
// it drives them off. It returns the exit code.
//
// Who kills all processes of the unit at once kills the guard too; then the lines are
// the kernel's, and the resistors' and the cut-off's.
func Guard(offs []string) int {
	// The signal that ends the daemon may be meant for all of its unit.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	levels := make([]values, len(offs))
	for i, off := range offs {
		if _, err := fmt.Sscanf(off, "%x/%x", &levels[i].bits, &levels[i].mask); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %q: want levels/lines: %v\n", GuardWord, off, err)
			return 2
		}
	}
	_, err := io.Copy(io.Discard, os.Stdin) // however it ends, nobody is there any more
	for i, v := range levels {
		err = errors.Join(err, setValues(guardFD+i, v.bits, v.mask))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", GuardWord, err)
		return 1
	}
	return 0
}

// guard is the guard as its ward sees it.
type guard struct {
	pipe *os.File
	cmd  *exec.Cmd
	gone chan struct{} // closed when it has ended
	err  error         // how; after gone
}

// post starts a guard over the outputs in files.
func post(command []string, files []*os.File, off []values) (*guard, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	defer r.Close() // the guard has its own
	args := append(append([]string{}, command[1:]...), GuardWord)
	for _, v := range off {
		args = append(args, fmt.Sprintf("%x/%x", v.bits, v.mask))
	}
	cmd := exec.Command(command[0], args...)
	cmd.Stdin, cmd.Stderr, cmd.ExtraFiles = r, os.Stderr, files
	cmd.Env = []string{"GOMAXPROCS=1"} // it has one thing to do
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("guard: %w", err)
	}
	g := &guard{pipe: w, cmd: cmd, gone: make(chan struct{})}
	go func() {
		defer close(g.gone)
		g.err = cmd.Wait()
	}()
	return g, nil
}

// alive returns an error if the guard has ended.
func (g *guard) alive() error {
	select {
	case <-g.gone:
		return fmt.Errorf("guard: it has ended by itself: %v", g.cmd.ProcessState)
	default:
		return nil
	}
}

// dismiss ends the guard, which drives the outputs off.
func (g *guard) dismiss() error {
	err := g.pipe.Close()
	select {
	case <-g.gone:
	case <-time.After(goneLimit):
		err = errors.Join(err, fmt.Errorf("guard: not gone after %v", goneLimit), g.cmd.Process.Kill())
		<-g.gone // killed, it is reaped
	}
	return errors.Join(err, g.err)
}
