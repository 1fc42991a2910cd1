package cabinet

import (
	"strings"
	"testing"
)

const updating = `machine = "m-0017"
data = "/var/lib/yaoju"
[board]
path = "/dev/ttyAMA0"
[reader]
path = "/dev/ttyUSB0"
[district]
broker = "tls://broker.example:8883"
keys = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
`

func TestConfigUpdate(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "",
		"[update]\ndir = \"/opt/yaoju\"\n": "",
		"[update]\ndir = \"/opt/yaoju\"\nfrom = \"https://192.0.2.7:443/x\"\nrate_kb = 64\n": "",
		"[update]\ndir = \"opt\"\n":                                                              ":11: update.dir: want a path",
		"[update]\ndir = \"/opt/yaoju\"\nbase = \"\"\n":                                          ":12: update.base: want a path",
		"[update]\ndir = \"/opt/yaoju\"\nkeys = \"release.keys\"\n":                              ":12: update.keys: want a path",
		"[update]\ndir = \"/opt/yaoju\"\nrate_kb = 1\n":                                          ":12: update.rate_kb: want 16",
		"[update]\ndir = \"/opt/yaoju\"\nfrom = \"http://district.example:8884/releases\"\n":     ":12: update.from: want an address",
		"[update]\ndir = \"/opt/yaoju\"\nfrom = \"https://me@district.example:8884/releases\"\n": ":12: update.from: want an address",
		"[update]\ndir = \"/opt/yaoju\"\nfrom = \"https://district.example/releases?x\"\n":       ":12: update.from: want an address",
	} {
		c, err := Parse("kioskd.toml", strings.NewReader(updating+text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
		if want == "" && c.Update.Takes() != (text != "") {
			t.Errorf("%q: takes updates: %v", text, c.Update.Takes())
		}
	}
	c, err := Parse("kioskd.toml", strings.NewReader(updating+"[update]\ndir = \"/opt/yaoju\"\n"))
	if err != nil || c.Update.From != "https://broker.example:8884/releases" || c.Update.Rate() != 256<<10 || c.Update.Base != "/usr/lib/yaoju/base" || c.File() != "kioskd.toml" {
		t.Errorf("got %+v, %q, %v", c.Update, c.File(), err)
	}
	plain := strings.Replace(updating, "tls://broker.example:8883\"", "tcp://127.0.0.1:1883\"\ntls = \"off\"", 1)
	if _, err := Parse("kioskd.toml", strings.NewReader(plain+"[update]\ndir = \"/opt/yaoju\"\n")); err == nil || !strings.Contains(err.Error(), "update.dir: district.tls is \"off\"") {
		t.Errorf("without certificates: %v", err)
	}
}
