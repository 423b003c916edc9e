package program

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A Filter is a compiled seccomp profile: classic BPF, ready to be loaded. It
// depends on nothing but the profile and the architecture, so it can be kept and
// used for any number of programs. The zero Filter is none.
type Filter struct {
	code  []byte // struct sock_filter, 8 bytes each
	flags uint32
}

// IsZero says whether there is no filter.
func (f Filter) IsZero() bool { return len(f.code) == 0 }

// Len returns the number of instructions.
func (f Filter) Len() int { return len(f.code) / 8 }

// Action returns what the filter answers to a system call of arch (amd64 or
// arm64): one of SECCOMP_RET_*, with its data in the low 16 bits.
func (f Filter) Action(arch string, nr int, args [6]uint64) uint32 {
	return f.run(callData(auditArchs[abis[arch]], nr, args))
}

var filterFlags = []struct {
	flag  specs.LinuxSeccompFlag
	value uint32
}{
	{specs.LinuxSeccompFlagLog, unix.SECCOMP_FILTER_FLAG_LOG},
	{specs.LinuxSeccompFlagSpecAllow, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
}

func (f Filter) flagNames() string {
	names := ""
	for _, k := range filterFlags {
		if f.flags&k.value != 0 {
			names += "|" + strings.TrimPrefix(string(k.flag), "SECCOMP_FILTER_FLAG_")
		}
	}
	if names == "" {
		return "0"
	}
	return names[1:]
}

// auditArchs are what the kernel calls the ABIs in struct seccomp_data. x32 has
// x86_64's, and bit 30 of the system call's number.
var auditArchs = map[string]uint32{
	"x86_64": unix.AUDIT_ARCH_X86_64, "x32": unix.AUDIT_ARCH_X86_64, "i386": unix.AUDIT_ARCH_I386,
	"aarch64": unix.AUDIT_ARCH_AARCH64, "arm": unix.AUDIT_ARCH_ARM,
}

const x32Bit = 0x40000000

// machineABIs are what the kernel of each machine can run besides its own.
var machineABIs = map[string]map[specs.Arch]string{
	"amd64": {specs.ArchX86_64: "x86_64", specs.ArchX86: "i386", specs.ArchX32: "x32"},
	"arm64": {specs.ArchAARCH64: "aarch64", specs.ArchARM: "arm"},
}

// errnoMax is the largest errno a filter can give, MAX_ERRNO of the kernel.
const errnoMax = 4095

// A rule is one line of a profile for one system call.
type rule struct {
	action uint32
	args   []specs.LinuxSeccompArg
}

// CompileSeccomp compiles a profile for arch (amd64 or arm64). A nil profile
// gives the zero Filter.
//
// What a profile means where it says nothing is what runc makes of it: names
// that the table of system calls does not know are passed over; a line whose
// action is the default one is too; of several lines for one call, one without
// conditions decides, else the first whose conditions hold; a number above all
// that the profile names gets ENOSYS, unless the default is to allow, so that
// libraries fall back to what the profile knows. The machine's own ABI is always
// among those filtered; a call by an ABI that the profile does not list kills
// the process. SCMP_ACT_NOTIFY is an error: nothing here listens.
//
// ABIs that the kernel does not have, absent, are not worth their instructions, which
// the kernel translates for each process: their calls get what it would say, ENOSYS.
func CompileSeccomp(s *specs.LinuxSeccomp, arch string, absent ...specs.Arch) (Filter, error) {
	if s == nil {
		return Filter{}, nil
	}
	f, err := compileSeccomp(s, arch, absent)
	if err != nil {
		return Filter{}, fmt.Errorf("cannot compile seccomp profile: %w", err)
	}
	return f, nil
}

func compileSeccomp(s *specs.LinuxSeccomp, arch string, absent []specs.Arch) (Filter, error) {
	if machineABIs[arch] == nil {
		return Filter{}, fmt.Errorf("architecture %q is neither amd64 nor arm64", arch)
	}
	flags, err := flagsOf(s)
	if err != nil {
		return Filter{}, err
	}
	defaultAction, err := actionOf(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return Filter{}, fmt.Errorf("defaultAction: %w", err)
	}
	var a assembler
	blocks := map[string]label{}
	missing := listed(absent, arch)[1:]
	for _, abi := range listed(s.Architectures, arch) {
		if slices.Contains(missing, abi) {
			blocks[abi] = a.ret(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
			continue
		}
		rules, last, err := rulesOf(s, abi, defaultAction)
		if err != nil {
			return Filter{}, err
		}
		blocks[abi] = a.block(abi, rules, ranges(rules, last, defaultAction, s))
	}
	a.dispatch(blocks)
	code, err := a.code()
	return Filter{code, flags}, err
}

// listed gives the ABIs to filter, the machine's own first. Architectures of
// other machines cannot occur and are passed over.
func listed(archs []specs.Arch, arch string) []string {
	list := []string{abis[arch]}
	for _, a := range archs {
		if abi := machineABIs[arch][a]; abi != "" && !slices.Contains(list, abi) {
			list = append(list, abi)
		}
	}
	slices.Sort(list[1:])
	return list
}

func flagsOf(s *specs.LinuxSeccomp) (uint32, error) {
	var flags uint32
next:
	for _, f := range s.Flags {
		for _, k := range filterFlags {
			if f == k.flag {
				flags |= k.value
				continue next
			}
		}
		return 0, fmt.Errorf("flag %q is not supported", f)
	}
	return flags, nil
}

func actionOf(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		if *errno > errnoMax {
			return 0, fmt.Errorf("errnoRet %d is above %d", *errno, errnoMax)
		}
		data = uint32(*errno)
	}
	switch a {
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	}
	plainActions := map[specs.LinuxSeccompAction]uint32{
		specs.ActKill: unix.SECCOMP_RET_KILL_THREAD, specs.ActKillThread: unix.SECCOMP_RET_KILL_THREAD,
		specs.ActKillProcess: unix.SECCOMP_RET_KILL_PROCESS, specs.ActTrap: unix.SECCOMP_RET_TRAP,
		specs.ActAllow: unix.SECCOMP_RET_ALLOW, specs.ActLog: unix.SECCOMP_RET_LOG,
	}
	v, ok := plainActions[a]
	switch {
	case !ok:
		return 0, fmt.Errorf("action %q is not supported", a)
	case errno != nil && *errno != 0:
		return 0, fmt.Errorf("action %s takes no errnoRet", a)
	}
	return v, nil
}

// rulesOf gives the rules of an ABI by number, and the highest number that the
// profile names.
func rulesOf(s *specs.LinuxSeccomp, abi string, defaultAction uint32) (map[int][]rule, int, error) {
	numbers, last := tableOf(abi).numbers, -1
	rules := map[int][]rule{}
	for _, line := range s.Syscalls {
		action, err := actionOf(line.Action, line.ErrnoRet)
		if err != nil {
			return nil, 0, fmt.Errorf("syscalls %v: %w", line.Names, err)
		}
		alternatives, err := alternativesOf(line.Args)
		if err != nil {
			return nil, 0, fmt.Errorf("syscalls %v: %w", line.Names, err)
		}
		add := func(nr int, args []specs.LinuxSeccompArg) {
			if action != defaultAction {
				rules[nr] = append(rules[nr], rule{action, args})
			}
		}
		for _, name := range line.Names {
			if nr, ok := numbers[name]; ok {
				last = max(last, nr)
				for _, args := range alternatives {
					add(nr, args)
				}
			}
			if mux, ok := muxOf(abi, name); ok && len(line.Args) == 0 {
				add(numbers[mux.call], []specs.LinuxSeccompArg{mux.arg()})
			}
		}
	}
	return rules, last, nil
}

// alternativesOf gives the condition sets of which one has to hold. Conditions
// of one line hold together; but if one argument occurs twice, each by itself is
// enough, as runc has it.
func alternativesOf(args []specs.LinuxSeccompArg) ([][]specs.LinuxSeccompArg, error) {
	var seen [6]bool
	twice := false
	for _, a := range args {
		if a.Index > 5 {
			return nil, fmt.Errorf("argument index %d is above 5", a.Index)
		}
		if !slices.Contains(operators, a.Op) {
			return nil, fmt.Errorf("operator %q is unknown", a.Op)
		}
		twice = twice || seen[a.Index]
		seen[a.Index] = true
	}
	if !twice {
		return [][]specs.LinuxSeccompArg{args}, nil
	}
	var alternatives [][]specs.LinuxSeccompArg
	for _, a := range args {
		alternatives = append(alternatives, []specs.LinuxSeccompArg{a})
	}
	return alternatives, nil
}

var operators = []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
	specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}

// A span is a range of system call numbers, up to the next span's first, that
// are decided alike: by one action, or by one call's rules.
type span struct {
	first int
	rules []rule // conditional ones, then action
	last  uint32 // the action if no rule holds
}

// ranges cuts all numbers into spans, in order.
func ranges(rules map[int][]rule, last int, defaultAction uint32, s *specs.LinuxSeccomp) []span {
	spans := []span{{0, nil, defaultAction}}
	push := func(sp span) {
		tail := &spans[len(spans)-1]
		switch {
		case tail.first == sp.first:
			*tail = sp
			if n := len(spans); n > 1 && sp.rules == nil && spans[n-2].rules == nil && spans[n-2].last == sp.last {
				spans = spans[:n-1]
			}
		case tail.rules == nil && sp.rules == nil && tail.last == sp.last:
		default:
			spans = append(spans, sp)
		}
	}
	numbers := make([]int, 0, len(rules))
	for nr := range rules {
		numbers = append(numbers, nr)
	}
	slices.Sort(numbers)
	for _, nr := range numbers {
		push(decide(nr, rules[nr], defaultAction))
		push(span{nr + 1, nil, defaultAction})
	}
	permissive := s.DefaultAction == specs.ActAllow || s.DefaultAction == specs.ActLog || s.DefaultAction == specs.ActTrace
	if !permissive && last >= 0 {
		push(span{last + 1, nil, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)})
	}
	return spans
}

// decide turns a call's rules into a span: the first one without conditions
// decides alone.
func decide(nr int, rules []rule, defaultAction uint32) span {
	for _, r := range rules {
		if len(r.args) == 0 {
			return span{nr, nil, r.action}
		}
	}
	return span{nr, rules, defaultAction}
}
