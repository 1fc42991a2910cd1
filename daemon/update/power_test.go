package update_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"yaoju/daemon/update"
	"yaoju/protocol"
)

// errPower is all that a program sees of a power cut.
var errPower = errors.New("the power is gone")

// image is what lies in the folder of versions beside the versions themselves: the
// content of files, and where links lead, with "->" before it.
type image map[string]string

func (i image) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(i)) {
		fmt.Fprintf(&b, "%s = %q\n", name, i[name])
	}
	return b.String()
}

// step is one thing that was done to the disk.
type step struct {
	what, name, other string
	body              string
}

// cutDisk does everything to the real folder, remembers it, and loses its power
// after so many steps. Nothing is synced for real: the images say what would be left.
type cutDisk struct {
	real  update.Disk
	left  int // steps until the cut; below 0: none comes
	steps []step
}

func (d *cutDisk) do(s step, f func() error) error {
	if d.left == 0 {
		return errPower
	}
	d.left--
	d.steps = append(d.steps, s)
	return f()
}

func (d *cutDisk) Write(name string, b []byte) error {
	return d.do(step{what: "write", name: name, body: string(b)}, func() error { return update.WriteTo(d.real, name, b) })
}

func (d *cutDisk) Link(target, name string) error {
	return d.do(step{what: "link", name: name, other: target}, func() error { return update.LinkTo(d.real, target, name) })
}

func (d *cutDisk) Rename(from, to string) error {
	return d.do(step{what: "rename", name: from, other: to}, func() error { return update.RenameTo(d.real, from, to) })
}

func (d *cutDisk) Sync(name string) error {
	return d.do(step{what: "sync", name: name}, func() error { return nil })
}

// left returns every image a power cut may leave of what was done since before: a
// file that was not synced may be empty, and of the changes to names since the folder
// was last synced only the first so many may be there.
func left(before image, steps []step) []image {
	floor := 0
	for i, s := range steps {
		if s.what == "sync" && s.name == "." {
			floor = i + 1
		}
	}
	seen := map[string]image{}
	for upTo := floor; upTo <= len(steps); upTo++ {
		for _, torn := range []string{"whole", "torn"} {
			img := maps.Clone(before)
			for i, s := range steps[:upTo] {
				switch s.what {
				case "write":
					img[s.name] = s.body
					if torn == "torn" && !slices.Contains(steps[i+1:], step{what: "sync", name: s.name}) {
						img[s.name] = ""
					}
				case "link":
					img[s.name] = "->" + s.other
				case "rename":
					img[s.other] = img[s.name]
					delete(img, s.name)
				}
			}
			seen[img.String()] = img
		}
	}
	return slices.Collect(maps.Values(seen))
}

// capture reads the image of a machine.
func (m *machine) capture() image {
	m.t.Helper()
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		m.t.Fatal(err)
	}
	img := image{}
	for _, e := range entries {
		path := filepath.Join(m.dir, e.Name())
		switch {
		case e.IsDir() || e.Name() == "lock":
			continue
		case e.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				m.t.Fatal(err)
			}
			img[e.Name()] = "->" + target
		default:
			b, err := os.ReadFile(path)
			if err != nil {
				m.t.Fatal(err)
			}
			img[e.Name()] = string(b)
		}
	}
	return img
}

// restore puts an image in the place of what is there.
func (m *machine) restore(img image) {
	m.t.Helper()
	for name := range m.capture() {
		if err := os.Remove(filepath.Join(m.dir, name)); err != nil {
			m.t.Fatal(err)
		}
	}
	for name, what := range img {
		path := filepath.Join(m.dir, name)
		if target, link := strings.CutPrefix(what, "->"); link {
			if err := os.Symlink(target, path); err != nil {
				m.t.Fatal(err)
			}
			continue
		}
		m.write(path, []byte(what), 0o644)
	}
}

// cuts does f from the image on, once for each step at which the power may go and
// once to its end, and calls each with every image that may be left.
func (m *machine) cuts(from image, f func(*update.Store) error, each func(img image, ended bool)) {
	m.t.Helper()
	real := m.store.RealDisk()
	for n := 0; ; n++ {
		if n > 100 {
			m.t.Fatal("it never ends")
		}
		m.restore(from)
		d := &cutDisk{real: real, left: n}
		m.store.SetDisk(update.DiskOf(d))
		err := f(m.store)
		m.store.SetDisk(real)
		if err != nil && !errors.Is(err, errPower) {
			m.t.Fatalf("cut at step %d of\n%s: %v", n, from, err)
		}
		for _, img := range left(from, d.steps) {
			each(img, err == nil)
		}
		if err == nil {
			return
		}
	}
}

// afterwards starts the machine from an image over and over, with the power cut at
// every step of every start, until no image is new. judge sees the machine after every
// start that was not cut off, and what its status was before.
func (m *machine) afterwards(first []image, judge func(before update.Status)) {
	m.t.Helper()
	known := map[string]bool{}
	todo := first
	for len(todo) > 0 {
		img := todo[0]
		todo = todo[1:]
		if known[img.String()] {
			continue
		}
		known[img.String()] = true
		m.restore(img)
		before, err := m.store.Status()
		if err != nil {
			before = update.Status{} // the state file was damaged on purpose
		}
		m.cuts(img, func(s *update.Store) error { _, err := s.Check(); return err }, func(img image, ended bool) {
			todo = append(todo, img)
			if ended {
				m.restore(img)
				judge(before)
			}
		})
		if m.t.Failed() {
			m.t.Fatalf("from\n%s", img)
		}
	}
}

// settled starts the machine until it no longer changes.
func (m *machine) settled() update.Status {
	m.t.Helper()
	for range 10 {
		before := m.capture().String()
		m.check()
		if m.capture().String() == before {
			return m.status()
		}
	}
	m.t.Fatal("it never settles")
	return update.Status{}
}

// A power cut at every step of a switch, of every start after it, of confirming, giving
// up and going back: the machine always starts a whole version; one on trial is
// counted before it starts, and after three starts it is gone; one that was confirmed
// stays, and one that was given up does not come back.
func TestPowerCuts(t *testing.T) {
	m := newMachine(t)
	m.store.SetDisk(update.DiskOf(&cutDisk{real: m.store.RealDisk(), left: -1})) // syncs would only take time
	m.check()
	m.upgraded("first", manifest(t, "1.1", 2))
	o := m.staged("second", manifest(t, "1.2", 3))
	old := m.capture()
	started := func(t *testing.T, before update.Status) update.Status {
		st := m.status()
		switch v := m.runs(); {
		case v != "1.1" && v != "1.2" || v != st.Current:
			t.Errorf("starts %q, and current is %q", v, st.Current)
		case v == "1.1" && st.Trial != "":
			t.Errorf("%s starts while %s is on trial", v, st.Trial)
		case v == "1.2" && st.Trial == "1.2" && (st.Starts < 1 || st.Starts > 3 || st.Starts <= before.Starts):
			t.Errorf("start %d of a version on trial, after %d", st.Starts, before.Starts)
		}
		return st
	}
	doSwitch := func(s *update.Store) error { return s.Switch(o, update.Signs{Board: true}) }

	t.Run("switch", func(t *testing.T) {
		m.t = t
		var images []image
		m.cuts(old, doSwitch, func(img image, _ bool) { images = append(images, img) })
		forgotten, gaveUp := 0, 0
		m.afterwards(images, func(before update.Status) {
			st := started(t, before)
			if st.Current == "1.2" && st.Trial != "1.2" {
				t.Error("it stays, and nobody confirmed it")
			}
			img := m.capture()
			end := m.settled()
			switch {
			case end.Current != "1.1" || end.Previous != "base" || end.Trial != "":
				t.Errorf("ends at %+v", end)
			case end.Order != nil && end.Staged && end.Last.Version == "1.1":
				forgotten++
			case end.Order == nil && end.Last.Version == "1.2" && end.Last.End == protocol.UpdateRolledBack:
				gaveUp++
			default:
				t.Errorf("ends at %+v, %+v", end, end.Last)
			}
			m.restore(img)
		})
		if forgotten == 0 || gaveUp == 0 {
			t.Errorf("forgotten %d times, given up %d times: both must happen", forgotten, gaveUp)
		}
	})

	m.t = t
	m.restore(old)
	if err := doSwitch(m.store); err != nil {
		t.Fatal(err)
	}
	m.check()
	onTrial := m.capture()
	for name, c := range map[string]struct {
		f    func(*update.Store) error
		done string // what current is once f has ended
	}{
		"confirm":  {func(s *update.Store) error { return s.Confirm("1.2") }, "1.2"},
		"give up":  {func(s *update.Store) error { return s.Fail("1.2", "the screen does not answer") }, "1.1"},
		"rollback": {func(s *update.Store) error { _, err := s.Rollback("it hums"); return err }, "1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			m.t = t
			var cut, ended []image
			m.cuts(onTrial, c.f, func(img image, end bool) {
				if end {
					ended = append(ended, img)
				} else {
					cut = append(cut, img)
				}
			})
			if len(cut) < 4 {
				t.Errorf("%d images: nothing was cut", len(cut))
			}
			m.afterwards(ended, func(before update.Status) {
				if st := started(t, before); st.Current != c.done || st.Trial != "" {
					t.Errorf("after it had ended, %+v starts", st)
				}
			})
			m.afterwards(append(cut, ended...), func(before update.Status) { started(t, before) })
		})
	}

	m.t = t
	m.restore(onTrial)
	if err := m.store.Confirm("1.2"); err != nil {
		t.Fatal(err)
	}
	confirmed := m.capture()
	t.Run("rollback by hand", func(t *testing.T) {
		m.t = t
		var images []image
		m.cuts(confirmed, func(s *update.Store) error { _, err := s.Rollback("it hums"); return err }, func(img image, _ bool) { images = append(images, img) })
		m.afterwards(images, func(before update.Status) {
			if st := started(t, before); st.Trial != "" {
				t.Errorf("something is on trial: %+v", st)
			}
		})
	})
	t.Run("package installed", func(t *testing.T) {
		m.t = t
		m.installed("2.0", 9)
		defer m.installed("1.0", 1)
		began := 0
		m.afterwards([]image{confirmed}, func(before update.Status) {
			st := m.status()
			if st.Current != "base" || m.runs() != "2.0" || st.Trial != "" {
				t.Errorf("starts %+v", st)
			}
			began++
		})
		if began == 0 {
			t.Error("it never started")
		}
		if _, err := m.store.Rollback("it hums"); err == nil {
			t.Error("rolled back from the base")
		}
	})
	t.Run("state damaged", func(t *testing.T) {
		m.t = t
		bad := maps.Clone(confirmed)
		bad["state.json"] = "{"
		m.afterwards([]image{bad}, func(before update.Status) {
			if st := started(t, before); st.Current != "1.2" || st.Previous != "1.1" {
				t.Errorf("starts %+v", st)
			}
		})
	})
	t.Run("version damaged", func(t *testing.T) {
		m.t = t
		m.write(filepath.Join(m.dir, "versions", "1.2", "kioskd"), []byte("#!/bin/sh\necho kioskd 6.6\n"), 0o755)
		m.afterwards([]image{confirmed}, func(before update.Status) {
			if st := started(t, before); st.Current != "1.1" || st.Last.End != protocol.UpdateRolledBack {
				t.Errorf("starts %+v", st)
			}
		})
	})
}
