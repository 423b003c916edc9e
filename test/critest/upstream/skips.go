package upstream

import (
	"fmt"
	"strings"
)

// A skip is a set of specs that do not run, and why.
type skip struct {
	spec   string // what the spec's name begins with after "[k8s.io] "
	reason string
	// host says that it depends on the machine whether the specs run.
	host bool
}

const benchmark = "measurements, not tests: they run with critest -benchmark only"

// skips are all that may be skipped. One more, or one that is skipped no longer,
// fails the run: the list says what is so.
var skips = []skip{
	{spec: "Container benchmark", reason: benchmark},
	{spec: "Image benchmark", reason: benchmark},
	{spec: "PodSandbox benchmark", reason: benchmark},
	{spec: "NRI", reason: "plugins by NRI are an issue of their own; no socket is given to critest"},
	{spec: "AppArmor", reason: "AppArmor is not active on this machine", host: true},
	{spec: "Security Context UserNamespaces", reason: "user namespaces are an issue of their own; Status does not offer them"},
}

// digestSkip is left out where critest names an image by the digest that
// upstream's own registry has: nobody else can make that image.
var digestSkip = skip{spec: "Image Manager public image with digest should be pulled and removed",
	reason: "the binary names an image by a digest that only upstream's registry has; run with IMAGES=upstream"}

// unexpected compares what was skipped with the list.
func unexpected(skipped []spec, list []skip) (problems []string) {
	used := make([]bool, len(list))
	for _, s := range skipped {
		if at := covering(s, list); at >= 0 {
			used[at] = true
		} else {
			problems = append(problems, fmt.Sprintf("skipped, and not on the list: %s: %s", s.name(), s.why()))
		}
	}
	for i, s := range list {
		if !used[i] && !s.host {
			problems = append(problems, fmt.Sprintf("on the list of skips, and not skipped: %q; take it off", s.spec))
		}
	}
	return problems
}

// covering is the index of the entry that a skipped spec falls under, or -1.
func covering(s spec, list []skip) int {
	for i, l := range list {
		if strings.HasPrefix(strings.TrimPrefix(s.name(), "[k8s.io] "), l.spec) {
			return i
		}
	}
	return -1
}
