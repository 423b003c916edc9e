package cli_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
)

// TestRunOfATakenName: whatever is asked for, a pod that has the name stays as it is,
// with its log, as long as it runs and after it has ended.
func TestRunOfATakenName(t *testing.T) {
	i := harness.New(t)
	ref := i.Image(busybox)
	loop := []string{ref, "sh", "-c", "echo first; exec sleep 1000"}
	taken := func(args ...string) {
		t.Helper()
		r := cli(i, append([]string{"run", "--name", "web"}, args...)...)
		if r.code != 1 || !strings.Contains(r.err, `cannot run "web": there is a pod of that name`) || !strings.Contains(r.err, "cri-box rm --force --pod cri-box-run/web") {
			t.Errorf("run %v: %+v", args, r)
		}
		if log := cli(i, "logs", "web"); log.out != "first\n" {
			t.Fatalf("after run %v the first one's log is %+v", args, log)
		}
	}
	id := strings.TrimSpace(must(i, append([]string{"run", "-d", "--name", "web"}, loop...)...))
	i.Wait("the log", func() bool { return cli(i, "logs", "web").out == "first\n" })
	taken(append([]string{"-d"}, loop...)...)
	taken(append([]string{"--rm"}, loop...)...)
	taken("--rm", ref, "true")
	taken("--rm", "-p", "8080:80", ref, "true")
	if out := must(i, "ps"); !strings.Contains(out, id[:12]) || !strings.Contains(out, "running") {
		t.Errorf("the first one is not there: %s", out)
	}
	must(i, "stop", "-t", "0s", "--pod", "web")
	taken("--rm", ref, "true")
	must(i, "rm", "--force", "--pod", "cri-box-run/web")
}

// TestStopBelowASecond: a grace is never cut down to none.
func TestStopBelowASecond(t *testing.T) {
	i := harness.New(t)
	must(i, "run", "-d", "--name", "slow", i.Image(busybox), "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
	i.Wait("it to be up", func() bool { return cli(i, "logs", "slow").out == "up\n" })
	began := time.Now()
	must(i, "stop", "-t", "900ms", "slow")
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("it had %v to end", took)
	}
	if out := must(i, "ps", "-a"); !strings.Contains(out, "exited (137 Error)") {
		t.Errorf("it runs on: %s", out)
	}
	must(i, "rm", "slow")
}

// TestExecToAFullDisk: output that could not be written is no success.
func TestExecToAFullDisk(t *testing.T) {
	i := harness.New(t)
	must(i, "run", "-d", "--name", "web", i.Image(busybox), "sleep", "1000")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var errs strings.Builder
	cmd := i.Command("--state", i.State, "exec", "web", "echo", "precious")
	cmd.Stdout, cmd.Stderr = full, &errs
	cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(errs.String(), "no space left on device") {
		t.Errorf("code %d, %q", code, errs.String())
	}
	must(i, "rm", "--force", "web")
}

// TestEveryName: of several names those that can be are stopped and removed, whatever
// is wrong with the others, and all of that is told.
func TestEveryName(t *testing.T) {
	i := harness.New(t)
	ref := i.Image(busybox)
	ids := ""
	for _, name := range []string{"a", "b"} {
		ids += must(i, "run", "-d", "--name", name, ref, "sleep", "1000")
	}
	for _, verb := range [][]string{{"stop", "-t", "0s"}, {"rm"}} {
		r := cli(i, append(verb, "none", "a", "nobody", "b")...)
		if r.code != 1 || r.out != ids || !strings.Contains(r.err, `no container "none"`) || !strings.Contains(r.err, `no container "nobody"`) {
			t.Errorf("%v: %+v", verb, r)
		}
	}
	if out := must(i, "pods", "-o", "json"); out != "[]\n" {
		t.Errorf("left: %s", out)
		must(i, "rm", "--force", "a", "b")
	}
}
