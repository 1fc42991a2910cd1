package protocol

import (
	"strings"
	"testing"
)

func goodAccount() Account {
	return Account{Staff: "s-104", Role: RoleTechnician, Badges: []Badge{{Kind: "nfc", UID: "04A1B2C3"}, {Kind: "wiegand26", UID: "A1B2C3"}},
		PIN: PIN{Salt: make([]byte, 16), MemoryKiB: 19456, Passes: 2, Hash: make([]byte, 32)}}
}

func TestAccount(t *testing.T) {
	if err := ValidAccounts([]Account{goodAccount()}); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Account){
		"no number":        func(a *Account) { a.Staff = "" },
		"a name":           func(a *Account) { a.Staff = "Wang Fang" },
		"long number":      func(a *Account) { a.Staff = strings.Repeat("s", MaxStaff+1) },
		"no role":          func(a *Account) { a.Role = "" },
		"other role":       func(a *Account) { a.Role = "root" },
		"no badge":         func(a *Account) { a.Badges = nil },
		"many badges":      func(a *Account) { a.Badges = make([]Badge, MaxBadges+1) },
		"other kind":       func(a *Account) { a.Badges[0].Kind = "magstripe" },
		"small letters":    func(a *Account) { a.Badges[0].UID = "04a1b2c3" },
		"short uid":        func(a *Account) { a.Badges[0].UID = "04A1" },
		"long uid":         func(a *Account) { a.Badges[0].UID = strings.Repeat("04", 11) },
		"half a byte":      func(a *Account) { a.Badges[0].UID = "04A1B2C" },
		"no salt":          func(a *Account) { a.PIN.Salt = nil },
		"short hash":       func(a *Account) { a.PIN.Hash = a.PIN.Hash[1:] },
		"cheap":            func(a *Account) { a.PIN.MemoryKiB = MinMemoryKiB - 1 },
		"takes the memory": func(a *Account) { a.PIN.MemoryKiB = MaxMemoryKiB + 1 },
		"no pass":          func(a *Account) { a.PIN.Passes = 0 },
		"takes for ever":   func(a *Account) { a.PIN.Passes = MaxPasses + 1 },
	} {
		a := goodAccount()
		uid := a.Badges[0].UID
		spoil(&a)
		if err := ValidAccounts([]Account{a}); err == nil {
			t.Errorf("%s: allowed", name)
		} else if strings.Contains(strings.ToUpper(err.Error()), uid) {
			t.Errorf("%s: the error holds a badge: %v", name, err)
		}
	}
	other := goodAccount()
	other.Staff = "s-105"
	for name, all := range map[string][]Account{"twice": {goodAccount(), goodAccount()}, "one badge for two": {goodAccount(), other}, "too many": make([]Account, MaxAccounts+1)} {
		if err := ValidAccounts(all); err == nil {
			t.Errorf("%s: allowed", name)
		}
	}
}
