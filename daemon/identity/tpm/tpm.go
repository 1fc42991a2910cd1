// Package tpm keeps a machine's secrets in its computer's TPM 2.0: keys that sign
// there and never leave it, and short secrets that only it can open.
//
// It owns what is said to the chip and how its answers are kept in files. The chip
// itself keeps nothing for us: each key is encrypted by a key that the chip derives
// anew from its owner's seed, and comes back to us to be stored. So a copy of the
// disk is worth nothing in another computer, and clearing the TPM ends every key.
// It does not know what the keys are for.
package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Device is the kernel's TPM, by way of its resource manager, which keeps programs
// that use it at once apart.
const Device = "/dev/tpmrm0"

// useLimit bounds one use of the chip, four commands: a discrete one takes half a
// second, and it may be busy for another program.
const useLimit = 20 * time.Second

// MaxSecret is the longest secret that can be sealed, in bytes: what every TPM takes.
const MaxSecret = 128

// ErrNone says that the computer has no TPM, or none that this user may open.
var ErrNone = errors.New("no TPM can be used")

// errForeign says that the chip cannot decrypt what it is given.
var errForeign = errors.New("this TPM did not make the key: it was cleared, or the disk is from another computer")

// Chip is a TPM. It holds nothing in memory, and may be used by several goroutines
// at once as far as what is below it allows.
type Chip struct {
	open func() (io.ReadWriteCloser, error)
}

// New returns a chip that is opened anew for each use: a TPM that comes or goes is
// noticed at the next.
func New(open func() (io.ReadWriteCloser, error)) *Chip { return &Chip{open: open} }

// Open opens the kernel's TPM. The line blocks; the kernel gives a chip that does not
// answer two minutes.
func Open() (io.ReadWriteCloser, error) {
	fd, err := syscall.Open(Device, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: Device, Err: err}
	}
	return os.NewFile(uintptr(fd), Device), nil
}

// use opens the chip, derives the key that encrypts all others, and runs f.
func (c *Chip) use(f func(t transport.TPM, r root) error) (err error) {
	line, err := c.open()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: %w", ErrNone, err)
	}
	if err != nil {
		return fmt.Errorf("TPM: %w", err)
	}
	late := time.AfterFunc(useLimit, func() { line.Close() })
	defer func() {
		late.Stop()
		line.Close() // nothing is kept there; what failed was said by the command
		if err != nil {
			err = fmt.Errorf("TPM: %w", err)
		}
	}()
	t := wire{line}
	p, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t)
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return fmt.Errorf("%w: somebody has set a password for its owner hierarchy", ErrNone)
	}
	if err != nil {
		return fmt.Errorf("derive the storage key: %w", err)
	}
	defer flush(t, p.ObjectHandle)
	public, err := p.OutPublic.Contents()
	if err != nil {
		return fmt.Errorf("the storage key: %w", err)
	}
	return f(t, root{handle: p.ObjectHandle, name: p.Name, public: *public})
}

// root is the key that encrypts all others, loaded.
type root struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
}

// auth lets the key encrypt or decrypt another. What is secret in a command and its
// answer is hidden on the way: the wires to a discrete chip lie open.
func (r root) auth() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: r.handle, Name: r.name, Auth: r.session(tpm2.AESEncryption(128, tpm2.EncryptInOut))}
}

// session is for one command, under a secret that only the chip can read.
func (r root) session(hide tpm2.AuthOption) tpm2.Session {
	return tpm2.HMAC(tpm2.TPMAlgSHA256, 16, hide, tpm2.Salted(r.handle, r.public))
}

// flush frees a place in the chip. It has three; the resource manager would free
// them itself at the end of the line, but a chip without one would not.
func flush(t transport.TPM, h tpm2.TPMHandle) { tpm2.FlushContext{FlushHandle: h}.Execute(t) }

// wire is a chip's line as the library speaks over it: one command, one answer.
type wire struct{ line io.ReadWriter }

// maxAnswer bounds an answer; the specification has 4096.
const maxAnswer = 4096

// Send gives a command and returns the answer.
func (w wire) Send(command []byte) ([]byte, error) {
	if _, err := w.line.Write(command); err != nil {
		return nil, err
	}
	const header = 10 // tag, size, code
	b := make([]byte, maxAnswer)
	n, err := io.ReadAtLeast(w.line, b, header) // the kernel gives all of it at once, a socket may not
	if err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(b[2:]))
	if size < n || size > len(b) {
		return nil, fmt.Errorf("an answer of %d bytes says it has %d", n, size)
	}
	_, err = io.ReadFull(w.line, b[n:size])
	return b[:size], err
}

// Kinds of what we store, by the names that TPM key files have.
var (
	kindKey    = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}
	kindSecret = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 5}
)

// blob is what the chip gave us to store, in the form of a TPM key file: a public
// part, and a private one that the chip encrypted.
type blob struct {
	Kind      asn1.ObjectIdentifier
	EmptyAuth bool `asn1:"optional,explicit,tag:0"`
	Parent    int64
	Public    []byte
	Private   []byte
}

// maxBlob bounds a blob: a P-256 key has 230 bytes.
const maxBlob = 2 << 10

func encode(kind asn1.ObjectIdentifier, r *tpm2.CreateResponse) ([]byte, error) {
	return asn1.Marshal(blob{Kind: kind, EmptyAuth: true, Parent: int64(tpm2.TPMRHOwner), Public: tpm2.Marshal(r.OutPublic), Private: tpm2.Marshal(r.OutPrivate)})
}

// decode reads a blob of the kind and checks that it is one of ours.
func decode(b []byte, kind asn1.ObjectIdentifier) (*tpm2.TPM2BPublic, *tpm2.TPM2BPrivate, *tpm2.TPMTPublic, error) {
	var x blob
	if len(b) > maxBlob {
		return nil, nil, nil, fmt.Errorf("TPM key: %d bytes, at most %d are ours", len(b), maxBlob)
	}
	rest, err := asn1.Unmarshal(b, &x)
	if err != nil || len(rest) > 0 {
		return nil, nil, nil, errors.New("TPM key: damaged")
	}
	if !x.Kind.Equal(kind) || !x.EmptyAuth || x.Parent != int64(tpm2.TPMRHOwner) {
		return nil, nil, nil, errors.New("TPM key: of another kind than ours")
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](x.Public)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("TPM key: %w", err)
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](x.Private)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("TPM key: %w", err)
	}
	area, err := public.Contents()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("TPM key: %w", err)
	}
	if !area.ObjectAttributes.FixedTPM || !area.ObjectAttributes.FixedParent {
		return nil, nil, nil, errors.New("TPM key: one that may leave its TPM")
	}
	return public, private, area, nil
}

// signing is the template of a key that signs SHA-256 digests and nothing else.
func signing() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
		}),
	}
}

// Check reports why the TPM cannot be used, or nil: ErrNone if there is none.
func (c *Chip) Check() error {
	return c.use(func(transport.TPM, root) error { return nil })
}

// NewKey makes a P-256 key in the chip and returns what Key finds it by, which is
// worth nothing without the chip; ErrNone if there is no chip to be used.
func (c *Chip) NewKey() (handle []byte, err error) {
	err = c.use(func(t transport.TPM, parent root) error {
		r, err := tpm2.Create{ParentHandle: parent.auth(), InPublic: tpm2.New2B(signing())}.Execute(t)
		if err != nil {
			return fmt.Errorf("make a key: %w", err)
		}
		handle, err = encode(kindKey, r)
		return err
	})
	return handle, err
}

// Key returns the key that NewKey made. The chip is asked when it signs.
func (c *Chip) Key(handle []byte) (crypto.Signer, error) {
	public, private, area, err := decode(handle, kindKey)
	if err != nil {
		return nil, err
	}
	if area.Type != tpm2.TPMAlgECC || !area.ObjectAttributes.SignEncrypt || area.ObjectAttributes.Restricted {
		return nil, errors.New("TPM key: not one that signs")
	}
	p, err := tpm2.Pub(*area)
	if err != nil {
		return nil, fmt.Errorf("TPM key: %w", err)
	}
	k, ok := p.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("TPM key: not ECDSA")
	}
	if _, err := k.ECDH(); err != nil { // the point is on the curve
		return nil, fmt.Errorf("TPM key: %w", err)
	}
	return &key{chip: c, public: k, area: public, private: private}, nil
}

// key is a key in the chip.
type key struct {
	chip    *Chip
	public  *ecdsa.PublicKey
	area    *tpm2.TPM2BPublic
	private *tpm2.TPM2BPrivate
}

// Public is the key's public part.
func (k *key) Public() crypto.PublicKey { return k.public }

// Sign has the chip sign a SHA-256 digest. The chip draws its own random numbers.
func (k *key) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) (signature []byte, err error) {
	if o.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, fmt.Errorf("TPM: it signs SHA-256 and not %v", o.HashFunc())
	}
	err = k.chip.use(func(t transport.TPM, parent root) error {
		loaded, err := load(t, parent, k.area, k.private)
		if err != nil {
			return err
		}
		defer flush(t, loaded.Handle)
		r, err := tpm2.Sign{KeyHandle: loaded, Digest: tpm2.TPM2BDigest{Buffer: digest},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck}}.Execute(t)
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		s, err := r.Signature.Signature.ECDSA()
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		signature, err = asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(s.SignatureR.Buffer), new(big.Int).SetBytes(s.SignatureS.Buffer)})
		return err
	})
	return signature, err
}

func load(t transport.TPM, parent root, public *tpm2.TPM2BPublic, private *tpm2.TPM2BPrivate) (tpm2.AuthHandle, error) {
	r, err := tpm2.Load{ParentHandle: parent.auth(), InPublic: *public, InPrivate: *private}.Execute(t)
	if errors.Is(err, tpm2.TPMRCIntegrity) {
		return tpm2.AuthHandle{}, errForeign
	}
	if err != nil {
		return tpm2.AuthHandle{}, fmt.Errorf("load the key: %w", err)
	}
	return tpm2.AuthHandle{Handle: r.ObjectHandle, Name: r.Name, Auth: tpm2.PasswordAuth(nil)}, nil
}

// Seal has the chip encrypt a secret of 1 to MaxSecret bytes; Unseal of the same chip
// alone opens it.
func (c *Chip) Seal(secret []byte) (handle []byte, err error) {
	if len(secret) == 0 || len(secret) > MaxSecret {
		return nil, fmt.Errorf("TPM: a secret of %d bytes, want 1 to %d", len(secret), MaxSecret)
	}
	err = c.use(func(t transport.TPM, parent root) error {
		r, err := tpm2.Create{
			ParentHandle: parent.auth(),
			InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret})}},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true, NoDA: true}}),
		}.Execute(t)
		if err != nil {
			return fmt.Errorf("seal: %w", err)
		}
		handle, err = encode(kindSecret, r)
		return err
	})
	return handle, err
}

// Unseal returns the secret.
func (c *Chip) Unseal(handle []byte) (secret []byte, err error) {
	public, private, area, err := decode(handle, kindSecret)
	if err != nil {
		return nil, err
	}
	if area.Type != tpm2.TPMAlgKeyedHash {
		return nil, errors.New("TPM key: not a secret")
	}
	err = c.use(func(t transport.TPM, parent root) error {
		loaded, err := load(t, parent, public, private)
		if err != nil {
			return err
		}
		defer flush(t, loaded.Handle)
		loaded.Auth = parent.session(tpm2.AESEncryption(128, tpm2.EncryptOut))
		r, err := tpm2.Unseal{ItemHandle: loaded}.Execute(t)
		if err != nil {
			return fmt.Errorf("unseal: %w", err)
		}
		secret = r.OutData.Buffer
		return nil
	})
	return secret, err
}
