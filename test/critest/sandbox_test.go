package critest_test

import (
	"fmt"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (p *pod) status() *runtimeapi.PodSandboxStatus {
	p.Helper()
	resp, err := p.runtime.PodSandboxStatus(p.ctx(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil {
		p.Fatalf("cannot ask for the pod's status: %v", err)
	}
	return resp.Status
}

func TestHostname(t *testing.T) {
	clause(t, "Hostname of the sandbox. Hostname could only be empty when the pod")
	n := newNode(t)
	p := n.pod(func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "name-of-the-pod" })
	equal(t, "hostname", p.look("hostname; echo $HOSTNAME"), "name-of-the-pod\nname-of-the-pod")
	_, err := n.tryPod(n.podConfig(func(c *runtimeapi.PodSandboxConfig) { c.Hostname = strings.Repeat("x", 65) }))
	strict(t, "a name of 65 bytes", err)
}

func TestDNS(t *testing.T) {
	clause(t, "List of DNS servers of the cluster.")
	n := newNode(t)
	p := n.pod(func(c *runtimeapi.PodSandboxConfig) {
		c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"10.1.2.3", "fd00::1"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:8", "rotate"}}
	})
	got := p.look("cat /etc/resolv.conf")
	for _, want := range []string{"nameserver 10.1.2.3", "nameserver fd00::1", "search a.example b.example", "options ndots:8 rotate"} {
		if !strings.Contains("\n"+got+"\n", "\n"+want+"\n") {
			t.Errorf("resolv.conf has no line %q:\n%s", want, got)
		}
	}
	for field, bad := range map[string]*runtimeapi.DNSConfig{
		"servers":  {Servers: []string{"no address"}},
		"searches": {Searches: []string{"a\nnameserver 6.6.6.6"}},
		"options":  {Options: []string{"two words"}},
	} {
		_, err := n.tryPod(n.podConfig(func(c *runtimeapi.PodSandboxConfig) { c.DnsConfig = bad }))
		strict(t, "bad "+field, err, field)
	}
}

func TestSysctls(t *testing.T) {
	clause(t, "Sysctls holds linux sysctls config for the sandbox.")
	n := newNode(t)
	set := map[string]string{"kernel.shm_rmid_forced": "1", "net.core.somaxconn": "333", "fs.mqueue.msg_max": "100", "net/ipv4/ip_local_port_range": "20000 20100"}
	p := n.pod(func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = set })
	got := p.look("cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/core/somaxconn /proc/sys/fs/mqueue/msg_max; tr '\\t' ' ' </proc/sys/net/ipv4/ip_local_port_range")
	equal(t, "values", got, "1\n333\n100\n20000 20100")
	node := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE}
	for what, change := range map[string]podOption{
		"a sysctl of the node": func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"vm.swappiness": "1"} },
		"one of no namespace":  func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"kernel.panic": "1"} },
		"a path that climbs":   func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net.../x": "1"} },
		"network of the node": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Sysctls, c.Linux.SecurityContext.NamespaceOptions = map[string]string{"net.core.somaxconn": "1"}, node
		},
		"IPC of the node": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Sysctls, c.Linux.SecurityContext.NamespaceOptions = map[string]string{"kernel.sem": "1"}, node
		},
		"one that is not there": func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net.core.not_there": "1"} },
	} {
		_, err := n.tryPod(n.podConfig(change))
		refused(t, what, err, "sysctl")
	}
}

func TestPodMetadata(t *testing.T) {
	clause(t, "PodSandboxMetadata holds all necessary information for building the sandbox name.")
	n := newNode(t)
	config := n.podConfig()
	p, err := n.tryPod(config)
	if err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*runtimeapi.PodSandboxMetadata){
		"name": func(m *runtimeapi.PodSandboxMetadata) { m.Name += "x" }, "uid": func(m *runtimeapi.PodSandboxMetadata) { m.Uid += "x" },
		"namespace": func(m *runtimeapi.PodSandboxMetadata) { m.Namespace += "x" }, "attempt": func(m *runtimeapi.PodSandboxMetadata) { m.Attempt++ },
	} {
		other := n.podConfig()
		m := config.Metadata
		other.Metadata = &runtimeapi.PodSandboxMetadata{Name: m.Name, Uid: m.Uid, Namespace: m.Namespace, Attempt: m.Attempt}
		change(other.Metadata)
		q, err := n.tryPod(other)
		if err != nil {
			t.Fatalf("another %s: %v", field, err)
		}
		if q.id == p.id {
			t.Errorf("another %s gives the same pod", field)
		}
		equal(t, "metadata in the status", q.status().Metadata.String(), other.Metadata.String())
	}
	for _, field := range []string{"name", "namespace", "uid"} {
		bad := n.podConfig()
		bad.Metadata = &runtimeapi.PodSandboxMetadata{Name: "n", Namespace: "n", Uid: "n"}
		switch field {
		case "name":
			bad.Metadata.Name = ""
		case "namespace":
			bad.Metadata.Namespace = ""
		case "uid":
			bad.Metadata.Uid = ""
		}
		_, err := n.tryPod(bad)
		strict(t, "no "+field, err, field)
	}
}

// TestSandboxSecurity: what belongs to a sandbox's process has no effect where
// there is none; what is wrong is wrong all the same.
func TestSandboxSecurity(t *testing.T) {
	clause(t, "LinuxSandboxSecurityContext holds linux security configuration that will be")
	n := newNode(t)
	p := n.pod(func(c *runtimeapi.PodSandboxConfig) {
		s := c.Linux.SecurityContext
		s.RunAsUser, s.RunAsGroup, s.ReadonlyRootfs, s.SupplementalGroups = id(1000), id(1000), true, []int64{5}
		s.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
		s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	})
	equal(t, "user of a container", p.look("id -u"), "0") // the container has its own
	with := func(change func(*runtimeapi.LinuxSandboxSecurityContext)) error {
		_, err := n.tryPod(n.podConfig(func(c *runtimeapi.PodSandboxConfig) { change(c.Linux.SecurityContext) }))
		return err
	}
	refused(t, "run_as_group alone", with(func(s *runtimeapi.LinuxSandboxSecurityContext) { s.RunAsGroup = id(1) }), "run_as_group")
	for field, change := range map[string]func(*runtimeapi.LinuxSandboxSecurityContext){
		"run_as_user":                func(s *runtimeapi.LinuxSandboxSecurityContext) { s.RunAsUser = id(-1) },
		"supplemental_groups":        func(s *runtimeapi.LinuxSandboxSecurityContext) { s.SupplementalGroups = []int64{-1} },
		"supplemental_groups_policy": func(s *runtimeapi.LinuxSandboxSecurityContext) { s.SupplementalGroupsPolicy = 9 },
	} {
		strict(t, "a bad "+field, with(change), field)
	}
}

func TestUnknownHandler(t *testing.T) {
	clause(t, "If the runtime handler is unknown, this request should be rejected.")
	n := newNode(t)
	_, err := n.runtime.RunPodSandbox(n.ctx(), &runtimeapi.RunPodSandboxRequest{Config: n.podConfig(), RuntimeHandler: "nobody-has-this"})
	refused(t, "RunPodSandbox", err, "nobody-has-this")
	_, err = n.images.PullImage(n.ctx(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: n.image, RuntimeHandler: "nobody-has-this"}})
	strict(t, "PullImage", err, "nobody-has-this")
	_, err = n.pod().create(func(c *runtimeapi.ContainerConfig) { c.Image.RuntimeHandler = "nobody-has-this" })
	strict(t, "CreateContainer", err, "nobody-has-this")
}

// TestPodFilter: each part of a filter by itself, and all of them together.
func TestPodFilter(t *testing.T) {
	clause(t, "PodSandboxFilter is used to filter a list of PodSandboxes.")
	n := newNode(t)
	mark := fmt.Sprint("m", n.podConfig().Metadata.Uid)
	a := n.pod(func(c *runtimeapi.PodSandboxConfig) { c.Labels = map[string]string{"mark": mark, "who": "a"} })
	b := n.pod(func(c *runtimeapi.PodSandboxConfig) { c.Labels = map[string]string{"mark": mark, "who": "b"} })
	if _, err := n.runtime.StopPodSandbox(n.ctx(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: b.id}); err != nil {
		t.Fatal(err)
	}
	ready := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}
	gone := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}
	labels := func(kv ...string) map[string]string {
		m := map[string]string{"mark": mark}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	for what, c := range map[string]struct {
		filter *runtimeapi.PodSandboxFilter
		want   int
	}{
		"labels":           {&runtimeapi.PodSandboxFilter{LabelSelector: labels()}, 2},
		"another label":    {&runtimeapi.PodSandboxFilter{LabelSelector: labels("who", "a")}, 1},
		"state ready":      {&runtimeapi.PodSandboxFilter{LabelSelector: labels(), State: ready}, 1},
		"state not ready":  {&runtimeapi.PodSandboxFilter{LabelSelector: labels(), State: gone}, 1},
		"id":               {&runtimeapi.PodSandboxFilter{Id: a.id}, 1},
		"id and its state": {&runtimeapi.PodSandboxFilter{Id: a.id, State: gone}, 0},
		"unknown id":       {&runtimeapi.PodSandboxFilter{Id: strings.Repeat("0", 64)}, 0},
	} {
		resp, err := n.runtime.ListPodSandbox(n.ctx(), &runtimeapi.ListPodSandboxRequest{Filter: c.filter})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "pods by "+what, len(resp.Items), c.want)
	}
}

func TestContainerFilter(t *testing.T) {
	clause(t, "ContainerFilter is used to filter containers.")
	n := newNode(t)
	p := n.pod()
	labelled := func(who string) containerOption {
		return func(c *runtimeapi.ContainerConfig) { c.Labels = map[string]string{"who": who} }
	}
	running := p.run(labelled("a"))
	created, err := p.create(labelled("b"))
	if err != nil {
		t.Fatal(err)
	}
	state := func(s runtimeapi.ContainerState) *runtimeapi.ContainerStateValue {
		return &runtimeapi.ContainerStateValue{State: s}
	}
	for what, c := range map[string]struct {
		filter *runtimeapi.ContainerFilter
		want   []string
	}{
		"pod":             {&runtimeapi.ContainerFilter{PodSandboxId: p.id}, []string{running.id, created.id}},
		"labels":          {&runtimeapi.ContainerFilter{PodSandboxId: p.id, LabelSelector: map[string]string{"who": "a"}}, []string{running.id}},
		"state":           {&runtimeapi.ContainerFilter{PodSandboxId: p.id, State: state(runtimeapi.ContainerState_CONTAINER_CREATED)}, []string{created.id}},
		"id":              {&runtimeapi.ContainerFilter{Id: created.id}, []string{created.id}},
		"id and state":    {&runtimeapi.ContainerFilter{Id: created.id, State: state(runtimeapi.ContainerState_CONTAINER_EXITED)}, nil},
		"a pod without":   {&runtimeapi.ContainerFilter{PodSandboxId: n.pod().id}, nil},
		"an unknown one":  {&runtimeapi.ContainerFilter{Id: strings.Repeat("0", 64)}, nil},
		"id and no label": {&runtimeapi.ContainerFilter{Id: created.id, LabelSelector: map[string]string{"who": "c"}}, nil},
	} {
		resp, err := n.runtime.ListContainers(n.ctx(), &runtimeapi.ListContainersRequest{Filter: c.filter})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, item := range resp.Containers {
			got[item.Id] = true
		}
		equal(t, "containers by "+what, len(got), len(c.want))
		for _, id := range c.want {
			equal(t, "listed by "+what, got[id], true)
		}
	}
}

// TestBadPortMappings: how good ones carry packets depends on the node.
func TestBadPortMappings(t *testing.T) {
	clause(t, "PortMapping specifies the port mapping configurations of a sandbox.")
	n := newNode(t)
	for field, bad := range map[string]*runtimeapi.PortMapping{
		"protocol":       {Protocol: 9, ContainerPort: 1, HostPort: 1},
		"container_port": {ContainerPort: 70000, HostPort: 1},
		"host_port":      {ContainerPort: 1, HostPort: -1},
		"host_ip":        {ContainerPort: 1, HostPort: 1, HostIp: "here"},
	} {
		_, err := n.tryPod(n.podConfig(func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{bad} }))
		strict(t, "a bad "+field, err, field)
	}
}
