package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"yaoju/daemon/cabinet"
	"yaoju/daemon/ledger"
	"yaoju/protocol"
	"yaoju/protocol/board"
)

const boardUsage = `usage: yaoju board COMMAND [FLAGS]

  info      say who the motor board is and how it stands
  flash     write firmware into the motor board

yaoju board COMMAND -h lists the flags of a command.
`

// kioskConfigPath is where a machine has its configuration.
const kioskConfigPath = "/etc/yaoju/kioskd.toml"

// terminal is what a command reads and writes.
type terminal struct {
	in       *os.File
	out, err io.Writer
}

// A usageError is a command that was not given as it must be.
type usageError struct{ error }

// boardCommand runs `yaoju board` and returns the exit code: 0 done, 1 not done,
// 2 asked in the wrong way.
func boardCommand(ctx context.Context, args []string, term terminal) int {
	if len(args) == 0 {
		fmt.Fprint(term.err, boardUsage)
		return 2
	}
	var err error
	switch args[0] {
	case "info":
		err = boardInfo(ctx, args[1:], term)
	case "flash":
		err = boardFlash(ctx, args[1:], term)
	default:
		fmt.Fprintf(term.err, "yaoju board: unknown command %q\n\n%s", args[0], boardUsage)
		return 2
	}
	_, usage := errors.AsType[usageError](err)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case usage:
		fmt.Fprintf(term.err, "yaoju board %s: %v\n", args[0], err)
		return 2
	}
	fmt.Fprintf(term.err, "yaoju board %s: %v\n", args[0], err)
	return 1
}

// parse reads the flags of one command, which takes no further words.
func parse(f *flag.FlagSet, args []string) error {
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usageError{errors.New("see above")} // the flag set has said what is wrong
	}
	if f.NArg() > 0 {
		return usageError{fmt.Errorf("nothing is to be said after the flags, and there is %q", f.Arg(0))}
	}
	return nil
}

// place is where a board is: in a machine, or on a bench.
type place struct {
	port  string
	baud  int
	kiosk *cabinet.Config // nil on a bench
}

// findPlace reads the configuration, if there is one; port overrides what it says
// of the line.
func findPlace(configPath, port string) (place, error) {
	p := place{port: port, baud: board.Baud}
	if configPath == "" {
		return p, nil
	}
	k, err := cabinet.Read(configPath)
	if err != nil {
		return p, err
	}
	if k.Board.Kind != cabinet.KindOwn {
		return p, fmt.Errorf("the machine of %s has no motor board of ours: board.kind is %q", configPath, k.Board.Kind)
	}
	p.kiosk, p.baud = &k, k.Board.Baud
	if port == "" {
		p.port = k.Board.Path
	}
	return p, nil
}

// hold keeps kioskd away from the board until the file is closed: it takes the
// same lock. Without a machine, or where kioskd has never run, there is nothing to
// hold and the file is nil.
func (p place) hold() (*os.File, error) {
	if p.kiosk == nil {
		return nil, nil
	}
	return holdData(p.kiosk.Data)
}

// openVend is a vend of the machine's ledger whose end is not settled.
type openVend struct {
	id   protocol.VendID
	slot protocol.Slot
}

// openVends lists the vends that the board in this machine may still have to tell
// about. Hold must have been called. The ledger itself is not touched: opening one
// records a start, and moves a damaged one aside, and both are kioskd's to do. What
// is opened is a copy, and it lies in memory because a ledger holds marks.
func (p place) openVends(ctx context.Context) (open []openVend, err error) {
	if p.kiosk == nil {
		return nil, nil
	}
	path := filepath.Join(p.kiosk.Data, "ledger.db")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil // kioskd has never run
	}
	dir, err := os.MkdirTemp("/dev/shm", "yaoju-")
	if err != nil {
		return nil, fmt.Errorf("a place for a copy of the ledger: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	copied := filepath.Join(dir, "ledger.db")
	for _, part := range []string{"", "-wal"} {
		if err := copyFile(copied+part, path+part); err != nil && !(part != "" && errors.Is(err, fs.ErrNotExist)) {
			return nil, fmt.Errorf("copy the ledger: %w", err)
		}
	}
	l, err := ledger.Open(ctx, ledger.Options{Path: copied, Machine: p.kiosk.Machine, Software: "yaoju " + version, Zone: p.kiosk.Location(),
		Log: slog.New(slog.DiscardHandler), Synced: func() bool { return true }}) // nobody reads what the copy records
	if err != nil {
		return nil, fmt.Errorf("copy of %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if aside, err := filepath.Glob(copied + ".damaged-*"); err != nil || len(aside) > 0 {
		return nil, errors.Join(fmt.Errorf("the ledger %s is damaged: nobody can tell which vends are open; start kioskd once, which puts it aside", path), err)
	}
	vends, err := l.Open(ctx)
	for _, v := range vends {
		if !v.Orphan { // an orphan was given to another board, or to this one before it lost its memory
			open = append(open, openVend{v.ID, v.Slot})
		}
	}
	return open, err
}

func copyFile(to, from string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
