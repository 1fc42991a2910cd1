package uplink_test

import (
	"context"
	"crypto/ed25519"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/protocol"
)

// keep is KeepTrust of a machine whose disk is of no interest.
func keep(context.Context, protocol.Trust) error { return nil }

// keysBy is a list of keys, named by their seeds, signed by another.
func keysBy(t *testing.T, by byte, serial uint64, seeds ...byte) protocol.Signed {
	t.Helper()
	k := protocol.Keys{Serial: serial}
	for _, s := range seeds {
		k.Keys = append(k.Keys, signer(s).Public().(ed25519.PublicKey))
	}
	s, err := protocol.SignKeys(signer(by), k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The broker sends the desired state of a new key ahead of the list that names the
// key: it is heard once the list is there. A key that left the list is obeyed no more.
func TestKeysChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{}
		r := run(t, newChain(t, 0), b.dial, 0, quiet)
		time.Sleep(time.Second)
		send := func(topic string, payload []byte) (desired, commands int) {
			b.send(topic, payload)
			time.Sleep(time.Second)
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.desired), len(r.commands)
		}
		chain := func(links ...protocol.Signed) []byte { return protocol.Encode(protocol.KeyChain{Links: links}) }
		one, two := keysBy(t, 1, 1, 2, 1), keysBy(t, 2, 2, 2)
		if n, _ := send(protocol.DesiredTopic(machine), must(t)(protocol.SignDesired(signer(2), desiredFor(machine)))); n != 0 {
			t.Error("obeyed a key nobody has introduced")
		}
		if n, _ := send(protocol.KeysTopic(machine), chain(keysBy(t, 3, 1, 3), one)); n != 1 {
			t.Errorf("%d desired states in force after the keys came, want 1", n)
		}
		if _, n := send(protocol.CommandTopic(machine), must(t)(protocol.SignCommand(signer(1), commandFor(machine, 1)))); n != 1 {
			t.Error("the old key is refused while both are good")
		}
		send(protocol.KeysTopic(machine), chain(one, two))
		if _, n := send(protocol.CommandTopic(machine), must(t)(protocol.SignCommand(signer(1), commandFor(machine, 2)))); n != 1 {
			t.Error("a retired key is obeyed")
		}
		if _, n := send(protocol.CommandTopic(machine), must(t)(protocol.SignCommand(signer(2), commandFor(machine, 3)))); n != 2 {
			t.Error("the new key is not obeyed")
		}
		r.stop()
	})
}
