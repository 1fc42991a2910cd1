#!/bin/sh
# boot.sh TREE: starts the tree's own systemd in name spaces of its own, with no way
# out to the network, prints its process id, and ends with it.
set -eu
tree=$1
inside='set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$1/run"
mount -t tmpfs -o mode=755 tmpfs "$1/dev"
cd "$1"
for n in null zero full random urandom tty; do mknod -m 666 dev/$n c $(stat -c "%Hr %Lr" /dev/$n); done
mkdir dev/pts dev/shm
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
: > dev/console
ln -sf /dev/null etc/systemd/system/console-getty.service
hostname district
echo district > etc/hostname
echo "127.0.0.1 localhost district" > etc/hosts
mkdir -p .old
pivot_root . .old
umount -l /.old
ip link set lo up
exec env -i container=yaoju PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=no --unit=multi-user.target'

group=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)/yaoju-$$
mkdir "$group"
clear() { sleep 0.2; find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; }
trap clear EXIT
# The systemd of the tree must not end up in our own group.
sh -c 'echo 0 > "$1/cgroup.procs"; shift; exec "$@"' sh "$group" \
	unshare --mount --pid --fork --kill-child --net --uts --ipc --cgroup sh -c "$inside" sh "$tree" &
outer=$!
until pid=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null) && [ -n "$pid" ]; do
	kill -0 $outer
	sleep 0.05
done
echo $pid
wait $outer || true
