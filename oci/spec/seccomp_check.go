package spec

import (
	"fmt"
	"slices"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var seccompActions = []specs.LinuxSeccompAction{
	specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap,
	specs.ActErrno, specs.ActTrace, specs.ActAllow, specs.ActLog,
}

var seccompOperators = []specs.LinuxSeccompOperator{
	specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
	specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual,
}

// maxErrno is the highest error that a filter can return (MAX_ERRNO).
const maxErrno = 4095

// checkProfile refuses what a stranger's file may contain and no filter can be
// made of. Names of system calls are not checked: those unknown here may exist on
// another architecture, and libseccomp ignores them too.
func checkProfile(p *moby.Seccomp) error {
	if p.DefaultAction == "" {
		return fmt.Errorf("defaultAction is missing")
	}
	if err := checkAction("defaultAction", p.DefaultAction, p.DefaultErrnoRet); err != nil {
		return err
	}
	if p.ListenerPath != "" || p.ListenerMetadata != "" {
		return fmt.Errorf("listenerPath and listenerMetadata are not supported")
	}
	if len(p.Architectures) > 0 && len(p.ArchMap) > 0 {
		return fmt.Errorf("architectures and archMap exclude each other")
	}
	for i, call := range p.Syscalls {
		if err := checkRule(call); err != nil {
			return fmt.Errorf("syscalls[%d]: %w", i, err)
		}
	}
	return nil
}

func checkRule(call *moby.Syscall) error {
	switch {
	case call == nil:
		return fmt.Errorf("is null")
	case call.Name != "" && len(call.Names) > 0:
		return fmt.Errorf("name and names exclude each other")
	case call.Name == "" && len(call.Names) == 0:
		return fmt.Errorf("names is empty")
	}
	for i, a := range call.Args {
		if a.Index > 5 {
			return fmt.Errorf("args[%d].index %d is above 5, the last argument of a system call", i, a.Index)
		}
		if !slices.Contains(seccompOperators, a.Op) {
			return fmt.Errorf("args[%d].op %q is not one of %v", i, a.Op, seccompOperators)
		}
	}
	return checkAction("action", call.Action, call.ErrnoRet)
}

func checkAction(field string, action specs.LinuxSeccompAction, errno *uint) error {
	if action == specs.ActNotify {
		return fmt.Errorf("%s %s is not supported", field, action)
	}
	if !slices.Contains(seccompActions, action) {
		return fmt.Errorf("%s %q is not one of %v", field, action, seccompActions)
	}
	if errno != nil && *errno > maxErrno {
		return fmt.Errorf("errnoRet %d of %s is above %d", *errno, field, maxErrno)
	}
	return nil
}
