package promise_test

import (
	"context"
	"errors"
	"io"
	"sync"

	"yaoju/daemon/machine/sim"
)

// cable joins a driver's line to one of several devices. A device is on its line
// for life and never knows whether anybody listens.
type cable struct {
	ctx context.Context

	mu   sync.Mutex
	at   io.ReadWriter      // guarded by mu, as is all that follows; our end of the device's line; nil: nothing is plugged in
	host io.ReadWriteCloser // our end of the driver's line; nil: none
	mute bool               // what the device says is lost
}

// device puts a device on a line, for plug.
func (c *cable) device(serve func(context.Context, io.ReadWriteCloser) error) io.ReadWriter {
	near, far := sim.Line()
	go serve(c.ctx, far) // its error says that the line is closed, which is when the test ends
	go func() {
		var chunk [256]byte
		for {
			n, err := near.Read(chunk[:])
			if err != nil {
				return
			}
			c.mu.Lock()
			to := c.host
			if c.at != near || c.mute {
				to = nil
			}
			c.mu.Unlock()
			if to != nil {
				to.Write(chunk[:n]) // a driver that has given up its line hears nothing
			}
		}
	}()
	return near
}

// plug connects a device, nil for none. A driver that was connected to another has
// its line ended.
func (c *cable) plug(device io.ReadWriter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == device {
		return
	}
	c.at = device
	if c.host != nil {
		c.host.Close()
		c.host = nil
	}
}

func (c *cable) silence(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mute = on
}

// dial is the driver's way to whatever is plugged in.
func (c *cable) dial(context.Context) (io.ReadWriteCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == nil {
		return nil, errors.New("no such device")
	}
	if c.host != nil {
		c.host.Close()
	}
	driver, ours := sim.Line()
	c.host = ours
	to := c.at
	go func() {
		var chunk [256]byte
		for {
			n, err := ours.Read(chunk[:])
			if err != nil {
				return
			}
			to.Write(chunk[:n]) // a device takes everything until the test ends
		}
	}()
	return driver, nil
}
