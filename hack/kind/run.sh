#!/bin/sh
# Makes a kind cluster whose node runs cri-box, runs critest in the node, and takes
# the cluster away again. Needs docker, kind, and a static critest in $CRITEST.
#
#   CRITEST=/path/to/critest hack/kind/run.sh [FLAG OF CRITEST...]
#
# KEEP=1 leaves the cluster for a look: docker exec -it cri-box-control-plane crictl pods
set -eu
cd "$(dirname "$0")/../.."
cluster=cri-box
node=$cluster-control-plane
socket=unix:///run/cri-box/cri-box.sock

die() {
	printf '%s\n' "$@" >&2
	exit 1
}

for program in docker kind; do
	command -v $program >/dev/null || die "cannot run critest in kind: $program is not installed"
done
[ -x "${CRITEST-}" ] || die "cannot run critest in kind: CRITEST names no program; its releases are at https://github.com/kubernetes-sigs/cri-tools/releases"

make build
docker build -f hack/kind/Dockerfile -t cri-box/node .
[ "${KEEP-}" = 1 ] || trap 'kind delete cluster --name $cluster' EXIT
kind create cluster --name $cluster --config hack/kind/kind.yaml --wait 5m
docker cp "$CRITEST" "$node:/usr/local/bin/critest"
docker exec "$node" critest -runtime-endpoint=$socket "$@"
