package config

import (
	"strings"
	"testing"
	"time"
)

type settings struct {
	Machine string        `toml:"machine"`
	Wait    time.Duration `toml:"wait"`
	Board   struct {
		Path string `toml:"path"`
		Baud int    `toml:"baud"`
	} `toml:"board"`
	Products []struct {
		ID    string  `toml:"id"`
		Slots []uint8 `toml:"slots"`
		Stock []struct {
			Pieces int  `toml:"pieces"`
			Fresh  bool `toml:"fresh"`
		} `toml:"stock"`
	} `toml:"product"`
}

func TestDecode(t *testing.T) {
	var s settings
	d := Decode("x.toml", strings.NewReader(`
machine = "m-1"
wait = "1m30s"
[board]
path = "/dev/ttyAMA0"
baud = 115200
[[product]]
id = "gel"
slots = [1, 2, 60]
[[product.stock]]
pieces = 4
fresh = true
[[product]]
id = "film"
`), &s)
	if err := d.Err(); err != nil {
		t.Fatal(err)
	}
	if s.Machine != "m-1" || s.Wait != 90*time.Second || s.Board.Baud != 115200 || len(s.Products) != 2 ||
		s.Products[0].Slots[2] != 60 || s.Products[0].Stock[0].Pieces != 4 || !s.Products[0].Stock[0].Fresh || s.Products[1].ID != "film" {
		t.Errorf("got %+v", s)
	}
}

// Every complaint comes at once, with its line.
func TestComplaints(t *testing.T) {
	var s settings
	d := Decode("x.toml", strings.NewReader(`machine = 7
colour = "teal"
wait = "soon"
[board]
path = true
baud = "fast"
speed = 1
[[product]]
id = "gel"
slots = [1, 300]
[[product]]
slots = 4
  [[product.stock]]
  pieces = 1.5
  [[product.stock]]
  fresh = "yes"
`), &s)
	d.Need(s.Products[0].ID == "film", "product[0].id", "want film")
	d.Need(false, "product[1].id", "missing")
	d.Need(false, "screen.listen", "missing")
	err := d.Err()
	if err == nil {
		t.Fatal("no error")
	}
	want := `x.toml: screen.listen: missing
x.toml:1: machine: want text in quotes
x.toml:2: colour: unknown key; known here: board, machine, product, wait
x.toml:3: wait: want a duration such as "30s" or "5m"
x.toml:5: board.path: want text in quotes
x.toml:6: board.baud: want a whole number
x.toml:7: board.speed: unknown key; known here: baud, path
x.toml:9: product[0].id: want film
x.toml:10: product[0].slots[1]: want a whole number from 0 to 255
x.toml:11: product[1].id: missing
x.toml:12: product[1].slots: want a list in brackets
x.toml:14: product[1].stock[0].pieces: want a whole number
x.toml:16: product[1].stock[1].fresh: want true or false`
	if err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestSyntax(t *testing.T) {
	for text, want := range map[string]string{
		"machine = \"a\"\nmachine = \"b\"\n": "x.toml:2: ",
		"[board\n":                           "x.toml:1: ",
		"machine = \n":                       "x.toml:1: ",
		"a = \"\xff\"":                       "x.toml:1: ",
	} {
		var s settings
		d := Decode("x.toml", strings.NewReader(text), &s)
		d.Need(false, "machine", "missing") // of a file that cannot be read nothing else is known
		err := d.Err()
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "missing") {
			t.Errorf("%q: got %v, want %s...", text, err, want)
		}
	}
}

// Whatever the file, the answer is settings or complaints, never a panic.
func FuzzDecode(f *testing.F) {
	f.Add("machine = \"m-1\"\n[board]\nbaud = 9600\n[[product]]\nslots = [1]\n")
	f.Add("[[a.b]]\n[a.b.c]\nd.e = 1\nproduct = [{id = 1}]\n")
	f.Add("product.stock = 1\n[board.path]\n")
	f.Fuzz(func(t *testing.T, text string) {
		var s settings
		d := Decode("x", strings.NewReader(text), &s)
		d.Need(false, "product[0].stock[1].pieces", "missing")
		if d.Err() == nil {
			t.Error("neither the complaint nor why the file cannot be read")
		}
	})
}

// What the file says is told from what a struct had before.
func TestHas(t *testing.T) {
	s := settings{Machine: "before"}
	d := Decode("x.toml", strings.NewReader("[board]\nbaud = 0\n[[product]]\nid = \"a\"\n"), &s)
	for key, want := range map[string]bool{"machine": false, "board": true, "board.baud": true, "board.path": false, "product[0].id": true, "product[1].id": false} {
		if d.Has(key) != want {
			t.Errorf("%s: got %v", key, !want)
		}
	}
}
