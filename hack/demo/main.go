// Command demo shows cri-box in a minute: a private instance in network
// namespaces of its own, one pod, what limits it, what it is made of, and that
// nothing of it is left. `make demo` runs it.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	s := &stage{dir: must(os.MkdirTemp("", "cri-box-demo"))}
	defer s.end()
	show(s)
	s.title("Removing all of it, and looking for leftovers")
}

func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	return v
}

// The demo's limits.
const (
	cpuPeriod   = 100000 // µs
	cpuQuota    = 10000  // a tenth of a core
	memoryLimit = 48 << 20
)

func show(s *stage) {
	s.title("A node of its own: cri-box serve, its keeper, an image built from this repository")
	node := harness.New(s)
	image := node.Image("probe")
	fmt.Printf("  image %s (nothing was downloaded)\n", image)

	s.title("A pod with a published port, and two containers in it")
	pod := node.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.Hostname = "hello"
		c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 8080}}
	})
	web := pod.Run("web", image, []string{"/bin/workload", "serve-http", "80", "hello from a partitioned world"}, limits)
	web.WaitOutput("ready")
	side := pod.Run("side", image, []string{"/bin/workload", "count", "100"})
	side.WaitOutput("1")
	draw(pod, web, side)

	s.title("Its page, read from another machine (a network namespace beyond the uplink)")
	url := "http://" + harness.NodeIPv4 + ":8080/"
	page := must(node.Outside.Client().Get(url))
	body := must(io.ReadAll(page.Body))
	page.Body.Close()
	fmt.Printf("  GET %s  →  %s\n", url, body)

	s.title("Its log, as the kubelet reads it")
	for _, l := range strings.SplitAfterN(string(must(os.ReadFile(side.LogPath()))), "\n", 3)[:2] {
		fmt.Print("  ", l)
	}

	s.title("A command in it")
	fmt.Print(indent(side.MustExec("/bin/workload", "echo", "I see what the container sees")))

	showLimits(s, pod, image)
	showCalls(s, node, web)
	pod.Remove()
}

func limits(c *runtimeapi.ContainerConfig) {
	c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuPeriod: cpuPeriod, CpuQuota: cpuQuota, MemoryLimitInBytes: memoryLimit}
}

// showLimits lets two containers run into their ration.
func showLimits(s *stage, pod *harness.Pod, image string) {
	s.title("Rations bite: a tenth of a core")
	busy := pod.Run("busy", image, []string{"/bin/workload", "spin"}, limits)
	pod.Wait("throttling", func() bool { return throttled(busy) > 3 })
	fmt.Printf("  it spins, and the kernel has held it back in %d periods so far\n", throttled(busy))
	busy.Stop(0)

	s.title(fmt.Sprintf("Rations bite: %d MiB of memory", memoryLimit>>20))
	hungry := pod.Run("hungry", image, []string{"/bin/workload", "eat-memory", fmt.Sprint(4 * memoryLimit)}, limits)
	st := hungry.WaitExit()
	fmt.Printf("  it wanted four times that: exit code %d, reason %s\n", st.ExitCode, st.Reason)
}

// showCalls prints the program of system calls that made a container.
func showCalls(s *stage, node *harness.Instance, c *harness.Container) {
	s.title("How container web was made: from clone to execve, every system call")
	out, err := node.Command("explain", "--calls", "--state", node.State, c.ID).Output()
	if err != nil {
		s.Fatalf("cannot explain: %v", err)
	}
	fmt.Print(indent(string(out)))
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ") + "\n"
}
