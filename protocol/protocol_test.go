package protocol

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var addGolden = flag.Bool("add-golden", false, "write the golden records that are not there yet; never change one that is")

const (
	goldenMachine = MachineID("m-0017")
	goldenLedger  = LedgerID("0123456789abcdef0123456789abcdef")
)

// goldenKey signs the golden messages; it is the key of nobody.
var goldenKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))

var (
	goldenStock = Stock{Slot: 12, Product: "condom-52", Batch: "B2701", Expiry: "2029-01-31"}
	goldenVend  = Vend{Vend: 4711, Stock: goldenStock, Pieces: 1, RunMS: 2510, DropMS: 1930}
)

// goldenEvents holds one of each kind of the first version, with every field filled;
// kinds that came later follow in laterEvents.
var goldenEvents = []Event{
	LedgerStarted{Reason: "new", Previous: "fedcba9876543210fedcba9876543210"},
	Boot{Software: "1.0.0", Board: "00000000000000a7"},
	StockLoaded{Stock: goldenStock, Pieces: 10, Before: 0, After: 10, Staff: "s-07"},
	VendDispensed{goldenVend},
	VendKept{Vend{Vend: 4712, Stock: goldenStock, Cause: FaultNoDrop, RunMS: 6400}},
	VendUnknown{Vend{Vend: 4713, Stock: goldenStock, Cause: FaultInterrupted}},
	SlotBlocked{Slot: 12, Why: BlockUnknown, Cause: FaultInterrupted, Staff: "s-07"},
	VendResolved{Vend: Vend{Vend: 4713, Stock: goldenStock, Pieces: 1, RunMS: 2400, DropMS: 1900}, Outcome: Dispensed, By: "staff", Staff: "s-07"},
	SlotCleared{Slot: 12, Why: BlockUnknown, Staff: "s-07"},
	OrderDenied{Reason: DenialEarly},
	StockCounted{Stock: goldenStock, Expected: 8, Counted: 7, AsOf: 9, Reason: "found behind the spiral", Staff: "s-07"},
	StockRemoved{Stock: goldenStock, Pieces: 2, Reason: RemovedDamaged, Before: 7, After: 5, Staff: "s-07"},
	StockTested{Stock: goldenStock, Pieces: 1, Staff: "s-09"},
	StaffIn{Staff: "s-07"},
	StaffOut{Staff: "s-07"},
	DoorOpened{},
	DoorClosed{},
	FaultRaised{Fault: FaultJam, Slot: 12},
	FaultCleared{Fault: FaultJam, Slot: 12},
	ClimateHour{MinC: 21.5, MaxC: 24.25, MeanRH: 46, Samples: 60},
	ItemUncollected{},
	CardLeft{},
	DesiredApplied{Generation: 1700000000000, Version: 3},
	CommandDone{ID: "c-1", Verb: VerbPause, Result: CommandOK, Detail: "paused"},
	ClockSet{FromMS: 1000, By: "network"},
}

var laterEvents = []Event{
	StaffLocked{Staff: "s-07", Minutes: 15},
}

func goldenStamp(i int) Stamp {
	return Stamp{AtMS: 1795400000000 + int64(i)*60000, Clock: ClockSynced, Boot: 1, UpMS: int64(i) * 60000}
}

var goldenDesired = Desired{
	Machine: goldenMachine, DesiredVersion: DesiredVersion{Generation: 1700000000000, Version: 3},
	Policy: Policy{AgeFrom: 18, AgeTo: 60, Rules: []Rule{{Class: "condom", Max: 1, Per: PerDays, Days: 30}, {Max: 120, Units: true, Per: PerYear}}},
	Products: []Product{{ID: "condom-52", Letter: "A", Class: "condom", Units: 10, Name: Text{"避孕套 标准型", "Condoms, 52 mm"},
		Note: Text{"10 只装", "Pack of 10"}}},
	Planogram: []SlotPlan{{Slot: 12, Product: "condom-52", Capacity: 12, Par: 3}},
	Recalls:   []Recall{{Product: "condom-52", Batch: "B2600"}},
	Texts:     Texts{Authority: Text{"（示例）", "(sample)"}, Phone: "000-0000-0000", RestockBy: "2026-11-25"},
	Nearby:    []Nearby{{Name: Text{"柳桥", "Liuqiao"}, Where: Text{"步行约 9 分钟", "9 min walk"}}},
}

var goldenState = State{
	Machine: goldenMachine, Ledger: goldenLedger, Stamp: goldenStamp(30), Software: "1.0.0",
	Board: BoardState{Up: true, Serial: "00000000000000a7", Build: 3}, Serving: ServingOpen, Head: 25,
	Acked: Ack{Ledger: goldenLedger, Generation: 1700000000000, Seq: 20}, Open: 1, DoorOpen: true, Climate: &Climate{C: 22.5, RH: 45},
	Slots: []SlotState{{Slot: 12, Product: "condom-52", Pieces: 5, Held: 1, Capacity: 12, Par: 3, Expiry: "2029-01-31", Blocked: BlockSuspect,
		Loaded: 10, Removed: 3, Dispensed: 1}},
	Faults: []FaultRaised{{Fault: FaultNoDrop, Slot: 12}}, Desired: goldenDesired.DesiredVersion,
}

var goldenCommand = Command{ID: "c-1", Machine: goldenMachine, Generation: 1700000000000, Counter: 9,
	NotBeforeMS: 1795400000000, ExpiresMS: 1795400600000, Verb: VerbBlock, Slot: 12}

var goldenUpdate = Command{ID: "c-2", Machine: goldenMachine, Generation: 1700000000000, Counter: 10,
	NotBeforeMS: 1795400000000, ExpiresMS: 1795659200000, Verb: VerbUpdate, Update: &Update{Version: "1.1.0", SHA256: strings.Repeat("5a", 32),
		Size: 31457280, NotBeforeMS: 1795400000000, DeadlineMS: 1795659200000, Wave: 2, Older: true}}

// goldenUpdated is the state of a machine that takes updates.
func goldenUpdated() State {
	s := goldenState
	s.Update = &UpdateState{Trial: "1.1.0", Ordered: "1.1.0", Waits: "the new version proves itself",
		Last: &UpdateResult{Order: "c-1", Version: "1.0.9", End: UpdateRolledBack, Words: "the screen does not answer"}}
	return s
}

// golden returns the bytes of a golden file, which is written once and kept.
func golden(t *testing.T, name string, now []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", "v1", name)
	was, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && *addGolden {
		was = now
		err = os.WriteFile(path, now, 0o644)
	}
	if err != nil {
		t.Fatalf("%v (a new golden file is written with -add-golden)", err)
	}
	return was
}

// chain seals events into one chain.
func chain(t testing.TB, events []Event) (sealed []Sealed) {
	var head Head
	for i, e := range events {
		s, err := Seal(goldenMachine, goldenLedger, head, goldenStamp(i), e)
		if err != nil {
			t.Fatal(err)
		}
		sealed = append(sealed, s)
		head = Head{s.Seq, s.Hash}
	}
	return sealed
}

// What was written to disk or wire by any version is read, and hashes to what it
// hashed to then.
func TestGoldenRecords(t *testing.T) {
	seen := map[Kind]bool{}
	for name, events := range map[string][]Event{"events.json": goldenEvents, "events.later.json": laterEvents} {
		sealed := chain(t, events)
		msg, n := AppendBatch(nil, goldenLedger, sealed)
		if n != len(sealed) {
			t.Fatalf("%d of %d records fit", n, len(sealed))
		}
		batch, err := DecodeBatch(golden(t, name, msg))
		if err != nil {
			t.Fatal(err)
		}
		var head Head
		for i, s := range batch.Records {
			var r Record
			if r, head, err = s.Follow(goldenMachine, batch.Ledger, head); err != nil {
				t.Fatal(err)
			}
			e, err := DecodeEvent(r)
			if err != nil || e == nil {
				t.Fatalf("record %d, %s: %v, %v", r.Seq, r.Kind, e, err)
			}
			if !reflect.DeepEqual(e, events[i]) {
				t.Errorf("record %d: got %+v, want %+v", r.Seq, e, events[i])
			}
			if !bytes.Equal(s.Body, sealed[i].Body) || s.Hash != sealed[i].Hash {
				t.Errorf("record %d is sealed differently now:\n%s\n%s", r.Seq, sealed[i].Body, s.Body)
			}
			seen[r.Kind] = true
		}
	}
	for _, e := range Events() {
		if !seen[e.Kind()] {
			t.Errorf("no golden record of kind %s", e.Kind())
		}
	}
}

func TestGoldenMessages(t *testing.T) {
	trusted := []ed25519.PublicKey{goldenKey.Public().(ed25519.PublicKey)}
	desired, err := SignDesired(goldenKey, goldenDesired)
	if err != nil {
		t.Fatal(err)
	}
	command, err := SignCommand(goldenKey, goldenCommand)
	if err != nil {
		t.Fatal(err)
	}
	update, err := SignCommand(goldenKey, goldenUpdate)
	if err != nil {
		t.Fatal(err)
	}
	ack := Ack{Ledger: goldenLedger, Generation: 1700000000000, Seq: 25}
	online := Online{Online: true, Connection: 65537}
	tests := []struct {
		name   string
		now    []byte
		decode func([]byte) (any, error)
		want   any
	}{
		{"state.json", Encode(goldenState), func(b []byte) (any, error) { return DecodeState(b) }, goldenState},
		{"state.update.json", Encode(goldenUpdated()), func(b []byte) (any, error) { return DecodeState(b) }, goldenUpdated()},
		{"ack.json", Encode(ack), func(b []byte) (any, error) { return DecodeAck(b) }, ack},
		{"online.json", Encode(online), func(b []byte) (any, error) { return DecodeOnline(b) }, online},
		{"desired.json", desired, func(b []byte) (any, error) { return OpenDesired(b, trusted) }, goldenDesired},
		{"keys.json", goldenKeys(t), func(b []byte) (any, error) { return Trust{Keys: trusted}.Follow(b) },
			Trust{Serial: 2, Keys: []ed25519.PublicKey{keyOf(8).Public().(ed25519.PublicKey)}}},
		{"command.json", command, func(b []byte) (any, error) { return OpenCommand(b, trusted) }, goldenCommand},
		{"command.update.json", update, func(b []byte) (any, error) { return OpenCommand(b, trusted) }, goldenUpdate},
	}
	for _, tt := range tests {
		was := golden(t, tt.name, tt.now)
		got, err := tt.decode(was)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
		if !bytes.Equal(was, tt.now) {
			t.Errorf("%s is written differently now:\n%s\n%s", tt.name, tt.now, was)
		}
	}
}

// Any change to any byte of a chain is noticed.
func TestChainNoticesEveryByte(t *testing.T) {
	sealed := chain(t, goldenEvents)[:4]
	verify := func(s []Sealed) error {
		var head Head
		var err error
		for _, r := range s {
			if _, head, err = r.Follow(goldenMachine, goldenLedger, head); err != nil {
				return err
			}
		}
		return nil
	}
	if err := verify(sealed); err != nil {
		t.Fatal(err)
	}
	s := sealed[2]
	for i := range s.Body {
		bent := bytes.Clone(s.Body)
		bent[i] ^= 1
		if verify([]Sealed{sealed[0], sealed[1], {s.Seq, bent, s.Hash}, sealed[3]}) == nil {
			t.Errorf("byte %d of record 3 bent, not noticed", i)
		}
	}
	var broken *ChainError
	if err := verify([]Sealed{sealed[0], sealed[2]}); !errors.As(err, &broken) || broken.Seq != 3 {
		t.Errorf("a record is missing: %v", err)
	}
	if _, _, err := sealed[0].Follow("m-0018", goldenLedger, Head{}); !errors.As(err, &broken) {
		t.Errorf("another machine's record: %v", err)
	}
	if _, _, err := sealed[0].Follow(goldenMachine, NewLedgerID(), Head{}); !errors.As(err, &broken) {
		t.Errorf("another ledger's record: %v", err)
	}
}

// A message holds what fits and says how much that was.
func TestAppendBatchLimit(t *testing.T) {
	var head Head
	var all []Sealed
	for range 300 {
		s, err := Seal(goldenMachine, goldenLedger, head, goldenStamp(0), StockLoaded{Stock: goldenStock, Staff: "s-07"})
		if err != nil {
			t.Fatal(err)
		}
		all, head = append(all, s), Head{s.Seq, s.Hash}
	}
	got := 0
	for rest := all; len(rest) > 0; {
		msg, n := AppendBatch(nil, goldenLedger, rest)
		if n == 0 || len(msg) > MaxMessage {
			t.Fatalf("%d records in %d bytes", n, len(msg))
		}
		b, err := DecodeBatch(msg)
		if err != nil || len(b.Records) != n {
			t.Fatalf("%d records come back of %d: %v", len(b.Records), n, err)
		}
		got += n
		rest = rest[n:]
	}
	if got != len(all) {
		t.Errorf("%d records arrived, %d were sent", got, len(all))
	}
}

func TestSealRefuses(t *testing.T) {
	for _, e := range []Event{
		VendDispensed{},
		StockLoaded{Stock: Stock{Slot: 61, Product: "gel", Batch: "B", Expiry: "2027-01-31"}, Staff: "s"},
		StockLoaded{Stock: Stock{Slot: 1, Product: "Gel", Batch: "B", Expiry: "2027-01-31"}, Staff: "s"},
		StockLoaded{Stock: Stock{Slot: 1, Product: "gel", Batch: "B", Expiry: "2027-02-30"}, Staff: "s"},
		StockLoaded{Stock: goldenStock, Pieces: -1, Staff: "s"},
		StockLoaded{Stock: goldenStock, Pieces: 1},
		CommandDone{ID: "x", Verb: "pause", Result: "ok", Detail: strings.Repeat("x", MaxRecord)},
	} {
		if _, err := Seal(goldenMachine, goldenLedger, Head{}, goldenStamp(0), e); err == nil {
			t.Errorf("%s %+v was sealed", e.Kind(), e)
		}
	}
}

// A reader keeps what a newer machine wrote.
func TestNewerKind(t *testing.T) {
	s := Sealed{Seq: 1, Body: []byte(`{"seq":1,"at_ms":1,"clock":"held","boot":1,"up_ms":1,"kind":"hatch.opened","data":{"x":[1]},"prev":"` + Hash{}.String() + `","more":true}`)}
	r, err := s.Record()
	if err != nil {
		t.Fatal(err)
	}
	if e, err := DecodeEvent(r); e != nil || err != nil {
		t.Errorf("got %v, %v; want nothing and no error", e, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := string(Encode(Ack{Ledger: goldenLedger, Generation: 1, Seq: 2}))
	for name, text := range map[string]string{
		"empty":           "",
		"not an object":   "[1]",
		"trailing":        good + " {}",
		"cut":             good[:len(good)-1],
		"doubled member":  `{"seq":1,` + good[1:],
		"no generation":   strings.Replace(good, `"generation":1`, `"generation":0`, 1),
		"bad ledger":      strings.Replace(good, "01234", "0123g", 1),
		"upper-case hex":  strings.Replace(good, "abcdef", "ABCDEF", 1),
		"negative seq":    strings.Replace(good, `"seq":2`, `"seq":-2`, 1),
		"broken UTF-8":    strings.Replace(good, "ledger", "ledg\xffr", 1),
		"deep":            `{"x":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `,` + good[1:],
		"larger than max": `{"x":"` + strings.Repeat("x", MaxMessage) + `",` + good[1:],
	} {
		if a, err := DecodeAck([]byte(text)); err == nil {
			t.Errorf("%s: accepted as %+v", name, a)
		}
	}
}

// A command never passes for a desired state, and nobody else's signature does.
func TestSignatures(t *testing.T) {
	mine := []ed25519.PublicKey{goldenKey.Public().(ed25519.PublicKey)}
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, 32))
	command, err := SignCommand(goldenKey, goldenCommand)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDesired(command, mine); err == nil {
		t.Error("a command was opened as a desired state")
	}
	if _, err := OpenCommand(command, []ed25519.PublicKey{other.Public().(ed25519.PublicKey)}); err == nil {
		t.Error("a command of a key that is not trusted was opened")
	}
	var s Signed
	if err := json.Unmarshal(command, &s); err != nil {
		t.Fatal(err)
	}
	s.Body = strings.Replace(s.Body, `"counter":9`, `"counter":10`, 1)
	if _, err := OpenCommand(Encode(s), mine); err == nil {
		t.Error("a command whose counter was bent was opened")
	}
}

func TestTopics(t *testing.T) {
	for _, topic := range []string{EventsTopic(goldenMachine), StateTopic(goldenMachine), OnlineTopic(goldenMachine), AckTopic(goldenMachine), DesiredTopic(goldenMachine), KeysTopic(goldenMachine), CommandTopic(goldenMachine)} {
		if m, leaf, err := TopicMachine(topic); err != nil || m != goldenMachine || !strings.HasSuffix(topic, "/"+leaf) {
			t.Errorf("%s: %s, %s, %v", topic, m, leaf, err)
		}
	}
	for _, topic := range []string{"", "yaoju/1/m", "yaoju/2/m/m-1/events", "yaoju/1/x/m-1/events", "yaoju/1/m/M-1/events", "yaoju/1/m/+/events", "yaoju/1/m/m-1/events/x"} {
		if m, _, err := TopicMachine(topic); err == nil {
			t.Errorf("%s: accepted as of machine %s", topic, m)
		}
	}
}

func TestFaultTable(t *testing.T) {
	last := Fault(0)
	names := map[string]bool{}
	for _, f := range Faults() {
		if f.Fault <= last || names[f.Name] || f.ZH == "" || f.EN == "" || f.Severity < Notice || f.Severity > Urgent {
			t.Errorf("fault %d, %s: out of order, doubled or without words", f.Fault, f.Name)
		}
		last, names[f.Name] = f.Fault, true
	}
	if _, ok := Fault(999).Info(); ok {
		t.Error("fault 999 is known")
	}
}

func TestKeepDays(t *testing.T) {
	for _, tt := range []struct {
		rules []Rule
		want  int
	}{
		{[]Rule{{Max: 1, Per: PerDays, Days: 22}}, 22},
		{[]Rule{{Max: 1, Per: PerMonth}}, 31},
		{[]Rule{{Max: 3, Per: PerMonth}, {Max: 13, Per: PerYear}}, 366},
	} {
		if got := (Policy{Rules: tt.rules}).KeepDays(); got != tt.want {
			t.Errorf("%+v: keep %d days, want %d", tt.rules, got, tt.want)
		}
	}
}

// What any decoder accepts encodes back to something it accepts again.
func FuzzDecoders(f *testing.F) {
	msg, _ := AppendBatch(nil, goldenLedger, chain(f, goldenEvents))
	signed, err := SignCommand(goldenKey, goldenCommand)
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{msg, signed, Encode(goldenState), Encode(goldenUpdated()), Encode(goldenDesired), Encode(Online{true, 3}), Encode(Ack{goldenLedger, 1, 1})} {
		f.Add(b)
	}
	trusted := []ed25519.PublicKey{goldenKey.Public().(ed25519.PublicKey)}
	f.Fuzz(func(t *testing.T, b []byte) {
		if batch, err := DecodeBatch(b); err == nil {
			again, n := AppendBatch(nil, batch.Ledger, batch.Records)
			if n < 1 {
				t.Fatal("a batch that was decoded does not encode")
			}
			if _, err := DecodeBatch(again); err != nil {
				t.Fatal(err)
			}
			for _, s := range batch.Records {
				r, err := s.Record()
				if err != nil {
					t.Fatal(err)
				}
				if e, err := DecodeEvent(r); err == nil && e != nil && e.Valid() != nil {
					t.Fatal("an event that is not valid was decoded")
				}
			}
		}
		if s, err := DecodeState(b); err == nil {
			if _, err := DecodeState(Encode(s)); err != nil {
				t.Fatal(err)
			}
		}
		if o, err := DecodeOnline(b); err == nil {
			if again, err := DecodeOnline(Encode(o)); err != nil || again != o {
				t.Fatal(again, err)
			}
		}
		if a, err := DecodeAck(b); err == nil {
			if again, err := DecodeAck(Encode(a)); err != nil || again != a {
				t.Fatal(again, err)
			}
		}
		// A signature lets nothing through that was not signed.
		if c, err := OpenCommand(b, trusted); err == nil && c != goldenCommand {
			t.Fatal("forged")
		}
		if _, err := OpenDesired(b, trusted); err == nil {
			t.Fatal("forged")
		}
	})
}

// What was signed is still judged: the bytes inside a good signature are foreign too.
func FuzzSignedBody(f *testing.F) {
	f.Add(Encode(goldenDesired))
	f.Add(Encode(goldenCommand))
	f.Add(Encode(goldenUpdate))
	trusted := []ed25519.PublicKey{goldenKey.Public().(ed25519.PublicKey)}
	f.Fuzz(func(t *testing.T, body []byte) {
		if msg, err := sign(goldenKey, purposeDesired, body); err == nil {
			if d, err := OpenDesired(msg, trusted); err == nil {
				if again, err := SignDesired(goldenKey, d); err == nil {
					if _, err := OpenDesired(again, trusted); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if msg, err := sign(goldenKey, purposeCommand, body); err == nil {
			if c, err := OpenCommand(msg, trusted); err == nil && c.Valid() != nil {
				t.Fatal("a command that is not valid was opened")
			}
		}
	})
}
