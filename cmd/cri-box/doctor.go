package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// How a finding is. Only what is bad keeps pods from running.
const (
	good = "ok"
	note = "note"
	bad  = "BAD"
)

// A finding is one thing that the doctor looked at.
type finding struct {
	Area  string `json:"area"`
	What  string `json:"what"`
	State string `json:"state"`
	// Consequence and Remedy are empty when all is well.
	Consequence string `json:"consequence,omitempty"`
	Remedy      string `json:"remedy,omitempty"`
}

// areas are what can be looked at alone, in the order of the report.
var areas = []struct {
	name string
	look func(ctx context.Context, c *client) []finding
}{
	{"kernel", func(context.Context, *client) []finding { return lookKernel() }},
	{"security", func(context.Context, *client) []finding { return lookSecurity() }},
	{"cgroups", func(context.Context, *client) []finding { return lookCgroups() }},
	{"limits", func(context.Context, *client) []finding { return lookLimits() }},
	{"directories", func(_ context.Context, c *client) []finding { return lookDirectories(c.settings) }},
	{"clock", func(context.Context, *client) []finding { return lookClock() }},
	{"network", lookNetwork},
	{"registries", lookRegistries},
	{"daemon", lookDaemon},
}

func doctorCommand(n *node) *cobra.Command {
	var names []string
	for _, a := range areas {
		if a.name != "network" { // which has more to say when it is asked alone
			names = append(names, a.name)
		}
	}
	c := &cobra.Command{
		Use:   "doctor [AREA...]",
		Short: "Look whether this machine can run pods, and say what to do",
		Long: "Look at kernel, privileges, cgroups, limits, directories, clock, network,\n" +
			"registries and the daemon, or only at some of them. Nothing is changed. The exit\n" +
			"code is 1 if something is bad.",
		ValidArgs: names,
		Args:      cobra.OnlyValidArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			return n.withClient(callBound, func(ctx context.Context, c *client) error { return c.doctor(ctx, args) })
		},
	}
	c.AddCommand(doctorNetworkCommand(n))
	return c
}

func (c *client) doctor(ctx context.Context, only []string) error {
	var all []finding
	for _, a := range areas {
		if len(only) > 0 && !slices.Contains(only, a.name) {
			continue
		}
		for _, f := range a.look(ctx, c) {
			f.Area = a.name
			all = append(all, f)
		}
	}
	isBad := slices.ContainsFunc(all, func(f finding) bool { return f.State == bad })
	if c.format == "json" {
		if err := printJSON(all); err != nil {
			return err
		}
	} else if err := printFindings(all); err != nil {
		return err
	}
	if isBad {
		return exitCode(1)
	}
	return nil
}

func printFindings(all []finding) error {
	rows := [][]string{{"AREA", "STATE", "WHAT"}}
	for _, f := range all {
		rows = append(rows, []string{f.Area, f.State, f.What})
		for _, more := range []string{f.Consequence, f.Remedy} {
			if more != "" {
				rows = append(rows, []string{"", "", "  " + strings.ReplaceAll(more, "\n", " ")})
			}
		}
	}
	return printTable(os.Stdout, rows)
}

// check is good when ok, else what state says.
func check(ok bool, what, state, consequence, remedy string) finding {
	if ok {
		return finding{What: what, State: good}
	}
	return finding{What: what, State: state, Consequence: consequence, Remedy: remedy}
}

// readText reads a small file of proc or sys, "" if it cannot be.
func readText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// readNumber reads a number out of such a file; ok is false without one.
func readNumber(path string) (n int64, ok bool) {
	_, err := fmt.Sscan(readText(path), &n)
	return n, err == nil
}
