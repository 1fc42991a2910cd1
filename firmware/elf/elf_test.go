package elf_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"yaoju/firmware/elf"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

func TestMain(m *testing.M) {
	if err := elf.Make(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// bootLimit: the board promises to answer 300 ms after power on.
const bootLimit = 300 * time.Millisecond

// rig is a board in lock step that fails its test with everything that goes wrong.
type rig struct {
	t *testing.T
	*elf.Board
}

func start(t *testing.T, o elf.Options) rig {
	t.Helper()
	b, err := elf.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return rig{t, b}
}

// ready starts a board that is booted, and configured with c.
func ready(t *testing.T, o elf.Options, c board.Configure) rig {
	t.Helper()
	r := start(t, o)
	r.run(bootLimit)
	if h := r.ask(c).(board.HelloIs); h.ConfigHash != c.Hash() {
		t.Fatalf("configuration %08x, want %08x", h.ConfigHash, c.Hash())
	}
	r.run(500 * time.Millisecond) // until it is stored
	return r
}

func (r rig) run(d time.Duration) {
	r.t.Helper()
	if err := r.Run(d); err != nil {
		r.t.Fatal(err)
	}
}

func (r rig) ask(m board.Message) board.Message {
	r.t.Helper()
	a, err := r.Ask(m, 200*time.Millisecond)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// vend lets a vend run to its end.
func (r rig) vend(id protocol.VendID, slot protocol.Slot) board.VendState {
	r.t.Helper()
	m := r.ask(board.Vend{ID: id, Slot: slot})
	for limit := r.Now() + 40*time.Second; r.Now() < limit; r.run(50 * time.Millisecond) {
		s, ok := m.(board.VendState)
		if !ok {
			r.t.Fatalf("vend %d in slot %d: %#v", id, slot, m)
		}
		if s.State != board.StateRunning {
			return s
		}
		m = r.ask(board.Query{ID: id})
	}
	r.t.Fatalf("vend %d in slot %d does not end", id, slot)
	return board.VendState{}
}

// near says whether got is want, give or take 5 ms: a tick of the firmware, what it
// debounces, and the time of a question.
func near(got, want time.Duration) bool { return (got - want).Abs() <= 5*time.Millisecond }

func TestBoardSaysWhoItIs(t *testing.T) {
	t.Parallel()
	r := start(t, elf.Options{Serial: 0x1122334455667788})
	if _, err := r.Ask(board.Ping{}, 50*time.Millisecond); err == nil {
		t.Error("answered before its boot was durable")
	}
	r.run(bootLimit)
	h := r.ask(board.Hello{Proto: board.Version}).(board.HelloIs)
	if h.Serial != 0x1122334455667788 || h.Boot != 1 || h.ResetCause != board.ResetPower {
		t.Errorf("hello %+v", h)
	}
	if !r.Powered() || !near(r.Now(), bootLimit+50*time.Millisecond) {
		t.Errorf("powered %v at %v", r.Powered(), r.Now())
	}
	if u := r.Usage(); u.StackFree < 4096 || u.EEPROMWrites < 32 || u.LineDrops != 0 || u.Resets != 0 {
		t.Errorf("usage %+v", u)
	}
}

// One turn as the cabinet has it: what the board reports must be what happened.
func TestTurn(t *testing.T) {
	t.Parallel()
	const turn = 2500 * time.Millisecond
	for _, tt := range []struct {
		name   string
		faults elf.Faults
		cause  protocol.Fault
		drops  int
		starts int
		turns  int
		ran    time.Duration // of the first start; 0 is any
		fall   time.Duration // from motor start to the first piece at the sensor; 0 is none
	}{
		{"good", elf.Faults{}, 0, 1, 1, 1, turn, 2120 * time.Millisecond},
		{"bouncing switch", elf.Faults{Bounce: true}, 0, 1, 1, 1, 0, 2120 * time.Millisecond},
		{"late", elf.Faults{Late: time.Second}, 0, 1, 1, 1, turn, turn + 1120*time.Millisecond},
		{"gap", elf.Faults{Hang: 1}, 0, 1, 3, 2, turn, 0},
		{"empty", elf.Faults{Hang: 9}, protocol.FaultNoDrop, 0, 4, 3, turn, 0},
		{"double", elf.Faults{Double: true}, protocol.FaultDoubleDrop, 2, 1, 1, turn, 2120 * time.Millisecond},
		{"slow", elf.Faults{Slow: 1.5}, protocol.FaultSlow, 1, 1, 1, 3750 * time.Millisecond, 3120 * time.Millisecond},
		{"jam", elf.Faults{Jam: true}, protocol.FaultJam, 0, 1, 0, 1120 * time.Millisecond, 0},
		{"no motor", elf.Faults{NoMotor: true}, protocol.FaultNoMotor, 0, 1, 0, 120 * time.Millisecond, 0},
		{"short", elf.Faults{Short: true}, protocol.FaultShort, 0, 1, 0, 5 * time.Millisecond, 0},
		{"stuck home", elf.Faults{StuckHome: true}, protocol.FaultStuckHome, 0, 1, 0, 900 * time.Millisecond, 0},
		{"runaway", elf.Faults{Runaway: true}, protocol.FaultRunaway, 2, 1, 1, 5 * time.Second, 2120 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := ready(t, elf.Options{}, board.DefaultConfigure())
			r.Load(27, 5)
			r.SetFaults(27, tt.faults)
			s := r.vend(1, 27)
			if s.State != board.StateEnded || protocol.Fault(s.Cause) != tt.cause || int(s.Drops) != tt.drops {
				t.Errorf("state %d cause %d drops %d, want ended, %d, %d", s.State, s.Cause, s.Drops, tt.cause, tt.drops)
			}
			if n, turns := r.Starts(27), r.Turns(27); tt.starts != n || tt.turns != turns {
				t.Errorf("%d starts, %d turns; want %d, %d", n, turns, tt.starts, tt.turns)
			}
			if fell := r.FallenFrom(27); fell != tt.drops || r.Pieces(27) != 5-fell {
				t.Errorf("%d fell, %d are left; the board saw %d of 5", fell, r.Pieces(27), tt.drops)
			}
			m := r.Moves()
			if len(m) != 2*r.Starts(27) {
				t.Fatalf("moves %+v", m)
			}
			if !m[0].On || m[1].On || m[0].Slot != 27 || m[1].Slot != 27 || m[1].Ran != m[1].At-m[0].At {
				t.Errorf("moves %+v", m[:2])
			}
			if tt.ran != 0 && (m[1].Ran-tt.ran).Abs() > 12*time.Millisecond { // debounced, and current averaged
				t.Errorf("ran for %v, want %v", m[1].Ran, tt.ran)
			}
			falls := r.Falls()
			if len(falls) != tt.drops {
				t.Fatalf("falls %+v", falls)
			}
			if tt.fall != 0 && (falls[0].At-m[0].At-tt.fall).Abs() > 12*time.Millisecond {
				t.Errorf("fell %v after motor start, want %v", falls[0].At-m[0].At, tt.fall)
			}
		})
	}
}

func TestPair(t *testing.T) {
	t.Parallel()
	c := board.DefaultConfigure()
	c.Coupled = board.Slots(3)
	r := ready(t, elf.Options{}, c)
	r.Pair(3)
	r.Load(3, 1)
	if s := r.vend(1, 3); s.Cause != 0 || s.Drops != 1 || r.Turns(3) != 1 || r.Turns(4) != 1 {
		t.Errorf("%+v, %d and %d turns", s, r.Turns(3), r.Turns(4))
	}
	r.SetFaults(4, elf.Faults{NoMotor: true})
	if s := r.vend(2, 3); protocol.Fault(s.Cause) != protocol.FaultStuckHome {
		t.Errorf("half a pair: %+v", s)
	}
}

// Two motors that are no pair are a fault nobody can overlook.
func TestTwoMotorsAreAFault(t *testing.T) {
	t.Parallel()
	c := board.DefaultConfigure()
	c.Coupled = board.Slots(3)
	b, err := elf.Start(elf.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b.Run(bootLimit)
	for _, m := range []board.Message{c, board.Vend{ID: 1, Slot: 3}} { // and nobody said Pair
		if _, err := b.Ask(m, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	err = b.Run(time.Second)
	if err == nil || !strings.Contains(err.Error(), "2 motors") || b.Err() == nil || b.Close() == nil {
		t.Errorf("Run: %v, then %v", err, b.Err())
	}
}

func TestCabinet(t *testing.T) {
	t.Parallel()
	r := ready(t, elf.Options{}, board.DefaultConfigure())
	status := func() board.StatusIs {
		t.Helper()
		r.run(100 * time.Millisecond)
		return r.ask(board.Status{}).(board.StatusIs)
	}
	if s := status(); s.DoorOpen || s.LockOpen || s.SensorDark || s.Curtain != board.CurtainGood || !s.Climate || s.CentiC != 2150 || s.CentiRH != 4500 {
		t.Errorf("at rest: %+v", s)
	}
	r.Door(true)
	if s := status(); !s.DoorOpen {
		t.Error("door open, and the board does not see it")
	}
	r.Reset() // clears the chip's ports, and not the cabinet
	r.run(bootLimit)
	if s := status(); !s.DoorOpen || s.SensorDark || s.Boot != 2 {
		t.Errorf("after a reset: %+v", s)
	}
	r.Door(false)
	if s := status(); s.DoorOpen {
		t.Error("door shut, and the board does not see it")
	}
	r.Load(60, 1)
	r.Spontaneous(60)
	r.Spontaneous(60) // there is no second piece
	r.run(time.Second)
	if s := status(); s.SensorDark || s.Spontaneous != 1 || r.FallenFrom(60) != 1 {
		t.Errorf("after one piece: %+v, %d fell", s, r.FallenFrom(60))
	}
	r.SensorDark(true)
	if s := status(); !s.SensorDark {
		t.Errorf("sensor dark: %+v", s)
	}
	r.SensorDark(false)
	r.SensorBlind(true)
	r.ask(board.Clear{Fault: uint8(protocol.FaultDropSensor)})
	r.run(100 * time.Millisecond)
	if n, ok := r.ask(board.Vend{ID: 1, Slot: 1}).(board.Nak); !ok || n.Reason != board.NakDropSensor {
		t.Errorf("vend with a blind sensor: %+v", n)
	}
	if s := status(); s.Curtain != board.CurtainBlind || !r.Emitter() {
		t.Errorf("blind: %+v, emitter %v", s, r.Emitter())
	}
	r.Climate(true, -512, 9000)
	r.run(11 * time.Second) // a reading every 10 s
	if s := status(); !s.Climate || s.CentiC != -512 || s.CentiRH != 9000 {
		t.Errorf("cold: %+v", s)
	}
	for _, spoil := range []func(){r.ClimateDamaged, func() { r.Climate(false, 0, 0) }} {
		spoil()
		r.run(15 * time.Second)
		if s := status(); s.Climate {
			t.Errorf("no climate: %+v", s)
		}
		r.Climate(true, 2000, 5000)
		r.run(11 * time.Second)
		if s := status(); !s.Climate || s.CentiC != 2000 {
			t.Errorf("climate is back: %+v", s)
		}
	}
}

func TestLockAndLight(t *testing.T) {
	t.Parallel()
	r := ready(t, elf.Options{}, board.DefaultConfigure())
	for _, percent := range []int{0, 1, 37, 99, 100} {
		r.ask(board.Light{Percent: uint8(percent)})
		r.run(5 * time.Millisecond)
		if got := r.Light(); got != percent {
			t.Errorf("light %d percent, want %d", got, percent)
		}
	}
	r.ask(board.Lock{OpenMS: 700})
	r.run(100 * time.Millisecond)
	if u := r.Unlocked(); len(u) != 1 || !near(u[0].To, r.Now()) {
		t.Errorf("unlocked %v at %v", u, r.Now())
	}
	r.run(time.Second)
	if u := r.Unlocked(); len(u) != 1 || !near(u[0].To-u[0].From, 700*time.Millisecond) {
		t.Errorf("unlocked %v, want 700 ms", u)
	}
}

func TestPowerAndMemory(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "eeprom")
	r := ready(t, elf.Options{EEPROM: file}, board.DefaultConfigure())
	r.Load(5, 9)
	r.ask(board.Vend{ID: 7, Slot: 5})
	r.CutAt(time.Second)
	before := r.Now()
	r.run(time.Minute)
	if r.Powered() || !near(r.Now()-before, time.Second) {
		t.Errorf("powered %v, %v after the cut was asked for", r.Powered(), r.Now()-before)
	}
	m := r.Moves()
	if len(m) != 2 || m[1].On || m[1].At != r.Now() {
		t.Errorf("moves %+v, power was lost at %v", m, r.Now())
	}
	r.Send(board.Append([]byte{0}, 1, board.Ping{}))
	r.run(time.Second) // all of it, without power
	if got := r.Received(); len(got) != 0 || !near(r.Now()-before, 2*time.Second) {
		t.Errorf("%x from a board without power, %v passed", got, r.Now()-before)
	}
	r.PowerOn()
	r.run(bootLimit)
	if s := r.ask(board.Query{ID: 7}).(board.VendState); s.State != board.StateInterrupted {
		t.Errorf("after the cut: %+v", s)
	}
	r.Close()

	again := start(t, elf.Options{EEPROM: file})
	again.run(bootLimit)
	if h := again.ask(board.Hello{Proto: board.Version}).(board.HelloIs); h.Boot != 3 || h.Highest != 7 {
		t.Errorf("from the file: %+v", h)
	}
}

func TestTornByte(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		tear elf.Tear
		want func(elf.TornByte) uint8
	}{
		{elf.TearOld, func(b elf.TornByte) uint8 { return b.Old }},
		{elf.TearNew, func(b elf.TornByte) uint8 { return b.New }},
		{elf.TearErased, func(elf.TornByte) uint8 { return 0xff }},
		{0x5a, func(elf.TornByte) uint8 { return 0x5a }},
	} {
		r := ready(t, elf.Options{}, board.DefaultConfigure())
		r.Torn(tt.tear)
		r.CutAfterWrites(3)
		writes := r.Usage().EEPROMWrites
		r.ask(board.Vend{ID: 1, Slot: 1})
		r.run(time.Second)
		torn := r.TornBytes()
		if r.Powered() || r.Usage().EEPROMWrites != writes+3 || len(torn) != 1 || torn[0].Got != tt.want(torn[0]) || torn[0].At != r.Now() {
			t.Errorf("tear %d: powered %v, %d writes, torn %+v", tt.tear, r.Powered(), r.Usage().EEPROMWrites-writes, torn)
		}
		if r.Starts(1) != 0 {
			t.Errorf("tear %d: the motor started before the record was whole", tt.tear)
		}
	}
}

func TestJournalFails(t *testing.T) {
	t.Parallel()
	r := ready(t, elf.Options{}, board.DefaultConfigure())
	r.JournalFails(true)
	if s := r.vend(1, 1); protocol.Fault(s.Cause) != protocol.FaultJournal || r.Starts(1) != 0 {
		t.Errorf("%+v, %d starts", s, r.Starts(1))
	}
}

func TestHangAndReset(t *testing.T) {
	t.Parallel()
	r := ready(t, elf.Options{}, board.DefaultConfigure())
	r.Load(5, 1)
	r.ask(board.Vend{ID: 1, Slot: 5})
	r.run(500 * time.Millisecond)
	if err := r.Hang("no_such_function"); err == nil {
		t.Error("hung in a function that does not exist")
	}
	if err := r.Hang("board_poll"); err != nil {
		t.Fatal(err)
	}
	hung := r.Now()
	r.run(time.Second)
	resets := r.Restarts()
	if len(resets) != 1 || resets[0].Flags != 8 || resets[0].At-hung > 600*time.Millisecond {
		t.Fatalf("resets %+v, hung at %v", resets, hung)
	}
	if m := r.Moves(); len(m) != 2 || m[1].At > resets[0].At {
		t.Errorf("moves %+v, reset at %v", m, resets[0].At)
	}
	if h := r.ask(board.Hello{Proto: board.Version}).(board.HelloIs); h.ResetCause != board.ResetWatchdog || h.Boot != 2 {
		t.Errorf("after the watchdog: %+v", h)
	}
	r.Reset()
	r.run(bootLimit)
	if h := r.ask(board.Hello{Proto: board.Version}).(board.HelloIs); h.ResetCause != board.ResetExternal || h.Boot != 3 {
		t.Errorf("after the reset line: %+v", h)
	}
	r.BrownOut()
	r.run(bootLimit)
	if h := r.ask(board.Hello{Proto: board.Version}).(board.HelloIs); h.ResetCause != board.ResetBrownOut || h.Boot != 4 {
		t.Errorf("after the supply dipped: %+v", h)
	}
	if n := r.Usage().Resets; n != 2 {
		t.Errorf("%d resets", n)
	}
}

func TestSilent(t *testing.T) {
	t.Parallel()
	r := ready(t, elf.Options{}, board.DefaultConfigure())
	r.Silent(true)
	if m, err := r.Ask(board.Ping{}, 100*time.Millisecond); err == nil {
		t.Errorf("a dead line answers %v", m)
	}
	r.Silent(false)
	r.ask(board.Ping{})
}

// The line has a pace: 87 microseconds a byte, in both directions.
func TestLinePace(t *testing.T) {
	t.Parallel()
	r := ready(t, elf.Options{}, board.DefaultConfigure())
	ping := board.Append([]byte{0}, 9, board.Ping{})
	r.Send(ping)
	var got []byte
	from := r.Now()
	for !slices.Contains(got, 0) && r.Now() < from+time.Second {
		r.run(10 * time.Microsecond)
		got = append(got, r.Received()...)
	}
	bytesLong := time.Duration(len(ping)+len(got)) * 87 * time.Microsecond
	if took := r.Now() - from; took < bytesLong-200*time.Microsecond || took > bytesLong+3*time.Millisecond {
		t.Errorf("%d bytes took %v, want %v and at most 3 ms of thinking", len(ping)+len(got), took, bytesLong)
	}
	r.Send(bytes.Repeat([]byte{0x55}, 5000))
	r.run(time.Second)
	r.ask(board.Ping{})
	if n := r.Usage().LineDrops; n != 0 {
		t.Errorf("%d bytes of a full line were lost", n)
	}
}

// Same seed, same log: whatever happens, chance included.
func TestSameSeedSameLog(t *testing.T) {
	t.Parallel()
	script := func(seed uint64) string {
		var log bytes.Buffer
		r := ready(t, elf.Options{Seed: seed, Events: &log}, board.DefaultConfigure())
		r.Load(8, 5)
		r.SetFaults(8, elf.Faults{Bounce: true, Double: true})
		r.vend(1, 8)
		for n := 1; n < 20; n += 3 {
			r.CutAfterWrites(n)
			r.Ask(board.Vend{ID: protocol.VendID(1 + n), Slot: 8}, 100*time.Millisecond) // may lose power
			r.run(10 * time.Second)
			r.PowerOn()
			r.run(bootLimit)
		}
		return log.String()
	}
	a, b, c := script(5), script(5), script(6)
	if a != b {
		t.Error("the same seed gave two logs")
	}
	if a == c {
		t.Error("another seed gave the same log")
	}
}

func TestStartSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	notELF := filepath.Join(dir, "motor.elf")
	if err := os.WriteFile(notELF, []byte("not an ELF file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		o    elf.Options
		want string
	}{
		{elf.Options{ELF: filepath.Join(dir, "none")}, "cannot open"},
		{elf.Options{ELF: notELF}, "no ELF file"},
		{elf.Options{EEPROM: filepath.Join(dir, "none", "eeprom")}, "EEPROM file"},
		{elf.Options{Boardsim: filepath.Join(dir, "none")}, "no such file"},
	} {
		b, err := elf.Start(tt.o)
		if err == nil {
			b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.o, err, tt.want)
		}
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	b, err := elf.Start(elf.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Close(), b.Close()); err != nil {
		t.Errorf("Close: %v", err)
	}
	if b.Run(time.Second) == nil {
		t.Error("a closed board runs")
	}
}
