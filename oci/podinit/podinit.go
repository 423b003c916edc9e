// Package podinit is PID 1 of a pod whose containers share a PID namespace. It
// reaps what they orphan and does nothing else. It is some hundred bytes of
// machine code (podinit_*.s) with an ELF header in front: a page of memory per
// pod instead of a Go runtime.
//
// It cannot be ended from inside the pod: every signal is blocked, and SIGKILL
// and SIGSTOP from its own namespace do not reach PID 1 (pid_namespaces(7)).
package podinit

import (
	"encoding/binary"
	"runtime"
	"unsafe"
)

const (
	codeSize   = 256     // more than the longer of the two; what follows is never reached
	loadAddr   = 0x10000 // above vm.mmap_min_addr
	headerSize = 64 + 56 // Elf64_Ehdr and one Elf64_Phdr, elf(5)
)

// code is the address of the machine code within this binary.
func code() unsafe.Pointer

// Image returns a static executable for this architecture.
func Image() []byte {
	machine := map[string]uint16{"amd64": 62, "arm64": 183}[runtime.GOARCH]
	le := binary.LittleEndian
	b := make([]byte, headerSize, headerSize+codeSize)
	copy(b, "\x7fELF\x02\x01\x01") // 64 bit, little endian, version 1
	le.PutUint16(b[16:], 2)        // ET_EXEC
	le.PutUint16(b[18:], machine)
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[24:], loadAddr+headerSize) // entry
	le.PutUint64(b[32:], 64)                  // program headers follow
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	p := b[64:]
	le.PutUint32(p[0:], 1) // PT_LOAD
	le.PutUint32(p[4:], 5) // read, execute
	le.PutUint64(p[16:], loadAddr)
	le.PutUint64(p[24:], loadAddr)
	le.PutUint64(p[32:], headerSize+codeSize)
	le.PutUint64(p[40:], headerSize+codeSize)
	le.PutUint64(p[48:], 0x1000)
	return append(b, unsafe.Slice((*byte)(code()), codeSize)...)
}
