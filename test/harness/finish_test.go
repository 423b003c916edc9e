package harness

import (
	"os"
	"testing"
)

// recorder is a test that may fail without failing this one.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }

func TestLogsAreChecked(t *testing.T) {
	for text, want := range map[string]bool{
		"level=INFO msg=ready\n":                           false,
		"level=INFO msg=\"do not panic: all is well\"\n":   false,
		"level=INFO\npanic: oh\n\ngoroutine 1 [running]\n": true,
		"fatal error: concurrent map writes\n":             true,
		"==================\nWARNING: DATA RACE\nRead at":  true,
	} {
		i := prepare(t)
		r := &recorder{TB: t}
		i.T = r
		if err := os.WriteFile(i.Log(), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if i.checkLogs(); r.failed != want {
			t.Errorf("%q: failed %v, want %v", text, r.failed, want)
		}
	}
}
