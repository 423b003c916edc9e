package keeper

// The names of the roles, as the binary's first argument.
const (
	RoleKeeper  = "keeper"
	RoleSpawner = "spawner"
)
