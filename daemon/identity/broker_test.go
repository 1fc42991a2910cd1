package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// The broker's files change when there is a reason, and only then; and a key that is
// on the list is there under the serial number of every certificate it gets.
func TestKeepBroker(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		caDir, folder, names := filepath.Join(dir, "ca"), filepath.Join(dir, "broker"), []string{"district.example", "192.0.2.7"}
		ca, err := MakeCA(caDir, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		read := func(name string) []byte {
			b, err := os.ReadFile(filepath.Join(folder, name))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		files := []string{BrokerCA, BrokerOwn, BrokerRevoked, BrokerKeys}
		had := map[string][]byte{}
		// changed keeps the files and says which are others than before.
		changed := func(names []string, revoked ...KeyID) (out []string) {
			t.Helper()
			if err := ca.KeepBroker(folder, names, revoked, time.Now()); err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if b := read(f); !bytes.Equal(b, had[f]) {
					had[f] = b
					out = append(out, f)
				}
			}
			return out
		}
		key, err := newKey()
		if err != nil {
			t.Fatal(err)
		}
		id, err := keyID(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			what    string
			wait    time.Duration
			names   []string
			revoked []KeyID
			want    []string
		}{
			{"the first time", 0, names, nil, []string{BrokerCA, BrokerOwn, BrokerRevoked}},
			{"at once again", 0, names, nil, nil},
			{"a key revoked", time.Minute, names, []KeyID{id}, []string{BrokerRevoked, BrokerKeys}},
			{"the same keys", time.Minute, names, []KeyID{id}, nil},
			{"after a day", 25 * time.Hour, names, []KeyID{id}, []string{BrokerRevoked}},
			{"another name", 0, names[:1], []KeyID{id}, []string{BrokerOwn}},
			{"the key let back", 0, names[:1], nil, []string{BrokerRevoked, BrokerKeys}},
			{"at two thirds of its certificate", 61 * 24 * time.Hour, names[:1], nil, []string{BrokerOwn, BrokerRevoked}},
		} {
			time.Sleep(step.wait)
			if got := changed(step.names, step.revoked...); !slices.Equal(got, step.want) {
				t.Errorf("%s: %v changed, want %v", step.what, got, step.want)
			}
		}
		if err := ca.KeepBroker(folder, nil, nil, time.Now()); err == nil {
			t.Error("a broker without a name")
		}

		// A renewed certificate has the serial number that the list has.
		changed(names, id)
		l := lists(t, read(BrokerRevoked))
		for range 2 {
			time.Sleep(time.Hour)
			leaf, err := ca.issue("m-0001", key.Public(), time.Now(), ca.until(time.Now(), Validity))
			if err != nil {
				t.Fatal(err)
			}
			if len(l) != 1 || len(l[0].RevokedCertificateEntries) != 1 || l[0].RevokedCertificateEntries[0].SerialNumber.Cmp(leaf.SerialNumber) != 0 {
				t.Errorf("the list has not %x", leaf.SerialNumber)
			}
		}

		// A new issuing key: the certificates of the one before can still be revoked.
		first := ca.issuing
		time.Sleep(issuingLife - issuingSpare)
		if ca, err = OpenCA(caDir, time.Now()); err != nil || ca.issuing.Equal(first) {
			t.Fatalf("no new issuing key: %v", err)
		}
		if got := changed(names, id); !slices.Equal(got, files[:3]) {
			t.Errorf("a new issuing key: %v changed", got)
		}
		l = lists(t, read(BrokerRevoked))
		if len(l) != 2 || l[0].CheckSignatureFrom(ca.issuing) != nil || l[1].CheckSignatureFrom(first) != nil {
			t.Errorf("%d lists; want one of the new issuing key, then one of that before", len(l))
		}
		if got := changed(names, id); got != nil {
			t.Errorf("at once again: %v changed", got)
		}
	})
}

func lists(t *testing.T, b []byte) (out []*x509.RevocationList) {
	t.Helper()
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return out
		}
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
}
