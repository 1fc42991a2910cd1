// Package climate reads the air in the cabinet from a Sensirion SHT3x on I2C,
// for machines whose motor board has no sensor.
//
// It owns the sensor's commands and checksums. A sensor that is absent, damaged
// or another one is a fault with its reason, never a reading of zero. It does
// not know which temperatures are good for what lies in the cabinet.
package climate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/host/v3/sysfs"
)

const (
	// between is the pause between readings. Air in a cabinet takes minutes to change,
	// and a sensor that is read more often warms itself.
	between = 10 * time.Second

	// convertTime is how long a measurement takes: the data sheet says 15.5 ms at most.
	convertTime = 20 * time.Millisecond

	// resetTime is how long a soft reset takes, 1.5 ms at most, and a break, 1 ms.
	resetTime = 5 * time.Millisecond

	// heaterOn is the bit of the status word that says so.
	heaterOn = 1 << 13

	// tries is how often in a row a reading may go wrong, by a disturbance on the wire,
	// before it is a fault.
	tries = 3

	// A sensor that does not answer is asked again after firstPause, and after twice as
	// long each time, up to longPause: a person who plugs it in does not wait longer.
	firstPause = time.Second
	longPause  = 30 * time.Second
)

// Addresses that the sensor has, with its ADDR pin low and high.
const (
	AddressLow  = 0x44
	AddressHigh = 0x45
)

// Reading is the air in the cabinet, as last measured.
type Reading struct {
	OK      bool   // there is a reading
	CentiC  int    // 0.01 degrees Celsius, -4000 to 12500
	CentiRH int    // 0.01 percent relative humidity, 0 to 10000
	Why     string // what is wrong, if there is none
}

// Sensor is one SHT3x.
type Sensor struct {
	open func() (i2c.BusCloser, error)
	addr uint16
	log  *slog.Logger

	mu sync.Mutex
	// guarded by mu
	reading Reading
	stale   chan struct{} // closed when reading changes
}

// OpenBus opens an I2C bus of the machine: 1 is /dev/i2c-1.
func OpenBus(number int) (i2c.BusCloser, error) {
	bus, err := sysfs.NewI2C(number)
	if err != nil {
		return nil, fmt.Errorf("open /dev/i2c-%d: %w", number, err)
	}
	return bus, nil
}

// On returns the function that opens a bus by its number, for New.
func On(number int) func() (i2c.BusCloser, error) {
	return func() (i2c.BusCloser, error) { return OpenBus(number) }
}

// New makes a sensor at an address of the bus that open opens, each time it is
// needed.
func New(open func() (i2c.BusCloser, error), addr uint16, log *slog.Logger) *Sensor {
	return &Sensor{open: open, addr: addr, log: log, reading: Reading{Why: "not measured yet"}, stale: make(chan struct{})}
}

// Watch returns the last reading, and a channel that is closed when it no longer
// holds.
func (s *Sensor) Watch() (Reading, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reading, s.stale
}

// Run measures every 10 s until ctx ends. A sensor that is absent or lost is
// looked for again.
func (s *Sensor) Run(ctx context.Context) error {
	pause := firstPause
	for {
		measured, err := s.serve(ctx)
		if ctx.Err() != nil {
			s.announce(Reading{Why: "stopped"})
			return nil
		}
		if measured {
			pause = firstPause
		}
		if last, _ := s.Watch(); last.Why != err.Error() {
			s.log.Warn("no climate reading", "err", err)
		}
		s.announce(Reading{Why: err.Error()})
		// The end of ctx is noticed above, when the bus has been closed again.
		_ = sleep(ctx, pause-rand.N(pause/4))
		pause = min(2*pause, longPause)
	}
}

// announce makes r known, if it is news.
func (s *Sensor) announce(r Reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reading == r {
		return
	}
	s.reading = r
	close(s.stale)
	s.stale = make(chan struct{})
}

// serve measures until something goes wrong, and says if it ever measured.
func (s *Sensor) serve(ctx context.Context) (measured bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	bus, err := s.open()
	if err != nil {
		return false, err
	}
	defer bus.Close() // nothing is kept in it, so an error loses nothing
	dev := &i2c.Dev{Bus: bus, Addr: s.addr}
	if err := greet(ctx, dev); err != nil {
		return false, fmt.Errorf("SHT3x at %#02x: %w", s.addr, err)
	}
	for {
		r, err := measure(ctx, dev)
		if err != nil {
			return measured, fmt.Errorf("SHT3x at %#02x: %w", s.addr, err)
		}
		if !measured {
			s.log.Info("climate sensor up")
		}
		measured = true
		s.announce(r)
		if err := sleep(ctx, between); err != nil {
			return measured, err
		}
	}
}

// greet resets the sensor, which also switches its heater off, and sees that it
// is one. A program before this one may have left it measuring, and then it hears
// nothing but a break, and does not acknowledge even that while it converts. The
// general call that would reset it as well would reset everything else on the bus.
func greet(ctx context.Context, dev *i2c.Dev) error {
	if err := dev.Tx([]byte{0x30, 0x93}, nil); err != nil {
		if err := sleep(ctx, convertTime); err != nil {
			return err
		}
		if err := dev.Tx([]byte{0x30, 0x93}, nil); err != nil {
			return fmt.Errorf("break: no answer: is it connected, and at this address?: %w", err)
		}
	}
	if err := sleep(ctx, resetTime); err != nil {
		return err
	}
	if err := dev.Tx([]byte{0x30, 0xA2}, nil); err != nil {
		return fmt.Errorf("reset: no answer: is it connected, and at this address?: %w", err)
	}
	if err := sleep(ctx, resetTime); err != nil {
		return err
	}
	return cold(dev)
}

// cold sees that the sensor does not heat itself: what it measured then would be its own
// warmth, up to some degrees too much and much too dry.
func cold(dev *i2c.Dev) error {
	var status [3]byte
	if err := dev.Tx([]byte{0xF3, 0x2D}, status[:]); err != nil {
		return fmt.Errorf("read status: %w", err)
	}
	is, err := word(status[:])
	if err != nil {
		return fmt.Errorf("read status: not an SHT3x, or a bad wire: %w", err)
	}
	if is&heaterOn != 0 {
		return errHeater
	}
	return nil
}

// measure takes one reading, with several tries.
func measure(ctx context.Context, dev *i2c.Dev) (Reading, error) {
	var err error
	for range tries {
		var r Reading
		if r, err = try(ctx, dev); err == nil || ctx.Err() != nil || errors.Is(err, errHeater) {
			return r, err // a heater is switched off by the reset that follows
		}
	}
	return Reading{}, fmt.Errorf("%d tries in a row: %w", tries, err)
}

// try takes one reading: single shot, high repeatability, no clock stretching,
// which the Pi's controller does not stand.
func try(ctx context.Context, dev *i2c.Dev) (Reading, error) {
	if err := dev.Tx([]byte{0x24, 0x00}, nil); err != nil {
		return Reading{}, fmt.Errorf("measure: %w", err)
	}
	if err := sleep(ctx, convertTime); err != nil {
		return Reading{}, err
	}
	var b [6]byte
	if err := dev.Tx(nil, b[:]); err != nil {
		return Reading{}, fmt.Errorf("read measurement: %w", err)
	}
	r, err := decode(b)
	if err != nil {
		return Reading{}, err
	}
	return r, cold(dev)
}

var (
	errSum    = errors.New("wrong checksum")
	errHeater = errors.New("its heater is on")
	errRange  = errors.New("a temperature the sensor cannot measure")
)

// decode checks a measurement and converts it.
func decode(b [6]byte) (Reading, error) {
	t, err := word(b[:3])
	if err != nil {
		return Reading{}, fmt.Errorf("temperature: %w", err)
	}
	rh, err := word(b[3:])
	if err != nil {
		return Reading{}, fmt.Errorf("humidity: %w", err)
	}
	r := Reading{OK: true, CentiC: (17500*t+32767)/65535 - 4500, CentiRH: (10000*rh + 32767) / 65535}
	if r.CentiC < -4000 || r.CentiC > 12500 {
		return Reading{}, errRange
	}
	return r, nil
}

// word is two bytes, most significant first, with their checksum behind them.
func word(b []byte) (int, error) {
	if crc8(b[:2]) != b[2] {
		return 0, errSum
	}
	return int(b[0])<<8 | int(b[1]), nil
}

// crc8 is the sensor's checksum: polynomial 0x31, begun with 0xFF.
func crc8(b []byte) byte {
	crc := byte(0xFF)
	for _, c := range b {
		crc ^= c
		for range 8 {
			high := crc&0x80 != 0
			crc <<= 1
			if high {
				crc ^= 0x31
			}
		}
	}
	return crc
}

// sleep waits, or returns the error of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
