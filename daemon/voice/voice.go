// Package voice is what the machine says aloud: one short recording for each line
// in each language, so that speech needs no network and no engine, and which lines
// there are.
//
// The recordings in clips are made by a speech synthesiser (make voice). A folder
// with files of the same names takes their place one by one: somebody's own voice
// is better than any of these. The package does not know when a line is said, or
// who hears it.
package voice

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"yaoju/daemon/words"
)

//go:embed clips
var clips embed.FS

// Kind is the media type of every clip: Opus in Ogg.
const Kind = "audio/ogg"

// MaxClip is the largest recording that is served, in bytes: a minute of speech.
const MaxClip = 1 << 20

// Line is something the machine can say.
type Line struct {
	Name string // its key in the catalogue, such as "attract.voice", and its file's name
	Lang string // zh-CN or en
	Text string
}

// File is where the line's recording stands in a folder of clips.
func (l Line) File() string { return l.Lang + "/" + l.Name + ".opus" }

// spoken are the ends of keys that are lines: what a screen says, and its buttons.
var spoken = []string{".voice", ".cta", ".alt", ".back", ".more", ".agree"}

// keys are lines whose keys end in no such way.
var keys = []string{"util.lang", "util.big", "util.big.on", "util.contrast", "util.contrast.on", "util.discreet", "util.discreet.on", "util.voice.on"}

// Lines lists everything the machine can say.
func Lines(b *words.Book) []Line {
	var all []Line
	for _, key := range b.Keys() {
		end := strings.LastIndexByte(key, '.')
		if !strings.HasPrefix(key, "say.") && !slices.Contains(keys, key) && (end < 0 || !slices.Contains(spoken, key[end:]) || key == "util.voice" || strings.HasPrefix(key, "staff.")) {
			continue
		}
		for _, lang := range []string{"zh-CN", "en"} {
			all = append(all, Line{Name: key, Lang: lang, Text: b.Text(lang, key, nil)})
		}
	}
	return all
}

// Clips are the recordings of one machine.
type Clips struct {
	own  fs.FS // a folder of recordings that go before the built-in ones; nil: none
	have map[string]bool
}

// New returns the built-in clips, and before each of them the file of the same name
// below folder, if there is one; an empty folder is none.
func New(b *words.Book, folder string) *Clips {
	c := &Clips{have: map[string]bool{}}
	if folder != "" {
		c.own = os.DirFS(folder)
	}
	for _, l := range Lines(b) {
		c.have[l.File()] = true
	}
	return c
}

// Has says whether there is such a line.
func (c *Clips) Has(name string) bool { return c.have["zh-CN/"+name+".opus"] }

// Read returns the recording of a line: lang is zh-CN or en. The error is
// fs.ErrNotExist if there is no such line.
func (c *Clips) Read(lang, name string) ([]byte, error) {
	file := Line{Name: name, Lang: lang}.File()
	if !c.have[file] {
		return nil, fmt.Errorf("voice: %w", fs.ErrNotExist)
	}
	if c.own != nil {
		info, err := fs.Stat(c.own, file)
		if err == nil && info.Size() <= MaxClip {
			return fs.ReadFile(c.own, file)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("voice: %w", err)
		}
	}
	return clips.ReadFile("clips/" + file)
}

// Index says, by file, which text each built-in clip was made of.
func Index() (map[string]string, error) {
	text, err := clips.ReadFile("clips/index.json")
	if err != nil {
		return nil, fmt.Errorf("voice: %w", err)
	}
	index := map[string]string{}
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, fmt.Errorf("voice: index.json: %w", err)
	}
	return index, nil
}
