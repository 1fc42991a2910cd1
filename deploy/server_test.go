package deploy

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// serverTree is an empty server, kept between runs.
const serverTree = "../.build/deploy/district.tar"

// server is a Debian server under its own systemd, in name spaces of this computer.
type server struct {
	debian
	pid string // of its systemd
}

// startServer unpacks an empty server and starts it.
func startServer(t *testing.T) *server {
	t.Helper()
	root(t, "district/tree.sh", serverTree)
	dir := scratch(t)
	root(t, "tar", "-x", "-C", dir, "-f", serverTree)
	root(t, "chmod", "755", dir)
	return debian{t, dir, []string{dir}}.start()
}

// start starts the tree's own systemd.
func (d debian) start() *server {
	t := d.t
	t.Helper()
	all := asRoot("district/test/boot.sh", d.dir)
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Stderr = t.Output()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the server's systemd did not start: %v", err)
	}
	s := &server{d, strings.TrimSpace(line)}
	t.Cleanup(func() {
		late(t, "kill", "-KILL", s.pid)
		cmd.Wait() // boot.sh ends with it, however that is told
	})
	s.sh("systemctl is-system-running --wait || true")
	return s
}

// in is the server for a part of its test.
func (s *server) in(t *testing.T) *server {
	return &server{debian{t, s.dir, s.below}, s.pid}
}

// serverLimit bounds one script on the server: the longest makes a database.
const serverLimit = 3 * time.Minute

// shell runs a script as root on the running server.
func (s *server) shell(stdin, script string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), serverLimit)
	defer cancel()
	all := asRoot("nsenter", "--target", s.pid, "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root",
		"env", "-C", "/root", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "HOME=/root", "sh", "-ec", script)
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// sh is shell for a script that must succeed.
func (s *server) sh(script string) string {
	s.t.Helper()
	out, err := s.shell("", script)
	if err != nil {
		log, _ := s.shell("", "journalctl -b --no-pager -n 40 -o short-monotonic; systemctl --failed --no-pager") // only to see why
		s.t.Fatalf("on the server: %s: %v\n%s\n%s", script, err, out, log)
	}
	return strings.TrimSpace(out)
}

// until runs a script on the server until it succeeds.
func (s *server) until(script string) {
	s.t.Helper()
	s.sh("n=0; until { " + script + "; } >/dev/null 2>&1; do n=$((n+1)); [ $n -lt 150 ] || { echo 'not so within 30 s'; exit 1; }; sleep 0.2; done")
}

// steps are the commands of a guide: what stands in its blocks marked sh.
func steps(t *testing.T, file string) []string { return blocks(t, file, "sh") }

// blocks is what stands in the blocks of a guide that have a mark.
func blocks(t *testing.T, file, mark string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for i, part := range strings.Split(string(text), "\n```") {
		body, ok := strings.CutPrefix(part, mark+"\n")
		if ok && i%2 == 1 {
			out = append(out, body)
		}
	}
	return out
}
