// Command cri-box is the container side of a Kubernetes node. It is one binary
// with several roles; this file is their table.
package main

import (
	"fmt"
	"os"

	"github.com/cri-box/cri-box/oci/keeper"
)

// version is set at build time to a semantic version: the kubelet refuses to
// talk to a runtime without one.
var version = "v0.0.0"

// A role is what the binary does by its first argument.
type role struct {
	name string
	help string // empty: not for people
	run  func(args []string) error
}

func roles() []role {
	return []role{
		{"serve", "run the daemon: CRI server, images, network, containers", serve},
		{"images", "import FILE: add images from an OCI layout or docker archive", images},
		{"config", "default: print the configuration; check FILE: judge one", configure},
		{"explain", "explain CONTAINER: the system calls that made it", explain},
		{"version", "print the version", func([]string) error { fmt.Println(version); return nil }},
		{keeper.RoleKeeper, "", func([]string) error { return keeper.RunRole(keeper.RoleKeeper) }},
		{keeper.RoleSpawner, "", func([]string) error { return keeper.RunRole(keeper.RoleSpawner) }},
	}
}

func main() {
	if len(os.Args) > 1 {
		for _, r := range roles() {
			if r.name == os.Args[1] {
				exit(r.run(os.Args[2:]))
			}
		}
	}
	usage()
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "cri-box:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: cri-box COMMAND [FLAGS]")
	for _, r := range roles() {
		if r.help != "" {
			fmt.Fprintf(os.Stderr, "  %-8s %s\n", r.name, r.help)
		}
	}
	os.Exit(2)
}
