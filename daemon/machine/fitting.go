package machine

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"yaoju/protocol"
	"yaoju/protocol/board"
)

// Fitting is what hangs on a motor board, in the words of a machine's configuration
// file. Times are milliseconds and currents milliamperes; board.Configure says what
// each of them means.
type Fitting struct {
	Slots []string // slots with a motor: numbers and ranges, such as "21" and "1-10"; nil is all 60
	Pairs []int    // left slots of motors that turn together

	LeaveMS, TurnMS, SlowMS int
	JamMA, JamMS, OpenMA    int
}

// UsualFitting is 60 single slots with usual motors: board.DefaultConfigure.
func UsualFitting() Fitting {
	c := board.DefaultConfigure()
	return Fitting{LeaveMS: int(c.LeaveMS), TurnMS: int(c.TurnMS), SlowMS: int(c.SlowMS), JamMA: int(c.JamMA), JamMS: int(c.JamMS), OpenMA: int(c.OpenMA)}
}

// Configure is what the board is told. Complain is called for everything that is
// wrong, with the key it is wrong in, such as "pairs[1]" or "turn_ms"; what it
// returns then is not to be sent.
func (f Fitting) Configure(complain func(key string, err error)) board.Configure {
	c := board.DefaultConfigure()
	if f.Slots != nil {
		c.Fitted = fitted(f.Slots, complain)
	}
	// Each value joins those that were good, so what the board would refuse is found
	// in the value that brings it.
	join := func(key string, change func(*board.Configure) error) {
		next := c
		err := change(&next)
		if err == nil {
			err = next.Valid()
		}
		if err != nil {
			complain(key, err)
			return
		}
		c = next
	}
	for i, left := range f.Pairs {
		join(fmt.Sprintf("pairs[%d]", i), func(c *board.Configure) error {
			slot, err := asSlot(left)
			if err == nil && c.Coupled.Has(slot) {
				err = fmt.Errorf("slot %d is named twice", slot)
			}
			c.Coupled = c.Coupled.With(slot)
			return err
		})
	}
	join("leave_ms", func(c *board.Configure) error { return setWord(&c.LeaveMS, f.LeaveMS) })
	join("turn_ms", func(c *board.Configure) error { return setWord(&c.TurnMS, f.TurnMS) })
	join("slow_ms", func(c *board.Configure) error { return setWord(&c.SlowMS, f.SlowMS) })
	join("jam_ms", func(c *board.Configure) error { return setWord(&c.JamMS, f.JamMS) })
	var open uint16
	if err := setWord(&open, f.OpenMA); err != nil {
		complain("open_ma", err)
		return c
	}
	join("jam_ma", func(c *board.Configure) error {
		c.OpenMA = open
		return setWord(&c.JamMA, f.JamMA)
	})
	return c
}

// setWord sets what the wire has 16 bits for.
func setWord(to *uint16, n int) error {
	if n < 0 || n > math.MaxUint16 {
		return fmt.Errorf("%d: want 0 to %d", n, math.MaxUint16)
	}
	*to = uint16(n)
	return nil
}

func asSlot(n int) (protocol.Slot, error) {
	if n < 1 || n > protocol.Slots {
		return 0, fmt.Errorf("slot %d does not exist: want 1 to %d", n, protocol.Slots)
	}
	return protocol.Slot(n), nil
}

// fitted reads a list of slots. When something is wrong with it the rest is judged as
// if there were all: one mistake is one complaint.
func fitted(ranges []string, complain func(key string, err error)) board.SlotSet {
	var set board.SlotSet
	good := len(ranges) > 0
	if !good {
		complain("slots", fmt.Errorf("no slot at all: leave it away if there are all %d", protocol.Slots))
	}
	for i, text := range ranges {
		from, to, err := slotRange(text)
		for n := from; n <= to && err == nil; n++ {
			if set.Has(n) {
				err = fmt.Errorf("slot %d is named twice", n)
			}
			set = set.With(n)
		}
		if err != nil {
			complain(fmt.Sprintf("slots[%d]", i), err)
			good = false
		}
	}
	if !good {
		return board.AllSlots()
	}
	return set
}

// slotRange reads a number, or two with a hyphen between them.
func slotRange(text string) (from, to protocol.Slot, err error) {
	first, last, ranged := strings.Cut(text, "-")
	if !ranged {
		last = first
	}
	a, errA := strconv.Atoi(first)
	b, errB := strconv.Atoi(last)
	if errA != nil || errB != nil {
		return 0, 0, fmt.Errorf("%q: want a slot or a range of them, such as \"21\" or \"1-10\"", text)
	}
	if from, err = asSlot(a); err != nil {
		return 0, 0, err
	}
	if to, err = asSlot(b); err != nil {
		return 0, 0, err
	}
	if from > to {
		return 0, 0, fmt.Errorf("%q: the smaller number comes first", text)
	}
	return from, to, nil
}
