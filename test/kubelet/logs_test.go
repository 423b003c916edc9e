package kubelet_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	v1 "k8s.io/api/core/v1"
)

func init() {
	scenarios["log rotation"] = logRotation
}

// logRotation renames the log of a container that goes on writing: 16 MB in
// files of about 1 MiB, and no line is lost, torn or told twice. An emulated
// machine, which writes slowly, writes 4 MB.
func logRotation(t *testing.T, n *Node) {
	rounds, lines := 160, 1000
	if prebuilt() {
		rounds = 40
	}
	script := fmt.Sprintf("i=0; while [ $i -lt %d ]; do /bin/workload write-lines %d 100; i=$((i+1)); sleep 0.1; done", rounds, lines)
	p := n.run(t, v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{sh("c", script)}})
	pod := p.until("the end", func(pod *v1.Pod) bool { return pod.Status.Phase == v1.PodSucceeded })
	var all []harness.LogLine
	var files int
	n.wait(t, "all lines", func() (ok bool) { // the kubelet may be packing one just now, and has it twice for a moment
		all, files = p.rotated(pod, "c")
		return len(all) == rounds*lines
	})
	for i, l := range all {
		if want := fmt.Sprintf("%d ", i%lines); !strings.HasPrefix(l.Text, want) || len(l.Text) != 99 {
			t.Fatalf("line %d is %.20q with %d bytes; it should begin with %q and have 99", i, l.Text, len(l.Text), want)
		}
	}
	if files < 3 {
		t.Errorf("%d log files: it was not rotated under load", files)
	}
}

// rotated reads a container's log files, the oldest first: 0.log.TIME.gz,
// 0.log.TIME, 0.log.
func (p *Pod) rotated(pod *v1.Pod, name string) (lines []harness.LogLine, files int) {
	dir := filepath.Join(p.Dir, "podlogs", fmt.Sprintf("default_%s_%s", p.Name, pod.UID), name)
	names, _ := filepath.Glob(filepath.Join(dir, "0.log.*"))
	slices.Sort(names)
	for _, name := range append(names, filepath.Join(dir, "0.log")) {
		text, err := readMaybePacked(name)
		if err != nil {
			return nil, 0
		}
		more, err := harness.ParseLog(text)
		if err != nil {
			return nil, 0
		}
		lines = append(lines, more...)
	}
	if p.peer != nil { // it tears a line in two when its file is changed
		lines = joined(lines)
	}
	return lines, len(names) + 1
}

// joined puts lines together that say that they go on.
func joined(lines []harness.LogLine) (whole []harness.LogLine) {
	for i, l := range lines {
		if i > 0 && !lines[i-1].Full {
			whole[len(whole)-1].Text += l.Text
			continue
		}
		whole = append(whole, l)
	}
	return whole
}

func readMaybePacked(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(name, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return "", err
		}
	}
	text, err := io.ReadAll(r)
	return string(text), err
}
