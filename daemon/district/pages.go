package district

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"yaoju/daemon/words"
	"yaoju/protocol"
)

func contextFor(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), pageLimit)
}

// filters are the chips, the first one is shown when none is asked for.
func filters() []string { return []string{"all", "action", "low", "empty", "offl"} }

// matches reports whether a machine belongs under a chip.
func matches(filter string, s standing) bool {
	switch filter {
	case "action":
		return s != standOK
	case "low", "empty", "offl":
		return string(s) == filter
	}
	return true
}

// speech is a language and what is said in it.
type speech struct {
	book *words.Book
	lang string
	now  time.Time
	zone *time.Location
}

// say is a phrase; vars are names and values in turn.
func (s speech) say(key string, vars ...string) string {
	m := make(map[string]string, len(vars)/2)
	for i := 0; i+1 < len(vars); i += 2 {
		m[vars[i]] = vars[i+1]
	}
	return s.book.Text(s.lang, key, m)
}

func (s speech) text(t protocol.Text) string {
	if s.lang == "en" {
		return cmp.Or(t.EN, t.ZH)
	}
	return cmp.Or(t.ZH, t.EN)
}

// age is how long ago something was, rounded down to one unit.
func (s speech) age(at time.Time) string {
	if at.IsZero() {
		return s.say("console.never")
	}
	d := max(0, s.now.Sub(at))
	switch {
	case d < time.Minute:
		return s.say("console.ago.s", "n", strconv.Itoa(int(d.Seconds())))
	case d < time.Hour:
		return s.say("console.ago.min", "n", strconv.Itoa(int(d.Minutes())))
	case d < 48*time.Hour:
		return s.say("console.ago.h", "n", strconv.Itoa(int(d.Hours())))
	}
	return s.say("console.ago.d", "n", strconv.Itoa(int(d.Hours())/24))
}

// moment is when something was: the time if it was today, else the day as well.
func (s speech) moment(at time.Time) string {
	at = at.In(s.zone)
	if at.Format(time.DateOnly) == s.now.In(s.zone).Format(time.DateOnly) {
		return at.Format("15:04")
	}
	return words.Day(s.lang, at) + " " + at.Format("15:04")
}

// day is a calendar day in words.
func (s speech) day(day string) string {
	t, err := time.Parse(time.DateOnly, day)
	if err != nil {
		return day
	}
	return words.Day(s.lang, t)
}

// page is everything the template draws.
type page struct {
	s speech

	Lang     string
	CSS, JS  string
	Title    string
	District string
	Now      string
	Age      string
	Home     string // address of the list
	Other    link   // the same page in the other language
	Search   string
	Keep     []link // what a search keeps of the address
	Chips    []chip
	Rows     []row
	Range    string
	Prev     string // address; empty: there is none
	Next     string
	Machine  *panel // nil: the list alone
}

type link struct{ Name, To string }

type chip struct {
	Name, To string
	N        int
	On       bool
}

// T is a phrase, for the template.
func (p *page) T(key string, vars ...string) string { return p.s.say(key, vars...) }

type pill struct{ Kind, Word string }

type bar struct {
	Kind   string // "", low or empty
	Y, H   int    // of the filled part, in a box 24 high
	Letter string
}

type row struct {
	ID, To   string
	On       bool
	Pill     pill
	Name     string
	Street   string
	Bars     []bar
	Stock    string // the bars in words
	Today    int
	Week     int
	Seen     string
	SeenAt   string // for machines: RFC 3339
	standing standing
}

func (c *console) page(ctx context.Context, q query, m protocol.MachineID, now time.Time) (*page, error) {
	views, err := c.d.allViews(ctx, now)
	if err != nil {
		return nil, err
	}
	s := speech{book: c.words, lang: q.lang, now: now, zone: c.d.o.Zone}
	p := &page{
		s: s, Lang: q.lang, CSS: c.css, JS: c.js,
		District: s.text(c.d.o.Name), Now: words.DateTime(q.lang, now.In(c.d.o.Zone)),
		Home: q.link("/"), Search: q.search,
	}
	path := "/"
	if m != "" {
		path = "/machines/" + string(m)
	}
	other := q
	other.asked, other.lang = true, "en"
	p.Other.Name = "English"
	if q.lang == "en" {
		other.lang, p.Other.Name = "zh-CN", "中文"
	}
	p.Other.To = other.link(path)
	if q.asked {
		p.Keep = append(p.Keep, link{"lang", strings.TrimSuffix(q.lang, "-CN")})
	}
	if q.filter != filters()[0] {
		p.Keep = append(p.Keep, link{"show", q.filter})
	}
	p.Title = s.say("console.machines")
	c.list(p, q, views, m)
	if m == "" {
		return p, nil
	}
	i := slices.IndexFunc(views, func(v *view) bool { return v.Machine == m })
	if i < 0 {
		return nil, ErrUnknownMachine
	}
	p.Machine, err = c.panel(ctx, s, q, views[i])
	if err != nil {
		return nil, err
	}
	p.Title = p.Machine.Name + " · " + p.Title
	return p, nil
}

// list fills chips and rows.
func (c *console) list(p *page, q query, views []*view, chosen protocol.MachineID) {
	s := p.s
	var newest time.Time
	var all []row
	count := map[string]int{}
	for _, v := range views {
		r := c.row(s, q, v)
		r.On = v.Machine == chosen
		if at := c.d.seenAt(v.Machine); at.After(newest) {
			newest = at
		}
		if !found(v, q.search) {
			continue
		}
		for _, f := range filters() {
			if matches(f, r.standing) {
				count[f]++
			}
		}
		if matches(q.filter, r.standing) {
			all = append(all, r)
		}
	}
	p.Age = s.say("console.data", "age", s.age(newest))
	for _, f := range filters() {
		to := q
		to.filter, to.page = f, 1
		p.Chips = append(p.Chips, chip{s.say("console.show." + f), to.link("/"), count[f], f == q.filter})
	}
	order := standings()
	slices.SortFunc(all, func(a, b row) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.standing), slices.Index(order, b.standing)), cmp.Compare(a.ID, b.ID))
	})
	pages := max(1, (len(all)+rowsPerPage-1)/rowsPerPage)
	q.page = min(q.page, pages)
	from := (q.page - 1) * rowsPerPage
	p.Rows = all[from:min(from+rowsPerPage, len(all))]
	p.Range = s.say("console.range", "from", strconv.Itoa(min(from+1, len(all))), "to", strconv.Itoa(from+len(p.Rows)), "n", strconv.Itoa(len(all)))
	turn := q
	if q.page > 1 {
		turn.page = q.page - 1
		p.Prev = turn.link("/")
	}
	if q.page < pages {
		turn.page = q.page + 1
		p.Next = turn.link("/")
	}
}

func found(v *view, search string) bool {
	if search == "" {
		return true
	}
	search = strings.ToLower(search)
	return slices.ContainsFunc([]string{string(v.Machine), v.Name.ZH, v.Name.EN, v.Street.ZH, v.Street.EN}, func(t string) bool {
		return strings.Contains(strings.ToLower(t), search)
	})
}

func (c *console) row(s speech, q query, v *view) row {
	st := v.standing(s.now)
	seen := c.d.seenAt(v.Machine)
	r := row{
		ID: string(v.Machine), To: q.link("/machines/" + string(v.Machine)), Pill: s.pill(st),
		Name: s.text(v.Name), Street: s.text(v.Street), Seen: s.age(seen), standing: st,
		Today: v.givenOn(c.d.lastDays(s.now, 1)...), Week: v.givenOn(c.d.lastDays(s.now, 7)...),
	}
	if !seen.IsZero() {
		r.SeenAt = seen.UTC().Format(time.RFC3339)
	}
	var said []string
	for _, x := range v.products {
		r.Bars = append(r.Bars, x.bar())
		said = append(said, fmt.Sprintf("%s %d/%d", x.Letter, x.Pieces, x.Capacity))
	}
	r.Stock = strings.Join(said, " ")
	return r
}

func (s speech) pill(st standing) pill {
	return pill{string(st), s.say("console.standing." + string(st))}
}

const barHeight = 24

func (x productView) bar() bar {
	b := bar{Letter: x.Letter}
	if x.Capacity > 0 {
		b.H = min(barHeight, max(0, (x.Pieces*barHeight+x.Capacity-1)/x.Capacity))
	}
	b.Y = barHeight - b.H
	switch {
	case x.Pieces <= 0:
		b.Kind = "empty"
	case x.Pieces < x.Par || x.Pieces*4 < x.Capacity:
		b.Kind = "low"
	}
	return b
}

// panel is one machine, beside the list.
type panel struct {
	ID, Name, Street string
	Pill             pill
	Age              string // of the snapshot
	Facts            []link // what and how much; To is plain text here
	Faults           []faultLine
	Products         []productLine
	Slots            []slotLine
	Blockable        []link // slots for the form: To is the number
	Events           []eventLine
	Post             string // address of the form
	Paused           bool
	Commands         []eventLine
}

type faultLine struct{ Kind, Code, Text string }

type productLine struct {
	Letter, Name     string
	Pieces, Capacity int
	Bar              bar
}

type slotLine struct {
	Place            string // class: row and column
	Slot             string
	Letter           string
	Pieces, Capacity int
	Kind             string // "", low, empty or off
	Mark             string // icon: blocked, unknown, empty, low or expiry
	Said             string
}

type eventLine struct{ When, At, Text string }

func (c *console) panel(ctx context.Context, s speech, q query, v *view) (*panel, error) {
	st := v.standing(s.now)
	p := &panel{
		ID: string(v.Machine), Name: cmp.Or(s.text(v.Name), string(v.Machine)), Street: s.text(v.Street), Pill: s.pill(st),
		Age: s.say("console.snapshot", "age", s.age(v.stateAt)), Post: q.link("/machines/" + string(v.Machine) + "/commands"),
	}
	p.facts(s, v)
	p.faults(s, v)
	for _, x := range v.products {
		p.Products = append(p.Products, productLine{x.Letter, s.text(x.Name), x.Pieces, x.Capacity, x.bar()})
	}
	for _, x := range v.slots {
		p.slot(s, v, x)
	}
	for _, x := range v.commands {
		p.Commands = append(p.Commands, commandLine(s, x))
	}
	var err error
	p.Events, err = c.d.eventLines(ctx, s, v)
	return p, err
}

func (p *panel) fact(s speech, key, value string) {
	if value != "" {
		p.Facts = append(p.Facts, link{s.say("console.fact." + key), value})
	}
}

func (p *panel) facts(s speech, v *view) {
	p.fact(s, "place", s.text(v.Where))
	st := v.state
	if st == nil {
		return
	}
	p.Paused = v.paused()
	p.fact(s, "serving", s.say("console.serving."+servingKey(st.Serving)))
	door := "closed"
	if st.DoorOpen {
		door = "open"
	}
	p.fact(s, "door", s.say("console.door."+door))
	climate := s.say("console.climate.none")
	if st.Climate != nil {
		climate = s.say("console.climate", "c", strconv.FormatFloat(st.Climate.C, 'f', 0, 64), "rh", strconv.FormatFloat(st.Climate.RH, 'f', 0, 64))
	}
	p.fact(s, "climate", climate)
	if st.Open > 0 {
		p.fact(s, "open", s.say("console.open", "n", strconv.Itoa(st.Open)))
	}
	p.fact(s, "software", st.Software)
	board := s.say("console.board.down")
	if st.Board.Up {
		board = st.Board.Serial
		if st.Board.Build != 0 {
			board += " · " + strconv.FormatUint(uint64(st.Board.Build), 10)
		}
	}
	p.fact(s, "board", board)
	switch {
	case v.wanted == (protocol.DesiredVersion{}):
	case v.wanted == st.Desired:
		p.fact(s, "desired", s.say("console.desired.applied", "v", strconv.FormatUint(v.wanted.Version, 10)))
	default:
		p.fact(s, "desired", s.say("console.desired.waiting", "v", strconv.FormatUint(v.wanted.Version, 10)))
	}
}

func servingKey(x protocol.Serving) string {
	switch x {
	case protocol.ServingOpen, protocol.ServingEmpty:
		return string(x)
	}
	return string(protocol.ServingClosed)
}

func (p *panel) faults(s speech, v *view) {
	for _, a := range v.alarms {
		p.Faults = append(p.Faults, faultLine{"urgent", "", s.say("console.alarm."+a.Kind) + " (" + s.age(a.Last) + ")"})
	}
	if v.state == nil {
		return
	}
	for _, f := range v.state.Faults {
		kind := "notice"
		switch info, _ := f.Fault.Info(); info.Severity {
		case protocol.Urgent:
			kind = "urgent"
		case protocol.Warning:
			kind = "warning"
		}
		p.Faults = append(p.Faults, faultLine{kind, f.Fault.Code(), s.fault(f.Fault, f.Slot)})
	}
}

// fault names a fault, with its slot where it has one.
func (s speech) fault(f protocol.Fault, slot protocol.Slot) string {
	info, _ := f.Info()
	text := s.text(protocol.Text{ZH: info.ZH, EN: info.EN})
	if slot == 0 {
		return text
	}
	return s.say("console.slot.fault", "slot", strconv.Itoa(int(slot)), "what", text)
}

func (p *panel) slot(s speech, v *view, x slotView) {
	r, col := (int(x.Slot)-1)/protocol.Columns+1, (int(x.Slot)-1)%protocol.Columns+1
	l := slotLine{
		Place: fmt.Sprintf("r%d c%d", r, col), Slot: strconv.Itoa(int(x.Slot)), Letter: x.Letter,
		Pieces: x.Pieces, Capacity: x.Capacity,
	}
	var notes []string
	switch {
	case x.Blocked != "":
		l.Kind, l.Mark = "off", "blocked"
		if x.Blocked == protocol.BlockUnknown {
			l.Mark = "unknown"
		}
		notes = append(notes, s.say("console.block."+blockKey(x.Blocked)))
	case x.Pieces <= 0:
		l.Kind, l.Mark = "empty", "empty"
		notes = append(notes, s.say("console.standing.empty"))
	case x.Pieces < x.Par:
		l.Kind, l.Mark = "low", "low"
		notes = append(notes, s.say("console.standing.low"))
	}
	if e := s.expiry(x.Expiry); e != "" && x.Blocked == "" && x.Expiry != "" {
		l.Mark = "expiry"
		notes = append(notes, e)
	}
	l.Said = s.say("console.slot.said", "slot", l.Slot, "product", strings.TrimSpace(x.Letter+" "+s.text(nameOf(v, x.Product))),
		"n", strconv.Itoa(x.Pieces), "max", strconv.Itoa(x.Capacity))
	for _, n := range notes {
		l.Said += s.say("console.comma") + n
	}
	p.Slots = append(p.Slots, l)
	p.Blockable = append(p.Blockable, link{s.say("console.slot.name", "slot", l.Slot, "letter", x.Letter), l.Slot})
}

// expiry says that a last day of use is near or past; empty if it is far.
func (s speech) expiry(day protocol.DateOnly) string {
	t, err := time.ParseInLocation(time.DateOnly, string(day), s.zone)
	if err != nil {
		return ""
	}
	switch today := s.now.In(s.zone).Format(time.DateOnly); {
	case string(day) < today:
		return s.say("console.expired")
	case t.Sub(s.now) < nearExpiry:
		return s.say("console.expires", "date", words.Day(s.lang, t))
	}
	return ""
}

func blockKey(b protocol.Block) string {
	switch b {
	case protocol.BlockUnknown, protocol.BlockSuspect, protocol.BlockFault, protocol.BlockStaff:
		return string(b)
	}
	return string(protocol.BlockDistrict)
}

func nameOf(v *view, id protocol.ProductID) protocol.Text {
	for _, p := range v.products {
		if p.ID == id {
			return p.Name
		}
	}
	return protocol.Text{}
}

func commandLine(s speech, x commandView) eventLine {
	text := s.verb(x.Verb, x.Slot)
	key := "waiting"
	switch {
	case x.Result == string(protocol.CommandOK):
		key = "ok"
	case x.Result == string(protocol.CommandExpired), x.Result == "" && s.now.After(x.Expires):
		key = "expired"
	case x.Result != "":
		key = "failed"
	}
	return eventLine{s.moment(x.Made), x.Made.UTC().Format(time.RFC3339), text + s.say("console.comma") + s.say("console.result."+key)}
}

func (s speech) verb(v protocol.Verb, slot protocol.Slot) string {
	switch v {
	case protocol.VerbPause, protocol.VerbResume, protocol.VerbState:
		return s.say("console.verb." + string(v))
	case protocol.VerbBlock, protocol.VerbClear:
		if slot == 0 { // the answer to a command does not name it
			return s.say("console." + string(v))
		}
		return s.say("console.verb."+string(v), "slot", slotName(slot))
	}
	return string(v)
}

func slotName(s protocol.Slot) string { return strconv.Itoa(int(s)) }

// maxEventRead bounds the events read for one list: vends are summed per day, so
// more are read than shown.
const maxEventRead = 400

// Where a line stands within its day: sums first and without a time, so that their
// place among the others does not give a time away.
const (
	rankSum   = 1
	rankVisit = 2
	rankTimed = 3
)

type rankedLine struct {
	eventLine
	day  string
	rank int
}

// eventLines lists the newest events in words. What a resident does is summed per
// day: the minute of a single vend is shown to nobody above the point.
func (d *District) eventLines(ctx context.Context, s speech, v *view) ([]eventLine, error) {
	var lines []rankedLine
	sums := map[string]map[string]int{} // day, phrase, how often
	read, oldest := 0, ""
	err := rows(ctx, d.store.read, `SELECT body FROM event WHERE machine = ? AND ledger = ? ORDER BY seq DESC LIMIT ?`, []any{v.Machine, v.ledger, maxEventRead}, func(r *sql.Rows) error {
		var body []byte
		if err := r.Scan(&body); err != nil {
			return err
		}
		rec, err := protocol.Sealed{Body: body}.Record()
		if err != nil {
			return err
		}
		when := rec.Time().In(s.zone)
		read, oldest = read+1, when.Format(time.DateOnly)
		e, err := protocol.DecodeEvent(rec)
		if err != nil || e == nil {
			return nil // put aside, or from a newer machine: there are no words for it
		}
		if key := visit(e); key != "" {
			if sums[oldest] == nil {
				sums[oldest] = map[string]int{}
			}
			sums[oldest][key]++
			return nil
		}
		line := rankedLine{eventLine{s.moment(when), when.UTC().Format(time.RFC3339), s.event(e)}, oldest, rankTimed}
		if ofVisit(e) {
			line.When, line.At, line.rank = s.day(oldest), oldest, rankVisit
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the events of %s: %w", v.Machine, err)
	}
	if read == maxEventRead {
		delete(sums, oldest) // cut off in mid-day: a sum of it would be too low
	}
	for _, keys := range sums {
		delete(keys, "console.event.given")
	}
	for day, n := range v.given { // kept as a sum of its own, so it is never cut off
		if sums[day] == nil {
			sums[day] = map[string]int{}
		}
		sums[day]["console.event.given"] = n
	}
	for day, keys := range sums {
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			lines = append(lines, rankedLine{eventLine{s.day(day), day, s.say(key, "n", strconv.Itoa(keys[key]))}, day, rankSum})
		}
	}
	slices.SortStableFunc(lines, func(a, b rankedLine) int {
		return cmp.Or(cmp.Compare(b.day, a.day), cmp.Compare(a.rank, b.rank))
	})
	out := make([]eventLine, 0, maxEventList)
	for _, l := range lines[:min(len(lines), maxEventList)] {
		out = append(out, l.eventLine)
	}
	return out, nil
}

// visit names the sum an event goes into, if it is about what a resident did.
// What was given out is summed in the store; here it only must not be listed.
func visit(e protocol.Event) string {
	switch e.(type) {
	case protocol.VendDispensed:
		return "console.event.given"
	case protocol.VendKept:
		return "console.event.kept"
	case protocol.VendUnknown:
		return "console.event.unknown"
	case protocol.OrderDenied:
		return "console.event.denied"
	case protocol.ItemUncollected:
		return "console.event.uncollected"
	case protocol.CardLeft:
		return "console.event.card"
	}
	return ""
}

// ofVisit reports whether an event's time would give the time of a vend away: a
// slot that blocks itself, and what the board reports of a turn.
func ofVisit(e protocol.Event) bool {
	switch e := e.(type) {
	case protocol.SlotBlocked:
		return e.Why != protocol.BlockStaff && e.Why != protocol.BlockDistrict
	case protocol.FaultRaised:
		return e.Slot != 0 || e.Fault == protocol.FaultUnknownVend || e.Fault == protocol.FaultDoubleDrop
	}
	return false
}

// event puts an event into words; the slots and numbers it has, no more.
func (s speech) event(e protocol.Event) string {
	num := strconv.Itoa
	switch e := e.(type) {
	case protocol.Boot:
		return s.say("console.event.boot", "software", e.Software)
	case protocol.LedgerStarted:
		return s.say("console.event.ledger")
	case protocol.VendResolved:
		if e.Outcome == protocol.Dispensed {
			return s.say("console.event.resolved.dispensed", "slot", slotName(e.Slot))
		}
		return s.say("console.event.resolved.kept", "slot", slotName(e.Slot))
	case protocol.StockLoaded:
		return s.say("console.event.loaded", "slot", slotName(e.Slot), "n", num(e.Pieces), "after", num(e.After))
	case protocol.StockCounted:
		return s.say("console.event.counted", "slot", slotName(e.Slot), "n", num(e.Counted), "expected", num(e.Expected))
	case protocol.StockRemoved:
		return s.say("console.event.removed", "slot", slotName(e.Slot), "n", num(e.Pieces), "after", num(e.After))
	case protocol.StockTested:
		return s.say("console.event.tested", "slot", slotName(e.Slot), "n", num(e.Pieces))
	case protocol.SlotBlocked:
		return s.say("console.event.blocked", "slot", slotName(e.Slot), "why", s.say("console.block."+blockKey(e.Why)))
	case protocol.SlotCleared:
		return s.say("console.event.cleared", "slot", slotName(e.Slot))
	case protocol.StaffIn:
		return s.say("console.event.staff.in", "staff", e.Staff)
	case protocol.StaffOut:
		return s.say("console.event.staff.out", "staff", e.Staff)
	case protocol.StaffLocked:
		return s.say("console.event.staff.locked", "staff", e.Staff, "n", num(e.Minutes))
	case protocol.DoorOpened:
		return s.say("console.event.door.opened")
	case protocol.DoorClosed:
		return s.say("console.event.door.closed")
	case protocol.FaultRaised:
		return s.say("console.event.fault.raised", "code", e.Fault.Code(), "what", s.fault(e.Fault, e.Slot))
	case protocol.FaultCleared:
		return s.say("console.event.fault.cleared", "code", e.Fault.Code(), "what", s.fault(e.Fault, e.Slot))
	case protocol.ClimateHour:
		return s.say("console.event.climate", "min", num(int(e.MinC)), "max", num(int(e.MaxC)), "rh", num(int(e.MeanRH)))
	case protocol.DesiredApplied:
		return s.say("console.event.desired", "v", strconv.FormatUint(e.Version, 10))
	case protocol.CommandDone:
		result := "failed"
		if e.Result == protocol.CommandOK {
			result = "ok"
		}
		return s.verb(e.Verb, 0) + s.say("console.comma") + s.say("console.result."+result)
	case protocol.ClockSet:
		return s.say("console.event.clock")
	}
	return string(e.Kind())
}
