#!/bin/sh
# screen.sh ROOT KIOSKD OUT: the session as it is installed, below ROOT, with the real
# compositor and browser, drawing to memory; in name spaces of its own. It says what it
# sees, and waits for a line on standard input where the caller has to agree.
set -eu
ip link set lo up
for part in usr etc; do
	mount -t overlay overlay -o "lowerdir=$1/$part:/$part" "/$part"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 711 /run/machine
install -d -m 700 -o nobody /run/yaoju-screen
cat > /run/machine/kioskd.toml <<'T'
machine = "m-0001"
data = "/run/machine/data"
status = "/run/machine/socket"
clock = "trusted"
[board]
path = "/dev/none-board"
[reader]
path = "/dev/none-reader"
[district]
broker = "tcp://127.0.0.1:1883"
tls = "off"
keys = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
T
"$2" -config /run/machine/kioskd.toml > "$3/kioskd.log" 2>&1 &
# Turned, as an upright panel is: cage then draws the picture itself, and grim sees it.
sed -e 's/^COMPOSITOR=.*/COMPOSITOR=cage/; s/^TRANSFORM=.*/TRANSFORM=90/; s/^SCALE=.*/SCALE=0.667/' /etc/yaoju/screen.conf > /run/machine/screen.conf
export XDG_RUNTIME_DIR=/run/yaoju-screen HOME=/run/yaoju-screen TMPDIR=/run/yaoju-screen XDG_SESSION_TYPE=wayland YAOJU_SCREEN_CONF=/run/machine/screen.conf
export WLR_BACKENDS=headless WLR_RENDERER=pixman WLR_LIBINPUT_NO_DEVICES=1
as() { setpriv --reuid nobody --regid nogroup --clear-groups --no-new-privs "$@"; }
cd /
NOTIFY_SOCKET=$3/notify as /usr/lib/yaoju/session > "$3/session.log" 2>&1 &
read -r _ # the screen is ready
sleep 2 # a picture later
WAYLAND_DISPLAY=wayland-0 as grim /run/yaoju-screen/picture.png
cp /run/yaoju-screen/picture.png "$3/picture.png"
echo pictured
read -r _
# The page's process dies; the browser goes on, with an error page.
pkill -KILL -u nobody -f -- --type=renderer
for i in $(seq 90); do
	[ "$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8080/beat)" = 204 ] || break
	sleep 1
done
echo "after its page was killed: $(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8080/beat), browser $(pgrep -u nobody -f -- --kiosk > /dev/null && echo runs || echo gone)"
