// Command gen makes the recordings of lines that are new or whose text has changed,
// with espeak-ng and opusenc, and takes away those of lines that are gone.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"

	"yaoju/daemon/voice"
	"yaoju/daemon/words"
)

// Speech is a little slower than the synthesiser's own: many who listen are old.
var speakers = map[string][]string{
	"zh-CN": {"-v", "cmn", "-s", "155", "-g", "2"},
	"en":    {"-v", "en-gb", "-s", "150"},
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: gen FOLDER")
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(folder string) error {
	book, err := words.Load()
	if err != nil {
		return err
	}
	was, err := voice.Index()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	is := map[string]string{}
	for _, l := range voice.Lines(book) {
		is[l.File()] = l.Text
		file := filepath.Join(folder, l.File())
		if _, err := os.Stat(file); err == nil && was[l.File()] == l.Text {
			continue
		}
		if err := record(l, file); err != nil {
			return fmt.Errorf("%s: %w", l.File(), err)
		}
	}
	for file := range was {
		if _, ok := is[file]; !ok {
			if err := os.Remove(filepath.Join(folder, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	text, err := json.MarshalIndent(is, "", "\t") // in the order of the names
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "index.json"), append(text, '\n'), 0o644)
}

// What espeak-ng writes: a header, then 16-bit samples of one channel.
const (
	header = 44
	rate   = "22050"
)

// trim takes the silence off both ends of some samples: clips are said one after the
// other, and silence has a size too.
func trim(b []byte) []byte {
	const quiet, rest = 150, 2 * 22050 / 20 // a twentieth of a second stays
	first, last := len(b), 0
	for i := 0; i+1 < len(b); i += 2 {
		if s := int16(binary.LittleEndian.Uint16(b[i:])); s > quiet || s < -quiet {
			first, last = min(first, i), i+2
		}
	}
	if last == 0 {
		return b
	}
	return b[max(0, first-rest):min(len(b), last+rest)]
}

// record has a line spoken into a file: 8 kbit/s are enough for one voice.
func record(l voice.Line, file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	speak := exec.Command("espeak-ng", append(speakers[l.Lang], "--stdin", "--stdout")...)
	speak.Stdin = bytes.NewReader([]byte(l.Text))
	speak.Stderr = os.Stderr
	sound, err := speak.Output()
	if err != nil {
		return fmt.Errorf("espeak-ng: %w", err)
	}
	if len(sound) <= header {
		return errors.New("espeak-ng: no sound")
	}
	pack := exec.Command("opusenc", "--quiet", "--bitrate", "8", "--framesize", "60", "--raw", "--raw-rate", rate, "--raw-chan", "1", "--padding", "0", "-", file)
	pack.Stdin = bytes.NewReader(trim(sound[header:]))
	pack.Stderr = os.Stderr
	if err := pack.Run(); err != nil {
		return fmt.Errorf("opusenc: %w", err)
	}
	return nil
}
