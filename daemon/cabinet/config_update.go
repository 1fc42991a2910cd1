package cabinet

import (
	"net/url"
	"path/filepath"
	"strings"

	"yaoju/daemon/config"
	"yaoju/daemon/identity"
)

// Update is how this machine takes new versions of its software.
//
//	[update]
//	dir = "/opt/yaoju"
type Update struct {
	Dir    string `toml:"dir"`     // folder of versions, which kioskd's user can write; empty: this machine takes no updates
	Base   string `toml:"base"`    // folder of the version the machine was installed with
	Keys   string `toml:"keys"`    // file of the release keys this machine trusts, a line of base64 each; without the file it takes no release
	From   string `toml:"from"`    // https address of the district's releases; without it that of enrolment
	RateKB int    `toml:"rate_kb"` // KiB a second that a download takes at most: 16 to 100000
}

// usualUpdate is where the package puts things.
func usualUpdate() Update {
	return Update{Base: "/usr/lib/yaoju/base", Keys: "/etc/yaoju/release.keys", RateKB: 256}
}

// Takes says whether the machine takes updates at all.
func (u Update) Takes() bool { return u.Dir != "" }

// Rate is RateKB in bytes a second.
func (u Update) Rate() int { return u.RateKB << 10 }

// File is the path the configuration was read from.
func (c Config) File() string { return c.file }

// check checks how updates come, and fills in what follows from the district.
func (u *Update) check(d *config.Doc, district District) {
	if !u.Takes() {
		return
	}
	for key, path := range map[string]string{"update.dir": u.Dir, "update.base": u.Base, "update.keys": u.Keys} {
		d.Need(filepath.IsAbs(path), key, "want a path from the root, such as \"/opt/yaoju\"")
	}
	d.Need(u.RateKB >= 16 && u.RateKB <= 100000, "update.rate_kb", "want 16 to 100000 KiB a second")
	d.Need(district.Secure(), "update.dir", "district.tls is \"off\", so nobody knows whom updates come from: leave dir away")
	if u.From == "" {
		u.From = "https://" + district.Enrol + "/releases"
	}
	from, err := url.Parse(u.From)
	d.Need(err == nil && from.Scheme == "https" && from.User == nil && from.RawQuery == "" && from.Fragment == "" && strings.HasPrefix(u.From, "https://"+from.Host) &&
		identity.ValidAddress(from.Host) == nil, "update.from", "want an address such as \"https://district.example:8884/releases\"")
}
