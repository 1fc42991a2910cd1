package cabinet

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"yaoju/daemon/climate"
	"yaoju/daemon/config"
	"yaoju/daemon/identity"
	"yaoju/daemon/scan"
	"yaoju/daemon/status"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// Config is kioskd.toml, checked.
type Config struct {
	Machine protocol.MachineID `toml:"machine"`
	Data    string             `toml:"data"`    // folder of the ledger and the mark keys
	Zone    string             `toml:"zone"`    // of dates on the screen and of quota days
	Consent string             `toml:"consent"` // notice: laying the card is consent; tap: a tap comes first
	Clock   string             `toml:"clock"`   // kernel: ask it whether the time is synchronised; trusted: it always is
	Log     string             `toml:"log"`     // debug, info, warn or error
	Status  string             `toml:"status"`  // Unix socket that tells 'yaoju doctor' how the machine is

	Screen   Screen    `toml:"screen"`
	Board    Board     `toml:"board"`
	Reader   Line      `toml:"reader"`
	Scanners []Scanner `toml:"scanner"`
	Badges   []Badge   `toml:"badge"`
	Climate  Climate   `toml:"climate"`
	District District  `toml:"district"`
	Update   Update    `toml:"update"`

	// What follows from the above, for those who need it in another form.
	location *time.Location
	level    slog.Level
	keys     []ed25519.PublicKey
	fitting  fitting
	file     string
}

// Location is Zone.
func (c Config) Location() *time.Location { return c.location }

// Level is Log.
func (c Config) Level() slog.Level { return c.level }

// Keys are the district's keys.
func (c Config) Keys() []ed25519.PublicKey { return c.keys }

// ClimateBus is the I2C bus of the climate sensor, if one is fitted beside the board.
func (c Config) ClimateBus() (bus int, fitted bool) { return c.Climate.Bus, c.Climate.fitted }

// Configure is what our own board is told of what hangs on it.
func (c Config) Configure() board.Configure { return c.fitting.own.Config }

// Screen is where the pages are served.
type Screen struct {
	Listen string `toml:"listen"` // loopback only, with a port from 1 to 65535
	Jack   string `toml:"jack"`   // input device of the headphone socket, such as "/dev/input/by-path/platform-soc:sound-event"; empty: nobody can tell whether a plug is in
	Voice  string `toml:"voice"`  // folder of recordings (LANGUAGE/NAME.opus) that take the place of the built-in ones; empty: none
	Frame  string `toml:"frame"`  // origin that may frame the page: the demo bench; empty: nobody
}

// Line is a serial line.
type Line struct {
	Path string `toml:"path"` // best one of /dev/serial/by-id, or a name of our udev rules
	Baud int    `toml:"baud"` // 1200 to 1000000
}

// Scanner is a barcode scanner: on a serial line, or one that plays a USB keyboard,
// which is taken away from the screen.
//
//	[[scanner]]
//	name = "front"
//	path = "/dev/yaoju/usb-1-1.2"
//	baud = 9600
//
//	[[scanner]]
//	name = "hand"
//	keyboard = "/dev/input/by-id/usb-Example_Scanner-event-kbd"
//	suffix = "#"
type Scanner struct {
	Name     string `toml:"name"`     // a word of 1 to 24 letters, digits and hyphens, in what is said of it
	Path     string `toml:"path"`     // serial line; or
	Keyboard string `toml:"keyboard"` // a device below /dev/input
	Baud     int    `toml:"baud"`     // of the serial line: 1200 to 1000000, usually 9600
	Prefix   string `toml:"prefix"`   // what the scanner is set to put before each code; at most 16 bytes
	Suffix   string `toml:"suffix"`   // and behind it, besides Enter; at most 16 bytes
	GapMS    int    `toml:"gap_ms"`   // for scanners that send no Enter: a pause so long ends a code, 20 to 500; 0: Enter does
}

// framing is how the scanner marks where a code begins and ends.
func (s Scanner) framing() scan.Framing {
	return scan.Framing{Prefix: s.Prefix, Suffix: s.Suffix, Gap: time.Duration(s.GapMS) * time.Millisecond}
}

// Badge is a reader for staff cards: a PN532 on a serial line, or a Wiegand reader on
// two GPIO lines.
//
//	[[badge]]
//	name = "staff"
//	pn532 = "/dev/yaoju/usb-1-1.4"
//
//	[[badge]]
//	name = "door"
//	wiegand = {chip = "pinctrl-rp1", d0 = 20, d1 = 21}
type Badge struct {
	Name    string  `toml:"name"`    // as a scanner's, and no scanner has it
	PN532   string  `toml:"pn532"`   // serial line, 115200 bits per second; or
	Wiegand Wiegand `toml:"wiegand"` // two GPIO lines
}

// Wiegand is two GPIO lines, by their numbers on a chip. They carry 3.3 V: a reader's
// 5 V need a divider.
type Wiegand struct {
	Chip string `toml:"chip"` // name or label, such as "gpiochip0" or "pinctrl-rp1"
	D0   int    `toml:"d0"`   // the green wire
	D1   int    `toml:"d1"`   // the white wire
}

// Climate is a Sensirion SHT3x on I2C, for machines whose board has no sensor of its
// own. Without the table there is none.
//
//	[climate]
//	bus = 1
//	address = 0x44
type Climate struct {
	Bus     int `toml:"bus"`     // 0 to 255: 1 is /dev/i2c-1
	Address int `toml:"address"` // 0x44, or 0x45 where its ADDR pin is high

	fitted bool
}

// District is the other end of the uplink.
type District struct {
	Broker string   `toml:"broker"` // tls://host:port; tcp://host:port where tls is off
	TLS    string   `toml:"tls"`    // on: both sides show certificates; off: nobody does, on loopback only, for trials
	Enrol  string   `toml:"enrol"`  // host:port where the certificate is renewed; without it the broker's host, port 8884
	Keys   []string `toml:"keys"`   // Ed25519 public keys that sign desired state and commands, base64

	address string
}

// Secure says whether both sides show certificates.
func (d District) Secure() bool { return d.TLS == "on" }

// Address is the broker's host and port.
func (d District) Address() string { return d.address }

// Read reads a machine's configuration file.
func Read(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	return Parse(path, f)
}

// Parse reads a machine's configuration. Its error has every mistake, each with its
// line in the file that name names.
func Parse(name string, r io.Reader) (Config, error) {
	c := Config{Zone: "Asia/Shanghai", Consent: "notice", Clock: "kernel", Log: "info", Status: status.DefaultPath, Board: usualBoard(), Reader: Line{Baud: 115200},
		Climate: Climate{Bus: 1, Address: climate.AddressLow}, Screen: Screen{Listen: "127.0.0.1:8080"}, District: District{TLS: "on"}, Update: usualUpdate(), file: name}
	d := config.Decode(name, r, &c)
	d.Check("machine", c.Machine.Valid())
	d.Need(c.Data != "", "data", "missing: the folder of the ledger, such as \"/var/lib/yaoju\"")
	d.Need(c.Consent == "notice" || c.Consent == "tap", "consent", "want \"notice\" or \"tap\"")
	d.Need(c.Clock == "kernel" || c.Clock == "trusted", "clock", "want \"kernel\" or \"trusted\"")
	var err error
	c.location, err = time.LoadLocation(c.Zone)
	d.Check("zone", err)
	d.Need(c.Zone != "", "zone", "empty: want a name such as \"Asia/Shanghai\"")
	d.Need(c.level.UnmarshalText([]byte(c.Log)) == nil, "log", "want \"debug\", \"info\", \"warn\" or \"error\"")
	d.Need(filepath.IsAbs(c.Status) && len(c.Status) <= status.MaxPath, "status", "want a path from the root of at most %d bytes, such as %q", status.MaxPath, status.DefaultPath)
	c.Screen.check(d)
	c.fitting = c.Board.check(d)
	d.Need(c.Reader.Path != "", "reader.path", "missing: the card reader's serial line, such as \"/dev/ttyUSB0\"")
	needBaud(d, "reader.baud", c.Reader.Baud)
	c.checkScanners(d)
	c.checkBadges(d)
	c.Climate.check(d)
	c.checkPaths(d)
	c.District.check(d)
	c.keys = c.District.checkKeys(d)
	c.Update.check(d, c.District)
	return c, d.Err()
}

func needBaud(d *config.Doc, key string, baud int) {
	d.Need(baud >= 1200 && baud <= 1000000, key, "want 1200 to 1000000 bits per second")
}

func (s Screen) check(d *config.Doc) {
	host, _, err := net.SplitHostPort(s.Listen)
	d.Need(err == nil && net.ParseIP(host).IsLoopback(), "screen.listen", "want a loopback address with a port, such as \"127.0.0.1:8080\": nobody else may reach the screen")
	if err == nil {
		d.Check("screen.listen", identity.ValidAddress(s.Listen))
	}
	if s.Frame == "" {
		return
	}
	u, err := url.Parse(s.Frame)
	d.Need(err == nil && u.Scheme == "http" && net.ParseIP(u.Hostname()).IsLoopback() && "http://"+u.Host == s.Frame && identity.ValidAddress(u.Host) == nil,
		"screen.frame", "want an origin on loopback, such as \"http://127.0.0.1:9000\"")
}

// checkScanners checks each scanner by itself, and fills in what was left away.
func (c *Config) checkScanners(d *config.Doc) {
	names := map[string]bool{}
	for i := range c.Scanners {
		s, key := &c.Scanners[i], fmt.Sprintf("scanner[%d]", i)
		checkName(d, key, s.Name, names)
		d.Need((s.Path == "") != (s.Keyboard == ""), key, "want either path, a serial line, or keyboard, a device below /dev/input")
		d.Need(s.Keyboard == "" || !d.Has(key+".baud"), key+".baud", "a keyboard has no speed")
		if !d.Has(key + ".baud") {
			s.Baud = usualScannerBaud
		}
		needBaud(d, key+".baud", s.Baud)
		d.Need(s.GapMS >= 0 && s.GapMS <= 500, key+".gap_ms", "want 20 to 500 milliseconds, or 0")
		d.Check(key, s.framing().Valid())
	}
}

// usualScannerBaud is what most scanners are set to as they come.
const usualScannerBaud = 9600

func (c *Config) checkBadges(d *config.Doc) {
	names := map[string]bool{}
	for _, s := range c.Scanners {
		names[s.Name] = true
	}
	for i, b := range c.Badges {
		key := fmt.Sprintf("badge[%d]", i)
		checkName(d, key, b.Name, names)
		wiegand := d.Has(key + ".wiegand")
		d.Need((b.PN532 == "") == wiegand, key, "want either pn532, a serial line, or wiegand, two GPIO lines")
		if wiegand {
			d.Need(b.Wiegand.Chip != "", key+".wiegand", "chip is missing: its name or label, such as \"gpiochip0\"")
			d.Need(b.Wiegand.D0 >= 0 && b.Wiegand.D1 >= 0 && b.Wiegand.D0 != b.Wiegand.D1, key+".wiegand", "d0 and d1: want the numbers of two lines")
		}
	}
}

// checkName checks what a scanner or a staff card reader is called, and that nothing
// else is.
func checkName(d *config.Doc, key, name string, taken map[string]bool) {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
	d.Need(name != "" && len(name) <= 24 && strings.Trim(name, letters) == "", key+".name", "want a word of 1 to 24 letters, digits and hyphens, such as \"front\"")
	d.Need(name == "" || !taken[name], key+".name", "%q is the name of another one", name)
	taken[name] = true
}

func (c *Climate) check(d *config.Doc) {
	c.fitted = d.Has("climate")
	d.Need(c.Bus >= 0 && c.Bus <= 255, "climate.bus", "want 0 to 255: 1 is /dev/i2c-1")
	d.Need(c.Address == climate.AddressLow || c.Address == climate.AddressHigh, "climate.address", "want 0x44 or 0x45")
}

// wired is a device file in the configuration: who is to be there, and where the
// file says so.
type wired struct {
	key  string // in the configuration file
	what string // the part, in words
	path string
}

// wires lists every device file that is named.
func (c Config) wires() (all []wired) {
	add := func(key, what, path string) {
		if path != "" {
			all = append(all, wired{key, what, path})
		}
	}
	if c.Board.Kind != KindGPIO {
		add("board.path", c.Board.what(), c.Board.Path)
	}
	add("reader.path", readerWords, c.Reader.Path)
	for i, s := range c.Scanners {
		add(fmt.Sprintf("scanner[%d].path", i), scannerWords(s.Name), s.Path)
		add(fmt.Sprintf("scanner[%d].keyboard", i), scannerWords(s.Name), s.Keyboard)
	}
	for i, b := range c.Badges {
		add(fmt.Sprintf("badge[%d].pn532", i), badgeWords(b.Name), b.PN532)
	}
	return all
}

// checkPaths refuses two parts on one path. That two names lead to one device is
// found when the machine starts: see Open.
func (c Config) checkPaths(d *config.Doc) {
	taken := map[string]wired{}
	for _, w := range c.wires() {
		path := filepath.Clean(w.path)
		was, again := taken[path]
		d.Need(!again, w.key, "the same line as %s", was.key)
		d.Need(filepath.IsAbs(path), w.key, "want a path from the root, such as \"/dev/ttyUSB0\"")
		taken[path] = w
	}
}

// deskPort is where districtd gives certificates unless its configuration says else.
const deskPort = "8884"

// check checks how the district is reached, and fills in what follows from the rest.
func (d *District) check(doc *config.Doc) {
	doc.Need(d.TLS == "on" || d.TLS == "off", "district.tls", "want \"on\", or \"off\" for a trial on loopback")
	scheme := "tls"
	if d.TLS == "off" {
		scheme = "tcp"
	}
	broker, err := url.Parse(d.Broker)
	if err != nil || broker.Scheme != scheme || broker.Host != strings.TrimPrefix(d.Broker, scheme+"://") || identity.ValidAddress(broker.Host) != nil {
		doc.Need(false, "district.broker", "want %s://host:port with a port from 1 to 65535, because tls is %q", scheme, d.TLS)
		return
	}
	d.address = broker.Host
	host := broker.Hostname()
	doc.Need(d.Secure() || net.ParseIP(host).IsLoopback(), "district.broker", "tls is \"off\", so want an address on loopback, such as \"tcp://127.0.0.1:1883\"")
	if d.Enrol == "" {
		d.Enrol = net.JoinHostPort(host, deskPort)
	}
	doc.Check("district.enrol", identity.ValidAddress(d.Enrol))
}

func (d District) checkKeys(doc *config.Doc) (keys []ed25519.PublicKey) {
	doc.Need(len(d.Keys) > 0, "district.keys", "missing: the district's public key, as districtd prints it at start")
	for _, text := range d.Keys {
		key, err := base64.StdEncoding.DecodeString(text)
		doc.Need(err == nil && len(key) == ed25519.PublicKeySize, "district.keys", "want the base64 of a 32-byte Ed25519 public key")
		keys = append(keys, key)
	}
	return keys
}
