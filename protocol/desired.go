package protocol

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Text is a phrase in both languages of the screens.
type Text struct {
	ZH string `json:"zh"`
	EN string `json:"en"`
}

// Valid reports what is wrong with it, or nil.
func (t Text) Valid(what string) error {
	return firstError(validText(what+" (zh)", t.ZH), validText(what+" (en)", t.EN))
}

// Product is something the machine can give.
type Product struct {
	ID     ProductID `json:"id"`
	Letter string    `json:"letter"` // A to Z: its name on the screen when names are hidden
	Class  string    `json:"class"`  // quota rules count by class: condom, external
	Units  int       `json:"units"`  // single items in a box, for caps counted in items
	Name   Text      `json:"name"`
	Note   Text      `json:"note"`            // the line under the name
	Codes  []string  `json:"codes,omitempty"` // product numbers on its cartons, as package gs1 reads them
}

// SlotPlan is what a slot should hold: one line of the planogram.
type SlotPlan struct {
	Slot     Slot      `json:"slot"`
	Product  ProductID `json:"product"`
	Capacity int       `json:"capacity"` // pieces the spiral takes
	Par      int       `json:"par"`      // restock below this
}

// Recall names a batch that must not be given out.
type Recall struct {
	Product ProductID `json:"product"`
	Batch   string    `json:"batch"`
}

// Texts are the words that differ from place to place.
type Texts struct {
	Authority Text     `json:"authority"`            // who is responsible for the data
	Phone     string   `json:"phone"`                // service number
	RestockBy DateOnly `json:"restock_by,omitempty"` // when the next visit is due; empty: not known
}

// Nearby is another machine a resident could walk to.
type Nearby struct {
	Name  Text `json:"name"`
	Where Text `json:"where"` // how far and when it is open
}

// Per is the window a quota rule counts in.
type Per string

const (
	PerDays  Per = "days"  // rolling: the day of taking and the Days-1 after it
	PerMonth Per = "month" // calendar month
	PerYear  Per = "year"  // calendar year
)

// Rule is one limit on what one card may take. All rules of a policy must allow
// a box; days are calendar days in the machine's time zone.
type Rule struct {
	Class string `json:"class,omitempty"` // counts this class only; empty: every class together
	Max   int    `json:"max"`             // in the window, at most
	Units bool   `json:"units,omitempty"` // Max counts single items (120 condoms a year), not boxes
	Per   Per    `json:"per"`
	Days  int    `json:"days,omitempty"` // length of a rolling window, 1 to 366
}

// Policy is who may take how much: the quota rules of a district, as data.
type Policy struct {
	AgeFrom int    `json:"age_from"`         // youngest age served, whole years
	AgeTo   int    `json:"age_to,omitempty"` // oldest; 0: no limit
	Rules   []Rule `json:"rules"`
}

// Valid reports what is wrong with it, or nil.
func (p Policy) Valid() error {
	if p.AgeFrom < 0 || p.AgeFrom > 120 || p.AgeTo != 0 && (p.AgeTo < p.AgeFrom || p.AgeTo > 150) {
		return fmt.Errorf("age %d to %d: want 0 to 120, and age_to not under age_from", p.AgeFrom, p.AgeTo)
	}
	if len(p.Rules) == 0 || len(p.Rules) > 16 {
		return fmt.Errorf("%d quota rules: 1 to 16 are allowed", len(p.Rules))
	}
	for i, r := range p.Rules {
		if err := r.valid(); err != nil {
			return fmt.Errorf("quota rule %d: %w", i+1, err)
		}
	}
	return nil
}

func (r Rule) valid() error {
	switch {
	case r.Max < 1 || r.Max > 10000:
		return fmt.Errorf("max %d: 1 to 10000 are allowed", r.Max)
	case len(r.Class) > MaxName:
		return fmt.Errorf("class %q: at most %d characters are allowed", clip(r.Class), MaxName)
	case r.Per == PerDays && (r.Days < 1 || r.Days > 366):
		return fmt.Errorf("days %d: 1 to 366 are allowed", r.Days)
	case r.Per != PerDays && r.Days != 0:
		return fmt.Errorf("days %d: only a rule per days has days", r.Days)
	case r.Per != PerDays && r.Per != PerMonth && r.Per != PerYear:
		return fmt.Errorf("per %q: want days, month or year", clip(string(r.Per)))
	}
	return nil
}

// KeepDays is how long a mark has to be kept under the policy: the longest window.
func (p Policy) KeepDays() int {
	keep := 0
	for _, r := range p.Rules {
		days := r.Days
		switch r.Per {
		case PerMonth:
			days = 31
		case PerYear:
			days = 366
		}
		keep = max(keep, days)
	}
	return keep
}

// Desired is what should be so on one machine: complete, versioned and signed.
type Desired struct {
	Machine MachineID `json:"machine"`
	DesiredVersion
	Policy    Policy     `json:"policy"`
	Products  []Product  `json:"products"`
	Planogram []SlotPlan `json:"planogram"`
	Recalls   []Recall   `json:"recalls,omitempty"`
	Texts     Texts      `json:"texts"`
	Nearby    []Nearby   `json:"nearby,omitempty"`
	Sealed    []byte     `json:"sealed,omitempty"`     // Secrets, sealed to the machine's own key; empty: the accounts stay as they are
	SealedSum []byte     `json:"sealed_sum,omitempty"` // what was sealed, for the district alone: two seals of the same differ
}

// Limits of a desired state.
const (
	MaxProducts = 20
	MaxRecalls  = 200
	MaxNearby   = 4
	MaxCodes    = 8        // numbers of one product
	MaxCode     = 40       // characters of one
	MaxSealed   = 48 << 10 // bytes: what MaxAccounts need
)

// Valid reports what is wrong with it, or nil.
func (d Desired) Valid() error {
	if err := d.Machine.Valid(); err != nil {
		return err
	}
	if d.Generation == 0 || d.Version == 0 {
		return errors.New("generation and version begin at 1")
	}
	if err := d.Policy.Valid(); err != nil {
		return err
	}
	switch {
	case len(d.Products) == 0 || len(d.Products) > MaxProducts:
		return fmt.Errorf("%d products: 1 to %d are allowed", len(d.Products), MaxProducts)
	case len(d.Planogram) > Slots:
		return fmt.Errorf("%d slots in the planogram: at most %d are allowed", len(d.Planogram), Slots)
	case len(d.Recalls) > MaxRecalls:
		return fmt.Errorf("%d recalls: at most %d are allowed", len(d.Recalls), MaxRecalls)
	case len(d.SealedSum) > sha256.Size:
		return fmt.Errorf("%d bytes of sealed_sum: at most %d are allowed", len(d.SealedSum), sha256.Size)
	case len(d.Sealed) > MaxSealed:
		return fmt.Errorf("%d bytes sealed: at most %d are allowed", len(d.Sealed), MaxSealed)
	case len(d.Nearby) > MaxNearby:
		return fmt.Errorf("%d nearby machines: at most %d are allowed", len(d.Nearby), MaxNearby)
	}
	known, letters := map[ProductID]bool{}, map[string]bool{}
	for _, p := range d.Products {
		if err := p.Valid(); err != nil {
			return err
		}
		if known[p.ID] || letters[p.Letter] {
			return fmt.Errorf("product %s, letter %s: appears twice", p.ID, p.Letter)
		}
		for i, r := range d.Policy.Rules {
			if r.Units && (r.Class == "" || r.Class == p.Class) && r.Max < p.Units {
				return fmt.Errorf("quota rule %d: max %d: a box of %s holds %d, so nobody could ever take one", i+1, r.Max, p.ID, p.Units)
			}
		}
		known[p.ID], letters[p.Letter] = true, true
	}
	taken := map[Slot]bool{}
	for _, s := range d.Planogram {
		err := firstError(s.Slot.Valid(), validPieces("capacity", s.Capacity), validPieces("par", s.Par))
		switch {
		case err != nil:
		case taken[s.Slot]:
			err = errors.New("appears twice")
		case !known[s.Product]:
			err = fmt.Errorf("product %q is not in the list of products", clip(string(s.Product)))
		case s.Par > s.Capacity:
			err = fmt.Errorf("par %d is over capacity %d", s.Par, s.Capacity)
		}
		if err != nil {
			return fmt.Errorf("planogram, slot %d: %w", s.Slot, err)
		}
		taken[s.Slot] = true
	}
	for _, r := range d.Recalls {
		if r.Batch == "" || len(r.Batch) > MaxBatch {
			return fmt.Errorf("recall of %s: batch %q: 1 to %d characters are allowed", r.Product, clip(r.Batch), MaxBatch)
		}
	}
	for _, n := range d.Nearby {
		if err := firstError(n.Name.Valid("nearby name"), n.Where.Valid("nearby place")); err != nil {
			return err
		}
	}
	if d.Texts.RestockBy != "" {
		if err := d.Texts.RestockBy.Valid(); err != nil {
			return fmt.Errorf("restock_by: %w", err)
		}
	}
	return firstError(d.Texts.Authority.Valid("authority"), validText("phone", d.Texts.Phone))
}

// Valid reports what is wrong with it, or nil.
func (p Product) Valid() error {
	if err := p.ID.Valid(); err != nil {
		return err
	}
	switch {
	case len(p.Letter) != 1 || p.Letter < "A" || p.Letter > "Z":
		return fmt.Errorf("product %s: letter %q: want one of A to Z", p.ID, clip(p.Letter))
	case p.Class == "" || len(p.Class) > MaxName:
		return fmt.Errorf("product %s: class %q: 1 to %d characters are allowed", p.ID, clip(p.Class), MaxName)
	case p.Units < 1 || p.Units > 1000:
		return fmt.Errorf("product %s: units %d: 1 to 1000 are allowed", p.ID, p.Units)
	}
	if len(p.Codes) > MaxCodes {
		return fmt.Errorf("product %s: %d codes: at most %d are allowed", p.ID, len(p.Codes), MaxCodes)
	}
	for _, c := range p.Codes {
		if c == "" || len(c) > MaxCode {
			return fmt.Errorf("product %s: code %q: 1 to %d characters are allowed", p.ID, clip(c), MaxCode)
		}
	}
	if err := firstError(p.Name.Valid("name"), p.Note.Valid("note")); err != nil {
		return fmt.Errorf("product %s: %w", p.ID, err)
	}
	return nil
}

// Verb is what a command asks for.
type Verb string

const (
	VerbPause  Verb = "pause"  // serve nobody until resume
	VerbResume Verb = "resume" // serve again
	VerbBlock  Verb = "block"  // one slot gives nothing
	VerbClear  Verb = "clear"  // it gives again
	VerbState  Verb = "state"  // send the state now
	VerbUpdate Verb = "update" // take another version of the software into use
)

// MaxCommandID is the longest id of a command.
const MaxCommandID = 36

// Command is something that should happen once. Counter rises with every command
// to one machine within a generation; the machine keeps the highest durably, and
// a command it has seen is answered with its recorded result and not done again.
type Command struct {
	ID          string    `json:"id"` // 1 to 36 of a-z, 0-9 and '-', unique for ever
	Machine     MachineID `json:"machine"`
	Generation  uint64    `json:"generation"`
	Counter     uint64    `json:"counter"`
	NotBeforeMS int64     `json:"not_before_ms"` // Unix milliseconds
	ExpiresMS   int64     `json:"expires_ms"`
	Verb        Verb      `json:"verb"`
	Slot        Slot      `json:"slot,omitempty"`   // of block and clear
	Update      *Update   `json:"update,omitempty"` // of update
}

// Valid reports what is wrong with it, or nil. An unknown verb is not wrong: the
// machine answers that it does not support it.
func (c Command) Valid() error {
	if c.ID == "" || len(c.ID) > MaxCommandID || strings.Trim(c.ID, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("command id %q: 1 to %d of a-z, 0-9 and '-' are allowed", clip(c.ID), MaxCommandID)
	}
	if err := c.Machine.Valid(); err != nil {
		return err
	}
	switch {
	case c.Generation == 0 || c.Counter == 0:
		return errors.New("generation and counter begin at 1")
	case c.ExpiresMS <= c.NotBeforeMS:
		return errors.New("it expires before it begins")
	case c.Verb == "" || len(c.Verb) > MaxName:
		return fmt.Errorf("verb %q: 1 to %d characters are allowed", clip(string(c.Verb)), MaxName)
	case c.Verb == VerbBlock || c.Verb == VerbClear:
		return c.Slot.Valid()
	case c.Verb == VerbUpdate && c.Update == nil:
		return errors.New("update of what is missing")
	case c.Verb == VerbUpdate:
		return c.Update.Valid()
	}
	return nil
}

// Signed carries a desired state, a command or a list of keys past the broker: the exact bytes
// that were signed, the name of the key, and the signature.
type Signed struct {
	Body string `json:"body"` // JSON of Desired, Command or Keys
	Key  string `json:"key"`  // KeyName of the signer
	Sig  []byte `json:"sig"`  // Ed25519 over the purpose, a newline and Body
}

// The purpose is part of what is signed, so that a command can never pass for a
// desired state or a list of keys, or the reverse.
const (
	purposeDesired = "yaoju/1 desired\n"
	purposeCommand = "yaoju/1 command\n"
	purposeKeys    = "yaoju/1 keys\n"
)

// KeyName is how messages refer to a public key: its first 8 bytes in hexadecimal.
func KeyName(k ed25519.PublicKey) string { return hex.EncodeToString(k[:min(8, len(k))]) }

// SignDesired encodes and signs a desired state.
func SignDesired(k ed25519.PrivateKey, d Desired) ([]byte, error) {
	if err := d.Valid(); err != nil {
		return nil, fmt.Errorf("desired state of %s: %w", d.Machine, err)
	}
	return sign(k, purposeDesired, Encode(d))
}

// SignCommand encodes and signs a command.
func SignCommand(k ed25519.PrivateKey, c Command) ([]byte, error) {
	if err := c.Valid(); err != nil {
		return nil, fmt.Errorf("command %s: %w", clip(c.ID), err)
	}
	return sign(k, purposeCommand, Encode(c))
}

func sign(k ed25519.PrivateKey, purpose string, body []byte) ([]byte, error) {
	msg := Encode(Signed{
		Body: string(body),
		Key:  KeyName(k.Public().(ed25519.PublicKey)),
		Sig:  ed25519.Sign(k, append([]byte(purpose), body...)),
	})
	if len(msg) > MaxMessage {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(msg), MaxMessage)
	}
	return msg, nil
}

// OpenDesired checks the signature against the trusted keys and decodes.
func OpenDesired(b []byte, trusted []ed25519.PublicKey) (Desired, error) {
	var d Desired
	if err := open("desired state", purposeDesired, b, trusted, &d); err != nil {
		return Desired{}, err
	}
	if err := d.Valid(); err != nil {
		return Desired{}, fmt.Errorf("desired state: %w", err)
	}
	return d, nil
}

// OpenCommand checks the signature against the trusted keys and decodes. It does
// not judge time or counter: that takes the machine's clock and memory.
func OpenCommand(b []byte, trusted []ed25519.PublicKey) (Command, error) {
	var c Command
	if err := open("command", purposeCommand, b, trusted, &c); err != nil {
		return Command{}, err
	}
	if err := c.Valid(); err != nil {
		return Command{}, fmt.Errorf("command: %w", err)
	}
	return c, nil
}

func open(what, purpose string, b []byte, trusted []ed25519.PublicKey, v any) error {
	var s Signed
	if err := decode(what, b, MaxMessage, &s); err != nil {
		return err
	}
	if !s.signedBy(trusted, purpose) {
		return fmt.Errorf("%s: %w (key %q)", what, ErrNotTrusted, clip(s.Key))
	}
	return decode(what, []byte(s.Body), MaxMessage, v)
}

// ErrNotTrusted says that a message is signed by no key the machine trusts; a
// list of keys that is on its way may change that.
var ErrNotTrusted = errors.New("not signed by a key this machine trusts")

func (s Signed) signedBy(trusted []ed25519.PublicKey, purpose string) bool {
	for _, k := range trusted {
		if KeyName(k) == s.Key && ed25519.Verify(k, append([]byte(purpose), s.Body...), s.Sig) {
			return true
		}
	}
	return false
}
