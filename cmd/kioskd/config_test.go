package main

import (
	"strings"
	"testing"
)

const good = `machine = "m-0017"
data = "/var/lib/yaoju"
[board]
path = "/dev/ttyAMA0"
[reader]
path = "/dev/ttyUSB0"
[district]
broker = "tcp://broker.example:1883"
keys = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
`

func TestConfig(t *testing.T) {
	c, err := parseConfig("kioskd.toml", strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	if c.Machine != "m-0017" || c.Board.Baud != 115200 || c.zone.String() != "Asia/Shanghai" || len(c.keys) != 1 || c.District.address != "broker.example:1883" || c.Screen.Listen != "127.0.0.1:8080" {
		t.Errorf("got %+v", c)
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
		":8: screen.listen:", ":9: screen.frame:", ":12: board.baud:", ":14: reader.path: the same line", ":15: reader.baud: want a whole number", ":17: district.broker:", ":18: district.keys:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no complaint %q in:\n%v", want, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add(good)
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := parseConfig("x", strings.NewReader(text)); err == nil && (c.Machine.Valid() != nil || c.zone == nil || len(c.keys) == 0) {
			t.Errorf("accepted %+v", c)
		}
	})
}
