package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/cri-box/cri-box/test/probe/state"
	"golang.org/x/sys/unix"
)

// maxFD bounds the search for open descriptors.
const maxFD = 4096

func openFiles() []state.File {
	var files []state.File
	for fd := range maxFD {
		cloexec, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil {
			continue
		}
		flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		files = append(files, state.File{FD: fd, Kind: kind(fd), Flags: flags, CloseOnExec: cloexec&unix.FD_CLOEXEC != 0})
	}
	for i := range files { // now that none of ours can be listed
		files[i].Target, _ = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", files[i].FD))
	}
	return files
}

func kind(fd int) string {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err.Error()
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFCHR:
		return "char " + device(st.Rdev)
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFREG:
		return "regular"
	case unix.S_IFDIR:
		return "directory"
	}
	return fmt.Sprintf("mode %o", st.Mode)
}

func device(rdev uint64) string {
	return fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev))
}

var limitNames = []string{ // by number, include/uapi/asm-generic/resource.h
	"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE",
	"MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
}

func limits() map[string]state.Limit {
	all := map[string]state.Limit{}
	for i, name := range limitNames {
		var l unix.Rlimit
		if err := unix.Prlimit(0, i, nil, &l); err == nil {
			all[name] = state.Limit{Soft: l.Cur, Hard: l.Max}
		}
	}
	all["NOFILE"] = state.Limit{Soft: nofile.Cur, Hard: nofile.Max}
	return all
}

func session() state.Session {
	s := state.Session{PID: os.Getpid(), PPID: os.Getppid()}
	s.SID, _ = unix.Getsid(0)
	s.PGID, _ = unix.Getpgid(0)
	// Field 7 of stat is the terminal; a name in parentheses may hold blanks.
	_, rest, _ := strings.Cut(readText("/proc/self/stat"), ") ")
	if f := strings.Fields(rest); len(f) > 4 && f[4] != "0" {
		s.TTY = device(uint64(atoi(f[4])))
		s.Foreground = atoi(f[5])
	}
	serial, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	if err != nil {
		s.Keyring = err.Error()
		return s
	}
	s.KeyringSerial = serial
	if s.Keyring, err = unix.KeyctlString(unix.KEYCTL_DESCRIBE, serial); err != nil {
		s.Keyring = err.Error()
	}
	return s
}

func sched(st status) state.Sched {
	policy, _, _ := unix.RawSyscall(unix.SYS_SCHED_GETSCHEDULER, 0, 0, 0)
	// getpriority(2), the raw call: 20 - nice, so that it is never negative.
	nice, _, _ := unix.RawSyscall(unix.SYS_GETPRIORITY, unix.PRIO_PROCESS, 0, 0)
	const whoProcess = 1
	ioprio, _, _ := unix.RawSyscall(unix.SYS_IOPRIO_GET, whoProcess, 0, 0)
	attr, err := unix.SchedGetAttr(0, 0)
	priority := -1
	if err == nil {
		priority = int(attr.Priority)
	}
	return state.Sched{
		Policy:     int(policy),
		Priority:   priority,
		Nice:       20 - int(nice),
		IOPrio:     int(ioprio),
		Affinity:   st["Cpus_allowed_list"],
		TimerSlack: prctl(unix.PR_GET_TIMERSLACK),
	}
}

// prctl makes a call that answers with its result.
func prctl(option int) int {
	n, err := unix.PrctlRetInt(option, 0, 0, 0, 0)
	if err != nil {
		return -1
	}
	return n
}

func security(st status) state.Security {
	const whatPersonality = 0xffffffff
	persona, _, _ := unix.RawSyscall(unix.SYS_PERSONALITY, whatPersonality, 0, 0)
	return state.Security{
		Seccomp:     st.int("Seccomp"),
		Filters:     st.int("Seccomp_filters"),
		NoNewPrivs:  st.int("NoNewPrivs"),
		Securebits:  prctl(unix.PR_GET_SECUREBITS),
		Dumpable:    prctl(unix.PR_GET_DUMPABLE),
		Attr:        attrs(),
		Personality: int(persona),
		DeathSignal: prctlPointer(unix.PR_GET_PDEATHSIG),
		Subreaper:   prctlPointer(unix.PR_GET_CHILD_SUBREAPER),
		THPDisable:  prctl(unix.PR_GET_THP_DISABLE),
	}
}
