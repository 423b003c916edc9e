package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// restartBound is how long a restart may take.
const restartBound = 2 * time.Minute

// restarts kills each runtime's daemon with pods running and measures when it
// answers again, and when it knows all pods again.
func restarts(ctx context.Context, b *bench) error {
	for _, e := range b.endpoints {
		if e.daemon == nil {
			continue
		}
		if err := e.restart(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
}

func (e *endpoint) restart(ctx context.Context, b *bench) (err error) {
	pods, err := e.raiseMany(ctx, b.settings, b.restart)
	defer func() { err = e.lower(ctx, pods, err) }()
	if err != nil {
		return err
	}
	bound, cancel := context.WithTimeout(ctx, time.Duration(b.rounds)*restartBound)
	defer cancel()
	for range b.rounds {
		if err := e.daemon.end(syscall.SIGKILL); err != nil {
			return err
		}
		began := time.Now()
		if err := e.daemon.start(); err != nil {
			return err
		}
		if err := e.answers(bound); err != nil {
			return err
		}
		e.add(fmt.Sprintf("first answer after a kill, %d pods", b.restart), time.Since(began).Seconds()*1000)
		for known := false; !known; {
			if known, err = e.knows(bound, len(pods)); err != nil {
				return fmt.Errorf("it does not know all %d pods again: %w", len(pods), err)
			}
		}
		e.add(fmt.Sprintf("all known after a kill, %d pods", b.restart), time.Since(began).Seconds()*1000)
	}
	return nil
}

// knows says whether n pods are ready and their containers run.
func (e *endpoint) knows(ctx context.Context, n int) (bool, error) {
	ready := &runtimeapi.PodSandboxFilter{State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}}
	pods, err := e.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: ready})
	if err != nil {
		return false, err
	}
	running := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	containers, err := e.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: running})
	if err != nil {
		return false, err
	}
	return len(pods.Items) >= n && len(containers.Containers) >= n, nil
}
