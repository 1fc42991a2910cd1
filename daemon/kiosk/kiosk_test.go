package kiosk

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/dispense"
	"yaoju/protocol"
)

var update = flag.Bool("update", false, "rewrite testdata/mornings")

// signal is a value that is watched: what every fake below is made of.
type signal[T any] struct {
	mu      sync.Mutex
	value   T
	changed chan struct{}
}

func newSignal[T any](v T) *signal[T] { return &signal[T]{value: v, changed: make(chan struct{})} }

func (s *signal[T]) Watch() (T, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.value, s.changed
}

func (s *signal[T]) set(v T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value = v
	close(s.changed)
	s.changed = make(chan struct{})
}

// desk is everything around the kiosk, as a script sets it.
type desk struct {
	t     *testing.T
	cards *signal[Presence]
	cond  *signal[Condition]
	jack  *signal[bool]
	stock *signal[map[protocol.ProductID]bool]
	note  func(format string, a ...any)

	mu      sync.Mutex
	card    string // the card that lies on the reader
	dated   bool   // the ledger says: not yet
	takes   time.Duration
	ends    protocol.Outcome
	percent []int // the motor's progress, one step a second
	reading bool
}

func (d *desk) Offer(context.Context) ([]Choice, error) {
	stock, _ := d.stock.Watch()
	return []Choice{
		{ID: "condom-52", Letter: "A", Stock: stock["condom-52"]},
		{ID: "gel", Letter: "C", Stock: stock["gel"]},
	}, nil
}

func (d *desk) Entitled(_ context.Context, m dispense.Marks, _ protocol.ProductID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.Current == (dispense.Mark{}) {
		d.t.Error("asked about a card without a mark")
	}
	if d.dated {
		return &dispense.DeniedError{Reason: protocol.DenialEarly, Next: time.Now().Add(16 * 24 * time.Hour)}
	}
	return nil
}

func (d *desk) Append(_ context.Context, e protocol.Event) error {
	text := string(e.Kind())
	if denied, ok := e.(protocol.OrderDenied); ok {
		text += " " + string(denied.Reason)
	}
	d.note("  book: %s", text)
	return nil
}

// shelf, reader and guard share names, so each has a type of its own.
type shelf struct{ *desk }

func (s shelf) Watch() <-chan struct{} { _, c := s.stock.Watch(); return c }

type reader struct{ *desk }

func (r reader) Watch() (Presence, <-chan struct{}) { return r.cards.Watch() }

// Read polices the promise that nobody is read twice at once.
func (r reader) Read(ctx context.Context, _ protocol.Policy) (Holder, error) {
	r.mu.Lock()
	if r.reading {
		r.t.Error("second Read while one is under way")
	}
	r.reading = true
	r.mu.Unlock()
	defer func() { r.mu.Lock(); r.reading = false; r.mu.Unlock() }()
	for {
		pres, moved := r.cards.Watch()
		if pres.Card {
			break
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return Holder{}, ctx.Err()
		}
	}
	r.mu.Lock()
	card := r.card
	r.mu.Unlock()
	limit := time.Second
	if card == "dead" {
		limit = time.Hour
	}
	select {
	case <-time.After(limit):
	case <-ctx.Done():
		return Holder{}, ctx.Err()
	}
	h := Holder{Marks: dispense.Marks{Current: dispense.Mark{1}}, AgeOK: card != "minor", ValidOK: card != "old"}
	if card == "broken" {
		return Holder{}, errors.New("card not readable")
	}
	return h, nil
}

type guard struct{ *desk }

func (g guard) Watch() (Condition, <-chan struct{}) { return g.cond.Watch() }

func (d *desk) Serve(ctx context.Context, o dispense.Order) (dispense.Vend, protocol.Result, error) {
	d.mu.Lock()
	takes, ends, steps := d.takes, d.ends, d.percent
	d.mu.Unlock()
	if stock, _ := d.stock.Watch(); !stock[o.Product] {
		return dispense.Vend{}, protocol.Result{Outcome: protocol.Kept}, &dispense.DeniedError{Reason: protocol.DenialEmpty}
	}
	time.Sleep(time.Millisecond) // so that the screen's line comes first
	d.note("  counter: %s", o.Product)
	end := time.After(takes)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if len(steps) > 0 {
				c, _ := d.cond.Watch()
				c.Percent, steps = steps[0], steps[1:]
				d.cond.set(c)
			}
			continue
		case <-end:
		}
		return dispense.Vend{ID: 1, Slot: 1, Next: time.Now().Add(30 * 24 * time.Hour)}, protocol.Result{Outcome: ends}, nil
	}
}

// Each file is a morning at the machine: lines that begin with > happen, the
// others are what the screen then showed and the book then recorded, and when.
func TestMornings(t *testing.T) {
	files, err := filepath.Glob("testdata/mornings/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no mornings: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			synctest.Test(t, func(t *testing.T) { got = morning(t, string(want)) })
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// settle is how long after a change the screen is looked at.
const settle = time.Microsecond

func summary(v View) string {
	var s []string
	say := func(ok bool, format string, a ...any) {
		if ok {
			s = append(s, fmt.Sprintf(format, a...))
		}
	}
	say(true, "%s", v.Screen)
	say(v.Covered, "covered")
	say(v.Modes.Lang == EN, "en")
	say(v.Modes.Big, "big")
	say(v.Modes.Contrast, "contrast")
	say(v.Modes.Discreet, "discreet")
	say(v.Modes.Voice, "voice %d", v.Modes.Volume)
	say(v.Phones, "phones")
	say(v.Repeat > 0, "again %d", v.Repeat)
	for _, p := range v.Products {
		say(p.Stock, "%s", p.Letter)
		say(!p.Stock, "(%s)", p.Letter)
	}
	say(v.Consent && !v.Consented, "consent?")
	say(v.Days > 0, "%d days", v.Days)
	say(!v.Next.IsZero(), "next %s", v.Next.Format(time.DateOnly))
	say(v.Percent > 0, "%d%% %ds", v.Percent, v.Seconds)
	say(v.Slow, "slow")
	say(v.Attempts > 0, "attempt %d", v.Attempts)
	say(v.Other, "another?")
	say(v.CardLeft, "card left")
	say(v.LookAgain, "look again")
	say(v.Code != "", "%s", v.Code)
	say(v.Open, "open")
	say(v.Dim, "dim")
	say(v.Beep > 0, "beep %d", v.Beep)
	return strings.Join(s, " ")
}

func morning(t *testing.T, script string) string {
	start := time.Now()
	var mu sync.Mutex
	var out strings.Builder
	note := func(format string, a ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&out, "%9.3f  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, a...))
	}
	d := &desk{t: t, note: note,
		cards: newSignal(Presence{Ready: true}), cond: newSignal(Condition{}), jack: newSignal(false),
		stock: newSignal(map[protocol.ProductID]bool{"condom-52": true, "gel": true}),
		takes: 3 * time.Second, ends: protocol.Dispensed}
	policy := protocol.Policy{AgeFrom: 18, Rules: []protocol.Rule{{Max: 1, Per: protocol.PerDays, Days: 30}}}
	k := New(reader{d}, shelf{d}, d, guard{d}, Options{Machine: "m-1", Zone: time.UTC, Consent: strings.Contains(script, "> consent tap"),
		Jack: d.jack, Log: slog.New(slog.DiscardHandler),
		Desired: func() (protocol.Desired, bool) { return protocol.Desired{Policy: policy}, true }})
	defer play(t, k, note, func(v View) string {
		if v.Serial == 0 {
			return ""
		}
		return summary(v)
	})()

	sc := bufio.NewScanner(strings.NewReader(script))
	for sc.Scan() {
		line := sc.Text()
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != ">" {
			if strings.HasPrefix(line, "#") {
				mu.Lock()
				fmt.Fprintln(&out, line)
				mu.Unlock()
			}
			continue
		}
		mu.Lock()
		fmt.Fprintln(&out, line)
		mu.Unlock()
		d.play(k, f[1:], line)
		time.Sleep(2 * settle)
		synctest.Wait()
	}
	return out.String()
}

// play runs the kiosk, and notes what the screen shows, in words, whenever that
// changes. Stop it.
func play(t *testing.T, k *Kiosk, note func(format string, a ...any), words func(View) string) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		last := ""
		for {
			// Several screens may pass at one instant; people see the last.
			time.Sleep(settle)
			v, stale := k.Watch()
			if s := words(v); s != last && s != "" {
				note("%s", s)
				last = s
			}
			select {
			case <-stale:
			case <-ctx.Done():
				return
			}
		}
	})
	wg.Go(func() {
		if err := k.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return func() { cancel(); wg.Wait() }
}

func (d *desk) play(k *Kiosk, f []string, line string) {
	arg := func(i int) string {
		if i < len(f) {
			return f[i]
		}
		d.t.Fatalf("step %q: a word is missing", line)
		return ""
	}
	switch f[0] {
	case "touch", "stale": // stale: a tap meant for the screen before
		if f[0] == "touch" {
			time.Sleep(bounceTime) // a person does not press twice within it
		}
		v, _ := k.Watch()
		p := ""
		if arg(1) == string(TapPick) {
			p = arg(2)
		}
		serial := v.Serial
		if f[0] == "stale" {
			serial--
		}
		k.Tap(serial, Tap(arg(1)), p)
	case "bounce": // the same finger again, 100 ms later
		time.Sleep(100 * time.Millisecond)
		v, _ := k.Watch()
		k.Tap(v.Serial, Tap(arg(1)), "")
	case "lay":
		d.mu.Lock()
		d.card = arg(1)
		d.mu.Unlock()
		d.cards.set(Presence{Ready: true, Card: true})
	case "lift":
		d.cards.set(Presence{Ready: true})
	case "plug":
		d.jack.set(arg(1) == "in")
	case "dated":
		d.mu.Lock()
		d.dated = true
		d.mu.Unlock()
	case "counter":
		d.mu.Lock()
		d.takes, _ = time.ParseDuration(arg(1))
		d.ends = map[string]protocol.Outcome{"dispensed": protocol.Dispensed, "kept": protocol.Kept, "unknown": protocol.Unknown}[arg(2)]
		for _, s := range f[3:] {
			n, _ := strconv.Atoi(s)
			d.percent = append(d.percent, n)
		}
		d.mu.Unlock()
	case "stock":
		stock := map[protocol.ProductID]bool{}
		for _, p := range f[1:] {
			stock[protocol.ProductID(p)] = true
		}
		d.stock.set(stock)
	case "fault":
		n, _ := strconv.Atoi(arg(1))
		d.cond.set(Condition{Closed: protocol.Fault(n), Open: len(f) > 2 && f[2] == "open"})
	case "consent":
	case "wait":
		w, err := time.ParseDuration(arg(1))
		if err != nil {
			d.t.Fatalf("step %q: %v", line, err)
		}
		time.Sleep(w)
	default:
		d.t.Fatalf("unknown step %q", line)
	}
}
