package program

import (
	"embed"
	"maps"
	"strconv"
	"strings"
	"sync"
)

// The tables are text, read when first asked for: a map in Go source would be
// built in every process of the binary, the spawner's 2 MiB included. One line
// is a number and the kernel's name for it (arch/*/entry/syscalls/*.tbl).
//
//go:embed syscalls/*.txt
var tableFiles embed.FS

// A table is one ABI's system calls.
type table struct {
	numbers map[string]int
	names   map[int]string
}

var tables sync.Map // file name to func() table

// tableOf gives the table of a kernel ABI: x86_64, x32, i386, aarch64, arm.
func tableOf(abi string) table {
	f, ok := tables.Load(abi)
	if !ok {
		f, _ = tables.LoadOrStore(abi, sync.OnceValue(func() table { return readTable(abi) }))
	}
	return f.(func() table)()
}

func readTable(abi string) table {
	b, err := tableFiles.ReadFile("syscalls/" + abi + ".txt")
	if err != nil {
		return table{}
	}
	t := table{make(map[string]int, 480), make(map[int]string, 480)}
	for line := range strings.Lines(string(b)) {
		number, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		t.numbers[name] = n
		t.names[n] = name
	}
	return t
}

// abis maps Go's names of the two architectures to the kernel's.
var abis = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// Syscalls returns the system calls of arch (amd64 or arm64) by name: all that
// Linux 7.0 has. The map is the caller's own; it is empty for another arch.
func Syscalls(arch string) map[string]int {
	return maps.Clone(tableOf(abis[arch]).numbers)
}
