package identity

import (
	"errors"
	"fmt"
	"time"
)

// Report is how a machine's identity stands, in plain words for a technician.
type Report struct {
	Good  bool
	Words []string // what is so; where it is not good, what to do
}

// Describe looks at a machine's files and at nothing else: it asks the district
// nothing, and may be used beside a running kioskd.
func Describe(o Options) Report {
	c, err := o.load()
	if errors.Is(err, ErrNotEnrolled) {
		return Report{Words: []string{fmt.Sprintf("this machine is not enrolled: on the district's computer 'districtd enrol %s', then here 'yaoju enrol LINE'", o.Machine)}}
	}
	if err != nil {
		return Report{Words: []string{err.Error()}}
	}
	leaf := c.chain[0]
	r := Report{Good: true, Words: []string{
		fmt.Sprintf("certificate of %s, good until %s, renewed by itself from %s on", o.Machine, leaf.NotAfter.Format(time.DateOnly), renewAt(leaf).Format(time.DateOnly)),
		"its key is in a file that only kioskd and root can read; no TPM is used",
	}}
	if !o.Synced() {
		r.Words = append(r.Words, "the clock is not synchronised: whether the certificate still holds is judged by the district alone")
	}
	switch now := o.now(leaf); {
	case now.After(leaf.NotAfter):
		r.Good = false
		r.Words = append(r.Words, fmt.Sprintf("the certificate ran out: an officer lets the machine back with 'districtd consent %s' on the district's computer; it then comes by itself within 20 minutes", o.Machine))
	case now.After(renewAt(leaf).Add(7 * 24 * time.Hour)):
		r.Good = false
		r.Words = append(r.Words, fmt.Sprintf("it should have been renewed a week ago: see that %s can be reached from here", o.Desk))
	}
	return r
}
