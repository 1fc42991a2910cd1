package cabinet

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"yaoju/daemon/machine/gpio"
	"yaoju/daemon/machine/vending"
	"yaoju/daemon/scan"
	"yaoju/protocol"
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
	c, err := Parse("kioskd.toml", strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	if c.Machine != "m-0017" || c.Board.Baud != 115200 || c.location.String() != "Asia/Shanghai" || len(c.keys) != 1 || c.District.address != "broker.example:8883" || c.District.Enrol != "broker.example:8884" || !c.District.Secure() || c.Screen.Listen != "127.0.0.1:8080" {
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
		c, err := Parse("kioskd.toml", strings.NewReader(strings.Replace(good, "[board]\n", "[board]\n"+text, 1)))
		if err != nil || c.fitting.own.Config != want {
			t.Errorf("%q: got %+v, %v, want %+v", text, c.fitting.own.Config, err, want)
		}
	}
}

// Every mistake comes at once, with its line and what would be right.
func TestConfigComplaints(t *testing.T) {
	_, err := Parse("kioskd.toml", strings.NewReader(`machine = "M 17"
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

// full has something of everything.
const full = `machine = "m-0017"
data = "/var/lib/yaoju"
[board]
kind = "gpio"
[board.gpio]
enable = "GPIO4"
curtain = "GPIO17"
emitter = "GPIO27"
door = "!GPIO22"
turn_ms = 6000
[[board.gpio.motor]]
slot = 1
line = "GPIO5"
home = "!GPIO6"
[[board.gpio.motor]]
slot = 11
row = "GPIO13"
column = "GPIO19"
home = "!GPIO26"
[reader]
path = "/dev/ttyUSB0"
baud = 9600
[[scanner]]
name = "front"
path = "/dev/yaoju/usb-1-1.2"
[[scanner]]
name = "hand"
keyboard = "/dev/input/by-id/usb-Example-event-kbd"
suffix = "#"
gap_ms = 50
[[badge]]
name = "staff"
pn532 = "/dev/yaoju/usb-1-1.4"
[[badge]]
name = "door"
wiegand = {chip = "pinctrl-rp1", d0 = 20, d1 = 21}
[climate]
address = 0x45
[district]
broker = "tls://broker.example:8883"
keys = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
`

func TestConfigFittings(t *testing.T) {
	c, err := Parse("kioskd.toml", strings.NewReader(full))
	if err != nil {
		t.Fatal(err)
	}
	g := c.fitting.gpio
	if len(g.Motors) != 2 || g.Motors[0] != (gpio.Motor{Slot: 1, Line: "GPIO5", Home: "!GPIO6"}) || g.Motors[1] != (gpio.Motor{Slot: 11, Row: "GPIO13", Column: "GPIO19", Home: "!GPIO26"}) ||
		g.Enable != "GPIO4" || g.Door != "!GPIO22" || g.Turn != 6*time.Second || g.Leave != gpio.DefaultLeave {
		t.Errorf("got lines %+v", g)
	}
	if s := c.Scanners; len(s) != 2 || s[0] != (Scanner{Name: "front", Path: "/dev/yaoju/usb-1-1.2", Baud: 9600}) || s[1].framing() != (scan.Framing{Suffix: "#", Gap: 50 * time.Millisecond}) {
		t.Errorf("got scanners %+v", s)
	}
	if b := c.Badges; len(b) != 2 || b[0].PN532 != "/dev/yaoju/usb-1-1.4" || b[1].Wiegand != (Wiegand{Chip: "pinctrl-rp1", D0: 20, D1: 21}) {
		t.Errorf("got badges %+v", b)
	}
	if want := (Climate{Bus: 1, Address: 0x45, fitted: true}); c.Climate != want {
		t.Errorf("got climate %+v, want %+v", c.Climate, want)
	}
}

func TestConfigVending(t *testing.T) {
	text := strings.Replace(good, "[board]", "[board]\nkind = \"vending\"\nslots = [\"1-3\", \"7\"]\nelevator = true\ndrop_sensor = true\nusual_ms = 20000", 1)
	c, err := Parse("kioskd.toml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := vending.Options{Fitted: []protocol.Slot{1, 2, 3, 7}, Elevator: true, DropSensor: true, Turn: 20 * time.Second}
	if !reflect.DeepEqual(c.fitting.vending, want) {
		t.Errorf("got %+v, want %+v", c.fitting.vending, want)
	}
}

// Nobody gives up on a motor that still turns as it may.
func TestMotionLimit(t *testing.T) {
	vending := strings.Replace(good, "[board]", "[board]\nkind = \"vending\"", 1)
	for text, want := range map[string]time.Duration{
		good: 23400 * time.Millisecond, // three turns of 5 s, 5.4 s of watching, and the way there
		strings.Replace(good, "[board]", "[board]\nturn_ms = 7000", 1): 29400 * time.Millisecond,
		full:    26400 * time.Millisecond,
		vending: 48 * time.Second,
		strings.Replace(vending, "[board]", "[board]\nelevator = true", 1): 158 * time.Second,
	} {
		c, err := Parse("kioskd.toml", strings.NewReader(text))
		if err != nil || c.MotionLimit() != want {
			t.Errorf("got %v, %v, want %v for:\n%s", c.MotionLimit(), err, want, text)
		}
	}
}

// What does not fit together is refused where it stands.
func TestConfigFittingComplaints(t *testing.T) {
	for _, tt := range []struct{ old, new, want string }{ // in full
		{`kind = "gpio"`, `kind = "big"`, `:4: board.kind: want "own", "vending" or "gpio"`},
		{`kind = "gpio"`, ``, `:5: board.gpio: belongs to a board of kind "gpio"; this one is "own"`},
		{`kind = "gpio"`, `kind = "vending"`, `board.path: missing`},
		{`kind = "gpio"`, "kind = \"gpio\"\npath = \"/dev/ttyAMA0\"", `:5: board.path: belongs to a board of kind "own" or "vending"; this one is "gpio"`},
		{`kind = "gpio"`, "kind = \"gpio\"\nelevator = true", `:5: board.elevator: belongs to a board of kind "vending"`},
		{`kind = "gpio"`, "kind = \"gpio\"\njam_ma = 0", `:5: board.jam_ma: belongs to a board of kind "own"`},
		{`curtain = "GPIO17"`, ``, `:5: board.gpio.curtain: `},
		{`emitter = "GPIO27"`, `emitter = "GPIO4"`, `:8: board.gpio.emitter: line GPIO4 is enable and emitter`},
		{`turn_ms = 6000`, `turn_ms = 8000`, `:10: board.gpio.turn_ms: `},
		{`turn_ms = 6000`, `turn_ms = 0`, `:10: board.gpio.turn_ms: 0: not a time`},
		{`slot = 11`, `slot = 61`, `:16: board.gpio.motor[1].slot: slot 61`},
		{`slot = 11`, `slot = 1`, `:16: board.gpio.motor[1].slot: slot 1 is named twice`},
		{`line = "GPIO5"`, ``, `:11: board.gpio.motor[0].line: slot 1: want a line`},
		{`home = "!GPIO26"`, `home = "GPIO13"`, `:19: board.gpio.motor[1].home: line GPIO13 is row and home switch`},
		{`baud = 9600`, `baud = 300`, `:22: reader.baud: want`},
		{`name = "hand"`, `name = "front"`, `:27: scanner[1].name: "front" is the name of another one`},
		{`name = "hand"`, `name = ""`, `:27: scanner[1].name: want a word`},
		{`name = "staff"`, `name = "hand"`, `badge[0].name: "hand" is the name of another one`},
		{`path = "/dev/yaoju/usb-1-1.2"`, ``, `:23: scanner[0]: want either path`},
		{`path = "/dev/yaoju/usb-1-1.2"`, `path = "/dev/../dev/ttyUSB0"`, `:25: scanner[0].path: the same line as reader.path`},
		{`path = "/dev/yaoju/usb-1-1.2"`, `path = "ttyUSB7"`, `:25: scanner[0].path: want a path from the root`},
		{`suffix = "#"`, `baud = 9600`, `:29: scanner[1].baud: a keyboard has no speed`},
		{`gap_ms = 50`, `gap_ms = 5`, `:26: scanner[1]: `},
		{`gap_ms = 50`, `gap_ms = 9223372036854775807`, `:30: scanner[1].gap_ms: want`},
		{`pn532 = "/dev/yaoju/usb-1-1.4"`, `pn532 = "/dev/yaoju/usb-1-1.2"`, `:33: badge[0].pn532: the same line as scanner[0].path`},
		{`d1 = 21`, `d1 = 20`, `:36: badge[1].wiegand: d0 and d1`},
		{`address = 0x45`, `address = 0x46`, `:38: climate.address: want 0x44 or 0x45`},
		{`[reader]`, "[screen]\nlisten = \"127.0.0.1:70000\"\n[reader]", `:21: screen.listen: address`},
		{`[reader]`, "[screen]\nframe = \"http://127.0.0.1:70000\"\n[reader]", `:21: screen.frame: want`},
		{`tls://broker.example:8883`, `tls://broker.example:88830`, `district.broker: want`},
	} {
		if !strings.Contains(full, tt.old) {
			t.Fatalf("%q is not in the file", tt.old)
		}
		_, err := Parse("kioskd.toml", strings.NewReader(strings.Replace(full, tt.old, tt.new, 1)))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q for %q: got %v, want %q", tt.new, tt.old, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Add(full)
	f.Add(strings.Replace(good, "[board]", "[board]\nkind = \"vending\"\nslots = [\"1-3\"]\nelevator = true", 1))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("x", strings.NewReader(text))
		if err != nil {
			return
		}
		if c.Machine.Valid() != nil || c.location == nil || len(c.keys) == 0 || c.MotionLimit() <= 0 || c.MotionLimit() > 10*time.Minute {
			t.Errorf("accepted %+v", c)
		}
		switch c.Board.Kind {
		case KindOwn:
			if c.fitting.own.Config.Valid() != nil {
				t.Errorf("accepted %+v", c.Board)
			}
		case KindGPIO:
			if c.fitting.gpio.Valid() != nil {
				t.Errorf("accepted %+v", c.Board.GPIO)
			}
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
		_, err := Parse("kioskd.toml", strings.NewReader(strings.Replace(good, `broker = "tls://broker.example:8883"`, text, 1)))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
