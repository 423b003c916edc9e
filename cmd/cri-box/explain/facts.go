// Package explain shows what a pod is made of: what the kernel says of its
// processes, not what cri-box believes. The facts are collected from /proc and
// netlink (collect.go), and drawn as text (text.go) or SVG (svg.go).
package explain

// Facts are what is true of a pod at one moment.
type Facts struct {
	Pod        Pod         `json:"pod"`
	Containers []Container `json:"containers"`
}

// A Pod is a set of namespaces and a group; no process holds it.
type Pod struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	State     string `json:"state"`
	// Shared are the namespaces that its containers share, Node those of the node
	// for comparison, both by kind, such as "net:[4026532245]".
	Shared    map[string]string `json:"shared"`
	Node      map[string]string `json:"node"`
	NetNS     string            `json:"netns,omitempty"` // path of the pin
	Cgroup    string            `json:"cgroup,omitempty"`
	Ports     []string          `json:"ports,omitempty"` // such as "tcp 8080 on the node is 80 here"
	Published []Port            `json:"published,omitempty"`
	Links     []Link            `json:"links,omitempty"`
	Routes    []string          `json:"routes,omitempty"`
	Network   string            `json:"network"` // "its own" or "the node's"
}

// A Port leads from the node to the pod.
type Port struct {
	Protocol string `json:"protocol"` // tcp, udp or sctp
	Host     int    `json:"host"`
	Pod      int    `json:"pod"`
}

// A Link is an interface in the pod's network namespace.
type Link struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac,omitempty"`
	MTU       int      `json:"mtu"`
	Addresses []string `json:"addresses,omitempty"`
	Peer      string   `json:"peer,omitempty"` // the other end of a veth, on the node
}

// A Container is a process that is shown a partitioned world and given a ration.
type Container struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	State string `json:"state"`
	Image string `json:"image"`
	PID   int    `json:"pid,omitempty"`
	End   string `json:"end,omitempty"` // how it ended
	// Own are the namespaces that neither the pod nor the node has.
	Own       map[string]string `json:"own,omitempty"`
	Processes []Process         `json:"processes,omitempty"`
	// Cgroups are the group's paths by controllers, "" for version 2.
	Cgroups map[string]string `json:"cgroups,omitempty"`
	Limits  []string          `json:"limits,omitempty"` // such as "memory 12.1 MiB of 48.0 MiB"
	// Ration is what stands in the files of limits, by hierarchy and file.
	Ration map[string]map[string]string `json:"ration,omitempty"`
	Mounts []Mount                      `json:"mounts,omitempty"`
	Rights `json:"rights"`
}

// A Process is one in the container's group.
type Process struct {
	PID     int    `json:"pid"`    // on the node
	Inside  int    `json:"inside"` // in its own PID namespace
	Command string `json:"command"`
}

// A Mount is one that the container sees (proc_pid_mountinfo(5)).
type Mount struct {
	Target  string `json:"target"`
	Type    string `json:"type"`
	Source  string `json:"source"`
	Options string `json:"options"`
}

// Rights are what the process may do.
type Rights struct {
	User            string   `json:"user,omitempty"`         // uid:gid and groups
	Capabilities    []string `json:"capabilities,omitempty"` // the bounding set
	Dropped         []string `json:"dropped,omitempty"`      // what the node has beyond it
	AllCapabilities bool     `json:"all_capabilities,omitempty"`
	Seccomp         string   `json:"seccomp,omitempty"`
	NoNewPrivileges bool     `json:"no_new_privileges"`
}
