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

programs() {
	$go build -trimpath -ldflags '-s -w' -o "$out/programs/keeper" ./cmd/keeper
	overlay=$out/programs/overlay.json
	printf '{"Replace": {"%s": "%s"}}\n' "$PWD/cmd/cri-box/embedded/keeper" "$PWD/$out/programs/keeper" >"$overlay"
	$go build -trimpath -ldflags '-s -w' -overlay "$overlay" -o "$out/programs/cri-box" ./cmd/cri-box
	$go build -ldflags '-s -w -E=probe_entry' -o "$out/programs/probe" ./test/probe
	$go build -ldflags '-s -w' -o "$out/programs/workload" ./test/workload
	$go build -trimpath -ldflags '-s -w' -o "$out/programs/applets" ./test/critest/applets
}

programs
for package in "$@"; do
	$go -C "$package" test -c -o "$PWD/$out/$(basename "$package").test" . # test/kubelet is a module of its own
done
