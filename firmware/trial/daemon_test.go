package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/dispense"
	"yaoju/daemon/ledger"
	"yaoju/daemon/machine"
	"yaoju/daemon/machine/sim"
	"yaoju/firmware/elf"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

// cabinet is a real board on a cable, and the ledger of the machine it is in.
type cabinet struct {
	*testing.T
	*elf.Board
	book *ledger.Ledger

	mu      sync.Mutex
	out     bool                                        // guarded by mu; the cable is pulled
	device  io.Closer                                   // guarded by mu; our end of the line in use
	through func(io.ReadWriteCloser) io.ReadWriteCloser // guarded by mu; what the line does to bytes
	served  sync.WaitGroup
}

const first, second = protocol.Slot(1), protocol.Slot(2)

func newCabinet(t *testing.T) *cabinet {
	b, err := elf.Start(elf.Options{Serial: 42, Seed: 7, EEPROM: filepath.Join(t.TempDir(), "eeprom")})
	if err != nil {
		t.Fatal(err)
	}
	c := &cabinet{T: t, Board: b, through: func(l io.ReadWriteCloser) io.ReadWriteCloser { return l }}
	text := protocol.Text{ZH: "用品", EN: "Product"}
	c.book, err = ledger.Open(t.Context(), ledger.Options{Path: filepath.Join(t.TempDir(), "ledger.db"), Machine: "m-0017", Software: "test",
		Zone: time.UTC, Log: slog.New(slog.DiscardHandler), Synced: func() bool { return true }})
	c.must(err)
	c.must(c.book.Apply(t.Context(), protocol.Desired{
		Machine: "m-0017", DesiredVersion: protocol.DesiredVersion{Generation: 1, Version: 1},
		Policy:    protocol.Policy{AgeFrom: 18, Rules: []protocol.Rule{{Max: 1, Per: protocol.PerDays, Days: 22}}},
		Products:  []protocol.Product{{ID: "condom-52", Letter: "A", Class: "condom", Units: 10, Name: text, Note: text}},
		Planogram: []protocol.SlotPlan{{Slot: first, Product: "condom-52", Capacity: 10, Par: 3}, {Slot: second, Product: "condom-52", Capacity: 10, Par: 3}},
		Texts:     protocol.Texts{Authority: text, Phone: "010-00000000"},
	}))
	for slot, expiry := range map[protocol.Slot]protocol.DateOnly{first: "2027-01-31", second: "2028-01-31"} { // the first goes first
		c.must(c.book.Load(t.Context(), protocol.Stock{Slot: slot, Product: "condom-52", Batch: "B1", Expiry: expiry}, 5, "s-1"))
		b.Load(slot, 5)
	}
	return c
}

func (c *cabinet) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *cabinet) close() {
	c.served.Wait()
	c.must(errors.Join(c.book.Close(), c.Board.Close()))
}

// dial is the daemon's way to the board.
func (c *cabinet) dial(context.Context) (io.ReadWriteCloser, error) {
	c.served.Wait() // one line at a time
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out {
		return nil, errors.New("no such device")
	}
	host, device := sim.Line()
	c.device = device
	line := c.through(device)
	c.served.Go(func() {
		c.Serve(c.Context(), line) // the line ends when either end closes it, which is no fault
	})
	return host, nil
}

// cable pulls the cable or puts it in.
func (c *cabinet) cable(in bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = !in
	if !in && c.device != nil {
		c.device.Close()
	}
}

// spoil sets what lines do to bytes from now on; the one in use is hung up.
func (c *cabinet) spoil(through func(io.ReadWriteCloser) io.ReadWriteCloser) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.through = through
	if c.device != nil {
		c.device.Close()
	}
}

// daemon is one run of the parts of kioskd that lead to the motor.
type daemon struct {
	board *machine.Board
	disp  *dispense.Dispenser
	met   chan struct{} // one for each time the board was met and the ledger was told all it knows
	stop  func()
}

// daemon starts one; stop it.
func (c *cabinet) daemon() *daemon {
	log := slog.New(slog.DiscardHandler)
	d := &daemon{board: machine.New(c.dial, log, machine.Options{Config: board.DefaultConfigure()}), met: make(chan struct{}, 100)}
	d.disp = dispense.New(c.book, d.board, 15*time.Second, log)
	ctx, cancel := context.WithCancel(c.Context())
	var running sync.WaitGroup
	running.Go(func() { d.board.Run(ctx) }) // it ends with ctx
	running.Go(func() { c.heal(ctx, d) })
	d.stop = func() { cancel(); running.Wait() }
	return d
}

// heal does what kiosk.Warden does for a board that was met.
func (c *cabinet) heal(ctx context.Context, d *daemon) {
	session := 0
	for {
		s, stale := d.board.Watch()
		if s.Up && s.Session != session {
			session = s.Session
			err := c.book.BoardHighest(ctx, fmt.Sprintf("%016x", s.Hello.Serial), s.Hello.Highest)
			if err == nil {
				_, err = d.disp.Recover(ctx)
			}
			if err == nil {
				d.met <- struct{}{}
			}
			continue
		}
		select {
		case <-stale:
		case <-time.After(5 * time.Second): // as the warden does, because an order may have left something open
			if s.Up {
				d.disp.Recover(ctx) // an error shows in what stays open
			}
		case <-ctx.Done():
			return
		}
	}
}

func (d *daemon) awaitMet(t *cabinet) {
	t.Helper()
	select {
	case <-d.met:
	case <-time.After(30 * time.Second):
		t.Fatal("the board was not met")
	}
}

func order(card byte) dispense.Order {
	return dispense.Order{Marks: dispense.Marks{Current: dispense.Mark{card}}, Product: "condom-52"}
}

// troubles are what may happen in the midst of a vend. Each returns when the line
// and the board are sound again; d is then the daemon that runs.
var troubles = []struct {
	name string
	do   func(c *cabinet, d *daemon) *daemon
}{
	{"power lost", func(c *cabinet, d *daemon) *daemon {
		c.PowerOff()
		time.Sleep(time.Second)
		c.PowerOn()
		return d
	}},
	{"board reset", func(c *cabinet, d *daemon) *daemon { c.Reset(); return d }},
	{"program hung", func(c *cabinet, d *daemon) *daemon {
		c.must(c.Hang("board_poll"))
		time.Sleep(600 * time.Millisecond)
		return d
	}},
	{"cable cut", func(c *cabinet, d *daemon) *daemon {
		c.cable(false)
		time.Sleep(3 * time.Second)
		c.cable(true)
		return d
	}},
	{"line dead", func(c *cabinet, d *daemon) *daemon {
		c.Silent(true)
		time.Sleep(3 * time.Second)
		c.Silent(false)
		return d
	}},
	{"noise", func(c *cabinet, d *daemon) *daemon {
		r := rand.New(rand.NewPCG(3, 4))
		c.spoil(func(l io.ReadWriteCloser) io.ReadWriteCloser { return noisy{l, r} })
		time.Sleep(5 * time.Second)
		c.spoil(func(l io.ReadWriteCloser) io.ReadWriteCloser { return l })
		return d
	}},
	{"half frames", func(c *cabinet, d *daemon) *daemon {
		c.spoil(func(l io.ReadWriteCloser) io.ReadWriteCloser { return dripping{l} })
		time.Sleep(5 * time.Second)
		c.spoil(func(l io.ReadWriteCloser) io.ReadWriteCloser { return l })
		return d
	}},
	{"host restarted", func(c *cabinet, d *daemon) *daemon {
		d.stop()
		time.Sleep(500 * time.Millisecond)
		return c.daemon()
	}},
}

// noisy loses and damages bytes in both directions, one in a hundred.
type noisy struct {
	io.ReadWriteCloser
	r *rand.Rand
}

func (n noisy) Read(p []byte) (int, error) {
	k, err := n.ReadWriteCloser.Read(p)
	return len(n.spoil(p[:k])), err
}

func (n noisy) Write(p []byte) (int, error) {
	_, err := n.ReadWriteCloser.Write(n.spoil(append([]byte(nil), p...)))
	return len(p), err
}

func (n noisy) spoil(p []byte) []byte {
	kept := p[:0]
	for _, b := range p {
		switch n.r.IntN(200) {
		case 0:
			continue
		case 1:
			b ^= 1 << n.r.IntN(8)
		}
		kept = append(kept, b)
	}
	return kept
}

// dripping passes each answer on in halves, the second 5 ms behind the first.
type dripping struct{ io.ReadWriteCloser }

func (d dripping) Write(p []byte) (int, error) {
	half := len(p) / 2
	n, err := d.ReadWriteCloser.Write(p[:half])
	if err != nil {
		return n, err
	}
	time.Sleep(5 * time.Millisecond)
	n, err = d.ReadWriteCloser.Write(p[half:])
	return half + n, err
}

// moments of a vend: before its record, in the record, leaving, half way, falling,
// home, while the end is written, over.
var moments = []time.Duration{2, 40, 200, 1200, 2230, 2580, 2900, 3200}

// Whatever happens to board, line or host in the midst of a vend, the two agree
// again within 2 s of all being sound, and the ledger says what fell.
func TestDaemonAndBoardAgree(t *testing.T) {
	for _, trouble := range troubles {
		for _, ms := range moments {
			t.Run(fmt.Sprintf("%s at %d ms", trouble.name, ms), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { agree(t, ms*time.Millisecond, trouble.do) })
			})
		}
	}
}

// agreeLimit is from the moment all is sound and nothing turns to the moment the
// ledger has every word of the board.
const agreeLimit = 2 * time.Second

func agree(t *testing.T, at time.Duration, trouble func(*cabinet, *daemon) *daemon) {
	c := newCabinet(t)
	defer c.close()
	d := c.daemon()
	defer func() { d.stop() }()
	d.awaitMet(c)

	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	var v dispense.Vend
	var r protocol.Result
	disp := d.disp
	serving.Go(func() { v, r, _ = disp.Serve(ctx, order(1)) }) // its error is that nobody knows, which the ledger has
	time.Sleep(at)
	was := d
	d = trouble(c, d)
	if d != was {
		cancel() // the session went down with its daemon
	}
	serving.Wait()
	cancel()

	for c.turning() {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(agreeLimit)
	status, _ := d.board.Watch()
	open, err := c.book.Open(t.Context())
	c.must(err)
	if !status.Up || len(open) > 1 || len(open) == 1 && !interrupted(c, d, open[0].ID) {
		t.Errorf("open %+v, board %+v", open, status)
	}
	check(t, c, v, r)

	// Life goes on, with another card.
	next, res, err := d.disp.Serve(t.Context(), order(2))
	if err != nil || res.Outcome != protocol.Dispensed {
		t.Fatalf("the next order: %+v, %+v, %v", next, res, err)
	}
}

// turning reports whether the last vend is still in hand on the board: a motor has
// power, or had it a drop watch and the writing of the end ago.
func (c *cabinet) turning() bool {
	const after = (board.WatchMS + 100) * time.Millisecond
	m := c.Moves()
	return len(m) > 0 && (m[len(m)-1].On || c.Now() < m[len(m)-1].At+after)
}

// interrupted reports that the board itself does not know how id ended.
func interrupted(c *cabinet, d *daemon, id protocol.VendID) bool {
	r, err := d.board.Result(c.Context(), id)
	return err == nil && r.Outcome == protocol.Unknown && r.Cause == protocol.FaultInterrupted
}

// check compares the ledger with what happened.
func check(t *testing.T, c *cabinet, v dispense.Vend, r protocol.Result) {
	t.Helper()
	s, err := c.book.Snapshot(t.Context())
	c.must(err)
	for _, slot := range s.Slots {
		fell, starts, left := c.FallenFrom(slot.Slot), c.Starts(slot.Slot), c.Pieces(slot.Slot)
		if starts > 1 {
			t.Errorf("slot %d: %d starts for one order", slot.Slot, starts)
		}
		if int(slot.Dispensed) > fell {
			t.Errorf("slot %d: %d counted, %d fell: %+v %+v", slot.Slot, slot.Dispensed, fell, v, r)
		}
		if missed := fell - int(slot.Dispensed); missed > slot.Held {
			t.Errorf("slot %d: %d fell and %d are counted or held", slot.Slot, fell, int(slot.Dispensed)+slot.Held)
		}
		if slot.Held == 0 && slot.Pieces != left {
			t.Errorf("slot %d: %d in the ledger, %d in the spiral", slot.Slot, slot.Pieces, left)
		}
	}
}
