package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"yaoju/daemon/cabinet"
	"yaoju/daemon/durable"
	"yaoju/daemon/ledger"
	"yaoju/protocol"
)

const dataUsage = `usage: yaoju data COMMAND [FLAGS] [FILE]

  fill          write into the ledger what was put into the slots
  export FILE   take the machine's memory off this card, to carry it to another
  import FILE   put a machine's memory onto this card
  wipe-marks    forget who had what: everybody may take again
  retire        end this machine: forget marks, keys and certificate

kioskd must be stopped: systemctl stop kioskd. yaoju data COMMAND -h lists the flags.
`

// Names in the data folder.
const (
	ledgerFile = "ledger.db"
	marksFile  = "marks.key"
	lockFile   = "lock"
	statusFile = "kioskd.sock"
)

// dataCommand runs `yaoju data` and returns the exit code: 0 done, 1 not done, 2
// asked in the wrong way.
func dataCommand(ctx context.Context, args []string, term terminal) int {
	commands := map[string]func(context.Context, dataJob) error{"fill": dataFill, "export": dataExport, "import": dataImport, "wipe-marks": dataWipe, "retire": dataRetire}
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprint(term.err, dataUsage)
		return 2
	}
	name := args[0]
	j, err := parseData(name, args[1:], term)
	if err == nil {
		err = j.run(ctx, commands[name])
	}
	_, usage := errors.AsType[usageError](err)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case usage:
		fmt.Fprintf(term.err, "yaoju data %s: %v\n", name, err)
		return 2
	}
	fmt.Fprintf(term.err, "yaoju data %s: %v\n", name, err)
	return 1
}

// dataJob is one command on one machine's data folder, with kioskd kept away.
type dataJob struct {
	cfg   cabinet.Config
	file  string // export and import
	keep  bool   // export: this card goes on
	force bool   // retire: although something is open
	fill  filling
	out   io.Writer
}

func parseData(name string, args []string, term terminal) (dataJob, error) {
	f := flag.NewFlagSet("yaoju data "+name, flag.ContinueOnError)
	f.SetOutput(term.err)
	path := f.String("config", kioskConfigPath, "kioskd.toml of the machine")
	j := dataJob{out: term.out}
	sure := true
	switch name {
	case "fill":
		f.StringVar(&j.fill.slots, "slots", "", "slots that were filled, such as 1-5,11")
		f.IntVar(&j.fill.pieces, "pieces", 0, "boxes put into each")
		f.StringVar(&j.fill.batch, "batch", "", "batch, as printed on the box")
		f.StringVar(&j.fill.expiry, "expiry", "", "last day of use, such as 2028-06-30")
		f.StringVar(&j.fill.staff, "staff", "", "account number of who filled them")
	case "export":
		f.BoolVar(&j.keep, "keep", false, "a copy for safe keeping only: this card goes on, and the copy must never run beside it")
	case "wipe-marks":
		f.BoolVar(&sure, "yes", false, "yes, everybody may take again")
	case "retire":
		f.BoolVar(&sure, "yes", false, "yes, this machine comes to its end")
		f.BoolVar(&j.force, "force", false, "although the district has not everything, or boxes are in it")
	}
	wants := 0
	if name == "export" || name == "import" {
		wants = 1
	}
	var words []string
	for rest := args; ; rest = f.Args()[1:] { // flags may stand behind FILE as well
		if err := f.Parse(rest); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return j, err
			}
			return j, usageError{errors.New("see above")}
		}
		if f.NArg() == 0 {
			break
		}
		words = append(words, f.Arg(0))
	}
	if len(words) != wants {
		return j, usageError{fmt.Errorf("want %d file, got %d", wants, len(words))}
	}
	if wants == 1 {
		j.file = words[0]
	}
	if !sure {
		return j, usageError{errors.New("say -yes if you mean it")}
	}
	var err error
	j.cfg, err = cabinet.Read(*path)
	return j, err
}

func (j dataJob) path(name string) string { return filepath.Join(j.cfg.Data, name) }

// run does the job while nobody else has the data folder.
func (j dataJob) run(ctx context.Context, do func(context.Context, dataJob) error) error {
	if _, err := os.Stat(j.cfg.Data); err != nil {
		return fmt.Errorf("the machine's data folder: %w", err)
	}
	held, err := holdData(j.cfg.Data)
	if err != nil {
		return err
	}
	defer held.Close()
	return do(ctx, j)
}

// holdData keeps kioskd away from a machine until the file is closed: it takes the
// same lock. Where kioskd has never run there is nothing to hold, and the file is nil.
func holdData(data string) (*os.File, error) {
	folder, err := os.Stat(data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the machine's data folder: %w", err)
	}
	// The folder is kioskd's, who could put anything there: a link is not followed, and
	// only what we made ourselves is given away.
	path := filepath.Join(data, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	made := err == nil
	if errors.Is(err, fs.ErrExist) {
		f, err = os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("the machine's lock: %w", err)
	}
	if err := plainFile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("the machine's lock: %w", err), f.Close())
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("kioskd runs and has the machine (%w); stop kioskd first: systemctl stop kioskd", err), f.Close())
	}
	// Made by root it would shut kioskd out. It is the folder's owner's.
	if owner, ok := folder.Sys().(*syscall.Stat_t); ok && made && os.Geteuid() == 0 {
		if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			return nil, errors.Join(fmt.Errorf("the machine's lock: %w", err), f.Close())
		}
	}
	return f, nil
}

// plainFile refuses what is no regular file, or one that has a second name elsewhere.
func plainFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if own, ok := info.Sys().(*syscall.Stat_t); !info.Mode().IsRegular() || !ok || own.Nlink != 1 {
		return fmt.Errorf("%s is no file of its own", f.Name())
	}
	return nil
}

// giveBack makes a file that root wrote under sudo the person's who asked for it, who
// is to carry it away.
func giveBack(f *os.File) error {
	uid, err1 := strconv.Atoi(os.Getenv("SUDO_UID"))
	gid, err2 := strconv.Atoi(os.Getenv("SUDO_GID"))
	if os.Geteuid() != 0 || err1 != nil || err2 != nil {
		return nil // nobody stands behind sudo
	}
	return f.Chown(uid, gid)
}

// locked says whether a kioskd has the data folder. It takes nothing and makes nothing.
func locked(data string) bool {
	f, err := os.OpenFile(filepath.Join(data, lockFile), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close() // which gives the lock back
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}

// manifestName is the first file of an export: whose memory it is, and what of it.
const manifestName = "yaoju-data.json"

// dataManifest describes an export.
type dataManifest struct {
	Format  int                `json:"format"` // 1
	Machine protocol.MachineID `json:"machine"`
	Ledger  protocol.LedgerID  `json:"ledger"`
	Head    uint64             `json:"head"`
	At      time.Time          `json:"at"`
	Files   []dataFile         `json:"files"`
}

type dataFile struct {
	Name   string `json:"name"` // below the data folder
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

const (
	// maxDataFile bounds one file of an export: a ledger grows by 7 MB a year.
	maxDataFile = 2 << 30
	// maxDataFiles bounds how many there are: a machine has about ten.
	maxDataFiles = 200
	// maxManifest bounds the description of so many.
	maxManifest = 1 << 20
)

// movedAway is what a ledger is called whose memory was carried to another card.
const movedAway = ".moved-"

// dataExport writes the data folder into one file, which only its owner may read, and
// then takes this card out of use, because two cards with one memory would each tell
// the district another history. Root opens the file and its folder; all else is done
// as the owner of the data, whose folder may hold links to where only root may read.
func dataExport(ctx context.Context, j dataJob) (err error) {
	to, err := openCarrier(j.file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.close()) }()
	if err := become(j.cfg.Data); err != nil {
		return err
	}
	found, err := ledger.Inspect(ctx, j.path(ledgerFile))
	if err != nil {
		return err
	}
	if found.Damage != "" {
		return fmt.Errorf("the ledger is damaged (%s): start kioskd once, which puts it aside and begins a new one", found.Damage)
	}
	if found.Machine != j.cfg.Machine {
		return fmt.Errorf("the ledger is machine %s's, the configuration says %s", found.Machine, j.cfg.Machine)
	}
	names, err := j.carried()
	if err != nil {
		return err
	}
	m := dataManifest{Format: 1, Machine: found.Machine, Ledger: found.Ledger, Head: found.Head, At: time.Now().UTC().Truncate(time.Second)}
	for _, name := range names {
		f, err := sumDataFile(j.path(name))
		if err != nil {
			return err
		}
		f.Name = name
		m.Files = append(m.Files, f)
	}
	if err := j.writeExport(to, m); err != nil {
		return fmt.Errorf("write %s: %w", j.file, err)
	}
	if !j.keep {
		if err := j.moveAway(m); err != nil {
			return fmt.Errorf("take this card out of use: %w", err)
		}
	}
	fmt.Fprintf(j.out, "%s holds the memory of %s: %d records, %d boxes, its keys and its certificate. Whoever reads it can be this machine: keep it like a key and delete it once it is carried over.\n", j.file, m.Machine, found.Head, found.Boxes)
	if !j.keep {
		fmt.Fprintln(j.out, "This card is out of use: a kioskd here would have no memory and no certificate. On the other card: yaoju data import FILE")
	}
	return nil
}

// moveAway takes this card out of use: a kioskd on it would have no memory and no
// certificate. What is left is removed with the card, or by 'yaoju data retire'.
func (j dataJob) moveAway(m dataManifest) error {
	moved := map[string]bool{}
	for _, f := range m.Files {
		first, _, _ := strings.Cut(f.Name, string(filepath.Separator)) // a folder goes as a whole
		if moved[first] {
			continue
		}
		moved[first] = true
		if err := os.Rename(j.path(first), j.path(first)+movedAway+m.At.Format("20060102T150405Z")); err != nil {
			return err
		}
	}
	if err := os.Remove(j.path(ledgerFile + "-shm")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncFolder(j.cfg.Data)
}

// carried lists the files of the data folder that belong to its memory, the ledger
// first. What was put aside as damaged, what was carried away before, and what lives
// as long as a process stay behind.
func (j dataJob) carried() (names []string, err error) {
	err = filepath.WalkDir(j.cfg.Data, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(j.cfg.Data, path)
		if err != nil {
			return err
		}
		stays := name == lockFile || strings.HasSuffix(name, "-shm") || strings.Contains(name, ".damaged-") || strings.Contains(name, movedAway) || strings.Contains(name, ".new-")
		if e.Type().IsRegular() && !stays {
			names = append(names, name)
		}
		return nil
	})
	if len(names) > maxDataFiles {
		return nil, fmt.Errorf("%s holds %d files: this is no machine's data folder", j.cfg.Data, len(names))
	}
	slices.Sort(names)
	return names, err
}

func sumDataFile(path string) (dataFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return dataFile{}, err
	}
	defer f.Close() // only read
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err == nil && n > maxDataFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxDataFile)
	}
	return dataFile{Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, err
}

// carrier is the file of an export, and the folder it lies in.
type carrier struct {
	file, folder *os.File
	whole        bool // it is written and on disk
}

// openCarrier makes the file, which is to be new, or empty as a try that failed left it.
func openCarrier(path string) (*carrier, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	c := &carrier{file: f, folder: folder}
	err = plainFile(f)
	info, statErr := f.Stat()
	if err == nil {
		err = statErr
	}
	if err == nil && info.Size() != 0 {
		err = fmt.Errorf("%s is there already", path)
	}
	if err == nil {
		err = errors.Join(f.Chmod(0o600), giveBack(f))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), folder.Close())
	}
	return c, nil
}

// close ends it. What is not whole is removed, or left empty where only root could.
func (c *carrier) close() error {
	var err error
	if !c.whole {
		err = c.file.Truncate(0)
		_ = os.Remove(c.file.Name()) // root's folder: an empty file stays, and may be written again
	}
	return errors.Join(err, c.file.Close(), c.folder.Close())
}

// writeExport writes the file, durably.
func (j dataJob) writeExport(to *carrier, m dataManifest) error {
	head, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	w := tar.NewWriter(to.file)
	add := func(name string, size int64, from io.Reader) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: m.At, Format: tar.FormatPAX}); err != nil {
			return err
		}
		_, err := io.Copy(w, from)
		return err
	}
	err = add(manifestName, int64(len(head)), strings.NewReader(string(head)))
	for _, f := range m.Files {
		if err != nil {
			break
		}
		err = func() error {
			from, err := os.Open(j.path(f.Name))
			if err != nil {
				return err
			}
			defer from.Close() // only read
			return add(f.Name, f.Size, from)
		}()
	}
	err = errors.Join(err, w.Close())
	if err == nil {
		err = errors.Join(to.file.Sync(), to.folder.Sync())
	}
	to.whole = err == nil
	return err
}

// dataImport puts an export into a data folder without a ledger: all of it, checked,
// or nothing.
func dataImport(ctx context.Context, j dataJob) error {
	if _, err := os.Stat(j.path(ledgerFile)); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("%s is there already: this card has a memory of its own", j.path(ledgerFile)), err)
	}
	in, err := os.Open(j.file)
	if err != nil {
		return err
	}
	defer in.Close() // only read
	if err := become(j.cfg.Data); err != nil {
		return err
	}
	staged := j.path("import.new-" + time.Now().UTC().Format("20060102T150405Z"))
	if err := os.Mkdir(staged, 0o700); err != nil {
		return err
	}
	m, err := unpackExport(in, staged, j.cfg.Machine)
	if err == nil {
		err = checkExport(ctx, filepath.Join(staged, ledgerFile), m)
	}
	if err == nil {
		err = j.takeOver(staged, m)
	}
	if err := errors.Join(err, os.RemoveAll(staged)); err != nil {
		return fmt.Errorf("%s: %w", j.file, err)
	}
	fmt.Fprintf(j.out, "The memory of %s is on this card: %d records. Start kioskd, see 'yaoju doctor', and delete %s.\n", m.Machine, m.Head, j.file)
	return nil
}

// unpackExport writes the files of an export into dir, and checks each.
func unpackExport(in io.Reader, dir string, machine protocol.MachineID) (dataManifest, error) {
	var m dataManifest
	r := tar.NewReader(in)
	h, err := r.Next()
	if err != nil || h.Name != manifestName {
		return m, errors.Join(errors.New("this is no export of a machine's data"), err)
	}
	head, err := io.ReadAll(io.LimitReader(r, maxManifest))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(head, &m); err != nil {
		return m, fmt.Errorf("its description: %w", err)
	}
	switch {
	case m.Format != 1:
		return m, fmt.Errorf("it has format %d, and this program knows 1", m.Format)
	case m.Machine != machine:
		return m, fmt.Errorf("it is the memory of %q, and this machine is %s", m.Machine, machine)
	case len(m.Files) > maxDataFiles:
		return m, fmt.Errorf("%d files: this is no machine's data", len(m.Files))
	}
	for _, want := range m.Files {
		h, err := r.Next()
		if err != nil {
			return m, fmt.Errorf("it is cut off before %s: %w", want.Name, err)
		}
		if h.Name != want.Name || h.Typeflag != tar.TypeReg || !filepath.IsLocal(want.Name) || h.Size != want.Size || h.Size > maxDataFile {
			return m, fmt.Errorf("%q is not what its description says", h.Name)
		}
		if err := unpackFile(r, filepath.Join(dir, want.Name), want); err != nil {
			return m, err
		}
	}
	return m, nil
}

func unpackFile(r io.Reader, path string, want dataFile) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, sum), r)
	if err == nil && hex.EncodeToString(sum.Sum(nil)) != want.SHA256 {
		err = errors.New("its bytes have changed on the way")
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%s: %w", want.Name, err)
	}
	return nil
}

// checkExport reads the ledger from end to end.
func checkExport(ctx context.Context, path string, m dataManifest) error {
	found, err := ledger.Inspect(ctx, path)
	switch {
	case err != nil:
		return err
	case found.Damage != "":
		return fmt.Errorf("its ledger is damaged: %s", found.Damage)
	case found.Machine != m.Machine || found.Ledger != m.Ledger || found.Head != m.Head:
		return errors.New("its ledger is not the one its description says")
	}
	return nil
}

// takeOver moves what was unpacked into the data folder, the ledger last: until it is
// there kioskd has no memory, and the import can be repeated. What kioskd made for
// itself on this card gives way.
func (j dataJob) takeOver(staged string, m dataManifest) error {
	names := []string{}
	for _, f := range m.Files {
		if f.Name != ledgerFile {
			names = append(names, f.Name)
		}
	}
	for _, name := range append(names, ledgerFile) {
		to := j.path(name)
		if dir := filepath.Dir(to); dir != filepath.Clean(j.cfg.Data) {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
		}
		if err := os.Rename(filepath.Join(staged, name), to); err != nil {
			return err
		}
		if err := durable.SyncFolder(filepath.Dir(to)); err != nil {
			return err
		}
	}
	return nil
}

// filling is what somebody put into slots.
type filling struct {
	slots, batch, expiry, staff string
	pieces                      int // into each slot
}

// list reads the slots.
func (f filling) list() (slots []protocol.Slot, err error) {
	for _, word := range strings.Split(f.slots, ",") {
		first, last, run := strings.Cut(strings.TrimSpace(word), "-")
		from, err1 := strconv.Atoi(first)
		to := from
		var err2 error
		if run {
			to, err2 = strconv.Atoi(last)
		}
		if err1 != nil || err2 != nil || from < 1 || to > protocol.Slots || from > to {
			return nil, usageError{fmt.Errorf("-slots %q: want numbers and ranges from 1 to %d, such as 1-5,11", f.slots, protocol.Slots)}
		}
		for n := from; n <= to; n++ {
			slots = append(slots, protocol.Slot(n))
		}
	}
	return slots, nil
}

// dataFill records the same filling of several slots, each in itself. What the slots
// hold is in the desired state, which kioskd has from the district.
func dataFill(ctx context.Context, j dataJob) error {
	slots, err := j.fill.list()
	if err != nil {
		return err
	}
	if j.fill.pieces < 1 || j.fill.batch == "" || j.fill.expiry == "" || j.fill.staff == "" {
		return usageError{errors.New("say -pieces, -batch, -expiry and -staff as well")}
	}
	if err := become(j.cfg.Data); err != nil {
		return err
	}
	l, err := ledger.Open(ctx, ledger.Options{Path: j.path(ledgerFile), Machine: j.cfg.Machine, Software: "yaoju " + version, Zone: j.cfg.Location(),
		Log: slog.New(slog.DiscardHandler), Synced: kernelSynced})
	if err != nil {
		return err
	}
	err = j.load(ctx, l, slots)
	return errors.Join(err, l.Close())
}

func (j dataJob) load(ctx context.Context, l *ledger.Ledger, slots []protocol.Slot) error {
	want, ok := l.Desired()
	if !ok {
		return errors.New("the district has not said yet what belongs into which slot: start kioskd, and wait until 'yaoju doctor' says that it is connected")
	}
	product := map[protocol.Slot]protocol.ProductID{}
	for _, p := range want.Planogram {
		product[p.Slot] = p.Product
	}
	for _, slot := range slots {
		if product[slot] == "" {
			return fmt.Errorf("slot %d: nothing belongs there by the district's plan; no slot was changed", slot)
		}
	}
	for _, slot := range slots {
		s := protocol.Stock{Slot: slot, Product: product[slot], Batch: j.fill.batch, Expiry: protocol.DateOnly(j.fill.expiry)}
		if err := l.Load(ctx, s, j.fill.pieces, j.fill.staff); err != nil {
			return fmt.Errorf("slot %d: %w; it and those behind it were not changed", slot, err)
		}
		fmt.Fprintf(j.out, "slot %d: %d of %s, batch %s, until %s\n", slot, j.fill.pieces, s.Product, s.Batch, s.Expiry)
	}
	return nil
}

// wipe forgets all marks and their keys. The start that it writes into the ledger
// says so, for whoever reads the machine's history in the district. also is what else
// the ledger is to forget.
func (j dataJob) wipe(ctx context.Context, why string, also func(*ledger.Ledger) error) (err error) {
	if _, err := os.Stat(j.path(ledgerFile)); err == nil {
		l, err := ledger.Open(ctx, ledger.Options{Path: j.path(ledgerFile), Machine: j.cfg.Machine, Software: "yaoju " + version + ": " + why,
			Zone: j.cfg.Location(), Log: slog.New(slog.DiscardHandler), Synced: kernelSynced})
		if err != nil {
			return err
		}
		if err := errors.Join(l.ForgetMarks(ctx), also(l), l.Close()); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return destroy(j.path(marksFile))
}

// destroy overwrites a small file and removes it. What a flash card keeps of
// overwritten blocks is out of our hands.
func destroy(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.Write(make([]byte, info.Size()))
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close(), os.Remove(path)); err != nil {
		return err
	}
	return durable.SyncFolder(filepath.Dir(path))
}

func dataWipe(ctx context.Context, j dataJob) error {
	if err := become(j.cfg.Data); err != nil {
		return err
	}
	if err := j.wipe(ctx, "marks wiped", func(*ledger.Ledger) error { return nil }); err != nil {
		return err
	}
	fmt.Fprintf(j.out, "%s knows no card any more: everybody may take again. Stock, events and certificate stay. An old copy of this card still holds the marks: destroy it too.\n", j.cfg.Machine)
	return nil
}

func dataRetire(ctx context.Context, j dataJob) error {
	if err := become(j.cfg.Data); err != nil {
		return err
	}
	found, err := ledger.Inspect(ctx, j.path(ledgerFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var open []error
	if found.Head > found.Acked {
		open = append(open, fmt.Errorf("the district has %d of %d records: let kioskd run until it has all", found.Acked, found.Head))
	}
	if found.Open > 0 {
		open = append(open, fmt.Errorf("of %d vends nobody knows the end: count those slots first", found.Open))
	}
	if found.Boxes > 0 {
		open = append(open, fmt.Errorf("%d boxes are in the machine by its ledger: take them out in the staff menu first", found.Boxes))
	}
	if len(open) > 0 && !j.force {
		return fmt.Errorf("%w\n-force retires it all the same", errors.Join(open...))
	}
	if found.Damage != "" { // it cannot be wiped by its own means
		err = destroy(j.path(ledgerFile))
	} else {
		err = j.wipe(ctx, "machine retired", func(l *ledger.Ledger) error { return l.SetAccounts(ctx, nil) })
	}
	if err != nil {
		return err
	}
	// All but the ledger goes, old ledgers too: there are marks in them.
	err = filepath.WalkDir(j.cfg.Data, func(path string, e fs.DirEntry, err error) error {
		stays := []string{j.path(ledgerFile), j.path(ledgerFile + "-wal"), j.path(ledgerFile + "-shm"), j.path(lockFile)}
		if err != nil || !e.Type().IsRegular() || slices.Contains(stays, path) {
			return err
		}
		return destroy(path)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(j.out, "%s is retired: marks, keys and certificate are gone, its ledger stays as %s. In the district: districtd revoke %s, and take it out of districtd.toml. Erase the card before it leaves the house.\n",
		j.cfg.Machine, j.path(ledgerFile), j.cfg.Machine)
	return nil
}
