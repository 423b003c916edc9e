package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestQuantile(t *testing.T) {
	v := []float64{5, 1, 4, 2, 3}
	for percent, want := range map[int]float64{0: 1, 50: 3, 90: 5, 99: 5, 100: 5} {
		if got := quantile(v, percent); got != want {
			t.Errorf("quantile %d is %v, want %v", percent, got, want)
		}
	}
	if quantile(nil, 50) != 0 {
		t.Error("of no samples")
	}
}

func TestReportHasRatios(t *testing.T) {
	var l endpoints
	for _, v := range []string{"a=/a.sock", "b=unix:///b.sock,^b "} {
		if err := l.Set(v); err != nil {
			t.Fatal(err)
		}
	}
	if l.Set("nothing") == nil {
		t.Error("an endpoint without a socket is taken")
	}
	l[0].add("pod up", 2)
	l[1].add("pod up", 50)
	var out strings.Builder
	l.print(&out)
	if !strings.Contains(out.String(), "25 [25–25]") || l[1].socket != "/b.sock" {
		t.Errorf("report\n%s", out.String())
	}
}

// A run in pieces: what an earlier one measured stays, what is measured again is new.
func TestAddEarlier(t *testing.T) {
	pair := func() endpoints {
		var l endpoints
		for _, v := range []string{"a=/a.sock", "b=/b.sock"} {
			if err := l.Set(v); err != nil {
				t.Fatal(err)
			}
		}
		l[0].version, l[1].version = "a 1", "b 2"
		return l
	}
	before := pair()
	before[0].add("pod up", 2)
	before[1].add("pod up", 50)
	before[0].add("ExecSync", 1)
	before[0].behaviour = map[string]string{"TestTTY": "passes", "TestLog": "fails"}
	text, err := json.Marshal(before.samples())
	if err != nil {
		t.Fatal(err)
	}

	now := pair()
	now[0].add("ExecSync", 3)
	now[0].behaviour = map[string]string{"TestLog": "passes"}
	if err := now.add(text); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	now.print(&out)
	if got := now.rows(); !slices.Equal(got, []string{"pod up", "ExecSync"}) || now[0].results["ExecSync"][0] != 3 ||
		!strings.Contains(out.String(), "25 [25–25]") || now[0].behaviour["TestTTY"] != "passes" || now[0].behaviour["TestLog"] != "passes" {
		t.Errorf("rows %q, report\n%s", got, out.String())
	}

	other := pair()
	other[1].version = "b 3"
	for name, err := range map[string]error{
		"another version": other.add(text), "an endpoint less": pair()[:1].add(text), "no run": now.add([]byte("[]")),
		"another machine": now.add(bytes.Replace(text, []byte("kernel"), []byte("colonel"), 1)),
	} {
		if err == nil {
			t.Errorf("%s: the earlier run is taken", name)
		}
	}
}
