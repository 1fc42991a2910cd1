package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"yaoju/daemon/ledger"
	"yaoju/daemon/update"
)

func updateBundle(args []string, term terminal) error {
	f := flag.NewFlagSet("yaoju update bundle", flag.ContinueOnError)
	f.SetOutput(term.err)
	m := update.Manifest{Format: 1}
	dir := f.String("dir", "", "folder with kioskd and yaoju, built for the machines")
	key := f.String("key", "", "file of the release key, made by yaoju update key")
	out := f.String("out", "", "file to write")
	base := f.Bool("base", false, "write only the manifest, unsigned: for the folder a package installs")
	built := f.Int64("built", 0, "when it was built, in Unix seconds: such as the last commit's time")
	firmware := f.Uint("firmware", 0, "build of the motor board's firmware that belongs to it")
	f.StringVar(&m.Version, "version", "", "version, as the programs print it")
	f.StringVar(&m.Arch, "arch", "arm64", "arm64 or amd64")
	f.IntVar(&m.Ledger.Writes, "ledger-writes", ledger.Writes, "version of the ledger's file it writes, if it is not of this program's source")
	f.IntVar(&m.Ledger.Oldest, "ledger-oldest", ledger.Oldest, "oldest version of it that it reads, likewise")
	f.IntVar(&m.Ledger.Newest, "ledger-newest", ledger.Newest, "newest version of it that it reads, likewise")
	if err := parse(f, args); err != nil {
		return err
	}
	if *dir == "" || *out == "" || (*key == "") != *base {
		return usageError{errors.New("want -dir and -out, and either -key or -base")}
	}
	if *firmware > 1<<32-1 {
		return usageError{errors.New("-firmware: too large")}
	}
	m.BuiltMS, m.Firmware = *built*1000, uint32(*firmware)
	for _, name := range []string{"kioskd", "yaoju"} {
		file, err := sumFile(*dir, name)
		if err != nil {
			return err
		}
		m.Files = append(m.Files, file)
	}
	if *base {
		text, err := update.Unsigned(m)
		if err != nil {
			return err
		}
		return os.WriteFile(*out, text, 0o644)
	}
	k, err := readReleaseKey(*key)
	if err != nil {
		return err
	}
	return writeBundle(term, *out, *dir, k, m)
}

func sumFile(dir, name string) (update.File, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return update.File{}, err
	}
	defer f.Close()
	return update.Sum(name, f)
}

// writeBundle writes the bundle and prints what its order must say.
func writeBundle(term terminal, out, dir string, k ed25519.PrivateKey, m update.Manifest) (err error) {
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(out))
		}
	}()
	sum := sha256.New()
	size := &counter{}
	w := bufio.NewWriter(io.MultiWriter(f, sum, size))
	if err := update.WriteBundle(w, k, m, os.DirFS(dir)); err != nil {
		return err
	}
	if err := errors.Join(w.Flush(), f.Sync()); err != nil {
		return err
	}
	fmt.Fprintf(term.out, "version  %s for %s\nsha256   %s\nsize     %d\nkey      %s\n", m.Version, m.Arch,
		hex.EncodeToString(sum.Sum(nil)), size.n, base64.StdEncoding.EncodeToString(k.Public().(ed25519.PublicKey)))
	return nil
}

// counter counts bytes.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// readReleaseKey reads a key that nobody but its owner may read.
func readReleaseKey(path string) (ed25519.PrivateKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("release key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("release key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("release key %s: others can read it: chmod 600 it, and make a new one if they may have", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, 1<<10))
	if err != nil {
		return nil, fmt.Errorf("release key: %w", err)
	}
	seed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("release key %s: not one that yaoju update key made", path)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// updateKey makes a release key and prints the line by which machines trust it.
func updateKey(args []string, term terminal) error {
	f := flag.NewFlagSet("yaoju update key", flag.ContinueOnError)
	f.SetOutput(term.err)
	out := f.String("out", "", "file to write; keep it where only those who release can read it")
	if err := parse(f, args); err != nil {
		return err
	}
	if *out == "" {
		return usageError{errors.New("want -out FILE")}
	}
	public, k, err := ed25519.GenerateKey(nil)
	if err != nil {
		return fmt.Errorf("make a release key: %w", err)
	}
	file, err := os.OpenFile(*out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(file, base64.StdEncoding.EncodeToString(k.Seed()))
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(*out))
	}
	fmt.Fprintf(term.out, "a line for %s on each machine:\n%s\n", releaseKeysPath, base64.StdEncoding.EncodeToString(public))
	return nil
}

// updateVerify reads a whole bundle as a machine would, and keeps nothing of it.
func updateVerify(ctx context.Context, args []string, term terminal) error {
	f := flag.NewFlagSet("yaoju update verify", flag.ContinueOnError)
	f.SetOutput(term.err)
	path := f.String("bundle", "", "the bundle")
	keys := f.String("keys", releaseKeysPath, "file of the release keys that are trusted")
	if err := parse(f, args); err != nil {
		return err
	}
	if *path == "" {
		return usageError{errors.New("want -bundle FILE")}
	}
	trusted, err := releaseKeys(*keys)
	if err != nil {
		return err
	}
	src, err := os.Open(*path)
	if err != nil {
		return err
	}
	defer src.Close()
	m, _, err := update.ReadBundle(src, trusted, func(update.Manifest) error { return nil }, func(f update.File, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return errors.Join(err, ctx.Err())
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(term.out, "version  %s for %s, built %s\nledger   writes %d, reads %d to %d\nfirmware %d\n", m.Version, m.Arch,
		time.UnixMilli(m.BuiltMS).UTC().Format(time.RFC3339), m.Ledger.Writes, m.Ledger.Oldest, m.Ledger.Newest, m.Firmware)
	for _, file := range m.Files {
		fmt.Fprintf(term.out, "file     %s %d bytes\n", file.Name, file.Size)
	}
	fmt.Fprintln(term.out, "whole, and signed by a trusted release key")
	return nil
}
