package protocol

import (
	"bytes"
	"crypto/ed25519"
	"reflect"
	"strings"
	"testing"
)

func keyOf(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func publicOf(seed byte) ed25519.PublicKey { return keyOf(seed).Public().(ed25519.PublicKey) }

// link is a list of keys, by their seeds, signed by another.
func link(t testing.TB, signer byte, serial uint64, seeds ...byte) Signed {
	t.Helper()
	k := Keys{Serial: serial, MadeMS: 1795400000000}
	for _, s := range seeds {
		k.Keys = append(k.Keys, publicOf(s))
	}
	s, err := SignKeys(keyOf(signer), k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// goldenKeys is a rotation from the golden key, 7, to 8, and its end.
func goldenKeys(t testing.TB) []byte {
	return Encode(KeyChain{Links: []Signed{link(t, 7, 1, 8, 7), link(t, 8, 2, 8)}})
}

func TestFollow(t *testing.T) {
	a, b, c, d := link(t, 1, 1, 2, 1), link(t, 2, 2, 2), link(t, 2, 3, 3, 2), link(t, 3, 4, 3)
	forged := link(t, 9, 5, 9)
	bent := link(t, 1, 1, 2, 1)
	bent.Body = strings.Replace(bent.Body, `"serial":1`, `"serial":7`, 1)
	command, err := SignCommand(keyOf(1), goldenCommand)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		from  Trust
		links []Signed
		want  uint64 // serial
		seeds []byte
		fails bool
	}{
		{"nothing ever changed", Trust{Keys: []ed25519.PublicKey{publicOf(1)}}, nil, 0, []byte{1}, false},
		{"one rotation", Trust{Keys: []ed25519.PublicKey{publicOf(1)}}, []Signed{a}, 1, []byte{2, 1}, false},
		{"away through two rotations", Trust{Keys: []ed25519.PublicKey{publicOf(1)}}, []Signed{a, b, c, d}, 4, []byte{3}, false},
		{"set up with a later key", Trust{Keys: []ed25519.PublicKey{publicOf(2)}}, []Signed{a, b, c, d}, 4, []byte{3}, false},
		{"up to date", Trust{4, []ed25519.PublicKey{publicOf(3)}}, []Signed{a, b, c, d}, 4, []byte{3}, false},
		{"an older chain changes nothing", Trust{4, []ed25519.PublicKey{publicOf(3)}}, []Signed{a}, 4, []byte{3}, false},
		{"a key that was retired signs no more", Trust{2, []ed25519.PublicKey{publicOf(2)}}, []Signed{link(t, 1, 3, 1)}, 2, []byte{2}, true},
		{"a foreign key", Trust{Keys: []ed25519.PublicKey{publicOf(1)}}, []Signed{a, forged}, 1, []byte{2, 1}, true},
		{"a gap", Trust{Keys: []ed25519.PublicKey{publicOf(1)}}, []Signed{c, d}, 0, []byte{1}, true},
		{"a bent list", Trust{Keys: []ed25519.PublicKey{publicOf(1)}}, []Signed{bent}, 0, []byte{1}, true},
	} {
		got, err := tt.from.Follow(Encode(KeyChain{Links: tt.links}))
		want := Trust{Serial: tt.want}
		for _, s := range tt.seeds {
			want.Keys = append(want.Keys, publicOf(s))
		}
		if (err != nil) != tt.fails || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got serial %d with %d keys, %v; want serial %d with %d, an error: %v", tt.name, got.Serial, len(got.Keys), err, want.Serial, len(want.Keys), tt.fails)
		}
	}
	if _, err := (Trust{Keys: []ed25519.PublicKey{publicOf(1)}}).Follow(command); err != nil {
		t.Errorf("an object without links is an empty chain: %v", err)
	}
	many := KeyChain{Links: make([]Signed, MaxKeyLinks+1)}
	if _, err := DecodeKeyChain(Encode(many)); err == nil {
		t.Error("a chain longer than the limit was accepted")
	}
}

func TestSignKeysRefuses(t *testing.T) {
	five := Keys{Serial: 1, Keys: [][]byte{publicOf(1), publicOf(2), publicOf(3), publicOf(4), publicOf(5)}}
	for name, k := range map[string]Keys{"no serial": {Keys: [][]byte{publicOf(1)}}, "no key": {Serial: 1}, "short": {Serial: 1, Keys: [][]byte{{1}}}, "many": five} {
		if _, err := SignKeys(keyOf(1), k); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

// Whatever a keys message says, trust moves to a signed list or not at all.
func FuzzFollow(f *testing.F) {
	f.Add(goldenKeys(f))
	f.Add([]byte(`{"links":[{"body":"{}","key":"","sig":""}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		start := Trust{Keys: []ed25519.PublicKey{publicOf(7)}}
		got, _ := start.Follow(b)
		two := Trust{Serial: 2, Keys: []ed25519.PublicKey{publicOf(8)}}
		one := Trust{Serial: 1, Keys: []ed25519.PublicKey{publicOf(8), publicOf(7)}}
		if !reflect.DeepEqual(got, start) && !reflect.DeepEqual(got, one) && !reflect.DeepEqual(got, two) {
			t.Errorf("trust moved to %+v", got)
		}
	})
}
