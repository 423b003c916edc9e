package sandbox

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
)

// fault is a fault point: a place where a test may have the daemon fail, wait or
// die. It is a nil check as long as nobody asked for that (Config.Fault).
func (m *Manager) fault(name string) error {
	if m.cfg.Fault == nil {
		return nil
	}
	return m.cfg.Fault(name)
}

// faulty puts a fault point before each do and undo of the steps, named after
// them, so that a new step has its points without anybody adding them.
func (m *Manager) faulty(of string, steps []step) []step {
	if m.cfg.Fault == nil {
		return steps
	}
	for i, s := range steps {
		steps[i].do = m.faultBefore(of+": "+s.name, s.do)
		if s.undo != nil {
			steps[i].undo = m.faultBefore(of+": undo "+s.name, s.undo)
		}
	}
	return steps
}

func (m *Manager) faultBefore(name string, do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := m.cfg.Fault(name); err != nil {
			return err
		}
		if do == nil {
			return nil
		}
		return do(ctx)
	}
}

// guarded calls do and makes a panic an error: a mistake that one pod brings to
// light shall not end the daemon of all, nor skip the undos.
func guarded(ctx context.Context, name string, do func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			slog.Error("a step went wrong", "step", name, "cause", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	return do(ctx)
}
