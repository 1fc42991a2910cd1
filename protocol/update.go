package protocol

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Limits of a release.
const (
	MaxBundle  = 128 << 20 // bytes of a bundle: the two programs are 45 MiB today
	MaxVersion = 40        // characters of a version
	MaxWords   = 300       // bytes of what a machine says about an update, for people
)

// Update says which release a machine is to take into use, and when. The release
// itself is signed by those who made it.
type Update struct {
	Version     string `json:"version"`         // that the bundle must hold
	SHA256      string `json:"sha256"`          // of the bundle, 64 lower-case hexadecimal digits
	Size        int64  `json:"size"`            // of the bundle in bytes, 1 to MaxBundle
	NotBeforeMS int64  `json:"not_before_ms"`   // Unix milliseconds; the bundle is fetched before, and taken into use after
	DeadlineMS  int64  `json:"deadline_ms"`     // Unix milliseconds; afterwards the order is void
	Wave        int    `json:"wave"`            // counted from 1; 0: the machine was ordered alone
	Older       bool   `json:"older,omitempty"` // a release older than the newest this machine has run is meant
}

// Valid reports what is wrong with it, or nil.
func (u Update) Valid() error {
	if err := ValidVersion(u.Version); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if !ValidSum(u.SHA256) {
		return fmt.Errorf("update: sha256 %q: want 64 lower-case hexadecimal digits", clip(u.SHA256))
	}
	switch {
	case u.Size < 1 || u.Size > MaxBundle:
		return fmt.Errorf("update: size %d: 1 to %d bytes are allowed", u.Size, MaxBundle)
	case u.NotBeforeMS < 0 || u.DeadlineMS <= u.NotBeforeMS:
		return errors.New("update: its deadline is before it begins")
	case u.Wave < 0:
		return fmt.Errorf("update: wave %d: waves are counted from 1", u.Wave)
	}
	return nil
}

// ValidVersion lets a version pass that can be a folder's name.
func ValidVersion(v string) error {
	if v == "" || len(v) > MaxVersion || !alphanumeric(v[0]) {
		return fmt.Errorf("version %q: 1 to %d characters are allowed, the first a letter or digit", clip(v), MaxVersion)
	}
	for _, c := range []byte(v) {
		if !alphanumeric(c) && strings.IndexByte("+-.~", c) < 0 {
			return fmt.Errorf("version %q: only letters, digits and + - . ~ are allowed", clip(v))
		}
	}
	return nil
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// ValidSum reports whether s is a SHA-256 as we write it.
func ValidSum(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && hex.EncodeToString(b) == s
}

// UpdateEnd is how an update ended.
type UpdateEnd string

const (
	UpdateConfirmed  UpdateEnd = "confirmed"   // the version runs and has proved itself
	UpdateRolledBack UpdateEnd = "rolled_back" // it did not, and the one before runs again
	UpdateRefused    UpdateEnd = "refused"     // it was never taken into use
	UpdateLate       UpdateEnd = "late"        // the deadline came first
)

// UpdateState is how the machine's software stands, in its state. The version that
// runs is State.Software.
type UpdateState struct {
	Trial   string        `json:"trial,omitempty"`   // the version that has yet to prove itself
	Ordered string        `json:"ordered,omitempty"` // the version of the order in hand
	Waits   string        `json:"waits,omitempty"`   // what that waits for, for people
	Last    *UpdateResult `json:"last,omitempty"`    // how the last one ended
}

// UpdateResult is the end of an order, or of a rollback somebody asked for.
type UpdateResult struct {
	Order   string    `json:"order,omitempty"` // id of its command; empty: nobody ordered it from afar
	Version string    `json:"version"`
	End     UpdateEnd `json:"end"`
	Words   string    `json:"words,omitempty"` // why, for people
}

func (u UpdateState) valid() error {
	for _, s := range []string{u.Trial, u.Ordered} {
		if s != "" && ValidVersion(s) != nil {
			return ValidVersion(s)
		}
	}
	if len(u.Waits) > MaxWords {
		return fmt.Errorf("waits: %d bytes, at most %d are allowed", len(u.Waits), MaxWords)
	}
	if u.Last == nil {
		return nil
	}
	// Another end than those above is a newer machine's.
	if u.Last.End == "" || len(u.Last.End) > MaxName || len(u.Last.Words) > MaxWords || len(u.Last.Order) > MaxCommandID {
		return errors.New("last: end, words or order are missing or too long")
	}
	return ValidVersion(u.Last.Version)
}
