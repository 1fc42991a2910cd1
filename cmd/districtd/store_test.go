package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// Another broker, another database and the metrics are settings; each mistake is said
// with what would be right, and a password is in no message.
func TestConfigStore(t *testing.T) {
	names := "[identity]\nnames = [\"district.example\"]\n"
	for text, want := range map[string]string{
		"[mqtt]\nbroker = \"tls://district.example:8883\"\n" + names:                                                        "",
		"[mqtt]\nbroker = \"tls://district.example:8883\"\nname = \"DISTRICT-2\"\n" + names:                                 "",
		"[mqtt]\nbroker = \"mqtt://127.0.0.1:1883\"\ntls = \"off\"\n":                                                       "",
		"[mqtt]\nbroker = \"tls://district.example:8883\"\n":                                                                "identity.names: missing",
		"[mqtt]\nbroker = \"mqtt://district.example:1883\"\n" + names:                                                       "want it to begin with tls://",
		"[mqtt]\nbroker = \"mqtt://192.0.2.7:1883\"\ntls = \"off\"\n":                                                       "want a broker on loopback",
		"[mqtt]\nbroker = \"tls://127.0.0.1:1883\"\ntls = \"off\"\n":                                                        "want a broker on loopback",
		"[mqtt]\nbroker = \"district.example\"\n" + names:                                                                   "mqtt.broker: want an address with a port",
		"[mqtt]\nbroker = \"tls://district.example:8883\"\nname = \"m-0001\"\n" + names:                                     "mqtt.name",
		"[mqtt]\nbroker = \"tls://district.example:8883\"\n[identity]\nlisten = \"127.0.0.1:8090\"\nnames = [\"a.test\"]\n": "identity.listen: the same",
	} {
		_, err := parseConfig("districtd.toml", strings.NewReader(good+text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"metrics = \"127.0.0.1:9464\"\n":                                "",
		"metrics = \"0.0.0.0:9464\"\n":                                  "metrics: want a loopback address",
		"metrics = \"127.0.0.1:8090\"\n":                                "metrics: want a loopback address with a port of its own",
		"metrics = \"9464\"\n":                                          "metrics: want a loopback address",
		"database = \"postgres:///yaoju?host=/run/postgresql\"\n":       "",
		"database = \"postgres://a:verysecret@h:port/yaoju\"\n":         "database: address of the database",
		"database = \"postgres://a:verysecret@h/yaoju?sslmode=best\"\n": "database: address of the database",
	} {
		_, err := parseConfig("districtd.toml", strings.NewReader(text+good))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "verysecret") {
			t.Errorf("the password is in the message: %v", err)
		}
	}
	c, err := parseConfig("districtd.toml", strings.NewReader(good))
	if err != nil || c.database() != filepath.Join(c.Data, "district.db") {
		t.Errorf("database %q, err %v", c.database(), err)
	}
	c, err = parseConfig("districtd.toml", strings.NewReader(good+"[mqtt]\nbroker = \"tls://district.example:8883\"\n"+names))
	if err != nil || c.MQTT.address != "district.example:8883" || c.MQTT.Name != "DISTRICT" || c.Identity.Listen != "0.0.0.0:8884" {
		t.Errorf("broker %+v, enrolment at %q, err %v", c.MQTT, c.Identity.Listen, err)
	}
}
