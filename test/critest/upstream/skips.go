package upstream

import "github.com/cri-box/cri-box/test/critest/report"

const benchmark = "measurements, not tests: they run with critest -benchmark only"

// skips are all that may be skipped. One more, or one that is skipped no longer,
// fails the run: the list says what is so.
var skips = []report.Skip{
	{Spec: "Container benchmark", Reason: benchmark},
	{Spec: "Image benchmark", Reason: benchmark},
	{Spec: "PodSandbox benchmark", Reason: benchmark},
	{Spec: "NRI", Reason: "there is no NRI here; no socket is given to critest"},
	{Spec: "AppArmor", Reason: "AppArmor is not active on this machine", Host: true},
}

// digestSkip is left out where critest names an image by the digest that
// upstream's own registry has: nobody else can make that image.
var digestSkip = report.Skip{Spec: "Image Manager public image with digest should be pulled and removed",
	Reason: "the binary names an image by a digest that only upstream's registry has; run with IMAGES=upstream"}
