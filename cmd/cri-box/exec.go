package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func execCommand(n *node) *cobra.Command {
	var timeout time.Duration
	var stdin, tty bool
	c := &cobra.Command{
		Use:   "exec [flags] CONTAINER COMMAND [ARGUMENT...]",
		Short: "Run a command in a container; its exit code becomes ours",
		Long: "Run a command in a container and print what it wrote once it has ended; with -i\n" +
			"or -t while it runs. The exit code is the command's.",
		Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if stdin || tty {
				return n.withClient(0, func(ctx context.Context, c *client) error {
					return c.execStream(ctx, args[0], args[1:], stdin, tty)
				})
			}
			bound := time.Duration(0)
			if timeout > 0 {
				bound = timeout + callBound
			}
			return n.withClient(bound, func(ctx context.Context, c *client) error { return c.exec(ctx, args[0], args[1:], timeout) })
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 0, "kill the command after this time, such as 30s; not with -i or -t")
	c.Flags().BoolVarP(&stdin, "interactive", "i", false, "our standard input is the command's")
	c.Flags().BoolVarP(&tty, "tty", "t", false, "give the command a terminal of its own")
	c.Flags().SetInterspersed(false) // the command has flags of its own
	c.ValidArgsFunction = n.complete(1, containerNames)
	return c
}

// execStream runs a command with our own streams.
func (c *client) execStream(ctx context.Context, ref string, command []string, stdin, tty bool) error {
	x, err := c.container(ctx, ref)
	if err != nil {
		return err
	}
	resp, err := c.runtime.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: x.Id, Cmd: command, Stdin: stdin, Stdout: true, Stderr: !tty, Tty: tty})
	if err != nil {
		return err
	}
	code, err := c.stream(ctx, resp.Url, streams{stdin: stdin, output: true, tty: tty})
	if err == nil && code != 0 {
		return exitCode(code)
	}
	return err
}

func (c *client) exec(ctx context.Context, ref string, command []string, timeout time.Duration) error {
	x, err := c.container(ctx, ref)
	if err != nil {
		return err
	}
	resp, err := c.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: x.Id, Cmd: command, Timeout: wholeSeconds(timeout)})
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(resp.Stdout)
	_, errsErr := os.Stderr.Write(resp.Stderr)
	if err := errors.Join(err, errsErr); err != nil {
		return fmt.Errorf("cannot print what the command wrote; its exit code was %d: %w", resp.ExitCode, err)
	}
	if resp.ExitCode != 0 {
		return exitCode(resp.ExitCode)
	}
	return nil
}
