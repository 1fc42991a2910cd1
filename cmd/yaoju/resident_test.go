package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	reader "yaoju/daemon/card/sim"
	"yaoju/protocol"
)

// looksForGone is more looks than kioskd needs to believe that a card was lifted.
const looksForGone = 4

var pictures = flag.String("pictures", "", "folder for pictures of the real screens")

// tab is one page in a real browser.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu   sync.Mutex
	said []string // guarded by mu: what the browser complained of
}

// browse starts a browser with one tab.
func browse(t *testing.T) *tab {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, chromedp.ExecPath("/usr/bin/chromium"), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("headless", "new"), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("mute-audio", true), chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("autoplay-policy", "no-user-gesture-required")) // as on a machine: a card that comes first beeps too
	t.Cleanup(cancel)
	return newTab(t, ctx)
}

// newTab opens a tab in the browser that ctx has, or starts it.
func newTab(t *testing.T, ctx context.Context) *tab {
	t.Helper()
	b := &tab{t: t}
	var cancel context.CancelFunc
	b.ctx, cancel = chromedp.NewContext(ctx, chromedp.WithListener(func(ev any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := ev.(type) {
		case *runtime.EventExceptionThrown:
			b.said = append(b.said, e.ExceptionDetails.Text)
		case *cdplog.EventEntryAdded:
			b.said = append(b.said, e.Entry.Text+" "+e.Entry.URL)
		}
	}))
	t.Cleanup(cancel)
	return b
}

func (b *tab) open(url string, w, h int64) {
	b.t.Helper()
	for _, a := range []chromedp.Action[chromedp.Void]{chromedp.EmulateViewport(w, h), chromedp.Navigate(url)} {
		if err := chromedp.Do(b.ctx, a); err != nil {
			b.t.Fatal(err)
		}
	}
	still := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, still); err != nil {
		b.t.Fatal(err)
	}
}

func (b *tab) await(expression string) {
	b.t.Helper()
	if _, err := chromedp.Run(b.ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(40*time.Second))); err != nil {
		b.t.Fatalf("waiting for %s: %v; the page shows %q; the browser said %q", expression, err, eval[string](b, "document.body.innerText.slice(0, 500)"), b.complaints())
	}
}

func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

func (b *tab) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.said...)
}

// picture keeps what the tab shows, if pictures are wanted.
func (b *tab) picture(name string) {
	b.t.Helper()
	if *pictures == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*pictures, name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// axe holds the page against WCAG 2.2 A and AA and best practice.
func (b *tab) axe(name string) {
	b.t.Helper()
	script, err := os.ReadFile("../../daemon/web/testdata/axe.min.js")
	if err != nil {
		b.t.Fatal(err)
	}
	eval[bool](b, string(script)+"; true")
	found := eval[[]string](b, `axe.run(document, {iframes: false, runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})
		.then(r => r.violations.flatMap(v => v.nodes.map(n => v.id + ': ' + n.html + ' ' + n.failureSummary)))`)
	for _, f := range found {
		b.t.Errorf("%s: %s", name, f)
	}
}

// screen waits until the resident's page shows one of the screens.
func (b *tab) screen(name string) {
	b.t.Helper()
	b.await(fmt.Sprintf(`document.documentElement.dataset.screen === %q && !('covered' in document.documentElement.dataset)`, name))
}

// press clicks what a selector finds, with a real pointer, until the screen is
// another one: a press within the bounce time of the last does nothing, as in life.
func (b *tab) press(selector string) {
	b.t.Helper()
	was := eval[string](b, `document.documentElement.dataset.screen`)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if err := chromedp.Do(b.ctx, chromedp.Click(selector)); err != nil {
			b.t.Fatalf("press %s on %s: %v", selector, was, err)
		}
		if eval[bool](b, fmt.Sprintf(`new Promise(done => {
			const end = performance.now() + 600;
			(function look() {
				if (document.documentElement.dataset.screen !== %q) done(true);
				else if (performance.now() > end) done(false);
				else setTimeout(look, 10);
			})();
		})`, was)) {
			return
		}
	}
	b.t.Fatalf("pressing %s on %s does nothing", selector, was)
}

const (
	next  = `main [data-tap=next]`
	other = `main [data-tap=other]`
)

func pick(p protocol.ProductID) string {
	return fmt.Sprintf(`main [data-tap=pick][data-arg=%q]`, p)
}

// A resident walks through every answer the machine can give, on the real page of
// the real programs, and the district's page follows without a reload.
func TestResident(t *testing.T) {
	t.Parallel()
	tn := open(t, quick(t, bayOf(1, "condom-52", 3, "2029-01-31"), bayOf(2, "condom-52", 2, "2030-01-31"), bayOf(11, "gel", 2, "2030-01-31")))
	w := newWorkbench(tn.rig, tn.bays, "http://"+tn.screen+"/", "http://"+tn.console+"/", time.Now().In(tn.zone))
	bench := func(what, arg string) {
		t.Helper()
		if err := w.perform(t.Context(), what, arg); err != nil {
			t.Fatal(err)
		}
	}
	page := browse(t)
	page.open("http://"+tn.screen+"/", 1080, 1920)
	page.screen("attract")
	console := newTab(t, page.ctx)
	console.open("http://"+tn.console+"/machines/"+string(siteOf(0).machine), 1440, 900)
	const stock = `[...document.querySelectorAll('#slots .n b')].map(b => b.textContent).join()`
	console.await(stock + ` === '3,2,2'`)
	eval[bool](console, `window.kept = true`)
	counts := func(want string) {
		t.Helper()
		console.await(stock + ` === '` + want + `' && window.kept === true`)
	}
	// order chooses a product and lays a card; the caller says what the answer is.
	order := func(product protocol.ProductID, card string) {
		t.Helper()
		page.press(next)
		page.screen("choose")
		page.press(pick(product))
		page.screen("scan")
		bench("lay", card)
	}
	leave := func() {
		t.Helper()
		bench("lift", "")
		page.press(next)
		page.screen("attract")
		// A card that is back before anybody has looked was never away.
		for looked := tn.rig.reader.Asked(reader.Find); tn.rig.reader.Asked(reader.Find) < looked+looksForGone; {
			time.Sleep(20 * time.Millisecond)
		}
	}
	take := func() {
		t.Helper()
		page.screen("take")
		bench("lift", "")
		page.press(next)
		page.screen("done")
		page.press(next)
	}

	order("condom-52", "adult-1")
	page.screen("dispense")
	take()
	counts("2,2,2")
	page.screen("attract")

	order("gel", "adult-1") // the same person, the same day
	page.screen("early")
	leave()
	bench("lay", "adult-1") // the card first: the notice, and the same answer
	page.screen("scan")
	page.screen("early")
	leave()
	order("gel", "minor")
	page.screen("age")
	leave()
	order("gel", "expired")
	page.screen("expired")
	leave()
	order("gel", "broken")
	page.screen("cardfail")
	bench("lift", "")
	page.press(next) // again, with a card that can be read
	page.screen("scan")
	bench("lay", "adult-2")
	take()
	counts("2,2,1")

	// The card first, then the choice.
	page.screen("attract")
	bench("lay", "late")
	page.screen("choose")
	bench("lift", "")
	page.press(pick("condom-52"))
	take()
	counts("1,2,1")

	// The front slot keeps its box: the order goes on with the other one.
	page.screen("attract")
	tn.rig.board.Spoil(1)
	order("condom-52", "adult-3")
	take()
	counts("1,1,1")

	// Nothing comes out at all: nothing is counted, something else with the same card.
	page.screen("attract")
	tn.rig.board.Spoil(11)
	order("gel", "permit")
	page.screen("jam")
	bench("lift", "")
	page.press(next)
	page.screen("choose")
	page.press(pick("condom-52"))
	take()
	counts("0,1,1")

	// The door opens: nobody is served until it is closed.
	page.screen("attract")
	bench("door", "")
	page.screen("fault")
	bench("door", "")
	page.screen("attract")

	// The last of everything.
	order("condom-52", "foreigner")
	take()
	page.screen("attract")
	order("gel", "spare")
	take()
	page.screen("empty")
	counts("0,0,0")

	for _, b := range []*tab{page, console} {
		if said := b.complaints(); len(said) > 0 {
			t.Errorf("the browser complained: %q", said)
		}
	}
	agree(t, tn)
}

// The bench and the fleet are what a newcomer sees first.
func TestDemoPages(t *testing.T) {
	t.Parallel()
	console, err := free()
	if err != nil {
		t.Fatal(err)
	}
	line, err := free()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var out record
	ended := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() {
		ended <- demo(ctx, programs, demoOptions{machines: 10, speed: 2000, bench: line, console: console}, &out, slog.New(slog.DiscardHandler))
	})
	defer func() {
		cancel()
		running.Wait()
		if err := <-ended; err != nil {
			t.Errorf("the demo ended with %v", err)
		}
	}()
	page := browse(t)
	deadline := time.Now().Add(readyLimit)
	for ready := answers("http://" + line + "/"); !ready(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the demo's bench does not answer")
		}
	}
	page.open("http://"+line+"/", 1440, 900)
	page.await(`document.getElementById('left').textContent === '330'`)
	screen := eval[string](page, `document.body.dataset.screen`)
	page.await(`document.getElementById('screen').getBoundingClientRect().height > 500`)
	// The frame is drawn only where the machine allows it to this very bench.
	r, err := http.Get(screen)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if got, want := r.Header.Get("Content-Security-Policy"), "frame-ancestors http://"+line; !strings.Contains(got, want) {
		t.Errorf("the screen's policy is %q, want %q in it", got, want)
	}
	if err := chromedp.Do(page.ctx, chromedp.Click(`[data-do=door]`)); err != nil {
		t.Fatal(err)
	}
	page.await(`document.getElementById('door').getAttribute('aria-pressed') === 'true'`)
	if err := chromedp.Do(page.ctx, chromedp.Click(`[data-do=door]`)); err != nil {
		t.Fatal(err)
	}
	page.await(`document.getElementById('door').getAttribute('aria-pressed') === 'false'`)

	// The main job, as a newcomer does it.
	do := func(what, arg string) {
		t.Helper()
		if !eval[bool](page, fmt.Sprintf(`fetch('/do', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify({do: %q, arg: %q})}).then(r => r.ok)`, what, arg)) {
			t.Fatalf("the bench does not %s %s", what, arg)
		}
	}
	resident := newTab(t, page.ctx)
	resident.open(screen, 1080, 1920)
	resident.screen("attract")
	resident.picture("attract")
	resident.press(next)
	resident.picture("choose")
	resident.press(pick("condom-52"))
	resident.picture("scan")
	do("lay", "adult-1")
	resident.screen("dispense")
	do("lift", "")
	resident.await(`document.querySelector('progress').value > 30`)
	resident.picture("dispense")
	resident.screen("take")
	resident.picture("take")
	resident.press(next)
	resident.picture("done")
	page.await(`document.getElementById('fallen').textContent === '1' && document.getElementById('left').textContent === '329'`)
	resident.press(next)
	resident.screen("attract")
	page.picture("bench")

	fleet := newTab(t, page.ctx)
	fleet.open("http://"+console+"/", 1440, 900)
	fleet.await(`document.querySelectorAll('#list tbody tr').length === 11`)
	// Light machines live: some number on the page changes, and nobody reloads it.
	eval[bool](fleet, `window.kept = true; window.first = document.querySelector('#list tbody').innerText; true`)
	fleet.await(`window.kept === true && document.querySelector('#list tbody').innerText !== window.first`)
	fleet.picture("console")
	fleet.open("http://"+console+"/machines/m-0002", 1440, 900)
	fleet.await(`document.querySelectorAll('#slots li').length >= 30`)
	fleet.picture("machine")
	for _, lang := range []string{"zh-CN", "en"} {
		page.open("http://"+line+"/?lang="+lang, 1440, 900)
		page.axe("bench, " + lang)
		for _, path := range []string{"/", "/machines/m-0001", "/?filter=low", "/?q=nothing"} {
			fleet.open("http://"+console+path+map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")]+"lang="+lang, 1280, 800)
			fleet.await(`document.querySelector('#list') !== null`)
			fleet.axe("console " + path + ", " + lang)
			if wide := eval[bool](fleet, `document.documentElement.scrollWidth > innerWidth`); wide {
				t.Errorf("console %s, %s: wider than 1280 px", path, lang)
			}
		}
	}
	for _, b := range []*tab{page, fleet, resident} {
		if said := b.complaints(); len(said) > 0 {
			t.Errorf("the browser complained: %q", said)
		}
	}
}
