package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cri-box/cri-box/test/harness"
)

// draw shows the pod as the kernel has it: what its containers share, what each
// has of its own, and what limits them.
func draw(pod *harness.Pod, containers ...*harness.Container) {
	st := pod.Status()
	fmt.Printf("  ┌─ pod %s  %s  %s", pod.Config.Metadata.Name, pod.ID[:12], st.Network.Ip)
	for _, ip := range st.Network.AdditionalIps {
		fmt.Printf("  %s", ip.Ip)
	}
	for _, p := range pod.Config.PortMappings {
		fmt.Printf("  :%d→:%d", p.HostPort, p.ContainerPort)
	}
	first := containers[0].PID()
	fmt.Printf("\n  │  shared      %s  %s  %s\n", harness.Namespace(first, "net"), harness.Namespace(first, "ipc"), harness.Namespace(first, "uts"))
	fmt.Printf("  │  the node's  %s  %s  %s\n", harness.Namespace(os.Getpid(), "net"), harness.Namespace(os.Getpid(), "ipc"), harness.Namespace(os.Getpid(), "uts"))
	for _, c := range containers {
		drawContainer(c)
	}
	fmt.Println("  └─ no process holds it: its namespaces are descriptors")
}

func drawContainer(c *harness.Container) {
	pid := c.PID()
	fmt.Printf("  │  ┌─ container %s  %s  process %d\n", c.Config.Metadata.Name, c.ID[:12], pid)
	fmt.Printf("  │  │  own         %s  %s  %s\n", harness.Namespace(pid, "pid"), harness.Namespace(pid, "mnt"), harness.Namespace(pid, "cgroup"))
	fmt.Printf("  │  │  cgroup      %s\n", cgroupOf(pid, "memory"))
	if r := c.Config.Linux.Resources; r.GetMemoryLimitInBytes() > 0 {
		fmt.Printf("  │  │  ration      %d MiB of memory, %d µs of cpu in %d µs\n", r.MemoryLimitInBytes>>20, r.CpuQuota, r.CpuPeriod)
	}
	fmt.Println("  │  └─")
}

// cgroupOf is the path of a process's group in the hierarchy of a controller.
func cgroupOf(pid int, controller string) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return err.Error()
	}
	unified := ""
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, name := range strings.Split(parts[1], ",") {
			if name == controller {
				return parts[2]
			}
		}
		if parts[1] == "" {
			unified = parts[2]
		}
	}
	return unified
}

// throttled counts the periods in which the kernel held the container back.
func throttled(c *harness.Container) int {
	for _, root := range []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup"} {
		b, err := os.ReadFile(filepath.Join(root, cgroupOf(c.PID(), "cpu"), "cpu.stat"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "nr_throttled "); ok {
				n, _ := strconv.Atoi(strings.TrimSpace(v))
				return n
			}
		}
	}
	return 0
}
