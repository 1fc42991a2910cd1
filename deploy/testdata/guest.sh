#!/bin/sh
# What happens in the guest: everything a site does to the units, and some of what it
# should not. Each line it says is either a fact, which the test compares, or a wish to
# the host ("plug", "unplug"). Facts hold nothing that differs from run to run.
exec > /dev/console 2>&1
set -u
say() { echo "guest: $*"; }
note() { echo "note: $(cut -d. -f1 /proc/uptime)s $*"; }

now() { cut -d. -f1 /proc/uptime; }
# until_ SECONDS COMMAND...: waits until the command succeeds; what takes longer is told.
until_() {
	end=$(($(now) + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		if [ "$(now)" -ge $end ]; then
			note "not so in time: $*"
			journalctl -b --no-pager -o short-monotonic | tail -n 25 | sed 's/^/journal: /'
			return 1
		fi
		sleep 0.2
	done
}
up() { [ "$(systemctl show -p ActiveState --value "$1")" = active ]; }
pid() { systemctl show -p MainPID --value "$1"; }
# other UNIT PID: whether the unit runs as another process; another: and is ready.
other() { p=$(pid "$1") && [ "$p" != 0 ] && [ "$p" != "$2" ]; }
another() { up "$1" && other "$1" "$2"; }
# yes WORDS COMMAND...: says whether the command succeeds.
yes() {
	what=$1
	shift
	if "$@" >/dev/null 2>&1; then say "$what: yes"; else say "$what: no"; fi
}
# from_here forgets what was logged so far; logged UNIT PATTERN looks at what came since.
from_here() { journalctl -b -n 0 --no-pager --show-cursor | sed -n 's/^-- cursor: //p' > /run/here; }
logged() { journalctl --after-cursor="$(cat /run/here)" --no-pager -o cat -u "$1" | grep -Eq "$2"; }
# hears UNIT WORDS PATTERN: waits for a line and says whether it came.
hears() {
	until_ 60 logged "$1" "$3"
	yes "$2" logged "$1" "$3"
}
answers() { curl -fsS --max-time 5 -o /dev/null "$1"; }
# ledgers counts them: one that was damaged would lie beside a new one.
ledgers() { ls /var/lib/yaoju | grep -c 'ledger.*\.db$'; }

until_ 90 up kioskd
until_ 90 up districtd
note up
up kioskd && up districtd || journalctl -b --no-pager -o cat -u kioskd -u districtd | head -n 60 | sed 's/^/journal: /'
yes "kioskd is up" up kioskd
yes "districtd is up" up districtd
yes "the screen's page answers" answers http://127.0.0.1:8080/
yes "the packet filter drops what nobody asked for" sh -c "nft list chain inet yaoju input | grep -q 'policy drop'"
yes "the root can be written" touch /written
yes "the log is in memory only" sh -c '[ -d /run/log/journal ] && ! [ -d /var/log/journal ]'
say "kioskd runs as $(stat -c %U /proc/"$(pid kioskd)"), districtd as $(stat -c %U /proc/"$(pid districtd)")"
say "kioskd's groups $(sed -n 's/^Groups:\t//p' /proc/"$(pid kioskd)"/status | tr ' ' '\n' | while read -r g; do getent group "$g" | cut -d: -f1; done | sort | tr '\n' ' ')"
say "kioskd's capabilities $(sed -n 's/^CapEff:\t//p' /proc/"$(pid kioskd)"/status), no new privileges $(sed -n 's/^NoNewPrivs:\t//p' /proc/"$(pid kioskd)"/status)"
say "open ports: $(ss -Hltnu | awk '{ print $5 }' | sort | tr '\n' ' ')"
say "core limit $(sed -n 's/^Max core file size *\([0-9]*\) .*/\1/p' /proc/"$(pid kioskd)"/limits)"
say "the data's folder $(stat -c '%U %a' /var/lib/yaoju), that of versions $(stat -c '%U %a' /opt/yaoju), that of the socket $(stat -c '%U %a' /run/yaoju)"
yes "a version can be run where versions lie" sh -c 'cp /bin/true /opt/yaoju/try && /opt/yaoju/try; e=$?; rm -f /opt/yaoju/try; exit $e'
yes "a program can be run where data lies" sh -c 'cp /bin/true /var/lib/yaoju/try && /var/lib/yaoju/try; e=$?; rm -f /var/lib/yaoju/try; exit $e'
from_here

# The board and the reader are plugged in under a running kioskd.
echo "guest: plug board into 1"
hears kioskd "the board is met" 'fault cleared.*F-100|board met'
echo "guest: plug reader into 2"
hears kioskd "the reader is met" 'line up.*part=card|line up.*usb-1-2'
say "serial adapters are $(ls /dev/yaoju | tr '\n' ' ')of $(stat -L -c '%G %a' /dev/yaoju/usb-1-1)"
from_here
echo "guest: unplug board"
hears kioskd "the board's cable is out, kioskd says" 'line down.*usb-1-1'
yes "its name stays" sh -c 'ls /dev/yaoju/usb-1-1'
from_here
echo "guest: plug board into 1"
hears kioskd "the board is met again" 'board met'
from_here
echo "guest: unplug reader"
hears kioskd "the reader's cable is out, kioskd says" 'line down.*usb-1-2'
from_here
echo "guest: plug reader into 2"
hears kioskd "the reader is met again" 'line up.*usb-1-2'
note "plugs"

# A board in the reader's socket and the other way round.
from_here
echo "guest: unplug board"
echo "guest: unplug reader"
hears kioskd "both cables are out" 'line down.*usb-1-2'
echo "guest: plug reader into 1"
echo "guest: plug board into 2"
hears kioskd "in the board's socket kioskd finds the reader" 'wrong device.*usb-1-1.*card reader'
hears kioskd "in the reader's socket kioskd finds the board" 'wrong device.*usb-1-2.*motor board'
from_here
echo "guest: unplug board"
echo "guest: unplug reader"
hears kioskd "both are out again" 'line down'
echo "guest: plug board into 1"
echo "guest: plug reader into 2"
hears kioskd "where it belongs, the board is met" 'board met'
hears kioskd "and no device is wrong any more" 'no wrong device any more.*usb-1-2'
note "exchanged"

# What is not listed stays dead.
echo "guest: plug keyboard"
known() { grep -lx 0627 /sys/bus/usb/devices/*/idVendor; }
until_ 60 known
sleep 2
say "a keyboard is seen, authorized $(cat "$(dirname "$(known)")/authorized"), input devices for it: $(grep -l 'QEMU USB Keyboard' /sys/class/input/*/device/name 2>/dev/null | wc -l)"
note "usb"

for unit in kioskd districtd; do
	from_here
	was=$(pid $unit)
	kill -KILL "$was"
	until_ 60 another $unit "$was"
	yes "$unit came back after kill -9" another $unit "$was"
	was=$(pid $unit)
	kill -STOP "$was"
	until_ 60 another $unit "$was"
	yes "$unit came back after it hung" another $unit "$was"
	yes "$unit was seen to hang" logged $unit 'Watchdog timeout'
	note "$unit killed and hung"
done

# What the sandbox lets be done to the clock; then restarts: most of them killed, each
# a little later after its start than the one before, and some told to.
mkdir -p /run/systemd/system/kioskd.service.d
cat > /run/systemd/system/kioskd.service.d/clock.conf <<'U'
[Service]
ExecStartPre=-/usr/bin/perl -e '$$b = "\0" x 208; print "adjtimex says ", syscall(159, $$b), "\n"'
ExecStartPre=-/bin/sh -c 'busybox date -s 2030-01-01; echo it is the year $$(date +%%Y)'
U
systemctl daemon-reload
from_here
systemctl restart kioskd
yes "inside its sandbox the clock can be asked" logged kioskd '^adjtimex says [0-9]'
yes "inside its sandbox the clock can be set" logged kioskd '^it is the year 2030'
rm /run/systemd/system/kioskd.service.d/clock.conf
systemctl daemon-reload
was=$(pid kioskd)
i=0
while [ $i -lt "$RESTARTS" ]; do
	i=$((i + 1))
	if [ $((i % 10)) = 0 ]; then
		systemctl restart kioskd || break
	else
		kill -KILL "$was"
		until_ 60 other kioskd "$was" || break
		sleep "$((i % 7 / 5)).$((i % 7 * 2 % 10))"
	fi
	was=$(pid kioskd)
done
until_ 60 up kioskd
say "kioskd is up after $i restarts: $(up kioskd && echo yes || echo no)"
say "ledgers in its folder: $(ledgers)"
yes "its page answers" answers http://127.0.0.1:8080/
note "restarted"

# A card that fails is only read from then on: the kernel turns to that by itself.
from_here
echo u > /proc/sysrq-trigger
until_ 20 sh -c 'grep -q " /data ext4 ro" /proc/mounts'
yes "the data partition is only read" grep -q ' /data ext4 ro' /proc/mounts
systemctl --no-block restart kioskd
hears kioskd "kioskd says so" 'read-?only'
yes "and is not up" up kioskd
mount -o remount,rw /data
until_ 60 up kioskd
yes "written again, kioskd is up by itself" up kioskd
note "read-only"

# A full partition.
from_here
dd if=/dev/zero of=/data/filling bs=64k 2>/dev/null
sync
say "free on the data partition: $(df --output=avail /data | tail -n 1 | tr -d ' ')"
yes "kioskd, which was up, shows its page" answers http://127.0.0.1:8080/
systemctl --no-block restart kioskd
hears kioskd "started without room, kioskd says so" 'disk is full|disk full|no space'
rm /data/filling
until_ 60 up kioskd
until_ 60 answers http://127.0.0.1:8080/
yes "with room again kioskd is up by itself" up kioskd
yes "and shows its page" answers http://127.0.0.1:8080/
say "ledgers in its folder: $(ledgers)"
note "full"

# The screen: a stand-in browser says that it draws; then it does not any more.
systemctl start yaoju-screen
yes "the screen is up" up yaoju-screen
was=$(pid yaoju-screen)
touch /run/page-crashes
until_ 120 other yaoju-screen "$was"
yes "the screen came back after its page was gone" other yaoju-screen "$was"
rm /run/page-crashes
until_ 60 up yaoju-screen
was=$(pid yaoju-screen)
systemctl stop kioskd
sleep 15
yes "with kioskd away the screen stays" sh -c "[ $was = \$(systemctl show -p MainPID --value yaoju-screen) ]"
systemctl start kioskd
systemctl stop yaoju-screen
note "screen"

for unit in kioskd districtd; do
	systemctl stop $unit
	say "$unit stopped: $(systemctl show -p Result --value $unit), exit $(systemctl show -p ExecMainStatus --value $unit)"
done
echo 'machine = "M 1"' > /run/bad.toml
printf '[Service]\nExecStart=\nExecStart=/usr/bin/kioskd -config /run/bad.toml\n' > /run/systemd/system/kioskd.service.d/bad.conf
chmod 644 /run/bad.toml
systemctl daemon-reload
systemctl start kioskd 2>/dev/null
sleep 4
say "with mistakes in its configuration kioskd is $(systemctl show -p ActiveState --value kioskd), exit $(systemctl show -p ExecMainStatus --value kioskd)"
note "failed units: $(systemctl list-units --failed --no-legend --plain | cut -d' ' -f1 | tr '\n' ' ')"
journalctl -b --no-pager -o short-monotonic -p warning -t systemd -t kernel | tail -n 40 | sed 's/^/journal: /'
say end
systemctl poweroff --force --force
