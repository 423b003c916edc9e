// Command workload is what containers run in tests: each verb is one behaviour
// that a runtime has to cope with.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A verb's function returns the exit code.
var verbs = map[string]func(args []string) int{}

func init() {
	verbs = map[string]func([]string) int{
		"burst":         burst,
		"cat":           cat,
		"count":         count,
		"eat-memory":    eatMemory,
		"echo":          echo,
		"echo-udp":      echoUDP,
		"exit":          func(a []string) int { return number(a, 0) },
		"fork-orphans":  forkOrphans,
		"get":           get,
		"hold-output":   holdOutput,
		"hunt":          hunt,
		"ignore-term":   ignoreTerm,
		"kill1":         killInit,
		"kill-self":     killSelf,
		"linger":        linger,
		"on-term":       onTerm,
		"orphan":        orphan,
		"serve-grpc":    serveGRPC,
		"serve-http":    serveHTTP,
		"sleep-forever": func([]string) int { return sleepForever() },
		"spin":          spin,
		"tree":          tree,
		"write-lines":   writeLines,
	}
}

func main() {
	args := os.Args
	// Called by a verb's name, such as /bin/spin, the program is that verb.
	if _, ok := verbs[filepath.Base(args[0])]; !ok {
		args = args[1:]
	}
	if len(args) == 0 || verbs[filepath.Base(args[0])] == nil {
		var names []string
		for name := range verbs {
			names = append(names, name)
		}
		slices.Sort(names)
		fmt.Fprintln(os.Stderr, "usage: workload "+strings.Join(names, "|")+" [argument...]")
		os.Exit(125)
	}
	os.Exit(verbs[filepath.Base(args[0])](args[1:]))
}

// number reads args[i]; a test that forgets one learns it at once.
func number(args []string, i int) int {
	if i >= len(args) {
		fatal("argument %d is missing", i+1)
	}
	n, err := strconv.Atoi(args[i])
	if err != nil {
		fatal("%v", err)
	}
	return n
}

func fatal(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "workload: "+format+"\n", args...)
	os.Exit(125)
}

// say writes one line to stdout: tests wait for it.
func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func sleepForever() int {
	for {
		time.Sleep(time.Hour)
	}
}

// cat copies stdin to stdout.
func cat([]string) int {
	if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
		fatal("%v", err)
	}
	return 0
}

// echo writes its first argument to stdout and its second, if any, to stderr.
func echo(args []string) int {
	fmt.Fprintln(os.Stdout, args[0])
	if len(args) > 1 {
		fmt.Fprintln(os.Stderr, args[1])
	}
	return 0
}

// writeLines N SIZE writes N numbered lines of SIZE bytes with their newline.
func writeLines(args []string) int {
	n, size := number(args, 0), number(args, 1)
	out := bufio.NewWriterSize(os.Stdout, 64<<10)
	for i := range n {
		head := fmt.Sprintf("%d ", i)
		fmt.Fprintln(out, head+strings.Repeat("x", max(0, size-1-len(head))))
	}
	if err := out.Flush(); err != nil {
		fatal("%v", err)
	}
	return 0
}

// burst SIZE writes the beginning of a line, waits a moment, and then goes on with
// SIZE bytes in one write: more than a pipe holds, and no newline but the last.
func burst(args []string) int {
	os.Stdout.WriteString("begin ")
	time.Sleep(100 * time.Millisecond)
	os.Stdout.WriteString(strings.Repeat("x", number(args, 0)-1) + "\n")
	return 0
}

// count MS writes 0, 1, 2, … on lines, one every MS milliseconds. On SIGTERM it
// says "last N" and exits with 0.
func count(args []string) int {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	tick := time.NewTicker(time.Duration(number(args, 0)) * time.Millisecond)
	for i := 0; ; i++ {
		say("%d", i)
		select {
		case <-tick.C:
		case <-stop:
			say("last %d", i)
			return 0
		}
	}
}

// onTerm CODE says "ready" and exits with CODE on SIGTERM.
func onTerm(args []string) int {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	say("ready")
	<-stop
	return number(args, 0)
}

// ignoreTerm says "ready" and dies of SIGKILL only.
func ignoreTerm([]string) int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	say("ready")
	return sleepForever()
}

// eatMemory BYTES touches that much memory, says "ate" and stays.
func eatMemory(args []string) int {
	n := number(args, 0)
	mem, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS)
	if err != nil {
		fatal("cannot map %d bytes: %v", n, err)
	}
	for i := 0; i < n; i += os.Getpagesize() {
		mem[i] = 1
	}
	say("ate")
	return sleepForever()
}

// spin says "ready" and burns one processor.
func spin([]string) int {
	say("ready")
	for {
	}
}
