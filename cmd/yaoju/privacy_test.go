package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	sim "yaoju/daemon/card/sim"
)

// A hundred residents come, of every kind of card, old enough or not, and some
// twice. Then everything the programs wrote or sent is searched for them: ledger
// and its journal, keys, district, logs, MQTT both ways, and every page.
func TestNoPersonalData(t *testing.T) {
	t.Parallel()
	const machines, residents = 4, 25
	for n := range machines {
		t.Run(fmt.Sprintf("machine %d", n+1), func(t *testing.T) {
			t.Parallel()
			visitMachine(t, uint64(n), residents)
		})
	}
}

// record keeps every byte written to it.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(b)
}

// bytes returns what was kept so far.
func (r *record) bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.text.Bytes())
}

// diagnose returns what is in a diagnostics bundle of the machine, made while it runs.
func (t *town) diagnose(tb *testing.T) map[string][]byte {
	tb.Helper()
	p := newPatient(tb)
	log, err := os.ReadFile(filepath.Join(t.dir, "kioskd.log"))
	if err != nil {
		tb.Fatal(err)
	}
	p.said["journalctl --unit=kioskd.service --no-pager --output=short-iso --lines="+logLines] = string(log)
	x := p.examine(p.host(), t.kioskConfig)
	file := filepath.Join(p.dir, "bundle.tar.gz")
	if err := writeDiagnostics(tb.Context(), file, x, x.report()); err != nil {
		tb.Fatal(err)
	}
	inside := map[string][]byte{}
	for name, text := range unpack(tb, file) {
		inside[name] = []byte(text)
	}
	return inside
}

func visitMachine(t *testing.T, seed uint64, residents int) {
	rng := rand.New(rand.NewPCG(seed, 100))
	pl := quick(t, bayOf(1, "condom-52", 12, "2030-01-31"), bayOf(2, "condom-52", 12, "2030-01-31"), bayOf(3, "condom-52", 12, "2030-01-31"))
	pl.turn, pl.readTakes = 150*time.Millisecond, 20*time.Millisecond
	tn := assemble(t, pl)
	if err := tn.startDistrict(t.Context()); err != nil {
		t.Fatal(err)
	}
	traffic := &record{}
	tn.tap(t, traffic)
	if err := tn.startKiosk(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := newPerson(t, tn)
	p.saw = traffic
	streaming := p.follow(t, "http://"+tn.screen+"/events")

	var people []sim.Person
	seen := map[string]int{}
	for i := range residents {
		who := sim.Someone(rng)
		if i%5 == 4 {
			who = people[i-2] // somebody comes again, too early
		}
		people = append(people, who)
		p.awaits("attract")
		p.tap("next", "")
		p.awaits("choose")
		p.tap("pick", "condom-52")
		p.awaits("scan")
		tn.rig.reader.Lay(who)
		end := p.awaits("take", "early", "age", "expired")
		tn.rig.reader.Lift()
		seen[end]++
		p.tap("next", "")
		if end == "take" {
			p.awaits("done")
			p.tap("next", "")
		}
	}
	t.Log(seen)
	if seen["take"] == 0 || seen["early"]+seen["age"] == 0 {
		t.Errorf("only %v: the search would prove little", seen)
	}
	for _, page := range []string{"/", "/?lang=en", "/machines/" + string(siteOf(0).machine)} {
		r, err := p.client.Get("http://" + tn.console + page)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(traffic, r.Body); err != nil {
			t.Error(err)
		}
		r.Body.Close()
	}
	told := tn.diagnose(t)
	if err := tn.kiosk.stop(); err != nil {
		t.Error(err)
	}
	streaming.Wait()
	if err := tn.district.stop(); err != nil {
		t.Error(err)
	}
	where := map[string][]byte{"traffic": traffic.bytes()}
	maps.Copy(where, told)
	err := filepath.WalkDir(tn.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			where[path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{"ledger.db", "marks.key", "district.db", "kioskd.log", "districtd.log", "traffic", "status.json", "log.txt"} {
		found := false
		for name, text := range where {
			found = found || strings.HasSuffix(name, want) && (len(text) > 0 || want == "districtd.log")
		}
		if !found {
			t.Errorf("nothing was searched of %s", want)
		}
	}
	for _, who := range people {
		for what, traces := range tracesOf(who) {
			for _, trace := range traces {
				for name, text := range where {
					if bytes.Contains(text, trace) {
						t.Errorf("%s holds the %s of a resident", name, what)
					}
				}
			}
		}
	}
}

// tracesOf lists the forms in which a person could have been left behind.
func tracesOf(p sim.Person) map[string][][]byte {
	wide := func(s string) (b []byte) {
		for _, u := range utf16.Encode([]rune(s)) {
			b = append(b, byte(u), byte(u>>8))
		}
		return b
	}
	forms := func(s string) [][]byte {
		return [][]byte{[]byte(s), wide(s), []byte(hex.EncodeToString([]byte(s))), []byte(base64.StdEncoding.EncodeToString([]byte(s))), []byte(hex.EncodeToString(wide(s)))}
	}
	return map[string][][]byte{"number": forms(p.Number), "number without its check digit": forms(p.Number[:len(p.Number)-1]), "name": forms(p.Name), "birth date": {[]byte(p.Birth), wide(p.Birth)}}
}

// tap puts itself between machine and broker and keeps all they say.
func (t *town) tap(tb testing.TB, into io.Writer) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	text, err := os.ReadFile(t.kioskConfig)
	if err != nil {
		tb.Fatal(err)
	}
	text = bytes.Replace(text, []byte("tcp://"+t.mqtt), []byte("tcp://"+l.Addr().String()), 1)
	if err := os.WriteFile(t.kioskConfig, text, 0o600); err != nil {
		tb.Fatal(err)
	}
	var lines sync.WaitGroup
	tb.Cleanup(func() { l.Close(); lines.Wait() })
	lines.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return // the test is over
			}
			far, err := net.Dial("tcp", t.mqtt)
			if err != nil {
				near.Close()
				continue
			}
			context.AfterFunc(tb.Context(), func() { near.Close(); far.Close() })
			carry := func(to, from net.Conn) {
				io.Copy(io.MultiWriter(to, into), from) // ends when either side does
				to.Close()
				from.Close()
			}
			lines.Go(func() { carry(near, far) })
			lines.Go(func() { carry(far, near) })
		}
	})
}

// follow keeps all that the page's stream of events says, until the machine stops.
func (p *person) follow(tb testing.TB, url string) *sync.WaitGroup {
	var streaming sync.WaitGroup
	ctx, cancel := context.WithCancel(tb.Context())
	tb.Cleanup(cancel)
	streaming.Go(func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			tb.Error(err)
			return
		}
		r, err := (&http.Client{}).Do(req)
		if err != nil {
			tb.Error(err)
			return
		}
		defer r.Body.Close()
		if _, err := io.Copy(p.saw, bufio.NewReader(r.Body)); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && ctx.Err() == nil {
			tb.Logf("stream: %v", err)
		}
	})
	return &streaming
}

// The search finds what is there: a ledger with a number in it is caught.
func TestTracesAreFound(t *testing.T) {
	who := sim.Resident("测试甲乙", "110105", "19900101", 2)
	for what, traces := range tracesOf(who) {
		if len(traces) == 0 || len(traces[0]) == 0 {
			t.Errorf("no form of the %s is searched for", what)
		}
	}
	block := who.Block()
	traces := tracesOf(who)
	for _, what := range []string{"number", "name", "birth date"} {
		found := false
		for _, trace := range traces[what] {
			found = found || bytes.Contains(block[:], trace)
		}
		if !found {
			t.Errorf("the %s is on the card and was not found there", what)
		}
	}
}
