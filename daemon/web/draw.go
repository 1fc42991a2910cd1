package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"strconv"
	"strings"

	"yaoju/daemon/kiosk"
	"yaoju/daemon/voice"
	"yaoju/daemon/words"
	"yaoju/protocol"
)

// Sounds of the page are soft; at night a tap makes none.
const (
	nightFrom = 22 // o'clock
	nightTo   = 7
)

// painter turns a view into markup. It never changes after newPainter.
type painter struct {
	book  *words.Book
	clips *voice.Clips
	files *assets
	pages *template.Template
}

func newPainter(book *words.Book, clips *voice.Clips, files *assets) *painter {
	return &painter{book: book, clips: clips, files: files, pages: template.Must(template.ParseFS(assetFiles, "assets/*.html"))}
}

// message is one picture on its way to the page: what the shell holds at first,
// and the page's script puts in its place later.
type message struct {
	Start  string            `json:"start"`
	Key    string            `json:"key"`    // of the screen and its cover: if it differs, everything is new
	Serial uint64            `json:"serial"` // goes back with a tap
	Root   map[string]string `json:"root"`   // attributes of <html>; an empty one is taken away
	Title  string            `json:"title"`
	Top    template.HTML     `json:"top"`
	Main   template.HTML     `json:"main"`
	Util   template.HTML     `json:"util"`
	Say    string            `json:"say"`
	Speak  string            `json:"speak"` // clips of this screen, in order, with a space between
	Turn   string            `json:"turn"`  // if it differs, they are due
	Beep   uint64            `json:"beep"`
	Quiet  bool              `json:"quiet"` // no tick at night
}

// message draws a view for a page that is already there, as one line of JSON.
func (p *painter) message(v kiosk.View, start string) []byte {
	m := p.picture(v)
	m.Start = start
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings, numbers and booleans only
	}
	return b
}

// shell draws the whole page.
func (p *painter) shell(v kiosk.View, start, token string) []byte {
	m := p.picture(v)
	m.Start = start
	var out bytes.Buffer
	p.execute(&out, "shell", shell{message: m, painter: p, Token: token, Covered: v.Covered})
	return out.Bytes()
}

// shell is what the page's frame is drawn from.
type shell struct {
	message
	painter *painter
	Token   string
	Covered bool
}

func (s shell) URL(name string) string { return s.painter.files.url(name) }

func (s shell) T(lang, key string) template.HTML { return s.painter.book.HTML(lang, key, nil) }

func (p *painter) execute(out *bytes.Buffer, name string, data any) {
	if err := p.pages.ExecuteTemplate(out, name, data); err != nil {
		panic(fmt.Sprintf("web: draw %s: %v", name, err))
	}
}

func (p *painter) picture(v kiosk.View) message {
	s := p.scene(v)
	part := func(name string) template.HTML {
		var out bytes.Buffer
		p.execute(&out, name, s)
		return template.HTML(out.String())
	}
	body := string(v.Screen)
	if v.Covered {
		body = "idle" // opaque: nothing of the screen under it is even sent
	}
	top, util := "stafftop", template.HTML("")
	if !staff(v.Screen) {
		top, util = "top", part("util")
	}
	hour := v.Now.Hour()
	return message{
		Key:    fmt.Sprintf("%d.%t", v.Serial, v.Covered),
		Serial: v.Serial,
		Root: map[string]string{
			"lang":         string(s.Modes.Lang),
			"data-screen":  body,
			"data-big":     attr(v.Modes.Big, "1"),
			"data-theme":   attr(v.Modes.Contrast, "contrast"),
			"data-dim":     attr(v.Dim && v.Screen == kiosk.Attract, "1"),
			"data-covered": attr(v.Covered, "1"),
			"data-voice":   attr(v.Modes.Voice, strconv.Itoa(v.Modes.Volume)),
		},
		Title: p.book.Text(s.lang(), "service", nil),
		Top:   part(top),
		Main:  part(body),
		Util:  util,
		Say:   s.Text(s.line()),
		Speak: strings.Join(s.speech(), " "),
		Turn:  fmt.Sprintf("%d.%t.%t.%s.%t.%d", v.Serial, v.Covered, s.CallCard(), s.lang(), v.Phones, v.Repeat),
		Beep:  v.Beep,
		Quiet: hour >= nightFrom || hour < nightTo,
	}
}

func attr(on bool, value string) string {
	if on {
		return value
	}
	return ""
}

// scene is a view with its words: what the templates draw from.
type scene struct {
	kiosk.View
	book  *words.Book
	clips *voice.Clips
	files *assets
	vars  map[string]string
}

func (p *painter) scene(v kiosk.View) scene {
	if v.Modes.Lang != kiosk.EN {
		v.Modes.Lang = kiosk.ZH
	}
	s := scene{View: v, book: p.book, clips: p.clips, files: p.files}
	pl := v.Place
	s.vars = map[string]string{
		"machine":   string(pl.Machine),
		"age":       strconv.Itoa(pl.Policy.AgeFrom),
		"to":        strconv.Itoa(pl.Policy.AgeTo),
		"keep":      strconv.Itoa(pl.KeepDays),
		"left":      strconv.Itoa(v.Days),
		"s":         strconv.Itoa(v.Seconds),
		"date":      words.Date(s.lang(), v.Next),
		"day":       words.Day(s.lang(), pl.RestockBy),
		"phone":     pl.Texts.Phone,
		"authority": pick(s.lang(), pl.Texts.Authority),
	}
	s.vars["boxes"] = s.boxes(pl.Boxes)
	return s
}

func (s scene) lang() string { return string(s.Modes.Lang) }

// Foreign is a text of the desired state in the language of the screen.
func (s scene) Foreign(t protocol.Text) template.HTML { return words.Plain(pick(s.lang(), t)) }

func pick(lang string, t protocol.Text) string {
	if lang == string(kiosk.EN) {
		return t.EN
	}
	return t.ZH
}

// T is a phrase of the catalogue as markup.
func (s scene) T(key string) template.HTML { return s.book.HTML(s.lang(), key, s.vars) }

// N is a phrase that counts n of something; English has a form for one.
func (s scene) N(key string, n int) template.HTML { return s.T(one(key, n)) }

// Text is a phrase as plain text, for labels.
func (s scene) Text(key string) string { return s.book.Text(s.lang(), key, s.vars) }

func one(key string, n int) string {
	if n == 1 {
		return key + ".one"
	}
	return key
}

// with returns the scene with another value for one name.
func (s scene) with(name, value string) scene {
	s.vars = maps.Clone(s.vars)
	s.vars[name] = value
	return s
}

func (s scene) boxes(n int) string {
	return s.with("n", strconv.Itoa(n)).Text(one("boxes", n))
}

func (s scene) items(n int) string {
	return s.with("n", strconv.Itoa(n)).Text(one("items", n))
}

// Icon is a small drawing on a line of text.
func (s scene) Icon(name string) template.HTML { return drawing(s.files.icon, name) }

// Art is the large drawing of a screen.
func (s scene) Art(name string) template.HTML { return drawing(s.files.art, name) }

func drawing(from map[string]template.HTML, name string) template.HTML {
	d, ok := from[name]
	if !ok {
		panic(fmt.Sprintf("web: no drawing %q", name))
	}
	return d
}

// Button is one control of a screen.
type button struct {
	Tap   kiosk.Tap
	Aloud template.HTMLAttr // what the voice says when it has the focus
	Class string
	Icon  template.HTML // empty: none
	Words template.HTML
	Esc   bool // the tactile back key presses it
}

// Primary is the button most people press.
func (s scene) Primary(tap kiosk.Tap, icon, key string) button {
	return s.button(tap, "btn pri", icon, key)
}

// Second is any other button.
func (s scene) Second(tap kiosk.Tap, icon, key string) button {
	return s.button(tap, "btn", icon, key)
}

func (s scene) button(tap kiosk.Tap, class, icon, key string) button {
	b := button{Tap: tap, Aloud: s.Aloud(key), Class: class, Words: s.T(key)}
	if icon != "" {
		b.Icon = s.Icon(icon)
	}
	return b
}

// Back returns the button with the tactile back key on it.
func (b button) Back() button {
	b.Esc = true
	return b
}

// Step is one of the three steps in the head of the page.
type step struct {
	Number     int
	Now, Done  bool
	Icon, Name template.HTML
}

// Steps are the three steps, for the screens that belong to one.
func (s scene) Steps() []step {
	now := 0
	switch s.Screen {
	case kiosk.Choose:
		now = 1
	case kiosk.Scan, kiosk.Privacy, kiosk.Checking, kiosk.CardFail:
		now = 2
	case kiosk.Dispense, kiosk.Take, kiosk.Jam, kiosk.Unsure:
		now = 3
	case kiosk.Done:
		now = 4
	default:
		return nil
	}
	steps := s.Three()
	for i := range steps {
		steps[i].Now, steps[i].Done = i+1 == now, i+1 < now
	}
	return steps
}

// Three are the steps as the waiting screen explains them.
func (s scene) Three() []step {
	return []step{
		{Number: 1, Icon: s.Icon("grid"), Name: s.T("step.1")},
		{Number: 2, Icon: s.Icon("card"), Name: s.T("step.2")},
		{Number: 3, Icon: s.Icon("box"), Name: s.T("step.3")},
	}
}

// CallCard says whether the head of the page calls for a card left on the reader.
// The waiting screen does it in its own words.
func (s scene) CallCard() bool { return s.CardLeft && !s.Covered && s.Screen != kiosk.Attract }

// Clock is the time of day in the head of the page.
func (s scene) Clock() string { return s.Now.Format("15:04") }

// fewProducts is how many products have room for a broad card each.
const fewProducts = 5

// Dense says that there are more products than have room for a broad card.
func (s scene) Dense() bool { return len(s.Products) > fewProducts }

// Item is the name of a product whose real name is hidden.
func (s scene) Item(letter string) template.HTML { return s.with("code", letter).T("choose.item") }

// NearKey is the heading over the machines nearby: with stock, or in service.
func (s scene) NearKey() string {
	if s.Screen == kiosk.Empty {
		return "empty.near"
	}
	return "fault.near"
}

// line is the phrase that a screen reader speaks, and the loudspeaker. It tells no
// result.
func (s scene) line() string {
	switch {
	case s.Covered:
		return "idle.voice"
	case s.CardLeft:
		return "left.voice"
	}
	switch s.Screen {
	case kiosk.Attract:
		return "attract.voice"
	case kiosk.Choose:
		return "choose.voice"
	case kiosk.Scan:
		return "scan.voice"
	case kiosk.Checking:
		return "checking.voice"
	case kiosk.Dispense:
		return "dispense.voice"
	case kiosk.Take:
		if s.LookAgain {
			return "again.voice"
		}
		return "take.voice"
	case kiosk.Done:
		return "done.voice"
	case kiosk.Early:
		return "early.voice"
	case kiosk.Age:
		return "age.voice"
	case kiosk.Expired:
		return "expired.voice"
	case kiosk.CardFail:
		return "cardfail.voice"
	case kiosk.Empty:
		if len(s.Place.Nearby) == 0 {
			return "empty.alone.voice"
		}
		return "empty.voice"
	case kiosk.Jam:
		return "jam.voice"
	case kiosk.Unsure:
		return "unsure.voice"
	case kiosk.Fault:
		return s.Trouble().Voice
	}
	if v, ok := staffLines[s.Screen]; ok {
		return v
	}
	return "privacy.title" // the notice itself is read line by line
}

// staffLines are what the staff's screens are called.
var staffLines = map[kiosk.Screen]string{kiosk.StaffDoor: "door.voice", kiosk.StaffPIN: "staff.pin", kiosk.StaffWork: "staff.title", kiosk.StaffDone: "staff.recorded"}

// trouble is how the screen explains that nobody is served.
type trouble struct {
	Art, Title, Lead, Voice string
}

// Trouble chooses the words by the staff code. "Nothing was counted" is said only
// while no vend is open.
func (s scene) Trouble() trouble {
	switch s.Code {
	case protocol.FaultPaused.Code():
		return trouble{"desk", "paused.title", "paused.lead", "paused.voice"}
	case protocol.FaultDoor.Code():
		return trouble{"fault", "door.title", "door.lead", "door.voice"}
	case protocol.FaultClock.Code():
		return trouble{"fault", "clock.title", "clock.lead", "clock.voice"}
	}
	if s.Open {
		return trouble{"fault", "fault.title", "fault.told", "fault.told.voice"}
	}
	return trouble{"fault", "fault.title", "fault.lead", "fault.voice"}
}
