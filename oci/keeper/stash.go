package keeper

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A stash is a file in memory with room for one unfinished line per stream: four
// bytes of length, then the line.
const stashRoom = 1 << 20

// NewStash makes an empty stash, the caller's, for a Spawn's Keep.
func NewStash() (*os.File, error) {
	fd, err := unix.MemfdCreate("unfinished-lines", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make stash: %w", os.NewSyscallError("memfd_create", err))
	}
	return os.NewFile(uintptr(fd), FDStash), nil
}

func stashOffset(stream string) int64 {
	if stream == FDStderr {
		return stashRoom
	}
	return 0
}

// unstash returns the unfinished line that an earlier keeper left.
func (l *logger) unstash(stream string) []byte {
	if l.stash == nil {
		return nil
	}
	var size [4]byte
	if _, err := l.stash.ReadAt(size[:], stashOffset(stream)); err != nil {
		return nil // empty so far
	}
	n := binary.LittleEndian.Uint32(size[:])
	if n == 0 || n >= stashRoom-4 {
		return nil
	}
	line := make([]byte, n)
	if _, err := l.stash.ReadAt(line, stashOffset(stream)+4); err != nil {
		return nil
	}
	return line
}

// restash replaces the unfinished line.
func (l *logger) restash(stream string, line []byte) {
	if l.stash == nil || len(line) >= stashRoom-4 {
		return
	}
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(line)), uint32(len(line)))
	if _, err := l.stash.WriteAt(append(b, line...), stashOffset(stream)); err != nil {
		fmt.Fprintf(os.Stderr, "keeper: cannot stash a line: %v\n", err)
	}
}
