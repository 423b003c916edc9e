package program

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// TestTables compares the tables with another project's. What differs there is
// named here, with the kernel's own files as the judge.
func TestTables(t *testing.T) {
	for abi, other := range map[string]*arch.Info{"x86_64": arch.X86_64, "x32": arch.X32, "i386": arch.I386, "aarch64": arch.AARCH64, "arm": arch.ARM} {
		ours := tableOf(abi)
		if len(ours.numbers) < 320 || ours.numbers["file_getattr"] != 468 || ours.numbers["listns"] != 470 {
			t.Errorf("%s: %d names", abi, len(ours.numbers))
		}
		for nr, name := range other.SyscallNumbers {
			// 64-bit ABIs have no time64 calls, and arm64's number 79 is newfstatat.
			// Of two numbers for one name on x32, the lower is the 64-bit ABI's.
			wrong := abi == "aarch64" && (nr == 79 || nr >= 403 && nr <= 423) || abi == "x32" && nr < 512 && ours.numbers[name] >= 512
			if !wrong && ours.numbers[name] != nr {
				t.Errorf("%s: %s is %d here and %d there", abi, name, ours.numbers[name], nr)
			}
		}
	}
	equal(t, "newfstatat on arm64", Syscalls("arm64")["newfstatat"], 79)
	equal(t, "another architecture", len(Syscalls("riscv64")), 0)
	// The host's numbers as the Go project has them.
	for name, nr := range map[string]int{"openat2": unix.SYS_OPENAT2, "clone3": unix.SYS_CLONE3, "capset": unix.SYS_CAPSET, "prlimit64": unix.SYS_PRLIMIT64} {
		equal(t, name, Syscalls(hostArch)[name], nr)
	}
}

// naive decides a call by reading the profile, as CompileSeccomp documents it.
func naive(s *specs.LinuxSeccomp, abi string, nr int, args [6]uint64) uint32 {
	def, _ := actionOf(s.DefaultAction, s.DefaultErrnoRet)
	names := tableOf(abi).numbers
	last := -1
	conditional := uint32(0)
	found := false
	for _, line := range s.Syscalls {
		action, _ := actionOf(line.Action, line.ErrnoRet)
		for _, name := range line.Names {
			n, ok := names[name]
			if !ok {
				continue
			}
			last = max(last, n)
			if n != nr || action == def {
				continue
			}
			if len(line.Args) == 0 {
				return action
			}
			if !found && naiveArgs(line.Args, args, strings.HasSuffix(abi, "64") || abi == "x32") {
				found, conditional = true, action
			}
		}
	}
	switch {
	case found:
		return conditional
	case nr > last && last >= 0 && def != unix.SECCOMP_RET_ALLOW && def != unix.SECCOMP_RET_LOG:
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return def
}

func naiveArgs(conditions []specs.LinuxSeccompArg, args [6]uint64, wide bool) bool {
	for _, c := range conditions {
		a, v, w := args[c.Index], c.Value, c.ValueTwo
		if !wide {
			a, v, w = uint64(uint32(a)), uint64(uint32(v)), uint64(uint32(w))
		}
		holds := map[specs.LinuxSeccompOperator]bool{
			specs.OpEqualTo: a == v, specs.OpNotEqual: a != v, specs.OpLessThan: a < v, specs.OpLessEqual: a <= v,
			specs.OpGreaterThan: a > v, specs.OpGreaterEqual: a >= v, specs.OpMaskedEqual: a&v == w,
		}
		if !holds[c.Op] {
			return false
		}
	}
	return true
}

// random makes a profile and values that its conditions are about.
func random(r *rand.Rand, names []string, values []uint64) *specs.LinuxSeccomp {
	pick := func(a ...specs.LinuxSeccompAction) specs.LinuxSeccompAction { return a[r.IntN(len(a))] }
	s := &specs.LinuxSeccomp{
		DefaultAction: pick(specs.ActErrno, specs.ActAllow, specs.ActKillProcess, specs.ActLog),
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM},
	}
	for range 1 + r.IntN(40) {
		line := specs.LinuxSyscall{Action: pick(specs.ActAllow, specs.ActErrno, specs.ActTrap, specs.ActKillThread)}
		if line.Action == specs.ActErrno {
			line.ErrnoRet = ptr(uint(r.IntN(3)))
		}
		for range 1 + r.IntN(8) {
			line.Names = append(line.Names, names[r.IntN(len(names))])
		}
		for _, index := range r.Perm(6)[:r.IntN(4)] {
			line.Args = append(line.Args, specs.LinuxSeccompArg{Index: uint(index), Op: operators[r.IntN(len(operators))],
				Value: values[r.IntN(len(values))], ValueTwo: values[r.IntN(len(values))]})
		}
		s.Syscalls = append(s.Syscalls, line)
	}
	return s
}

// TestSeccompRandom compares compiled random profiles with what a reader makes
// of them, on this package's machine and on another project's.
func TestSeccompRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	values := []uint64{0, 1, 2, 0xffff, 0x80000000, 0xffffffff, 1 << 32, 1<<32 + 1, 0xffffffff00000000, ^uint64(0)}
	// No calls that i386 multiplexes: naive knows nothing of that.
	names := []string{"read", "write", "openat", "clone", "personality", "ioctl", "kill", "mseal", "statx", "io_uring_setup",
		"exit", "nosuchcall", "mount", "prctl", "ptrace", "keyctl", "unshare", "setns", "fcntl", "dup3"}
	for range 300 {
		s := random(r, names, values)
		for machine, list := range machineABIs {
			f, err := CompileSeccomp(s, machine)
			if err != nil {
				t.Fatal(err)
			}
			vm := otherVM(t, f)
			for range 100 {
				for _, abi := range list {
					args := [6]uint64{}
					for i := range args {
						args[i] = values[r.IntN(len(values))] + uint64(r.IntN(3)) - 1
						if abi == "i386" || abi == "arm" {
							args[i] &= 0xffffffff // the kernel clears the rest
						}
					}
					nr := tableOf(abi).numbers[names[r.IntN(len(names))]] + r.IntN(3)
					number := nr
					if abi == "x32" {
						number |= x32Bit
					}
					data := callData(auditArchs[abi], number, args)
					want, got := naive(s, abi, nr, args), f.run(data)
					if got != want || vm(data) != want {
						text, _ := json.Marshal(s)
						t.Fatalf("%s call %d %x: %#x and %#x, want %#x\n%s", abi, nr, args, got, vm(data), want, text)
					}
				}
			}
		}
	}
}

// otherVM runs a filter on x/net's machine, which loads big endian words.
func otherVM(t *testing.T, f Filter) func([]byte) uint32 {
	var raw []bpf.RawInstruction
	for at := 0; at < len(f.code); at += 8 {
		c := f.code[at:]
		raw = append(raw, bpf.RawInstruction{Op: binary.LittleEndian.Uint16(c), Jt: c[2], Jf: c[3], K: binary.LittleEndian.Uint32(c[4:])})
	}
	ins, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter cannot be disassembled")
	}
	vm := must[*bpf.VM](t)(bpf.NewVM(ins))
	return func(data []byte) uint32 {
		swapped := make([]byte, len(data))
		for i := 0; i < len(data); i += 4 {
			binary.BigEndian.PutUint32(swapped[i:], binary.LittleEndian.Uint32(data[i:]))
		}
		n, err := vm.Run(swapped)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(n)
	}
}

// defaultProfile is what a container gets, as the project that keeps it says.
func defaultProfile(tb testing.TB) *specs.LinuxSeccomp {
	tb.Helper()
	s, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestSeccompDefault(t *testing.T) {
	const (
		allow = uint32(unix.SECCOMP_RET_ALLOW)
		eperm = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.EPERM)
		nosys = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.ENOSYS)
		kill  = uint32(unix.SECCOMP_RET_KILL_PROCESS)
	)
	s := defaultProfile(t)
	s.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchAARCH64, specs.ArchARM}
	for _, machine := range []string{"amd64", "arm64"} {
		f := must[Filter](t)(CompileSeccomp(s, machine))
		t.Logf("%s: %d instructions", machine, f.Len())
		nr := Syscalls(machine)
		for _, c := range []struct {
			name string
			args [6]uint64
			want uint32
		}{
			{"read", [6]uint64{}, allow}, {"mount", [6]uint64{}, eperm}, {"newfstatat", [6]uint64{}, allow},
			{"clone", [6]uint64{uint64(unix.SIGCHLD)}, allow}, {"clone", [6]uint64{unix.CLONE_NEWUSER}, eperm},
			{"clone", [6]uint64{innerFlags}, allow}, {"clone3", [6]uint64{}, nosys},
			{"personality", [6]uint64{8}, allow}, {"personality", [6]uint64{0x40000}, eperm},
			{"personality", [6]uint64{0xffffffff}, allow}, {"personality", [6]uint64{1<<32 | 8}, eperm},
			{"socket", [6]uint64{unix.AF_INET}, allow}, {"socket", [6]uint64{unix.AF_VSOCK}, eperm},
			{"keyctl", [6]uint64{}, eperm}, {"setsid", [6]uint64{}, allow}, {"capset", [6]uint64{}, allow},
		} {
			number, ok := nr[c.name]
			if got := f.Action(machine, number, c.args); !ok || got != c.want {
				t.Errorf("%s: %s %x: %#x, want %#x", machine, c.name, c.args, got, c.want)
			}
		}
		equal(t, "a call of the future", f.Action(machine, 900, [6]uint64{}), nosys)
		equal(t, "a foreign ABI", f.run(callData(unix.AUDIT_ARCH_S390X, 3, [6]uint64{})), kill)
		equal(t, "x32, which is not listed", f.run(callData(auditArchs[abis[machine]], x32Bit, [6]uint64{})) == allow, false)
	}
}

// TestSeccompAbsentABI: what the kernel does not have answers as it would, and costs
// nothing; others are as they were.
func TestSeccompAbsentABI(t *testing.T) {
	s := defaultProfile(t)
	s.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	all := must[Filter](t)(CompileSeccomp(s, "amd64"))
	f := must[Filter](t)(CompileSeccomp(s, "amd64", specs.ArchX32))
	t.Logf("%d instructions, %d without x32", all.Len(), f.Len())
	if f.Len() > all.Len()*3/4 {
		t.Errorf("%d instructions, %d without x32", all.Len(), f.Len())
	}
	nosys := uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.ENOSYS)
	for nr := range 1000 {
		for _, abi := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386} {
			if got, want := f.run(callData(abi, nr, [6]uint64{})), all.run(callData(abi, nr, [6]uint64{})); got != want {
				t.Errorf("call %d of %#x: %#x, want %#x", nr, abi, got, want)
			}
		}
		equal(t, "x32", f.run(callData(unix.AUDIT_ARCH_X86_64, x32Bit|nr, [6]uint64{})), nosys)
	}
}

// TestSeccompMultiplex forbids connect on i386 also by socketcall.
func TestSeccompMultiplex(t *testing.T) {
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"connect", "shmget"}, Action: specs.ActErrno}}}
	f := must[Filter](t)(CompileSeccomp(s, "amd64"))
	nr := tableOf("i386").numbers
	for _, c := range []struct {
		call    string
		arg     uint64
		allowed bool
	}{{"socketcall", 3, false}, {"socketcall", 1, true}, {"ipc", 23, false}, {"ipc", 23 | 1<<16, false}, {"ipc", 21, true}, {"connect", 0, false}} {
		got := f.run(callData(unix.AUDIT_ARCH_I386, nr[c.call], [6]uint64{c.arg})) == unix.SECCOMP_RET_ALLOW
		equal(t, fmt.Sprint(c.call, " ", c.arg), got, c.allowed)
	}
}

func TestSeccompErrors(t *testing.T) {
	big := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i := range 2000 {
		big.Syscalls = append(big.Syscalls, specs.LinuxSyscall{Names: []string{"socket"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 0, Value: uint64(i), Op: specs.OpEqualTo}}})
	}
	line := func(l specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{l}}
	}
	read := []string{"read"}
	for want, s := range map[string]*specs.LinuxSeccomp{
		`cannot compile seccomp profile: it takes 8`:                                                     big,
		`cannot compile seccomp profile: syscalls [read]: action "SCMP_ACT_NOTIFY" is not supported`:     line(specs.LinuxSyscall{Names: read, Action: specs.ActNotify}),
		`cannot compile seccomp profile: syscalls [read]: errnoRet 5000 is above 4095`:                   line(specs.LinuxSyscall{Names: read, Action: specs.ActErrno, ErrnoRet: ptr(uint(5000))}),
		`cannot compile seccomp profile: syscalls [read]: argument index 6 is above 5`:                   line(specs.LinuxSyscall{Names: read, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}),
		`cannot compile seccomp profile: syscalls [read]: operator "X" is unknown`:                       line(specs.LinuxSyscall{Names: read, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: "X"}}}),
		`cannot compile seccomp profile: defaultAction: action "" is not supported`:                      {},
		`cannot compile seccomp profile: flag "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" is not supported`: {DefaultAction: specs.ActErrno, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}},
	} {
		if _, err := CompileSeccomp(s, "amd64"); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestSeccompKernel loads filters in a child and makes calls there: the kernel
// accepts the code and agrees with Action about it.
func TestSeccompKernel(t *testing.T) {
	profiles := map[string]*specs.LinuxSeccomp{"default": defaultProfile(t)}
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 5 {
		s := random(r, []string{"personality", "keyctl", "setns", "dup3", "unshare", "mseal"}, []uint64{0, 1, 1 << 32, ^uint64(0)})
		s.DefaultAction = specs.ActAllow
		for k := range s.Syscalls {
			if s.Syscalls[k].Action != specs.ActErrno {
				s.Syscalls[k].Action, s.Syscalls[k].ErrnoRet = specs.ActErrno, ptr(uint(40+i))
			}
		}
		profiles[fmt.Sprint("random ", i)] = s
	}
	for name, profile := range profiles {
		t.Run(name, func(t *testing.T) { testKernel(t, must[Filter](t)(CompileSeccomp(profile, runtime.GOARCH))) })
	}
}

func testKernel(t *testing.T, f Filter) {
	l, err := newList("test", hostArch, 8)
	if err != nil {
		t.Fatal(err)
	}
	s := &starter{list: l, process: &specs.Process{}, filter: f}
	l.call("set no_new_privs", "prctl", Int(unix.PR_SET_NO_NEW_PRIVS), Int(1), Int(0), Int(0), Int(0))
	s.loadFilter()
	type try struct {
		name string
		args [6]uint64
		reg  Reg
	}
	var tries []try
	for _, name := range []string{"personality", "keyctl", "setns", "dup3", "unshare", "mseal"} {
		for _, v := range []uint64{0x40000, 1<<32 | 1, ^uint64(0), 1, 0} {
			// Descriptor -1 and namespace flag 1 are wrong for every call that gets so far.
			args := [6]uint64{v, ^uint64(0), 1, v, v, v}
			reg := l.reg()
			op := l.call("try", name)
			for i, a := range args {
				op.Args[i] = Flag(a, "")
			}
			op.Dst, op.Tolerate = reg, anyErrno
			tries = append(tries, try{name, args, reg})
		}
	}
	p := must[*Program](t)(l.done())
	sc := newScene(t)
	run := sc.spawn(p)
	run.wait()
	if failure := run.failure(); failure != "" {
		t.Fatal(failure)
	}
	for _, c := range tries {
		action := f.Action(hostArch, l.numbers[c.name], c.args)
		got := int64(binary.LittleEndian.Uint64(run.page[pageRegs+8*int(c.reg-1):]))
		if errno := int64(action & unix.SECCOMP_RET_DATA); action&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO && got != -errno {
			t.Errorf("%s %x: result %d, the filter says errno %d", c.name, c.args, got, errno)
		}
		if action == unix.SECCOMP_RET_ALLOW && got <= -40 && got >= -44 {
			t.Errorf("%s %x: result %d, the filter says allow", c.name, c.args, got)
		}
	}
}

func BenchmarkSeccomp(b *testing.B) {
	s := defaultProfile(b)
	for b.Loop() {
		if _, err := CompileSeccomp(s, "amd64"); err != nil {
			b.Fatal(err)
		}
	}
}
