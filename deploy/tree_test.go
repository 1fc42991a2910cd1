package deploy

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTree is all that happens in the small Debian.
func TestTree(t *testing.T) {
	t.Parallel()
	bare := unpack(t)
	kiosk, district := pack(t, "..", "yaoju-kiosk", "amd64", version), pack(t, "..", "yaoju-district", "amd64", version)
	full := bare.layer(t)
	full.install(kiosk, district)
	full.seal()
	t.Run("life", func(t *testing.T) { life(t, bare.layer(t), kiosk, district) })
	for name, test := range map[string]func(*testing.T, debian){
		"files": files, "firewall": firewall, "planted": planted, "setup": setup, "session": session, "restarts": restarted, "guest": guest,
	} {
		t.Run(name, func(t *testing.T) { test(t, full.layer(t)) })
	}
}

// Packages are installed, upgraded, removed and purged, one after the other: what the
// later steps see is what the earlier ones left.
func life(t *testing.T, d debian, kiosk, district string) {
	before := d.listing()
	d.install(kiosk, district)
	for _, c := range []struct{ what, script, want string }{
		{"programs", "kioskd -version; districtd -version; yaoju version", "kioskd 1.2.3\ndistrictd 1.2.3\nyaoju 1.2.3"},
		{"users without a shell", "getent passwd yaoju yaoju-screen yaoju-district | cut -d: -f1,6,7", "yaoju:/var/lib/yaoju:/usr/sbin/nologin\nyaoju-screen:/run/yaoju-screen:/usr/sbin/nologin\nyaoju-district:/var/lib/yaoju-district:/usr/sbin/nologin"},
		{"locked", "getent shadow yaoju yaoju-screen yaoju-district | cut -d: -f2 | tr -d '\\n'", "!*!*!*"},
		{"groups", "id -nG yaoju | tr ' ' '\\n' | sort", "dialout\ngpio\ni2c\ninput\ntss\nyaoju"},
		{"started with the machine", "systemctl is-enabled kioskd districtd", "enabled\nenabled"},
		{"only when asked for", "systemctl is-enabled yaoju-screen yaoju-firewall yaoju-screen-restart.timer || true", "disabled\ndisabled\ndisabled"},
		{"whole", "dpkg --verify yaoju-kiosk yaoju-district | grep -v /usr/share/doc || true; dpkg --audit", ""},
	} {
		if got := strings.TrimSpace(d.do(c.script)); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.what, got, c.want)
		}
	}

	// What people and programs leave behind.
	d.do(`install -d -o yaoju -g yaoju -m 700 /var/lib/yaoju && echo l > /var/lib/yaoju/ledger.db
install -d -o yaoju-district -g yaoju-district -m 700 /var/lib/yaoju-district && echo d > /var/lib/yaoju-district/district.db
echo k > /etc/yaoju/kioskd.toml; echo d > /etc/yaoju/districtd.toml; echo mine > /etc/yaoju/officer.txt
echo '# ours' >> /etc/yaoju/screen.conf`)
	kept := []string{"/etc/yaoju/districtd.toml", "/etc/yaoju/kioskd.toml", "/etc/yaoju/officer.txt", "/etc/yaoju/screen.conf", "/var/lib/yaoju/ledger.db", "/var/lib/yaoju-district/district.db"}
	there := func(what string, want ...string) {
		t.Helper()
		all := d.listing()
		for _, f := range kept {
			if got := slices.Contains(all, f); got != slices.Contains(want, f) {
				t.Errorf("%s: %s is there: %v", what, f, got)
			}
		}
	}

	// An upgrade asks nothing, keeps what an officer wrote and disabled.
	d.do("systemctl disable districtd")
	d.install(pack(t, "..", "yaoju-kiosk", "amd64", "1.2.4"), pack(t, "..", "yaoju-district", "amd64", "1.2.4"))
	there("after the upgrade", kept...)
	if got := d.do("kioskd -version; tail -n 1 /etc/yaoju/screen.conf; systemctl is-enabled kioskd districtd || true"); got != "kioskd 1.2.4\n# ours\nenabled\ndisabled\n" {
		t.Errorf("after the upgrade: %s", got)
	}

	// What yaoju-setup does to a Pi, as far as it would outlive the package.
	d.do(`install -D -m 755 /usr/lib/yaoju/initramfs-hook /etc/initramfs-tools/hooks/yaoju
install -D -m 755 /usr/lib/yaoju/initramfs-premount /etc/initramfs-tools/scripts/local-premount/yaoju
cp /usr/lib/yaoju/initramfs-hook /packages/hook
mkdir -p /boot/firmware; echo 'console=tty1 usbcore.authorized_default=0 root=/dev/x yaoju.split=8' > /boot/firmware/cmdline.txt
systemctl enable --quiet yaoju-grow yaoju-card.timer yaoju-firewall yaoju-screen`)
	d.do("dpkg --remove yaoju-kiosk yaoju-district")
	if got, want := d.do("cat /boot/firmware/cmdline.txt; find /etc/initramfs-tools -type f; sh /packages/hook; echo $?"), "console=tty1 root=/dev/x\n0\n"; got != want {
		t.Errorf("after removal: %q, want %q", got, want)
	}
	d.do("rm -r /boot/firmware /etc/initramfs-tools")
	there("after removal", kept...)
	if got := d.do("find /etc/systemd/system -xtype l -o -name 'yaoju*.service' -o -name 'kioskd*' -o -name 'districtd*'"); got != "" {
		t.Errorf("removal left links to units: %s", got)
	}
	// One package's data survives the other's purge, and nobody is asked.
	d.do("dpkg --purge yaoju-kiosk < /dev/null")
	there("after the kiosk's purge", "/etc/yaoju/districtd.toml", "/etc/yaoju/officer.txt", "/var/lib/yaoju-district/district.db")
	d.do("dpkg --purge yaoju-district < /dev/null")
	there("after both purges", "/etc/yaoju/officer.txt")
	d.do("rm -r /etc/yaoju /packages")

	// All else is as it was, but for the users, who stay, and dpkg's and ldconfig's own notes.
	own := regexp.MustCompile(`^/(var/lib/dpkg|var/log|var/cache|etc/(passwd|group|shadow|gshadow|\.pwd\.lock|subuid|subgid)|tmp|run|dev|proc|sys)(/|-|$)`)
	for _, f := range d.listing() {
		if !slices.Contains(before, f) && !own.MatchString(f) {
			t.Errorf("left behind: %s", f)
		}
	}
}

// listing names every file of the tree.
func (d debian) listing() []string {
	return strings.Split(strings.TrimSpace(root(d.t, "sh", "-c", `cd "$1" && find . -mindepth 1 | sed s/.//`, "sh", d.dir)), "\n")
}

// Each file of the packages, read by the program it is for.
func files(t *testing.T, d debian) {
	for _, c := range []struct {
		name, script string
		want         string // regular expression of what is printed; empty: nothing may be
	}{
		{"units", "systemd-analyze verify --man=no kioskd.service districtd.service yaoju-firewall.service yaoju-screen.service yaoju-screen-restart.timer", ""},
		{"calendar", "systemd-analyze calendar '*-*-* 04:10:00'", `Normalized form: \*-\*-\* 04:10:00`},
		{"journald", "systemd-analyze cat-config systemd/journald.conf | grep -c '^Storage=volatile$'", "^1\n$"},
		{"packet filter", "nft -c -f /etc/yaoju/firewall.nft", ""},
		{"packet filter loaded twice", "nft -f /etc/yaoju/firewall.nft; nft -f /etc/yaoju/firewall.nft; nft list ruleset | grep -c 'hook input priority filter; policy drop'", "^1\n$"},
		{"chrony", "chronyd -p", `(?s)makestep 1 3.*rtcsync`},
		{"chrony's options", `. /usr/share/yaoju/chrony.env; chronyd $DAEMON_OPTS -p >/dev/null`, ""},
		{"shell scripts", "for f in /usr/bin/kioskd /usr/bin/yaoju /usr/lib/yaoju/*[a-z] /usr/sbin/yaoju-setup /var/lib/dpkg/info/yaoju-*.p*; do [ -d $f ] || sh -n $f; done", ""},
		{"screen.conf", ". /etc/yaoju/screen.conf; echo $COMPOSITOR $TRANSFORM $SCALE $PAGE", "^auto normal 1 http://127.0.0.1:8080/\n$"},
		{"what is copied from", "kioskd -check -config /usr/share/yaoju/kioskd.toml 2>&1 || true", "district.keys: missing"},
		{"district's, likewise", "districtd -check -config /usr/share/yaoju-district/districtd.toml", ": good\n$"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := debian{t, d.dir, d.below}
			out := d.do(c.script)
			if c.want == "" && out != "" || c.want != "" && !regexp.MustCompile(c.want).MatchString(out) {
				t.Errorf("%s\nprinted:\n%s\nwant %q", c.script, out, c.want)
			}
		})
	}
}

// The packet filter does what it says, on a real kernel: between two name spaces,
// one of them the machine.
func firewall(t *testing.T, d debian) {
	out := d.do(`
unshare --net sleep 60 & peer=$!
sleep 0.3
ip link add wan type veth peer name far netns $peer
in_peer() { nsenter --target $peer --net timeout 2 "$@"; }
ip addr add 192.0.2.1/24 dev wan && ip link set wan up
in_peer ip addr add 192.0.2.2/24 dev far && in_peer ip link set far up && in_peer ip link set lo up
for port in 8080 22; do busybox nc -ll -p $port -e /bin/echo open & done
for port in 8883 80; do nsenter --target $peer --net busybox nc -ll -p $port -e /bin/echo open & done
sleep 0.5
ask() { # NAME, then a command that prints "open" if it gets through
	name=$1; shift; echo "$name: $("$@" 2>/dev/null </dev/null || true)"
}
as() { user=$1; shift; setpriv --reuid $user --clear-groups timeout 2 "$@"; }
ask "before, screen from outside" in_peer busybox nc 192.0.2.1 8080
nft -f /etc/yaoju/firewall.nft
ask "screen from outside" in_peer busybox nc 192.0.2.1 8080
ask "ssh from outside" in_peer busybox nc 192.0.2.1 22
ask "screen from the machine" as root busybox nc 127.0.0.1 8080
ask "browser to the page" as yaoju-screen busybox nc 127.0.0.1 8080
ask "browser to elsewhere" as yaoju-screen busybox nc 192.0.2.2 80
ask "kioskd to the broker" as yaoju busybox nc 192.0.2.2 8883
ask "kioskd to elsewhere" as yaoju busybox nc 192.0.2.2 80
ask "root to elsewhere" as root busybox nc 192.0.2.2 80
mkdir -p /x/usr/lib/systemd && cp -r /usr/lib/systemd/system /x/usr/lib/systemd/
YAOJU_ROOT=/x yaoju-setup firewall 192.0.2.0/24
cp /x/etc/yaoju/technicians.nft /etc/yaoju/
nft -f /etc/yaoju/firewall.nft
ask "ssh for a technician" in_peer busybox nc 192.0.2.1 22
`)
	want := `before, screen from outside: open
screen from outside: 
ssh from outside: 
screen from the machine: open
browser to the page: open
browser to elsewhere: 
kioskd to the broker: open
kioskd to elsewhere: 
root to elsewhere: open
firewall: done; who may come in by SSH is in /etc/yaoju/technicians.nft
ssh for a technician: open
`
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

// The folder of versions is user yaoju's, who could plant anything there: nobody but
// yaoju runs it, and for root only what root does as yaoju.
func planted(t *testing.T, d debian) {
	got := d.do(`mkdir -p /opt/yaoju/v
printf '#!/bin/sh\necho "planted: $(basename "$0") $* as $(id -un) in $(id -Gn | tr " " "\\n" | grep -cx root) groups of root, $(tr -d "\\t" < /proc/self/status | grep NoNewPrivs)"\n' > /opt/yaoju/v/yaoju
chmod 755 /opt/yaoju/v/yaoju && cp /opt/yaoju/v/yaoju /opt/yaoju/v/kioskd
ln -s v /opt/yaoju/current && chown -R yaoju /opt/yaoju
yaoju version; kioskd -version
for words in doctor 'data export /tmp/x' 'data import /tmp/x' 'board info' 'update status' 'update verify x'; do yaoju $words 2>&1 | grep planted || true; done
for words in 'data fill -staff s-01' 'data wipe-marks' 'data retire' 'enrol x'; do yaoju $words; done
as() { user=$1; shift; setpriv --reuid $user --clear-groups "$@"; }
as nobody yaoju version; as nobody kioskd -version
as yaoju yaoju version; as yaoju kioskd -version`)
	want := `yaoju 1.2.3
kioskd 1.2.3
planted: yaoju data fill -staff s-01 as yaoju in 0 groups of root, NoNewPrivs:1
planted: yaoju data wipe-marks as yaoju in 0 groups of root, NoNewPrivs:1
planted: yaoju data retire as yaoju in 0 groups of root, NoNewPrivs:1
planted: yaoju enrol x as yaoju in 0 groups of root, NoNewPrivs:1
yaoju 1.2.3
kioskd 1.2.3
planted: yaoju version as yaoju in 1 groups of root, NoNewPrivs:0
planted: kioskd -version as yaoju in 1 groups of root, NoNewPrivs:0
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// setUp is a Pi, as far as yaoju-setup looks: with a touch panel, a keyboard, a serial
// adapter and a hub.
const setUp = `
export YAOJU_ROOT=/pi
mkdir -p /pi/boot/firmware /pi/etc/systemd/system /pi/usr/lib/systemd /pi/usr/lib/udev/rules.d /pi/dev/disk/by-label
: > /pi/dev/disk/by-label/yaoju-data
cp -r /usr/lib/systemd/system /pi/usr/lib/systemd/
mkdir -p /pi/etc/yaoju && cp /etc/yaoju/firewall.nft /pi/etc/yaoju/
cp /usr/lib/udev/rules.d/40-yaoju-usb.rules /pi/usr/lib/udev/rules.d/
echo 'console=tty1 root=PARTUUID=0-02 rootwait' > /pi/boot/firmware/cmdline.txt
device() { # SOCKET CLASS VENDOR PRODUCT NAME PROPERTIES
	d=/pi/sys/bus/usb/devices/$1; mkdir -p $d/$1:1.0/0003/input/input7
	echo $2 > $d/bDeviceClass; echo $3 > $d/idVendor; echo $4 > $d/idProduct; echo "$5" > $d/product; echo $6 > $d/$1:1.0/0003/input/input7/properties
}
device 1-1 09 1a40 0101 'USB 2.0 Hub' 0
device 1-1.1 00 222a 0001 'Panel' 2
device 1-1.2 00 046d c31c 'Keyboard' 0
device 1-1.3 ff 1a86 7523 'USB Serial' 0
cat > /tmp/pi <<'P'
#!/bin/sh
echo "pi: $*"
P
chmod 755 /tmp/pi
export YAOJU_PI=/tmp/pi
`

// yaoju-setup asks, does what it says, and the second time nothing; a dry run changes
// nothing. What it does to a Pi itself has tests of its own.
func setup(t *testing.T, d debian) {
	out := d.do(setUp + `set +e
cp -a /pi /before
yaoju-setup --dry-run --yes > /tmp/dry
diff -r /before /pi && echo unchanged
cat /tmp/dry
echo ---
yaoju-setup --yes > /tmp/said; cp -a /pi /once; yaoju-setup --yes >/dev/null
diff -r /once /pi && echo same
grep '^pi' /tmp/said
cat /pi/boot/firmware/cmdline.txt; grep -v '^#' /pi/etc/udev/rules.d/41-yaoju-usb.rules
find /pi/etc/systemd/system -type l | sort
echo ---
rm -r /pi && cp -a /before /pi
printf 'n\n\nno\n\ny\ny\n\ny\ny\n' | yaoju-setup > /tmp/said
grep '^.*pi: ' /tmp/said
grep -c '^ATTR' /pi/etc/udev/rules.d/41-yaoju-usb.rules
systemctl --root=/pi is-enabled yaoju-screen yaoju-firewall || true
yaoju-setup --dry-run readonly off; yaoju-setup split 6
yaoju-setup firewall < /dev/null; echo "exit $?"
for wrong in x 192.0.2 300.0.2.1/24 192.0.2.0/40 '1.2.3.4 }'; do yaoju-setup firewall "$wrong" 2>/dev/null && echo "$wrong was taken"; done
systemctl --root=/pi is-enabled yaoju-firewall; ls /pi/etc/yaoju
yaoju-setup firewall 2001:db8::/32 && cat /pi/etc/yaoju/technicians.nft && yaoju-setup firewall < /dev/null && systemctl --root=/pi is-enabled yaoju-firewall
mkdir -p /pi/sys/devices/usb2/2-1/block/sda/sda2 /pi/sys/class/block && ln -s ../../devices/usb2/2-1/block/sda/sda2 /pi/sys/class/block/sda2
printf '#!/bin/sh\n[ "$3" = / ] && echo /dev/sda2\n' > /tmp/findmnt && chmod 755 /tmp/findmnt
PATH=/tmp:$PATH yaoju-setup usb 2>&1 && echo "the root was locked out"
YAOJU_ROOT=/nowhere yaoju-setup usb 2>&1 && echo "taken for a Pi" || echo refused
yaoju-setup nonsense 2>/dev/null && echo taken || echo refused
yaoju-setup usb twice 2>/dev/null && echo taken || echo refused
`)
	want, err := os.ReadFile("testdata/setup.txt")
	if err != nil {
		t.Fatal(err)
	}
	if out != string(want) {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

// restartScript kills kioskd, each time a little later after its start than the time
// before, and now and then has it restarted.
const restartScript = `
pid() { systemctl show -p MainPID --value kioskd; }
was=$(pid) i=0
while [ $i -lt %d ]; do
	i=$((i + 1))
	if [ $((i %% 10)) = 0 ]; then
		systemctl restart kioskd
	else
		kill -KILL "$was"
		n=0
		until p=$(pid) && [ "$p" != 0 ] && [ "$p" != "$was" ]; do
			n=$((n + 1))
			[ $n -lt 600 ] || { echo "kioskd does not come back after kill $i"; exit 1; }
			sleep 0.05
		done
		sleep "0.$((i %% 7))"
	fi
	was=$(pid)
done
echo "$i restarts"
n=0
until [ "$(systemctl show -p ActiveState --value kioskd)" = active ] && curl -fsS -o /dev/null http://127.0.0.1:8080/; do
	n=$((n + 1))
	[ $n -lt 150 ] || { echo "kioskd is not up"; exit 1; }
	sleep 0.2
done
ls /var/lib/yaoju | grep 'ledger.*db$'
journalctl -b -o cat --no-pager -u kioskd | grep -Ei 'damage|corrupt|aside' || true
`

// A hundred restarts under a real systemd, most of them kills at any moment of a start:
// kioskd is up afterwards, with the one ledger that it had.
func restarted(t *testing.T, d debian) {
	for name, text := range map[string]string{
		"/etc/yaoju/kioskd.toml":                           guestKiosk,
		"/etc/systemd/system/kioskd.service.d/sooner.conf": guestSooner,
	} {
		d.put(name, text, 0o644)
	}
	s := d.start()
	s.until("systemctl is-active kioskd")
	began := time.Now()
	if got, want := s.sh(fmt.Sprintf(restartScript, *restarts)), fmt.Sprintf("%d restarts\nledger.db", *restarts); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	t.Logf("%d restarts in %v", *restarts, time.Since(began).Round(time.Second))
}

// The session starts cage with the browser, turned as the settings say, and labwc
// where it is installed. Cage draws to nowhere here; Chromium is a stand-in.
func session(t *testing.T, d debian) {
	d.put("/usr/bin/chromium", "#!/bin/sh\nfor a in \"$@\"; do echo \"chromium $a\"; done\ncat $XDG_RUNTIME_DIR/profile/Default/Preferences\n[ -S \"$XDG_RUNTIME_DIR/$WAYLAND_DISPLAY\" ] && echo on a screen\nsleep 1\n", 0o755)
	const env = `export XDG_RUNTIME_DIR=/tmp/run WLR_BACKENDS=headless WLR_RENDERER=pixman WLR_LIBINPUT_NO_DEVICES=1 YAOJU_SCREEN_CONF=/tmp/screen.conf
install -d -m 700 -o yaoju-screen /tmp/run
session() { setpriv --reuid yaoju-screen --regid yaoju-screen --clear-groups timeout 20 /usr/lib/yaoju/session; }
sed -e 's/^TRANSFORM=.*/TRANSFORM=270/; s/^SCALE=.*/SCALE=1.25/; s/^OUTPUT=.*/OUTPUT=HDMI-A-1/' /etc/yaoju/screen.conf > /tmp/screen.conf
`
	out := d.do(env + "session 2>&1")
	for _, want := range []string{"chromium --kiosk\n", "default_zoom_level\":{\"x\":1.223901}", "chromium --user-data-dir=/tmp/run/profile\n", "chromium http://127.0.0.1:8080/\n", "on a screen\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("cage: no %q in:\n%s", want, out)
		}
	}

	d.put("/usr/bin/wlr-randr", "#!/bin/sh\necho wlr-randr \"$@\"\n", 0o755)
	d.put("/usr/bin/labwc", "#!/bin/sh\necho labwc \"$@\"\ncat \"$2/rc.xml\" >&2\nLABWC_PID=$$ WAYLAND_DISPLAY=none exec sh -c \"$4\"\n", 0o755)
	out = d.do(env + "session 2>/tmp/rc.xml || true; cat /tmp/rc.xml")
	for _, want := range []string{"labwc -C /tmp/run/labwc -s /usr/lib/yaoju/browser\n", "wlr-randr --output HDMI-A-1 --transform 270\n", `mapToOutput="HDMI-A-1"`} {
		if !strings.Contains(out, want) {
			t.Errorf("labwc: no %q in:\n%s", want, out)
		}
	}
	if out, err := d.try(env + "echo TRANSFORM=45 >> /tmp/screen.conf; session"); err == nil || !strings.Contains(out, "want normal, 90, 180 or 270") {
		t.Errorf("a transform that nobody knows: %v %s", err, out)
	}
}

// labwc is not in Debian 12: its file is well-formed, at least, and has a binding of
// each kind, without which labwc takes its own.
func TestLabwc(t *testing.T) {
	t.Parallel()
	f, err := os.Open("kiosk/root/usr/share/yaoju/labwc.xml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := map[string]int{}
	for dec := xml.NewDecoder(f); ; {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok {
			seen[e.Name.Local]++
		}
	}
	for _, want := range []string{"labwc_config", "keybind", "mousebind", "touch", "windowRule"} {
		if seen[want] == 0 {
			t.Errorf("no <%s>", want)
		}
	}
	if seen["default"] != 0 {
		t.Error("<default/> brings labwc's own keys back")
	}
}
