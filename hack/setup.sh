#!/bin/sh
# Looks for what the targets need: setup.sh [go] [root] [test] [race] [critest] [peers] [vm].
# On Debian and Ubuntu it installs what is missing; elsewhere it names it.
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}

die() {
	printf '%s\n' "$@" >&2
	exit 1
}

# The go command reads go.mod only from 1.21 on; older ones are asked for their version.
need_go() {
	want=$(awk '$1 == "go" { print $2 }' go.mod)
	where="Go $want or newer is needed: https://go.dev/dl/ (unpack to /usr/local and put /usr/local/go/bin first in PATH)."
	command -v "$go" >/dev/null || die "There is no Go here. $where"
	have=$("$go" version 2>&1 | sed -n 's/^go version go\([0-9.]*\).*/\1/p')
	[ -n "$have" ] || die "$("$go" version 2>&1)" "$where"
	oldest=$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)
	[ "$oldest" = "$want" ] || die "This is Go $have, which is too old. $where"
}

# need PROGRAM PACKAGE: notes the package if the program is missing.
missing=
unpack_busybox=
need() {
	command -v "$1" >/dev/null || missing="$missing $2"
}

# The test image holds busybox alone, without any library.
need_busybox() {
	if ! command -v busybox >/dev/null || ldd "$(command -v busybox)" >/dev/null 2>&1; then
		missing="$missing busybox-static"
	fi
}

# The images for critest hold nginx, and a shell that runs what lies on PATH: the
# static busybox runs its own applets instead. Both packages cannot be installed
# at a time, so this one is unpacked.
need_critest_images() {
	[ -x /usr/sbin/nginx ] || missing="$missing nginx-light"
	need ipcmk util-linux-extra
	[ -x bin/busybox/bin/busybox ] || unpack_busybox=yes
}

unpack_busybox() {
	command -v apt-get >/dev/null || die "Missing here: bin/busybox, the Debian package busybox unpacked with dpkg-deb -x."
	echo "unpacking busybox to bin/busybox"
	dir=$(mktemp -d)
	(cd "$dir" && apt-get update && apt-get download busybox) >"$dir/log" 2>&1 || die "$(cat "$dir/log")" "cannot download the package busybox"
	mkdir -p bin
	dpkg-deb -x "$dir"/busybox_*.deb bin/busybox
	rm -rf "$dir"
}

need_root() {
	[ "$(id -u)" = 0 ] || die "This makes namespaces, cgroups and mounts: run it as root."
}

install_missing() {
	[ -n "$missing" ] || return 0
	command -v apt-get >/dev/null || die "Missing here (names of the Debian packages):$missing"
	echo "installing$missing"
	export DEBIAN_FRONTEND=noninteractive
	log=$(mktemp)
	{ apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1 ||
		die "$(cat "$log")" "cannot install$missing"
	rm -f "$log"
}

for what in "$@"; do
	case $what in
	go) need_go ;;
	root) need_root ;;
	test)
		need_root
		need_busybox
		need strace strace # test/guards
		need mkfs.ext4 e2fsprogs
		need nft nftables
		need iptables iptables
		need capsh libcap2-bin # a container made by hand
		need ip iproute2
		need curl curl # what the documentation types
		need runc runc # test/pods compares
		need qemu-aarch64 qemu-user # a release's programs are started
		need dpkg-deb dpkg
		need systemctl systemd # test/install enables the unit
		[ -x /usr/lib/cni/bridge ] || missing="$missing containernetworking-plugins"
		;;
	race)
		need_root
		need_busybox
		need strace strace # test/guards
		need nft nftables
		need iptables iptables
		need gcc gcc
		[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
		;;
	critest)
		need_root
		need_busybox
		need strace strace # test/guards
		need_critest_images
		;;
	vm)
		need_root
		need_busybox
		need qemu-system-x86_64 qemu-system-x86
		need qemu-system-aarch64 qemu-system-arm
		need cpio cpio
		need depmod kmod
		need mke2fs e2fsprogs
		need dmsetup dmsetup
		need losetup mount
		need xz xz-utils
		[ -x /lib/systemd/systemd ] || missing="$missing systemd"
		need dbus-daemon dbus
		need apparmor_parser apparmor
		need sudo sudo # critest loads profiles with it
		need nft nftables
		need iptables iptables
		need ipset ipset
		need ipvsadm ipvsadm
		[ -x /usr/lib/cni/bridge ] || missing="$missing containernetworking-plugins"
		;;
	peers)
		need containerd containerd
		need runc runc
		;;
	*) die "setup.sh: what is \"$what\"? It knows go, root, test, race, critest, vm and peers." ;;
	esac
done
install_missing
[ -z "$unpack_busybox" ] || unpack_busybox
