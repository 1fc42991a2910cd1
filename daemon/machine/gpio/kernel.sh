#!/bin/sh
# kernel.sh FOLDER: Debian's arm64 kernel for the test in qemu_test.go, as FOLDER/vmlinuz
# and FOLDER/i6300esb.ko. It keeps package lists of its own and so changes nothing of
# the machine it runs on; what is there already is not fetched again.
set -eu
mkdir -p "$1"
cd "$1"
[ -s vmlinuz ] && [ -s i6300esb.ko ] && exit 0
rm -rf apt deb && mkdir -p apt/lists/partial apt/cache/archives/partial deb
apt() {
	tool=$1 && shift
	"$tool" -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root \
		-o Dir::State::Lists="$PWD/apt/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$PWD/apt/cache" "$@"
}
apt apt-get update >&2
image=$(apt apt-cache depends linux-image-arm64 | sed -n 's/.*Depends: \(linux-image-[0-9][^ :]*\).*/\1/p' | head -n 1)
apt apt-get download "$image" >&2
dpkg-deb --fsys-tarfile "$image"_*.deb | tar -x -f - -C deb --wildcards './boot/vmlinuz-*' '*/i6300esb.ko*'
mv deb/boot/vmlinuz-* vmlinuz.new
find deb -name 'i6300esb.ko*' -exec mv {} i6300esb.ko.new \;
rm -rf apt deb "$image"_*.deb
mv i6300esb.ko.new i6300esb.ko
mv vmlinuz.new vmlinuz
