// The runtime shall not keep files of its own cgroup open to follow its limits: a
// spawner's descriptors are counted.
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command keeper is what of cri-box outlives the daemon: the keeper and its
// spawners. It is built first and carried within cri-box (cmd/cri-box/embedded),
// so that these processes hold none of the daemon's code and memory.
package main

import (
	"fmt"
	"os"

	"github.com/cri-box/cri-box/oci/keeper"
)

func main() {
	exit(keeper.RunRole(os.Args[1:]))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "cri-box:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
