package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// run runs the product outside any instance and returns all it printed.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(harness.CriBox(t), args...).CombinedOutput()
	return string(out), err
}

// result is what a command of the instance gave.
type result struct {
	out, err string
	code     int
}

// cli runs a command against the instance.
func cli(i *harness.Instance, args ...string) result {
	i.T.Helper()
	cmd := i.Command(append([]string{"--state", i.State, "--config", config(i)}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		i.T.Fatal(err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// config writes the file that tells the commands where the instance is.
func config(i *harness.Instance) string {
	i.T.Helper()
	path := filepath.Join(i.T.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(fmt.Sprintf("root = %q\n", i.Root)), 0o644); err != nil {
		i.T.Fatal(err)
	}
	return path
}

// must fails the test unless the command went well.
func must(i *harness.Instance, args ...string) string {
	i.T.Helper()
	r := cli(i, args...)
	if r.code != 0 {
		i.T.Fatalf("cri-box %v: code %d\n%s%s", args, r.code, r.out, r.err)
	}
	return r.out
}

// TestRunForeground: from an image in a registry to a process and its exit code
// in one command, and nothing left of it.
func TestRunForeground(t *testing.T) {
	i := harness.New(t)
	ref := i.Push(busybox, harness.TestImage(t, busybox)) // not pulled: run does it
	host := t.TempDir()
	r := cli(i, "run", "--rm", "-e", "A=one two", "-v", host+":/data", "--memory", "64MiB", "--cpus", "0.5", "--user", "1000:2000", ref,
		"sh", "-c", "echo $A; id -u; id -g; echo problem >&2; exit 7")
	if r.out != "one two\n1000\n2000\n" || r.err != "problem\n" || r.code != 7 {
		t.Errorf("%+v", r)
	}
	if pods, dirs := must(i, "pods", "-o", "json"), glob(t, i.Root+"/run/*"); pods != "[]\n" || len(dirs) > 0 {
		t.Errorf("left: %s %v", pods, dirs)
	}
	r = cli(i, "run", "--rm", "-v", host+":/data:ro", ref, "sh", "-c", "echo x > /data/x")
	if r.code == 0 || !strings.Contains(r.err, "Read-only file system") {
		t.Errorf("a read-only volume: %+v", r)
	}
	r = cli(i, "run", "--rm", ref, "/no/such/program")
	if r.code != 1 || !strings.Contains(r.err, "/no/such/program") {
		t.Errorf("a program that is not there: %+v", r)
	}
	if pods := must(i, "pods", "-o", "json"); pods != "[]\n" {
		t.Errorf("left of the failure: %s", pods)
	}
}

// TestRunUserns: root in the container is somebody else on the host, but its own
// volume's root; another pod has other ids.
func TestRunUserns(t *testing.T) {
	i := harness.New(t)
	host := t.TempDir()
	seen := map[string]bool{}
	for _, name := range []string{"a", "b"} {
		out := must(i, "run", "--rm", "--name", name, "--userns", "-v", host+":/data", i.Image(busybox),
			"sh", "-c", "id -u; cat /proc/self/uid_map; echo x >/data/"+name)
		f := strings.Fields(out)
		if len(f) != 4 || f[0] != "0" || f[1] != "0" || f[2] == "0" || f[3] != "65536" {
			t.Fatalf("it printed %q", out)
		}
		seen[f[2]] = true
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Join(host, name), &st); err != nil || st.Uid != 0 || st.Gid != 0 {
			t.Errorf("a file of its volume is %d:%d's, %v", st.Uid, st.Gid, err)
		}
	}
	if len(seen) != 2 {
		t.Errorf("both have the range from %v", seen)
	}
}

// TestRunLimits: what the flags ask for stands in the cgroup.
func TestRunLimits(t *testing.T) {
	i := harness.New(t)
	id := strings.TrimSpace(must(i, "run", "-d", "--name", "web", "--memory", "64MiB", "--cpus", "0.5", i.Image(busybox), "sleep", "1000"))
	if !regexp.MustCompile("^[0-9a-f]{64}$").MatchString(id) {
		t.Fatalf("the id is %q", id)
	}
	var info struct {
		RuntimeSpec struct {
			Linux struct{ Resources json.RawMessage }
		}
	}
	if err := json.Unmarshal([]byte(inspect(i, id)), &info); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"limit":67108864`, `"quota":50000`, `"period":100000`} {
		if !strings.Contains(string(info.RuntimeSpec.Linux.Resources), want) {
			t.Errorf("no %s in %s", want, info.RuntimeSpec.Linux.Resources)
		}
	}
	must(i, "rm", "--force", "web")
}

// TestVerbs: list, log, exec, stop, and remove a container by its name.
func TestVerbs(t *testing.T) {
	i := harness.New(t)
	id := strings.TrimSpace(must(i, "run", "-d", "--name", "web", i.Image(busybox), "sh", "-c", "echo one; echo two >&2; echo three; exec sleep 1000"))
	i.Wait("the log", func() bool { return cli(i, "logs", "web").out == "one\nthree\n" })
	for what, got := range map[string][2]string{
		"errors of logs":    {cli(i, "logs", "web").err, "two\n"},
		"exec":              {must(i, "exec", "web", "sh", "-c", "echo in it"), "in it\n"},
		"exec by pod/name":  {must(i, "exec", "web/web", "echo", "-n", "x"), "x"},
		"exec by id":        {must(i, "exec", id[:8], "echo", "y"), "y\n"},
		"exec's exit code":  {fmt.Sprint(cli(i, "exec", "web", "sh", "-c", "echo out; echo err >&2; exit 9")), "{out\n err\n 9}"},
		"exec past timeout": {fmt.Sprint(cli(i, "exec", "--timeout", "1s", "web", "sleep", "100").code), "1"},
		"an unknown name":   {cli(i, "exec", "wbe", "true").err, "cri-box: there is no container \"wbe\"; `cri-box ps -a` lists them\n"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %q, wanted %q", what, got[0], got[1])
		}
	}
	table := must(i, "ps")
	if !regexp.MustCompile(`(?m)^` + id[:12] + `\s+web\s+127.0.0.1:5000/busybox:latest\s+running\s+\d+m?s\s+web$`).MatchString(table) {
		t.Errorf("ps prints\n%s", table)
	}
	if table := must(i, "pods"); !regexp.MustCompile(`web\s+cri-box-run\s+ready\s+\d+m?s\s+10\.88\.\d+\.\d+,fd63:`).MatchString(table) {
		t.Errorf("pods prints\n%s", table)
	}
	if r := cli(i, "rm", "web"); r.code != 1 || !strings.Contains(r.err, "stop it first, or use --force") {
		t.Errorf("removing what runs: %+v", r)
	}
	must(i, "stop", "-t", "0s", "web")
	if table := must(i, "ps"); strings.Contains(table, "web") {
		t.Errorf("stopped, ps prints\n%s", table)
	}
	if table := must(i, "ps", "-a"); !strings.Contains(table, "exited (137 Error)") {
		t.Errorf("stopped, ps -a prints\n%s", table)
	}
	must(i, "rm", "web")
	if table := must(i, "ps", "-a", "-o", "json"); table != "[]\n" {
		t.Errorf("removed, ps -a prints %s", table)
	}
}

// TestExecStreams: input, both outputs and the exit code of a command, and a
// terminal of its own.
func TestExecStreams(t *testing.T) {
	i := harness.New(t)
	must(i, "run", "-d", "--name", "web", i.Image(busybox), "sleep", "1000")
	exec := func(input string, args ...string) (r result) {
		cmd := i.Command(append([]string{"--state", i.State, "exec"}, args...)...)
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
		i.Node.Do(cmd.Run)
		return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
	}
	many := strings.Repeat("line of the input\n", 100_000)
	if r := exec(many, "-i", "web", "sh", "-c", "cat; echo problem >&2; exit 4"); r.out != many || r.err != "problem\n" || r.code != 4 {
		t.Errorf("%d bytes of output for %d, %q, code %d", len(r.out), len(many), r.err, r.code)
	}
	if r := exec("", "-t", "web", "sh", "-c", "test -t 0 && test -t 1 && echo terminal"); r.out != "terminal\r\n" || r.code != 0 {
		t.Errorf("with a terminal: %+v", r)
	}
	if r := exec("", "web", "sh", "-c", "head -c 17000000 /dev/zero; exit 5"); len(r.out) != 16_000_000 || r.code != 5 {
		t.Errorf("of more output than is kept, without -i: %d bytes, code %d, %q", len(r.out), r.code, r.err)
	}
	if r := exec("", "-i", "web", "/no/such"); r.code == 0 || !strings.Contains(r.err, "/no/such") {
		t.Errorf("what cannot run: %+v", r)
	}
	must(i, "rm", "--force", "web")
}

// TestRunStreams: input to a container and all of its output, and a terminal.
func TestRunStreams(t *testing.T) {
	i := harness.New(t)
	run := func(input string, args ...string) (r result) {
		cmd := i.Command(append([]string{"--state", i.State, "--config", config(i), "run", "--rm"}, args...)...)
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
		i.Node.Do(cmd.Run)
		return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
	}
	if r := run("to be sorted\nand\n", "-i", i.Image(busybox), "sh", "-c", "echo first; sort; exit 6"); r.out != "first\nand\nto be sorted\n" || r.code != 6 {
		t.Errorf("with input: %+v", r)
	}
	// What attaches sees what is written from then on: answer when something was seen.
	cmd := i.Command("--state", i.State, "--config", config(i), "run", "--rm", "-it", i.Image(busybox),
		"sh", "-c", "while :; do echo ready; if read -t 1 a; then break; fi; done; test -t 0 && echo terminal $a; exit 5")
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := i.Node.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	seen := make([]byte, len("ready\r\n"))
	if _, err := io.ReadFull(out, seen); err != nil || string(seen) != "ready\r\n" {
		t.Errorf("the terminal says %q, %v", seen, err)
	}
	io.WriteString(in, "x\n")
	rest, _ := io.ReadAll(out)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); !strings.HasSuffix(string(rest), "terminal x\r\n") || code != 5 {
		t.Errorf("with a terminal: code %d, %q", code, rest)
	}
	if pods := must(i, "pods", "-o", "json"); pods != "[]\n" {
		t.Errorf("left: %s", pods)
	}
}

// TestPublish: the port is reached from outside.
func TestPublish(t *testing.T) {
	i := harness.New(t)
	must(i, "run", "-d", "--name", "web", "-p", "8080:80", i.Image(busybox), "sh", "-c", "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www")
	var body string
	i.Wait("the web server", func() bool {
		resp, err := i.Outside.Client().Get("http://" + harness.NodeIPv4 + ":8080/")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		body = string(b)
		return err == nil
	})
	if body != "hello\n" {
		t.Errorf("it says %q", body)
	}
	must(i, "rm", "--force", "web")
}

// TestRunInterrupted: an interrupt stops the container, what it writes until its end
// is printed, and --rm removes it.
func TestRunInterrupted(t *testing.T) {
	i := harness.New(t)
	cmd := i.Command("--state", i.State, "--config", config(i), "run", "--rm", i.Image(busybox), "sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 3)
	if _, err := io.ReadFull(out, first); err != nil || string(first) != "up\n" {
		t.Fatalf("it printed %q, %v", first, err)
	}
	cmd.Process.Signal(syscall.SIGINT)
	if rest, err := io.ReadAll(out); err != nil || string(rest) != "bye\n" {
		t.Errorf("while it was stopped it printed %q, %v", rest, err)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("code %d", code)
	}
	if pods := must(i, "pods", "-o", "json"); pods != "[]\n" {
		t.Errorf("left: %s", pods)
	}
}

// TestRunInterruptedWhileMade: a pod that is being made when run is interrupted, by a
// network plugin that takes its time, is removed once it is made.
func TestRunInterruptedWhileMade(t *testing.T) {
	dir := t.TempDir()
	gate, calls := filepath.Join(dir, "gate"), filepath.Join(dir, "calls")
	plugin := `#!/bin/sh
[ "$CNI_COMMAND" = VERSION ] || echo "$CNI_COMMAND" >> ` + calls + `
while [ "$CNI_COMMAND" = ADD ] && [ -e ` + gate + ` ]; do sleep 0.02; done
echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"],"interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.1.1.1/24","interface":0}]}'
`
	for name, text := range map[string]string{"slow": plugin, "gate": "", "10-pods.conflist": `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"slow"}]}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	i := harness.New(t, harness.Args("--set", "network.mode=cni", "--set", "network.cni.conf_dir="+dir, "--set", "network.cni.bin_dirs=['"+dir+"']"))
	cmd := i.Command("--state", i.State, "--config", config(i), "run", "--rm", i.Image(busybox), "true")
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	i.Wait("ADD", func() bool { _, err := os.Stat(calls); return err == nil })
	cmd.Process.Signal(syscall.SIGINT)
	first := make([]byte, len("cri-box: "))
	if _, err := io.ReadFull(said, first); err != nil {
		t.Error(err)
	}
	if err := os.Remove(gate); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(said)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(rest), "interrupted") {
		t.Errorf("code %d, %q", code, rest)
	}
	if made, err := os.ReadFile(calls); err != nil || string(made) != "ADD\nDEL\n" {
		t.Errorf("the plugin was called for %q, %v", made, err)
	}
	if pods, dirs := must(i, "pods", "-o", "json"), glob(t, i.Root+"/run/*"); pods != "[]\n" || len(dirs) > 0 {
		t.Errorf("left: %s %v", pods, dirs)
	}
}

// TestFollow: what is written while a log is followed is printed, over a
// rotation, until the container ends.
func TestFollow(t *testing.T) {
	i := harness.New(t)
	pod := i.RunPod()
	c := pod.Run("c", i.Image(busybox), []string{"sh", "-c", "for n in $(seq 2000); do echo line $n; done; until [ -e /go ]; do sleep 0.02; done; echo after"})
	cmd := i.Command("--state", i.State, "logs", "-f", c.ID)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for n := range 2000 {
		fmt.Fprintf(&want, "line %d\n", n+1)
	}
	begin := make([]byte, want.Len())
	if _, err := io.ReadFull(out, begin); err != nil || string(begin) != want.String() {
		t.Errorf("%v; it begins %.100q", err, begin)
	}
	if err := os.Rename(c.LogPath(), c.LogPath()+".1"); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Runtime.ReopenContainerLog(i.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: c.ID}); err != nil {
		t.Fatal(err)
	}
	c.MustExec("touch", "/go")
	rest, err := io.ReadAll(out)
	if err != nil || string(rest) != "after\n" {
		t.Errorf("%v; it ends %q", err, rest)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	list, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return list
}
