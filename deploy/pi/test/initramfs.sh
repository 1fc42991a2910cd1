#!/bin/sh
# initramfs.sh TREE DEBS OUT: in a layer above the unpacked small Debian TREE, installs
# initramfs-tools, whose packages it keeps in the folder DEBS, with the hook and the
# script that split a card, and makes kernel and initrd for an emulated computer in OUT.
set -eu
tree=$1 debs=$2 out=$3
packages='initramfs-tools-core initramfs-tools klibc-utils libklibc cpio busybox logsave linux-base fdisk libfdisk1 libreadline8'
mkdir -p "$debs"
fetch() { (cd "$debs" && apt-get download -qq $packages); }
[ "$(ls "$debs" | wc -l)" -ge 11 ] || fetch 2>/dev/null || { apt-get update -qq && fetch; }
layer=$(mktemp -d)
mount -t tmpfs -o size=1G tmpfs "$layer"
mkdir "$layer/upper" "$layer/work" "$layer/root"
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$layer/upper,workdir=$layer/work" "$layer/root"
cp -R "$(dirname "$0")/../root/." "$layer/root"
mkdir "$layer/root/tmp/debs"
cp "$debs"/*.deb "$layer/root/tmp/debs"
cd "$layer/root"
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs dev
for n in null zero full random urandom tty; do mknod -m 666 dev/$n c $(stat -c "%Hr %Lr" /dev/$n); done
ln -s /proc/self/fd dev/fd
chroot . /bin/sh -euc '
# What of them is there in another version, or leans on what is not, is no matter here.
dpkg --force-depends --force-confnew --install /tmp/debs/*.deb > /tmp/log 2>&1 || { cat /tmp/log; exit 1; }
install -D -m 755 /usr/lib/yaoju/initramfs-hook /etc/initramfs-tools/hooks/yaoju
install -D -m 755 /usr/lib/yaoju/initramfs-premount /etc/initramfs-tools/scripts/local-premount/yaoju
echo MODULES=list > /etc/initramfs-tools/conf.d/yaoju
printf "virtio_pci\nvirtio_blk\next4\ncrc32c_generic\n" >> /etc/initramfs-tools/modules
kernel=$(ls /lib/modules)
echo CONFIG_RD_GZIP=y > "/boot/config-$kernel"
mkinitramfs -c gzip -o /tmp/initrd "$kernel"'
cp boot/vmlinuz tmp/initrd "$out"
cd /
umount "$layer/root/proc" "$layer/root/dev" "$layer/root" "$layer"
rmdir "$layer"
