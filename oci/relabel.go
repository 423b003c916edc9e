package oci

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/cri-box/cri-box/oci/mount"
	"github.com/cri-box/cri-box/oci/spec"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// systemDirs are the node's own: with a pod's label on them the node would not
// work any more. What lies deeper, such as /var/lib/kubelet, may be a volume.
var systemDirs = []string{"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media", "/mnt", "/opt", "/proc",
	"/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log", "/var/run", "/var/tmp"}

// deepSystemDirs are those of which nothing is anybody else's.
var deepSystemDirs = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr"}

// mayRelabel says whether a path can be a volume.
func mayRelabel(source string) bool {
	p := path.Clean(source)
	return !slices.Contains(systemDirs, p) && !slices.ContainsFunc(deepSystemDirs, func(dir string) bool { return within(p, dir) })
}

// relabel gives a volume's files the pod's label. Of a file system that may not
// answer, NFS say, the kubelet mounts the right label; it is not walked here.
func (m *maker) relabel(ctx context.Context, mt specs.Mount, f *os.File) error {
	if m.bundle.MountLabel == "" {
		return nil
	}
	if !mayRelabel(mt.Source) {
		return fmt.Errorf("host_path %q with selinux_relabel: it is the node's own directory, whose labels stay: %w", mt.Source, spec.ErrInvalid)
	}
	if !answers(f) {
		return nil
	}
	return mount.Relabel(ctx, f, m.bundle.MountLabel)
}

// answers says whether a file system is the kernel's alone: on a block device, or
// one of those without that need nobody.
func answers(f *os.File) bool {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return false
	}
	if st.Dev_major != 0 {
		return true
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && slices.Contains([]string{"tmpfs", "btrfs", "overlay"}, typeOf(string(mounts), fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor)))
}

// typeOf finds the type of the file system with a device number in mountinfo
// (proc_pid_mountinfo(5)).
func typeOf(mountinfo, device string) string {
	for line := range strings.Lines(mountinfo) {
		left, right, _ := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) > 2 && len(r) > 0 && l[2] == device {
			return r[0]
		}
	}
	return ""
}
