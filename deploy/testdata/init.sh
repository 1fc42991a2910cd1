#!/bin/busybox sh
# The guest's first program: finds its root, which is only read, and becomes systemd.
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do
	/bin/busybox insmod "/modules/$module"
done < /modules/order
until [ -b /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 -o ro /dev/vda /root || exec /bin/busybox poweroff -f
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /sbin/init
