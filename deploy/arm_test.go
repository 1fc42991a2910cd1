package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// armFolder has the arm64 kernel: daemon/machine/gpio/kernel.sh fetched it.
const armFolder = "../.build/guest"

// armDoor is the line of QEMU's PL061 that the configuration has the door on.
const armDoor = 4

const armKiosk = `machine = "m-0001"
data = "/data/yaoju"
status = "/run/kioskd.sock"
clock = "trusted"
[board]
kind = "gpio"
[board.gpio]
door = "9030000.pl061:4"
lock = "9030000.pl061:1"
curtain = "9030000.pl061:5"
emitter = "9030000.pl061:6"
light = "9030000.pl061:7"
[[board.gpio.motor]]
slot = 1
line = "9030000.pl061:0"
home = "9030000.pl061:2"
[reader]
path = "/dev/ttyAMA1"
[district]
broker = "tcp://127.0.0.1:1883"
tls = "off"
keys = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
`

// kioskd for arm64 on Debian's arm64 kernel, without root, with a GPIO machine on a
// real chip: it sees the lines, and when it hangs the watchdog bites.
func TestArm(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	env := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64"}
	for name, from := range map[string]string{"init": "./testdata/arm", "kioskd": "../cmd/kioskd"} {
		run(t, env, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, name), from)
	}
	if err := os.WriteFile(dir+"/kioskd.toml", []byte(armKiosk), 0o644); err != nil {
		t.Fatal(err)
	}
	archive, err := initramfs(map[string]string{"init": dir + "/init", "kioskd": dir + "/kioskd", "kioskd.toml": dir + "/kioskd.toml", "i6300esb.ko": armFolder + "/i6300esb.ko"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/initramfs", archive, 0o644); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", dir+"/qtest")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	e := launch(t, dir, "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", "512M", "-accel", "tcg,thread=multi",
		"-kernel", armFolder+"/vmlinuz", "-initrd", dir+"/initramfs", "-append", "console=ttyAMA0 quiet panic=-1",
		"-device", "i6300esb", "-action", "watchdog=poweroff", "-S", "-qtest", "unix:"+dir+"/qtest", "-qtest-log", "none")
	pins, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer pins.Close()
	var children []struct{ Name, Type string }
	if err := json.Unmarshal(e.order("qom-list", `{"path":"/machine/unattached"}`), &children); err != nil {
		t.Fatal(err)
	}
	chip := ""
	for _, c := range children {
		if c.Type == "child<pl061>" {
			chip = "/machine/unattached/" + c.Name
		}
	}
	door := func(high int) {
		t.Helper()
		if _, err := fmt.Fprintf(pins, "set_irq_in %s unnamed-gpio-in %d %d\n", chip, armDoor, high); err != nil {
			t.Fatal(err)
		}
	}
	door(0)
	e.order("cont", "{}")

	e.hear("up")
	e.until("board", "board up, door open true")
	door(1) // active while it is shut
	e.until("board", "board up, door open false")
	door(0)
	e.until("board", "board up, door open true")
	e.say("watchdog")
	e.hear("fed")
	e.say("stop")
	for said := ""; said != "the page does not come"; { // kioskd's own words come in between
		said = e.hear("")
	}
	// Nobody feeds it, and QEMU ends, as the power would. It was told to bite after 5 s of
	// the guest's time.
	for limit, running := time.After(2*time.Minute), true; running; {
		select {
		case _, running = <-e.lines:
		case <-limit:
			t.Fatal("kioskd hung, nobody fed the watchdog, and the guest goes on")
		}
	}
}

// say gives the guest's first program an order.
func (e *computer) say(order string) {
	e.t.Helper()
	if _, err := fmt.Fprintln(e.stdin, order); err != nil {
		e.t.Fatalf("%s: %v", order, err)
	}
}

// hear waits for what the guest says; want is how it begins.
func (e *computer) hear(want string) string {
	e.t.Helper()
	limit := time.After(3 * time.Minute) // it starts in ten seconds if nothing else runs
	for {
		select {
		case line, running := <-e.lines:
			if !running {
				e.t.Fatalf("the guest ended; waited for %q", want)
			}
			e.t.Log(line)
			said, ok := strings.CutPrefix(line, "guest: ")
			if !ok {
				continue
			}
			if strings.HasPrefix(said, "failed") {
				e.t.Fatal(said)
			} else if strings.HasPrefix(said, want) {
				return said
			}
		case <-limit:
			e.t.Fatalf("the guest does not say %q", want)
		}
	}
}

// until asks again and again until the guest says what is wanted.
func (e *computer) until(order, want string) {
	e.t.Helper()
	got := ""
	for range 120 {
		e.say(order)
		if got = e.hear(""); got == want {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	e.t.Fatalf("%s: %q, want %q", order, got, want)
}

// initramfs is an archive of files, as the kernel unpacks it.
func initramfs(files map[string]string) ([]byte, error) {
	var b bytes.Buffer
	add := func(name string, mode int, data []byte) {
		pad := func() { b.Write(make([]byte, (4-b.Len()%4)%4)) }
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		pad()
		b.Write(data)
		pad()
	}
	for name, from := range files {
		data, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		add(name, 0o100755, data)
	}
	add("TRAILER!!!", 0, nil)
	return b.Bytes(), nil
}
