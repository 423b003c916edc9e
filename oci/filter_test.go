package oci

import (
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Every field of a profile is in its key: two that differ anywhere never share a
// filter.
func TestFilterKeyHasEveryField(t *testing.T) {
	errno := uint(1)
	full := func() *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: "a", DefaultErrnoRet: &errno, Architectures: []specs.Arch{"b"}, Flags: []specs.LinuxSeccompFlag{"c"},
			ListenerPath: "d", ListenerMetadata: "e",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"f"}, Action: "g", ErrnoRet: &errno, Args: []specs.LinuxSeccompArg{{Index: 1, Value: 2, ValueTwo: 3, Op: "h"}}}}}
	}
	base := string(filterKey(full()))
	seen := map[string]string{base: "nothing changed"}
	for _, part := range []func(*specs.LinuxSeccomp) reflect.Value{
		func(s *specs.LinuxSeccomp) reflect.Value { return reflect.ValueOf(s).Elem() },
		func(s *specs.LinuxSeccomp) reflect.Value { return reflect.ValueOf(&s.Syscalls[0]).Elem() },
		func(s *specs.LinuxSeccomp) reflect.Value { return reflect.ValueOf(&s.Syscalls[0].Args[0]).Elem() },
	} {
		kind := part(full()).Type()
		for i := range kind.NumField() {
			s := full()
			part(s).Field(i).SetZero()
			key, name := string(filterKey(s)), kind.Name()+"."+kind.Field(i).Name
			if other, taken := seen[key]; taken {
				t.Errorf("without %s the key is that of: %s", name, other)
			}
			seen[key] = "without " + name
		}
	}
}

func BenchmarkFilterKey(b *testing.B) {
	s := &specs.LinuxSeccomp{Syscalls: []specs.LinuxSyscall{{Names: make([]string, 400)}}}
	for i := range s.Syscalls[0].Names {
		s.Syscalls[0].Names[i] = "some_system_call"
	}
	for b.Loop() {
		filterKey(s)
	}
}

// TestProfilesAreShared: a thousand containers keep one default profile.
func TestProfilesAreShared(t *testing.T) {
	profile := func(errno uint) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &errno,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"read", "exit_group"}, Action: specs.ActAllow}}}
	}
	var f filters
	first := profile(1)
	for _, s := range []*specs.LinuxSeccomp{first, profile(1), profile(2)} {
		if _, err := f.compile(s); err != nil {
			t.Fatal(err)
		}
	}
	if f.share(profile(1)) != first || f.share(profile(2)) == first || f.share(nil) != nil {
		t.Error("profiles are not shared by content")
	}
}
