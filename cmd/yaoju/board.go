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
	"syscall"
	"time"

	"yaoju/daemon/config"
	"yaoju/daemon/ledger"
	"yaoju/daemon/machine"
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

// kioskFile is kioskd.toml with every key it may have, because unknown ones are
// refused. What is needed here is checked here; the rest is kioskd's to judge.
type kioskFile struct {
	Machine  protocol.MachineID `toml:"machine"`
	Data     string             `toml:"data"`
	Zone     string             `toml:"zone"`
	Consent  string             `toml:"consent"`
	Clock    string             `toml:"clock"`
	Log      string             `toml:"log"`
	Screen   kioskScreen        `toml:"screen"`
	Board    kioskBoard         `toml:"board"`
	Reader   kioskLine          `toml:"reader"`
	District kioskDistrict      `toml:"district"`

	zone   *time.Location
	motors board.Configure // what hangs on the board
}

type kioskScreen struct {
	Listen string `toml:"listen"`
	Frame  string `toml:"frame"`
}

type kioskBoard struct {
	Path    string   `toml:"path"`
	Baud    int      `toml:"baud"`
	Slots   []string `toml:"slots"`
	Pairs   []int    `toml:"pairs"`
	LeaveMS int      `toml:"leave_ms"`
	TurnMS  int      `toml:"turn_ms"`
	SlowMS  int      `toml:"slow_ms"`
	JamMA   int      `toml:"jam_ma"`
	JamMS   int      `toml:"jam_ms"`
	OpenMA  int      `toml:"open_ma"`
}

// usualKioskBoard has what kioskd takes where the file says nothing.
func usualKioskBoard() kioskBoard {
	f := machine.UsualFitting()
	return kioskBoard{Baud: board.Baud, LeaveMS: f.LeaveMS, TurnMS: f.TurnMS, SlowMS: f.SlowMS, JamMA: f.JamMA, JamMS: f.JamMS, OpenMA: f.OpenMA}
}

func (b kioskBoard) fitting() machine.Fitting {
	return machine.Fitting{Slots: b.Slots, Pairs: b.Pairs, LeaveMS: b.LeaveMS, TurnMS: b.TurnMS, SlowMS: b.SlowMS, JamMA: b.JamMA, JamMS: b.JamMS, OpenMA: b.OpenMA}
}

type kioskLine struct {
	Path string `toml:"path"`
	Baud int    `toml:"baud"`
}

type kioskDistrict struct {
	Broker string   `toml:"broker"`
	TLS    string   `toml:"tls"`
	Enrol  string   `toml:"enrol"`
	Keys   []string `toml:"keys"`
}

func readKioskFile(path string) (kioskFile, error) {
	k := kioskFile{Zone: "Asia/Shanghai", Board: usualKioskBoard()}
	f, err := os.Open(path)
	if err != nil {
		return k, fmt.Errorf("the machine's configuration: %w", err)
	}
	defer f.Close()
	d := config.Decode(path, f, &k)
	d.Check("machine", k.Machine.Valid())
	d.Need(k.Data != "", "data", "missing: the folder of the ledger")
	d.Need(k.Board.Path != "", "board.path", "missing: the motor board's serial line")
	d.Need(k.Board.Baud >= 9600 && k.Board.Baud <= 1000000, "board.baud", "want 9600 to 1000000 bits per second")
	k.motors = k.Board.fitting().Configure(func(key string, err error) { d.Check("board."+key, err) })
	k.zone, err = time.LoadLocation(k.Zone)
	d.Check("zone", err)
	return k, d.Err()
}

// place is where a board is: in a machine, or on a bench.
type place struct {
	port  string
	baud  int
	kiosk *kioskFile // nil on a bench
}

// findPlace reads the configuration, if there is one; port overrides what it says
// of the line.
func findPlace(configPath, port string) (place, error) {
	p := place{port: port, baud: board.Baud}
	if configPath == "" {
		return p, nil
	}
	k, err := readKioskFile(configPath)
	if err != nil {
		return p, err
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
	folder, err := os.Stat(p.kiosk.Data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the machine's data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(p.kiosk.Data, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the machine's data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("kioskd runs and has the motor board (%w); stop kioskd first: systemctl stop kioskd", err), f.Close())
	}
	// Made by root it would shut kioskd out. It is the folder's owner's.
	if owner, ok := folder.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			return nil, errors.Join(fmt.Errorf("the machine's lock: %w", err), f.Close())
		}
	}
	return f, nil
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
	l, err := ledger.Open(ctx, ledger.Options{Path: copied, Machine: p.kiosk.Machine, Software: "yaoju " + version, Zone: p.kiosk.zone,
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
