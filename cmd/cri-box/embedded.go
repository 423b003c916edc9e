package main

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// embedded holds the keeper's own small binary (cmd/keeper), which `make build`
// puts there first. A plain `go build` has none: keeper and spawner then are
// roles of this binary, which costs them its size.
//
//go:embed all:embedded
var embedded embed.FS

// keeperBinary returns the path of the binary that keepers are started from: the
// embedded one, put below root once, under a name that has its digest.
func keeperBinary(root string) (string, error) {
	image, err := embedded.ReadFile("embedded/keeper")
	if errors.Is(err, fs.ErrNotExist) {
		return os.Executable()
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the embedded keeper: %w", err)
	}
	sum := sha256.Sum256(image)
	dir := filepath.Join(root, "bin")
	path := filepath.Join(dir, "keeper-"+hex.EncodeToString(sum[:8]))
	if have, err := os.ReadFile(path); err == nil && sha256.Sum256(have) == sum {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("cannot unpack the keeper: %w", err)
	}
	if err := os.WriteFile(path+".new", image, 0o700); err != nil {
		return "", fmt.Errorf("cannot unpack the keeper: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", fmt.Errorf("cannot unpack the keeper: %w", err)
	}
	return path, nil
}
