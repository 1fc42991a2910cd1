package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sync/errgroup"

	"yaoju/daemon/cabinet"
	reader "yaoju/daemon/card/sim"
	"yaoju/daemon/staff"
	"yaoju/protocol"
)

// demoOptions are the flags of the demo.
type demoOptions struct {
	machines       int     // light machines
	speed          float64 // of their residents
	bench, console string  // addresses
	keep           string  // folder to keep; empty: a temporary one
	firmware       bool    // the complete machine's board runs the real firmware
	board          string  // kind of the complete machine's board, as in kioskd.toml: own or vending
}

// readyLimit is how long a program may take to answer for the first time, on a
// busy two-core machine.
const readyLimit = 60 * time.Second

var districtConfig = template.Must(template.New("districtd.toml").Funcs(template.FuncMap{"q": quote}).Parse(`# written by yaoju demo
data = {{q .Data}}
log = "warn"
accept_unknown = false
name = {zh = "青榆区（示例）", en = "Qingyu District (sample)"}
[console]
listen = {{q .Console}}
[mqtt]
listen = {{q .MQTT}}
tls = {{q .TLS}}
{{with .Desk}}[identity]
listen = {{q .}}
{{end}}[policy]
age_from = {{.Desired.Policy.AgeFrom}}
{{range .Desired.Policy.Rules}}[[policy.rule]]
max = {{.Max}}
per = {{q .Per}}
days = {{.Days}}
{{end}}{{range .Desired.Products}}[[product]]
id = {{q .ID}}
letter = {{q .Letter}}
class = {{q .Class}}
units = {{.Units}}
codes = [{{range .Codes}}{{q .}}, {{end}}]
name = {zh = {{q .Name.ZH}}, en = {{q .Name.EN}}}
note = {zh = {{q .Note.ZH}}, en = {{q .Note.EN}}}
{{end}}{{range .Desired.Nearby}}[[nearby]]
name = {zh = {{q .Name.ZH}}, en = {{q .Name.EN}}}
where = {zh = {{q .Where.ZH}}, en = {{q .Where.EN}}}
{{end}}[texts]
authority = {zh = {{q .Desired.Texts.Authority.ZH}}, en = {{q .Desired.Texts.Authority.EN}}}
phone = {{q .Desired.Texts.Phone}}
restock_by = {{q .Desired.Texts.RestockBy}}
{{$plan := .Desired.Planogram}}{{range .Sites}}[[machine]]
id = {{q .ID}}
name = {zh = {{q .Name.ZH}}, en = {{q .Name.EN}}}
street = {zh = {{q .Street.ZH}}, en = {{q .Street.EN}}}
where = {zh = {{q .Room.ZH}}, en = {{q .Room.EN}}}
{{range $plan}}[[machine.slots]]
slots = [{{.Slot}}]
product = {{q .Product}}
capacity = {{.Capacity}}
par = {{.Par}}
{{end}}{{end}}`))

var kioskConfig = template.Must(template.New("kioskd.toml").Funcs(template.FuncMap{"q": quote}).Parse(`# written by yaoju demo
machine = {{q .Machine}}
data = {{q .Data}}
clock = "trusted"
log = "info"
status = {{q .Status}}
[screen]
listen = {{q .Screen}}
{{if .Frame}}frame = {{q .Frame}}
{{end}}[board]
path = {{q .Board}}
{{if .Bought}}kind = "vending"
drop_sensor = true
{{end}}[reader]
path = {{q .Reader}}
{{with .Badge}}[[badge]]
name = "staff"
pn532 = {{q .}}
{{end}}{{with .Scanner}}[[scanner]]
name = "hand"
path = {{q .}}
baud = 115200
{{end}}[district]
broker = {{q .Broker}}
keys = [{{q .Key}}]
{{with .TLS}}tls = {{q .}}
{{end}}{{with .Desk}}enrol = {{q .}}
{{end}}`))

// quote writes a TOML string.
func quote(v any) string {
	r := strings.NewReplacer("\\", "\\\\", "\"", "\\\"")
	return "\"" + r.Replace(fmt.Sprint(v)) + "\""
}

// tomlSite is a site as the template of the district's configuration wants it.
type tomlSite struct {
	ID                 protocol.MachineID
	Name, Street, Room protocol.Text
}

func writeConfig(t *template.Template, path string, v any) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := errors.Join(t.Execute(f, v), f.Close()); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// free returns an address on loopback that nobody listens on.
func free() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// town is everything the demo runs, and what tests hold on to.
type town struct {
	plan
	rig                       *rig
	district, kiosk           *process
	screen, console, mqtt     string // addresses, host:port
	desk                      string // where certificates are given; empty: nowhere
	kioskConfig, districtConf string // paths
	key                       string // the district's public key, base64
	ledger                    string // path of the complete machine's ledger
	zone                      *time.Location
}

// plan says what a town is like.
type plan struct {
	dir, bin        string        // folder of its data; folder of the programs
	console         string        // address of the console; empty or with port 0: a free one
	frame           string        // origin that may frame the screen; empty: nobody
	machines        int           // light ones
	bays            []bay         // of the complete machine
	turn, readTakes time.Duration // of a spiral, of a card
	certificates    bool          // machines have certificates, which a test has to get them first
	firmware        bool          // the complete machine's board runs the real firmware, whose spirals take 2.5 s a turn
	bought          bool          // the complete machine has an off-the-shelf vending board
	staff           bool          // the complete machine has a reader for staff cards and a scanner
	log             *slog.Logger
}

// build makes a district and its machines, the complete one stocked, with nothing
// running yet.
func build(ctx context.Context, p plan) (*town, error) {
	zone, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		return nil, err
	}
	dir := p.dir
	t := &town{plan: p, zone: zone, console: p.console, kioskConfig: filepath.Join(dir, "kioskd.toml"),
		districtConf: filepath.Join(dir, "districtd.toml"), ledger: filepath.Join(dir, "kiosk", "ledger.db")}
	var errs []error
	address := func(into *string) {
		if *into == "" || strings.HasSuffix(*into, ":0") {
			var err error
			*into, err = free()
			errs = append(errs, err)
		}
	}
	address(&t.console)
	address(&t.mqtt)
	address(&t.screen)
	tls, scheme := "off", "tcp://"
	if p.certificates {
		tls, scheme = "on", "tls://"
		address(&t.desk)
	}
	var sites []tomlSite
	for i := range p.machines + 1 {
		s := siteOf(i)
		sites = append(sites, tomlSite{s.machine, s.name, s.street, s.room})
	}
	want := desired(siteOf(0).machine, p.bays, time.Now().In(zone))
	errs = append(errs, os.MkdirAll(filepath.Dir(t.ledger), 0o700), writeConfig(districtConfig, t.districtConf, map[string]any{
		"Data": filepath.Join(dir, "district"), "Console": t.console, "MQTT": t.mqtt, "TLS": tls, "Desk": t.desk, "Desired": want, "Sites": sites}))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	key, err := exec.CommandContext(ctx, filepath.Join(p.bin, "districtd"), "-config", t.districtConf, "-key").Output()
	if err != nil {
		return nil, fmt.Errorf("make the district's key: %w (make demo builds districtd)", err)
	}
	t.key = strings.TrimSpace(string(key))
	if err := stockLedger(ctx, t.ledger, want, p.bays, zone, p.log); err != nil {
		return nil, err
	}
	var badge, scanner string
	if p.staff {
		badge, scanner = filepath.Join(dir, badgeLine), filepath.Join(dir, codeLine)
	}
	if err := writeConfig(kioskConfig, t.kioskConfig, map[string]any{"Badge": badge, "Scanner": scanner, "Machine": want.Machine, "Data": filepath.Dir(t.ledger), "Status": filepath.Join(dir, statusFile),
		"Screen": t.screen, "Frame": p.frame, "Board": filepath.Join(dir, boardLine), "Bought": p.bought, "Reader": filepath.Join(dir, readerLine),
		"Broker": scheme + t.mqtt, "TLS": tls, "Desk": t.desk, "Key": t.key}); err != nil {
		return nil, err
	}
	if p.staff {
		if err := t.employ(ctx); err != nil {
			return nil, err
		}
	}
	t.rig, err = newRig(p)
	return t, err
}

// employ gives the restocker an account at the complete machine.
func (t *town) employ(ctx context.Context) error {
	pin, err := staff.NewPIN(restockerPIN)
	if err != nil {
		return err
	}
	file := filepath.Join(t.dir, "accounts.json")
	b := protocol.Encode(protocol.Secrets{Accounts: []protocol.Account{{Staff: restocker, Role: protocol.RoleTechnician, PIN: pin,
		Badges: []protocol.Badge{{Kind: "nfc", UID: fmt.Sprintf("%X", restockerCard)}}}}})
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(t.bin, "kioskd"), "-config", t.kioskConfig, "-accounts", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("give the restocker an account: %w: %s", err, out)
	}
	return os.Remove(file)
}

// startDistrict and startKiosk run the real programs and wait until they answer.
func (t *town) startDistrict(ctx context.Context) (err error) {
	if t.district, err = start(filepath.Join(t.bin, "districtd"), t.dir, "-config", t.districtConf); err != nil {
		return err
	}
	return t.district.await(ctx, readyLimit, answers("http://"+t.console+"/"))
}

func (t *town) startKiosk(ctx context.Context) (err error) {
	if t.kiosk, err = start(filepath.Join(t.bin, "kioskd"), t.dir, "-config", t.kioskConfig); err != nil {
		return err
	}
	return t.kiosk.await(ctx, readyLimit, answers("http://"+t.screen+"/"))
}

func answers(url string) func() bool {
	client := &http.Client{Timeout: 2 * time.Second}
	return func() bool {
		r, err := client.Get(url)
		if err != nil {
			return false
		}
		r.Body.Close()
		return r.StatusCode == http.StatusOK
	}
}

// stop ends the programs, machine first, so that it can say goodbye.
func (t *town) stop() error {
	var errs []error
	for _, p := range []*process{t.kiosk, t.district} {
		if p != nil {
			errs = append(errs, p.stop())
		}
	}
	return errors.Join(errs...)
}

// demo runs a district, one complete machine with its screen, and light machines,
// until ctx ends. bin is the folder of the programs.
func demo(ctx context.Context, bin string, o demoOptions, out io.Writer, log *slog.Logger) (err error) {
	dir := o.keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "yaoju-demo-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	} else if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty: name a new folder", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	benchLine, err := net.Listen("tcp", o.bench)
	if err != nil {
		return fmt.Errorf("bench: %w (another demo may be running; -bench and -console name other addresses)", err)
	}
	defer benchLine.Close()
	bench := benchLine.Addr().String()

	fmt.Fprintln(out, "yaoju demo is starting ...")
	t, err := build(ctx, plan{dir: dir, bin: bin, console: o.console, frame: "http://" + bench, machines: o.machines,
		bays: tray(time.Now()), turn: 2500 * time.Millisecond, readTakes: reader.ReadTakes, firmware: o.firmware, bought: o.board == cabinet.KindVending, staff: true, log: log})
	if err != nil {
		return err
	}
	stopped := ctx // ends when the user ends the demo
	g, ctx := errgroup.WithContext(ctx)
	defer func() {
		if stopped.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil // ended while it was starting
		}
		err = errors.Join(err, t.stop())
	}()
	g.Go(func() error { return t.rig.Run(ctx) })
	if err := t.startDistrict(ctx); err != nil {
		return err
	}
	if err := t.startKiosk(ctx); err != nil {
		return err
	}
	w := newWorkbench(t.rig, t.bays, "http://"+t.screen+"/", "http://"+t.console+"/", time.Now().In(t.zone))
	page := &http.Server{Handler: w.handler(bench), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { page.Close() })
	g.Go(func() error {
		if err := page.Serve(benchLine); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("bench: %w", err)
		}
		return nil
	})
	for _, p := range []*process{t.district, t.kiosk} {
		g.Go(func() error {
			select {
			case <-p.done:
				return fmt.Errorf("%s ended: %w", p.name, p.why())
			case <-ctx.Done():
				return nil
			}
		})
	}
	if err := t.populate(ctx, g, o); err != nil {
		return err
	}
	if o.board == cabinet.KindVending {
		fmt.Fprintln(out, "\n  The machine has an off-the-shelf vending board, in software.")
	}
	if o.firmware {
		fmt.Fprintln(out, "\n  The motor board runs its real firmware, firmware/out/motor.elf, in boardsim.")
	}
	fmt.Fprintf(out, `
  Machine, with a bench for its hardware   http://%s/        (?lang=en for English)
  Its screen alone, as residents see it    http://%s/
  The district's console                   http://%s/        (?lang=en for English)

On the bench: touch the screen, choose, lay a card, and watch the box fall; the
console shows the new stock. %d light machines live through their residents,
%g times faster than life. Data and logs: %s
Ctrl-C ends it all.
`, bench, t.screen, t.console, o.machines, o.speed, dir)
	err = g.Wait()
	fmt.Fprintln(out, "\nending ...")
	return err
}

// populate starts the light machines.
func (t *town) populate(ctx context.Context, g *errgroup.Group, o demoOptions) error {
	key, err := base64.StdEncoding.DecodeString(t.key)
	if err != nil {
		return fmt.Errorf("the district's key: %w", err)
	}
	for i := range o.machines {
		m := newLightMachine(siteOf(i+1), o.speed, time.Now())
		g.Go(func() error { return m.Run(ctx, t.mqtt, key, t.log.With("machine", m.site.machine)) })
	}
	return nil
}
