#!/bin/sh
# kernel.sh FOLDER: Debian's arm64 kernel for the test in qemu_test.go, as FOLDER/vmlinuz
# and the modules that it uses beside it. It keeps package lists of its own and so changes
# nothing of the machine it runs on; what is there already is not fetched again.
set -eu
modules='i6300esb evdev uinput'
mkdir -p "$1"
cd "$1"
missing=
for f in vmlinuz $(printf '%s.ko ' $modules); do [ -s "$f" ] || missing=$f; done
[ "$missing" ] || exit 0
rm -rf apt deb && mkdir -p apt/lists/partial apt/cache/archives/partial deb
apt() {
	tool=$1 && shift
	"$tool" -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root \
		-o Dir::State::Lists="$PWD/apt/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$PWD/apt/cache" "$@"
}
apt apt-get update >&2
image=$(apt apt-cache depends linux-image-arm64 | sed -n 's/.*Depends: \(linux-image-[0-9][^ :]*\).*/\1/p' | head -n 1)
apt apt-get download "$image" >&2
# shellcheck disable=SC2046 # one pattern for each module
dpkg-deb --fsys-tarfile "$image"_*.deb | tar -x -f - -C deb --wildcards './boot/vmlinuz-*' $(printf '*/%s.ko* ' $modules)
for m in $modules; do find deb -name "$m.ko*" -exec mv {} "$m.ko.new" \;; done
mv deb/boot/vmlinuz-* vmlinuz.new
rm -rf apt deb "$image"_*.deb
for m in $modules; do mv "$m.ko.new" "$m.ko"; done # of the kernel that comes last
mv vmlinuz.new vmlinuz
