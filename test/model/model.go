// Package model is what the CRI promises about pods and containers, as a state
// machine small enough to be read at once: calls in, answers out, no kernel. The
// test beside it asks the model and the daemon the same and compares.
package model

import (
	"fmt"
	"math/rand/v2"

	"google.golang.org/grpc/codes"
)

// An Op is something that a client or fate does.
type Op int

// The calls of the CRI, and what happens to the daemon and its containers.
const (
	RunPod      Op = iota
	RunTwice       // the same request twice at once
	RunOther       // the same pod with another configuration
	StopPod        //
	RemovePod      //
	AskPod         // PodSandboxStatus
	Create         //
	CreateOther    // the same container with another configuration
	Start          //
	Stop           // with grace 0
	Remove         //
	Ask            // ContainerStatus
	KillProcess    // the container's process gets SIGKILL from outside
	KillServe      // kill -9, and a new start
	KillKeeper     // kill -9
	ops
)

var names = [...]string{"RunPod", "RunTwice", "RunOther", "StopPod", "RemovePod", "AskPod", "Create", "CreateOther", "Start",
	"Stop", "Remove", "Ask", "KillProcess", "KillServe", "KillKeeper"}

// String is the constant's name.
func (o Op) String() string { return names[o] }

// The objects that a sequence is about.
const (
	Pods       = 2
	Containers = 2 // in each pod
)

// A Call is an Op on one of the objects.
type Call struct {
	Op       Op
	Pod, Ctr int
}

// String is the call as Go has it, within this package.
func (c Call) String() string { return fmt.Sprintf("{model.%v, %d, %d}", c.Op, c.Pod, c.Ctr) }

// Life is where an object is in its life.
type Life int

// The lives of pods (None, Ready, Stopped) and containers.
const (
	None Life = iota
	Ready
	Stopped
	Created
	Running
	Exited
)

// A State is all objects of one client.
type State struct {
	Pod [Pods]Life
	Ctr [Pods][Containers]Life
}

// Apply changes the state as the call does and says with which code it is
// answered.
func (s *State) Apply(c Call) codes.Code {
	p, k := &s.Pod[c.Pod], &s.Ctr[c.Pod][c.Ctr]
	switch c.Op {
	case RunPod, RunTwice:
		return s.run(p)
	case RunOther:
		if *p == None {
			return s.run(p)
		}
		return codes.AlreadyExists
	case StopPod:
		s.stop(c.Pod)
	case RemovePod:
		*p, s.Ctr[c.Pod] = None, [Containers]Life{}
	case AskPod:
		return found(*p)
	case Create, CreateOther:
		return create(*p, k, c.Op == CreateOther)
	case Start:
		return start(*p, k)
	case Stop, KillProcess:
		if *k == Running {
			*k = Exited
		}
	case Remove:
		*k = None
	case Ask:
		return found(*k)
	}
	return codes.OK
}

func (s *State) run(p *Life) codes.Code {
	if *p == Stopped {
		return codes.AlreadyExists // its record is there until it is removed
	}
	*p = Ready
	return codes.OK
}

func (s *State) stop(pod int) {
	if s.Pod[pod] == Ready {
		s.Pod[pod] = Stopped
	}
	for i, k := range s.Ctr[pod] {
		if k == Running {
			s.Ctr[pod][i] = Exited
		}
	}
}

func found(l Life) codes.Code {
	if l == None {
		return codes.NotFound
	}
	return codes.OK
}

func create(pod Life, k *Life, other bool) codes.Code {
	switch {
	case pod == None:
		return codes.NotFound
	case *k != None && other:
		return codes.AlreadyExists
	case *k != None:
		return codes.OK // the same again
	case pod == Stopped:
		return codes.FailedPrecondition
	}
	*k = Created
	return codes.OK
}

func start(pod Life, k *Life) codes.Code {
	switch {
	case *k == None:
		return codes.NotFound
	case *k != Created || pod != Ready:
		return codes.FailedPrecondition
	}
	*k = Running
	return codes.OK
}

// weights make what builds up likelier than what tears down, and death rare.
var weights = [ops]int{8, 3, 2, 3, 3, 4, 10, 2, 10, 4, 4, 6, 3, 1, 1}

// Random gives n calls.
func Random(r *rand.Rand, n int) []Call {
	var total int
	for _, w := range weights {
		total += w
	}
	calls := make([]Call, n)
	for i := range calls {
		at, op := r.IntN(total), Op(0)
		for at >= weights[op] {
			at -= weights[op]
			op++
		}
		calls[i] = Call{op, r.IntN(Pods), r.IntN(Containers)}
	}
	return calls
}

// Shrink leaves out of a failing sequence what is not needed for it to fail:
// halves first, then smaller parts, at most tries times.
func Shrink(calls []Call, tries int, fails func([]Call) bool) []Call {
	for size := len(calls) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(calls) && tries > 0; tries-- {
			rest := append(append([]Call{}, calls[:at]...), calls[at+size:]...)
			if fails(rest) {
				calls = rest
			} else {
				at += size
			}
		}
	}
	return calls
}
