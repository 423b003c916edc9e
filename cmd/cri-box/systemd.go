package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cri-box/cri-box/oci/keeper"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// firstListenFD is the first descriptor that systemd hands over (sd_listen_fds(3)).
const firstListenFD = 3

// storedFiles takes what systemd's descriptor store gave back, by name; nil if there
// is no store: serve was not started by systemd, or FileDescriptorStoreMax= is 0.
func storedFiles() map[string]*os.File {
	if os.Getenv("NOTIFY_SOCKET") == "" || os.Getenv("SYSTEMD_EXEC_PID") != strconv.Itoa(os.Getpid()) || os.Getenv("FDSTORE") == "0" {
		return nil
	}
	files := map[string]*os.File{}
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return files
	}
	count, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for i := range count {
		if i >= len(names) || !strings.Contains(names[i], "/") {
			continue // none of ours
		}
		fd := firstListenFD + i
		unix.CloseOnExec(fd)
		if files[names[i]] == nil {
			files[names[i]] = os.NewFile(uintptr(fd), names[i])
		}
	}
	return files
}

// An fdStore is systemd's, spoken to by a goroutine in the order of the calls: no
// request waits for it.
type fdStore struct {
	mu    sync.Mutex
	queue []storeCall
	wake  chan struct{}
}

type storeCall struct {
	state string
	fd    int // -1 for none; ours
}

func newFDStore() *fdStore {
	s := &fdStore{wake: make(chan struct{}, 1)}
	go s.run()
	return s
}

// Put has systemd store f. What has the name already is forgotten first. systemd
// shall not watch it (FDPOLL=0): it would drop a pipe whose writer is gone, with
// what is left in it.
func (s *fdStore) Put(name string, f *os.File) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		slog.Warn("cannot have systemd store a descriptor", "name", name, "err", err)
		return
	}
	s.call(storeCall{"FDSTOREREMOVE=1\nFDNAME=" + name, -1}, storeCall{"FDSTORE=1\nFDPOLL=0\nFDNAME=" + name, fd})
}

// Drop has systemd forget it.
func (s *fdStore) Drop(name string) { s.call(storeCall{"FDSTOREREMOVE=1\nFDNAME=" + name, -1}) }

func (s *fdStore) call(calls ...storeCall) {
	s.mu.Lock()
	s.queue = append(s.queue, calls...)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *fdStore) run() {
	for range s.wake {
		s.mu.Lock()
		calls := s.queue
		s.queue = nil
		s.mu.Unlock()
		for _, c := range calls {
			s.send(c)
		}
	}
}

func (s *fdStore) send(c storeCall) {
	var rights []byte
	if c.fd >= 0 {
		defer unix.Close(c.fd)
		rights = unix.UnixRights(c.fd)
	}
	if err := notifyWith(c.state, rights); err != nil {
		slog.Warn("cannot notify", "err", err)
	}
}

// notifyBound is how long systemd may be too busy to be told something.
const notifyBound = 5 * time.Second

// notify tells systemd, or whoever started us, about our state (sd_notify(3)).
func notify(state string) {
	if err := notifyWith(state, nil); err != nil {
		slog.Warn("cannot notify", "err", err)
	}
}

func notifyWith(state string, rights []byte) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	bound := unix.NsecToTimeval(notifyBound.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &bound); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	for end := time.Now().Add(notifyBound); ; {
		err := unix.Sendmsg(fd, []byte(state), rights, &unix.SockaddrUnix{Name: path}, unix.MSG_NOSIGNAL)
		// With a time limit it is not restarted after a signal (signal(7)), such as
		// those of Go's scheduler.
		if err != unix.EINTR || time.Now().After(end) {
			return os.NewSyscallError("sendmsg", err)
		}
	}
}

// ownGroups gives serve and keeper a control group each, below that of the unit, if
// systemd has delegated it: what one of them uses is then not the other's. It
// returns the keeper's, nil where there is none.
func ownGroups() (*os.File, error) {
	unit, err := delegatedGroup()
	if unit == "" || err != nil {
		return nil, err
	}
	for _, name := range []string{"serve", "keeper"} {
		if err := os.Mkdir(filepath.Join(unit, name), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("cannot make own control group: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(unit, "serve", "cgroup.procs"), []byte("0"), 0); err != nil {
		return nil, fmt.Errorf("cannot enter own control group: %w", err)
	}
	return os.Open(filepath.Join(unit, "keeper"))
}

// delegatedGroup is the unit's group on cgroup v2, empty if it is not ours to divide:
// systemd marks one that is (systemd.resource-control(5), Delegate=).
func delegatedGroup() (string, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("cannot read own control group: %w", err)
	}
	path, ok := strings.CutPrefix(strings.TrimSpace(string(own)), "0::")
	if !ok || strings.Contains(path, "\n") {
		return "", nil
	}
	dir := filepath.Join("/sys/fs/cgroup", path)
	var mark [1]byte
	for _, name := range []string{"trusted.delegate", "user.delegate"} {
		if n, err := unix.Getxattr(dir, name, mark[:]); err == nil && n == 1 && mark[0] == '1' {
			return dir, nil
		}
	}
	return "", nil
}

// checkBound is how long the parts may take to answer the self-check.
const checkBound = 10 * time.Second

// keepWatchdog tells systemd that the daemon works, as often as it wants to hear it
// (sd_watchdog_enabled(3)), and only after it has answered a request of its own over
// its socket and the keeper has answered.
func (d *daemon) keepWatchdog(ctx context.Context) {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return
	}
	tick := time.NewTicker(time.Duration(usec) * time.Microsecond / 3)
	defer tick.Stop()
	for {
		if err := d.selfCheck(ctx); err != nil {
			slog.Error("the self-check failed; systemd restarts the daemon if it goes on", "err", err)
		} else {
			notify("WATCHDOG=1")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (d *daemon) selfCheck(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkBound)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+d.listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	service := runtimeapi.NewRuntimeServiceClient(conn)
	if _, err := service.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		return fmt.Errorf("cannot get an answer from myself: %w", err)
	}
	if _, err := service.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}); err != nil {
		return fmt.Errorf("cannot list my pods: %w", err)
	}
	if err := d.keeper.Ping(ctx); err != nil {
		return fmt.Errorf("cannot get an answer from the keeper: %w", err)
	}
	return nil
}

// adoptScopes tells systemd of what was started and not told before the last daemon
// ended.
func (d *daemon) adoptScopes() {
	if d.groups.Driver() != "systemd" {
		return
	}
	for _, k := range d.keeper.Items() {
		if k.Kind != keeper.KindContainer || k.PID <= 0 || k.Exit != nil {
			continue
		}
		group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", k.PID))
		if err != nil {
			continue // it has ended
		}
		if path, ok := strings.CutPrefix(strings.TrimSpace(string(group)), "0::"); ok {
			d.groups.Adopt(path, k.PID)
		}
	}
}
