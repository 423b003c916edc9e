// Command applets is what upstream's critest calls in its images and Debian's
// busybox has not: the program's name says which one it is.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

func main() {
	name := filepath.Base(os.Args[0])
	applet := map[string]func([]string) error{"ipcs": ipcs, "nonewprivs": nonewprivs, "pgrep": pgrep}[name]
	if applet == nil {
		fmt.Fprintf(os.Stderr, "%s: called by none of the names ipcs, nonewprivs, pgrep\n", name)
		os.Exit(125)
	}
	if err := applet(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// nonewprivs says as whom it runs, in the words of the image of that name.
func nonewprivs([]string) error {
	_, err := fmt.Printf("Effective uid: %d\n", os.Geteuid())
	return err
}

// ipcs -m prints the shared memory segments.
func ipcs(args []string) error {
	if len(args) != 1 || args[0] != "-m" {
		return fmt.Errorf("usage: ipcs -m")
	}
	segments, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(segments)
	return err
}

// pgrep PATTERN prints the pids of processes with the pattern in their name, but
// its own; there being none is exit code 1.
func pgrep(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: pgrep PATTERN")
	}
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return err
	}
	found := false
	for _, name := range names {
		pid := filepath.Base(filepath.Dir(name))
		comm, err := os.ReadFile(name)
		if err == nil && pid != strconv.Itoa(os.Getpid()) && strings.Contains(string(comm), args[0]) {
			fmt.Println(pid)
			found = true
		}
	}
	if !found {
		os.Exit(1)
	}
	return nil
}
