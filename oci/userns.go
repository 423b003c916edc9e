package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/cri-box/cri-box/oci/mount"
	"github.com/cri-box/cri-box/oci/program"
	"github.com/cri-box/cri-box/oci/spec"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// usersBound is how long making a pod's namespaces may take.
const usersBound = 10 * time.Second

// A NamespaceSet is what to make for a pod with a user namespace.
type NamespaceSet struct {
	// IDs are the user namespace's maps.
	IDs spec.IDs
	// Net, IPC and UTS ask for these too; the user namespace owns them.
	Net, IPC, UTS bool
	// Join is the user namespace, if there is one already. It stays the caller's.
	Join *os.File
}

// UserNamespaces makes a user namespace and others in it, and returns them by
// name: user, net, ipc, uts. They are the caller's. It takes a process, which is
// gone again: our own has too many threads to make or enter a user namespace.
func (r *Runtime) UserNamespaces(ctx context.Context, podID string, set NamespaceSet) (map[string]*os.File, error) {
	p, err := program.Namespaces(program.NamespacesInput{ID: podID, Arch: runtime.GOARCH, Net: set.Net, IPC: set.IPC, UTS: set.UTS, Join: set.Join != nil})
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make namespaces: %w", os.NewSyscallError("socketpair", err))
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "maker of namespaces"), os.NewFile(uintptr(pair[1]), "reply")
	defer ours.Close() // by which the process ends
	err = errors.Join(unix.SetNonblock(pair[1], false), unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
	if err == nil {
		err = r.Keeper.Run(ctx, p, map[string]*os.File{"reply": theirs, "ns.user": set.Join})
	}
	theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("cannot make namespaces: %w", err)
	}
	if err := ours.SetReadDeadline(deadline(ctx, usersBound)); err != nil {
		return nil, fmt.Errorf("cannot make namespaces: %w", err)
	}
	files, err := set.take(ours)
	if err != nil {
		closeFiles(files)
		return nil, fmt.Errorf("cannot make namespaces: %w", err)
	}
	return files, nil
}

// take talks to the process at the other end of conn: gives its user namespace
// its maps, has it make the others, and opens them.
func (s NamespaceSet) take(conn *os.File) (map[string]*os.File, error) {
	pid, err := senderOf(conn)
	if err != nil {
		return nil, err
	}
	proc := "/proc/" + strconv.Itoa(pid)
	files := map[string]*os.File{}
	if s.Join == nil {
		if err := s.writeMaps(proc); err != nil {
			return nil, err
		}
		if files["user"], err = os.Open(proc + "/ns/user"); err != nil {
			return nil, err
		}
	}
	if _, err := conn.Write([]byte("go")); err != nil {
		return files, err
	}
	if _, err := senderOf(conn); err != nil {
		return files, err
	}
	for name, want := range map[string]bool{"net": s.Net, "ipc": s.IPC, "uts": s.UTS} {
		if !want {
			continue
		}
		if files[name], err = os.Open(proc + "/ns/" + name); err != nil {
			return files, err
		}
	}
	return files, nil
}

func (s NamespaceSet) writeMaps(proc string) error {
	for _, m := range []struct {
		file string
		list []specs.LinuxIDMapping
	}{{"/uid_map", s.IDs.UIDs}, {"/gid_map", s.IDs.GIDs}} {
		if err := os.WriteFile(proc+m.file, mapText(m.list), 0); err != nil {
			return fmt.Errorf("cannot map the ids of a user namespace: %w", err)
		}
	}
	return nil
}

// mapText is a map as the kernel takes it, in one write.
func mapText(list []specs.LinuxIDMapping) []byte {
	var b []byte
	for _, m := range list {
		b = fmt.Appendf(b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return b
}

// senderOf waits for a message, and has the kernel tell whose it is (unix(7),
// SCM_CREDENTIALS).
func senderOf(conn *os.File) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	payload, oob := make([]byte, 16), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	var n, oobn int
	ctl := raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, err = unix.Recvmsg(int(fd), payload, oob, unix.MSG_CMSG_CLOEXEC)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if err := errors.Join(ctl, err); err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, errors.New("the process ended early: the kernel allows no user namespace (user.max_user_namespaces)")
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(cmsgs) != 1 {
		return 0, errOpener
	}
	cred, err := unix.ParseUnixCredentials(&cmsgs[0])
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// TryUserNamespaces says why pods cannot have user namespaces on this node, nil
// if they can. It makes one, and maps the ids of where the layers are.
func (r *Runtime) TryUserNamespaces(ctx context.Context) error {
	one := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	files, err := r.UserNamespaces(ctx, "none", NamespaceSet{IDs: spec.IDs{UIDs: one, GIDs: one}})
	if err != nil {
		return err
	}
	defer closeFiles(files)
	layers, err := mount.BindOwn(r.RootDir)
	if err != nil {
		return err
	}
	defer layers.Close()
	return mount.MapIDs(layers, files["user"])
}

// users is the pod's user namespace, nil if it has none.
func (r *Runtime) users(b Bundle) (*os.File, error) {
	if b.IDs.IsZero() {
		return nil, nil
	}
	return r.Keeper.FD(b.PodID, "user")
}

// owner is the container's root, as the host counts.
func (b Bundle) owner() mount.Owner {
	uid, gid := b.IDs.Root()
	return mount.Owner{UID: uid, GID: gid}
}

// hostUser gives the ids of a process as the host counts. The spec was checked:
// they have some.
func hostUser(ids spec.IDs, u specs.User) (uid, gid int) {
	hostUID, _ := ids.UID(u.UID)
	hostGID, _ := ids.GID(u.GID)
	return int(hostUID), int(hostGID)
}

// terminalGroup is tty (5) as the host counts, or root where a pod has no 5.
func terminalGroup(ids spec.IDs) int {
	gid, ok := ids.GID(5)
	if !ok {
		_, root := ids.Root()
		return root
	}
	return int(gid)
}

// mapVolume makes the ids of a volume those that the request gives it.
func (m *maker) mapVolume(ctx context.Context, mt specs.Mount, f *os.File) error {
	want := spec.IDs{UIDs: mt.UIDMappings, GIDs: mt.GIDMappings}
	if want.IsZero() {
		return nil
	}
	users, err := m.usersOf(ctx, want)
	if err != nil {
		return fmt.Errorf("cannot mount %s on %s: %w", mt.Source, mt.Destination, err)
	}
	defer users.Close()
	err = mount.MapIDs(f, users)
	if errors.Is(err, mount.ErrNoIDMap) {
		return fmt.Errorf("cannot mount host_path %q on %s with uidMappings and gidMappings: %w (user namespaces need a file system that does, such as ext4, xfs, btrfs or tmpfs): %w",
			mt.Source, mt.Destination, mount.ErrNoIDMap, spec.ErrInvalid)
	}
	return err
}

// usersOf is the pod's user namespace if it has these ids, as all mounts of the
// kubelet's pods have; else one made for it.
func (m *maker) usersOf(ctx context.Context, ids spec.IDs) (*os.File, error) {
	if ids.Equal(m.bundle.IDs) {
		return m.users(m.bundle)
	}
	files, err := m.UserNamespaces(ctx, m.bundle.PodID, NamespaceSet{IDs: ids})
	if err != nil {
		return nil, err
	}
	return files["user"], nil
}

// UserNamespaceOf opens the user namespace that owns the network namespace net.
func UserNamespaceOf(net *os.File) (*os.File, error) {
	fd, err := unix.IoctlRetInt(int(net.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return nil, fmt.Errorf("cannot find the user namespace of %s: %w", filepath.Base(net.Name()), err)
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "user"), nil
}
