package update

// Disk is what the power cut tests stand in for.
type Disk = disk

// SetDisk puts a disk in the place of the real one.
func (s *Store) SetDisk(d Disk) { s.disk = d }

// RealDisk is the one it has.
func (s *Store) RealDisk() Disk { return s.disk }

// SetFree says how many bytes are left.
func (s *Store) SetFree(n int64) { s.free = func() (int64, error) { return n, nil } }

// DecodeState reads a state file and says what it holds, for the fuzz test.
func DecodeState(b []byte) (trial bool, err error) {
	st, err := decodeState(b)
	return st.Trial != nil && st.Phase != steady, err
}

// DecodeBase reads an unsigned manifest.
func DecodeBase(b []byte) (Manifest, error) { return openBase(b) }

// Steps is disk with names the tests can give.
type Steps interface {
	Write(name string, b []byte) error
	Link(target, name string) error
	Rename(from, to string) error
	Sync(name string) error
}

// DiskOf makes a disk of it.
func DiskOf(s Steps) Disk { return named{s} }

type named struct{ Steps }

func (n named) write(name string, b []byte) error { return n.Write(name, b) }
func (n named) link(target, name string) error    { return n.Link(target, name) }
func (n named) rename(from, to string) error      { return n.Rename(from, to) }
func (n named) sync(name string) error            { return n.Sync(name) }

// WriteTo, LinkTo and RenameTo do one step to a disk.
func WriteTo(d Disk, name string, b []byte) error { return d.write(name, b) }
func LinkTo(d Disk, target, name string) error    { return d.link(target, name) }
func RenameTo(d Disk, from, to string) error      { return d.rename(from, to) }
