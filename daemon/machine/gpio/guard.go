package gpio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// GuardWord is the first argument of a process that is a guard. main looks for it
// before anything else and calls Guard with the rest.
const GuardWord = "gpio-guard"

// guardFD is the first descriptor that a guard inherits.
const guardFD = 3

// ready is what a guard says once it stands: signals no longer end it.
const ready = 'r'

// readyLimit is how long a guard may take to stand: a Pi loads the program in well under a
// second, a busy one in two.
const readyLimit = 10 * time.Second

// goneLimit is how long a guard may take to end: it sets some lines and exits.
const goneLimit = 2 * time.Second

// onMost is the most a ward may have on and off the pipe before the guard comes round
// to it; a motion is a dozen.
const onMost = 64

// note is what a ward tells its guard of one line, before it is on and after it is off.
type note struct {
	request byte // of the descriptors that the guard inherited
	line    byte // its bit
	on      byte // 1, or 0
}

const noteSize = 3

// watched are the outputs of one descriptor.
type watched struct {
	off     values
	longest []time.Duration // of each line, how long it may be on; 0 is for ever
}

// String is w as an argument of the guard.
func (w watched) String() string {
	var ms []string
	for _, d := range w.longest {
		ms = append(ms, strconv.FormatInt(d.Milliseconds(), 10))
	}
	return fmt.Sprintf("%x/%x/%s", w.off.bits, w.off.mask, strings.Join(ms, ","))
}

// parseWatched reads what String wrote.
func parseWatched(s string) (w watched, err error) {
	var lines string
	if _, err := fmt.Sscanf(s, "%x/%x/%s", &w.off.bits, &w.off.mask, &lines); err != nil {
		return w, fmt.Errorf("%q: want levels/lines/limits: %w", s, err)
	}
	for _, ms := range strings.Split(lines, ",") {
		n, err := strconv.ParseUint(ms, 10, 31)
		if err != nil {
			return w, fmt.Errorf("%q: limit: %w", s, err)
		}
		w.longest = append(w.longest, time.Duration(n)*time.Millisecond)
	}
	return w, nil
}

// Guard holds the outputs that it inherited until the pipe on its standard input
// breaks, which is when the process at the other end is gone, however it went; or until
// one of them was on for longer than it may be, which is when that process hangs. Then it
// drives them all off. It returns the exit code.
//
// Who kills or stops all processes of the unit at once does so to the guard too; then the
// lines are the kernel's, and the resistors' and the cut-off's.
func Guard(args []string) int {
	// The signal that ends the daemon, or systemd's watchdog sends, may be for all of its unit.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2)
	var outs []watched
	for _, a := range args {
		w, err := parseWatched(a)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", GuardWord, err)
			return 2
		}
		outs = append(outs, w)
	}
	if _, err := os.Stdout.Write([]byte{ready}); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", GuardWord, err) // its ward is gone already, or will not drive anything
	}
	err := keepWatch(os.Stdin, outs)
	for i, w := range outs {
		err = errors.Join(err, setValues(guardFD+i, w.off.bits, w.off.mask))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", GuardWord, err)
		return 1
	}
	return 0
}

// keepWatch returns when its ward is gone, or with an error when a line was on too long.
func keepWatch(ward io.Reader, outs []watched) error {
	told := make(chan note, onMost)
	go func() { // ends with the process
		defer close(told)
		var b [noteSize]byte
		for {
			if _, err := io.ReadFull(ward, b[:]); err != nil {
				return // however it ends, nobody is there any more
			}
			told <- note{b[0], b[1], b[2]}
		}
	}()
	until := map[note]time.Time{} // by note of the line with on 0: when it has to be off
	for {
		var late <-chan time.Time
		var which note
		for line, at := range until {
			if late == nil || at.Before(until[which]) {
				which, late = line, time.After(time.Until(at))
			}
		}
		select {
		case n, ok := <-told:
			if !ok {
				return nil
			}
			line := note{request: n.request, line: n.line}
			delete(until, line)
			if int(n.request) >= len(outs) || int(n.line) >= len(outs[n.request].longest) {
				return fmt.Errorf("line %d of request %d is none", n.line, n.request)
			}
			if long := outs[n.request].longest[n.line]; n.on == 1 && long > 0 {
				until[line] = time.Now().Add(long)
			}
		case <-late:
			return fmt.Errorf("line %d of request %d was on for %v: the program hangs", which.line, which.request, outs[which.request].longest[which.line])
		}
	}
}

// guard is the guard as its ward sees it.
type guard struct {
	pipe *os.File
	cmd  *exec.Cmd
	gone chan struct{} // closed when it has ended
	err  error         // how; after gone
}

// post starts a guard over the outputs in files.
func post(command []string, files []*os.File, outs []watched) (*guard, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	defer r.Close() // the guard has its own
	args := append(append([]string{}, command[1:]...), GuardWord)
	for _, w := range outs {
		args = append(args, w.String())
	}
	cmd := exec.Command(command[0], args...)
	stands, says, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("guard: %w", err), w.Close())
	}
	defer stands.Close() // read, or given up
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = r, says, os.Stderr, files
	cmd.Env = []string{"GOMAXPROCS=1"} // it has one thing to do
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = errors.Join(cmd.Start(), says.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("guard: %w", err), w.Close())
	}
	g := &guard{pipe: w, cmd: cmd, gone: make(chan struct{})}
	go func() {
		defer close(g.gone)
		g.err = cmd.Wait()
	}()
	word := make([]byte, 1)
	err = stands.SetReadDeadline(time.Now().Add(readyLimit))
	if err == nil {
		_, err = stands.Read(word)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("guard: does not stand: %w", err), g.dismiss())
	}
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

// tellLimit is how long a note may take: the pipe holds thousands.
const tellLimit = 100 * time.Millisecond

// tell tells the guard of a line. An error means that it will not see to it.
func (g *guard) tell(n note) error {
	if err := g.alive(); err != nil {
		return err
	}
	if err := g.pipe.SetWriteDeadline(time.Now().Add(tellLimit)); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	if _, err := g.pipe.Write([]byte{n.request, n.line, n.on}); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	return nil
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
