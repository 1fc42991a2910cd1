package voice_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"yaoju/daemon/voice"
	"yaoju/daemon/words"
)

func book(t *testing.T) *words.Book {
	t.Helper()
	b, err := words.Load()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// maxAll bounds what the clips add to the program.
const maxAll = 700 << 10

// Every line has a recording of its present words, in both languages.
func TestClips(t *testing.T) {
	b := book(t)
	clips := voice.New(b, "")
	index, err := voice.Index()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	lines := voice.Lines(b)
	for _, l := range lines {
		if index[l.File()] != l.Text {
			t.Errorf("%s says %q, want %q: run make voice", l.File(), index[l.File()], l.Text)
			continue
		}
		clip, err := clips.Read(l.Lang, l.Name)
		if err != nil {
			t.Error(err)
			continue
		}
		if !bytes.HasPrefix(clip, []byte("OggS")) || !bytes.Contains(clip[:64], []byte("OpusHead")) {
			t.Errorf("%s is not Opus in Ogg", l.File())
		}
		sum += len(clip)
	}
	if len(index) != len(lines) {
		t.Errorf("%d recordings of %d lines: run make voice", len(index), len(lines))
	}
	if sum > maxAll {
		t.Errorf("all recordings have %d bytes, want at most %d", sum, maxAll)
	}
}

func TestOwnRecordings(t *testing.T) {
	b := book(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "en"), 0o755); err != nil {
		t.Fatal(err)
	}
	mine := []byte("OggS mine")
	for name, text := range map[string][]byte{"attract.voice.opus": mine, "take.voice.opus": make([]byte, voice.MaxClip+1)} {
		if err := os.WriteFile(filepath.Join(dir, "en", name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	clips, builtIn := voice.New(b, dir), voice.New(b, "")
	if got, err := clips.Read("en", "attract.voice"); err != nil || !bytes.Equal(got, mine) {
		t.Errorf("%q, %v; want the folder's", got, err)
	}
	for _, l := range [][2]string{{"zh-CN", "attract.voice"}, {"en", "take.voice"}, {"en", "done.voice"}} {
		want, err := builtIn.Read(l[0], l[1])
		if err != nil {
			t.Fatal(err)
		}
		if got, err := clips.Read(l[0], l[1]); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: not the built-in one: %v", l, err)
		}
	}
	for _, l := range [][2]string{{"en", "../index"}, {"", "attract.voice"}, {"en", "attract.title"}, {"..", "en/attract.voice"}} {
		if _, err := clips.Read(l[0], l[1]); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v: %v, want not there", l, err)
		}
	}
}
