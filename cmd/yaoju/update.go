package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"yaoju/daemon/update"
)

const updateUsage = `usage: yaoju update COMMAND [FLAGS]

  status    say which version runs, and how the last update ended
  rollback  put the version before back
  verify    say what is in a bundle and whether this machine would trust it
  check     decide what the next start runs; systemd runs this before kioskd
  bundle    make a signed bundle of a release
  key       make a key that signs releases

yaoju update COMMAND -h lists the flags of a command.
`

// Where a machine has its versions, what it was installed with, and whose releases
// it takes.
const (
	versionsPath    = "/opt/yaoju"
	basePath        = "/usr/lib/yaoju/base"
	releaseKeysPath = "/etc/yaoju/release.keys"
)

// updateCommand runs `yaoju update` and returns the exit code: 0 done, 1 not done,
// 2 asked in the wrong way.
func updateCommand(ctx context.Context, args []string, term terminal) int {
	if len(args) == 0 {
		fmt.Fprint(term.err, updateUsage)
		return 2
	}
	var err error
	switch args[0] {
	case "status":
		err = updateStatus(args[1:], term)
	case "rollback":
		err = updateRollback(args[1:], term)
	case "verify":
		err = updateVerify(ctx, args[1:], term)
	case "check":
		err = updateCheck(args[1:], term)
	case "bundle":
		err = updateBundle(args[1:], term)
	case "key":
		err = updateKey(args[1:], term)
	default:
		fmt.Fprintf(term.err, "yaoju update: unknown command %q\n\n%s", args[0], updateUsage)
		return 2
	}
	_, usage := errors.AsType[usageError](err)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case usage:
		fmt.Fprintf(term.err, "yaoju update %s: %v\n", args[0], err)
		return 2
	}
	fmt.Fprintf(term.err, "yaoju update %s: %v\n", args[0], err)
	return 1
}

// versionsFlags are the flags of every command that looks at a machine's versions.
func versionsFlags(name string, term terminal) (*flag.FlagSet, *update.StoreOptions, *string) {
	f := flag.NewFlagSet("yaoju update "+name, flag.ContinueOnError)
	f.SetOutput(term.err)
	o := &update.StoreOptions{Arch: runtime.GOARCH}
	f.StringVar(&o.Dir, "dir", versionsPath, "folder of versions")
	f.StringVar(&o.Base, "base", basePath, "folder of the version the machine was installed with")
	keys := f.String("keys", releaseKeysPath, "file of the release keys this machine trusts")
	return f, o, keys
}

// openVersions opens the folder with the keys, if there is a file of them.
func openVersions(o update.StoreOptions, keys string) (*update.Store, error) {
	var err error
	if o.Keys, err = releaseKeys(keys); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return update.OpenStore(o)
}

func releaseKeys(path string) ([]ed25519.PublicKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("release keys: %w", err)
	}
	defer f.Close()
	return update.ParseKeys(f)
}

func updateStatus(args []string, term terminal) error {
	f, o, keys := versionsFlags("status", term)
	if err := parse(f, args); err != nil {
		return err
	}
	s, err := openVersions(*o, *keys)
	if err != nil {
		return err
	}
	defer s.Close()
	st, err := s.Status()
	if err != nil {
		return err
	}
	printStatus(term, st)
	return nil
}

func printStatus(term terminal, st update.Status) {
	say := func(format string, args ...any) { fmt.Fprintf(term.out, format+"\n", args...) }
	if st.Current == "" {
		say("no version was started from this folder yet")
	} else {
		say("current   %s", st.Current)
	}
	if st.Previous != "" {
		say("previous  %s", st.Previous)
	}
	if st.Trial != "" {
		say("on trial  %s, started %d times", st.Trial, st.Starts)
	}
	if st.Failed != "" {
		say("          it goes at the next start: %s", st.Failed)
	}
	if o := st.Order; o != nil {
		how := fmt.Sprintf("%d of %d bytes are here", st.Fetched, o.Size)
		if st.Staged {
			how = "unpacked"
		}
		say("ordered   %s until %s, %s", o.Version, time.UnixMilli(o.DeadlineMS).Format(time.DateTime), how)
	}
	if l := st.Last; l != nil {
		say("last      %s: %s %s", l.Version, l.End, l.Words)
	}
}

func updateRollback(args []string, term terminal) error {
	f, o, keys := versionsFlags("rollback", term)
	why := f.String("why", "", "why, for whoever reads the log")
	if err := parse(f, args); err != nil {
		return err
	}
	if *why == "" {
		return usageError{errors.New("say why: -why \"...\"")}
	}
	s, err := openVersions(*o, *keys)
	if err != nil {
		return err
	}
	defer s.Close()
	did, err := s.Rollback(*why)
	if err != nil {
		return err
	}
	fmt.Fprintf(term.out, "%s\nIt counts from the next start: systemctl restart kioskd\n", did)
	return nil
}

// updateCheck runs before every start. What it cannot do must not keep the machine
// from starting: the unit ignores its exit code.
func updateCheck(args []string, term terminal) error {
	f, o, keys := versionsFlags("check", term)
	if err := parse(f, args); err != nil {
		return err
	}
	// Keys that cannot be read are not a reason to leave a version on trial for ever.
	trusted, unread := releaseKeys(*keys)
	if errors.Is(unread, fs.ErrNotExist) {
		unread = nil
	}
	o.Keys = trusted
	s, err := update.OpenStore(*o)
	if err != nil {
		return errors.Join(unread, err)
	}
	defer s.Close()
	did, err := s.Check()
	if did != "" {
		fmt.Fprintln(term.out, did)
	}
	return errors.Join(unread, err)
}
