package update

import (
	"errors"
	"fmt"
	"time"

	"yaoju/protocol"
)

// maxStarts is how often a version on trial is started. A machine may lose its
// power once or twice in the first minutes without the release being to blame; one
// that crashes has used them up in seconds.
const maxStarts = 3

// Switch makes the staged version the one that starts next, on trial. The order of
// steps is what makes it safe:
//
//	write down what is tried and what it replaces    a cut after it: Check sees current unmoved, and forgets the trial
//	previous leads to what runs                      likewise
//	current leads to the new version                 a cut after it: Check counts the start of the new version
//
// The caller then has the machine restarted. A *RefusedError means that the version
// must not be taken into use.
func (s *Store) Switch(o Order, before Signs) error {
	return s.locked(func() error {
		st, err := s.load()
		if err != nil {
			return err
		}
		if st.Phase != steady {
			return refusef("version %s is on trial", st.Trial.Version)
		}
		if st.Order == nil || st.Order.ID != o.ID || st.Staged != o.SHA256 {
			return refusef("version %s was not staged", o.Version)
		}
		// Verified once more: it may have lain here for days.
		m, err := s.sound(refOf(o.Version))
		if err != nil {
			return refusef("the staged version is not sound: %v", err)
		}
		if err := s.fits(st, m, o.Older); err != nil {
			return err
		}
		t := tried{Version: o.Version, Order: o.ID, BegunMS: time.Now().UnixMilli(), Before: before}
		if t.From, err = s.where(currentLink); err != nil {
			return err
		}
		if t.OldPrevious, err = s.where(previousLink); err != nil {
			return err
		}
		st.Phase, st.Trial = trial, &t
		if err := s.save(st); err != nil {
			return err
		}
		if err := point(s.disk, previousLink, t.From); err != nil {
			return fmt.Errorf("versions: %w", err)
		}
		if err := point(s.disk, currentLink, refOf(o.Version)); err != nil {
			return fmt.Errorf("versions: %w", err)
		}
		return nil
	})
}

// Check runs before every start of the machine's daemon, and leaves current leading
// to what is to be started. It finishes what a power cut interrupted, counts the
// start of a version on trial before it happens, puts the version before back if the
// trial has failed, and takes another if what current leads to is damaged. It may
// be cut off anywhere and run again. It returns what it did, for the log; "" if there
// was nothing to do.
func (s *Store) Check() (string, error) {
	var did string
	err := s.locked(func() error {
		st, err := s.load()
		if errors.Is(err, errBadState) {
			if st, err = s.newState(); err == nil {
				did = "the state file was damaged and is put aside"
			}
		}
		if err != nil {
			return err
		}
		more, err := s.check(st)
		did = join(did, more)
		return err
	})
	return did, err
}

func (s *Store) check(st state) (string, error) {
	switch st.Phase {
	case back:
		return s.goBack(st)
	case trial:
		return s.checkTrial(st)
	}
	return s.checkSteady(st)
}

func (s *Store) checkTrial(st state) (string, error) {
	t := st.Trial
	now, err := s.where(currentLink)
	if err != nil {
		return "", err
	}
	if now != refOf(t.Version) {
		return s.forget(st)
	}
	m, err := s.sound(now)
	switch {
	case err != nil:
		t.Failed = err.Error()
	case t.Failed == "" && t.Starts >= maxStarts:
		t.Failed = fmt.Sprintf("it was started %d times and did not prove itself", t.Starts)
	}
	if t.Failed != "" {
		if to, ok := s.refuge(st, t.From); ok {
			t.From = to
			return s.leave(st)
		}
		return s.keep(st, m)
	}
	t.Starts++
	st.Ledger = max(st.Ledger, m.Ledger.Writes) // before it can write
	if err := s.save(st); err != nil {
		return "", err
	}
	return fmt.Sprintf("version %s is on trial, start %d of %d", t.Version, t.Starts, maxStarts), nil
}

// keep ends a failed trial where nothing is there to go back to: the version goes on
// being started, and a later release may take its place.
func (s *Store) keep(st state, m Manifest) (string, error) {
	t, stays := st.Trial, "nothing to go back to, it stays"
	st.Ledger = max(st.Ledger, m.Ledger.Writes) // before it can write
	st.Last = result(t.Order, t.Version, protocol.UpdateRolledBack, stays+": "+t.Failed)
	if st.Order != nil && st.Order.ID == t.Order {
		st.Order, st.Staged = nil, ""
	}
	st.Phase, st.Trial = steady, nil
	if err := s.save(st); err != nil {
		return "", err
	}
	return fmt.Sprintf("version %s was given up (%s): %s", t.Version, t.Failed, stays), nil
}

// forget takes back a switch that was cut off before it counted. The order stays,
// and is carried out again.
func (s *Store) forget(st state) (string, error) {
	t := st.Trial
	if t.OldPrevious != "" {
		if err := point(s.disk, previousLink, t.OldPrevious); err != nil {
			return "", fmt.Errorf("versions: %w", err)
		}
	}
	st.Phase, st.Trial = steady, nil
	if err := s.save(st); err != nil {
		return "", err
	}
	more, err := s.checkSteady(st)
	return join(fmt.Sprintf("the switch to %s was cut off before it counted", t.Version), more), err
}

// join strings together what was done.
func join(did, more string) string {
	if did == "" || more == "" {
		return did + more
	}
	return did + "; " + more
}

func (s *Store) checkSteady(st state) (did string, err error) {
	now, err := s.where(currentLink)
	if err != nil {
		return "", err
	}
	if now == "" {
		if err := point(s.disk, currentLink, s.o.Base); err != nil {
			return "", fmt.Errorf("versions: %w", err)
		}
		did = "the version the machine was installed with starts"
		m, _, err := s.manifest(s.o.Base)
		if err != nil {
			return did, nil // it starts all the same: there is nothing else
		}
		_, err = s.note(st, s.o.Base, m)
		return did, err
	}
	m, err := s.sound(now)
	if err == nil {
		return s.note(st, now, m)
	}
	previous, also := s.where(previousLink)
	if also != nil {
		return "", errors.Join(err, also)
	}
	to, ok := s.refuge(st, previous)
	if !ok || to == now {
		return "", fmt.Errorf("versions: what is to be started is damaged, and there is nothing else: %w", err)
	}
	st.Trial = &tried{Version: versionOf(now), From: to, Failed: err.Error()}
	if st.Trial.Version == "" {
		st.Trial.Version = "base"
	}
	return s.leave(st)
}

// note remembers what the version that starts may write. If the package was installed
// anew since, and brought a later version, that one starts: whoever installs it by
// hand wants it.
func (s *Store) note(st state, now string, m Manifest) (did string, err error) {
	ledger := max(st.Ledger, m.Ledger.Writes)
	base, _, unread := s.manifest(s.o.Base)
	if unread != nil || base.BuiltMS == st.BaseMS {
		if ledger == st.Ledger {
			return "", nil
		}
		st.Ledger = ledger
		return "", s.save(st)
	}
	fresh := st.BaseMS != 0 && base.BuiltMS > m.BuiltMS
	st.BaseMS, st.Ledger = base.BuiltMS, ledger
	if to, ok := s.refuge(st, s.o.Base); ok && fresh && to != now {
		if err := point(s.disk, previousLink, now); err != nil {
			return "", fmt.Errorf("versions: %w", err)
		}
		if err := point(s.disk, currentLink, s.o.Base); err != nil {
			return "", fmt.Errorf("versions: %w", err)
		}
		st.Ledger = max(ledger, base.Ledger.Writes)
		did = fmt.Sprintf("version %s was installed since, and is later than %s: it starts", base.Version, m.Version)
	}
	return did, s.save(st)
}

// refuge finds a version to go back to: the wanted one, else the base. It must be
// whole and able to read the ledger as it may be by now; where nothing has been
// started from here yet, any can.
func (s *Store) refuge(st state, wanted string) (ref string, ok bool) {
	for _, ref := range []string{wanted, s.o.Base} {
		if m, err := s.sound(ref); err == nil && (st.Ledger == 0 || m.Ledger.reads(st.Ledger)) {
			return ref, true
		}
	}
	return "", false
}

// leave begins to put another version in the place of the one that failed.
func (s *Store) leave(st state) (string, error) {
	st.Phase = back
	if err := s.save(st); err != nil {
		return "", err
	}
	return s.goBack(st)
}

// goBack does, or does again, what leave began.
func (s *Store) goBack(st state) (string, error) {
	t := st.Trial
	if err := point(s.disk, currentLink, t.From); err != nil {
		return "", fmt.Errorf("versions: %w", err)
	}
	// What failed is not to be gone back to.
	previous := t.From
	if t.OldPrevious != "" {
		previous = t.OldPrevious
	}
	if err := point(s.disk, previousLink, previous); err != nil {
		return "", fmt.Errorf("versions: %w", err)
	}
	st.Last = result(t.Order, t.Version, protocol.UpdateRolledBack, t.Failed)
	if st.Order != nil && st.Order.ID == t.Order {
		st.Order, st.Staged = nil, ""
	}
	st.Phase, st.Trial = steady, nil
	if err := s.save(st); err != nil {
		return "", err
	}
	return fmt.Sprintf("version %s was given up (%s); %s starts", t.Version, t.Failed, t.From), nil
}

// newState begins anew after the state file was damaged. What a release that lies
// here might have written, the ledger may hold.
func (s *Store) newState() (state, error) {
	st := state{Format: stateFormat, Phase: steady}
	d, err := s.root.Open(versionsDir)
	if err != nil {
		return st, fmt.Errorf("versions: %w", err)
	}
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return st, fmt.Errorf("versions: %w", err)
	}
	for _, name := range names {
		if m, _, err := s.manifest(refOf(name)); err == nil {
			st.Ledger = max(st.Ledger, m.Ledger.Writes)
		}
	}
	damaged, err := s.root.ReadFile(stateName)
	if err != nil {
		return st, fmt.Errorf("versions: %w", err)
	}
	// For whoever wants to know what happened; nothing depends on it.
	if err := s.disk.write(badStateName, damaged); err != nil {
		return st, fmt.Errorf("versions: %w", err)
	}
	return st, s.save(st)
}

// Confirm ends the trial of a version: it stays.
func (s *Store) Confirm(version string) error {
	return s.change(func(st *state) error {
		if st.Phase != trial || st.Trial.Version != version {
			return fmt.Errorf("versions: confirm %s: it is not on trial", version)
		}
		m, _, err := s.manifest(refOf(version))
		if err != nil {
			return err
		}
		st.Newest, st.Ledger = max(st.Newest, m.BuiltMS), max(st.Ledger, m.Ledger.Writes)
		st.Last = result(st.Trial.Order, version, protocol.UpdateConfirmed, "")
		if st.Order != nil && st.Order.ID == st.Trial.Order {
			st.Order, st.Staged = nil, ""
		}
		st.Phase, st.Trial = steady, nil
		return nil
	})
}

// Vouch says that the version on trial works, as far as one can tell without the
// district: its starts are counted anew. A district that is out of reach for days,
// on a machine that is switched off every night, must not use them up.
func (s *Store) Vouch(version string) error {
	return s.change(func(st *state) error {
		if st.Phase != trial || st.Trial.Version != version {
			return fmt.Errorf("versions: vouch for %s: it is not on trial", version)
		}
		st.Trial.Starts = 0
		return nil
	})
}

// Fail ends it the other way: at the next start the version before is back.
func (s *Store) Fail(version, why string) error {
	return s.change(func(st *state) error {
		if st.Phase != trial || st.Trial.Version != version {
			return fmt.Errorf("versions: give up %s: it is not on trial", version)
		}
		st.Trial.Failed = why
		return nil
	})
}

// Rollback puts the version before back because somebody at the machine wants it,
// and returns what it did. It counts from the next start on. A *RefusedError means
// that there is nothing to go back to, or nothing that could read the ledger.
func (s *Store) Rollback(why string) (string, error) {
	var did string
	err := s.locked(func() error {
		st, err := s.load()
		if err != nil {
			return err
		}
		now, err := s.where(currentLink)
		if err != nil {
			return err
		}
		wanted, err := s.where(previousLink)
		if err != nil {
			return err
		}
		if st.Phase == steady {
			v := versionOf(now)
			if v == "" {
				return refusef("the version the machine was installed with runs: there is none before it")
			}
			st.Trial = &tried{Version: v, From: wanted}
		}
		to, ok := s.refuge(st, st.Trial.From)
		if !ok || to == now {
			return refusef("there is no other version that is whole and can read this machine's ledger")
		}
		st.Trial.From, st.Trial.Failed = to, why
		did, err = s.leave(st)
		return err
	})
	return did, err
}
