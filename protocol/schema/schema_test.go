package schema

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"yaoju/protocol"
)

// The schemas in the tree are those of the Go types.
func TestSchemasAreCurrent(t *testing.T) {
	want := Files()
	have, err := filepath.Glob("*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range have {
		if want[name] == nil {
			t.Errorf("%s belongs to no type: delete it", name)
		}
	}
	for name, text := range want {
		got, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("%s is stale: run go generate ./... (%v)", name, err)
		}
	}
}

func compile(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func value(t *testing.T, text []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Real messages are what the schemas say, and bent ones are not.
func TestGoldenMessagesMatch(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("..", "testdata", "v1", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	body := func(b []byte) []byte {
		var s protocol.Signed
		if err := json.Unmarshal(b, &s); err != nil {
			t.Fatal(err)
		}
		return []byte(s.Body)
	}
	tests := []struct {
		schema string
		text   []byte
	}{
		{"events.json", read("events.json")}, {"state.json", read("state.json")}, {"ack.json", read("ack.json")}, {"online.json", read("online.json")},
		{"signed.json", read("desired.json")}, {"signed.json", read("command.json")}, {"desired.json", body(read("desired.json"))}, {"command.json", body(read("command.json"))},
		{"keychain.json", read("keys.json")}, {"state.json", read("state.update.json")}, {"command.json", body(read("command.update.json"))},
	}
	for _, tt := range tests {
		s := compile(t, tt.schema)
		if err := s.Validate(value(t, tt.text)); err != nil {
			t.Errorf("%s: %v", tt.schema, err)
		}
		// Take any one required member away and it is refused.
		var m map[string]any
		if err := json.Unmarshal(tt.text, &m); err != nil {
			t.Fatal(err)
		}
		for _, name := range s.Required {
			bent := map[string]any{}
			for k, v := range m {
				if k != name {
					bent[k] = v
				}
			}
			b, err := json.Marshal(bent)
			if err != nil {
				t.Fatal(err)
			}
			if s.Validate(value(t, b)) == nil {
				t.Errorf("%s: accepted without %q", tt.schema, name)
			}
		}
	}
	batch, err := protocol.DecodeBatch(read("events.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range batch.Records {
		r, err := s.Record()
		if err != nil {
			t.Fatal(err)
		}
		if err := compile(t, "event."+string(r.Kind)+".json").Validate(value(t, r.Data)); err != nil {
			t.Errorf("record %d: %v", r.Seq, err)
		}
	}
}

// asyncapi.yaml names our topics, no others, with schemas that exist.
func TestAsyncAPI(t *testing.T) {
	text, err := os.ReadFile("../asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		AsyncAPI string
		Channels map[string]struct {
			Address  string
			Messages map[string]struct {
				Ref string `yaml:"$ref"`
			}
		}
		Operations map[string]struct {
			Action  string
			Channel struct {
				Ref string `yaml:"$ref"`
			}
			Bindings struct {
				MQTT struct {
					QoS    int `yaml:"qos"`
					Retain bool
				}
			}
		}
		Components struct {
			Messages map[string]struct {
				Payload struct {
					Ref string `yaml:"$ref"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.AsyncAPI != "3.0.0" {
		t.Errorf("asyncapi %q, want 3.0.0", doc.AsyncAPI)
	}
	const m = protocol.MachineID("{machine}")
	want := map[string]struct { // by channel
		topic, schema, action string // action: as the machine sees it
		retain                bool
	}{
		"events":  {protocol.EventsTopic(m), "events", "send", false},
		"state":   {protocol.StateTopic(m), "state", "send", true},
		"online":  {protocol.OnlineTopic(m), "online", "send", true},
		"ack":     {protocol.AckTopic(m), "ack", "receive", true},
		"desired": {protocol.DesiredTopic(m), "signed", "receive", true},
		"keys":    {protocol.KeysTopic(m), "keychain", "receive", true},
		"command": {protocol.CommandTopic(m), "signed", "receive", false},
	}
	if len(doc.Channels) != len(want) || len(doc.Operations) != len(want) {
		t.Errorf("%d channels and %d operations, want %d of each", len(doc.Channels), len(doc.Operations), len(want))
	}
	for name, w := range want {
		c := doc.Channels[name]
		if c.Address != w.topic {
			t.Errorf("channel %s: address %q, want %q", name, c.Address, w.topic)
		}
		for _, msg := range c.Messages {
			payload := doc.Components.Messages[strings.TrimPrefix(msg.Ref, "#/components/messages/")].Payload.Ref
			if payload != "./schema/"+w.schema+".json" {
				t.Errorf("channel %s: payload %q, want %s", name, payload, w.schema)
			}
		}
		found := false
		for _, op := range doc.Operations {
			if op.Channel.Ref == "#/channels/"+name {
				found = true
				if op.Action != w.action || op.Bindings.MQTT.Retain != w.retain || op.Bindings.MQTT.QoS != 1 {
					t.Errorf("channel %s: %s, %+v; want %s, QoS 1, retain %v", name, op.Action, op.Bindings.MQTT, w.action, w.retain)
				}
			}
		}
		if !found {
			t.Errorf("channel %s has no operation", name)
		}
	}
}
