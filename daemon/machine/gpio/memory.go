package gpio

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"

	"yaoju/daemon/durable"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// vendsKept is how many vends are remembered across a restart. One is open when a
// process dies; the others are for a ledger that could not be written for a while.
const vendsKept = 16

// memory is what outlives the process: the part of a motor board's EEPROM that
// this driver needs. A start is in it before the motor gets power.
type memory struct {
	Version     int             `json:"version"` // 1
	Serial      uint64          `json:"serial"`  // of this memory: a new one is another board to the ledger
	Boots       uint32          `json:"boots"`   // times it was loaded
	Turns       int             `json:"turns"`   // vends and tests that got motor power
	Drops       int             `json:"drops"`   // pieces seen
	Highest     protocol.VendID `json:"highest"` // highest id that was to get motor power
	NotHome     []protocol.Slot `json:"not_home"`
	Latched     protocol.Fault  `json:"latched"`
	LatchedSlot protocol.Slot   `json:"latched_slot"`
	Vends       []record        `json:"vends"` // oldest first
}

// record is one vend.
type record struct {
	ID     protocol.VendID `json:"id"`
	Slot   protocol.Slot   `json:"slot"`
	State  board.State     `json:"state"` // running in the memory of a dead process means interrupted
	Cause  protocol.Fault  `json:"cause"`
	Drops  int             `json:"drops"`
	RunMS  int             `json:"run_ms"`
	DropMS int             `json:"drop_ms"`
}

// fresh returns the memory of a machine that never turned a motor.
func fresh() (memory, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return memory{}, fmt.Errorf("mint a serial number: %w", err)
	}
	return memory{Version: 1, Serial: binary.LittleEndian.Uint64(b[:])}, nil
}

// with returns a copy of m that f has changed.
func (m memory) with(f func(*memory)) memory {
	m.NotHome, m.Vends = slices.Clone(m.NotHome), slices.Clone(m.Vends)
	f(&m)
	return m
}

// put notes r, in place of what was known of the same vend.
func (m *memory) put(r record) {
	m.Highest = max(m.Highest, r.ID)
	if i := slices.IndexFunc(m.Vends, func(k record) bool { return k.ID == r.ID }); i >= 0 {
		m.Vends[i] = r
		return
	}
	m.Vends = append(m.Vends, r)
	if len(m.Vends) > vendsKept {
		m.Vends = m.Vends[1:]
	}
}

// away notes whether slot stands away from home, or may.
func (m *memory) away(slot protocol.Slot) {
	if !slices.Contains(m.NotHome, slot) {
		m.NotHome = append(m.NotHome, slot)
		slices.Sort(m.NotHome)
	}
}

func (m memory) isAway(slot protocol.Slot) bool { return slices.Contains(m.NotHome, slot) }

func (m *memory) home(slot protocol.Slot) {
	m.NotHome = slices.DeleteFunc(m.NotHome, func(s protocol.Slot) bool { return s == slot })
}

// find returns what is known of id. Ids rise, and every start is noted before the
// motor gets power: so above the highest, or missing between two that are there,
// is proof that it never turned.
func (m *memory) find(id protocol.VendID) record {
	i := slices.IndexFunc(m.Vends, func(r record) bool { return r.ID == id })
	switch {
	case i >= 0:
		return m.Vends[i]
	case id > m.Highest:
		return record{ID: id, State: board.StateNone}
	case len(m.Vends) > 0 && id > m.Vends[0].ID:
		return record{ID: id, State: board.StateSkipped}
	}
	return record{ID: id, State: board.StateForgotten}
}

// result is where evidence becomes an outcome, by the same rules as a motor
// board's: a drop seen is dispensed, whatever came after; a motion that ended
// without one is kept; where the end is not known nobody can tell.
func (r record) result() protocol.Result {
	out := protocol.Result{Outcome: protocol.Unknown, Cause: r.Cause, RunMS: r.RunMS, DropMS: r.DropMS}
	switch r.State {
	case board.StateNone, board.StateSkipped: // it never turned
		return protocol.Result{Outcome: protocol.Kept, Cause: protocol.FaultBoardSilent}
	case board.StateEnded, board.StateInterrupted:
	default:
		return protocol.Result{Outcome: protocol.Unknown, Cause: protocol.FaultUnknownVend}
	}
	switch {
	case r.Drops > 0:
		out.Outcome, out.Pieces = protocol.Dispensed, r.Drops
		if r.Drops > 1 {
			out.Cause = protocol.FaultDoubleDrop
		}
	case r.State == board.StateInterrupted:
		out.Cause = protocol.FaultInterrupted
	default:
		out.Outcome = protocol.Kept
	}
	return out
}

// encode returns m as the bytes of its file: JSON, and its CRC-32 in a line of its own.
func (m memory) encode() ([]byte, error) {
	text, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	return fmt.Appendf(nil, "%s\n%08x\n", text, crc32.ChecksumIEEE(text)), nil
}

// decode reads what encode wrote.
func decode(data []byte) (memory, error) {
	text, sum, ok := bytes.Cut(data, []byte("\n"))
	if !ok || string(sum) != fmt.Sprintf("%08x\n", crc32.ChecksumIEEE(text)) {
		return memory{}, errors.New("memory: wrong checksum")
	}
	var m memory
	if err := json.Unmarshal(text, &m); err != nil {
		return memory{}, fmt.Errorf("memory: %w", err)
	}
	if m.Version != 1 || len(m.Vends) > vendsKept {
		return memory{}, fmt.Errorf("memory: version %d with %d vends is not ours", m.Version, len(m.Vends))
	}
	for i, r := range m.Vends {
		if r.ID == 0 || r.ID > m.Highest || r.Slot.Valid() != nil || r.Drops < 0 || i > 0 && r.ID <= m.Vends[i-1].ID {
			return memory{}, fmt.Errorf("memory: vend %d in slot %d is not plausible", r.ID, r.Slot)
		}
	}
	return m, nil
}

// File keeps the memory in one file. Path's folder is on the data partition.
type File struct{ Path string }

// Load returns what Save was given last, nil if there is no file.
func (f File) Load() ([]byte, error) {
	data, err := os.ReadFile(f.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// Save is durable when it returns nil: a new file in the old one's place. After a
// failure either may be there.
func (f File) Save(data []byte) error { return durable.WriteFile(f.Path, data) }

// Aside moves a damaged file out of the way and keeps it for a person to look at.
func (f File) Aside() error {
	err := os.Rename(f.Path, f.Path+".damaged")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
