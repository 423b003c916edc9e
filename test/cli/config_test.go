// Package cli_test proves what the command line and the configuration do: the
// real program, started as a person or a unit file does.
package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMain(m *testing.M) { harness.Main(m) }

const busybox = "busybox"

// configuration is what Status tells about it.
type configuration struct {
	Files       []string
	Result      string
	NeedRestart []string
	Values      map[string]string
}

func status(i *harness.Instance) configuration {
	i.T.Helper()
	resp, err := i.Runtime.Status(i.Context(), &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		i.T.Fatal(err)
	}
	var c configuration
	if err := json.Unmarshal([]byte(resp.Info["configuration"]), &c); err != nil {
		i.T.Fatalf("%v in %q", err, resp.Info["configuration"])
	}
	return c
}

// reload writes the configuration file and sends SIGHUP until Status tells of it.
func reload(i *harness.Instance, text string, done func(configuration) bool) configuration {
	i.T.Helper()
	if err := os.WriteFile(filepath.Join(i.Dir, "config.toml"), []byte(text), 0o644); err != nil {
		i.T.Fatal(err)
	}
	if err := syscall.Kill(i.PID(), syscall.SIGHUP); err != nil {
		i.T.Fatal(err)
	}
	var c configuration
	i.Wait("the configuration to be read", func() bool { c = status(i); return done(c) })
	return c
}

// TestReload: SIGHUP puts what can be into effect, all or nothing, and Status
// tells what came of it.
func TestReload(t *testing.T) {
	i := harness.New(t, harness.Config("[container]\nulimits = ['nofile=777:888']\nshm_size = '1MiB'\n"))
	image := i.Image(busybox)
	limits := func(pod *harness.Pod, name string) string {
		c := pod.Run(name, image, []string{"/bin/sh", "-c", "ulimit -Sn; ulimit -Hn; df -k /dev/shm | tail -1"})
		c.WaitExit()
		f := strings.Fields(c.Output("stdout"))
		return strings.Join([]string{f[0], f[1], f[3]}, " ") // df: device, size, ...
	}
	pod := i.RunPod()
	if got := limits(pod, "first"); got != "777 888 1024" {
		t.Errorf("limits and size of /dev/shm are %q", got)
	}
	// Right: in effect for what is made from now on.
	reload(i, "[log]\nformat = 'json'\n[container]\nulimits = ['nofile=666:667']\nshm_size = '2MiB'\n",
		func(c configuration) bool { return c.Values["container.shm_size"] == `"2MiB"` })
	if got := limits(pod, "second"); got != "666 667 1024" {
		t.Errorf("after the reload, in a pod from before: %q", got)
	}
	if got := limits(i.RunPod(), "third"); got != "666 667 2048" {
		t.Errorf("after the reload, in a new pod: %q", got)
	}
	// One wrong line: nothing of it is in effect.
	c := reload(i, "[container]\nulimits = ['nofile=5:6']\n\nshm_sise = '3MiB'\n", func(c configuration) bool { return c.Result != "OK" })
	if want := "config.toml:4: container.shm_sise: there is no such setting; accepted: "; !strings.Contains(c.Result, want) {
		t.Errorf("the result is %q, wanted %q in it", c.Result, want)
	}
	if got := limits(pod, "fourth"); got != "666 667 1024" {
		t.Errorf("after a reload that was refused: %q", got)
	}
	// Right again, with one that needs a restart.
	c = reload(i, "[image]\nmax_concurrent_layers = 2\n", func(c configuration) bool { return c.Result == "OK" })
	if got := strings.Join(c.NeedRestart, " "); got != "image.max_concurrent_layers" {
		t.Errorf("a restart is needed for %q", got)
	}
	i.Restart()
	if c := status(i); len(c.NeedRestart) != 0 || c.Values["image.max_concurrent_layers"] != "2" {
		t.Errorf("after the restart: %+v", c)
	}
}

// TestLogFormat: after format = json, each line is an object.
func TestLogFormat(t *testing.T) {
	i := harness.New(t, harness.Args("--log-format", "json"))
	i.RunPod().Run("c", i.Image(busybox), []string{"true"}).WaitExit()
	text, err := os.ReadFile(i.Log())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for _, line := range lines {
		var entry struct{ Time, Level, Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Time == "" || entry.Level == "" || entry.Msg == "" {
			t.Errorf("%v in the line %q", err, line)
		}
	}
	if len(lines) < 3 {
		t.Errorf("%d lines only", len(lines))
	}
}

// TestMissingBindSource: an error that names the setting, or a directory.
func TestMissingBindSource(t *testing.T) {
	for _, how := range []string{"error", "create"} {
		t.Run(how, func(t *testing.T) {
			i := harness.New(t, harness.Config("container.missing_bind_source = '"+how+"'"))
			source := filepath.Join(t.TempDir(), "missing", "source")
			pod := i.RunPod()
			config := pod.ContainerConfig("c", i.Image(busybox), []string{"touch", "/v/file"})
			config.Mounts = []*runtimeapi.Mount{{HostPath: source, ContainerPath: "/v"}}
			c, err := pod.TryCreate(config)
			if how == "error" {
				if err == nil || !strings.Contains(err.Error(), "missing_bind_source") || !strings.Contains(err.Error(), source) {
					t.Errorf("the error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c.Start()
			c.WaitExit()
			if _, err := os.Stat(filepath.Join(source, "file")); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestWrongConfiguration: the daemon does not start, and says all that is wrong.
func TestWrongConfiguration(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.toml")
	if err := os.WriteFile(path, []byte("rooot = '/x'\n[log]\nlevel = 'all'\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"serve", "--config", path, "--state", dir + "/s"}, {"config", "check", path}} {
		out, err := run(t, args...)
		if err == nil || !strings.Contains(out, path+":1: rooot: ") || !strings.Contains(out, path+":3: log.level: ") {
			t.Errorf("cri-box %v: %v\n%s", args, err, out)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("it left %v", entries)
	}
}

// TestConfigDefault: what is printed is right, and says the defaults.
func TestConfigDefault(t *testing.T) {
	out, err := run(t, "config", "default")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, "config", "check", path); err != nil || out != path+" is right\n" {
		t.Errorf("%v: %s", err, out)
	}
}
