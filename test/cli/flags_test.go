package cli_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// TestRunFlags: each flag of run has the effect in the container that it names.
func TestRunFlags(t *testing.T) {
	i := harness.New(t)
	ref := i.Image(busybox)
	node := func(kind string) string { return harness.Namespace(i.PID(), kind) }
	t.Setenv("OURS", "from outside")
	for _, c := range []struct {
		flags        []string
		script, want string
	}{
		{[]string{"-e", "A=b c", "-e", "OURS"}, "echo $A; echo $OURS", "b c\nfrom outside"},
		{[]string{"--user", "1000:2000"}, "id -u; id -g", "1000\n2000"},
		{[]string{"--workdir", "/tmp/deep"}, "pwd", "/tmp/deep"},
		{[]string{"--name", "named"}, "hostname", "named"},
		{[]string{"--pid", "host"}, "readlink /proc/self/ns/pid; test -d /proc/" + fmt.Sprint(i.PID()) + " && echo sees", node("pid") + "\nsees"},
		{[]string{"--network", "host"}, "readlink /proc/self/ns/net", node("net")},
		{[]string{"--privileged"}, "grep -c 'CapEff:.*a80425fb' /proc/self/status; ls -d /dev/kmsg", "0\n/dev/kmsg"},
		{nil, "grep -c 'CapEff:.*a80425fb' /proc/self/status; grep Seccomp: /proc/self/status", "1\nSeccomp:\t2"},
	} {
		r := cli(i, append(append([]string{"run", "--rm"}, c.flags...), ref, "sh", "-c", c.script)...)
		if strings.TrimSpace(r.out) != c.want {
			t.Errorf("run %q: %+v, want %q", c.flags, r, c.want)
		}
	}
	for kind, script := range map[string]string{"pid": "pid", "net": "net"} {
		if out := must(i, "run", "--rm", ref, "readlink", "/proc/self/ns/"+script); strings.TrimSpace(out) == node(kind) {
			t.Errorf("without flags its %s namespace is the node's", kind)
		}
	}
	for flag, value := range map[string]string{"--pid": "pod", "--network": "none", "--memory": "much", "-p": "80", "-v": "nothing", "-e": "=x", "--name": "a/b"} {
		if r := cli(i, "run", flag, value, ref, "true"); r.code != 1 || !strings.HasPrefix(r.err, "cri-box: cannot ") {
			t.Errorf("run %s %s: %+v", flag, value, r)
		}
	}
}

// TestRunLimitsInTheKernel: --memory and --cpus stand in the control group's files.
func TestRunLimitsInTheKernel(t *testing.T) {
	i := harness.New(t)
	id := strings.TrimSpace(must(i, "run", "-d", "--name", "small", "--memory", "64MiB", "--cpus", "0.5", i.Image(busybox), "sleep", "1000"))
	for _, want := range [][]string{
		{"memory/*/*/" + id + "/memory.limit_in_bytes=67108864", "cpu/*/*/" + id + "/cpu.cfs_quota_us=50000"},
		{"*/*/" + id + "/memory.max=67108864", "*/*/" + id + "/cpu.max=50000 100000"},
	} {
		found := 0
		for _, w := range want {
			pattern, value, _ := strings.Cut(w, "=")
			for _, path := range glob(t, filepath.Join("/sys/fs/cgroup", pattern)) {
				if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) == value {
					found++
				}
			}
		}
		if found == len(want) {
			must(i, "rm", "--force", "small")
			return
		}
	}
	t.Error("neither cgroup v1 nor v2 has both limits")
	must(i, "rm", "--force", "small")
}

// TestEvents: what happens to pods and containers is printed as it happens, for
// people and for programs.
func TestEvents(t *testing.T) {
	i := harness.New(t)
	ref := i.Image(busybox)
	read := func(args ...string) (*bufio.Scanner, func()) {
		cmd := i.Command(append([]string{"--state", i.State, "events"}, args...)...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return bufio.NewScanner(out), func() {
			cmd.Process.Signal(os.Interrupt)
			if err := cmd.Wait(); err != nil {
				t.Errorf("events, interrupted: %v", err)
			}
		}
	}
	people, endPeople := read()
	programs, endPrograms := read("-o", "json")
	// Whoever asks is told of what happens from then on: pods come until both tell.
	stop, stopped, file := make(chan struct{}), make(chan struct{}), config(i)
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				i.Command("--state", i.State, "--config", file, "run", "--rm", "--name", "seen", ref, "true").Run()
			}
		}
	}()
	for _, kind := range []string{"created ", "started ", "stopped ", "deleted "} {
		for people.Scan() && !(strings.Contains(people.Text(), "  "+kind) && strings.Contains(people.Text(), "  seen")) {
		}
		if !strings.Contains(people.Text(), kind) {
			t.Errorf("no %s in the events: %q", kind, people.Text())
		}
	}
	for kinds := map[string]bool{}; len(kinds) < 3; {
		if !programs.Scan() {
			t.Fatalf("the events ended after %v", kinds)
		}
		var e struct{ ContainerID, ContainerEventType string }
		if err := json.Unmarshal(programs.Bytes(), &e); err != nil || len(e.ContainerID) != 64 {
			t.Fatalf("%v in %s", err, programs.Text())
		}
		kinds[e.ContainerEventType] = true
	}
	close(stop)
	<-stopped
	endPeople()
	endPrograms()
}
