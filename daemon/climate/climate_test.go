package climate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
)

// From the data sheet.
func TestCRC(t *testing.T) {
	t.Parallel()
	if got := crc8([]byte{0xBE, 0xEF}); got != 0x92 {
		t.Errorf("BEEF: %02x, want 92", got)
	}
}

// summed is a measurement with its checksums.
func summed(t, rh int) [6]byte {
	b := [6]byte{byte(t >> 8), byte(t), 0, byte(rh >> 8), byte(rh), 0}
	b[2], b[5] = crc8(b[:2]), crc8(b[3:5])
	return b
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		t, rh int
		want  Reading
		err   error
	}{
		{0x6666, 0x8000, Reading{OK: true, CentiC: 2500, CentiRH: 5000}, nil},
		{0x1900, 0, Reading{OK: true, CentiC: -2791, CentiRH: 0}, nil},
		{0x0751, 0xFFFF, Reading{OK: true, CentiC: -4000, CentiRH: 10000}, nil},
		{0xF8AF, 0, Reading{OK: true, CentiC: 12500}, nil},
		{0x0000, 0x8000, Reading{}, errRange},
		{0xFFFF, 0x8000, Reading{}, errRange},
	} {
		got, err := decode(summed(c.t, c.rh))
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%04x, %04x: %+v, %v; want %+v, %v", c.t, c.rh, got, err, c.want, c.err)
		}
	}
	// A dead wire reads as all zeros or all ones, and any one bit may flip.
	bad := [][6]byte{{}, {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}}
	for bit := range 48 {
		b := summed(0x6666, 0x8000)
		b[bit/8] ^= 1 << (bit % 8)
		bad = append(bad, b)
	}
	for _, b := range bad {
		if r, err := decode(b); !errors.Is(err, errSum) || r != (Reading{}) {
			t.Errorf("% x: %+v, %v", b, r, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	good := summed(0x6666, 0x8000)
	f.Add(good[:])
	f.Add(make([]byte, 6))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) != 6 {
			return
		}
		r, err := decode([6]byte(in))
		if r.OK != (err == nil) || err != nil && r != (Reading{}) {
			t.Errorf("% x: %+v, %v", in, r, err)
		}
		if r.CentiC < -4000 || r.CentiC > 12500 || r.CentiRH < 0 || r.CentiRH > 10000 {
			t.Errorf("% x: %+v", in, r)
		}
	})
}

// bus is an I2C bus with, perhaps, an SHT3x on it. It fails the test when the
// sensor is asked sooner than it can answer.
type bus struct {
	t *testing.T

	mu sync.Mutex
	// guarded by mu
	gone    bool // nobody acknowledges
	missing bool // the bus itself
	alien   bool // another chip: what it says has no checksum
	bent    int  // readings that arrive damaged
	hot     bool // its heater is on
	stuck   bool // and a reset does not switch it off
	runs    bool // measures by itself, as a program before may have left it
	breaks  int  // that were sent to it meanwhile; the first comes while it converts
	open    bool
	asked   int // measurements
	busy    time.Time
	pending bool
}

var errNoAck = errors.New("no acknowledgement")

// set changes what is on the bus.
func (b *bus) set(f func(*bus)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b)
}

func (b *bus) dial() (i2c.BusCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.missing {
		return nil, errors.New("no such bus")
	}
	if b.open {
		b.t.Error("opened twice")
	}
	b.open = true
	return b, nil
}

func (b *bus) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = false
	return nil
}

func (b *bus) String() string                  { return "bus" }
func (b *bus) SetSpeed(physic.Frequency) error { return errors.ErrUnsupported }

func (b *bus) Tx(addr uint16, w, r []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open || addr != AddressLow {
		b.t.Errorf("asked %#x, open %v", addr, b.open)
	}
	if b.gone {
		return errNoAck
	}
	if wait := time.Until(b.busy); wait > 0 {
		b.t.Errorf("asked %x %v too soon", w, wait)
	}
	var out [6]byte
	switch {
	case bytes.Equal(w, []byte{0x30, 0x93}):
		if b.runs {
			b.breaks++
		}
		if b.runs && b.breaks == 1 {
			return errNoAck
		}
		b.runs, b.breaks, b.pending, b.busy = false, 0, false, time.Now().Add(time.Millisecond)
	case b.runs:
		return errNoAck
	case bytes.Equal(w, []byte{0x30, 0xA2}):
		b.busy, b.hot = time.Now().Add(1500*time.Microsecond), b.hot && b.stuck
	case bytes.Equal(w, []byte{0xF3, 0x2D}):
		out = summed(0x0010, 0)
		if b.hot {
			out = summed(0x2010, 0)
		}
	case bytes.Equal(w, []byte{0x24, 0x00}):
		b.asked++
		b.pending, b.busy = true, time.Now().Add(15500*time.Microsecond)
	case len(w) == 0 && b.pending:
		out = summed(0x6666, 0x8000)
		b.pending = false
		if b.bent > 0 {
			b.bent--
			out[4] ^= 1
		}
	default:
		b.t.Errorf("unknown command %x", w)
	}
	if b.alien {
		out = [6]byte{0x12, 0x34, 0x00, 0x12, 0x34, 0x00}
	}
	copy(r, out[:])
	return nil
}

// good is what a bus measures.
var good = Reading{OK: true, CentiC: 2500, CentiRH: 5000}

// onBus runs f in a bubble with a sensor on b, and returns the log.
func onBus(t *testing.T, b *bus, f func(t *testing.T, s *Sensor)) string {
	t.Helper()
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		b.t = t
		s := New(b.dial, AddressLow, slog.New(slog.NewTextHandler(&log, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		f(t, s)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if r, _ := s.Watch(); r.OK || b.open {
			t.Errorf("after the end: %+v, bus open %v", r, b.open)
		}
	})
	return log.String()
}

// wants checks the reading once everybody waits for time to pass.
func wants(t *testing.T, s *Sensor, ok bool, why string) {
	t.Helper()
	synctest.Wait()
	r, _ := s.Watch()
	if ok && r != good || !ok && (r.OK || r.CentiC != 0 || !strings.Contains(r.Why, why)) {
		t.Errorf("%+v; want OK %v, %q", r, ok, why)
	}
}

func TestMeasuresEveryTenSeconds(t *testing.T) {
	t.Parallel()
	b := &bus{}
	onBus(t, b, func(t *testing.T, s *Sensor) {
		wants(t, s, false, "not measured yet")
		time.Sleep(time.Second)
		wants(t, s, true, "")
		time.Sleep(time.Hour)
		synctest.Wait()
		b.set(func(b *bus) {
			if b.asked < 358 || b.asked > 361 {
				t.Errorf("%d measurements in an hour", b.asked)
			}
		})
	})
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		breaks func(b *bus)
		why    string
	}{
		"unplugged":    {func(b *bus) { b.gone = true }, "no answer: is it connected"},
		"no bus":       {func(b *bus) { b.missing, b.gone = true, true }, "no such bus"},
		"another chip": {func(b *bus) { b.alien = true }, "not an SHT3x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &bus{}
			log := onBus(t, b, func(t *testing.T, s *Sensor) {
				time.Sleep(time.Second)
				wants(t, s, true, "")
				b.set(c.breaks)
				time.Sleep(time.Hour)
				wants(t, s, false, c.why)
				b.set(func(b *bus) { b.gone, b.missing, b.alien = false, false, false })
				time.Sleep(longPause + time.Second)
				wants(t, s, true, "")
			})
			if n := strings.Count(log, "WARN"); n > 2 { // while it measured, and since
				t.Errorf("%d warnings of one fault:\n%s", n, log)
			}
		})
	}
}

// A program before this one left the sensor measuring by itself, with its heater on.
func TestFoundRunning(t *testing.T) {
	t.Parallel()
	onBus(t, &bus{runs: true, hot: true}, func(t *testing.T, s *Sensor) {
		time.Sleep(time.Second)
		wants(t, s, true, "")
	})
}

// A heater that comes on is switched off, and what was measured meanwhile is nobody's.
func TestHeater(t *testing.T) {
	t.Parallel()
	b := &bus{}
	onBus(t, b, func(t *testing.T, s *Sensor) {
		time.Sleep(time.Second)
		wants(t, s, true, "")
		b.set(func(b *bus) { b.hot, b.stuck = true, true })
		time.Sleep(time.Minute)
		wants(t, s, false, "its heater is on")
		b.set(func(b *bus) { b.stuck = false })
		time.Sleep(longPause + time.Second)
		wants(t, s, true, "")
		b.set(func(b *bus) { b.hot = true })
		time.Sleep(between + 2*firstPause)
		wants(t, s, true, "")
	})
}

func TestAbsentAtStart(t *testing.T) {
	t.Parallel()
	b := &bus{gone: true}
	onBus(t, b, func(t *testing.T, s *Sensor) {
		time.Sleep(time.Minute)
		wants(t, s, false, fmt.Sprintf("SHT3x at %#02x", AddressLow))
		b.set(func(b *bus) { b.gone = false })
		time.Sleep(longPause + time.Second)
		wants(t, s, true, "")
	})
}

// A disturbance on the wire is no fault; a wire that stays bad is one.
func TestBentReadings(t *testing.T) {
	t.Parallel()
	b := &bus{}
	log := onBus(t, b, func(t *testing.T, s *Sensor) {
		time.Sleep(time.Second)
		_, stale := s.Watch()
		b.set(func(b *bus) { b.bent = tries - 1 })
		time.Sleep(15 * time.Second)
		wants(t, s, true, "")
		select {
		case <-stale:
			t.Error("a disturbance was told")
		default:
		}
		b.set(func(b *bus) { b.bent = 1000 })
		time.Sleep(15 * time.Second)
		wants(t, s, false, "wrong checksum")
		b.set(func(b *bus) { b.bent = 0 })
		time.Sleep(longPause + time.Second)
		wants(t, s, true, "")
	})
	if !strings.Contains(log, "no climate reading") {
		t.Errorf("nothing in the log:\n%s", log)
	}
}

func TestOpenBusError(t *testing.T) {
	t.Parallel()
	if b, err := OpenBus(9999); b != nil || err == nil || !strings.Contains(err.Error(), "/dev/i2c-9999") {
		t.Errorf("%v, %v", b, err)
	}
}
