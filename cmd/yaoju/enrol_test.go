package main

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
		if err := enrolCommand(tb.Context(), append([]string{line, "--config", t.kioskConfig}, flags...), &said); err != nil {
			tb.Fatal(err)
		}
	}
	if !strings.Contains(said.String(), "has its certificate") || strings.Contains(said.String(), "[district]") {
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
	if text, err := tn.order(t, "consent", string(siteOf(0).machine)); err != nil {
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
	} {
		if err := enrolCommand(t.Context(), args, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", args, err, want)
		}
	}
}
