package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const stamp = "2026-01-02T03:04:05.000000006Z"

func readLog(t *testing.T, text string, tail int, times bool) (stdout, stderr string, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := openLog(path, logOptions{times: times})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if err := f.skip(tail); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	_, err = f.copy(&out, &errs)
	return out.String(), errs.String(), err
}

func TestLogLines(t *testing.T) {
	text := stamp + " stdout F one\n" + stamp + " stderr F problem\n" + stamp + " stdout P lo\n" + stamp + " stdout P ng\n" + stamp + " stdout F  line \n" + stamp + " stdout F not yet whole"
	out, errs, err := readLog(t, text, -1, false)
	if out != "one\nlong line \n" || errs != "problem\n" || err != nil {
		t.Errorf("%q %q %v", out, errs, err)
	}
	if out, _, _ := readLog(t, text, -1, true); out != stamp+" one\n"+stamp+" long line \n" {
		t.Errorf("with times: %q", out)
	}
	parts := stamp + " stdout P the begin of a line \n" + stamp + " stdout F and its end\n" + stamp + " stdout F with a P.\n" + stamp + " stdout F last\n"
	if out, _, _ := readLog(t, parts, -1, true); out != stamp+" the begin of a line and its end\n"+stamp+" with a P.\n"+stamp+" last\n" {
		t.Errorf("parts with times: %q", out)
	}
	if _, _, err := readLog(t, "no log at all\n", -1, false); err == nil || !strings.Contains(err.Error(), "no line of a container's log") {
		t.Errorf("a strange file: %v", err)
	}
	long := strings.Repeat("x", maxPending/2)
	if out, _, err := readLog(t, stamp+" stdout F "+long+"\n", -1, false); out != long+"\n" || err != nil {
		t.Errorf("a long line: %d bytes, %v", len(out), err)
	}
	if _, _, err := readLog(t, stamp+" stdout F "+long+long+long, -1, false); err == nil {
		t.Error("a line without end was taken")
	}
}

func TestTail(t *testing.T) {
	var text strings.Builder
	for n := range 5000 {
		fmt.Fprintf(&text, "%s stdout F %d\n", stamp, n)
	}
	for tail, want := range map[int]string{0: "", 1: "4999\n", 3: "4997\n4998\n4999\n"} {
		if out, _, err := readLog(t, text.String(), tail, false); out != want || err != nil {
			t.Errorf("the last %d: %q, %v", tail, out, err)
		}
	}
	for _, tail := range []int{4999, 5000, 6000, math.MaxInt} {
		if out, _, _ := readLog(t, text.String(), tail, false); strings.Count(out, "\n") != min(tail, 5000) {
			t.Errorf("the last %d: %d lines", tail, strings.Count(out, "\n"))
		}
	}
}

// TestRotatedLog: the new file is there before the last line of the old one is; none
// is lost.
func TestRotatedLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write := func(f *os.File, text string) { fmt.Fprintf(f, "%s stdout F %s\n", stamp, text) }
	create := func() *os.File {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	before := create()
	f, err := openLog(path, logOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	var out bytes.Buffer
	look := func() {
		if _, err := f.copy(&out, &out); err != nil {
			t.Fatal(err)
		}
	}
	rotated := func() {
		if _, err := f.rotated(&out, &out); err != nil {
			t.Fatal(err)
		}
	}
	write(before, "one")
	look()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	after := create()
	rotated() // its first line is still to come, and so may be the last of the other
	look()
	write(before, "two")
	look()
	write(before, "three")
	write(after, "four")
	rotated()
	look()
	if out.String() != "one\ntwo\nthree\nfour\n" {
		t.Errorf("%q", out.String())
	}
}
