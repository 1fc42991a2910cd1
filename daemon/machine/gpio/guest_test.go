package gpio_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	periph "periph.io/x/conn/v3/gpio"
	"periph.io/x/host/v3/gpioioctl"

	"yaoju/daemon/machine"
	"yaoju/daemon/machine/gpio"
	"yaoju/protocol"
)

// This test binary, built for arm64, is also all there is in the guest of TestQEMU:
// its first program, the driver it starts, and the driver's guard.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case gpio.GuardWord:
			os.Exit(gpio.Guard(os.Args[2:]))
		case "guest":
			guest()
		case "driver":
			os.Exit(driver(os.Args[2:]))
		case "hang":
			os.Exit(hang())
		}
	}
	os.Exit(m.Run())
}

// pl061 is the chip of QEMU's virt machine. Its line 3 is the power button.
const pl061 = "9030000.pl061"

// guestConfig is a machine of one motor. Its lock is active low, so a line that is
// low for a moment is seen.
func guestConfig() gpio.Config {
	line := func(n int) gpio.Line { return gpio.Line(fmt.Sprintf("%s:%d", pl061, n)) }
	return gpio.Config{
		Motors:  []gpio.Motor{{Slot: 1, Line: line(guestMotor), Home: line(guestHome)}},
		Lock:    "!" + line(guestLock),
		Door:    line(guestDoor),
		Curtain: line(guestCurtain),
		Emitter: line(guestEmitter),
		Light:   line(guestLight),
	}
}

// Lines of the guest's machine.
const (
	guestMotor   = 0
	guestLock    = 1
	guestHome    = 2
	guestDoor    = 4
	guestCurtain = 5
	guestEmitter = 6
	guestLight   = 7
)

// say tells the host something; what is told by other programs has no such mark.
func say(format string, args ...any) { fmt.Printf("guest: "+format+"\n", args...) }

// die ends the guest, with a word why.
func die(what string, err error) {
	if err == nil {
		return
	}
	say("failed: %s: %v", what, err)
	syscall.Sync()
	if err := syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		say("power off: %v", err)
	}
	time.Sleep(time.Minute) // the power goes before that
}

// guest is process 1.
func guest() {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		die("make "+m[1], os.MkdirAll(m[1], 0o755))
		die("mount "+m[1], syscall.Mount(m[0], m[1], m[0], 0, ""))
	}
	say("up")
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		word := strings.Fields(orders.Text())
		if len(word) == 0 {
			continue
		}
		switch word[0] {
		case "driver":
			run(word)
		case "kill":
			killed(word[1:], orders)
		case "glitch":
			glitch()
		case "edge":
			edge()
		case "stdin":
			secondName()
		case "keyboard":
			keyboard()
		case "watchdog":
			watchdog()
		}
		say("done")
	}
	die("read orders", io.ErrUnexpectedEOF)
}

// run has a program of this binary do something to its end.
func run(args []string) {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	die("run "+strings.Join(args, " "), cmd.Run())
}

// killed starts a program, stops it as soon as it says that the motor turns, so that it
// does nothing more itself, and kills it at the next order.
func killed(args []string, orders *bufio.Scanner) {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	die("pipe", err)
	die("start", cmd.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		fmt.Println(lines.Text())
		if strings.Contains(lines.Text(), "turning") {
			break
		}
	}
	die("stop", cmd.Process.Signal(syscall.SIGSTOP))
	say("stopped")
	orders.Scan()
	die("kill", cmd.Process.Kill())
	say("killed: %v", cmd.Wait()) // one that was over before it was stopped, on a busy machine, has ended well
}

// answer is what a driver says of a vend.
type answer struct {
	Result  protocol.Result
	Faults  []machine.Fault
	Highest protocol.VendID
}

// driver runs the machine for one thing: "vend ID", "result ID", "home", "lock" or "stdin".
func driver(args []string) int {
	m, err := gpio.New(guestConfig(), gpio.Kernel{Guard: []string{"/proc/self/exe"}}, gpio.File{Path: "/memory"},
		slog.New(slog.NewTextHandler(os.Stdout, nil)))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if args[0] == "stdin" {
		if _, err := unix.FcntlInt(0, unix.F_GETFD, 0); err != nil {
			fmt.Println("standard input:", err)
			return 1
		}
		return 0
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	err = task(ctx, m, args)
	stop()
	if err := <-done; err != nil {
		say("run: %v", err)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// task does what a driver was started for.
func task(ctx context.Context, m *gpio.Machine, args []string) error {
	var s machine.Status
	for !s.Up {
		var stale <-chan struct{}
		if s, stale = m.Watch(); s.Up {
			break
		}
		select {
		case <-stale:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	switch args[0] {
	case "home":
		return home(ctx, m)
	case "lock":
		err := m.Lock(ctx, 10*time.Second)
		say("turning")
		<-ctx.Done() // stopped and killed before that
		return err
	}
	go func() { // tell when the motor turns
		for s.Motion.Percent < 15 {
			var stale <-chan struct{}
			s, stale = m.Watch()
			select {
			case <-stale:
			case <-ctx.Done():
				return
			}
		}
		say("turning")
	}()
	var id protocol.VendID
	if _, err := fmt.Sscan(args[1], &id); err != nil {
		return err
	}
	var a answer
	var err error
	switch args[0] {
	case "vend":
		a.Result, err = m.Vend(ctx, id, 1)
	case "result":
		a.Result, err = m.Result(ctx, id)
	}
	if err != nil {
		return err
	}
	now, _ := m.Watch()
	a.Faults, a.Highest = now.Faults, now.Hello.Highest
	text, err := json.Marshal(a)
	say("answer %s", text)
	return err
}

// home brings the spiral home. Where the host stalls, the driver stops, and is told again.
func home(ctx context.Context, m *gpio.Machine) (err error) {
	for range 5 {
		err = m.Home(ctx, 1)
		if refused := (*machine.RefusedError)(nil); !errors.As(err, &refused) || refused.Fault != protocol.FaultInterrupted {
			return err
		}
	}
	return err
}

// line finds a line as periph has it.
func line(n int) *gpioioctl.GPIOLine {
	for _, chip := range gpioioctl.Chips {
		if chip.Label() == pl061 {
			return chip.ByNumber(n)
		}
	}
	die("periph", fmt.Errorf("no chip %s", pl061))
	return nil
}

// found has periph look for the chips, by way of the driver.
func found() {
	names, err := gpio.Kernel{}.Names()
	die("names", err)
	say("%d lines", len(names))
}

// hang drives the motor without a guard, as any program would, and waits to be killed.
func hang() int {
	found()
	die("drive", line(guestMotor).Out(periph.High))
	say("turning")
	time.Sleep(time.Minute)
	return 1
}

// glitch takes a line that stands high, to drive it high.
func glitch() {
	found()
	l := line(guestLock)
	die("drive", l.Out(periph.High))
	l.Close()
}

// edge waits for an edge on the home line, and shows what periph makes of "for ever".
func edge() {
	found()
	l := line(guestHome)
	die("listen", l.In(periph.PullDown, periph.BothEdges))
	began := time.Now()
	got := l.WaitForEdge(-1)
	say("wait for ever: %v after %v", got, time.Since(began).Round(100*time.Millisecond))
	say("listening")
	say("edge: %v, level %v", l.WaitForEdge(10*time.Second), l.Read())
	l.Close()
}

// secondName gives the chip a second name, as a Pi 5 has it, and looks whether a
// driver still has its standard input.
func secondName() {
	die("link", os.Symlink("gpiochip0", "/dev/gpiochip9"))
	run([]string{"driver", "stdin"})
	die("unlink", os.Remove("/dev/gpiochip9"))
}

func loadModule(name string) {
	module, err := os.Open("/" + name + ".ko")
	die("open module "+name, err)
	die("load module "+name, unix.FinitModule(int(module.Fd()), "", 0))
	die("close module "+name, module.Close())
}

// watchdog opens the watchdog, pets it past its time, and then lets it starve.
func watchdog() {
	loadModule("i6300esb")
	dog, err := os.OpenFile("/dev/watchdog", os.O_WRONLY, 0)
	die("open watchdog", err)
	const setTimeout = 0xc0045706 // WDIOC_SETTIMEOUT
	seconds := int32(2)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dog.Fd(), setTimeout, uintptr(unsafe.Pointer(&seconds))); errno != 0 {
		die("set the watchdog's time", errno)
	}
	for range 8 {
		_, err := dog.Write([]byte{0})
		die("pet", err)
		time.Sleep(500 * time.Millisecond)
	}
	say("petted for 4s with a limit of %ds", seconds)
	time.Sleep(time.Minute)
}
