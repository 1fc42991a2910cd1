#!/bin/sh
# tree.sh OUT: a small Debian 12 as a tarball, in which the tests install the packages
# and let the programs that read our files read them, and which a guest boots. What is
# there already, and was made by this very script, is not made again.
set -eu

# kernel TREE: of Debian's kernel, what the guest needs: disks, USB serial adapters
# and keyboards, the packet filter.
kernel() {
	tree=$1
	chroot "$tree" sh -ec 'cd /tmp
		image=$(apt-cache depends linux-image-amd64 | sed -n "s/.*Depends: \(linux-image-[0-9][^ :]*\).*/\1/p" | head -n 1)
		apt-get download -qq "$image"'
	mkdir "$tree/tmp/kernel"
	dpkg-deb -x "$tree"/tmp/linux-image-*.deb "$tree/tmp/kernel"
	mv "$tree"/tmp/kernel/boot/vmlinuz-* "$tree/boot/vmlinuz"
	from=$(echo "$tree"/tmp/kernel/lib/modules/*)
	to=$tree/usr/lib/modules/$(basename "$from")
	mkdir -p "$to"
	cp "$from"/modules.builtin* "$from"/modules.order "$to"
	for part in drivers/virtio drivers/block/virtio_blk.ko fs/ext4 fs/jbd2 fs/mbcache.ko lib crypto/crc32c_generic.ko \
		drivers/usb drivers/hid/hid.ko drivers/hid/hid-generic.ko drivers/hid/usbhid drivers/input net/netfilter net/ipv4/netfilter net/ipv6/netfilter; do
		mkdir -p "$to/kernel/$(dirname $part)"
		cp -R "$from/kernel/$part" "$to/kernel/$part"
	done
	chroot "$tree" depmod "$(basename "$from")"
	rm -rf "$tree"/tmp/*
}

if [ "$1" = kernel ]; then
	kernel "$2"
	exit
fi
out=$1
mkdir -p "$(dirname "$out")"
# One at a time: whoever waited finds it made.
exec 9> "$out.lock"
flock 9
sum=$(sha256sum "$0" | cut -c1-64)
[ ! -s "$out" ] || [ "$(cat "$out.sum" 2>/dev/null)" != "$sum" ] || exit 0
mmdebstrap --quiet --format=tar --variant=minbase \
	--include=systemd,systemd-sysv,udev,dbus,kmod,nftables,chrony,mosquitto,mosquitto-clients,openssl,cage,xwayland,iproute2,curl,e2fsprogs,busybox-static \
	--aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--customize-hook="'$(readlink -f "$0")' kernel \"\$1\"" \
	bookworm "$out.new" http://deb.debian.org/debian
mv "$out.new" "$out"
echo "$sum" > "$out.sum"
