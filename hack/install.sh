#!/bin/sh
# Installs cri-box: the binary, its systemd unit, its configuration, crictl's.
#
#   hack/install.sh                     below /usr/local and /etc
#   DESTDIR=/tmp/root hack/install.sh   below another root, as packages are made
#
# PREFIX is where programs go, /usr/local unless said otherwise; BINARY is the
# program, bin/cri-box unless said otherwise. What is in /etc
# already stays as it is, with REPLACE=1 it is replaced.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
from=$here/install
binary=${BINARY-$here/../bin/cri-box}
dest=${DESTDIR-}
prefix=${PREFIX-/usr/local}
unit=$dest$prefix/lib/systemd/system/cri-box.service

die() {
	printf '%s\n' "$@" >&2
	exit 1
}

# put SOURCE MODE TARGET: by rename, so that a program that runs is no obstacle and
# nobody sees half a file.
put() {
	mkdir -p "$(dirname "$3")"
	case $1 in
	*.service) sed "s|@BINDIR@|$prefix/bin|" "$1" >"$3.new" ;;
	*) cp "$1" "$3.new" ;;
	esac
	chmod "$2" "$3.new"
	mv -f "$3.new" "$3"
	echo "installed $3"
}

# put_config SOURCE MODE TARGET: leaves what the administrator has there.
put_config() {
	if [ -e "$3" ] && ! cmp -s "$1" "$3" && [ "${REPLACE-}" != 1 ]; then
		echo "kept $3 (REPLACE=1 replaces it with $1)"
		return 0
	fi
	put "$1" "$2" "$3"
}

case $prefix in
/*) ;;
*) die "cannot install below PREFIX=$prefix: it must begin with /" ;;
esac
[ -x "$binary" ] || die "cannot install $binary: it is not there; make build makes it"

put "$binary" 0755 "$dest$prefix/bin/cri-box"
put "$from/cri-box.service" 0644 "$unit"
put_config "$from/config.toml" 0644 "$dest/etc/cri-box/config.toml"
put_config "$from/crictl.yaml" 0644 "$dest/etc/crictl.yaml"
mkdir -p "$dest/etc/cri-box/certs.d" "$dest/etc/cri-box/conf.d"

if [ -z "$dest" ] && command -v systemctl >/dev/null; then
	[ ! -d /run/systemd/system ] || systemctl daemon-reload
	systemctl enable "$unit" # by its path: systemd looks below /usr and /usr/local alone, and links any other
fi
