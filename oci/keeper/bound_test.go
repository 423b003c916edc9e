//go:build !race

package keeper

// spawnerKiB bounds a spawner's own memory, in KiB.
const spawnerKiB = 2048
