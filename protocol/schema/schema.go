// Package schema writes the JSON Schemas of the wire contract from the Go types
// of package protocol, for people who do not read Go. It knows the shapes; the
// rules between fields are in protocol's Valid methods alone.
package schema

//go:generate go run ./gen .

import (
	"encoding/json"
	"reflect"
	"strings"

	"yaoju/protocol"
)

// node is one JSON Schema, or a part of one.
type node map[string]any

// named are the types whose values are bounded more tightly than their kind.
var named = map[reflect.Type]node{
	reflect.TypeFor[protocol.MachineID]():     {"type": "string", "pattern": "^[a-z0-9-]{1,32}$"},
	reflect.TypeFor[protocol.ProductID]():     {"type": "string", "pattern": "^[a-z0-9-]{1,32}$"},
	reflect.TypeFor[protocol.LedgerID]():      {"type": "string", "pattern": "^[0-9a-f]{32}$"},
	reflect.TypeFor[protocol.Hash]():          {"type": "string", "pattern": "^[0-9a-f]{64}$"},
	reflect.TypeFor[protocol.DateOnly]():      {"type": "string", "format": "date"},
	reflect.TypeFor[protocol.Slot]():          {"type": "integer", "minimum": 1, "maximum": protocol.Slots},
	reflect.TypeFor[protocol.VendID]():        {"type": "integer", "minimum": 1, "maximum": 1<<32 - 1},
	reflect.TypeFor[protocol.Outcome]():       {"type": "integer", "enum": []any{1, 2, 3}},
	reflect.TypeFor[protocol.Fault]():         {"type": "integer", "minimum": 1, "maximum": 1<<16 - 1},
	reflect.TypeFor[protocol.Clock]():         {"type": "string", "enum": []any{"synced", "held", "unset"}},
	reflect.TypeFor[protocol.Kind]():          {"type": "string", "minLength": 1, "maxLength": protocol.MaxName},
	reflect.TypeFor[protocol.Per]():           {"type": "string", "enum": []any{"days", "month", "year"}},
	reflect.TypeFor[protocol.Serving]():       {"type": "string", "enum": []any{"open", "empty", "closed"}},
	reflect.TypeFor[protocol.CommandResult](): {"type": "string", "enum": []any{"ok", "failed", "expired", "unsupported"}},
	reflect.TypeFor[protocol.UpdateEnd]():     {"type": "string", "minLength": 1, "maxLength": protocol.MaxName},
	reflect.TypeFor[json.RawMessage]():        {"type": "object"},
	reflect.TypeFor[[]byte]():                 {"type": "string", "contentEncoding": "base64"},
}

// wireRecord is a record as it travels, with its hash spliced in.
type wireRecord struct {
	protocol.Record
	Hash protocol.Hash `json:"hash"`
}

type wireBatch struct {
	Ledger  protocol.LedgerID `json:"ledger"`
	Records []wireRecord      `json:"records"`
}

// Files returns every schema file by name.
func Files() map[string][]byte {
	files := map[string][]byte{}
	add := func(name, title string, v any) {
		s := of(reflect.TypeOf(v))
		s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
		s["title"] = title
		b, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			panic(err) // our own tables always encode
		}
		files[name+".json"] = append(b, '\n')
	}
	add("events", "Consecutive records of one ledger", wireBatch{})
	add("ack", "How far the district has a ledger", protocol.Ack{})
	add("state", "Snapshot of a machine", protocol.State{})
	add("online", "Whether a machine is connected", protocol.Online{})
	add("signed", "A desired state, a command or a list of keys with its signature", protocol.Signed{})
	add("keychain", "Every list of signing keys, oldest first", protocol.KeyChain{})
	add("keys", "Which keys sign for a district: the body of a signed message", protocol.Keys{})
	add("desired", "What should be so on one machine: the body of a signed message", protocol.Desired{})
	add("command", "What should happen once: the body of a signed message", protocol.Command{})
	for _, e := range protocol.Events() {
		add("event."+string(e.Kind()), "Data of a "+string(e.Kind())+" record", e)
	}
	return files
}

func of(t reflect.Type) node {
	if n, ok := named[t]; ok {
		return clone(n)
	}
	switch t.Kind() {
	case reflect.Pointer:
		return of(t.Elem())
	case reflect.String:
		return node{"type": "string"}
	case reflect.Bool:
		return node{"type": "boolean"}
	case reflect.Float64:
		return node{"type": "number"}
	case reflect.Int, reflect.Int64:
		return node{"type": "integer"}
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		return node{"type": "integer", "minimum": 0}
	case reflect.Slice:
		return node{"type": "array", "items": of(t.Elem())}
	case reflect.Struct:
		n := node{"type": "object", "properties": node{}, "required": []string{}}
		fields(t, n)
		return n
	}
	panic("schema: no rule for " + t.String()) // a new kind of field needs one
}

// fields adds the members of a struct; embedded structs are flattened, as they
// are on the wire.
func fields(t reflect.Type, n node) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			fields(f.Type, n)
			continue
		}
		n["properties"].(node)[name] = of(f.Type)
		if opts != "omitempty" {
			n["required"] = append(n["required"].([]string), name)
		}
	}
}

func clone(n node) node {
	c := node{}
	for k, v := range n {
		c[k] = v
	}
	return c
}
