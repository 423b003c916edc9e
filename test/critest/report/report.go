// Package report reads what upstream's critest says of a run, and compares what it
// skipped with what it may skip.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// A Spec is one test of upstream's and how it ended, from ginkgo's JSON report.
type Spec struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string
	Failure                 struct {
		Message  string
		Location struct {
			FileName   string
			LineNumber int
		}
	}
}

// Name is the spec's whole text, as ginkgo's -focus and -skip see it.
func (s Spec) Name() string {
	return strings.Join(append(slices.Clone(s.ContainerHierarchyTexts), s.LeafNodeText), " ")
}

// Why is what upstream says of a spec that did not pass.
func (s Spec) Why() string {
	if s.Failure.Message == "" {
		return "left out by a flag"
	}
	at := s.Failure.Location
	return fmt.Sprintf("%s (%s:%d)", first(strings.TrimSpace(s.Failure.Message), 1000), at.FileName[strings.LastIndex(at.FileName, "/")+1:], at.LineNumber)
}

// A Result is one run, its specs by how they ended.
type Result struct{ Passed, Failed, Skipped []Spec }

// Read reads what -ginkgo.json-report wrote. A suite that ended without a
// report, or before its first Spec, is an error.
func Read(path string) (Result, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Result{}, fmt.Errorf("cannot read critest's report: %w", err)
	}
	var suites []struct{ SpecReports []Spec }
	if err := json.Unmarshal(data, &suites); err != nil {
		return Result{}, fmt.Errorf("cannot read critest's report %s: %w", path, err)
	}
	var r Result
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			r.add(s)
		}
	}
	if len(r.Passed)+len(r.Failed) == 0 {
		return r, fmt.Errorf("critest's report %s has no Spec that ran", path)
	}
	return r, nil
}

// add sorts one report in. Nodes around the specs matter only when they fail.
func (r *Result) add(s Spec) {
	switch {
	case s.State == "passed" && s.LeafNodeType == "It":
		r.Passed = append(r.Passed, s)
	case s.State == "skipped" || s.State == "pending":
		if s.LeafNodeType == "It" {
			r.Skipped = append(r.Skipped, s)
		}
	case s.State != "passed": // failed, panicked, interrupted, aborted, timedout
		r.Failed = append(r.Failed, s)
	}
}

// first cuts a message: gomega prints values with everything in them.
func first(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return text[:most] + " …"
}
