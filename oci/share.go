package oci

import (
	"slices"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// shapes are the parts of the last container's spec that most others have too. A
// spec is kept as long as its container, and nobody changes those parts.
type shapes struct {
	mu           sync.Mutex
	devices      []specs.LinuxDeviceCgroup
	masked       []string
	readonly     []string
	capabilities [5][]string
}

// share has s use what an earlier spec has, where it is the same.
func (k *shapes) share(s *specs.Spec) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := s.Linux.Resources; r != nil {
		reuse(&k.devices, &r.Devices, sameRule)
	}
	same := func(a, b string) bool { return a == b }
	reuse(&k.masked, &s.Linux.MaskedPaths, same)
	reuse(&k.readonly, &s.Linux.ReadonlyPaths, same)
	if c := s.Process.Capabilities; c != nil {
		for i, set := range []*[]string{&c.Bounding, &c.Effective, &c.Inheritable, &c.Permitted, &c.Ambient} {
			reuse(&k.capabilities[i], set, same)
		}
	}
}

// reuse replaces one by last if they are the same; else it is the last from now on.
func reuse[T any](last, one *[]T, same func(a, b T) bool) {
	if len(*one) > 0 && slices.EqualFunc(*last, *one, same) {
		*one = *last
		return
	}
	*last = *one
}

func sameRule(a, b specs.LinuxDeviceCgroup) bool {
	return a.Allow == b.Allow && a.Type == b.Type && a.Access == b.Access && sameNumber(a.Major, b.Major) && sameNumber(a.Minor, b.Minor)
}

func sameNumber(a, b *int64) bool { return a == b || a != nil && b != nil && *a == *b }
