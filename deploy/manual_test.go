package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// manuals are for technicians, each in two languages.
func manuals() []string { return []string{"INSTALL", "OPERATE"} }

// ofDebian are programs that a machine or a district has without us.
func ofDebian() []string {
	return []string{"apt", "blkdiscard", "cat", "chown", "chmod", "chronyc", "cp", "findmnt", "install", "journalctl", "ls", "lsblk", "nano", "poweroff", "reboot", "scp", "ssh", "systemctl", "vcgencmd"}
}

// boxes returns what stands in a manual's boxes, and inCode what stands between
// backquotes in its text.
func boxes(text string) (out []string) {
	for i, part := range strings.Split("\n"+text, "\n```") {
		if body, ok := strings.CutPrefix(part, "sh\n"); ok && i%2 == 1 {
			out = append(out, body)
		}
	}
	return out
}

var quoted = regexp.MustCompile("`([^`\n]+)`")

func inCode(text string) (out []string) {
	var prose strings.Builder
	for i, part := range strings.Split("\n"+text, "\n```") {
		if i%2 == 0 {
			prose.WriteString(part)
		}
	}
	for _, m := range quoted.FindAllStringSubmatch(prose.String(), -1) {
		out = append(out, strings.Split(m[1], "; ")...)
	}
	return out
}

// Both languages of a manual give the same commands, and every command that a manual
// names exists, with its flags.
func TestManuals(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	run(t, []string{"CGO_ENABLED=0"}, "go", "build", "-o", bin, "../cmd/yaoju", "../cmd/kioskd", "../cmd/districtd")
	known := toolbox{t: t, bin: bin, help: map[string]string{}}
	for _, name := range manuals() {
		var first []string
		for i, file := range []string{name + ".md", name + ".zh.md"} {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := boxes(string(b))
			if len(got) < 5 {
				t.Errorf("%s: only %d boxes were found", file, len(got))
			}
			if i == 0 {
				first = got
			} else if !slices.Equal(first, got) {
				t.Errorf("%s: its boxes are not those of the other language", file)
			}
			for _, box := range got {
				for line := range strings.Lines(box) {
					known.check(file, strings.TrimSpace(line), true)
				}
			}
			for _, words := range inCode(string(b)) {
				known.check(file, words, false)
			}
		}
	}
}

// toolbox is our programs, built, and what each says of itself.
type toolbox struct {
	t    *testing.T
	bin  string
	help map[string]string
}

// ask returns what a program of ours says when it is asked for help.
func (p toolbox) ask(words ...string) string {
	key := strings.Join(words, " ")
	if _, ok := p.help[key]; !ok {
		out, _ := exec.Command(filepath.Join(p.bin, words[0]), append(slices.Clone(words[1:]), "-h")...).CombinedOutput() // it exits as it likes
		p.help[key] = string(out)
	}
	return p.help[key]
}

// check complains of a command that does not exist. What stands in the middle of text
// is looked at only if it begins with a program of ours.
func (p toolbox) check(file, line string, box bool) {
	p.t.Helper()
	words := strings.Fields(line)
	if len(words) > 0 && words[0] == "sudo" {
		words = words[1:]
		if len(words) > 1 && words[0] == "-u" {
			words = words[2:]
		}
	}
	if len(words) == 0 || len(words) == 1 && !box {
		return
	}
	wrong := func(what string) { p.t.Errorf("%s: %q: %s", file, line, what) }
	switch words[0] {
	case "yaoju":
		p.ours(wrong, words)
	case "kioskd":
		p.flags(wrong, words[1:], p.ask("kioskd"))
	case "districtd":
		p.order(wrong, words[1:])
	case "yaoju-setup":
		if len(words) == 3 && words[1] == "firewall" && strings.Contains(words[2], "/") {
			words = words[:2] // a network
		}
		if !strings.Contains(setupSteps(p.t), "\n  "+strings.Join(words[1:], " ")+" ") {
			wrong("yaoju-setup has no such step")
		}
	default:
		if box && !slices.Contains(ofDebian(), words[0]) {
			wrong("nobody knows this program")
		}
	}
}

// ours checks a command of yaoju: its words and its flags.
func (p toolbox) ours(wrong func(string), words []string) {
	usage := p.ask("yaoju")
	if !strings.Contains(usage, "\n  "+words[1]+" ") {
		wrong("yaoju has no such command")
		return
	}
	n := 2
	if sub := p.ask("yaoju", words[1]); strings.Contains(sub, "COMMAND") && len(words) > 2 {
		if !strings.Contains(sub, "\n  "+words[2]+" ") {
			wrong("yaoju " + words[1] + " has no such command")
			return
		}
		n = 3
	}
	p.flags(wrong, words[n:], p.ask(words[:n]...))
}

func (p toolbox) flags(wrong func(string), words []string, help string) {
	for _, w := range words {
		if strings.HasPrefix(w, "-") && !strings.Contains(help, "\n  -"+strings.TrimLeft(w, "-")) {
			wrong("there is no flag " + w)
		}
	}
}

// order checks what districtd is told.
func (p toolbox) order(wrong func(string), words []string) {
	usage := p.ask("districtd")
	if len(words) == 0 || strings.HasPrefix(words[0], "-") {
		p.flags(wrong, words, usage)
		return
	}
	orders := fmt.Sprintf("\n  %s", words[0])
	if len(words) > 1 && strings.Contains(usage, orders+" "+words[1]) {
		return
	}
	if !strings.Contains(usage, orders+" MACHINE") || len(words) != 2 {
		wrong("districtd knows no such order")
	}
}

// setupSteps is what yaoju-setup says of its steps, and what it hands on.
func setupSteps(t *testing.T) string {
	t.Helper()
	all := "\n"
	for _, script := range []string{"kiosk/root/usr/sbin/yaoju-setup", "pi/root/usr/lib/yaoju/pi"} {
		b, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		all += regexp.MustCompile(` \[[A-Z]+\](\n +)?`).ReplaceAllString(string(b), " ")
	}
	return all
}
