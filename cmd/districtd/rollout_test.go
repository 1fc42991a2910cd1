package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"yaoju/daemon/update"
)

// bundled makes a signed bundle of invented programs and returns its path.
func bundled(t *testing.T, dir, version string, key ed25519.PrivateKey) string {
	t.Helper()
	files := fstest.MapFS{"kioskd": {Data: []byte("kioskd " + version)}, "yaoju": {Data: []byte("yaoju " + version)}}
	m := update.Manifest{Format: 1, Version: version, Arch: "arm64", BuiltMS: 1767225600000, Ledger: update.Schema{Writes: 1, Oldest: 1, Newest: 1}}
	for _, name := range []string{"kioskd", "yaoju"} {
		f, err := update.Sum(name, bytes.NewReader(files[name].Data))
		if err != nil {
			t.Fatal(err)
		}
		m.Files = append(m.Files, f)
	}
	var b bytes.Buffer
	if err := update.WriteBundle(&b, key, m, files); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, fmt.Sprintf("%s-%x.bundle", version, key.Public().(ed25519.PublicKey)[:2]))
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// An officer takes a release in and brings it out, by words alone.
func TestUpdateOrders(t *testing.T) {
	dir := t.TempDir()
	key, stranger := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)), ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
	keys := filepath.Join(dir, "release.keys")
	cfg := settled(t, fmt.Sprintf("[update]\nkeys = %q\n", keys))
	give := func(want string, words ...string) string {
		t.Helper()
		text, err := carryOut(t.Context(), cfg, append([]string{"update"}, words...), quiet)
		if err != nil {
			text = err.Error()
		}
		if !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
			t.Errorf("update %s: got %q, want %q", strings.Join(words, " "), text, want)
		}
		return text
	}
	good := bundled(t, dir, "1.1", key)
	give("update.keys in districtd.toml", "add", good)
	if err := os.WriteFile(keys, []byte(base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	give("no such file", "add", filepath.Join(dir, "none"))
	give("no machine would take it", "add", bundled(t, dir, "1.1", stranger))
	give("no machine would take it", "add", keys)
	give("take its bundle in first", "start", "1.1", "--all")
	give("version 1.1 for arm64 is here", "add", good)
	give("version 1.1 for arm64 is here", "add", good)
	give("release 1.1 for arm64", "status")
	give("say who", "start", "1.1")
	give("say who", "start", "1.1", "--all", "--machines", "m-0001")
	give("flag provided but not defined", "start", "1.1", "--everybody")
	give("want a number of machines and then percents", "start", "1.1", "--all", "--wave", "10%,100%")
	give("plan: percents", "start", "1.1", "--all", "--wave", "1,50%")
	give("plan: within 1m0s", "start", "1.1", "--all", "--within", "1m")
	give("enter it in districtd.toml", "start", "1.1", "--machines", "m-0009")
	give("no rollout is running", "pause")
	id, _, _ := strings.Cut(give("brings 1.1 to 1 machines, in waves of 1.", "start", "1.1", "--all"), " ")
	give("m-0001 is in rollout "+id, "start", "1.1", "--machines", "m-0001")
	give("running, wave 1 of 3, 0 of 1 machines have it, 0 failed, 0 missing m-0001 wave 1 waiting not heard of yet", "status", id)
	give("paused", "pause")
	give("running", "resume", id)
	give("no such rollout", "stop", "r-none")
	give("stop it first", "remove", "1.1")
	give("stopped", "stop")
	give("forgotten", "remove", "1.1")
	give("take its bundle in first", "resume")
	for _, words := range [][]string{{}, {"frobnicate"}, {"add"}, {"status", "a", "b"}, {"start"}} {
		give("update start VERSION WHO HOW", words...)
	}
}

func TestParseWaves(t *testing.T) {
	canary, percents, err := parseWaves("3, 10%,100%")
	if err != nil || canary != 3 || !slices.Equal(percents, []int{10, 100}) {
		t.Errorf("got %d, %v, %v", canary, percents, err)
	}
	for _, s := range []string{"", "x", "1%", "1,2", "1,,100%", "1,10%,x%"} {
		if _, _, err := parseWaves(s); err == nil {
			t.Errorf("%q: taken", s)
		}
	}
}

// A file is meant as whoever gives the order sees it.
func TestLocated(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	got, err := located([]string{"update", "add", "x.bundle"})
	if err != nil || got[2] != filepath.Join(here, "x.bundle") {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := located([]string{"update", "status", "x"}); err != nil || got[2] != "x" {
		t.Errorf("got %v, %v", got, err)
	}
}
