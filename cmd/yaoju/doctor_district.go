package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"yaoju/daemon/identity"
	"yaoju/daemon/identity/tpm"
	"yaoju/daemon/ledger"
)

const (
	// reachLimit bounds one step on the way to the district: a mobile line that wakes
	// up, and TLS at 32 kbit/s.
	reachLimit = 15 * time.Second

	// verdictLimit is how long to wait for a district that takes a connection and then
	// refuses the certificate: in TLS 1.3 the no comes behind the handshake.
	verdictLimit = 2 * time.Second
)

// identityOf is the machine's identity as kioskd has it.
func (x *exam) identityOf() identity.Options {
	return identity.Options{Dir: filepath.Join(x.cfg.Data, "identity"), Machine: x.cfg.Machine, Desk: x.cfg.District.Enrol,
		Synced: x.h.synced, Dial: dialTCP, Log: slog.New(slog.DiscardHandler), Vault: tpm.New(tpm.Open)}
}

func (x *exam) district(ctx context.Context) {
	address := x.cfg.District.Address()
	if !x.cfg.District.Secure() {
		x.say("district.trial")
		x.reach(ctx, address, nil)
		x.uplink()
		return
	}
	r := identity.Describe(x.identityOf())
	x.certificate(r)
	var secure func(context.Context, net.Conn) (net.Conn, error)
	if r.State == identity.StateGood || r.State == identity.StateLate || r.State == identity.StateEnded {
		secure = func(ctx context.Context, line net.Conn) (net.Conn, error) {
			o := x.identityOf()
			o.Dial = func(context.Context, string) (net.Conn, error) { return line, nil }
			m, err := identity.New(o)
			if err != nil {
				return nil, err
			}
			return m.Dial(ctx, address)
		}
	}
	x.reach(ctx, address, secure)
	if x.cfg.District.Enrol != address {
		x.reach(ctx, x.cfg.District.Enrol, nil)
	}
	x.uplink()
}

// certificate says how long the machine is who it is.
func (x *exam) certificate(r identity.Report) {
	until := r.Until.In(x.cfg.Location()).Format(time.DateOnly)
	switch r.State {
	case identity.StateNone:
		x.say("cert.none", x.cfg.Machine)
	case identity.StateUnread:
		x.say("cert.unseen")
	case identity.StateBroken:
		x.say("cert.broken", r.Words[len(r.Words)-1], x.cfg.Machine)
	case identity.StateEnded:
		x.say("cert.ended", until, x.cfg.Machine)
	case identity.StateLate:
		x.say("cert.late", until, x.cfg.District.Enrol)
	default:
		x.say("cert.good", until, int(r.Until.Sub(x.h.now()).Hours()/24))
	}
	switch {
	case r.Until.IsZero():
	case r.TPM:
		x.say("key.tpm")
	default:
		x.say("key.file")
	}
}

// reach goes the way to the district step by step, and names the one that fails.
// Nothing of the machine is told on it but its certificate.
func (x *exam) reach(ctx context.Context, address string, secure func(context.Context, net.Conn) (net.Conn, error)) {
	ctx, cancel := context.WithTimeout(ctx, 3*reachLimit)
	defer cancel()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		x.say("reach.name", address, err)
		return
	}
	step, done := context.WithTimeout(ctx, reachLimit)
	_, err = net.DefaultResolver.LookupHost(step, host)
	done()
	if err != nil {
		x.say("reach.name", host, reason(err))
		return
	}
	step, done = context.WithTimeout(ctx, reachLimit)
	c, err := dialTCP(step, address)
	done()
	if err != nil {
		x.say("reach.tcp", address, reason(err))
		return
	}
	defer func() { c.Close() }() // nothing was said on it
	if secure == nil {
		x.say("reach.plain", address)
		return
	}
	step, done = context.WithTimeout(ctx, reachLimit)
	known, err := secure(step, c)
	done()
	if err != nil {
		x.say("reach.tls", address, reason(err))
		return
	}
	c = known
	if err := c.SetReadDeadline(time.Now().Add(verdictLimit)); err != nil {
		x.say("reach.tls", address, reason(err))
		return
	}
	if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		x.say("reach.refused", address, reason(err))
		return
	}
	x.say("reach.good", address)
}

// reason is the last and plainest part of an error of the network.
func reason(err error) string {
	if op, ok := errors.AsType[*net.DNSError](err); ok {
		return op.Err
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		return op.Err.Error()
	}
	return err.Error()
}

// uplink says how far the district has what happened.
func (x *exam) uplink() {
	if x.now == nil {
		return
	}
	l := x.now.Ledger
	if l.Acked >= l.Head {
		x.say("uplink.up", l.Head)
		return
	}
	x.say("uplink.behind", l.Acked, l.Head)
}

// ledger looks at the machine's memory and changes nothing.
func (x *exam) ledger(ctx context.Context) {
	path := filepath.Join(x.cfg.Data, ledgerFile)
	found, err := ledger.Inspect(ctx, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		x.say("ledger.none")
	case err != nil:
		x.say("ledger.unseen", err)
	case found.Damage != "":
		x.say("ledger.damaged", found.Damage)
	case found.Machine != x.cfg.Machine:
		x.say("ledger.other", found.Machine, x.cfg.Machine)
	default:
		x.say("ledger.good", found.Head, found.Boxes)
		if found.Open > 0 {
			x.say("ledger.open", found.Open)
		}
	}
	if aside, err := filepath.Glob(path + ".damaged-*[0-9a-f]"); err == nil && len(aside) > 0 {
		x.say("ledger.asides", len(aside))
	}
}
