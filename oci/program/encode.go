package program

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// The flat form of a program, as it travels in a sealed memfd. All numbers are
// little endian (both architectures are), all offsets count from the region's
// start:
//
//	header   64 bytes
//	relocs   8 bytes each: offset u32, kind u32
//	region   ops, 72 bytes each, then data
//
// One op, as the assembly walks it:
//
//	 0 u32 system call   4 u8 dst   5 i8 if   6 u8 register mask   7 u8 flags
//	 8 u64 x 6 arguments
//	56 u64 tolerated errors
//	64 u64 address where 4 bytes of the result are stored, or 0
//
// The report page is memory that child and spawner (and the keeper, which never
// waits for either) see at once:
//
//	 0 u64 ops left, the one under way included    8 u64 errno of the op that failed
//	16 u64 last tolerated errno                   24 u32 pid (CLONE_PARENT_SETTID)
//	32 u32 pid of an inner clone                  64 u64 x 32 registers
//
// An inner clone goes on with a page of its own, in which all registers are 0.
const (
	magic      = 0x31_78_6f_62_69_72_63 // "cribox1"
	headerSize = 64
	opSize     = 72
	relocSize  = 8

	// PageSize is the size of the report page in bytes.
	PageSize = 4096
	// PagePID is the offset of the clone's pid, as its parent sees it.
	PagePID = 24
	// PageInnerPID is the offset of an inner clone's pid, as the preparing child
	// sees it.
	PageInnerPID = 32

	pageLeft  = 0
	pageErrno = 8
	pageRegs  = 64
)

// MaxFDs bounds the descriptors of one program.
const MaxFDs = 1024

// Encode gives the program's flat form.
func (p *Program) Encode() ([]byte, error) {
	if len(p.Ops) > MaxOps || len(p.data) > MaxData || len(p.fds) > MaxFDs {
		return nil, fmt.Errorf("cannot encode %s: %d calls, %d bytes, %d descriptors; limits are %d, %d, %d",
			p.Name, len(p.Ops), len(p.data), len(p.fds), MaxOps, MaxData, MaxFDs)
	}
	cgroup := -1
	if p.Cgroup != "" {
		cgroup = p.fdIndex(p.Cgroup)
	}
	dataStart := len(p.Ops) * opSize
	start := headerSize + p.relocCount()*relocSize
	out := make([]byte, start+dataStart+len(p.data))
	next, region := out[headerSize:start], out[start:]
	addReloc := func(at int, kind relocKind) {
		binary.LittleEndian.PutUint32(next, uint32(at))
		binary.LittleEndian.PutUint32(next[4:], uint32(kind))
		next = next[relocSize:]
	}
	copy(region[dataStart:], p.data)
	for i := range p.Ops {
		p.Ops[i].encode(region[i*opSize:], i*opSize, dataStart, addReloc)
	}
	for _, r := range p.relocs {
		at := dataStart + int(r.at)
		if r.kind == relocAddr {
			v := binary.LittleEndian.Uint64(region[at:])
			binary.LittleEndian.PutUint64(region[at:], v+uint64(dataStart))
		}
		addReloc(at, r.kind)
	}
	le := binary.LittleEndian
	le.PutUint64(out[0:], magic)
	le.PutUint32(out[8:], uint32(len(p.Ops)))
	le.PutUint32(out[12:], uint32((start-headerSize)/relocSize))
	le.PutUint32(out[16:], uint32(len(region)))
	le.PutUint32(out[20:], uint32(len(p.fds)))
	le.PutUint64(out[24:], p.Clone)
	le.PutUint32(out[32:], uint32(int32(cgroup)))
	if p.Fork {
		out[36] |= flagFork
	}
	if slices.ContainsFunc(p.Ops, func(op Op) bool { return op.Leave }) {
		out[36] |= flagInner
	}
	if p.Detached {
		out[36] |= flagDetached
	}
	return out, nil
}

// relocCount is how many fields of the flat form become addresses or descriptors.
func (p *Program) relocCount() int {
	n := len(p.relocs)
	for i := range p.Ops {
		op := &p.Ops[i]
		for _, a := range op.Args {
			if a.kind == argData || a.kind == argFD || a.kind == argPage {
				n++
			}
		}
		if op.Store.kind == argData {
			n++
		}
	}
	return n
}

// Flags of an op, and of the header. A program with an inner clone says that it
// forks too: for spawners that know no flagInner.
const (
	flagLeave    = 1
	flagFork     = 1
	flagDetached = 2
	flagInner    = 4
)

func (op *Op) encode(b []byte, at, dataStart int, addReloc func(int, relocKind)) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], uint32(op.Nr))
	b[4] = byte(op.Dst)
	b[5] = byte(op.If)
	if op.Leave {
		b[7] |= flagLeave
	}
	for k, a := range op.Args {
		v := a.value
		switch a.kind {
		case argReg:
			b[6] |= 1 << k
		case argData:
			v += uint64(dataStart)
			addReloc(at+8+8*k, relocAddr)
		case argFD:
			addReloc(at+8+8*k, relocArgFD)
		case argPage:
			addReloc(at+8+8*k, relocPage)
		}
		le.PutUint64(b[8+8*k:], v)
	}
	le.PutUint64(b[56:], uint64(op.Tolerate))
	if op.Store.kind == argData {
		le.PutUint64(b[64:], op.Store.value+uint64(dataStart))
		addReloc(at+64, relocAddr)
	}
}

// A loaded program is a flat one whose addresses and descriptors are real: it
// can be walked. mem is the caller's mapping and must outlive the walk.
type loaded struct {
	ops    []byte
	clone  uint64
	cgroup int // descriptor for CLONE_INTO_CGROUP, or -1
	flags  byte
}

var errFlat = errors.New("cannot load program: it is not a well-formed program of this version")

// load relocates mem in place: offsets become addresses above base, indexes
// become the descriptors in fds. base is the address of mem, page that of the
// report page. Everything is checked against mem's bounds; nothing is allocated.
func load(mem []byte, base, page uintptr, fds []int) (loaded, error) {
	le := binary.LittleEndian
	if len(mem) < headerSize || le.Uint64(mem) != magic {
		return loaded{}, errFlat
	}
	nops, nrelocs := uint64(le.Uint32(mem[8:])), uint64(le.Uint32(mem[12:]))
	size, nfds := uint64(le.Uint32(mem[16:])), int(le.Uint32(mem[20:]))
	start := headerSize + nrelocs*relocSize
	if start+size > uint64(len(mem)) || nops*opSize > size || nfds != len(fds) || nops == 0 || nops > MaxOps {
		return loaded{}, errFlat
	}
	region := mem[start : start+size]
	origin := base + uintptr(start)
	to := target{region: region, origin: uint64(origin), page: uint64(page), fds: fds}
	for i := range nrelocs {
		r := mem[headerSize+i*relocSize:]
		if !to.relocate(le.Uint32(r), relocKind(le.Uint32(r[4:]))) {
			return loaded{}, errFlat
		}
	}
	l := loaded{ops: region[:nops*opSize], clone: le.Uint64(mem[24:]), cgroup: -1, flags: mem[36]}
	if i := int32(le.Uint32(mem[32:])); i >= 0 {
		if int(i) >= len(fds) {
			return loaded{}, errFlat
		}
		l.cgroup = fds[i]
	}
	return l, nil
}

// A target is what a program is loaded into: its region, the region's address,
// the report page's, and the descriptors.
type target struct {
	region       []byte
	origin, page uint64
	fds          []int
}

// relocate makes one field real; false if it is out of bounds.
func (t *target) relocate(at uint32, kind relocKind) bool {
	le := binary.LittleEndian
	width := uint64(8)
	if kind == relocFD {
		width = 4
	}
	if uint64(at)+width > uint64(len(t.region)) {
		return false
	}
	field := t.region[at:]
	if kind == relocFD {
		i := le.Uint32(field)
		if uint64(i) >= uint64(len(t.fds)) {
			return false
		}
		le.PutUint32(field, uint32(t.fds[i]))
		return true
	}
	v := le.Uint64(field)
	switch {
	case kind == relocAddr && v <= uint64(len(t.region)):
		v += t.origin
	case kind == relocPage && v < PageSize:
		v += t.page
	case kind == relocArgFD && v < uint64(len(t.fds)):
		v = uint64(t.fds[v])
	default:
		return false
	}
	le.PutUint64(field, v)
	return true
}
