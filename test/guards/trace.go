// Package guards keeps what measuring has won, without measuring time: how many
// system calls of the expensive kinds a pod's start, an exec and a pod's end may
// take. The bounds are what was counted when each was last made cheaper; they
// are lowered with the code, never raised for it.
package guards

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// kinds groups system calls by what they cost.
var kinds = map[string][]string{
	"processes": {"clone", "clone3", "fork", "vfork"},
	"execve":    {"execve", "execveat"},
	"mounts":    {"mount", "umount2", "fsopen", "fsmount", "move_mount", "open_tree", "mount_setattr"},
	"syncs":     {"fsync", "fdatasync", "syncfs", "sync", "sync_file_range"},
	"opens":     {"openat", "openat2"},
	"sends":     {"sendto", "sendmsg"},
	"renames":   {"rename", "renameat", "renameat2"},
	"mkdirs":    {"mkdir", "mkdirat"},
}

var callLine = regexp.MustCompile(`^\d+ +(?:<\.\.\. )?([a-z0-9_]+)(?:\(| resumed)`)

// count runs do and counts the system calls, by kind, that the processes pids and
// what they start make meanwhile. Threads are not processes.
func count(t *testing.T, pids []int, do func()) map[string]int {
	t.Helper()
	var names []string
	for _, calls := range kinds {
		names = append(names, calls...)
	}
	file := filepath.Join(t.TempDir(), "trace")
	args := []string{"-f", "-e", "trace=" + strings.Join(names, ","), "-e", "signal=none", "-o", file}
	for _, pid := range pids {
		args = append(args, "-p", fmt.Sprint(pid))
	}
	cmd := exec.Command("strace", args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(stderr)
	for range pids {
		if !said.Scan() || !strings.Contains(said.Text(), "attached") {
			t.Fatalf("strace does not attach: %q", said.Text())
		}
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for said.Scan() {
		}
	}()
	do()
	cmd.Process.Signal(os.Interrupt)
	<-drained
	cmd.Wait()
	return tally(t, file)
}

// tally counts the calls of a trace, each once. A thread's clone does not count, nor
// an execve that found nothing (the search along PATH).
func tally(t *testing.T, file string) map[string]int {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	kindOf := map[string]string{}
	for kind, calls := range kinds {
		for _, call := range calls {
			kindOf[call] = kind
		}
	}
	got := map[string]int{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		m := callLine.FindStringSubmatch(line)
		if m == nil || strings.Contains(line, "CLONE_THREAD") {
			continue
		}
		// Of a call that another one interrupted strace writes two lines. Only the second
		// of an execve says whether it found something.
		half := "resumed>"
		if strings.HasPrefix(m[1], "execve") {
			half = "<unfinished"
		}
		if strings.Contains(line, half) || half == "<unfinished" && strings.Contains(line, "ENOENT") {
			continue
		}
		got[kindOf[m[1]]]++
	}
	return got
}
