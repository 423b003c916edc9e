package program

import (
	"strings"

	"golang.org/x/sys/unix"
)

// A NamespacesInput is a process that makes namespaces and holds them until
// somebody has opened them.
//
// The program needs these descriptors, by name: reply, a unix socket of the kind
// SOCK_SEQPACKET; ns.user, with Join.
type NamespacesInput struct {
	// ID is the pod's, for errors.
	ID   string
	Arch string
	// Net, IPC and UTS ask for these namespaces, which the user namespace owns.
	Net, IPC, UTS bool
	// Join takes the user namespace ns.user; without it a new one is made.
	Join bool
}

// Namespaces compiles it. The process says with a message on reply that it is in
// the user namespace; when it gets one back, after the maps of a new one were
// written, it becomes root there, makes the others, says so, and ends when the
// other end of reply is closed. Only a process that has one thread can make or
// enter a user namespace (user_namespaces(7)), which no Go program is.
func Namespaces(in NamespacesInput) (*Program, error) {
	l, err := newList("namespaces of pod "+in.ID, in.Arch, 64)
	if err != nil {
		return nil, err
	}
	l.Fork, l.Detached = true, true
	if !in.Join {
		l.Clone = unix.CLONE_NEWUSER
	}
	l.call("unblock all signals", "rt_sigprocmask", Flag(unix.SIG_SETMASK, "SIG_SETMASK"), l.words("[]", 0), Null(), Int(8))
	l.call("keep the socket", "dup3", l.FD("reply"), Int(0), Int(0))
	if in.Join {
		l.call("enter the user namespace", "setns", l.FD("ns.user"), Flag(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
	}
	l.call("close all other descriptors", "close_range", Int(1), Flag(0xffffffff, "~0"), Int(0))
	said := l.Str("here")
	heard := l.Bytes(make([]byte, 8), "buffer")
	l.call("say that it is there", "write", Int(0), said, Int(4))
	l.call("wait for the maps", "read", Int(0), heard, Int(8))
	l.call("become the group root", "setresgid", Int(0), Int(0), Int(0))
	l.call("become root", "setresuid", Int(0), Int(0), Int(0))
	if flags, names := in.flags(); flags != 0 {
		l.call("make namespaces", "unshare", Flag(flags, names))
	}
	l.call("say that they are made", "write", Int(0), said, Int(4))
	l.call("hold them", "read", Int(0), heard, Int(8))
	return l.done()
}

func (in NamespacesInput) flags() (flags uint64, names string) {
	for _, ns := range []struct {
		want bool
		flag uint64
		name string
	}{{in.Net, unix.CLONE_NEWNET, "|CLONE_NEWNET"}, {in.IPC, unix.CLONE_NEWIPC, "|CLONE_NEWIPC"}, {in.UTS, unix.CLONE_NEWUTS, "|CLONE_NEWUTS"}} {
		if ns.want {
			flags, names = flags|ns.flag, names+ns.name
		}
	}
	return flags, strings.TrimPrefix(names, "|")
}
