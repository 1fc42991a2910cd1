package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"yaoju/daemon/identity"
	"yaoju/daemon/identity/backup"
)

var quiet = slog.New(slog.DiscardHandler)

// settled is a checked configuration whose data folder is a fresh one.
func settled(t *testing.T, more string) Config {
	t.Helper()
	data := filepath.Join(t.TempDir(), strings.Repeat("long", 30), "data") // no socket could have such a name
	c, err := parseConfig("districtd.toml", strings.NewReader(strings.Replace(good, "/var/lib/yaoju-district", data, 1)+more))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Without certificates whoever connects is any machine, so only on loopback, and only
// if the file says so in as many words.
func TestConfigDoors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      "",
		"[mqtt]\nlisten = \"127.0.0.1:1883\"\n": "",
		"[mqtt]\nlisten = \"127.0.0.1:1883\"\ntls = \"off\"\n":                                       "",
		"[mqtt]\nlisten = \"0.0.0.0:8883\"\n[identity]\nnames = [\"district.example\"]\n":            "",
		"[mqtt]\nlisten = \"0.0.0.0:8883\"\n":                                                        "identity.names: missing",
		"[mqtt]\nlisten = \"0.0.0.0:1883\"\ntls = \"off\"\n":                                         "mqtt.listen: tls is \"off\"",
		"[mqtt]\ntls = \"no\"\n":                                                                     "mqtt.tls: want",
		"[mqtt]\nlisten = \"localhost:1883\"\n":                                                      "mqtt.listen: want an address",
		"[identity]\nlisten = \"127.0.0.1:8883\"\n":                                                  "identity.listen: the same address",
		"[identity]\nlisten = \"8884\"\n":                                                            "identity.listen: want",
		"[identity]\nnames = [\"a b\"]\n":                                                            "identity.names: host",
		"[mqtt]\nlisten = \"192.0.2.7:8883\"\n[identity]\nnames = [\"district.example\", \"::1\"]\n": "",
	} {
		_, err := parseConfig("districtd.toml", strings.NewReader(good+text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	c := settled(t, "")
	if c.Identity.Listen != "127.0.0.1:8884" || len(c.Identity.Names) != 1 || c.Identity.Names[0] != "127.0.0.1" {
		t.Errorf("what follows from mqtt.listen: %+v", c.Identity)
	}
}

// lineOf reads the enrolment line out of an answer.
func lineOf(t *testing.T, text string) identity.Line {
	t.Helper()
	first, _, _ := strings.Cut(text, "\n")
	l, err := identity.ParseLine(first)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// The same orders are carried out by the running districtd, over its line, and where
// none runs, by the command itself; what the one did the other knows.
func TestOrders(t *testing.T) {
	cfg := settled(t, "")
	give := func(words ...string) (string, error) { return carryOut(t.Context(), cfg, words, quiet) }
	text, err := give("enrol", "m-0001")
	if err != nil {
		t.Fatal(err)
	}
	before := lineOf(t, text)
	if before.Machine != "m-0001" || before.Address != "127.0.0.1:8884" {
		t.Errorf("got %+v", before)
	}

	held, err := lock(cfg.Data)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := give("enrol", "m-0001"); err == nil || !strings.Contains(err.Error(), "another districtd") {
		t.Errorf("while districtd is starting: %v", err)
	}
	o, err := openOffice(t.Context(), cfg, []string{"district.test"}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	l, err := listenOrders(cfg.Data)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(cfg.Data, officeLine)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the line's mode is %v, %v", info.Mode(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx, l) }()
	if text, err = give("enrol", "m-0001"); err != nil {
		t.Fatal(err)
	}
	if now := lineOf(t, text); now.Root != before.Root || now.Token == before.Token {
		t.Errorf("got %+v after %+v", now, before)
	}
	for want, words := range map[string][]string{"no such machine": {"enrol", "m-0009"}, "machine id": {"consent", "M 1"}, "unknown order": {"enrol"}, "certificates        list": {"certificates", "m-0001"}, "there is none": {"keys", "retire"}} {
		if _, err := give(words...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", words, err, want)
		}
	}
	was := o.signer.Public()
	n := identity.Name{Machine: "m-0001", Key: identity.KeyID{1}, Until: time.Now().Add(identity.Validity)}
	enrolled := func() {
		t.Helper()
		if err := (registry{o.d}).Redeem(t.Context(), lineOf(t, text).Token, n); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		words string
		says  string
		then  func()
	}{
		{"certificates", "m-0001  not enrolled; a line for it is good until", enrolled},
		{"certificates", "m-0001  good until " + o.day(n.Until) + "\n", nil},
		{"enrol m-0001", "sudo yaoju enrol LINE\n\nm-0001 has a certificate until " + o.day(n.Until), nil},
		{"consent m-0001", "needs no consent", nil},
		{"consent ALL", "nobody needs", nil},
		{"revoke m-0001", "sudo yaoju enrol -new-key LINE", nil},
		{"certificates", "m-0001  revoked\n", nil},
		{"enrol m-0001", "sudo yaoju enrol -new-key LINE\n\nIts old key was revoked", nil},
		{"keys rotate", "the backup before this one", nil},
		{"keys retire", "The district signs with", nil},
	} {
		got, err := give(strings.Fields(step.words)...)
		if err != nil || !strings.Contains(got, step.says) {
			t.Errorf("%s: got %q, %v; want %q in it", step.words, got, err, step.says)
		}
		if step.then != nil {
			step.then()
		}
	}
	if _, err := give("consent", "m-0001"); err == nil || !strings.Contains(err.Error(), "-new-key") {
		t.Errorf("consent to a revoked machine: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := o.d.Close(); err != nil {
		t.Error(err)
	}
	held.Close()
	s, err := openSigner(cfg)
	if err != nil || s.Public().Equal(was) || len(s.Links) != 2 {
		t.Errorf("the key did not change for good: %d links, %v", len(s.Links), err)
	}
	if _, err := give("keys", "rotate"); err != nil {
		t.Errorf("without a running districtd: %v", err)
	}
	plain := settled(t, "[mqtt]\nlisten = \"127.0.0.1:1883\"\ntls = \"off\"\n")
	if _, err := carryOut(t.Context(), plain, []string{"enrol", "m-0001"}, quiet); err == nil || !strings.Contains(err.Error(), "mqtt.tls") {
		t.Errorf("without certificates: %v", err)
	}
}

// A district whose disk was lost is known to its machines again after a restore; and
// no backup goes over keys that machines may know.
func TestBackUpAndRestore(t *testing.T) {
	const passphrase = "correct horse battery"
	const cheap = 4 // what is tested here is not how long a guess takes
	cfg := settled(t, "")
	file := filepath.Join(t.TempDir(), "backup.age")
	if err := backUp(cfg.Data, file, passphrase, cheap); err == nil {
		t.Error("backed up a district that does not exist")
	}
	text, err := carryOut(t.Context(), cfg, []string{"enrol", "m-0001"}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	root := lineOf(t, text).Root
	if _, err := carryOut(t.Context(), cfg, []string{"keys", "rotate"}, quiet); err != nil {
		t.Fatal(err)
	}
	if err := backUp(cfg.Data, file, passphrase, cheap); err != nil {
		t.Fatal(err)
	}
	if err := backUp(cfg.Data, file, passphrase, cheap); err == nil {
		t.Error("a backup was written over another")
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup's mode is %v, %v", info.Mode(), err)
	}
	key := filepath.Join(cfg.Data, caFolder, "issuing.pem")
	good, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := backUp(cfg.Data, file+"2", passphrase, cheap); err == nil || !strings.Contains(err.Error(), "not sound") {
		t.Errorf("a damaged CA: %v", err)
	}
	if err := os.WriteFile(key, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := restore(cfg.Data, file, passphrase, time.Now()); err != nil {
		t.Errorf("over itself, as after an interrupted restore: %v", err)
	}

	lost := settled(t, "")
	if err := os.MkdirAll(lost.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := restore(lost.Data, file, passphrase+"!", time.Now()); err == nil {
		t.Error("restored with another passphrase")
	}
	if err := restore(lost.Data, file, passphrase, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Machines without a key here: 1.", "here: 1."} {
		if text, err := carryOut(t.Context(), lost, []string{"consent", "ALL"}, quiet); err != nil || !strings.Contains(text, want) {
			t.Errorf("consent to all: %q, %v; want %q", text, err, want)
		}
	}
	text, err = carryOut(t.Context(), lost, []string{"enrol", "m-0001"}, quiet)
	if err != nil || lineOf(t, text).Root != root {
		t.Errorf("another CA after the restore: %v", err)
	}
	a, errA := openSigner(cfg)
	b, errB := openSigner(lost)
	if errA != nil || errB != nil || !a.Key.Equal(b.Key) || len(b.Links) != 1 {
		t.Errorf("another signing key after the restore: %v, %v", errA, errB)
	}
	if all, err := os.ReadDir(lost.Data); err != nil || strings.Contains(list(all), ".restore") {
		t.Errorf("left behind: %s, %v", list(all), err)
	}

	other := settled(t, "")
	if _, err := carryOut(t.Context(), other, []string{"enrol", "m-0001"}, quiet); err != nil {
		t.Fatal(err)
	}
	if err := restore(other.Data, file, passphrase, time.Now()); err == nil || !strings.Contains(err.Error(), "differs") {
		t.Errorf("over another district's keys: %v", err)
	}
}

func list(all []os.DirEntry) string {
	var b strings.Builder
	for _, f := range all {
		b.WriteString(f.Name() + " ")
	}
	return b.String()
}

// A backup that was put together by somebody else changes nothing.
func TestRestoreRefuses(t *testing.T) {
	const passphrase = "correct horse battery"
	for name, files := range map[string]map[string][]byte{
		"no signing key":   {"ca/root.pem": []byte("x")},
		"a foreign name":   {"district.key": []byte("x"), "../../etc/passwd": []byte("x")},
		"a damaged key":    {"district.key": []byte("x")},
		"the database too": {"district.key": []byte("x"), "district.db": []byte("x")},
	} {
		var b bytes.Buffer
		if err := backup.Seal(&b, passphrase, 4, files); err != nil {
			t.Fatal(err)
		}
		data, file := t.TempDir(), filepath.Join(t.TempDir(), "b")
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		err := restore(data, file, passphrase, time.Now())
		if all, _ := os.ReadDir(data); err == nil || len(all) > 0 {
			t.Errorf("%s: %v, and %s is there", name, err, list(all))
		}
	}
}

// A CA that is gone while machines have certificates of it is not made anew.
func TestCAIsGone(t *testing.T) {
	cfg := settled(t, "")
	text, err := carryOut(t.Context(), cfg, []string{"enrol", "m-0001"}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	l := lineOf(t, text)
	o, err := openOffice(t.Context(), cfg, nil, quiet)
	if err != nil {
		t.Fatal(err)
	}
	err = registry{o.d}.Redeem(t.Context(), l.Token, identity.Name{Machine: "m-0001", Key: identity.KeyID{1}, Until: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(cfg.Data, caFolder)); err != nil {
		t.Fatal(err)
	}
	if _, err := openOffice(t.Context(), cfg, nil, quiet); err == nil || !strings.Contains(err.Error(), "ca restore") {
		t.Errorf("got %v", err)
	}
}

// A passphrase that is piped in is the first line of it.
func TestPassphrase(t *testing.T) {
	for text, want := range map[string]string{"twelve or more\n": "twelve or more", "no newline at all": "no newline at all", "dos\r\nmore\n": "dos", "": ""} {
		path := filepath.Join(t.TempDir(), "p")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := askPassphrase(t.Context(), f, new(bytes.Buffer), "?", "again?")
		f.Close()
		if got != want || (err != nil) != (text == "") {
			t.Errorf("%q: got %q, %v", text, got, err)
		}
	}
}
