package web

import (
	"slices"
	"strings"
	"testing"

	"yaoju/daemon/kiosk"
	"yaoju/daemon/voice"
	"yaoju/daemon/words"
)

func voicePainter(t *testing.T) *painter {
	t.Helper()
	book, err := words.Load()
	if err != nil {
		t.Fatal(err)
	}
	return newPainter(book, voice.New(book, ""), loadAssets())
}

// Every screen says something, and everything that is said has a recording.
func TestEveryScreenSpeaks(t *testing.T) {
	p := voicePainter(t)
	for _, s := range scenes() {
		if staff(s.view.Screen) {
			continue // staff read
		}
		for _, phones := range []bool{false, true} {
			s.view.Phones, s.view.Modes.Voice, s.view.Modes.Volume = phones, true, 3
			m := p.picture(s.view)
			said := strings.Fields(m.Speak)
			for _, part := range strings.Split(string(m.Main)+string(m.Util), `data-say="`)[1:] {
				attr, _, _ := strings.Cut(part, `"`)
				said = append(said, strings.Fields(attr)...)
			}
			if m.Speak == "" {
				t.Errorf("%s says nothing", s.name)
			}
			for _, clip := range said {
				if !p.clips.Has(clip) {
					t.Errorf("%s: no recording of %q", s.name, clip)
				}
			}
			for _, b := range strings.Split(string(m.Main)+string(m.Util), "<button")[1:] {
				if tag, _, _ := strings.Cut(b, ">"); !strings.Contains(tag, "data-say=") {
					t.Errorf("%s: a button without a voice: %s", s.name, tag)
				}
			}
		}
	}
}

// A bystander hears neither what somebody takes nor when they may come again.
func TestPrivateInTheEarOnly(t *testing.T) {
	p := voicePainter(t)
	private := func(clip string) bool {
		for _, prefix := range []string{"say.product.", "say.month.", "say.day.", "say.weekday.", "say.next", "say.early", "say.age"} {
			if strings.HasPrefix(clip, prefix) {
				return true
			}
		}
		return false
	}
	ear := 0
	for _, s := range scenes() {
		for _, phones := range []bool{false, true} {
			for _, covered := range []bool{false, true} {
				v := s.view
				v.Phones, v.Covered, v.Modes.Voice, v.Modes.Volume = phones, v.Covered || covered, true, 3
				m := p.picture(v)
				if !strings.Contains(m.Speak+string(m.Main), "say.") {
					continue
				}
				for _, clip := range strings.FieldsFunc(m.Speak+" "+string(m.Main), func(r rune) bool { return strings.ContainsRune(` "<>=`, r) }) {
					if !private(clip) {
						continue
					}
					ear++
					if !phones || v.Covered {
						t.Errorf("%s, headphones %t, covered %t: %s", s.name, phones, v.Covered, clip)
					}
				}
			}
		}
	}
	if ear == 0 {
		t.Error("nothing private is said into the ear either")
	}
}

func TestSpokenDate(t *testing.T) {
	p := voicePainter(t)
	v := sceneNamed(t, "early")
	v.Phones = true
	for lang, want := range map[kiosk.Lang][]string{
		kiosk.ZH: {"say.early", "say.next", "say.month.12", "say.day.9", "say.weekday.3"},
		kiosk.EN: {"say.early", "say.next", "say.weekday.3", "say.month.12", "say.day.9"},
	} {
		v.Modes.Lang = lang
		if got := strings.Fields(p.picture(v).Speak); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", lang, got, want)
		}
	}
	v = sceneNamed(t, "choose")
	v.Phones = true
	if m := string(p.picture(v).Main); !strings.Contains(m, `data-say="say.item.a say.product.condom-52"`) || !strings.Contains(m, `data-say="say.item.d say.product.suppository say.soldout"`) {
		t.Errorf("products are not named: %s", m)
	}
	v.Modes.Discreet = true
	if m := string(p.picture(v).Main); strings.Contains(m, "say.product") {
		t.Error("hidden names are said")
	}
}
