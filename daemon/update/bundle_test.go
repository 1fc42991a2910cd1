package update_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"yaoju/daemon/update"
	"yaoju/protocol"
)

// entry is one entry of a tar somebody made by hand.
type entry struct {
	name string
	kind byte
	link string
	body []byte
}

func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: 0o4777}
		if e.kind == tar.TypeReg {
			h.Size = int64(len(e.body))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if e.kind == tar.TypeReg {
			if _, err := w.Write(e.body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func squeeze(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// signed is a manifest as the entry that carries it.
func signed(t testing.TB, seed byte, m update.Manifest) entry {
	t.Helper()
	b, err := update.Sign(key(seed), m)
	if err != nil {
		t.Fatal(err)
	}
	return entry{name: "manifest.json", kind: tar.TypeReg, body: b}
}

func file(version, name string) entry {
	return entry{name: name, kind: tar.TypeReg, body: software(version)[name].Data}
}

// read reads a bundle and returns what it was given.
func read(b []byte) (map[string]string, error) {
	got := map[string]string{}
	_, _, err := update.ReadBundle(bytes.NewReader(b), []ed25519.PublicKey{public(1), public(2)}, func(update.Manifest) error { return nil },
		func(f update.File, r io.Reader) error {
			text, err := io.ReadAll(r)
			got[f.Name] = string(text)
			return err
		})
	return got, err
}

func TestBundle(t *testing.T) {
	m := manifest(t, "1.1", 2)
	b := bundle(t, m)
	got, err := read(b)
	if err != nil || len(got) != 2 || got["kioskd"] != string(software("1.1")["kioskd"].Data) {
		t.Errorf("got %v, %v", got, err)
	}
	if again := bundle(t, m); !bytes.Equal(b, again) {
		t.Error("the same release gave other bytes")
	}
}

// What is wrong with a bundle is said, and nothing of it is believed.
func TestHostileBundles(t *testing.T) {
	m := manifest(t, "1.1", 2)
	man, kiosk, tool := signed(t, 1, m), file("1.1", "kioskd"), file("1.1", "yaoju")
	district, err := json.Marshal(protocol.Signed{Body: string(protocol.Encode(m)), Key: protocol.KeyName(public(1)),
		Sig: ed25519.Sign(key(1), append([]byte("yaoju/1 command\n"), protocol.Encode(m)...))})
	if err != nil {
		t.Fatal(err)
	}
	short := kiosk
	short.body = short.body[1:]
	bent := kiosk
	bent.body = bytes.Replace(bent.body, []byte("1.1"), []byte("6.6"), 1)
	cases := map[string]struct {
		bundle []byte
		want   string
	}{
		"not signed by a trusted key":      {squeeze(t, pack(t, signed(t, 9, m), kiosk, tool)), "not signed by a release key"},
		"signed for another purpose":       {squeeze(t, pack(t, entry{"manifest.json", tar.TypeReg, "", district}, kiosk, tool)), "not signed by a release key"},
		"no manifest":                      {squeeze(t, pack(t, kiosk, tool)), "where the file manifest.json must be"},
		"manifest is a link":               {squeeze(t, pack(t, entry{"manifest.json", tar.TypeSymlink, "/etc/passwd", nil})), "where the file manifest.json must be"},
		"a path that leads out":            {squeeze(t, pack(t, man, entry{"../kioskd", tar.TypeReg, "", kiosk.body}, tool)), "where the file kioskd must be"},
		"an absolute path":                 {squeeze(t, pack(t, man, entry{"/usr/bin/kioskd", tar.TypeReg, "", kiosk.body}, tool)), "where the file kioskd must be"},
		"a link in place of a file":        {squeeze(t, pack(t, man, entry{"kioskd", tar.TypeSymlink, "/bin/sh", nil}, tool)), "where the file kioskd must be"},
		"a hard link in place of a file":   {squeeze(t, pack(t, man, kiosk, entry{"yaoju", tar.TypeLink, "kioskd", nil})), "where the file yaoju must be"},
		"a folder in place of a file":      {squeeze(t, pack(t, man, entry{"kioskd", tar.TypeDir, "", nil}, tool)), "where the file kioskd must be"},
		"a device in place of a file":      {squeeze(t, pack(t, man, entry{"kioskd", tar.TypeChar, "", nil}, tool)), "where the file kioskd must be"},
		"a file too few":                   {squeeze(t, pack(t, man, kiosk)), "yaoju is not in it"},
		"a file too many":                  {squeeze(t, pack(t, man, kiosk, tool, entry{"more", tar.TypeReg, "", []byte("x")})), `"more" is in it and not in the manifest`},
		"a file twice":                     {squeeze(t, pack(t, man, kiosk, kiosk, tool)), "where the file yaoju must be"},
		"another order":                    {squeeze(t, pack(t, man, tool, kiosk)), "where the file kioskd must be"},
		"another size":                     {squeeze(t, pack(t, man, short, tool)), "bytes, and the manifest says"},
		"other bytes":                      {squeeze(t, pack(t, man, bent, tool)), "kioskd is damaged"},
		"cut short":                        {squeeze(t, pack(t, man, kiosk, tool))[:300], "unexpected EOF"},
		"something behind the tar":         {squeeze(t, append(pack(t, man, kiosk, tool), make([]byte, 1<<20)...)), "something follows the last file"},
		"something behind the compression": {append(squeeze(t, pack(t, man, kiosk, tool)), 'x'), "something follows the end"},
		"a second bundle behind it":        {append(squeeze(t, pack(t, man, kiosk, tool)), squeeze(t, pack(t, man, kiosk, tool))...), "something follows the end"},
		"an endless manifest":              {squeeze(t, pack(t, entry{"manifest.json", tar.TypeReg, "", make([]byte, 1<<20)})), "at most 16384 are allowed"},
		"nothing":                          {nil, "EOF"},
		"no gzip":                          {[]byte("PK\x03\x04 something else"), "gzip"},
	}
	for name, c := range cases {
		if _, err := read(c.bundle); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// A bundle made of other bytes than its manifest says is not even written.
func TestWriteBundleChecks(t *testing.T) {
	m := manifest(t, "1.1", 2)
	m.Version = "1.2"
	if err := update.WriteBundle(io.Discard, key(1), m, software("1.2")); err == nil || !strings.Contains(err.Error(), "kioskd is damaged") {
		t.Errorf("got %v", err)
	}
}

func TestManifestComplaints(t *testing.T) {
	for want, bend := range map[string]func(*update.Manifest){
		"format 2":                      func(m *update.Manifest) { m.Format = 2 },
		"the first a letter or digit":   func(m *update.Manifest) { m.Version = "../1" },
		"only letters, digits":          func(m *update.Manifest) { m.Version = "1/2" },
		"1 to 40 characters":            func(m *update.Manifest) { m.Version = strings.Repeat("1", 41) },
		"built at no time":              func(m *update.Manifest) { m.BuiltMS = 0 },
		"want amd64 or arm64":           func(m *update.Manifest) { m.Arch = "arm" },
		"oldest <= writes":              func(m *update.Manifest) { m.Ledger.Newest = 0 },
		"'.' not first":                 func(m *update.Manifest) { m.Files[0].Name = ".." },
		`file "a/b"`:                    func(m *update.Manifest) { m.Files[0].Name = "a/b" },
		"lower-case hexadecimal":        func(m *update.Manifest) { m.Files[0].SHA256 = strings.ToUpper(m.Files[0].SHA256) },
		"0 bytes":                       func(m *update.Manifest) { m.Files[0].Size = 0 },
		"134217729 bytes":               func(m *update.Manifest) { m.Files[0].Size = 128<<20 + 1 },
		"appears twice":                 func(m *update.Manifest) { m.Files = append(m.Files, m.Files[0]) },
		`"manifest.json" appears twice`: func(m *update.Manifest) { m.Files[1].Name = "manifest.json" },
		"kioskd and yaoju must both":    func(m *update.Manifest) { m.Files = m.Files[:1] },
		"9 files":                       func(m *update.Manifest) { m.Files = make([]update.File, 9) },
		"at most 268435456 are allowed": func(m *update.Manifest) {
			big := m.Files[0]
			big.Size = 128 << 20
			for _, n := range []string{"a", "b"} {
				big.Name = n
				m.Files = append(m.Files, big)
			}
		},
	} {
		m := manifest(t, "1.1", 2)
		bend(&m)
		if _, err := update.Sign(key(1), m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestKeys(t *testing.T) {
	const one, two = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
	keys, err := update.ParseKeys(strings.NewReader("# release keys\n\n " + one + " \n" + two + "\n"))
	if err != nil || len(keys) != 2 || keys[0][0] != 1 || keys[1][0] != 2 {
		t.Errorf("got %v, %v", keys, err)
	}
	for text, want := range map[string]string{
		"":                                "0 keys",
		"# none\n":                        "0 keys",
		one + "\nshort\n":                 "line 2",
		strings.Repeat(one+"\n", 9):       "9 keys",
		strings.Repeat("#", 10000) + "\n": "more than 8192 bytes",
	} {
		if _, err := update.ParseKeys(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %q", text, err, want)
		}
	}
}

func FuzzManifest(f *testing.F) {
	good, err := update.Sign(key(1), manifest(f, "1.1", 2))
	if err != nil {
		f.Fatal(err)
	}
	base, err := update.Unsigned(manifest(f, "1.0", 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(base)
	f.Add([]byte(`{"body":"{}"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := update.OpenManifest(b, []ed25519.PublicKey{public(1)}); err == nil && (m.Valid() != nil || m.Version != "1.1") {
			t.Errorf("believed %+v", m)
		}
		if m, err := update.DecodeBase(b); err == nil && m.Valid() != nil {
			t.Errorf("took %+v", m)
		}
	})
}

func FuzzBundle(f *testing.F) {
	m := manifest(f, "1.1", 2)
	man, kiosk, tool := signed(f, 1, m), file("1.1", "kioskd"), file("1.1", "yaoju")
	f.Add(pack(f, man, kiosk, tool), false)
	f.Add(pack(f, man, tool, kiosk), false)
	f.Add(pack(f, man, entry{"../kioskd", tar.TypeReg, "", kiosk.body}, tool), false)
	f.Add(pack(f, man, entry{"kioskd", tar.TypeSymlink, "/bin/sh", nil}, tool), false)
	f.Add(bundle(f, m), true)
	f.Fuzz(func(t *testing.T, b []byte, compressed bool) {
		if !compressed {
			b = squeeze(t, b)
		}
		got, err := read(b)
		if err != nil {
			return
		}
		for _, name := range []string{"kioskd", "yaoju"} {
			if got[name] != string(software("1.1")[name].Data) {
				t.Errorf("took %q for %s", got[name], name)
			}
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add("# x\nAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := update.ParseKeys(strings.NewReader(text))
		for _, k := range keys {
			if err == nil && len(k) != ed25519.PublicKeySize {
				t.Errorf("took a key of %d bytes", len(k))
			}
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"format":1,"phase":"steady","newest":0,"ledger":1}`))
	f.Add([]byte(`{"format":1,"phase":"trial","trial":{"version":"1.1","from":"versions/1.0","starts":1,"before":{}}}`))
	f.Add([]byte(`{"format":1,"phase":"back"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		onTrial, err := update.DecodeState(b)
		if err == nil && !onTrial && !bytes.Contains(b, []byte("steady")) {
			t.Errorf("took %q", b)
		}
	})
}
