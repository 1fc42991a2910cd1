#!/bin/sh
# build.sh PACKAGE ARCH OUT: builds a Debian package, yaoju-kiosk or yaoju-district,
# for amd64 or arm64, into the folder OUT. The same sources give the same bytes:
# every time in the package is SOURCE_DATE_EPOCH, the last commit's if it is not set,
# and VERSION follows it, unless it is set.
set -eu
umask 022
package=$1 arch=$2
out=$(mkdir -p "$3" && cd "$3" && pwd)
cd "$(dirname "$0")"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
version=${VERSION:-0~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d.%H%M%S)}
case $package in
yaoju-kiosk) from='kiosk pi' programs='kioskd yaoju' place=usr/lib/yaoju/base ;;
yaoju-district) from=district programs='districtd' place=usr/bin ;;
*) echo "no such package: $package" >&2 && exit 2 ;;
esac

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
for f in $from; do
	[ ! -d "$f/root" ] || cp -R "$f/root/." "$tree"
done
from=${from%% *}
mkdir -p "$tree/$place" "$tree/usr/share/doc/$package" "$tree/DEBIAN"
# program NAME ARCH FILE: builds one for a processor.
program() {
	CGO_ENABLED=0 GOOS=linux GOARCH=$2 GOFLAGS='' "${GO:-go}" build -trimpath -buildvcs=false \
		-ldflags "-s -w -buildid= -X main.version=$version" -o "$3" "../cmd/$1"
}
for p in $programs; do
	program "$p" "$arch" "$tree/$place/$p"
done
# Keeps the file of staff accounts. It has no place in the path, where a machine has its own.
if [ "$package" = yaoju-district ]; then
	mkdir -p "$tree/usr/lib/yaoju-district"
	program yaoju "$arch" "$tree/usr/lib/yaoju-district/yaoju"
fi
# The manifest of the version that a machine is installed with, which an update falls
# back to; this desk's own yaoju writes it.
if [ "$package" = yaoju-kiosk ]; then
	program yaoju "$("${GO:-go}" env GOHOSTARCH)" "$tree/DEBIAN/yaoju"
	"$tree/DEBIAN/yaoju" update bundle -base -dir "$tree/$place" -version "$version" -arch "$arch" \
		-built "$SOURCE_DATE_EPOCH" -out "$tree/$place/manifest.json" >&2
	rm "$tree/DEBIAN/yaoju"
fi
cp ../LICENSE "$tree/usr/share/doc/$package/copyright"
case $package in
yaoju-kiosk) cp INSTALL*.md OPERATE*.md "$tree/usr/share/doc/$package" ;;
yaoju-district) cp DISTRICT*.md "$tree/usr/share/doc/$package" ;;
esac

# Modes are the package's, not those of the desk it was built on.
find "$tree" -type d -exec chmod 755 {} +
find "$tree" -type f -exec chmod 644 {} +
for d in usr/bin usr/sbin usr/lib/yaoju usr/lib/yaoju-district; do
	[ ! -d "$tree/$d" ] || find "$tree/$d" -type f ! -name '*.json' -exec chmod 755 {} +
done

for script in postinst prerm postrm; do
	install -m 755 "$from/DEBIAN/$script" "$tree/DEBIAN/$script"
done
(cd "$tree" && find etc -type f 2>/dev/null | LC_ALL=C sort | sed 's#^#/#') > "$tree/DEBIAN/conffiles"
(cd "$tree" && find usr etc -type f 2>/dev/null | LC_ALL=C sort | xargs md5sum) > "$tree/DEBIAN/md5sums"
# A folder has another size on another file system, so only files count, in whole KiB.
size=$(find "$tree/usr" "$tree/etc" -type f -printf '%s\n' 2>/dev/null | awk '{ k += int(($1 + 1023) / 1024) } END { print k }')
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/" "$from/DEBIAN/control" > "$tree/DEBIAN/control"
chmod 644 "$tree"/DEBIAN/control "$tree"/DEBIAN/conffiles "$tree"/DEBIAN/md5sums
[ -s "$tree/DEBIAN/conffiles" ] || rm "$tree/DEBIAN/conffiles"
find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group --threads-max=1 -Zzstd -z12 --build "$tree" "$out/${package}_${version}_$arch.deb" >&2
echo "$out/${package}_${version}_$arch.deb"
