package report

import (
	"fmt"
	"strings"
)

// A Skip is a set of specs that do not run, and why.
type Skip struct {
	// Spec is what the specs' names begin with, after "[k8s.io] ".
	Spec   string
	Reason string
	// Host says that it depends on the machine whether the specs run.
	Host bool
}

// Unexpected compares what was skipped with the list: one line for each spec that
// is not on it, and for each entry that nothing was skipped for.
func Unexpected(skipped []Spec, list []Skip) (problems []string) {
	used := make([]bool, len(list))
	for _, s := range skipped {
		if at := Covering(s, list); at >= 0 {
			used[at] = true
		} else {
			problems = append(problems, fmt.Sprintf("skipped, and not on the list: %s: %s", s.Name(), s.Why()))
		}
	}
	for i, s := range list {
		if !used[i] && !s.Host {
			problems = append(problems, fmt.Sprintf("on the list of skips, and not skipped: %q; take it off", s.Spec))
		}
	}
	return problems
}

// Covering is the index of the entry that a skipped spec falls under, or -1.
func Covering(s Spec, list []Skip) int {
	for i, l := range list {
		if strings.HasPrefix(strings.TrimPrefix(s.Name(), "[k8s.io] "), l.Spec) {
			return i
		}
	}
	return -1
}
