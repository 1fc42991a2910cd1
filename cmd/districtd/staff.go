package main

import (
	"fmt"
	"os"
	"slices"

	"yaoju/daemon/district"
	"yaoju/daemon/identity"
	"yaoju/protocol"
)

// secrets reads who may sign in at which machine. Without a file of accounts there are
// none, and machines keep those they have.
func (c Config) secrets() (*district.Secrets, error) {
	if c.Accounts == "" {
		return nil, nil
	}
	b, err := os.ReadFile(c.Accounts)
	if err != nil {
		return nil, fmt.Errorf("accounts: %w: yaoju staff makes that file", err)
	}
	all, err := protocol.DecodeSecrets(b)
	if err != nil {
		return nil, fmt.Errorf("accounts: %s: %w", c.Accounts, err)
	}
	only := map[protocol.MachineID][]string{}
	for _, m := range c.Machines {
		for _, s := range m.Staff {
			if !slices.ContainsFunc(all.Accounts, func(a protocol.Account) bool { return a.Staff == s }) {
				return nil, fmt.Errorf("machine %s: staff %q has no account in %s", m.ID, s, c.Accounts)
			}
		}
		only[protocol.MachineID(m.ID)] = m.Staff
	}
	return &district.Secrets{
		Plain: func(m protocol.MachineID) []byte {
			here := protocol.Secrets{Accounts: []protocol.Account{}}
			for _, a := range all.Accounts {
				if list := only[m]; len(list) == 0 || slices.Contains(list, a.Staff) {
					here.Accounts = append(here.Accounts, a)
				}
			}
			return protocol.Encode(here)
		},
		Seal: func(key [32]byte, m protocol.MachineID, plain []byte) ([]byte, error) {
			return identity.Seal(identity.SealingKey(key), m, protocol.SealedSecrets, plain)
		},
	}, nil
}
