package web

import (
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"

	"yaoju/daemon/kiosk"
	"yaoju/daemon/voice"
)

// speech is what the voice says of this screen: names of clips, in order. From a
// loudspeaker it says what everybody may hear; product names and dates are for
// headphones alone.
func (s scene) speech() []string {
	line := s.line()
	if s.Covered || s.CardLeft {
		return []string{line}
	}
	switch s.Screen {
	case kiosk.Choose:
		if s.Modes.Discreet {
			return []string{line, "say.hidden"}
		}
	case kiosk.StaffPIN, kiosk.StaffWork, kiosk.StaffDone:
		return nil // staff read
	case kiosk.Privacy:
		return []string{"say.privacy"}
	case kiosk.Age:
		if s.Phones {
			return []string{"say.age"}
		}
	case kiosk.Early:
		if s.Phones {
			return append([]string{"say.early"}, s.nextDay()...)
		}
	case kiosk.Done:
		if s.Phones {
			return append([]string{line}, s.nextDay()...)
		}
	}
	return []string{line}
}

// nextDay says from which day on the person can collect again.
func (s scene) nextDay() []string {
	if s.Next.IsZero() {
		return nil
	}
	month, day := "say.month."+strconv.Itoa(int(s.Next.Month())), "say.day."+strconv.Itoa(s.Next.Day())
	weekday := "say.weekday." + strconv.Itoa(int(s.Next.Weekday()))
	if s.Modes.Lang == kiosk.EN {
		return []string{"say.next", weekday, month, day}
	}
	return []string{"say.next", month, day, weekday}
}

// Aloud is the attribute of a control that the voice says when it has the focus.
func (s scene) Aloud(key string) template.HTMLAttr {
	if !s.clips.Has(key) {
		return ""
	}
	return aloud(key)
}

// AloudProduct is Aloud for a product: its name for headphones, its letter otherwise.
func (s scene) AloudProduct(c kiosk.Choice) template.HTMLAttr {
	clips := []string{"say.item." + strings.ToLower(c.Letter)}
	if name := "say.product." + string(c.ID); s.Phones && !s.Modes.Discreet && s.clips.Has(name) {
		clips = append(clips, name)
	}
	if !c.Stock {
		clips = append(clips, "say.soldout")
	}
	return aloud(clips...)
}

func aloud(clips ...string) template.HTMLAttr {
	return template.HTMLAttr(fmt.Sprintf(` data-say="%s"`, template.HTMLEscapeString(strings.Join(clips, " "))))
}

// Loudness names the step of the voice's volume.
func (s scene) Loudness() template.HTML {
	return s.with("n", strconv.Itoa(s.Modes.Volume)).T("util.volume")
}

// clip sends one recording.
func (c *screen) clip(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutSuffix(r.PathValue("name"), ".opus")
	b, err := c.draw.clips.Read(r.PathValue("lang"), name)
	if !ok || errors.Is(err, fs.ErrNotExist) {
		c.refuse(w, http.StatusNotFound, errors.New("no such clip"))
		return
	}
	if err != nil {
		c.log.Warn("recording not readable", "err", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", voice.Kind)
	// Kept for the session's screens; a recording that was replaced is heard within the hour.
	w.Header().Set("Cache-Control", "private, max-age="+strconv.Itoa(int(time.Hour/time.Second)))
	// An error means that the browser went away.
	_, _ = w.Write(b)
}
