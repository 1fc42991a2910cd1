package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"yaoju/daemon/cabinet"
	"yaoju/daemon/scan"
	"yaoju/daemon/status"
	"yaoju/protocol"
)

// errToDo says that the doctor found something to do.
var errToDo = errors.New("something needs doing")

// doctorCommand runs `yaoju doctor` and returns the exit code: 0 all good, 1
// something needs doing, 2 asked in the wrong way.
func doctorCommand(ctx context.Context, h host, args []string, term terminal) int {
	f := flag.NewFlagSet("yaoju doctor", flag.ContinueOnError)
	f.SetOutput(term.err)
	path := f.String("config", kioskConfigPath, "kioskd.toml of the machine")
	asJSON := f.Bool("json", false, "print one JSON object")
	lang := f.String("lang", localLang(os.Getenv), "language: zh or en")
	bundle := f.String("bundle", "", "write a diagnostics bundle, a .tar.gz without personal data, to this new file")
	err := parse(f, args)
	if err == nil && *lang != "zh" && *lang != "en" {
		err = usageError{fmt.Errorf("-lang %q: want zh or en", *lang)}
	}
	if err == nil {
		err = doctor(ctx, h, *path, *bundle, *asJSON, *lang == "zh", term)
	}
	_, usage := errors.AsType[usageError](err)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errToDo):
		return 1
	case usage:
		fmt.Fprintln(term.err, "yaoju doctor:", err)
		return 2
	}
	fmt.Fprintln(term.err, "yaoju doctor:", err)
	return 1
}

// localLang is the language of the place: Chinese, unless the terminal is set to
// another language.
func localLang(getenv func(string) string) string {
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		v := getenv(name)
		if v == "" {
			continue
		}
		if strings.HasPrefix(v, "zh") || v == "C" || v == "POSIX" || strings.HasPrefix(v, "C.") {
			return "zh"
		}
		return "en"
	}
	return "zh"
}

func doctor(ctx context.Context, h host, config, bundle string, asJSON, zh bool, term terminal) error {
	x := newExam(config, h)
	if !asJSON && !zh {
		fmt.Fprintln(term.err, "Looking at the machine; up to half a minute ...")
	}
	if !asJSON && zh {
		fmt.Fprintln(term.err, "正在检查，最多半分钟……")
	}
	x.run(ctx)
	r := x.report()
	if bundle != "" {
		if err := writeDiagnostics(ctx, bundle, x, r); err != nil {
			return err
		}
	}
	var err error
	if asJSON {
		out := json.NewEncoder(term.out)
		out.SetIndent("", "  ")
		err = out.Encode(r)
	} else {
		_, err = io.WriteString(term.out, r.text(zh))
	}
	if err == nil && r.ToDo > 0 {
		return errToDo
	}
	return err
}

// diagnosis is all that the doctor found, as programs read it.
type diagnosis struct {
	Format   int                `json:"format"` // 1
	Machine  protocol.MachineID `json:"machine,omitempty"`
	Version  string             `json:"version"` // of yaoju
	At       time.Time          `json:"at"`
	ToDo     int                `json:"to_do"` // findings that are bad
	Findings []finding          `json:"findings"`
}

// text is a diagnosis for a person: groups in a fixed order, and what is to be done
// in front.
func (d diagnosis) text(zh bool) string {
	say := func(t protocol.Text) string {
		if zh {
			return t.ZH
		}
		return t.EN
	}
	var b strings.Builder
	for _, g := range groups() {
		first := true
		for _, f := range d.Findings {
			if f.Group != g.id {
				continue
			}
			if first {
				fmt.Fprintf(&b, "%s\n", say(g.Text))
				first = false
			}
			text, todo := say(f.Text), say(f.Do)
			switch {
			case todo == "":
				fmt.Fprintf(&b, "  %s %s\n", f.Level.sign(), text)
			case f.Level == bad:
				fmt.Fprintf(&b, "  %s %s — %s\n", f.Level.sign(), todo, text)
			default:
				fmt.Fprintf(&b, "  %s %s — %s\n", f.Level.sign(), text, todo)
			}
		}
	}
	switch {
	case d.ToDo == 0 && zh:
		b.WriteString("\n没有要处理的事。\n")
	case d.ToDo == 0:
		b.WriteString("\nNothing needs doing.\n")
	case zh:
		fmt.Fprintf(&b, "\n要处理 %d 件事：每个 ✗ 后面先写怎么做。\n", d.ToDo)
	default:
		fmt.Fprintf(&b, "\n%d to do: behind each ✗ stands first what to do.\n", d.ToDo)
	}
	return b.String()
}

// host is the computer the doctor stands at. Tests have another.
type host struct {
	root   string // before /proc, /sys, /dev and /boot; empty on a machine
	now    func() time.Time
	synced func() bool
	// command runs a program of the system and returns what it printed, also when it
	// fails; fs.ErrNotExist or exec.ErrNotFound if there is none.
	command func(ctx context.Context, name string, args ...string) (string, error)
	gpio    scan.GPIO
}

// commandLimit bounds one program of the system: they answer out of memory.
const commandLimit = 5 * time.Second

func thisHost(lines scan.GPIO) host {
	return host{gpio: lines, now: time.Now, synced: kernelSynced,
		command: func(ctx context.Context, name string, args ...string) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, commandLimit)
			defer cancel()
			out, err := exec.CommandContext(ctx, name, args...).Output()
			return strings.TrimSpace(string(out)), err
		}}
}

func (h host) path(p string) string { return filepath.Join(h.root, p) }

// read returns the first line of a small file, without blanks around it; "" if it
// cannot be read.
func (h host) read(path string) string {
	b, err := os.ReadFile(h.path(path))
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(strings.Trim(string(b), "\x00\n "), "\n")
	return strings.TrimSpace(line)
}

// exam is one look at one machine.
type exam struct {
	config   string // path
	h        host
	cfg      cabinet.Config
	sound    bool // cfg has no mistakes
	now      *status.Document
	findings []finding
}

func newExam(config string, h host) *exam { return &exam{config: config, h: h} }

func (x *exam) say(code string, args ...any) { x.findings = append(x.findings, find(code, args...)) }

func (x *exam) run(ctx context.Context) {
	x.say("program.version", version)
	x.configuration()
	if !x.sound {
		x.computer(ctx)
		x.units(ctx)
		return
	}
	x.folders()
	x.kioskd(ctx)
	x.parts(ctx)
	x.plugs()
	x.clock()
	x.disk()
	x.computer(ctx)
	x.units(ctx)
	x.district(ctx)
	x.ledger(ctx)
}

func (x *exam) report() diagnosis {
	d := diagnosis{Format: 1, Machine: x.cfg.Machine, Version: version, At: x.h.now().UTC().Truncate(time.Second), Findings: x.findings}
	for _, f := range x.findings {
		if f.Level == bad {
			d.ToDo++
		}
	}
	return d
}

// configuration tells every mistake in kioskd.toml.
func (x *exam) configuration() {
	cfg, err := cabinet.Read(x.config)
	info, statErr := os.Stat(x.config)
	path := (*fs.PathError)(nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		x.say("config.absent", x.config)
		return
	case errors.Is(err, fs.ErrPermission):
		x.say("config.denied", x.config)
		return
	case errors.As(err, &path):
		x.say("config.broken", x.config, err)
		return
	case err != nil:
		for _, line := range strings.Split(err.Error(), "\n") {
			x.say("config.wrong", line)
		}
		x.cfg.Machine, x.cfg.Data = cfg.Machine, cfg.Data
		if cfg.Machine.Valid() != nil {
			x.cfg.Machine = ""
		}
		return
	}
	x.cfg, x.sound = cfg, true
	if statErr == nil && info.Mode().Perm()&0o022 != 0 {
		x.say("config.loose", x.config)
		return
	}
	x.say("config.good", x.config)
}

// kioskUser is as whom the package runs kioskd, and packageData its folder.
const (
	kioskUser   = "yaoju"
	packageData = "/var/lib/yaoju"
)

// folders looks at who owns what, and who may look.
func (x *exam) folders() {
	dir := x.cfg.Data
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		x.say("data.absent", dir)
		return
	}
	if err != nil {
		x.say("data.unseen", dir)
		return
	}
	owner := ownerOf(info)
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		x.say("data.open", dir, fmt.Sprintf("%03o", mode))
	}
	if u, err := user.Lookup(kioskUser); err == nil && filepath.Clean(dir) == packageData && strconv.Itoa(owner) != u.Uid {
		x.say("data.owner", dir, userName(owner), kioskUser)
	}
	before := len(x.findings)
	if !x.secrets(dir, owner) {
		x.say("data.unseen", dir)
		return
	}
	if len(x.findings) == before && info.Mode().Perm()&0o077 == 0 {
		x.say("data.good", dir, userName(owner))
	}
}

// secrets looks at every file below dir, and says whether it could. Nothing in it is
// for others.
func (x *exam) secrets(dir string, owner int) bool {
	seen := true
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			seen = false
			return fs.SkipDir
		}
		info, err := e.Info()
		if err != nil || path == dir || !info.Mode().IsRegular() {
			return nil // gone meanwhile
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 && filepath.Base(path) != "lock" {
			x.say("file.open", path, fmt.Sprintf("%03o", mode))
		}
		if uid := ownerOf(info); uid != owner {
			x.say("file.owner", path, userName(uid), userName(owner))
		}
		return nil
	})
	return seen && err == nil
}

func ownerOf(info fs.FileInfo) int {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid)
	}
	return 0
}

func userName(uid int) string {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return strconv.Itoa(uid)
	}
	return u.Username
}

// kioskd asks the daemon, if it runs.
func (x *exam) kioskd(ctx context.Context) {
	d, err := status.Ask(ctx, x.cfg.Status)
	if errors.Is(err, fs.ErrPermission) {
		x.say("kioskd.denied", x.cfg.Status)
		return
	}
	if err != nil {
		if locked(x.cfg.Data) {
			x.say("kioskd.silent", x.cfg.Status)
		} else {
			x.say("kioskd.stopped")
		}
		return
	}
	if d.Machine != string(x.cfg.Machine) {
		x.say("kioskd.other", d.Machine, x.cfg.Machine)
		return
	}
	x.now = &d
	if d.Version != version {
		x.say("program.differs", d.Version, version)
	}
	x.serving(d)
	x.update(d.Update)
	if d.PID > 0 {
		limits, err := os.ReadFile(x.h.path(fmt.Sprintf("/proc/%d/limits", d.PID)))
		if err == nil && coreAllowed(string(limits)) {
			x.say("kioskd.core")
		}
	}
}

func coreAllowed(limits string) bool {
	for line := range strings.Lines(limits) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
			f := strings.Fields(rest)
			return len(f) > 0 && f[0] != "0"
		}
	}
	return false
}

// serving says what kioskd does for residents, and which faults stand.
func (x *exam) serving(d status.Document) {
	since := d.Started.In(x.cfg.Location()).Format("2006-01-02 15:04")
	switch {
	case d.Closed == protocol.FaultDoor.Code():
		x.say("kioskd.door", since)
	case d.Closed == protocol.FaultPaused.Code():
		x.say("kioskd.paused", since)
	case d.Closed != "":
		x.say("kioskd.closed", since, d.Closed)
	case d.Serving == string(protocol.ServingEmpty):
		x.say("kioskd.empty", since)
	default:
		x.say("kioskd.running", since)
	}
	for _, f := range d.Faults {
		number := faultOf(f.Code)
		info, _ := number.Info()
		code := "fault.stands"
		if info.Severity == protocol.Notice || number == protocol.FaultDoor {
			code = "fault.notice"
		}
		slot := protocol.Text{}
		if f.Slot > 0 {
			slot = protocol.Text{ZH: fmt.Sprintf("（货道 %d）", f.Slot), EN: fmt.Sprintf(" (slot %d)", f.Slot)}
		}
		x.say(code, f.Code, protocol.Text{ZH: f.ZH, EN: f.EN}, slot, remedy(number))
	}
}

func faultOf(code string) protocol.Fault {
	i := slices.IndexFunc(protocol.Faults(), func(f protocol.FaultInfo) bool { return f.Fault.Code() == code })
	if i < 0 {
		return 0
	}
	return protocol.Faults()[i].Fault
}

func (x *exam) update(u *status.Update) {
	if u == nil {
		return
	}
	previous := u.Previous
	if previous == "" {
		previous = "-"
	}
	x.say("update.current", u.Current, previous)
	if u.Trial != "" {
		x.say("update.trial", u.Trial)
	}
	if u.Waits != "" {
		x.say("update.waits", u.Waits)
	}
	if u.Last != "" {
		x.say("update.last", u.Last)
	}
}
