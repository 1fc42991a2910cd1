package web

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/css"
	"github.com/chromedp/cdproto/dom"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"yaoju/daemon/kiosk"
)

var pictures = flag.String("pictures", "", "folder for a picture of every screen, for people to look at")

var only = flag.String("scenes", "", "look only at screens whose names begin so")

//go:embed testdata/axe.min.js
var axeScript string

//go:embed testdata/audit.js
var auditScript string

// panel is a screen's size in CSS pixels.
type panel struct{ w, h int64 }

func (p panel) String() string { return fmt.Sprintf("%dx%d", p.w, p.h) }

var panels = []panel{{1080, 1920}, {1024, 600}, {1024, 576}, {1024, 640}}

// tab is the page in a real browser, with a stage behind it.
type tab struct {
	t     *testing.T
	ctx   context.Context
	host  string
	stage *stage

	mu   sync.Mutex
	said []string // guarded by mu; what the browser complained of
}

// openTab starts a browser with nothing of its own in it.
func openTab(t *testing.T) *tab {
	t.Helper()
	s := newStage(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &tab{t: t, host: l.Addr().String(), stage: s}
	srv := &http.Server{Handler: New(s, Options{Hosts: []string{b.host}, Log: slog.New(slog.DiscardHandler)}), ReadHeaderTimeout: 10 * time.Second}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() { _ = srv.Close(); serving.Wait() })

	// The whole test takes a minute on two shared cores; six mean that it hangs.
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx,
		chromedp.ExecPath("/usr/bin/chromium"), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("headless", "new"), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("mute-audio", true), chromedp.UserDataDir(t.TempDir()))
	t.Cleanup(cancel)
	b.ctx, cancel = chromedp.NewContext(ctx, chromedp.WithListener(func(ev any) {
		switch e := ev.(type) {
		case *runtime.EventExceptionThrown:
			b.complain(e.ExceptionDetails.Text)
		case *cdplog.EventEntryAdded:
			b.complain(e.Entry.Text + " " + e.Entry.URL)
		}
	}))
	t.Cleanup(cancel)
	still := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, still); err != nil {
		t.Fatal(err)
	}
	return b
}

// open loads the page anew for one test.
func (b *tab) open(t *testing.T) {
	t.Helper()
	b.t, b.stage.t = t, t
	b.size(panels[0])
	b.do(chromedp.Navigate("http://" + b.host + "/"))
	b.await(`document.documentElement.dataset.drawn !== undefined`)
}

func (b *tab) complain(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.said = append(b.said, what)
}

// complaints returns what the browser said, such as a breach of the page's own policy.
func (b *tab) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.said...)
}

func (b *tab) do(a chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, a); err != nil {
		b.t.Fatal(err)
	}
}

// script runs something in the page.
func (b *tab) script(text string) {
	b.t.Helper()
	eval[bool](b, "(() => {"+text+"})(); true")
}

// eval runs an expression in the page and waits for its promise.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%.200s: %v", expression, err)
	}
	return v
}

// await waits until an expression holds in the page.
func (b *tab) await(expression string) {
	b.t.Helper()
	if _, err := chromedp.Run(b.ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(20*time.Second))); err != nil {
		b.t.Fatalf("waiting for %s: %v; the browser said %q", expression, err, b.complaints())
	}
}

// show puts a view up and waits until the page has drawn it.
func (b *tab) show(v kiosk.View) {
	b.t.Helper()
	b.await(fmt.Sprintf(`document.documentElement.dataset.drawn === %q && document.fonts.status === 'loaded'`, b.stage.show(v)))
}

func (b *tab) size(p panel) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(p.w, p.h))
}

func (b *tab) picture(file string) {
	b.t.Helper()
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*pictures, file), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// One browser plays every test: starting it takes longer than most of them.
func TestBrowser(t *testing.T) {
	b := openTab(t)
	t.Run("screens", b.testScreens)
	t.Run("embedded font", b.testEmbeddedFont)
	t.Run("keys only", b.testKeysOnly)
	t.Run("updates in place", b.testUpdatesInPlace)
	t.Run("fingers", b.testFingers)
	t.Run("held buttons", b.testHeld)
	t.Run("first paint", b.testFirstPaint)
	t.Run("voice", b.testVoice)
	t.Run("lost", b.testLost)
}

// Every screen, for everybody, on every panel: no text cut, nothing on top of
// anything else, every target large enough, and no finding of axe.
func (b *tab) testScreens(t *testing.T) {
	b.open(t)
	if *pictures != "" {
		if err := os.MkdirAll(*pictures, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.script(axeScript)
	b.script(auditScript)
	for _, p := range panels {
		b.size(p)
		for _, look := range looks {
			for _, s := range scenes() {
				if !strings.HasPrefix(s.name, *only) {
					continue
				}
				look.mode(&s.view.Modes)
				b.show(s.view)
				name := fmt.Sprintf("%s %s %s", s.name, look.name, p)
				for _, f := range eval[[]string](b, `audit()`) {
					t.Errorf("%s: %s", name, f)
				}
				if p == panels[0] || p == panels[1] {
					if *pictures != "" {
						b.picture(strings.ReplaceAll(name, " ", "_") + ".png")
					}
					if look.name != "en-big" && !testing.Short() {
						b.axe(name)
					}
				}
			}
		}
	}
	for _, c := range b.complaints() {
		t.Errorf("the browser said: %s", c)
	}
}

// axe runs the accessibility rules over the page as it stands.
func (b *tab) axe(name string) {
	b.t.Helper()
	found := eval[[]string](b, `axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'], resultTypes: ['violations']})
		.then((r) => r.violations.map((v) => v.id + ': ' + v.help + ': ' + v.nodes.map((n) => n.html.slice(0, 120) + ' ' + n.failureSummary).join(' | ')))`)
	for _, f := range found {
		b.t.Errorf("%s: axe: %s", name, f)
	}
}

// Words of the catalogue are drawn with the embedded font alone, so that a bare
// machine shows no empty boxes.
func (b *tab) testEmbeddedFont(t *testing.T) {
	b.open(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := chromedp.Call(b.ctx, dom.Enable, dom.EnableParams{})
	must(err)
	_, err = chromedp.Call(b.ctx, css.Enable, cdp.Empty{})
	must(err)
	for _, look := range looks[:2] {
		for _, s := range scenes() {
			look.mode(&s.view.Modes)
			b.show(s.view)
			doc, err := chromedp.Call(b.ctx, dom.GetDocument, dom.GetDocumentParams{})
			must(err)
			all, err := chromedp.Call(b.ctx, dom.QuerySelectorAll, dom.QuerySelectorAllParams{NodeID: doc.Root.NodeID, Selector: "body > :not([hidden])"})
			must(err)
			glyphs := 0.0
			for _, n := range all.NodeIDs {
				used, err := chromedp.Call(b.ctx, css.GetPlatformFontsForNode, css.GetPlatformFontsForNodeParams{NodeID: n})
				must(err)
				for _, f := range used.Fonts {
					glyphs += f.GlyphCount
					if !f.IsCustomFont {
						t.Errorf("%s %s: %v glyphs of %s", s.name, look.name, f.GlyphCount, f.FamilyName)
					}
				}
			}
			if glyphs == 0 {
				t.Errorf("%s %s: the browser told of no glyph", s.name, look.name)
			}
		}
	}
}

// press sends one of the four tactile keys.
func (b *tab) press(key string) {
	b.t.Helper()
	b.do(chromedp.KeyEvent(key))
}

// tapped waits for the next tap that reaches the session.
func (b *tab) tapped() press {
	b.t.Helper()
	select {
	case p := <-b.stage.taps:
		return p
	case <-time.After(20 * time.Second): // a press takes milliseconds
		b.t.Fatal("no tap arrived")
		return press{}
	}
}

// The whole flow with the four tactile keys: no screen needs a finger.
func (b *tab) testKeysOnly(t *testing.T) {
	b.open(t)
	const tab, back, enter, up = kb.Tab, kb.Escape, kb.Enter, "shift+tab"
	flow := []struct {
		scene string
		keys  []string
		want  press
	}{
		{"attract", []string{tab, enter}, press{Tap: kiosk.TapNext}},
		{"choose", []string{back}, press{Tap: kiosk.TapBack}},
		{"choose", []string{tab, tab, enter}, press{Tap: kiosk.TapPick, Arg: "condom-49"}},
		{"scan", []string{tab, tab, enter}, press{Tap: kiosk.TapMore}},
		{"privacy", []string{back}, press{Tap: kiosk.TapBack}},
		{"scan-ask", []string{tab, enter}, press{Tap: kiosk.TapNext}},
		{"take", []string{tab, tab, up, enter}, press{Tap: kiosk.TapNext}},
		{"take-again", []string{tab, tab, enter}, press{Tap: kiosk.TapOther}},
		{"done", []string{back}, press{Tap: kiosk.TapNext}},
		{"early", []string{back}, press{Tap: kiosk.TapNext}},
		{"age", []string{tab, enter}, press{Tap: kiosk.TapNext}},
		{"expired", []string{back}, press{Tap: kiosk.TapNext}},
		{"cardfail", []string{tab, tab, enter}, press{Tap: kiosk.TapNext}},
		{"cardfail", []string{back}, press{Tap: kiosk.TapOther}},
		{"cardfail-3", []string{back}, press{Tap: kiosk.TapNext}},
		{"empty", []string{back}, press{Tap: kiosk.TapNext}},
		{"jam", []string{tab, enter}, press{Tap: kiosk.TapNext}},
		{"unsure", []string{back}, press{Tap: kiosk.TapNext}},
		{"idle", []string{tab, enter}, press{Tap: kiosk.TapNext}},
		{"idle", []string{tab, tab, enter}, press{Tap: kiosk.TapOther}},
		{"idle", []string{tab, tab, tab, enter}, press{Tap: kiosk.TapNext}}, // round and round within the cover
		{"attract", []string{up, enter}, press{Tap: kiosk.TapVoice}},
		{"attract", []string{tab, tab, enter}, press{Tap: kiosk.TapLang}},
	}
	for i, step := range flow {
		b.show(sceneNamed(t, step.scene))
		b.await(`document.activeElement.tagName === 'H1'`)
		b.quiet()
		for _, k := range step.keys {
			if k == up {
				b.do(chromedp.KeyEvent(kb.Tab, chromedp.KeyModifiers(kb.ModifierShift)))
				continue
			}
			b.press(k)
		}
		got := b.tapped()
		v, _ := b.stage.Watch()
		step.want.Serial = v.Serial
		if got != step.want {
			t.Errorf("step %d, %s, keys %q: got %+v, want %+v", i, step.scene, step.keys, got, step.want)
		}
	}
}

// quiet waits until the page would take another tap. That is a time, not an order
// of things: a second tap within 400 ms is ignored.
func (b *tab) quiet() {
	b.t.Helper()
	eval[bool](b, `new Promise((done) => setTimeout(() => done(true), 420))`)
}

func sceneNamed(t *testing.T, name string) kiosk.View {
	t.Helper()
	for _, s := range scenes() {
		if s.name == name {
			return s.view
		}
	}
	t.Fatalf("no scene %q", name)
	return kiosk.View{}
}

// What only grows or counts is changed in place: focus stays, and nothing is
// announced again.
func (b *tab) testUpdatesInPlace(t *testing.T) {
	b.open(t)

	b.show(sceneNamed(t, "dispense"))
	b.script(`window.watched = 0; new MutationObserver(() => watched++).observe(document.getElementById('say'), {childList: true, characterData: true, subtree: true});
		document.querySelector('progress').marked = true; document.querySelector('[data-tap=big]').focus();`)
	b.stage.change(func(v *kiosk.View) { v.Percent, v.Seconds = 80, 1 })
	b.await(`document.querySelector('progress').value === 80`)
	if !eval[bool](b, `document.querySelector('progress').marked === true && watched === 0 && document.activeElement === document.querySelector('[data-tap=big]')`) {
		t.Error("progress replaced the screen, took the focus or was announced")
	}

	b.show(sceneNamed(t, "idle"))
	b.script(`document.querySelector('[data-tap=other]').focus();`)
	b.stage.change(func(v *kiosk.View) { v.Seconds = 19 })
	b.await(`document.querySelector('.count').textContent === '19'`)
	if !eval[bool](b, `document.activeElement === document.querySelector('[data-tap=other]') && document.getElementById('top').inert`) {
		t.Error("the count took the focus, or the head can be reached under the cover")
	}

	b.show(sceneNamed(t, "choose"))
	b.script(`document.querySelector('[data-tap=lang]').focus();`)
	b.stage.change(func(v *kiosk.View) { v.Modes.Lang = kiosk.EN })
	b.await(`document.documentElement.lang === 'en' && document.querySelector('h1').textContent === 'Choose one'`)
	if !eval[bool](b, `document.activeElement === document.querySelector('[data-tap=lang]')`) {
		t.Error("changing the language took the focus")
	}
}

// hand puts fingers on the page.
const hand = `window.finger = (kind, id, selector) => {
		const r = document.querySelector(selector).getBoundingClientRect();
		const at = document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2);
		at.dispatchEvent(new PointerEvent(kind, {bubbles: true, pointerId: id, pointerType: 'touch', isPrimary: id === 1, clientX: r.x + r.width / 2, clientY: r.y + r.height / 2}));
	};`

// A finger presses what it went down on and came up from: not what it slid to, not
// twice within 400 ms, and not together with a second finger.
func (b *tab) testFingers(t *testing.T) {
	b.open(t)
	b.show(sceneNamed(t, "take"))
	b.script(hand)
	b.script(`finger('pointerdown', 1, '[data-tap=next]'); finger('pointerup', 1, '[data-tap=other]');
		finger('pointerdown', 1, '[data-tap=other]'); finger('pointerdown', 2, '[data-tap=next]'); finger('pointerup', 2, '[data-tap=next]'); finger('pointerup', 1, '[data-tap=other]');
		finger('pointerdown', 1, '[data-tap=next]'); finger('pointerup', 1, '[data-tap=next]');`)
	if got := b.tapped(); got.Tap != kiosk.TapOther {
		t.Errorf("got tap %q, want the first finger's", got.Tap)
	}
	b.quiet()
	b.script(`finger('pointerdown', 1, '[data-tap=next]'); finger('pointerup', 1, '[data-tap=next]');`)
	if got := b.tapped(); got.Tap != kiosk.TapNext {
		t.Errorf("got tap %q, want next: the tap within 400 ms should have been ignored", got.Tap)
	}

	b.show(func() kiosk.View { v := scene0(kiosk.Attract); v.Dim = true; return v }())
	b.quiet()
	b.script(`finger('pointerdown', 1, 'h1'); finger('pointerup', 1, 'h1');`)
	if got := b.tapped(); got.Tap != kiosk.TapNext {
		t.Errorf("dimmed: got tap %q, want one that wakes", got.Tap)
	}
}

// A button that turns a motor says once that a finger came, then that it stays, and
// that it left: by finger and by key, and also when the finger slides away.
func (b *tab) testHeld(t *testing.T) {
	b.open(t)
	b.show(sceneNamed(t, "staffload"))
	b.script(hand)
	held := func(how string) {
		t.Helper()
		if got := b.tapped(); got.Tap != kiosk.TapHold || got.Arg != "test" {
			t.Fatalf("%s: got %+v, want the hold of a test", how, got)
		}
		for range 2 {
			if got := b.tapped(); got.Tap != kiosk.TapStill || got.Arg != "" {
				t.Errorf("%s: got %+v, want that it stays", how, got)
			}
		}
	}
	let := func(how string) {
		t.Helper()
		for {
			switch got := b.tapped(); got.Tap {
			case kiosk.TapStill: // it was on its way
				continue
			case kiosk.TapLet:
				return
			default:
				t.Fatalf("%s: got %+v, want that it left", how, got)
			}
		}
	}
	b.script(`finger('pointerdown', 1, '[data-tap=hold][data-arg=test]');`)
	held("finger")
	b.script(`finger('pointerup', 1, '[data-tap=cancel]');`)
	let("finger that slid away")
	b.script(`document.querySelector('[data-tap=hold][data-arg=test]').focus(); dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', cancelable: true}));`)
	held("key")
	b.script(`dispatchEvent(new KeyboardEvent('keyup', {key: 'Enter'}));`)
	let("key")
	b.quiet()
	select {
	case got := <-b.stage.taps:
		t.Errorf("after all of it came %+v", got)
	default:
	}
}

// The first picture needs few requests, and nothing is kept in the browser.
func (b *tab) testFirstPaint(t *testing.T) {
	b.open(t)
	type figures struct{ Requests, Kept, History int }
	got := eval[figures](b, `document.fonts.ready.then(() => ({
		requests: performance.getEntriesByType('resource').length + 1,
		kept: localStorage.length + sessionStorage.length + document.cookie.length,
		history: history.length - 1}))`)
	if got.Requests > 8 {
		t.Errorf("%d requests to the first picture, want at most 8", got.Requests)
	}
	if got.Kept != 0 || got.History > 1 {
		t.Errorf("the browser keeps %d characters and %d pages of history", got.Kept, got.History)
	}
	if said := b.complaints(); len(said) > 0 {
		t.Errorf("the browser said %q", said)
	}
}

// The voice says each new screen, then each control that takes the focus, and the
// screen's line again while the round key is held. Every clip plays to its end in a
// real browser.
func (b *tab) testVoice(t *testing.T) {
	b.open(t)
	b.script(`window.said = []; new MutationObserver(() => { const s = document.documentElement.dataset.saying; if (s) said.push(s); })
		.observe(document.documentElement, {attributes: true, attributeFilter: ['data-saying']});`)
	aloud := func(scene string, f func(*kiosk.View)) kiosk.View {
		v := sceneNamed(t, scene)
		v.Modes.Voice, v.Modes.Volume = true, 3
		f(&v)
		return v
	}
	heard := func(want string) {
		t.Helper()
		b.await(fmt.Sprintf(`said.join(' ') === %q`, want))
		b.script(`said.length = 0;`)
	}
	b.show(sceneNamed(t, "early"))
	b.show(aloud("early", func(v *kiosk.View) { v.Phones = true }))
	heard("say.early say.next say.month.12 say.day.9 say.weekday.3")
	b.await(`document.documentElement.dataset.saying === ''`)
	b.press(kb.Tab)
	heard("early.cta")
	b.await(`document.documentElement.dataset.saying === ''`)
	b.show(aloud("take", func(*kiosk.View) {}))
	heard("take.voice")
	b.stage.change(func(v *kiosk.View) { v.Repeat = 1 })
	heard("take.voice")
	b.script(`dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}));`)
	heard("take.voice")
	b.script(`dispatchEvent(new KeyboardEvent('keyup', {key: 'Enter'}));`)
	b.stage.change(func(v *kiosk.View) { v.Modes.Lang = kiosk.EN })
	heard("take.voice")
	b.stage.change(func(v *kiosk.View) { v.Modes.Voice = false })
	b.await(`document.documentElement.dataset.saying === ''`)
}

// A page whose daemon is gone covers itself, and comes back by itself.
func (b *tab) testLost(t *testing.T) {
	b.open(t)
	b.script(`window.RealSource = EventSource; window.lines = [];`)
	// Five newer streams push the page's own one out, and a source that cannot
	// connect stands for a daemon that is gone.
	b.script(`window.EventSource = class extends EventTarget { constructor() { super(); setTimeout(() => this.dispatchEvent(new Event('error'))); } close() {} };
		for (let i = 0; i < 5; i++) lines.push(new RealSource('/events'));`)
	b.await(`!document.getElementById('lost').hidden && document.getElementById('main').inert`)
	b.script(`lines.forEach((l) => l.close()); window.EventSource = RealSource;`)
	b.await(`document.getElementById('lost').hidden && !document.getElementById('main').inert`)
}
