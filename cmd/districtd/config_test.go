package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"yaoju/protocol"
)

const good = `data = "/var/lib/yaoju-district"
name = {zh = "青榆区（示例）", en = "Qingyu District (sample)"}
[policy]
age_from = 18
[[policy.rule]]
max = 1
per = "days"
days = 30
[[product]]
id = "gel"
letter = "C"
class = "external"
units = 1
name = {zh = "避孕凝胶", en = "Contraceptive gel"}
note = {zh = "外用", en = "External"}
[texts]
authority = {zh = "（示例）", en = "(sample)"}
phone = "000-0000-0000"
[[machine]]
id = "m-0001"
name = {zh = "一", en = "One"}
street = {zh = "街", en = "Street"}
[[machine.slots]]
slots = [1, 2, 60]
product = "gel"
capacity = 10
par = 3
`

func TestConfig(t *testing.T) {
	c, err := parseConfig("districtd.toml", strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	d := c.desired(c.Machines[0])
	if len(d.Planogram) != 3 || d.Planogram[2] != (protocol.SlotPlan{Slot: 60, Product: "gel", Capacity: 10, Par: 3}) || d.Policy.KeepDays() != 30 {
		t.Errorf("got %+v", d)
	}
}

// Every mistake comes at once, with its line and what would be right.
func TestConfigComplaints(t *testing.T) {
	bent := good
	for _, change := range [][2]string{{`max = 1`, `max = 0`}, {`par = 3`, `par = 30`}, {`en = "One"`, `en = ""`}, {`data = `, `date = `}} {
		bent = strings.Replace(bent, change[0], change[1], 1)
	}
	bent += "[[machine]]\nid = \"m-0001\"\n[console]\nlisten = \"0.0.0.0:80\"\n[mqtt]\nlisten = \"1883\"\n"
	_, err := parseConfig("districtd.toml", strings.NewReader(bent))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{":1: date: unknown key", "districtd.toml: data: missing", ":3: policy: quota rule 1: max 0", "machine[0]: name (en)", "console.listen: want a loopback", "mqtt.listen:", `machine[1].id: "m-0001" is machine[0] already`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no complaint %q in:\n%v", want, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add(good)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseConfig("x", strings.NewReader(text))
		if err != nil {
			return
		}
		for _, m := range c.Machines {
			d := c.desired(m)
			d.DesiredVersion = protocol.DesiredVersion{Generation: 1, Version: 1}
			if err := d.Valid(); err != nil {
				t.Errorf("accepted a machine that cannot be told what it should hold: %v", err)
			}
		}
	})
}

// The signing key is made once, only its owner may read it, and a damaged or open
// one is refused with what to do.
func TestSigner(t *testing.T) {
	cfg := Config{Data: filepath.Join(t.TempDir(), "data")}
	first, err := signer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cfg.Data, "district.key")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode is %v, %v", info.Mode(), err)
	}
	if again, err := signer(cfg); err != nil || !again.Equal(first) {
		t.Errorf("another key the second time: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := signer(cfg); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: %v", err)
	}
	for _, text := range []string{"", "nothing", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if err := os.WriteFile(path, []byte(text), fs.FileMode(0o600)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := signer(cfg); err == nil || !strings.Contains(err.Error(), "backup") {
			t.Errorf("key file %q: %v", text, err)
		}
	}
}
