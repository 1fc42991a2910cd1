// Command kioskd runs one dispensing machine: its card reader, motor board,
// ledger, screen and line to the district.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"
	_ "time/tzdata" // a Pi without zone files still knows its days

	"golang.org/x/sync/errgroup"

	"yaoju/daemon/cabinet"
	"yaoju/daemon/card"
	"yaoju/daemon/dispense"
	"yaoju/daemon/identity"
	"yaoju/daemon/kiosk"
	"yaoju/daemon/ledger"
	"yaoju/daemon/machine/gpio"
	"yaoju/daemon/pulse"
	"yaoju/daemon/scan"
	"yaoju/daemon/uplink"
	"yaoju/daemon/web"
	"yaoju/protocol"
)

// version is set by the release build with -ldflags "-X main.version=...".
var version = "dev"

// badConfig is the exit status for a configuration that cannot be used: EX_CONFIG of
// sysexits.h. Not 2, with which a Go program ends that panics: systemd starts that
// again, and lets this be until somebody has mended it.
const badConfig = 78

func main() {
	if len(os.Args) > 1 && os.Args[1] == gpio.GuardWord {
		os.Exit(gpio.Guard(os.Args[2:]))
	}
	lines := scan.FindGPIO() // before any file is opened: see there
	path := flag.String("config", "/etc/yaoju/kioskd.toml", "configuration file")
	check := flag.Bool("check", false, "check the configuration and exit")
	accounts := flag.String("accounts", "", "file of staff accounts (yaoju staff makes it): put them in place of all others and exit")
	show := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *show {
		fmt.Println("kioskd", version)
		return
	}
	cfg, err := cabinet.Read(*path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(badConfig)
	}
	if *check {
		fmt.Println(*path + ": good")
		return
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.Level()}))
	// No core dump: for milliseconds a card number is in memory.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		log.Warn("core dumps not switched off", "err", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *accounts != "" {
		if err := setAccounts(ctx, cfg, *accounts, log); err != nil {
			fmt.Fprintln(os.Stderr, "kioskd:", err)
			os.Exit(1)
		}
		return
	}
	err = run(ctx, cfg, cabinet.Means{GPIO: lines}, log)
	if errors.Is(err, errRestart) {
		log.Info("kioskd ends: another version of the software starts")
		return
	}
	if err != nil {
		log.Error("kioskd stopped", "err", err)
		os.Exit(1)
	}
}

// markEpoch is how long one mark key is used. A card is known for one to two
// epochs, and no quota window is longer than a year.
const markEpoch = 366 * 24 * time.Hour

// run runs the machine until ctx ends. with is how the cabinet's hardware is reached;
// run adds to it what the ledger and the keys know.
func run(ctx context.Context, cfg cabinet.Config, with cabinet.Means, log *slog.Logger) error {
	held, err := lock(cfg.Data)
	if err != nil {
		return err
	}
	defer held.Close()
	versions := openVersions(cfg.Update, log.With("part", "update"))
	if versions != nil {
		defer versions.Close()
	}
	book, err := openLedger(ctx, cfg, versions != nil, log)
	if err != nil {
		return noRoom(cfg.Data, err)
	}
	defer book.Close()
	keys, err := card.OpenKeys(filepath.Join(cfg.Data, "marks.key"), markEpoch)
	if err != nil {
		return err
	}

	with.Keys = keys
	if with.Minted, err = book.Minted(ctx); err != nil {
		return err
	}
	open, err := book.Open(ctx)
	if err != nil {
		return err
	}
	for _, v := range open {
		with.Owed = append(with.Owed, v.Slot)
	}
	fitted, err := cabinet.New(cfg, with, log)
	if err != nil {
		return err
	}
	reader := cards{fitted.Reader}
	dispenser := dispense.New(book, fitted.Motors, cfg.MotionLimit(), log.With("part", "dispense"))
	round := &rounds{ask: func(ctx context.Context) error { _, err := book.Open(ctx); return err }}
	alive, err := pulse.New(log.With("part", "pulse"), round.still)
	if err != nil {
		return err
	}
	warden := kiosk.NewWarden(round.machine(body{fitted}), reader, book, rules{book}, dispenser, log.With("part", "warden"))
	entrance := newDoor(warden)
	who, err := openStaff(ctx, cfg.Data, book)
	if err != nil {
		return err
	}
	jack := headphones(cfg.Screen.Jack, log.With("part", "scan", "device", cfg.Screen.Jack))
	booth := kiosk.New(reader, shelf{book}, dispenser, round.guard(entrance), kiosk.Options{Machine: cfg.Machine, Zone: cfg.Location(),
		Consent: cfg.Consent == "tap", Desired: book.Desired, Service: service(cfg, who, book, fitted), Jack: jack, Log: log.With("part", "kiosk")})
	id, err := newIdentity(cfg, log.With("part", "identity"))
	if err != nil {
		return err
	}
	trust := identity.TrustFile{Path: filepath.Join(cfg.Data, trustFile), Configured: cfg.Keys()}
	var soft *software // set before anything runs
	line, err := uplink.New(uplink.Options{Machine: cfg.Machine, Chain: book, Identity: book,
		State: func(ctx context.Context) (protocol.State, error) {
			st, err := report{book, fitted, warden}.state(ctx)
			soft.tell(&st)
			return st, err
		}, Desired: applied(book, who, id, log.With("part", "staff")), Command: obey(book),
		Trust: trusted(trust, log.With("part", "identity")), KeepTrust: trust.Keep, Dial: dialBroker(cfg, id), Log: log.With("part", "uplink")})
	if err != nil {
		return err
	}

	listener, err := net.Listen("tcp", cfg.Screen.Listen)
	if err != nil {
		return fmt.Errorf("screen: %w (is kioskd running already?)", err)
	}
	page := web.New(booth, web.Options{Hosts: []string{listener.Addr().String()}, Frame: cfg.Screen.Frame, Voice: cfg.Screen.Voice, Log: log.With("part", "web")})
	log.Info("kioskd started", "version", version, "machine", cfg.Machine, "screen", "http://"+listener.Addr().String())

	tell := &teller{cfg: cfg, book: book, fitted: fitted, warden: warden, line: line, identity: identityOptions(cfg, log), screen: listener.Addr().String(),
		started: time.Now(), log: log.With("part", "status")}

	// What acts stops first; what it leans on stops last.
	acting, ctx := errgroup.WithContext(ctx)
	base, stopBase := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBase()
	var leaning errgroup.Group
	failed := make(chan error, 7) // one that fails takes everything down, in order: systemd starts us again
	lean := func(run func(context.Context) error) {
		leaning.Go(func() error {
			err := run(base)
			if err != nil {
				failed <- err
			}
			return err
		})
	}
	if versions != nil {
		soft, err = newSoftware(cfg, versions, id, gate{book, booth, warden, entrance}, signs{book, fitted, line, listener.Addr().String(), cfg.District.Address()},
			func() { failed <- errRestart }, log.With("part", "update"))
		if err != nil {
			return err
		}
		tell.update = soft.status
		acting.Go(func() error { return soft.agent.Run(ctx) })
	}
	acting.Go(func() error { return entrance.Run(ctx) })
	acting.Go(func() error { return booth.Run(ctx) })
	acting.Go(func() error { return warden.Run(ctx) })
	acting.Go(func() error { return who.Run(ctx) })
	acting.Go(func() error { return alive.Run(ctx) })
	acting.Go(func() error { return housekeeping(ctx, book, keys) })
	acting.Go(func() error { return book.KeepClock(ctx) })
	acting.Go(func() error {
		select {
		case err := <-failed:
			return err
		case <-book.Failed():
			return ledger.ErrFailed
		case <-ctx.Done():
			return nil
		}
	})
	lean(fitted.Run)
	lean(jack.Run)
	lean(line.Run)
	lean(tell.Run)
	if cfg.District.Secure() {
		lean(id.Run)
	}
	lean(func(ctx context.Context) error { return serve(ctx, listener, page) })
	err = acting.Wait()
	stopBase()
	if also := leaning.Wait(); !errors.Is(err, also) {
		err = errors.Join(err, also)
	}
	return err
}

func openLedger(ctx context.Context, cfg cabinet.Config, updates bool, log *slog.Logger) (*ledger.Ledger, error) {
	return ledger.Open(ctx, ledger.Options{Path: filepath.Join(cfg.Data, "ledger.db"), Machine: cfg.Machine, Software: version,
		Zone: cfg.Location(), Log: log.With("part", "ledger"), Synced: synced(cfg.Clock), Updates: updates})
}

// lock keeps a second kioskd off the data folder: two would write over each other.
func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("data folder %s: another kioskd uses it: %w", dir, err), f.Close())
	}
	return f, nil
}

// dialBroker opens the line to the broker, on which both sides know each other
// unless the configuration says that nobody does.
func dialBroker(cfg cabinet.Config, id *identity.Machine) func(context.Context) (net.Conn, error) {
	dial := dialPlain
	if cfg.District.Secure() {
		dial = id.Dial
	}
	return func(ctx context.Context) (net.Conn, error) { return dial(ctx, cfg.District.Address()) }
}

// serve answers the page until ctx ends. Streams of events stay open, so they are
// cut, not waited for.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("screen: %w", err)
	}
	return nil
}

// settleTime is how long after the start memory that only starting needed, to check
// the chain and to compress the pages, is given back.
const settleTime = 5 * time.Second

// housekeeping deletes marks whose window has ended, moves the mark keys on, and
// gives memory back to the system.
func housekeeping(ctx context.Context, book *ledger.Ledger, keys *card.Keys) error {
	wait := settleTime
	for started := time.Now(); ; {
		// A clock that runs ahead would forget marks and destroy keys for good, so it
		// has to be synchronised, or to have had a day to be.
		if book.Clock() == protocol.ClockSynced || time.Since(started) > 24*time.Hour {
			if err := keys.Advance(time.Now()); err != nil {
				return err
			}
			if err := book.Purge(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		debug.FreeOSMemory()
		wait = time.Hour
	}
}
