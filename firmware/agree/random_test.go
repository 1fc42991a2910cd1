package agree_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"yaoju/firmware/elf"
	"yaoju/protocol/board"
)

var (
	seeds = flag.Uint64("seeds", 25, "random histories that both boards play")
	first = flag.Uint64("first", 1, "seed of the first of them")
)

const (
	// apart is how far from anything that happens by itself a random line keeps: so
	// it comes before or after it on both boards, whose times differ by slack.
	apart = slack + 20*time.Millisecond

	// calmLimit bounds the wait for such a place: a vend has quiet stretches of
	// several hundred milliseconds, and none is longer than half a minute.
	calmLimit = time.Minute

	linesMost = 60
)

// author invents a history while the twin plays it.
type author struct {
	w     *twin
	p     *player
	r     *rand.Rand
	lines []string // with what came of them
	pairs bool     // slots 3 and 5 drive 4 and 6
	id    int      // highest that was asked for
	press int
	on    bool // power
}

// invent returns a history, as a scene whose lines are what the twin made of it.
func invent(t *testing.T, seed uint64) scene {
	t.Helper()
	s := scene{file: "random", title: fmt.Sprint("seed ", seed)}
	onTwin(t, func(t *testing.T, w *twin) {
		p, err := begin(w, false)
		if err != nil {
			t.Fatal(err)
		}
		a := &author{w: w, p: p, r: rand.New(rand.NewPCG(seed, 72)), on: true}
		a.write(t)
		s.lines = a.lines
	})
	return s
}

// write does lines until there are enough.
func (a *author) write(t *testing.T) {
	if a.pairs = a.r.IntN(3) == 0; a.pairs {
		a.do(t, "configure pairs 3,5")
	}
	for slot := 1; slot <= 6; slot++ {
		if right := slot == 4 || slot == 6; !a.pairs || !right { // the pieces of a pair lie in its left slot
			a.do(t, fmt.Sprintf("load %d %d", slot, 1+a.r.IntN(6)))
		}
	}
	for range linesMost {
		a.do(t, a.next(a.w.b.Status()))
	}
	a.do(t, "status")
	for slot := 1; slot <= 6; slot++ {
		a.do(t, fmt.Sprintf("tray %d", slot))
	}
}

// do plays line as soon as nothing happens around it.
func (a *author) do(t *testing.T, line string) {
	t.Helper()
	wait := a.calm(t, line)
	for _, l := range []string{fmt.Sprintf("wait %v", wait), line} {
		if l == "wait 0s" {
			continue
		}
		if l == line {
			if err := a.p.play(l); err != nil {
				t.Fatal(err)
			}
		}
		a.lines = append(append(a.lines, "> "+l), a.p.said()...)
	}
}

// calm waits until nothing happens by itself around the next line, and returns for
// how long it waited, in whole milliseconds.
func (a *author) calm(t *testing.T, line string) (waited time.Duration) {
	t.Helper()
	need := stepTime
	if strings.HasPrefix(line, "hang") {
		need = hangTime
	}
	if strings.HasPrefix(line, "fall") {
		need += 120 * time.Millisecond // until the piece is at the drop sensor
	}
	for waited < calmLimit {
		room := time.Until(a.w.b.Next())
		if a.w.b.Next().IsZero() || room > 2*apart+need {
			a.p.rig.wait(apart)
			a.p.moves()
			return waited + apart
		}
		step := max(room, 0).Truncate(time.Millisecond) + time.Millisecond
		a.p.rig.wait(step)
		waited += step
	}
	t.Fatalf("seed: no quiet moment for %q within %v", line, calmLimit)
	return 0
}

func (a *author) pick(choices ...string) string { return choices[a.r.IntN(len(choices))] }

func (a *author) slot() int { return 1 + a.r.IntN(6) }

// next invents a line. While something moves, a button is not held: which of its
// frames would be the first to be taken is a matter of milliseconds.
func (a *author) next(is board.StatusIs) string {
	moving := is.Motion != board.MotionNone
	if !a.on {
		a.on = true
		return "power on"
	}
	switch n := a.r.IntN(100); {
	case n < 10 && moving:
		return a.pick("wait 1s", "wait 3s", "wait 10s")
	case n < 28:
		a.id += 1 + a.r.IntN(3)
		return fmt.Sprintf("vend %d %d", a.id, a.slot())
	case n < 31:
		return fmt.Sprintf("vend %d %d", a.r.IntN(a.id+2), a.slot())
	case n < 33:
		seq, id, slot := a.r.IntN(256), a.r.IntN(a.id+3), a.slot()
		a.id = max(a.id, id)
		return fmt.Sprintf("seq %d vend %d %d; seq %d vend %d %d; status", seq, id, slot, seq, id, slot)
	case n < 39:
		return fmt.Sprintf("query %d", a.r.IntN(a.id+3))
	case n < 44:
		return a.pick("status", "hello", "status; ping")
	case n < 54 && !moving:
		return a.hold()
	case n < 68:
		slot := a.slot()
		for slot == int(is.Slot) || slot == int(is.Slot)+1 { // not while it moves
			slot = a.slot()
		}
		return fmt.Sprintf("faults %d %s", slot, a.pick("", "", "", "jam", "nomotor", "stuckhome", "runaway", "double",
			"short", "hang 1", "hang 2", "hang 9", "late 1s", "late 100ms", "slow 130", "slow 150", "double late 1s", "slow 130 hang 1"))
	case n < 72:
		return fmt.Sprintf("fall %d", a.slot())
	case n < 78:
		return a.pick("door open", "door shut", "door shut")
	case n < 82:
		return a.pick("sensor dark", "sensor blind", "sensor clear", "sensor clear")
	case n < 84:
		return a.pick("journal fails", "journal works", "journal works")
	case n < 89:
		return "clear " + a.pick("runaway", "runaway", "journal", "drop_sensor", "spontaneous", "jam")
	case n < 92:
		return a.pick("light 50", "lock 3000", "lock 0", "light 101")
	case n < 95:
		return a.pick("bent status", "frame 55 01", "frame 04 01", "lame ping", "bytes 01 02", "line dead", "line alive", "line alive")
	case n < 97:
		a.on = false
		return "power off"
	}
	return a.pick("reset", "hang", "restart")
}

// hold holds a button until all is over, or lets go a test before its piece falls.
// Both leave the spiral where either board would, but for some hundredths of a turn.
func (a *author) hold() string {
	a.press++
	switch a.r.IntN(5) {
	case 0:
		return fmt.Sprintf("press test %d %d 900ms", a.slot(), a.press)
	case 1, 2:
		return fmt.Sprintf("press test %d %d 6s", a.slot(), a.press)
	}
	return fmt.Sprintf("press home %d %d 6s", a.slot(), a.press)
}

// Both boards play random histories and agree as they do on the scripts. One that
// they do not agree on may be put into testdata as it is printed.
func TestRandom(t *testing.T) {
	if err := elf.Make(); err != nil {
		t.Fatal(err)
	}
	for seed := *first; seed < *first+*seeds; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			s := invent(t, seed)
			onChip(t, func(t *testing.T, c *chip) {
				got, err := s.perform(c)
				if err != nil {
					t.Fatal(err)
				}
				if how := disagree(got, s.lines); how != "" {
					t.Errorf("%s\n\nagain: go test ./firmware/agree -run TestRandom -first %d -seeds 1\n\nthe twin:\n= %s\n%s",
						how, seed, s.title, strings.Join(s.lines, "\n"))
				}
			})
		})
	}
}
