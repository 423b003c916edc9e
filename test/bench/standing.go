package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// listings is how often each list is asked for at each size.
const listings = 20

// raiseMany takes n pods up, eight at a time.
func (e *endpoint) raiseMany(ctx context.Context, s settings, n int) ([]*pod, error) {
	var mu sync.Mutex
	var pods []*pod
	err := parallel(n, 8, func() error {
		p, err := e.make(s)
		if err != nil {
			return err
		}
		err = e.quietly(func() error { return e.raise(ctx, s, p) })
		mu.Lock()
		pods = append(pods, p)
		mu.Unlock()
		return err
	})
	return pods, err
}

// lower takes pods down; err is the error so far.
func (e *endpoint) lower(ctx context.Context, pods []*pod, err error) error {
	work := make(chan *pod, len(pods))
	for _, p := range pods {
		work <- p
	}
	return errors.Join(err, parallel(len(pods), 8, func() error {
		p := <-work
		return errors.Join(e.down(ctx, p), os.RemoveAll(p.config.LogDirectory))
	}))
}

// standing measures with pods that stay up, one container each: lists, stats,
// memory beside the workload, and the processor's time when nothing happens.
func standing(ctx context.Context, b *bench) error {
	for _, e := range b.endpoints {
		if err := e.standing(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
}

func (e *endpoint) standing(ctx context.Context, b *bench) (err error) {
	var pods []*pod
	defer func() { err = e.lower(ctx, pods, err) }()
	empty, emptyShm := e.memory(), shmem()
	e.addMemory("KiB of %s, no pod", empty)
	for _, size := range b.sizes {
		if e != b.endpoints[0] && size > b.peerPods {
			break
		}
		more, err := e.raiseMany(ctx, b.settings, size-len(pods))
		pods = append(pods, more...)
		if err != nil {
			return err
		}
		if err := e.lists(ctx, size, pods[0]); err != nil {
			return err
		}
		now := e.memory()
		for name := range now {
			e.add(fmt.Sprintf("KiB per pod in %s, %d pods", name, size), (now[name]-empty[name])/float64(size))
		}
		e.add(fmt.Sprintf("KiB per pod, %d pods", size), (total(now)-total(empty))/float64(size))
		e.add(fmt.Sprintf("KiB of shmem per pod on the whole machine, %d pods", size), (shmem()-emptyShm)/float64(size))
		if err := e.oneMore(ctx, b.settings, size); err != nil {
			return err
		}
		if err := e.idle(ctx, b, size); err != nil {
			return err
		}
		e.add(fmt.Sprintf("KiB per pod when idle, %d pods", size), (total(e.memory())-total(empty))/float64(size))
	}
	return nil
}

// oneMore takes pods up and down beside those that stand: what one costs shall not
// grow with their number.
func (e *endpoint) oneMore(ctx context.Context, s settings, standing int) error {
	const pods = 20
	before := e.cpu()
	for range pods {
		p, err := e.make(s)
		if err != nil {
			return err
		}
		err = e.timed(fmt.Sprintf("pod up beside %d pods", standing), func() error { return e.quietly(func() error { return e.raise(ctx, s, p) }) })
		if err != nil {
			return err
		}
		err = e.timed(fmt.Sprintf("pod down beside %d pods", standing), func() error { return e.down(ctx, p) })
		if err := errors.Join(err, os.RemoveAll(p.config.LogDirectory)); err != nil {
			return err
		}
	}
	e.add(fmt.Sprintf("CPU of a pod beside %d pods, ms", standing), (e.cpu()-before)/pods*1000)
	return nil
}

// idle asks for both lists once a second, as a kubelet does.
func (e *endpoint) idle(ctx context.Context, b *bench, n int) error {
	before, began := e.cpu(), time.Now()
	for range b.idleSeconds {
		if _, err := e.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}); err != nil {
			return err
		}
		if _, err := e.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{}); err != nil {
			return err
		}
		time.Sleep(time.Second)
	}
	e.add(fmt.Sprintf("%% of a core, idle, %d pods", n), (e.cpu()-before)/time.Since(began).Seconds()*100)
	return nil
}

func (e *endpoint) lists(ctx context.Context, size int, one *pod) error {
	rows := []struct {
		name string
		call func() error
	}{
		{"ListPodSandbox", func() error { _, err := e.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}); return err }},
		{"ListContainers", func() error { _, err := e.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{}); return err }},
		{"ContainerStatus", func() error {
			_, err := e.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: one.container})
			return err
		}},
		{"PodSandboxStatus", func() error {
			_, err := e.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: one.id})
			return err
		}},
		{"ListContainerStats", func() error {
			_, err := e.runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
			return err
		}},
		{"ListPodSandboxStats", func() error {
			_, err := e.runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
			return err
		}},
	}
	for _, row := range rows {
		for range listings {
			if err := e.timed(fmt.Sprintf("%s, %d pods", row.name, size), row.call); err != nil {
				return err
			}
		}
	}
	return nil
}

// own lists the /proc directories of the endpoint's processes: those in the
// daemon's cgroup, or else those whose command line fits. Workloads do not.
func (e *endpoint) own() []string {
	if e.processes == nil {
		return nil
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	group := []byte("/nowhere\n")
	if e.daemon != nil {
		group = []byte(strings.TrimPrefix(e.daemon.group(), cpuacct) + "\n")
	}
	return slices.DeleteFunc(all, func(dir string) bool {
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || filepath.Base(dir) == strconv.Itoa(os.Getpid()) {
			return true
		}
		if e.daemon != nil {
			groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
			return !bytes.Contains(groups, group)
		}
		return !e.processes.Match(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))
	})
}

// memory is the proportional set size of the endpoint's processes, in KiB, by
// the program's name and, for one program with roles, the role.
func (e *endpoint) memory() map[string]float64 {
	sum := map[string]float64{}
	for _, dir := range e.own() {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		argv := strings.Split(string(cmdline), "\x00")
		name := filepath.Base(argv[0])
		if name == "cri-box" && len(argv) > 1 {
			name += " " + argv[1]
		}
		sum[name] += pss(dir)
	}
	return sum
}

func (e *endpoint) addMemory(format string, m map[string]float64) {
	for name, kib := range m {
		e.add(fmt.Sprintf(format, name), kib)
	}
	e.add(fmt.Sprintf(format, "all processes"), total(m))
}

func total(m map[string]float64) (sum float64) {
	for _, v := range m {
		sum += v
	}
	return sum
}

func pss(dir string) float64 { return kib(filepath.Join(dir, "smaps_rollup"), "Pss:") }

// shmem is the machine's memory in tmpfs, memfds and shared mappings.
func shmem() float64 { return kib("/proc/meminfo", "Shmem:") }

// kib reads one field of a file of lines "name: number kB"; 0 if it is not there.
func kib(path, field string) float64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			n, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return n
		}
	}
	return 0
}
