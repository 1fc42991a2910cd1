package identity

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"yaoju/daemon/durable"
	"yaoju/protocol"
)

// sealingFile holds the key with which a machine opens what is sealed to it: on
// P-256 a TPM signs, and does not agree on keys as we need it, so this is a key of
// its own. It is a file of its own as well, so that an older program, which knows
// nothing of it, still reads the other.
const sealingFile = "sealing.pem"

// SealingKey is the public key, X25519, to which something is sealed for one machine.
type SealingKey [32]byte

// Known says whether a machine has told its key.
func (k SealingKey) Known() bool { return k != SealingKey{} }

// bytes is the key as it travels: nothing where there is none.
func (k SealingKey) bytes() []byte {
	if !k.Known() {
		return nil
	}
	return k[:]
}

// decodeSealingKey reads what a machine told of its key; an older one tells nothing.
func decodeSealingKey(b []byte) (k SealingKey, err error) {
	if len(b) != 0 && len(b) != len(k) {
		return k, fmt.Errorf("sealing key: %d bytes, want %d", len(b), len(k))
	}
	copy(k[:], b)
	return k, nil
}

// sealVersion is the first byte of everything sealed: HPKE (RFC 9180) in base mode,
// DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
const sealVersion = 1

// MaxSealed bounds what is opened, in bytes: it comes in a message of the district.
const MaxSealed = protocol.MaxMessage

// sealInfo ties what is sealed to one machine and one purpose: what was sealed for
// another opens nowhere.
func sealInfo(m protocol.MachineID, purpose string) []byte {
	return []byte("yaoju sealed 1\x00" + string(m) + "\x00" + purpose)
}

// Seal encrypts plain so that the machine alone can read it, for a purpose that the
// machine names again to open it. Two of the same text differ. It does not say who
// sealed it: that is for the signature of the message around it.
func Seal(to SealingKey, m protocol.MachineID, purpose string, plain []byte) ([]byte, error) {
	raw, err := ecdh.X25519().NewPublicKey(to[:])
	if err != nil {
		return nil, fmt.Errorf("seal for %s: %w", m, err)
	}
	public, err := hpke.NewDHKEMPublicKey(raw)
	if err != nil {
		return nil, fmt.Errorf("seal for %s: %w", m, err)
	}
	b, err := hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), sealInfo(m, purpose), plain)
	if err != nil {
		return nil, fmt.Errorf("seal for %s: %w", m, err)
	}
	return append([]byte{sealVersion}, b...), nil
}

// Open returns what was sealed for this machine and the purpose.
func (m *Machine) Open(purpose string, sealed []byte) ([]byte, error) {
	k, err := m.o.sealingKey()
	if err != nil {
		return nil, fmt.Errorf("open what was sealed as %s: %w", purpose, err)
	}
	b, err := unseal(k, m.o.Machine, purpose, sealed)
	if err != nil {
		return nil, fmt.Errorf("open what was sealed as %s: %w", purpose, err)
	}
	return b, nil
}

func unseal(k *ecdh.PrivateKey, m protocol.MachineID, purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 || len(sealed) > MaxSealed {
		return nil, fmt.Errorf("%d bytes, want 1 to %d", len(sealed), MaxSealed)
	}
	if sealed[0] != sealVersion {
		return nil, fmt.Errorf("sealed in version %d, this program knows %d", sealed[0], sealVersion)
	}
	private, err := hpke.NewDHKEMPrivateKey(k)
	if err != nil {
		return nil, err
	}
	b, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), sealInfo(m, purpose), sealed[1:])
	if err != nil {
		return nil, fmt.Errorf("it is damaged, or was sealed to another key: %w", err)
	}
	return b, nil
}

// sealingKey reads the machine's key.
func (o Options) sealingKey() (*ecdh.PrivateKey, error) {
	path := filepath.Join(o.Dir, sealingFile)
	b, err := readClosed(path)
	if err != nil {
		return nil, err
	}
	k, err := o.decodeSealing(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// errDamaged says that there is no sealing key in the file that has its name.
var errDamaged = errors.New("the key is damaged")

func (o Options) decodeSealing(b []byte) (*ecdh.PrivateKey, error) {
	block, rest := pem.Decode(b)
	switch {
	case block == nil || len(rest) > 0:
		return nil, errDamaged
	case block.Type == pemVault && o.Vault == nil:
		return nil, errNoVault
	case block.Type == pemVault:
		secret, err := o.Vault.Unseal(block.Bytes)
		if err != nil {
			return nil, err
		}
		return ecdh.X25519().NewPrivateKey(secret)
	case block.Type != pemKey:
		return nil, errDamaged
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	x, ok := k.(*ecdh.PrivateKey)
	if err != nil || !ok || x.Curve() != ecdh.X25519() {
		return nil, errDamaged // the library's words might quote it
	}
	return x, nil
}

// makeSealing makes a sealing key, where the machine's other key lies, in the place
// of any other.
func (o Options) makeSealing(inVault bool) error {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make a sealing key: %w", err)
	}
	block := &pem.Block{Type: pemVault}
	if inVault {
		block.Bytes, err = o.Vault.Seal(k.Bytes())
	} else {
		block.Type = pemKey
		block.Bytes, err = x509.MarshalPKCS8PrivateKey(k)
	}
	if err == nil {
		err = durable.WriteFile(filepath.Join(o.Dir, sealingFile), pem.EncodeToMemory(block))
	}
	if err != nil {
		return fmt.Errorf("make a sealing key: %w", err)
	}
	return nil
}

// sealing is the public sealing key, which is made if there is none: machines that
// were enrolled before there were any have none. A damaged one is replaced: what was
// sealed to it is lost either way, and the district seals it again for the next.
func (o Options) sealing(inVault bool) (SealingKey, error) {
	k, err := o.sealingKey()
	if missing(err) {
		k, err = o.firstSealing(inVault)
	}
	if err != nil {
		return SealingKey{}, err
	}
	return SealingKey(k.PublicKey().Bytes()), nil
}

// missing says whether there is no sealing key that could be lost.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errDamaged) }

func (o Options) firstSealing(inVault bool) (*ecdh.PrivateKey, error) {
	held, err := holdFolder(o.Dir)
	if err != nil {
		return nil, err
	}
	defer held.Close()
	k, err := o.sealingKey()
	if !missing(err) {
		return k, err // somebody else has just made it
	}
	if err := o.makeSealing(inVault); err != nil {
		return nil, err
	}
	return o.sealingKey()
}
