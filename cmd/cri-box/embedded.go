package main

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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
	build, err := embeddedKeeper()
	if err != nil {
		return "", err
	}
	if build == "" {
		return os.Executable()
	}
	dir := filepath.Join(root, "bin")
	path := filepath.Join(dir, build)
	if have, err := os.Open(path); err == nil {
		name, err := buildOf(have)
		have.Close()
		if err == nil && name == build {
			return path, nil
		}
	}
	if err := unpackKeeper(dir, path); err != nil {
		return "", fmt.Errorf("cannot unpack the keeper: %w", err)
	}
	return path, nil
}

// unpackKeeper writes the embedded binary, by pieces: the whole is as large as all
// that the daemon holds of its own.
func unpackKeeper(dir, path string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	image, err := embedded.Open(embeddedName)
	if err != nil {
		return err
	}
	defer image.Close()
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, image)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
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

const embeddedName = "embedded/keeper"

// embeddedKeeper returns the name of the embedded binary's build, which has its
// digest; "" without one.
func embeddedKeeper() (build string, err error) {
	image, err := embedded.Open(embeddedName)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the embedded keeper: %w", err)
	}
	defer image.Close()
	return buildOf(image)
}

// buildOf names the build that the binary is of.
func buildOf(image io.Reader) (string, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, image); err != nil {
		return "", fmt.Errorf("cannot read the keeper's binary: %w", err)
	}
	return "keeper-" + hex.EncodeToString(sum.Sum(nil)[:8]), nil
}
