package spec

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// ErrInvalid marks a request that can never work as it is; the message names the
// CRI field and what would be right. The caller answers InvalidArgument.
var ErrInvalid = errors.New("invalid argument")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// A findings list collects everything wrong with a request, so that its author
// repairs it in one go.
type findings []string

func (f *findings) add(format string, args ...any) {
	*f = append(*f, fmt.Sprintf(format, args...))
}

// note adds an error of this package without saying "invalid argument" twice.
func (f *findings) note(err error) {
	if err != nil {
		*f = append(*f, strings.TrimPrefix(err.Error(), ErrInvalid.Error()+": "))
	}
}

func (f findings) err() error {
	if len(f) == 0 {
		return nil
	}
	return invalid("%s", strings.Join(f, "; "))
}

// hasControl reports bytes that end a line or a string in the files, kernel
// interfaces and logs that names are written to.
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 }

// absolute reports a path that starts at a root and is no trick with NUL.
func absolute(p string) bool { return path.IsAbs(p) && !hasNUL(p) }

// within reports that p is dir or below it; both are clean.
func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

func hasDotDot(p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

func cleanAll(paths []string) []string {
	var out []string
	for _, p := range paths {
		out = append(out, path.Clean(p))
	}
	return out
}
