package protocol

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Role is what an account may do at a machine.
type Role string

const (
	RoleRestocker  Role = "restocker"  // loads, takes out, counts, looks after jams
	RoleTechnician Role = "technician" // that, and planogram, tests, settings, faults
	RoleAuditor    Role = "auditor"    // counts and looks; changes nothing
)

// Account is one member of staff at one machine. Accounts reach a machine sealed
// to its key, never in the open.
type Account struct {
	Staff  string  `json:"staff"` // account number, the only thing events say of a person: 1 to 16 of a-z, 0-9 and '-'
	Role   Role    `json:"role"`
	Badges []Badge `json:"badges"` // 1 to MaxBadges cards, any of which is theirs
	PIN    PIN     `json:"pin"`
}

// Badge is a staff card.
type Badge struct {
	Kind string `json:"kind"` // nfc, wiegand26 or wiegand34: the wire it is read on
	UID  string `json:"uid"`  // 3 to 10 bytes, upper-case hexadecimal
}

// PIN is what proves a PIN without saying it: Argon2id of its digits (RFC 9106,
// one lane).
type PIN struct {
	Salt      []byte `json:"salt"` // 16 bytes
	MemoryKiB uint32 `json:"memory_kib"`
	Passes    uint32 `json:"passes"`
	Hash      []byte `json:"hash"` // 32 bytes
}

// Secrets are what a desired state holds for the eyes of its machine alone: it travels
// sealed to the machine's key.
type Secrets struct {
	Accounts []Account `json:"accounts"` // all of them: who is not here can no longer sign in
}

// SealedSecrets is the purpose for which Secrets are sealed.
const SealedSecrets = "secrets"

// DecodeSecrets reads what was sealed.
func DecodeSecrets(b []byte) (Secrets, error) {
	var s Secrets
	if err := decode("secrets", b, MaxMessage, &s); err != nil {
		return Secrets{}, err
	}
	return s, ValidAccounts(s.Accounts)
}

// Limits of accounts.
const (
	MaxAccounts = 100
	MaxBadges   = 4
	MaxStaff    = 16 // characters of an account number
	PINDigits   = 6
	saltSize    = 16
	pinSize     = 32
)

// Limits of the work of Argon2id: enough to be worth it, and not so much that a
// machine runs out of memory.
const (
	MinMemoryKiB, MaxMemoryKiB = 8 << 10, 64 << 10
	MinPasses, MaxPasses       = 1, 10
)

// Valid reports what is wrong with it, or nil. An error never holds a badge's UID.
func (a Account) Valid() error {
	if a.Staff == "" || len(a.Staff) > MaxStaff || validName("", a.Staff) != nil {
		return fmt.Errorf("account number %q: 1 to %d of a-z, 0-9 and '-' are allowed", clip(a.Staff), MaxStaff)
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("account %s: %s", a.Staff, fmt.Sprintf(format, args...))
	}
	switch a.Role {
	case RoleRestocker, RoleTechnician, RoleAuditor:
	default:
		return wrong("role %q: want restocker, technician or auditor", clip(string(a.Role)))
	}
	if len(a.Badges) == 0 || len(a.Badges) > MaxBadges {
		return wrong("%d badges: 1 to %d are allowed", len(a.Badges), MaxBadges)
	}
	for i, b := range a.Badges {
		if err := b.valid(); err != nil {
			return wrong("badge %d: %v", i+1, err)
		}
	}
	p := a.PIN
	switch {
	case len(p.Salt) != saltSize:
		return wrong("pin: salt has %d bytes, want %d", len(p.Salt), saltSize)
	case len(p.Hash) != pinSize:
		return wrong("pin: hash has %d bytes, want %d", len(p.Hash), pinSize)
	case p.MemoryKiB < MinMemoryKiB || p.MemoryKiB > MaxMemoryKiB:
		return wrong("pin: memory_kib %d: %d to %d are allowed", p.MemoryKiB, MinMemoryKiB, MaxMemoryKiB)
	case p.Passes < MinPasses || p.Passes > MaxPasses:
		return wrong("pin: passes %d: %d to %d are allowed", p.Passes, MinPasses, MaxPasses)
	}
	return nil
}

func (b Badge) valid() error {
	switch b.Kind {
	case "nfc", "wiegand26", "wiegand34":
	default:
		return fmt.Errorf("kind %q: want nfc, wiegand26 or wiegand34", clip(b.Kind))
	}
	if raw, err := hex.DecodeString(b.UID); err != nil || len(raw) < 3 || len(raw) > 10 || strings.ToUpper(b.UID) != b.UID {
		return fmt.Errorf("uid: want 3 to 10 bytes in upper-case hexadecimal")
	}
	return nil
}

// ValidAccounts reports what is wrong with accounts that are for one machine, or nil.
func ValidAccounts(accounts []Account) error {
	if len(accounts) > MaxAccounts {
		return fmt.Errorf("%d accounts: at most %d are allowed", len(accounts), MaxAccounts)
	}
	seen := map[string]bool{}
	whose := map[Badge]string{}
	for _, a := range accounts {
		if err := a.Valid(); err != nil {
			return err
		}
		if seen[a.Staff] {
			return fmt.Errorf("account %s: appears twice", a.Staff)
		}
		seen[a.Staff] = true
		for i, b := range a.Badges {
			if other, taken := whose[b]; taken {
				return fmt.Errorf("account %s: badge %d is one of account %s too", a.Staff, i+1, other)
			}
			whose[b] = a.Staff
		}
	}
	return nil
}
