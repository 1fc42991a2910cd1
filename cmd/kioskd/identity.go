package main

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"runtime/debug"
	"time"

	"yaoju/daemon/cabinet"
	"yaoju/daemon/identity"
	"yaoju/daemon/identity/tpm"
	"yaoju/protocol"
)

// Names in the data folder.
const (
	identityFolder = "identity"
	trustFile      = "trust.json"
)

// newIdentity is who this machine is to its district.
func newIdentity(cfg cabinet.Config, log *slog.Logger) (*identity.Machine, error) {
	return identity.New(identityOptions(cfg, log))
}

func identityOptions(cfg cabinet.Config, log *slog.Logger) identity.Options {
	return identity.Options{Dir: filepath.Join(cfg.Data, identityFolder), Machine: cfg.Machine, Desk: cfg.District.Enrol,
		Build: built(), Synced: synced(cfg.Clock), Dial: dialPlain, Log: log, Vault: tpm.New(tpm.Open)}
}

// built is when the commit this program was built from was made; zero if nobody knows.
func built() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			t, err := time.Parse(time.RFC3339, s.Value)
			if err == nil {
				return t
			}
		}
	}
	return time.Time{}
}

// dialPlain opens a line on which nobody has said who he is.
func dialPlain(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second} // a mobile network may take this long to route
	return d.DialContext(ctx, "tcp", address)
}

// trusted is whom this machine obeys. A file that cannot be read is no reason to
// serve nobody: the configured keys are a place to start from again.
func trusted(f identity.TrustFile, log *slog.Logger) protocol.Trust {
	t, err := f.Load()
	if err != nil {
		log.Warn("beginning again with the configured keys of the district", "err", err)
	}
	return t
}
