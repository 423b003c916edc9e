// Package docs_test runs the commands that the documentation shows and compares
// what they print. A ```console block is a terminal session of root:
//
//	node# cri-box ps
//	CONTAINER  ...
//
// Numbers, ids and the widths of columns may differ from what is on the page.
// `go test ./test/docs -update` writes what is printed into the pages.
package docs_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cri-box/cri-box/test/harness"
)

var update = flag.Bool("update", false, "write what the commands print into the pages")

func TestMain(m *testing.M) { harness.Main(m) }

// pages are those with sessions, each of which is run on an instance of its own.
var pages = []string{"start.md", "container.md", "configuration.md", "troubleshooting.md", "operations.md"}

func TestPages(t *testing.T) {
	for _, name := range pages {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(harness.Tree(), "docs", name)
			page, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			s := newSession(t)
			got := s.play(string(page))
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			compare(t, string(page), got)
		})
	}
}

// compare wants the same lines but for what may differ.
func compare(t *testing.T, page, got string) {
	t.Helper()
	want, have := shown(page), shown(got)
	for n := range max(len(want), len(have)) {
		w, h := lineAt(want, n), lineAt(have, n)
		if shape(w) != shape(h) {
			t.Fatalf("line %d is\n\t%s\nand the command printed\n\t%s\n(-update writes the page anew)", n+1, w, h)
		}
	}
}

// shown are the lines of a page but those that are about the node's own hierarchies
// of control groups, which each machine has in its own way.
func shown(page string) (lines []string) {
	for line := range strings.SplitSeq(page, "\n") {
		if !strings.Contains(line, "cgroup") || strings.HasPrefix(line, prompt) {
			lines = append(lines, line)
		}
	}
	return lines
}

func lineAt(lines []string, n int) string {
	if n < len(lines) {
		return lines[n]
	}
	return "(nothing)"
}

var varying = []struct {
	pattern *regexp.Regexp
	mark    string
}{
	{regexp.MustCompile(`[0-9a-f]{12,64}`), "ID"},
	{regexp.MustCompile(`\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b`), "MAC"},
	{regexp.MustCompile(`\b[0-9a-f]*:[0-9a-f:]*:[0-9a-f:]*`), "IPV6"},
	{regexp.MustCompile(`(\d+\.)?\d+(ns|µs|ms|s|m|h|d)\b|\d+(\.\d+)? (B|KiB|MiB|GiB)\b`), "QUANTITY"},
	{regexp.MustCompile(`▇+`), ""},
	{regexp.MustCompile(`\((ext4|tmpfs|xfs|btrfs|overlay) [^:,]*:`), "(FS:"},
	{regexp.MustCompile(`-[a-z2-7]{6}\b`), "-NAME"},
	{regexp.MustCompile(`\d+`), "N"},
	{regexp.MustCompile(`\s+`), " "},
}

// shape is a line without what may differ from one run to the next.
func shape(line string) string {
	for _, v := range varying {
		line = v.pattern.ReplaceAllString(line, v.mark)
	}
	return strings.TrimSpace(line)
}

// A session is a node on which somebody types.
type session struct {
	*harness.Instance
	bin, home, certs string
}

// newSession starts an instance to which Docker's names lead to the test's own
// registry, with cri-box on PATH as its administrator has it.
func newSession(t *testing.T) *session {
	certs, bin, home := t.TempDir(), t.TempDir(), t.TempDir()
	hosts := filepath.Join(certs, "docker.io", "hosts.toml")
	write(t, hosts, "server = \"http://127.0.0.1:5000\"\n", 0o644)
	// The root too: cri-box run keeps logs below it.
	config := func(i *harness.Instance) {
		harness.Config(fmt.Sprintf("root = %q\nimage.certs_dirs = [%q]\nmetrics.address = \"127.0.0.1:9437\"\n", i.Root, certs))(i)
	}
	i := harness.New(t, config)
	more := filepath.Join(i.Dir, "conf.d")
	if err := os.Mkdir(more, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(more) })
	i.Push("library/busybox", harness.TestImage(t, "busybox"))
	s := &session{i, bin, home, certs}
	// What the pages call by name is this instance's.
	write(t, filepath.Join(bin, "cri-box"), fmt.Sprintf("#!/bin/sh\nexec %s --config %s --state %s \"$@\"\n",
		harness.CriBox(t), filepath.Join(i.Dir, "config.toml"), i.State), 0o755)
	return s
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// prompt is what stands before a command.
const prompt = "node# "

// play runs the sessions of a page and returns it with what was printed.
func (s *session) play(page string) string {
	var out []string
	inside, skip := false, false
	for _, line := range strings.Split(page, "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			inside, skip = line == "```console", false
			out = append(out, line)
		case inside && strings.HasPrefix(line, prompt):
			skip = true // what the page says that it prints
			out = append(out, line)
			out = append(out, s.run(strings.TrimPrefix(line, prompt))...)
		case !skip:
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// commandBound is how long one command may take.
const commandBound = time.Minute

// run types a command and returns the lines that it prints.
func (s *session) run(command string) []string {
	s.T.Helper()
	if command == "systemctl restart cri-box" { // no systemd is here; the unit does the same
		s.Restart()
		return nil
	}
	command = strings.NewReplacer("inet cri-box", "inet "+s.Name, "/etc/cri-box", s.Dir).Replace(command)
	cmd := exec.CommandContext(s.Context(), "/bin/bash", "-c", command)
	cmd.Dir = s.home
	cmd.Env = append(os.Environ(), "PATH="+s.bin+":"+os.Getenv("PATH"), "HOME="+s.home)
	cmd.WaitDelay = commandBound
	var printed strings.Builder
	cmd.Stdout, cmd.Stderr = &printed, &printed
	if err := s.Node.Do(cmd.Start); err != nil {
		s.T.Fatal(err)
	}
	cmd.Wait() // what it prints counts
	text := strings.NewReplacer(s.State+"/cni.d", "/etc/cni/net.d", s.State, "/run/cri-box", s.Root, "/var/lib/cri-box", s.Name, "cri-box", s.Dir, "/etc/cri-box", s.home, "/root", s.certs, "/etc/cri-box/certs.d").Replace(printed.String())
	if text = strings.TrimRight(text, "\n"); text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
