package main

import "golang.org/x/sys/unix"

// Filled by entry_*.s before the Go runtime starts.
var (
	captured uint64
	actions  [64]sigaction
	blocked  uint64
	nofile   unix.Rlimit
)

// sigaction is struct sigaction of rt_sigaction(2), alike on amd64 and arm64.
type sigaction struct {
	handler, flags, restorer, mask uint64
}

const sigIgn = 1

// ignored lists the signals that the process was born ignoring.
func ignored() []int {
	list := []int{}
	for i, a := range actions {
		if a.handler == sigIgn {
			list = append(list, i+1)
		}
	}
	return list
}
