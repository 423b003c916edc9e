package upstream

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// A spec is one test of upstream's and how it ended, from ginkgo's JSON report.
type spec struct {
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

// name is the spec's whole text, as ginkgo's -focus and -skip see it.
func (s spec) name() string {
	return strings.Join(append(slices.Clone(s.ContainerHierarchyTexts), s.LeafNodeText), " ")
}

// why is what upstream says of a spec that did not pass.
func (s spec) why() string {
	if s.Failure.Message == "" {
		return "left out by a flag"
	}
	at := s.Failure.Location
	return fmt.Sprintf("%s (%s:%d)", first(strings.TrimSpace(s.Failure.Message), 1000), at.FileName[strings.LastIndex(at.FileName, "/")+1:], at.LineNumber)
}

// A result is one run, its specs by how they ended.
type result struct{ passed, failed, skipped []spec }

// readReport reads what -ginkgo.json-report wrote. A suite that ended without a
// report, or before its first spec, is an error.
func readReport(path string) (result, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return result{}, fmt.Errorf("cannot read critest's report: %w", err)
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(data, &suites); err != nil {
		return result{}, fmt.Errorf("cannot read critest's report %s: %w", path, err)
	}
	var r result
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			r.add(s)
		}
	}
	if len(r.passed)+len(r.failed) == 0 {
		return r, fmt.Errorf("critest's report %s has no spec that ran", path)
	}
	return r, nil
}

// add sorts one report in. Nodes around the specs matter only when they fail.
func (r *result) add(s spec) {
	switch {
	case s.State == "passed" && s.LeafNodeType == "It":
		r.passed = append(r.passed, s)
	case s.State == "skipped" || s.State == "pending":
		if s.LeafNodeType == "It" {
			r.skipped = append(r.skipped, s)
		}
	case s.State != "passed": // failed, panicked, interrupted, aborted, timedout
		r.failed = append(r.failed, s)
	}
}

// first cuts a message: gomega prints values with everything in them.
func first(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return text[:most] + " …"
}
