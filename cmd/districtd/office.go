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
	"text/tabwriter"
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
	options := district.Options{Path: cfg.database(), Version: version, Name: protocol.Text(cfg.Name), Zone: cfg.zone, Lang: cfg.Lang,
		Hosts: hosts, Signer: o.signer.Key, AcceptUnknown: cfg.AcceptUnknown, Log: log.With("part", "district")}
	if options.Secrets, err = cfg.secrets(); err != nil {
		return nil, err
	}
	if len(o.signer.Links) > 0 {
		options.Keys = o.signer.Chain()
	}
	if cfg.secure() {
		options.Identify = o.identify
	}
	if cfg.MQTT.Broker != "" {
		options.Broker = &district.Broker{Dial: o.dialBroker, Name: cfg.MQTT.Name}
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

// dialBroker reaches the broker that is a program of its own.
func (o *office) dialBroker(ctx context.Context) (net.Conn, error) {
	if o.server == nil { // a trial on loopback
		var d net.Dialer
		return d.DialContext(ctx, "tcp", o.cfg.MQTT.address)
	}
	return o.server.DialBroker(ctx, o.cfg.MQTT.address, o.cfg.MQTT.Name)
}

// identify says who is on a connection, in the district's words.
func (o *office) identify(ctx context.Context, c net.Conn) (district.Peer, error) {
	n, err := o.server.Identify(ctx, c)
	return peer(n), err
}

func peer(n identity.Name) district.Peer {
	return district.Peer{Machine: n.Machine, Key: n.Key, Until: n.Until, RanOut: n.RanOut, Sealing: n.Sealing}
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
const orders = `  certificates        list the machines and how their certificates stand
  enrol MACHINE       print the line with which MACHINE gets its certificate, good for 24 hours
  revoke MACHINE      take its certificate from MACHINE and hang up on it
  consent MACHINE     let MACHINE back whose certificate ran out, within 24 hours
  consent ALL         after the database was lost: let all back whose keys it does not know
  keys rotate         sign with a new key; machines follow by themselves
  keys retire         stop trusting the old key at once, not after 7 days
  ca backup FILE      write CA and signing key to FILE, under a passphrase
  ca restore FILE     put them back, with districtd stopped
` + updateOrders

// do carries out one order and returns what to print.
func (o *office) do(ctx context.Context, words []string) (string, error) {
	switch strings.Join(words, " ") {
	case "keys rotate":
		return o.changeSigner(ctx, identity.Signer.Rotate)
	case "keys retire":
		return o.changeSigner(ctx, identity.Signer.Retire)
	}
	if len(words) > 0 && words[0] == "update" {
		return o.update(ctx, words[1:])
	}
	known := map[string]func(context.Context, protocol.MachineID) (string, error){"enrol": o.enrol, "revoke": o.revoke, "consent": o.consent}
	about := len(words) == 2 && known[words[0]] != nil
	switch {
	case !about && strings.Join(words, " ") != "certificates":
		return "", fmt.Errorf("unknown order; known are:\n%s", orders)
	case o.ca == nil:
		return "", errors.New("mqtt.tls is \"off\" in districtd.toml: machines have no certificates here")
	case about:
		return known[words[0]](ctx, protocol.MachineID(words[1]))
	}
	return o.certificates(ctx)
}

func unknown(err error) error {
	if errors.Is(err, district.ErrUnknownMachine) {
		return fmt.Errorf("%w: enter it in districtd.toml as a [[machine]] and restart districtd", err)
	}
	return err
}

func (o *office) when(t time.Time) string { return t.In(o.cfg.zone).Format("2006-01-02 15:04 MST") }

func (o *office) day(t time.Time) string { return t.In(o.cfg.zone).Format(time.DateOnly) }

func (o *office) enrol(ctx context.Context, m protocol.MachineID) (string, error) {
	was, err := o.d.Certificate(ctx, m)
	if err != nil {
		return "", err
	}
	token, expires, err := o.d.MintToken(ctx, m)
	if err != nil {
		return "", unknown(err)
	}
	_, port, err := net.SplitHostPort(o.cfg.Identity.Listen)
	if err != nil {
		return "", err
	}
	l := identity.Line{Machine: m, Address: net.JoinHostPort(o.cfg.Identity.Names[0], port), Root: o.ca.Root(), Token: identity.Token(token)}
	flag, more := "", ""
	switch {
	case was.Revoked:
		flag, more = "-new-key ", "Its old key was revoked, so it needs a new one: hence -new-key.\n"
	case !was.Until.IsZero():
		more = fmt.Sprintf("%s has a certificate until %s. If another computer uses this line, that certificate counts for nothing from then on.\n", m, o.day(was.Until))
	}
	return fmt.Sprintf("%s\n\nThat line is for %s alone, for one computer, until %s; lines made for it before are void.\nType there, with the line in the place of LINE:\n\n  sudo yaoju enrol %sLINE\n\n%s", l, m, o.when(expires), flag, more), nil
}

func (o *office) revoke(ctx context.Context, m protocol.MachineID) (string, error) {
	if err := o.d.Revoke(ctx, m); err != nil {
		return "", unknown(err)
	}
	return fmt.Sprintf(`%[1]s is revoked: its connection is cut, it is let in no more, and its enrolment lines are void.
It goes on giving out what it holds, and keeps its records. To take it out of service, switch it off.
To bring it back: districtd enrol %[1]s, then on the machine: sudo yaoju enrol -new-key LINE
`, m), nil
}

// everybody stands for all machines that have no key here; a machine's id has no capitals.
const everybody = "ALL"

func (o *office) consent(ctx context.Context, m protocol.MachineID) (string, error) {
	if m == everybody {
		return o.consentAll(ctx)
	}
	was, err := o.d.Certificate(ctx, m)
	if err != nil {
		return "", err
	}
	expires, err := o.d.Consent(ctx, m)
	if errors.Is(err, district.ErrRevoked) {
		return "", fmt.Errorf("%[1]s was revoked, and no consent makes its key good again: make a line with 'districtd enrol %[1]s' and use it there with 'sudo yaoju enrol -new-key LINE'", m)
	}
	if err != nil {
		return "", unknown(err)
	}
	if time.Now().Before(was.Until) {
		return fmt.Sprintf("The certificate of %s is good until %s, so it needs no consent as far as is known here.\nIf it ran out nevertheless, it may come back until %s, by itself.\n", m, o.day(was.Until), o.when(expires)), nil
	}
	return fmt.Sprintf("%s may come back until %s. It asks every quarter of an hour by itself; nobody has to go there.\n", m, o.when(expires)), nil
}

// consentAll lets all machines back that this store has no key of, as after a restore
// with an empty database.
func (o *office) consentAll(ctx context.Context) (string, error) {
	all, err := o.d.Certificates(ctx)
	if err != nil {
		return "", err
	}
	n := 0
	var until time.Time
	for _, c := range all {
		if !c.Until.IsZero() || c.Revoked {
			continue
		}
		if until, err = o.d.Consent(ctx, c.Machine); err != nil {
			return "", unknown(err)
		}
		n++
	}
	if n == 0 {
		return "Every machine has a key here: nobody needs that consent.\n", nil
	}
	return fmt.Sprintf("Machines without a key here: %d. They may come back until %s, by themselves.\nThose that were revoked before the database was lost are among them: revoke them again now.\n", n, o.when(until)), nil
}

// certificates lists how every machine stands.
func (o *office) certificates(ctx context.Context) (string, error) {
	all, err := o.d.Certificates(ctx)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, c := range all {
		fmt.Fprintf(t, "%s\t%s\n", c.Machine, o.standing(c, time.Now()))
	}
	t.Flush() // a builder takes everything
	return b.String(), nil
}

func (o *office) standing(c district.Certified, now time.Time) string {
	var s string
	switch {
	case c.Revoked:
		s = "revoked"
	case c.Until.IsZero():
		s = "not enrolled"
	case now.After(c.Until):
		s = fmt.Sprintf("ran out on %s: it needs 'districtd consent %s'", o.day(c.Until), c.Machine)
	default:
		s = "good until " + o.day(c.Until)
	}
	if !c.Token.IsZero() {
		s += "; a line for it is good until " + o.when(c.Token)
	}
	if !c.Consent.IsZero() {
		s += "; it may come back until " + o.when(c.Consent)
	}
	return s
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
	return fmt.Sprintf(`The district signs with %s
Machines follow by themselves, those that are away when they are back.
Now: back it up with 'districtd ca backup FILE'; the backup before this one holds the key that was.
New machines want it in kioskd.toml, under [district], keys = [%q]
`, publicKey(next.Key), publicKey(next.Key)), nil
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
