package deploy

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// elfMachine says for which processor a program in a package is.
func elfMachine(t *testing.T, file, program string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, nil, "dpkg-deb", "--extract", file, dir)
	b, err := os.ReadFile(filepath.Join(dir, program))
	if err != nil {
		t.Fatal(err)
	}
	e, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	switch e.Machine {
	case elf.EM_X86_64:
		return "x86-64"
	case elf.EM_AARCH64:
		return "aarch64"
	}
	return e.Machine.String()
}

// The Pi's watchdog counts to 15 s at most; asked for more, some kernels give none.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("kiosk/root/etc/systemd/system.conf.d/yaoju.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"RuntimeWatchdogSec", "RebootWatchdogSec"} {
		m := regexp.MustCompile(`(?m)^` + key + `=(.+)$`).FindSubmatch(text)
		if m == nil {
			t.Fatalf("no %s", key)
		}
		if d, err := time.ParseDuration(string(m[1])); err != nil || d < 5*time.Second || d >= 15*time.Second {
			t.Errorf("%s=%s: want 5 s to below 15 s", key, m[1])
		}
	}
}

// What systemd thinks of the sandboxes, from 0 (tight) to 10. The screen's is wider:
// Chromium needs user namespaces, screen and sound.
func TestExposure(t *testing.T) {
	t.Parallel()
	for unit, limit := range map[string]float64{
		"district/root/usr/lib/systemd/system/districtd.service":   2.0,
		"kiosk/root/usr/lib/systemd/system/kioskd.service":         2.0,
		"kiosk/root/usr/lib/systemd/system/yaoju-firewall.service": 2.0,
		"kiosk/root/usr/lib/systemd/system/yaoju-screen.service":   4.5,
	} {
		out := run(t, nil, "systemd-analyze", "security", "--offline=true", "--no-pager", unit)
		m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("%s: no score in:\n%s", unit, out)
		}
		score, err := strconv.ParseFloat(m[1], 64)
		if err != nil || score > limit {
			t.Errorf("%s scores %s, at most %.1f is allowed:\n%s", unit, m[1], limit, out)
		}
		t.Logf("%s: %s", filepath.Base(unit), m[1])
	}
}
