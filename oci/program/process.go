package program

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A starter writes what the start of a container and of a process in a running
// one have in common.
type starter struct {
	*list
	process *specs.Process
	linux   *specs.Linux
	filter  Filter
	lastCap int
	inner   bool // others live in the pid namespace: an inner clone executes
	cwd     Reg  // negative: the working directory was closed to root

	users     string // the descriptor that leads to the user namespace, "" for none
	ownMounts uint64 // namespaces to make again in there
}

func checkProcess(p *specs.Process) error {
	switch {
	case len(p.Args) == 0:
		return errors.New("process.args is empty: the command to execute is missing")
	case p.Args[0] == "":
		return errors.New("process.args[0] is empty: the command to execute is missing")
	case !path.IsAbs(p.Cwd):
		return fmt.Errorf("process.cwd is %q, not an absolute path", p.Cwd)
	case p.ExecCPUAffinity != nil:
		return errors.New("process.execCPUAffinity is not supported")
	}
	return nil
}

// outside does what needs the host's files. The list is entered with all
// signals blocked and all handlers reset.
func (s *starter) outside(tasks []string) {
	s.call("unblock all signals", "rt_sigprocmask", Flag(unix.SIG_SETMASK, "SIG_SETMASK"), s.words("[]", 0), Null(), Int(8))
	s.call("set the umask", "umask", Flag(0o022, "0022"))
	if adj := s.process.OOMScoreAdj; adj != nil {
		// Lowering it takes CAP_SYS_RESOURCE, which not every host gives its root.
		s.write("oom_score_adj", "/proc/self/oom_score_adj", strconv.Itoa(*adj)).Tolerate = errnos(unix.EACCES)
	}
	if profile := s.process.ApparmorProfile; profile != "" && profile != "unconfined" {
		s.write("the AppArmor profile", "/proc/self/attr/apparmor/exec", "exec "+profile)
	}
	if label := s.process.SelinuxLabel; label != "" {
		s.write("the SELinux label", "/proc/self/attr/exec", label)
	}
	for _, fd := range tasks {
		s.call("join cgroup "+fd, "write", s.FD(fd), s.Str("0"), Int(1))
	}
}

// write writes value to a file of the host's procfs; the returned call is the
// write itself, to be changed until the next call.
func (s *starter) write(what, file, value string) *Op {
	r := s.reg()
	flags, names := s.openFlags(oWronly)
	s.call("open "+file, "openat", cwd, s.Str(file), Flag(flags, names), Int(0)).Dst = r
	at := len(s.Ops)
	s.call("set "+what+" to "+plain(value), "write", In(r), s.text(value), Int(len(value)))
	s.close(r)
	return &s.Ops[at]
}

// session gives the process a session and a session keyring of its own; the
// keyring has no name by which another could join it. An inner clone makes its
// session itself.
func (s *starter) session() {
	if s.inner {
		s.call("keep the report page from the inner clone", "madvise", Page(0, "&report"), Int(PageSize), Flag(unix.MADV_DONTFORK, "MADV_DONTFORK"))
	} else {
		s.call("make a session", "setsid")
	}
	s.call("make a session keyring", "keyctl", Flag(unix.KEYCTL_JOIN_SESSION_KEYRING, "KEYCTL_JOIN_SESSION_KEYRING"), Null()).
		Tolerate = errnos(unix.ENOSYS)
}

// inside sets what a process inherits, in the container and with full rights.
func (s *starter) inside() {
	s.scheduling()
	if s.linux != nil && s.linux.Personality != nil {
		s.personality(s.linux.Personality)
	}
	s.stdio()
	s.enterCwd()
	s.rlimits() // not before: a small RLIMIT_NOFILE must not stop the list
	if m := s.process.User.Umask; m != nil && *m != 0o022 {
		s.call("set the umask", "umask", Flag(uint64(*m), fmt.Sprintf("%04o", *m)))
	}
	s.enterUsers()
	s.call("close all other descriptors", "close_range", Int(3), Flag(0xffffffff, "~0"), Int(0))
}

func (s *starter) stdio() {
	for i, fd := range []string{"stdin", "stdout", "stderr"} {
		if s.process.Terminal {
			s.call("make the terminal "+fd, "dup3", s.FD("tty"), Int(i), Int(0))
		} else {
			s.call("set "+fd, "dup3", s.FD(fd), Int(i), Int(0))
		}
	}
	if s.process.Terminal && !s.inner {
		s.controlTerminal()
	}
}

func (s *starter) controlTerminal() {
	s.call("make it the controlling terminal", "ioctl", Int(0), Flag(unix.TIOCSCTTY, "TIOCSCTTY"), Int(0))
}

// enterCwd goes to the working directory. One that is closed to root, as on NFS
// with root_squash, is tried again as the container's user (reenterCwd).
func (s *starter) enterCwd() {
	dir := s.reg()
	s.cwd = s.reg()
	name := plain(path.Clean(s.process.Cwd))
	open := s.openat2(dir, "find the working directory "+name, cwd, inRoot(s.process.Cwd), howDir)
	if s.process.User.UID == 0 {
		s.call("enter the working directory "+name, "fchdir", In(dir))
		s.close(dir)
		return
	}
	open.Tolerate = errnos(unix.EACCES)
	// A descriptor of -EACCES gives EBADF here.
	enter := s.call("enter the working directory "+name, "fchdir", In(dir))
	enter.Dst, enter.Tolerate = s.cwd, errnos(unix.EACCES, unix.EBADF)
	s.when(dir, func() { s.close(dir) })
}

func (s *starter) reenterCwd() {
	if s.process.User.UID == 0 {
		return
	}
	dir, name := s.reg(), plain(path.Clean(s.process.Cwd))
	s.openat2(dir, "find the working directory "+name, cwd, inRoot(s.process.Cwd), howDir).If = -s.cwd
	s.when(-s.cwd, func() {
		s.call("enter the working directory "+name, "fchdir", In(dir))
		s.close(dir)
	})
}

var rlimits = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

// rlimits sets the spec's limits. RLIMIT_NOFILE is always set: Go has raised
// the soft one for itself, and it must not reach a program that uses select(2).
func (s *starter) rlimits() {
	nofile := false
	for _, l := range s.process.Rlimits {
		resource, ok := rlimits[l.Type]
		if !ok {
			s.fail("process.rlimits: %q is not a resource limit", l.Type)
		}
		nofile = nofile || l.Type == "RLIMIT_NOFILE"
		s.rlimit(l.Type, resource, l.Soft, l.Hard)
	}
	if nofile {
		return
	}
	// systemd's default; the second where that is above the host's own hard limit.
	r := s.reg()
	first := s.rlimit("RLIMIT_NOFILE", unix.RLIMIT_NOFILE, 1024, 524288)
	first.Dst, first.Tolerate = r, errnos(unix.EPERM)
	s.rlimit("RLIMIT_NOFILE", unix.RLIMIT_NOFILE, 1024, 4096).If = -r
	s.free(r)
}

func (s *starter) rlimit(name string, resource int, soft, hard uint64) *Op {
	text := "{" + limitText(soft) + ", " + limitText(hard) + "}"
	return s.call("set "+name+" to "+text, "prlimit64", Int(0), Flag(uint64(resource), name), s.words(text, soft, hard), Null())
}

func limitText(v uint64) string {
	if v == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(v, 10)
}

func (s *starter) personality(p *specs.LinuxPersonality) {
	value, ok := map[specs.LinuxPersonalityDomain]uint64{specs.PerLinux: 0, specs.PerLinux32: 8}[p.Domain]
	if !ok || len(p.Flags) > 0 {
		s.fail("linux.personality: domain %q with flags %v is neither LINUX nor LINUX32 without flags", p.Domain, p.Flags)
	}
	s.call("set the personality", "personality", Flag(value, string(p.Domain)))
}

var schedulers = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3, specs.SchedIdle: 5, specs.SchedDeadline: 6,
}

var schedulerFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: 1, specs.SchedFlagReclaim: 2, specs.SchedFlagDLOverrun: 4, specs.SchedFlagKeepPolicy: 8,
	specs.SchedFlagKeepParams: 16, specs.SchedFlagUtilClampMin: 32, specs.SchedFlagUtilClampMax: 64,
}

var ioClasses = map[specs.IOPriorityClass]int{
	specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3,
}

// maxCPUs is more than a kernel has (CONFIG_NR_CPUS), which passes over the rest.
const maxCPUs = 8192

// scheduling sets what the spec says, else the kernel's defaults: what the daemon
// was started with is not the container's.
func (s *starter) scheduling() {
	// After the cgroups: the kernel takes those of the cpuset out of these.
	s.call("run on every CPU of the cpuset", "sched_setaffinity", Int(0), Int(maxCPUs/8),
		s.Bytes(bytes.Repeat([]byte{0xff}, maxCPUs/8), "{all}"))
	if s.process.Scheduler == nil {
		s.call("set the scheduler", "sched_setattr", Int(0), s.words("{SCHED_OTHER, nice 0}", 48, 0, 0, 0, 0, 0), Int(0)).
			Tolerate = errnos(unix.EPERM)
	}
	if s.process.IOPriority == nil {
		s.call("set the I/O priority", "ioprio_set", Flag(1, "IOPRIO_WHO_PROCESS"), Int(0), Int(0)).Tolerate = errnos(unix.EPERM)
	}
	if sc := s.process.Scheduler; sc != nil {
		policy, ok := schedulers[sc.Policy]
		if !ok {
			s.fail("process.scheduler.policy: %q is not a scheduling policy", sc.Policy)
		}
		var flags uint64
		for _, f := range sc.Flags {
			if schedulerFlags[f] == 0 {
				s.fail("process.scheduler.flags: %q is not a scheduling flag", f)
			}
			flags |= schedulerFlags[f]
		}
		b := make([]byte, 0, 48) // struct sched_attr, sched_setattr(2)
		b = binary.LittleEndian.AppendUint32(b, 48)
		b = binary.LittleEndian.AppendUint32(b, policy)
		b = binary.LittleEndian.AppendUint64(b, flags)
		b = binary.LittleEndian.AppendUint32(b, uint32(sc.Nice))
		b = binary.LittleEndian.AppendUint32(b, uint32(sc.Priority))
		for _, v := range []uint64{sc.Runtime, sc.Deadline, sc.Period} {
			b = binary.LittleEndian.AppendUint64(b, v)
		}
		text := fmt.Sprintf("{%s, nice %d, priority %d}", sc.Policy, sc.Nice, sc.Priority)
		s.call("set the scheduler", "sched_setattr", Int(0), s.Bytes(b, text), Int(0))
	}
	if io := s.process.IOPriority; io != nil {
		class, ok := ioClasses[io.Class]
		if !ok || io.Priority < 0 || io.Priority > 7 {
			s.fail("process.ioPriority: class %q with priority %d; right is IOPRIO_CLASS_RT, _BE or _IDLE with 0 to 7", io.Class, io.Priority)
		}
		s.call("set the I/O priority", "ioprio_set", Flag(1, "IOPRIO_WHO_PROCESS"), Int(0),
			Flag(uint64(class<<13|io.Priority), fmt.Sprintf("%s|%d", io.Class, io.Priority)))
	}
}

// defaultPath is searched if the environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func searchPath(p *specs.Process) string {
	found := defaultPath
	for _, e := range p.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			found = v
		}
	}
	return found
}

// candidates are the files that the command may be: one if it has a slash,
// else one per directory in PATH. Elements of PATH that are not absolute are
// passed over: they would find commands in the working directory.
func candidates(p *specs.Process) []string {
	command := p.Args[0]
	if strings.Contains(command, "/") {
		return []string{command}
	}
	var files []string
	for dir := range strings.SplitSeq(searchPath(p), ":") {
		if path.IsAbs(dir) {
			files = append(files, path.Join(dir, command))
		}
	}
	return files
}

// execute ends the list. Of several candidates the first that can be executed
// is; if none can, the first that exists and is forbidden (EACCES) is the error,
// and only otherwise that there is none.
func (s *starter) execute() {
	files := candidates(s.process)
	argv, env := s.vec(s.process.Args, "argv"), s.vec(s.process.Env, "env")
	if len(files) == 0 {
		s.fail("process.args[0] is %q and PATH has no absolute directory to find it in", s.process.Args[0])
		return
	}
	exec := func(why, file string) *Op { return s.call(why, "execve", s.text(file), argv, env) }
	if len(files) == 1 {
		exec("execute "+plain(files[0]), files[0])
		return
	}
	for _, f := range files {
		exec("execute "+plain(f), f).Tolerate = errnos(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
	}
	for _, f := range files {
		exec("execute "+plain(f), f).Tolerate = errnos(unix.ENOENT, unix.ENOTDIR)
	}
	exec(fmt.Sprintf("find %q in %s", s.process.Args[0], plain(searchPath(s.process))), files[0])
}
