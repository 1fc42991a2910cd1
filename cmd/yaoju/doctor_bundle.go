package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// logLines is how much of the log goes into a bundle: some hours of a machine in
// trouble, days of a quiet one.
const logLines = "400"

// bundleReadme stands first in every bundle.
const bundleReadme = `诊断包 · diagnostics bundle

doctor.txt    医生的结论，中文和英文；先看这里 / what the doctor found, in both languages: begin here
doctor.json   同样的内容，供程序读取 / the same for programs
status.json   kioskd 对自己的说明 / what kioskd says of itself (not there if it does not run)
config.toml   配置，注释和像密钥的内容已去掉 / the configuration without comments and without what looks like a key
versions.txt  程序和系统的版本 / versions of programs and system
sizes.txt     数据文件夹里有哪些文件、多大 / which files are in the data folder, and how large
system.txt    挂载、设备、内存 / mounts, devices, memory
log.txt       kioskd 最后的日志 / the end of kioskd's log

没有居民的任何信息：没有账本、标记、证件号码、密钥、员工账号和工卡号。
There is nothing of residents in it: no ledger, no mark, no card number, no key, no
account and no badge.
`

// What never leaves the machine, wherever it may have got to: a line for enrolment,
// numbers as long as those of cards, and what looks like a key or a badge.
var (
	enrolLine  = regexp.MustCompile(`yaoju[0-9]+/\S+`)
	cardNumber = regexp.MustCompile(`\b[0-9]{14,17}[0-9Xx]\b`)
	hexWord    = regexp.MustCompile(`\b(?:0x)?[0-9A-Fa-f]{8,}\b`)
	hexBytes   = regexp.MustCompile(`\b(?:[0-9A-Fa-f]{2}[ :-]){3,}[0-9A-Fa-f]{2}\b`)
	base64Word = regexp.MustCompile(`[A-Za-z0-9+/_-]{32,}={0,2}`)
)

// scrub takes out of text what may be secret or personal.
func scrub(text string) string {
	text = enrolLine.ReplaceAllString(text, "(enrolment line)")
	text = cardNumber.ReplaceAllString(text, "(number)")
	text = base64Word.ReplaceAllStringFunc(text, func(s string) string {
		if strings.Contains(s, "/") && (strings.HasPrefix(s, "/") || strings.Count(s, "/") > 2) {
			return s // a path
		}
		return "(key)"
	})
	text = hexBytes.ReplaceAllString(text, "(bytes)")
	return hexWord.ReplaceAllString(text, "(hex)")
}

// scrubConfig takes out comments as well: people note things there.
func scrubConfig(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		quoted := false
		for i, r := range line {
			if r == '"' {
				quoted = !quoted
			}
			if r == '#' && !quoted {
				line = strings.TrimRight(line[:i], " \t") + "\n"
				break
			}
		}
		if strings.TrimSpace(line) != "" {
			b.WriteString(scrub(line))
		}
	}
	return b.String()
}

// writeDiagnostics writes what a person far away needs to help, and nothing of residents.
func writeDiagnostics(ctx context.Context, path string, x *exam, d diagnosis) (err error) {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			err = errors.Join(fmt.Errorf("bundle: %w", err), os.Remove(path))
		}
	}()
	if err := giveBack(out); err != nil {
		return err
	}
	report, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	files := []struct{ name, text string }{
		{"README.txt", bundleReadme},
		{"doctor.txt", scrubWords(d.text(true) + "\n" + d.text(false))},
		{"doctor.json", scrubWords(string(report)) + "\n"},
	}
	add := func(name, text string) {
		files = append(files, struct{ name, text string }{name, text})
	}
	if x.now != nil {
		text, err := json.MarshalIndent(x.now, "", "  ")
		if err != nil {
			return err
		}
		add("status.json", scrubWords(string(text))+"\n")
	}
	if text, err := os.ReadFile(x.config); err == nil {
		add("config.toml", scrubConfig(string(text)))
	}
	add("versions.txt", x.versions(ctx))
	if x.sound {
		add("sizes.txt", x.sizes())
	}
	add("system.txt", x.system())
	if text, err := x.h.command(ctx, "journalctl", "--unit=kioskd.service", "--no-pager", "--output=short-iso", "--lines="+logLines); err == nil {
		add("log.txt", scrub(text)+"\n")
	}
	z := gzip.NewWriter(out)
	w := tar.NewWriter(z)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: "yaoju/" + f.name, Mode: 0o600, Size: int64(len(f.text)), ModTime: d.At, Format: tar.FormatPAX}); err != nil {
			return err
		}
		if _, err := w.Write([]byte(f.text)); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), z.Close(), out.Sync())
}

// scrubWords is scrub for what we wrote ourselves, where numbers of boards and ledgers
// may stand: only what no machine ever says goes.
func scrubWords(text string) string {
	return cardNumber.ReplaceAllString(enrolLine.ReplaceAllString(text, "(enrolment line)"), "(number)")
}

func (x *exam) versions(ctx context.Context) string {
	var b strings.Builder
	fmt.Fprintf(&b, "yaoju %s\n", version)
	for _, c := range [][]string{{"kioskd", "-version"}, {"uname", "-srm"}, {"systemctl", "--version"}} {
		if out, err := x.h.command(ctx, c[0], c[1:]...); err == nil {
			first, _, _ := strings.Cut(out, "\n")
			fmt.Fprintln(&b, first)
		}
	}
	if text, err := os.ReadFile(x.h.path("/etc/os-release")); err == nil {
		b.Write(text)
	}
	return b.String()
}

// sizes lists the data folder: names, sizes, modes and times, and nothing inside.
func (x *exam) sizes() string {
	var b strings.Builder
	err := filepath.WalkDir(x.cfg.Data, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", path, err)
			return fs.SkipDir
		}
		if info, err := e.Info(); err == nil {
			name, _ := filepath.Rel(x.cfg.Data, path) // it is below
			fmt.Fprintf(&b, "%s %8s %12d %s %s\n", info.Mode(), userName(ownerOf(info)), info.Size(), info.ModTime().UTC().Format(time.RFC3339), scrub(name))
		}
		return nil
	})
	if err != nil {
		fmt.Fprintln(&b, err)
	}
	return b.String()
}

// system is what the kernel says of mounts, devices and memory.
func (x *exam) system() string {
	var b strings.Builder
	for _, file := range []string{"/proc/mounts", "/proc/cmdline", "/proc/meminfo", "/proc/loadavg", "/proc/uptime"} {
		text, err := os.ReadFile(x.h.path(file))
		if err != nil {
			continue
		}
		lines := strings.SplitN(string(text), "\n", 60)
		fmt.Fprintf(&b, "== %s\n%s\n", file, strings.Join(lines[:min(len(lines), 59)], "\n"))
	}
	b.WriteString("== serial devices\n")
	ttys, _ := os.ReadDir(x.h.path("/sys/class/tty")) // without it there are none
	for _, t := range ttys {
		if strings.HasPrefix(t.Name(), "ttyUSB") || strings.HasPrefix(t.Name(), "ttyACM") || strings.HasPrefix(t.Name(), "ttyAMA") {
			fmt.Fprintf(&b, "%s %s\n", t.Name(), x.usbName(t.Name()))
		}
	}
	return b.String()
}
