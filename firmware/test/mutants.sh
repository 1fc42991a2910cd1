#!/usr/bin/env bash
# Breaks the firmware once with each patch of test/mutants, in a copy, and asks the
# tests: `make check` for the core, the Go tests of the ELF for a patch whose name
# begins with avr-. A patch that no test notices is a survivor, and a failure.
# JOBS copies are tried at once; names of patches may be given, all is the default.
set -uo pipefail
cd "$(dirname "$0")/.."

JOBS=${JOBS:-2}
CHECK_S=240	# one copy: builds and runs everything in 30 s on a quiet machine
AVR_S=900
export MAKEFLAGS= MFLAGS=

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT

# try prints one line about one patch, and fails if nobody noticed it.
try() {
	local name=$1 copy=$temp/$1 why verdict=0
	why=$(head -n 1 "test/mutants/$name.patch")
	mkdir -p "$copy/firmware"
	cp -r Makefile core avr test fuzz "$copy/firmware/"
	if ! patch -s -p1 --no-backup-if-mismatch -d "$copy/firmware" < "test/mutants/$name.patch" > "$copy/log" 2>&1; then
		printf '%-20s %-9s %s\n' "$name" STALE "the patch does not apply any more"
		return 1
	fi
	case $name in
	avr-*)
		(cd .. && tar -cf - --exclude=./.git --exclude=./.build --exclude=./firmware/core --exclude=./firmware/avr \
			--exclude=./firmware/out .) | tar -xf - -C "$copy"
		(cd "$copy" && timeout "$AVR_S" go test -count=1 ./firmware/elf ./firmware/trial) > "$copy/log" 2>&1 && verdict=1
		;;
	*)
		# What a mutant leaves unused is no finding.
		timeout "$CHECK_S" make -C "$copy/firmware" -f test/test.mk TEST_WARN=-w check > "$copy/log" 2>&1 && verdict=1
		;;
	esac
	if grep -q ' error: ' "$copy/log"; then
		printf '%-20s %-9s %s\n' "$name" STALE "it does not compile any more"
		return 1
	fi
	if [ "$verdict" = 0 ]; then
		why="$why  [$(grep -aom 1 -e 'test/[a-z_]*\.[ch]:[0-9]*: .*' -e '--- FAIL: [A-Za-z]*' "$copy/log" | cut -c 1-60)]"
	fi
	printf '%-20s %-9s %s\n' "$name" "$([ "$verdict" = 0 ] && echo found || echo SURVIVED)" "$why"
	rm -rf "$copy"
	return "$verdict"
}
export -f try
export temp CHECK_S AVR_S

if [ $# = 0 ]; then
	set -- $(cd test/mutants && ls -- *.patch | sed 's/\.patch$//')
fi
# Without a patch everything has to pass, or finding proves nothing.
if ! timeout "$CHECK_S" make -f test/test.mk check > "$temp/log" 2>&1; then
	echo "make check fails without any mutant:"
	tail -n 20 "$temp/log"
	exit 1
fi
printf '%s\n' "$@" | xargs -P "$JOBS" -I{} bash -c 'try {}'
bad=$?
echo "$# mutants"
[ "$bad" = 0 ] || echo "some survived"
exit "$bad"
