package web

import (
	"fmt"
	"html/template"
	"slices"
	"strconv"
	"time"

	"yaoju/daemon/kiosk"
	"yaoju/daemon/words"
	"yaoju/protocol"
)

// staff says whether a screen is one of staff: a dark head, and no bar of modes.
func staff(s kiosk.Screen) bool {
	switch s {
	case kiosk.StaffPIN, kiosk.StaffWork, kiosk.StaffDone:
		return true
	}
	return false
}

// wideColumns is how many columns of slots leave room for a broad panel.
const wideColumns = 6

// key is one button of the staff's screens.
type key struct {
	Tap   kiosk.Tap
	Arg   string
	Class string
	Icon  template.HTML
	Words template.HTML
	Fast  bool // may be pressed again at once
	Hold  bool // acts while a finger holds it
	On    bool
	Esc   bool // the tactile back key presses it
}

// Key is a button with a phrase of the catalogue on it.
func (s scene) Key(tap kiosk.Tap, arg, phrase string) key {
	return key{Tap: tap, Arg: arg, Words: s.T(phrase)}
}

// Main is the button most people press next.
func (k key) Main() key { k.Class = "main"; return k }

// Back is the button that leads back.
func (k key) Back() key { k.Class, k.Esc = "quiet", true; return k }

// Fast is a button that is pressed several times in a row.
func (s scene) Fast(tap kiosk.Tap, arg, phrase string) key {
	k := s.Key(tap, arg, phrase)
	k.Fast = true
	return k
}

// Sign is Fast with a sign instead of words; they are for who cannot see it.
func (s scene) Sign(tap kiosk.Tap, sign, phrase string) key {
	return key{Tap: tap, Class: "sign", Fast: true, Icon: template.HTML(`<span aria-hidden="true">` + sign + `</span>`), Words: `<span class="vh">` + s.T(phrase) + `</span>`}
}

// HoldKey moves a motor for as long as it is held.
func (s scene) HoldKey(what, phrase string) key {
	k := s.Key(kiosk.TapHold, what, phrase)
	k.Hold, k.On = true, s.Staff.Held == what
	return k
}

// N2 is a phrase with a number in it.
func (s scene) count(phrase string, n int) template.HTML {
	return s.with("n", strconv.Itoa(n)).T(one(phrase, n))
}

// Note is what just came of a tap or a scan.
func (s scene) Note() template.HTML {
	n := s.Staff.Note
	if n.Key == "" {
		return s.Foreign(n.Text)
	}
	t := s.with("n", strconv.Itoa(n.N))
	t.vars["name"] = n.Name
	if n.Key == "staff.scanned" && n.Name == "" {
		return t.T("staff.scanned.bare")
	}
	return t.T(n.Key)
}

// Leaves is how long the session lasts without a touch.
func (s scene) Leaves() template.HTML {
	left := s.Staff.Leaves.Round(time.Second)
	return s.with("left", fmt.Sprintf("%d:%02d", left/time.Minute, left%time.Minute/time.Second)).T("staff.leaves")
}

// Dots are the digits of the PIN: full ones were typed.
func (s scene) Dots() []bool {
	dots := make([]bool, protocol.PINDigits)
	for i := range min(s.Staff.Typed, len(dots)) {
		dots[i] = true
	}
	return dots
}

// Typed says how many digits were typed, for who cannot see the dots.
func (s scene) Typed() string {
	return fmt.Sprintf("%d / %d", s.Staff.Typed, protocol.PINDigits)
}

func digit(d string) key {
	return key{Tap: kiosk.TapDigit, Arg: d, Class: "digit", Words: template.HTML(d), Fast: true}
}

func (s scene) digits(left key) []key {
	var keys []key
	for d := range 9 {
		keys = append(keys, digit(strconv.Itoa(d+1)))
	}
	return append(keys, left, digit("0"), s.Fast(kiosk.TapErase, "", "staff.erase"))
}

// PINKeys are the keypad of the PIN.
func (s scene) PINKeys() []key { return s.digits(s.Key(kiosk.TapExit, "", "staff.leave").Back()) }

// CountKeys are the keypad of a count.
func (s scene) CountKeys() []key {
	return slices.DeleteFunc(s.digits(key{}), func(k key) bool { return k.Tap == "" })
}

// Recorded sums the session up.
func (s scene) Recorded() template.HTML {
	t := s.with("n", strconv.Itoa(s.Staff.Loaded))
	t.vars["slots"] = strconv.Itoa(s.Staff.Slots)
	t.vars["left"] = strconv.Itoa(max(1, int((s.Staff.Took+time.Minute-1)/time.Minute)))
	return t.T("staff.recorded.sum")
}

// square is one place of the grid: a slot, or a gap in the cabinet.
type square struct {
	kiosk.Cell
	Picked bool
	scene  scene
}

// Columns is how many columns of the cabinet have a slot.
func (s scene) Columns() int {
	n := 1
	for _, c := range s.Staff.Cells {
		n = max(n, (int(c.Slot)-1)%protocol.Columns+1)
	}
	return n
}

// Wide says that a slot of the grid has room for more than a few letters.
func (s scene) Wide() bool { return s.Columns() <= wideColumns }

// Grid mirrors the cabinet, row by row from the top; rows without a slot are left out.
func (s scene) Grid() []square {
	var grid []square
	cols := s.Columns()
	for row := range protocol.Rows {
		line, some := make([]square, cols), false
		for _, c := range s.Staff.Cells {
			if at := int(c.Slot) - 1; at/protocol.Columns == row {
				line[at%protocol.Columns], some = square{Cell: c, Picked: c.Slot == s.Staff.Slot, scene: s}, true
			}
		}
		if some {
			grid = append(grid, line...)
		}
	}
	return grid
}

// Number is the slot's, as it is printed on the tray.
func (q square) Number() string { return fmt.Sprintf("%02d", q.Slot) }

// Letter is its product's.
func (q square) Letter() string { return q.scene.product(q.Cell.Product).Letter }

// Count is how many stand in it.
func (q square) Count() string {
	if q.scene.Staff.Panel == kiosk.PanelCount || !q.scene.MayChange() {
		return "" // who counts is not told
	}
	return strconv.Itoa(q.Pieces())
}

// Tag says in a word how it stands.
func (q square) Tag() template.HTML {
	if q.Mark == kiosk.MarkOK {
		if len(q.Lots) == 0 || !q.scene.Wide() {
			return ""
		}
		return template.HTML(template.HTMLEscapeString(string(q.Lots[0].Expiry[2:7])))
	}
	return q.scene.T("staff.mark." + string(q.Mark))
}

// Product is the name of what belongs there, for who cannot see the cabinet.
func (q square) Product() template.HTML {
	return words.Plain(pick(q.scene.lang(), q.scene.product(q.Cell.Product).Name))
}

func (s scene) product(id protocol.ProductID) kiosk.Choice {
	i := slices.IndexFunc(s.Staff.Products, func(c kiosk.Choice) bool { return c.ID == id })
	if i < 0 {
		return kiosk.Choice{Letter: "?", Name: protocol.Text{ZH: string(id), EN: string(id)}}
	}
	return s.Staff.Products[i]
}

// MayChange says whether the account may do more than count.
func (s scene) MayChange() bool { return s.Staff.Account.Role != protocol.RoleAuditor }

// PanelName names what stands beside the grid.
func (s scene) PanelName() string {
	if s.Staff.Slot == 0 {
		return s.Text("staff.need")
	}
	return s.with("n", fmt.Sprintf("%02d", s.Staff.Slot)).Text("staff.slot")
}

// SlotTitle is the picked slot's number.
func (s scene) SlotTitle() template.HTML {
	return s.with("n", fmt.Sprintf("%02d", s.Staff.Slot)).T("staff.slot")
}

// SlotName is its product, and how many stood in it.
func (s scene) SlotName() template.HTML {
	c := s.Staff.Cell()
	name := words.Plain(pick(s.lang(), s.product(c.Product).Name))
	if s.Staff.Panel != kiosk.PanelLoad {
		return name
	}
	return name + `<span class="opt"> · ` + s.count("staff.before", c.Pieces()) + `</span>`
}

// NeedSum is what the whole machine lacks.
func (s scene) NeedSum() template.HTML {
	slots, pieces := 0, 0
	for _, n := range s.Staff.Need {
		slots += n.Slots
		pieces += n.Pieces
	}
	t := s.with("n", strconv.Itoa(pieces))
	t.vars["slots"] = strconv.Itoa(slots)
	return t.T("staff.need.sum")
}

// bring is one line of a list of products.
type bring struct {
	Letter string
	Name   template.HTML
	Pieces int
	Batch  string
}

// Bring lists what each product lacks.
func (s scene) Bring() []bring {
	var list []bring
	for _, n := range s.Staff.Need {
		p := s.product(n.Product)
		list = append(list, bring{Letter: p.Letter, Name: words.Plain(pick(s.lang(), p.Name)), Pieces: n.Pieces})
	}
	return list
}

// ReadyList lists the batches that were scanned.
func (s scene) ReadyList() []bring {
	var list []bring
	for _, c := range s.Staff.Ready {
		p := s.product(c.Product)
		list = append(list, bring{Letter: p.Letter, Name: words.Plain(pick(s.lang(), p.Name)), Batch: c.Batch})
	}
	return list
}

// SureText asks whether all of it was put in.
func (s scene) SureText() template.HTML { return s.count("staff.sure", s.Staff.Draft.N) }

// OfHow is what the stepper's number is out of.
func (s scene) OfHow() string {
	c := s.Staff.Cell()
	of := c.Capacity
	if s.Staff.Panel == kiosk.PanelTake && s.Staff.Draft.Lot < len(c.Batches()) {
		of = c.Batches()[s.Staff.Draft.Lot].Pieces
	}
	return "/" + strconv.Itoa(of)
}

// FillWord is on the key that goes to the end of the stepper.
func (s scene) FillWord() string {
	if s.Staff.Panel == kiosk.PanelTake {
		return "staff.all"
	}
	return "staff.fill"
}

// ExpiryText is the last day of use that is being entered.
func (s scene) ExpiryText() template.HTML {
	at, err := time.Parse(time.DateOnly, string(s.Staff.Draft.Expiry))
	if err != nil {
		return s.T("staff.enter")
	}
	return template.HTML(template.HTMLEscapeString(at.Format("2006-01-02")))
}

// ExpiryKey leads to the expiry.
func (s scene) ExpiryKey() key {
	return key{Tap: kiosk.TapPanel, Arg: string(kiosk.PanelExpiry), Class: "field", Words: s.field("staff.expiry", s.ExpiryText())}
}

// field is a value with its name.
func (s scene) field(name string, value template.HTML) template.HTML {
	return "<small>" + s.T(name) + "</small> " + value
}

// BatchKey leads to the batch number.
func (s scene) BatchKey() key {
	text := words.Plain(s.Staff.Draft.Batch)
	if text == "" {
		text = s.T("staff.enter")
	}
	return key{Tap: kiosk.TapPanel, Arg: string(kiosk.PanelBatch), Class: "field", Words: s.field("staff.batch", text)}
}

// SwitchKey switches the slot off, or on again.
func (s scene) SwitchKey() key {
	for _, why := range s.Staff.Cell().Blocked {
		if why == protocol.BlockStaff || why == protocol.BlockSuspect || why == protocol.BlockFault {
			return s.Key(kiosk.TapOn, "", "staff.enable")
		}
	}
	return s.Key(kiosk.TapOff, "", "staff.disable")
}

// Lots are the batches that stand in the slot, front first.
func (s scene) Lots() []key {
	var keys []key
	for i, l := range s.Staff.Cell().Batches() {
		keys = append(keys, key{Tap: kiosk.TapLot, Arg: strconv.Itoa(i), Class: "field", On: i == s.Staff.Draft.Lot, Words: words.Plain(fmt.Sprintf("%s · %s", l.Batch, l.Expiry[2:7]))})
	}
	return keys
}

func (s scene) reasons(prefix string, all ...string) []key {
	var keys []key
	for _, r := range all {
		keys = append(keys, s.Key(kiosk.TapReason, r, prefix+r))
	}
	return keys
}

// Removals are the reasons why pieces leave.
func (s scene) Removals() []key {
	return s.reasons("staff.removed.", string(protocol.RemovedExpired), string(protocol.RemovedRecalled), string(protocol.RemovedDamaged), string(protocol.RemovedSample), string(protocol.RemovedReturned))
}

// CountReasons are the reasons why a count differs.
func (s scene) CountReasons() []key {
	return s.reasons("staff.differs.", "missing", "found", "miscount", "damaged")
}

// CountText says which batch is counted.
func (s scene) CountText() template.HTML {
	return s.with("name", s.Staff.Draft.Batch).T("staff.counting")
}

// Counted is the number typed so far.
func (s scene) Counted() string {
	if !s.Staff.Draft.Typed {
		return "–"
	}
	return strconv.Itoa(s.Staff.Draft.N)
}

// DiffersText holds count and record side by side.
func (s scene) DiffersText() template.HTML {
	t := s.with("n", strconv.Itoa(s.Staff.Draft.N))
	t.vars["left"] = strconv.Itoa(s.Staff.Expected)
	return t.T("staff.differs")
}

// BatchKeys are what batch numbers are written in.
func (s scene) BatchKeys() []key {
	var keys []key
	for _, r := range "1234567890ABCDEFGHIJKLMNOPQRSTUVWXYZ-/." {
		keys = append(keys, key{Tap: kiosk.TapKey, Arg: string(r), Class: "digit", Words: template.HTML(r), Fast: true})
	}
	return append(keys, s.Fast(kiosk.TapErase, "", "staff.erase"))
}
