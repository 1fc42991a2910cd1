package district

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/protocol"
)

// tapped is a line that remembers the commands that went over it.
type tapped struct {
	line
	t    *testing.T
	keys []ed25519.PublicKey

	mu   sync.Mutex
	went map[protocol.MachineID][]protocol.Command // guarded by mu
}

// given are the commands so far, by machine.
func (l *tapped) given() map[protocol.MachineID][]protocol.Command {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.went)
}

func (l *tapped) publish(topic string, payload []byte, retained bool) error {
	if m, _, err := protocol.TopicMachine(topic); err == nil && topic == protocol.CommandTopic(m) {
		c, err := protocol.OpenCommand(payload, l.keys)
		if err != nil || retained {
			l.t.Errorf("command %s, retained %v: %v", payload, retained, err)
		}
		l.mu.Lock()
		l.went[m] = append(l.went[m], c)
		l.mu.Unlock()
	}
	return l.line.publish(topic, payload, retained)
}

func (d *rolling) tap() *tapped {
	l := &tapped{line: d.line, t: d.t, keys: []ed25519.PublicKey{d.signing().key.Public().(ed25519.PublicKey)}, went: map[protocol.MachineID][]protocol.Command{}}
	d.line = l
	return l
}

// tells tells how a machine's software stands.
func (d *rolling) tells(m protocol.MachineID, version string, u protocol.UpdateState) {
	d.t.Helper()
	st := protocol.State{Machine: m, Ledger: rollingLedger, Software: version, Serving: protocol.ServingOpen, Head: d.heads[m].Seq,
		Stamp: protocol.Stamp{AtMS: time.Now().UnixMilli(), Clock: protocol.ClockSynced, Boot: 1}, Slots: []protocol.SlotState{}, Faults: []protocol.FaultRaised{},
		Update: &u}
	d.says(m, protocol.StateTopic(m), protocol.Encode(st))
}

// A rollout that is stopped stops machines that have taken their order: they are told
// that it is void. Who is at its switch already brings it to its end.
func TestStopAfterTheAnswer(t *testing.T) {
	inRollout(t, 3, func(t *testing.T, d *rolling) {
		ctx := t.Context()
		d.adds("1.1")
		_, err := d.StartRollout(ctx, "1.1", Plan{Canary: 3, Percents: []int{100}, Within: 24 * time.Hour}, nil, false)
		d.ok(err)
		d.look()
		m := d.only().Targets
		l := d.tap()
		holds, late, proves := m[0].Machine, m[1].Machine, m[2].Machine
		d.answers(holds, protocol.CommandOK, "")
		d.tells(holds, "1.0", protocol.UpdateState{Ordered: "1.1"})
		d.answers(proves, protocol.CommandOK, "")
		d.tells(proves, "1.1", protocol.UpdateState{Ordered: "1.1", Trial: "1.1"})
		d.look()
		was := d.order(holds)
		d.ok(d.StopRollout(ctx, d.only().ID, "an officer said so"))
		d.wants("ordered waiting ordered stopped")
		d.look()
		d.look()
		d.wants("waiting waiting ordered stopped")
		if n := len(l.given()); n != 1 || len(l.given()[holds]) != 1 {
			t.Fatalf("given %+v, want one command for %s", l.given(), holds)
		}
		c := l.given()[holds][0]
		if c.Verb != protocol.VerbUpdate || c.ID == was || c.Update.Version != "1.1" || c.Update.NotBeforeMS != 0 || c.Update.DeadlineMS != 1 || c.ExpiresMS < time.Now().Add(23*time.Hour).UnixMilli() {
			t.Errorf("given %+v", c)
		}
		// The order that was taken back had reached this one all the same.
		d.answers(late, protocol.CommandOK, "")
		d.tells(late, "1.0", protocol.UpdateState{Ordered: "1.1"})
		d.look()
		d.wants("waiting waiting ordered stopped")
		if len(l.given()[late]) != 1 {
			t.Errorf("given %+v", l.given()[late])
		}
		d.tells(proves, "1.1", protocol.UpdateState{Last: &protocol.UpdateResult{Order: d.order(proves), Version: "1.1", End: protocol.UpdateConfirmed}})
		d.look()
		d.wants("waiting waiting confirmed stopped")
		d.ok(d.ResumeRollout(ctx, d.only().ID))
		d.look()
		d.wants("ordered ordered confirmed running")
		if d.order(holds) == was {
			t.Error("the order that is void was given again")
		}
	})
}

// A stopped rollout leaves alone what another one has ordered since.
func TestStopLeavesOthersAlone(t *testing.T) {
	inRollout(t, 1, func(t *testing.T, d *rolling) {
		ctx := t.Context()
		d.adds("1.1")
		first, err := d.StartRollout(ctx, "1.1", two, nil, false)
		d.ok(err)
		d.look()
		d.answers("m-0001", protocol.CommandOK, "")
		d.ok(d.StopRollout(ctx, first.ID, "an officer said so"))
		_, err = d.StartRollout(ctx, "1.1", two, nil, false)
		d.ok(err)
		d.look()
		l := d.tap()
		d.tells("m-0001", "1.0", protocol.UpdateState{Ordered: "1.1"})
		d.look()
		d.look()
		if len(l.given()) != 0 {
			t.Errorf("given %+v", l.given())
		}
	})
}

// What fails while a rollout is paused stops it when it is to go on, and takes back
// what no machine has answered as any stop does.
func TestResumeStops(t *testing.T) {
	inRollout(t, 2, func(t *testing.T, d *rolling) {
		ctx := t.Context()
		d.adds("1.1")
		_, err := d.StartRollout(ctx, "1.1", Plan{Canary: 2, Percents: []int{100}, Within: 24 * time.Hour}, nil, false)
		d.ok(err)
		d.look()
		d.ok(d.PauseRollout(ctx, d.only().ID, "holiday"))
		d.ends(d.only().Targets[0].Machine, protocol.UpdateRolledBack)
		d.look()
		d.wants("failed ordered paused")
		d.ok(d.ResumeRollout(ctx, d.only().ID))
		d.wants("failed waiting stopped")
	})
}

// An order without an answer is given again, to a machine that is there, until it
// has an answer.
func TestOrdersAgain(t *testing.T) {
	inRollout(t, 2, func(t *testing.T, d *rolling) {
		d.adds("1.1")
		there, away := protocol.MachineID("m-0001"), protocol.MachineID("m-0002")
		d.says(there, protocol.OnlineTopic(there), protocol.Encode(protocol.Online{Online: true, Connection: 1}))
		_, err := d.StartRollout(t.Context(), "1.1", Plan{Canary: 2, Percents: []int{100}, Within: 24 * time.Hour}, nil, false)
		d.ok(err)
		l := d.tap()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.RunRollouts(ctx) }()
		want := func(n int) {
			t.Helper()
			synctest.Wait()
			if len(l.given()[there]) != n || len(l.given()[away]) != 1 {
				t.Errorf("given %d times, and %d to one that is away; want %d and 1", len(l.given()[there]), len(l.given()[away]), n)
			}
		}
		time.Sleep(5 * time.Second)
		want(1)
		time.Sleep(repeatEvery)
		want(2)
		time.Sleep(repeatEvery)
		want(3)
		d.answers(there, protocol.CommandOK, "")
		time.Sleep(3 * repeatEvery)
		want(3)
		for _, c := range l.given()[there] {
			if c.ID != d.order(there) {
				t.Errorf("given %s, want %s", c.ID, d.order(there))
			}
		}
		stop()
		d.ok(<-ended)
	})
}

// An order that another command overtook is given anew, but not for ever.
func TestOvertaken(t *testing.T) {
	inRollout(t, 1, func(t *testing.T, d *rolling) {
		d.adds("1.1")
		_, err := d.StartRollout(t.Context(), "1.1", two, nil, false)
		d.ok(err)
		d.look()
		seen := map[string]bool{}
		for range maxAgain {
			seen[d.order("m-0001")] = true
			d.answers("m-0001", protocol.CommandFailed, protocol.LaterHeard)
			d.look()
			d.wants("ordered running")
		}
		if seen[d.order("m-0001")] || len(seen) != maxAgain {
			t.Errorf("ordered under an id that failed: %v", seen)
		}
		d.answers("m-0001", protocol.CommandFailed, protocol.LaterHeard)
		d.look()
		d.wants("failed stopped")
	})
}

// A machine that is proving the release is not ordered until it has; one that falls
// silent over it is.
func TestProvingIsNotOrdered(t *testing.T) {
	inRollout(t, 2, func(t *testing.T, d *rolling) {
		d.adds("1.1")
		_, err := d.StartRollout(t.Context(), "1.1", Plan{Canary: 2, Percents: []int{100}, Within: 24 * time.Hour}, nil, false)
		d.ok(err)
		m := d.only().Targets
		for _, x := range m {
			d.tells(x.Machine, "1.1", protocol.UpdateState{Trial: "1.1"})
		}
		d.look()
		d.wants("waiting waiting running")
		d.tells(m[0].Machine, "1.1", protocol.UpdateState{})
		time.Sleep(provingSlack)
		d.look()
		d.wants("confirmed ordered running")
	})
}

// meanwhile calls f before it reads on at a byte.
type meanwhile struct {
	io.Reader
	at int
	f  func()
}

func (m *meanwhile) Read(p []byte) (int, error) {
	if m.at <= 0 && m.f != nil {
		m.f()
		m.f = nil
	}
	n, err := m.Reader.Read(p)
	m.at -= n
	return n, err
}

// A bundle whose parts another one's coming cleared away is no release.
func TestBundleCutOff(t *testing.T) {
	inRollout(t, 1, func(t *testing.T, d *rolling) {
		ctx := t.Context()
		r, b := bundleOf("1.1", partsAtOnce*partSize+partSize+7)
		err := d.AddRelease(ctx, r, &meanwhile{Reader: bytes.NewReader(b), at: partsAtOnce*partSize + 1, f: func() { d.adds("1.10") }})
		if err == nil || !strings.Contains(err.Error(), "cut off by another; add it again") {
			t.Errorf("got %v", err)
		}
		if all, err := d.Releases(ctx); err != nil || len(all) != 1 {
			t.Errorf("releases %+v, %v", all, err)
		}
		d.ok(d.AddRelease(ctx, r, bytes.NewReader(b)))
	})
}
