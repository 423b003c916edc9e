package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// table is the page that says of each command outside a session who runs it.
const table = "commands.md"

// A shown command stands in a block of a page.
type command struct{ page, text string }

// pagesWithCommands are all that are written by hand.
func pagesWithCommands(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(harness.Tree(), "docs", "*.md"))
	if err != nil || len(found) < 10 {
		t.Fatalf("%d pages, %v", len(found), err)
	}
	found = slices.DeleteFunc(found, func(p string) bool { return filepath.Base(p) == table })
	return append(found, filepath.Join(harness.Tree(), "README.md"))
}

// blocks are a page's indented blocks, without the indentation.
func blocks(t *testing.T, path string) (list []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var block strings.Builder
	session := false
	for line := range strings.Lines(string(text) + "\nend\n") {
		if strings.HasPrefix(line, "```") {
			session = !session
		}
		switch code, ok := strings.CutPrefix(line, "    "); {
		case session:
		case ok:
			block.WriteString(code)
		case strings.TrimSpace(line) == "" && block.Len() > 0:
			block.WriteString(line)
		case block.Len() > 0:
			list = append(list, block.String())
			block.Reset()
		}
	}
	return list
}

var (
	program   = regexp.MustCompile(`^([A-Z_]+=\S+;? )*(make|(bin/)?cri-box|hack/\S+|sudo|systemctl|crictl|kubectl|kubeadm|docker|kind|curl|sed|grep|rm|journalctl|dpkg|tar|go|git)( |$)`)
	remark    = regexp.MustCompile(` +#.*$`)
	continued = regexp.MustCompile(`\\\n +`)
	spaces    = regexp.MustCompile(` +`)
)

// shownCommands are all commands in blocks.
func shownCommands(t *testing.T) (list []command) {
	t.Helper()
	for _, path := range pagesWithCommands(t) {
		for _, block := range blocks(t, path) {
			for line := range strings.Lines(continued.ReplaceAllString(block, "")) {
				line = spaces.ReplaceAllString(strings.TrimSpace(remark.ReplaceAllString(strings.TrimRight(line, "\n"), "")), " ")
				if program.MatchString(line) {
					list = append(list, command{filepath.Base(path), line})
				}
			}
		}
	}
	return list
}

// TestEveryCommandIsRun: the page of commands has every command that is shown
// outside a session, and none that is not; the tests that it names exist.
func TestEveryCommandIsRun(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(harness.Tree(), "docs", table))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(.+?)` \\| (.+) \\|$").FindAllStringSubmatch(string(text), -1) {
		rows[strings.ReplaceAll(m[1], `\|`, "|")] = m[2]
	}
	used := map[string]bool{}
	for _, c := range shownCommands(t) {
		used[c.text] = true
		if rows[c.text] == "" {
			t.Errorf("%s shows a command of which %s does not say who runs it: %s", c.page, table, c.text)
		}
	}
	for c, who := range rows {
		if !used[c] {
			t.Errorf("no page shows %s", c)
		}
		checkWho(t, c, who)
	}
	if len(used) < 50 {
		t.Errorf("only %d commands were found", len(used))
	}
}

var named = regexp.MustCompile("`([a-z/]+) (Test[A-Za-z]+)`|`\\.ci/run`|`make ([a-z-]+)`")

// checkWho wants what is said to run a command to be there, or a reason why nobody does.
func checkWho(t *testing.T, c, who string) {
	t.Helper()
	if reason, ok := strings.CutPrefix(who, "no test: "); ok {
		if len(reason) < 10 {
			t.Errorf("%s: why does no test run it?", c)
		}
		return
	}
	found := named.FindAllStringSubmatch(who, -1)
	if len(found) == 0 {
		t.Errorf("%s: nobody is named in %q", c, who)
	}
	for _, m := range found {
		where, what := filepath.Join(harness.Tree(), m[1], "*_test.go"), "\nfunc "+m[2]+"("
		if m[1] == "" {
			where, what = filepath.Join(harness.Tree(), "Makefile"), "\n"+m[3]+": "
		}
		if m[0] == "`.ci/run`" {
			where, what = filepath.Join(harness.Tree(), ".ci/run"), strings.Join(strings.Fields(c)[len(strings.Fields(c))-2:], " ")
		}
		if !inAny(t, where, what) {
			t.Errorf("%s: there is no %s", c, m[0])
		}
	}
}

func inAny(t *testing.T, pattern, what string) bool {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(f string) bool {
		text, err := os.ReadFile(f)
		return err == nil && strings.Contains(string(text), what)
	})
}

// TestMakeTargets: what pages say to make can be made.
func TestMakeTargets(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(harness.Tree(), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(pagesWithCommands(t), filepath.Join(harness.Tree(), "CONTRIBUTING.md")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?m)(?:^    |`)(?:[A-Z]+=\\S+ )*make ([a-z-]+)").FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(string(makefile), "\n"+m[1]+": ") && !strings.Contains(string(makefile), " "+m[1]+" ") {
				t.Errorf("%s: there is no make %s", filepath.Base(path), m[1])
			}
		}
	}
}

// TestConfigurationShown: what pages show of the configuration is accepted.
func TestConfigurationShown(t *testing.T) {
	checked := 0
	for _, path := range pagesWithCommands(t) {
		for _, block := range blocks(t, path) {
			if !regexp.MustCompile(`^\[[a-z_.]+\]\n`).MatchString(block) {
				continue
			}
			file := filepath.Join(t.TempDir(), "config.toml")
			write(t, file, block, 0o644)
			if out, err := exec.Command(harness.CriBox(t), "config", "check", file).CombinedOutput(); err != nil {
				t.Errorf("%s shows\n%s%s", filepath.Base(path), block, out)
			}
			checked++
		}
	}
	if checked < 3 {
		t.Errorf("only %d were found", checked)
	}
}

// TestFlagsShown: the commands of cri-box that texts name, and their flags, exist.
func TestFlagsShown(t *testing.T) {
	helps := map[string]string{}
	help := func(path []string) string {
		key := strings.Join(path, " ")
		if _, ok := helps[key]; !ok {
			out, err := exec.Command(harness.CriBox(t), append(slices.Clone(path), "--help")...).Output()
			if err != nil {
				t.Errorf("cri-box %s --help: %v", key, err)
			}
			helps[key] = string(out)
		}
		return helps[key]
	}
	named := 0
	for _, page := range pagesWithCommands(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?m)(?:`|^    (?:bin/)?|^node# )cri-box ([a-z][^`\n|;>]*)").FindAllStringSubmatch(onePerLine(string(text)), -1) {
			words := strings.Fields(remark.ReplaceAllString(m[1], ""))
			var path []string
			for len(words) > 0 && strings.Contains(help(path), "\n  "+words[0]+" ") {
				path, words = append(path, words[0]), words[1:]
			}
			if len(path) == 0 {
				t.Errorf("%s: there is no cri-box %s", filepath.Base(page), m[1])
				continue
			}
			named++
			for _, w := range words {
				if flag, _, _ := strings.Cut(w, "="); strings.HasPrefix(flag, "--") && !strings.Contains(help(path), flag) {
					t.Errorf("%s: cri-box %s has no %s", filepath.Base(page), strings.Join(path, " "), flag)
				}
				if path[0] == "run" && !strings.HasPrefix(w, "-") && strings.Contains(w, "busybox") {
					break // what follows is the container's
				}
			}
		}
	}
	if named < 40 {
		t.Errorf("only %d were found", named)
	}
}

// onePerLine puts each command of a block's line on a line of its own.
func onePerLine(text string) string {
	return regexp.MustCompile(`(?m)^    .*$`).ReplaceAllStringFunc(text, func(line string) string { return strings.ReplaceAll(line, "; ", "\n    ") })
}

// TestDemo: what the first page of all says to try.
func TestDemo(t *testing.T) {
	demo := exec.Command("make", "--no-print-directory", "demo") // which a make above this test would print
	demo.Dir = harness.Tree()
	out, err := demo.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "  no process, mount, namespace, link, route, rule, cgroup or file of it is left\n") {
		t.Errorf("make demo: %v\n%s", err, out)
	}
	for _, want := range []string{"┌─ pod pod-1", "│  ┌─ container web", "execve("} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it does not show %q", want)
		}
	}
}

// TestMovingANode types what kubernetes.md says for the kubelet's files.
func TestMovingANode(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{
		"config.yaml":          "containerRuntimeEndpoint: unix:///var/run/containerd/containerd.sock\n",
		"instance-config.yaml": "containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n",
		"kubeadm-flags.env":    "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/containerd/containerd.sock --v=2\"\n",
	}
	for name, text := range files {
		write(t, filepath.Join(dir, name), text, 0o644)
	}
	typed := 0
	for _, c := range shownCommands(t) {
		if c.page != "kubernetes.md" || !regexp.MustCompile(`^(grep|sed) `).MatchString(c.text) {
			continue
		}
		typed++
		if out, err := exec.Command("/bin/sh", "-c", strings.ReplaceAll(c.text, "/var/lib/kubelet", dir)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", c.text, err, out)
		} else if strings.HasPrefix(c.text, "grep") && strings.Count(string(out), "\n") != len(files) {
			t.Errorf("it finds\n%s", out)
		}
	}
	if typed != 2 {
		t.Errorf("%d commands", typed)
	}
	for name, text := range files {
		want := strings.NewReplacer("/var/run/containerd/containerd.sock", "/run/cri-box/cri-box.sock", "/run/containerd/containerd.sock", "/run/cri-box/cri-box.sock").Replace(text)
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v, want %q", name, got, err, want)
		}
	}
}
