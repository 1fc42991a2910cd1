package gpio

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

func filled(t testing.TB) memory {
	m, err := fresh()
	if err != nil {
		t.Fatal(err)
	}
	for id := range protocol.VendID(vendsKept + 4) {
		m.put(record{ID: 10 + 2*id, Slot: 3, State: board.StateEnded, Drops: 1, RunMS: 2500, DropMS: 2300})
	}
	m.away(4)
	m.Latched, m.LatchedSlot = protocol.FaultRunaway, 4
	return m
}

func TestMemoryOutlivesFile(t *testing.T) {
	f := File{Path: filepath.Join(t.TempDir(), "gpio.json")}
	if data, err := f.Load(); data != nil || err != nil {
		t.Errorf("no file: %q, %v", data, err)
	}
	want := filled(t)
	data, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Save(data); err != nil {
		t.Fatal(err)
	}
	if data, err = f.Load(); err != nil {
		t.Fatal(err)
	}
	if got, err := decode(data); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for i := range data {
		bad := append([]byte{}, data...)
		bad[i] ^= 4
		if m, err := decode(bad); err == nil {
			t.Fatalf("byte %d changed, and it reads %+v", i, m)
		}
		if m, err := decode(data[:i]); err == nil {
			t.Fatalf("cut at byte %d, and it reads %+v", i, m)
		}
	}
	if err := f.Aside(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(f.Path + ".damaged"); err != nil {
		t.Errorf("put aside, and it is gone: %v", err)
	}
}

func TestFind(t *testing.T) {
	m := filled(t) // 18, 20, ... 48 are left of 10, 12, ... 48
	for id, want := range map[protocol.VendID]protocol.Outcome{
		10: protocol.Unknown, 17: protocol.Unknown, 18: protocol.Dispensed, 19: protocol.Kept, 48: protocol.Dispensed, 49: protocol.Kept,
	} {
		if got := m.find(id).result(); got.Outcome != want {
			t.Errorf("vend %d: %+v, want %v", id, got, want)
		}
	}
}

// FuzzMemory: whatever is in the file, what is read writes the same again.
func FuzzMemory(f *testing.F) {
	data, err := filled(f).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(nil))
	f.Add([]byte("{}\n00000000\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decode(data)
		if err != nil {
			return
		}
		again, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		if same, err := decode(again); err != nil || !reflect.DeepEqual(same, m) {
			t.Errorf("%+v was read, %+v written and read, %v", m, same, err)
		}
	})
}
