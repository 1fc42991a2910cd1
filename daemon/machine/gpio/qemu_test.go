package gpio_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"yaoju/daemon/machine"
	"yaoju/daemon/machine/gpio"
	"yaoju/daemon/machine/gpio/sim"
	"yaoju/protocol"
)

// guestFolder has what kernel.sh fetched.
const guestFolder = "../../../.build/guest"

// TestQEMU runs the driver on Debian's arm64 kernel with a PL061, its lines wired to
// a plant outside of the guest: so the levels are those of the pins, whatever becomes
// of the process that drove them.
func TestQEMU(t *testing.T) {
	e := boot(t)

	// A vend. A stall of this machine may cut it short, or have the curtain answer the
	// self-test too late, and both are told honestly.
	id := protocol.VendID(1)
	a := e.vend(id)
	for ; (a.Result.Cause == protocol.FaultInterrupted || a.Result.Cause == protocol.FaultDropSensor) && id < 9; id++ {
		t.Logf("vend %d met a stall: %+v", id, a.Result)
		e.order("driver home")
		a = e.vend(id + 1)
	}
	if a.Result.Outcome != protocol.Dispensed || a.Result.Pieces != 1 || e.plant.Fallen(1) < 1 {
		t.Fatalf("vend: %+v, %d pieces fell", a, e.plant.Fallen(1))
	}
	t.Logf("vend %d: %+v", id, a.Result)
	if e.on(guestMotor) || e.on(guestEmitter) || !e.on(guestLock) {
		t.Error("after the driver's end: want motor and emitter low, lock high")
	}

	// Killed in mid-turn. The guard drives the motor off.
	for turning := false; !turning && id < 20; id++ {
		e.send(fmt.Sprintf("kill driver vend %d", id+1))
		e.hear("stopped")
		if turning = e.on(guestMotor); !turning {
			t.Logf("vend %d was over before the driver was stopped", id+1)
			e.order("kill")
			e.order("driver home")
		}
	}
	at := time.Now()
	e.send("kill")
	e.await("motor off after the driver was killed", func() bool { return !e.on(guestMotor) })
	t.Logf("the driver was killed in mid-turn: the motor was off after %v", time.Since(at))
	e.hear("done")
	e.send(fmt.Sprintf("driver result %d", id))
	a = e.answer()
	if a.Result.Outcome != protocol.Unknown || a.Result.Cause != protocol.FaultInterrupted || a.Highest != id ||
		!slices.Contains(a.Faults, machine.Fault{Fault: protocol.FaultNotHome, Slot: 1}) {
		t.Errorf("after the crash: %+v, want unknown, interrupted, and NOT_HOME", a)
	}
	e.hear("done")

	// Stopped in mid-turn, and with the lock open, and not killed: a program that hangs. The
	// guard ends both, however long it hangs.
	e.order("driver home")
	for turning := false; !turning && id < 30; id++ {
		e.send(fmt.Sprintf("kill driver vend %d", id+1))
		e.hear("stopped")
		at = time.Now()
		if turning = e.on(guestMotor); !turning {
			e.order("kill")
			e.order("driver home")
		}
	}
	e.within(gpio.DefaultTurn+5*time.Second, "motor off while the driver hangs", func() bool { return !e.on(guestMotor) })
	t.Logf("the driver hung in mid-turn: the motor was off after %v", time.Since(at))
	e.order("kill")
	e.order("driver home")
	e.send("kill driver lock")
	e.hear("stopped")
	at = time.Now()
	if e.on(guestLock) {
		t.Error("the lock was to be open")
	}
	e.within(15*time.Second, "lock shut while the driver hangs", func() bool { return e.on(guestLock) })
	t.Logf("the driver hung with the lock open: it was shut after %v", time.Since(at))
	e.order("kill")

	// The same without a guard: this chip goes on driving.
	e.send("kill hang")
	e.hear("stopped")
	e.order("kill")
	time.Sleep(time.Second) // nobody is there to do anything any more
	if !e.on(guestMotor) {
		t.Error("a PL061 let go of the line of a dead process: the package text says that it does not")
	}
	e.order("driver home") // takes the line over, off, and makes the plant whole

	// What the package text says of periph.
	before := e.count(guestLock) // high: the lock is off, and the PL061 keeps it so
	e.order("glitch")
	if got := e.count(guestLock) - before; got != 2 {
		t.Errorf("periph took a line that was high, to drive it high: %d changes, want low and high again", got)
	}
	before = e.count(guestLock)
	e.order("driver home")
	if got := e.count(guestLock) - before; got != 0 {
		t.Errorf("the driver took a line that was high and active low: %d changes, want none", got)
	}
	e.drive = false
	e.set(guestHome, false)
	e.send("edge")
	if got, want := e.hear("wait for ever"), "wait for ever: false after 0s"; got != want {
		t.Errorf("periph: %q, want %q", got, want)
	}
	e.hear("listening")
	e.set(guestHome, true)
	if got, want := e.hear("edge"), "edge: true, level High"; got != want {
		t.Errorf("periph: %q, want %q", got, want)
	}
	e.hear("done")
	e.order("stdin")

	// A barcode scanner that types: nothing of it reaches the screen.
	e.send("keyboard")
	e.hear("grabbed")
	if got := e.hear("unplugged"); !strings.Contains(got, "no such device") {
		t.Errorf("a scanner that was unplugged: %q", got)
	}
	e.hear("done")

	e.send("watchdog")
	e.hear("petted")
	if err := e.starved(20 * time.Second); err != nil {
		t.Errorf("the watchdog starved, and the guest went on: %v", err)
	}
}

// emulator is QEMU with the guest in it.
type emulator struct {
	t     *testing.T
	plant *sim.Plant
	stdin io.Writer
	lines chan string // what the guest says
	qmp   *json.Decoder
	conn  net.Conn // of qmp

	mu              sync.Mutex
	qtest           *bufio.ReadWriter // guarded by mu
	device          string
	levels          map[int]bool // guarded by mu, as is all that follows: outputs as last told
	changes         map[int]int  // of each output
	asked, answered int          // orders to the pins
	inputs          map[int]bool
	drive           bool // the plant has the inputs
}

// boot starts the guest, with its pins on a plant.
func boot(t *testing.T) *emulator {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(guestFolder, "vmlinuz")
	if _, err := os.Stat(image); err != nil {
		t.Fatalf("no kernel for the guest: %v: run daemon/machine/gpio/kernel.sh .build/guest", err)
	}
	archive := filepath.Join(dir, "initramfs")
	if err := os.WriteFile(archive, initramfs(t, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &emulator{t: t, lines: make(chan string, 256), drive: true,
		levels: map[int]bool{}, changes: map[int]int{}, inputs: map[int]bool{}}
	e.plant = sim.New(sim.Options{Config: guestConfig(), Pieces: 20, Turn: 2 * time.Second, Shadow: 60 * time.Millisecond})

	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", "384M",
		"-accel", "tcg,thread=multi", "-kernel", image, "-initrd", archive, "-append", "console=ttyAMA0 quiet panic=-1 -- guest",
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-device", "i6300esb", "-action", "watchdog=poweroff",
		"-S", "-qtest", "unix:"+filepath.Join(dir, "qtest"), "-qtest-log", "none", "-qmp", "unix:"+filepath.Join(dir, "qmp")+",server=on,wait=off")
	listener, err := net.Listen("unix", filepath.Join(dir, "qtest"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: make tools installs it", err)
	}
	e.stdin = stdin
	var readers sync.WaitGroup
	t.Cleanup(func() { cancel(); readers.Wait() })
	readers.Go(func() {
		e.listen(ctx, stdout)
		if err := cmd.Wait(); err != nil && ctx.Err() == nil {
			t.Errorf("qemu: %v", err)
		}
	})
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	e.connect(conn, filepath.Join(dir, "qmp"))
	readers.Go(func() { e.follow(conn) })
	readers.Go(func() { e.play(ctx) })
	began := time.Now()
	e.hear("up")
	t.Logf("the guest was up after %v", time.Since(began).Round(10*time.Millisecond))
	return e
}

// initramfs is this test binary for arm64, and a kernel module.
func initramfs(t *testing.T, dir string) []byte {
	t.Helper()
	program := filepath.Join(dir, "init")
	build := exec.Command("go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "GOARCH=arm64", "GOOS=linux", "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v\n%s", err, out)
	}
	var b bytes.Buffer
	add := func(name string, mode int, data []byte) {
		pad := func() { b.Write(make([]byte, (4-b.Len()%4)%4)) }
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		pad()
		b.Write(data)
		pad()
	}
	files := map[string]string{"init": program}
	for _, module := range []string{"i6300esb.ko", "evdev.ko", "uinput.ko"} {
		files[module] = filepath.Join(guestFolder, module)
	}
	for name, from := range files {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		add(name, 0o100755, data)
	}
	add("TRAILER!!!", 0, nil)
	return b.Bytes()
}

// listen passes on what the guest says.
func (e *emulator) listen(ctx context.Context, r io.Reader) {
	defer close(e.lines)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		text := strings.TrimSpace(lines.Text())
		said, ok := strings.CutPrefix(text, "guest: ")
		if !ok {
			e.t.Logf("console: %s", text)
			continue
		}
		select {
		case e.lines <- said:
		case <-ctx.Done():
		}
	}
}

// connect finds the PL061, asks to be told of its outputs and lets the guest start.
func (e *emulator) connect(conn net.Conn, qmp string) {
	e.t.Helper()
	e.qtest = bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
	c, err := net.Dial("unix", qmp)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { c.Close() })
	e.conn, e.qmp = c, json.NewDecoder(c)
	ask := func(command string) json.RawMessage {
		var a struct{ Return json.RawMessage }
		if _, err := io.WriteString(c, command); err != nil {
			e.t.Fatal(err)
		}
		for a.Return == nil {
			if err := e.qmp.Decode(&a); err != nil {
				e.t.Fatalf("qmp %s: %v", command, err)
			}
		}
		return a.Return
	}
	ask(`{"execute":"qmp_capabilities"}`)
	var children []struct{ Name, Type string }
	if err := json.Unmarshal(ask(`{"execute":"qom-list","arguments":{"path":"/machine/unattached"}}`), &children); err != nil {
		e.t.Fatal(err)
	}
	for _, child := range children {
		if child.Type == "child<pl061>" {
			e.device = "/machine/unattached/" + child.Name
		}
	}
	e.mu.Lock()
	e.write("irq_intercept_out " + e.device)
	e.mu.Unlock()
	ask(`{"execute":"cont"}`)
}

// write sends one order to the pins. The caller has mu.
func (e *emulator) write(order string) {
	e.asked++
	fmt.Fprintln(e.qtest, order)
	if err := e.qtest.Flush(); err != nil && !strings.Contains(err.Error(), "broken pipe") { // QEMU has ended
		e.t.Errorf("qtest: %v", err)
	}
}

// follow tells the plant what the guest drives.
func (e *emulator) follow(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		var what string
		var pin int
		if n, _ := fmt.Sscanf(lines.Text(), "IRQ %s %d", &what, &pin); n != 2 {
			if !strings.HasPrefix(lines.Text(), "OK") {
				e.t.Errorf("qtest: %s", lines.Text())
			}
			e.mu.Lock()
			e.answered++
			e.mu.Unlock()
			continue
		}
		e.mu.Lock()
		e.levels[pin] = what == "raise"
		e.changes[pin]++
		e.mu.Unlock()
		e.plant.Drive(fmt.Sprintf("%s:%d", pl061, pin), what == "raise")
	}
}

// play gives the guest's inputs the levels that the plant makes.
func (e *emulator) play(ctx context.Context) {
	for {
		at, stale := e.plant.Next()
		for _, pin := range []int{guestHome, guestDoor, guestCurtain} {
			high := e.plant.Level(fmt.Sprintf("%s:%d", pl061, pin))
			e.mu.Lock()
			if e.drive {
				e.input(pin, high)
			}
			e.mu.Unlock()
		}
		var due <-chan time.Time
		if !at.IsZero() {
			due = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return
		case <-stale:
		case <-due:
		}
	}
}

// input sets an input, if it is not so already. The caller has mu.
func (e *emulator) input(pin int, high bool) {
	if was, told := e.inputs[pin]; told && was == high {
		return
	}
	e.inputs[pin] = high
	level := 0
	if high {
		level = 1
	}
	e.write(fmt.Sprintf("set_irq_in %s unnamed-gpio-in %d %d", e.device, pin, level))
}

// set gives an input a level by hand.
func (e *emulator) set(pin int, high bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.input(pin, high)
}

// sync waits until all that the guest's pins did by now has been told: changes and
// answers come on one line.
func (e *emulator) sync() {
	e.t.Helper()
	e.mu.Lock()
	e.write(fmt.Sprintf("set_irq_in %s unnamed-gpio-in %d 0", e.device, guestLight)) // an output: nothing happens
	e.mu.Unlock()
	e.await("the answer of the pins", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.answered == e.asked
	})
}

// on reports that an output is high.
func (e *emulator) on(pin int) bool {
	e.t.Helper()
	e.sync()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.levels[pin]
}

// count returns how often an output has changed.
func (e *emulator) count(pin int) int {
	e.t.Helper()
	e.sync()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changes[pin]
}

// send gives the guest an order, and order waits until it is done.
func (e *emulator) send(order string) {
	e.t.Helper()
	if _, err := io.WriteString(e.stdin, order+"\n"); err != nil {
		e.t.Fatalf("%s: %v", order, err)
	}
}

func (e *emulator) order(order string) {
	e.t.Helper()
	e.send(order)
	e.hear("done")
}

// hear waits for something the guest says, and returns it.
func (e *emulator) hear(what string) string {
	e.t.Helper()
	limit := time.After(90 * time.Second)
	for {
		select {
		case said, ok := <-e.lines:
			switch {
			case !ok:
				e.t.Fatalf("the guest ended before %q", what)
			case strings.HasPrefix(said, what):
				return said
			case strings.HasPrefix(said, "failed"):
				e.t.Fatalf("waited for %q: %s", what, said)
			}
		case <-limit:
			e.t.Fatalf("the guest did not say %q", what)
		}
	}
}

// answer waits for what a driver says.
func (e *emulator) answer() (a answer) {
	e.t.Helper()
	text := strings.TrimPrefix(e.hear("answer"), "answer ")
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		e.t.Fatal(err)
	}
	return a
}

func (e *emulator) vend(id protocol.VendID) answer {
	e.t.Helper()
	e.send(fmt.Sprintf("driver vend %d", id))
	a := e.answer()
	e.hear("done")
	return a
}

// await waits until something is so; five seconds is longer than any scheduler.
func (e *emulator) await(what string, is func() bool) {
	e.t.Helper()
	e.within(5*time.Second, what, is)
}

func (e *emulator) within(long time.Duration, what string, is func() bool) {
	e.t.Helper()
	for until := time.Now().Add(long); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			e.t.Fatalf("not so: %s", what)
		}
	}
}

// starved waits until QEMU says that its watchdog was not petted in time.
func (e *emulator) starved(long time.Duration) error {
	if err := e.conn.SetReadDeadline(time.Now().Add(long)); err != nil {
		return err
	}
	for {
		var m struct{ Event string }
		if err := e.qmp.Decode(&m); err != nil {
			return err
		}
		if m.Event == "WATCHDOG" {
			return nil
		}
	}
}
