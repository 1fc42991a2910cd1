package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"yaoju/daemon/durable"
)

// maxFile bounds a file of ours: a key and four certificates are 4 KiB, a full
// chain of signing keys is 40 KiB.
const maxFile = 128 << 10

// Types of PEM blocks.
const (
	pemKey         = "PRIVATE KEY"
	pemVault       = "TSS2 PRIVATE KEY" // what a TPM stores with us: worth nothing without it
	pemCertificate = "CERTIFICATE"
)

// readSecret reads a file that nobody but its owner may read; any other is refused
// with what to do.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of what was opened, whatever the path means by now
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: its mode is %04o, want 0600: chmod 600 it, and replace the key if others may have read it", path, info.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s: larger than %d bytes: not a file of ours", path, maxFile)
	}
	return b, err
}

func closedFolder(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s: its mode is %04o, want a folder of mode 0700: chmod 700 it, and replace the keys in it if others may have read them", dir, info.Mode().Perm())
	}
	return nil
}

// makeFolder makes a folder nobody else may enter, if it is not there.
func makeFolder(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		return closedFolder(dir)
	}
	if err != nil {
		return err
	}
	// Not through a link: whoever owns the folder above may have put one here since.
	d, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(durable.LikeFolder(d, filepath.Dir(dir)), d.Close(), durable.SyncFolder(filepath.Dir(dir)))
}

// holdFolder keeps other programs from changing a folder until the file is closed.
func holdFolder(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil { // held for a rename, or while a TPM makes two keys
		return nil, errors.Join(fmt.Errorf("hold %s: %w", dir, err), d.Close())
	}
	return d, nil
}

// bundle is what a file of ours holds: at most one key, and certificates.
type bundle struct {
	key    *ecdsa.PrivateKey // nil: none, or in a vault
	handle []byte            // what the vault finds the key by; nil: none, or here
	certs  []*x509.Certificate
}

// decodeBundle reads PEM strictly: nothing but the blocks we write.
func decodeBundle(b []byte) (bundle, error) {
	var out bundle
	for {
		b = bytes.TrimSpace(b)
		if len(b) == 0 {
			return out, nil
		}
		if !bytes.HasPrefix(b, []byte("-----BEGIN ")) {
			return bundle{}, errors.New("something other than PEM is in it")
		}
		block, rest := pem.Decode(b)
		// The library skips what it cannot read; so what it read must be all there was.
		if block == nil || !bytes.Equal(bytes.TrimSpace(b[:len(b)-len(rest)]), bytes.TrimSpace(pem.EncodeToMemory(block))) {
			return bundle{}, errors.New("a PEM block is damaged")
		}
		switch {
		case block.Type == pemVault && out.key == nil && out.handle == nil && len(block.Bytes) > 0:
			out.handle = block.Bytes
		case block.Type == pemKey && out.key == nil && out.handle == nil:
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return bundle{}, errors.New("the key is damaged") // the library's words might quote it
			}
			ec, ok := k.(*ecdsa.PrivateKey)
			if !ok {
				return bundle{}, errors.New("the key is not ECDSA on P-256")
			}
			if _, err := keyID(ec.Public()); err != nil {
				return bundle{}, err
			}
			out.key = ec
		case block.Type == pemCertificate && len(out.certs) < maxChain:
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return bundle{}, fmt.Errorf("certificate %d: %w", len(out.certs)+1, err)
			}
			out.certs = append(out.certs, c)
		default:
			return bundle{}, fmt.Errorf("a PEM block %.40q too many", block.Type)
		}
		b = rest
	}
}

func (u bundle) encode() ([]byte, error) {
	var b bytes.Buffer
	if u.key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(u.key)
		if err != nil {
			return nil, fmt.Errorf("encode the key: %w", err)
		}
		b.Write(pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}))
	}
	if u.handle != nil {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: pemVault, Bytes: u.handle}))
	}
	for _, c := range u.certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.Raw}))
	}
	return b.Bytes(), nil
}

// readClosed reads a secret in a folder that nobody else may enter.
func readClosed(path string) ([]byte, error) {
	b, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	return b, closedFolder(filepath.Dir(path))
}

// readBundle reads a file of ours; its errors name the file.
func readBundle(path string) (bundle, error) {
	b, err := readClosed(path)
	if err != nil {
		return bundle{}, err
	}
	u, err := decodeBundle(b)
	if err != nil {
		return bundle{}, fmt.Errorf("%s: %w", path, err)
	}
	return u, nil
}

func writeBundle(path string, u bundle) error {
	b, err := u.encode()
	if err != nil {
		return err
	}
	return durable.WriteFile(path, b)
}
