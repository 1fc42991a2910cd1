package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"yaoju/protocol"
)

type certificate = x509.Certificate

func mustID(t testing.TB, k *ecdsa.PrivateKey) KeyID {
	t.Helper()
	id, err := keyID(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A key that others might read is not used, and the complaint says what to do.
func TestModes(t *testing.T) {
	for name, tt := range map[string]struct {
		dir, file fs.FileMode
		want      string
	}{
		"as made":       {0o700, 0o600, ""},
		"read-only":     {0o700, 0o400, ""},
		"open file":     {0o700, 0o640, "chmod 600"},
		"open folder":   {0o750, 0o600, "chmod 700"},
		"file for all":  {0o700, 0o604, "chmod 600"},
		"folder enters": {0o711, 0o600, "chmod 700"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "ca")
			if _, err := MakeCA(dir, time.Now()); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Chmod(filepath.Join(dir, issuingFile), tt.file), os.Chmod(dir, tt.dir)); err != nil {
				t.Fatal(err)
			}
			_, err := OpenCA(dir, time.Now())
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	now := time.Now()
	if _, err := OpenCA(dir, now); !errors.Is(err, ErrNoCA) {
		t.Errorf("none yet: %v", err)
	}
	first, err := MakeCA(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := MakeCA(dir, now); err == nil {
		t.Error("a second CA was made over the first")
	}
	late := now.Add(issuingLife - issuingSpare + time.Hour)
	safe := filepath.Join(t.TempDir(), rootKeyFile)
	if err := os.Rename(filepath.Join(dir, rootKeyFile), safe); err != nil {
		t.Fatal(err)
	}
	kept, err := OpenCA(dir, late)
	if err != nil || !kept.issuing.Equal(first.issuing) || len(kept.Warnings(late)) != 1 {
		t.Errorf("with the root's key in a safe: %v, %q", err, kept.Warnings(late))
	}
	if err := os.Rename(safe, filepath.Join(dir, rootKeyFile)); err != nil {
		t.Fatal(err)
	}
	next, err := OpenCA(dir, late)
	if err != nil || next.issuing.Equal(first.issuing) || next.Root() != first.Root() || len(next.Warnings(late)) != 0 {
		t.Errorf("the issuing key was not replaced under the same root: %v", err)
	}
	for _, name := range CAFiles() {
		path := filepath.Join(dir, name)
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, was[:len(was)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenCA(dir, late.Add(issuingLife)); err == nil || errors.Is(err, ErrNoCA) {
			t.Errorf("half of %s: %v", name, err)
		}
		if err := os.WriteFile(path, was, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadSecretTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readSecret(path); err == nil {
		t.Error("read a file that is none of ours")
	}
}

func TestSigner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "district.key")
	now := time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)
	s, err := OpenSigner(path)
	if err != nil {
		t.Fatal(err)
	}
	first := s
	machine := protocol.Trust{Keys: []ed25519.PublicKey{first.Public()}}
	away := machine
	if _, err := s.Retire(now); err == nil {
		t.Error("retired a key that does not exist")
	}
	for range protocol.MaxKeyLinks/2 + 3 {
		if s, err = s.Rotate(now); err != nil {
			t.Fatal(err)
		}
		if machine, err = machine.Follow(s.Chain()); err != nil || len(machine.Keys) != 2 || !machine.Keys[0].Equal(s.Public()) {
			t.Fatalf("machines do not follow: %+v, %v", machine, err)
		}
		if s.Overdue(now.Add(Overlap)) || !s.Overdue(now.Add(Overlap+time.Second)) {
			t.Error("the old key is overdue at another time")
		}
		if s, err = s.Retire(now); err != nil {
			t.Fatal(err)
		}
		if err := s.Save(path); err != nil {
			t.Fatal(err)
		}
		again, err := OpenSigner(path)
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("comes back as another: %v", err)
		}
		now = now.Add(90 * 24 * time.Hour)
	}
	if s.Overdue(now) || len(s.Links) != protocol.MaxKeyLinks {
		t.Errorf("overdue with one key, or %d links", len(s.Links))
	}
	if machine, err = machine.Follow(s.Chain()); err != nil || len(machine.Keys) != 1 || !machine.Keys[0].Equal(s.Public()) {
		t.Errorf("machines end at %+v, %v", machine, err)
	}
	if _, err := away.Follow(s.Chain()); err == nil {
		t.Error("a machine that was away for longer than the chain reaches was led on")
	}
	other, err := first.Rotate(now)
	if err != nil {
		t.Fatal(err)
	}
	mixed := Signer{Key: first.Key, Links: other.Links}
	if err := mixed.Save(path); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSigner(path); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Errorf("a key that the lists do not lead to: %v", err)
	}
}

func TestTrustFile(t *testing.T) {
	dir := t.TempDir()
	key := func(n byte) ed25519.PublicKey {
		return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32)).Public().(ed25519.PublicKey)
	}
	f := TrustFile{Path: filepath.Join(dir, "trust.json"), Configured: []ed25519.PublicKey{key(1)}}
	if got, err := f.Load(); err != nil || got.Serial != 0 || !got.Keys[0].Equal(key(1)) {
		t.Errorf("at first: %+v, %v", got, err)
	}
	want := protocol.Trust{Serial: 3, Keys: []ed25519.PublicKey{key(2), key(1)}}
	if err := f.Keep(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Load(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("kept %+v, got %+v, %v", want, got, err)
	}
	anew := TrustFile{Path: f.Path, Configured: []ed25519.PublicKey{key(5)}}
	if got, err := anew.Load(); err != nil || got.Serial != 0 || !got.Keys[0].Equal(key(5)) {
		t.Errorf("set up anew: %+v, %v", got, err)
	}
	if err := os.WriteFile(f.Path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Load(); err == nil || !got.Keys[0].Equal(key(1)) {
		t.Errorf("damaged: %+v, %v; want the configured key and a complaint", got, err)
	}
}

func aLine() Line {
	return Line{Machine: "m-0017", Address: "district.example:8884", Root: [32]byte{1, 2}, Token: Token{3, 4}}
}

func TestLine(t *testing.T) {
	good := aLine().String()
	if strings.ContainsAny(good, " '\"$&;|<>*?!\\`(){}#~\n") {
		t.Errorf("a shell would not take %q as one word", good)
	}
	if l, err := ParseLine(" " + good + "\n"); err != nil || l != aLine() {
		t.Errorf("got %+v, %v", l, err)
	}
	for i := range len(good) {
		if l, err := ParseLine(good[:i]); err == nil {
			t.Errorf("cut after %d characters: %+v", i, l)
		}
	}
	for _, bad := range []string{"", strings.Repeat("x", 600), "yaoju2" + good[6:], strings.Replace(good, "m-0017", "M 17", 1),
		strings.Replace(good, ":8884", "", 1), strings.Replace(good, ":8884", ":0", 1), strings.Replace(good, "district.example", "dist rict", 1), good + "/x", good + "x"} {
		_, err := ParseLine(bad)
		if err == nil {
			t.Errorf("%q was taken", bad)
		} else if secret := good[strings.LastIndex(good, "/")+1:]; strings.Contains(err.Error(), secret) {
			t.Errorf("the complaint %q repeats the token", err)
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add(aLine().String())
	f.Add("yaoju1/m/[::1]:1/x/y")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseLine(text)
		if err != nil {
			return
		}
		if again, err := ParseLine(l.String()); err != nil || again != l {
			t.Errorf("%+v comes back as %+v, %v", l, again, err)
		}
	})
}

// aBundle is what a machine's file holds.
func aBundle(t testing.TB) bundle {
	t.Helper()
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	ca, err := MakeCA(filepath.Join(t.TempDir(), "ca"), now)
	if err != nil {
		t.Fatal(err)
	}
	k, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.issue("m-0001", k.Public(), now, now.Add(Validity))
	if err != nil {
		t.Fatal(err)
	}
	return bundle{key: k, certs: ca.chain(leaf)}
}

func FuzzBundle(f *testing.F) {
	good, err := aBundle(f).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-20])
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n"))
	o := Options{Machine: "m-0001"}
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := decodeBundle(b)
		if err != nil {
			return
		}
		again, err := u.encode()
		if err != nil || !bytes.Equal(bytes.TrimSpace(again), bytes.TrimSpace(b)) && len(u.certs) > 0 && len(b) == len(again) {
			t.Errorf("a file that was read is written differently: %v", err)
		}
		if c, err := o.sound(b); err == nil && !matches(c.chain[0].PublicKey, c.key) {
			t.Error("key and certificate do not belong together")
		}
	})
}

// What comes over the wire, on either side, is refused or whole.
func FuzzWire(f *testing.F) {
	u := aBundle(f)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "m-0001"}}, u.key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(protocol.Encode(enrolRequest{Machine: "m-0001", Token: make([]byte, TokenSize), CSR: csr}))
	f.Add(protocol.Encode(renewRequest{Sealing: make([]byte, 32)}))
	f.Add(protocol.Encode(answer{Chain: [][]byte{u.certs[0].Raw, u.certs[1].Raw, u.certs[2].Raw}}))
	f.Add(protocol.Encode(Refusal{Code: CodeConsent, Machine: "m-0001"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, _, public, err := decodeEnrol(b); err == nil && (q.Machine.Valid() != nil || public == nil) {
			t.Errorf("took %+v", q)
		}
		if k, err := decodeRenew(b); err != nil && k.Known() {
			t.Errorf("took %v and refused it", k)
		}
		if chain, err := decodeAnswer(b); err == nil && (len(chain) < 2 || len(chain) > maxChain) {
			t.Errorf("took %d certificates", len(chain))
		}
		if no := decodeRefusal(b); !no.Code.known() || no.Error() == "" {
			t.Errorf("took %+v", no)
		}
		for _, c := range u.certs {
			if _, err := machineOf(c); err == nil && c != u.certs[0] {
				t.Error("a CA has a machine's name")
			}
		}
	})
}

// A certificate of any form is a machine's or none.
func FuzzCertificate(f *testing.F) {
	for _, c := range aBundle(f).certs {
		f.Add(c.Raw)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if m, err := machineOf(c); err == nil && m.Valid() != nil {
			t.Errorf("named %q", m)
		}
	})
}

func FuzzSigner(f *testing.F) {
	s, err := OpenSigner(filepath.Join(f.TempDir(), "district.key"))
	if err != nil {
		f.Fatal(err)
	}
	if s, err = s.Rotate(time.Unix(1800000000, 0)); err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(f.TempDir(), "rotated.key")
	if err := s.Save(path); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("-----BEGIN YAOJU KEYS-----\n-----END YAOJU KEYS-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSigner(b)
		if err == nil && len(s.Key) != ed25519.PrivateKeySize {
			t.Error("read a signer without a key")
		}
	})
}

func FuzzTrust(f *testing.F) {
	f.Add([]byte(`{"began":[],"serial":1,"keys":["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeTrust(b); err == nil && (r.Serial == 0 || len(r.Keys) == 0) {
			t.Errorf("took %+v", r)
		}
	})
}

// Many requests from one place are slowed down, other places are not, and the memory
// of who asked is bounded.
func TestLimiter(t *testing.T) {
	l := newLimiter()
	now := time.Unix(1800000000, 0)
	allowed := func(from string, n int) (ok int) {
		for range n {
			if l.allow(from, now) {
				ok++
			}
		}
		return ok
	}
	if got := allowed("192.0.2.1:1000", 100); got != burst {
		t.Errorf("%d of 100 at once, want %d", got, burst)
	}
	if allowed("192.0.2.2:1000", 1) != 1 || allowed("[2001:db8::1]:1", 1) != 1 {
		t.Error("others pay for it")
	}
	allowed("[2001:db8::1]:1", burst)
	if allowed("[2001:db8::2]:1", 1) != 0 {
		t.Error("another address of one network is another caller")
	}
	now = now.Add(10 * refill)
	if got := allowed("192.0.2.1:2000", 100); got != 10 {
		t.Errorf("%d after %v, want 10", got, 10*refill)
	}
	for i := range 2 * maxBuckets {
		l.allow(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1).String(), now)
	}
	if len(l.buckets) > maxBuckets+1 {
		t.Errorf("%d callers are remembered", len(l.buckets))
	}
}

func TestDescribe(t *testing.T) {
	o := Options{Dir: filepath.Join(t.TempDir(), "identity"), Machine: "m-0001", Desk: "district.example:8884", Synced: func() bool { return true }}
	if r := Describe(o); r.Good || !strings.Contains(r.Words[0], "districtd enrol m-0001") {
		t.Errorf("not enrolled: %+v", r)
	}
	if err := makeFolder(o.Dir); err != nil {
		t.Fatal(err)
	}
	if err := writeBundle(filepath.Join(o.Dir, machineFile), aBundle(t)); err != nil {
		t.Fatal(err)
	}
	o.Synced = func() bool { return false }
	if r := Describe(o); !r.Good || !strings.Contains(strings.Join(r.Words, "\n"), "not synchronised") {
		t.Errorf("without a clock: %+v", r)
	}
	o.Machine = "m-0002"
	if r := Describe(o); r.Good || !strings.Contains(r.Words[0], "-new-key") {
		t.Errorf("another machine's: %+v", r)
	}
}

// A link that somebody put in the place of a folder leads nowhere.
func TestMakeFolderLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, "identity")); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "dangling")
	if err := os.Symlink(filepath.Join(dir, "none"), link); err != nil {
		t.Fatal(err)
	}
	if err := makeFolder(link); err == nil {
		t.Error("a folder was made behind a link that leads nowhere")
	}
}
