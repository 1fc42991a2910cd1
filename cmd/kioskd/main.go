// Command kioskd runs one dispensing machine: its card reader, motor board,
// ledger, screen and line to the district.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
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

	"yaoju/daemon/card"
	"yaoju/daemon/dispense"
	"yaoju/daemon/identity"
	"yaoju/daemon/kiosk"
	"yaoju/daemon/ledger"
	"yaoju/daemon/machine"
	"yaoju/daemon/port"
	"yaoju/daemon/uplink"
	"yaoju/daemon/web"
	"yaoju/protocol"
)

// version is set by the release build with -ldflags "-X main.version=...".
var version = "dev"

func main() {
	path := flag.String("config", "/etc/yaoju/kioskd.toml", "configuration file")
	check := flag.Bool("check", false, "check the configuration and exit")
	show := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *show {
		fmt.Println("kioskd", version)
		return
	}
	cfg, err := readConfig(*path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if *check {
		fmt.Println(*path + ": good")
		return
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.level}))
	// No core dump: for milliseconds a card number is in memory.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		log.Warn("core dumps not switched off", "err", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, cfg, log); err != nil {
		log.Error("kioskd stopped", "err", err)
		os.Exit(1)
	}
}

func readConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("kioskd: %w", err)
	}
	defer f.Close()
	return parseConfig(path, f)
}

// markEpoch is how long one mark key is used. A card is known for one to two
// epochs, and no quota window is longer than a year.
const markEpoch = 366 * 24 * time.Hour

func run(ctx context.Context, cfg Config, log *slog.Logger) error {
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	held, err := lock(cfg.Data)
	if err != nil {
		return err
	}
	defer held.Close()
	book, err := ledger.Open(ctx, ledger.Options{Path: filepath.Join(cfg.Data, "ledger.db"), Machine: cfg.Machine,
		Software: version, Zone: cfg.zone, Log: log.With("part", "ledger"), Synced: synced(cfg.Clock)})
	if err != nil {
		return err
	}
	defer book.Close()
	keys, err := card.OpenKeys(filepath.Join(cfg.Data, "marks.key"), markEpoch)
	if err != nil {
		return err
	}

	board := machine.New(dial(cfg.Board.line()), log.With("part", "machine", "device", cfg.Board.Path), cfg.motors)
	reader := card.New(dial(cfg.Reader), cfg.Reader.Baud, keys, cfg.zone, log.With("part", "card", "device", cfg.Reader.Path))
	dispenser := dispense.New(book, board, log.With("part", "dispense"))
	alive, err := newPulse(func(ctx context.Context) error { _, err := book.Open(ctx); return err }, log.With("part", "pulse"))
	if err != nil {
		return err
	}
	warden := kiosk.NewWarden(alive.machine(body{board}), cards{reader}, book, rules{book}, dispenser, log.With("part", "warden"))
	booth := kiosk.New(cards{reader}, shelf{book}, dispenser, alive.guard(warden), kiosk.Options{Machine: cfg.Machine, Zone: cfg.zone,
		Consent: cfg.Consent == "tap", Desired: book.Desired, Log: log.With("part", "kiosk")})
	id, err := newIdentity(cfg, log.With("part", "identity"))
	if err != nil {
		return err
	}
	trust := identity.TrustFile{Path: filepath.Join(cfg.Data, trustFile), Configured: cfg.keys}
	line, err := uplink.New(uplink.Options{Machine: cfg.Machine, Chain: book, Identity: book,
		State: report{book, board, warden}.state, Desired: book.Apply, Command: obey(book),
		Trust: trusted(trust, log.With("part", "identity")), KeepTrust: trust.Keep, Dial: dialBroker(cfg, id), Log: log.With("part", "uplink")})
	if err != nil {
		return err
	}

	listener, err := net.Listen("tcp", cfg.Screen.Listen)
	if err != nil {
		return fmt.Errorf("screen: %w (is kioskd running already?)", err)
	}
	page := web.New(booth, web.Options{Hosts: []string{listener.Addr().String()}, Frame: cfg.Screen.Frame, Log: log.With("part", "web")})
	log.Info("kioskd started", "version", version, "machine", cfg.Machine, "screen", "http://"+listener.Addr().String())

	// What acts stops first; what it leans on stops last.
	acting, ctx := errgroup.WithContext(ctx)
	base, stopBase := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBase()
	var leaning errgroup.Group
	failed := make(chan error, 5) // one that fails takes everything down, in order: systemd starts us again
	lean := func(run func(context.Context) error) {
		leaning.Go(func() error {
			err := run(base)
			if err != nil {
				failed <- err
			}
			return err
		})
	}
	acting.Go(func() error { return booth.Run(ctx) })
	acting.Go(func() error { return warden.Run(ctx) })
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
	lean(board.Run)
	lean(reader.Run)
	lean(line.Run)
	if cfg.District.secure() {
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

// lock keeps a second kioskd off the data folder: two would write over each other.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("data folder %s: another kioskd uses it: %w", dir, err), f.Close())
	}
	return f, nil
}

// dial opens a serial line each time it is asked.
func dial(l Line) func(context.Context) (io.ReadWriteCloser, error) {
	return func(context.Context) (io.ReadWriteCloser, error) { return port.Open(l.Path, l.Baud) }
}

// dialBroker opens the line to the broker, on which both sides know each other
// unless the configuration says that nobody does.
func dialBroker(cfg Config, id *identity.Machine) func(context.Context) (net.Conn, error) {
	dial := dialPlain
	if cfg.District.secure() {
		dial = id.Dial
	}
	return func(ctx context.Context) (net.Conn, error) { return dial(ctx, cfg.District.address) }
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
