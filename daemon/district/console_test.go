package district

import (
	"bufio"
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"yaoju/daemon/words"
	"yaoju/protocol"
)

// ask sends one request to the pages as this computer's browser would.
func ask(t testing.TB, d *District, method, path string, form url.Values, change func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(form.Encode()))
	r.Host, r.RemoteAddr = "district.test", "127.0.0.1:5"
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	d.Handler().ServeHTTP(w, r)
	return w
}

func TestWhoMayAsk(t *testing.T) {
	t.Parallel()
	d := open(t, "")
	if err := d.PutMachine(t.Context(), Place{Machine: "m-0001"}); err != nil {
		t.Fatal(err)
	}
	pause := url.Values{"verb": {"pause"}}
	const commands = "/machines/m-0001/commands"
	for _, c := range []struct {
		name, method, path string
		form               url.Values
		change             func(*http.Request)
		want               int
	}{
		{"list", "GET", "/", nil, nil, 200},
		{"machine", "GET", "/machines/m-0001", nil, nil, 200},
		{"no such machine", "GET", "/machines/m-0002", nil, nil, 404},
		{"no machine id", "GET", "/machines/M%20x", nil, nil, 404},
		{"no such page", "GET", "/admin", nil, nil, 404},
		{"another host", "GET", "/", nil, func(r *http.Request) { r.Host = "evil.test" }, 421},
		{"host with a dot more", "GET", "/", nil, func(r *http.Request) { r.Host = "district.test." }, 421},
		{"another computer", "GET", "/", nil, func(r *http.Request) { r.RemoteAddr = "192.0.2.7:5" }, 403},
		{"this computer by IPv6", "GET", "/", nil, func(r *http.Request) { r.RemoteAddr = "[::1]:5" }, 200},
		{"delete", "DELETE", "/machines/m-0001", nil, nil, 405},
		{"post to the list", "POST", "/", pause, nil, 405},
		{"command by GET", "GET", commands + "?verb=pause", nil, nil, 405},
		{"command", "POST", commands, pause, nil, 303},
		{"command from a foreign page", "POST", commands, pause, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		{"command with a foreign origin", "POST", commands, pause, func(r *http.Request) { r.Header.Set("Origin", "http://evil.test") }, 403},
		{"command in the address", "POST", commands + "?verb=pause", url.Values{}, nil, 400},
		{"verb nobody may give here", "POST", commands, url.Values{"verb": {"state"}}, nil, 400},
		{"slot 0", "POST", commands, url.Values{"verb": {"block"}, "slot": {"0"}}, nil, 400},
		{"slot 61", "POST", commands, url.Values{"verb": {"block"}, "slot": {"61"}}, nil, 400},
		{"slot 3", "POST", commands, url.Values{"verb": {"block"}, "slot": {"3"}}, nil, 303},
		{"large form", "POST", commands, url.Values{"verb": {strings.Repeat("x", maxForm)}}, nil, 400},
		{"command to nobody", "POST", "/machines/m-0002/commands", pause, nil, 404},
	} {
		w := ask(t, d, c.method, c.path, c.form, c.change)
		if w.Code != c.want {
			t.Errorf("%s: answered %d, want %d", c.name, w.Code, c.want)
		}
		csp := w.Header().Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none'; script-src 'self'; style-src 'self'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: policy %q", c.name, csp)
		}
		if w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: headers %v", c.name, w.Header())
		}
	}
	var n int
	if err := d.store.read.QueryRow(`SELECT count(*) FROM command`).Scan(&n); err != nil || n != 2 {
		t.Errorf("%d commands were given, err %v; want 2", n, err)
	}
}

func TestHostileNamesAreEscaped(t *testing.T) {
	t.Parallel()
	d := open(t, "")
	const evil = `"><script>alert(1)</script>`
	w := newWriter("m-0001")
	text := protocol.Text{ZH: evil, EN: evil}
	if err := d.PutMachine(t.Context(), Place{Machine: w.m, Name: text, Street: text, Where: text}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.SetDesired(t.Context(), someDesired(w.m)); err != nil {
		t.Fatal(err)
	}
	take(t, d, w.batch(w.seal(t, protocol.Boot{Software: evil}, protocol.StaffIn{Staff: evil}, loaded(1, 5))...))
	take(t, d, w.state(protocol.Ack{}, protocol.SlotState{Slot: 1, Product: "condom-52", Pieces: 5, Capacity: 12, Loaded: 5, Blocked: evil}))
	for _, path := range []string{"/", "/machines/m-0001", "/machines/m-0001?lang=en&q=" + url.QueryEscape(evil), "/?q=" + url.QueryEscape(evil)} {
		body := ask(t, d, "GET", path, nil, nil).Body.String()
		if strings.Contains(body, "<script>") || strings.Contains(body, "<标准型>") || strings.Contains(body, "<standard>") {
			t.Errorf("%s: foreign markup came through", path)
		}
		if strings.Contains(body, " style=") || strings.Contains(body, " onclick=") {
			t.Errorf("%s: has what its own policy forbids", path)
		}
	}
}

// The words of the pages: every key is in the catalogue, in both languages, and
// the catalogue holds none that no page uses.
func TestWords(t *testing.T) {
	t.Parallel()
	book, err := words.Load()
	if err != nil {
		t.Fatal(err)
	}
	page, err := assets.ReadFile("assets/page.html")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`T "(console[a-z.]*)"`).FindAllStringSubmatch(string(page), -1) {
		used[m[1]] = true
		if !book.Has(m[1]) {
			t.Errorf("the page uses %q, which the catalogue has not", m[1])
		}
	}
	if len(used) < 30 {
		t.Fatalf("only %d keys found in the page: the pattern no longer fits", len(used))
	}
	known := slices.Collect(maps.Keys(used))
	for _, k := range book.Keys() {
		if strings.HasPrefix(k, "console.alarm.") && !slices.Contains([]string{alarmFork, alarmChain, alarmMachine, alarmBalance, alarmRestored, alarmLedger}, strings.TrimPrefix(k, "console.alarm.")) {
			t.Errorf("words for %q, which is never raised", k)
		}
	}
	for _, k := range []string{alarmFork, alarmChain, alarmMachine, alarmBalance, alarmRestored, alarmLedger} {
		known = append(known, "console.alarm."+k)
	}
	for _, s := range standings() {
		known = append(known, "console.standing."+string(s))
	}
	for _, f := range filters() {
		known = append(known, "console.show."+f)
	}
	for _, b := range []protocol.Block{protocol.BlockUnknown, protocol.BlockSuspect, protocol.BlockFault, protocol.BlockStaff, protocol.BlockDistrict, "new"} {
		known = append(known, "console.block."+blockKey(b))
	}
	for _, k := range known {
		if !book.Has(k) {
			t.Errorf("the catalogue has no %q", k)
		}
	}
}

// Every kind of event has words in both languages, and a page with all of them on
// it can be drawn.
func TestEveryEventHasWords(t *testing.T) {
	t.Parallel()
	d := open(t, "")
	w := newWriter("m-0001")
	v := protocol.Vend{Vend: 1, Stock: someStock(1), Pieces: 1}
	all := []protocol.Event{
		protocol.LedgerStarted{Reason: "new", Previous: w.l}, protocol.Boot{Software: "1.0"},
		protocol.StockLoaded{Stock: someStock(1), Pieces: 9, After: 9, Staff: "7"}, protocol.VendDispensed{Vend: v}, protocol.VendKept{Vend: v},
		protocol.VendUnknown{Vend: v}, protocol.VendResolved{Vend: v, Outcome: protocol.Dispensed, By: "staff"},
		protocol.VendUnknown{Vend: v}, protocol.VendResolved{Vend: v, Outcome: protocol.Kept, By: "board"},
		protocol.OrderDenied{Reason: protocol.DenialEarly}, protocol.StockCounted{Stock: someStock(1), Expected: 7, Counted: 7, Staff: "7"},
		protocol.StockRemoved{Stock: someStock(1), Pieces: 1, Reason: protocol.RemovedSample, Before: 7, After: 6, Staff: "7"},
		protocol.StockTested{Stock: someStock(1), Pieces: 1, Staff: "7"}, protocol.SlotBlocked{Slot: 1, Why: protocol.BlockStaff},
		protocol.SlotCleared{Slot: 1, Why: protocol.BlockStaff}, protocol.StaffIn{Staff: "7"}, protocol.StaffOut{Staff: "7"}, protocol.StaffLocked{Staff: "7", Minutes: 5},
		protocol.DoorOpened{}, protocol.DoorClosed{}, protocol.FaultRaised{Fault: 1, Slot: 1}, protocol.FaultCleared{Fault: 1, Slot: 1},
		protocol.FaultRaised{Fault: 999}, protocol.ClimateHour{MinC: 20, MaxC: 24, MeanRH: 50, Samples: 60}, protocol.ItemUncollected{},
		protocol.CardLeft{}, protocol.DesiredApplied{Generation: 1, Version: 1},
		protocol.CommandDone{ID: "c-1", Verb: protocol.VerbBlock, Result: protocol.CommandOK},
		protocol.CommandDone{ID: "c-2", Verb: "dance", Result: protocol.CommandUnsupported}, protocol.ClockSet{By: "network"},
	}
	take(t, d, w.batch(w.seal(t, all...)...))
	if got := d.Counts().Quarantined; got != 0 {
		t.Fatalf("%d of our own events were put aside", got)
	}
	for _, lang := range []string{"zh", "en"} {
		if w := ask(t, d, "GET", "/machines/m-0001?lang="+lang, nil, nil); w.Code != 200 {
			t.Errorf("%s: answered %d", lang, w.Code)
		}
	}
	for _, e := range all {
		s := speech{book: d.pages.words, lang: "en", now: time.Now(), zone: d.o.Zone}
		if visit(e) == "" && s.event(e) == string(e.Kind()) {
			t.Errorf("%s has no words", e.Kind())
		}
	}
}

// The minute of a single vend is nowhere on the page.
func TestPageShowsNoMinuteOfAVend(t *testing.T) {
	t.Parallel()
	d := open(t, "")
	w := newWriter("m-0001")
	at := time.Now().Add(-time.Hour)
	var records []protocol.Sealed
	for i, e := range []protocol.Event{
		loaded(1, 9), dispensed(1, 1), protocol.VendKept{Vend: protocol.Vend{Vend: 2, Stock: someStock(1)}},
		protocol.SlotBlocked{Slot: 1, Why: protocol.BlockSuspect}, protocol.FaultRaised{Fault: protocol.FaultNoDrop, Slot: 1},
		protocol.OrderDenied{Reason: protocol.DenialEarly}, protocol.CardLeft{}, protocol.ItemUncollected{},
	} {
		s, err := protocol.Seal(w.m, w.l, w.head, protocol.Stamp{AtMS: at.Add(time.Duration(i) * time.Minute).UnixMilli(), Clock: protocol.ClockSynced, Boot: 1}, e)
		if err != nil {
			t.Fatal(err)
		}
		w.head = protocol.Head{Seq: s.Seq, Hash: s.Hash}
		records = append(records, s)
	}
	take(t, d, w.batch(records...))
	body := ask(t, d, "GET", "/machines/m-0001?lang=en", nil, nil).Body.String()
	_, events, _ := strings.Cut(body, `id="events"`)
	if !strings.Contains(events, "1 given out") {
		t.Error("the sum of the day is missing")
	}
	clock := regexp.MustCompile(`>[^<]*\d\d:\d\d</time>`).FindAllString(events, -1)
	if len(clock) != 1 { // the restock
		t.Errorf("times on the page: %v, want that of the restock alone", clock)
	}
}

func TestListFiltersSearchesAndTurnsPages(t *testing.T) {
	t.Parallel()
	d := open(t, "")
	for i := range rowsPerPage + 5 {
		m := protocol.MachineID("m-" + string(rune('a'+i/26)) + string(rune('a'+i%26)))
		if err := d.PutMachine(t.Context(), Place{Machine: m, Name: protocol.Text{ZH: "示例站", EN: "Station " + strings.ToUpper(string(m[2:]))}}); err != nil {
			t.Fatal(err)
		}
	}
	w := newWriter("m-aa")
	take(t, d, w.batch(w.seal(t, loaded(1, 9), loaded(2, 9))...),
		w.state(protocol.Ack{}, protocol.SlotState{Slot: 1, Product: "condom-52", Pieces: 9, Capacity: 12, Par: 2, Loaded: 9}, protocol.SlotState{Slot: 2, Product: "condom-52", Pieces: 9, Capacity: 12, Par: 2, Loaded: 9}),
		letterOf(w.m, protocol.OnlineTopic(w.m), protocol.Encode(protocol.Online{Online: true, Connection: 1})))
	for _, c := range []struct {
		path string
		rows int
		has  string
	}{
		{"/?lang=en", rowsPerPage, "1–50 of 55"},
		{"/?lang=en&page=2", 5, "51–55 of 55"},
		{"/?lang=en&page=99", 5, "51–55 of 55"},
		{"/?lang=en&page=-1", rowsPerPage, "1–50 of 55"},
		{"/?lang=en&show=offl", rowsPerPage, "1–50 of 54"},
		{"/?lang=en&show=empty", 0, "No machine matches"},
		{"/?lang=en&show=nonsense", rowsPerPage, "1–50 of 55"},
		{"/?lang=en&q=station+ab", 1, "1–1 of 1"},
		{"/?lang=en&q=%FF%FEzz", 0, "0–0 of 0"},
		{"/?q=m-aa", 1, "第 1–1 台，共 1 台"},
	} {
		body := ask(t, d, "GET", c.path, nil, nil).Body.String()
		if n := strings.Count(body, `<tr id="m-`); n != c.rows || !strings.Contains(body, c.has) {
			t.Errorf("%s: %d rows, want %d and %q", c.path, n, c.rows, c.has)
		}
	}
	body := ask(t, d, "GET", "/?lang=en&page=2", nil, nil).Body.String()
	if !strings.Contains(body, `id="m-m-aa"`) || !strings.Contains(body, "pill ok") {
		t.Error("the one healthy machine is not last")
	}
}

// A page that follows changes hears of one, and no data goes with it.
func TestLive(t *testing.T) {
	t.Parallel()
	d := open(t, "")
	server := httptest.NewServer(d.Handler())
	defer server.Close()
	d.o.Hosts = []string{strings.TrimPrefix(server.URL, "http://")}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "retry:") {
		t.Fatalf("began with %q", lines.Text())
	}
	w := newWriter("m-0001")
	take(t, d, w.batch(w.seal(t, loaded(1, 9))...))
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "data:") {
			if strings.Contains(lines.Text(), "m-0001") {
				t.Errorf("told %q, want a number alone", lines.Text())
			}
			return
		}
	}
	t.Errorf("no change was told: %v", lines.Err())
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	d := open(t, "")
	d.pages.streams.Store(maxStreams)
	if w := ask(t, d, "GET", "/live", nil, nil); w.Code != http.StatusServiceUnavailable {
		t.Errorf("stream %d answered %d, want 503", maxStreams+1, w.Code)
	}
	if n := d.pages.streams.Load(); n != maxStreams {
		t.Errorf("%d streams counted, want %d", n, maxStreams)
	}
}

func FuzzCommandForm(f *testing.F) {
	f.Add("m-0001", "verb=block&slot=3")
	f.Add("m-0001", "verb=pause;slot=%zz")
	f.Add("../x", "verb=clear&slot=999999999999")
	d := open(f, "")
	if err := d.PutMachine(f.Context(), Place{Machine: "m-0001"}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, m, form string) {
		r := httptest.NewRequest(http.MethodPost, "/machines/"+url.PathEscape(m)+"/commands", strings.NewReader(form))
		r.Host, r.RemoteAddr = "district.test", "127.0.0.1:5"
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		d.Handler().ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("%q with %q answered %d", m, form, w.Code)
		}
	})
}
