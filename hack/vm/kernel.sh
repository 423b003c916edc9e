#!/bin/sh
# Unpacks a Debian kernel and prints where: kernel.sh NAME [ARCH]
#
# NAME is 6.1 (Debian 12), 6.12 (its backports) or sid (the newest there is), ARCH
# amd64 or arm64. Nothing is installed: apt runs with lists and a cache of its own
# below bin/vm, the package is unpacked beside them.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
name=${1:?kernel.sh NAME [ARCH]}
arch=${2:-amd64}
dir=$root/bin/vm/kernel-$name-$arch
log=$dir.log

die() {
	printf '%s\n' "$@" >&2
	exit 1
}

case $name in
6.1) suite=bookworm ;;
6.12) suite=bookworm-backports ;;
sid) suite=sid ;;
*) die "kernel.sh: no kernel is called $name; there are 6.1, 6.12 and sid" ;;
esac

# archive is where this machine has Debian from.
archive() {
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -n 1
}

# private runs apt-get or apt-cache on that suite alone.
private() {
	program=$1
	shift
	"$program" -o Dir::State="$dir/apt/state" -o Dir::Cache="$dir/apt/cache" -o Dir::State::status="$dir/apt/status" \
		-o Dir::Etc::sourcelist="$dir/apt/sources.list" -o Dir::Etc::sourceparts=- \
		-o APT::Architecture="$arch" -o APT::Architectures="$arch" -o APT::Sandbox::User=root "$@"
}

# depends prints which packages a package needs, of those whose names match.
depends() {
	private apt-cache depends "$1" | sed -n "s/^ *Depends: \($2.*\)/\1/p"
}

# unpack leaves boot/vmlinuz and lib/modules/VERSION. Newer packages come in parts
# and below /usr.
unpack() {
	rm -rf "$dir"
	mkdir -p "$dir/apt/state/lists/partial" "$dir/apt/cache/archives/partial" "$dir/all" "$dir/boot" "$dir/lib"
	: >"$dir/apt/status"
	url=$(archive)
	[ -n "$url" ] || die "apt has no source of Debian 12: run apt-get update"
	echo "deb $url $suite main" >"$dir/apt/sources.list"
	private apt-get update
	image=$(depends "linux-image-$arch" linux-image-)
	[ -n "$image" ] || die "$suite has no linux-image-$arch"
	(cd "$dir/apt" && private apt-get download "$image" $(depends "$image" 'linux-[a-z]*-[0-9]'))
	for deb in "$dir"/apt/*.deb; do dpkg-deb -x "$deb" "$dir/all"; done
	mv "$(find "$dir/all" -name 'vmlinuz*' -type f)" "$dir/boot/vmlinuz"
	mv "$(find "$dir/all" -path '*/lib/modules' -type d)" "$dir/lib/modules"
	depmod -b "$dir" "$(ls "$dir/lib/modules")"
	if [ "$arch" != amd64 ]; then # a machine of another kind has a root of its own
		(cd "$dir/apt" && private apt-get download busybox-static && dpkg-deb -x busybox-static*.deb "$dir/all")
		mv "$(find "$dir/all" -path '*/bin/busybox' -type f)" "$dir/busybox"
	fi
	rm -rf "$dir/apt" "$dir/all"
	touch "$dir/done"
}

mkdir -p "$root/bin/vm"
# Two targets at a time unpack once.
exec 9>"$dir.lock"
flock 9
if [ ! -e "$dir/done" ]; then
	echo "unpacking kernel $name for $arch" >&2
	unpack >"$log" 2>&1 || die "$(tail -n 20 "$log")" "cannot unpack kernel $name for $arch"
fi
echo "$dir"
