// Package bootsim is the chip of a motor board in software: the flash of an
// ATmega2560 and its serial bootloader, as it ships on a Mega, on a line on which
// the board's firmware answers otherwise.
//
// A reset begins at address 0, whatever is there: the fuse BOOTRST is not
// programmed. A program runs; a jump to the bootloader, and blank flash through
// which the chip slides up to it, bring the bootloader; anything else does nothing.
//
// It owns STK500v2 as far as the bootloader speaks it, what a reset, a power cut
// and a half-written flash do, and a list of what a programmer must not do. It
// knows nothing of the firmware, which is given to it, nor of what an image says.
package bootsim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"yaoju/protocol/board"
)

// The chip's flash, in bytes.
const (
	FlashSize = 256 << 10
	PageSize  = 256
	Loader    = 0x3e000 // the bootloader begins here
)

// Times of the bootloader, as measured in simavr.
const (
	loaderWait = 830 * time.Millisecond // for a first byte after a start
	loaderIdle = 5 * time.Second        // of silence, once it has heard anything
)

// Power is what becomes of the chip's power while a page is written.
type Power int

// A page is erased first, and then written.
const (
	Steady    Power = 0 // it stays
	CutBefore Power = 1 // lost before anything happened
	CutErased Power = 2 // lost when the page was erased
	CutTorn   Power = 3 // lost when half of the page was written
	CutAfter  Power = 4 // lost when all was written, and before the answer
)

// Firmware is what the chip runs when its flash is whole.
type Firmware interface {
	// Serve speaks on line until ctx ends or the line does, and closes it.
	Serve(ctx context.Context, line io.ReadWriteCloser) error
}

// Options say what chip it is.
type Options struct {
	App   Firmware // needed
	Image []byte   // flash from address 0; nil is a blank chip
	// Hello says who the firmware is by what stands in flash. Nil changes nothing.
	Hello func(flash []byte, h board.HelloIs) board.HelloIs
	// Whole reports whether the program in flash would run; pages of two programs
	// would not. Nil is that any would.
	Whole func(flash []byte) bool
	// Page is called before a page is written and may change it: worn flash, or a
	// moment to pull the cable. After a cut the power comes back with Reset. Nil is
	// healthy flash and steady power.
	Page func(addr int, page []byte) Power
	// NoLoader is a chip without a bootloader.
	NoLoader bool
}

// runner is who has the chip.
type runner int

const (
	inApp     runner = 1
	inLoader  runner = 2
	inNothing runner = 3 // it runs what is no program, or has no power: only a reset ends that
)

// Chip is a board's chip. It is served on one line at a time; the other methods
// may be called from any goroutine.
type Chip struct {
	opt   Options
	reset chan struct{}

	mu    sync.Mutex
	flash []byte   // guarded by mu, as is all that follows
	runs  runner   // who has the line
	wrong []string // what the programmer must not have done
}

// New returns a chip whose power has just come.
func New(opt Options) *Chip {
	c := &Chip{opt: opt, reset: make(chan struct{}, 1), flash: make([]byte, FlashSize)}
	for i := copy(c.flash, opt.Image); i < len(c.flash); i++ {
		c.flash[i] = 0xff
	}
	c.runs = c.atZero()
	return c
}

// Flash returns a copy of the flash.
func (c *Chip) Flash() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]byte(nil), c.flash...)
}

// Wrong lists what a programmer did that it must not do.
func (c *Chip) Wrong() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.wrong...)
}

// Runs reports whether the firmware has the line.
func (c *Chip) Runs() bool { return c.who() == inApp }

// Reset is the reset line, or power that comes, off before or not.
func (c *Chip) Reset() {
	select {
	case c.reset <- struct{}{}:
	default: // one is on its way already
	}
}

// jump is `jmp 0x3e000`, which leads from the start of flash into the bootloader.
var jump = [4]byte{0x0d, 0x94, 0x00, 0xf0}

// atZero says who runs when the chip begins at address 0. Guarded by mu.
func (c *Chip) atZero() runner {
	first := 0
	for first < FlashSize && c.flash[first] == 0xff {
		first++
	}
	// An erased word does nothing, or skips another: the chip slides through them.
	slides := first >= Loader
	if slides || [4]byte(c.flash[:4]) == jump {
		if c.opt.NoLoader {
			return inNothing
		}
		return inLoader
	}
	if first >= 2 || c.opt.Whole != nil && !c.opt.Whole(c.flash) {
		return inNothing // it slides into the middle of something, or runs a mixture
	}
	return inApp
}

// begin starts the chip at address 0, by a reset or because the bootloader jumps there.
func (c *Chip) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs = c.atZero()
}

// give hands the chip to r.
func (c *Chip) give(r runner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs = r
}

func (c *Chip) who() runner {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.runs
}

var errReset = errors.New("reset")

// Serve speaks on line until ctx ends or the line does, and closes it. The chip
// stays as it is without a line, and may be served again.
func (c *Chip) Serve(ctx context.Context, line io.ReadWriteCloser) error {
	stop := context.AfterFunc(ctx, func() { line.Close() })
	defer stop()
	in := make(chan []byte, 64) // 16 KiB and more: what a programmer sends before it waits
	ended := make(chan struct{})
	var reading sync.WaitGroup
	var lineErr error // read after in is closed
	reading.Go(func() {
		defer close(in)
		for {
			buf := make([]byte, 512)
			n, err := line.Read(buf)
			if n > 0 {
				select {
				case in <- buf[:n]:
				case <-ended:
					return
				}
			}
			if err != nil {
				lineErr = err
				return
			}
		}
	})
	defer func() {
		close(ended)
		line.Close()
		reading.Wait()
	}()
	for {
		var err error
		switch c.who() {
		case inLoader:
			err = c.load(in, line)
		case inApp:
			err = c.run(ctx, in, line)
		default:
			err = c.nothing(in)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("the line ended: %w", lineErr)
		case errors.Is(err, errReset):
			c.begin()
		case err != nil:
			return err
		}
	}
}

// nothing is what a half-written flash does, and a chip without power.
func (c *Chip) nothing(in <-chan []byte) error {
	for {
		select {
		case _, ok := <-in:
			if !ok {
				return io.EOF
			}
		case <-c.reset:
			return errReset
		}
	}
}

// run gives the line to the firmware until a reset, the end of the line, or a
// RESTART that the firmware agreed to.
func (c *Chip) run(ctx context.Context, in <-chan []byte, line io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	host, device := net.Pipe()
	defer func() {
		cancel()
		host.Close()
		running.Wait()
	}()
	var mu sync.Mutex
	asked := map[uint8]bool{} // guarded by mu: seqs of RESTART
	agreed := make(chan struct{}, 1)
	running.Go(func() {
		c.opt.App.Serve(ctx, device) // it ends with the line, and that is all its error says
	})
	running.Go(func() {
		for r := board.NewReader(host); ; {
			f, err := r.Next()
			if err != nil {
				return
			}
			m, err := f.Parse()
			if err != nil {
				panic(fmt.Sprintf("bootsim: the firmware sends what is no message: %v", err))
			}
			if h, ok := m.(board.HelloIs); ok && c.opt.Hello != nil {
				m = c.opt.Hello(c.Flash(), h)
			}
			line.Write(board.Append(nil, f.Seq, m)) // a line that died shows in reading it
			mu.Lock()
			restart := m.Kind() == board.KindPong && asked[f.Seq]
			mu.Unlock()
			if restart {
				select {
				case agreed <- struct{}{}:
				default:
				}
			}
		}
	})
	for frames := (&cutter{}); ; {
		select {
		case b, ok := <-in:
			if !ok {
				return io.EOF
			}
			for _, f := range frames.cut(b) {
				if f.Kind == board.KindRestart {
					mu.Lock()
					asked[f.Seq] = true
					mu.Unlock()
				}
			}
			if _, err := host.Write(b); err != nil {
				return fmt.Errorf("the firmware left the line: %w", err)
			}
		case <-agreed:
			if !c.opt.NoLoader {
				c.give(inLoader) // the firmware jumps there by itself
				return nil
			}
			return errReset
		case <-c.reset:
			return errReset
		}
	}
}

// cutter finds frames in bytes that come in pieces.
type cutter struct{ rest []byte }

func (c *cutter) cut(b []byte) (frames []board.Frame) {
	for _, x := range b {
		if x != 0 {
			c.rest = append(c.rest, x)
			continue
		}
		if f, err := board.Decode(c.rest); err == nil {
			frames = append(frames, f)
		}
		c.rest = c.rest[:0]
	}
	return frames
}
