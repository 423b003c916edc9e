package sandbox

// PodStage says at which step a pod is on its way up or down, nil at none.
func (m *Manager) PodStage(id string) *Stage {
	e, err := m.podEntry(id)
	if err != nil {
		return nil
	}
	return e.stage.Load()
}
