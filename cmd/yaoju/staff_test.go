package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"yaoju/protocol"
)

func TestStaffFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "accounts.json")
	run := func(in string, args ...string) (string, int) {
		typed := filepath.Join(t.TempDir(), "typed")
		if err := os.WriteFile(typed, []byte(in), 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := os.Open(typed)
		if err != nil {
			t.Fatal(err)
		}
		defer keys.Close()
		var out, complaints bytes.Buffer
		code := staffCommand(t.Context(), append([]string{file}, args...), terminal{in: keys, out: &out, err: &complaints})
		return out.String() + complaints.String(), code
	}
	for _, c := range []struct {
		in, want string
		args     []string
		code     int
	}{
		{"", "no such file", []string{"list"}, 1},
		{"830417\n830418\n", "differ", []string{"add", "s-1", "restocker", "nfc:04a1b2c3"}, 1},
		{"123456\n123456\n", "first that anybody would try", []string{"add", "s-1", "restocker", "nfc:04a1b2c3"}, 1},
		{"830417\n830417\n", "want restocker, technician or auditor", []string{"add", "s-1", "boss", "nfc:04a1b2c3"}, 1},
		{"830417\n830417\n", "badge 1", []string{"add", "s-1", "restocker", "04a1b2c3"}, 1},
		{"830417\n830417\n", "holds 1 accounts", []string{"add", "s-1", "restocker", "nfc:04a1b2c3"}, 0},
		{"506172\n506172", "holds 2 accounts", []string{"add", "s-2", "auditor", "wiegand26:A1B2C3", "nfc:04ffeedd"}, 0},
		{"506172\n506172\n", "one of account s-1 too", []string{"add", "s-3", "auditor", "nfc:04A1B2C3"}, 1},
		{"194028\n194028\n", "holds 2 accounts", []string{"add", "s-1", "technician", "nfc:04a1b2c3"}, 0},
		{"", "s-1  technician  1 badges", []string{"list"}, 0},
		{"", "no account s-9", []string{"remove", "s-9"}, 1},
		{"", "holds 1 accounts", []string{"remove", "s-1"}, 0},
		{"", "want add", []string{"burn"}, 1},
	} {
		out, code := run(c.in, c.args...)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%v: status %d, %q; want %d, %q", c.args, code, out, c.code, c.want)
		}
		if pin, _, _ := strings.Cut(c.in, "\n"); pin != "" && strings.Contains(out, pin) {
			t.Errorf("%v: the PIN was printed: %q", c.args, out)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := protocol.DecodeSecrets(b); err != nil || len(all.Accounts) != 1 || all.Accounts[0].Staff != "s-2" {
		t.Errorf("%s, %v", b, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
