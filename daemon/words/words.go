// Package words owns every word the screens show, in both languages: one
// catalogue for the machine's pages and one for the district's console, what is only
// ever spoken, and how dates are written. It knows no screen, no page and no state: callers name a
// key and hand in the values.
//
// In a Chinese phrase '|' marks a place where a line may break; {name} is
// replaced by a value.
package words

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

//go:embed kiosk.json console.json voice.json
var files embed.FS

// Book is the catalogue. It never changes after Load, so any number of
// goroutines may read it.
type Book struct {
	phrases map[string]phrase
}

type phrase struct {
	ZH string `json:"zh"`
	EN string `json:"en"`
}

// Load reads the catalogue that is built into the program. It refuses a doubled
// key, a missing language and placeholders that differ between the languages.
func Load() (*Book, error) {
	b := &Book{phrases: map[string]phrase{}}
	var errs []error
	for _, name := range []string{"kiosk.json", "console.json", "voice.json"} {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("words: %w", err)
		}
		page, err := parse(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("words: %s: %w", name, err))
		}
		for key, p := range page {
			if _, double := b.phrases[key]; double {
				errs = append(errs, fmt.Errorf("words: %s: key %q is in another file too", name, key))
			}
			b.phrases[key] = p
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return b, nil
}

// parse reads one file and tells every complaint at once.
func parse(text []byte) (map[string]phrase, error) {
	page := map[string]phrase{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	if t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	var errs []error
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		key := t.(string) // inside an object the decoder yields nothing else here
		var p phrase
		if err := d.Decode(&p); err != nil {
			return nil, fmt.Errorf("key %q: %w", key, err)
		}
		if _, double := page[key]; double {
			errs = append(errs, fmt.Errorf("key %q appears twice", key))
		}
		page[key] = p
		if err := p.valid(); err != nil {
			errs = append(errs, fmt.Errorf("key %q: %w", key, err))
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more follows after the object")
	}
	return page, errors.Join(errs...)
}

var placeholder = regexp.MustCompile(`\{([a-z]+)\}`)

func (p phrase) valid() error {
	if strings.TrimSpace(p.ZH) == "" || strings.TrimSpace(p.EN) == "" {
		return errors.New("a language is missing")
	}
	zh, en := names(p.ZH), names(p.EN)
	if !slices.Equal(zh, en) {
		return fmt.Errorf("placeholders differ: zh %v, en %v", zh, en)
	}
	for _, s := range []string{p.ZH, p.EN} {
		if strings.ContainsAny(placeholder.ReplaceAllString(s, ""), "{}<>&") {
			return fmt.Errorf("%q: a stray brace or markup", s)
		}
	}
	if strings.Contains(p.EN, "|") {
		return errors.New("a '|' in English, which breaks at its spaces")
	}
	return nil
}

// names lists the placeholders of s, each once, in order of the alphabet.
func names(s string) []string {
	var found []string
	for _, m := range placeholder.FindAllStringSubmatch(s, -1) {
		found = append(found, m[1])
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// Keys lists every key, in order of the alphabet.
func (b *Book) Keys() []string { return slices.Sorted(maps.Keys(b.phrases)) }

// Has says whether the catalogue knows key.
func (b *Book) Has(key string) bool {
	_, ok := b.phrases[key]
	return ok
}

// Text returns the phrase as plain text, for names, titles and speech. lang "en"
// is English; every other value is Chinese, the language of the place. Values
// that the phrase does not use are ignored. An unknown key or a value that is
// missing is a mistake in this program, so Text panics.
func (b *Book) Text(lang, key string, vars map[string]string) string {
	s := strings.ReplaceAll(b.source(lang, key), "|", "")
	return placeholder.ReplaceAllStringFunc(s, func(m string) string { return value(key, m, vars) })
}

// HTML returns the phrase as markup: escaped, <wbr> where a line may break, no
// break between a number and its unit, and {date} and {phone} in one piece.
func (b *Book) HTML(lang, key string, vars map[string]string) template.HTML {
	var out strings.Builder
	rest := b.source(lang, key)
	for rest != "" {
		at := placeholder.FindStringIndex(rest)
		if at == nil {
			out.WriteString(escape(rest))
			break
		}
		out.WriteString(escape(rest[:at[0]]))
		name := rest[at[0]:at[1]]
		v := template.HTMLEscapeString(value(key, name, vars))
		switch name {
		case "{date}":
			v = `<b class="nb">` + v + `</b>`
		case "{phone}":
			v = `<span class="nb">` + v + `</span>`
		}
		out.WriteString(v)
		rest = rest[at[1]:]
	}
	return template.HTML(keepUnits(out.String()))
}

// Plain returns foreign text, such as a product's name out of the desired state,
// as markup with the same care for numbers and units.
func Plain(s string) template.HTML {
	return template.HTML(keepUnits(template.HTMLEscapeString(s)))
}

func (b *Book) source(lang, key string) string {
	p, ok := b.phrases[key]
	if !ok {
		panic(fmt.Sprintf("words: no key %q", key))
	}
	if lang == "en" {
		return p.EN
	}
	return p.ZH
}

func value(key, name string, vars map[string]string) string {
	v, ok := vars[strings.Trim(name, "{}")]
	if !ok {
		panic(fmt.Sprintf("words: key %q needs %s", key, name))
	}
	return v
}

func escape(s string) string {
	return strings.ReplaceAll(template.HTMLEscapeString(s), "|", "<wbr>")
}

// A number and the word that counts belong on one line: 30 天, 52 mm.
var unit = regexp.MustCompile(`(\d) (\p{Han}|(?:days?|seconds?|boxes|box|items?|mm|min|h)\b)`)

func keepUnits(s string) string { return unit.ReplaceAllString(s, "$1\u00a0$2") }
