package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Size is a number of bytes. In a file it is a number, or a string with a unit.
type Size int64

// units are the suffixes of sizes; the longer ones first.
var units = []struct {
	suffix string
	bytes  int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}, {"", 1},
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(b []byte) error {
	for _, u := range units {
		digits, ok := strings.CutSuffix(string(b), u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/u.bytes {
			break
		}
		*s = Size(n * u.bytes)
		return nil
	}
	return fmt.Errorf("%q is not a size such as \"64MiB\"", b)
}

// String writes the size with the largest unit that needs no fraction.
func (s Size) String() string {
	for _, u := range units[:4] {
		if s != 0 && int64(s)%u.bytes == 0 {
			return fmt.Sprint(int64(s)/u.bytes, u.suffix)
		}
	}
	return fmt.Sprint(int64(s), "B")
}

// Ulimit is a resource limit of setrlimit(2).
type Ulimit specs.POSIXRlimit

// limitNames are the limits that Linux has.
var limitNames = []string{"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"}

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *Ulimit) UnmarshalText(b []byte) error {
	name, values, ok := strings.Cut(string(b), "=")
	if !ok {
		return fmt.Errorf("%q has no =", b)
	}
	name = strings.ToLower(name)
	if !slices.Contains(limitNames, name) {
		return fmt.Errorf("%q is none of %s", name, strings.Join(limitNames, ", "))
	}
	soft, hard, ok := strings.Cut(values, ":")
	if !ok {
		hard = soft
	}
	*u = Ulimit{Type: "RLIMIT_" + strings.ToUpper(name)}
	var err error
	if u.Soft, err = limitValue(soft); err != nil {
		return err
	}
	if u.Hard, err = limitValue(hard); err != nil {
		return err
	}
	if u.Soft > u.Hard {
		return fmt.Errorf("%q: the soft limit is above the hard one", b)
	}
	return nil
}

// String implements fmt.Stringer.
func (u Ulimit) String() string {
	name := strings.ToLower(strings.TrimPrefix(u.Type, "RLIMIT_"))
	if u.Soft == u.Hard {
		return name + "=" + limitText(u.Soft)
	}
	return name + "=" + limitText(u.Soft) + ":" + limitText(u.Hard)
}

// limitValue reads a number; unlimited is RLIM_INFINITY, all bits set.
func limitValue(s string) (uint64, error) {
	if s == "unlimited" {
		return math.MaxUint64, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is neither a number nor unlimited", s)
	}
	return n, nil
}

func limitText(n uint64) string {
	if n == math.MaxUint64 {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}
