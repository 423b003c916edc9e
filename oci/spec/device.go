package spec

import (
	"io/fs"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultDevices are the nodes every container has (runtime-spec, config-linux,
// Default Devices). console, ptmx and the links are made with the terminal.
var defaultDevices = []struct {
	path         string
	major, minor int64
}{
	{"/dev/null", 1, 3},
	{"/dev/zero", 1, 5},
	{"/dev/full", 1, 7},
	{"/dev/random", 1, 8},
	{"/dev/urandom", 1, 9},
	{"/dev/tty", 5, 0},
}

// ownDevices are made for each container; the host's must not replace them.
var ownDevices = []string{"/dev/console", "/dev/ptmx", "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd"}

// devices lists the nodes to make: none if the request brings its own /dev. A CRI
// device replaces a node of the host or a default one at the same path.
func devices(in Input, mounts []specs.Mount) []specs.LinuxDevice {
	if !slices.ContainsFunc(mounts, func(m specs.Mount) bool { return m.Destination == "/dev" && m.Type == "tmpfs" }) {
		return nil
	}
	var list []specs.LinuxDevice
	at := map[string]int{}
	put := func(d specs.LinuxDevice) {
		d.FileMode, d.UID, d.GID = clonePtr(d.FileMode), clonePtr(d.UID), clonePtr(d.GID)
		if i, known := at[d.Path]; known {
			list[i] = d
			return
		}
		at[d.Path] = len(list)
		list = append(list, d)
	}
	for _, d := range defaultDevices {
		put(defaultDevice(d.path, d.major, d.minor))
	}
	if !SandboxIDs(in.Sandbox).IsZero() {
		// These are the pod's root's. A node of the host keeps the host's owners: with
		// root's rights on a disk the pod would have the host's.
		for i := range list {
			list[i].UID, list[i].GID = nil, nil
		}
	}
	if in.privileged() {
		for _, d := range in.Host.Devices {
			own := slices.ContainsFunc(ownDevices, func(p string) bool { return within(d.Path, p) })
			if _, known := at[d.Path]; !own && !known {
				put(d)
			}
		}
	}
	for _, d := range in.Devices {
		put(d.Node)
	}
	return list
}

func defaultDevice(path string, major, minor int64) specs.LinuxDevice {
	mode, root := fs.FileMode(0o666), uint32(0)
	return specs.LinuxDevice{Path: path, Type: "c", Major: major, Minor: minor,
		FileMode: &mode, UID: &root, GID: &root}
}

// deviceRules is the device cgroup's list, later rules over earlier ones: nothing
// but mknod, the default devices, terminals and what was asked for. A privileged
// container may use all.
func deviceRules(in Input) []specs.LinuxDeviceCgroup {
	if in.privileged() {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
	}
	for _, d := range defaultDevices {
		rules = append(rules, allow("c", d.major, &d.minor, "rwm"))
	}
	console, ptmx := int64(1), int64(2)
	rules = append(rules,
		allow("c", 5, &console, "rwm"),
		allow("c", 5, &ptmx, "rwm"),
		allow("c", 136, nil, "rwm")) // UNIX98_PTY_SLAVE_MAJOR, /dev/pts/*
	for _, d := range in.Devices {
		rules = append(rules, allow(d.Node.Type, d.Node.Major, &d.Node.Minor, d.Permissions))
	}
	return rules
}

func allow(kind string, major int64, minor *int64, access string) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: clonePtr(minor), Access: access}
}
