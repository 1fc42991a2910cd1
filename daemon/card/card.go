// Package card turns a resident's identity card into an age answer and a mark.
//
// It owns the reader's wire (SAM_V, GA 450), the four layouts of a card's text,
// the person's number, and the keys that marks are made with. A card's text is
// read only while somebody waits in Read, is held in one buffer that is wiped
// before the answer is given, and neither it nor anything made from it but the
// answer leaves the package: not in errors, not in logs. It does not know what a
// mark entitles to, what is on the screen, or whether the clock is right.
package card

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"yaoju/daemon/port"
)

const (
	// between is the pause after each look at the plate: readers want 300 ms
	// between finds, and a person does not notice it.
	between = 300 * time.Millisecond

	// wakeLimit is how long a reader that was just plugged in may take to
	// answer its first question.
	wakeLimit = 1500 * time.Millisecond

	// patience is how many looks in a row may go wrong before the reader is
	// reset and its line opened anew.
	patience = 3
)

// What a caller of Read branches on; the error's text says more.
var (
	// ErrUnreadable: the reader works, but not with this card as it lies. It
	// must be taken off and laid again; if that does not help the card is
	// damaged, or no resident's card.
	ErrUnreadable = errors.New("card cannot be read")
	// ErrSameCard: the card on the plate was read already. The reader gives
	// nothing more until it is taken off and laid again. Watch tells when.
	ErrSameCard = errors.New("card was read already and not taken off")
	// ErrReader: the reader does not answer, or says that it is broken. A
	// person who brings another card cannot help that.
	ErrReader = errors.New("card reader does not work")
)

// Age is a range of whole years, both ends included. To 0: no upper end.
type Age struct{ From, To int }

// Holder is all that is ever known of the person whose card was read.
type Holder struct {
	Marks   Marks
	AgeOK   bool // the age today is in the window that was asked for
	ValidOK bool // today is not after the card's last day
}

// Presence is what can be known without reading a card.
type Presence struct {
	Ready bool // the reader answers
	// Card: a card lies there. It stays true while a card that was read lies
	// there. A card whose reading failed cannot be told from an empty plate, so
	// then it may be false.
	Card bool
}

// lying is what the reader knows of the plate.
type lying int

const (
	empty lying = iota
	fresh       // a card that was found, and not read since
	spent       // a card that was read, or could not be
)

// Reader is one card reader on one serial line.
type Reader struct {
	dial func(context.Context) (io.ReadWriteCloser, error)
	keys *Keys
	baud int
	zone *time.Location
	log  *slog.Logger
	asks chan *ask

	// owned by Run
	lies lying

	mu sync.Mutex
	// guarded by mu
	presence Presence
	stale    chan struct{} // closed when presence changes
}

// ask is one Read that waits.
type ask struct {
	ctx    context.Context // of the caller, who may give up
	window Age
	answer chan answer // 1, so that Run never waits for a caller who gave up
}

type answer struct {
	holder Holder
	err    error
}

// New makes a reader on the lines that dial opens at baud bits per second,
// more than 0. A card's days are counted in zone.
func New(dial func(context.Context) (io.ReadWriteCloser, error), baud int, keys *Keys, zone *time.Location, log *slog.Logger) *Reader {
	return &Reader{dial: dial, baud: baud, keys: keys, zone: zone, log: log,
		asks: make(chan *ask), stale: make(chan struct{})}
}

// Run keeps the line open and watches the plate until ctx ends. A reader that
// is unplugged, or stops answering, is waited for.
func (r *Reader) Run(ctx context.Context) error {
	return port.Keep(ctx, r.dial, r.serve, r.log)
}

// Watch returns what is known now, and a channel that is closed when it no
// longer holds, or when a card was laid anew.
func (r *Reader) Watch() (Presence, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.presence, r.stale
}

// announce makes p known if it is news.
func (r *Reader) announce(p Presence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.presence != p {
		r.tell(p)
	}
}

// tell makes p known. Caller holds mu.
func (r *Reader) tell(p Presence) {
	r.presence = p
	close(r.stale)
	r.stale = make(chan struct{})
}

// found notes that a card was found that has not been read since it was laid.
func (r *Reader) found() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lies == spent || !r.presence.Card {
		r.tell(Presence{Ready: true, Card: true})
	}
	r.lies = fresh
}

// Read waits until a card lies on the plate, reads it and answers. It returns
// ErrUnreadable, ErrSameCard or ErrReader, each with its reason, at once when
// it is so, the error of the mark keys if those fail, and the error of ctx when
// that ends. After any answer the card must be lifted before it can be read
// again. One Read is served at a time; another waits its turn.
func (r *Reader) Read(ctx context.Context, window Age) (Holder, error) {
	a := &ask{ctx: ctx, window: window, answer: make(chan answer, 1)}
	if err := r.submit(ctx, a); err != nil {
		return Holder{}, err
	}
	select {
	case ans := <-a.answer: // Run answers every ask it took before it lets the line go
		return ans.holder, ans.err
	case <-ctx.Done():
		return Holder{}, fmt.Errorf("read card: %w", ctx.Err())
	}
}

// submit hands a to Run, as soon as that is free and while the reader works.
func (r *Reader) submit(ctx context.Context, a *ask) error {
	for {
		p, stale := r.Watch()
		if !p.Ready {
			return fmt.Errorf("read card: %w: no answer from it", ErrReader)
		}
		select {
		case r.asks <- a:
			return nil
		case <-stale:
		case <-ctx.Done():
			return fmt.Errorf("read card: %w", ctx.Err())
		}
	}
}

// refuse answers a, if there is one, with an error.
func (a *ask) refuse(err error) {
	if a != nil {
		a.answer <- answer{err: fmt.Errorf("read card: %w", err)}
	}
}

// serve watches the plate over one line until the line is of no more use.
func (r *Reader) serve(ctx context.Context, line io.ReadWriteCloser) error {
	d := open(line, r.baud)
	defer d.close()
	if err := wake(ctx, d); err != nil {
		return err
	}
	r.announce(Presence{Ready: true})
	return r.watch(ctx, d)
}

// wake waits until the reader answers and says that it is well.
func wake(ctx context.Context, d *dialogue) error {
	until := time.Now().Add(wakeLimit)
	st, err := d.ask(ctx, cmdSelfTest)
	for errors.Is(err, errNoAnswer) && time.Now().Before(until) {
		st, err = d.ask(ctx, cmdSelfTest)
	}
	if err != nil {
		return err
	}
	// Some readers do not know the question, which is an answer too.
	if _, who := st.meaning(); who == theSetup && st != statusUnknown {
		return fmt.Errorf("%v: %v", cmdSelfTest, st)
	}
	return nil
}

// watch looks at the plate again and again, and reads for whoever asks, until
// the line is over or the reader has failed too often.
func (r *Reader) watch(ctx context.Context, d *dialogue) error {
	var a *ask // the one Read being served
	var err error
	for failed := 0; failed < patience; {
		// Resting comes first, because the line before may have just asked.
		a, err = r.rest(ctx, d, a)
		if err == nil {
			a, err = r.look(ctx, d, a)
		}
		if errors.Is(err, errOver) {
			break
		}
		failed++
		if err == nil {
			failed = 0
		}
	}
	// Whoever is refused now and asks again at once must not find Ready.
	r.announce(Presence{})
	a.refuse(fmt.Errorf("%w: %w", ErrReader, err))
	return reset(ctx, d, err)
}

// reset resets a reader that failed for err, if its line still stands.
func reset(ctx context.Context, d *dialogue, err error) error {
	if errors.Is(err, errOver) {
		return err
	}
	// Whether this is answered makes no difference: the line is opened anew.
	_, _ = d.ask(ctx, cmdReset)
	return fmt.Errorf("reset after %d failures in a row: %w", patience, err)
}

// rest pauses between looks. Meanwhile a Read may come, if a is nil, or give
// up; what the reader sends now answers nobody. The error is errOver.
func (r *Reader) rest(ctx context.Context, d *dialogue, a *ask) (*ask, error) {
	t := time.NewTimer(between)
	defer t.Stop()
	for {
		asks, gaveUp := r.asks, (<-chan struct{})(nil)
		if a != nil {
			asks, gaveUp = nil, a.ctx.Done()
		}
		select {
		case <-ctx.Done():
			return a, fmt.Errorf("%w: %w", errOver, ctx.Err())
		case a = <-asks:
		case <-gaveUp:
			a = nil
		case b, ok := <-d.chunks:
			if !ok {
				return a, fmt.Errorf("%w: %w", errOver, <-d.dead)
			}
			d.give(b)
		case <-t.C:
			// No card is read for someone who has gone.
			if a != nil && a.ctx.Err() != nil {
				a = nil
			}
			return a, nil
		}
	}
}

// look takes one look at the plate and, if a waits and a card lies there that
// was not read, reads it. It returns a if that is still to be answered. An
// error is a failure of the reader, not of a card.
func (r *Reader) look(ctx context.Context, d *dialogue, a *ask) (*ask, error) {
	if r.lies == spent {
		st, err := d.ask(ctx, cmdReadAddress)
		if err != nil {
			return a, err
		}
		if st == statusOK || st == statusNoContent {
			r.announce(Presence{Ready: true, Card: true})
			a.refuse(ErrSameCard)
			return nil, nil
		}
	}

	st, err := d.ask(ctx, cmdFind)
	if err != nil {
		return a, err
	}
	there := st == statusFound
	if there {
		r.found()
	} else if st != statusNotFound && st != statusOrder {
		return a, fmt.Errorf("%v: %v", cmdFind, st)
	}
	switch {
	case there && a == nil:
		return a, nil
	case !there && r.lies != fresh:
		r.gone()
		return a, nil
	}

	// Some readers find a card once only, though it was not read. If one was
	// there a moment ago, select tells whether it still is.
	st, err = d.ask(ctx, cmdSelect)
	if err != nil {
		return a, err
	}
	_, who := st.meaning()
	switch {
	case st == statusOK && a == nil:
		return a, nil
	case st == statusOK:
		return nil, r.read(ctx, d, a)
	case who != theCard:
		return a, fmt.Errorf("%v: %v", cmdSelect, st)
	case there:
		a.refuse(fmt.Errorf("%w: %v: %v", ErrUnreadable, cmdSelect, st))
		return nil, nil
	}
	r.gone()
	return a, nil
}

// gone notes that no card lies there, or none that can be told from nothing.
func (r *Reader) gone() {
	r.lies = empty
	r.announce(Presence{Ready: true})
}

// read reads the selected card and answers a. Only a failure of the reader is
// returned as well.
func (r *Reader) read(ctx context.Context, d *dialogue, a *ask) error {
	h, err := r.holder(ctx, d, a.window)
	if err == nil {
		a.answer <- answer{holder: h}
		return nil
	}
	a.refuse(err)
	if errors.Is(err, ErrReader) {
		return err
	}
	return nil
}

// holder reads the selected card's text and makes the answer of it. When it
// returns the text and the number are wiped.
func (r *Reader) holder(ctx context.Context, d *dialogue, window Age) (Holder, error) {
	defer d.dec.wipe()
	st, err := d.ask(ctx, cmdReadText)
	if errors.Is(err, errBent) || errors.Is(err, errBroken) || errors.Is(err, errForeign) {
		r.lies = spent
		return Holder{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if err != nil {
		return Holder{}, fmt.Errorf("%w: %w", ErrReader, err)
	}
	r.lies = spent
	if _, who := st.meaning(); who == theCard {
		return Holder{}, fmt.Errorf("%w: %v: %v", ErrUnreadable, cmdReadText, st)
	}
	if st != statusOK {
		return Holder{}, fmt.Errorf("%w: %v: %v", ErrReader, cmdReadText, st)
	}

	var num number
	defer num.wipe()
	now := time.Now().In(r.zone)
	ageOK, validOK, err := judge(d.dec.block(), dayOf(now), window, &num)
	if err != nil {
		return Holder{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	m, err := r.keys.marks(&num, now)
	if err != nil {
		return Holder{}, err
	}
	return Holder{Marks: m, AgeOK: ageOK, ValidOK: validOK}, nil
}
