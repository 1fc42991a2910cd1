package main

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"time"

	"yaoju/daemon/identity"
)

// brokerFolder is where the files lie that a broker of its own needs from us: its
// certificate, and which keys it must not take. Who runs the broker carries them
// there; the package yaoju-district does where both are on one computer.
const brokerFolder = "broker"

// brokerEvery is how soon a key that was revoked, or replaced at an enrolment, is in
// the broker's list.
const brokerEvery = 5 * time.Second

// keepBroker keeps the broker's files up to date until ctx ends. A failure is told
// once and tried again: machines that are connected go on.
func (o *office) keepBroker(ctx context.Context) error {
	tick := time.NewTicker(brokerEvery)
	defer tick.Stop()
	var said string
	for {
		err := o.brokerFiles(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			o.log.Error("the broker's files are not up to date", "err", err)
		}
		said = message(err)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// brokerFiles brings the broker's files up to date once.
func (o *office) brokerFiles(ctx context.Context) error {
	ended, err := o.d.EndedKeys(ctx)
	if err != nil {
		return err
	}
	var keys []identity.KeyID
	for _, k := range ended {
		keys = append(keys, k)
	}
	return o.ca.KeepBroker(filepath.Join(o.cfg.Data, brokerFolder), o.cfg.brokerNames(), keys, time.Now())
}

// brokerNames are those under which the broker is reached, by machines and by us.
func (c Config) brokerNames() []string {
	names := slices.Clone(c.Identity.Names)
	host, _, err := net.SplitHostPort(c.MQTT.address)
	if err == nil && !slices.Contains(names, host) { // without a broker of its own there is no address
		names = append(names, host)
	}
	return names
}
