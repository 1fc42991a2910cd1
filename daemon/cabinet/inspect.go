package cabinet

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"yaoju/daemon/climate"
	"yaoju/daemon/machine/gpio"
	"yaoju/daemon/scan"
)

// airLimit is how long a climate sensor may take for its first reading.
const airLimit = 3 * time.Second

// Inspect asks every part that cfg names who it is, once and without a driver, while
// no kioskd runs: one that runs has the lines, and says itself how it finds them.
// Nothing moves. It takes some 10 s if a line is silent. lines were found at the very
// start of the program; chip nil is the lines of this computer.
func Inspect(ctx context.Context, cfg Config, lines scan.GPIO, chip gpio.Chip) State {
	if chip == nil {
		chip = gpio.Kernel{}
	}
	parts := fitted(cfg)
	shared := map[string]error{} // by path
	for _, s := range cfg.shared() {
		shared[s.first.path], shared[s.second.path] = s, s
	}
	var asking sync.WaitGroup
	for i, p := range parts {
		asking.Go(func() {
			switch err := shared[p.path]; {
			case err != nil:
				p.proved(err)
			case p.kind != nobody:
				p.inspect(ctx)
			case i == 0:
				_, err := gpio.New(cfg.fitting.gpio, chip, gpio.File{Path: filepath.Join(cfg.Data, memoryFile)}, slog.New(slog.DiscardHandler))
				p.proved(err)
			case i-firstScan < len(cfg.Scanners):
				p.proved(opens(p.openKeyboard(ctx)))
			case i-firstScan-len(cfg.Scanners) < len(cfg.Badges):
				w := cfg.Badges[i-firstScan-len(cfg.Scanners)].Wiegand
				set, err := lines.Lines(w.Chip, w.D0, w.D1)
				p.proved(opens(set, err))
			default:
				p.inspectAir(ctx, cfg.Climate)
			}
		})
	}
	asking.Wait()
	return State{Parts: judge(parts)}
}

// inspect asks who is on a serial line.
func (p *part) inspect(ctx context.Context) {
	f, err := ask(ctx, p)
	if err != nil {
		p.absent(err)
		return
	}
	p.met(f, time.Now())
	// A barcode scanner says nothing until it has read something.
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.up = f == finding{p.kind, p.baud} || p.kind == barcodeScanner && f.who == nobody
}

// proved notes what came of opening a part that cannot be asked who it is.
func (p *part) proved(err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	p.is(err == nil, why, 0)
}

// opens closes what was opened.
func opens(opened io.Closer, err error) error {
	if err != nil {
		return err
	}
	return opened.Close()
}

// inspectAir waits for one reading of the climate sensor.
func (p *part) inspectAir(ctx context.Context, c Climate) {
	ctx, cancel := context.WithTimeout(ctx, airLimit)
	sensor := climate.New(climate.On(c.Bus), uint16(c.Address), slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	running.Go(func() { sensor.Run(ctx) }) // its end is that of ctx
	defer running.Wait()
	defer cancel()
	for ctx.Err() == nil {
		air, stale := sensor.Watch()
		p.is(air.OK, air.Why, 0)
		if air.OK {
			return
		}
		select {
		case <-stale:
		case <-ctx.Done():
		}
	}
}
