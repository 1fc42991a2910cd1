package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The guide, followed word for word on an empty server; then what it promises.
func TestDistrictGuide(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	root(t, "cp", pack(t, "..", "yaoju-district", "amd64", version), s.path("/root/"))
	for i, step := range steps(t, "DISTRICT.md") {
		typed := "a passphrase of the test\n"
		if strings.Contains(step, "yaoju staff ") {
			typed = "135792\n135792\n"
		}
		out, err := s.shell(typed, step)
		if err != nil {
			log, _ := s.shell("", "journalctl -b --no-pager -n 40 -o short-monotonic") // only to see why
			t.Fatalf("step %d:\n%s\n%v\n%s\n%s", i+1, step, err, out, log)
		}
		if i == 0 && !strings.Contains(out, "yaoju-district-setup new ADDRESS") {
			t.Errorf("the package does not say how to go on:\n%s", out)
		}
		t.Logf("step %d: %d bytes of answer", i+1, len(out))
	}
	t.Run("services", s.services)
	t.Run("database", s.database)
	t.Run("machines", s.machines)
	t.Run("updates", s.updates)
	t.Run("metrics", s.metrics)
	t.Run("setup", s.setupAgain)
}

// A district moves to another computer with three files, and is the same district there.
func TestDistrictMove(t *testing.T) {
	t.Parallel()
	file := pack(t, "..", "yaoju-district", "amd64", version)
	desk := t.TempDir()
	old, fresh := startServer(t), startServer(t)
	const install = "apt install -y ./yaoju-district_*.deb; "
	for _, s := range []*server{old, fresh} {
		root(t, "cp", file, s.path("/root/"))
	}
	if out, err := old.shell("a passphrase of the test\n", install+"yaoju-district-setup new 192.0.2.7 示例区; systemctl start districtd; districtd ca backup /root/district-keys.age; yaoju-district-backup /root"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	copied := old.sh("ls district-*.tar")
	for _, f := range []string{"/root/district-keys.age", "/etc/yaoju/districtd.toml", "/root/" + copied} {
		root(t, "cp", old.path(f), desk)
		root(t, "cp", filepath.Join(desk, filepath.Base(f)), fresh.path("/root/"))
	}
	move := strings.Replace(blocks(t, "DISTRICT.md", "text")[0], "district-....tar", copied, 1)
	if out, err := fresh.shell("a passphrase of the test\n", install+move); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, s := range []*server{old, fresh} {
		s.until("systemctl is-active districtd && curl -fsS http://127.0.0.1:8090/")
	}
	const same = "cat /var/lib/yaoju-district/ca/root.pem; sudo -u yaoju-district districtd -key"
	if a, b := old.sh(same), fresh.sh(same); a != b || !strings.Contains(a, "CERTIFICATE") {
		t.Errorf("another district on the new computer: %s\n%s", a, b)
	}
	// A copy that is cut off is not taken, and districtd goes on with what it had.
	fresh.sh("head -c 900 " + copied + " > cut.tar; cd /var/lib/yaoju-district; stat -c %i district.db > /root/was; if yaoju-district-restore /root/cut.tar; then exit 1; fi; stat -c %i district.db | cmp - /root/was; [ $(ls -d before-* | wc -l) = 1 ] # that of the move")
	fresh.until("systemctl is-active districtd && curl -fsS http://127.0.0.1:8090/")
}

// Both guides have the same commands, and name files that the package has.
func TestDistrictGuides(t *testing.T) {
	t.Parallel()
	if en, zh := steps(t, "DISTRICT.md"), steps(t, "DISTRICT.zh.md"); !slices.Equal(en, zh) || len(en) < 8 {
		t.Errorf("%d commands in English, %d in Chinese, or others", len(en), len(zh))
	}
	for _, guide := range []string{"DISTRICT.md", "DISTRICT.zh.md"} {
		text, err := os.ReadFile(guide)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range regexp.MustCompile("/usr/share/yaoju-district/[a-z/.]+[a-z]").FindAllString(string(text), -1) {
			if _, err := os.Stat("district/root" + file); err != nil {
				t.Errorf("%s: %v", guide, err)
			}
		}
	}
}

// services are up, as who they should be, and listen where they should.
func (s *server) services(t *testing.T) {
	s = s.in(t)
	for what, script := range map[string]string{
		"districtd is up":         "systemctl is-active districtd",
		"districtd's user":        "[ $(stat -c %U /proc/$(systemctl show -p MainPID --value districtd)) = yaoju-district ]",
		"mosquitto is up":         "systemctl is-active mosquitto",
		"what is carried to it":   "systemctl is-active yaoju-broker.path",
		"copies are made":         "systemctl is-active yaoju-district-backup.timer",
		"the copy as the timer":   "systemctl start yaoju-district-backup.service && [ $(ls /var/backups/yaoju-district | wc -l) -ge 2 ]",
		"nothing failed":          "[ -z \"$(systemctl list-units --failed --no-legend --plain)\" ]",
		"the store is closed":     "[ $(stat -c %a /var/lib/yaoju-district) = 700 ] && [ $(stat -c %a-%U:%G /etc/yaoju/districtd.toml) = 640-root:yaoju-district ]",
		"accounts are given":      "grep -q '^accounts = ' /etc/yaoju/districtd.toml && [ $(stat -c %a-%U /var/lib/yaoju-district/staff.json) = 600-yaoju-district ]",
		"nobody reads the keys":   "! sudo -u nobody cat /etc/mosquitto/yaoju/broker.pem && ! sudo -u nobody cat /var/backups/yaoju-district/*",
		"the notes go to the log": "journalctl -b -u districtd -o cat | grep -q 'districtd started'",
		"the units are sound":     "systemd-analyze verify --man=no districtd.service yaoju-broker.service yaoju-broker.path yaoju-district-backup.service yaoju-district-backup.timer",
		"scripts are scripts":     "for f in /usr/lib/yaoju/* /usr/sbin/yaoju-district*; do sh -n $f; done",
		"with a mistake it ends":  "echo 'x = 1' > /tmp/bad.toml; districtd -config /tmp/bad.toml; [ $? = 78 ]",
	} {
		if what == "with a mistake it ends" {
			script = "set +e; " + script
		}
		if out, err := s.shell("", script); err != nil {
			t.Errorf("%s: %v %s", what, err, out)
		}
	}
	got := s.sh(`ss -Hltn | awk '{ print $4 }' | sort | uniq | tr '\n' ' '`)
	want := "*:8884 0.0.0.0:8883 127.0.0.1:5432 127.0.0.1:8090 127.0.0.1:9464"
	if regexp.MustCompile(` ?\[::1?\]:\d+`).ReplaceAllString(got, "") != want {
		t.Errorf("open ports: %s, want %s", got, want)
	}
}

// database is districtd's alone, keeps what it acked, and a copy brings it back.
func (s *server) database(t *testing.T) {
	s = s.in(t)
	psql := func(user, sql string) string {
		out, err := s.shell("", "cd /; sudo -u "+user+" psql -XAtqd yaoju -c \""+sql+"\" 2>&1")
		if err != nil {
			return "refused"
		}
		return strings.TrimSpace(out)
	}
	s.sh("useradd --system somebody")
	for _, c := range []struct{ user, sql, want string }{
		{"yaoju-district", "SHOW synchronous_commit", "on"},
		{"yaoju-district", "SHOW fsync", "on"},
		{"yaoju-district", "SHOW full_page_writes", "on"},
		{"yaoju-district", "SHOW data_checksums", "on"},
		{"yaoju-district", "SHOW password_encryption", "scram-sha-256"},
		{"yaoju-district", "SELECT count(*) > 0 FROM machine", "t"},
		{"yaoju-district", "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = current_user", "f"},
		{"yaoju-district", "SELECT pg_catalog.pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'yaoju'", "yaoju-district"},
		{"yaoju-district", "COPY machine TO PROGRAM 'cat'", "refused"},
		{"somebody", "SELECT 1", "refused"},
		{"postgres", "SELECT 1", "1"},
	} {
		if got := psql(c.user, c.sql); got != c.want {
			t.Errorf("%s as %s: %q, want %q", c.sql, c.user, got, c.want)
		}
	}
	if out, err := s.shell("", "cd /; PGPASSWORD=x psql -h 127.0.0.1 -U yaoju-district -d yaoju -c 'SELECT 1'"); err == nil {
		t.Errorf("over the network without TLS: %s", out)
	}

	// What came after the copy is in the database that was kept.
	copied := s.sh("yaoju-district-backup | tail -n 1")
	psql("yaoju-district", "CREATE TABLE later (n int); INSERT INTO later VALUES (1)")
	s.sh("yaoju-district-restore " + copied)
	s.until("curl -fsS http://127.0.0.1:8090/ && systemctl is-active districtd")
	if got := psql("yaoju-district", "SELECT to_regclass('later') IS NULL"); got != "t" {
		t.Errorf("what came after the copy is still there: %s", got)
	}
	if got := psql("yaoju-district", "SELECT count(*) > 0 FROM machine"); got != "t" {
		t.Errorf("after the restore: %s", got)
	}
	kept := s.sh("cd /; sudo -u postgres psql -XAtqc \"SELECT datname FROM pg_database WHERE datname LIKE 'yaoju_before_%' ORDER BY 1 DESC LIMIT 1\"")
	if got := s.sh("cd /; sudo -u postgres psql -XAtqd " + kept + " -c 'SELECT n FROM later'"); got != "1" {
		t.Errorf("in %s: %s", kept, got)
	}
	// A folder that is there stays as open as it was, and no copy in it is.
	s.sh("install -d -m 755 /srv/copies; yaoju-district-backup /srv/copies; [ $(stat -c %a /srv/copies) = 755 ]; [ $(stat -c %a /srv/copies/district-*) = 600 ]")
	// One that turns out to be cut off changes nothing, and districtd goes on.
	s.sh("head -c -200 " + copied + " > /tmp/cut.pgdump; if yaoju-district-restore /tmp/cut.pgdump; then exit 1; fi")
	s.until("curl -fsS http://127.0.0.1:8090/ && systemctl is-active districtd")
	// The copy that cannot be read is refused before anything changes.
	s.sh("echo broken > /tmp/x.pgdump; if yaoju-district-restore /tmp/x.pgdump; then exit 1; fi; systemctl is-active districtd")
}

// machines get in with what the district gave them, and are out when it says so.
func (s *server) machines(t *testing.T) {
	s = s.in(t)
	bin := filepath.Join(t.TempDir(), "yaoju")
	run(t, []string{"CGO_ENABLED=0"}, "go", "build", "-o", bin, "../cmd/yaoju")
	root(t, "install", bin, s.path("/usr/local/bin/yaoju"))
	s.put("/etc/yaoju/kioskd.toml", kioskConfig, 0o644)
	s.sh(`install -d -o yaoju-district -m 700 /var/lib/machine
echo '127.0.0.1 district.example' >> /etc/hosts
line=$(sudo -u yaoju-district districtd enrol m-0001 | head -n 1)
yaoju enrol -config /etc/yaoju/kioskd.toml "$line"`)
	// The certificates are ours to read from here: the same files under another root.
	pem := s.sh("ls /var/lib/machine/identity/machine.pem")
	at := s.path(pem)
	ask := func() string { // who subscribes with that certificate is let in, or not
		all := asRoot("nsenter", "--net=/proc/"+s.pid+"/ns/net", "mosquitto_sub", "-h", "127.0.0.1", "-p", "8883", "--cafile", s.path("/etc/mosquitto/yaoju/ca.crt"),
			"--cert", at, "--key", at, "-q", "1", "-t", "yaoju/1/d/m-0001/command", "-W", "1", "-E")
		if out, err := output(t, nil, all[0], all[1:]...); err != nil {
			return "refused: " + strings.TrimSpace(out)
		}
		return "let in"
	}
	if got := ask(); got != "let in" {
		t.Fatalf("an enrolled machine: %s", got)
	}
	was := s.sh("systemctl show -p MainPID --value mosquitto")
	s.sh("sudo -u yaoju-district districtd revoke m-0001")
	s.until("[ -s /etc/mosquitto/yaoju/revoked.txt ] && [ $(systemctl show -p MainPID --value mosquitto) != " + was + " ] && systemctl is-active mosquitto && ss -Hltn | grep -q :8883")
	if got := ask(); got == "let in" {
		t.Error("a revoked machine is let in")
	}
	s.sh(`line=$(sudo -u yaoju-district districtd enrol m-0001 | head -n 1); yaoju enrol -config /etc/yaoju/kioskd.toml -new-key "$line"`)
	if got := ask(); got != "let in" {
		t.Errorf("the machine with a new key: %s", got)
	}
}

// updates are ordered as the guide says, with a bundle made here.
func (s *server) updates(t *testing.T) {
	s = s.in(t)
	var order string
	for _, block := range blocks(t, "DISTRICT.md", "text") {
		if strings.Contains(block, "districtd update start") {
			order = strings.ReplaceAll(block, "NEW", "9.9.9")
		}
	}
	s.sh(`mkdir built; cp /usr/local/bin/yaoju built/; cp /usr/local/bin/yaoju built/kioskd
yaoju update key -out release.key | tail -n 1 > release.keys
yaoju update bundle -dir built -key release.key -version 9.9.9 -built 1767225600 -out yaoju_9.9.9_arm64.bundle`)
	if out, err := s.shell("", order); err != nil || !strings.Contains(out, "brings 9.9.9 to 1 machines") || !strings.Contains(out, "m-0001") {
		t.Errorf("%v\n%s", err, out)
	}
}

// metrics are those that the alerts and the dashboard ask for.
func (s *server) metrics(t *testing.T) {
	s = s.in(t)
	there := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(s.sh("curl -fsS http://127.0.0.1:9464/metrics"), -1) {
		there[m[1]] = true
	}
	there["yaoju_faults"] = true // only while a machine has one
	for _, name := range asked(t) {
		base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if !there[name] && !there[base] {
			t.Errorf("districtd has no metric %s", name)
		}
	}
}

// setupAgain does each step once more, which changes nothing, and some that are refused.
func (s *server) setupAgain(t *testing.T) {
	s = s.in(t)
	sum := "cd /; find /etc -type f ! -name '*.lock' ! -path '/etc/mosquitto/yaoju/*' -exec sha256sum {} + | sort"
	before := s.sh(sum)
	s.sh("yaoju-district-setup postgresql; yaoju-district-setup mosquitto; yaoju-district-setup metrics")
	if after := s.sh(sum); after != before {
		t.Errorf("the steps changed something the second time")
	}
	s.until("systemctl is-active districtd mosquitto")
	for _, wrong := range []string{"", "new", "new 'a b'", "new district.example", "mosquitto now", "nonsense"} {
		if out, err := s.shell("", "yaoju-district-setup "+wrong); err == nil {
			t.Errorf("%q was taken: %s", wrong, out)
		}
	}
	s.sh("rm /etc/yaoju/districtd.toml; yaoju-district-setup new 192.0.2.7; grep -q '^names = .\"192.0.2.7\".' /etc/yaoju/districtd.toml")
	s.sh("dpkg --purge yaoju-district")
	if left := s.sh("ls -d /etc/yaoju/districtd.toml /var/lib/yaoju-district /etc/mosquitto/yaoju /etc/mosquitto/conf.d/yaoju* /etc/systemd/system/*district* /etc/systemd/system/*/*yaoju* 2>/dev/null || true"); left != "" {
		t.Errorf("the purge left %s", left)
	}
	if left := s.sh("ls /var/backups/yaoju-district"); left == "" {
		t.Error("the purge took the copies")
	}
}

// What systemd thinks of the sandboxes, from 0 (tight) to 10. What copies the store and
// what changes the table of a card are root's for a moment, and no services.
func TestDistrictExposure(t *testing.T) {
	t.Parallel()
	for unit, limit := range map[string]float64{
		"district/root/usr/lib/systemd/system/yaoju-broker.service":          2.0,
		"district/root/usr/lib/systemd/system/yaoju-district-backup.service": 3.0,
		"pi/root/usr/lib/systemd/system/yaoju-card.service":                  2.0,
		"pi/root/usr/lib/systemd/system/yaoju-grow.service":                  4.5,
	} {
		out := run(t, nil, "systemd-analyze", "security", "--offline=true", "--no-pager", unit)
		m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("%s: no score in:\n%s", unit, out)
		}
		if score, err := strconv.ParseFloat(m[1], 64); err != nil || score > limit {
			t.Errorf("%s scores %s, at most %.1f is allowed", unit, m[1], limit)
		}
	}
}

// kioskConfig is as much of a machine's configuration as an enrolment reads.
const kioskConfig = `machine = "m-0001"
data = "/var/lib/machine"
[board]
path = "/dev/yaoju/uart"
[reader]
path = "/dev/yaoju/reader"
[district]
broker = "tls://district.example:8883"
enrol = "district.example:8884"
keys = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
`

// asked lists the metrics of which alerts and dashboard speak.
func asked(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, f := range []string{"prometheus/alerts.yml", "grafana/yaoju.json"} {
		text, err := os.ReadFile("district/root/usr/share/yaoju-district/" + f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, regexp.MustCompile(`\byaoju_[a-z_]+\b`).FindAllString(string(text), -1)...)
	}
	return all
}
