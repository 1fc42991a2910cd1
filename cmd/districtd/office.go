package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"yaoju/daemon/district"
	"yaoju/daemon/identity"
	"yaoju/protocol"
)

// Names in the data folder.
const (
	signerFile = "district.key"
	caFolder   = "ca"
	officeLine = "office.sock"
)

// office does what officers order, in the running districtd or without it.
type office struct {
	cfg    Config
	d      *district.District
	ca     *identity.CA     // nil: machines have no certificates
	server *identity.Server // nil with it
	log    *slog.Logger

	mu     sync.Mutex
	signer identity.Signer // guarded by mu
}

// openOffice opens the district with all it signs with. The data folder must be locked.
func openOffice(ctx context.Context, cfg Config, hosts []string, log *slog.Logger) (o *office, err error) {
	o = &office{cfg: cfg, log: log.With("part", "office")}
	if o.signer, err = openSigner(cfg); err != nil {
		return nil, err
	}
	options := district.Options{Path: filepath.Join(cfg.Data, "district.db"), Name: protocol.Text(cfg.Name), Zone: cfg.zone, Lang: cfg.Lang,
		Hosts: hosts, Signer: o.signer.Key, AcceptUnknown: cfg.AcceptUnknown, Log: log.With("part", "district")}
	if len(o.signer.Links) > 0 {
		options.Keys = o.signer.Chain()
	}
	if cfg.secure() {
		options.Identify = o.identify
	}
	if o.d, err = district.Open(ctx, options); err != nil {
		return nil, err
	}
	err = o.openCA(ctx)
	for _, m := range cfg.Machines {
		if err == nil {
			err = o.d.PutMachine(ctx, m.place())
		}
	}
	if err != nil {
		return nil, errors.Join(err, o.d.Close())
	}
	return o, nil
}

// openCA reads the CA, or makes it the first time.
func (o *office) openCA(ctx context.Context) error {
	if !o.cfg.secure() {
		return nil
	}
	dir, now := filepath.Join(o.cfg.Data, caFolder), time.Now()
	ca, err := identity.OpenCA(dir, now)
	if errors.Is(err, identity.ErrNoCA) {
		n, counted := o.d.Enrolled(ctx)
		if counted != nil {
			return counted
		}
		if n > 0 {
			return fmt.Errorf("the CA in %s is gone, and %d machines have certificates of it: restore it with 'districtd ca restore FILE'", dir, n)
		}
		if ca, err = identity.MakeCA(dir, now); err == nil {
			o.log.Warn("a CA was made: back it up with 'districtd ca backup FILE', or every machine has to be visited if this disk is lost")
		}
	}
	if err != nil {
		return err
	}
	for _, w := range ca.Warnings(now) {
		o.log.Error(w)
	}
	o.ca = ca
	o.server, err = identity.NewServer(ca, o.cfg.Identity.Names)
	return err
}

// identify says who is on a connection, in the district's words.
func (o *office) identify(ctx context.Context, c net.Conn) (district.Peer, error) {
	n, err := o.server.Identify(ctx, c)
	return peer(n), err
}

func peer(n identity.Name) district.Peer {
	return district.Peer{Machine: n.Machine, Key: n.Key, Until: n.Until, RanOut: n.RanOut}
}

// registry is the district as the enrolment asks it.
type registry struct{ d *district.District }

func (r registry) Redeem(ctx context.Context, t identity.Token, n identity.Name) error {
	return refusal(r.d.Redeem(ctx, district.Token(t), peer(n)))
}

func (r registry) Renew(ctx context.Context, n identity.Name) error {
	return refusal(r.d.Renew(ctx, peer(n)))
}

func refusal(err error) error {
	for why, code := range map[error]identity.Code{district.ErrToken: identity.CodeToken, district.ErrRevoked: identity.CodeRevoked, district.ErrConsent: identity.CodeConsent} {
		if errors.Is(err, why) {
			return identity.Refuse(code, err)
		}
	}
	return err
}

// orders is what an officer may say, as the usage has it.
const orders = `  enrol MACHINE       print the line with which MACHINE gets its certificate, good for 24 hours
  revoke MACHINE      take its certificate from MACHINE and hang up on it
  consent MACHINE     let MACHINE back whose certificate ran out, within 24 hours
  keys rotate         sign with a new key; machines follow by themselves
  keys retire         stop trusting the old key at once, not after 7 days
  ca backup FILE      write CA and signing key to FILE, under a passphrase
  ca restore FILE     put them back, with districtd stopped
`

// do carries out one order and returns what to print.
func (o *office) do(ctx context.Context, words []string) (string, error) {
	if len(words) != 2 {
		return "", fmt.Errorf("unknown order; known are:\n%s", orders)
	}
	m := protocol.MachineID(words[1])
	switch strings.Join(words, " ") {
	case "keys rotate":
		return o.changeSigner(ctx, identity.Signer.Rotate)
	case "keys retire":
		return o.changeSigner(ctx, identity.Signer.Retire)
	}
	if o.ca == nil {
		return "", errors.New("mqtt.tls is \"off\" in districtd.toml: machines have no certificates here")
	}
	switch words[0] {
	case "enrol":
		return o.enrol(ctx, m)
	case "revoke":
		if err := o.d.Revoke(ctx, m); err != nil {
			return "", unknown(err)
		}
		return fmt.Sprintf("%s is revoked. To bring it back: districtd enrol %s, then on the machine: yaoju enrol -new-key LINE\n", m, m), nil
	case "consent":
		expires, err := o.d.Consent(ctx, m)
		if err != nil {
			return "", unknown(err)
		}
		return fmt.Sprintf("%s may come back until %s; it asks by itself\n", m, o.when(expires)), nil
	}
	return "", fmt.Errorf("unknown order; known are:\n%s", orders)
}

func unknown(err error) error {
	if errors.Is(err, district.ErrUnknownMachine) {
		return fmt.Errorf("%w: enter it in districtd.toml as a [[machine]] and restart districtd", err)
	}
	return err
}

func (o *office) when(t time.Time) string { return t.In(o.cfg.zone).Format("2006-01-02 15:04 MST") }

func (o *office) enrol(ctx context.Context, m protocol.MachineID) (string, error) {
	token, expires, err := o.d.MintToken(ctx, m)
	if err != nil {
		return "", unknown(err)
	}
	_, port, err := net.SplitHostPort(o.cfg.Identity.Listen)
	if err != nil {
		return "", err
	}
	l := identity.Line{Machine: m, Address: net.JoinHostPort(o.cfg.Identity.Names[0], port), Root: o.ca.Root(), Token: identity.Token(token)}
	return fmt.Sprintf("%s\n\nOn %s, until %s, once:  sudo yaoju enrol LINE\n", l, m, o.when(expires)), nil
}

// changeSigner puts the next signing key in force: on the disk first, so that no
// message is ever signed by a key that a power cut takes away.
func (o *office) changeSigner(ctx context.Context, change func(identity.Signer, time.Time) (identity.Signer, error)) (string, error) {
	o.mu.Lock()
	was := o.signer
	o.mu.Unlock()
	next, err := change(was, time.Now())
	if err != nil {
		return "", err
	}
	if err := next.Save(filepath.Join(o.cfg.Data, signerFile)); err != nil {
		return "", err
	}
	o.mu.Lock()
	o.signer = next
	o.mu.Unlock()
	if err := o.d.SetSigner(ctx, next.Key, next.Chain()); err != nil {
		return "", err
	}
	return fmt.Sprintf("the district signs with %s\nBack it up now: districtd ca backup FILE. New machines want it in kioskd.toml, district.keys\n", publicKey(next.Key)), nil
}

// retireEvery is how often we look whether the old signing key has had its time.
const retireEvery = time.Hour

// Run takes orders on a line of its own until ctx ends.
func (o *office) Run(ctx context.Context, l net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	orders := make(chan order)
	g.Go(func() error { return takeOrders(ctx, l, orders) })
	g.Go(func() error { // one order at a time: two could make two keys
		retire := time.NewTicker(retireEvery)
		defer retire.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case q := <-orders:
				text, err := o.do(ctx, q.words)
				q.answer <- reply{Text: text, Error: message(err)}
			case <-retire.C:
				o.mu.Lock()
				due := o.signer.Overdue(time.Now())
				o.mu.Unlock()
				if !due {
					continue
				}
				if _, err := o.changeSigner(ctx, identity.Signer.Retire); err != nil && ctx.Err() == nil {
					return err
				}
			}
		}
	})
	return g.Wait()
}

// openSigner reads the district's signing key, or makes it. Machines obey nobody
// else: a key that is lost has to be replaced on every machine, so back it up.
func openSigner(cfg Config) (identity.Signer, error) {
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return identity.Signer{}, fmt.Errorf("data folder: %w", err)
	}
	return identity.OpenSigner(filepath.Join(cfg.Data, signerFile))
}

// publicKey is the key as machines have it in their configuration.
func publicKey(k ed25519.PrivateKey) string {
	return base64.StdEncoding.EncodeToString(k.Public().(ed25519.PublicKey))
}
