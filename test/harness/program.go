package harness

import "testing"

// Program builds a package of this tree into a static program of that name, once
// per test process, and returns its path.
func Program(t testing.TB, name, pkg string) string {
	t.Helper()
	return build(t, name, pkg, "-trimpath", "-ldflags=-s -w")
}

// Tree is the directory with go.mod.
func Tree() string { return moduleRoot() }
