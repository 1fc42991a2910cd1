package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"yaoju/daemon/config"
	"yaoju/daemon/identity"
	"yaoju/daemon/machine"
	"yaoju/protocol"
)

// Config is kioskd.toml, checked.
type Config struct {
	Machine protocol.MachineID `toml:"machine"`
	Data    string             `toml:"data"`    // folder of the ledger and the mark keys
	Zone    string             `toml:"zone"`    // of dates on the screen and of quota days
	Consent string             `toml:"consent"` // notice: laying the card is consent; tap: a tap comes first
	Clock   string             `toml:"clock"`   // kernel: ask it whether the time is synchronised; trusted: it always is
	Log     string             `toml:"log"`     // debug, info, warn or error

	Screen   Screen   `toml:"screen"`
	Board    Board    `toml:"board"`
	Reader   Line     `toml:"reader"`
	District District `toml:"district"`

	zone   *time.Location
	level  slog.Level
	keys   []ed25519.PublicKey
	motors machine.Options
}

// Screen is where the pages are served.
type Screen struct {
	Listen string `toml:"listen"` // loopback only
	Frame  string `toml:"frame"`  // origin that may frame the page: the demo bench; empty: nobody
}

// Line is a serial line.
type Line struct {
	Path string `toml:"path"`
	Baud int    `toml:"baud"`
}

// Board is the motor board's serial line, and what hangs on the board. That is sent
// to a board that has another configuration; a new board turns nothing until then.
//
// A small tray of two rows, where slots 1 and 2, and 3 and 4, turn together:
//
//	[board]
//	path = "/dev/ttyAMA0"
//	slots = ["1-6", "11-16"]
//	pairs = [1, 3]
//	turn_ms = 6000
type Board struct {
	Path    string   `toml:"path"`
	Baud    int      `toml:"baud"`     // 9600 to 1000000; our own board has 115200
	Slots   []string `toml:"slots"`    // slots with a motor, 1 to 60, as numbers and ranges: ["1-10", "21"]; without it all 60
	Pairs   []int    `toml:"pairs"`    // slots whose right neighbour turns with them; both have a motor, and neither is in another pair
	LeaveMS int      `toml:"leave_ms"` // a motor must have left home within this: 100 to 2000, usually 900
	TurnMS  int      `toml:"turn_ms"`  // and be home again within this, or it is cut off: leave_ms + 100 to 7000, usually 5000
	SlowMS  int      `toml:"slow_ms"`  // a turn that takes longer is reported as slow: 0 to 65535, usually 3500
	JamMA   int      `toml:"jam_ma"`   // a current over this is a jam: above open_ma to 65535, usually 900; the board measures up to 5000
	JamMS   int      `toml:"jam_ms"`   // once it has lasted this long: 10 to 1000, usually 120
	OpenMA  int      `toml:"open_ma"`  // a current under this is a missing motor: 0 to 65534, usually 50; 0 looks for none
}

// usualBoard is a board of which only the line need be said.
func usualBoard() Board {
	f := machine.UsualFitting()
	return Board{Baud: 115200, LeaveMS: f.LeaveMS, TurnMS: f.TurnMS, SlowMS: f.SlowMS, JamMA: f.JamMA, JamMS: f.JamMS, OpenMA: f.OpenMA}
}

func (b Board) line() Line { return Line{Path: b.Path, Baud: b.Baud} }

func (b Board) fitting() machine.Fitting {
	return machine.Fitting{Slots: b.Slots, Pairs: b.Pairs, LeaveMS: b.LeaveMS, TurnMS: b.TurnMS, SlowMS: b.SlowMS, JamMA: b.JamMA, JamMS: b.JamMS, OpenMA: b.OpenMA}
}

// District is the other end of the uplink.
type District struct {
	Broker string   `toml:"broker"` // tls://host:port; tcp://host:port where tls is off
	TLS    string   `toml:"tls"`    // on: both sides show certificates; off: nobody does, on loopback only, for trials
	Enrol  string   `toml:"enrol"`  // host:port where the certificate is renewed; without it the broker's host, port 8884
	Keys   []string `toml:"keys"`   // Ed25519 public keys that sign desired state and commands, base64

	address string
}

func parseConfig(name string, r io.Reader) (Config, error) {
	c := Config{Zone: "Asia/Shanghai", Consent: "notice", Clock: "kernel", Log: "info",
		Board: usualBoard(), Reader: Line{Baud: 115200}, Screen: Screen{Listen: "127.0.0.1:8080"}, District: District{TLS: "on"}}
	d := config.Decode(name, r, &c)
	d.Check("machine", c.Machine.Valid())
	d.Need(c.Data != "", "data", "missing: the folder of the ledger, such as \"/var/lib/yaoju\"")
	d.Need(c.Consent == "notice" || c.Consent == "tap", "consent", "want \"notice\" or \"tap\"")
	d.Need(c.Clock == "kernel" || c.Clock == "trusted", "clock", "want \"kernel\" or \"trusted\"")
	d.Need(c.Board.Path != "", "board.path", "missing: the motor board's serial line, such as \"/dev/ttyAMA0\"")
	d.Need(c.Reader.Path != "", "reader.path", "missing: the card reader's serial line, such as \"/dev/ttyUSB0\"")
	d.Need(c.Board.Path == "" || c.Board.Path != c.Reader.Path, "reader.path", "the same line as board.path")
	for key, baud := range map[string]int{"board.baud": c.Board.Baud, "reader.baud": c.Reader.Baud} {
		d.Need(baud >= 9600 && baud <= 1000000, key, "want 9600 to 1000000 bits per second")
	}
	c.motors.Config = c.Board.fitting().Configure(func(key string, err error) { d.Check("board."+key, err) })
	var err error
	c.zone, err = time.LoadLocation(c.Zone)
	d.Check("zone", err)
	d.Need(c.Zone != "", "zone", "empty: want a name such as \"Asia/Shanghai\"")
	d.Need(c.level.UnmarshalText([]byte(c.Log)) == nil, "log", "want \"debug\", \"info\", \"warn\" or \"error\"")

	host, _, err := net.SplitHostPort(c.Screen.Listen)
	d.Need(err == nil && net.ParseIP(host).IsLoopback(), "screen.listen", "want a loopback address with a port, such as \"127.0.0.1:8080\": nobody else may reach the screen")
	if c.Screen.Frame != "" {
		u, err := url.Parse(c.Screen.Frame)
		d.Need(err == nil && u.Scheme == "http" && net.ParseIP(u.Hostname()).IsLoopback() && "http://"+u.Host == c.Screen.Frame, "screen.frame", "want an origin on loopback, such as \"http://127.0.0.1:9000\"")
	}
	c.District.check(d)
	d.Need(len(c.District.Keys) > 0, "district.keys", "missing: the district's public key, as districtd prints it at start")
	for _, text := range c.District.Keys {
		key, err := base64.StdEncoding.DecodeString(text)
		d.Need(err == nil && len(key) == ed25519.PublicKeySize, "district.keys", "want the base64 of a 32-byte Ed25519 public key")
		c.keys = append(c.keys, key)
	}
	return c, d.Err()
}

// deskPort is where districtd gives certificates unless its configuration says else.
const deskPort = "8884"

// secure says whether both sides show certificates.
func (c District) secure() bool { return c.TLS == "on" }

// check checks how the district is reached, and fills in what follows from the rest.
func (c *District) check(d *config.Doc) {
	d.Need(c.TLS == "on" || c.TLS == "off", "district.tls", "want \"on\", or \"off\" for a trial on loopback")
	scheme := "tls"
	if c.TLS == "off" {
		scheme = "tcp"
	}
	broker, err := url.Parse(c.Broker)
	if err != nil || broker.Scheme != scheme || broker.Host != strings.TrimPrefix(c.Broker, scheme+"://") || identity.ValidAddress(broker.Host) != nil {
		d.Need(false, "district.broker", "want %s://host:port, because tls is %q", scheme, c.TLS)
		return
	}
	c.address = broker.Host
	host := broker.Hostname()
	d.Need(c.secure() || net.ParseIP(host).IsLoopback(), "district.broker", "tls is \"off\", so want an address on loopback, such as \"tcp://127.0.0.1:1883\"")
	if c.Enrol == "" {
		c.Enrol = net.JoinHostPort(host, deskPort)
	}
	d.Check("district.enrol", identity.ValidAddress(c.Enrol))
}
