package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"yaoju/daemon/config"
	"yaoju/daemon/identity"
	"yaoju/protocol"
)

// enrolFile is what of kioskd.toml an enrolment needs. Everything else in the file
// is for kioskd to judge.
type enrolFile struct {
	Machine  protocol.MachineID `toml:"machine"`
	Data     string             `toml:"data"`
	District struct {
		Broker string `toml:"broker"`
		Enrol  string `toml:"enrol"`
	} `toml:"district"`
}

func readEnrolFile(path string) (enrolFile, error) {
	var e enrolFile
	f, err := os.Open(path)
	if err != nil {
		return e, fmt.Errorf("the machine's configuration: %w", err)
	}
	defer f.Close()
	d := config.Decode(path, f, &e) // it complains of keys that are kioskd's too
	if e.Machine.Valid() != nil || e.Data == "" {
		d.Check("machine", e.Machine.Valid())
		d.Need(e.Data != "", "data", "missing: the folder of the ledger")
		return e, d.Err()
	}
	return e, nil
}

// renewsAt is where kioskd will ask for the next certificate.
func (e enrolFile) renewsAt() string {
	if e.District.Enrol != "" {
		return e.District.Enrol
	}
	u, err := url.Parse(e.District.Broker)
	if err != nil {
		return "" // kioskd complains of it
	}
	return net.JoinHostPort(u.Hostname(), "8884")
}

// enrolCommand is 'yaoju enrol'.
func enrolCommand(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("yaoju enrol", flag.ContinueOnError)
	f.SetOutput(out)
	path := f.String("config", kioskConfigPath, "kioskd.toml of the machine")
	anew := f.Bool("new-key", false, "make a new key, as after a revocation")
	f.Usage = func() {
		fmt.Fprint(out, "usage: yaoju enrol [FLAGS] LINE\n\nLINE is what 'districtd enrol MACHINE' prints on the district's computer.\n\n")
		f.PrintDefaults()
	}
	text := ""
	for rest := args; ; rest = f.Args()[1:] { // flags may stand behind LINE as well
		if err := f.Parse(rest); err != nil {
			return err
		}
		if f.NArg() == 0 {
			break
		}
		if text != "" {
			return fmt.Errorf("want one line, without blanks in it: %q is too much", f.Arg(0))
		}
		text = f.Arg(0)
	}
	l, err := identity.ParseLine(text)
	if err != nil {
		return err
	}
	e, err := readEnrolFile(*path)
	if err != nil {
		return err
	}
	if err := checkData(e.Data); err != nil {
		return err
	}
	enrol := identity.Enrol
	if *anew {
		enrol = identity.EnrolAnew
	}
	n, err := enrol(ctx, identity.Options{Dir: filepath.Join(e.Data, "identity"), Machine: e.Machine, Desk: l.Address,
		Synced: kernelSynced, Dial: dialTCP, Log: slog.New(slog.DiscardHandler)}, l)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s has its certificate, good until %s. kioskd uses it at its next attempt to reach the district.\n", n.Machine, n.Until.Format(time.DateOnly))
	if at := e.renewsAt(); at != l.Address {
		fmt.Fprintf(out, "It would be renewed at %q, which is not where it came from. Write into %s, under [district]:\n\n  enrol = %s\n\n", at, *path, quote(l.Address))
	}
	return nil
}

// checkData refuses a data folder that is not there: whoever makes it owns it, and it
// has to be kioskd.
func checkData(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("the machine's data folder: %w: start kioskd once, which makes it", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if me := os.Geteuid(); ok && me != 0 && me != int(owner.Uid) {
		return fmt.Errorf("the machine's data folder %s is kioskd's: run this with sudo", dir)
	}
	return nil
}

// kernelSynced asks the kernel whether somebody has set its clock.
func kernelSynced() bool {
	const timeError = 5 // adjtimex(2): nobody has
	state, err := syscall.Adjtimex(&syscall.Timex{})
	return err == nil && state != timeError
}

func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second} // a mobile network may take this long to route
	return d.DialContext(ctx, "tcp", address)
}
