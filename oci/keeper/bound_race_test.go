//go:build race

package keeper

// spawnerKiB bounds a spawner's own memory, in KiB, where the race detector
// keeps shadows of it.
const spawnerKiB = 64 << 10
