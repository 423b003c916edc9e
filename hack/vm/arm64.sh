#!/bin/sh
# Builds for arm64 and runs there, in a small root file system of its own: the demo's
# pod, commands in it, seccomp. arm64.sh [PATTERN] takes other tests of test/pods.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
root=$PWD/bin/vm/arm64/root
kdir=$(hack/vm/kernel.sh "${KERNEL:-6.1}" arm64)
version=$(ls "$kdir/lib/modules")

# modules are those of the pod network and of overlay: all of them would fill the disk.
modules() {
	from=$kdir/lib/modules/$version to=$root/lib/modules/$version
	mkdir -p "$to/kernel"
	cp "$from"/modules.* "$to/"
	(cd "$from" && find kernel/net kernel/drivers/net/veth.ko* kernel/drivers/net/ifb.ko* kernel/fs/overlayfs kernel/lib kernel/crypto -name '*.ko*' |
		cpio -pdm --quiet "$to")
}

rm -rf "$root"
mkdir -p "$root/bin" "$root/sbin" "$root/etc" "$root/root" "$root/tests" "$root/var/lib" "$root/usr/bin"
cp "$kdir/busybox" "$root/bin/"
for applet in sh modprobe ip hostname mount mkdir dd chmod mkswap swapon sync sleep cat grep uname ls tail cut; do ln -s /bin/busybox "$root/bin/$applet"; done
ln -s /bin/busybox "$root/sbin/modprobe"
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
modules
TARGET=arm64 hack/vm/build.sh ./test/pods
CGO_ENABLED=0 GOARCH=arm64 ${GO:-go} build -trimpath -ldflags '-s -w' -o bin/vm/arm64/programs/demo ./hack/demo
cp -r bin/vm/arm64/programs bin/vm/arm64/pods.test "$root/tests/"
ARCH=arm64 ROOT=$root hack/vm/run.sh "uname -m -r; export CRIBOX_BIN=/tests/programs CRIBOX_ALONE=1; /tests/programs/demo && /tests/pods.test -test.v -test.timeout 14m -test.run '${1:-^(TestExecSync|TestDeprecatedSeccompPath|TestSharedPID|TestProbeDefault|TestProbeExec)\$}'"
