#!/bin/sh
# root.sh SCRATCH DISK: in name spaces of its own, on a layer above this computer's root,
# goes the way of a Pi whose root becomes one that is only read, and says what is so.
set -eu
scratch=$1 part=$2
here=$(cd "$(dirname "$0")/../.." && pwd)
mount -t tmpfs tmpfs "$scratch" # a layer may not lie on a layer
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
cd "$scratch/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mknod -m 666 dev/null c 1 3
mknod "dev/$(basename "$part")" b $(stat -c '%Hr %Lr' "$part")
mkdir -p dev/disk/by-label boot/firmware var/lib/yaoju etc/NetworkManager
ln -s "../../$(basename "$part")" dev/disk/by-label/yaoju-data
cp -R "$here/pi/root/." .
cp "$here/pi/test/config-bookworm.txt" boot/firmware/config.txt
echo 'console=serial0,115200 root=PARTUUID=4e639091-02 yaoju.split=8' > boot/firmware/cmdline.txt
printf 'proc\t/proc\tproc\tdefaults\t0\t0\nPARTUUID=4e639091-01\t/boot/firmware\tvfat\tdefaults\t0\t2\nPARTUUID=4e639091-02\t/\text4\tdefaults,noatime\t0\t1\n' > etc/fstab
printf '#!/bin/sh\n' > usr/bin/systemctl
chmod 755 usr/bin/systemctl
rm -rf etc/machine-id usr/sbin/NetworkManager etc/ssh etc/resolv.conf var/lib/NetworkManager
: > usr/sbin/NetworkManager
echo 0123456789abcdef0123456789abcdef > etc/machine-id
echo ledger > var/lib/yaoju/ledger.db
chown -R 12345:12345 var/lib/yaoju
chmod 700 var/lib/yaoju
# A power cut left half a copy, the time before.
mkdir data
mount "$part" data
mkdir data/yaoju.new
echo half > data/yaoju.new/half
umount data
exec chroot . /bin/sh -eu -c '
pi=/usr/lib/yaoju/pi
yes() { what=$1; shift; if "$@" >/dev/null 2>&1; then echo "$what: yes"; else echo "$what: no"; fi; }
how() { findmnt -no OPTIONS "$1" | tr , "\n" | grep -E "^(ro|rw|nodev|nosuid|noexec|noatime|errors=remount-ro|commit=5|data=ordered)$" | sort | tr "\n" " "; }
# What mount -a cannot do here: the root, the firmware, and proc once more.
rest() { grep -v -e PARTUUID -e "^proc" /etc/fstab > /run/fstab; mount -a -T /run/fstab; }
export TMPDIR=/run
yes "what would write its ledger on the root is refused" sh -c "! $pi readonly on"
for step in data; do
	before=$(cat /etc/fstab)
	$pi --dry-run $step > /run/dry
	[ "$before" = "$(cat /etc/fstab)" ] || echo "the dry run of $step changed fstab"
done
# The script calls mount itself: these three lines of a Pi are not mounted here.
sed -i "s/^\(PARTUUID\|proc\)/#&/" /etc/fstab
$pi data
$pi data
sed -i "s/^#\(PARTUUID\|proc\)/\1/" /etc/fstab
before=$(cat /etc/fstab)
$pi --dry-run readonly on > /run/dry
[ "$before" = "$(cat /etc/fstab)" ] || echo "the dry run of readonly changed fstab"
$pi readonly on
cp /etc/fstab /run/once
sed -i "s/^\(PARTUUID\|proc\)/#&/" /etc/fstab
$pi data > /dev/null
sed -i "s/^#\(PARTUUID\|proc\)/\1/" /etc/fstab
$pi readonly on > /dev/null
yes "the second time nothing changes" cmp /etc/fstab /run/once
rest
mount -o remount,bind,ro overlay /
cat /etc/fstab
cat /boot/firmware/cmdline.txt
readlink /etc/resolv.conf
for at in /data /var/lib/yaoju /var/lib/chrony /var/lib/systemd /opt/yaoju /tmp /var/tmp /var/log; do echo "$at: $(how $at)"; done
yes "half a copy of before is in it" test -e /var/lib/yaoju/half
yes "the ledger came along" grep -q ledger /var/lib/yaoju/ledger.db
echo "it belongs to $(stat -c "%u %a" /var/lib/yaoju)"
yes "the root can be written" touch /etc/x
yes "the data can be written" touch /var/lib/yaoju/x
yes "the clock can note its drift" touch /var/lib/chrony/drift
cp /bin/true /opt/yaoju/version && cp /bin/true /var/lib/yaoju/version
yes "a version of the program runs" /opt/yaoju/version
yes "what lies beside the ledger runs" /var/lib/yaoju/version
yes "leases and logs have room" touch /var/lib/NetworkManager/x /var/log/x /tmp/x /var/tmp/x
for at in /opt/yaoju /var/lib/systemd /var/lib/chrony /var/lib/yaoju /data; do umount $at; done
rest
yes "after the next start it is all there" test -e /var/lib/yaoju/x -a -x /opt/yaoju/version
'
