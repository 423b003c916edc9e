package main

import (
	"context"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/cri-box/cri-box/sandbox"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxFailures is how many pods' last errors are remembered.
const maxFailures = 256

// failures are the last error of each pod, for `cri-box why`: a pod that could
// not be made is gone, and only its error says why.
type failures struct {
	mu    sync.Mutex
	byPod map[string]failure // by namespace/name
}

// A failure is a call that went wrong.
type failure struct {
	Pod  string    `json:"pod"`
	Call string    `json:"call"`
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

func (f *failures) add(x failure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byPod == nil {
		f.byPod = map[string]failure{}
	}
	f.byPod[x.Pod] = x
	if len(f.byPod) <= maxFailures {
		return
	}
	oldest := x
	for _, y := range f.byPod {
		if y.At.Before(oldest.At) {
			oldest = y
		}
	}
	delete(f.byPod, oldest.Pod)
}

func (f *failures) list() []failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []failure
	for _, x := range f.byPod {
		list = append(list, x)
	}
	return list
}

// remember notes the error of a call that is about a pod.
func (d *daemon) remember(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	if err == nil {
		return resp, nil
	}
	if pod := d.podOf(req); pod != "" {
		d.failures.add(failure{Pod: pod, Call: path.Base(info.FullMethod), At: time.Now(), Text: err.Error()})
	}
	return resp, err
}

// podOf is the namespace and name of the pod that a request is about, or "".
func (d *daemon) podOf(req any) string {
	switch r := req.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		return podName(r.GetConfig().GetMetadata())
	case *runtimeapi.CreateContainerRequest:
		return podName(r.GetSandboxConfig().GetMetadata())
	case *runtimeapi.PullImageRequest:
		return podName(r.GetSandboxConfig().GetMetadata())
	case interface{ GetContainerId() string }:
		if c, err := d.sandboxes.Container(r.GetContainerId()); err == nil {
			return d.nameOf(d.sandboxes.Pod(c.PodID))
		}
	case interface{ GetPodSandboxId() string }:
		return d.nameOf(d.sandboxes.Pod(r.GetPodSandboxId()))
	}
	return ""
}

func (d *daemon) nameOf(p *sandbox.Pod, err error) string {
	if err != nil {
		return ""
	}
	return podName(p.Config.Of.GetMetadata())
}

func podName(m *runtimeapi.PodSandboxMetadata) string {
	return strings.TrimPrefix(m.GetNamespace()+"/"+m.GetName(), "/")
}
