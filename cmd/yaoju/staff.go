package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"yaoju/daemon/durable"
	"yaoju/daemon/staff"
	"yaoju/protocol"
)

const staffUsage = `usage: yaoju staff FILE add NUMBER ROLE BADGE...   add or change an account; asks for its PIN
       yaoju staff FILE remove NUMBER              take an account away
       yaoju staff FILE list                       say who is in it, without badges and PINs

FILE holds the accounts of members of staff: districtd's setting "accounts" names it, or
kioskd -accounts FILE puts it into one machine. ROLE is restocker, technician or auditor.
BADGE is the card's kind and number, such as nfc:04A1B2C3D4E5F6 or wiegand26:A1B2C3.
`

// staffCommand keeps a file of accounts.
func staffCommand(_ context.Context, args []string, t terminal) int {
	f := flag.NewFlagSet("yaoju staff", flag.ContinueOnError)
	f.SetOutput(t.err)
	f.Usage = func() { fmt.Fprint(t.err, staffUsage) }
	if err := f.Parse(args); err != nil {
		return 2
	}
	if f.NArg() < 2 {
		f.Usage()
		return 2
	}
	file, order, words := f.Arg(0), f.Arg(1), f.Args()[2:]
	if err := keepStaff(file, order, words, t); err != nil {
		fmt.Fprintln(t.err, "yaoju staff:", err)
		return 1
	}
	return 0
}

func keepStaff(file, order string, words []string, t terminal) error {
	var all protocol.Secrets
	b, err := os.ReadFile(file)
	if err == nil {
		all, err = protocol.DecodeSecrets(b)
	} else if errors.Is(err, fs.ErrNotExist) && order == "add" {
		err = nil // the first account makes the file
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	named := func(number string) func(protocol.Account) bool {
		return func(a protocol.Account) bool { return a.Staff == number }
	}
	switch {
	case order == "list" && len(words) == 0:
		for _, a := range all.Accounts {
			fmt.Fprintf(t.out, "%s  %s  %d badges\n", a.Staff, a.Role, len(a.Badges))
		}
		return nil
	case order == "remove" && len(words) == 1:
		if !slices.ContainsFunc(all.Accounts, named(words[0])) {
			return fmt.Errorf("%s: no account %s is in it", file, words[0])
		}
		all.Accounts = slices.DeleteFunc(all.Accounts, named(words[0]))
	case order == "add" && len(words) >= 3:
		a := protocol.Account{Staff: words[0], Role: protocol.Role(words[1])}
		for _, w := range words[2:] {
			kind, uid, _ := strings.Cut(w, ":")
			a.Badges = append(a.Badges, protocol.Badge{Kind: kind, UID: strings.ToUpper(uid)})
		}
		pin, err := askPIN(t)
		if err != nil {
			return err
		}
		if a.PIN, err = staff.NewPIN(pin); err != nil {
			return err
		}
		all.Accounts = append(slices.DeleteFunc(all.Accounts, named(a.Staff)), a)
	default:
		return errors.New("want add NUMBER ROLE BADGE..., remove NUMBER, or list")
	}
	if err := protocol.ValidAccounts(all.Accounts); err != nil {
		return err
	}
	if err := durable.WriteFile(file, append(protocol.Encode(all), '\n')); err != nil {
		return err
	}
	fmt.Fprintf(t.out, "%s holds %d accounts.\n", file, len(all.Accounts))
	return nil
}

// askPIN reads a PIN twice, without showing it where there is a terminal.
func askPIN(t terminal) (string, error) {
	if was, err := unix.IoctlGetTermios(int(t.in.Fd()), unix.TCGETS); err == nil {
		hidden := *was
		hidden.Lflag &^= unix.ECHO
		if err := unix.IoctlSetTermios(int(t.in.Fd()), unix.TCSETS, &hidden); err != nil {
			return "", fmt.Errorf("hide the PIN: %w", err)
		}
		defer func() { _ = unix.IoctlSetTermios(int(t.in.Fd()), unix.TCSETS, was) }() // the terminal is as it was, or gone
	}
	lines := bufio.NewReader(io.LimitReader(t.in, 256))
	ask := func(what string) (string, error) {
		fmt.Fprint(t.err, what)
		line, err := lines.ReadString('\n')
		fmt.Fprintln(t.err)
		if err != nil && (line == "" || !errors.Is(err, io.EOF)) {
			return "", fmt.Errorf("read the PIN: %w", err)
		}
		return strings.TrimSpace(line), nil
	}
	pin, err := ask("PIN, six digits: ")
	if err != nil {
		return "", err
	}
	again, err := ask("once more: ")
	if err == nil && again != pin {
		err = errors.New("the two PINs differ; nothing was changed")
	}
	return pin, err
}
