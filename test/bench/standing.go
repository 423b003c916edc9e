package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// listings is how often each list is asked for.
const listings = 20

// standing measures with pods that stay up: lists, stats, and the memory that
// they cost beside their workload.
func (e *endpoint) standing(ctx context.Context, s settings) (err error) {
	before := e.memory()
	var pods []*pod
	defer func() {
		for _, p := range pods {
			err = errors.Join(err, e.down(ctx, p), os.RemoveAll(p.config.LogDirectory))
		}
	}()
	for range s.idle {
		p, err := e.up(ctx, s)
		if err != nil {
			return err
		}
		pods = append(pods, p)
	}
	if err := e.lists(ctx, s); err != nil {
		return err
	}
	if e.processes != nil {
		e.add("KiB of all processes, no pod", before)
		e.add(fmt.Sprintf("KiB per pod, of %d", s.idle), (e.memory()-before)/float64(s.idle))
	}
	return nil
}

func (e *endpoint) lists(ctx context.Context, s settings) error {
	for _, l := range []struct {
		name string
		call func() error
	}{
		{"ListPodSandbox", func() error { _, err := e.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}); return err }},
		{"ListContainers", func() error { _, err := e.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{}); return err }},
		{"ListContainerStats", func() error {
			_, err := e.runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
			return err
		}},
	} {
		for range listings {
			if err := e.timed(fmt.Sprintf("%s, %d pods", l.name, s.idle), l.call); err != nil {
				return err
			}
		}
	}
	return nil
}

// memory adds up the proportional set size of the endpoint's processes, in KiB.
// Workloads are not among them: their command line is the workload's.
func (e *endpoint) memory() float64 {
	if e.processes == nil {
		return 0
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0
	}
	sum := 0.0
	for _, dir := range all {
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || filepath.Base(dir) == strconv.Itoa(os.Getpid()) {
			continue
		}
		if e.processes.Match(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})) {
			sum += pss(dir)
		}
	}
	return sum
}

func pss(dir string) float64 {
	b, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		return 0
	}
	_, rest, ok := bytes.Cut(b, []byte("\nPss:"))
	if !ok {
		return 0
	}
	kb, err := strconv.ParseFloat(string(bytes.Fields(rest)[0]), 64)
	if err != nil {
		return 0
	}
	return kb
}
