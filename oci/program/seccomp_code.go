package program

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxInstructions is the kernel's limit, BPF_MAXINSNS.
const maxInstructions = 4096

// Offsets in struct seccomp_data.
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16
	dataSize = 64
)

const (
	opLoad   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opJump   = unix.BPF_JMP | unix.BPF_JA
	opJumpEq = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opJumpGt = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opJumpGe = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opRet    = unix.BPF_RET | unix.BPF_K
)

// An assembler writes a BPF program from its end to its start: BPF only jumps
// forward, so every target is there before the jump to it.
type assembler struct {
	ins  []unix.SockFilter // in reverse
	rets map[uint32]label
}

// A label is an instruction, counted from the program's end.
type label int

func (a *assembler) emit(i unix.SockFilter) label {
	a.ins = append(a.ins, i)
	return label(len(a.ins) - 1)
}

// ret gives an instruction that returns v, near enough to be jumped to.
func (a *assembler) ret(v uint32) label {
	if l, ok := a.rets[v]; ok && len(a.ins)-int(l) < 200 {
		return l
	}
	if a.rets == nil {
		a.rets = map[uint32]label{}
	}
	a.rets[v] = a.emit(unix.SockFilter{Code: opRet, K: v})
	return a.rets[v]
}

func (a *assembler) load(offset int, then label) label {
	a.fall(then)
	return a.emit(unix.SockFilter{Code: opLoad, K: uint32(offset)})
}

// fall makes then the next instruction.
func (a *assembler) fall(then label) {
	if d := len(a.ins) - 1 - int(then); d > 0 {
		a.emit(unix.SockFilter{Code: opJump, K: uint32(d)})
	}
}

// jump compares the accumulator with k.
func (a *assembler) jump(op uint16, k uint32, yes, no label) label {
	const far = 254 // one is lost to each helper
	for _, t := range []*label{&yes, &no} {
		if d := len(a.ins) - 1 - int(*t); d > far {
			*t = a.emit(unix.SockFilter{Code: opJump, K: uint32(d)})
		}
	}
	n := len(a.ins)
	return a.emit(unix.SockFilter{Code: op, Jt: uint8(n - 1 - int(yes)), Jf: uint8(n - 1 - int(no)), K: k})
}

func (a *assembler) code() ([]byte, error) {
	if len(a.ins) > maxInstructions {
		return nil, fmt.Errorf("it takes %d instructions, the kernel's limit is %d", len(a.ins), maxInstructions)
	}
	out := make([]byte, 0, 8*len(a.ins))
	for _, i := range slices.Backward(a.ins) {
		out = binary.LittleEndian.AppendUint16(out, i.Code)
		out = append(out, i.Jt, i.Jf)
		out = binary.LittleEndian.AppendUint32(out, i.K)
	}
	return out, nil
}

// dispatch begins the program: the call's ABI chooses the block.
func (a *assembler) dispatch(blocks map[string]label) {
	kill := a.ret(unix.SECCOMP_RET_KILL_PROCESS)
	next := kill
	for _, abi := range []string{"arm", "aarch64", "i386"} {
		if block, ok := blocks[abi]; ok {
			next = a.jump(opJumpEq, auditArchs[abi], block, next)
		}
	}
	if block, ok := blocks["x86_64"]; ok {
		x32, ok := blocks["x32"]
		if !ok {
			x32 = kill
		}
		number := a.load(dataNr, a.jump(opJumpGe, x32Bit, x32, block))
		next = a.jump(opJumpEq, auditArchs["x86_64"], number, next)
	}
	a.load(dataArch, next)
}

// block decides one ABI's calls: a binary search over the numbers.
func (a *assembler) block(abi string, rules map[int][]rule, spans []span) label {
	wide := abi == "x86_64" || abi == "x32" || abi == "aarch64"
	base := 0
	if abi == "x32" {
		base = x32Bit
	}
	return a.load(dataNr, a.search(spans, base, wide))
}

func (a *assembler) search(spans []span, base int, wide bool) label {
	if len(spans) == 1 {
		return a.decide(spans[0], wide)
	}
	mid := len(spans) / 2
	upper := a.search(spans[mid:], base, wide)
	lower := a.search(spans[:mid], base, wide)
	return a.jump(opJumpGe, uint32(base+spans[mid].first), upper, lower)
}

func (a *assembler) decide(s span, wide bool) label {
	next := a.ret(s.last)
	for _, r := range slices.Backward(s.rules) {
		yes := a.ret(r.action)
		for _, arg := range slices.Backward(r.args) {
			yes = a.compare(arg, wide, yes, next)
		}
		next = yes
	}
	return next
}

// An operand is an argument in struct seccomp_data: 64 bits, while the
// accumulator has 32. ABIs of 32 bits have nothing in the upper half.
type operand struct {
	offset int
	wide   bool
}

func (a *assembler) compare(arg specs.LinuxSeccompArg, wide bool, yes, no label) label {
	o := operand{dataArgs + 8*int(arg.Index), wide}
	switch arg.Op {
	case specs.OpNotEqual:
		return a.equal(o, ^uint64(0), arg.Value, no, yes)
	case specs.OpMaskedEqual:
		return a.equal(o, arg.Value, arg.ValueTwo, yes, no)
	case specs.OpGreaterThan:
		return a.order(o, opJumpGt, arg.Value, yes, no)
	case specs.OpGreaterEqual:
		return a.order(o, opJumpGe, arg.Value, yes, no)
	case specs.OpLessEqual:
		return a.order(o, opJumpGt, arg.Value, no, yes)
	case specs.OpLessThan:
		return a.order(o, opJumpGe, arg.Value, no, yes)
	}
	return a.equal(o, ^uint64(0), arg.Value, yes, no) // alternativesOf has checked the operator
}

func (a *assembler) equal(o operand, mask, value uint64, yes, no label) label {
	next := a.equalHalf(o.offset, uint32(mask), uint32(value), yes, no)
	if o.wide {
		next = a.equalHalf(o.offset+4, uint32(mask>>32), uint32(value>>32), next, no)
	}
	return next
}

func (a *assembler) equalHalf(offset int, mask, value uint32, yes, no label) label {
	next := a.jump(opJumpEq, value, yes, no)
	if mask != ^uint32(0) {
		a.fall(next)
		next = a.emit(unix.SockFilter{Code: opAnd, K: mask})
	}
	return a.load(offset, next)
}

func (a *assembler) order(o operand, op uint16, value uint64, yes, no label) label {
	next := a.load(o.offset, a.jump(op, uint32(value), yes, no))
	if o.wide {
		high := uint32(value >> 32)
		next = a.jump(opJumpGt, high, yes, a.jump(opJumpEq, high, next, no))
		next = a.load(o.offset+4, next)
	}
	return next
}

// callData is struct seccomp_data, seccomp(2).
func callData(arch uint32, nr int, args [6]uint64) []byte {
	b := make([]byte, dataSize)
	binary.LittleEndian.PutUint32(b[dataNr:], uint32(nr))
	binary.LittleEndian.PutUint32(b[dataArch:], arch)
	for i, v := range args {
		binary.LittleEndian.PutUint64(b[dataArgs+8*i:], v)
	}
	return b
}

// run executes the filter on a call, as the kernel would. What a filter of this
// package cannot contain ends it with SECCOMP_RET_KILL_PROCESS.
func (f Filter) run(data []byte) uint32 {
	var acc uint32
	for pc := 0; pc < f.Len(); pc++ {
		ins := f.code[8*pc:]
		k := binary.LittleEndian.Uint32(ins[4:])
		taken := false
		switch binary.LittleEndian.Uint16(ins) {
		case opLoad:
			acc = binary.LittleEndian.Uint32(data[k:])
			continue
		case opAnd:
			acc &= k
			continue
		case opJump:
			pc += int(k)
			continue
		case opRet:
			return k
		case opJumpEq:
			taken = acc == k
		case opJumpGt:
			taken = acc > k
		case opJumpGe:
			taken = acc >= k
		default:
			return unix.SECCOMP_RET_KILL_PROCESS
		}
		if taken {
			pc += int(ins[2])
		} else {
			pc += int(ins[3])
		}
	}
	return unix.SECCOMP_RET_KILL_PROCESS
}
