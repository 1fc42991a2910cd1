package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"io"
	"log/slog"
	"net"
	"net/url"
	"time"

	"yaoju/daemon/config"
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
	Board    Line     `toml:"board"`
	Reader   Line     `toml:"reader"`
	District District `toml:"district"`

	zone  *time.Location
	level slog.Level
	keys  []ed25519.PublicKey
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

// District is the other end of the uplink.
type District struct {
	Broker string   `toml:"broker"` // tcp://host:port
	Keys   []string `toml:"keys"`   // Ed25519 public keys that sign desired state and commands, base64

	address string
}

func parseConfig(name string, r io.Reader) (Config, error) {
	c := Config{Zone: "Asia/Shanghai", Consent: "notice", Clock: "kernel", Log: "info",
		Board: Line{Baud: 115200}, Reader: Line{Baud: 115200}, Screen: Screen{Listen: "127.0.0.1:8080"}}
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
	broker, err := url.Parse(c.District.Broker)
	d.Need(err == nil && broker.Scheme == "tcp" && broker.Hostname() != "" && broker.Port() != "", "district.broker", "want tcp://host:port")
	if err == nil {
		c.District.address = broker.Host
	}
	d.Need(len(c.District.Keys) > 0, "district.keys", "missing: the district's public key, as districtd prints it at start")
	for _, text := range c.District.Keys {
		key, err := base64.StdEncoding.DecodeString(text)
		d.Need(err == nil && len(key) == ed25519.PublicKeySize, "district.keys", "want the base64 of a 32-byte Ed25519 public key")
		c.keys = append(c.keys, key)
	}
	return c, d.Err()
}
