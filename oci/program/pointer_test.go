package program

import (
	"runtime"
	"unsafe"
)

const hostArch = runtime.GOARCH

func pointer(b []byte, off int) unsafe.Pointer { return unsafe.Pointer(&b[off]) }
