package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// maxDepth bounds nesting: the deepest message we define has 5 levels.
const maxDepth = 12

// decode fills v from exactly one JSON object of at most limit bytes. Unknown
// members are let through, because readers accept newer writers; everything
// ambiguous is refused: trailing bytes, doubled members, broken UTF-8.
func decode(what string, b []byte, limit int, v any) error {
	if len(b) > limit {
		return fmt.Errorf("%s: %d bytes, at most %d are allowed", what, len(b), limit)
	}
	if !utf8.Valid(b) {
		return fmt.Errorf("%s: not valid UTF-8", what)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	t, err := d.Token()
	if err != nil {
		return fmt.Errorf("%s: %w", what, unexpected(err))
	}
	if t != json.Delim('{') {
		return fmt.Errorf("%s: not a JSON object", what)
	}
	if err := checkObject(d, 1); err != nil {
		return fmt.Errorf("%s: %w", what, unexpected(err))
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%s: more follows after the object", what)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// checkObject consumes the rest of an object and refuses doubled members.
func checkObject(d *json.Decoder, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return errors.New("a member has no name")
		}
		if seen[name] {
			return fmt.Errorf("member %q appears twice", clip(name))
		}
		seen[name] = true
		if err := checkValue(d, depth); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

func checkValue(d *json.Decoder, depth int) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('{'):
		return checkObject(d, depth+1)
	case json.Delim('['):
		if depth >= maxDepth {
			return fmt.Errorf("nested deeper than %d levels", maxDepth)
		}
		for d.More() {
			if err := checkValue(d, depth+1); err != nil {
				return err
			}
		}
		_, err = d.Token()
	}
	return err
}
