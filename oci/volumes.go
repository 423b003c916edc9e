package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cri-box/cri-box/oci/program"
	"github.com/cri-box/cri-box/oci/spec"
	"github.com/cri-box/cri-box/oci/waits"
	"golang.org/x/sys/unix"
)

// volumeBound is how long opening the paths of one container may take: a stat on
// a dead NFS never returns.
const volumeBound = 30 * time.Second

// openVolumes clones the mount trees of the volumes, by index of the mount. The
// paths are a stranger's and may be dead: what the kernel has not cached is
// walked by a process of its own.
func (m *maker) openVolumes(ctx context.Context) (map[int]*os.File, error) {
	var requests []program.TreeRequest
	var index []int
	out := map[int]*os.File{}
	for i, mt := range m.mounts {
		if mt.Type != "bind" || m.own(mt.Source) {
			continue
		}
		if !slices.Contains(mt.Options, "rshared") { // of such a source we ask more
			if f := cachedTree(mt.Source); f != nil {
				out[i] = f
				continue
			}
		}
		requests = append(requests, program.TreeRequest{Path: mt.Source, Recursive: true, Create: m.bundle.MakeSources})
		index = append(index, i)
	}
	if len(requests) == 0 {
		return out, nil
	}
	sources := len(requests)
	for _, i := range index {
		if slices.Contains(m.mounts[i].Options, "rshared") {
			requests = append(requests, program.TreeRequest{Path: m.mounts[i].Source, Locate: true})
		}
	}
	files, err := m.openTrees(ctx, requests)
	if files == nil { // the opener was not started
		closeFrom(out, 0)
		return nil, err
	}
	for k, f := range files[:sources] {
		if f != nil {
			out[index[k]] = f
		}
	}
	places := files[sources:]
	defer closeAll(places)
	if err == nil {
		err = mustBeShared(places, requests[sources:])
	}
	if err != nil {
		closeFrom(out, 0)
		return nil, err
	}
	return out, nil
}

// mustBeShared refuses BIDIRECTIONAL where nothing would come back: what is
// mounted in the container reaches the host only through a shared mount
// (mount_namespaces(7)). places are the sources of such mounts.
func mustBeShared(places []*os.File, requests []program.TreeRequest) error {
	for i, place := range places {
		shared, err := isShared(place)
		if err != nil {
			return fmt.Errorf("cannot find the mount of %s: %w", requests[i].Path, err)
		}
		if !shared {
			return fmt.Errorf("host_path %q is not on a shared mount, which propagation BIDIRECTIONAL needs (mount --make-shared makes one): %w",
				requests[i].Path, spec.ErrInvalid)
		}
	}
	return nil
}

// isShared asks the kernel's list of mounts, by the id of the mount that place
// is on; no path is walked.
func isShared(place *os.File) (bool, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", place.Fd()))
	if err != nil {
		return false, err
	}
	_, rest, _ := strings.Cut(string(info), "mnt_id:")
	id, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 6 && f[0] == id {
			optional, _, _ := strings.Cut(strings.Join(f[6:], " "), "- ")
			return strings.Contains(optional, "shared:"), nil
		}
	}
	return false, fmt.Errorf("mount %s is not in this mount namespace", id)
}

// own tells whether a path is below one of our own directories.
func (r *Runtime) own(path string) bool {
	return strings.HasPrefix(path, r.StateDir+"/") || strings.HasPrefix(path, r.RootDir+"/")
}

// openTrees has an opener answer requests: a file for each, or an error that
// names the path. The files that came are the caller's in any case; nil if none can.
func (r *Runtime) openTrees(ctx context.Context, requests []program.TreeRequest) ([]*os.File, error) {
	p, err := program.OpenTrees(runtime.GOARCH, requests)
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open volumes: %w", os.NewSyscallError("socketpair", err))
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "opener"), os.NewFile(uintptr(pair[1]), "reply")
	defer ours.Close()
	// The opener's own end blocks: its answers wait for us, not the other way.
	if err := unix.SetNonblock(pair[1], false); err != nil {
		theirs.Close()
		return nil, fmt.Errorf("cannot open volumes: %w", err)
	}
	err = r.Keeper.Run(ctx, p, map[string]*os.File{"reply": theirs})
	theirs.Close()
	if err != nil {
		return nil, err
	}
	if err := ours.SetReadDeadline(deadline(ctx, volumeBound)); err != nil {
		return nil, fmt.Errorf("cannot open volumes: %w", err)
	}
	return readTrees(ctx, ours, requests)
}

func deadline(ctx context.Context, bound time.Duration) time.Time {
	at := time.Now().Add(bound)
	if d, ok := ctx.Deadline(); ok && d.Before(at) {
		return d
	}
	return at
}

func readTrees(ctx context.Context, conn *os.File, requests []program.TreeRequest) ([]*os.File, error) {
	files := make([]*os.File, len(requests))
	raw, err := conn.SyscallConn()
	if err != nil {
		return files, err
	}
	for i, q := range requests {
		path := filepath.Join(q.Dir, q.Path)
		over := waits.For(ctx, "the file system of "+path+" to answer", "see to its server, or umount -l it; the container is made once it answers")
		f, errno, err := readTree(raw, i)
		over()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return files, fmt.Errorf("cannot open %s: its file system does not answer", path)
		case err != nil:
			return files, fmt.Errorf("cannot open %s: %w", path, err)
		case errno == syscall.ENOENT && q.Dir == "":
			return files, fmt.Errorf("host_path %q does not exist (set missing_bind_source = \"create\" to have directories made): %w: %w", path, errno, spec.ErrInvalid)
		case (errno == syscall.ENOTDIR || errno == syscall.ELOOP) && q.Dir == "":
			return files, fmt.Errorf("host_path %q cannot be opened: %w: %w", path, errno, spec.ErrInvalid)
		case errno != 0:
			return files, fmt.Errorf("cannot open %s: %w", path, errno)
		}
		files[i] = f
	}
	return files, nil
}

var errOpener = errors.New("the opener ended without an answer")

// readTree reads the answer to request want.
func readTree(raw syscall.RawConn, want int) (f *os.File, errno syscall.Errno, err error) {
	payload, oob := make([]byte, 16), make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	ctl := raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, err = unix.Recvmsg(int(fd), payload, oob, unix.MSG_CMSG_CLOEXEC)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if err := errors.Join(ctl, err); err != nil {
		return nil, 0, err
	}
	if n == 0 {
		return nil, 0, errOpener
	}
	if oobn > 0 {
		cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(cmsgs) != 1 {
			return nil, 0, errOpener
		}
		fds, err := unix.ParseUnixRights(&cmsgs[0])
		if err != nil || len(fds) != 1 {
			return nil, 0, errOpener
		}
		f = os.NewFile(uintptr(fds[0]), "volume")
	}
	index, errno, err := program.TreeReply(payload[:n])
	if err == nil && (index != want || (f == nil) == (errno == 0)) {
		err = errOpener
	}
	if err != nil && f != nil {
		f.Close()
		f = nil
	}
	return f, errno, err
}

// openLog opens a container's log for appending, making it and its directory.
func (r *Runtime) openLog(ctx context.Context, path string) (*os.File, error) {
	dir, name := filepath.Split(path)
	parent, last := filepath.Split(filepath.Clean(dir))
	if f := localLog(filepath.Clean(parent), last, name); f != nil {
		return f, nil
	}
	// The pod's log directory may be missing when it is not a kubelet that asks.
	files, err := r.openTrees(ctx, []program.TreeRequest{{Dir: filepath.Clean(parent), Path: filepath.Join(last, name)}})
	if err != nil {
		return nil, fmt.Errorf("cannot open log: %w", err)
	}
	return files[0], nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
