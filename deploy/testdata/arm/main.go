// Command arm is all there is in the arm64 guest beside kioskd: its first program. It
// starts kioskd as a user with no rights, does what the host asks on the console, and
// says what it sees.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"yaoju/daemon/status"
)

// The user kioskd runs as, and the group whose the GPIO chips are, as the package
// makes them.
const (
	user  = 990
	group = 997
)

func say(format string, args ...any) { fmt.Printf("guest: "+format+"\n", args...) }

// must ends the guest, with a word why.
func must(what string, err error) {
	if err == nil {
		return
	}
	say("failed: %s: %v", what, err)
	if err := syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		say("power off: %v", err)
	}
	time.Sleep(time.Minute) // the power goes before that
}

func main() {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/data"}} {
		must("make "+m[1], os.MkdirAll(m[1], 0o755))
		must("mount "+m[1], syscall.Mount(m[0], m[1], m[0], 0, ""))
	}
	must("loopback", loopback())
	chips, err := filepath.Glob("/dev/gpiochip*")
	must("chips", err)
	for _, chip := range chips {
		must("chip", os.Chown(chip, 0, group))
		must("chip", os.Chmod(chip, 0o660))
	}
	for _, folder := range []string{"/data", "/run"} {
		must(folder, os.Chown(folder, user, user))
	}
	kioskd := exec.Command("/kioskd", "-config", "/kioskd.toml")
	kioskd.Stdout, kioskd.Stderr = os.Stdout, os.Stderr
	kioskd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user, Groups: []uint32{group}}}
	must("start kioskd", kioskd.Start())
	say("up")
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		switch strings.TrimSpace(orders.Text()) {
		case "board":
			say("%s", board())
		case "stop":
			must("stop kioskd", kioskd.Process.Signal(syscall.SIGSTOP))
			say("stopped")
		case "watchdog":
			must("watchdog", watchdog())
		}
	}
}

func loopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
}

// board is what kioskd says of its board: whether it is there, and the door.
func board() string {
	c, err := net.DialTimeout("unix", "/run/kioskd.sock", time.Second)
	if err != nil {
		return "kioskd does not tell yet"
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err.Error()
	}
	var d status.Document
	if err := json.NewDecoder(c).Decode(&d); err != nil {
		return err.Error()
	}
	for _, p := range d.Parts {
		if p.Part == status.PartBoard {
			return fmt.Sprintf("board %s, door open %v", p.State, d.Board.DoorOpen)
		}
	}
	return "no board"
}

// answers says whether kioskd's page comes.
func answers() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:8080/", http.NoBody)
	if err != nil {
		return false
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	defer a.Body.Close()
	_, err = io.Copy(io.Discard, a.Body)
	return err == nil && a.StatusCode == http.StatusOK
}

// watchdog feeds the watchdog for as long as kioskd's page comes, as systemd does for
// as long as it is alive itself. It is told to bite after five seconds.
func watchdog() error {
	module, err := os.Open("/i6300esb.ko")
	if err != nil {
		return err
	}
	defer module.Close()
	if err := unix.FinitModule(int(module.Fd()), "heartbeat=5", 0); err != nil {
		return err
	}
	dog, err := os.OpenFile("/dev/watchdog", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	go func() {
		for fed := 0; answers(); time.Sleep(time.Second) {
			if _, err := dog.Write([]byte{1}); err != nil {
				say("watchdog: %v", err)
			}
			if fed++; fed == 8 { // longer than it would have waited
				say("fed")
			}
		}
		say("the page does not come")
	}()
	return nil
}
