package sandbox

import (
	"context"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ReopenLog makes a new file at a running container's log path its log.
func (m *Manager) ReopenLog(ctx context.Context, id string) error {
	c, err := m.Container(id)
	if err != nil {
		return err
	}
	if c.State() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return fmt.Errorf("cannot reopen the log of container %s: it is %s: %w", c.ID, stateName(c.State()), ErrState)
	}
	if c.Bundle.LogPath == "" {
		return fmt.Errorf("cannot reopen the log of container %s: it has none, since log_path was empty: %w", c.ID, ErrState)
	}
	if err := m.cfg.Logs.ReopenLog(ctx, c.Bundle); err != nil {
		return fmt.Errorf("cannot reopen the log of container %s: %w", c.ID, err)
	}
	return nil
}
