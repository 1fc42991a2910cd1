package update

import (
	"errors"
	"fmt"

	"yaoju/protocol"
)

// Take makes an order the one to carry out, durable when it returns. One for the
// version that runs, and has proved itself, is confirmed at once: there is nothing to
// fetch. An order that was taken before changes nothing; a newer one replaces one that has not come to
// its switch, and none is taken while a version is on trial. A *RefusedError says
// why the machine cannot take it; that is its end.
func (s *Store) Take(o Order) error {
	if err := o.Valid(); err != nil {
		return refusef("%v", err)
	}
	var refused error
	err := s.change(func(st *state) error {
		switch {
		case st.Taken == o.ID:
			return errNothing
		case st.Phase != steady:
			return errTrial
		case len(s.o.Keys) == 0:
			refused = refusef("this machine trusts no release key")
			st.Last = result(o.ID, o.Version, protocol.UpdateRefused, refused.Error())
		case s.runs(o.Version):
			st.Order, st.Staged = nil, ""
			st.Last = result(o.ID, o.Version, protocol.UpdateConfirmed, "")
		default:
			st.Order, st.Staged = &o, ""
		}
		st.Taken = o.ID
		return nil
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	return errors.Join(err, refused)
}

// runs says whether a version is the one that starts. What cannot be told is no: the
// switch looks again.
func (s *Store) runs(version string) bool {
	ref, err := s.where(currentLink)
	if err != nil || ref == "" {
		return false
	}
	m, _, err := s.manifest(ref)
	return err == nil && m.Version == version
}

// errTrial says that an order has to wait until the version on trial is judged.
var errTrial = errors.New("a version is on trial")

// errNothing keeps change from saving what is as it was.
var errNothing = errors.New("nothing to change")

// finish ends an order that did not come to its switch.
func (s *Store) finish(o Order, end protocol.UpdateEnd, words string) error {
	err := s.change(func(st *state) error {
		if st.Order == nil || st.Order.ID != o.ID || st.Phase != steady {
			return errNothing // replaced meanwhile
		}
		st.Order, st.Staged = nil, ""
		st.Last = result(o.ID, o.Version, end, words)
		return nil
	})
	if err != nil && !errors.Is(err, errNothing) {
		return fmt.Errorf("end order %s: %w", o.ID, err)
	}
	return nil
}

// Status is how the machine's software stands, for people and for the district.
type Status struct {
	Current  string                 `json:"current"`            // the version that starts next; "base": the one it was installed with
	Previous string                 `json:"previous,omitempty"` // the one before
	Trial    string                 `json:"trial,omitempty"`    // the version that has yet to prove itself
	Starts   int                    `json:"starts,omitempty"`   // how often it was started
	Failed   string                 `json:"failed,omitempty"`   // why it goes at the next start
	Order    *Order                 `json:"order,omitempty"`    // taken and not at its end
	Fetched  int64                  `json:"fetched,omitempty"`  // bytes of its bundle that are here, while they come
	Staged   bool                   `json:"staged,omitempty"`   // its bundle is unpacked
	Last     *protocol.UpdateResult `json:"last,omitempty"`     // how the last one ended
}

// Status reads how the machine's software stands.
func (s *Store) Status() (Status, error) {
	var out Status
	st, err := s.load()
	if err != nil {
		return out, err
	}
	now, err := s.where(currentLink)
	if err != nil {
		return out, err
	}
	before, err := s.where(previousLink)
	if err != nil {
		return out, err
	}
	out = Status{Current: s.name(now), Order: st.Order, Staged: st.Order != nil && st.Staged == st.Order.SHA256, Last: st.Last}
	if st.Order != nil {
		out.Fetched = s.fetched(*st.Order)
	}
	if before != now {
		out.Previous = s.name(before)
	}
	if t := st.Trial; t != nil {
		out.Trial, out.Starts, out.Failed = t.Version, t.Starts, t.Failed
	}
	return out, nil
}

func (s *Store) name(ref string) string {
	if ref == s.o.Base {
		return "base"
	}
	return versionOf(ref)
}
