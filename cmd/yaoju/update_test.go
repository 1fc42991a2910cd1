package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"yaoju/daemon/update"
	"yaoju/protocol"
)

// desk is where releases are made and a machine's versions lie, in a temporary folder.
type desk struct {
	t   *testing.T
	dir string
}

func newDesk(t *testing.T) desk {
	d := desk{t, t.TempDir()}
	said := d.run(0, "key", "-out", d.at("release.key"))
	d.write("release.keys", "# the release key\n"+strings.Split(said, "\n")[1]+"\n", 0o644)
	if err := os.Mkdir(d.at("versions"), 0o755); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d desk) at(name string) string { return filepath.Join(d.dir, name) }

func (d desk) write(name, text string, mode os.FileMode) {
	d.t.Helper()
	if err := os.MkdirAll(filepath.Dir(d.at(name)), 0o755); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(d.at(name), []byte(text), mode); err != nil {
		d.t.Fatal(err)
	}
}

// run runs `yaoju update` and returns what it said.
func (d desk) run(code int, args ...string) string {
	d.t.Helper()
	var out bytes.Buffer
	if got := updateCommand(context.Background(), args, terminal{out: &out, err: &out}); got != code {
		d.t.Errorf("yaoju update %s: exit code %d, want %d:\n%s", strings.Join(args, " "), got, code, &out)
	}
	return out.String()
}

// versions runs a command on the machine's versions.
func (d desk) versions(code int, command string, args ...string) string {
	d.t.Helper()
	return d.run(code, append([]string{command, "-dir", d.at("versions"), "-base", d.at("base"), "-keys", d.at("release.keys")}, args...)...)
}

// release makes a release with the flags every one needs.
func (d desk) release(code int, version string, args ...string) string {
	d.t.Helper()
	for _, p := range []string{"kioskd", "yaoju"} {
		d.write("build/"+p, "#!/bin/sh\necho "+p+" "+version+"\n", 0o755)
	}
	return d.run(code, append([]string{"bundle", "-dir", d.at("build"), "-version", version, "-arch", runtime.GOARCH, "-built", "1767225600",
		"-ledger-writes", "1", "-ledger-oldest", "1", "-ledger-newest", "1"}, args...)...)
}

func TestUpdateCommands(t *testing.T) {
	d := newDesk(t)
	d.release(0, "1.0", "-base", "-out", d.at("manifest.json"))
	if err := os.Rename(d.at("build"), d.at("base")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(d.at("manifest.json"), d.at("base/manifest.json")); err != nil {
		t.Fatal(err)
	}
	said := d.release(0, "1.1", "-key", d.at("release.key"), "-out", d.at("1.1.bundle"))
	found := regexp.MustCompile(`sha256   ([0-9a-f]{64})\nsize     ([0-9]+)\n`).FindStringSubmatch(said)
	if found == nil {
		t.Fatalf("bundle said:\n%s", said)
	}
	size, err := strconv.ParseInt(found[2], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if said := d.run(0, "verify", "-bundle", d.at("1.1.bundle"), "-keys", d.at("release.keys")); !strings.Contains(said, "version  1.1 for "+runtime.GOARCH+", built 2026-01-01T00:00:00Z") || !strings.Contains(said, "whole, and signed") {
		t.Errorf("verify said:\n%s", said)
	}
	if said := d.versions(0, "status"); !strings.Contains(said, "no version was started") {
		t.Errorf("status said:\n%s", said)
	}
	d.versions(0, "check")
	d.install(update.Order{ID: "c-1", Update: protocol.Update{Version: "1.1", SHA256: found[1], Size: size, DeadlineMS: time.Now().Add(time.Hour).UnixMilli()}})
	if said := d.versions(0, "check"); !strings.Contains(said, "version 1.1 is on trial, start 1 of 3") {
		t.Errorf("check said:\n%s", said)
	}
	if said := d.versions(0, "status"); !strings.Contains(said, "current   1.1\nprevious  base\non trial  1.1, started 1 times\n") {
		t.Errorf("status said:\n%s", said)
	}
	if said := d.versions(2, "rollback"); !strings.Contains(said, "say why") {
		t.Errorf("rollback said:\n%s", said)
	}
	if said := d.versions(0, "rollback", "-why", "it hums"); !strings.Contains(said, "systemctl restart kioskd") {
		t.Errorf("rollback said:\n%s", said)
	}
	if said := d.versions(0, "status"); !strings.Contains(said, "current   base\nlast      1.1: rolled_back it hums\n") {
		t.Errorf("status said:\n%s", said)
	}
}

// install brings the bundle to where only the restart is left, as kioskd does.
func (d desk) install(o update.Order) {
	d.t.Helper()
	keys, err := releaseKeys(d.at("release.keys"))
	if err != nil {
		d.t.Fatal(err)
	}
	s, err := update.OpenStore(update.StoreOptions{Dir: d.at("versions"), Base: d.at("base"), Arch: runtime.GOARCH, Keys: keys})
	if err != nil {
		d.t.Fatal(err)
	}
	defer s.Close()
	b, err := os.ReadFile(d.at("1.1.bundle"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.write("versions/incoming/"+o.SHA256+".part", string(b), 0o644)
	for _, step := range []func() error{
		func() error { return s.Take(o) },
		func() error { return s.Stage(context.Background(), o) },
		func() error {
			return update.Try(context.Background(), d.at("versions/versions/1.1"), "1.1", d.at("release.keys"))
		},
		func() error { return s.Switch(o, update.Signs{}) },
	} {
		if err := step(); err != nil {
			d.t.Fatal(err)
		}
	}
}

// A release that is not made right is not made.
func TestUpdateBundleComplaints(t *testing.T) {
	d := newDesk(t)
	key, out := d.at("release.key"), d.at("out.bundle")
	for want, args := range map[string][]string{
		"want -dir and -out, and either":     {"-out", out},
		"others can read it":                 {"-key", d.at("open.key"), "-out", out},
		"not one that yaoju update key made": {"-key", d.at("empty.key"), "-out", out},
		"no such file":                       {"-key", d.at("no.key"), "-out", out},
		"want amd64 or arm64":                {"-key", key, "-out", out, "-arch", "riscv64"},
		"built at no time":                   {"-key", key, "-out", out, "-built", "0"},
		"oldest <= writes":                   {"-key", key, "-out", out, "-ledger-writes", "3"},
		"nothing is to be said after":        {"-key", key, "-out", out, "more"},
	} {
		d.write("open.key", "x", 0o644)
		d.write("empty.key", "x", 0o600)
		code := 1
		if strings.HasPrefix(want, "want -dir") || strings.HasPrefix(want, "nothing") {
			code = 2
		}
		if said := d.release(code, "1.1", args...); !strings.Contains(said, want) {
			t.Errorf("%v: said %q, want %q", args, said, want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%v: something was written", args)
		}
	}
	before, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if said := d.run(1, "key", "-out", key); !strings.Contains(said, "file exists") {
		t.Errorf("key said %q", said)
	}
	if after, err := os.ReadFile(key); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the old key was written over, %v", err)
	}
	if said := d.run(2, "frobnicate"); !strings.Contains(said, "unknown command") {
		t.Errorf("said %q", said)
	}
	if said := d.run(2); !strings.Contains(said, "usage: yaoju update") {
		t.Errorf("said %q", said)
	}
}

// A machine without its list of keys starts all the same, and its check says so where
// the list is there and cannot be read.
func TestUpdateCheckWithoutKeys(t *testing.T) {
	d := newDesk(t)
	if err := os.Remove(d.at("release.keys")); err != nil {
		t.Fatal(err)
	}
	d.versions(0, "check")
	d.write("release.keys", "nonsense\n", 0o644)
	if said := d.versions(1, "check"); !strings.Contains(said, "line 1") {
		t.Errorf("check said:\n%s", said)
	}
}
