package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	sim "yaoju/daemon/card/sim"
	"yaoju/protocol"
)

// Builds of the releases, in Unix seconds.
const (
	built10 = 1767225600
	built11 = built10 + 86400
	built12 = built11 + 86400
)

// unit is a machine under systemd, as its package sets it up: before each start the
// base's yaoju decides which version it is, and what ends is started again.
type unit struct {
	t       *testing.T
	machine protocol.MachineID
	dir     string
	conf    string
	screen  string
	base    string // folder of the version it was installed with
}

func (u *unit) versions() string { return filepath.Join(u.dir, "versions") }

// flags are those of every yaoju update command on the machine.
func (u *unit) flags() []string {
	return []string{"-dir", u.versions(), "-base", u.base, "-keys", filepath.Join(u.dir, "release.keys")}
}

// power keeps the machine on until the test ends or off is called.
func (u *unit) power() (off func()) {
	log, err := os.OpenFile(filepath.Join(u.dir, "journal"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		u.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(u.t.Context()))
	var on sync.WaitGroup
	on.Go(func() {
		defer log.Close()
		run := func(path string, args ...string) {
			cmd := exec.CommandContext(ctx, path, args...)
			cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
			cmd.WaitDelay = stopLimit
			cmd.Stdout, cmd.Stderr = log, log
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
			fmt.Fprintf(log, "-- %s: %v\n", filepath.Base(path), cmd.Run())
		}
		runtime.LockOSThread() // the signal on death is tied to the thread
		for ctx.Err() == nil {
			run(filepath.Join(u.base, "yaoju"), append([]string{"update", "check"}, u.flags()...)...)
			run(filepath.Join(u.versions(), "current", "kioskd"), "-config", u.conf)
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond): // RestartSec
			}
		}
	})
	off = sync.OnceFunc(func() { cancel(); on.Wait() })
	u.t.Cleanup(func() {
		off()
		if u.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			u.t.Logf("the journal of %s ends:\n%s", u.machine, text[max(0, len(text)-3000):])
		}
	})
	return off
}

// works is where releases are made: a key, and versions of the programs.
type works struct {
	desk
	town *town
}

func newWorks(t *testing.T, tn *town) *works { return &works{newDesk(t), tn} }

// build compiles a program as a version.
func (w *works) build(program, version, into string) {
	w.t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-X main.version="+version, "-o", filepath.Join(w.at(into), program), "yaoju/cmd/"+program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("build %s %s: %v\n%s", program, version, err, out)
	}
}

// bundle makes a bundle of what is in a folder and returns its path.
func (w *works) bundle(version string, built int, key string) string {
	w.t.Helper()
	out := w.at(version + "." + filepath.Base(key) + ".bundle")
	w.run(0, "bundle", "-dir", w.at(version), "-version", version, "-arch", runtime.GOARCH, "-built", fmt.Sprint(built), "-key", key, "-out", out)
	return out
}

// install sets a machine up with the base, and with the line to its district through
// a proxy where it fetches releases.
func (w *works) install(n int, conf string, from string) *unit {
	w.t.Helper()
	u := &unit{t: w.t, machine: siteOf(n).machine, dir: w.at(fmt.Sprint("unit-", n)), base: w.at("base")}
	u.conf = filepath.Join(u.dir, "kioskd.toml")
	if err := errors.Join(os.MkdirAll(u.versions(), 0o755), os.MkdirAll(filepath.Join(u.dir, "data"), 0o700)); err != nil {
		w.t.Fatal(err)
	}
	keys, err := os.ReadFile(w.at("release.keys"))
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := os.ReadFile(conf)
	if err != nil {
		w.t.Fatal(err)
	}
	config := string(text) + fmt.Sprintf("[update]\ndir = %q\nbase = %q\nkeys = %q\nfrom = %q\nrate_kb = 100000\n", u.versions(), u.base, filepath.Join(u.dir, "release.keys"), from)
	u.screen = w.town.screen
	if n > 0 { // a machine of its own, whose hardware is not there
		if u.screen, err = free(); err != nil {
			w.t.Fatal(err)
		}
		config = strings.NewReplacer(quote(siteOf(0).machine), quote(u.machine), quote(filepath.Dir(w.town.ledger)), quote(filepath.Join(u.dir, "data")), quote(w.town.screen), quote(u.screen),
			quote(filepath.Join(w.town.dir, statusFile)), quote(filepath.Join(u.dir, "sock")), quote(filepath.Join(w.town.dir, boardLine)), quote(filepath.Join(u.dir, "board")),
			quote(filepath.Join(w.town.dir, readerLine)), quote(filepath.Join(u.dir, "reader"))).Replace(config)
	}
	for name, text := range map[string]string{"kioskd.toml": config, "release.keys": string(keys)} {
		if err := os.WriteFile(filepath.Join(u.dir, name), []byte(text), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	line, err := w.town.order(w.t, "enrol", string(u.machine))
	if err != nil {
		w.t.Fatalf("%v\n%s", err, line)
	}
	line, _, _ = strings.Cut(line, "\n")
	var said bytes.Buffer
	if err := enrolCommand(w.t.Context(), []string{line, "--config", u.conf, "-key", "file"}, &said); err != nil {
		w.t.Fatalf("%v\n%s", err, &said)
	}
	return u
}

// orders gives districtd an order about updates.
func (w *works) orders(words ...string) string {
	w.t.Helper()
	text, err := w.town.order(w.t, append([]string{"update"}, words...)...)
	if err != nil {
		w.t.Fatalf("districtd update %s: %v\n%s", strings.Join(words, " "), err, text)
	}
	return text
}

// start starts a rollout and returns its id.
func (w *works) start(words ...string) string {
	w.t.Helper()
	id, _, _ := strings.Cut(w.orders(append([]string{"start"}, words...)...), " ")
	return id
}

// sees waits until the status of a rollout holds all of the texts.
func (w *works) sees(id string, texts ...string) {
	w.t.Helper()
	last := ""
	for deadline := time.Now().Add(4 * time.Minute); time.Now().Before(deadline); time.Sleep(time.Second) {
		missing := false
		last = w.orders("status", id)
		flat := strings.Join(strings.Fields(last), " ")
		for _, text := range texts {
			missing = missing || !strings.Contains(flat, text)
		}
		if !missing {
			return
		}
	}
	w.t.Fatalf("rollout %s does not come to %q:\n%s", id, texts, last)
}

// cutter passes connections on, and cuts the first one that brings this many bytes.
func cutter(t *testing.T, to string, after int64) (address string, cuts *atomic.Int32) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cuts = &atomic.Int32{}
	var lines sync.WaitGroup
	lines.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			lines.Go(func() {
				defer c.Close()
				s, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer s.Close()
				lines.Go(func() { io.Copy(s, c); s.Close() })
				if n, _ := io.CopyN(c, s, after); n == after && cuts.CompareAndSwap(0, 1) {
					return
				}
				io.Copy(c, s)
			})
		}
	})
	t.Cleanup(func() { l.Close(); lines.Wait() })
	return l.Addr().String(), cuts
}

// The real programs: three machines under a small systemd, a district with their
// bundles. A good version comes, over a line that is cut and past a resident who is
// served first, and proves itself; one that falls over at its start is gone after
// three, and stops its rollout before it reaches the next machine; one that nobody
// trusted signed is refused at the desk and at the machine; and the version before
// reads what the one after it wrote.
func TestUpdateTown(t *testing.T) {
	t.Parallel()
	p := quick(t, bayOf(1, "condom-52", 3, "2030-01-31"))
	p.certificates, p.machines = true, 2
	tn := assemble(t, p)
	w := newWorks(t, tn)
	w.build("kioskd", "1.0.0", "base")
	w.build("yaoju", "1.0.0", "base")
	w.run(0, "bundle", "-base", "-dir", w.at("base"), "-version", "1.0.0", "-arch", runtime.GOARCH, "-built", fmt.Sprint(built10), "-out", w.at("base/manifest.json"))
	w.build("kioskd", "1.1.0", "1.1.0")
	w.write("1.1.0/yaoju", "#!/bin/sh\necho yaoju 1.1.0\n", 0o755)
	w.write("1.2.0/yaoju", "#!/bin/sh\necho yaoju 1.2.0\n", 0o755)
	w.write("1.2.0/kioskd", "#!/bin/sh\ncase $1 in -version) echo kioskd 1.2.0;; -check) exit 0;; *) echo panic: out of luck; exit 2;; esac\n", 0o755)

	config, err := os.ReadFile(tn.districtConf)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tn.districtConf, fmt.Appendf(config, "[update]\nkeys = %q\n", w.at("release.keys")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tn.startDistrict(t.Context()); err != nil {
		t.Fatal(err)
	}
	through, cuts := cutter(t, tn.desk, 3<<20)
	direct := "https://" + tn.desk + "/releases"
	one, two, three := w.install(0, tn.kioskConfig, "https://"+through+"/releases"), w.install(1, tn.kioskConfig, direct), w.install(2, tn.kioskConfig, direct)
	off := one.power()
	two.power()

	// A bundle of a stranger is not taken in, and one that machine three does not trust
	// does not come to it.
	w.run(0, "key", "-out", w.at("stranger.key"))
	strange := w.bundle("1.1.0", built11, w.at("stranger.key"))
	if text, err := tn.order(t, "update", "add", strange); err == nil || !strings.Contains(text, "not signed by a release key this machine trusts") {
		t.Errorf("a stranger's bundle: %v\n%s", err, text)
	}
	if err := os.WriteFile(filepath.Join(three.dir, "release.keys"), []byte("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	three.power()
	w.orders("add", w.bundle("1.1.0", built11, w.at("release.key")))
	w.orders("add", w.bundle("1.2.0", built12, w.at("release.key")))

	resident := newPerson(t, tn)
	resident.awaits("attract")
	resident.tap("next", "")
	resident.awaits("choose")
	good := w.start("1.1.0", "--machines", "m-0001,m-0002", "--wave", "2,100%", "--soak", "0s")
	refused := w.start("1.1.0", "--machines", "m-0003", "--wave", "1,100%", "--soak", "0s")
	w.sees(good, "m-0001 wave 1 ordered runs 1.0.0 somebody is at the machine")
	resident.tap("back", "")
	w.sees(good, "done, wave 2 of 2, 2 of 2 machines have it", "m-0001 wave 1 confirmed runs 1.1.0", "m-0002 wave 1 confirmed runs 1.1.0")
	if cuts.Load() != 1 {
		t.Error("the line was not cut")
	}
	w.sees(refused, "stopped", "m-0003 wave 1 failed runs 1.0.0", "not signed by a release key this machine trusts")

	bad := w.start("1.2.0", "--machines", "m-0001,m-0002", "--wave", "1,100%", "--soak", "0s")
	w.sees(bad, "stopped, wave 1 of 2, 0 of 2 machines have it, 1 failed", "failed runs 1.1.0 it was started 3 times and did not prove itself", "wave 2 waiting runs 1.1.0")

	// The machine serves with what it came back to, and with the version before that.
	serve := func(who sim.Person) {
		t.Helper()
		resident.awaits("attract")
		resident.tap("next", "")
		resident.awaits("choose")
		resident.tap("pick", "condom-52")
		resident.awaits("scan")
		tn.rig.reader.Lay(who)
		resident.awaits("take")
		tn.rig.reader.Lift()
		resident.tap("next", "")
		resident.awaits("done")
	}
	serve(sim.Resident("测试甲", "110105", "19900101", 2))
	off()
	if said := w.run(0, append([]string{"rollback", "-why", "it hums"}, one.flags()...)...); !strings.Contains(said, "version 1.1.0 was given up (it hums)") {
		t.Errorf("rollback said:\n%s", said)
	}
	one.power()
	serve(sim.Resident("测试乙", "440524", "19800101", 11))
	w.sees(good, "m-0001 wave 1 confirmed runs 1.0.0")
	if n := tn.rig.board.FallenFrom(1); n != 2 {
		t.Errorf("%d boxes fell for 2 people", n)
	}
}
