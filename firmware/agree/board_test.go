package agree_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"yaoju/firmware/elf"
)

var update = flag.Bool("update", false, "write what the twin does into testdata")

// How far the times of two boards may be apart. The firmware takes 6 ms to test its
// drop sensor before a vend and up to 4 ms for a byte that lost its power half-way;
// it believes a home switch 5 ms late, at each of the four stops that a vend may
// have, and the frame with the question takes up to 3 ms on the line.
const slack = 30 * time.Millisecond

// meterSlack is two steps of the converter that measures the current, in mA.
const meterSlack = 10

// scene is one history, on a board of its own.
type scene struct {
	file, title string
	at          int      // index of the title in the file's lines
	lines       []string // of the file, from the title on
}

// name is the scene's in the list of tests.
func (s scene) name() string {
	return strings.TrimSuffix(filepath.Base(s.file), ".txt") + "/" + s.title
}

// scenes reads all scripts.
func scenes(t *testing.T) (all []scene) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(strings.TrimRight(string(b), "\n"), "\n") {
			if title, ok := strings.CutPrefix(line, "= "); ok {
				all = append(all, scene{file: file, title: title, at: i})
			}
			if len(all) > 0 && all[len(all)-1].file == file {
				s := &all[len(all)-1]
				s.lines = append(s.lines, line)
			}
		}
	}
	return all
}

// perform plays the scene on r and returns its lines with what came of them.
func (s scene) perform(r rig) ([]string, error) {
	var script []string
	blank := false
	for _, line := range s.lines {
		blank = blank || line == "> blank"
		if !strings.HasPrefix(line, " ") {
			script = append(script, line)
		}
	}
	p, err := begin(r, blank)
	if err != nil {
		return nil, err
	}
	var done []string
	for _, line := range script {
		done = append(done, line)
		do, ok := strings.CutPrefix(line, "> ")
		if !ok || do == "blank" {
			continue
		}
		if err := p.play(do); err != nil {
			return nil, err
		}
		done = append(done, p.said()...)
	}
	return done, nil
}

// said returns the lines written down since the last call.
func (p *player) said() []string {
	defer p.out.Reset()
	if p.out.Len() == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(p.out.String(), "\n"), "\n")
}

// differ returns the first two lines that are not the same, and where in got.
func differ(got, want []string, same func(got, want string) bool) (at int, g, w string, differs bool) {
	for i := range max(len(got), len(want)) {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if i >= len(got) || i >= len(want) || !same(g, w) {
			return i, g, w, true
		}
	}
	return 0, "", "", false
}

// disagree says how two boards differ in what they said or how they moved, the slack
// of their times aside; "" if they do not. A motor that starts a little earlier may
// do so before a question that it started after on the other board: so what is said
// and what moves are compared each in its own order.
func disagree(got, want []string) string {
	for _, moves := range []bool{false, true} {
		of := func(lines []string) (part []string, index []int) {
			for i, line := range lines {
				if strings.Contains(line, "  motor ") == moves {
					part, index = append(part, line), append(index, i)
				}
			}
			return part, append(index, len(lines))
		}
		g, at := of(got)
		w, _ := of(want)
		if i, g, w, yes := differ(g, w, alike); yes {
			return fmt.Sprintf("got  %s\nwant %s\n\nthe firmware:\n%s", g, w, around(got, at[min(i, len(at)-1)]))
		}
	}
	return ""
}

// alike reports that two lines say the same within the slack of their times.
func alike(got, want string) bool {
	g, w := strings.Fields(got), strings.Fields(want)
	if len(g) != len(w) || strings.HasPrefix(got, " ") != strings.HasPrefix(want, " ") {
		return false
	}
	for i := range g {
		if g[i] == w[i] {
			continue
		}
		a, unitA := figure(g[i])
		b, unitB := figure(w[i])
		diff := max(a-b, b-a)
		switch {
		case unitA != unitB:
			return false
		case unitA == "ms" && diff <= float64(slack.Milliseconds()):
		case unitA == "mA" && diff <= meterSlack:
		case unitA == "s" && i == 0 && diff <= slack.Seconds():
		default:
			return false
		}
	}
	return true
}

// figure splits 2500ms. The time at the head of a line has seconds for its unit.
func figure(s string) (n float64, unit string) {
	k := len(strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzA"))
	n, err := strconv.ParseFloat(s[:k], 64)
	switch {
	case err != nil:
		return 0, s // no figure: it has to be the same word
	case s[k:] == "" && strings.Contains(s, "."):
		return n, "s"
	}
	return n, s[k:]
}

// around shows a place in a history.
func around(lines []string, at int) string {
	from, to := max(0, at-12), min(len(lines), at+4)
	if from > to {
		from = to
	}
	return strings.Join(lines[from:to], "\n")
}

// The twin does what the scripts say, to the millisecond.
func TestTwin(t *testing.T) {
	all := scenes(t)
	if *update {
		rewrite(t, all)
		return
	}
	for _, s := range all {
		t.Run(s.name(), func(t *testing.T) {
			onTwin(t, func(t *testing.T, w *twin) {
				got, err := s.perform(w)
				if err != nil {
					t.Fatal(err)
				}
				exact := func(got, want string) bool { return got == want }
				if at, g, want, yes := differ(got, s.lines, exact); yes {
					t.Errorf("%s:%d\ngot  %s\nwant %s\n\n%s", s.file, s.at+at+1, g, want, around(got, at))
				}
			})
		})
	}
}

// The firmware does what the scripts say, but for the slack of its times.
func TestFirmware(t *testing.T) {
	if err := elf.Make(); err != nil {
		t.Fatal(err)
	}
	for _, s := range scenes(t) {
		t.Run(s.name(), func(t *testing.T) {
			t.Parallel()
			onChip(t, func(t *testing.T, c *chip) {
				got, err := s.perform(c)
				if err != nil {
					t.Fatal(err)
				}
				if how := disagree(got, s.lines); how != "" {
					t.Errorf("%s:%d\n%s", s.file, s.at+1, how)
				}
			})
		})
	}
}

// rewrite puts what the twin does into the scripts, for a person to read before it
// is believed.
func rewrite(t *testing.T, all []scene) {
	var file string
	var out bytes.Buffer
	flush := func() {
		if file == "" {
			return
		}
		if err := os.WriteFile(file, bytes.TrimLeft(out.Bytes(), "\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		out.Reset()
	}
	for _, s := range all {
		if s.file != file {
			flush()
			file = s.file
			head, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range strings.Split(string(head), "\n")[:s.at] {
				fmt.Fprintln(&out, line)
			}
		}
		onTwin(t, func(t *testing.T, w *twin) {
			lines, err := s.perform(w)
			if err != nil {
				t.Fatalf("%s:%d: %v", s.file, s.at+1, err)
			}
			fmt.Fprintln(&out, strings.Join(lines, "\n"))
		})
	}
	flush()
}
