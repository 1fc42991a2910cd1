package district

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// With -postgres the tests of this package run on PostgreSQL:
//
//	go test ./daemon/district -postgres
//
// TestOnPostgres does that, so that a plain run has both.
var onPostgres = flag.Bool("postgres", false, "run the tests on PostgreSQL")

// postgresPrograms is where Debian's postgresql-15 has its programs.
const postgresPrograms = "/usr/lib/postgresql/15/bin"

func TestMain(m *testing.M) {
	code := m.Run()
	if err := cluster.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "PostgreSQL did not stop:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// PostgresCluster is a private PostgreSQL, started when a test asks for a database. It
// answers on a socket in its own folder alone.
type PostgresCluster struct {
	start  sync.Once
	err    error
	dir    string
	server *Program
	made   atomic.Int64 // databases
}

// cluster is the one of all tests that leave it alone.
var cluster PostgresCluster

// Program is another program that a test runs. It ends with the test's process,
// however that ends.
type Program struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	said  bytes.Buffer
	done  chan struct{}
}

// StartProgram starts a program, as the user with this name where we are root.
func StartProgram(as string, args ...string) (*Program, error) {
	p := &Program{done: make(chan struct{})}
	// The shell waits for the end of its input, which is the end of ours.
	p.cmd = exec.Command("/bin/sh", append([]string{"-c", `"$@" </dev/null & p=$!; read how; kill -${how:-INT} $p; wait $p`, "sh"}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	p.cmd.Dir = "/"
	var err error
	if p.cmd.SysProcAttr, err = asUser(as); err != nil {
		return nil, err
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.cmd.Wait() // how it ended is told by what it said
		close(p.done)
	}()
	return p, nil
}

// Kill ends the program as a power cut would.
func (p *Program) Kill() error {
	_, err := io.WriteString(p.stdin, "KILL\n")
	_, stopped := p.Stop()
	return errors.Join(err, stopped)
}

// Stop asks the program to end, waits for it and returns what it said.
func (p *Program) Stop() (string, error) {
	p.stdin.Close() // the shell may have gone already
	select {
	case <-p.done:
		return p.said.String(), nil
	case <-time.After(20 * time.Second):
		return "", errors.Join(errors.New("it does not end"), p.cmd.Process.Kill())
	}
}

// asUser is how a process is started as another user; nil if we are not root.
func asUser(name string) (*syscall.SysProcAttr, error) {
	if os.Geteuid() != 0 || name == "" {
		return nil, nil
	}
	uid, gid, err := idsOf(name)
	if err != nil {
		return nil, err
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}, nil
}

func idsOf(name string) (uid, gid uint32, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, err
	}
	a, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return 0, 0, err
	}
	b, err := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(a), uint32(b), err
}

func (c *PostgresCluster) run() error {
	var err error
	if c.dir, err = os.MkdirTemp("", "pg"); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		uid, gid, err := idsOf("postgres")
		if err != nil {
			return fmt.Errorf("%w: apt-get install postgresql-15", err)
		}
		if err := os.Chown(c.dir, int(uid), int(gid)); err != nil {
			return err
		}
	}
	data := filepath.Join(c.dir, "data")
	made := exec.Command(filepath.Join(postgresPrograms, "initdb"), "-D", data, "-U", "yaoju", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	made.Dir = "/"
	if made.SysProcAttr, err = asUser("postgres"); err != nil {
		return err
	}
	if out, err := made.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w (apt-get install postgresql-15)\n%s", err, out)
	}
	return c.Serve()
}

// Serve starts the server over the folder that is there.
func (c *PostgresCluster) Serve() error {
	var err error
	c.server, err = StartProgram("postgres", filepath.Join(postgresPrograms, "postgres"), "-D", filepath.Join(c.dir, "data"), "-k", c.dir,
		"-c", "listen_addresses=", "-c", "max_connections=200", "-c", "fsync=off", "-c", "logging_collector=off")
	if err != nil {
		return err
	}
	for end := time.Now().Add(60 * time.Second); ; {
		select {
		case <-c.server.done: // a process of the one that was killed is still there
			if err := c.Serve(); err != nil {
				return err
			}
		default:
		}
		c, err := pgx.Connect(context.Background(), c.address("postgres"))
		if err == nil {
			return c.Close(context.Background())
		}
		if time.Now().After(end) {
			return fmt.Errorf("PostgreSQL does not answer: %w", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Kill ends the server as a power cut would, and waits until the last of its
// processes has gone.
func (c *PostgresCluster) Kill() error {
	return c.server.Kill()
}

// Stop ends the server, if there is one, and removes its folder.
func (c *PostgresCluster) Stop() error {
	if c.dir == "" {
		return nil
	}
	var err error
	if c.server != nil {
		_, err = c.server.Stop()
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}

func (c *PostgresCluster) address(database string) string {
	return "postgres:///" + database + "?host=" + c.dir + "&user=yaoju"
}

// FreshPostgres is the address of a new, empty PostgreSQL database.
func FreshPostgres(t testing.TB) string {
	t.Helper()
	return cluster.Fresh(t)
}

// Fresh is the address of a new, empty database.
func (c *PostgresCluster) Fresh(t testing.TB) string {
	t.Helper()
	if c.start.Do(func() { c.err = c.run() }); c.err != nil {
		t.Fatal(c.err)
	}
	name := fmt.Sprintf("t%d", c.made.Add(1))
	admin, err := pgx.Connect(context.Background(), c.address("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	if _, err := admin.Exec(context.Background(), "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		t.Fatal(err)
	}
	return c.address(name)
}

// fresh is a new, empty database on the engine the tests run on.
func fresh(t testing.TB) string {
	t.Helper()
	if *onPostgres {
		return FreshPostgres(t)
	}
	return filepath.Join(t.TempDir(), "d.db")
}

// chosen lists the tests that choose their database themselves, and are run once. Those
// of machines on a virtual clock stay on SQLite: a process that listens to a server
// waits on a socket, which would stop that clock. TestSeveral runs the same paths on
// PostgreSQL in real time.
const chosen = "^(TestOnPostgres|TestSeveral|TestCommandWithoutBroker|TestNumbered|TestOneSchema|TestMigrateAtOnce|TestPartitions|TestAtOnce|TestNumbersAtOnce|TestDatabaseGoesAway|TestLead|TestNotAlone" +
	"|TestBadNetwork|TestWillOfAnOldConnection|TestDesiredAndCommands|TestBacklog|TestCopiedLedger|TestBrokerKeepsMachinesApart" +
	"|TestCertificateIsTheName|TestRevokedIsGone|TestCertificateEnds|TestSigningKeyChanges|TestCopiedCard|TestOrdersAgain)$"

// Every test that touches the store runs on PostgreSQL as well.
func TestOnPostgres(t *testing.T) {
	if *onPostgres {
		t.Fatal("it runs already")
	}
	args := []string{"-test.run", "^(Test|Fuzz)", "-test.skip", chosen, "-test.timeout", "10m", "-postgres"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	out, err := exec.CommandContext(t.Context(), os.Args[0], args...).CombinedOutput()
	if err != nil {
		t.Errorf("on PostgreSQL: %v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("%s", out)
	}
}
