package gpio_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"yaoju/daemon/machine/gpio"
)

// TestGuard has a guard of two lines, the second of which may be on for 300 ms, in a
// process of its own. Its outputs are a pipe, which is none, and it says so when it
// drives them off.
func TestGuard(t *testing.T) {
	const on, off = 1, 0
	tests := []struct {
		name string
		says [][]byte // request, line, on; then nothing, for a second
		ends string   // what it says at its end; empty: it waits for the pipe to break
	}{
		{"nothing on", nil, ""},
		{"one without limit", [][]byte{{0, 0, on}}, ""},
		{"off in time", [][]byte{{0, 1, on}, {0, 1, off}}, ""},
		{"a motor and a hang", [][]byte{{0, 0, on}, {0, 1, on}}, "line 1 of request 0 was on for 300ms: the program hangs"},
		{"another off", [][]byte{{0, 1, on}, {0, 0, off}}, "line 1 of request 0 was on for 300ms: the program hangs"},
		{"no such line", [][]byte{{0, 2, on}}, "line 2 of request 0 is none"},
		{"no such request", [][]byte{{1, 0, on}}, "line 0 of request 1 is none"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			cmd := exec.Command("/proc/self/exe", gpio.GuardWord, "0/3/0,300")
			var said strings.Builder
			cmd.Stderr, cmd.ExtraFiles = &said, []*os.File{r}
			ward, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stands, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := stands.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			for _, b := range test.says {
				if _, err := ward.Write(b); err != nil {
					t.Fatal(err)
				}
			}
			for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGABRT, syscall.SIGHUP} { // meant for the daemon
				if err := cmd.Process.Signal(sig); err != nil {
					t.Error(err)
				}
			}
			limit := 10 * time.Second // of a guard that is to end, on a busy machine
			if test.ends == "" {
				limit = time.Second
			}
			select {
			case err = <-ended:
				if test.ends == "" {
					t.Fatalf("ended by itself: %v: %s", err, said.String())
				}
			case <-time.After(limit):
				if test.ends != "" {
					t.Errorf("not ended after %v", limit)
				}
				ward.Close() // the process is gone, as far as its guard can tell
				err = <-ended
			}
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(said.String(), test.ends) || !strings.Contains(said.String(), "set lines") {
				t.Errorf("%v: %s; want %q, and a try to drive them off", err, said.String(), test.ends)
			}
		})
	}
}

func TestGuardRefuses(t *testing.T) {
	for _, arg := range []string{"", "0", "0/3", "0/3/", "0/3/1,", "0/3/-1", "0/3/x", "x/3/0", "0/3/99999999999"} {
		if code := gpio.Guard([]string{arg}); code != 2 {
			t.Errorf("%q: exit code %d, want 2", arg, code)
		}
	}
}
