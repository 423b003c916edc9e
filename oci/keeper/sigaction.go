package keeper

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigaction is rt_sigaction(2) with the kernel's own struct: Go's runtime has no
// way to ask whether a signal is ignored, or to stop ignoring one.
func sigaction(sig int, set, old *[4]uint64) error {
	_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig),
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
