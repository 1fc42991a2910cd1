package main

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"yaoju/daemon/ledger"
	"yaoju/daemon/staff"
	"yaoju/protocol"
)

// plain opens what nobody sealed; "broken" was sealed to another machine.
type plain struct{}

func (plain) Open(purpose string, sealed []byte) ([]byte, error) {
	if string(sealed) == "broken" || purpose != protocol.SealedSecrets {
		return nil, errors.New("sealed to another key")
	}
	return sealed, nil
}

// Accounts come and go with the desired state, in its order: an old one that is played
// again brings nobody back.
func TestAccountsFollowDesiredState(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	book, err := ledger.Open(ctx, ledger.Options{Path: filepath.Join(dir, "ledger.db"), Machine: "m-0001", Software: "test",
		Zone: time.UTC, Log: slog.New(slog.DiscardHandler), Synced: func() bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	who, err := openStaff(ctx, dir, book)
	if err != nil {
		t.Fatal(err)
	}
	pin, err := staff.NewPIN("830417")
	if err != nil {
		t.Fatal(err)
	}
	badge := protocol.Badge{Kind: "nfc", UID: "04A1B2C3"}
	with := protocol.Encode(protocol.Secrets{Accounts: []protocol.Account{{Staff: "s-1", Role: protocol.RoleRestocker, Badges: []protocol.Badge{badge}, PIN: pin}}})
	without := protocol.Encode(protocol.Secrets{Accounts: []protocol.Account{}})
	apply := applied(book, who, plain{}, slog.New(slog.DiscardHandler))
	state := func(version uint64, sealed []byte) protocol.Desired {
		return protocol.Desired{Machine: "m-0001", DesiredVersion: protocol.DesiredVersion{Generation: 1, Version: version}, Sealed: sealed,
			Policy:   protocol.Policy{AgeFrom: 18, Rules: []protocol.Rule{{Max: 1, Per: protocol.PerDays, Days: 30}}},
			Products: []protocol.Product{{ID: "gel", Letter: "A", Class: "external", Units: 1, Name: protocol.Text{ZH: "凝胶", EN: "Gel"}, Note: protocol.Text{ZH: "一", EN: "one"}}},
			Texts:    protocol.Texts{Authority: protocol.Text{ZH: "示例", EN: "sample"}, Phone: "000"}}
	}
	knows := func(what string, want bool) {
		t.Helper()
		if _, _, ok, err := who.Who(ctx, badge); ok != want || err != nil {
			t.Errorf("%s: the badge is known: %t, %v", what, ok, err)
		}
	}
	faults := func() string {
		t.Helper()
		s, err := book.Snapshot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, f := range s.Faults {
			all = append(all, f.Fault.Code())
		}
		return strings.Join(all, " ")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(apply(ctx, state(1, with)))
	knows("sent", true)
	must(apply(ctx, state(2, nil)))
	knows("nothing said of accounts", true)
	must(apply(ctx, state(3, without)))
	knows("taken back", false)
	if err := apply(ctx, state(1, with)); err == nil {
		t.Error("an old state is taken")
	}
	knows("the old state played again", false)
	must(apply(ctx, state(4, with)))
	must(apply(ctx, state(5, []byte("broken"))))
	knows("not to be opened: those before stay", true)
	if got := faults(); got != protocol.FaultAccounts.Code() {
		t.Errorf("faults %q, want %s", got, protocol.FaultAccounts.Code())
	}
	must(apply(ctx, state(6, without)))
	knows("taken back again", false)
	if got := faults(); got != "" {
		t.Errorf("faults %q, want none", got)
	}
}
