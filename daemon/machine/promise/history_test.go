package promise_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/protocol"
)

var (
	seeds = flag.Int("seeds", 3, "random histories for each kind of machine")
	first = flag.Uint64("first", 1, "seed of the first one")
)

// ordersEach is how many residents come in one history.
const ordersEach = 12

// Whatever happens, in any order: the books agree with the tray, an id turns its motor
// at most once, nothing stays open that somebody can answer for, and in the end the
// machine gives.
func TestHistories(t *testing.T) {
	for _, k := range kinds {
		n := *seeds
		if k.dear {
			n = (n + 2) / 3
		}
		for seed := *first; seed < *first+uint64(n); seed++ {
			t.Run(fmt.Sprintf("%s/seed %d", k.name, seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					k.play(t, func(s *site) {
						s.inHouse(func(h *house) { h.live(rand.New(rand.NewPCG(seed, 1))) })
					})
				})
			})
		}
	}
}

// live is one history.
func (h *house) live(dice *rand.Rand) {
	sound := true // nothing was wrong since the last round
	for n := range ordersEach {
		if h.front() == 0 {
			h.round()
			sound = true
		}
		what := h.morning(dice)
		h.Logf("%2d. %s", n, what)
		if what.calm() && sound {
			if v, r := h.serve(); r.Outcome != protocol.Dispensed {
				h.Errorf("%d. a calm order: vend %d in slot %d: %+v", n, v.ID, v.Slot, r)
			}
			continue
		}
		sound = false
		h.suffer(what)
		if dice.IntN(2) == 0 {
			h.round()
			sound = true
		}
	}
	h.round()
	h.books()
	if v, r := h.serve(); r.Outcome != protocol.Dispensed {
		h.Errorf("in the end: vend %d in slot %d: %+v", v.ID, v.Slot, r)
	}
	h.books()
}

// morning is what befalls one order.
type morning struct {
	trouble trouble
	slot    protocol.Slot // that meets it

	event string        // of all that is not the slot's; empty is none
	at    time.Duration // from the order to the event
	for_  time.Duration // until it is over
	leave time.Duration // after which the resident's session ends; 0 is never
}

func (m morning) calm() bool { return m.trouble.name == "" && m.event == "" && m.leave == 0 }

func (m morning) String() string {
	if m.calm() {
		return "nothing happens"
	}
	return fmt.Sprintf("slot %d: %q; %q at %v for %v; left at %v", m.slot, m.trouble.name, m.event, m.at, m.for_, m.leave)
}

// morning draws what befalls the next order.
func (h *house) morning(dice *rand.Rand) (m morning) {
	m.slot = h.front()
	if all := h.troubles(); dice.IntN(2) == 0 {
		m.trouble = all[dice.IntN(len(all))]
	}
	events := []string{"unplugged", "crash", "restart", "door"}
	if h.speaks {
		events = append(events, "mute", "swapped")
	}
	if dice.IntN(2) == 0 {
		m.event = events[dice.IntN(len(events))]
		m.at = time.Duration(dice.IntN(4500)) * time.Millisecond
		m.for_ = time.Duration(20+dice.IntN(12000)) * time.Millisecond
	}
	if dice.IntN(5) == 0 {
		m.leave = time.Duration(1+dice.IntN(4000)) * time.Millisecond
	}
	return m
}

// suffer serves a resident under m and returns when all of it is over and mended.
func (h *house) suffer(m morning) {
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	if m.leave > 0 {
		time.AfterFunc(m.leave, leave)
	}
	if m.trouble.before != nil {
		m.trouble.before(m.slot)
	}
	if m.trouble.during != nil {
		time.AfterFunc(halfWay, func() { m.trouble.during(m.slot) })
	}
	var serving sync.WaitGroup
	o, d := h.order(), h.disp
	serving.Go(func() { d.Serve(ctx, o) }) // what it says is settled, or the driver will be asked again

	time.Sleep(m.at)
	h.befall(m.event)
	time.Sleep(m.for_)
	h.relent(m.event)
	serving.Wait()
	time.Sleep(2 * halfWay) // whatever was to happen half way has
	if m.trouble.mend != nil {
		m.trouble.mend(m.slot)
	}
}

func (h *house) befall(event string) {
	switch event {
	case "unplugged":
		h.unplug()
	case "swapped":
		h.swap()
	case "mute":
		h.mute(true)
	case "door":
		h.door(true)
	case "crash":
		h.crash()
	case "restart":
		h.end()
	}
}

func (h *house) relent(event string) {
	switch event {
	case "unplugged", "swapped":
		h.plug()
	case "mute":
		h.mute(false)
	case "door":
		h.door(false)
	case "crash", "restart":
		h.open()
	}
}
