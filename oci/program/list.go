package program

import (
	"encoding/binary"
	"fmt"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A list is a program being written: calls by name, registers handed out and
// taken back. The first mistake is kept and told by done.
type list struct {
	*Program
	numbers map[string]int
	hows    map[how]Arg
	used    uint64 // registers in use, bit r-1 for register r
	cond    Reg    // condition of the calls being added
	err     error
}

// How many calls the usual container and the usual command in one have, so that their
// lists, of 272 bytes a call, need not be made anew while they are written.
const (
	containerRoom = 320
	execRoom      = 144
)

// newList begins a program with room for about that many calls.
func newList(name, arch string, room int) (*list, error) {
	if abis[arch] == "" {
		return nil, fmt.Errorf("cannot compile %s: architecture %q is neither amd64 nor arm64", name, arch)
	}
	p := New(name)
	p.Arch = arch
	p.Ops = make([]Op, 0, room)
	return &list{Program: p, numbers: tableOf(abis[arch]).numbers, hows: map[how]Arg{}}, nil
}

// done gives the finished program, or the first mistake.
func (l *list) done() (*Program, error) {
	switch {
	case l.err != nil:
	case len(l.Ops) > MaxOps:
		l.fail("%d system calls, at most %d", len(l.Ops), MaxOps)
	case len(l.data) > MaxData:
		l.fail("%d bytes of arguments, environment and paths, at most %d", len(l.data), MaxData)
	case len(l.fds) > MaxFDs:
		l.fail("%d descriptors, at most %d", len(l.fds), MaxFDs)
	}
	if l.err != nil {
		return nil, fmt.Errorf("cannot compile %s: %w", l.Name, l.err)
	}
	return l.Program, nil
}

func (l *list) fail(format string, args ...any) {
	if l.err == nil {
		l.err = fmt.Errorf(format, args...)
	}
}

// call appends a system call. The result may be changed until the next call.
func (l *list) call(why, name string, args ...Arg) *Op {
	nr, ok := l.numbers[name]
	if !ok {
		l.fail("%s has no system call %s", l.Arch, name)
	}
	op := Op{Nr: uintptr(nr), If: l.cond, Why: why}
	copy(op.Args[:], args)
	l.Add(op)
	return &l.Ops[len(l.Ops)-1]
}

// when makes the calls that add appends conditional: on register r being no
// error, or, for -r, on it being one. Conditions do not nest.
func (l *list) when(r Reg, add func()) {
	l.cond = r
	add()
	l.cond = 0
}

// reg hands out a register; free takes it back.
func (l *list) reg() Reg {
	for r := Reg(1); r <= Regs; r++ {
		if l.used&(1<<(r-1)) == 0 {
			l.used |= 1 << (r - 1)
			return r
		}
	}
	l.fail("more than %d registers at once", Regs)
	return 1
}

func (l *list) free(r Reg) { l.used &^= 1 << (r - 1) }

// close closes a register's descriptor and takes the register back.
func (l *list) close(r Reg) {
	l.call("close it", "close", In(r))
	l.free(r)
}

// text is the address of a string that came from a spec.
func (l *list) text(s string) Arg {
	if strings.IndexByte(s, 0) >= 0 {
		l.fail("%q contains a NUL byte", s)
	}
	return l.Str(s)
}

// vec is the address of a NULL-terminated array of strings from a spec.
func (l *list) vec(v []string, text string) Arg {
	for _, s := range v {
		if strings.IndexByte(s, 0) >= 0 {
			l.fail("%q contains a NUL byte", s)
		}
	}
	return l.Vec(v, text)
}

// words is the address of numbers of 8 bytes each, which most structures of
// newer system calls consist of.
func (l *list) words(text string, v ...uint64) Arg {
	b := make([]byte, 0, 64)
	for _, w := range v {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return l.Bytes(b, text)
}

func errnos(list ...syscall.Errno) Errnos {
	var set Errnos
	for _, e := range list {
		set |= 1 << e
	}
	return set
}

// anyErrno tolerates whatever can be tolerated.
const anyErrno = ^Errnos(1)

var cwd = Flag(^uint64(99), "AT_FDCWD")

// An openFlag is an open(2) flag; its value depends on the architecture.
type openFlag uint8

const (
	oPath openFlag = 1 << iota
	oDirectory
	oWronly
	oAppend
	oCreat
	oNofollow
)

var openFlags = []struct {
	flag         openFlag
	name         string
	amd64, arm64 uint64
}{
	{oPath, "O_PATH", 0x200000, 0x200000},
	{oDirectory, "O_DIRECTORY", 0x10000, 0x4000},
	{oWronly, "O_WRONLY", 0x1, 0x1},
	{oAppend, "O_APPEND", 0x400, 0x400},
	{oCreat, "O_CREAT", 0x40, 0x40},
	{oNofollow, "O_NOFOLLOW", 0x20000, 0x8000},
}

// openFlags gives the flags' value and names; O_CLOEXEC is always among them.
func (l *list) openFlags(f openFlag) (uint64, string) {
	value, names := uint64(unix.O_CLOEXEC), ""
	for _, o := range openFlags {
		if f&o.flag == 0 {
			continue
		}
		names += o.name + "|"
		if l.Arch == "amd64" {
			value |= o.amd64
		} else {
			value |= o.arm64
		}
	}
	return value, names + "O_CLOEXEC"
}

// how is struct open_how, openat2(2). Resolution never leaves the root that the
// directory is.
type how struct {
	flags openFlag
	mode  uint64
	links bool // follow symbolic links, but never procfs's magic ones
}

var (
	howAny = how{flags: oPath, links: true}
	howDir = how{flags: oPath | oDirectory, links: true}
)

func (l *list) how(h how) Arg {
	if a, ok := l.hows[h]; ok {
		return a
	}
	flags, names := l.openFlags(h.flags)
	resolve, rname := uint64(unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS), "IN_ROOT|NO_SYMLINKS"
	if h.links {
		resolve, rname = unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS, "IN_ROOT|NO_MAGICLINKS"
	}
	mode := ""
	if h.mode != 0 {
		mode = fmt.Sprintf("%#o, ", h.mode)
	}
	a := l.words("{"+names+", "+mode+rname+"}", flags, h.mode, resolve)
	l.hows[h] = a
	return a
}

// openat2 opens a path below dir into r.
func (l *list) openat2(r Reg, why string, dir Arg, rel string, h how) *Op {
	op := l.call(why, "openat2", dir, l.text(rel), l.how(h), Int(24))
	op.Dst = r
	return op
}

// inRoot makes a path of the container relative to its root, which is the
// working directory of whoever resolves it.
func inRoot(p string) string {
	if p = clean(p); p == "/" {
		return "."
	}
	return p[1:]
}

// clean makes a path of the container absolute and canonical.
func clean(p string) string {
	if !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	return path.Clean(p)
}

// below says whether p is inside directory dir; both are absolute.
func below(p, dir string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return len(p) > len(dir)+1 && p[len(dir)] == '/' && p[:len(dir)] == dir
}

// plain makes a stranger's string fit for one line of text.
func plain(s string) string {
	for _, c := range s {
		if c < ' ' || c == 0x7f {
			return fmt.Sprintf("%q", s)
		}
	}
	return s
}
