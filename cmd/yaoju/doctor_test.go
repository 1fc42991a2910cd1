package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"yaoju/daemon/identity"
	"yaoju/daemon/scan"
	"yaoju/daemon/status"
	"yaoju/protocol"
)

var rewrite = flag.Bool("rewrite", false, "write the doctor's golden files anew")

// patient is a computer made of files, with a machine on it.
type patient struct {
	t    *testing.T
	dir  string // of the machine: kioskd.toml, data
	root string
	said map[string]string // what a program of the system prints
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	dir := t.TempDir()
	p := &patient{t: t, dir: dir, root: filepath.Join(dir, "root"), said: map[string]string{}}
	for _, d := range []string{p.root, filepath.Join(dir, "data")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// file writes a file of the computer.
func (p *patient) file(path, text string) {
	p.t.Helper()
	p.write(filepath.Join(p.root, path), text, 0o600)
}

func (p *patient) write(path, text string, mode os.FileMode) {
	p.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
		p.t.Fatal(err)
	}
}

// link makes a symbolic link of the computer, to a path of it.
func (p *patient) link(path, to string) {
	p.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Join(p.root, filepath.Dir(path)), 0o700), os.Symlink(filepath.Join(p.root, to), filepath.Join(p.root, path))); err != nil {
		p.t.Fatal(err)
	}
}

// config writes kioskd.toml; more stands where its tables begin.
func (p *patient) config(board, reader, more string) string {
	p.t.Helper()
	path := filepath.Join(p.dir, "kioskd.toml")
	p.write(path, fmt.Sprintf(`machine = "m-0001"
data = %q
status = %q
[screen]
listen = "127.0.0.1:8080"
[board]
path = %q
[reader]
path = %q
%s[district]
broker = "tls://127.0.0.1:1"
enrol = "127.0.0.1:1"
keys = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
`, filepath.Join(p.dir, "data"), filepath.Join(p.dir, statusFile), board, reader, more), 0o600)
	return path
}

func (p *patient) host() host {
	return host{root: p.root, now: func() time.Time { return time.Date(2026, 11, 24, 1, 30, 0, 0, time.UTC) }, synced: func() bool { return true },
		gpio: scan.GPIO{},
		command: func(_ context.Context, name string, args ...string) (string, error) {
			out, ok := p.said[strings.Join(append([]string{name}, args...), " ")]
			if !ok {
				return "", exec.ErrNotFound
			}
			return out, nil
		}}
}

func (p *patient) examine(h host, config string) *exam {
	p.t.Helper()
	x := newExam(config, h)
	x.run(p.t.Context())
	return x
}

// codes lists what the doctor said.
func codes(x *exam) (all []string) {
	for _, f := range x.findings {
		all = append(all, f.Code)
	}
	return all
}

var roomText = regexp.MustCompile(`\d+ (GiB|MiB|KiB)`)

// plain is a report without what differs from one computer to the next.
func (p *patient) plain(text string) string {
	text = strings.ReplaceAll(text, p.dir, "DIR")
	text = strings.ReplaceAll(text, userName(os.Getuid()), "USER")
	return roomText.ReplaceAllString(text, "N GiB")
}

// golden compares both languages with testdata/doctor/NAME.txt.
func (p *patient) golden(name string, x *exam) {
	p.t.Helper()
	path := filepath.Join("testdata", "doctor", name+".txt")
	got := p.plain(x.report().text(true) + "\n----\n\n" + x.report().text(false))
	if *rewrite {
		p.write(path, got, 0o644)
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatal(err)
	}
	if got != string(want) {
		p.t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

func systemctlShow(unit string) string {
	return "systemctl show --property=LoadState,ActiveState,SubState,Result,UnitFileState " + unit
}

// Machines that are broken in one way or another, and what a technician reads.
func TestDoctor(t *testing.T) {
	t.Parallel()
	t.Run("nothing there yet", func(t *testing.T) {
		t.Parallel()
		p := newPatient(t)
		p.golden("bare", p.examine(p.host(), filepath.Join(p.dir, "kioskd.toml")))
	})
	t.Run("mistakes in the configuration", func(t *testing.T) {
		t.Parallel()
		p := newPatient(t)
		path := p.config("/dev/ttyAMA0", "/dev/ttyAMA0", "baud = \"fast\"\nvolume = 11\n")
		p.golden("mistakes", p.examine(p.host(), path))
	})
	t.Run("a Pi in a bad state", func(t *testing.T) {
		t.Parallel()
		p := newPatient(t)
		path := p.config("/dev/ttyAMA0", filepath.Join(p.dir, "no-reader"), "[[scanner]]\nname = \"front\"\npath = \"/dev/no-scanner\"\n[climate]\nbus = 1\n")
		if err := errors.Join(os.Chmod(path, 0o666), os.Chmod(filepath.Join(p.dir, "data"), 0o755)); err != nil {
			t.Fatal(err)
		}
		p.write(filepath.Join(p.dir, "data", marksFile), "secret", 0o644)
		p.write(filepath.Join(p.dir, "data", ledgerFile), "this is not a database, though it is long enough for one", 0o600)
		p.file("/proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.5\x00")
		p.file("/proc/cmdline", "console=ttyAMA0,115200 console=tty1 root=/dev/mmcblk0p2 ro")
		p.file("/sys/class/thermal/thermal_zone0/temp", "84321\n")
		p.file("/sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
		p.file("/sys/class/watchdog/watchdog0/state", "inactive\n")
		p.file("/sys/fs/ext4/mmcblk0p3/errors_count", "3\n")
		p.file("/sys/block/mmcblk0/device/type", "SD\n")
		p.file("/sys/block/mmcblk0/device/name", "SC32G\n")
		p.file("/sys/block/mmcblk0/device/date", "01/2023\n")
		p.file("/sys/devices/usb1/1-1.3/idVendor", "1a86\n")
		p.file("/sys/devices/usb1/1-1.3/idProduct", "7523\n")
		p.file("/sys/devices/usb1/1-1.3/product", "USB Serial\n")
		p.file("/sys/devices/usb1/1-1.3/1-1.3:1.0/ttyUSB0/port_number", "0\n")
		p.link("/sys/class/tty/ttyUSB0/device", "/sys/devices/usb1/1-1.3/1-1.3:1.0/ttyUSB0")
		p.file("/dev/ttyUSB0", "")
		p.link("/dev/yaoju/usb-1-1.3", "/dev/ttyUSB0")
		p.file("/dev/input/event3", "")
		p.link("/dev/input/by-id/usb-Example_Scanner-event-kbd", "/dev/input/event3")
		p.file("/run/systemd/system/x", "")
		p.said[systemctlShow("kioskd.service")] = "LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code"
		p.said[systemctlShow("chrony.service")] = "LoadState=loaded\nActiveState=active\nSubState=running\nResult=success"
		p.said[systemctlShow("yaoju-screen.service")] = "LoadState=not-found\nActiveState=inactive\nSubState=dead\nResult=success"
		p.said[systemctlShow("yaoju-firewall.service")] = "LoadState=loaded\nActiveState=inactive\nSubState=dead\nResult=success\nUnitFileState=disabled"
		h := p.host()
		h.synced = func() bool { return false }
		p.golden("bad", p.examine(h, path))
	})
	t.Run("a Pi that is well, before it is enrolled", func(t *testing.T) {
		t.Parallel()
		p := newPatient(t)
		p.file("/proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\x00")
		p.file("/proc/cmdline", "console=tty1 root=/dev/mmcblk0p2 ro")
		p.file("/sys/class/thermal/thermal_zone0/temp", "51234\n")
		p.said["vcgencmd get_throttled"] = "throttled=0x0"
		p.file("/sys/class/watchdog/watchdog0/state", "active\n")
		p.file("/sys/class/watchdog/watchdog0/identity", "Broadcom BCM2835 Watchdog timer\n")
		p.file("/sys/class/watchdog/watchdog0/timeout", "15\n")
		p.file("/sys/class/rtc/rtc0/name", "rpi_rtc\n")
		p.file("/run/systemd/system/x", "")
		for _, u := range unitsOfKiosk() {
			p.said[systemctlShow(u)] = "LoadState=loaded\nActiveState=active\nSubState=running\nResult=success"
		}
		board, reader := filepath.Join(p.dir, boardLine), filepath.Join(p.dir, readerLine)
		plugIn(t, board, true)
		plugIn(t, reader, false)
		h := p.host()
		p.golden("well", p.examine(h, p.config(board, reader, "")))
	})
	t.Run("two plugs exchanged", func(t *testing.T) {
		t.Parallel()
		p := newPatient(t)
		board, reader := filepath.Join(p.dir, boardLine), filepath.Join(p.dir, readerLine)
		plugIn(t, board, false)
		plugIn(t, reader, true)
		h := p.host()
		p.golden("exchanged", p.examine(h, p.config(board, reader, "")))
	})
}

// A kioskd that runs answers for its parts, and the doctor reads what it says.
func TestDoctorReadsStatus(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	path := p.config("/dev/none-board", "/dev/none-reader", "")
	at := time.Date(2026, 11, 23, 23, 0, 0, 0, time.UTC)
	doc := status.Document{Machine: "m-0001", Version: "1.2.3", PID: 4242, Started: at, At: at, Serving: "closed", Closed: "F-102",
		Faults: []status.Fault{{Code: "F-102", ZH: "读卡器无响应", EN: "Card reader does not answer"}, {Code: "F-001", Slot: 12, ZH: "货道卡住", EN: "Slot jammed"}, {Code: "F-013", ZH: "温湿度传感器无读数", EN: "Climate sensor gives no reading"}},
		Parts: []status.Part{{Part: status.PartBoard, Device: "/dev/none-board", State: status.Up}, {Part: status.PartReader, Device: "/dev/none-reader", State: status.Absent, Why: "not there"},
			{Part: status.PartScanner, Label: "front", Device: "/dev/s", State: status.Silent, Why: "nobody answers"}, {Part: status.PartBadge, Label: "staff", Device: "/dev/b", State: status.Wrong, Found: status.FoundVending, Why: "a vending board answers"},
			{Part: status.PartScanner, Label: "hand", Device: "/dev/t", State: status.Wrong, Why: "nobody answers here, and it answers there"}, {Part: status.PartBadge, Label: "door", Device: "/dev/d", State: status.Starting},
			{Part: status.PartClimate, Device: "/dev/i2c-1", State: status.Down, Why: "its checksum is wrong"}, {Part: status.PartScreen, Device: "127.0.0.1:8080", State: status.Up}, {Part: status.PartUplink, State: status.Up}},
		Ledger: status.Ledger{Head: 12, Acked: 7}, Update: &status.Update{Current: "1.2.3", Trial: "1.2.3", Waits: "a quiet hour", Last: "1.2.2: confirmed"}}
	p.file("/proc/4242/limits", "Limit                     Soft Limit           Hard Limit           Units\nMax core file size        unlimited            unlimited            bytes\n")
	tellStatus(t, filepath.Join(p.dir, statusFile), doc)
	x := p.examine(p.host(), path)
	p.golden("running", x)

	for closed, want := range map[string]string{"F-106": "kioskd.door", "F-107": "kioskd.paused", "": "kioskd.running"} {
		doc.Closed, doc.Machine = closed, "m-0001"
		y := newExam(path, p.host())
		y.cfg = x.cfg
		y.serving(doc)
		if !slices.Contains(codes(y), want) {
			t.Errorf("closed for %q: said %v, want %s", closed, codes(y), want)
		}
	}
}

// tellStatus is a kioskd that says d until the test ends.
func tellStatus(t *testing.T, path string, d status.Document) {
	t.Helper()
	l, err := status.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- status.Serve(ctx, l, func(context.Context) (status.Document, error) { return d, nil }) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// What a certificate can be, in words of both languages.
func TestDoctorCertificate(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	x := p.examine(p.host(), p.config("/dev/none-board", "/dev/none-reader", ""))
	until := p.host().now().Add(30*24*time.Hour + time.Hour)
	for _, c := range []struct {
		r    identity.Report
		want []string
		en   string
	}{
		{identity.Report{State: identity.StateGood, Until: until}, []string{"cert.good", "key.file"}, "(30 days)"},
		{identity.Report{State: identity.StateGood, Until: until, TPM: true}, []string{"cert.good", "key.tpm"}, "good until 2026-12-24"},
		{identity.Report{State: identity.StateNone}, []string{"cert.none"}, "not enrolled"},
		{identity.Report{State: identity.StateUnread}, []string{"cert.unseen"}, "could not be seen"},
		{identity.Report{State: identity.StateLate, Until: until}, []string{"cert.late", "key.file"}, "a week ago"},
		{identity.Report{State: identity.StateEnded, Until: until}, []string{"cert.ended", "key.file"}, "ran out on 2026-12-24"},
		{identity.Report{State: identity.StateBroken, Words: []string{"first", "the key is another's"}}, []string{"cert.broken"}, "the key is another's"},
	} {
		y := newExam("", p.host())
		y.cfg = x.cfg
		y.certificate(c.r)
		if !slices.Equal(codes(y), c.want) || !strings.Contains(y.findings[0].Text.EN, c.en) {
			t.Errorf("%s: said %+v, want %v with %q", c.r.State, y.findings, c.want, c.en)
		}
	}
}

// Each saying is said somewhere, has both languages, and where something is to be
// done begins with it.
func TestDoctorSayings(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("doctor*.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") || f == "doctor_words.go" {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(text)
	}
	said := map[string]bool{}
	for _, m := range regexp.MustCompile(`"([a-z0-9]+\.[a-z0-9]+)"`).FindAllStringSubmatch(source.String(), -1) {
		said[m[1]] = true
	}
	place := regexp.MustCompile(`\{\d\}`)
	places := func(s string) string {
		all := place.FindAllString(s, -1)
		slices.Sort(all)
		return strings.Join(slices.Compact(all), "")
	}
	for code, s := range sayings() {
		if !said[code] {
			t.Errorf("%s is never said", code)
		}
		if s.zh == "" || s.en == "" || places(s.zh) != places(s.en) || (s.do.ZH == "") != (s.do.EN == "") || places(s.do.ZH) != places(s.do.EN) {
			t.Errorf("%s: the languages differ: %+v", code, s)
		}
		if s.level == bad && s.do.EN == "" {
			t.Errorf("%s says what is wrong, and not what to do", code)
		}
		if !slices.ContainsFunc(groups(), func(g group) bool { return g.id == s.group }) {
			t.Errorf("%s is in group %q, which is none", code, s.group)
		}
	}
	for _, f := range protocol.Faults() {
		if r := remedy(f.Fault); r.ZH == "" || r.EN == "" {
			t.Errorf("%s: nobody says what to do", f.Fault.Code())
		}
	}
}

// Flags that are wrong are said, and the exit code tells what was found.
func TestDoctorCommand(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	path := p.config("/dev/none-board", "/dev/none-reader", "")
	run := func(args ...string) (int, string) {
		var out, err bytes.Buffer
		code := doctorCommand(t.Context(), p.host(), args, terminal{out: &out, err: &err})
		return code, out.String() + err.String()
	}
	if code, text := run("-config", path, "-lang", "fr"); code != 2 || !strings.Contains(text, "want zh or en") {
		t.Errorf("a third language: %d, %s", code, text)
	}
	if code, text := run("-config", path, "more"); code != 2 || !strings.Contains(text, "more") {
		t.Errorf("a further word: %d, %s", code, text)
	}
	if code, text := run("-config", path, "-json"); code != 1 || !strings.Contains(text, `"code": "kioskd.stopped"`) {
		t.Errorf("json: %d, %s", code, text)
	}
	for env, want := range map[string]string{"": "zh", "zh_CN.UTF-8": "zh", "C.UTF-8": "zh", "en_GB.UTF-8": "en"} {
		if got := localLang(func(name string) string {
			if name == "LANG" {
				return env
			}
			return ""
		}); got != want {
			t.Errorf("LANG=%q: %s, want %s", env, got, want)
		}
	}
}

// The bundle tells how the machine is, and nothing that is secret or personal gets
// into it, wherever on the machine it was.
func TestBundle(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	const (
		token  = "yaoju1/m-0001/198.51.100.7:8884/AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdE/QWERTYUIOPASDFGHJKLZXCVBNM012345"
		number = "11010519491231002X"
		mark   = "5f3a9c01d2e4b6a87788990011223344"
		uid    = "04A1B2C3D4E5F6"
		spaced = "04 A1 B2 C3 D4 E5"
		key    = "Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4"
		office = "-----BEGIN PRIVATE KEY-----"
	)
	path := p.config("/dev/none-board", "/dev/none-reader", "# once: "+token+"\n")
	data := filepath.Join(p.dir, "data")
	p.write(filepath.Join(data, marksFile), `{"current":"`+mark+`"}`, 0o600)
	p.write(filepath.Join(data, "identity", "machine.pem"), office+"\n"+key+"\n", 0o600)
	p.write(filepath.Join(data, "accounts.json"), key, 0o600)
	p.write(filepath.Join(data, ledgerFile+".damaged-20260101T000000Z-"+mark[:8]), mark, 0o600)
	p.said["journalctl --unit=kioskd.service --no-pager --output=short-iso --lines="+logLines] =
		"2026-11-23T08:00:00 kioskd[7]: level=INFO msg=\"line up\" device=/dev/yaoju/usb-1-1.3\n" + strings.Join([]string{token, number, mark, uid, spaced, key}, "\n")
	at := time.Date(2026, 11, 23, 23, 0, 0, 0, time.UTC)
	tellStatus(t, filepath.Join(p.dir, statusFile), status.Document{Machine: "m-0001", Version: "1.2.3", Started: at, At: at, Serving: "open",
		Parts: []status.Part{{Part: status.PartReader, State: status.Down, Why: "it said " + number}}})
	file := filepath.Join(p.dir, "bundle.tar.gz")
	var out, errs bytes.Buffer
	if code := doctorCommand(t.Context(), p.host(), []string{"-config", path, "-bundle", file, "-lang", "en"}, terminal{out: &out, err: &errs}); code != 1 {
		t.Fatalf("exit %d: %s%s", code, &out, &errs)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the bundle: %v, %v", info, err)
	}
	files := unpack(t, file)
	for name, text := range files {
		for _, secret := range []string{token, token[20:60], number, mark, uid, spaced, key, office, "AAAAAAAAAAAAAAAA"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds %q:\n%s", name, secret, text)
			}
		}
	}
	for name, want := range map[string]string{"yaoju/README.txt": "begin here", "yaoju/doctor.txt": "读卡器", "yaoju/doctor.json": `"to_do"`, "yaoju/status.json": `"serving": "open"`,
		"yaoju/config.toml": `broker = "tls://127.0.0.1:1"`, "yaoju/versions.txt": "yaoju", "yaoju/sizes.txt": "machine.pem", "yaoju/system.txt": "serial devices", "yaoju/log.txt": "/dev/yaoju/usb-1-1.3"} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s holds no %q:\n%s", name, want, files[name])
		}
	}
	if code := doctorCommand(t.Context(), p.host(), []string{"-config", path, "-bundle", file}, terminal{out: &out, err: &errs}); code != 1 || !strings.Contains(errs.String(), "file exists") {
		t.Errorf("over another bundle: %d, %s", code, &errs)
	}
}

func unpack(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
	}
}

func FuzzScrub(f *testing.F) {
	f.Add("keys = [\"AAAA\"] # 11010519491231002X", "04A1B2C3")
	f.Fuzz(func(t *testing.T, text, more string) {
		if got := scrub(scrubConfig(text) + " 440524188001010014 " + more); strings.Contains(got, " 440524188001010014 ") {
			t.Errorf("kept a number in %q", got)
		}
	})
}
