package snapshot

import (
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
)

// Files are deleted by this many goroutines, that many names at a time.
const (
	removers    = 8
	removeBatch = 32
)

// removeTree deletes a directory with everything in it; nobody else is to use it.
// Several files go at once, for an unlink may wait for the disk: an ext4 that
// discards and has no journal tells it of each file's blocks.
func removeTree(dir string) error {
	var files errgroup.Group
	files.SetLimit(removers)
	var batch []string
	send := func() {
		names := batch
		batch = nil
		files.Go(func() error {
			for _, name := range names {
				os.Remove(name)
			}
			return nil
		})
	}
	filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			if batch = append(batch, name); len(batch) == removeBatch {
				send()
			}
		}
		return nil // what cannot be read or removed is told by the last call
	})
	send()
	files.Wait()
	return os.RemoveAll(dir)
}
