package keeper

import "fmt"

// The names of the roles, as the binary's first argument.
const (
	RoleKeeper  = "keeper"
	RoleSpawner = "spawner"
)

// RunRole runs the role of that name.
func RunRole(role string) error {
	switch role {
	case RoleKeeper:
		return Run(ListenerFD)
	case RoleSpawner:
		return RunSpawner()
	}
	return fmt.Errorf("there is no role %q", role)
}
