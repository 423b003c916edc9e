package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// prctlPointer makes a call that answers through a pointer to an int.
func prctlPointer(option int) int {
	var out int32
	if err := unix.Prctl(option, uintptr(unsafe.Pointer(&out)), 0, 0, 0); err != nil {
		return -1
	}
	return int(out)
}
