# What the machine runs once its root file system is there: mounts what an init
# mounts, unless systemd is init, and then the command.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root CRIBOX_SLOW=10
. /.vm/settings.sh

mounts() {
	mkdir -p /dev/pts /dev/shm /dev/mqueue
	mount -t devpts devpts /dev/pts
	mount -t tmpfs tmpfs /dev/shm
	mount -t mqueue mqueue /dev/mqueue
	mount -t tmpfs tmpfs /run
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	mount -t securityfs securityfs /sys/kernel/security
	mount -t bpf bpf /sys/fs/bpf
	mount --make-rshared /
	ip link set lo up
	hostname vm
}

swap() {
	dd if=/dev/zero of=/tmp/.swap bs=1M count=128 && chmod 600 /tmp/.swap && mkswap /tmp/.swap && swapon /tmp/.swap
}

[ "$init" = systemd ] || mounts
modprobe -q fuse # nobody else makes /dev/fuse
# systemd leaves that out where the root file system looks like a container's.
[ -d /sys/kernel/security/apparmor ] || mount -t securityfs securityfs /sys/kernel/security
# A kubelet outside makes and removes it meanwhile, below the layer on top.
mkdir -p /var/lib/kubelet && mount -t tmpfs tmpfs /var/lib/kubelet
ulimit -n 1048576
swap >/dev/null 2>&1
cd "$dir" 2>/dev/null || cd /
(. /.vm/command.sh)
status=$?
printf '\nGUEST-EXIT %d\n' "$status"
sync
echo o >/proc/sysrq-trigger
while :; do sleep 1; done # process 1 must not end
