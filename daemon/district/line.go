package district

import (
	"context"
	"net"

	"yaoju/protocol"
)

// line is how the district and its machines reach each other: the broker in here, or
// one that is a program of its own.
type line interface {
	// run carries messages until ctx ends, then returns nil. The listener is for
	// machines; a broker of its own has one itself.
	run(ctx context.Context, l net.Listener) error
	// publish hands a message to whoever has subscribed, and keeps it if it is
	// retained. It never waits for a machine. While there is no broker it drops the
	// message: all that matters is published again when there is one.
	publish(topic string, payload []byte, retained bool) error
	// hangUp ends the connections of a machine that are not made with key.
	hangUp(m protocol.MachineID, key [32]byte)
	// up reports whether machines can be heard.
	up() bool
}

// announce publishes everything that a broker keeps for machines, and gives commands
// again that may have been missed.
func (d *District) announce(ctx context.Context) error {
	if err := d.publishAcks(ctx); err != nil {
		return err
	}
	if err := d.publishKeys(ctx); err != nil {
		return err
	}
	if err := d.publishDesired(ctx); err != nil {
		return err
	}
	return d.publishCommands(ctx)
}
