package main

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// embedded holds the keeper's own small binary (cmd/keeper), which `make build`
// puts there first. A plain `go build` has none: keeper and spawner then are
// roles of this binary, which costs them its size.
//
//go:embed all:embedded
var embedded embed.FS

// keeperBinary returns the path of the binary that keepers are started from: the
// embedded one, put below root once, under its build's name.
func keeperBinary(root string) (string, error) {
	image, build, err := embeddedKeeper()
	if err != nil {
		return "", err
	}
	if build == "" {
		return os.Executable()
	}
	dir := filepath.Join(root, "bin")
	path := filepath.Join(dir, build)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, image) {
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

// dropOldKeepers removes the binaries of other builds, which upgrades left: the
// keeper runs as this one now.
func dropOldKeepers(root, build string) {
	old, _ := filepath.Glob(filepath.Join(root, "bin", "keeper-*"))
	for _, path := range old {
		if strings.TrimSuffix(filepath.Base(path), ".new") == build {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			slog.Warn("the keeper's binary of another build stays", "err", err)
		}
	}
}

// embeddedKeeper returns the embedded binary and the name of its build, which has
// its digest; "" without one.
func embeddedKeeper() (image []byte, build string, err error) {
	image, err = embedded.ReadFile("embedded/keeper")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("cannot read the embedded keeper: %w", err)
	}
	sum := sha256.Sum256(image)
	return image, "keeper-" + hex.EncodeToString(sum[:8]), nil
}
