package ledger_test

import (
	"reflect"
	"testing"
	"time"

	"yaoju/daemon/ledger"
)

func TestAccountsAndLocks(t *testing.T) {
	d := setUp(t)
	ctx, must := d.ctx, d.ok
	a, b := ledger.Account{Staff: "s-1", Kept: []byte("one")}, ledger.Account{Staff: "s-2", Kept: []byte("two")}
	must(d.SetAccounts(ctx, []ledger.Account{b, a}))
	locked := ledger.StaffLock{Wrong: 5, Round: 1, Left: time.Minute}
	must(d.SetLock(ctx, "s-1", locked, true))
	must(d.SetLock(ctx, "s-2", locked, false))
	if err := d.SetLock(ctx, "s-3", locked, false); err == nil {
		t.Error("an account that is none was locked")
	}
	a2 := ledger.Account{Staff: "s-2", Kept: []byte("another PIN")}
	must(d.SetAccounts(ctx, []ledger.Account{a, a2}))
	d.reopen()
	if got, err := d.Accounts(ctx); err != nil || !reflect.DeepEqual(got, []ledger.Account{a, a2}) {
		t.Errorf("%v, %v", got, err)
	}
	for staff, want := range map[string]ledger.StaffLock{"s-1": locked, "s-2": {}, "s-3": {}} {
		if got, err := d.Lock(ctx, staff); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", staff, got, err, want)
		}
	}
	must(d.SetAccounts(ctx, nil))
	if got, err := d.Lock(ctx, "s-1"); err != nil || got != (ledger.StaffLock{}) {
		t.Errorf("a revoked account is still locked: %+v, %v", got, err)
	}
}
