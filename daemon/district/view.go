package district

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"yaoju/protocol"
)

const (
	// staleAfter is two missed snapshots and a little: a machine that says less is offline.
	staleAfter = 11 * time.Minute
	// nearExpiry is how far ahead people want to know of a last day of use.
	nearExpiry = 60 * 24 * time.Hour
	// maxLater bounds the events read on top of a snapshot; the next one heals what is cut off.
	maxLater = 2000
)

// view is one machine as pages show it. It is read from the store when something
// changed and never edited afterwards.
type view struct {
	Place
	day       string // the calendar day it was read on: what has expired depends on it
	ledger    protocol.LedgerID
	state     *protocol.State // latest snapshot, with later blocks, faults and door; nil: none yet
	stateAt   time.Time       // when it came in
	connected bool
	slots     []slotView // fitted ones, lowest first
	products  []productView
	given     map[string]int // pieces by calendar day, today and the 6 before
	alarms    []alarmView
	wanted    protocol.DesiredVersion // zero: none was ever set
	commands  []commandView           // newest first
}

type slotView struct {
	Slot     protocol.Slot
	Product  protocol.ProductID
	Letter   string
	Pieces   int // that could be given
	Capacity int
	Par      int
	Expiry   protocol.DateOnly
	Blocked  protocol.Block
}

type productView struct {
	ID       protocol.ProductID
	Letter   string
	Name     protocol.Text
	Pieces   int // in slots that are not blocked
	Par      int
	Capacity int
}

type alarmView struct {
	Kind   string
	Detail string
	Last   time.Time
}

type commandView struct {
	Verb    protocol.Verb
	Slot    protocol.Slot
	Made    time.Time
	Expires time.Time
	Result  string // empty until the machine answers
}

// standing is how a machine is doing, in one word.
type standing string

const (
	standEmpty   standing = "empty"  // a product has run out
	standFault   standing = "fault"  // somebody has to look at it
	standOffline standing = "offl"   // not connected, or silent
	standLow     standing = "low"    // a product is below its restock level
	standPaused  standing = "paused" // serves nobody because somebody said so
	standOK      standing = "ok"
)

// word is the standing as a whole word, for metrics.
func (s standing) word() string {
	if s == standOffline {
		return "offline"
	}
	return string(s)
}

// standings lists them, worst first.
func standings() []standing {
	return []standing{standEmpty, standFault, standOffline, standLow, standPaused, standOK}
}

// standing judges the machine. Offline comes before everything else: what it said
// last is old.
func (v *view) standing(now time.Time) standing {
	if v.state == nil || !v.connected || now.Sub(v.stateAt) > staleAfter {
		return standOffline
	}
	low := false
	for _, p := range v.products {
		if p.Pieces <= 0 {
			return standEmpty
		}
		low = low || p.Pieces < p.Par || p.Pieces*4 < p.Capacity
	}
	switch {
	case v.broken():
		return standFault
	case low:
		return standLow
	case v.paused():
		return standPaused
	}
	return standOK
}

// broken reports whether somebody has to look at the machine or at its records.
func (v *view) broken() bool {
	if len(v.alarms) > 0 || v.state.Open > 0 {
		return true
	}
	for _, f := range v.state.Faults {
		if info, _ := f.Fault.Info(); info.Severity >= protocol.Warning {
			return true
		}
	}
	return slices.ContainsFunc(v.slots, func(s slotView) bool {
		return s.Blocked == protocol.BlockUnknown || s.Blocked == protocol.BlockSuspect || s.Blocked == protocol.BlockFault
	})
}

func (v *view) paused() bool {
	return slices.ContainsFunc(v.state.Faults, func(f protocol.FaultRaised) bool { return f.Fault == protocol.FaultPaused })
}

// givenOn is how many pieces were given out on the days given.
func (v *view) givenOn(days ...string) int {
	n := 0
	for _, d := range days {
		n += v.given[d]
	}
	return n
}

// lastDays lists today and the n-1 days before it.
func (d *District) lastDays(now time.Time, n int) []string {
	y, m, day := now.In(d.o.Zone).Date()
	out := make([]string, n)
	for i := range out {
		out[i] = time.Date(y, m, day-i, 0, 0, 0, 0, time.UTC).Format(time.DateOnly)
	}
	return out
}

// allViews returns every machine as it is now, reading again what changed.
func (d *District) allViews(ctx context.Context, now time.Time) ([]*view, error) {
	today := d.lastDays(now, 1)[0]
	d.mu.Lock()
	for m, v := range d.views {
		if v.day != today {
			d.stale[m] = true
		}
	}
	due := d.stale
	d.stale = map[protocol.MachineID]bool{}
	d.mu.Unlock()

	for m := range due {
		v, err := d.readView(ctx, m, now)
		d.mu.Lock()
		switch {
		case err == nil:
			d.views[m] = v
			delete(due, m)
		case errors.Is(err, sql.ErrNoRows):
			delete(due, m) // heard, but not stored
		default:
			for left := range due {
				d.stale[left] = true
			}
		}
		d.mu.Unlock()
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*view, 0, len(d.views))
	for _, v := range d.views {
		out = append(out, v)
	}
	return out, nil
}

// seenAt is when a machine was last heard; zero if never.
func (d *District) seenAt(m protocol.MachineID) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := d.seen[m]
	if at.UnixMilli() <= 0 {
		return time.Time{}
	}
	return at
}

// readView reads one machine in one reading transaction, so that its numbers
// belong together.
func (d *District) readView(ctx context.Context, m protocol.MachineID, now time.Time) (*view, error) {
	c, err := d.store.read.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("read machine %s: %w", m, err)
	}
	defer c.Close() // gives it back
	// Not tied to ctx, for the reason store.tx gives; the statements are.
	tx, err := c.BeginTx(context.WithoutCancel(ctx), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("read machine %s: %w", m, err)
	}
	defer tx.Rollback() // nothing was changed
	v := &view{Place: Place{Machine: m}, day: d.lastDays(now, 1)[0], given: map[string]int{}}
	r := reader{ctx: ctx, tx: tx, v: v}
	for _, step := range []func() error{r.place, r.snapshot, r.later, r.desired, r.fit, r.totals, func() error { return r.history(d.lastDays(now, 7)[6]) }} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("read machine %s: %w", m, err)
		}
	}
	return v, nil
}

// reader fills a view step by step.
type reader struct {
	ctx context.Context
	tx  *sql.Tx
	v   *view

	head    uint64 // newest seq stored of the ledger
	recalls map[protocol.Recall]bool
	names   map[protocol.ProductID]protocol.Product
}

func (r *reader) place() error {
	p := &r.v.Place
	return r.tx.QueryRowContext(r.ctx, `SELECT name_zh, name_en, street_zh, street_en, place_zh, place_en FROM machine WHERE id = ?`, p.Machine).
		Scan(&p.Name.ZH, &p.Name.EN, &p.Street.ZH, &p.Street.EN, &p.Where.ZH, &p.Where.EN)
}

func (r *reader) snapshot() error {
	m := r.v.Machine
	st, err := storedState(r.ctx, r.tx, m)
	if err != nil {
		return err
	}
	r.v.state = st
	if st != nil {
		var ms int64
		if err := r.tx.QueryRowContext(r.ctx, `SELECT received_ms FROM state WHERE machine = ?`, m).Scan(&ms); err != nil {
			return err
		}
		r.v.stateAt = time.UnixMilli(ms)
	}
	err = r.tx.QueryRowContext(r.ctx, `SELECT online FROM online WHERE machine = ?`, m).Scan(&r.v.connected)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if r.v.ledger, err = currentLedger(r.ctx, r.tx, m); err != nil {
		return err
	}
	h, err := head(r.ctx, r.tx, m, r.v.ledger)
	r.head = h.Seq
	return err
}

// later brings blocks, faults and the door up to the newest event.
func (r *reader) later() error {
	st := r.v.state
	if st == nil {
		return nil
	}
	return rows(r.ctx, r.tx, `SELECT body FROM event WHERE machine = ? AND ledger = ? AND seq > ?
		AND kind IN ('slot.blocked', 'slot.cleared', 'fault.raised', 'fault.cleared', 'door.opened', 'door.closed') ORDER BY seq LIMIT ?`,
		[]any{r.v.Machine, st.Ledger, st.Head, maxLater}, func(rs *sql.Rows) error {
			var body []byte
			if err := rs.Scan(&body); err != nil {
				return err
			}
			rec, err := protocol.Sealed{Body: body}.Record()
			if err != nil {
				return err
			}
			e, err := protocol.DecodeEvent(rec)
			if err != nil {
				return nil // put aside when it came in
			}
			advance(st, e)
			return nil
		})
}

// advance applies one event to a snapshot that is older.
func advance(st *protocol.State, e protocol.Event) {
	block := func(s protocol.Slot, why protocol.Block) {
		for i := range st.Slots {
			if st.Slots[i].Slot == s {
				st.Slots[i].Blocked = why
			}
		}
	}
	switch e := e.(type) {
	case protocol.SlotBlocked:
		block(e.Slot, e.Why)
	case protocol.SlotCleared:
		block(e.Slot, "")
	case protocol.DoorOpened:
		st.DoorOpen = true
	case protocol.DoorClosed:
		st.DoorOpen = false
	case protocol.FaultRaised:
		if !slices.Contains(st.Faults, e) {
			st.Faults = append(st.Faults, e)
		}
	case protocol.FaultCleared:
		st.Faults = slices.DeleteFunc(st.Faults, func(f protocol.FaultRaised) bool { return f == protocol.FaultRaised(e) })
	}
}

func (r *reader) desired() error {
	r.recalls, r.names = map[protocol.Recall]bool{}, map[protocol.ProductID]protocol.Product{}
	var body []byte
	err := r.tx.QueryRowContext(r.ctx, `SELECT generation, version, body FROM desired WHERE machine = ?`, r.v.Machine).
		Scan(&r.v.wanted.Generation, &r.v.wanted.Version, &body)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	want, err := decodeDesired(body)
	if err != nil {
		return err
	}
	for _, x := range want.Recalls {
		r.recalls[x] = true
	}
	for _, p := range want.Products {
		r.names[p.ID] = p
	}
	return nil
}

// stock is what the events say of one slot.
type stock struct {
	product protocol.ProductID
	pieces  int               // neither expired nor recalled
	expiry  protocol.DateOnly // nearest, of what is there
}

func (r *reader) stocks() (map[protocol.Slot]stock, error) {
	out := map[protocol.Slot]stock{}
	err := rows(r.ctx, r.tx, `SELECT slot, product, batch, expiry, pieces FROM level WHERE machine = ? AND ledger = ? AND pieces > 0 ORDER BY since`,
		[]any{r.v.Machine, r.v.ledger}, func(rs *sql.Rows) error {
			var x protocol.Stock
			var n int
			if err := rs.Scan(&x.Slot, &x.Product, &x.Batch, &x.Expiry, &n); err != nil {
				return err
			}
			s := out[x.Slot]
			s.product = x.Product
			if s.expiry == "" || x.Expiry < s.expiry {
				s.expiry = x.Expiry
			}
			if string(x.Expiry) >= r.v.day && !r.recalls[protocol.Recall{Product: x.Product, Batch: x.Batch}] {
				s.pieces += n
			}
			out[x.Slot] = s
			return nil
		})
	return out, err
}

// fit lists the slots. The snapshot says what is fitted; the events say how much
// is in it, because they are newer, unless they are known to be behind or wrong.
func (r *reader) fit() error {
	if err := r.alarms(); err != nil {
		return err
	}
	levels, err := r.stocks()
	if err != nil {
		return err
	}
	if r.v.state == nil {
		for s, x := range levels {
			r.v.slots = append(r.v.slots, slotView{Slot: s, Product: x.product, Pieces: x.pieces, Expiry: x.expiry})
		}
		slices.SortFunc(r.v.slots, func(a, b slotView) int { return cmp.Compare(a.Slot, b.Slot) })
		return nil
	}
	behind := r.head < r.v.state.Head || slices.ContainsFunc(r.v.alarms, func(a alarmView) bool { return a.Kind == alarmBalance })
	for _, s := range r.v.state.Slots {
		if s.Capacity == 0 && s.Product == "" {
			continue
		}
		x := slotView{Slot: s.Slot, Product: s.Product, Pieces: s.Pieces, Capacity: s.Capacity, Par: s.Par, Expiry: s.Expiry, Blocked: s.Blocked}
		if !behind {
			x.Pieces, x.Expiry = levels[s.Slot].pieces, levels[s.Slot].expiry
		}
		r.v.slots = append(r.v.slots, x)
	}
	return nil
}

func (r *reader) alarms() error {
	return rows(r.ctx, r.tx, `SELECT kind, detail, last_ms FROM alarm WHERE machine = ? ORDER BY last_ms DESC`, []any{r.v.Machine}, func(rs *sql.Rows) error {
		var a alarmView
		var ms int64
		err := rs.Scan(&a.Kind, &a.Detail, &ms)
		a.Last = time.UnixMilli(ms)
		r.v.alarms = append(r.v.alarms, a)
		return err
	})
}

// totals adds the slots up by product and gives every product its letter.
func (r *reader) totals() error {
	sums := map[protocol.ProductID]*productView{}
	for _, s := range r.v.slots {
		if s.Product == "" {
			continue
		}
		p := sums[s.Product]
		if p == nil {
			p = &productView{ID: s.Product, Letter: r.names[s.Product].Letter, Name: r.names[s.Product].Name}
			sums[s.Product] = p
		}
		p.Capacity += s.Capacity
		p.Par += s.Par
		if s.Blocked == "" {
			p.Pieces += s.Pieces
		}
	}
	for _, p := range sums {
		r.v.products = append(r.v.products, *p)
	}
	slices.SortFunc(r.v.products, func(a, b productView) int {
		return cmp.Or(cmp.Compare(a.Letter, b.Letter), cmp.Compare(a.ID, b.ID))
	})
	letters := map[protocol.ProductID]string{}
	for i := range r.v.products {
		p := &r.v.products[i]
		if p.Letter == "" { // nobody named it yet
			p.Letter = "?"
			if len(r.names) == 0 && i < 26 {
				p.Letter = string(rune('A' + i))
			}
		}
		if p.Name == (protocol.Text{}) {
			p.Name = protocol.Text{ZH: string(p.ID), EN: string(p.ID)}
		}
		letters[p.ID] = p.Letter
	}
	for i := range r.v.slots {
		r.v.slots[i].Letter = letters[r.v.slots[i].Product]
	}
	return nil
}

func (r *reader) history(since string) error {
	err := rows(r.ctx, r.tx, `SELECT day, sum(pieces) FROM given WHERE machine = ? AND day >= ? GROUP BY day`, []any{r.v.Machine, since}, func(rs *sql.Rows) error {
		var day string
		var n int
		err := rs.Scan(&day, &n)
		r.v.given[day] = n
		return err
	})
	if err != nil {
		return err
	}
	return rows(r.ctx, r.tx, `SELECT verb, slot, made_ms, expires_ms, coalesce(result, '') FROM command WHERE machine = ?
		ORDER BY generation DESC, counter DESC LIMIT 5`, []any{r.v.Machine}, func(rs *sql.Rows) error {
		var c commandView
		var made, expires int64
		err := rs.Scan(&c.Verb, &c.Slot, &made, &expires, &c.Result)
		c.Made, c.Expires = time.UnixMilli(made), time.UnixMilli(expires)
		r.v.commands = append(r.v.commands, c)
		return err
	})
}

// LevelRow is what the events say of one batch in one slot.
type LevelRow struct {
	protocol.Stock
	Pieces int // in the slot
	Held   int // set aside for vends whose end nobody knows
}

// Levels returns what the events of a machine's present ledger add up to, slot by
// slot in the order the batches were put in.
func (d *District) Levels(ctx context.Context, m protocol.MachineID) ([]LevelRow, error) {
	var out []LevelRow
	l, err := currentLedger(ctx, d.store.read, m)
	if err != nil {
		return nil, err
	}
	err = rows(ctx, d.store.read, `SELECT slot, product, batch, expiry, pieces, held FROM level WHERE machine = ? AND ledger = ? ORDER BY slot, since`, []any{m, l}, func(r *sql.Rows) error {
		var x LevelRow
		err := r.Scan(&x.Slot, &x.Product, &x.Batch, &x.Expiry, &x.Pieces, &x.Held)
		out = append(out, x)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the levels of %s: %w", m, err)
	}
	return out, nil
}

// Ack is how far a machine's present ledger is stored, as the machine is told.
func (d *District) Ack(ctx context.Context, m protocol.MachineID) (protocol.Ack, error) {
	g, err := generation(ctx, d.store.read)
	if err != nil {
		return protocol.Ack{}, err
	}
	l, err := currentLedger(ctx, d.store.read, m)
	if err != nil {
		return protocol.Ack{}, err
	}
	h, err := head(ctx, d.store.read, m, l)
	return protocol.Ack{Ledger: l, Generation: g, Seq: h.Seq}, err
}
