#!/bin/sh
# Runs test packages inside: test.sh [PACKAGE[:PATTERN]]... boots one machine (see
# run.sh), runs each of them from its own directory, all even if one fails. One line
# for each test, as it ends, and for each package says how it went; of one that failed
# it prints the end of what it printed, and of each which tests were skipped and why.
# With BUILT set what is in bin/vm is taken as it is.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
root=$PWD
mkdir -p "$root/bin"
script=$(mktemp -p "$root/bin" vm-XXXXXX.sh)
trap 'rm -f "$script"' EXIT

cat >"$script" <<G
export CRIBOX_BIN=$root/bin/vm/programs
[ "\$(cat /proc/1/comm)" = systemd ] || export CRIBOX_ALONE=1 # who else makes control groups
failed=0
run() {
	cd "$root/\$1"
	start=\$(cut -d. -f1 /proc/uptime)
	{ "$root/bin/vm/\$(basename "\$1").test" -test.v -test.timeout 2h -test.run "\$2" 2>&1; echo \$? >/tmp/status; } | tee /tmp/out | grep --line-buffered '^--- '
	[ "\$(cat /tmp/status)" = 0 ] && result=ok || { result=FAILED; failed=1; }
	[ \$result = ok ] || grep -v '^=== \|level=DEBUG' /tmp/out | tail -c 20000
	grep -B1 '^ *--- SKIP' /tmp/out | grep -v '^--\$\|^=== '
	printf '%-24s %-7s %4d passed %4d failed %4d skipped %5d s\n' "\$1" \$result "\$(grep -c '^--- PASS' /tmp/out)" "\$(grep -c '^--- FAIL' /tmp/out)" \
		"\$(grep -c '^ *--- SKIP' /tmp/out)" \$((\$(cut -d. -f1 /proc/uptime) - start))
}
echo "Linux \$(uname -r), \$(cat /proc/1/comm) is init"
G
packages=
for one in "$@"; do
	package=${one%%:*} pattern=.
	[ "$package" = "$one" ] || pattern=${one#*:}
	packages="$packages ./${package#./}"
	printf "run '%s' '%s'\n" "${package#./}" "$pattern" >>"$script"
done
echo 'exit $failed' >>"$script"
[ -n "${BUILT-}" ] || hack/vm/build.sh $packages
hack/vm/run.sh sh "$script"
