package kiosk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/protocol"
)

// store is a stockroom of three slots that keeps the rules staff meet.
type store struct {
	mu    sync.Mutex
	bays  []Bay
	head  uint64
	fails bool
	note  func(format string, a ...any)
}

func newStore() *store {
	lot := func(batch string, expiry protocol.DateOnly, n int, p protocol.ProductID) Lot {
		return Lot{Product: p, Batch: batch, Expiry: expiry, Pieces: n, Usable: true}
	}
	plan := func(s protocol.Slot, p protocol.ProductID) protocol.SlotPlan {
		return protocol.SlotPlan{Slot: s, Product: p, Capacity: 12, Par: 3}
	}
	return &store{head: 10, bays: []Bay{
		{SlotPlan: plan(1, "condom-52"), Lots: []Lot{lot("B1", "2001-06-30", 2, "condom-52")}},
		{SlotPlan: plan(2, "condom-52")},
		{SlotPlan: plan(3, "gel"), Lots: []Lot{lot("G1", "2000-02-10", 5, "gel"), lot("G2", "2001-01-31", 4, "gel")}},
	}}
}

func (s *store) Bays(context.Context) ([]Bay, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails {
		return nil, 0, errors.New("disk")
	}
	var all []Bay
	for _, b := range s.bays {
		b.Lots, b.Blocked, b.Unknown = slices.Clone(b.Lots), slices.Clone(b.Blocked), slices.Clone(b.Unknown)
		all = append(all, b)
	}
	return all, s.head, nil
}

// change runs f on a slot and tells of it.
func (s *store) change(slot protocol.Slot, what string, f func(b *Bay) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails {
		return errors.New("disk")
	}
	if err := f(&s.bays[slot-1]); err != nil {
		return err
	}
	s.head++
	s.note("  stock: slot %d %s", slot, what)
	return nil
}

func (s *store) Load(_ context.Context, st protocol.Stock, n int, staff string) error {
	if err := st.Valid(); err != nil {
		return err
	}
	return s.change(st.Slot, fmt.Sprintf("+%d %s %s by %s", n, st.Batch, st.Expiry, staff), func(b *Bay) error {
		switch {
		case st.Expiry < "2000-01-01":
			return &RefusedError{Reason: "expired"}
		case st.Batch == "RECALLED":
			return &RefusedError{Reason: "recalled"}
		case n > b.Room():
			return &RefusedError{Reason: "capacity", Have: b.Room()}
		}
		b.Lots = append(b.Lots, Lot{Product: st.Product, Batch: st.Batch, Expiry: st.Expiry, Pieces: n, Usable: true})
		return nil
	})
}

func (s *store) lot(b *Bay, st protocol.Stock) (*Lot, error) {
	for i := range b.Lots {
		if b.Lots[i].stock(b.Slot) == st {
			return &b.Lots[i], nil
		}
	}
	return nil, &RefusedError{Reason: "absent"}
}

func (s *store) Remove(_ context.Context, st protocol.Stock, n int, why protocol.Removal, staff string) error {
	return s.change(st.Slot, fmt.Sprintf("-%d %s %s by %s", n, st.Batch, why, staff), func(b *Bay) error {
		l, err := s.lot(b, st)
		if err != nil {
			return err
		}
		l.Pieces -= n
		b.Lots = slices.DeleteFunc(b.Lots, func(l Lot) bool { return l.Pieces == 0 })
		return nil
	})
}

func (s *store) Count(_ context.Context, st protocol.Stock, n int, asOf uint64, reason, staff string) error {
	return s.change(st.Slot, fmt.Sprintf("=%d %s as of %d, %q by %s", n, st.Batch, asOf, reason, staff), func(b *Bay) error {
		if asOf != s.head {
			return &RefusedError{Reason: "stale"}
		}
		l, err := s.lot(b, st)
		if err != nil {
			return err
		}
		have := 0
		for i := range b.Lots {
			if b.Lots[i].stock(b.Slot) == st {
				have += b.Lots[i].Pieces
			}
		}
		l.Pieces += n - have
		b.Lots = slices.DeleteFunc(b.Lots, func(l Lot) bool { return l.Pieces == 0 })
		return nil
	})
}

func (s *store) Tested(_ context.Context, slot protocol.Slot, n int, staff string) error {
	return s.change(slot, fmt.Sprintf("tested %d by %s", n, staff), func(b *Bay) error {
		b.Lots[0].Pieces -= n
		return nil
	})
}

func (s *store) Block(_ context.Context, slot protocol.Slot, why protocol.Block, _ protocol.Fault, staff string) error {
	return s.change(slot, fmt.Sprintf("blocked %s by %s", why, staff), func(b *Bay) error {
		b.Blocked = append(b.Blocked, why)
		return nil
	})
}

func (s *store) Clear(_ context.Context, slot protocol.Slot, why protocol.Block, staff string) error {
	return s.change(slot, fmt.Sprintf("cleared %s by %s", why, staff), func(b *Bay) error {
		b.Blocked = slices.DeleteFunc(b.Blocked, func(w protocol.Block) bool { return w == why })
		return nil
	})
}

func (s *store) Resolve(_ context.Context, id protocol.VendID, out protocol.Outcome, by, staff string) error {
	return s.change(1, fmt.Sprintf("vend %d %s by %s %s", id, out, by, staff), func(b *Bay) error {
		b.Unknown, b.Blocked = nil, nil
		return nil
	})
}

// lobby knows two people.
type lobby struct {
	mu    sync.Mutex
	wrong int
	gone  bool // the accounts were taken back
}

func (*lobby) Who(_ context.Context, b protocol.Badge) (Account, bool, error) {
	a, ok := map[string]Account{"04AA": {"s-104", protocol.RoleRestocker}, "04BB": {"s-9", protocol.RoleAuditor}}[b.UID]
	return a, ok, nil
}

func (l *lobby) Still(_ context.Context, staff string) (Account, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := map[string]Account{"s-104": {"s-104", protocol.RoleRestocker}, "s-9": {"s-9", protocol.RoleAuditor}}[staff]
	return a, !l.gone, nil
}

func (l *lobby) Check(_ context.Context, _, pin string) (Verdict, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if pin == "830417" {
		return Verdict{OK: true}, nil
	}
	if l.wrong++; l.wrong >= 5 {
		return Verdict{Locked: time.Minute}, nil
	}
	return Verdict{Left: 5 - l.wrong}, nil
}

// motor is a bench whose turn takes two seconds.
type motor struct {
	mu    sync.Mutex
	drops int
	late  int // falls after the motor has stopped
	jams  bool
	note  func(format string, a ...any)
}

func (m *motor) TestTurn(ctx context.Context, slot protocol.Slot) error { return m.turn(ctx, slot, 1) }
func (m *motor) Home(ctx context.Context, slot protocol.Slot) error     { return m.turn(ctx, slot, 0) }

func (m *motor) turn(ctx context.Context, slot protocol.Slot, fall int) error {
	m.note("  motor: slot %d turns", slot)
	select {
	case <-time.After(2 * time.Second):
	case <-ctx.Done():
		m.note("  motor: slot %d stops", slot)
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.jams {
		return errors.New("motor jammed")
	}
	m.drops += fall
	m.note("  motor: slot %d is home", slot)
	return nil
}

// Settled lets fall what was on its way.
func (m *motor) Settled(context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drops += m.late
	m.late = 0
}

func (m *motor) Drops() (int, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.drops, true
}

type hands chan Brought

func (h hands) Next(ctx context.Context) (Brought, error) {
	select {
	case b := <-h:
		return b, nil
	case <-ctx.Done():
		return Brought{}, ctx.Err()
	}
}

// told is a staff view in words.
func told(v View) string {
	s := []string{string(v.Screen)}
	say := func(ok bool, format string, a ...any) {
		if ok {
			s = append(s, fmt.Sprintf(format, a...))
		}
	}
	say(v.Covered, "covered")
	say(v.Code != "", "%s", v.Code)
	say(v.Modes.Lang == EN, "en")
	if st := v.Staff; st != nil {
		say(st.Account.Staff != "", "%s", st.Account.Staff)
		say(st.Typed > 0, "%d typed", st.Typed)
		if v.Screen == StaffWork {
			var marks []string
			for _, c := range st.Cells {
				marks = append(marks, fmt.Sprintf("%d:%d%s", c.Slot, c.Pieces(), map[Mark]string{MarkOK: ""}[c.Mark]+string(c.Mark)))
			}
			say(true, "[%s]", strings.Join(marks, " "))
			say(true, "%s", st.Panel)
			say(st.Slot > 0, "slot %d", st.Slot)
			if st.Panel == PanelNeed {
				for _, n := range st.Need {
					say(true, "%s %d", n.Product, n.Pieces)
				}
			} else {
				say(true, "n %d %s %s", st.Draft.N, st.Draft.Batch, st.Draft.Expiry)
			}
			say(st.Panel == PanelDiffers, "expected %d", st.Expected)
			say(st.Panel == PanelLoad && st.Earlier(), "earlier!")
			say(st.Panel == PanelLoad && st.Other(), "other!")
			say(st.Held != "", "held %s", st.Held)
		}
		say(v.Screen == StaffDone, "%d pieces in %d slots, %v", st.Loaded, st.Slots, st.Took.Round(time.Second))
		say(st.Note.Key != "", "%q %d %s", st.Note.Key, st.Note.N, st.Note.Name)
		say(st.Note.Text != protocol.Text{}, "%s", st.Note.Text.EN)
		say(st.Note.Bad, "!")
	}
	return strings.Join(s, " ")
}

// Each file is a round of staff at the machine, told like the mornings.
func TestRounds(t *testing.T) {
	files, err := filepath.Glob("testdata/rounds/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no rounds: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			synctest.Test(t, func(t *testing.T) { got = round(t, string(want)) })
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

func round(t *testing.T, script string) string {
	start := time.Now()
	var mu sync.Mutex
	var out strings.Builder
	note := func(format string, a ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&out, "%9.3f  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, a...))
	}
	shut := Condition{}
	open := Condition{Closed: protocol.FaultDoor, Door: true}
	d := &desk{t: t, note: note, cards: newSignal(Presence{Ready: true}), cond: newSignal(shut), jack: newSignal(false),
		stock: newSignal(map[protocol.ProductID]bool{"condom-52": true, "gel": true})}
	room, bench, in, who := newStore(), &motor{note: note}, make(hands), &lobby{}
	room.note = note
	k := New(reader{d}, shelf{d}, d, guard{d}, Options{Machine: "m-1", Zone: time.UTC, Jack: d.jack, Log: slog.New(slog.DiscardHandler),
		Service: Service{Lobby: who, Hands: in, Stock: room, Bench: bench},
		Desired: func() (protocol.Desired, bool) { return protocol.Desired{}, true }})
	defer play(t, k, note, told)()
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
		f = append(f[1:], "", "", "", "")
		switch f[0] {
		case "tap", "stale":
			v, _ := k.Watch()
			serial := v.Serial
			if f[0] == "stale" {
				serial--
			}
			k.Tap(serial, Tap(f[1]), f[2])
		case "type":
			v, _ := k.Watch()
			for _, c := range f[1] {
				time.Sleep(50 * time.Millisecond) // a quick hand
				k.Tap(v.Serial, TapDigit, string(c))
			}
		case "badge":
			in <- Brought{Badge: &protocol.Badge{Kind: "nfc", UID: f[1]}}
		case "scan": // product batch expiry
			in <- Brought{Carton: &Carton{Code: "06901234567892", Product: protocol.ProductID(f[1]), Batch: f[2], Expiry: protocol.DateOnly(f[3])}}
		case "strange":
			in <- Brought{Carton: &Carton{Code: "06901234567892"}}
		case "nonsense":
			in <- Brought{Unread: protocol.Text{ZH: "换一个", EN: "another"}}
		case "door":
			d.cond.set(map[string]Condition{"open": open, "shut": shut}[f[1]])
		case "silent": // the board does not answer: nobody can tell where the door is
			d.cond.set(Condition{Closed: protocol.FaultBoardSilent, Door: true, Open: true})
		case "vend": // of slot 1, that nobody knows the end of
			room.mu.Lock()
			room.bays[0].Unknown, room.bays[0].Blocked = []protocol.VendID{7}, []protocol.Block{protocol.BlockUnknown}
			room.mu.Unlock()
		case "moved": // a piece moved since the panel was read
			room.mu.Lock()
			room.head++
			room.mu.Unlock()
		case "late":
			bench.mu.Lock()
			bench.late = 1
			bench.mu.Unlock()
		case "revoked":
			who.mu.Lock()
			who.gone = true
			who.mu.Unlock()
		case "again": // batch B1 stands behind another one too, in slot 3
			room.mu.Lock()
			room.bays[2].Lots = append(room.bays[2].Lots, room.bays[2].Lots[0])
			room.mu.Unlock()
		case "jammed":
			bench.mu.Lock()
			bench.jams = true
			bench.mu.Unlock()
		case "disk":
			room.mu.Lock()
			room.fails = f[1] == "fails"
			room.mu.Unlock()
		case "hold": // what, for how long
			v, _ := k.Watch()
			w, err := time.ParseDuration(f[2])
			if err != nil {
				t.Fatalf("step %q: %v", line, err)
			}
			k.Tap(v.Serial, TapHold, f[1])
			for end := time.Now().Add(w); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
				k.Tap(v.Serial, TapStill, "")
			}
			if f[3] != "lost" {
				k.Tap(v.Serial, TapLet, "")
			}
		case "wait":
			w, err := time.ParseDuration(f[1])
			if err != nil {
				t.Fatalf("step %q: %v", line, err)
			}
			time.Sleep(w)
		case "":
		default:
			if _, err := strconv.Atoi(f[0]); err != nil {
				t.Fatalf("unknown step %q", line)
			}
		}
		time.Sleep(2 * settle)
		synctest.Wait()
	}
	return out.String()
}
