#!/bin/sh
# Runs the tests of this package for arm64 under qemu-user, from anywhere in the
# module:  process/launch/testdata/arm64.sh
#
# The tests start programs of their own, so the kernel must know what to do with
# an arm64 ELF file. Since Linux 6.7 it can be told for one user namespace only
# (binfmt_misc), and the machine's settings stay as they are.
set -eu
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64) || {
	echo "*** the arm64 init is NOT tested: qemu-aarch64 (Debian: qemu-user-static) is missing ***"
	exit 0
}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
GOARCH=arm64 CGO_ENABLED=0 go test -c -o "$dir/launch.test" github.com/myshim/myshim/process/launch
mkdir "$dir/binfmt"
# shellcheck disable=SC2016 # expanded by the inner shell
unshare --user --map-root-user --mount sh -euc '
	if ! mount -t binfmt_misc binfmt_misc "$1/binfmt" 2>/dev/null; then
		echo "*** the arm64 init is NOT tested: binfmt_misc in a user namespace needs Linux 6.7 ***"
		exit 0
	fi
	magic="\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
	mask="\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
	printf %s ":arm64:M::$magic:$mask:$2:F" >"$1/binfmt/register"
	"$1/launch.test" -test.count=1
' sh "$dir" "$qemu"
