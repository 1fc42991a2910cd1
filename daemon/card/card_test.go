package card_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf16"

	"yaoju/daemon/card"
	"yaoju/daemon/card/sim"
	"yaoju/daemon/port"
	"yaoju/daemon/port/pty"
)

const (
	epoch = 30 * 24 * time.Hour
	baud  = 115200
)

var adults = card.Age{From: 18, To: 60}

var (
	ada   = sim.Resident("测试甲", "110105", "19700615", 2)
	bela  = sim.Resident("测试乙", "440524", "19800229", 1)
	minor = sim.Resident("测试丙", "340524", "20100101", 1)
)

// bench is a simulated reader on the daemon's side of a line in memory.
type bench struct {
	t     *testing.T
	dev   *sim.Reader
	cards *card.Reader
	log   *bytes.Buffer // read it only when nobody writes
}

// onBench runs f in a bubble at noon of 1 March 2026 in Shanghai, with the
// reader up. Afterwards the simulated reader must have nothing to complain of.
func onBench(t *testing.T, f func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		zone := time.FixedZone("Shanghai", 8*3600)
		time.Sleep(time.Until(time.Date(2026, 3, 1, 12, 0, 0, 0, zone)))
		keys, err := card.OpenKeys(filepath.Join(t.TempDir(), "marks"), epoch)
		if err != nil {
			t.Fatal(err)
		}
		b := &bench{t: t, dev: sim.New(sim.ReadTakes), log: &bytes.Buffer{}}
		log := slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		b.cards = card.New(b.dev.Dial, baud, keys, zone, log)

		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, run := range []func(context.Context) error{b.dev.Run, b.cards.Run} {
			wg.Go(func() {
				if err := run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		b.until(card.Presence{Ready: true})
		f(t, b)
		cancel()
		wg.Wait()
		if p, _ := b.cards.Watch(); p != (card.Presence{}) {
			t.Errorf("after the end: %+v", p)
		}
		for _, c := range b.dev.Complaints() {
			t.Errorf("the reader complains: %s", c)
		}
	})
}

// until waits until want is so, at most a virtual minute.
func (b *bench) until(want card.Presence) time.Duration {
	b.t.Helper()
	began := time.Now()
	limit := time.After(time.Minute)
	for {
		p, stale := b.cards.Watch()
		if p == want {
			return time.Since(began)
		}
		select {
		case <-stale:
		case <-limit:
			b.t.Fatalf("presence is %+v, want %+v", p, want)
		}
	}
}

// read reads with a limit of ten seconds.
func (b *bench) read() (card.Holder, error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	return b.cards.Read(ctx, adults)
}

// must reads p's card from the plate on.
func (b *bench) must(p sim.Person) card.Holder {
	b.t.Helper()
	b.dev.Lay(p)
	h, err := b.read()
	if err != nil {
		b.t.Fatal(err)
	}
	return h
}

// lift takes the card away and waits until that is noticed.
func (b *bench) lift() {
	b.t.Helper()
	b.dev.Lift()
	b.until(card.Presence{Ready: true})
}

func TestReadsACard(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		first := b.must(ada)
		if !first.AgeOK || !first.ValidOK || first.Marks.Current == (card.Mark{}) || first.Marks.Previous != (card.Mark{}) {
			t.Errorf("ada: %+v", first)
		}
		b.lift()
		other := b.must(bela)
		if other.Marks.Current == first.Marks.Current {
			t.Error("two people have one mark")
		}
		b.lift()
		if again := b.must(ada); again != first {
			t.Errorf("ada again: %+v, want %+v", again, first)
		}
		b.lift()
		if h := b.must(minor); h.AgeOK || !h.ValidOK {
			t.Errorf("minor: %+v", h)
		}
		b.lift()
		late := bela
		late.ValidTo = "20260228"
		if h := b.must(late); !h.AgeOK || h.ValidOK {
			t.Errorf("expired yesterday: %+v", h)
		}
	})
}

func TestOldAndNewCardOfAForeigner(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		p := sim.Foreigner("测试丁", "BRA", "1101", "19850303", 7)
		old := b.must(p)
		b.lift()
		if renewed := b.must(p.Renewed("076", 33)); renewed != old {
			t.Errorf("new card %+v, old card %+v", renewed, old)
		}
	})
}

func TestReadWaitsForACard(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		time.AfterFunc(5*time.Second, func() { b.dev.Lay(ada) })
		began := time.Now()
		if _, err := b.read(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 6*time.Second || took > 6500*time.Millisecond {
			t.Errorf("took %v, want 5 s and a read", took)
		}
	})
}

func TestIdleReaderOnlyLooks(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		b.dev.Lay(ada)
		if took := b.until(card.Presence{Ready: true, Card: true}); took > 400*time.Millisecond {
			t.Errorf("a card is noticed after %v", took)
		}
		before := b.dev.Asked(sim.Find)
		time.Sleep(time.Hour)
		if n := b.dev.Asked(sim.Find) - before; n < 11900 || n > 12000 {
			t.Errorf("%d finds in an hour, want one each 300 ms", n)
		}
		if p, _ := b.cards.Watch(); !p.Card {
			t.Error("the card is forgotten")
		}
		b.lift()
		for _, c := range []sim.Command{sim.ReadText, sim.ReadAddress, sim.Reset} {
			if n := b.dev.Asked(c); n != 0 {
				t.Errorf("%04x asked %d times though nobody reads", c, n)
			}
		}
	})
}

func TestACardThatWasReadIsSeenUntilLifted(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		b.must(ada)
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			if p, _ := b.cards.Watch(); !p.Card {
				t.Fatal("the card is forgotten")
			}
		}
		b.dev.Lift()
		if took := b.until(card.Presence{Ready: true}); took > 400*time.Millisecond {
			t.Errorf("lifting is noticed after %v", took)
		}
	})
}

func TestSameCardMustBeLifted(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		first := b.must(ada)
		for range 3 {
			began := time.Now()
			if _, err := b.read(); !errors.Is(err, card.ErrSameCard) {
				t.Fatalf("%v, want ErrSameCard", err)
			}
			if took := time.Since(began); took > 400*time.Millisecond {
				t.Errorf("says so after %v", took)
			}
		}
		b.lift()
		if h := b.must(ada); h != first {
			t.Errorf("laid anew: %+v", h)
		}
		// Lifted and laid again faster than the reader looks: Watch says so too.
		_, stale := b.cards.Watch()
		b.dev.Lay(bela)
		select {
		case <-stale:
		case <-time.After(time.Second):
			t.Fatal("Watch does not tell of a card laid anew")
		}
		if h, err := b.read(); err != nil || h == first {
			t.Errorf("next card: %+v, %v", h, err)
		}
	})
}

func TestReaderThatFindsACardOnce(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		b.dev.FindsOnce()
		b.dev.Lay(ada)
		b.until(card.Presence{Ready: true, Card: true})
		for range 50 {
			time.Sleep(100 * time.Millisecond)
			if p, _ := b.cards.Watch(); !p.Card {
				t.Fatal("the card is forgotten")
			}
		}
		if _, err := b.read(); err != nil {
			t.Fatal(err)
		}
		b.lift()
		b.dev.Lay(bela)
		b.until(card.Presence{Ready: true, Card: true})
		b.lift()
	})
}

func TestUnreadableCards(t *testing.T) {
	t.Parallel()
	wrong := ada
	wrong.Number = ada.Number[:17] + map[bool]string{true: "0", false: "1"}[ada.Number[17] != '0']
	faults := map[string]sim.Fault{
		"bent text":       {Kind: sim.Checksum, On: sim.ReadText, Times: 1},
		"broken off":      {Kind: sim.Broken, On: sim.ReadText, Times: 1},
		"vendor's frame":  {Kind: sim.Vendor, On: sim.ReadText, Times: 1},
		"select fails":    {Kind: sim.Status, On: sim.Select, Status: 0x81, Times: 1},
		"no text in it":   {Kind: sim.Status, On: sim.ReadText, Status: 0x90, Times: 1},
		"wrong number":    {},
		"select is early": {Kind: sim.Status, On: sim.Select, Status: 0x34, Times: 1},
	}
	for _, st := range []byte{0x31, 0x32, 0x33, 0x34, 0x3F, 0x40, 0x41, 0x47, 0x80, 0x81, 0x91} {
		faults[fmt.Sprintf("status %02x", st)] = sim.Fault{Kind: sim.Status, On: sim.ReadText, Status: st, Times: 1}
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBench(t, func(t *testing.T, b *bench) {
				p := ada
				if f == (sim.Fault{}) {
					p = wrong
				} else {
					b.dev.Break(f)
				}
				b.dev.Lay(p)
				_, err := b.read()
				if !errors.Is(err, card.ErrUnreadable) {
					t.Fatalf("%v, want ErrUnreadable", err)
				}
				// Off and on again, as the screen says.
				b.lift()
				if h := b.must(ada); !h.AgeOK {
					t.Errorf("laid anew: %+v", h)
				}
				if b.log.Len() > 0 && strings.Contains(b.log.String(), "line down") {
					t.Errorf("a card's fault brought the line down:\n%s", b.log)
				}
			})
		})
	}
}

func TestBadAnswersThatHealThemselves(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]sim.Fault{
		"find bent twice":     {Kind: sim.Checksum, On: sim.Find, Times: 2},
		"find silent twice":   {Kind: sim.Silent, On: sim.Find, Times: 2},
		"find broken off":     {Kind: sim.Broken, On: sim.Find, Times: 1},
		"find: line error":    {Kind: sim.Status, On: sim.Find, Status: 0x10, Times: 1},
		"select bent":         {Kind: sim.Checksum, On: sim.Select, Times: 1},
		"select silent":       {Kind: sim.Silent, On: sim.Select, Times: 1},
		"noise everywhere":    {Kind: sim.Noise},
		"overlong everywhere": {Kind: sim.Oversize},
		"slow everywhere":     {Kind: sim.Slow},
		"late find":           {Kind: sim.Twice, On: sim.Select, Times: 1},
		"late select":         {Kind: sim.Twice, On: sim.ReadText, Times: 1},
		"vendor's frame":      {Kind: sim.Vendor, On: sim.Find, Times: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBench(t, func(t *testing.T, b *bench) {
				b.dev.Break(f)
				if h := b.must(ada); !h.AgeOK {
					t.Errorf("%+v", h)
				}
			})
		})
	}
}

func TestReaderThatDoesNotWork(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]sim.Fault{
		"silent":                 {Kind: sim.Silent},
		"silent when it reads":   {Kind: sim.Silent, On: sim.ReadText},
		"bent":                   {Kind: sim.Checksum},
		"never heard of find":    {Kind: sim.Status, On: sim.Find, Status: 0x21},
		"not authorised":         {Kind: sim.Status, On: sim.ReadText, Status: 0x66},
		"another not authorised": {Kind: sim.Status, On: sim.Select, Status: 0x66},
		"meaningless":            {Kind: sim.Status, On: sim.ReadText, Status: 0xEE},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBench(t, func(t *testing.T, b *bench) {
				b.dev.Break(f)
				b.dev.Lay(ada)
				if _, err := b.read(); !errors.Is(err, card.ErrReader) {
					t.Fatalf("%v, want ErrReader", err)
				}
				b.dev.Heal()
				b.dev.Lift()
				b.until(card.Presence{Ready: true})
				b.must(ada)
			})
		})
	}
}

func TestThreeTimeoutsResetTheReader(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		b.dev.Break(sim.Fault{Kind: sim.Silent, On: sim.Find})
		before := b.dev.Asked(sim.Find)
		if took := b.until(card.Presence{}); took > 3*time.Second {
			t.Errorf("given up after %v", took)
		}
		if n := b.dev.Asked(sim.Find) - before; n != 3 {
			t.Errorf("%d finds before giving up, want 3", n)
		}
		if _, err := b.read(); !errors.Is(err, card.ErrReader) {
			t.Errorf("read: %v, want ErrReader", err)
		}
		synctest.Wait()
		if n := b.dev.Asked(sim.Reset); n != 1 {
			t.Errorf("%d resets, want 1", n)
		}
		time.Sleep(time.Minute)
		b.dev.Heal()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := strings.Count(b.log.String(), "line down"); n != 1 {
			t.Errorf("logged %d times, want once:\n%s", n, b.log)
		}
		if !strings.Contains(b.log.String(), "reset after 3 failures in a row: find card: no answer within") {
			t.Errorf("log:\n%s", b.log)
		}
		b.must(ada)
	})
}

func TestUnpluggedAndBack(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		first := b.must(ada)
		b.dev.Unplug()
		b.until(card.Presence{})
		if _, err := b.read(); !errors.Is(err, card.ErrReader) {
			t.Errorf("unplugged: %v, want ErrReader", err)
		}
		time.Sleep(time.Hour)
		b.dev.Plug()
		if took := b.until(card.Presence{Ready: true, Card: true}); took > 6*time.Second {
			t.Errorf("back after %v", took)
		}
		if again, err := b.read(); err != nil || again != first {
			t.Errorf("after the power was gone: %+v, %v", again, err)
		}

		// In the middle of a read.
		b.dev.Lay(bela)
		time.AfterFunc(900*time.Millisecond, b.dev.Unplug)
		if _, err := b.read(); !errors.Is(err, card.ErrReader) {
			t.Errorf("unplugged while reading: %v, want ErrReader", err)
		}
		b.dev.Plug()
		b.until(card.Presence{Ready: true, Card: true})
		if _, err := b.read(); err != nil {
			t.Error(err)
		}
	})
}

// The line may come anew while reader and card kept their power.
func TestTheCardIsRememberedAcrossLines(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		b.must(ada)
		b.dev.Break(sim.Fault{Kind: sim.Broken, On: sim.ReadAddress, Times: 3})
		b.until(card.Presence{})
		b.until(card.Presence{Ready: true, Card: true})
	})
}

func TestLiftedWhileReading(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		b.dev.Lay(ada)
		time.AfterFunc(800*time.Millisecond, b.dev.Lift)
		if _, err := b.read(); !errors.Is(err, card.ErrUnreadable) {
			t.Errorf("%v, want ErrUnreadable", err)
		}
		b.until(card.Presence{Ready: true})
		b.must(ada)
	})
}

func TestReadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		// While it waits for a card: nothing is read for somebody who went away.
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(5*time.Second, cancel)
		if _, err := b.cards.Read(ctx, adults); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want canceled", err)
		}
		b.dev.Lay(ada)
		time.Sleep(5 * time.Second)
		if n := b.dev.Asked(sim.ReadText); n != 0 {
			t.Errorf("%d cards read for nobody", n)
		}
		// In the middle of a read.
		ctx, cancel = context.WithTimeout(t.Context(), 700*time.Millisecond)
		defer cancel()
		began := time.Now()
		if _, err := b.cards.Read(ctx, adults); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want deadline exceeded", err)
		}
		if took := time.Since(began); took != 700*time.Millisecond {
			t.Errorf("ended after %v", took)
		}
		time.Sleep(3 * time.Second)
		if _, err := b.read(); !errors.Is(err, card.ErrSameCard) {
			t.Errorf("%v, want ErrSameCard", err)
		}
	})
}

func TestReadsTakeTurns(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		var wg sync.WaitGroup
		got := make(chan error, 3)
		for range 3 {
			wg.Go(func() {
				_, err := b.read()
				got <- err
			})
		}
		time.Sleep(time.Second)
		b.dev.Lay(ada)
		wg.Wait()
		close(got)
		read, same := 0, 0
		for err := range got {
			if err == nil {
				read++
			}
			if errors.Is(err, card.ErrSameCard) {
				same++
			}
		}
		if read != 1 || same != 2 {
			t.Errorf("%d read and %d told to lift, want 1 and 2", read, same)
		}
	})
}

func TestMarksMoveOnWithTheEpoch(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		first := b.must(ada)
		b.lift()
		b.dev.Unplug() // or it would look at the plate nine million times
		time.Sleep(epoch)
		b.dev.Plug()
		b.until(card.Presence{Ready: true})
		next := b.must(ada)
		if next.Marks.Previous != first.Marks.Current || next.Marks.Current == first.Marks.Current {
			t.Errorf("first %+v, in the next epoch %+v", first.Marks, next.Marks)
		}
	})
}

// Nothing of a card is in errors or logs, at any level, with whatever goes wrong.
func TestNothingOfACardIsTold(t *testing.T) {
	t.Parallel()
	onBench(t, func(t *testing.T, b *bench) {
		rng := rand.New(rand.NewPCG(3, 4))
		kinds := []sim.Kind{sim.Checksum, sim.Broken, sim.Noise, sim.Twice, sim.Slow, sim.Silent, sim.Oversize}
		var told strings.Builder
		var people []sim.Person
		for range 100 {
			p := sim.Someone(rng)
			people = append(people, p)
			if rng.IntN(3) == 0 {
				p.Number = p.Number[:5] + p.Number[6:] // implausible
			}
			b.dev.Lay(p)
			b.dev.Break(sim.Fault{Kind: kinds[rng.IntN(len(kinds))], On: sim.ReadText, Times: 1})
			h, err := b.read()
			fmt.Fprintf(&told, "%+v %#v %v\n", h, h, err)
			b.dev.Heal()
			b.dev.Lift()
			b.until(card.Presence{Ready: true})
		}
		synctest.Wait()
		told.WriteString(b.log.String())
		for _, p := range people {
			for _, secret := range []string{p.Number, p.Name, p.Birth, p.Number[6:14]} {
				for _, form := range forms(secret) {
					if strings.Contains(told.String(), form) {
						t.Errorf("%q was told", form)
					}
				}
			}
		}
	})
}

// forms are the ways a text may turn up in a log.
func forms(s string) []string {
	var wide []byte
	for _, u := range utf16.Encode([]rune(s)) {
		wide = append(wide, byte(u), byte(u>>8))
	}
	return []string{s, string(wide), fmt.Sprintf("%x", s), fmt.Sprintf("%x", wide),
		fmt.Sprint([]byte(s)), fmt.Sprint(wide), fmt.Sprintf("% x", wide)}
}

// On a real terminal through the real adapter: the reader is pulled out and
// plugged in again, and gets another device behind the same path.
func TestOnARealTerminal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket := pty.NewSocket(filepath.Join(dir, "reader"))
	keys, err := card.OpenKeys(filepath.Join(dir, "marks"), epoch)
	if err != nil {
		t.Fatal(err)
	}
	dial := func(context.Context) (io.ReadWriteCloser, error) { return port.Open(socket.Path(), baud) }
	cards := card.New(dial, baud, keys, time.UTC, slog.New(slog.DiscardHandler))
	dev := sim.New(50 * time.Millisecond)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		if err := cards.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	plug := func() {
		line, err := socket.Plug()
		if err != nil {
			t.Fatal(err)
		}
		dev.Plug()
		wg.Go(func() {
			_ = dev.Serve(ctx, line) // ends with an error when the line is pulled
		})
	}
	until := func(what string, is func(card.Presence) bool) {
		for {
			p, stale := cards.Watch()
			if is(p) {
				return
			}
			select {
			case <-stale:
			case <-ctx.Done():
				t.Fatalf("not %s within a minute: %+v", what, p)
			}
		}
	}
	ready := func(p card.Presence) bool { return p.Ready }
	read := func() card.Holder {
		until("ready", ready)
		h, err := cards.Read(ctx, adults)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}

	plug()
	dev.Lay(bela)
	first := read()
	if err := socket.Unplug(); err != nil {
		t.Fatal(err)
	}
	until("gone", func(p card.Presence) bool { return !p.Ready })
	if _, err := cards.Read(ctx, adults); !errors.Is(err, card.ErrReader) {
		t.Errorf("unplugged: %v, want ErrReader", err)
	}
	plug()
	dev.Lay(bela)
	if again := read(); again != first {
		t.Errorf("plugged in again: %+v, want %+v", again, first)
	}
}
