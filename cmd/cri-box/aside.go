package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/cri-box/cri-box/sandbox/record"
)

// An aside is a file or directory that could not be used at a start and was put
// where a person can look at it. It is named until it is removed.
type aside struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// maxWhy bounds what is shown of a reason, in bytes.
const maxWhy = 4 << 10

// asides lists their paths.
func (d *daemon) asides() (list []string) {
	for _, pattern := range []string{
		filepath.Join(d.root, "*", record.QuarantineDir, "*"),
		filepath.Join(d.state, "ipam", "*.bad"),
		filepath.Join(d.root, "network", "cni", "attached", "*.bad"),
		filepath.Join(d.root, "*.broken"),
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			slog.Error("cannot list what was set aside", "err", err)
		}
		list = append(list, paths...)
	}
	return list
}

// setAside lists them as JSON, with reasons.
func (d *daemon) setAside() string {
	found := []aside{}
	for _, path := range d.asides() {
		found = append(found, aside{path, whyAside(path)})
	}
	text, err := json.Marshal(found)
	if err != nil {
		slog.Error("cannot show what was set aside", "err", err)
	}
	return string(text)
}

func whyAside(path string) string {
	f, err := os.Open(filepath.Join(path, record.WhyFile))
	if err != nil {
		return "it could not be read"
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxWhy))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}
