package words

import (
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
)

func load(t *testing.T) *Book {
	t.Helper()
	b, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"not an object", `[]`, "not a JSON object"},
		{"doubled key", `{"a":{"zh":"一","en":"one"},"a":{"zh":"一","en":"one"}}`, `key "a" appears twice`},
		{"no English", `{"a":{"zh":"一"}}`, "a language is missing"},
		{"no Chinese", `{"a":{"zh":" ","en":"one"}}`, "a language is missing"},
		{"a third language", `{"a":{"zh":"一","en":"one","fr":"un"}}`, "unknown field"},
		{"placeholders differ", `{"a":{"zh":"{n} 盒","en":"boxes"}}`, "placeholders differ"},
		{"stray brace", `{"a":{"zh":"{N} 盒","en":"boxes"}}`, "stray brace"},
		{"markup", `{"a":{"zh":"<b>盒</b>","en":"boxes"}}`, "stray brace or markup"},
		{"break in English", `{"a":{"zh":"盒","en":"a|b"}}`, "a '|' in English"},
		{"trailing text", `{} {}`, "more follows"},
		{"cut off", `{"a":{"zh":"一","en":"one"}`, "EOF"},
		{"two complaints", `{"a":{"zh":"一"},"b":{"zh":"一"}}`, `key "b"`},
	} {
		_, err := parse([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", c.name, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"a":{"zh":"{n} 盒","en":"{n} boxes"}}`))
	f.Add([]byte(`{"a":{"zh":"一","en":"one"},"a":1}`))
	f.Add([]byte(`{"a"`))
	f.Fuzz(func(t *testing.T, text []byte) {
		page, err := parse(text)
		if err != nil {
			return
		}
		b := &Book{phrases: page}
		for key, p := range page {
			vars := map[string]string{}
			for _, n := range names(p.ZH) {
				vars[n] = "<7>"
			}
			if got := string(b.HTML("zh-CN", key, vars)); strings.Contains(got, "<7>") {
				t.Errorf("key %q: value reached the page unescaped: %q", key, got)
			}
			b.Text("en", key, vars)
		}
	})
}

func TestTextAndHTML(t *testing.T) {
	b := load(t)
	vars := map[string]string{"date": "12月9日（星期三）", "days": "30", "boxes": "1 盒", "keep": "30", "authority": "某区<卫健局>", "phone": "000-0000-0000"}
	for _, c := range []struct{ lang, key, text, html string }{
		{"zh-CN", "attract.title", "免费领取健康用品", "免费领取<wbr>健康用品"},
		{"zh", "attract.title", "免费领取健康用品", "免费领取<wbr>健康用品"},
		{"en", "attract.title", "Free health supplies", "Free health supplies"},
		{"zh-CN", "attract.days", "每 30 天可领 1 盒", "每 30\u00a0天可领 1\u00a0盒"},
		{"zh-CN", "early.lead", "12月9日（星期三）起可以再领", `<b class="nb">12月9日（星期三）</b>起<wbr>可以再领`},
		{"en", "scan.n3", "One encrypted mark, kept 30 days", "One encrypted mark, kept 30\u00a0days"},
		{"zh-CN", "privacy.who.text", "某区<卫健局>，电话 000-0000-0000", `某区&lt;卫健局&gt;，电话 <span class="nb">000-0000-0000</span>`},
	} {
		if got := b.Text(c.lang, c.key, vars); got != c.text {
			t.Errorf("Text(%s, %s): got %q, want %q", c.lang, c.key, got, c.text)
		}
		if got := string(b.HTML(c.lang, c.key, vars)); got != c.html {
			t.Errorf("HTML(%s, %s): got %q, want %q", c.lang, c.key, got, c.html)
		}
	}
	if got, want := string(Plain("52 mm <b>")), "52\u00a0mm &lt;b&gt;"; got != want {
		t.Errorf("Plain: got %q, want %q", got, want)
	}
}

func TestMistakesPanic(t *testing.T) {
	b := load(t)
	for name, f := range map[string]func(){
		"unknown key":   func() { b.Text("en", "no.such.key", nil) },
		"missing value": func() { b.Text("en", "early.note", nil) },
		"in markup":     func() { b.HTML("zh-CN", "early.note", nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: did not panic", name)
				}
			}()
			f()
		}()
	}
}

func TestDates(t *testing.T) {
	at := time.Date(2026, 11, 23, 14, 32, 0, 0, time.UTC)
	for _, c := range []struct{ got, want string }{
		{Date("zh-CN", at.AddDate(0, 0, 16)), "12月9日（星期三）"},
		{Date("en", at.AddDate(0, 0, 16)), "Wed 9 Dec"},
		{Day("zh-CN", at.AddDate(0, 0, 2)), "11月25日"},
		{Day("en", at.AddDate(0, 0, 2)), "25 Nov"},
		{DateTime("zh-CN", at), "11月23日 星期一 14:32"},
		{DateTime("en", at), "Mon 23 Nov 14:32"},
		{Date("zh-CN", at.AddDate(0, 0, 6)), "11月29日（星期日）"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

// The tone of the resident's screens: no shouting, no blame, no codes, and
// Chinese punctuation in Chinese sentences.
func TestTone(t *testing.T) {
	text, err := files.ReadFile("kiosk.json")
	if err != nil {
		t.Fatal(err)
	}
	page, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	halfWidth := regexp.MustCompile(`[,;:?!()"'.]`)
	for key, p := range page {
		for _, s := range []string{p.ZH, p.EN} {
			if strings.ContainsAny(s, "!！…") {
				t.Errorf("key %q: %q shouts or trails off", key, s)
			}
			if s != strings.TrimSpace(s) || strings.Contains(s, "  ") {
				t.Errorf("key %q: %q has stray spaces", key, s)
			}
		}
		if key == "util.lang" { // its two words stand in the other language on purpose
			continue
		}
		bare := placeholder.ReplaceAllString(p.ZH, "")
		if m := halfWidth.FindString(bare); m != "" {
			t.Errorf("key %q: %q has half-width %q", key, p.ZH, m)
		}
		for _, bad := range []string{"错误", "非法", "失败", "拒绝", "您已领取过"} {
			if strings.Contains(bare, bad) {
				t.Errorf("key %q: %q blames: %s", key, p.ZH, bad)
			}
		}
		for _, r := range p.EN {
			if unicode.Is(unicode.Han, r) || strings.ContainsRune("，。；：（）“”", r) {
				t.Errorf("key %q: %q has Chinese characters", key, p.EN)
				break
			}
		}
		for _, bad := range []string{"error", "illegal", "invalid", "failed", "denied", "refused"} {
			if strings.Contains(strings.ToLower(p.EN), bad) {
				t.Errorf("key %q: %q blames: %s", key, p.EN, bad)
			}
		}
	}
}
