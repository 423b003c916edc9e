package cli_test

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/cmd/cri-box/explain"
	"github.com/cri-box/cri-box/test/harness"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// explainPod is a pod with two containers, one of them limited, and a port.
func explainPod(i *harness.Instance) (pod *harness.Pod, web, side *harness.Container) {
	pod = i.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.Metadata.Name = "shown"
		c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 8080, ContainerPort: 80}}
	})
	web = pod.Run("web", i.Image("probe"), []string{"/bin/workload", "sleep-forever"}, func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 48 << 20, CpuQuota: 10000, CpuPeriod: 100000}
		c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
	})
	side = pod.Run("side", i.Image("probe"), []string{"/bin/workload", "sleep-forever"})
	return pod, web, side
}

// TestExplainPod: what is shown is what the kernel has.
func TestExplainPod(t *testing.T) {
	i := harness.New(t)
	pod, web, side := explainPod(i)
	var f explain.Facts
	if err := json.Unmarshal([]byte(must(i, "explain", "-o", "json", "shown")), &f); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"net", "ipc", "uts"} {
		if got, want := f.Pod.Shared[kind], harness.Namespace(web.PID(), kind); got != want {
			t.Errorf("shared %s is %q, want %q", kind, got, want)
		}
		if f.Pod.Node[kind] == f.Pod.Shared[kind] {
			t.Errorf("the node's %s is the pod's", kind)
		}
	}
	for n, c := range []*harness.Container{web, side} {
		x := f.Containers[n]
		for _, kind := range []string{"pid", "mnt"} {
			if got, want := x.Own[kind], harness.Namespace(c.PID(), kind); got != want {
				t.Errorf("%s of %s is %q, want %q", kind, x.Name, got, want)
			}
		}
		if len(x.Processes) != 1 || x.Processes[0].PID != c.PID() || x.Processes[0].Inside != 1 || x.Processes[0].Command != "workload" {
			t.Errorf("processes of %s: %+v", x.Name, x.Processes)
		}
		if !strings.HasSuffix(x.Group(), "/"+c.ID) || !strings.HasPrefix(x.Group(), f.Pod.Cgroup+"/") {
			t.Errorf("cgroup of %s is %q in the pod's %q", x.Name, x.Group(), f.Pod.Cgroup)
		}
		targets := map[string]string{}
		for _, m := range x.Mounts {
			targets[m.Target] = m.Type
		}
		for target, kind := range map[string]string{"/": "overlay", "/proc": "proc", "/dev": "tmpfs", "/dev/shm": "tmpfs", "/sys": "sysfs"} {
			if targets[target] != kind {
				t.Errorf("%s of %s is %q, want %s", target, x.Name, targets[target], kind)
			}
		}
		if x.Rights.Seccomp != "off" && x.Rights.Seccomp != "a filter" || x.Rights.AllCapabilities || !slices.Contains(x.Rights.Capabilities, "CAP_CHOWN") {
			t.Errorf("rights of %s: %+v", x.Name, x.Rights)
		}
	}
	if !strings.HasPrefix(f.Containers[0].Rights.User, "1000:") || !strings.HasPrefix(f.Containers[1].Rights.User, "0:0") {
		t.Errorf("users %q and %q", f.Containers[0].Rights.User, f.Containers[1].Rights.User)
	}
	if text := strings.Join(f.Containers[0].Limits, "; "); !strings.Contains(text, "of 48.0 MiB") || !strings.Contains(text, "0.1 of a processor") {
		t.Errorf("limits %q", text)
	}
	testShownNetwork(t, &f, pod)
}

func testShownNetwork(t *testing.T, f *explain.Facts, pod *harness.Pod) {
	t.Helper()
	ip := pod.Status().Network.Ip
	n := slices.IndexFunc(f.Pod.Links, func(l explain.Link) bool { return l.Name == "eth0" })
	if n < 0 || f.Pod.Links[n].Addresses[0] != ip+"/32" {
		t.Fatalf("links %+v, want eth0 with %s", f.Pod.Links, ip)
	}
	if want := []string{"tcp 8080 on the node is 80 here"}; !slices.Equal(f.Pod.Ports, want) {
		t.Errorf("ports %q", f.Pod.Ports)
	}
	if !slices.ContainsFunc(f.Pod.Routes, func(r string) bool { return strings.HasPrefix(r, "default via ") }) {
		t.Errorf("routes %q", f.Pod.Routes)
	}
}

// TestExplainForms: the text and the picture tell the same, also of a container by
// its name; times are there, and after the daemon's death it says that they are not.
func TestExplainForms(t *testing.T) {
	i := harness.New(t)
	_, web, _ := explainPod(i)
	text := must(i, "explain", "shown/web")
	svg := must(i, "explain", "shown", "-o", "svg")
	for _, want := range []string{"pod default/shown", "container web", "container side", harness.Namespace(web.PID(), "pid"),
		fmt.Sprintf("process %d", web.PID()), "tcp 8080 on the node is 80 here", "CAP_CHOWN"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text has no %q:\n%s", want, text)
		}
		if !strings.Contains(svg, want) {
			t.Errorf("the picture has no %q", want)
		}
	}
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
	}
	times := must(i, "explain", "--time", "shown")
	for _, want := range []string{"attach network", "make namespaces", "container web", "make mounts", "clone to execve", "start"} {
		if !strings.Contains(times, want) {
			t.Errorf("the times have no %q:\n%s", want, times)
		}
	}
	if calls := must(i, "explain", "--calls", "shown/side"); !strings.Contains(calls, "execve(") || !strings.Contains(calls, "# make it the root") {
		t.Errorf("calls:\n%s", calls)
	}
	i.Kill()
	i.Start()
	if times := must(i, "explain", "--time", "shown"); !strings.Contains(times, "made by a daemon before") {
		t.Errorf("after a restart:\n%s", times)
	}
}
