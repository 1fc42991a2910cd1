// Package config reads one TOML file strictly into one struct: unknown keys,
// wrong types and doubled keys are refused, and every complaint comes at once,
// each with its line, its key and what would be right.
//
// It owns the file format. It knows nothing of what the settings mean: a program
// checks that itself and adds its complaints to the same list with Need.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFile bounds a configuration file: a district of 5,000 machines stays under it.
const maxFile = 8 << 20

// Doc is a file that was read, with what is wrong with it.
type Doc struct {
	name       string
	lines      map[string]int  // line of each key, such as "machine[2].slots[0].par"
	there      map[string]bool // keys that the file has
	unread     bool            // the file could not be read at all: nothing is known of its keys
	complaints []complaint
}

type complaint struct {
	line int // 0: the file as a whole
	text string
}

// Decode reads the file into v, a pointer to a struct whose fields carry `toml`
// tags. Ask Err when all checks are made.
func Decode(name string, r io.Reader, v any) *Doc {
	d := &Doc{name: name, lines: map[string]int{}, there: map[string]bool{}}
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	switch {
	case err != nil:
		d.add(0, "read: %v", err)
		d.unread = true
		return d
	case len(text) > maxFile:
		d.add(0, "larger than %d bytes: is this the right file?", maxFile)
		d.unread = true
		return d
	}
	var tree map[string]any
	if err := toml.Unmarshal(text, &tree); err != nil {
		line := 0
		if at := (*toml.DecodeError)(nil); errors.As(err, &at) {
			line, _ = at.Position()
		}
		d.add(line, "%s", strings.TrimPrefix(err.Error(), "toml: "))
		d.unread = true
		return d
	}
	d.index(text)
	d.table("", tree, reflect.ValueOf(v).Elem())
	return d
}

// Need records a complaint about key unless ok. The text says what would be right.
func (d *Doc) Need(ok bool, key, format string, args ...any) {
	if !ok && !d.unread {
		d.add(d.line(key), "%s: %s", key, fmt.Sprintf(format, args...))
	}
}

// Check records err, if any, as a complaint about key.
func (d *Doc) Check(key string, err error) {
	if err != nil && !d.unread {
		d.add(d.line(key), "%s: %v", key, err)
	}
}

// Has reports whether the file has key, with whatever value.
func (d *Doc) Has(key string) bool { return d.there[key] }

// Err returns every complaint, in the order of the file, or nil.
func (d *Doc) Err() error {
	slices.SortStableFunc(d.complaints, func(a, b complaint) int { return cmp.Compare(a.line, b.line) })
	var errs []error
	for _, c := range d.complaints {
		if c.line == 0 {
			errs = append(errs, fmt.Errorf("%s: %s", d.name, c.text))
		} else {
			errs = append(errs, fmt.Errorf("%s:%d: %s", d.name, c.line, c.text))
		}
	}
	return errors.Join(errs...)
}

func (d *Doc) add(line int, format string, args ...any) {
	d.complaints = append(d.complaints, complaint{line, fmt.Sprintf(format, args...)})
}

// line finds the line of key, or of the nearest thing around it.
func (d *Doc) line(key string) int {
	for key != "" {
		if n, ok := d.lines[key]; ok {
			return n
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return 0
}

// index notes the line of every key.
func (d *Doc) index(text []byte) {
	p := unstable.Parser{}
	p.Reset(text)
	table := ""
	count := map[string]int{} // of each array of tables
	for p.NextExpression() {
		e := p.Expression()
		var path []string
		line := 0
		for k := e.Key(); k.Next(); {
			path = append(path, string(k.Node().Data))
			line = 1 + bytes.Count(text[:k.Node().Raw.Offset], []byte("\n"))
		}
		switch e.Kind {
		case unstable.KeyValue:
			d.lines[join(table, strings.Join(path, "."))] = line
		case unstable.Table:
			table = resolve(path, count)
			d.lines[table] = line
		case unstable.ArrayTable:
			parent := join(resolve(path[:len(path)-1], count), path[len(path)-1])
			table = fmt.Sprintf("%s[%d]", parent, count[parent])
			count[parent]++
			d.lines[table] = line
		}
	}
}

// resolve turns the words of a table's header into a key: an array of tables on
// the way stands for its newest element.
func resolve(path []string, count map[string]int) (key string) {
	for _, word := range path {
		key = join(key, word)
		if n := count[key]; n > 0 {
			key = fmt.Sprintf("%s[%d]", key, n-1)
		}
	}
	return key
}

func join(table, key string) string {
	if table == "" || key == "" {
		return table + key
	}
	return table + "." + key
}

// table fills a struct from a TOML table.
func (d *Doc) table(at string, tree map[string]any, into reflect.Value) {
	fields := map[string]reflect.Value{}
	for i := range into.NumField() {
		if tag := into.Type().Field(i).Tag.Get("toml"); tag != "" {
			fields[tag] = into.Field(i)
		}
	}
	for name, value := range tree {
		key := join(at, name)
		d.there[key] = true
		field, known := fields[name]
		if !known {
			d.Need(false, key, "unknown key; known here: %s", strings.Join(sorted(fields), ", "))
			continue
		}
		d.value(key, value, field)
	}
}

func sorted(fields map[string]reflect.Value) (names []string) {
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// value fills one field. The kinds are those our programs use.
func (d *Doc) value(key string, value any, into reflect.Value) {
	if into.Type() == reflect.TypeFor[time.Duration]() {
		text, _ := value.(string)
		t, err := time.ParseDuration(text)
		d.Need(err == nil, key, "want a duration such as \"30s\" or \"5m\"")
		into.SetInt(int64(t))
		return
	}
	switch into.Kind() {
	case reflect.String:
		text, ok := value.(string)
		d.Need(ok, key, "want text in quotes")
		into.SetString(text)
	case reflect.Bool:
		b, ok := value.(bool)
		d.Need(ok, key, "want true or false")
		into.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, ok := value.(int64)
		d.Need(ok, key, "want a whole number")
		into.SetInt(n)
	case reflect.Uint8:
		n, ok := value.(int64)
		d.Need(ok && n >= 0 && n <= 255, key, "want a whole number from 0 to 255")
		into.SetUint(uint64(n))
	case reflect.Struct:
		tree, ok := value.(map[string]any)
		d.Need(ok, key, "want a table")
		d.table(key, tree, into)
	case reflect.Slice:
		list, ok := value.([]any)
		d.Need(ok, key, "want a list in brackets")
		into.Set(reflect.MakeSlice(into.Type(), len(list), len(list)))
		for i, v := range list {
			d.value(fmt.Sprintf("%s[%d]", key, i), v, into.Index(i))
		}
	default:
		panic(fmt.Sprintf("config: field for %s has type %v", key, into.Type())) // our own struct is wrong
	}
}
