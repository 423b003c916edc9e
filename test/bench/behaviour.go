package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// elsewhere are tests that mount something on the host: a runtime in a mount
// namespace of its own does not see that.
const elsewhere = "Propagation|RecursiveReadOnly"

// behaviour runs the CRI tests of test/critest against all runtimes at once, for
// some spend minutes waiting, and keeps which passed.
func behaviour(ctx context.Context, b *bench) error {
	dir, err := os.MkdirTemp("", "behaviour")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	suite := filepath.Join(dir, "critest.test")
	if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-o", suite, "./test/critest").CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the tests: %w\n%s", err, out)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, e := range b.endpoints {
		group.Go(func() error { return e.behave(ctx, suite, b.tests) })
	}
	return group.Wait()
}

func (e *endpoint) behave(ctx context.Context, suite, tests string) error {
	cmd := exec.CommandContext(ctx, suite, "-test.v", "-test.timeout=1h", "-test.run="+tests, "-test.skip="+elsewhere, "-endpoint", "unix://"+e.socket)
	cmd.Dir = "test/critest"
	var out bytes.Buffer
	cmd.Stdout = &out
	run := cmd.Run
	if e.daemon != nil { // the tests' registry has to be where the runtime is
		run = func() error {
			if err := e.daemon.net.Do(cmd.Start); err != nil {
				return err
			}
			return cmd.Wait()
		}
	}
	err := run() // a failed test is no error here
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if e.behaviour = verdicts(&out); len(e.behaviour) == 0 {
		return fmt.Errorf("%s: no test ran: %w", e.name, err)
	}
	return nil
}

var verdict = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (\w+)`)

// verdicts reads what go test -v prints.
func verdicts(out *bytes.Buffer) map[string]string {
	v := map[string]string{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if m := verdict.FindStringSubmatch(lines.Text()); m != nil {
			v[m[2]] = map[string]string{"PASS": "passes", "FAIL": "**fails**", "SKIP": "skips"}[m[1]]
		}
	}
	return v
}

// behaviourTable has a row for each test, by name.
func (l endpoints) behaviourTable() string {
	var names []string
	for _, e := range l {
		for name := range e.behaviour {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	var b strings.Builder
	head, rule := "\n| test/critest |", "|---|"
	for _, e := range l {
		head += " " + e.version + " |"
		rule += "---|"
	}
	fmt.Fprintf(&b, "%s\n%s\n", head, rule)
	for _, name := range names {
		fmt.Fprintf(&b, "| %s |", name)
		for _, e := range l {
			fmt.Fprintf(&b, " %s |", e.behaviour[name])
		}
		b.WriteString("\n")
	}
	return b.String()
}
