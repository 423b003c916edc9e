package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-box/cri-box/network"
)

// TestMain makes the test binary a plugin as well: run as one, it does what its
// configuration says and notes how it was called.
func TestMain(m *testing.M) {
	if os.Getenv("FAKE_CHILD") != "" {
		time.Sleep(time.Hour)
	}
	if os.Getenv("CNI_COMMAND") != "" {
		os.Exit(plugin())
	}
	os.Exit(m.Run())
}

// fakeConf is what a test tells a fake plugin.
type fakeConf struct {
	Do     map[string]string `json:"do"` // command to: ok, hang, crash, garbage, flood, child, unready, fail N
	Log    string            `json:"log"`
	Result json.RawMessage   `json:"result"`
}

// A call is how a plugin was called.
type call struct {
	Command, ContainerID, NetNS, IfName, Args, Path, Notify string
	PID                                                     int
	Stdin                                                   map[string]any
}

func plugin() int {
	stdin, _ := io.ReadAll(os.Stdin)
	var conf fakeConf
	if err := json.Unmarshal(stdin, &conf); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	command := os.Getenv("CNI_COMMAND")
	c := call{Command: command, ContainerID: os.Getenv("CNI_CONTAINERID"), NetNS: os.Getenv("CNI_NETNS"),
		IfName: os.Getenv("CNI_IFNAME"), Args: os.Getenv("CNI_ARGS"), Path: os.Getenv("CNI_PATH"), Notify: os.Getenv("NOTIFY_SOCKET"), PID: os.Getpid()}
	_ = json.Unmarshal(stdin, &c.Stdin)
	line, _ := json.Marshal(c)
	f, err := os.OpenFile(conf.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 1
	}
	_, _ = f.Write(append(line, '\n'))
	f.Close()
	return act(conf, command)
}

func act(conf fakeConf, command string) int {
	mode, times, _ := strings.Cut(conf.Do[command], " ")
	switch mode {
	case "hang":
		time.Sleep(time.Hour)
	case "crash":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		time.Sleep(time.Hour)
	case "garbage":
		fmt.Print("\x00\xff{{{ this is no JSON")
		if command != "ADD" {
			return 1
		}
		return 0
	case "flood":
		chunk := []byte(strings.Repeat("x", 1<<20))
		for range 100 {
			_, _ = os.Stdout.Write(chunk)
		}
	case "child", "orphan": // somebody who keeps the pipes
		cmd := exec.Command("/proc/self/exe")
		cmd.Env, cmd.Stdout, cmd.Stderr = []string{"FAKE_CHILD=1"}, os.Stdout, os.Stderr
		_ = cmd.Start()
		if mode == "child" {
			time.Sleep(time.Hour)
		}
	case "fail", "unready":
		var n int
		_, _ = fmt.Sscan(times, &n)
		if mode == "unready" || count(conf.Log, command) <= n {
			fmt.Print(`{"cniVersion":"1.1.0","code":50,"msg":"the agent is away","details":"as told"}`)
			return 1
		}
	}
	if command == "ADD" {
		result := string(conf.Result)
		if result == "" {
			result = `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"NETNS"}],"ips":[{"interface":0,"address":"192.0.2.77/24"}]}`
		}
		fmt.Print(strings.ReplaceAll(result, "NETNS", os.Getenv("CNI_NETNS")))
	}
	return 0
}

func count(log, command string) int {
	data, _ := os.ReadFile(log)
	return strings.Count(string(data), fmt.Sprintf(`{"Command":%q`, command))
}

// patience is for what has to come, also on a busy machine; hung is the deadline of a
// plugin that never answers, but has to get to run.
const patience, hung = 30 * time.Second, 5 * time.Second

// A scene is a Network whose plugins are fakes.
type scene struct {
	t              *testing.T
	dir, conf, bin string
	log            string
	cfg            Config
	net            *Network
	pods           int
}

func newScene(t *testing.T) *scene {
	dir := t.TempDir()
	s := &scene{t: t, dir: dir, conf: dir + "/etc/cni/net.d", bin: dir + "/opt/cni/bin", log: dir + "/log"}
	for _, d := range []string{s.conf, s.bin} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.install("fake")
	s.cfg = Config{ConfDirs: []string{s.conf}, BinDirs: []string{s.bin}, Dir: dir + "/lib", Timing: Timing{
		Add: patience, Del: patience, Status: patience, GC: patience,
		StatusEvery: 20 * time.Millisecond, RetryFirst: 10 * time.Millisecond, RetryMost: 40 * time.Millisecond, Settle: time.Millisecond}}
	return s
}

// install makes the test binary a plugin of that name.
func (s *scene) install(name string) {
	s.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.Symlink(exe, filepath.Join(s.bin, name)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) open() {
	s.t.Helper()
	n, err := Open(s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.net = n
	s.t.Cleanup(func() { n.Close() })
}

// list is a configuration of one fake plugin.
func (s *scene) list(network string, do map[string]string, more map[string]any) string {
	plugin := map[string]any{"type": "fake", "log": s.log, "do": do}
	for k, v := range more {
		plugin[k] = v
	}
	text, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": network, "plugins": []any{plugin}})
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// write puts a file into the configuration directory, by rename.
func (s *scene) write(name, text string) {
	s.t.Helper()
	put(s.t, filepath.Join(s.conf, name), text)
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (s *scene) pod() network.Pod {
	s.t.Helper()
	s.pods++
	path := fmt.Sprintf("%s/ns%d", s.dir, s.pods)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return network.Pod{ID: fmt.Sprintf("%064x", s.pods), Namespace: "default", Name: fmt.Sprintf("web-%d", s.pods), UID: "u-1", NetNSPath: path}
}

func (s *scene) calls(command string) []call {
	s.t.Helper()
	data, err := os.ReadFile(s.log)
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	var out []call
	for line := range strings.Lines(string(data)) {
		if !strings.HasSuffix(line, "\n") {
			break // a plugin is writing it: a file grows by pages
		}
		var c call
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			s.t.Fatal(err)
		}
		if c.Command == command {
			out = append(out, c)
		}
	}
	return out
}

// until waits until what is true.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (s *scene) attach(pod network.Pod) (network.Result, error) {
	return s.net.Attach(context.Background(), pod)
}

// serves waits until network serves and is ready.
func (s *scene) serves(name string) {
	s.t.Helper()
	until(s.t, name+" serves", func() bool {
		c := s.net.serving.Load().config
		return c != nil && c.list.Name == name && s.net.Ready() == nil
	})
}
