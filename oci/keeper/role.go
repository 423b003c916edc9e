package keeper

import (
	"errors"
	"fmt"
)

// The names of the roles, as the binary's first argument.
const (
	RoleKeeper  = "keeper" // socket, build, and the descriptor of its state after an upgrade
	RoleSpawner = "spawner"
	RoleTrial   = "keeper-trial" // of an upgrade: can this binary take the state over?
)

// RunRole runs the role that args begin with.
func RunRole(args []string) error {
	if len(args) == 0 {
		return errors.New("the keeper is started by cri-box serve")
	}
	switch args[0] {
	case RoleKeeper:
		state, err := inherited(args[1:])
		if err != nil {
			return err
		}
		return Run(ListenerFD, state)
	case RoleSpawner:
		return RunSpawner()
	case RoleTrial:
		_, err := readHandover(trialState)
		return err
	}
	return fmt.Errorf("there is no role %q", args[0])
}
