package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// self starts this program with another verb, sharing stdout and stderr.
func self(attr *syscall.SysProcAttr, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "workload"
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = os.Stdout, os.Stderr, attr
	if err := cmd.Start(); err != nil {
		fatal("cannot start %v: %v", args, err)
	}
	return cmd
}

// forkOrphans N makes N processes whose parents are gone, lets them end, says
// "orphans N" once all have, and stays. Whoever is process 1 has to reap them.
func forkOrphans(args []string) int {
	n := number(args, 0)
	// The orphans hold the write end: the read ends when the last one has died.
	r, w, err := os.Pipe()
	if err != nil {
		fatal("%v", err)
	}
	for range n {
		cmd := exec.Command("/proc/self/exe", "orphan")
		cmd.Args[0], cmd.Stderr = "workload", os.Stderr
		cmd.ExtraFiles = []*os.File{w}
		if err := cmd.Run(); err != nil {
			fatal("cannot make an orphan: %v", err)
		}
	}
	w.Close()
	r.Read(make([]byte, 1))
	say("orphans %d", n)
	return sleepForever()
}

// orphan starts a child that outlives it by a moment, and ends at once.
func orphan(args []string) int {
	if len(args) > 0 { // the child
		for os.Getppid() == number(args, 0) {
			time.Sleep(time.Millisecond)
		}
		return 0
	}
	cmd := exec.Command("/proc/self/exe", "orphan", fmt.Sprint(os.Getpid()))
	cmd.Args[0] = "workload"
	cmd.ExtraFiles = []*os.File{os.NewFile(3, "alive")}
	if err := cmd.Start(); err != nil {
		fatal("cannot start the orphan: %v", err)
	}
	return 0
}

// killInit kills process 1 of its namespace, says how that went, and stays.
func killInit([]string) int {
	err := syscall.Kill(1, syscall.SIGKILL)
	alive := syscall.Kill(1, 0) == nil
	say("kill: %v, alive: %v", err, alive)
	return 0
}

// killSelf SIGNAL dies of that signal.
func killSelf(args []string) int {
	sig := syscall.Signal(number(args, 0))
	signal.Reset(sig)
	syscall.Kill(os.Getpid(), sig)
	return sleepForever()
}

// tree starts a child in a session of its own, which starts another; all three
// say their pid and stay. Killing a tree has to find all of them.
func tree(args []string) int {
	depth := 3
	if len(args) > 0 {
		depth = number(args, 0)
	}
	say("pid %d", os.Getpid())
	if depth > 1 {
		self(&syscall.SysProcAttr{Setsid: true}, "tree", fmt.Sprint(depth-1))
	}
	return sleepForever()
}

// holdOutput says "done" and ends, while a child in its own session goes on
// holding stdout: whoever waits for the end of the output waits for ever.
func holdOutput([]string) int {
	self(&syscall.SysProcAttr{Setsid: true}, "sleep-forever")
	say("done")
	return 0
}

// linger CODE ends with CODE while a child goes on for a second and then says "late".
func linger(args []string) int {
	if len(args) > 1 {
		time.Sleep(time.Second)
		say("late")
		return 0
	}
	self(nil, "linger", "0", "child")
	return number(args, 0)
}
