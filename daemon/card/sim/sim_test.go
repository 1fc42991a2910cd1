package sim_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/card/sim"
)

// The frames of the vendors' manuals.
const (
	askFind   = "\xaa\xaa\xaa\x96\x69\x00\x03\x20\x01\x22"
	askSelect = "\xaa\xaa\xaa\x96\x69\x00\x03\x20\x02\x21"
	askText   = "\xaa\xaa\xaa\x96\x69\x00\x03\x30\x01\x32"
	askNewest = "\xaa\xaa\xaa\x96\x69\x00\x03\x30\x03\x30"
	askReset  = "\xaa\xaa\xaa\x96\x69\x00\x03\x10\xff\xec"
	askSAM    = "\xaa\xaa\xaa\x96\x69\x00\x03\x12\xff\xee"

	ok       = "\xaa\xaa\xaa\x96\x69\x00\x04\x00\x00\x90\x94"
	found    = "\xaa\xaa\xaa\x96\x69\x00\x08\x00\x00\x9f\x00\x00\x00\x00\x97"
	notFound = "\xaa\xaa\xaa\x96\x69\x00\x04\x00\x00\x80\x84"
	chosen   = "\xaa\xaa\xaa\x96\x69\x00\x0c\x00\x00\x90\x00\x00\x00\x00\x00\x00\x00\x00\x9c"
	failed   = "\xaa\xaa\xaa\x96\x69\x00\x04\x00\x00\x41\x45"
	noSuch   = "\xaa\xaa\xaa\x96\x69\x00\x04\x00\x00\x91\x95"
	early    = "\xaa\xaa\xaa\x96\x69\x00\x04\x00\x00\x34\x30"
)

// talk serves one line in a bubble. say sends a frame and returns what comes
// back within five seconds.
func talk(t *testing.T, f func(t *testing.T, r *sim.Reader, say func(string) string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := sim.New(sim.ReadTakes)
		ctx, cancel := context.WithCancel(t.Context())
		near, far := sim.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- r.Serve(ctx, far) }()
		got := make(chan []byte, 100)
		go func() {
			defer close(got)
			for {
				b := make([]byte, 4096)
				n, err := near.Read(b)
				if err != nil {
					return
				}
				got <- b[:n]
			}
		}()
		f(t, r, func(frame string) string {
			if _, err := near.Write([]byte(frame)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
			var out []byte
			for len(got) > 0 {
				out = append(out, <-got...)
			}
			return string(out)
		})
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		for range got {
			// until the other end notices
		}
	})
}

func TestWholeVisit(t *testing.T) {
	t.Parallel()
	p := sim.Resident("测试甲", "110105", "19491231", 2)
	talk(t, func(t *testing.T, r *sim.Reader, say func(string) string) {
		expect := func(ask, want string) {
			t.Helper()
			if got := say(ask); got != want {
				t.Errorf("%x: got %x, want %x", ask, got, want)
			}
		}
		expect(askReset, ok)
		expect(askFind, notFound)
		expect(askSelect, "\xaa\xaa\xaa\x96\x69\x00\x04\x00\x00\x81\x85")
		r.Lay(p)
		expect(askSelect, early)
		expect(askNewest, failed)
		expect(askFind, found)
		expect(askSelect, chosen)

		text := say(askText)
		block := p.Block()
		if len(text) != 1295 || !strings.HasPrefix(text, "\xaa\xaa\xaa\x96\x69\x05\x08\x00\x00\x90\x01\x00\x04\x00") ||
			text[14:270] != string(block[:]) || text[270:278] != "WLf\x00\x7e\x002\x00" {
			t.Errorf("text of %d bytes: % x", len(text), text)
		}
		expect(askNewest, noSuch)
		expect(askFind, notFound)
		expect(askNewest, noSuch)
		r.Lift()
		expect(askNewest, failed)
		r.Lay(p)
		expect(askFind, found)
		if c := r.Complaints(); len(c) != 0 {
			t.Errorf("complaints: %q", c)
		}
		expect(askText, early)
		if c := r.Complaints(); !slices.Equal(c, []string{"read without select"}) {
			t.Errorf("complaints: %q", c)
		}
		if n := r.Asked(sim.Find); n != 4 {
			t.Errorf("%d finds, want 4", n)
		}
		if got := say(askSAM); len(got) != 27 {
			t.Errorf("SAM number: % x", got)
		}
	})
}

func TestBadCommandsAreComplainedOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ ask, want, complaint string }{
		{askFind[:9] + "\x00", "\xaa\xaa\xaa\x96\x69\x00\x04\x00\x00\x10\x14", "check byte"},
		{"\xaa\xaa\xaa\x96\x69\x00\x02", "\xaa\xaa\xaa\x96\x69\x00\x04\x00\x00\x11\x15", "a command of 2 bytes"},
		{"\xaa\xaa\xaa\x96\x69\x00\x03\x77\x01\x75", "\xaa\xaa\xaa\x96\x69\x00\x04\x00\x00\x21\x25", "unknown command"},
		{"?" + askFind, notFound, "preamble"},
	} {
		talk(t, func(t *testing.T, r *sim.Reader, say func(string) string) {
			if got := say(c.ask); got != c.want {
				t.Errorf("%x: got %x, want %x", c.ask, got, c.want)
			}
			if got := r.Complaints(); len(got) != 1 || !strings.Contains(got[0], c.complaint) {
				t.Errorf("%x: complaints %q, want %q", c.ask, got, c.complaint)
			}
		})
	}
}

func TestFindTooSoon(t *testing.T) {
	t.Parallel()
	talk(t, func(t *testing.T, r *sim.Reader, say func(string) string) {
		if got := say(askFind + askFind); got != notFound+notFound {
			t.Errorf("got %x", got)
		}
		if c := r.Complaints(); len(c) != 1 || !strings.Contains(c[0], "after find") {
			t.Errorf("complaints: %q", c)
		}
	})
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		f    sim.Fault
		want string
	}{
		"silent":   {sim.Fault{Kind: sim.Silent}, ""},
		"checksum": {sim.Fault{Kind: sim.Checksum}, notFound[:10] + "\xde"},
		"slow":     {sim.Fault{Kind: sim.Slow}, notFound},
		"noise":    {sim.Fault{Kind: sim.Noise}, "\x00\xaa\xaa\x96\x69\xff\xaa" + notFound},
		"status":   {sim.Fault{Kind: sim.Status, Status: 0x41}, failed},
		"broken":   {sim.Fault{Kind: sim.Broken}, notFound[:5]},
		"vendor":   {sim.Fault{Kind: sim.Vendor}, "\xaa\xaa\xaa\x96\x69\x00\x05\x05\x05\x05"},
		"oversize": {sim.Fault{Kind: sim.Oversize}, "\xaa\xaa\xaa\x96\x69\xff\xff" + notFound},
		"twice":    {sim.Fault{Kind: sim.Twice}, ok + notFound},
		"other":    {sim.Fault{Kind: sim.Silent, On: sim.ReadText}, notFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			talk(t, func(t *testing.T, r *sim.Reader, say func(string) string) {
				say(askReset)
				r.Break(c.f)
				for range 2 {
					if got := say(askFind); got != c.want {
						t.Errorf("got %x, want %x", got, c.want)
					}
					say(askReset)
				}
				r.Heal()
				if got := say(askFind); got != notFound {
					t.Errorf("healed: got %x", got)
				}
				f := c.f
				f.Times, f.On = 1, sim.Find
				say(askReset)
				r.Break(f)
				if say(askFind); say(askFind) != notFound {
					t.Error("happens more than once")
				}
			})
		})
	}
}

func TestDialNeedsRunAndAPlug(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := sim.New(0)
		if _, err := r.Dial(t.Context()); err == nil {
			t.Error("dialled though nobody runs it")
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		line, err := r.Dial(ctx)
		if err != nil {
			t.Fatal(err)
		}
		r.Unplug()
		if _, err := line.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("unplugged: %v, want EOF", err)
		}
		if _, err := r.Dial(ctx); err == nil {
			t.Error("dialled though it is unplugged")
		}
		r.Plug()
		if _, err := r.Dial(ctx); err != nil {
			t.Errorf("plugged in: %v", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ got, want string }{
		{sim.Resident("测试甲", "110105", "19491231", 2).Number, "11010519491231002X"},
		{sim.Resident("测试乙", "440524", "18800101", 1).Number, "440524188001010014"},
		{sim.Resident("测试丙", "340524", "19800101", 1).Number, "34052419800101001X"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, the standard has %s", c.got, c.want)
		}
	}
}

func TestSomeoneIsRepeatableAndVaried(t *testing.T) {
	t.Parallel()
	a, b := rand.New(rand.NewPCG(5, 6)), rand.New(rand.NewPCG(5, 6))
	kinds := map[sim.Layout]int{}
	numbers := map[string]bool{}
	for range 200 {
		p := sim.Someone(a)
		if q := sim.Someone(b); p != q {
			t.Fatalf("%+v and %+v from one seed", p, q)
		}
		kinds[p.Layout]++
		numbers[p.Number] = true
		if !strings.HasPrefix(p.Name, "测试") {
			t.Errorf("%s might be somebody", p.Name)
		}
	}
	if len(kinds) != 4 || len(numbers) < 190 {
		t.Errorf("%d kinds, %d numbers", len(kinds), len(numbers))
	}
}

func TestPipe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := sim.Pipe()
		big := bytes.Repeat([]byte("0123456789"), 1000)
		go func() {
			defer near.Close()
			if _, err := near.Write(big); err != nil {
				t.Error(err)
			}
		}()
		got, err := io.ReadAll(far)
		if err != nil || !bytes.Equal(got, big) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if _, err := far.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("write after the cut: %v", err)
		}
		if err := near.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
		if n, err := far.Read(nil); n != 0 || err != nil {
			t.Errorf("read into nothing: %d, %v", n, err)
		}
	})
}
