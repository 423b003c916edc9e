package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

// commandPaths are all commands that help shows, such as "images ls".
func commandPaths(t *testing.T, parents ...string) (paths [][]string) {
	t.Helper()
	help, err := run(t, append(parents, "--help")...)
	if err != nil {
		t.Fatal(err, help)
	}
	_, list, ok := strings.Cut(help, "Available Commands:\n")
	if !ok {
		return nil
	}
	list, _, _ = strings.Cut(list, "\n\n")
	for line := range strings.SplitSeq(strings.TrimSpace(list), "\n") {
		path := append(slices.Clone(parents), strings.Fields(line)[0])
		if path[0] != "help" {
			paths = append(append(paths, path), commandPaths(t, path...)...)
		}
	}
	return paths
}

// flagLine is a line of help about a flag.
var flagLine = regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[a-z-]+)`)

// TestManual: a page for every command, with every flag that its help shows.
func TestManual(t *testing.T) {
	dir := t.TempDir()
	if out, err := run(t, "man", dir); err != nil {
		t.Fatal(err, out)
	}
	paths := commandPaths(t)
	if len(paths) < 25 {
		t.Fatalf("help shows %d commands: %q", len(paths), paths)
	}
	for _, path := range append(paths, nil) {
		name := strings.Join(append([]string{"cri-box"}, path...), "-")
		text, err := os.ReadFile(filepath.Join(dir, name+".8"))
		if err != nil {
			t.Error(err)
			continue
		}
		page := strings.ReplaceAll(string(text), `\-`, "-")
		if want := ".SH SYNOPSIS\n.B " + strings.Join(append([]string{"cri-box"}, path...), " "); !strings.Contains(page, want) {
			t.Errorf("%s has no %q:\n%.300s", name, want, page)
		}
		help, err := run(t, append(slices.Clone(path), "--help")...)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range flagLine.FindAllStringSubmatch(help, -1) {
			if m[1] != "--help" && !strings.Contains(page, m[1]) {
				t.Errorf("%s does not have %s", name, m[1])
			}
		}
	}
}

// complete is what bash offers after a line, by the script that completion prints.
func complete(i *harness.Instance, line string) []string {
	i.T.Helper()
	dir := i.T.TempDir()
	script, err := run(i.T.(*testing.T), "completion", "bash")
	if err != nil {
		i.T.Fatal(err)
	}
	program := fmt.Sprintf("#!/bin/sh\nexec %s --state %s --config %s \"$@\"\n", harness.CriBox(i.T), i.State, config(i))
	for name, text := range map[string]string{"script": script, "cri-box": program} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			i.T.Fatal(err)
		}
	}
	// _init_completion is of the package bash-completion, which need not be here.
	cmd := exec.Command("/bin/bash", "-c", `. "$0"/script
_init_completion() { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${words[cword]}; prev=${words[cword-1]}; }
COMP_LINE=$1 COMP_POINT=${#1}; read -ra COMP_WORDS <<<"$1"; [[ $1 != *' ' ]] || COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_TYPE=9
__start_cri-box; printf '%s\n' "${COMPREPLY[@]}"`, dir, line)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	out, err := cmd.Output() // compopt complains that no completion is under way
	if err != nil {
		i.T.Fatalf("%v: %s", err, out)
	}
	var words []string
	for word := range strings.SplitSeq(strings.TrimSpace(string(out)), "\n") {
		word, _, _ = strings.Cut(word, " ") // what comes then says what it is
		words = append(words, word)
	}
	return words
}

// TestCompletion: bash offers every command, their flags, and the names of what is
// here; the scripts for zsh and fish ask the program in the same way.
func TestCompletion(t *testing.T) {
	i := harness.New(t)
	ref := i.Image(busybox)
	must(i, "run", "-d", "--name", "web", ref, "sleep", "1000")
	defer must(i, "rm", "--force", "web")
	for _, path := range commandPaths(t) {
		parent, name := strings.Join(append([]string{"cri-box"}, path[:len(path)-1]...), " "), path[len(path)-1]
		if got := complete(i, parent+" "+name[:1]); !slices.Contains(got, name) {
			t.Errorf("after %s %s it offers %q", parent, name[:1], got)
		}
	}
	for line, want := range map[string]string{"cri-box logs ": "web", "cri-box exec w": "web", "cri-box stop w": "web", "cri-box rm w": "web",
		"cri-box explain w": "web", "cri-box why ": "web", "cri-box doctor sec": "security", "cri-box run --mem": "--memory"} {
		if got := complete(i, line); !slices.Equal(got, []string{want}) {
			t.Errorf("after %q it offers %q, want %q", line, got, want)
		}
	}
	if out := must(i, "__complete", "images", "rm", ""); !strings.HasPrefix(out, ref+"\n") {
		t.Errorf("which images: %s", out)
	}
	for shell, want := range map[string]string{"zsh": "compdef _cri-box cri-box", "fish": "complete -c cri-box "} {
		out, err := run(t, "completion", shell)
		if err != nil || !strings.Contains(out, want) || !strings.Contains(out, " __complete ") {
			t.Errorf("for %s: %v %.200s", shell, err, out)
		}
	}
}

// asJSON lists how each command that tells something is asked for JSON. What it
// prints is one value, or for streams a value a line.
func asJSON(ref string) [][]string {
	return [][]string{
		{"version"}, {"ps"}, {"ps", "-a"}, {"pods"}, {"images", "ls"}, {"images", "pull", ref}, {"images", "explain", ref},
		{"explain", "web"}, {"explain", "--time", "web"}, {"why"}, {"why", "web"}, {"doctor"}, {"doctor", "network"}, {"doctor", "security"},
		{"logs", "web"}, {"stop", "web"}, {"rm", "web"}, {"images", "rm", ref},
	}
}

// TestJSON: every command that tells something does so for programs too.
func TestJSON(t *testing.T) {
	i := harness.New(t)
	ref := i.Image(busybox)
	var made []struct{ ID string }
	if err := json.Unmarshal([]byte(must(i, "run", "-o", "json", "-d", "--name", "web", ref, "sh", "-c", "echo one; echo two >&2; exec sleep 1000")), &made); err != nil || len(made) != 1 || len(made[0].ID) != 64 {
		t.Fatalf("run: %v %v", err, made)
	}
	i.Wait("the log", func() bool { return strings.Count(cli(i, "logs", "web", "-o", "json").out, "\n") == 2 })
	for _, line := range []string{`"stream":"stdout","text":"one"`, `"stream":"stderr","text":"two"`} {
		if out := must(i, "logs", "web", "-o", "json"); !strings.Contains(out, line) {
			t.Errorf("the log has no %s:\n%s", line, out)
		}
	}
	for _, args := range asJSON(ref) {
		r := cli(i, append(args, "-o", "json")...)
		d, values := json.NewDecoder(strings.NewReader(r.out)), 0
		for d.More() {
			var v any
			if err := d.Decode(&v); err != nil {
				t.Errorf("%q: %v in %s", args, err, r.out)
				break
			}
			values++
		}
		if values == 0 || values > 1 && args[0] != "logs" {
			t.Errorf("%q: %d values in %s%s", args, values, r.out, r.err)
		}
	}
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := must(i, "config", "check", path, "-o", "json"); !json.Valid([]byte(out)) || !strings.Contains(out, path) {
		t.Errorf("config check: %s", out)
	}
	if out := must(i, "why", "-o", "json"); !strings.Contains(out, `"pods": []`) || !strings.Contains(out, `"failures": []`) {
		t.Errorf("lists that are none: %s", out)
	}
	for _, args := range [][]string{{"--calls", "-o", "json"}, {"--shell", "-o", "json"}, {"--calls", "-o", "svg"}, {"--time", "-o", "svg"}} {
		if r := cli(i, append([]string{"explain", "any"}, args...)...); r.code != 1 || !strings.Contains(r.err, "cannot show that as "+args[2]) {
			t.Errorf("explain %v: %+v", args, r)
		}
	}
	if r := cli(i, "ps", "-o", "yaml"); r.code != 1 || !strings.Contains(r.err, "the output is table or json") {
		t.Errorf("another form: %+v", r)
	}
}
