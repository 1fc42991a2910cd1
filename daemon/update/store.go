package update

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"yaoju/protocol"
)

// Names in the folder of versions.
const (
	versionsDir  = "versions"
	incomingDir  = "incoming"
	unpackDir    = "versions/.new" // no version's name begins with a dot
	currentLink  = "current"
	previousLink = "previous"
	stateName    = "state.json"
	badStateName = "state.bad"
	lockName     = "lock"
)

// keepFree is what an update must leave on the disk: the ledger's ballast and its
// journal, twice.
const keepFree = 32 << 20

// phase is where an update stands.
type phase string

const (
	steady phase = "steady" // what runs has proved itself, or has been there from the start
	trial  phase = "trial"  // a version is about to be taken into use, or has yet to prove itself
	back   phase = "back"   // the version before is being put back
)

// stateFormat is the version of the state file. The base reads it before every
// start, and may be years older than what wrote it: only add to it.
//
//	1: first releases
const stateFormat = 1

// state is what must outlast a power cut. It is one small file, replaced whole.
type state struct {
	Format int                    `json:"format"`
	Phase  phase                  `json:"phase"`
	Trial  *tried                 `json:"trial,omitempty"`  // of trial and back
	Order  *Order                 `json:"order,omitempty"`  // taken and not at its end
	Staged string                 `json:"staged,omitempty"` // sha256 of the bundle that was unpacked for the order
	Taken  string                 `json:"taken,omitempty"`  // id of the newest order that was taken: it is not taken again, whatever came of it
	BaseMS int64                  `json:"base_ms"`          // built_ms of the base when we last looked; 0: never
	Newest int64                  `json:"newest"`           // built_ms of the newest release that proved itself here
	Ledger int                    `json:"ledger"`           // newest version of the ledger's file that a program started here may have written
	Last   *protocol.UpdateResult `json:"last,omitempty"`
}

// tried is a version that has yet to prove itself, or that failed to.
type tried struct {
	Version     string `json:"version"`
	From        string `json:"from"`                   // where current led before, and leads again if it fails
	OldPrevious string `json:"old_previous,omitempty"` // where previous led before
	Order       string `json:"order,omitempty"`        // id of the order it came with
	BegunMS     int64  `json:"begun_ms"`               // Unix milliseconds of the switch
	Starts      int    `json:"starts"`                 // of the version, counted before each, since it was last found well
	Before      Signs  `json:"before"`                 // what worked under the version before
	Failed      string `json:"failed,omitempty"`       // why it must go, for people; empty: it may still prove itself
}

// StoreOptions say where the versions lie and whom to believe.
type StoreOptions struct {
	Dir  string              // folder of versions, such as /opt/yaoju
	Base string              // folder of the version the machine was installed with, absolute
	Arch string              // of this machine: amd64 or arm64
	Keys []ed25519.PublicKey // trusted release keys; none: nothing new is taken, and nothing is verified
}

// Store is the folder of versions. Several programs may use it at once: each change
// is made under a lock on the folder.
type Store struct {
	o    StoreOptions
	root *os.Root
	disk disk
	free func() (int64, error) // bytes left on the disk
}

// OpenStore opens a folder of versions, and makes the folders in it.
func OpenStore(o StoreOptions) (*Store, error) {
	if !filepath.IsAbs(o.Base) {
		return nil, fmt.Errorf("versions: base %q: want an absolute path", o.Base)
	}
	root, err := os.OpenRoot(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("versions: %w", err)
	}
	for _, dir := range []string{versionsDir, incomingDir} {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("versions: %w", err), root.Close())
		}
	}
	return &Store{o: o, root: root, disk: folder{root}, free: func() (int64, error) { return freeBytes(o.Dir) }}, nil
}

// Close lets the folder go.
func (s *Store) Close() error { return s.root.Close() }

func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// locked runs f while no other program changes the folder.
func (s *Store) locked(f func() error) error {
	l, err := s.root.OpenFile(lockName, os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("versions: lock: %w", err)
	}
	defer l.Close()
	if err := syscall.Flock(int(l.Fd()), syscall.LOCK_EX); err != nil { // held for some renames
		return fmt.Errorf("versions: lock: %w", err)
	}
	return f()
}

// change lets f change the state, and saves it if f has no error.
func (s *Store) change(f func(*state) error) error {
	return s.locked(func() error {
		st, err := s.load()
		if err != nil {
			return err
		}
		if err := f(&st); err != nil {
			return err
		}
		return s.save(st)
	})
}

// errBadState says that the state file is there and cannot be believed.
var errBadState = errors.New("state file is damaged")

func (s *Store) load() (state, error) {
	b, err := s.root.ReadFile(stateName)
	if errors.Is(err, fs.ErrNotExist) {
		return state{Format: stateFormat, Phase: steady}, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("versions: state: %w", err)
	}
	st, err := decodeState(b)
	if err != nil {
		return state{}, fmt.Errorf("versions: %w: %w", errBadState, err)
	}
	return st, nil
}

func decodeState(b []byte) (state, error) {
	var st state
	if err := json.Unmarshal(b, &st); err != nil {
		return st, err
	}
	if st.Format != stateFormat {
		return st, fmt.Errorf("format %d: this program knows only %d", st.Format, stateFormat)
	}
	switch st.Phase {
	case steady:
		return st, nil
	case trial, back:
		if st.Trial == nil || protocol.ValidVersion(st.Trial.Version) != nil || st.Trial.From == "" || st.Trial.Starts < 0 {
			return st, fmt.Errorf("phase %s without a version on trial", st.Phase)
		}
		return st, nil
	}
	return st, fmt.Errorf("phase %q", clip(string(st.Phase)))
}

func (s *Store) save(st state) error {
	if err := put(s.disk, stateName, protocol.Encode(st)); err != nil {
		return fmt.Errorf("versions: %w", err)
	}
	return nil
}

// refOf is how links name a version.
func refOf(version string) string { return path.Join(versionsDir, version) }

// versionOf returns the version a link names, "" for the base or nothing of ours.
func versionOf(ref string) string {
	dir, v := path.Split(ref)
	if dir != versionsDir+"/" || protocol.ValidVersion(v) != nil {
		return ""
	}
	return v
}

// where returns what a link leads to, "" if it is not there.
func (s *Store) where(link string) (string, error) {
	ref, err := s.root.Readlink(link)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("versions: %w", err)
	}
	return ref, nil
}

// manifest reads the manifest of what a link leads to. That of the base is believed
// for its place, any other for its signature.
func (s *Store) manifest(ref string) (Manifest, []byte, error) {
	if ref == s.o.Base {
		b, err := os.ReadFile(filepath.Join(ref, manifestName))
		if err != nil {
			return Manifest{}, nil, fmt.Errorf("base version: %w", err)
		}
		m, err := openBase(b)
		return m, b, err
	}
	v := versionOf(ref)
	if v == "" {
		return Manifest{}, nil, fmt.Errorf("%q is no version", clip(ref))
	}
	b, err := s.root.ReadFile(path.Join(ref, manifestName))
	if err != nil {
		return Manifest{}, nil, fmt.Errorf("version %s: %w", v, err)
	}
	m, err := OpenManifest(b, s.o.Keys)
	if len(s.o.Keys) == 0 {
		m, err = openBase(b)
	}
	if err == nil && m.Version != v {
		err = fmt.Errorf("its manifest is of version %s", m.Version)
	}
	if err != nil {
		return Manifest{}, nil, fmt.Errorf("version %s: %w", v, err)
	}
	return m, b, nil
}

// sound says whether a version is whole: signed, for this machine, and every file
// as it was signed. It reads all of it, which takes a Pi half a second.
func (s *Store) sound(ref string) (Manifest, error) {
	m, _, err := s.manifest(ref)
	if err != nil {
		return m, err
	}
	if m.Arch != s.o.Arch {
		return m, fmt.Errorf("version %s is for %s, this machine is %s", m.Version, m.Arch, s.o.Arch)
	}
	for _, f := range m.Files {
		if err := s.soundFile(ref, f); err != nil {
			return m, fmt.Errorf("version %s: %w", m.Version, err)
		}
	}
	return m, nil
}

func (s *Store) soundFile(ref string, f File) error {
	src, err := s.open(ref, f.Name)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&modeOf(f.Name) != modeOf(f.Name) {
		return fmt.Errorf("%s has mode %v", f.Name, info.Mode())
	}
	return newChecked(src, f).end()
}

func (s *Store) open(ref, name string) (*os.File, error) {
	if ref == s.o.Base {
		return os.Open(filepath.Join(ref, name))
	}
	return s.root.Open(path.Join(ref, name))
}

// Stage unpacks the order's bundle, which Fetch has brought, into a folder of its
// own and gives that its name once all of it is on the disk. A *RefusedError means
// that the release is not for this machine, or not one to take now.
func (s *Store) Stage(ctx context.Context, o Order) error {
	f, err := s.root.Open(partName(o))
	if err != nil {
		return fmt.Errorf("stage %s: %w", o.Version, err)
	}
	defer f.Close()
	if err := s.root.RemoveAll(unpackDir); err != nil {
		return fmt.Errorf("stage %s: %w", o.Version, err)
	}
	if err := s.root.Mkdir(unpackDir, 0o755); err != nil {
		return fmt.Errorf("stage %s: %w", o.Version, err)
	}
	m, signed, err := ReadBundle(f, s.o.Keys, func(m Manifest) error { return s.accept(o, m) }, func(f File, r io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return s.unpack(f, r)
	})
	if err != nil {
		return s.unstage(o, err)
	}
	if err := s.unpack(File{Name: manifestName}, strings.NewReader(string(signed))); err != nil {
		return s.unstage(o, err)
	}
	if err := s.settle(m.Version); err != nil {
		return fmt.Errorf("stage %s: %w", o.Version, err)
	}
	err = s.change(func(st *state) error {
		if st.Order == nil || st.Order.ID != o.ID {
			return refusef("order %s was taken back", o.ID)
		}
		st.Staged = o.SHA256
		return nil
	})
	if err != nil {
		return err
	}
	return s.root.Remove(partName(o))
}

// unstage clears up after a bundle that was not taken. What its bytes are to blame
// for is a refusal: its sum was right, so it was made like this.
func (s *Store) unstage(o Order, err error) error {
	if gone := s.root.RemoveAll(unpackDir); gone != nil {
		return fmt.Errorf("stage %s: %w", o.Version, errors.Join(err, gone))
	}
	_, onDisk := errors.AsType[*fs.PathError](err)
	_, refused := errors.AsType[*RefusedError](err)
	if onDisk || refused || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("stage %s: %w", o.Version, err)
	}
	return refusef("the bundle of %s is not one to take: %v", o.Version, err)
}

// accept judges a manifest before anything else of the bundle is read.
func (s *Store) accept(o Order, m Manifest) error {
	if m.Version != o.Version {
		return refusef("version %s was ordered, and the bundle holds %s", o.Version, m.Version)
	}
	st, err := s.load()
	if err != nil {
		return err
	}
	if err := s.fits(st, m, o.Older); err != nil {
		return err
	}
	return s.room(m.total())
}

// room says no if n more bytes would leave too little.
func (s *Store) room(n int64) error {
	left, err := s.free()
	if err != nil {
		return err
	}
	if left < n+keepFree {
		return refusef("the disk has %d MiB left, and the update needs %d", left>>20, (n+keepFree)>>20+1)
	}
	return nil
}

// fits says no to a release that must not follow what runs.
func (s *Store) fits(st state, m Manifest, older bool) error {
	ref, err := s.where(currentLink)
	if err != nil {
		return err
	}
	if ref == "" {
		return refusef("this machine was not started from its folder of versions: nothing is there to go back to")
	}
	now, _, err := s.manifest(ref)
	if err != nil {
		return refusef("what runs cannot be told, so nothing is there to go back to: %v", err)
	}
	ledger := max(st.Ledger, now.Ledger.Writes)
	switch {
	case m.Arch != s.o.Arch:
		return refusef("version %s is for %s, this machine is %s", m.Version, m.Arch, s.o.Arch)
	case m.Version == now.Version:
		return refusef("version %s runs already", m.Version)
	case !older && m.BuiltMS < max(st.Newest, now.BuiltMS):
		return refusef("version %s is older than what this machine has run, and nobody asked for an older one", m.Version)
	case !m.Ledger.reads(ledger):
		return refusef("version %s reads ledgers of version %d to %d, and this machine's has version %d", m.Version, m.Ledger.Oldest, m.Ledger.Newest, ledger)
	case !now.Ledger.reads(max(ledger, m.Ledger.Writes)):
		return refusef("version %s would write a ledger of version %d, which %s could not read if it had to come back", m.Version, m.Ledger.Writes, now.Version)
	}
	return nil
}

// unpack writes one file of a release to the disk.
func (s *Store) unpack(f File, r io.Reader) error {
	name := path.Join(unpackDir, f.Name)
	dst, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, r)
	return errors.Join(err, dst.Chmod(modeOf(f.Name)), dst.Sync(), dst.Close())
}

// settle gives an unpacked version its name. An older folder of that name goes; it
// is not the one that runs, because that version would have been refused.
func (s *Store) settle(version string) error {
	if err := s.disk.sync(unpackDir); err != nil {
		return err
	}
	if err := s.root.RemoveAll(refOf(version)); err != nil {
		return err
	}
	if err := s.disk.rename(unpackDir, refOf(version)); err != nil {
		return err
	}
	return s.disk.sync(versionsDir)
}

// Prune removes what nothing leads to any more: versions, and bundles that were
// never finished. It keeps what runs, what ran before, and what is ordered.
func (s *Store) Prune() error {
	return s.locked(func() error {
		st, err := s.load()
		if err != nil || st.Phase != steady {
			return err
		}
		keep := []string{}
		for _, link := range []string{currentLink, previousLink} {
			ref, err := s.where(link)
			if err != nil {
				return err
			}
			keep = append(keep, ref)
		}
		if st.Order != nil {
			if st.Staged == st.Order.SHA256 {
				keep = append(keep, refOf(st.Order.Version))
			} else {
				keep = append(keep, partName(*st.Order), unpackDir)
			}
		}
		return errors.Join(s.clear(versionsDir, keep), s.clear(incomingDir, keep))
	})
}

func (s *Store) clear(dir string, keep []string) error {
	d, err := s.root.Open(dir)
	if err != nil {
		return fmt.Errorf("versions: %w", err)
	}
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("versions: %w", err)
	}
	for _, name := range names {
		if at := path.Join(dir, name); !slices.Contains(keep, at) {
			if err := s.root.RemoveAll(at); err != nil {
				return fmt.Errorf("versions: remove %s: %w", at, err)
			}
		}
	}
	return nil
}
