package sandbox

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cri-box/cri-box/oci/spec"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxDevices bounds how many nodes a directory of devices becomes.
const maxDevices = 1024

// hostDevices looks up the devices of a request. A directory becomes one entry
// for each node in it.
func hostDevices(asked []*runtimeapi.Device) ([]spec.Device, error) {
	var out []spec.Device
	for _, d := range asked {
		found, err := walkDevices(d.GetHostPath(), d.GetContainerPath())
		if err != nil {
			return nil, fmt.Errorf("devices: %w", err)
		}
		for _, node := range found {
			out = append(out, spec.Device{Node: node, Permissions: d.GetPermissions()})
		}
	}
	return out, nil
}

// walkDevices lists the nodes at and below a path of the host, as they appear
// inside the container.
func walkDevices(host, inside string) ([]specs.LinuxDevice, error) {
	resolved, err := filepath.EvalSymlinks(host)
	if err != nil {
		return nil, fmt.Errorf("host_path %q: %w: %w", host, err, spec.ErrInvalid)
	}
	var out []specs.LinuxDevice
	err = filepath.WalkDir(resolved, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if path == resolved {
				return err
			}
			return nil // it went away meanwhile
		}
		if entry.IsDir() && path != resolved && skipped(entry.Name()) {
			return filepath.SkipDir
		}
		node, ok, err := deviceAt(path, inside+strings.TrimPrefix(path, resolved))
		if err != nil || !ok {
			return err
		}
		if out = append(out, node); len(out) > maxDevices {
			return fmt.Errorf("host_path %q has more than %d devices: %w", host, maxDevices, spec.ErrInvalid)
		}
		return nil
	})
	if err == nil && len(out) == 0 {
		return nil, fmt.Errorf("host_path %q is no device: %w", host, spec.ErrInvalid)
	}
	return out, err
}

// skipped are directories of /dev that each container has of its own.
func skipped(name string) bool {
	return name == "pts" || name == "shm" || name == "mqueue" || name == "fd" || name == ".udev"
}

func deviceAt(path, inside string) (specs.LinuxDevice, bool, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		if os.IsNotExist(err) {
			return specs.LinuxDevice{}, false, nil
		}
		return specs.LinuxDevice{}, false, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	kinds := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b"}
	kind := kinds[st.Mode&unix.S_IFMT]
	if kind == "" {
		return specs.LinuxDevice{}, false, nil
	}
	mode := os.FileMode(st.Mode & 0o7777)
	uid, gid := st.Uid, st.Gid
	return specs.LinuxDevice{Path: inside, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: &mode, UID: &uid, GID: &gid}, true, nil
}
