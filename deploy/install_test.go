package deploy

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// standIns are for what a tree without network, keyboard, devices and disk cannot have:
// apt installs what is named, nano fills in what a technician would, a restart is one
// of kioskd, and sudo is root already.
var standIns = map[string]string{
	"sudo":    "#!/bin/sh\n[ \"$1\" != -u ] || { user=$2; shift 2; exec runuser -u \"$user\" -- \"$@\"; }\nexec \"$@\"\n",
	"apt":     "#!/bin/sh\n[ \"$1\" != update ] || exit 0\nshift 2\nexec dpkg --install \"$@\"\n",
	"udevadm": "#!/bin/sh\n",
	"reboot":  "#!/bin/sh\n[ ! -e /etc/yaoju/kioskd.toml ] || systemctl restart kioskd\n",
	"nano": `#!/bin/sh
sed -i -e 's#^path = "/dev/yaoju/usb.*#path = "/dev/yaoju/reader"#' -e "s#^keys = .*#keys = [\"$(cat /root/key)\"]#" -e '1i clock = "trusted"' "$1"
`,
}

// doctor asks the doctor until nothing needs doing and it says what is wanted, for half
// a minute, and returns what it says to a person.
func (s *server) doctor(want string) string {
	s.t.Helper()
	return s.sh(`n=0
until yaoju doctor -json > /tmp/doctor.json 2> /dev/null && grep -q '"` + want + `"' /tmp/doctor.json; do
	n=$((n+1))
	[ $n -lt 12 ] || { yaoju doctor -lang en; cat /tmp/doctor.json; exit 1; }
done
yaoju doctor -lang en`)
}

// The guide, followed word for word on an empty computer under its own systemd, with
// the district on the same one and a simulated board and reader on its lines. What
// needs partitions or a screen is left out: it is tried in TestPiSplit, TestPiRoot and
// TestScreen.
func TestInstallGuide(t *testing.T) {
	t.Parallel()
	s := unpack(t).start()
	for name, text := range standIns {
		s.put("/usr/local/bin/"+name, text, 0o755)
	}
	bin := filepath.Join(t.TempDir(), "twins")
	run(t, []string{"CGO_ENABLED=0"}, "go", "build", "-o", bin, "./testdata/twins")
	root(t, "install", bin, s.path("/usr/local/bin/twins"))
	root(t, "cp", pack(t, "..", "yaoju-district", "amd64", version), s.path("/root/"))
	root(t, "cp", pack(t, "..", "yaoju-kiosk", "amd64", version), s.path("/root/yaoju-kiosk_"+version+"_arm64.deb")) // by the name the guide has
	root(t, "install", "-D", "pi/test/config-bookworm.txt", s.path("/boot/firmware/config.txt"))
	s.put("/root/release.keys", "# invented\n11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n", 0o644)
	s.put("/boot/firmware/cmdline.txt", "console=serial0,115200 console=tty1 root=PARTUUID=0-2 rootfstype=ext4 fsck.repair=yes rootwait\n", 0o644)

	// The district's desk, before.
	s.sh("echo '127.0.0.1 district.example' >> /etc/hosts")
	for _, step := range steps(t, "DISTRICT.md") {
		if strings.Contains(step, "yaoju-district-setup new") || strings.Contains(step, "tee -a /etc/yaoju/districtd.toml") {
			s.sh(step)
		}
	}
	s.until("curl -fsS http://127.0.0.1:8090/")
	s.sh("sudo -u yaoju-district districtd -key > /root/key; systemd-run --quiet --unit=twins --property=ExecStartPre='mkdir -p /dev/yaoju' twins /dev/yaoju/uart /dev/yaoju/reader")
	s.until("[ -e /dev/yaoju/reader ]")

	elsewhere := regexp.MustCompile(`(?m)^sudo yaoju-setup (split|data|readonly on|screen)$`)
	for i, step := range steps(t, "INSTALL.md") {
		step = elsewhere.ReplaceAllString(step, "")
		if strings.Contains(step, "yaoju enrol") {
			step = strings.ReplaceAll(step, "yaoju1/m-0001/...", `"$(sudo -u yaoju-district districtd enrol m-0001 | head -n 1)"`)
		}
		switch {
		case strings.HasPrefix(step, "sudo yaoju doctor"):
			s.doctor("uplink.up") // kioskd has just been started, and the district's plan has to come
		default:
			s.sh(step)
		}
		t.Logf("step %d done", i+1)
	}

	report := s.doctor("uplink.up")
	for _, want := range []string{"kioskd runs since", "✓ motor board (/dev/yaoju/uart) works", "✓ card reader (/dev/yaoju/reader) works", "✓ kioskd.service is active",
		"✓ the certificate is good until", "✓ district.example:8883: name, TCP and TLS are good", "80 boxes in the machine", "Nothing needs doing"} {
		if !strings.Contains(report, want) {
			t.Errorf("the doctor does not say %q:\n%s", want, report)
		}
	}
	if out := s.sh("cat /boot/firmware/cmdline.txt"); strings.Contains(out, "serial0") {
		t.Errorf("the console is still on the line: %s", out)
	}
	t.Run("asked by others", func(t *testing.T) {
		s := s.in(t)
		if out := s.sh("stat -c '%a %U:%G' /run/yaoju /run/yaoju/kioskd.sock | tr '\n' ' '"); out != "750 yaoju:yaoju 660 yaoju:yaoju" {
			t.Errorf("the status socket is %s", out)
		}
		if out, err := s.shell("", "runuser -u nobody -- yaoju doctor -lang en -config /usr/share/yaoju/kioskd.toml"); err == nil {
			t.Errorf("nobody may look inside, and the doctor says to him that all is well:\n%s", out)
		}
		s.sh("yaoju doctor -lang en -bundle /run/bundle.tar.gz; if tar -xzOf /run/bundle.tar.gz | grep -E 'BEGIN|yaoju1/'; then exit 1; fi; tar -tzf /run/bundle.tar.gz | grep -q doctor.txt")
	})
	t.Run("carried to another card", func(t *testing.T) {
		s := s.in(t)
		s.sh(`systemctl stop kioskd
yaoju data export /run/m-0001.yaoju
rm -r /var/lib/yaoju/*
yaoju data import /run/m-0001.yaoju
[ -z "$(find /var/lib/yaoju ! -user yaoju)" ]
systemctl start kioskd`)
		if report := s.doctor("uplink.up"); !strings.Contains(report, "80 boxes") {
			t.Errorf("on the other card the doctor says\n%s", report)
		}
	})
	t.Run("retired", func(t *testing.T) {
		s := s.in(t)
		s.sh("systemctl stop kioskd; yaoju data wipe-marks -yes; if yaoju data retire -yes; then exit 1; fi; yaoju data retire -yes -force; [ ! -e /var/lib/yaoju/marks.key ]; [ -z \"$(ls /var/lib/yaoju/identity)\" ]; [ -z \"$(find /var/lib/yaoju ! -user yaoju)\" ]")
		if out, err := s.shell("", "yaoju doctor -lang en"); err == nil || !strings.Contains(out, "not enrolled") {
			t.Errorf("after that the doctor says %s", out)
		}
	})
}
