package model

import (
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
)

func TestShrink(t *testing.T) {
	calls := []Call{{Op: AskPod}, {Op: RunPod}, {Op: Ask}, {Op: Create}, {Op: KillServe}, {Op: Start}, {Op: Stop}, {Op: AskPod}}
	fails := func(c []Call) bool { // a run, and later a start
		run := slices.Index(c, Call{Op: RunPod})
		return run >= 0 && slices.Contains(c[run:], Call{Op: Start})
	}
	if got := Shrink(calls, 100, fails); !slices.Equal(got, []Call{{Op: RunPod}, {Op: Start}}) {
		t.Errorf("shrunk to %v", got)
	}
}

func TestModel(t *testing.T) {
	var s State
	for i, step := range []struct {
		call Call
		want codes.Code
	}{
		{Call{Op: Create}, codes.NotFound}, {Call{Op: RunPod}, codes.OK}, {Call{Op: RunTwice}, codes.OK}, {Call{Op: RunOther}, codes.AlreadyExists},
		{Call{Op: Start}, codes.NotFound}, {Call{Op: Create}, codes.OK}, {Call{Op: Create}, codes.OK}, {Call{Op: CreateOther}, codes.AlreadyExists},
		{Call{Op: Start}, codes.OK}, {Call{Op: Start}, codes.FailedPrecondition}, {Call{Op: StopPod}, codes.OK}, {Call{Op: Ask}, codes.OK},
		{Call{Op: Create, Ctr: 1}, codes.FailedPrecondition}, {Call{Op: RunPod}, codes.AlreadyExists}, {Call{Op: RemovePod}, codes.OK},
		{Call{Op: Ask}, codes.NotFound}, {Call{Op: AskPod}, codes.NotFound}, {Call{Op: RemovePod}, codes.OK},
	} {
		if got := s.Apply(step.call); got != step.want {
			t.Errorf("call %d, %v: %v, want %v", i, step.call, got, step.want)
		}
	}
}
