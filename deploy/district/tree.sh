#!/bin/sh
# tree.sh OUT: an empty Debian 12 server as a tarball, with the programs a district may
# use, for the tests. What is there already, and was made by this very script, is not
# made again.
set -eu
out=$1
mkdir -p "$(dirname "$out")"
# One at a time: whoever waited finds it made.
exec 9> "$out.lock"
flock 9
sum=$(sha256sum "$0" | cut -c1-64)
[ ! -s "$out" ] || [ "$(cat "$out.sum" 2>/dev/null)" != "$sum" ] || exit 0
mmdebstrap --quiet --format=tar --variant=minbase \
	--include=systemd,systemd-sysv,dbus,sudo,mosquitto,postgresql,openssl,curl,iproute2,procps \
	--aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--customize-hook='chroot "$1" systemctl disable --quiet mosquitto postgresql getty@tty1' \
	bookworm "$out.new" http://deb.debian.org/debian
mv "$out.new" "$out"
echo "$sum" > "$out.sum"
