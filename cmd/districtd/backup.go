package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"yaoju/daemon/durable"
	"yaoju/daemon/identity"
	"yaoju/daemon/identity/backup"
)

// treasure lists what a backup holds, below the data folder: what machines know the
// district by. It is made once; everything else the district gets again from them.
func treasure() []string {
	files := []string{signerFile}
	for _, f := range identity.CAFiles() {
		files = append(files, path.Join(caFolder, f))
	}
	return files
}

// backUp writes the treasure to a new file, under a passphrase.
func backUp(data, file, passphrase string, work int) error {
	files := map[string][]byte{}
	for _, name := range treasure() {
		b, err := os.ReadFile(filepath.Join(data, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the root's key may lie in a safe; a trial has no CA
		}
		if err != nil {
			return fmt.Errorf("backup: %w", err)
		}
		files[name] = b
	}
	if files[signerFile] == nil {
		return fmt.Errorf("backup: there is no %s in %s yet: start districtd first", signerFile, data)
	}
	if err := readable(data); err != nil {
		return fmt.Errorf("backup: what is there is not sound, and would not be after a restore: %w", err)
	}
	var sealed bytes.Buffer
	if err := backup.Seal(&sealed, passphrase, work, files); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	_, err = f.Write(sealed.Bytes())
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("backup: %w", err), os.Remove(file))
	}
	return proven(file, passphrase, files)
}

// readable checks the signing key and the CA as they are, and changes nothing.
func readable(data string) error {
	if _, err := identity.OpenSigner(filepath.Join(data, signerFile)); err != nil {
		return err
	}
	err := identity.CheckCA(filepath.Join(data, caFolder))
	if errors.Is(err, identity.ErrNoCA) {
		return nil
	}
	return err
}

// proven opens the backup that was just written: one that nobody ever opened is none.
func proven(file, passphrase string, files map[string][]byte) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("backup: read it again: %w", err)
	}
	defer f.Close()
	got, err := backup.Open(f, passphrase)
	if err != nil {
		return fmt.Errorf("backup: read it again: %w", err)
	}
	if !maps.EqualFunc(got, files, bytes.Equal) {
		return fmt.Errorf("backup: %s holds something else than was written: use another disk", file)
	}
	return nil
}

// restore puts a backup into a data folder that holds no other keys. All of it is
// read and found sound before the first file is put in its place.
func restore(data, file, passphrase string, now time.Time) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer f.Close()
	files, err := backup.Open(f, passphrase)
	if err != nil {
		return err
	}
	if files[signerFile] == nil {
		return errors.New("restore: the backup holds no signing key")
	}
	for name, b := range files {
		if !slices.Contains(treasure(), name) {
			return fmt.Errorf("restore: the backup holds %q, which this program does not know", name)
		}
		have, err := os.ReadFile(filepath.Join(data, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("restore: %w", err)
		}
		if err == nil && !bytes.Equal(have, b) {
			return fmt.Errorf("restore: %s is there and differs: move it away if the backup is the one that machines know", filepath.Join(data, name))
		}
	}
	stage, err := os.MkdirTemp(data, ".restore-")
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer os.RemoveAll(stage) // what is left in it is in its place as well
	if err := lay(stage, files); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := sound(stage, now); err != nil {
		return fmt.Errorf("restore: the backup is not sound: %w", err)
	}
	return lay(data, files)
}

// lay writes the files below dir, the CA's root last: without it there is no CA.
func lay(dir string, files map[string][]byte) error {
	for _, name := range treasure() {
		b, ok := files[name]
		if !ok {
			continue
		}
		if err := os.MkdirAll(filepath.Join(dir, path.Dir(name)), 0o700); err != nil {
			return err
		}
		if err := durable.WriteFile(filepath.Join(dir, name), b); err != nil {
			return err
		}
	}
	return nil
}

func sound(dir string, now time.Time) error {
	if _, err := identity.OpenSigner(filepath.Join(dir, signerFile)); err != nil {
		return err
	}
	_, err := identity.OpenCA(filepath.Join(dir, caFolder), now)
	if errors.Is(err, identity.ErrNoCA) {
		return nil
	}
	return err
}

// keepCA is 'districtd ca backup FILE' and 'districtd ca restore FILE'.
func keepCA(ctx context.Context, cfg Config, what, file string, in *os.File, say io.Writer) error {
	switch what {
	case "backup":
		p, err := askPassphrase(ctx, in, say, "Passphrase for the backup: ", "The same again: ")
		if err != nil {
			return err
		}
		if err := backUp(cfg.Data, file, p, backup.Work); err != nil {
			return err
		}
		fmt.Fprintf(say, `%s is written, and was opened again with the passphrase.
It holds all that machines know this district by: the CA and the signing key. It does not hold the database.
Keep it on another computer or in a safe, and the passphrase apart from it. Make another after 'districtd keys rotate'.
`, file)
		return nil
	case "restore":
		if err := ours(cfg.Data); err != nil {
			return err
		}
		if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
			return fmt.Errorf("data folder: %w", err)
		}
		held, err := lock(cfg.Data)
		if err != nil {
			return fmt.Errorf("%w: stop it first", err)
		}
		defer held.Close()
		p, err := askPassphrase(ctx, in, say, "Passphrase of the backup: ")
		if err != nil {
			return err
		}
		if err := restore(cfg.Data, file, p, time.Now()); err != nil {
			return err
		}
		fmt.Fprint(say, `Restored. Start districtd: machines know it as before.
If the database was lost as well, it knows no machine's key: they come back after 'districtd consent ALL'.
`)
		return nil
	}
	return fmt.Errorf("unknown order; known are:\n%s", orders)
}

// askPassphrase reads a passphrase: from a terminal once for each prompt, without
// showing it, else the first line of what is piped in.
func askPassphrase(ctx context.Context, in *os.File, say io.Writer, prompts ...string) (string, error) {
	r := bufio.NewReader(io.LimitReader(in, 4096))
	was, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
	if err != nil { // not a terminal
		return readLine(r)
	}
	silent := *was
	silent.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, &silent); err != nil {
		return "", fmt.Errorf("passphrase: %w", err)
	}
	show := func() { unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, was) } // a terminal that went away needs nothing
	defer show()
	stop := context.AfterFunc(ctx, func() { // Ctrl-C, which does not end a read
		show()
		os.Exit(130)
	})
	defer stop()
	var first string
	for i, prompt := range prompts {
		fmt.Fprint(say, prompt)
		line, err := readLine(r)
		fmt.Fprintln(say)
		if err != nil {
			return "", err
		}
		if i > 0 && line != first {
			return "", errors.New("passphrase: the two differ")
		}
		first = line
	}
	return first, nil
}

func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	line = strings.TrimRight(line, "\r\n")
	if err != nil && !(errors.Is(err, io.EOF) && line != "") {
		return "", fmt.Errorf("passphrase: %w", err)
	}
	return line, nil
}
