package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

// byteTime is what EEPROM takes for a byte: 3.4 ms, and the firmware looks once a
// millisecond whether it is done. A byte that stands already is not written. Three
// places are tried three times before EEPROM is called broken.
const (
	byteTime = 4 * time.Millisecond
	tries    = 3
	failTime = tries * tries * byteTime
)

// Sizes of the rings.
const (
	recordsEach  = 3 // of a vend of one piece: its start, the drop, its end
	dropRecords  = 4 // of one vend at most
	recordLength = 16
	blockLength  = 32
	pagePlaces   = 16
	configPlaces = 2
)

// eeprom is what survives power loss.
type eeprom struct {
	serial  uint64
	journal []record // oldest first, at most recordsEach * Options.Keep
	evicted bool     // an older record has been written over
	highest protocol.VendID
	page    page             // the newest checkpoint, and what the journal says since
	config  *board.Configure // nil if none was ever stored

	// The cells, which say how long a write takes.
	records, pages, configs ring
}

func newEEPROM(serial uint64, keep int) eeprom {
	return eeprom{
		serial:  serial,
		records: newRing(recordsEach*keep, recordLength),
		pages:   newRing(pagePlaces, blockLength),
		configs: newRing(configPlaces, blockLength),
	}
}

// ring is a row of places that are written in turn, so that none wears before the others.
type ring struct {
	cells  [][]byte
	next   int // place to be written
	newest int // place written last
	serial uint16
}

func newRing(places, length int) ring {
	r := ring{newest: places - 1}
	for range places {
		r.cells = append(r.cells, bytes.Repeat([]byte{0xff}, length))
	}
	return r
}

// cost is how long it takes to write block into the next place.
func (r *ring) cost(block []byte) (d time.Duration) {
	for i, b := range block {
		if r.cells[r.next][i] != b {
			d += byteTime
		}
	}
	return d
}

// put writes into the next place as much of block as it takes d to write.
func (r *ring) put(block []byte, d time.Duration) {
	place := r.cells[r.next]
	for i, b := range block {
		if place[i] == b {
			continue
		}
		if d -= byteTime; d < 0 {
			return
		}
		place[i] = b
	}
}

// took goes on to the place after the one that was written.
func (r *ring) took() {
	r.newest, r.serial = r.next, r.serial+1
	r.rewind()
}

// rewind is what a boot does: it finds the newest place.
func (r *ring) rewind() { r.next = (r.newest + 1) % len(r.cells) }

// seal puts the checksum behind what is in a place.
func seal(b []byte) []byte {
	return binary.LittleEndian.AppendUint16(b, board.CRC16(b))
}

// page is what a checkpoint holds. A vend's own records bring it up to date.
type page struct {
	boot, turns, drops uint32
	notHome            board.SlotSet
	latched            protocol.Fault
	latchedSlot        protocol.Slot
}

// block is the page as it stands in EEPROM. upto is the newest record it knows of.
func (p *page) block(serial, upto uint16) []byte {
	b := binary.LittleEndian.AppendUint16(nil, serial)
	b = binary.LittleEndian.AppendUint32(b, p.turns)
	b = binary.LittleEndian.AppendUint32(b, p.drops)
	b = binary.LittleEndian.AppendUint32(b, p.boot)
	b = binary.LittleEndian.AppendUint16(b, upto)
	b = append(b, p.notHome[:]...)
	b = append(b, uint8(p.latched), uint8(p.latchedSlot))
	return seal(append(b, make([]byte, blockLength-2-len(b))...))
}

// recordKind says which moment of a vend a record is of.
type recordKind uint8

const (
	recordStart recordKind = 1
	recordDrop  recordKind = 2
	recordEnd   recordKind = 3
)

// record is one place of the journal.
type record struct {
	kind  recordKind
	state board.VendState
	home  bool // of an end: the spiral stands at home
}

// block is the record as it stands in EEPROM.
func (r *record) block(serial uint16) []byte {
	kind := uint8(r.kind)
	if r.home {
		kind |= 0x80
	}
	b := binary.LittleEndian.AppendUint16(nil, serial)
	b = append(b, kind, uint8(r.state.Slot))
	b = binary.LittleEndian.AppendUint32(b, uint32(r.state.ID))
	b = append(b, r.state.Cause, r.state.Drops)
	b = binary.LittleEndian.AppendUint16(b, r.state.RunMS)
	return seal(binary.LittleEndian.AppendUint16(b, r.state.DropMS))
}

// configBlock is a configuration as it stands in EEPROM.
func configBlock(c board.Configure, serial uint16) []byte {
	b, err := binary.Append(nil, binary.LittleEndian, c)
	if err != nil {
		panic(fmt.Sprintf("sim: a configuration has a field without a fixed size: %v", err))
	}
	return seal(binary.LittleEndian.AppendUint16(b, serial))
}

// writing is what EEPROM takes at the moment.
type writing uint8

const (
	writingNothing writing = iota
	writingRecord
	writingConfig
	writingPage
)

// memory is the firmware's way to EEPROM: one thing at a time, records first.
type memory struct {
	writing    writing
	ring       *ring  // where
	block      []byte // what
	began, due time.Time
	records    []record // to be appended; the first is in hand
	saveConf   bool
	savePage   bool
	appendBad  bool // the last record was not taken
	page       page // as it is being written
	config     board.Configure
}

// account brings p up to date with r, the newest record of its vend; before is how
// many drops the earlier ones had.
func (p *page) account(r record, before uint8) {
	if r.kind == recordStart {
		p.turns++
	}
	p.drops += uint32(r.state.Drops - before)
	if p.notHome = p.notHome.With(r.state.Slot); r.home {
		p.notHome = p.notHome.Without(r.state.Slot)
	}
}

// append writes r into the journal, before whatever else waits.
func (b *Board) append(now time.Time, r record) {
	switch m := &b.mem; m.writing {
	case writingConfig:
		b.giveUp(now)
		m.saveConf = true
	case writingPage:
		b.giveUp(now)
		m.savePage = true
	}
	b.mem.records = append(b.mem.records, r)
	b.write(now)
}

// giveUp leaves the place in hand half written.
func (b *Board) giveUp(now time.Time) {
	if m := &b.mem; m.writing != writingNothing {
		if !b.cabinet.JournalFails {
			m.ring.put(m.block, now.Sub(m.began))
		}
		m.writing = writingNothing
	}
}

// save writes a checkpoint, soon.
func (b *Board) save(now time.Time) {
	b.mem.savePage = true
	b.write(now)
}

// recorded reports that the last record stands, or was not taken.
func (b *Board) recorded() bool { return len(b.mem.records) == 0 }

// saved reports that no checkpoint waits, or that none is taken.
func (b *Board) saved() bool {
	return b.journalBad || !b.mem.savePage && b.mem.writing != writingPage
}

// write starts the next thing that waits, if EEPROM is idle.
func (b *Board) write(now time.Time) {
	m := &b.mem
	if m.writing != writingNothing {
		return
	}
	switch ee := &b.ee; {
	case len(m.records) > 0:
		m.writing, m.ring, m.block = writingRecord, &ee.records, m.records[0].block(ee.records.serial+1)
		if n := len(ee.journal) - recordsEach*b.opt.Keep + 1; n > 0 && !b.cabinet.JournalFails {
			ee.journal, ee.evicted = ee.journal[n:], true // its place is written over from here on
		}
	case b.journalBad:
		return
	case m.saveConf:
		m.writing, m.ring, m.block = writingConfig, &ee.configs, configBlock(b.config, ee.configs.serial+1)
		m.saveConf, m.config = false, b.config
	case m.savePage:
		m.writing, m.ring, m.block = writingPage, &ee.pages, b.page.block(ee.pages.serial+1, ee.records.serial)
		m.savePage, m.page = false, b.page
	default:
		return
	}
	m.began, m.due = now, now.Add(m.ring.cost(m.block))
	if b.cabinet.JournalFails {
		m.due = now.Add(failTime)
	}
}

// written ends what EEPROM had in hand and is due. It reports whether there was any.
func (b *Board) written(now time.Time) bool {
	m := &b.mem
	if !b.powered || m.writing == writingNothing || now.Before(m.due) {
		return false
	}
	what, taken := m.writing, !b.cabinet.JournalFails
	m.writing = writingNothing
	if taken {
		m.ring.put(m.block, m.due.Sub(m.began))
		m.ring.took()
	} else if what != writingRecord {
		m.ring.next = (m.ring.next + tries) % len(m.ring.cells)
	}
	b.journalBad = b.journalBad || !taken
	switch what {
	case writingRecord:
		r := m.records[0]
		m.records, m.appendBad, m.savePage = m.records[1:], !taken, true
		if taken {
			b.appended(r)
		}
	case writingConfig:
		m.saveConf = m.saveConf || !taken // for CLEAR
		if taken {
			c := m.config
			b.ee.config = &c
		}
	case writingPage:
		m.savePage = m.savePage || !taken
		if taken {
			b.ee.page = m.page
		}
	}
	b.write(now)
	return true
}

// appended is a record that stands in the journal.
func (b *Board) appended(r record) {
	var before uint8
	for _, o := range b.ee.journal {
		if o.state.ID == r.state.ID {
			before = o.state.Drops
		}
	}
	b.ee.journal = append(b.ee.journal, r)
	b.ee.highest = max(b.ee.highest, r.state.ID)
	b.page.account(r, before)
	b.ee.page.account(r, before) // a boot reads the journal's newest records after the checkpoint
	if f := protocol.Fault(r.state.Cause); r.kind == recordEnd && f == protocol.FaultRunaway {
		b.ee.page.latched, b.ee.page.latchedSlot = f, r.state.Slot
	}
}

// remembered is what the journal says of id.
func (b *Board) remembered(id protocol.VendID) board.VendState {
	s := board.VendState{ID: id}
	for _, r := range b.ee.journal {
		switch {
		case r.state.ID != id:
		case r.kind == recordEnd:
			return r.state
		default:
			s = r.state
			s.State, s.Cause = board.StateInterrupted, uint8(protocol.FaultInterrupted)
		}
	}
	switch {
	case s.State != 0:
	case id > b.ee.highest:
		s.State = board.StateNone
	case !b.ee.evicted, len(b.ee.journal) > 0 && b.ee.journal[0].state.ID < id:
		s.State = board.StateSkipped
	default:
		s.State = board.StateForgotten
	}
	return s
}
