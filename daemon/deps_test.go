package daemon_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed lists what each package may import from this module, tests aside. A new
// edge is a design decision: change this table in the same commit and say why.
var allowed = map[string]string{
	"protocol":            "",
	"protocol/board":      "protocol",
	"protocol/board/gen":  "protocol/board",
	"protocol/gs1":        "protocol", // for the form of a day and the length of a batch
	"protocol/schema":     "protocol",
	"protocol/schema/gen": "protocol/schema",
	"protocol/voucher":    "protocol",
	"daemon":              "",
	"daemon/cabinet":      "protocol protocol/board daemon/card daemon/climate daemon/config daemon/identity daemon/machine daemon/machine/gpio daemon/machine/vending daemon/port daemon/scan daemon/status", // makes every driver from one file; identity for the addresses in it
	"daemon/card":         "daemon/port",
	"daemon/card/sim":     "",
	"daemon/config":       "",
	"daemon/dispense":     "protocol",
	"daemon/district":     "protocol daemon/words",
	"daemon/durable":      "",
	"daemon/identity":     "protocol daemon/durable", // machine ids and lists of signing keys
	"daemon/kiosk":        "protocol daemon/dispense",
	"daemon/ledger":       "protocol daemon/dispense",
	"daemon/machine":      "protocol protocol/board daemon/port",
	"daemon/machine/sim":  "protocol protocol/board",

	"daemon/machine/gpio":        "protocol daemon/durable protocol/board daemon/machine",
	"daemon/machine/gpio/sim":    "protocol daemon/machine/gpio",
	"daemon/machine/vending":     "protocol daemon/machine daemon/port",
	"daemon/machine/vending/sim": "protocol",

	"daemon/identity/backup":  "",
	"daemon/identity/tpm":     "",
	"daemon/identity/tpm/sim": "",
	"daemon/machine/promise":  "",
	"daemon/update":           "protocol",
	"deploy":                  "",

	"daemon/climate":   "",
	"daemon/port":      "",
	"daemon/pulse":     "",
	"daemon/port/pty":  "",
	"daemon/status":    "", // kioskd tells it, yaoju doctor asks for it
	"daemon/scan":      "daemon/port",
	"daemon/scan/sim":  "",
	"daemon/staff":     "protocol daemon/durable",
	"daemon/uplink":    "protocol",
	"daemon/voice":     "daemon/words", // the lines to speak are phrases of the catalogue
	"daemon/voice/gen": "daemon/voice daemon/words",
	"daemon/web":       "protocol daemon/kiosk daemon/voice daemon/words",
	"daemon/words":     "",
	"cmd/kioskd":       "protocol daemon/pulse protocol/gs1 daemon/staff daemon/status daemon/cabinet daemon/card daemon/dispense daemon/kiosk daemon/ledger daemon/machine daemon/machine/gpio daemon/scan daemon/uplink daemon/web daemon/identity daemon/identity/tpm daemon/update",
	"cmd/districtd":    "protocol daemon/durable daemon/pulse daemon/config daemon/district daemon/identity daemon/identity/backup daemon/update",
	"cmd/yaoju":        "protocol daemon/durable daemon/staff daemon/scan/sim protocol/board daemon/cabinet daemon/status daemon/scan daemon/card/sim daemon/config daemon/ledger daemon/machine daemon/machine/sim daemon/machine/vending/sim daemon/port daemon/port/pty daemon/uplink daemon/update firmware/elf daemon/identity daemon/identity/tpm",
	"firmware/agree":   "",
	"firmware/bootsim": "protocol/board",
	"firmware/elf":     "protocol protocol/board",
	"firmware/trial":   "",
}

// fenced names the packages that alone may use each library; with _test behind it,
// in tests only.
var fenced = map[string]string{
	"crypto/tls":                            "daemon/identity deploy_test",
	"crypto/x509":                           "daemon/identity deploy_test",
	"filippo.io/age":                        "daemon/identity/backup",
	"github.com/google/go-tpm":              "daemon/identity/tpm",
	"database/sql":                          "daemon/ledger daemon/district",
	"modernc.org/sqlite":                    "daemon/ledger daemon/district",
	"go.bug.st/serial":                      "daemon/port",
	"github.com/coreos/go-systemd":          "daemon/pulse",
	"github.com/creack/pty":                 "daemon/port/pty",
	"github.com/eclipse/paho.mqtt.golang":   "daemon/uplink daemon/district deploy_test",
	"github.com/mochi-mqtt/server/v2":       "daemon/district",
	"github.com/jackc/pgx/v5":               "daemon/district",
	"golang.org/x/crypto/argon2":            "daemon/staff",
	"github.com/pelletier/go-toml/v2":       "daemon/config",
	"github.com/chromedp":                   "daemon/web_test cmd/yaoju_test",
	"github.com/santhosh-tekuri/jsonschema": "protocol/schema_test",
	"go.yaml.in/yaml":                       "protocol/schema_test",
	"periph.io/x":                           "daemon/climate daemon/machine/gpio daemon/scan daemon/scan/sim",
	"pgregory.net/rapid":                    "daemon/ledger_test",
	"net/http":                              "daemon/web daemon/district cmd/kioskd cmd/districtd cmd/yaoju daemon/identity daemon/update daemon/update_test",
}

// unlinked names what a program must not carry, though something below it might.
var unlinked = map[string][]string{
	"cmd/kioskd":    {"yaoju/daemon/identity/tpm/sim", "filippo.io/age", "github.com/mochi-mqtt", "github.com/jackc/pgx", "github.com/prometheus", "yaoju/daemon/district", "yaoju/daemon/machine/sim", "yaoju/daemon/machine/gpio/sim", "yaoju/daemon/machine/vending/sim", "yaoju/daemon/scan/sim", "yaoju/firmware", "yaoju/daemon/card/sim", "github.com/creack/pty"},
	"cmd/districtd": {"github.com/google/go-tpm", "go.bug.st/serial", "yaoju/firmware", "yaoju/daemon/machine", "yaoju/daemon/card", "yaoju/daemon/ledger", "yaoju/daemon/web"},
}

func list(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list %s: %v", strings.Join(args, " "), err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// within reports whether the import path is prefix or lies below it.
func within(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

func TestImports(t *testing.T) {
	const split = `{{.ImportPath}}|{{join .Imports " "}}|{{join .TestImports " "}} {{join .XTestImports " "}}`
	for _, line := range list(t, "-f", split, "yaoju/...") {
		part := strings.Split(line, "|")
		pkg := strings.TrimPrefix(part[0], "yaoju/")
		may, known := allowed[pkg]
		if !known {
			t.Errorf("%s is not in the table", pkg)
		}
		for _, imp := range strings.Fields(part[1]) {
			if ours, ok := strings.CutPrefix(imp, "yaoju/"); ok && !slices.Contains(strings.Fields(may), ours) {
				t.Errorf("%s may not import %s", pkg, ours)
			}
			if first, _, _ := strings.Cut(imp, "/"); strings.HasPrefix(pkg, "protocol") && strings.Contains(first, ".") {
				t.Errorf("%s may import the standard library only, not %s", pkg, imp)
			}
		}
		for i, user := range []string{pkg, pkg + "_test"} {
			for _, imp := range strings.Fields(part[1+i]) {
				for lib, who := range fenced {
					if may := strings.Fields(who); within(imp, lib) && !slices.Contains(may, pkg) && !slices.Contains(may, user) {
						t.Errorf("%s may not use %s; only %s may", user, imp, who)
					}
				}
			}
		}
	}
}

func TestNotLinked(t *testing.T) {
	for program, libs := range unlinked {
		for _, dep := range list(t, "-deps", "yaoju/"+program) {
			for _, lib := range libs {
				if within(dep, lib) {
					t.Errorf("%s links %s", program, dep)
				}
			}
		}
	}
}
