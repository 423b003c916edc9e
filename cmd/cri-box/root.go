package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cri-box/cri-box/cmd/cri-box/config"
	"github.com/spf13/cobra"
)

// A node is what the flags that all commands share say: which daemon is meant,
// and how to show what it answers.
type node struct {
	config string
	state  string
	format string
}

func root() *cobra.Command {
	n := &node{}
	c := &cobra.Command{
		Use:   "cri-box",
		Short: "The container side of a Kubernetes node, in one binary",
		Long: "cri-box serves the Container Runtime Interface to the kubelet: images, pods, their\n" +
			"network, and containers. The other commands speak with the daemon over the same\n" +
			"socket as the kubelet, and show what it does.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	c.PersistentFlags().StringVar(&n.config, "config", "", "configuration `file` (default "+config.Default+")")
	c.PersistentFlags().StringVar(&n.state, "state", "", "the daemon's state `directory` (default "+config.DefaultState+")")
	c.PersistentFlags().StringVarP(&n.format, "output", "o", "table", "table, or json for programs")
	c.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if n.format != "table" && n.format != "json" && !(n.format == "svg" && cmd.Name() == "explain") {
			return fmt.Errorf("cannot show %q: the output is table or json, and svg for explain", n.format)
		}
		return nil
	}
	c.AddCommand(commands(n)...)
	for _, sub := range c.Commands() {
		sayRight(sub)
	}
	return c
}

// sayRight has a command with wrong arguments fail and say what would be right: of
// those that a command takes cobra tells the number only, and one that has nothing
// but commands below it prints its help, as if that had been asked for.
func sayRight(c *cobra.Command) {
	if !c.Runnable() {
		c.Args, c.RunE = noneOf, func(c *cobra.Command, _ []string) error { return c.Help() }
		c.DisableFlagsInUseLine = true
	} else if check := c.Args; check != nil && !c.HasSubCommands() {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return fmt.Errorf("%w; write %s", err, c.UseLine())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		sayRight(sub)
	}
}

// noneOf refuses what is none of a command's own.
func noneOf(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range c.Commands() {
		names = append(names, sub.Name())
	}
	return fmt.Errorf("there is no %s %q; accepted: %s", c.CommandPath(), args[0], strings.Join(names, ", "))
}

// settings finds the daemon as serve would: from the configuration, or for a
// state directory of its own. A configuration that is wrong does not keep anybody
// from the daemon that still runs with the one before.
func (n *node) settings() (settings, error) {
	s := settings{source: config.Source{Path: n.config}}
	if err := s.flag("state", n.state, true); err != nil {
		return s, err
	}
	err := s.load()
	if err == nil {
		return s, nil
	}
	fmt.Fprintln(os.Stderr, "cri-box: looking for the daemon in the usual place:", err)
	s.config, s.wrong = config.New(), err
	if n.state != "" {
		if s.config.State, err = filepath.Abs(n.state); err != nil {
			return s, fmt.Errorf("cannot use %s: %w", n.state, err)
		}
	}
	s.listen, s.root, s.state = s.config.Socket(), s.config.Root, s.config.State
	return s, nil
}
