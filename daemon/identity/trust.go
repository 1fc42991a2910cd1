package identity

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"yaoju/daemon/durable"
	"yaoju/protocol"
)

// TrustFile keeps which keys a machine obeys, once the district has changed those
// the machine was configured with.
type TrustFile struct {
	Path string
	// Configured are the keys of the machine's configuration. Where they are others
	// than those the file began with, a person set the machine up anew: the file
	// counts for nothing.
	Configured []ed25519.PublicKey
}

// trustRecord is the file's content.
type trustRecord struct {
	Began  [][]byte `json:"began"` // the configured keys
	Serial uint64   `json:"serial"`
	Keys   [][]byte `json:"keys"`
}

// Load returns whom to obey. With an error it returns the configured keys, which
// are always a place to start from: the district's chain leads on from there.
func (f TrustFile) Load() (protocol.Trust, error) {
	began := protocol.Trust{Keys: f.Configured}
	b, err := readSecret(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return began, nil
	}
	if err != nil {
		return began, fmt.Errorf("trusted keys: %w", err)
	}
	r, err := decodeTrust(b)
	if err != nil {
		return began, fmt.Errorf("trusted keys %s: %w", f.Path, err)
	}
	if !slices.EqualFunc(r.Began, f.Configured, func(a []byte, k ed25519.PublicKey) bool { return bytes.Equal(a, k) }) {
		return began, nil
	}
	t := protocol.Trust{Serial: r.Serial}
	for _, k := range r.Keys {
		t.Keys = append(t.Keys, k)
	}
	return t, nil
}

func decodeTrust(b []byte) (trustRecord, error) {
	var r trustRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return r, err
	}
	return r, protocol.Keys{Serial: r.Serial, Keys: r.Keys}.Valid()
}

// Keep makes t durable.
func (f TrustFile) Keep(_ context.Context, t protocol.Trust) error {
	r := trustRecord{Serial: t.Serial}
	for _, k := range f.Configured {
		r.Began = append(r.Began, k)
	}
	for _, k := range t.Keys {
		r.Keys = append(r.Keys, k)
	}
	if err := durable.WriteFile(f.Path, protocol.Encode(r)); err != nil {
		return fmt.Errorf("keep the trusted keys: %w", err)
	}
	return nil
}
