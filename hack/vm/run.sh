#!/bin/sh
# Boots a Debian kernel in qemu and runs a command there as root. run.sh -h
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

usage() {
	cat <<'USAGE'
hack/vm/run.sh COMMAND...

Boots a stock Debian kernel in qemu, runs the command there as root in the present
directory, prints its output and ends with its status. The machine has cgroup v2
only, every capability, AppArmor, swap and a few huge pages.

  KERNEL   6.1 (Debian 12, the default), 6.12 (its backports) or sid (the newest)
  INIT     script (the default: nothing else runs) or systemd
  APPEND   more for the kernel's command line, such as "security=selinux"
  ARCH     amd64 (the default) or arm64: that one sees the directory $ROOT alone
  BOUND    seconds after which it is stopped, 600 by default
  MEM      MiB of memory, 4096 by default
  ACCEL    tcg or kvm; by default kvm if a kernel boots with it within seconds
  THREAD   single or multi: threads of an emulated machine's processors; multi for
           6.1, single for the others. qemu before 8.1 may run a breakpoint that the
           kernel has patched away meanwhile: then the machine ends with "Oops: int3"

It sees this machine's file system, read only with a layer on top that is gone
afterwards; what it writes to /tmp is on an ext4 disk, for an overlay does not stack
on that layer. So build tests outside, below this tree, and run them inside:

  go test -c -o bin/vm/cgroup.test ./oci/cgroup
  hack/vm/run.sh bin/vm/cgroup.test -test.v

Tests that use test/harness need the programs that it builds as well:

  hack/vm/build.sh ./test/pods          # bin/vm/pods.test and bin/vm/programs
  hack/vm/run.sh CRIBOX_BIN=$PWD/bin/vm/programs bin/vm/pods.test -test.v -test.run TestExec

Without KVM containers are some 40 times slower than outside.
USAGE
}

case ${1--h} in
-h | --help) usage && exit ;;
esac

kernel=${KERNEL:-6.1} init=${INIT:-script} arch=${ARCH:-amd64} bound=${BOUND:-600} mem=${MEM:-4096}
[ "$kernel" = 6.1 ] && thread=multi || thread=single
thread=${THREAD:-$thread}
kdir=$("$here/kernel.sh" "$kernel" "$arch")
version=$(ls "$kdir/lib/modules")
work=$(mktemp -d "$root/bin/vm/run-XXXXXX")
qemu=
trap 'rm -rf "$work"' EXIT
trap '[ -z "$qemu" ] || kill "$qemu"; rm -rf "$work"; exit 130' INT TERM

# modules copies what the initial file system needs before it can see the others.
modules() {
	n=10
	for m in virtio_pci virtio_mmio virtio_blk virtio_console 9pnet_virtio 9p overlay ext4; do
		modprobe -d "$kdir" -S "$version" -q --show-depends "$m" || true
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
		out=$1/$n-$(basename "$file" | sed 's/\.ko.*/.ko/')
		case $file in
		*.xz) xz -dc "$file" >"$out" ;;
		*) cp "$file" "$out" ;;
		esac
		n=$((n + 1))
	done
}

# initrd makes the initial file system: busybox, modules, init and the command.
initrd() {
	dir=$work/initrd
	mkdir -p "$dir/bin" "$dir/m" "$dir/proc" "$dir/sys" "$dir/dev"
	cp "$busybox" "$dir/bin/busybox"
	modules "$dir/m"
	cp "$here/init" "$dir/init"
	cp "$here/guest.sh" "$dir/guest.sh"
	printf '%s\n' "$*" >"$dir/command.sh"
	printf '%s\n' "init=$init" "arch=$arch" "kdir='$kdir'" "dir='$PWD'" "tree='$root'" >"$dir/settings.sh"
	(cd "$dir" && find . | cpio -o -H newc --quiet) >"$work/initrd.cpio"
}

# disk makes the ext4 disk: /tmp, or for arm64 the whole root.
disk() {
	truncate -s 12G "$work/disk"
	if [ "$arch" = amd64 ]; then
		mke2fs -q -t ext4 -E lazy_itable_init=1,root_owner=0:0 "$work/disk"
	else
		mke2fs -q -t ext4 -d "${ROOT:?ARCH=arm64 needs ROOT, a directory for its root file system}" "$work/disk"
	fi
}

static_busybox() {
	if [ "$arch" = amd64 ]; then
		command -v busybox
	else
		echo "$ROOT/bin/busybox"
	fi
}

boot() {
	case $arch in
	amd64)
		set -- qemu-system-x86_64 -cpu max -append "console=ttyS0 $append"
		set -- "$@" -virtfs "local,path=/,mount_tag=hostfs,security_model=none,multidevs=remap,readonly=on"
		[ "$accel" = kvm ] || accel=tcg,thread=$thread
		;;
	arm64)
		set -- qemu-system-aarch64 -M virt -cpu max,pauth-impdef=on -append "console=ttyAMA0 $append"
		accel=tcg,thread=$thread
		;;
	*) echo "run.sh: ARCH is amd64 or arm64, not $arch" >&2 && exit 1 ;;
	esac
	exec timeout -k 5 "$bound" "$@" -accel "$accel" -smp 2 -m "$mem" -display none -no-reboot -nodefaults -serial stdio \
		-kernel "$kdir/boot/vmlinuz" -initrd "$work/initrd.cpio" \
		-drive "file=$work/disk,if=virtio,format=raw,cache=unsafe"
}

# An emulated timer that is late, as on a busy machine, is no broken one: no_timer_check.
append="quiet loglevel=3 no_timer_check systemd.show_status=false panic=-1 hugepages=8 systemd.unified_cgroup_hierarchy=1 systemd.log_color=0 ${APPEND-}"
accel=${ACCEL:-$("$here/accel.sh" "$kdir")}
busybox=$(static_busybox)
initrd "$@"
disk
mkfifo "$work/console"
boot </dev/null >"$work/console" 2>&1 &
qemu=$!
sed -u 's/\x1b[^a-zA-Z]*[a-zA-Z]//g; s/\r$//' <"$work/console" | tee "$work/log" | sed -u '/^GUEST-EXIT /d'
wait "$qemu" && ended=0 || ended=$?
status=$(sed -n 's/^GUEST-EXIT \([0-9]*\)$/\1/p' "$work/log" | tail -n 1)
[ -n "$status" ] || { echo "run.sh: the machine ended ($ended; 124: after $bound s) before the command did" >&2; status=125; }
exit "$status"
