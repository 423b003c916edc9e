#!/bin/sh
# Runs the named parts one after the other, all of them even when one fails, and
# ends with a table of results and times.
set -u
cd "$(dirname "$0")/.."
go=${GO:-go}

# Packages whose tests start the whole product; everything else is a unit.
whole='/test/(systemd|pods|stats|faults|powercut|model|soak|critest|critest/upstream|cli|crictl|docs|install)$'
# The child's interpreter runs between clone and execve, outside the Go runtime:
# the race detector has no business there.
interpreter='/oci/program$'

part_format() {
	bad=$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l)
	[ -z "$bad" ] || { echo "not formatted:" && echo "$bad" && return 1; }
}
# The kubelet's module follows this one's: go mod tidy there when this part says so.
part_vet() { $go vet ./... && (cd test/kubelet && $go list -m all >/dev/null); }
part_vet_arm64() { GOARCH=arm64 $go vet ./...; }
part_build() { make --no-print-directory build; }
part_unit() { $go test -count=1 $($go list ./... | grep -Ev "$whole"); }
part_cri() { CRIBOX_ALONE=${ALONE-} $go test -count=1 -timeout 10m ./test/critest; }
part_pods() { CRIBOX_ALONE=${ALONE-} $go test -count=1 -timeout 10m -p 1 ./test/pods ./test/stats; }
part_faults() { CRIBOX_ALONE=${ALONE-} $go test -count=1 -timeout 10m -p 1 ./test/faults ./test/powercut ./test/model ./test/soak; }
part_soak() { CRIBOX_SOAK_PODS="${PODS:-10000}" CRIBOX_SOAK_KILLS=100 $go test -v -count=1 -timeout 3h ./test/soak; }
part_cli() { CRIBOX_ALONE=${ALONE-} $go test -count=1 -p 1 -timeout 10m ./test/cli ./test/docs ./test/install; }
# A module of its own, so that the product's stays small: hence the change of directory.
# Vetting its main too would compile the whole kubelet a second time.
part_kubelet_build() { (cd test/kubelet && $go vet . && $go test -count=1 -timeout 60m -run TestKubeletBuilds .); }
part_kubelet() { kubelet_tests 10m -skip 'TestManyPods|TestImageGarbage|TestKubeletBuilds'; }
part_kubelet_all() { kubelet_tests 40m; }
# $CONTAINERD, the path of a containerd 2, takes cri-box's place.
kubelet_tests() {
	timeout=$1 && shift
	(cd test/kubelet && CRIBOX_ALONE=${ALONE-} $go test -count=1 -timeout "$timeout" "$@" .)
}
# The same on Debian 12's kernel with cgroup v2 alone: by directories, and with systemd as
# init by slices and scopes. Not in it is what takes a node's worth of pods or minutes of waiting.
part_kubelet_vm() { kubelet_vm; }
part_kubelet_vm_systemd() { (export INIT=systemd && kubelet_vm); }
kubelet_vm() { part_kubelet_build && BOUND=7200 hack/vm/test.sh 'test/kubelet:^TestPods$' "test/kubelet:$beside_pods"; }
beside_pods='^Test(APIPods|Credentials|DocumentedConfiguration|Eviction|MetricsFromCRI|NetworkPlugins|Reboot|Restarts)$'
# Both ways to stream; RUNS says how often, each time in another order.
part_critest() {
	mkdir -p bin/critest
	$go test -v -count="${RUNS:-1}" -timeout $((60 * ${RUNS:-1}))m -artifacts -outputdir bin/critest ./test/critest/upstream
}
# Debian's own kernels, in qemu: what the machine at hand does not have.
# The network's two are what other kernels may lack: SCTP, and kube-proxy's IPVS.
part_vm() {
	BOUND=1800 hack/vm/test.sh oci/cgroup oci/mount oci:TestDiskCount \
		'network/routed:Test(Contract|ServicesByIPVS)/(SCTP|tcp|udp)' network/cni:TestContract/SCTP \
		"test/pods:^($containers|TestCgroupView|TestTargetJoins|TestProbe(Privileged|TTY)|TestEndWithoutKeeper|TestAppArmor|TestUserNamespaceProbe)\$" \
		'test/streams:^Test(ExecClientGoes|UserNamespaceStreams)$' 'test/stats:^Test(Memory|PodStats)$'
}
part_vm_systemd() { INIT=systemd BOUND=1800 hack/vm/test.sh 'test/systemd:^Test(Unit|Scopes|ShortPods)$' "test/pods:^$containers\$"; }
# With either driver of control groups.
containers='Test(ExecSync|OOMKilled|MemoryLimit|UpdateSurvivesRestart|SharedPID|ServeKilled|PodCgroupParent|CgroupNames)'
# Every package that makes containers or control groups, whole, on each kernel and with
# either driver: two machines side by side, with one thread each, as long as there are two.
part_vm_all() {
	status=0
	hack/vm/build.sh ./test/systemd ./oci/cgroup $(for one in $on_kernels; do echo "./${one%%:*}"; done) || return 1
	rm -f bin/vm/failed-*
	machines | { vm_queue <&3 & vm_queue <&3 & wait; } 3<&0
	[ -z "$(ls bin/vm/failed-* 2>/dev/null)" ] || status=1
	BOUND=3600 hack/vm/arm64.sh || status=1
	return $status
}
machines() {
	for kernel in ${KERNELS:-6.1 6.12 sid}; do
		echo "$kernel systemd test/systemd"
		echo "$kernel script oci/cgroup"
	done
}
vm_queue() { while read -r machine; do vm_whole $machine </dev/null; done; }
on_kernels='oci oci/mount oci/podinit network/netns network/routed test/pods test/streams test/stats test/critest test/faults test/model test/powercut:TestBlockCut'
# vm_whole KERNEL INIT PACKAGE tests that package and all of on_kernels; each line says where.
vm_whole() {
	{ KERNEL=$1 INIT=$2 BUILT=1 THREAD=single BOUND=14400 hack/vm/test.sh "$3" $on_kernels 2>&1 || : >"bin/vm/failed-$1-$2"; } | sed -u "s/^/$1 $2: /"
}
part_crictl() { CRIBOX_ALONE=${ALONE-} $go test -count=1 -timeout 10m ./test/crictl; }
# The daemon is some ten times slower under the race detector; RACE=units leaves
# out what starts it or other programs and waits for them.
part_race() {
	export CGO_ENABLED=1 CRIBOX_BUILD_FLAGS=-race
	out="$interpreter|/test/(critest/upstream|crictl)\$"
	[ "${RACE-all}" = all ] || out="$out|/test/|/network/(cni|mode)\$"
	$go test -race -count=1 -timeout 20m $($go list ./... | grep -Ev "$out")
}

now() { date +%s; }

failed=0
table=
for name in "$@"; do
	printf '== %s\n' "$name"
	start=$(now)
	if "part_$(echo "$name" | tr - _)"; then result=ok; else result=FAILED failed=1; fi
	table="$table$(printf '%-12s %-7s %4d s' "$name" "$result" "$(($(now) - start))")
"
done
printf '\n%s' "$table"
exit $failed
