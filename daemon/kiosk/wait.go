package kiosk

import (
	"context"
	"reflect"
	"slices"
	"time"

	"yaoju/protocol"
)

// A pause is what a screen waits for, and for how long.
type pause struct {
	taps    []Tap           // taps that end it
	idle    time.Duration   // without touch: then the cover, then the session ends; 0: never
	ends    time.Duration   // then it ends quietly, without a cover; 0: never
	again   time.Duration   // then the voice says its line once more; 0: never
	rest    bool            // a waiting screen: modes end after a while, the screen dims
	busy    bool            // a fault must not end it
	closed  protocol.Fault  // the fault screen: ends when the machine's condition is another
	card    bool            // ends when a card is laid on the reader
	present bool            // ends when a card lies on the reader, laid before or now
	shelf   <-chan struct{} // ends when the shelf changes
	redrawn bool            // the same screen goes on: nobody touched it
	unsure  bool            // nobody can promise that nothing was counted
	read    <-chan reading
	served  <-chan served
}

// A cue is what ended a pause.
type cue struct {
	what    what
	tap     Tap
	arg     string // of the tap
	reading reading
	served  served
}

type what int

const (
	cueGone   what = iota // nobody there any more, or ctx ended
	cueTap                // one of the taps
	cueCard               // a card
	cueRead               // the reader's answer
	cueServed             // the counter's answer
	cueShelf              // the shelf changed
	cueClosed             // the machine's condition changed
)

// wait plays one screen: it keeps the clock, the cover, the modes and the card
// that was left lying, and returns when something on the list happens.
func (k *Kiosk) wait(ctx context.Context, p pause) cue {
	begun := time.Now()
	if !p.rest && !p.redrawn {
		k.touched = begun
	}
	for {
		cond, stale := k.guard.Watch()
		pres, moved := k.cards.Watch()
		phones, plug := k.o.Jack.Watch()
		k.listen(phones)
		laid := pres.Card && !k.cardWas
		k.cardWas = pres.Card
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return cue{what: cueGone}
		case p.closed != 0 && cond.Closed != p.closed:
			return cue{what: cueClosed}
		case p.closed == 0 && !p.busy && cond.Closed != 0:
			return cue{what: cueClosed}
		case p.card && laid || p.present && pres.Card:
			k.touch(now)
			return cue{what: cueCard}
		}
		k.callCard(ctx, now, pres.Card)
		due := k.tick(now, begun, p, cond)
		if due.IsZero() {
			return cue{what: cueGone}
		}

		alarm := time.NewTimer(time.Until(due))
		select {
		case <-ctx.Done():
		case <-alarm.C:
		case <-stale:
		case <-moved:
		case <-plug:
		case <-p.shelf:
			alarm.Stop()
			return cue{what: cueShelf}
		case r := <-p.read:
			alarm.Stop()
			k.touch(time.Now())
			return cue{what: cueRead, reading: r}
		case s := <-p.served:
			alarm.Stop()
			return cue{what: cueServed, served: s}
		case t := <-k.taps:
			if c, ends := k.press(p, t); ends {
				alarm.Stop()
				return c
			}
		}
		alarm.Stop()
	}
}

// tick brings the view up to date and returns when to look again; zero means that
// the wait is over because nobody is there.
func (k *Kiosk) tick(now, begun time.Time, p pause, cond Condition) time.Time {
	v := k.now
	v.Now = now.In(k.o.Zone).Truncate(time.Minute)
	v.Place = k.place()
	due := v.Now.Add(time.Minute)
	sooner := func(t time.Time) {
		if t.Before(due) {
			due = t
		}
	}
	quiet := now.Sub(k.touched)
	switch {
	case p.ends > 0:
		if now.Sub(begun) >= p.ends {
			return time.Time{}
		}
		sooner(begun.Add(p.ends))
	case p.idle > 0 && quiet >= p.idle+coverTime:
		return time.Time{}
	case p.idle > 0 && quiet >= p.idle:
		left := p.idle + coverTime - quiet
		v.Covered, v.Seconds = true, int((left+time.Second-1)/time.Second)
		sooner(now.Add(left - time.Duration(v.Seconds-1)*time.Second))
	case p.idle > 0:
		v.Covered, v.Seconds = false, 0
		sooner(k.touched.Add(p.idle))
	case p.served != nil:
		v.Percent = min(100, max(v.Percent, cond.Percent))
		v.Seconds = max(1, int((turnTime*time.Duration(100-v.Percent)/100+time.Second-1)/time.Second))
		v.Slow = now.Sub(begun) >= slowTime
		sooner(begun.Add(slowTime))
		if v.Slow {
			due = now.Add(time.Minute)
		}
	case p.rest:
		if quiet >= idleTime && k.modesDue {
			v.Modes, k.modesDue = k.fresh(), false
		}
		v.Dim = quiet >= dimTime
		switch {
		case quiet < idleTime:
			sooner(k.touched.Add(idleTime))
		case !v.Dim:
			sooner(k.touched.Add(dimTime))
		}
	}
	if next := k.left.next(now); !next.IsZero() {
		sooner(next)
	}
	if said := begun.Add(p.again); p.again > 0 && now.Before(said) {
		sooner(said)
	} else if p.again > 0 {
		v.Repeat = 1
	}
	v.CardLeft, v.Beep, v.Phones = k.left.calling, k.now.Beep, k.plugged
	v.Open = p.unsure || p.closed != 0 && cond.Open
	k.publish(v)
	return due
}

// press judges one tap; ends says that it ends the wait.
func (k *Kiosk) press(p pause, t press) (c cue, ends bool) {
	now := time.Now()
	if t.serial != k.now.Serial || now.Sub(k.lastTap) < bounceTime {
		return cue{}, false // meant for another screen, or the same finger twice
	}
	dim := k.now.Dim
	if flipped := k.now.Modes.flip(t.tap); flipped != k.now.Modes {
		if k.now.Covered {
			return cue{}, false // the cover has two buttons
		}
		if !dim {
			k.now.Modes, k.modesDue = flipped, flipped != k.fresh()
		}
		k.lastTap = now
		k.touch(now)
		return cue{}, false
	}
	switch {
	case dim: // the first touch wakes and does nothing else
	case k.now.Covered && t.tap == TapOther:
		k.lastTap = now
		return cue{what: cueGone}, true
	case k.now.Covered && t.tap == TapNext: // continue
	case !k.now.Covered && slices.Contains(p.taps, t.tap):
		ends = true
	default:
		return cue{}, false
	}
	k.lastTap = now
	k.touch(now)
	return cue{what: cueTap, tap: t.tap, arg: t.arg}, ends
}

// flip returns the modes with the one that t is about changed; other taps change none.
func (m Modes) flip(t Tap) Modes {
	switch t {
	case TapLang:
		if m.Lang == ZH {
			m.Lang = EN
		} else {
			m.Lang = ZH
		}
	case TapBig:
		m.Big = !m.Big
	case TapContrast:
		m.Contrast = !m.Contrast
	case TapDiscreet:
		m.Discreet = !m.Discreet
	case TapVoice:
		m.Voice = !m.Voice
	case TapVolume:
		m.Volume = m.Volume%MaxVolume + 1
	}
	return m
}

// listen starts the voice when headphones are plugged in, whatever is on the
// screen, and ends it when they are pulled: what was private in the ear must not go
// on from the loudspeaker.
func (k *Kiosk) listen(phones bool) {
	if phones == k.plugged {
		return
	}
	k.plugged = phones
	k.now.Modes.Voice, k.modesDue = phones, true
	k.touch(time.Now())
}

func (k *Kiosk) touch(now time.Time) { k.touched = now }

// show puts a new screen up. Modes, time and place stay; everything else is new. A
// screen that is only drawn again, because the stock changed, keeps its serial: a
// finger on its way to a button that is still there does not miss.
func (k *Kiosk) show(v View) {
	v.Modes, v.Beep, v.CardLeft, v.Serial, v.Phones = k.now.Modes, k.now.Beep, k.left.calling, k.now.Serial, k.plugged
	if v.Screen != k.now.Screen || v.Covered != k.now.Covered || v.LookAgain || v.Serial == 0 {
		v.Serial++
	}
	v.Now, v.Place = time.Now().In(k.o.Zone).Truncate(time.Minute), k.place()
	k.now = v
	k.publish(v)
}

// publish makes v the view, if it differs. Covering and uncovering are new
// screens too: a tap meant for the one must not reach the other.
func (k *Kiosk) publish(v View) {
	if v.Covered != k.now.Covered {
		v.Serial++
	}
	k.now = v
	k.mu.Lock()
	defer k.mu.Unlock()
	if reflect.DeepEqual(k.view, v) {
		return
	}
	k.view = v
	close(k.changed)
	k.changed = make(chan struct{})
}

// clear ends a session: nothing of it is left on the screen.
func (k *Kiosk) clear() {
	k.now.Modes, k.modesDue = k.fresh(), false
}

// fresh are the modes for whoever comes next. Who wears headphones already is
// served in words from the start.
func (k *Kiosk) fresh() Modes {
	m := usual()
	m.Voice = k.plugged
	return m
}

// leftover watches over a card that stays on the reader after its answer.
type leftover struct {
	since   time.Time // when the person could have taken it; zero: nothing to watch
	called  time.Time // when we last called
	calling bool      // the screen asks to take it
	told    bool      // the event is written
}

// cardMayStay begins the watch: from now on a card on the reader is being left.
func (k *Kiosk) cardMayStay() {
	if pres, _ := k.cards.Watch(); pres.Card {
		k.left = leftover{since: time.Now()}
	}
}

// callCard calls the person back to the card, for a while, then records it.
func (k *Kiosk) callCard(ctx context.Context, now time.Time, card bool) {
	l := &k.left
	switch {
	case !card:
		*l = leftover{}
	case l.since.IsZero() || now.Sub(l.since) < cardGrace:
	case now.Sub(l.since) < cardGrace+cardCallsEnd:
		l.calling = true
		if now.Sub(l.called) >= cardCallTime {
			l.called = now
			k.now.Beep++
		}
	case !l.told:
		l.told = true
		k.append(ctx, protocol.CardLeft{})
	}
}

// next returns when callCard has something to do again; zero: only when the card moves.
func (l leftover) next(now time.Time) time.Time {
	switch {
	case l.since.IsZero() || l.told:
		return time.Time{}
	case !l.calling:
		return l.since.Add(cardGrace)
	}
	end := l.since.Add(cardGrace + cardCallsEnd)
	if next := l.called.Add(cardCallTime); next.Before(end) {
		return next
	}
	return end
}
