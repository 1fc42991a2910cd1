package identity

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Standing is how a machine's identity stands, as a word that programs may rely on.
type Standing string

const (
	StateGood   Standing = "good"
	StateNone   Standing = "none"   // not enrolled
	StateUnread Standing = "unread" // whoever asks may not read it
	StateBroken Standing = "broken" // key or certificate are not usable
	StateLate   Standing = "late"   // it should have been renewed a week ago
	StateEnded  Standing = "ended"  // the certificate ran out
)

// Report is how a machine's identity stands, in plain words for a technician.
type Report struct {
	Good  bool
	Words []string // what is so; where it is not good, what to do
	State Standing
	Until time.Time // the certificate's end; zero: there is none to be read
	TPM   bool      // the key is in a TPM
}

// Describe looks at a machine's files, and has its TPM sign where the key is in there:
// it asks the district nothing, and may be used beside a running kioskd.
func Describe(o Options) Report {
	c, err := o.load()
	if errors.Is(err, ErrNotEnrolled) {
		return Report{State: StateNone, Words: []string{fmt.Sprintf("this machine is not enrolled: on the district's computer 'districtd enrol %s', then here 'yaoju enrol LINE'", o.Machine)}}
	}
	if errors.Is(err, fs.ErrPermission) {
		return Report{State: StateUnread, Words: []string{err.Error()}}
	}
	if err != nil {
		return Report{State: StateBroken, Words: []string{err.Error()}}
	}
	leaf := c.chain[0]
	r := Report{Good: true, State: StateGood, Until: leaf.NotAfter, Words: []string{
		fmt.Sprintf("certificate of %s, good until %s, renewed by itself from %s on", o.Machine, leaf.NotAfter.Format(time.DateOnly), renewAt(leaf).Format(time.DateOnly)),
	}}
	r.describeKeys(o, c)
	if !o.Synced() {
		r.Words = append(r.Words, "the clock is not synchronised: whether the certificate still holds is judged by the district alone")
	}
	switch now := o.now(leaf); {
	case !r.Good: // the key is not usable, whatever its certificate says
	case now.After(leaf.NotAfter):
		r.Good, r.State = false, StateEnded
		r.Words = append(r.Words, fmt.Sprintf("the certificate ran out: an officer lets the machine back with 'districtd consent %s' on the district's computer; it then comes by itself within 20 minutes", o.Machine))
	case now.After(renewAt(leaf).Add(7 * 24 * time.Hour)):
		r.Good, r.State = false, StateLate
		r.Words = append(r.Words, fmt.Sprintf("it should have been renewed a week ago: see that %s can be reached from here", o.Desk))
	}
	return r
}

// describeKeys says where the keys lie, and whether they can be used.
func (r *Report) describeKeys(o Options, c credentials) {
	if c.own.handle == nil {
		r.Words = append(r.Words, "its key is in a file that only kioskd and root can read: a copy of the disk is a copy of the key")
		return
	}
	r.TPM = true
	probe := sha256.Sum256([]byte("yaoju probe")) // no message of TLS is ever hashed to this
	if _, err := c.key.Sign(rand.Reader, probe[:], crypto.SHA256); err != nil {
		r.Good, r.State = false, StateBroken
		r.Words = append(r.Words, fmt.Sprintf("its key is in a TPM and cannot be used: %v: enrol the machine again, with 'yaoju enrol -new-key LINE'", err))
		return
	}
	r.Words = append(r.Words, "its key is in this computer's TPM, which never lets it out: a copy of the disk is of no use elsewhere")
}
