package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"yaoju/daemon/cabinet"
	"yaoju/daemon/status"
	"yaoju/protocol"
)

// fittedPart is one part of the machine and where it is to be.
type fittedPart struct {
	part, label, path string
}

func (p fittedPart) name() protocol.Text {
	t := partName(p.part)
	if p.label != "" {
		t.ZH, t.EN = t.ZH+" "+p.label, t.EN+" "+p.label
	}
	return t
}

// fittedParts lists what the configuration names a device file for.
func (x *exam) fittedParts() (all []fittedPart) {
	add := func(part, label, path string) {
		if path != "" {
			all = append(all, fittedPart{part, label, path})
		}
	}
	if x.cfg.Board.Kind != cabinet.KindGPIO {
		add(status.PartBoard, "", x.cfg.Board.Path)
	}
	add(status.PartReader, "", x.cfg.Reader.Path)
	for _, s := range x.cfg.Scanners {
		add(status.PartScanner, s.Name, s.Path+s.Keyboard) // one of them is empty
	}
	for _, b := range x.cfg.Badges {
		add(status.PartBadge, b.Name, b.PN532)
	}
	return all
}

// parts says how each part is: in kioskd's words if it runs, else by listening.
func (x *exam) parts(ctx context.Context) {
	x.access(ctx)
	switch {
	case x.now != nil:
		for _, p := range x.now.Parts {
			if ours := []string{status.PartBoard, status.PartReader, status.PartScanner, status.PartBadge, status.PartClimate, status.PartScreen}; slices.Contains(ours, p.Part) {
				x.part(p)
			}
		}
	case locked(x.cfg.Data):
		x.say("part.unasked") // kioskd has the lines
	default:
		x.listen(ctx)
	}
}

func (x *exam) part(p status.Part) {
	name := fittedPart{part: p.Part, label: p.Label}.name()
	switch p.State {
	case status.Up:
		x.say("part.up", name, p.Device)
	case status.Starting:
		x.say("part.starting", name, p.Device)
	case status.Off:
		x.say("part.off", name)
	case status.Absent:
		x.say("part.absent", name, p.Device)
	case status.Silent:
		x.say("part.silent", name, p.Device)
	case status.Wrong:
		x.wrong(p, name)
	default:
		x.say("part.down", name, p.Device, p.Why)
	}
}

// wrong says what answers in a part's place, and with whom its plug may be exchanged.
func (x *exam) wrong(p status.Part, name protocol.Text) {
	if p.Found == "" {
		x.say("part.misplaced", name, p.Device, p.Why)
		return
	}
	for _, other := range x.fittedParts() {
		if other.part == p.Found && other.path != p.Device {
			x.say("part.swapped", name, p.Device, foundName(p.Found), other.name())
			return
		}
	}
	x.say("part.wrong", name, p.Device, foundName(p.Found))
}

// listen asks every part who it is, in kioskd's place. Nothing is moved, and no card
// is read.
func (x *exam) listen(ctx context.Context) {
	held, err := holdData(x.cfg.Data)
	if err != nil {
		x.say("part.unasked") // it started in this instant, or the folder is not ours to see
		return
	}
	if held != nil {
		defer held.Close()
	}
	for _, p := range cabinet.Inspect(ctx, x.cfg, x.h.gpio, nil).Status(time.Now()) {
		x.part(p)
	}
}

// access says which device files kioskd's user may not open, and which names change.
func (x *exam) access(ctx context.Context) {
	who, groups := x.kioskGroups(ctx)
	stable := x.stableNames()
	for _, p := range x.fittedParts() {
		real, err := filepath.EvalSymlinks(p.path)
		if err != nil {
			continue // it is not there, which is said elsewhere
		}
		info, err := os.Stat(real)
		if err != nil {
			continue
		}
		s, ok := info.Sys().(*syscall.Stat_t)
		if ok && who != "" && who != "root" && info.Mode().Perm()&0o006 == 0 && userName(int(s.Uid)) != who && !slices.Contains(groups, s.Gid) {
			x.say("part.denied", p.path, who, groupName(s.Gid))
		}
		if base := filepath.Base(p.path); p.path == real && (strings.HasPrefix(base, "ttyUSB") || strings.HasPrefix(base, "ttyACM")) && stable[real] != "" {
			x.say("part.unstable", p.name(), p.path, stable[real])
		}
	}
}

// kioskGroups is who runs kioskd and with which groups: the owner of its data, his
// groups, and those that the unit adds. Nobody if that cannot be told.
func (x *exam) kioskGroups(ctx context.Context) (who string, groups []uint32) {
	info, err := os.Stat(x.cfg.Data)
	if err != nil {
		return "", nil
	}
	u, err := user.LookupId(strconv.Itoa(ownerOf(info)))
	if err != nil {
		return "", nil
	}
	ids, err := u.GroupIds()
	if err != nil {
		return "", nil
	}
	if out, err := x.h.command(ctx, "systemctl", "show", "--property=SupplementaryGroups", "--value", "kioskd.service"); err == nil {
		for _, name := range strings.Fields(out) {
			if g, err := user.LookupGroup(name); err == nil {
				ids = append(ids, g.Gid)
			}
		}
	}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			groups = append(groups, uint32(n))
		}
	}
	return u.Username, groups
}

func groupName(gid uint32) string {
	g, err := user.LookupGroupId(strconv.Itoa(int(gid)))
	if err != nil {
		return strconv.Itoa(int(gid))
	}
	return g.Name
}

// stableNames gives each device below /dev the best of its names that stay: ours,
// after the socket it is in, before that of the adapter.
func (x *exam) stableNames() map[string]string {
	names := map[string]string{}
	for _, dir := range []string{"/dev/yaoju", "/dev/serial/by-id", "/dev/serial/by-path", "/dev/input/by-id"} {
		entries, err := os.ReadDir(x.h.path(dir))
		if err != nil {
			continue
		}
		for _, e := range entries {
			real, err := filepath.EvalSymlinks(x.h.path(filepath.Join(dir, e.Name())))
			if _, have := names[real]; err == nil && !have {
				names[real] = filepath.Join(dir, e.Name())
			}
		}
	}
	return names
}

// plugs lists serial adapters, and devices that play keyboards, which nobody has
// configured.
func (x *exam) plugs() {
	taken := map[string]bool{}
	for _, p := range x.fittedParts() {
		if real, err := filepath.EvalSymlinks(p.path); err == nil {
			taken[real] = true
		}
	}
	stable := x.stableNames()
	found := false
	ttys, _ := os.ReadDir(x.h.path("/sys/class/tty")) // without it there are none
	for _, t := range ttys {
		if !strings.HasPrefix(t.Name(), "ttyUSB") && !strings.HasPrefix(t.Name(), "ttyACM") {
			continue
		}
		dev := x.h.path("/dev/" + t.Name())
		if taken[dev] {
			continue
		}
		path := stable[dev]
		if path == "" {
			path = "/dev/" + t.Name()
		}
		found = true
		x.say("plug.serial", "/dev/"+t.Name(), x.usbName(t.Name()), path)
	}
	keys, _ := filepath.Glob(x.h.path("/dev/input/by-id/*-event-kbd"))
	for _, k := range keys {
		if real, err := filepath.EvalSymlinks(k); err == nil && !taken[real] {
			found = true
			x.say("plug.keyboard", strings.TrimPrefix(k, x.h.root))
		}
	}
	if !found {
		x.say("plug.none")
	}
}

// usbName is what a USB adapter calls itself, with its numbers and its socket.
func (x *exam) usbName(tty string) string {
	dir, err := filepath.EvalSymlinks(x.h.path("/sys/class/tty/" + tty + "/device"))
	for ; err == nil && len(dir) > len(x.h.root)+len("/sys"); dir = filepath.Dir(dir) {
		inside := strings.TrimPrefix(dir, x.h.root)
		if vendor := x.h.read(inside + "/idVendor"); vendor != "" {
			name := strings.TrimSpace(x.h.read(inside+"/manufacturer") + " " + x.h.read(inside+"/product"))
			return strings.TrimSpace(fmt.Sprintf("%s %s:%s, USB %s", name, vendor, x.h.read(inside+"/idProduct"), filepath.Base(dir)))
		}
	}
	return "?"
}

// earliestDay is a day before this program existed.
func earliestDay() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

func (x *exam) clock() {
	now := x.h.now()
	text := now.In(x.cfg.Location()).Format("2006-01-02 15:04:05 -07:00")
	switch {
	case now.Before(earliestDay()):
		x.say("clock.wrong", text)
	case x.cfg.Clock == "trusted":
		x.say("clock.trusted", text)
	case !x.h.synced():
		x.say("clock.unsynced", text)
	default:
		x.say("clock.synced", text)
	}
	if _, err := os.Stat(x.h.path("/sys/class/rtc/rtc0")); errors.Is(err, fs.ErrNotExist) {
		x.say("clock.rtc")
	}
}

// Room on the disk of the data: below low a person should look, below full the ledger
// is in danger, because its journal and an update want 32 MiB.
const (
	diskLow  = 256 << 20
	diskFull = 64 << 20
)

func (x *exam) disk() {
	dir := x.cfg.Data
	for { // a folder that is not there yet will be where its nearest ancestor is
		if _, err := os.Stat(dir); err == nil || dir == "/" || dir == "." {
			break
		}
		dir = filepath.Dir(dir)
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return // nobody can tell; whether the folder is there was said
	}
	free, size := int64(s.Bavail)*int64(s.Bsize), int64(s.Blocks)*int64(s.Bsize)
	const readOnly = 1 // ST_RDONLY
	switch {
	case int64(s.Flags)&readOnly != 0:
		x.say("disk.readonly", dir)
	case free < diskFull:
		x.say("disk.full", dir, bytesText(free))
	case free < diskLow:
		x.say("disk.low", dir, bytesText(free), bytesText(size))
	default:
		x.say("disk.good", dir, bytesText(free), bytesText(size))
	}
	errors, _ := filepath.Glob(x.h.path("/sys/fs/ext4/*/errors_count"))
	for _, e := range errors {
		n, err := strconv.Atoi(x.h.read(strings.TrimPrefix(e, x.h.root)))
		if err == nil && n > 0 {
			x.say("disk.errors", filepath.Base(filepath.Dir(e)), n)
		}
	}
	cards, _ := filepath.Glob(x.h.path("/sys/block/mmcblk[0-9]"))
	for _, c := range cards {
		c = strings.TrimPrefix(c, x.h.root)
		if life := strings.Fields(x.h.read(c + "/device/life_time")); len(life) > 0 && slices.Max(life) >= "0x0a" { // 0x0a: 90 to 100 % used
			x.say("disk.worn", filepath.Base(c))
			continue
		}
		if x.h.read(c+"/device/type") == "SD" {
			x.say("disk.card", x.h.read(c+"/device/name"), x.h.read(c+"/device/date"))
		}
	}
}

func bytesText(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// hot is where a Pi begins to slow down, in thousandths of a degree Celsius.
const hot = 80000

func (x *exam) computer(ctx context.Context) {
	pi := x.h.read("/proc/device-tree/model")
	if pi != "" {
		x.say("computer.model", pi)
	}
	if milli, err := strconv.Atoi(x.h.read("/sys/class/thermal/thermal_zone0/temp")); err == nil {
		code := "temp.good"
		if milli >= hot {
			code = "temp.hot"
		}
		x.say(code, milli/1000)
	}
	x.power(ctx)
	x.watchdog()
	serialUsed := strings.HasPrefix(x.cfg.Board.Path, "/dev/ttyAMA") || strings.HasPrefix(x.cfg.Board.Path, "/dev/serial") || x.cfg.Board.Path == "/dev/yaoju/uart"
	for _, word := range strings.Fields(x.h.read("/proc/cmdline")) {
		console, ok := strings.CutPrefix(word, "console=")
		// On a Pi 5 ttyAMA10 is the debug plug, which nobody else wants.
		if ok && serialUsed && (strings.HasPrefix(console, "serial0") || strings.HasPrefix(console, "ttyAMA0") || pi != "" && strings.HasPrefix(console, "ttyS0")) {
			x.say("console.uart", word)
		}
	}
	if bus, fitted := x.cfg.ClimateBus(); fitted {
		path := fmt.Sprintf("/dev/i2c-%d", bus)
		if _, err := os.Stat(x.h.path(path)); err != nil {
			x.say("i2c.absent", path)
		} else {
			x.say("i2c.good", path)
		}
	}
}

// power asks a Pi whether its supply holds.
func (x *exam) power(ctx context.Context) {
	text := ""
	for _, pattern := range []string{"/sys/devices/platform/soc/*firmware/get_throttled", "/sys/devices/platform/soc*/*/get_throttled"} {
		if files, _ := filepath.Glob(x.h.path(pattern)); len(files) > 0 {
			text = x.h.read(strings.TrimPrefix(files[0], x.h.root))
			break
		}
	}
	if text == "" {
		out, err := x.h.command(ctx, "vcgencmd", "get_throttled")
		if err != nil {
			return // no Pi
		}
		_, text, _ = strings.Cut(out, "=")
	}
	bits, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 32)
	const now, was = 1 << 0, 1 << 16 // under-voltage
	switch {
	case err != nil:
	case bits&now != 0:
		x.say("power.low")
	case bits&was != 0:
		x.say("power.was")
	default:
		x.say("power.good")
	}
}

func (x *exam) watchdog() {
	const dog = "/sys/class/watchdog/watchdog0"
	if _, err := os.Stat(x.h.path(dog)); err != nil {
		x.say("watchdog.absent")
		return
	}
	if state := x.h.read(dog + "/state"); state == "inactive" {
		x.say("watchdog.idle")
		return
	}
	x.say("watchdog.good", strings.TrimSpace(x.h.read(dog+"/identity")+" "+x.h.read(dog+"/timeout")+" s"))
}

// unitsOfKiosk are the services of a machine; those that are not installed are left
// out, and only kioskd has to be.
func unitsOfKiosk() []string {
	return []string{"kioskd.service", "yaoju-screen.service", "yaoju-firewall.service", "chrony.service"}
}

// switchOn is the command that makes a unit one of the machine's.
func switchOn(unit string) string {
	switch unit {
	case "yaoju-screen.service":
		return "yaoju-setup screen"
	case "yaoju-firewall.service":
		return "yaoju-setup firewall NETWORK"
	}
	return "systemctl enable --now " + unit
}

func (x *exam) units(ctx context.Context) {
	if _, err := os.Stat(x.h.path("/run/systemd/system")); err != nil {
		x.say("units.none")
		return
	}
	for _, unit := range unitsOfKiosk() {
		out, err := x.h.command(ctx, "systemctl", "show", "--property=LoadState,ActiveState,SubState,Result,UnitFileState", unit)
		if err != nil {
			x.say("unit.unasked", unit, err)
			continue
		}
		is := map[string]string{}
		for line := range strings.Lines(out) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
				is[key] = value
			}
		}
		words := strings.Join([]string{is["LoadState"], is["ActiveState"], is["SubState"], is["Result"]}, " ")
		switch {
		case is["LoadState"] == "not-found" && unit != "kioskd.service":
		case is["ActiveState"] == "active":
			x.say("unit.active", unit)
		case is["UnitFileState"] == "disabled" && unit != "kioskd.service":
			x.say("unit.off", unit, switchOn(unit))
		default:
			x.say("unit.down", unit, words)
		}
	}
}
