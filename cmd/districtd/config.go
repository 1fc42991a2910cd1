package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"yaoju/daemon/config"
	"yaoju/daemon/district"
	"yaoju/daemon/identity"
	"yaoju/protocol"
)

// Config is districtd.toml, checked.
type Config struct {
	Data          string `toml:"data"`     // folder of the signing key, the CA and, without the next line, the database
	Database      string `toml:"database"` // empty: a file in data. postgres://...: PostgreSQL, which several districtd may share
	Metrics       string `toml:"metrics"`  // loopback address at which Prometheus asks, such as "127.0.0.1:9464"; empty: none
	Accounts      string `toml:"accounts"` // file of staff accounts, kept by yaoju staff; empty: machines keep those they have
	Zone          string `toml:"zone"`     // of days and dates
	Lang          string `toml:"lang"`     // of pages that ask for none: zh-CN or en
	Log           string `toml:"log"`
	AcceptUnknown bool   `toml:"accept_unknown"` // machines nobody listed may connect and are registered: for trials only
	Name          Text   `toml:"name"`

	Console struct {
		Listen string `toml:"listen"`
	} `toml:"console"`
	MQTT     Door     `toml:"mqtt"`
	Identity Identity `toml:"identity"`
	Update   Updates  `toml:"update"`

	Policy   Policy    `toml:"policy"`
	Products []Product `toml:"product"`
	Texts    Texts     `toml:"texts"`
	Nearby   []Nearby  `toml:"nearby"`
	Machines []Machine `toml:"machine"`

	zone  *time.Location
	level slog.Level
}

// Door is where machines come in: the broker in here, or one that is a program of its
// own, such as Mosquitto, whose client the district then is.
//
//	[mqtt]
//	broker = "tls://district.example:8883"
//
// That broker is trusted to let each machine publish on its own topics alone.
type Door struct {
	Listen string `toml:"listen"` // address with a port; 0.0.0.0 is every one this computer has. Not used where there is a broker
	TLS    string `toml:"tls"`    // on: machines show certificates. off: they have none and are believed, so on loopback only, for trials
	Broker string `toml:"broker"` // empty: the one in here. tls://host:port, or mqtt://host:port on loopback where tls is off
	Name   string `toml:"name"`   // who this districtd is to the broker: DISTRICT, and DISTRICT-2 and so on for further ones

	address string // host and port of Broker
}

// Identity is where machines get their certificates; nothing of it is used where
// mqtt.tls is off.
//
//	[mqtt]
//	listen = "0.0.0.0:8883"
//	[identity]
//	listen = "0.0.0.0:8884"
//	names = ["district.example", "192.0.2.7"]
type Identity struct {
	Listen string   `toml:"listen"` // enrolment and renewal; without it mqtt's address with port 8884
	Names  []string `toml:"names"`  // host names and addresses at which machines reach this computer, the one for enrolment lines first; without it the address it listens on
}

// deskPort is where machines ask for certificates unless the configuration says else.
const deskPort = "8884"

// Text is a phrase in both languages.
type Text struct {
	ZH string `toml:"zh"`
	EN string `toml:"en"`
}

// Policy is who may take how much.
type Policy struct {
	AgeFrom int    `toml:"age_from"`
	AgeTo   int    `toml:"age_to"`
	Rules   []Rule `toml:"rule"`
}

// Rule is one quota rule, as protocol.Rule.
type Rule struct {
	Class string `toml:"class"`
	Max   int    `toml:"max"`
	Units bool   `toml:"units"`
	Per   string `toml:"per"`
	Days  int    `toml:"days"`
}

// Product is something machines give, as protocol.Product.
type Product struct {
	ID     string `toml:"id"`
	Letter string `toml:"letter"`
	Class  string `toml:"class"`
	Units  int    `toml:"units"`
	Name   Text   `toml:"name"`
	Note   Text   `toml:"note"`

	Codes []string `toml:"codes"` // numbers on its cartons: a GTIN with 14 digits, an MA code, 7 digits of a trace code
}

// Texts are the words that differ from place to place.
type Texts struct {
	Authority Text   `toml:"authority"`
	Phone     string `toml:"phone"`
	RestockBy string `toml:"restock_by"`
}

// Nearby is another machine a resident could walk to.
type Nearby struct {
	Name  Text `toml:"name"`
	Where Text `toml:"where"`
}

// Machine is one machine and what its slots should hold.
type Machine struct {
	ID     string  `toml:"id"`
	Name   Text    `toml:"name"`
	Street Text    `toml:"street"`
	Where  Text    `toml:"where"` // in the building
	Slots  []Slots `toml:"slots"`

	Staff []string `toml:"staff"` // account numbers that may sign in there; without it all that the file of accounts has
}

// Slots are slots that hold the same product.
type Slots struct {
	Slots    []uint8 `toml:"slots"`
	Product  string  `toml:"product"`
	Capacity int     `toml:"capacity"`
	Par      int     `toml:"par"`
}

func parseConfig(name string, r io.Reader) (Config, error) {
	c := Config{Zone: "Asia/Shanghai", Lang: "zh-CN", Log: "info"}
	c.Update = usualUpdates()
	c.Console.Listen, c.MQTT = "127.0.0.1:8090", Door{Listen: "127.0.0.1:8883", TLS: "on", Name: "DISTRICT"}
	d := config.Decode(name, r, &c)
	d.Need(c.Data != "", "data", "missing: the folder of the database, such as \"/var/lib/yaoju-district\"")
	d.Need(c.Lang == "zh-CN" || c.Lang == "en", "lang", "want \"zh-CN\" or \"en\"")
	d.Need(c.level.UnmarshalText([]byte(c.Log)) == nil, "log", "want \"debug\", \"info\", \"warn\" or \"error\"")
	d.Check("name", protocol.Text(c.Name).Valid("name"))
	var err error
	c.zone, err = time.LoadLocation(c.Zone)
	d.Check("zone", err)
	host, _, err := net.SplitHostPort(c.Console.Listen)
	d.Need(err == nil && net.ParseIP(host).IsLoopback(), "console.listen", "want a loopback address with a port, such as \"127.0.0.1:8090\": pages have no sign-in yet")
	d.Check("database", district.ValidDatabase(c.Database))
	if c.Metrics != "" {
		host, _, err := net.SplitHostPort(c.Metrics)
		d.Need(err == nil && net.ParseIP(host).IsLoopback() && c.Metrics != c.Console.Listen, "metrics", "want a loopback address with a port of its own, such as \"127.0.0.1:9464\"")
	}
	c.doors(d)
	d.Need(c.Zone != "", "zone", "empty: want a name such as \"Asia/Shanghai\"")

	if len(c.Machines) > 0 { // what they should hold has to be sound before it is sent
		d.Check("policy", c.policy().Valid())
	}
	seen := map[string]int{}
	for i, m := range c.Machines {
		key := fmt.Sprintf("machine[%d]", i)
		want := c.desired(m)
		want.DesiredVersion = protocol.DesiredVersion{Generation: 1, Version: 1}
		if was, twice := seen[m.ID]; twice {
			d.Need(false, key+".id", "%q is machine[%d] already", m.ID, was)
		}
		seen[m.ID] = i
		d.Check(key, protocol.Text(m.Name).Valid("name"))
		d.Check(key, want.Valid())
	}
	return c, d.Err()
}

// doors checks where machines come in, and fills in what follows from the rest.
func (c *Config) doors(d *config.Doc) {
	d.Need(c.MQTT.TLS == "on" || c.MQTT.TLS == "off", "mqtt.tls", "want \"on\", or \"off\" for a trial on loopback")
	host := "0.0.0.0" // for enrolment, where machines come in at another program's door
	if c.MQTT.Broker == "" {
		host = c.door(d)
	} else {
		c.broker(d)
	}
	if !c.secure() || host == "" {
		return
	}
	if c.Identity.Listen == "" {
		c.Identity.Listen = net.JoinHostPort(host, deskPort)
	}
	desk, _, err := net.SplitHostPort(c.Identity.Listen)
	d.Need(err == nil && net.ParseIP(desk) != nil, "identity.listen", "want an address with a port, such as \"0.0.0.0:8884\"")
	d.Need((c.Identity.Listen != c.MQTT.Listen || c.MQTT.Broker != "") && c.Identity.Listen != c.Console.Listen, "identity.listen", "the same address as mqtt.listen or console.listen")
	if len(c.Identity.Names) == 0 && !net.ParseIP(host).IsUnspecified() {
		c.Identity.Names = []string{host}
	}
	d.Need(len(c.Identity.Names) > 0, "identity.names", "missing: the host names and addresses at which machines reach this computer, such as [\"district.example\"]")
	for _, n := range c.Identity.Names {
		d.Check("identity.names", identity.ValidHost(n))
	}
}

// door checks the address of the broker in here and returns its host, empty if it is
// no good.
func (c *Config) door(d *config.Doc) string {
	host, _, err := net.SplitHostPort(c.MQTT.Listen)
	ip := net.ParseIP(host)
	d.Need(err == nil && ip != nil, "mqtt.listen", "want an address with a port, such as \"0.0.0.0:8883\"")
	d.Need(c.MQTT.TLS != "off" || ip.IsLoopback(), "mqtt.listen", "tls is \"off\", so want a loopback address with a port, such as \"127.0.0.1:1883\": whoever connects is believed to be any machine it says")
	d.Need(c.MQTT.Listen != c.Console.Listen, "mqtt.listen", "the same address as console.listen")
	if ip == nil {
		return ""
	}
	return host
}

// broker checks how to reach a broker that is a program of its own.
func (c *Config) broker(d *config.Doc) {
	scheme, address, _ := strings.Cut(c.MQTT.Broker, "://")
	c.MQTT.address = address
	host, _, err := net.SplitHostPort(address)
	d.Need(err == nil && identity.ValidHost(host) == nil, "mqtt.broker", "want an address with a port, such as \"tls://district.example:8883\"")
	if c.secure() {
		d.Need(scheme == "tls", "mqtt.broker", "tls is \"on\", so want it to begin with tls://")
	} else {
		d.Need(scheme == "mqtt" && net.ParseIP(host).IsLoopback(), "mqtt.broker", "tls is \"off\", so want a broker on loopback, such as \"mqtt://127.0.0.1:1883\"")
	}
	d.Check("mqtt.name", identity.ValidOffice(c.MQTT.Name))
}

// database is where the district keeps what it knows.
func (c Config) database() string {
	if c.Database != "" {
		return c.Database
	}
	return filepath.Join(c.Data, "district.db")
}

// brokerName says where machines come in, for the log; the listener is nil where that
// is another program.
func (c Config) brokerName(l net.Listener) string {
	if l == nil {
		return c.MQTT.Broker
	}
	return l.Addr().String()
}

// secure says whether machines have certificates.
func (c Config) secure() bool { return c.MQTT.TLS == "on" }

func (c Config) policy() protocol.Policy {
	p := protocol.Policy{AgeFrom: c.Policy.AgeFrom, AgeTo: c.Policy.AgeTo}
	for _, r := range c.Policy.Rules {
		p.Rules = append(p.Rules, protocol.Rule{Class: r.Class, Max: r.Max, Units: r.Units, Per: protocol.Per(r.Per), Days: r.Days})
	}
	return p
}

// desired is what should be so on m, by this file; the district gives it a version.
func (c Config) desired(m Machine) protocol.Desired {
	d := protocol.Desired{Machine: protocol.MachineID(m.ID), Policy: c.policy(),
		Texts: protocol.Texts{Authority: protocol.Text(c.Texts.Authority), Phone: c.Texts.Phone, RestockBy: protocol.DateOnly(c.Texts.RestockBy)}}
	for _, p := range c.Products {
		d.Products = append(d.Products, protocol.Product{ID: protocol.ProductID(p.ID), Letter: p.Letter, Class: p.Class, Units: p.Units,
			Name: protocol.Text(p.Name), Note: protocol.Text(p.Note), Codes: p.Codes})
	}
	for _, s := range m.Slots {
		for _, n := range s.Slots {
			d.Planogram = append(d.Planogram, protocol.SlotPlan{Slot: protocol.Slot(n), Product: protocol.ProductID(s.Product), Capacity: s.Capacity, Par: s.Par})
		}
	}
	for _, n := range c.Nearby {
		d.Nearby = append(d.Nearby, protocol.Nearby{Name: protocol.Text(n.Name), Where: protocol.Text(n.Where)})
	}
	return d
}

func (m Machine) place() district.Place {
	return district.Place{Machine: protocol.MachineID(m.ID), Name: protocol.Text(m.Name), Street: protocol.Text(m.Street), Where: protocol.Text(m.Where)}
}
