package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"yaoju/daemon/district"
	"yaoju/daemon/identity"
	"yaoju/daemon/update"
	"yaoju/protocol"
)

// Updates is how this district brings new software to its machines.
type Updates struct {
	Keys string `toml:"keys"` // file of the release keys that machines trust: what is signed by another is not taken in
}

// usualUpdates is where the package puts the keys.
func usualUpdates() Updates { return Updates{Keys: "/etc/yaoju/release.keys"} }

// updateOrders is what an officer may say after "update".
const updateOrders = `  update add FILE                 take a signed bundle in, for machines to fetch
  update start VERSION WHO HOW    bring it out; WHO is --all or --machines m-0001,m-0002
         --wave 1,10%,100%        one machine first, then so many of all of them, then the rest
         --failures 0             machines of one wave that may fail; one more stops it
         --within 72h             how long a machine may take to find a quiet moment, 1h to 2160h
         --soak 24h               how long a wave has to have been through before the next
         --older                  machines take it even if they have run a newer one
  update status [ID]              how it stands, machine by machine
  update pause|resume|stop [ID]   order nobody else; go on; end it and take back what nobody has answered
  update remove VERSION           forget a release
`

// located gives a file of an order its whole path: districtd runs in another folder
// than whoever gives the order.
func located(words []string) ([]string, error) {
	if len(words) != 3 || words[0] != "update" || words[1] != "add" {
		return words, nil
	}
	path, err := filepath.Abs(words[2])
	return []string{words[0], words[1], path}, err
}

// update carries out an order about updates.
func (o *office) update(ctx context.Context, words []string) (string, error) {
	verb, args := "", words
	if len(words) > 0 {
		verb, args = words[0], words[1:]
	}
	switch {
	case verb == "start" && len(args) > 0:
		return o.startRollout(ctx, args[0], args[1:])
	case verb == "add" && len(args) == 1:
		return o.addRelease(ctx, args[0])
	case verb == "remove" && len(args) == 1:
		if err := o.d.RemoveRelease(ctx, args[0]); err != nil {
			return "", err
		}
		return "version " + args[0] + " is forgotten; machines that have it keep it\n", nil
	case len(args) > 1:
	case verb == "status":
		return o.rolloutStatus(ctx, args)
	case verb == "pause", verb == "resume", verb == "stop":
		return o.steerRollout(ctx, verb, args)
	}
	return "", fmt.Errorf("unknown order; known are:\n%s", updateOrders)
}

// addRelease takes a bundle in after reading it as a machine would.
func (o *office) addRelease(ctx context.Context, path string) (string, error) {
	keys, err := releaseKeys(o.cfg.Update.Keys)
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("%w: districtd has to be able to read it, so put it where its user can", err)
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	m, _, err := update.ReadBundle(f, keys, func(update.Manifest) error { return ctx.Err() }, func(_ update.File, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s: no machine would take it: %w", path, err)
	}
	r := district.Release{Version: m.Version, Arch: m.Arch}
	if r.SHA256, r.Size, err = sumOf(f); err != nil {
		return "", err
	}
	if err := o.d.AddRelease(ctx, r, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("version %s for %s is here, %d MiB. Bring it out with: districtd update start %s --all\n", r.Version, r.Arch, r.Size>>20, r.Version), nil
}

// mebibytes is a release's size, for people.
func mebibytes(r district.Release) int64 { return (r.Size + 1<<20 - 1) >> 20 }

// sumOf reads a file from its beginning and leaves it there.
func sumOf(f *os.File) (sum string, size int64, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", 0, err
	}
	h := sha256.New()
	if size, err = io.Copy(h, f); err != nil {
		return "", 0, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return hex.EncodeToString(h.Sum(nil)), size, err
}

func releaseKeys(path string) ([]ed25519.PublicKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("release keys (update.keys in districtd.toml): %w", err)
	}
	defer f.Close()
	return update.ParseKeys(f)
}

// startRollout begins to bring a release out.
func (o *office) startRollout(ctx context.Context, version string, args []string) (string, error) {
	if o.server == nil {
		return "", errors.New("mqtt.tls is \"off\" in districtd.toml: machines fetch releases with their certificates")
	}
	var p district.Plan
	var said bytes.Buffer
	f := flag.NewFlagSet("update start", flag.ContinueOnError)
	f.SetOutput(&said)
	f.Usage = func() {}
	all := f.Bool("all", false, "")
	machines := f.String("machines", "", "")
	waves := f.String("wave", "1,10%,100%", "")
	older := f.Bool("older", false, "")
	f.IntVar(&p.MaxFailed, "failures", 0, "")
	f.DurationVar(&p.Within, "within", 72*time.Hour, "")
	f.DurationVar(&p.Soak, "soak", 24*time.Hour, "")
	if err := f.Parse(args); err != nil {
		return "", fmt.Errorf("%w; known are:\n%s", err, updateOrders)
	}
	if f.NArg() > 0 || *all == (*machines != "") {
		return "", errors.New("say who: --all, or --machines with their ids and commas between them")
	}
	var who []protocol.MachineID
	if *machines != "" {
		for m := range strings.SplitSeq(*machines, ",") {
			who = append(who, protocol.MachineID(strings.TrimSpace(m)))
		}
	}
	var err error
	if p.Canary, p.Percents, err = parseWaves(*waves); err != nil {
		return "", err
	}
	r, err := o.d.StartRollout(ctx, version, p, who, *older)
	if err != nil {
		return "", unknownRelease(err)
	}
	sizes := make([]int, len(r.Forgave))
	for _, t := range r.Targets {
		sizes[t.Wave-1]++
	}
	sizes = slices.DeleteFunc(sizes, func(n int) bool { return n == 0 }) // a small fleet is through sooner
	return fmt.Sprintf("%s brings %s to %d machines, in waves of %s. See how it goes: districtd update status\n", r.ID, version, len(r.Targets), strings.Trim(fmt.Sprint(sizes), "[]")), nil
}

func unknownRelease(err error) error {
	if errors.Is(err, district.ErrUnknownRelease) {
		return fmt.Errorf("%w: take its bundle in first, with 'districtd update add FILE'", err)
	}
	return unknown(err)
}

// parseWaves reads "1,10%,100%": a number of machines, then percents of all.
func parseWaves(s string) (canary int, percents []int, err error) {
	wrong := fmt.Errorf("--wave %q: want a number of machines and then percents of all, such as 1,10%%,100%%", s)
	for i, w := range strings.Split(s, ",") {
		text, percent := strings.CutSuffix(strings.TrimSpace(w), "%")
		n, err := strconv.Atoi(text)
		if err != nil || percent == (i == 0) {
			return 0, nil, wrong
		}
		if i == 0 {
			canary = n
			continue
		}
		percents = append(percents, n)
	}
	return canary, percents, nil
}

// rollout finds the one that is meant: by its id, or the only one it can be.
func (o *office) rollout(ctx context.Context, args []string, may ...district.Course) (district.Rollout, error) {
	all, err := o.d.Rollouts(ctx)
	if err != nil {
		return district.Rollout{}, err
	}
	var fit []district.Rollout
	for _, r := range all {
		if len(args) == 1 && r.ID == args[0] || len(args) == 0 && slices.Contains(may, r.Course) {
			fit = append(fit, r)
		}
	}
	switch {
	case len(fit) == 1:
		return fit[0], nil
	case len(args) == 1:
		return district.Rollout{}, fmt.Errorf("%s: %w", printable(args[0]), district.ErrUnknownRollout)
	case len(fit) == 0:
		return district.Rollout{}, fmt.Errorf("no rollout is %s", either(may))
	}
	var ids []string
	for _, r := range fit {
		ids = append(ids, r.ID)
	}
	return district.Rollout{}, fmt.Errorf("say which: %s", strings.Join(ids, " or "))
}

func either(all []district.Course) string {
	var out []string
	for _, c := range all {
		out = append(out, string(c))
	}
	return strings.Join(out, " or ")
}

func (o *office) steerRollout(ctx context.Context, verb string, args []string) (string, error) {
	may := []district.Course{district.Running}
	switch verb {
	case "resume":
		may = []district.Course{district.Paused, district.Stopped}
	case "stop":
		may = append(may, district.Paused)
	}
	r, err := o.rollout(ctx, args, may...)
	if err != nil {
		return "", err
	}
	switch verb {
	case "pause":
		err = o.d.PauseRollout(ctx, r.ID, "an officer paused it")
	case "resume":
		err = o.d.ResumeRollout(ctx, r.ID)
	case "stop":
		err = o.d.StopRollout(ctx, r.ID, "an officer stopped it")
	}
	if err != nil {
		return "", unknownRelease(err)
	}
	return o.rolloutStatus(ctx, []string{r.ID})
}

// rolloutStatus says how one rollout stands, the newest without an id.
func (o *office) rolloutStatus(ctx context.Context, args []string) (string, error) {
	all, err := o.d.Rollouts(ctx)
	if err != nil {
		return "", err
	}
	runs, err := o.d.Software(ctx)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if len(args) == 1 {
		r, err := o.rollout(ctx, args)
		if err != nil {
			return "", err
		}
		o.describe(&b, r)
		targets(&b, r, runs)
		return b.String(), nil
	}
	releases, err := o.d.Releases(ctx)
	if err != nil {
		return "", err
	}
	for _, r := range releases {
		fmt.Fprintf(&b, "release %s for %s, %d MiB\n", r.Version, r.Arch, mebibytes(r))
	}
	for _, r := range all {
		o.describe(&b, r)
	}
	if len(all) > 0 {
		targets(&b, all[0], runs)
		return b.String(), nil
	}
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, s := range runs {
		fmt.Fprintf(t, "%s\truns %s\n", s.Machine, printable(s.Version))
	}
	t.Flush() // a builder takes everything
	return b.String(), nil
}

// describe says in a line or two how a rollout stands.
func (o *office) describe(w io.Writer, r district.Rollout) {
	n := map[district.Stage]int{}
	for _, t := range r.Targets {
		n[t.Stage]++
	}
	fmt.Fprintf(w, "%s  %s since %s: %s, wave %d of %d, %d of %d machines have it, %d failed, %d missing\n", r.ID, r.Release.Version, o.when(time.UnixMilli(r.MadeMS)),
		r.Course, r.Wave, len(r.Forgave), n[district.Confirmed], len(r.Targets), n[district.Failed], n[district.Missing])
	if r.Why != "" {
		fmt.Fprintf(w, "            %s\n", printable(r.Why))
	}
}

// targets lists where each machine of a rollout stands, by wave.
func targets(w io.Writer, r district.Rollout, runs []district.Software) {
	on := map[protocol.MachineID]district.Software{}
	for _, s := range runs {
		on[s.Machine] = s
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, x := range r.Targets {
		s, words := on[x.Machine], x.Words
		if x.Stage == district.Ordered {
			words = s.Update.Waits
		}
		version := "not heard of yet"
		if s.Version != "" {
			version = "runs " + printable(s.Version)
		}
		fmt.Fprintf(t, "%s\twave %d\t%s\t%s\t%s\n", x.Machine, x.Wave, x.Stage, version, printable(words))
	}
	t.Flush() // a caller that went asks again
}

// printable is a machine's text as a terminal may have it.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s)
}

// OpenBundle returns a bundle for a machine.
func (r registry) OpenBundle(ctx context.Context, n identity.Name, sum string) (io.ReadSeeker, error) {
	b, err := r.d.OpenBundle(ctx, peer(n), sum)
	if errors.Is(err, district.ErrUnknownRelease) {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, refusal(err)
	}
	return b, nil
}
