// Command districtd runs a district: it takes in what machines report, keeps
// it, tells them what should be so, and shows it to the people who look after them.
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
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

	"yaoju/daemon/district"
	"yaoju/protocol"
)

// version is set by the release build with -ldflags "-X main.version=...".
var version = "dev"

func main() {
	path := flag.String("config", "/etc/yaoju/districtd.toml", "configuration file")
	check := flag.Bool("check", false, "check the configuration and exit")
	key := flag.Bool("key", false, "print the public key that machines must trust, making the key if there is none, and exit")
	show := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *show {
		fmt.Println("districtd", version)
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *key {
		err = printKey(cfg)
	} else {
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

func printKey(cfg Config) error {
	k, err := signer(cfg)
	if err == nil {
		fmt.Println(publicKey(k))
	}
	return err
}

// publicKey is the key as machines have it in their configuration.
func publicKey(k ed25519.PrivateKey) string {
	return base64.StdEncoding.EncodeToString(k.Public().(ed25519.PublicKey))
}

func run(ctx context.Context, cfg Config, log *slog.Logger) error {
	key, err := signer(cfg)
	if err != nil {
		return err
	}
	held, err := lock(cfg.Data)
	if err != nil {
		return err
	}
	defer held.Close()
	pages, err := net.Listen("tcp", cfg.Console.Listen)
	if err != nil {
		return fmt.Errorf("console: %w (is districtd running already?)", err)
	}
	mqtt, err := net.Listen("tcp", cfg.MQTT.Listen)
	if err != nil {
		return errors.Join(fmt.Errorf("broker: %w (is another broker running?)", err), pages.Close())
	}
	d, err := district.Open(ctx, district.Options{Path: filepath.Join(cfg.Data, "district.db"), Name: protocol.Text(cfg.Name), Zone: cfg.zone, Lang: cfg.Lang,
		Hosts: []string{pages.Addr().String()}, Signer: key, AcceptUnknown: cfg.AcceptUnknown, Log: log.With("part", "district")})
	if err != nil {
		return err
	}
	defer d.Close()
	for _, m := range cfg.Machines {
		if err := d.PutMachine(ctx, m.place()); err != nil {
			return err
		}
		if _, err := d.SetDesired(ctx, cfg.desired(m)); err != nil {
			return err
		}
	}
	log.Info("districtd started", "version", version, "console", "http://"+pages.Addr().String(), "broker", mqtt.Addr().String(), "key", publicKey(key))

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.Run(ctx, mqtt) })
	g.Go(func() error { return serve(ctx, pages, d.Handler()) })
	return g.Wait()
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

// serve answers the console until ctx ends. Streams of events stay open, so they
// are cut, not waited for.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("console: %w", err)
	}
	return nil
}

// signer reads the district's signing key, or makes it. Machines obey nobody
// else: a key that is lost has to be replaced on every machine, so back it up.
func signer(cfg Config) (ed25519.PrivateKey, error) {
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	path := filepath.Join(cfg.Data, "district.key")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeSigner(path)
	}
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("signing key %s: others can read it: chmod 600 it, and make a new one if they may have", path)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("signing key %s: not a PEM file: restore it from the backup", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if k, ok := key.(ed25519.PrivateKey); err == nil && ok {
		return k, nil
	}
	return nil, fmt.Errorf("signing key %s: not an Ed25519 key: restore it from the backup", path)
}

func makeSigner(path string) (ed25519.PrivateKey, error) {
	_, k, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	err = errors.Join(pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der}), f.Sync(), f.Close())
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	return k, nil
}
