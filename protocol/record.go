package protocol

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Limits of records and of the messages that carry them.
const (
	MaxRecord  = 4 << 10  // bytes of one record's body
	MaxMessage = 64 << 10 // bytes of one message, whatever its topic
)

// Hash is a SHA-256 value; on the wire 64 lower-case hexadecimal digits.
type Hash [32]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes the hash in hexadecimal.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText accepts exactly what MarshalText writes.
func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 2*len(h) || bytes.ContainsAny(b, "ABCDEF") {
		return errors.New("hash: want 64 lower-case hexadecimal digits")
	}
	if _, err := hex.Decode(h[:], b); err != nil {
		return errors.New("hash: want 64 lower-case hexadecimal digits")
	}
	return nil
}

// Clock says how far a wall-clock time may be trusted.
type Clock string

const (
	ClockSynced Clock = "synced" // set by the network within the last hours
	ClockHeld   Clock = "held"   // not synchronised, but past the last recorded event
	ClockUnset  Clock = "unset"  // behind what was already recorded: not to be believed
)

// Valid reports what is wrong with the value, or nil.
func (c Clock) Valid() error {
	switch c {
	case ClockSynced, ClockHeld, ClockUnset:
		return nil
	}
	return fmt.Errorf("clock %q: want synced, held or unset", clip(string(c)))
}

// Stamp is when something happened, by every clock the machine has.
type Stamp struct {
	AtMS  int64  `json:"at_ms"` // Unix milliseconds by the wall clock
	Clock Clock  `json:"clock"` // how far AtMS may be trusted
	Boot  uint32 `json:"boot"`  // starts of the daemon since the ledger was made, from 1
	UpMS  int64  `json:"up_ms"` // milliseconds since this start, monotonic
}

// Time is the wall-clock time of the stamp.
func (s Stamp) Time() time.Time { return time.UnixMilli(s.AtMS) }

// Record is one line of the event chain, as decoded. Data stays as it came: a
// reader decodes the kinds it knows with DecodeEvent and keeps the rest.
type Record struct {
	Seq uint64 `json:"seq"` // from 1, without gaps within one ledger
	Stamp
	Kind Kind            `json:"kind"`
	Data json.RawMessage `json:"data"`
	Prev Hash            `json:"prev"` // hash of the record before; zero for the first
}

// Sealed is a record as it is stored and sent: the exact bytes that were hashed,
// and the hash. Bytes are never encoded again on the way.
type Sealed struct {
	Seq  uint64
	Body []byte // JSON of Record
	Hash Hash
}

// Head is the newest record of a chain; the zero Head is an empty chain.
type Head struct {
	Seq  uint64
	Hash Hash
}

// Seal makes the record that follows head.
func Seal(m MachineID, l LedgerID, head Head, at Stamp, e Event) (Sealed, error) {
	data, err := json.Marshal(e)
	if err != nil {
		return Sealed{}, fmt.Errorf("seal %s: %w", e.Kind(), err)
	}
	if err := e.Valid(); err != nil {
		return Sealed{}, fmt.Errorf("seal %s: %w", e.Kind(), err)
	}
	body, err := json.Marshal(Record{Seq: head.Seq + 1, Stamp: at, Kind: e.Kind(), Data: data, Prev: head.Hash})
	if err != nil {
		return Sealed{}, fmt.Errorf("seal %s: %w", e.Kind(), err)
	}
	if len(body) > MaxRecord {
		return Sealed{}, fmt.Errorf("seal %s: %d bytes, at most %d are allowed", e.Kind(), len(body), MaxRecord)
	}
	return Sealed{Seq: head.Seq + 1, Body: body, Hash: chainHash(m, l, head.Hash, body)}, nil
}

// chainHash is SHA-256 over the previous hash, machine, ledger and the exact bytes
// of the body. Neither id can hold a newline, so the parts cannot run together.
func chainHash(m MachineID, l LedgerID, prev Hash, body []byte) (h Hash) {
	d := sha256.New()
	d.Write(prev[:])
	fmt.Fprintf(d, "%s\n%s\n", m, l)
	d.Write(body)
	d.Sum(h[:0])
	return h
}

// A ChainError says where a chain is broken and how.
type ChainError struct {
	Seq uint64
	Why string
}

func (e *ChainError) Error() string {
	return fmt.Sprintf("event chain broken at seq %d: %s", e.Seq, e.Why)
}

// Follow checks that s is the record after head and returns it decoded with the
// new head. The error is a *ChainError when the chain is at fault.
func (s Sealed) Follow(m MachineID, l LedgerID, head Head) (Record, Head, error) {
	r, err := s.Record()
	if err != nil {
		return Record{}, head, err
	}
	switch {
	case r.Seq != head.Seq+1:
		return r, head, &ChainError{s.Seq, fmt.Sprintf("seq %d follows seq %d", r.Seq, head.Seq)}
	case r.Prev != head.Hash:
		return r, head, &ChainError{s.Seq, "it does not name the hash of the record before"}
	case chainHash(m, l, r.Prev, s.Body) != s.Hash:
		return r, head, &ChainError{s.Seq, "its bytes do not match its hash"}
	}
	return r, Head{r.Seq, s.Hash}, nil
}

// Record decodes the body strictly.
func (s Sealed) Record() (Record, error) {
	var r Record
	if err := decode("record", s.Body, MaxRecord, &r); err != nil {
		return Record{}, err
	}
	switch {
	case r.Seq == 0:
		return Record{}, errors.New("record: seq is missing or 0")
	case s.Seq != 0 && r.Seq != s.Seq:
		return Record{}, fmt.Errorf("record: stored as seq %d but says seq %d", s.Seq, r.Seq)
	case r.Kind == "" || len(r.Kind) > MaxName:
		return Record{}, fmt.Errorf("record %d: kind %q: 1 to %d characters are allowed", r.Seq, clip(string(r.Kind)), MaxName)
	case len(r.Data) == 0 || r.Data[0] != '{':
		return Record{}, fmt.Errorf("record %d: data is not an object", r.Seq)
	}
	if err := r.Clock.Valid(); err != nil {
		return Record{}, fmt.Errorf("record %d: %w", r.Seq, err)
	}
	return r, nil
}

// The wire form of a sealed record is its body with the hash spliced in as the
// last member, so that the receiver gets the hashed bytes back by cutting it off.
const (
	hashMember = `,"hash":"`
	hashTail   = len(hashMember) + 2*len(Hash{}) + len(`"}`)
)

func (s Sealed) appendWire(dst []byte) []byte {
	dst = append(dst, s.Body[:len(s.Body)-1]...)
	dst = append(dst, hashMember...)
	dst = hex.AppendEncode(dst, s.Hash[:])
	return append(dst, `"}`...)
}

func unsplice(wire []byte) (s Sealed, err error) {
	cut := len(wire) - hashTail
	if cut < 2 || !bytes.HasPrefix(wire[cut:], []byte(hashMember)) || !bytes.HasSuffix(wire, []byte(`"}`)) {
		return s, errors.New(`record: its last member is not "hash"`)
	}
	if err := s.Hash.UnmarshalText(wire[cut+len(hashMember) : len(wire)-2]); err != nil {
		return s, fmt.Errorf("record: %w", err)
	}
	s.Body = append(append([]byte(nil), wire[:cut]...), '}')
	r, err := s.Record()
	s.Seq = r.Seq
	return s, err
}

// Batch is the content of an events message: consecutive records of one ledger.
type Batch struct {
	Ledger  LedgerID
	Records []Sealed
}

// AppendBatch appends as many of the records as fit one message and returns the
// message with how many it holds; none fit only if there are none.
func AppendBatch(dst []byte, l LedgerID, records []Sealed) (msg []byte, n int) {
	start := len(dst)
	dst = fmt.Appendf(dst, `{"ledger":%q,"records":[`, l)
	for i, s := range records {
		if i > 0 && len(dst)-start+1+len(s.Body)+hashTail+2 > MaxMessage {
			break
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = s.appendWire(dst)
		n++
	}
	return append(dst, `]}`...), n
}

// DecodeBatch decodes an events message. It checks form, not the chain: that
// takes the receiver's head and Follow.
func DecodeBatch(b []byte) (Batch, error) {
	var w struct {
		Ledger  LedgerID          `json:"ledger"`
		Records []json.RawMessage `json:"records"`
	}
	if err := decode("events", b, MaxMessage, &w); err != nil {
		return Batch{}, err
	}
	if err := w.Ledger.Valid(); err != nil {
		return Batch{}, fmt.Errorf("events: %w", err)
	}
	if len(w.Records) == 0 {
		return Batch{}, errors.New("events: no records")
	}
	out := Batch{Ledger: w.Ledger, Records: make([]Sealed, len(w.Records))}
	for i, raw := range w.Records {
		s, err := unsplice(raw)
		if err != nil {
			return Batch{}, fmt.Errorf("events: record %d of %d: %w", i+1, len(w.Records), err)
		}
		if i > 0 && s.Seq != out.Records[i-1].Seq+1 {
			return Batch{}, fmt.Errorf("events: seq %d follows seq %d", s.Seq, out.Records[i-1].Seq)
		}
		out.Records[i] = s
	}
	return out, nil
}

// Ack says that the district has durably stored every record of the ledger up to
// and including Seq. Within one generation it only rises; a restored district
// starts a higher generation, in which it may be lower.
type Ack struct {
	Ledger     LedgerID `json:"ledger"`
	Generation uint64   `json:"generation"` // of the district's store; 0 is none
	Seq        uint64   `json:"seq"`
}

// DecodeAck decodes an ack message.
func DecodeAck(b []byte) (Ack, error) {
	var a Ack
	if err := decode("ack", b, MaxMessage, &a); err != nil {
		return Ack{}, err
	}
	if a.Generation == 0 {
		return Ack{}, errors.New("ack: generation is missing or 0")
	}
	if err := a.Ledger.Valid(); err != nil {
		return Ack{}, fmt.Errorf("ack: %w", err)
	}
	return a, nil
}

// Encode encodes an ack, a state, an online message, a desired state or a command.
func Encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("protocol: encode %T: %v", v, err)) // our own types always encode
	}
	return b
}
