package main

import (
	"strings"
	"testing"

	"yaoju/protocol/board"
)

const good = `machine = "m-0017"
data = "/var/lib/yaoju"
[board]
path = "/dev/ttyAMA0"
[reader]
path = "/dev/ttyUSB0"
[district]
broker = "tls://broker.example:8883"
keys = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
`

func TestConfig(t *testing.T) {
	c, err := parseConfig("kioskd.toml", strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	if c.Machine != "m-0017" || c.Board.Baud != 115200 || c.zone.String() != "Asia/Shanghai" || len(c.keys) != 1 || c.District.address != "broker.example:8883" || c.District.Enrol != "broker.example:8884" || !c.District.secure() || c.Screen.Listen != "127.0.0.1:8080" {
		t.Errorf("got %+v", c)
	}
}

// The board is told what the file says hangs on it, and the usual without a word.
func TestConfigBoard(t *testing.T) {
	small := board.DefaultConfigure()
	small.Fitted, small.Coupled, small.TurnMS = board.Slots(1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16), board.Slots(1, 3), 6000
	for text, want := range map[string]board.Configure{
		"": board.DefaultConfigure(),
		"slots = [\"1-6\", \"11-16\"]\npairs = [1, 3]\nturn_ms = 6000\n": small,
	} {
		c, err := parseConfig("kioskd.toml", strings.NewReader(strings.Replace(good, "[board]\n", "[board]\n"+text, 1)))
		if err != nil || c.motors.Config != want {
			t.Errorf("%q: got %+v, %v, want %+v", text, c.motors.Config, err, want)
		}
	}
}

// Every mistake comes at once, with its line and what would be right.
func TestConfigComplaints(t *testing.T) {
	_, err := parseConfig("kioskd.toml", strings.NewReader(`machine = "M 17"
consent = "maybe"
clock = "sundial"
zone = "Asia/Nowhere"
log = "loud"
volume = 11
[screen]
listen = "0.0.0.0:80"
frame = "https://elsewhere.example/x"
[board]
path = "/dev/ttyAMA0"
baud = 300
slots = ["1-10", "70"]
pairs = [10]
leave_ms = 50
turn_ms = "long"
jam_ma = 50
[reader]
path = "/dev/ttyAMA0"
baud = "fast"
[district]
broker = "broker"
keys = ["short"]
`))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"kioskd.toml: data: missing", ":1: machine:", ":2: consent:", ":3: clock:", ":4: zone:", ":5: log:", ":6: volume: unknown key",
		":8: screen.listen:", ":9: screen.frame:", ":12: board.baud:",
		":13: board.slots[1]: slot 70 does not exist", ":14: board.pairs[0]:", ":15: board.leave_ms:", ":16: board.turn_ms: want a whole number", ":17: board.jam_ma:",
		":19: reader.path: the same line", ":20: reader.baud: want a whole number", ":22: district.broker:", ":23: district.keys:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no complaint %q in:\n%v", want, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add(good)
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := parseConfig("x", strings.NewReader(text)); err == nil && (c.Machine.Valid() != nil || c.zone == nil || len(c.keys) == 0 || c.motors.Config.Valid() != nil) {
			t.Errorf("accepted %+v", c)
		}
	})
}

// Without certificates a machine believes whoever answers, so only on loopback, and
// only if the file says so in as many words.
func TestConfigDistrict(t *testing.T) {
	for text, want := range map[string]string{
		`broker = "tls://broker.example:8883"`:                                     "",
		`broker = "tls://[2001:db8::7]:8883"` + "\n" + `enrol = "192.0.2.7:443"`:   "",
		`broker = "tcp://127.0.0.1:1883"` + "\n" + `tls = "off"`:                   "",
		`broker = "tcp://127.0.0.1:1883"`:                                          "district.broker: want tls://host:port",
		`broker = "tls://127.0.0.1:1883"` + "\n" + `tls = "off"`:                   "district.broker: want tcp://host:port",
		`broker = "tcp://broker.example:1883"` + "\n" + `tls = "off"`:              "want an address on loopback",
		`broker = "tls://broker.example:8883"` + "\n" + `tls = "maybe"`:            "district.tls: want",
		`broker = "tls://broker.example"`:                                          "district.broker: want",
		`broker = "tls://me@broker.example:8883/x"`:                                "district.broker: want",
		`broker = "tls://broker.example:8883"` + "\n" + `enrol = "broker.example"`: "district.enrol: address",
	} {
		_, err := parseConfig("kioskd.toml", strings.NewReader(strings.Replace(good, `broker = "tls://broker.example:8883"`, text, 1)))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
