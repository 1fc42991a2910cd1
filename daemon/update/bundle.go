package update

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"time"
)

// maxTail bounds what may follow the last file of a tar: two empty blocks, and
// what a writer adds to fill a record.
const maxTail = 64 << 10

// Sum describes one file of a release.
func Sum(name string, r io.Reader) (File, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return File{}, fmt.Errorf("read %s: %w", name, err)
	}
	return File{Name: name, SHA256: hex.EncodeToString(h.Sum(nil)), Size: n}, nil
}

// WriteBundle writes a bundle: the signed manifest, then its files, taken from dir.
// The same release gives the same bytes.
func WriteBundle(w io.Writer, k ed25519.PrivateKey, m Manifest, dir fs.FS) error {
	signed, err := Sign(k, m)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	at := time.UnixMilli(m.BuiltMS).UTC().Truncate(time.Second)
	add := func(name string, size int64, r io.Reader) error {
		err := t.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: size, Mode: int64(modeOf(name)), ModTime: at, Format: tar.FormatUSTAR})
		if err == nil {
			_, err = io.Copy(t, r)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	if err := add(manifestName, int64(len(signed)), bytes.NewReader(signed)); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	for _, f := range m.Files {
		src, err := dir.Open(f.Name)
		if err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
		same := newChecked(src, f)
		err = add(f.Name, f.Size, same)
		if err == nil {
			err = same.end()
		}
		if err := errors.Join(err, src.Close()); err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
	}
	return errors.Join(t.Close(), z.Close())
}

// modeOf is the mode a file has in a version's folder; what the tar says is not asked.
func modeOf(name string) fs.FileMode {
	if name == kioskd || name == yaoju {
		return 0o755
	}
	return 0o644
}

// ReadBundle reads a bundle. The manifest is the first thing in it and is trusted
// before anything else is looked at; every further entry must be the file that the
// manifest names next, to the byte. accept judges the manifest, then take is given
// each file; take must read it to its end, and sees an error there if the bytes are
// not the ones that were signed. It returns the manifest's signed form as well.
func ReadBundle(r io.Reader, trusted []ed25519.PublicKey, accept func(Manifest) error, take func(File, io.Reader) error) (Manifest, []byte, error) {
	tail := bufio.NewReader(r) // a reader of bytes: then gzip takes none behind its own
	z, err := gzip.NewReader(tail)
	if err != nil {
		return Manifest{}, nil, fmt.Errorf("bundle: %w", err)
	}
	z.Multistream(false) // what follows the bundle is not part of it, and is refused below
	t := tar.NewReader(z)
	signed, err := readManifest(t)
	if err != nil {
		return Manifest{}, nil, fmt.Errorf("bundle: %w", err)
	}
	m, err := OpenManifest(signed, trusted)
	if err != nil {
		return Manifest{}, nil, fmt.Errorf("bundle: %w", err)
	}
	if err := accept(m); err != nil {
		return Manifest{}, nil, err
	}
	for _, f := range m.Files {
		if err := takeFile(t, f, take); err != nil {
			return Manifest{}, nil, fmt.Errorf("bundle: %w", err)
		}
	}
	if h, err := t.Next(); err != io.EOF {
		if err == nil {
			err = fmt.Errorf("%q is in it and not in the manifest", clip(h.Name))
		}
		return Manifest{}, nil, fmt.Errorf("bundle: %w", err)
	}
	if err := nothingAfter(z, tail); err != nil {
		return Manifest{}, nil, fmt.Errorf("bundle: %w", err)
	}
	return m, signed, nil
}

func readManifest(t *tar.Reader) ([]byte, error) {
	h, err := next(t, manifestName)
	if err != nil {
		return nil, err
	}
	if h.Size > maxManifest {
		return nil, fmt.Errorf("manifest: %d bytes: at most %d are allowed", h.Size, maxManifest)
	}
	return io.ReadAll(t) // the tar reader ends it after h.Size
}

// next moves to the next entry, which must be a plain file of that very name: a
// link, a folder or a path that leads elsewhere has another.
func next(t *tar.Reader, name string) (*tar.Header, error) {
	h, err := t.Next()
	if err == io.EOF {
		return nil, fmt.Errorf("%s is not in it", name)
	}
	if err != nil {
		return nil, err
	}
	if h.Typeflag != tar.TypeReg || h.Name != name {
		return nil, fmt.Errorf("found %q of type %q where the file %s must be", clip(h.Name), h.Typeflag, name)
	}
	return h, nil
}

func takeFile(t *tar.Reader, f File, take func(File, io.Reader) error) error {
	h, err := next(t, f.Name)
	if err != nil {
		return err
	}
	if h.Size != f.Size {
		return fmt.Errorf("%s has %d bytes, and the manifest says %d", f.Name, h.Size, f.Size)
	}
	c := newChecked(t, f)
	if err := take(f, c); err != nil {
		return err
	}
	return c.end()
}

// nothingAfter reads the end of the compressed bytes, which checks their sum, and
// of the bundle.
func nothingAfter(z, r io.Reader) error {
	n, err := io.Copy(io.Discard, io.LimitReader(z, maxTail+1))
	if err != nil {
		return err
	}
	if n > maxTail {
		return errors.New("something follows the last file")
	}
	switch n, err := io.ReadFull(r, make([]byte, 1)); {
	case n > 0:
		return errors.New("something follows the end")
	case err != io.EOF:
		return err
	}
	return nil
}

// checked passes a file's bytes on and judges them at their end.
type checked struct {
	r    io.Reader
	want File
	h    hash.Hash
	n    int64
}

func newChecked(r io.Reader, want File) *checked {
	return &checked{r: io.LimitReader(r, want.Size+1), want: want, h: sha256.New()}
}

// Read returns an error in place of the end if the bytes were not the wanted ones.
func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.h.Write(p[:n])
	c.n += int64(n)
	if err == io.EOF {
		if bad := c.judge(); bad != nil {
			err = bad
		}
	}
	return n, err
}

func (c *checked) judge() error {
	if c.n != c.want.Size || hex.EncodeToString(c.h.Sum(nil)) != c.want.SHA256 {
		return fmt.Errorf("%s is damaged: it is not the file that was signed", c.want.Name)
	}
	return nil
}

// end judges what was read, even by a reader that stopped short of the end.
func (c *checked) end() error {
	if _, err := io.Copy(io.Discard, c); err != nil {
		return err
	}
	return c.judge()
}
