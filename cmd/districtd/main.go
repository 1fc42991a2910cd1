// Command districtd runs a district: it takes in what machines report, keeps
// it, tells them what should be so, and shows it to the people who look after them.
package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
	_ "time/tzdata" // days are counted right on a host without zone files

	"golang.org/x/sync/errgroup"

	"yaoju/daemon/identity"
	"yaoju/daemon/pulse"
)

// version is set by the release build with -ldflags "-X main.version=...".
var version = "dev"

func main() {
	path := flag.String("config", "/etc/yaoju/districtd.toml", "configuration file")
	check := flag.Bool("check", false, "check the configuration and exit")
	key := flag.Bool("key", false, "print the public key that machines must trust, making the key if there is none, and exit")
	show := flag.Bool("version", false, "print the version and exit")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: districtd [FLAGS]          run the district\n       districtd [FLAGS] ORDER    give the running one an order\n\n%s\n", orders)
		flag.PrintDefaults()
	}
	flag.Parse()
	if *show {
		fmt.Println("districtd", version)
		return
	}
	cfg, err := readConfig(*path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(78) // EX_CONFIG of sysexits.h: 2 is what a panic ends with, and systemd must tell them apart
	}
	if *check {
		fmt.Println(*path + ": good")
		return
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.level}))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch words := flag.Args(); {
	case *key:
		err = printKey(cfg)
	case len(words) > 0:
		if err := obey(ctx, cfg, words, log); err != nil {
			fmt.Fprintln(os.Stderr, "districtd:", err)
			os.Exit(1)
		}
	default:
		err = run(ctx, cfg, log)
	}
	if err != nil {
		log.Error("districtd stopped", "err", err)
		os.Exit(1)
	}
}

func readConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("districtd: %w", err)
	}
	defer f.Close()
	return parseConfig(path, f)
}

// obey carries out one order of an officer and prints the answer.
func obey(ctx context.Context, cfg Config, words []string, log *slog.Logger) error {
	if words[0] == "ca" && len(words) == 3 {
		return keepCA(ctx, cfg, words[1], words[2], os.Stdin, os.Stderr)
	}
	words, err := located(words)
	if err != nil {
		return err
	}
	text, err := carryOut(ctx, cfg, words, log)
	if err == nil {
		fmt.Print(text)
	}
	return err
}

func printKey(cfg Config) error {
	k, err := signer(cfg)
	if err == nil {
		fmt.Println(publicKey(k))
	}
	return err
}

func run(ctx context.Context, cfg Config, log *slog.Logger) error {
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	held, err := lock(cfg.Data)
	if err != nil {
		return err
	}
	defer held.Close()
	doors, err := openDoors(cfg)
	if err != nil {
		return err
	}
	defer doors.close()
	o, err := openOffice(ctx, cfg, []string{doors.pages.Addr().String()}, log)
	if err != nil {
		return err
	}
	d := o.d
	defer d.Close()
	for _, m := range cfg.Machines {
		if _, err := d.SetDesired(ctx, cfg.desired(m)); err != nil {
			return err
		}
	}
	log.Info("districtd started", "version", version, "console", "http://"+doors.pages.Addr().String(), "broker", cfg.brokerName(doors.mqtt), "database", o.d.Engine(), "tls", cfg.MQTT.TLS, "key", publicKey(o.signer.Key))

	alive, err := pulse.New(log.With("part", "pulse"), pageAnswers(doors.pages.Addr().String()),
		func(context.Context) error { return d.Ingesting(time.Now()) })
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return alive.Run(ctx) })
	g.Go(func() error { return serve(ctx, "console", doors.pages, d.Handler()) })
	if doors.metrics != nil {
		pages := http.NewServeMux()
		pages.Handle("GET /metrics", d.Metrics())
		g.Go(func() error { return serve(ctx, "metrics", doors.metrics, pages) })
	}
	g.Go(func() error { return o.Run(ctx, doors.orders) })
	mqtt := doors.mqtt
	if cfg.secure() {
		if mqtt != nil {
			mqtt = o.server.Machines(mqtt)
		} else {
			g.Go(func() error { return o.keepBroker(ctx) })
		}
		desk := identity.NewDesk(o.server, registry{d}, log.With("part", "identity"))
		desk.Lend(registry{d})
		g.Go(func() error { return desk.Run(ctx, doors.desk) })
	}
	g.Go(func() error { return d.Run(ctx, mqtt) })
	g.Go(func() error { return d.RunRollouts(ctx) })
	return g.Wait()
}

// doors are the addresses districtd listens on.
type doors struct {
	pages, orders net.Listener
	mqtt          net.Listener // nil where the broker is a program of its own
	desk          net.Listener // nil where machines have no certificates
	metrics       net.Listener // nil where nobody asks
}

func openDoors(cfg Config) (d doors, err error) {
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.pages, err = net.Listen("tcp", cfg.Console.Listen); err != nil {
		return d, fmt.Errorf("console: %w (is districtd running already?)", err)
	}
	if cfg.MQTT.Broker == "" {
		if d.mqtt, err = net.Listen("tcp", cfg.MQTT.Listen); err != nil {
			return d, fmt.Errorf("broker: %w (is another broker running?)", err)
		}
	}
	if cfg.Metrics != "" {
		if d.metrics, err = net.Listen("tcp", cfg.Metrics); err != nil {
			return d, fmt.Errorf("metrics: %w", err)
		}
	}
	if d.orders, err = listenOrders(cfg.Data); err != nil {
		return d, err
	}
	if cfg.secure() {
		if d.desk, err = net.Listen("tcp", cfg.Identity.Listen); err != nil {
			return d, fmt.Errorf("enrolment: %w", err)
		}
	}
	return d, nil
}

func (d doors) close() {
	for _, l := range []net.Listener{d.pages, d.mqtt, d.orders, d.desk, d.metrics} {
		if l != nil {
			l.Close() // usually closed already, by whoever served it
		}
	}
}

// lock keeps a second districtd off the data folder: two would write over each other.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("data folder %s: another districtd uses it: %w", dir, err), f.Close())
	}
	return f, nil
}

// serve answers a page's readers until ctx ends. Streams of events stay open, so they
// are cut, not waited for.
func serve(ctx context.Context, what string, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// signer is the key that signs, for a caller that needs nothing else.
func signer(cfg Config) (ed25519.PrivateKey, error) {
	s, err := openSigner(cfg)
	return s.Key, err
}
