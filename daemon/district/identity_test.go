package district

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/protocol"
)

func peerOf(m protocol.MachineID, key byte) Peer {
	return Peer{Machine: m, Key: [32]byte{0: key}, Until: time.Now().Add(400 * 24 * time.Hour)}
}

func ranOut(p Peer) Peer {
	p.RanOut = true
	return p
}

// desk is a district with two machines, in a bubble: tokens and consents end.
func desk(t *testing.T, f func(t *testing.T, d *District, again func() *District)) {
	t.Helper()
	path := fresh(t)
	synctest.Test(t, func(t *testing.T) {
		start := func() *District {
			d, err := Open(t.Context(), sample(path))
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		d := start()
		for _, m := range []protocol.MachineID{"m-0001", "m-0002"} {
			if err := d.PutMachine(t.Context(), Place{Machine: m}); err != nil {
				t.Fatal(err)
			}
		}
		f(t, d, func() *District {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			d = start()
			return d
		})
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

func mint(t *testing.T, d *District, m protocol.MachineID) Token {
	t.Helper()
	token, expires, err := d.MintToken(t.Context(), m)
	if err != nil || !expires.Equal(time.Now().Add(24*time.Hour)) {
		t.Fatalf("expires %v, %v", expires, err)
	}
	return token
}

// expect checks why something was refused; nil: it was not.
func expect(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || want == nil && got != nil {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func owned(t *testing.T, d *District, p Peer) bool {
	t.Helper()
	ok, err := d.owns(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func TestRedeem(t *testing.T) {
	desk(t, func(t *testing.T, d *District, again func() *District) {
		ctx := t.Context()
		one, two := peerOf("m-0001", 1), peerOf("m-0002", 2)
		token := mint(t, d, "m-0001")
		expect(t, "a token nobody made", d.Redeem(ctx, Token{1}, one), ErrToken)
		expect(t, "for another machine", d.Redeem(ctx, token, two), ErrToken)
		expect(t, "the first time", d.Redeem(ctx, token, one), nil)
		expect(t, "the answer was lost", d.Redeem(ctx, token, one), nil)
		expect(t, "another key", d.Redeem(ctx, token, peerOf("m-0001", 9)), ErrToken)
		if !owned(t, d, one) || owned(t, d, peerOf("m-0002", 1)) || owned(t, d, two) {
			t.Error("the wrong one owns a key")
		}
		d = again()
		expect(t, "over a restart", d.Redeem(ctx, token, one), nil)
		expect(t, "another machine's key", d.Redeem(ctx, mint(t, d, "m-0002"), peerOf("m-0002", 1)), ErrRevoked)

		old := mint(t, d, "m-0001")
		token = mint(t, d, "m-0001")
		expect(t, "a line before the last", d.Redeem(ctx, old, one), ErrToken)
		expect(t, "a Pi was replaced", d.Redeem(ctx, token, peerOf("m-0001", 3)), nil)
		if owned(t, d, one) || !owned(t, d, peerOf("m-0001", 3)) {
			t.Error("two keys speak for one machine, or none")
		}
		expect(t, "the old Pi again", d.Redeem(ctx, mint(t, d, "m-0001"), one), nil)

		token = mint(t, d, "m-0001")
		time.Sleep(24 * time.Hour)
		expect(t, "a day later", d.Redeem(ctx, token, one), ErrToken)
		if n, err := d.Enrolled(ctx); err != nil || n != 1 {
			t.Errorf("%d machines are enrolled, %v", n, err)
		}
		if _, _, err := d.MintToken(ctx, "M 1"); err == nil {
			t.Error("a token was made for what is no machine")
		}
	})
}

// A secret that is wrong ten times kills its token, and the count outlives a restart.
func TestWrongSecrets(t *testing.T) {
	desk(t, func(t *testing.T, d *District, again func() *District) {
		token := mint(t, d, "m-0001")
		bent := token
		bent[20] ^= 1
		for i := range maxWrong {
			expect(t, "a wrong secret", d.Redeem(t.Context(), bent, peerOf("m-0001", 1)), ErrToken)
			if i == 4 {
				d = again()
			}
		}
		expect(t, "the right one after that", d.Redeem(t.Context(), token, peerOf("m-0001", 1)), ErrToken)
		var hash []byte
		if err := d.store.read.QueryRow(`SELECT hash FROM enrolment`).Scan(&hash); err != nil || string(hash[:16]) == string(token[8:]) {
			t.Errorf("the secret itself is stored, or %v", err)
		}
	})
}

func TestRenew(t *testing.T) {
	desk(t, func(t *testing.T, d *District, again func() *District) {
		ctx := t.Context()
		p := peerOf("m-0001", 1)
		expect(t, "enrol", d.Redeem(ctx, mint(t, d, "m-0001"), p), nil)
		expect(t, "renew", d.Renew(ctx, p), nil)
		expect(t, "in another's name", d.Renew(ctx, peerOf("m-0002", 1)), ErrRevoked)
		expect(t, "one that ran out", d.Renew(ctx, ranOut(p)), ErrConsent)
		expires, err := d.Consent(ctx, "m-0001")
		if err != nil || !expires.Equal(time.Now().Add(24*time.Hour)) {
			t.Fatalf("%v, %v", expires, err)
		}
		d = again()
		expect(t, "with consent", d.Renew(ctx, ranOut(p)), nil)
		expect(t, "the answer was lost", d.Renew(ctx, ranOut(p)), nil)
		expect(t, "the consent for another key", d.Renew(ctx, peerOf("m-0001", 7)), ErrConsent)
		expect(t, "another machine's consent", d.Renew(ctx, peerOf("m-0002", 8)), ErrConsent)
		time.Sleep(24 * time.Hour)
		expect(t, "a day later", d.Renew(ctx, ranOut(p)), ErrConsent)

		// A key this store does not know: it is an older copy.
		unknown := peerOf("m-0002", 5)
		expect(t, "not known", d.Renew(ctx, unknown), ErrConsent)
		if _, err := d.Consent(ctx, "m-0002"); err != nil {
			t.Fatal(err)
		}
		expect(t, "not known, with consent", d.Renew(ctx, unknown), nil)
		if !owned(t, d, unknown) {
			t.Error("the key is not taken over")
		}
	})
}

func TestRevoke(t *testing.T) {
	desk(t, func(t *testing.T, d *District, again func() *District) {
		ctx := t.Context()
		p := peerOf("m-0001", 1)
		expect(t, "enrol", d.Redeem(ctx, mint(t, d, "m-0001"), p), nil)
		token := mint(t, d, "m-0001")
		if _, err := d.Consent(ctx, "m-0001"); err != nil {
			t.Fatal(err)
		}
		expect(t, "revoke", d.Revoke(ctx, "m-0001"), nil)
		expect(t, "somebody unknown", d.Revoke(ctx, "m-0009"), ErrUnknownMachine)
		d = again()
		if owned(t, d, p) {
			t.Error("a revoked key came back with a restart")
		}
		expect(t, "renew", d.Renew(ctx, p), ErrRevoked)
		expect(t, "renew what ran out", d.Renew(ctx, ranOut(p)), ErrRevoked)
		expect(t, "a line from before", d.Redeem(ctx, token, peerOf("m-0001", 2)), ErrToken)
		expect(t, "the revoked key with a new line", d.Redeem(ctx, mint(t, d, "m-0001"), p), ErrRevoked)
		_, err := d.Consent(ctx, "m-0001")
		expect(t, "consent to a revoked machine", err, ErrRevoked)
		expect(t, "the revoked key after that", d.Renew(ctx, p), ErrRevoked)
		expect(t, "a new key with a new line", d.Redeem(ctx, mint(t, d, "m-0001"), peerOf("m-0001", 3)), nil)
	})
}

// What an officer is told of each machine.
func TestCertificates(t *testing.T) {
	desk(t, func(t *testing.T, d *District, again func() *District) {
		ctx := t.Context()
		check := func(what string, want Certified) {
			t.Helper()
			want.Machine = "m-0001"
			got, err := d.Certificate(ctx, "m-0001")
			if err != nil || !got.Until.Equal(want.Until) || !got.Token.Equal(want.Token) || !got.Consent.Equal(want.Consent) || got.Revoked != want.Revoked || got.Machine != want.Machine {
				t.Errorf("%s: got %+v, %v; want %+v", what, got, err, want)
			}
		}
		check("never enrolled", Certified{})
		token := mint(t, d, "m-0001")
		check("with a line", Certified{Token: time.Now().Add(tokenLife)})
		p := peerOf("m-0001", 1)
		expect(t, "enrol", d.Redeem(ctx, token, p), nil)
		check("enrolled", Certified{Until: p.Until})
		if _, err := d.Consent(ctx, "m-0001"); err != nil {
			t.Fatal(err)
		}
		d = again()
		check("with consent", Certified{Until: p.Until, Consent: time.Now().Add(consentLife)})
		expect(t, "back", d.Renew(ctx, ranOut(p)), nil)
		check("that was used", Certified{Until: p.Until})
		expect(t, "revoke", d.Revoke(ctx, "m-0001"), nil)
		check("revoked", Certified{Revoked: true})
		next := peerOf("m-0001", 2)
		expect(t, "enrolled anew", d.Redeem(ctx, mint(t, d, "m-0001"), next), nil)
		check("enrolled anew", Certified{Until: next.Until})
		all, err := d.Certificates(ctx)
		if err != nil || len(all) != 2 || all[0].Machine != "m-0001" || all[1].Machine != "m-0002" {
			t.Errorf("all: %+v, %v", all, err)
		}
	})
}

// A machine's sealing key is the one it told last with the key that is its own.
func TestSealingKey(t *testing.T) {
	desk(t, func(t *testing.T, d *District, again func() *District) {
		ctx := t.Context()
		check := func(what string, want byte) {
			t.Helper()
			k, known, err := d.SealingKey(ctx, "m-0001")
			if err != nil || known != (want != 0) || k != [32]byte{0: want} {
				t.Errorf("%s: got %v %x, %v; want %d", what, known, k[:2], err, want)
			}
		}
		telling := func(p Peer, sealing byte) Peer {
			p.Sealing = [32]byte{0: sealing}
			return p
		}
		check("never enrolled", 0)
		p := peerOf("m-0001", 1)
		expect(t, "enrol with an older program", d.Redeem(ctx, mint(t, d, "m-0001"), p), nil)
		check("not told", 0)
		expect(t, "renew with a newer one", d.Renew(ctx, telling(p, 7)), nil)
		check("told", 7)
		d = again()
		expect(t, "renew with an older one", d.Renew(ctx, p), nil)
		check("not told again", 7)
		expect(t, "renew", d.Renew(ctx, telling(p, 8)), nil)
		check("another", 8)
		expect(t, "a Pi was replaced", d.Redeem(ctx, mint(t, d, "m-0001"), telling(peerOf("m-0001", 2), 9)), nil)
		check("the new Pi's", 9)
		expect(t, "revoke", d.Revoke(ctx, "m-0001"), nil)
		check("revoked", 0)
	})
}

// What is for a machine alone is sealed to the key that it told, once: the same again
// is no new version, and another key or other accounts are.
func TestSecrets(t *testing.T) {
	o := sample(fresh(t))
	accounts, seals := "one", 0
	o.Secrets = &Secrets{
		Plain: func(m protocol.MachineID) []byte { return []byte(string(m) + " " + accounts) },
		Seal: func(key [32]byte, m protocol.MachineID, plain []byte) ([]byte, error) {
			seals++
			return fmt.Appendf(nil, "%d for %s: %s (%d)", key[0], m, plain, seals), nil
		},
	}
	d, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx := t.Context()
	set := func(what, want string, version uint64) {
		t.Helper()
		v, err := d.SetDesired(ctx, someDesired("m-0001"))
		if err != nil {
			t.Fatal(err)
		}
		holds(t, d, what, want, version)
		if v.Version != version {
			t.Errorf("%s: version %d, want %d", what, v.Version, version)
		}
	}
	expect(t, "enter", d.PutMachine(ctx, Place{Machine: "m-0001", Name: protocol.Text{ZH: "一", EN: "one"}}), nil)
	set("never enrolled", "", 1)
	p := peerOf("m-0001", 1)
	p.Sealing = [32]byte{7}
	token, _, err := d.MintToken(ctx, "m-0001")
	expect(t, "token", err, nil)
	expect(t, "enrol", d.Redeem(ctx, token, p), nil)
	holds(t, d, "enrolled", "7 for m-0001: m-0001 one (1)", 2)
	set("the same again", "7 for m-0001: m-0001 one (1)", 2)
	expect(t, "renew", d.Renew(ctx, p), nil)
	holds(t, d, "renewed", "7 for m-0001: m-0001 one (1)", 2)
	p.Sealing = [32]byte{8}
	expect(t, "renew with another key", d.Renew(ctx, p), nil)
	holds(t, d, "another key", "8 for m-0001: m-0001 one (2)", 3)
	accounts = "two"
	set("other accounts", "8 for m-0001: m-0001 two (3)", 4)
}

// holds looks at the desired state that is signed for m-0001.
func holds(t *testing.T, d *District, what, want string, version uint64) {
	t.Helper()
	var body []byte
	if err := d.store.read.QueryRowContext(t.Context(), `SELECT body FROM desired WHERE machine = 'm-0001'`).Scan(&body); err != nil {
		t.Fatal(err)
	}
	var got protocol.Desired
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	if string(got.Sealed) != want || got.Version != version {
		t.Errorf("%s: %q in version %d, want %q in %d", what, got.Sealed, got.Version, want, version)
	}
}

// Whoever is not entered gets no line, unless the district takes in everybody.
func TestEnrolUnknown(t *testing.T) {
	o := sample(filepath.Join(t.TempDir(), "d.db"))
	o.AcceptUnknown = false
	d, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, _, err := d.MintToken(t.Context(), "m-0009"); !errors.Is(err, ErrUnknownMachine) {
		t.Errorf("a line for an unknown machine: %v", err)
	}
	if _, err := d.Consent(t.Context(), "m-0009"); !errors.Is(err, ErrUnknownMachine) {
		t.Errorf("consent to an unknown machine: %v", err)
	}
}
