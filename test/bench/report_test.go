package main

import (
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
