package protocol

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Keys says which keys sign for a district: the one that signs now first, then
// those whose messages may still be on their way. It is for every machine.
type Keys struct {
	Serial uint64   `json:"serial"`  // rises with every change
	MadeMS int64    `json:"made_ms"` // Unix milliseconds
	Keys   [][]byte `json:"keys"`    // Ed25519 public keys, 1 to MaxKeys
}

// Limits of the keys. A district that rotates every quarter fills the chain in
// eight years; a machine that was in a drawer for longer is enrolled again.
const (
	MaxKeys     = 4
	MaxKeyLinks = 64 // two for each rotation
)

// Valid reports what is wrong with it, or nil.
func (k Keys) Valid() error {
	if k.Serial == 0 {
		return errors.New("keys: serial begins at 1")
	}
	if len(k.Keys) == 0 || len(k.Keys) > MaxKeys {
		return fmt.Errorf("keys: %d keys, 1 to %d are allowed", len(k.Keys), MaxKeys)
	}
	for i, key := range k.Keys {
		if len(key) != ed25519.PublicKeySize {
			return fmt.Errorf("keys: key %d has %d bytes, want %d", i+1, len(key), ed25519.PublicKeySize)
		}
	}
	return nil
}

// KeyChain is the content of a keys message: every list of keys since the
// first, oldest first, each signed by a key of the list before. A machine that
// was away while keys changed, once or often, follows it from the list it knows.
type KeyChain struct {
	Links []Signed `json:"links"` // bodies are JSON of Keys
}

// DecodeKeyChain decodes a keys message. It checks no signature: Trust.Follow does.
func DecodeKeyChain(b []byte) (KeyChain, error) {
	var c KeyChain
	if err := decode("keys", b, MaxMessage, &c); err != nil {
		return KeyChain{}, err
	}
	if len(c.Links) > MaxKeyLinks {
		return KeyChain{}, fmt.Errorf("keys: %d links, at most %d are allowed", len(c.Links), MaxKeyLinks)
	}
	return c, nil
}

// SignKeys encodes and signs a list of keys, with a key that machines trust already.
func SignKeys(k ed25519.PrivateKey, keys Keys) (Signed, error) {
	var s Signed
	if err := keys.Valid(); err != nil {
		return s, err
	}
	b, err := sign(k, purposeKeys, Encode(keys))
	if err != nil {
		return s, fmt.Errorf("keys: %w", err)
	}
	return s, json.Unmarshal(b, &s)
}

// Trust is which keys a machine obeys, and how it came to it.
type Trust struct {
	Serial uint64              // of the list they are from; 0: those it was set up with
	Keys   []ed25519.PublicKey // never empty
}

// Follow returns where a keys message leads from t, which is t itself if it holds
// nothing newer. It is an error if it speaks of a newer list and no signature
// leads there: the machine was away for too long, or somebody else wrote it.
func (t Trust) Follow(b []byte) (Trust, error) {
	c, err := DecodeKeyChain(b)
	if err != nil {
		return t, err
	}
	claimed := t.Serial
	for _, link := range c.Links {
		var k Keys
		if err := decode("keys", []byte(link.Body), MaxMessage, &k); err != nil {
			return t, err
		}
		if err := k.Valid(); err != nil {
			return t, err
		}
		claimed = max(claimed, k.Serial)
		if k.Serial > t.Serial && link.signedBy(t.Keys, purposeKeys) {
			t = Trust{Serial: k.Serial}
			for _, key := range k.Keys {
				t.Keys = append(t.Keys, slices.Clone(key))
			}
		}
	}
	if claimed > t.Serial {
		return t, fmt.Errorf("keys: nothing signed by a key this machine trusts leads from list %d to list %d", t.Serial, claimed)
	}
	return t, nil
}
