# What can be made here. `make help` prints it.

GO ?= go
VERSION ?= $(shell git describe --tags --match 'v*' --dirty 2>/dev/null || echo v0.0.0)
LDFLAGS := -X main.version=$(VERSION)

# The product is pure Go; only the race detector needs cgo.
export CGO_ENABLED = 0

# What bench and compare start, where it is on PATH.
RUNTIMES ?= cri-box,containerd,cri-o

.DEFAULT_GOAL := help
.PHONY: install release help build check test soak test-race test-kubelet test-kubelet-all test-vm test-vm-all critest crictl bench compare demo clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/cri-box, one static binary
	@hack/setup.sh go
	$(GO) build -trimpath -ldflags '-s -w' -o cmd/cri-box/embedded/keeper ./cmd/keeper
	$(GO) build -trimpath -ldflags '-s -w $(LDFLAGS)' -o bin/cri-box ./cmd/cri-box

check: ## format, vet (amd64 and arm64), unit and golden tests: under 2 minutes
	@hack/setup.sh go
	@hack/parts.sh format vet vet-arm64 unit

test: ## every test; installs what it needs on Debian and Ubuntu
	@hack/setup.sh go test
	@hack/parts.sh format vet vet-arm64 build unit pods cri faults cli

test-race: ## the tests under the race detector, all but the child's interpreter
	@hack/setup.sh go race
	@hack/parts.sh race

test-kubelet: ## a real kubelet on cri-box, or on CONTAINERD=path; the first time builds it, 5 minutes
	@hack/setup.sh go test
	@hack/parts.sh kubelet-build kubelet

test-kubelet-all: ## likewise, with a node's worth of pods and the kubelet's image collection; and on Debian 12's kernel
	@hack/setup.sh go test vm
	@hack/parts.sh kubelet-build kubelet-all kubelet-vm kubelet-vm-systemd

test-vm: ## a selection on Debian 12's kernel in qemu: cgroup v2 only, without systemd and with it
	@hack/setup.sh go vm
	@hack/parts.sh vm vm-systemd

test-vm-all: ## all of it, also on kernel 6.12, on the newest one and on arm64: hours; KERNELS=sid for one
	@hack/setup.sh go vm
	@hack/parts.sh vm-all

soak: ## 10,000 pods, 100,000 commands, kills on the way; PODS= for fewer. An hour
	@hack/setup.sh go test
	@hack/parts.sh soak

critest: ## upstream's critest from $CRITEST or PATH; IMAGES=upstream for its own images
	@hack/setup.sh go critest
	@hack/parts.sh critest

crictl: ## crictl's verbs, every one, with the binary from $CRICTL or PATH
	@hack/setup.sh go test
	@hack/parts.sh crictl

bench: build ## measure cri-box, and containerd and CRI-O where they are on PATH; BENCH="-only cycles" for parts
	@hack/setup.sh go root test
	@PATH="$(CURDIR)/bin:$$PATH" $(GO) run ./test/bench -start $(RUNTIMES) $(BENCH)

compare: build ## the same beside Debian's containerd, and which CRI tests each passes: docs/compare.md
	@hack/setup.sh go root test peers
	@PATH="$(CURDIR)/bin:$$PATH" $(GO) run ./test/bench -start $(RUNTIMES) -only all -markdown docs/compare.md -svg docs/compare.svg $(BENCH)

demo: ## start a pod in a private instance, show how it is made, remove everything
	@hack/setup.sh go root
	@$(GO) run ./hack/demo

install: build ## install below PREFIX (/usr/local) and /etc; DESTDIR= for another root
	@hack/install.sh

release: ## packages and tarballs of VERSION for amd64 and arm64, in dist/
	@hack/setup.sh go
	@$(GO) run ./hack/release -version $(VERSION)

clean: ## remove what was built
	rm -rf bin dist test/kubelet/bin cmd/cri-box/embedded/keeper
