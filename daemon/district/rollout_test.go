package district

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/protocol"
)

// rolling is a district in a bubble, with machines that answer as a test says.
type rolling struct {
	t    *testing.T
	path string
	*District
	heads map[protocol.MachineID]protocol.Head
}

func inRollout(t *testing.T, machines int, f func(t *testing.T, d *rolling)) {
	t.Helper()
	path := fresh(t)
	synctest.Test(t, func(t *testing.T) {
		d := &rolling{t: t, path: path, heads: map[protocol.MachineID]protocol.Head{}}
		d.open()
		for _, m := range fleet(machines) {
			d.ok(d.PutMachine(t.Context(), Place{Machine: m}))
		}
		f(t, d)
		d.ok(d.Close())
	})
}

func (d *rolling) open() {
	d.t.Helper()
	var err error
	d.District, err = Open(d.t.Context(), Options{Path: d.path, Zone: time.UTC, Signer: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), Log: slog.New(slog.DiscardHandler)})
	d.ok(err)
}

func (d *rolling) reopen() {
	d.t.Helper()
	d.ok(d.Close())
	d.open()
}

func (d *rolling) ok(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// says is a message of a machine, on one of its topics.
func (d *rolling) says(m protocol.MachineID, topic string, payload []byte) {
	d.t.Helper()
	d.ok(d.commit(d.t.Context(), []message{{from: m, topic: topic, payload: payload}}))
}

const rollingLedger = protocol.LedgerID("0123456789abcdef0123456789abcdef")

// answers gives a command its answer.
func (d *rolling) answers(m protocol.MachineID, result protocol.CommandResult, detail string) {
	d.t.Helper()
	e := protocol.CommandDone{ID: d.order(m), Verb: protocol.VerbUpdate, Result: result, Detail: detail}
	s, err := protocol.Seal(m, rollingLedger, d.heads[m], protocol.Stamp{AtMS: time.Now().UnixMilli(), Clock: protocol.ClockSynced, Boot: 1}, e)
	d.ok(err)
	d.heads[m] = protocol.Head{Seq: s.Seq, Hash: s.Hash}
	b, _ := protocol.AppendBatch(nil, rollingLedger, []protocol.Sealed{s})
	d.says(m, protocol.EventsTopic(m), b)
}

// runs tells what runs on a machine, and how its last update ended.
func (d *rolling) runs(m protocol.MachineID, version string, last *protocol.UpdateResult) {
	d.t.Helper()
	st := protocol.State{Machine: m, Ledger: rollingLedger, Software: version, Serving: protocol.ServingOpen, Head: d.heads[m].Seq,
		Stamp: protocol.Stamp{AtMS: time.Now().UnixMilli(), Clock: protocol.ClockSynced, Boot: 1}, Slots: []protocol.SlotState{}, Faults: []protocol.FaultRaised{},
		Update: &protocol.UpdateState{Last: last}}
	d.says(m, protocol.StateTopic(m), protocol.Encode(st))
}

// ends takes an order over and tells its end.
func (d *rolling) ends(m protocol.MachineID, end protocol.UpdateEnd) {
	d.t.Helper()
	d.answers(m, protocol.CommandOK, "version 1.1 is ordered")
	d.runs(m, "1.1", &protocol.UpdateResult{Order: d.order(m), Version: "1.1", End: end, Words: string(end)})
}

// only is the only rollout.
func (d *rolling) only() Rollout {
	d.t.Helper()
	all, err := d.Rollouts(d.t.Context())
	d.ok(err)
	if len(all) != 1 {
		d.t.Fatalf("%d rollouts", len(all))
	}
	return all[0]
}

// order is the id of a machine's newest order; empty: none.
func (d *rolling) order(m protocol.MachineID) string {
	d.t.Helper()
	r := d.only()
	x, err := r.find(m)
	d.ok(err)
	return x.Order
}

// look carries the rollouts on, as RunRollouts does from time to time.
func (d *rolling) look() {
	d.t.Helper()
	time.Sleep(rolloutEvery)
	d.ok(d.carryOn(d.t.Context(), time.Now().Add(-rolloutEvery-stateSlack)))
}

// stages is how far each machine is, in the order of the rollout.
func (d *rolling) stages() (s string) {
	r := d.only()
	for _, t := range r.Targets {
		s += string(t.Stage) + " "
	}
	return s + string(r.Course)
}

func (d *rolling) wants(stages string) {
	d.t.Helper()
	if got := d.stages(); got != stages {
		d.t.Errorf("stands at %q, want %q (%s)", got, stages, d.only().Why)
	}
}

// bundleOf is an invented bundle.
func bundleOf(version string, size int) (Release, []byte) {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(len(version))})
	r.Read(b)
	sum := sha256.Sum256(b)
	return Release{Version: version, Arch: "arm64", SHA256: hex.EncodeToString(sum[:]), Size: int64(size)}, b
}

func (d *rolling) adds(version string) Release {
	d.t.Helper()
	r, b := bundleOf(version, 1000)
	d.ok(d.AddRelease(d.t.Context(), r, bytes.NewReader(b)))
	return r
}

var two = Plan{Canary: 1, Percents: []int{50, 100}, Within: 24 * time.Hour}

// Wave by wave, whatever happens to the district in between: each order is signed,
// counted and given once.
func TestRollout(t *testing.T) {
	inRollout(t, 4, func(t *testing.T, d *rolling) {
		ctx := t.Context()
		r := d.adds("1.1")
		_, err := d.StartRollout(ctx, "1.1", two, nil, false)
		d.ok(err)
		d.wants("waiting waiting waiting waiting running")
		d.look()
		d.wants("ordered waiting waiting waiting running")
		m := d.only().Targets
		var signed []byte
		var expires int64
		d.ok(d.store.read.QueryRow(`SELECT message, expires_ms FROM command WHERE id = ?`, d.order(m[0].Machine)).Scan(&signed, &expires))
		c, err := protocol.OpenCommand(signed, []ed25519.PublicKey{d.signing().key.Public().(ed25519.PublicKey)})
		if err != nil || c.Verb != protocol.VerbUpdate || c.Update.SHA256 != r.SHA256 || c.Update.Wave != 1 || c.Update.DeadlineMS != expires {
			t.Errorf("order %+v, %v", c, err)
		}
		d.reopen()
		d.look()
		d.wants("ordered waiting waiting waiting running")
		d.ends(m[0].Machine, protocol.UpdateConfirmed)
		d.look()
		d.wants("confirmed ordered waiting waiting running")
		// What was there all the time needs no order.
		d.runs(m[2].Machine, "1.1", nil)
		d.ends(m[1].Machine, protocol.UpdateConfirmed)
		d.look()
		d.wants("confirmed confirmed confirmed ordered running")
		d.ends(m[3].Machine, protocol.UpdateConfirmed)
		d.look()
		d.wants("confirmed confirmed confirmed confirmed done")
		var n int
		d.ok(d.store.read.QueryRow(`SELECT count(*) FROM command`).Scan(&n))
		if n != 3 {
			t.Errorf("%d commands, want 3", n)
		}
		all, err := d.Software(ctx)
		if err != nil || len(all) != 4 || all[0].Version != "1.1" {
			t.Errorf("software %+v, %v", all, err)
		}
	})
}

// A wave that goes wrong stops the rollout by itself: what no machine has answered
// is taken back, and ordered anew once a person lets it go on.
func TestRolloutStops(t *testing.T) {
	inRollout(t, 4, func(t *testing.T, d *rolling) {
		ctx := t.Context()
		d.adds("1.1")
		_, err := d.StartRollout(ctx, "1.1", Plan{Canary: 3, Percents: []int{100}, Within: 24 * time.Hour}, nil, false)
		d.ok(err)
		d.look()
		d.wants("ordered ordered ordered waiting running")
		m := d.only().Targets
		d.answers(m[1].Machine, protocol.CommandOK, "")
		d.ends(m[0].Machine, protocol.UpdateRolledBack)
		d.look()
		d.wants("failed ordered waiting waiting stopped")
		var n int
		d.ok(d.store.read.QueryRow(`SELECT count(*) FROM command WHERE result IS NULL AND expires_ms > ?`, time.Now().UnixMilli()).Scan(&n))
		if n != 0 {
			t.Errorf("%d orders would be given again", n)
		}
		d.reopen()
		d.runs(m[1].Machine, "1.1", &protocol.UpdateResult{Order: d.order(m[1].Machine), Version: "1.1", End: protocol.UpdateConfirmed})
		d.look()
		d.wants("failed confirmed waiting waiting stopped")
		was := d.order(m[2].Machine)
		d.ok(d.ResumeRollout(ctx, d.only().ID))
		d.look()
		d.wants("failed confirmed ordered waiting running")
		if is := d.order(m[2].Machine); is == was {
			t.Errorf("the order that was taken back was given again")
		}
		d.answers(m[2].Machine, protocol.CommandUnsupported, "")
		d.look()
		d.wants("failed confirmed failed waiting stopped")
		d.ok(d.ResumeRollout(ctx, d.only().ID))
		d.ok(d.PauseRollout(ctx, d.only().ID, "holiday"))
		d.look()
		d.wants("failed confirmed failed waiting paused")
		d.ok(d.ResumeRollout(ctx, d.only().ID))
		d.look()
		d.look()
		d.wants("failed confirmed failed ordered running")
		// Nobody answers: in a day and half an hour it is missing.
		time.Sleep(25 * time.Hour)
		d.look()
		d.wants("failed confirmed failed missing stopped")
	})
}

func TestRolloutRefused(t *testing.T) {
	inRollout(t, 3, func(t *testing.T, d *rolling) {
		ctx := t.Context()
		start := func(version string, machines ...protocol.MachineID) error {
			_, err := d.StartRollout(ctx, version, two, machines, false)
			return err
		}
		if err := start("1.1"); !errors.Is(err, ErrUnknownRelease) {
			t.Errorf("a release nobody added: %v", err)
		}
		d.adds("1.1")
		d.adds("1.10")
		if err := start("1.1", "m-0001", "m-0009"); !errors.Is(err, ErrUnknownMachine) {
			t.Errorf("a machine nobody knows: %v", err)
		}
		d.ok(start("1.1", "m-0001", "m-0002"))
		first := d.only().ID
		if err := start("1.10", "m-0002", "m-0003"); err == nil || !strings.Contains(err.Error(), "m-0002 is in rollout "+first) {
			t.Errorf("a machine in two rollouts: %v", err)
		}
		if err := d.RemoveRelease(ctx, "1.1"); err == nil || !strings.Contains(err.Error(), "stop it first") {
			t.Errorf("removed what goes out: %v", err)
		}
		d.ok(d.StopRollout(ctx, first, "an officer said so"))
		d.ok(start("1.10", "m-0002", "m-0003"))
		if err := d.ResumeRollout(ctx, first); err == nil || !strings.Contains(err.Error(), "stop that one first") {
			t.Errorf("resumed beside another: %v", err)
		}
		d.ok(d.RemoveRelease(ctx, "1.1"))
		if err := d.ResumeRollout(ctx, "r-none"); !errors.Is(err, ErrUnknownRollout) {
			t.Errorf("resumed what is not there: %v", err)
		}
	})
}

// A bundle comes out as it went in, from any byte on, and only for machines.
func TestBundles(t *testing.T) {
	inRollout(t, 1, func(t *testing.T, d *rolling) {
		ctx := t.Context()
		r, b := bundleOf("1.1", partsAtOnce*partSize+partSize+7)
		if err := d.AddRelease(ctx, r, bytes.NewReader(b[:len(b)-1])); err == nil || !strings.Contains(err.Error(), "changed while it was read") {
			t.Errorf("a bundle cut short: %v", err)
		}
		if err := d.AddRelease(ctx, r, bytes.NewReader(append(bytes.Clone(b), 0))); err == nil {
			t.Error("a bundle that is too long was taken")
		}
		for range 2 {
			d.ok(d.AddRelease(ctx, r, bytes.NewReader(b)))
		}
		other, c := bundleOf("1.1", 20)
		if err := d.AddRelease(ctx, other, bytes.NewReader(c)); err == nil || !strings.Contains(err.Error(), "a version is one release") {
			t.Errorf("another bundle of the same version: %v", err)
		}
		bad := r
		bad.Arch = "riscv64"
		if err := d.AddRelease(ctx, bad, bytes.NewReader(b)); err == nil {
			t.Error("took a release for a machine that does not exist")
		}
		token, _, err := d.MintToken(ctx, "m-0001")
		d.ok(err)
		own := Peer{Machine: "m-0001", Key: [32]byte{1}, Until: time.Now().Add(time.Hour)}
		d.ok(d.Redeem(ctx, token, own))
		stranger := own
		stranger.Key[0]++
		if _, err := d.OpenBundle(ctx, stranger, r.SHA256); !errors.Is(err, ErrRevoked) {
			t.Errorf("a stranger's key: %v", err)
		}
		if _, err := d.OpenBundle(ctx, own, other.SHA256); !errors.Is(err, ErrUnknownRelease) {
			t.Errorf("a bundle nobody added: %v", err)
		}
		f, err := d.OpenBundle(ctx, own, r.SHA256)
		d.ok(err)
		for _, from := range []int64{0, partSize - 1, partSize, 3*partSize + 5, r.Size - 1, r.Size} {
			if _, err := f.Seek(from, io.SeekStart); err != nil {
				t.Error(err)
			}
			if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, b[from:]) {
				t.Errorf("from byte %d: %d bytes, %v", from, len(got), err)
			}
		}
		if end, err := f.Seek(0, io.SeekEnd); end != r.Size || err != nil {
			t.Errorf("ends at %d, %v", end, err)
		}
		d.ok(d.RemoveRelease(ctx, "1.1"))
		var n int
		d.ok(d.store.read.QueryRow(`SELECT count(*) FROM release_part`).Scan(&n))
		if all, err := d.Releases(ctx); err != nil || n != 0 || len(all) != 0 {
			t.Errorf("after removal: %d parts, %v, %v", n, all, err)
		}
	})
}
