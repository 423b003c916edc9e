package mount

import (
	"fmt"
	"os"
	"runtime"
)

// Subtree returns a detached mount of what lies at path inside the detached
// root: a directory or a file. Symbolic links are followed inside the root. The
// error of a missing path is fs.ErrNotExist. The root is to be closed afterwards.
func Subtree(root *os.File, path string) (*os.File, error) {
	defer runtime.KeepAlive(root)
	w, err := walkIn(root, path, walkOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot mount %s: %w", path, err)
	}
	defer w.close()
	return cloneWithin(root, w.fd(), path)
}
