package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"yaoju/daemon/config"
	"yaoju/daemon/identity"
	"yaoju/daemon/identity/tpm"
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
	anew := f.Bool("new-key", false, "make a new key, as after a revocation or on another computer")
	place := f.String("key", "auto", "where a new key is made: tpm, file, or auto for the TPM if there is one")
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
	if err := become(e.Data); err != nil {
		return err
	}
	chip := tpm.New(tpm.Open)
	inTPM, err := keyPlace(*place, chip.Check, out)
	if err != nil {
		return err
	}
	o := identity.Options{Dir: filepath.Join(e.Data, "identity"), Machine: e.Machine, Desk: l.Address,
		Synced: kernelSynced, Dial: dialTCP, Log: slog.New(slog.DiscardHandler), Vault: chip, KeyInVault: inTPM}
	enrol := identity.Enrol
	if *anew {
		enrol = identity.EnrolAnew
	}
	n, err := enrol(ctx, o, l)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s is enrolled.\n", n.Machine)
	for _, w := range identity.Describe(o).Words {
		fmt.Fprintf(out, "- %s\n", w)
	}
	fmt.Fprintln(out, "- kioskd takes it up by itself at its next attempt to reach the district, within minutes")
	if at := e.renewsAt(); at != l.Address {
		fmt.Fprintf(out, "\nkioskd would renew the certificate at %q, which is not where it came from.\nWrite into %s, under [district]:\n\n  enrol = %s\n\nand restart kioskd: sudo systemctl restart kioskd\n", at, *path, quote(l.Address))
	}
	return nil
}

// keyPlace decides whether a new key is made in the TPM, and says so if there is one
// that cannot be used.
func keyPlace(place string, check func() error, out io.Writer) (inTPM bool, err error) {
	switch place {
	case "file":
		return false, nil
	case "tpm":
		return true, check()
	case "auto":
		err := check()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(out, "A new key goes into a file: %v\n", err)
		}
		return err == nil, nil
	}
	return false, fmt.Errorf("-key %q: want auto, tpm or file", place)
}

// become goes on as the user whose data folder it is, kioskd's: what root makes there
// kioskd could not read, and what root does there kioskd's user could redirect. The
// folder has to be there, because whoever makes it owns it.
func become(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("the machine's data folder: %w: start kioskd once, which makes it", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	me := os.Geteuid()
	if !ok || me == int(owner.Uid) {
		return nil
	}
	if me != 0 {
		return fmt.Errorf("the machine's data folder %s is kioskd's: run this with sudo", dir)
	}
	uid, gid := int(owner.Uid), int(owner.Gid)
	for _, err := range []error{syscall.Setgroups(groupsOf(uid, gid)), syscall.Setgid(gid), syscall.Setuid(uid)} {
		if err != nil {
			return fmt.Errorf("become the user with the number %d: %w", uid, err)
		}
	}
	return nil
}

// groupsOf are the groups of a user, of which one may open the TPM.
func groupsOf(uid, gid int) []int {
	groups := []int{gid}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return groups // a user without a name is in no other group
	}
	names, err := u.GroupIds()
	if err != nil {
		return groups // likewise
	}
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil && n != gid {
			groups = append(groups, n)
		}
	}
	return groups
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
