#!/bin/sh
# Builds what run.sh runs inside: build.sh PACKAGE... makes bin/vm/<name>.test of
# each, and bin/vm/programs, which test/harness takes by CRIBOX_BIN. TARGET=arm64
# builds for that and into bin/vm/arm64.
set -eu
cd "$(dirname "$0")/../.."
go=${GO:-go}
export CGO_ENABLED=0 GOARCH="${TARGET:-$(go env GOARCH)}" GOOS=linux
out=bin/vm
[ -z "${TARGET-}" ] || out=bin/vm/$TARGET
mkdir -p "$out/programs"

# product builds daemon and keeper; a suffix is another build, to which tests upgrade.
product() {
	suffix=$1 flags=$2
	$go build -trimpath -ldflags "$flags" -o "$out/programs/keeper$suffix" ./cmd/keeper
	overlay=$out/programs/overlay$suffix.json
	printf '{"Replace": {"%s": "%s"}}\n' "$PWD/cmd/cri-box/embedded/keeper" "$PWD/$out/programs/keeper$suffix" >"$overlay"
	$go build -trimpath -ldflags "$flags" -overlay "$overlay" -o "$out/programs/cri-box$suffix" ./cmd/cri-box
}

programs() {
	product '' '-s -w'
	product -next -w
	$go build -ldflags '-s -w -E=probe_entry' -o "$out/programs/probe" ./test/probe
	$go build -ldflags '-s -w' -o "$out/programs/workload" ./test/workload
	$go build -trimpath -ldflags '-s -w' -o "$out/programs/applets" ./test/critest/applets
}

programs
for package in "$@"; do
	$go -C "$package" test -c -o "$PWD/$out/$(basename "$package").test" . # test/kubelet is a module of its own
done
