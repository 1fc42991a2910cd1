package web

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yaoju/daemon/kiosk"
	"yaoju/daemon/voice"
	"yaoju/daemon/words"
	"yaoju/protocol"
)

const host = "127.0.0.1:8080"

func handler(s Session, frame string) http.Handler {
	return New(s, Options{Hosts: []string{host}, Frame: frame, Log: slog.New(slog.DiscardHandler)})
}

// ask sends one request; change may spoil it.
func ask(h http.Handler, method, path, body string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://"+host+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func token(t *testing.T, h http.Handler) string {
	t.Helper()
	page := ask(h, "GET", "/", "", nil).Body.String()
	m := regexp.MustCompile(`data-token="([A-Z0-9]+)"`).FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("no token in the page: %.300s", page)
	}
	return m[1]
}

func TestRequests(t *testing.T) {
	s := newStage(t)
	h := handler(s, "")
	good := fmt.Sprintf(`{"token":%q,"serial":7,"tap":"next"}`, token(t, h))
	set := func(key, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(key, value) }
	}
	hostName := func(name string) func(*http.Request) { return func(r *http.Request) { r.Host = name } }
	for _, c := range []struct {
		name, method, path, body string
		change                   func(*http.Request)
		status                   int
	}{
		{"page", "GET", "/", "", nil, 200},
		{"page, no body asked", "HEAD", "/", "", nil, 200},
		{"tap", "POST", "/tap", good, nil, 204},
		{"tap with charset", "POST", "/tap", good, set("Content-Type", "application/json; charset=utf-8"), 204},
		{"tap of our own page", "POST", "/tap", good, set("Sec-Fetch-Site", "same-origin"), 204},
		{"another name for the loopback address", "GET", "/", "", hostName("rebound.example:8080"), 421},
		{"another port", "GET", "/", "", hostName("127.0.0.1"), 421},
		{"tap under another name", "POST", "/tap", good, hostName("localhost:8080"), 421},
		{"tap from another site", "POST", "/tap", good, set("Sec-Fetch-Site", "cross-site"), 403},
		{"tap from another origin", "POST", "/tap", good, set("Origin", "http://evil.example"), 403},
		{"stream for another site", "GET", "/events", "", set("Sec-Fetch-Site", "cross-site"), 403},
		{"tap by GET", "GET", "/tap", "", nil, 405},
		{"page by POST", "POST", "/", good, nil, 405},
		{"stream by POST", "POST", "/events", good, nil, 405},
		{"page by DELETE", "DELETE", "/", "", nil, 405},
		{"no such page", "GET", "/admin", "", nil, 404},
		{"no such file", "GET", "/assets/kiosk.js", "", nil, 404},
		{"a clip", "GET", "/voice/en/attract.voice.opus", "", nil, 200},
		{"no such clip", "GET", "/voice/en/attract.title.opus", "", nil, 404},
		{"no such language", "GET", "/voice/fr/attract.voice.opus", "", nil, 404},
		{"outside the clips", "GET", "/voice/en/..%2findex.json", "", nil, 404},
		{"not a clip", "GET", "/voice/en/attract.voice", "", nil, 404},
		{"outside the files", "GET", "/assets/..%2f..%2fetc%2fpasswd", "", nil, 404},
		{"a form", "POST", "/tap", good, set("Content-Type", "text/plain"), 415},
		{"no type", "POST", "/tap", good, func(r *http.Request) { r.Header.Del("Content-Type") }, 415},
		{"too long", "POST", "/tap", good + strings.Repeat(" ", maxTap), nil, 413},
		{"no JSON", "POST", "/tap", "tap", nil, 400},
		{"two taps", "POST", "/tap", good + good, nil, 400},
		{"a list", "POST", "/tap", "[" + good + "]", nil, 400},
		{"deep", "POST", "/tap", strings.Repeat("[", 900), nil, 400},
		{"no such button", "POST", "/tap", strings.Replace(good, "next", "admin", 1), nil, 400},
		{"negative serial", "POST", "/tap", strings.Replace(good, ":7,", ":-7,", 1), nil, 400},
		{"a pick of nothing", "POST", "/tap", strings.Replace(good, "next", "pick", 1), nil, 400},
		{"a pick of nonsense", "POST", "/tap", strings.Replace(good, `"next"`, `"pick","arg":"../x"`, 1), nil, 400},
		{"next with a product", "POST", "/tap", strings.Replace(good, `"next"`, `"next","arg":"gel"`, 1), nil, 400},
		{"no token", "POST", "/tap", `{"serial":7,"tap":"next"}`, nil, 403},
		{"a token of another start", "POST", "/tap", `{"token":"ABCDEFGHIJKLMNOPQRSTUVWXYZ","serial":7,"tap":"next"}`, nil, 403},
	} {
		w := ask(h, c.method, c.path, c.body, c.change)
		if w.Code != c.status {
			t.Errorf("%s: got status %d, want %d", c.name, w.Code, c.status)
		}
		arrived := false
		select {
		case p := <-s.taps:
			arrived = true
			if p.Serial != 7 || p.Tap != kiosk.TapNext {
				t.Errorf("%s: got %+v, want next on screen 7", c.name, p)
			}
		default:
		}
		if want := c.status == 204; arrived != want {
			t.Errorf("%s: tap arrived: %t, want %t", c.name, arrived, want)
		}
	}
}

func TestPickArrives(t *testing.T) {
	s := newStage(t)
	h := handler(s, "")
	w := ask(h, "POST", "/tap", fmt.Sprintf(`{"token":%q,"serial":9,"tap":"pick","arg":"gel"}`, token(t, h)), nil)
	if got := <-s.taps; w.Code != 204 || got != (press{Serial: 9, Tap: kiosk.TapPick, Arg: "gel"}) {
		t.Errorf("got status %d and %+v", w.Code, got)
	}
}

func TestHeaders(t *testing.T) {
	for frame, want := range map[string]string{"": "frame-ancestors 'none'", "http://127.0.0.1:9000": "frame-ancestors http://127.0.0.1:9000"} {
		h := handler(newStage(t), frame)
		for _, path := range []string{"/", "/nothing"} {
			got := ask(h, "GET", path, "", nil).Header()
			policy := got.Get("Content-Security-Policy")
			if !strings.HasPrefix(policy, "default-src 'none';") || !strings.HasSuffix(policy, want) || strings.Contains(policy, "unsafe") {
				t.Errorf("%s: got policy %q, want it to end in %q", path, policy, want)
			}
			for key, value := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"} {
				if got.Get(key) != value {
					t.Errorf("%s: got %s %q, want %q", path, key, got.Get(key), value)
				}
			}
		}
	}
}

// The page is light, and its files may be kept for ever under their names.
func TestWeight(t *testing.T) {
	h := handler(newStage(t), "")
	page := ask(h, "GET", "/", "", nil).Body.Bytes()
	light, all := len(pack(page)), len(pack(page))
	files := regexp.MustCompile(`/assets/[a-z]+-[0-9a-f]{12}\.[a-z0-9]+`).FindAllString(string(page), -1)
	if len(files) != 5 {
		t.Fatalf("got files %q, want style, script, mark and two fonts", files)
	}
	for _, f := range files {
		w := ask(h, "GET", f, "", func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip") })
		if w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s: got status %d, %q", f, w.Code, w.Header().Get("Cache-Control"))
		}
		all += w.Body.Len()
		if strings.HasSuffix(f, ".woff2") {
			continue
		}
		light += w.Body.Len()
		z, err := gzip.NewReader(bytes.NewReader(w.Body.Bytes()))
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		unpacked, err := io.ReadAll(z)
		if plain := ask(h, "GET", f, "", nil); err != nil || !bytes.Equal(unpacked, plain.Body.Bytes()) || plain.Header().Get("Content-Encoding") != "" {
			t.Errorf("%s: packed and plain differ, or plain is packed (%v)", f, err)
		}
	}
	if light > 60<<10 || all > 330<<10 {
		t.Errorf("the page weighs %d bytes without fonts and %d with, want at most %d and %d", light, all, 60<<10, 330<<10)
	}
}

// line is one reader of the stream: every event it got, by name and data.
type line struct {
	ctx  context.Context
	end  context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	header http.Header
	events []string // guarded by mu
}

func (l *line) Header() http.Header { return l.header }
func (l *line) WriteHeader(int)     {}
func (l *line) Flush()              {}

func (l *line) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, string(b))
	return len(b), nil
}

func (l *line) got() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

func follow(t *testing.T, h http.Handler) *line {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &line{ctx: ctx, end: cancel, header: http.Header{}, done: make(chan struct{})}
	r := httptest.NewRequestWithContext(ctx, "GET", "http://"+host+"/events", nil)
	go func() {
		defer close(l.done)
		h.ServeHTTP(l, r)
	}()
	return l
}

func TestStreamCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.show(func() kiosk.View { v := scene0(kiosk.Dispense); v.Seconds = 4; return v }())
		l := follow(t, handler(s, ""))
		synctest.Wait()
		for i := 1; i <= 100; i++ { // a motor's steps within a second
			s.change(func(v *kiosk.View) { v.Percent = i })
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second)
		got := l.got()
		if len(got) > 22 || len(got) < 15 {
			t.Errorf("got %d pictures of 100 steps in a second, want about 20", len(got))
		}
		var m message
		if err := json.Unmarshal([]byte(strings.TrimPrefix(strings.TrimSpace(got[len(got)-1]), "data: ")), &m); err != nil || !strings.Contains(string(m.Main), `value="100"`) {
			t.Errorf("the last picture is not the last step: %v, %.200s", err, m.Main)
		}
		s.change(func(*kiosk.View) {}) // stale, but nothing to see
		time.Sleep(time.Second)
		if more := l.got(); len(more) != len(got) {
			t.Errorf("a view that did not change was sent again: %q", more[len(got):])
		}
		time.Sleep(2 * beatTime)
		if more := l.got(); len(more) != len(got)+2 || !strings.HasPrefix(more[len(got)], "event: beat\n") {
			t.Errorf("got %q in two beats of silence, want two beats", more[len(got):])
		}
		l.end()
		<-l.done
	})
}

func TestNewestStreamsWin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		h := handler(s, "")
		var all []*line
		for range maxStreams + 2 {
			all = append(all, follow(t, h))
			synctest.Wait()
		}
		for i, l := range all {
			ended := false
			select {
			case <-l.done:
				ended = true
			default:
			}
			if want := i < 2; ended != want {
				t.Errorf("stream %d ended: %t, want %t", i, ended, want)
			}
		}
		all[3].end()
		<-all[3].done
		again := follow(t, h)
		synctest.Wait()
		select {
		case <-all[2].done:
			t.Error("a stream was ended though there was room")
		default:
		}
		for _, l := range append(all[2:], again) {
			l.end()
			<-l.done
		}
	})
}

// pages returns a function that draws a view as a whole page.
func pages(t *testing.T) func(kiosk.View) string {
	s := newStage(t)
	h := handler(s, "")
	return func(v kiosk.View) string {
		t.Helper()
		s.show(v)
		return drawn(t, h)
	}
}

func drawn(t *testing.T, h http.Handler) string {
	t.Helper()
	w := ask(h, "GET", "/", "", nil)
	if w.Code != 200 {
		t.Fatalf("got status %d", w.Code)
	}
	// The two random names in the page could spell anything.
	return random.ReplaceAllString(w.Body.String(), "")
}

var random = regexp.MustCompile(` data-(?:start|token)="[A-Z0-9]+"`)

// Product names stand on the choose screen alone, and not there when hidden; the
// cover shows nothing of what it covers.
func TestDiscreet(t *testing.T) {
	page := pages(t)
	for _, look := range looks {
		for _, s := range scenes() {
			look.mode(&s.view.Modes)
			s.view.Products = products(10)
			text := page(s.view)
			open := s.view.Screen == kiosk.Choose && !s.view.Modes.Discreet || s.view.Screen == kiosk.StaffWork
			for _, name := range []string{"避孕", "Condom", "Contracepti", "性病", "STI"} {
				if strings.Contains(text, name) && !open {
					t.Errorf("%s %s: the page says %q", s.name, look.name, name)
				}
			}
			if s.view.Covered && (strings.Contains(text, "12月9日") || strings.Contains(text, "9 Dec")) {
				t.Errorf("%s %s: the date shows through the cover", s.name, look.name)
			}
			if strings.Contains(text, " style=") || strings.Contains(text, "<style") || strings.Contains(text, "javascript:") {
				t.Errorf("%s %s: inline style or script", s.name, look.name)
			}
		}
	}
}

// Names out of the desired state are text, never markup.
func TestForeignTextIsEscaped(t *testing.T) {
	page := pages(t)
	evil := protocol.Text{ZH: `<img src=x onerror=alert(1)>`, EN: `"><script>alert(1)</script>`}
	for _, screen := range []kiosk.Screen{kiosk.Choose, kiosk.Empty, kiosk.Privacy, kiosk.Fault} {
		for _, lang := range []kiosk.Lang{kiosk.ZH, kiosk.EN} {
			v := scene0(screen)
			v.Modes.Lang = lang
			v.Products = []kiosk.Choice{{ID: "x", Letter: "A", Name: evil, Note: evil, Stock: true}}
			v.Place.Texts = protocol.Texts{Authority: evil, Phone: evil.ZH}
			v.Place.Nearby = []protocol.Nearby{{Name: evil, Where: evil}}
			v.Place.Machine = protocol.MachineID(evil.EN)
			v.Code = evil.EN
			if text := page(v); strings.Contains(text, "<img") || strings.Contains(text, "<script>") {
				t.Errorf("%s %s: foreign text became markup", screen, lang)
			}
		}
	}
}

func TestFacts(t *testing.T) {
	box := protocol.Rule{Max: 1, Per: protocol.PerDays, Days: 30}
	year := protocol.Rule{Max: 120, Units: true, Per: protocol.PerYear}
	class := protocol.Rule{Class: "condom", Max: 2, Per: protocol.PerMonth}
	const private = "屏幕不显示姓名|Your name is never shown"
	for _, c := range []struct {
		policy protocol.Policy
		want   []string // Chinese|English
	}{
		{protocol.Policy{AgeFrom: 18, Rules: []protocol.Rule{box}}, []string{"每 30 天可领 1 盒|1 box every 30 days", "年满 18 周岁|Age 18 and over", private}},
		{protocol.Policy{AgeFrom: 18, Rules: []protocol.Rule{{Max: 3, Per: protocol.PerDays, Days: 1}}}, []string{"每天可领 3 盒|3 boxes each day", "年满 18 周岁|Age 18 and over", private}},
		{monthly, []string{"每月可领 2 盒|2 boxes each month", "每年可领 120 件|120 items each year", "20 至 55 周岁|Age 20 to 55", private}},
		{protocol.Policy{Rules: []protocol.Rule{box, year, class}}, []string{"每 30 天可领 1 盒|1 box every 30 days", "另有限量，可问服务台|Other limits apply, ask at the desk", private}},
		{protocol.Policy{Rules: []protocol.Rule{class}}, []string{"领取有限量，可问服务台|Limits apply, ask at the desk", private}},
		{protocol.Policy{AgeTo: 49}, []string{"0 至 49 周岁|Age 0 to 49", private}},
	} {
		for i, lang := range []kiosk.Lang{kiosk.ZH, kiosk.EN} {
			v := scene0(kiosk.Attract)
			v.Place.Policy, v.Modes.Lang = c.policy, lang
			book, err := words.Load()
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range newPainter(book, voice.New(book, ""), loadAssets()).scene(v).Facts() {
				got = append(got, strings.ReplaceAll(string(f.Words), "\u00a0", " "))
			}
			var want []string
			for _, w := range c.want {
				want = append(want, strings.Split(w, "|")[i])
			}
			if !slices.Equal(got, want) {
				t.Errorf("%+v: got %q, want %q", c.policy, got, want)
			}
		}
	}
}

// "Nothing was counted" is a promise: it is made only while no vend is open.
func TestFaultPromises(t *testing.T) {
	page := pages(t)
	for _, f := range protocol.Faults() {
		for _, open := range []bool{false, true} {
			v := scene0(kiosk.Fault)
			v.Code, v.Open = f.Fault.Code(), open
			text := page(v)
			if open && strings.Contains(text, "没有减少") {
				t.Errorf("%s: promises that nothing was counted while a vend is open", f.Name)
			}
			if f.Fault == protocol.FaultReader && !open && !strings.Contains(text, "您的次数没有减少") {
				t.Errorf("%s: does not say that nothing was counted", f.Name)
			}
			if !strings.Contains(text, v.Code) {
				t.Errorf("%s: the staff code is missing", f.Name)
			}
		}
	}
}

func TestQuietAtNight(t *testing.T) {
	page := pages(t)
	for hour, want := range map[int]bool{6: true, 7: false, 14: false, 21: false, 22: true, 0: true} {
		v := scene0(kiosk.Attract)
		v.Now = time.Date(2026, 11, 23, hour, 30, 0, 0, time.UTC)
		if got := strings.Contains(page(v), "data-quiet"); got != want {
			t.Errorf("%d:30: got quiet %t, want %t", hour, got, want)
		}
	}
}

// Every phrase of the resident's catalogue is used by this package, and every
// phrase it uses is there.
func TestWordsAreUsed(t *testing.T) {
	book, err := words.Load()
	if err != nil {
		t.Fatal(err)
	}
	var source []byte
	for _, pattern := range []string{"*.go", "assets/*.html", "../kiosk/*.go", "../../cmd/kioskd/*.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if strings.HasSuffix(n, "_test.go") {
				continue
			}
			b, err := os.ReadFile(n)
			if err != nil {
				t.Fatal(err)
			}
			source = append(source, b...)
		}
	}
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`"([a-z]+[a-z0-9.]*)"`).FindAllSubmatch(source, -1) {
		used[string(m[1])] = true
	}
	for _, m := range regexp.MustCompile(`\.(?:T|N|Text|HTML)\b[ (](?:"(?:zh-CN|en)" |lang, )?"([^"]+)"`).FindAllSubmatch(source, -1) {
		if key := string(m[1]); !book.Has(key) && !strings.HasSuffix(key, ".") {
			t.Errorf("key %q is used but not in the catalogue", m[1])
		}
	}
	for _, key := range kioskKeys(t) {
		// A phrase may be put together of its family and a member.
		family := key[:strings.LastIndexByte(key, '.')+1]
		if !used[key] && !used[strings.TrimSuffix(key, ".one")] && !used[family] {
			t.Errorf("key %q is in kiosk.json but nothing uses it", key)
		}
	}
}

func kioskFile(t *testing.T) map[string]map[string]string {
	t.Helper()
	b, err := os.ReadFile("../words/kiosk.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]map[string]string
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func kioskKeys(t *testing.T) []string {
	t.Helper()
	var keys []string
	for key := range kioskFile(t) {
		keys = append(keys, key)
	}
	return keys
}

// The font subset knows every character of the catalogue.
func TestFontKnowsTheWords(t *testing.T) {
	chars, err := os.ReadFile("assets/chars.txt")
	if err != nil {
		t.Fatal(err)
	}
	for key, p := range kioskFile(t) {
		for _, s := range p {
			for _, r := range s {
				if !strings.ContainsRune(string(chars), r) {
					t.Errorf("%q of key %q is not in assets/chars.txt: add it and run `make font`", r, key)
				}
			}
		}
	}
}

func FuzzPress(f *testing.F) {
	f.Add([]byte(`{"token":"A","serial":1,"tap":"next"}`))
	f.Add([]byte(`{"token":"A","serial":18446744073709551615,"tap":"pick","arg":"condom-52"}`))
	f.Add([]byte(`{"serial":-1}`))
	f.Add([]byte(`{"tap":"pick","arg":"` + strings.Repeat("a", 40) + `"}`))
	f.Add([]byte("\xff{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePress(b)
		if err != nil {
			return
		}
		if p.Tap == kiosk.TapPick && protocol.ProductID(p.Arg).Valid() != nil || len(p.Arg) > maxArg && p.Tap != kiosk.TapPick || p.Tap == "" {
			t.Errorf("%q: got %+v", b, p)
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if q, err := decodePress(again); err != nil || q != p {
			t.Errorf("%q: read %+v, and after writing it %+v (%v)", b, p, q, err)
		}
	})
}
