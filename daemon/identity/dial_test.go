package identity

import (
	"crypto/x509"
	"path/filepath"
	"testing"
	"time"

	"yaoju/protocol"
)

// What a district shows to its broker is good for a client there, and for no machine.
func TestOffice(t *testing.T) {
	now := time.Now()
	ca, err := MakeCA(filepath.Join(t.TempDir(), "ca"), now)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ca.office("DISTRICT-2", now)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(ca.chain(own.Leaf), ca.root, forMachine, "", now); err != nil || own.Leaf.Subject.CommonName != "DISTRICT-2" {
		t.Errorf("the broker sees %q: %v", own.Leaf.Subject.CommonName, err)
	}
	if n, err := ca.who([]*x509.Certificate{own.Leaf}, now); err == nil {
		t.Errorf("it passes for machine %q", n.Machine)
	}
	if err := verify(ca.chain(own.Leaf), ca.root, forDistrict, "", now); err == nil {
		t.Error("it passes for the district's own computer")
	}
}

func TestValidOffice(t *testing.T) {
	for name, good := range map[string]bool{"DISTRICT": true, "DISTRICT-2": true, "DISTRICT-12": true, "": false, "district": false, "m-0001": false, "DISTRICT-": false, "DISTRICT-123": false, "DISTRICT\n": false} {
		if err := ValidOffice(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
		if good && protocol.MachineID(name).Valid() == nil {
			t.Errorf("%q could be a machine", name)
		}
	}
}
