package update

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"yaoju/protocol"
)

// Limits of a release, beside those of its order.
const (
	maxFile  = 128 << 20 // bytes of one file in it
	maxTotal = 256 << 20 // bytes of all its files, unpacked

	maxManifest = 16 << 10
	maxFiles    = 8
	maxKeys     = 8       // trusted at once: two, while one takes over from another
	maxKeyFile  = 8 << 10 // bytes
)

// manifestFormat is the version of the manifest, raised when an older reader would
// misread a newer one.
//
//	1: first releases
const manifestFormat = 1

// manifestName is the manifest's name in a bundle and in a version's folder.
const manifestName = "manifest.json"

// programs are in every release.
const (
	kioskd = "kioskd"
	yaoju  = "yaoju"
)

// Manifest says what a release is.
type Manifest struct {
	Format   int    `json:"format"`
	Version  string `json:"version"`  // 1 to 40 of a-z, A-Z, 0-9 and "+-.~", the first a letter or digit
	BuiltMS  int64  `json:"built_ms"` // Unix milliseconds; a later release has a later one
	Arch     string `json:"arch"`     // amd64 or arm64, as Go names them
	Files    []File `json:"files"`    // in the order of the bundle; kioskd and yaoju are always there
	Ledger   Schema `json:"ledger"`
	Firmware uint32 `json:"firmware"` // build of the motor board's firmware it was released with; 0: none
}

// File is one file of a release.
type File struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"` // 64 lower-case hexadecimal digits
	Size   int64  `json:"size"`   // bytes
}

// Schema is what a release does to the ledger's file, in versions of the file.
// A new version is released in two steps, so that the release before can always
// read what the next one wrote: first one that reads it (Newest) and does not write
// it, then one that does (Writes).
type Schema struct {
	Writes int `json:"writes"` // an older file is brought to this one
	Oldest int `json:"oldest"` // the oldest it can read
	Newest int `json:"newest"` // the newest it can read
}

func (s Schema) reads(version int) bool { return s.Oldest <= version && version <= s.Newest }

// Valid reports what is wrong with it, or nil.
func (m Manifest) Valid() error {
	if m.Format != manifestFormat {
		return fmt.Errorf("manifest: format %d: this program knows only %d", m.Format, manifestFormat)
	}
	if err := protocol.ValidVersion(m.Version); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	switch l := m.Ledger; {
	case m.BuiltMS <= 0:
		return errors.New("manifest: built_ms: it was built at no time")
	case m.Arch != "amd64" && m.Arch != "arm64":
		return fmt.Errorf("manifest: arch %q: want amd64 or arm64", clip(m.Arch))
	case l.Oldest < 1 || l.Writes < l.Oldest || l.Newest < l.Writes:
		return fmt.Errorf("manifest: ledger: writes %d, oldest %d, newest %d: want 1 <= oldest <= writes <= newest", l.Writes, l.Oldest, l.Newest)
	case len(m.Files) > maxFiles:
		return fmt.Errorf("manifest: %d files: at most %d are allowed", len(m.Files), maxFiles)
	}
	seen := map[string]bool{manifestName: true}
	for _, f := range m.Files {
		if err := f.valid(); err != nil {
			return fmt.Errorf("manifest: %w", err)
		}
		if seen[f.Name] {
			return fmt.Errorf("manifest: file %q appears twice", f.Name)
		}
		seen[f.Name] = true
	}
	if !seen[kioskd] || !seen[yaoju] {
		return errors.New("manifest: kioskd and yaoju must both be in it")
	}
	if m.total() > maxTotal {
		return fmt.Errorf("manifest: %d bytes of files: at most %d are allowed", m.total(), maxTotal)
	}
	return nil
}

func (m Manifest) total() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// valid lets only plain names pass: nothing that could lead out of the folder.
func (f File) valid() error {
	if f.Name == "" || len(f.Name) > protocol.MaxVersion || strings.Trim(f.Name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || f.Name[0] == '.' {
		return fmt.Errorf("file %q: 1 to %d of a-z, 0-9, '-' and '.' are allowed, and '.' not first", clip(f.Name), protocol.MaxVersion)
	}
	if !protocol.ValidSum(f.SHA256) {
		return fmt.Errorf("file %s: sha256 %q: want 64 lower-case hexadecimal digits", f.Name, clip(f.SHA256))
	}
	if f.Size < 1 || f.Size > maxFile {
		return fmt.Errorf("file %s: %d bytes: 1 to %d are allowed", f.Name, f.Size, maxFile)
	}
	return nil
}

// purposeRelease is part of what is signed, so that nothing a district signs can
// ever pass for a release, or the reverse, even with one key for both.
const purposeRelease = "yaoju/1 release\n"

// Sign encodes a manifest and signs it with a release key.
func Sign(k ed25519.PrivateKey, m Manifest) ([]byte, error) {
	if err := m.Valid(); err != nil {
		return nil, err
	}
	body := protocol.Encode(m)
	return seal(protocol.Signed{Body: string(body), Key: protocol.KeyName(k.Public().(ed25519.PublicKey)),
		Sig: ed25519.Sign(k, append([]byte(purposeRelease), body...))})
}

// Unsigned encodes the manifest of a base, whose folder only the package manager
// writes to.
func Unsigned(m Manifest) ([]byte, error) {
	if err := m.Valid(); err != nil {
		return nil, err
	}
	return seal(protocol.Signed{Body: string(protocol.Encode(m))})
}

func seal(s protocol.Signed) ([]byte, error) {
	b := protocol.Encode(s)
	if len(b) > maxManifest {
		return nil, fmt.Errorf("manifest: %d bytes: at most %d are allowed", len(b), maxManifest)
	}
	return b, nil
}

// OpenManifest checks a signature against the trusted release keys, and only then
// reads what was signed.
func OpenManifest(b []byte, trusted []ed25519.PublicKey) (Manifest, error) {
	s, err := decodeSigned(b)
	if err != nil {
		return Manifest{}, err
	}
	for _, k := range trusted {
		if protocol.KeyName(k) == s.Key && ed25519.Verify(k, append([]byte(purposeRelease), s.Body...), s.Sig) {
			return decodeManifest(s.Body)
		}
	}
	return Manifest{}, fmt.Errorf("manifest: not signed by a release key this machine trusts (key %q)", clip(s.Key))
}

// openBase reads the manifest of a base without asking who signed it.
func openBase(b []byte) (Manifest, error) {
	s, err := decodeSigned(b)
	if err != nil {
		return Manifest{}, err
	}
	return decodeManifest(s.Body)
}

func decodeSigned(b []byte) (protocol.Signed, error) {
	var s protocol.Signed
	if len(b) > maxManifest {
		return s, fmt.Errorf("manifest: larger than %d bytes", maxManifest)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("manifest: %w", err)
	}
	return s, nil
}

func decodeManifest(body string) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if err := m.Valid(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// ParseKeys reads a list of release keys: base64 of an Ed25519 public key a line;
// empty lines and those that begin with '#' do not count.
func ParseKeys(r io.Reader) ([]ed25519.PublicKey, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("release keys: %w", err)
	}
	if len(b) > maxKeyFile {
		return nil, fmt.Errorf("release keys: more than %d bytes", maxKeyFile)
	}
	var keys []ed25519.PublicKey
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		k, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("release keys: line %d: want the base64 of a 32-byte Ed25519 public key", n)
		}
		keys = append(keys, k)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("release keys: %w", err)
	}
	if len(keys) == 0 || len(keys) > maxKeys {
		return nil, fmt.Errorf("release keys: %d keys: 1 to %d are allowed", len(keys), maxKeys)
	}
	return keys, nil
}
