package mount

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// Subtree returns a detached mount of what lies at path inside the detached
// root: a directory or a file. Symbolic links are followed inside the root. The
// error of a missing path is fs.ErrNotExist. The root may be closed afterwards.
func Subtree(root *os.File, path string) (*os.File, error) {
	defer runtime.KeepAlive(root)
	if !Detect().CloneDetached {
		return nil, errors.New("cannot mount a part of an image: this kernel does not clone detached mounts (Linux 6.15 does)")
	}
	w, err := walkIn(root, path, walkOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot mount %s: %w", path, err)
	}
	defer w.close()
	return clone(w.fd(), "", path, false)
}
