package harness

import (
	"os"
	"path/filepath"
	"testing"
)

// Unit returns an instance that somebody else starts and stops, such as systemd,
// in the test's own network namespace. Nothing is removed or checked at the end.
func Unit(t testing.TB, dir string) *Instance {
	t.Helper()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	i := &Instance{T: t, Dir: dir, State: filepath.Join(dir, "state"), Root: filepath.Join(dir, "root"), Node: &Net{own, "own"}}
	i.Name = instanceName(i.State)
	i.pulled = map[string]string{}
	return i
}

// Reconnect dials anew, after serve was started.
func (i *Instance) Reconnect() {
	i.T.Helper()
	if i.conn != nil {
		i.conn.Close()
	}
	i.dial()
}
