package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"yaoju/daemon/identity/tpm"
)

// order gives districtd an order and returns what it printed.
func (t *town) order(tb testing.TB, words ...string) (string, error) {
	tb.Helper()
	out, err := exec.Command(filepath.Join(t.bin, "districtd"), append([]string{"-config", t.districtConf}, words...)...).CombinedOutput()
	return string(out), err
}

// enrol carries a line from the district to the machine.
func (t *town) enrol(tb testing.TB, flags ...string) {
	tb.Helper()
	text, err := t.order(tb, "enrol", string(siteOf(0).machine))
	if err != nil {
		tb.Fatalf("%v\n%s", err, text)
	}
	line, _, _ := strings.Cut(text, "\n")
	var said bytes.Buffer
	for range 2 { // the first answer may have been lost
		said.Reset()
		if err := enrolCommand(tb.Context(), append([]string{line, "--config", t.kioskConfig, "-key", "file"}, flags...), &said); err != nil {
			tb.Fatal(err)
		}
	}
	if !strings.Contains(said.String(), "is enrolled") || strings.Contains(said.String(), "[district]") {
		tb.Errorf("enrol said %q", said.String())
	}
}

// shows waits until the console's page holds text.
func (t *town) shows(tb testing.TB, text string) {
	tb.Helper()
	client := &http.Client{Timeout: 5 * time.Second}
	err := t.district.await(tb.Context(), readyLimit, func() bool {
		r, err := client.Get("http://" + t.console + "/?lang=en")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		var b bytes.Buffer
		b.ReadFrom(r.Body) // a page cut short is asked for again
		return strings.Contains(b.String(), text)
	})
	if err != nil {
		tb.Fatalf("the console does not show %q: %v", text, err)
	}
}

// The real programs over TLS: a machine is enrolled while districtd runs, serves,
// is revoked and gone at once, stays gone over a restart of the district, and comes
// back with a new key, while the signing key changes under it.
func TestCertificates(t *testing.T) {
	t.Parallel()
	p := quick(t, bayOf(1, "condom-52", 3, "2030-01-31"))
	p.certificates = true
	tn := assemble(t, p)
	if err := tn.startDistrict(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := tn.startKiosk(t.Context()); err != nil { // not enrolled yet: it serves all the same
		t.Fatal(err)
	}
	tn.enrol(t)
	tn.shows(t, "pill ok")
	if text, err := tn.order(t, "keys", "rotate"); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if text, err := tn.order(t, "keys", "retire"); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if text, err := tn.order(t, "revoke", string(siteOf(0).machine)); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	tn.shows(t, "pill offl")
	if err := tn.district.stop(); err != nil {
		t.Fatal(err)
	}
	// Without a running districtd an order is carried out all the same.
	if text, err := tn.order(t, "certificates"); err != nil || !strings.Contains(text, string(siteOf(0).machine)+"  revoked") {
		t.Fatalf("%v\n%s", err, text)
	}
	if err := tn.startDistrict(t.Context()); err != nil {
		t.Fatal(err)
	}
	tn.enrol(t, "-new-key")
	tn.shows(t, "pill ok")
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(tn.ledger), "trust.json")); err != nil || !strings.Contains(string(b), `"serial":2`) {
		t.Errorf("the machine did not follow the signing key: %s, %v", b, err)
	}
	if err := tn.stop(); err != nil {
		t.Error(err)
	}
}

func TestEnrolRefuses(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "kioskd.toml")
	if err := os.WriteFile(config, []byte("machine = \"m-2\"\ndata = \""+dir+"\"\nother = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	line := "yaoju1/m-1/127.0.0.1:1/" + strings.Repeat("A", 43) + "/" + strings.Repeat("A", 32)
	for want, args := range map[string][]string{
		"does not begin with": {"-config", config, "nothing"},
		"cut off":             {"-config", config, line[:60]},
		"too much":            {"-config", config, line, line},
		"is for m-1":          {line, "-config", config},
		"no such file":        {line, "-config", filepath.Join(dir, "none")},
		"want auto, tpm":      {line, "-config", config, "-key", "chip"},
	} {
		if err := enrolCommand(t.Context(), args, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", args, err, want)
		}
	}
}

// A TPM is used if there is one, and whoever wants one is told why there is none.
func TestKeyPlace(t *testing.T) {
	closed := func() error { return fmt.Errorf("%w: permission denied", tpm.ErrNone) }
	absent := func() error { return fmt.Errorf("%w: %w", tpm.ErrNone, fs.ErrNotExist) }
	there := func() error { return nil }
	for _, tt := range []struct {
		place string
		check func() error
		inTPM bool
		fails bool
		says  string
	}{
		{"auto", there, true, false, ""},
		{"auto", absent, false, false, ""},
		{"auto", closed, false, false, "permission denied"},
		{"file", there, false, false, ""},
		{"tpm", there, true, false, ""},
		{"tpm", absent, true, true, ""},
	} {
		var out bytes.Buffer
		got, err := keyPlace(tt.place, tt.check, &out)
		if got != tt.inTPM || (err != nil) != tt.fails || (tt.says == "") != (out.Len() == 0) || !strings.Contains(out.String(), tt.says) {
			t.Errorf("%s: got %v, %v, said %q; want %+v", tt.place, got, err, &out, tt)
		}
	}
}

// asOwner is set by TestBecome for the process it starts.
var asOwner = flag.String("as-owner", "", "folder to write into as its owner")

// Root writes into kioskd's folder as kioskd: what is there is kioskd's, and links that
// kioskd could put there lead nowhere that kioskd could not go. Nobody else writes there.
func TestBecome(t *testing.T) {
	if *asOwner != "" {
		if err := become(*asOwner); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(*asOwner, "key"), nil, 0o600); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(*asOwner, "link", "key"), nil, 0o600); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("through a link into root's folder: %v", err)
		}
		return
	}
	if os.Geteuid() != 0 { // root's folder stands for another user's
		if err := become("/"); err == nil || !strings.Contains(err.Error(), "sudo") {
			t.Errorf("somebody else's folder: %v", err)
		}
		return
	}
	const nobody = 65534
	dir, roots := t.TempDir(), t.TempDir()
	for p := dir; p != "/"; p = filepath.Dir(p) {
		if info, err := os.Stat(p); err == nil && strings.HasPrefix(p, os.TempDir()+"/") {
			os.Chmod(p, info.Mode().Perm()|0o011) // whoever owns what is below gets there
		}
	}
	if err := errors.Join(os.Chmod(roots, 0o700), os.Symlink(roots, filepath.Join(dir, "link")), os.Chown(dir, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(os.Args[0], "-test.run=^TestBecome$", "-as-owner", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(filepath.Join(dir, "key"))
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != nobody {
		t.Errorf("the file is not the owner's: %v", err)
	}
}
