package program

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A TreeRequest asks the opener for one descriptor.
type TreeRequest struct {
	// Path is, for a tree, an absolute path of the host, whose symbolic links are
	// followed; for a log, a path below Dir.
	Path string
	// Dir, if set, asks for a log: the file Path below this absolute directory,
	// open for appending, made with mode 0640 and with its parents (0755) if it is
	// missing. No symbolic link is followed below Dir.
	Dir string
	// Recursive clones the mounts below the path as well (rbind).
	Recursive bool
	// Locate asks for the place itself (O_PATH) instead of a clone: it tells which
	// mount of the host the path is on.
	Locate bool
	// Create makes the directory Path and its parents (0755) if it is missing.
	Create bool
}

// MaxTrees bounds the requests of one opener.
const MaxTrees = 256

// OpenTrees compiles an opener: a process with a memory of its own and no
// descriptor but the unix socket "reply" that walks strangers' paths, and may
// never return from it. For each request, in order, it sends one message on
// reply, which TreeReply reads: with a detached mount (open_tree(2)) or a file as
// its only descriptor, or with the error. An error that cannot be tolerated
// (errno 64 and above: a dead FUSE, a stale NFS handle) ends the list and with it
// reply instead. reply should be SOCK_SEQPACKET.
func OpenTrees(arch string, requests []TreeRequest) (*Program, error) {
	l, err := newList("opener", arch, 64)
	if err != nil {
		return nil, err
	}
	if len(requests) == 0 || len(requests) > MaxTrees {
		l.fail("%d requests, not 1 to %d", len(requests), MaxTrees)
		return l.done()
	}
	l.Fork, l.Detached = true, true
	l.call("unblock all signals", "rt_sigprocmask", Flag(unix.SIG_SETMASK, "SIG_SETMASK"), l.words("[]", 0), Null(), Int(8))
	l.call("set the umask", "umask", Flag(0o022, "0022"))
	l.call("keep the socket", "dup3", l.FD("reply"), Int(0), Int(0))
	l.call("close all other descriptors", "close_range", Int(1), Flag(0xffffffff, "~0"), Int(0))
	for i, r := range requests {
		if !path.IsAbs(r.Path) && r.Dir == "" || r.Dir != "" && !path.IsAbs(r.Dir) {
			l.fail("request %d: neither %q nor %q is absolute", i, r.Dir, r.Path)
		}
		m := l.message(i)
		fd := l.reg()
		if r.Dir != "" {
			l.openLog(r, fd, m)
		} else {
			l.openTree(r, fd, m)
		}
		l.send(fd, m)
	}
	return l.done()
}

// A message is the memory of one answer. The payload's second half is the
// descriptor's own place in the control message, so that one store fills both.
type message struct {
	index      int
	result     Arg // where the descriptor or -errno is stored
	with, bare Arg // struct msghdr with and without a control message
}

// message lays out, in this order: index, cmsghdr with the descriptor, two
// iovec, two msghdr.
func (l *list) message(index int) message {
	const cmsg, fd, iov, with, bare, size = 8, 24, 32, 64, 120, 176
	le, b := binary.LittleEndian, make([]byte, size)
	le.PutUint32(b, uint32(index))
	le.PutUint64(b[cmsg:], 20) // CMSG_LEN(4)
	le.PutUint32(b[cmsg+8:], unix.SOL_SOCKET)
	le.PutUint32(b[cmsg+12:], unix.SCM_RIGHTS)
	le.PutUint64(b[iov+8:], 4)
	le.PutUint64(b[iov+24:], 4)
	le.PutUint64(b[with+24:], 2)
	le.PutUint64(b[with+40:], 24) // CMSG_SPACE(4)
	le.PutUint64(b[bare+24:], 2)
	all := l.Bytes(b, fmt.Sprintf("reply %d", index))
	at := int(all.value)
	l.putAddr(at+iov, at)
	l.putAddr(at+iov+16, at+fd)
	l.putAddr(at+with+16, at+iov)
	l.putAddr(at+with+32, at+cmsg)
	l.putAddr(at+bare+16, at+iov)
	part := func(off int, text string) Arg { return Arg{argData, all.value + uint64(off), text} }
	return message{index, part(fd, fmt.Sprintf("reply %d", index)), part(with, fmt.Sprintf("{%d, fd}", index)),
		part(bare, fmt.Sprintf("{%d, -errno}", index))}
}

// into makes a call's result, or its error whatever it is, the answer so far.
func (op *Op) into(fd Reg, m message) {
	op.Dst, op.Store, op.Tolerate = fd, m.result, anyErrno
}

func (l *list) openTree(r TreeRequest, fd Reg, m message) {
	p := path.Clean(r.Path)
	flags, names := uint64(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC), "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC"
	if r.Recursive {
		flags, names = flags|unix.AT_RECURSIVE, names+"|AT_RECURSIVE"
	}
	if r.Locate {
		flags, names = unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLOEXEC"
	}
	open := func() { l.call("open "+plain(p), "open_tree", cwd, l.text(p), Flag(flags, names)).into(fd, m) }
	open()
	if !r.Create {
		return
	}
	l.when(-fd, func() {
		for i, c := range p {
			if c == '/' && i > 0 {
				l.makeDir(p[:i])
			}
		}
		l.makeDir(p)
		open()
	})
}

func (l *list) makeDir(p string) {
	l.call("make "+plain(p), "mkdirat", cwd, l.text(p), Flag(0o755, "0755")).Tolerate = anyErrno
}

// openLog walks to the file one name at a time; each step replaces the
// descriptor of the one before, or ends the walk with its error.
func (l *list) openLog(r TreeRequest, fd Reg, m message) {
	flags, names := l.openFlags(oPath | oDirectory)
	l.call("open "+plain(r.Dir), "openat", cwd, l.text(r.Dir), Flag(flags, names), Int(0)).into(fd, m)
	steps := strings.Split(inRoot(r.Path), "/")
	at := path.Clean(r.Dir)
	l.when(fd, func() {
		for _, name := range steps[:len(steps)-1] {
			at = path.Join(at, name)
			l.call("make "+plain(at), "mkdirat", In(fd), l.text(name), Flag(0o755, "0755")).Tolerate = anyErrno
			l.openat2(fd, "open "+plain(at), In(fd), name, how{flags: oPath | oDirectory}).into(fd, m)
		}
		name := steps[len(steps)-1]
		l.openat2(fd, "open "+plain(path.Join(at, name)), In(fd), name, how{flags: oWronly | oAppend | oCreat | oNofollow, mode: 0o640}).into(fd, m)
	})
}

func (l *list) send(fd Reg, m message) {
	noSignal := Flag(unix.MSG_NOSIGNAL, "MSG_NOSIGNAL")
	l.call(fmt.Sprintf("send descriptor %d", m.index), "sendmsg", Int(0), m.with, noSignal).If = fd
	l.call(fmt.Sprintf("send error %d", m.index), "sendmsg", Int(0), m.bare, noSignal).If = -fd
	l.when(fd, func() { l.close(fd) })
}

// TreeReply reads a message of an opener: the request's index and its errno, 0
// if the message carries the descriptor.
func TreeReply(payload []byte) (index int, errno syscall.Errno, err error) {
	if len(payload) != 8 {
		return 0, 0, errors.New("cannot read the opener's answer: it has not 8 bytes")
	}
	index = int(int32(binary.LittleEndian.Uint32(payload)))
	if result := int32(binary.LittleEndian.Uint32(payload[4:])); result < 0 {
		errno = syscall.Errno(-result)
	}
	return index, errno, nil
}
