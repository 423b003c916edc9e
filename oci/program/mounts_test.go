package program

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestMountOverProc puts a file over one of procfs, as LXCFS does.
func TestMountOverProc(t *testing.T) {
	s := newScene(t)
	in := s.container()
	s.giveTree("mount.5", "/etc/hostname", 0)
	s.giveTree("mount.6", "/etc/hostname", 0)
	in.FileMounts[5], in.FileMounts[6] = true, true
	in.Spec.Mounts = append(in.Spec.Mounts,
		specs.Mount{Type: "bind", Destination: "/proc/meminfo"},
		specs.Mount{Type: "bind", Destination: "/proc/sys/kernel/ns_last_pid"})
	in.Spec.Linux.ReadonlyPaths = []string{"/proc/sys"}
	st := s.spawn(compile(t, in)).probe(s)
	for _, target := range []string{"/proc/meminfo", "/proc/sys/kernel/ns_last_pid"} {
		if m := st.Mount(target); m == nil || m.FSType == "proc" {
			t.Errorf("nothing is mounted on %s: %+v", target, m)
		}
	}
}

// TestWorkingDirectoryInVolume: one that a volume lacks is made there, as other
// runtimes do.
func TestWorkingDirectoryInVolume(t *testing.T) {
	s := newScene(t)
	in := s.container()
	s.giveFS("mount.5", "tmpfs")
	in.Spec.Mounts = append(in.Spec.Mounts, specs.Mount{Type: "bind", Destination: "/vol"})
	in.Spec.Process.Cwd = "/vol/a/b"
	equal(t, "cwd", s.spawn(compile(t, in)).probe(s).Cwd, "/vol/a/b")
}
