package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"yaoju/daemon/durable"
	"yaoju/protocol"
)

// Overlap is how long the key before the last one stays on the list: a command
// given with it may still be on its way, and another districtd may not have read
// the new one yet.
const Overlap = 7 * 24 * time.Hour

// pemLink is a signed list of keys in a signer's file.
const pemLink = "YAOJU KEYS"

// Signer signs desired states and commands for a district, with a key that no
// broker ever sees. Machines know its key from their configuration or from a chain
// of lists, each signed by a key of the list before, which the signer keeps beside
// its key in the same file: the two change together or not at all.
type Signer struct {
	Key   ed25519.PrivateKey
	Links []protocol.Signed // oldest first; none before the first rotation

	list protocol.Keys // in force; zero before the first rotation
}

// OpenSigner reads a signer's file, or makes it with a new key.
func OpenSigner(path string) (Signer, error) {
	s, err := readSigner(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	held, err := holdFolder(filepath.Dir(path))
	if err != nil {
		return Signer{}, fmt.Errorf("make signing key: %w", err)
	}
	defer held.Close()
	if s, err := readSigner(path); !errors.Is(err, fs.ErrNotExist) {
		return s, err // somebody else has just made it
	}
	_, k, err := ed25519.GenerateKey(nil)
	if err != nil {
		return Signer{}, fmt.Errorf("make signing key: %w", err)
	}
	s = Signer{Key: k}
	if err := s.Save(path); err != nil {
		return Signer{}, err
	}
	return s, nil
}

func readSigner(path string) (Signer, error) {
	b, err := readSecret(path)
	if err != nil {
		return Signer{}, fmt.Errorf("signing key: %w", err)
	}
	s, err := decodeSigner(b)
	if err != nil {
		return Signer{}, fmt.Errorf("signing key %s: %w: restore it from the backup", path, err)
	}
	return s, nil
}

func decodeSigner(b []byte) (Signer, error) {
	var s Signer
	block, rest := pem.Decode(b)
	if block == nil {
		return s, errors.New("not a PEM file")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return s, errors.New("the key is damaged") // the library's words might quote it
	}
	ed, ok := k.(ed25519.PrivateKey)
	if !ok {
		return s, errors.New("not an Ed25519 key")
	}
	s.Key = ed
	for len(bytes.TrimSpace(rest)) > 0 {
		if block, rest = pem.Decode(rest); block == nil || block.Type != pemLink {
			return Signer{}, errors.New("a list of keys is damaged")
		}
		var link protocol.Signed
		if err := json.Unmarshal(block.Bytes, &link); err != nil {
			return Signer{}, fmt.Errorf("a list of keys: %w", err)
		}
		s.Links = append(s.Links, link)
	}
	return s, s.sound()
}

// sound checks that the lists lead to the key, and remembers the last.
func (s *Signer) sound() error {
	if len(s.Links) == 0 {
		return nil
	}
	if _, err := protocol.DecodeKeyChain(s.Chain()); err != nil {
		return err
	}
	last := s.Links[len(s.Links)-1]
	if err := json.Unmarshal([]byte(last.Body), &s.list); err != nil {
		return fmt.Errorf("the last list of keys: %w", err)
	}
	if err := s.list.Valid(); err != nil {
		return err
	}
	if !s.Public().Equal(ed25519.PublicKey(s.list.Keys[0])) {
		return errors.New("the last list of keys does not begin with this key")
	}
	return nil
}

// Public is the key that machines are to trust.
func (s Signer) Public() ed25519.PublicKey { return s.Key.Public().(ed25519.PublicKey) }

// Chain is the keys message that leads machines to the key; it has no links before
// the first rotation.
func (s Signer) Chain() []byte {
	return protocol.Encode(protocol.KeyChain{Links: append([]protocol.Signed{}, s.Links...)})
}

// Save puts the signer in its file, durably.
func (s Signer) Save(path string) error {
	der, err := x509.MarshalPKCS8PrivateKey(s.Key)
	if err != nil {
		return fmt.Errorf("keep the signing key: %w", err)
	}
	var b bytes.Buffer
	b.Write(pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}))
	for _, l := range s.Links {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: pemLink, Bytes: protocol.Encode(l)}))
	}
	if err := durable.WriteFile(path, b.Bytes()); err != nil {
		return fmt.Errorf("keep the signing key: %w", err)
	}
	return nil
}

// Rotate returns a signer with a new key, introduced by the one it has; both are
// good until Retire. The old private key is gone once the new signer is saved.
func (s Signer) Rotate(now time.Time) (Signer, error) {
	_, k, err := ed25519.GenerateKey(nil)
	if err != nil {
		return s, fmt.Errorf("rotate the signing key: %w", err)
	}
	next := Signer{Key: k}
	keys := [][]byte{next.Public(), s.Public()}
	return next.after(s, s.Key, keys, now)
}

// Retire returns a signer whose key alone is good.
func (s Signer) Retire(now time.Time) (Signer, error) {
	if len(s.list.Keys) < 2 {
		return s, errors.New("retire the old signing key: there is none")
	}
	return s.after(s, s.Key, [][]byte{s.Public()}, now)
}

// Overdue says whether the old key should be retired.
func (s Signer) Overdue(now time.Time) bool {
	return len(s.list.Keys) > 1 && now.Sub(time.UnixMilli(s.list.MadeMS)) > Overlap
}

func (s Signer) after(was Signer, by ed25519.PrivateKey, keys [][]byte, now time.Time) (Signer, error) {
	list := protocol.Keys{Serial: was.list.Serial + 1, MadeMS: now.UnixMilli(), Keys: keys}
	link, err := protocol.SignKeys(by, list)
	if err != nil {
		return was, err
	}
	s.list = list
	s.Links = append(slices.Clone(was.Links), link)
	if extra := len(s.Links) - protocol.MaxKeyLinks; extra > 0 {
		s.Links = s.Links[extra:] // a machine that knows only those was away for years
	}
	return s, nil
}
