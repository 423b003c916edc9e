// Package program holds a container's start as data: a flat list of system
// calls over descriptors that were opened before.
//
//	runtime-spec ──Container──▶ Program ──Encode──▶ sealed memfd ──▶ spawner ──▶ child
//
// Compiling is pure: the same spec gives the same program, and Text shows it to
// a person. The child that walks the list (walk_amd64.s, walk_arm64.s) uses no
// stack, no heap and no Go runtime, so it may share the spawner's memory
// (CLONE_VM) and run with anybody's rights.
package program

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// Regs is the number of registers: results of earlier calls that later calls use.
const Regs = 32

// MaxOps bounds a program, so that one request cannot grow the spawner.
const MaxOps = 4096

// MaxData bounds a program's data: environment, arguments, filter. execve itself
// refuses more than a quarter of the stack limit (execve(2), E2BIG).
const MaxData = 4 << 20

// A Program is one process's start, from clone3(2) to execve(2).
type Program struct {
	// Name says what is being made, for errors: "container 3f2a…", "open volumes".
	Name string
	// Arch is whose system call numbers the list holds: amd64 or arm64.
	Arch string
	// Clone is the flags of the clone3 that makes the process: namespaces to
	// create. The spawner adds CLONE_PARENT, CLONE_PIDFD and how memory is shared.
	Clone uint64
	// Cgroup names the descriptor of the cgroup v2 directory that the process is
	// born into (CLONE_INTO_CGROUP), or is empty.
	Cgroup string
	// Fork asks for a copy of the spawner's memory instead of a share of it, for the
	// process that others can look into: the inner clone, if there is one, else the
	// only one. Also for the first clone of a user namespace.
	Fork bool
	// Detached makes the spawner not wait for the end of the list: for lists that
	// walk a stranger's paths and may never return. It needs Fork; nobody reads
	// its report.
	Detached bool
	// Ops is the list. A process that reaches its end exits with status 0.
	Ops []Op

	data   []byte
	relocs []reloc
	fds    []string       // names, in the order in which descriptors are donated
	intern map[string]int // offset of each string already in data
}

// An Op is one system call.
type Op struct {
	// Nr is the system call's number on this architecture.
	Nr uintptr
	// Args are its arguments.
	Args [6]Arg
	// Dst is the register, from 1, that receives the result or, for a tolerated
	// error, -errno. 0 drops it.
	Dst Reg
	// If, when not 0, names a register: the call is made only if that register
	// is not negative (If > 0) or only if it is (If < 0).
	If Reg
	// Tolerate lists the errors, all below 64, after which the walk goes on.
	Tolerate Errnos
	// Leave ends the caller's walk with status 0 if the result is above 0: the
	// parent of an inner clone leaves, the child (result 0) goes on.
	Leave bool
	// Store, if set, is where in the data (see Slot) the low 4 bytes of the
	// result are written, also those of a tolerated error: for a descriptor that
	// a later sendmsg(2) passes on.
	Store Arg
	// Why says, in a few words, what the call is for: it completes the sentence
	// "cannot …", and stands beside the call in explain.
	Why string
}

// A Reg names a register, from 1 to Regs.
type Reg int8

// Errnos is a set of error numbers below 64; bit n stands for errno n.
type Errnos uint64

type argKind uint8

const (
	argInt  argKind = iota // the value itself
	argData                // an offset into the program's data, to become an address
	argFD                  // an index into the donated descriptors
	argReg                 // a register's content at that time
	argPage                // an offset into the report page, to become an address
)

// An Arg is one argument of a call, with the text a person reads if Text cannot
// tell that from the rest.
type Arg struct {
	kind  argKind
	value uint64
	text  string
}

// relocKind says what replaces an 8-byte (address) or 4-byte (fd) field in data.
type relocKind uint32

const (
	relocAddr  relocKind = iota // 8 bytes: offset into data becomes an address
	relocFD                     // 4 bytes: index becomes a descriptor number
	relocArgFD                  // 8 bytes: the same, as an argument
	relocPage                   // 8 bytes: offset into the report page becomes an address
)

type reloc struct {
	at   uint32
	kind relocKind
}

// New returns an empty program.
func New(name string) *Program {
	return &Program{Name: name, intern: map[string]int{}}
}

// Add appends a call.
func (p *Program) Add(op Op) { p.Ops = append(p.Ops, op) }

// Int is a number, shown in decimal.
func Int(v int) Arg { return Arg{argInt, uint64(v), strconv.Itoa(v)} }

// Flag is a number shown by its name, such as MS_PRIVATE|MS_REC.
func Flag(v uint64, name string) Arg { return Arg{argInt, v, name} }

// Null is a null pointer.
func Null() Arg { return Arg{argInt, 0, "NULL"} }

// In is the content of register r, shown as $r.
func In(r Reg) Arg { return Arg{argReg, uint64(r - 1), ""} }

// FD is the donated descriptor of that name, shown as <name>.
func (p *Program) FD(name string) Arg {
	return Arg{argFD, uint64(p.fdIndex(name)), ""}
}

// Str is the address of a NUL-terminated string.
func (p *Program) Str(s string) Arg {
	return Arg{argData, uint64(p.str(s)), ""}
}

// Bytes is the address of b, 8-byte aligned; text is what a person reads.
func (p *Program) Bytes(b []byte, text string) Arg {
	return Arg{argData, uint64(p.bytes(b)), text}
}

// Vec is the address of a NULL-terminated array of strings, as execve(2) wants.
func (p *Program) Vec(v []string, text string) Arg {
	offs := make([]int, len(v))
	for i, s := range v {
		offs[i] = p.str(s)
	}
	at := p.bytes(make([]byte, 8*(len(v)+1)))
	for i, off := range offs {
		p.putAddr(at+8*i, off)
	}
	return Arg{argData, uint64(at), text}
}

// Slot is the address of the 4 bytes at offset off inside b, which Bytes returned.
func (b Arg) Slot(off int) Arg {
	return Arg{argData, b.value + uint64(off), fmt.Sprintf("%s+%d", b.text, off)}
}

// Page is the address of offset off of the report page.
func Page(off int, text string) Arg { return Arg{argPage, uint64(off), text} }

// FDs returns the names of the descriptors that the program needs, in the order
// in which they are donated.
func (p *Program) FDs() []string { return p.fds }

func (p *Program) fdIndex(name string) int {
	for i, n := range p.fds {
		if n == name {
			return i
		}
	}
	p.fds = append(p.fds, name)
	return len(p.fds) - 1
}

func (p *Program) str(s string) int {
	if off, ok := p.intern[s]; ok {
		return off
	}
	off := len(p.data)
	p.data = append(append(p.data, s...), 0)
	p.intern[s] = off
	return off
}

// putAddr makes the 8 bytes at data offset at an address: of data offset to.
func (p *Program) putAddr(at, to int) {
	binary.LittleEndian.PutUint64(p.data[at:], uint64(to))
	p.relocs = append(p.relocs, reloc{uint32(at), relocAddr})
}

func (p *Program) bytes(b []byte) int {
	for len(p.data)%8 != 0 {
		p.data = append(p.data, 0)
	}
	off := len(p.data)
	p.data = append(p.data, b...)
	return off
}
