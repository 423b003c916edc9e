// Command cri-box is the container side of a Kubernetes node. It is one binary
// with several roles; this file is their table.
package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cri-box/cri-box/oci/keeper"
	"github.com/spf13/cobra"
)

// version is set at build time to a semantic version: the kubelet refuses to
// talk to a runtime without one.
var version = "v0.0.0"

// inner are the roles that are not for people. They start nothing of the command
// line: the keeper's memory counts.
var inner = []string{keeper.RoleKeeper, keeper.RoleSpawner, keeper.RoleTrial}

func commands(n *node) []*cobra.Command {
	return []*cobra.Command{
		serveCommand(n),
		runCommand(n), psCommand(n), podsCommand(n), logsCommand(n), execCommand(n), stopCommand(n), rmCommand(n),
		imagesCommand(n),
		explainCommand(n), whyCommand(n), doctorCommand(n), eventsCommand(n),
		configCommand(n), resetCommand(n), manCommand(n), versionCommand(n),
	}
}

func main() {
	if len(os.Args) > 1 && slices.Contains(inner, os.Args[1]) {
		exit(keeper.RunRole(os.Args[1:]))
	}
	exit(root().Execute())
}

// An exitCode ends the program with a command's code; the command has said why.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func exit(err error) {
	var code exitCode
	switch {
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil:
		fmt.Fprintln(os.Stderr, "cri-box:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
