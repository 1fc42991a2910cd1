package gpio_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"yaoju/daemon/machine/gpio"
	"yaoju/daemon/machine/gpio/sim"
)

func TestConfigRefused(t *testing.T) {
	tests := []struct {
		name   string
		change func(*gpio.Config)
		want   []string
	}{
		{name: "good", change: func(*gpio.Config) {}},
		{name: "nothing", change: func(c *gpio.Config) { *c = gpio.Config{} },
			want: []string{"no motor is named", "curtain: no line", "emitter: no line", "door: no line"}},
		{name: "absent lines", change: func(c *gpio.Config) { c.Door, c.Motors[0].Line = "!GPIO240", "GPI05" },
			want: []string{"motor of slot 1: there is no line GPI05", "door: there is no line GPIO240"}},
		{name: "doubled lines", change: func(c *gpio.Config) { c.Door, c.Lock, c.Motors[1].Line = "!GPIO17", "GPIO22", "GPIO5" },
			want: []string{"line GPIO17 is home switch and door", "line GPIO22 is curtain and lock", "line GPIO5 is motor of slot 1 and motor of slot 2"}},
		{name: "both polarities", change: func(c *gpio.Config) { c.Motors[2].Home = "GPIO27" }, want: []string{"line GPIO27 is active both high and low as home switch"}},
		{name: "no name", change: func(c *gpio.Config) { c.Lock = "!" }, want: []string{`lock: "!" is no line`}},
		{name: "slots", change: func(c *gpio.Config) { c.Motors[0].Slot, c.Motors[2].Slot = 61, 2 },
			want: []string{"slot 61: slots are 1 to 60", "slot 2 is named twice"}},
		{name: "half a crossing", change: func(c *gpio.Config) { c.Motors[0].Line, c.Motors[0].Row = "", "GPIO5" },
			want: []string{"slot 1: want a line, or a row and a column"}},
		{name: "both kinds", change: func(c *gpio.Config) { c.Motors[0].Row, c.Motors[0].Column = "GPIO7", "GPIO8" },
			want: []string{"slot 1: want a line, or a row and a column", "row: there is no line GPIO7"}},
		{name: "one crossing for two", change: func(c *gpio.Config) { *c = crossed(); c.Motors[3].Row = c.Motors[1].Row },
			want: []string{"slots 2 and 4 have the same row and column"}},
		{name: "no home switch", change: func(c *gpio.Config) { c.Motors[0].Home = "" }, want: []string{"slot 1: no home switch"}},
		{name: "limits", change: func(c *gpio.Config) { c.Leave, c.Turn, c.Slow = 50*time.Millisecond, 8*time.Second, -1 },
			want: []string{"leave limit 50ms: 100ms to 2s", "turn limit 8s: 150ms to 7s", "slow limit -1ns"}},
		{name: "many", change: func(c *gpio.Config) {
			for range 16 {
				c.Motors = append(c.Motors, c.Motors[0])
			}
		}, want: []string{"19 motors: at most 16 are allowed", "slot 1 is named twice"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			there := single()
			if strings.Contains(test.name, "crossing for") {
				there = crossed()
			}
			cfg := single()
			test.change(&cfg)
			_, err := gpio.New(cfg, sim.New(sim.Options{Config: there}), &drawer{t: t}, slog.New(slog.DiscardHandler))
			if (err == nil) != (len(test.want) == 0) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v\nwant in it: %s", err, want)
				}
			}
		})
	}
}

// twice is a chip that has every line a second time.
type twice struct{ *sim.Plant }

func (c twice) Names() ([]string, error) {
	names, err := c.Plant.Names()
	return append(names, names...), err
}

// blank is a computer without lines.
type blank struct{ *sim.Plant }

func (blank) Names() ([]string, error) { return nil, errors.New("no /dev/gpiochip0") }

func TestChipRefused(t *testing.T) {
	plant := sim.New(sim.Options{Config: single()})
	for want, chip := range map[string]gpio.Chip{"door: there are 2 lines GPIO24": twice{plant}, "no /dev/gpiochip0": blank{plant}} {
		_, err := gpio.New(single(), chip, &drawer{t: t}, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
