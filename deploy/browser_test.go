package deploy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// policyFile is what governs the browser.
const policyFile = "kiosk/root/etc/chromium/policies/managed/yaoju.json"

// readPolicy returns the policy, changed so that a test may look at pages from outside,
// which it forbids.
func readPolicy(t *testing.T) map[string]any {
	t.Helper()
	b, err := os.ReadFile(policyFile)
	if err != nil {
		t.Fatal(err)
	}
	var policy map[string]any
	if err := json.Unmarshal(b, &policy); err != nil {
		t.Fatal(err)
	}
	if policy["DeveloperToolsAvailability"] != 2.0 {
		t.Error("the policy lets people look at pages from outside")
	}
	policy["DeveloperToolsAvailability"] = 1
	return policy
}

// browser is Chromium under a policy, with no network at all, and a line to it.
type browser struct {
	t       *testing.T
	orders  *os.File
	answers *bufio.Reader
	id      int
	session string // of its one page
}

// browse starts Chromium. The policy lies where Debian's Chromium looks, in a name
// space of its own.
func browse(t *testing.T, policy map[string]any) *browser {
	t.Helper()
	text, err := json.Marshal(policy)
	if err != nil {
		t.Fatal(err)
	}
	managed, profile := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(managed, "yaoju.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	ours, orders, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	const inside = `mkdir -p /etc/chromium/policies/managed
mount --bind "$1" /etc/chromium/policies/managed
mount -t tmpfs tmpfs "$2"
exec chromium --headless=new --no-sandbox --disable-gpu --no-first-run --user-data-dir="$2" --allow-chrome-scheme-url --remote-debugging-pipe --no-startup-window`
	all := asRoot("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", inside, "sh", managed, profile)
	if all[0] == "sudo" { // it closes what it does not know
		all = append([]string{"sudo", "-n", "-C", "5"}, all[2:]...)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.ExtraFiles = []*os.File{ours, theirs}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ours.Close()
	theirs.Close()
	t.Cleanup(func() {
		cancel()
		cmd.Wait() // killed: that it did not end well is known
		orders.Close()
		answers.Close()
	})
	// Its first start on a busy machine; without a limit a dead browser would hold the test.
	if err := answers.SetReadDeadline(time.Now().Add(3 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, orders: orders, answers: bufio.NewReader(answers)}
	var target struct{ TargetID string }
	b.ask("Target.createTarget", `{"url":"about:blank"}`, &target)
	var session struct{ SessionID string }
	b.ask("Target.attachToTarget", fmt.Sprintf(`{"targetId":%q,"flatten":true}`, target.TargetID), &session)
	b.session = session.SessionID
	return b
}

// ask has the browser do something and waits for the answer.
func (b *browser) ask(method, params string, result any) {
	b.t.Helper()
	b.id++
	if _, err := fmt.Fprintf(b.orders, `{"id":%d,"sessionId":%q,"method":%q,"params":%s}`+"\x00", b.id, b.session, method, params); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	for {
		text, err := b.answers.ReadBytes(0)
		if err != nil {
			b.t.Fatalf("%s %s: %v", method, params, err)
		}
		var a struct {
			ID            int
			Result, Error json.RawMessage
		}
		if err := json.Unmarshal(text[:len(text)-1], &a); err != nil {
			b.t.Fatal(err)
		}
		switch {
		case a.ID != b.id: // an event
		case a.Error != nil:
			b.t.Fatalf("%s: %s", method, a.Error)
		default:
			if err := json.Unmarshal(a.Result, result); err != nil {
				b.t.Fatal(err)
			}
			return
		}
	}
}

// visit goes to a page and returns the browser's complaint.
func (b *browser) visit(page string) string {
	b.t.Helper()
	var v struct{ ErrorText string }
	b.ask("Page.navigate", fmt.Sprintf(`{"url":%q}`, page), &v)
	return v.ErrorText
}

// The browser shows the machine's page and nothing else.
func TestBrowserStays(t *testing.T) {
	t.Parallel()
	b := browse(t, readPolicy(t))
	for _, c := range []struct {
		page    string
		blocked bool
	}{
		{"http://127.0.0.1:8080/", false}, // nobody listens, but it may ask
		{"http://127.0.0.1:8090/", true},
		{"http://192.0.2.1:8080/", true},
		{"https://example.org/", true},
		{"file:///etc/passwd", true},
		{"data:text/html,hello", true},
		{"view-source:http://127.0.0.1:8080/", true},
	} {
		if got := b.visit(c.page); strings.Contains(got, "ERR_BLOCKED_BY_ADMINISTRATOR") != c.blocked {
			t.Errorf("%s: %q; blocked is to be %v", c.page, got, c.blocked)
		}
	}
}

// Chromium itself knows each policy and takes its value: its own page of policies
// shows none with an error.
func TestPolicy(t *testing.T) {
	t.Parallel()
	policy := readPolicy(t)
	ours := len(policy)
	policy["URLAllowlist"] = append(policy["URLAllowlist"].([]any), "chrome://policy")
	// Mistakes, to see that they are told.
	policy["NobodyKnowsThis"] = 1
	policy["HomepageIsNewTabPage"] = "text where yes or no is wanted"
	b := browse(t, policy)
	if got := b.visit("chrome://policy/"); got != "" {
		t.Fatal(got)
	}
	errs := b.policies()
	for name, complaint := range errs {
		if wrong := name == "NobodyKnowsThis" || name == "HomepageIsNewTabPage"; wrong != (complaint != "") {
			t.Errorf("%s: Chromium says %q", name, complaint)
		}
	}
	if len(errs) != ours+2 {
		t.Errorf("Chromium lists %d policies, want %d", len(errs), ours+2)
	}
}

// policies reads from the page of policies what is wrong with each that is set.
func (b *browser) policies() map[string]string {
	b.t.Helper()
	const rows = `JSON.stringify((function rows(n) {
		return [...n.querySelectorAll('*')].flatMap((e) => e.shadowRoot ? [
			...(e.localName === 'policy-row' ? [['.name', '.messages', '.errors .value'].map((c) => e.shadowRoot.querySelector(c)?.textContent.trim() ?? '')] : []),
			...rows(e.shadowRoot)] : []);
	})(document))`
	for range 600 { // the page fills itself; a minute is long
		var v struct{ Result struct{ Value string } }
		b.ask("Runtime.evaluate", fmt.Sprintf(`{"expression":%q}`, rows), &v)
		var all [][3]string // name, status, complaint
		if err := json.Unmarshal([]byte(v.Result.Value), &all); err != nil {
			b.t.Fatal(err)
		}
		errs := map[string]string{}
		for _, row := range all {
			switch row[1] {
			case "Not set.":
			case "OK", "Deprecated":
				errs[row[0]] = row[2]
			default:
				errs[row[0]] = row[1] + ": " + row[2]
			}
		}
		if len(errs) > 0 {
			return errs
		}
		time.Sleep(100 * time.Millisecond)
	}
	b.t.Fatal("Chromium's page of policies stays empty")
	return nil
}
