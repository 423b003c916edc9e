package oci

import (
	"runtime"
	"strconv"
	"sync"

	"github.com/cri-box/cri-box/oci/program"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// filters caches compiled seccomp filters, which containers of one shape share,
// and the profile that each came of.
type filters struct {
	mu        sync.Mutex
	byKey     map[string]compiled                    // by filterKey
	byProfile map[*specs.LinuxSeccomp]program.Filter // of those that share gave
}

type compiled struct {
	filter  program.Filter
	profile *specs.LinuxSeccomp
}

const maxFilters = 256

// share gives the first profile that was the same as s: a spec is kept as long as
// its container, and the profile is most of it.
func (f *filters) share(s *specs.LinuxSeccomp) *specs.LinuxSeccomp {
	if s == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c, ok := f.byKey[string(filterKey(s))]; ok {
		f.byProfile[c.profile] = c.filter
		return c.profile
	}
	return s
}

// compile gives the filter for s, the zero Filter without one.
func (f *filters) compile(s *specs.LinuxSeccomp) (program.Filter, error) {
	if s == nil {
		return program.Filter{}, nil
	}
	f.mu.Lock()
	filter, ok := f.byProfile[s]
	f.mu.Unlock()
	if ok {
		return filter, nil
	}
	key := filterKey(s)
	f.mu.Lock()
	cached, ok := f.byKey[string(key)]
	f.mu.Unlock()
	if ok {
		return cached.filter, nil
	}
	filter, err := program.CompileSeccomp(s, runtime.GOARCH, absentABIs()...)
	if err != nil {
		return program.Filter{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byKey == nil || len(f.byKey) >= maxFilters {
		f.byKey, f.byProfile = map[string]compiled{}, map[*specs.LinuxSeccomp]program.Filter{}
	}
	f.byKey[string(key)] = compiled{filter, s}
	return filter, nil
}

// absentABIs are those that default profiles list and this kernel does not have: most
// are built without x32, or need syscall.x32=y for it. No filter of ours comes before.
var absentABIs = sync.OnceValue(func() []specs.Arch {
	const x32 = 0x40000000
	if _, _, errno := unix.RawSyscall(x32|unix.SYS_GETPID, 0, 0, 0); errno == unix.ENOSYS {
		return []specs.Arch{specs.ArchX32}
	}
	return nil
})

// filterKey is all of a profile's content, in a form that is quick to write: it
// is made for every start and every exec. Strings end with a NUL, which none has.
func filterKey(s *specs.LinuxSeccomp) []byte {
	b := make([]byte, 0, 8<<10)
	text := func(v string) { b = append(append(b, v...), 0) }
	number := func(v uint64) { b = append(strconv.AppendUint(b, v, 36), 0) }
	errno := func(v *uint) {
		if v != nil {
			number(uint64(*v))
		}
		b = append(b, 1)
	}
	text(string(s.DefaultAction))
	errno(s.DefaultErrnoRet)
	for _, a := range s.Architectures {
		text(string(a))
	}
	b = append(b, 2)
	for _, f := range s.Flags {
		text(string(f))
	}
	b = append(b, 3)
	for _, c := range s.Syscalls {
		for _, name := range c.Names {
			text(name)
		}
		b = append(b, 4)
		text(string(c.Action))
		errno(c.ErrnoRet)
		for _, a := range c.Args {
			number(uint64(a.Index))
			number(a.Value)
			number(a.ValueTwo)
			text(string(a.Op))
		}
		b = append(b, 5)
	}
	text(s.ListenerPath)
	text(s.ListenerMetadata)
	return b
}
