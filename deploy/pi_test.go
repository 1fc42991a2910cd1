package deploy

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pi runs the script on the tree dir and returns what it prints.
func pi(t *testing.T, dir string, env []string, args ...string) (string, error) {
	t.Helper()
	return output(t, append(env, "YAOJU_ROOT="+dir), "pi/root/usr/lib/yaoju/pi", args...)
}

// stockFstab is that of Raspberry Pi OS.
const stockFstab = "proc            /proc           proc    defaults          0       0\nPARTUUID=4e639091-01  /boot/firmware  vfat    defaults          0       2\nPARTUUID=4e639091-02  /               ext4    defaults,noatime  0       1\n"

// card is a tree with what the script looks at, as the maker of a Pi delivers it.
func card(t *testing.T, config, cmdline string) string {
	t.Helper()
	dir := t.TempDir()
	text, err := os.ReadFile(filepath.Join("pi/test", config))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"boot/firmware/config.txt": string(text), "boot/firmware/cmdline.txt": cmdline + "\n", "etc/fstab": stockFstab,
		"etc/machine-id": "0123456789abcdef0123456789abcdef\n", "usr/sbin/NetworkManager": "", "etc/ssh/ssh_host_ed25519_key": "",
		"usr/lib/yaoju/initramfs-hook": "#!/bin/sh\n", "usr/lib/yaoju/initramfs-premount": "#!/bin/sh\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tree is every file below dir with its content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if e.Type()&os.ModeSymlink != 0 {
			out[path], err = os.Readlink(path)
			return err
		}
		b, err := os.ReadFile(path)
		out[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// settings are what a Pi of a model takes from its config.txt: the last word for each
// key, and all overlays.
func settings(text, model string) (map[string]string, []string) {
	out, overlays, on := map[string]string{}, []string(nil), true
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] == '[' {
			on = line == "[all]" || line == "["+model+"]"
			continue
		}
		key, value, _ := strings.Cut(line, "=")
		if key, value = strings.TrimSpace(key), strings.TrimSpace(value); key == "dtparam" {
			key, value, _ = strings.Cut(value, "=")
			key = "dtparam=" + key
		}
		switch {
		case !on:
		case key == "dtoverlay":
			overlays = append(overlays, value)
		default:
			out[key] = value
		}
	}
	return out, overlays
}

// config.txt and cmdline.txt become what a machine needs, whatever was in them; what
// does no harm stays; the second time nothing changes.
func TestPiBoot(t *testing.T) {
	t.Parallel()
	for _, config := range []string{"config-bookworm.txt", "config-handmade.txt", "config-windows.txt"} {
		for cmdline, want := range map[string]string{
			"console=serial0,115200 console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 fsck.repair=yes rootwait":                                                                                 "console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 rootwait fsck.repair=yes panic=10",
			"console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 fsck.repair=yes rootwait quiet splash plymouth.ignore-serial-consoles cfg80211.ieee80211_regdom=CN usbcore.authorized_default=0": "console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 rootwait quiet splash plymouth.ignore-serial-consoles cfg80211.ieee80211_regdom=CN usbcore.authorized_default=0 fsck.repair=yes panic=10",
			"console=ttyAMA10,115200 console=ttyS0 panic=0 root=/dev/mmcblk0p2 rootwait":                                                                                                             "root=/dev/mmcblk0p2 rootwait fsck.repair=yes panic=10",
		} {
			dir := card(t, config, cmdline)
			before := tree(t, dir)
			out, err := pi(t, dir, nil, "--dry-run", "boot")
			if err != nil || !strings.Contains(out, "+dtparam=strict_gpiod=on") || !strings.Contains(out, "panic=10") {
				t.Fatalf("dry run: %v\n%s", err, out)
			}
			if !maps.Equal(tree(t, dir), before) {
				t.Error("the dry run changed something")
			}
			if out, err := pi(t, dir, nil, "boot"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			once := tree(t, dir)
			if out, err := pi(t, dir, nil, "boot"); err != nil || !maps.Equal(tree(t, dir), once) {
				t.Errorf("the second time: %v\n%s", err, out)
			}
			text := once[filepath.Join(dir, "boot/firmware/config.txt")]
			if got := once[filepath.Join(dir, "boot/firmware/cmdline.txt")]; got != want+"\n" {
				t.Errorf("cmdline.txt: %q, want %q", got, want)
			}
			if once[filepath.Join(dir, "boot/firmware/config.txt.before-yaoju")] != before[filepath.Join(dir, "boot/firmware/config.txt")] {
				t.Error("what was there before is not kept")
			}
			for model, uart := range map[string]string{"pi4": "enable_uart=1", "pi5": "dtparam=uart0=on"} {
				got, overlays := settings(text, model)
				if strings.Contains(text, "\r") {
					t.Error("line ends of two kinds")
				}
				for key, value := range map[string]string{"dtparam=i2c_arm": "on", "dtparam=watchdog": "on", "dtparam=strict_gpiod": "on", "dtparam=audio": "off", "auto_initramfs": "1"} {
					if got[key] != value {
						t.Errorf("%s on a %s: %s is %q, want %q", config, model, key, got[key], value)
					}
				}
				cut := strings.LastIndex(uart, "=")
				if got[uart[:cut]] != uart[cut+1:] || got["enable_uart"] == "0" {
					t.Errorf("%s on a %s: no %s", config, model, uart)
				}
				if slices.Contains(overlays, "disable-bt") != (model == "pi4") || !slices.Contains(overlays, "vc4-kms-v3d") {
					t.Errorf("%s on a %s: overlays %v", config, model, overlays)
				}
				for _, bad := range []string{"arm_freq", "over_voltage", "arm_boost", "force_turbo"} {
					if v, there := got[bad]; there {
						t.Errorf("%s on a %s: %s=%s", config, model, bad, v)
					}
				}
				for _, o := range overlays {
					if strings.HasPrefix(o, "gpio-shutdown") || o == "miniuart-bt" {
						t.Errorf("%s on a %s: overlay %s takes a pin or the UART", config, model, o)
					}
				}
			}
		}
	}
	loud := card(t, "config-bookworm.txt", "root=/dev/mmcblk0p2")
	if _, err := pi(t, loud, []string{"YAOJU_AUDIO=on"}, "boot"); err != nil {
		t.Fatal(err)
	}
	if got, _ := settings(tree(t, loud)[filepath.Join(loud, "boot/firmware/config.txt")], "pi4"); got["dtparam=audio"] != "on" {
		t.Error("a machine that speaks has no audio")
	}
	for _, wrong := range [][]string{{}, {"nonsense"}, {"boot", "now"}, {"readonly"}, {"readonly", "maybe"}, {"split", "x"}, {"split", "1"}, {"split", "8", "9"}} {
		if out, err := pi(t, loud, nil, wrong...); err == nil {
			t.Errorf("%v was taken: %s", wrong, out)
		}
	}
	if out, err := pi(t, t.TempDir(), nil, "boot"); err == nil || !strings.Contains(out, "is this a Raspberry Pi?") {
		t.Errorf("an empty tree was taken for a Pi: %v %s", err, out)
	}
}

// What splits the card at the next start is put in place, and the stock image's own way
// of growing the root over all of it is out of the way.
func TestPiSplitOrder(t *testing.T) {
	t.Parallel()
	dir := card(t, "config-bookworm.txt", "console=tty1 root=PARTUUID=4e639091-02 rootwait resize init=/usr/lib/raspberrypi-sys-mods/firstboot yaoju.split=5")
	for range 2 {
		if out, err := pi(t, dir, nil, "split"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		all := tree(t, dir)
		if got, want := all[filepath.Join(dir, "boot/firmware/cmdline.txt")], "console=tty1 root=PARTUUID=4e639091-02 rootwait yaoju.split=8\n"; got != want {
			t.Errorf("cmdline.txt: %q, want %q", got, want)
		}
		for _, f := range []string{"hooks/yaoju", "scripts/local-premount/yaoju"} {
			if info, err := os.Stat(filepath.Join(dir, "etc/initramfs-tools", f)); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("%s: %v %v", f, info, err)
			}
		}
	}
	if out, err := pi(t, dir, nil, "readonly", "on"); err == nil || !strings.Contains(out, "kioskd could not write its ledger") {
		t.Errorf("a root with the ledger on it becomes one that is only read: %v %s", err, out)
	}
	if out, err := pi(t, dir, nil, "data"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, how := range []string{"on", "off", "on", "off"} {
		if out, err := pi(t, dir, nil, "readonly", how); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		fstab := tree(t, dir)[filepath.Join(dir, "etc/fstab")]
		for _, at := range []string{"/", "/boot/firmware"} {
			m := regexp.MustCompile(`(?m)^PARTUUID=\S+\s+` + at + `\s+\S+\s+(r[ow])`).FindStringSubmatch(fstab)
			if want := map[string]string{"on": "ro", "off": "rw"}[how]; m == nil || m[1] != want {
				t.Errorf("readonly %s: %s is %v in\n%s", how, at, m, fstab)
			}
		}
	}
	without := card(t, "config-windows.txt", "root=/dev/mmcblk0p2")
	config := filepath.Join(without, "boot/firmware/config.txt")
	if err := os.WriteFile(config, []byte("[all]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := pi(t, without, nil, "split"); err == nil || !strings.Contains(out, "auto_initramfs") {
		t.Errorf("without an initramfs: %v %s", err, out)
	}
}

// The supply of a Pi 5 is told once; other computers are left alone.
func TestPiEEPROM(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	fake := "#!/bin/sh\nif [ \"${1:-}\" = --apply ]; then cp \"$2\" \"" + bin + "/now\"; echo applied; else cat \"" + bin + "/now\"; fi\n"
	if err := os.WriteFile(filepath.Join(bin, "rpi-eeprom-config"), []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	now := filepath.Join(bin, "now")
	if err := os.WriteFile(now, []byte("[all]\nBOOT_UART=1\nPOWER_OFF_ON_HALT=0\nBOOT_ORDER=0xf461\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ model, args, want string }{
		{"Raspberry Pi 4 Model B Rev 1.5", "eeprom", "nothing to do on Raspberry Pi 4"},
		{"Raspberry Pi 5 Model B Rev 1.0", "--dry-run eeprom", "would: rpi-eeprom-config --apply"},
		{"Raspberry Pi 5 Model B Rev 1.0", "eeprom", "applied"},
		{"Raspberry Pi 5 Model B Rev 1.0", "eeprom", "is as it should be"},
	} {
		model := filepath.Join(t.TempDir(), "model")
		if err := os.WriteFile(model, []byte(c.model+"\x00"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := pi(t, t.TempDir(), []string{"YAOJU_MODEL=" + model, "PATH=" + bin + ":" + os.Getenv("PATH")}, strings.Fields(c.args)...)
		if err != nil || !strings.Contains(out, c.want) {
			t.Errorf("%s on a %s: %v %s, want %q", c.args, c.model, err, out, c.want)
		}
	}
	b, err := os.ReadFile(now)
	if want := "[all]\nBOOT_UART=1\nBOOT_ORDER=0xf461\nPSU_MAX_CURRENT=5000\nPOWER_OFF_ON_HALT=1\n"; err != nil || string(b) != want {
		t.Errorf("%q, %v, want %q", b, err, want)
	}
}

// What is said of a card: its file system, its wear, its room.
func TestPiHealth(t *testing.T) {
	t.Parallel()
	good := map[string]string{"fs/ext4/mmcblk0p2/errors_count": "0", "fs/ext4/mmcblk0p2/lifetime_write_kbytes": "3145728", "block/mmcblk0/device/name": "SD64G", "block/mmcblk0/device/date": "03/2025"}
	for _, c := range []struct {
		what string
		more map[string]string
		good bool
		want string
	}{
		{"an SD card", nil, true, "SD64G of 03/2025: a card does not tell its wear"},
		{"what it wrote", nil, true, "3 GiB written"},
		{"a damaged file system", map[string]string{"fs/ext4/mmcblk0p3/errors_count": "4", "fs/ext4/mmcblk0p3/last_error_func": "ext4_lookup"}, false, "BAD  mmcblk0p3: 4 errors"},
		{"eMMC, young", map[string]string{"block/mmcblk0/device/life_time": "0x01 0x02", "block/mmcblk0/device/pre_eol_info": "0x01"}, true, "at most 20% of its life"},
		{"eMMC, old", map[string]string{"block/mmcblk0/device/life_time": "0x09 0x02", "block/mmcblk0/device/pre_eol_info": "0x01"}, false, "at the next visit"},
		{"eMMC, worn out", map[string]string{"block/mmcblk0/device/life_time": "0x0b 0x0b", "block/mmcblk0/device/pre_eol_info": "0x03"}, false, "worn out"},
	} {
		sys := t.TempDir()
		files := maps.Clone(good)
		maps.Copy(files, c.more)
		for name, text := range files {
			file := filepath.Join(sys, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out, err := pi(t, t.TempDir(), []string{"YAOJU_SYS=" + sys, "YAOJU_DATA_AT=" + filepath.Join(sys, "none")}, "health")
		if (err == nil) != c.good || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v\n%swant %q", c.what, err, out, c.want)
		}
	}
}

// blank is a card in a file, with nothing on it.
func blank(t *testing.T, mib int) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "card.img")
	run(t, nil, "truncate", "-s", fmt.Sprintf("%dM", mib), file)
	return file
}

// drive is the card in the file, parted, as a disk of this computer.
func drive(t *testing.T, file, table string) (disk string) {
	t.Helper()
	cmd := exec.Command("/sbin/sfdisk", "--quiet", file)
	cmd.Stdin = strings.NewReader(table)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	return attach(t, file)
}

// attach makes a card a disk of this computer until the test ends.
func attach(t *testing.T, file string) (disk string) {
	t.Helper()
	disk = strings.TrimSpace(root(t, "losetup", "--find", "--show", file))
	t.Cleanup(func() { late(t, "sh", "-c", `partx --delete "$1"; losetup --detach "$1"`, "sh", disk) })
	root(t, "partx", "--add", disk) // a kernel for virtual machines reads no tables itself
	return disk
}

// initramfsPrograms is a folder with what there is before the root is mounted: the
// programs the hook takes along, and for all else those of busybox.
func initramfsPrograms(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	hook, err := os.ReadFile("pi/root/usr/lib/yaoju/initramfs-hook")
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range regexp.MustCompile(`(/usr)?/s?bin/[a-z0-9]+`).FindAllString(string(hook), -1) {
		if filepath.Base(program) == "sh" { // the hook's own
			continue
		}
		if err := os.Symlink(program, filepath.Join(dir, filepath.Base(program))); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatalf("%v: make tools installs it", err)
	}
	for _, applet := range strings.Fields(run(t, nil, busybox, "--list")) {
		if err := os.Symlink(busybox, filepath.Join(dir, applet)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	return dir
}

// onMount runs a script in a mounted partition. Nobody else sees the mount: a name space
// that another test makes meanwhile would keep it.
func onMount(t *testing.T, part, dir, script string) string {
	t.Helper()
	return root(t, "unshare", "--mount", "sh", "-ec", `mount "$1" "$2"; cd "$2"; `+script+`; cd /; umount "$2"`, "sh", part, dir)
}

// The card of a Pi is split without losing a file or its name, and a second call, or
// one after a power cut between the steps, ends in the same.
func TestPiSplit(t *testing.T) {
	t.Parallel()
	const table = "label: dos\nlabel-id: 0x4e639091\nstart=8192, size=131072, type=c\nstart=139264, type=83\n"
	bin := initramfsPrograms(t)
	split := func(part string, gib int) (string, error) {
		all := asRoot("env", "-i", "PATH="+bin, filepath.Join(bin, "sh"), "pi/root/usr/lib/yaoju/split", part, fmt.Sprint(gib))
		return output(t, nil, all[0], all[1:]...)
	}
	fill := func(disk, size string) string {
		root(t, "sh", "-c", `mke2fs -q -F -t ext4 -L rootfs "$1" $2`, "sh", disk+"p2", size)
		dir := scratch(t)
		onMount(t, disk+"p2", dir, `mkdir a; for i in 1 2 3 4 5 6 7 8 9; do head -c 20000000 /dev/urandom > a/$i; done; ln a/1 b; ln -s a/2 c; sha256sum a/* > sums`)
		return dir
	}
	whole := func(disk, dir string) {
		t.Helper()
		root(t, "e2fsck", "-fn", disk+"p2")
		root(t, "e2fsck", "-fn", disk+"p3")
		onMount(t, disk+"p2", dir, `sha256sum --quiet -c sums; cmp b a/1`)
		if got := root(t, "sfdisk", "--dump", disk); !strings.Contains(got, "label-id: 0x4e639091") || !strings.Contains(got, "start=      139264, size=     4194304, type=83") {
			t.Errorf("the table:\n%s", got)
		}
		if got := strings.TrimSpace(root(t, "blkid", "-p", "-o", "value", "-s", "LABEL", disk+"p3")); got != "yaoju-data" {
			t.Errorf("the data partition is labelled %q", got)
		}
	}

	t.Run("grown over the card", func(t *testing.T) {
		disk := drive(t, blank(t, 4200), table)
		dir := fill(disk, "")
		if out, err := split(disk+"p2", 2); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		whole(disk, dir)
		if out, err := split(disk+"p2", 2); err != nil || !strings.Contains(out, "is there") {
			t.Errorf("again: %v\n%s", err, out)
		}
		whole(disk, dir)
	})
	t.Run("cut before the data partition was made", func(t *testing.T) {
		disk := drive(t, blank(t, 4200), strings.Replace(table, "start=139264, type=83\n", "start=139264, size=4194304, type=83\nstart=4333568, type=83\n", 1))
		dir := fill(disk, "")
		if out, err := split(disk+"p2", 2); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		whole(disk, dir)
	})
	t.Run("cut before the table was written", func(t *testing.T) {
		disk := drive(t, blank(t, 4200), table)
		dir := fill(disk, "2G")
		if out, err := split(disk+"p2", 2); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		whole(disk, dir)
	})
	t.Run("fresh from the image", func(t *testing.T) {
		disk := drive(t, blank(t, 4200), strings.Replace(table, "start=139264,", "start=139264, size=1048576,", 1))
		dir := fill(disk, "")
		if out, err := split(disk+"p2", 2); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		whole(disk, dir)
	})
	for what, c := range map[string]struct {
		mib   int
		table string
		want  string
	}{
		"a small card":         {3000, table, "less than 1 GiB"},
		"somebody's data":      {4200, strings.Replace(table, "start=139264, type=83\n", "start=139264, size=4194304, type=83\nstart=4333568, type=83\n", 1), "holds something"},
		"a partition behind":   {4200, table + "", "holds something"},
		"too much on it":       {4200, table, ""},
		"another partitioning": {4200, "label: dos\nstart=8192, type=83\n", "is partition"},
	} {
		t.Run(what, func(t *testing.T) {
			if what == "a partition behind" {
				c.table = strings.Replace(c.table, "start=139264, type=83\n", "start=139264, size=1000000, type=83\nstart=2000000, type=83\n", 1)
			}
			disk := drive(t, blank(t, c.mib), c.table)
			part := disk + "p2"
			if what == "another partitioning" {
				part = disk + "p1"
			}
			root(t, "mke2fs", "-q", "-F", "-t", "ext4", part)
			if strings.Contains(c.want, "holds") {
				root(t, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "theirs", disk+"p3")
			}
			if what == "too much on it" {
				onMount(t, part, scratch(t), "fallocate -l 2300M big")
			}
			before := root(t, "sfdisk", "--dump", disk)
			out, err := split(part, 2)
			if err == nil || !strings.Contains(out, c.want) {
				t.Errorf("%v\n%s, want %q", err, out, c.want)
			}
			if after := root(t, "sfdisk", "--dump", disk); after != before {
				t.Errorf("the table was changed:\n%s", after)
			}
			root(t, "e2fsck", "-fn", part)
		})
	}
}

// A card's image on a larger card: the data partition takes the rest. That it does so
// mounted as well is the kernel's part, for which a test may lack the capability.
func TestPiGrow(t *testing.T) {
	t.Parallel()
	disk := drive(t, blank(t, 1024), "label: dos\nstart=8192, size=131072, type=c\nstart=139264, size=409600, type=83\nstart=548864, size=409600, type=83\n")
	root(t, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "yaoju-data", disk+"p3")
	dir := scratch(t)
	onMount(t, disk+"p3", dir, "echo kept > file")
	grow := func(args ...string) string {
		t.Helper()
		return root(t, "env", append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "YAOJU_DATA=" + disk + "p3", "pi/root/usr/lib/yaoju/pi"}, args...)...)
	}
	if out := grow("--dry-run", "grow"); !strings.Contains(out, "would: give") || !strings.Contains(root(t, "sfdisk", "--dump", disk), "start=      548864, size=      409600, type=83") {
		t.Errorf("dry run: %s", out)
	}
	grow("grow")
	got := strings.Fields(onMount(t, disk+"p3", dir, `cat file; df --output=size -BM . | tail -n 1`))
	if len(got) != 2 || got[0] != "kept" || !regexp.MustCompile(`^(69|70|71)\dM$`).MatchString(got[1]) {
		t.Errorf("the data partition has %v", got)
	}
	if out := grow("grow"); !strings.Contains(out, "nothing is free") {
		t.Errorf("again: %s", out)
	}
	root(t, "e2fsck", "-fn", disk+"p3")
}

// A root that is only read, and what lasts on a partition of its own.
func TestPiRoot(t *testing.T) {
	t.Parallel()
	disk := drive(t, blank(t, 300), "label: dos\nstart=8192, size=16384, type=c\nstart=24576, size=16384, type=83\nstart=40960, type=83\n")
	root(t, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "yaoju-data", disk+"p3")
	dir := scratch(t)
	got := root(t, "unshare", "--mount", "--pid", "--fork", "--kill-child", "pi/test/root.sh", dir, disk+"p3")
	want := `what would write its ledger on the root is refused: yes
data: done
data: done
readonly: from the next start on; yaoju-setup writable lifts it until the start after
the second time nothing changes: yes
proc	/proc	proc	defaults	0	0
PARTUUID=4e639091-01	/boot/firmware	vfat	ro	0	2
PARTUUID=4e639091-02	/	ext4	ro,noatime	0	1
LABEL=yaoju-data	/data	ext4	noatime,nodev,nosuid,noexec,errors=remount-ro,data=ordered,commit=5,nofail,x-systemd.device-timeout=30s,x-systemd.before=local-fs.target	0	2
/data/yaoju	/var/lib/yaoju	none	bind,nodev,nosuid,noexec,x-systemd.requires-mounts-for=/data,nofail,x-systemd.device-timeout=30s,x-systemd.before=local-fs.target	0	0
/data/chrony	/var/lib/chrony	none	bind,nodev,nosuid,noexec,x-systemd.requires-mounts-for=/data,nofail,x-systemd.device-timeout=30s,x-systemd.before=local-fs.target	0	0
/data/systemd	/var/lib/systemd	none	bind,nodev,nosuid,noexec,x-systemd.requires-mounts-for=/data,nofail,x-systemd.device-timeout=30s,x-systemd.before=local-fs.target	0	0
/data/versions	/opt/yaoju	none	bind,nodev,nosuid,exec,x-systemd.requires-mounts-for=/data,nofail,x-systemd.device-timeout=30s,x-systemd.before=local-fs.target	0	0
tmpfs	/tmp	tmpfs	nodev,nosuid,mode=1777,size=128M	0	0
tmpfs	/var/tmp	tmpfs	nodev,nosuid,mode=1777,size=256M	0	0
tmpfs	/var/log	tmpfs	nodev,nosuid,noexec,mode=755,size=16M	0	0
tmpfs	/var/lib/NetworkManager	tmpfs	nodev,nosuid,noexec,mode=700,size=4M	0	0
tmpfs	/var/lib/dhcp	tmpfs	nodev,nosuid,noexec,mode=755,size=4M	0	0
console=serial0,115200 root=PARTUUID=4e639091-02
/run/NetworkManager/resolv.conf
/data: data=ordered errors=remount-ro noatime nodev noexec nosuid rw 
/var/lib/yaoju: data=ordered errors=remount-ro noatime nodev noexec nosuid rw 
/var/lib/chrony: data=ordered errors=remount-ro noatime nodev noexec nosuid rw 
/var/lib/systemd: data=ordered errors=remount-ro noatime nodev noexec nosuid rw 
/opt/yaoju: data=ordered errors=remount-ro noatime nodev nosuid rw 
/tmp: nodev nosuid rw 
/var/tmp: nodev nosuid rw 
/var/log: nodev noexec nosuid rw 
half a copy of before is in it: no
the ledger came along: yes
it belongs to 12345 700
the root can be written: no
the data can be written: yes
the clock can note its drift: yes
a version of the program runs: yes
what lies beside the ledger runs: no
leases and logs have room: yes
after the next start it is all there: yes
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The first start after 'split': Debian's own initramfs runs our script with what our
// hook took along, and the root comes up smaller, with the data partition behind it.
func TestPiFirstStart(t *testing.T) {
	t.Parallel()
	small := unpack(t)
	debs, err := filepath.Abs("../.build/deploy/initramfs")
	if err != nil {
		t.Fatal(err)
	}
	out := scratch(t)
	root(t, "unshare", "--mount", "pi/test/initramfs.sh", small.dir, debs, out)
	root(t, "chown", "-R", userGroup(), out)

	file := blank(t, 4200)
	t.Run("fresh from the image", func(t *testing.T) {
		disk := drive(t, file, "label: dos\nlabel-id: 0x4e639091\nstart=8192, size=131072, type=c\nstart=139264, type=83\n")
		root(t, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "rootfs", disk+"p2")
		onMount(t, disk+"p2", scratch(t), `mkdir sbin bin proc sys dev run etc
cp "$(command -v busybox)" bin/busybox
printf '#!/bin/busybox sh\n/bin/busybox echo THE ROOT IS UP\n/bin/busybox poweroff -f\n' > sbin/init
chmod 755 sbin/init
head -c 50000000 /dev/urandom > file; sha256sum file > sum`)
	})

	boot := func() string {
		t.Helper()
		return run(t, nil, "timeout", "300", "qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "512M",
			"-kernel", out+"/vmlinuz", "-initrd", out+"/initrd", "-append", "console=ttyS0 quiet root=PARTUUID=4e639091-02 rootfstype=ext4 rootwait panic=-1 yaoju.split=2",
			"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-drive", "if=virtio,format=raw,file="+file)
	}
	for _, want := range []string{"yaoju: done", "vda3 is there"} {
		if said := boot(); !strings.Contains(said, want) || !strings.Contains(said, "THE ROOT IS UP") {
			t.Errorf("no %q, or no root, in\n%s", want, said)
		}
	}
	disk := attach(t, file)
	onMount(t, disk+"p2", scratch(t), `sha256sum --quiet -c sum; [ "$(df --output=size -BM . | tail -n 1 | tr -dc 0-9)" -lt 2048 ]`)
	if got := strings.TrimSpace(root(t, "blkid", "-p", "-o", "value", "-s", "LABEL", disk+"p3")); got != "yaoju-data" {
		t.Errorf("the data partition is labelled %q", got)
	}
}
