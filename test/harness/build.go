package harness

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// bin holds what this test process built; Main removes it.
var bin struct {
	sync.Mutex
	dir string
}

// Main runs a package's tests and removes what the harness built for them. Every
// package that uses the harness calls it from TestMain.
func Main(m *testing.M) {
	before := hostSnapshot()
	code := m.Run()
	if bin.dir != "" {
		os.RemoveAll(bin.dir)
	}
	// Others may make mounts and cgroups on this machine too, unless told otherwise.
	if os.Getenv("CRIBOX_ALONE") != "" {
		var left []string
		within(settleTime, func() bool { // the machine's own services come and go, too
			left = before.diff(hostSnapshot())
			return len(left) == 0
		})
		for _, line := range left {
			fmt.Println("LEFT ON THE HOST:", line)
			code = 1
		}
	}
	os.Exit(code)
}

// CriBox returns the product's path: $CRIBOX, or built once for this process.
func CriBox(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("CRIBOX"); path != "" {
		return path
	}
	if os.Getenv(prebuilt) != "" {
		return build(t, "cri-box", "./cmd/cri-box")
	}
	return product(t, "")
}

// NextCriBox returns the path of another build of the product, keeper and all.
func NextCriBox(t testing.TB) string {
	t.Helper()
	return product(t, "-next", "-ldflags=-s -w")
}

func product(t testing.TB, suffix string, flags ...string) string {
	t.Helper()
	flags = append(strings.Fields(os.Getenv("CRIBOX_BUILD_FLAGS")), flags...)
	keeper := build(t, "keeper"+suffix, "./cmd/keeper", flags...)
	return build(t, "cri-box"+suffix, "./cmd/cri-box", append(flags, "-overlay="+overlay(t, "cmd/cri-box/embedded/keeper", keeper))...)
}

// overlay returns a file that has go build find path, below the module's root,
// at another place: the tree is not written to.
func overlay(t testing.TB, path, at string) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(moduleRoot(), path): at}})
	if err != nil {
		t.Fatal(err)
	}
	file := at + ".overlay"
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Probe returns the path of the probe program, whose output is a state.State.
func Probe(t testing.TB) string {
	t.Helper()
	return build(t, "probe", "./test/probe", "-ldflags=-s -w -E=probe_entry")
}

// Workload returns the path of the program that containers run.
func Workload(t testing.TB) string {
	t.Helper()
	return build(t, "workload", "./test/workload", "-ldflags=-s -w")
}

// prebuilt names the directory with programs that were built before, for machines
// without Go: hack/vm/build.sh makes it.
const prebuilt = "CRIBOX_BIN"

// build builds a package into a file of that name, once per test process. With
// -race the product needs cgo; without it must do without.
func build(t testing.TB, name, pkg string, flags ...string) string {
	t.Helper()
	if dir := os.Getenv(prebuilt); dir != "" {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("$%s lacks a program; hack/vm/build.sh builds them: %v", prebuilt, err)
		}
		return path
	}
	bin.Lock()
	defer bin.Unlock()
	if bin.dir == "" {
		dir, err := os.MkdirTemp("", "cri-box-bin-")
		if err != nil {
			t.Fatal(err)
		}
		bin.dir = dir
	}
	path := filepath.Join(bin.dir, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", path, pkg)...)
	cmd.Dir = moduleRoot()
	cgo := "CGO_ENABLED=0"
	if len(flags) > 0 && flags[0] == "-race" {
		cgo = "CGO_ENABLED=1"
	}
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build %s: %v\n%s", pkg, err, out)
	}
	return path
}

// moduleRoot is where go.mod lies: two directories above this file.
func moduleRoot() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
