package deploy

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	reader "yaoju/daemon/card/sim"
	board "yaoju/daemon/machine/sim"
)

// Configurations of the guest: no hardware is there, and a district on loopback.
const (
	guestKiosk = `machine = "m-0001"
data = "/var/lib/yaoju"
[board]
path = "/dev/yaoju/usb-1-1"
[reader]
path = "/dev/yaoju/usb-1-2"
[district]
broker = "tcp://127.0.0.1:1883"
tls = "off"
keys = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
`
	guestDistrict = `data = "/var/lib/yaoju-district"
accept_unknown = true
name = {zh = "（示例）", en = "(sample)"}
[mqtt]
listen = "127.0.0.1:1883"
tls = "off"
`
	// The guest's time is dear: watchdogs that bite sooner.
	guestSooner = `[Service]
WatchdogSec=6s
RestartSec=100ms
`
	// No screen: cage draws to memory.
	guestScreen = `[Service]
WatchdogSec=20s
Environment=WLR_BACKENDS=headless WLR_RENDERER=pixman WLR_LIBINPUT_NO_DEVICES=1
`
	// A browser that tells kioskd that its page has drawn, until it crashes.
	guestBrowser = `#!/bin/sh
while :; do
	[ -e /run/page-crashes ] || curl -s -o /dev/null -X POST http://127.0.0.1:8080/beat
	sleep 1
done
`
	guestUnit = `[Unit]
Description=what happens in the guest
[Service]
Environment=RESTARTS=%d
ExecStart=/bin/sh /guest.sh
[Install]
WantedBy=multi-user.target
`
	// As yaoju-setup makes it on a card with a partition for the data.
	guestTable = `/dev/vda / ext4 ro,noatime 0 0
LABEL=yaoju-data /data ext4 noatime,nodev,nosuid,noexec,errors=remount-ro,data=ordered,commit=5,nofail,x-systemd.device-timeout=30s,x-systemd.before=local-fs.target 0 2
/data/yaoju /var/lib/yaoju none bind,x-systemd.requires-mounts-for=/data,nofail,x-systemd.device-timeout=30s,x-systemd.before=local-fs.target 0 0
/data/versions /opt/yaoju none bind,nodev,nosuid,exec,x-systemd.requires-mounts-for=/data,nofail,x-systemd.device-timeout=30s,x-systemd.before=local-fs.target 0 0
/data/yaoju-district /var/lib/yaoju-district none bind,x-systemd.requires-mounts-for=/data,nofail,x-systemd.device-timeout=30s,x-systemd.before=local-fs.target 0 0
tmpfs /tmp tmpfs nodev,nosuid,mode=1777,size=128M 0 0
tmpfs /var/tmp tmpfs nodev,nosuid,mode=1777,size=256M 0 0
tmpfs /var/log tmpfs nodev,nosuid,noexec,mode=755,size=16M 0 0
`
)

// restarts is how often kioskd is restarted under a real systemd, and guestRestarts
// how often in the guest, whose processor is slow.
var restarts = flag.Int("restarts", 100, "restarts of kioskd")

const guestRestarts = 5

// guestLimit bounds the guest's whole life, in emulation on two busy cores.
const guestLimit = 20 * time.Minute

// guest runs the units under a real systemd: started, killed, hung, restarted,
// with a root that is only read, without room, with devices that come and go.
func guest(t *testing.T, d debian) {
	script, err := os.ReadFile("testdata/guest.sh")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"/guest.sh": string(script), "/etc/systemd/system/guest.service": fmt.Sprintf(guestUnit, guestRestarts),
		"/etc/yaoju/kioskd.toml": guestKiosk, "/etc/yaoju/districtd.toml": guestDistrict,
		"/etc/systemd/system/kioskd.service.d/sooner.conf":       guestSooner,
		"/etc/systemd/system/districtd.service.d/sooner.conf":    guestSooner,
		"/etc/systemd/system/yaoju-screen.service.d/screen.conf": guestScreen,
		"/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
		"/etc/hostname":   "m-0001\n",
		"/etc/fstab":      guestTable,
	} {
		d.put(name, text, 0o644)
	}
	d.put("/usr/bin/chromium", guestBrowser, 0o755)
	d.do("systemctl enable guest.service yaoju-firewall.service; systemctl disable chrony mosquitto; mkdir -p /data /var/lib/yaoju /var/lib/yaoju-district")
	e := d.boot()
	devices := map[string]func(context.Context, net.Conn) error{
		"board": func(ctx context.Context, c net.Conn) error {
			return board.New(board.Options{Serial: 0xA17E, Build: 1}).Serve(ctx, c)
		},
		"reader": func(ctx context.Context, c net.Conn) error { return reader.New(reader.ReadTakes).Serve(ctx, c) },
	}
	for name, serve := range devices {
		e.wire(name, serve)
	}

	var facts []string
	for line := range e.lines {
		fact, said := strings.CutPrefix(line, "guest: ")
		if !said {
			t.Log(line)
			continue
		}
		var device string
		var socket int
		if n, _ := fmt.Sscanf(fact, "plug %s into %d", &device, &socket); n == 2 {
			e.order("device_add", fmt.Sprintf(`{"driver":"usb-serial","id":%q,"chardev":%q,"bus":"xhci.0","port":"%d"}`, device, device, socket))
		} else if device, ok := strings.CutPrefix(fact, "unplug "); ok {
			e.order("device_del", fmt.Sprintf(`{"id":%q}`, device))
		} else if fact == "plug keyboard" {
			e.order("device_add", `{"driver":"usb-kbd","id":"keyboard","bus":"xhci.0"}`)
		} else {
			t.Log("fact: " + fact)
			facts = append(facts, fact)
		}
	}
	want, err := os.ReadFile("testdata/guest.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(facts, "\n") + "\n"; got != string(want) {
		t.Errorf("the guest said\n%s\nwant\n%s", got, want)
	}
}

// computer is QEMU with the guest in it.
type computer struct {
	t     *testing.T
	lines chan string // what its console prints; closed when it is switched off
	dir   string      // of its sockets
	stdin io.Writer   // of its console
	conn  net.Conn    // of qmp
	qmp   *json.Decoder
}

// boot makes disks of the tree and starts a computer with them.
func (d debian) boot() *computer {
	t := d.t
	t.Helper()
	dir := scratch(t)
	init, err := filepath.Abs("testdata/init.sh")
	if err != nil {
		t.Fatal(err)
	}
	root(t, "sh", "-ec", `cd "$2"
cp "$1/boot/vmlinuz" kernel
mkdir -p init/bin init/modules data
cp -a "$1/var/lib/yaoju" "$1/var/lib/yaoju-district" data/
cp -a "$1/opt/yaoju" data/versions
cp "$1/usr/bin/busybox" init/bin/
cp "$3" init/init && chmod 755 init/init
for m in $(chroot "$1" sh -c 'for m in virtio_pci virtio_blk crc32c_generic ext4; do modprobe --show-depends -S "$(ls /lib/modules)" $m; done' | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'); do
	cp "$1$m" init/modules/
	basename "$m" >> init/modules/order
done
(cd init && find . | "$1/usr/bin/busybox" cpio -o -H newc 2>/dev/null) > initrd
mke2fs -q -t ext4 -O ^has_journal -d "$1" root.img 900M
mke2fs -q -t ext4 -L yaoju-data -d data data.img 48M
chown -R "$4" .`, "sh", d.dir, dir, init, userGroup())

	return launch(t, dir, "qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-smp", "2", "-m", "768M", "-accel", "tcg,thread=multi",
		"-kernel", dir+"/kernel", "-initrd", dir+"/initrd",
		"-append", "console=ttyS0 quiet panic=-1 usbcore.authorized_default=0 systemd.show_status=no systemd.getty_auto=no",
		"-drive", "if=virtio,format=raw,snapshot=on,file="+dir+"/root.img",
		"-drive", "if=virtio,format=raw,cache=unsafe,file="+dir+"/data.img",
		"-device", "qemu-xhci,id=xhci",
		"-chardev", "socket,id=board,path="+dir+"/board,server=on,wait=off", "-chardev", "socket,id=reader,path="+dir+"/reader,server=on,wait=off")
}

// launch starts QEMU, whose sockets are in dir.
func launch(t *testing.T, dir, program string, args ...string) *computer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), guestLimit)
	cmd := exec.CommandContext(ctx, program, append(args, "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-qmp", "unix:"+dir+"/qmp,server=on,wait=off")...)
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
	e := &computer{t: t, dir: dir, stdin: stdin, lines: make(chan string, 64)}
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(e.lines)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			select {
			case e.lines <- strings.TrimSpace(lines.Text()):
			case <-ctx.Done():
			}
		}
		if err := cmd.Wait(); err != nil && ctx.Err() == nil {
			t.Errorf("qemu: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); reading.Wait() })
	e.conn = e.dial("qmp")
	t.Cleanup(func() { e.conn.Close() })
	e.qmp = json.NewDecoder(e.conn)
	e.order("qmp_capabilities", "{}")
	return e
}

// dial reaches one of QEMU's sockets, which it makes before it starts the guest.
func (e *computer) dial(name string) net.Conn {
	e.t.Helper()
	for {
		c, err := net.Dial("unix", filepath.Join(e.dir, name))
		if err == nil {
			return c
		}
		if e.t.Context().Err() != nil {
			e.t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// wire has a device serve on the line of that name until the test ends; whether the
// line is plugged into the guest is another matter.
func (e *computer) wire(name string, serve func(context.Context, net.Conn) error) {
	c := e.dial(name)
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := serve(ctx, c); err != nil && ctx.Err() == nil {
			e.t.Logf("%s: %v", name, err) // QEMU has ended
		}
	})
	e.t.Cleanup(func() { cancel(); c.Close(); serving.Wait() })
}

// order has QEMU do something, and returns its answer.
func (e *computer) order(what, arguments string) json.RawMessage {
	e.t.Helper()
	if _, err := io.WriteString(e.conn, `{"execute":"`+what+`","arguments":`+arguments+`}`); err != nil {
		e.t.Fatalf("qmp %s: %v", what, err)
	}
	for {
		var answer struct{ Return, Error json.RawMessage }
		if err := e.qmp.Decode(&answer); err != nil {
			e.t.Fatalf("qmp %s: %v", what, err)
		}
		if answer.Error != nil {
			e.t.Fatalf("qmp %s: %s", what, answer.Error)
		}
		if answer.Return != nil {
			return answer.Return
		}
	}
}
