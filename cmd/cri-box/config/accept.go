package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cri-box/cri-box/oci/spec"
)

// A rule says what a setting accepts. A list's rule is that of its entries.
type rule struct {
	words string // what is accepted, for people
	ok    func(v reflect.Value) bool
}

// check names what is wrong; the caller adds what would be right.
func (r rule) check(v reflect.Value) error {
	if v.Kind() != reflect.Slice {
		if r.ok(v) {
			return nil
		}
		return fmt.Errorf("%s is not accepted", show(v))
	}
	for i := range v.Len() {
		if !r.ok(v.Index(i)) {
			return fmt.Errorf("entry %d, %s, is not accepted", i+1, show(v.Index(i)))
		}
	}
	return nil
}

// named are the rules that have no notation of their own.
var named = map[string]rule{
	"directory":  {"an absolute path without \"..\"", text(cleanPath)},
	"socket":     {"an absolute path of at most 107 bytes (unix(7)), or \"\"", text(socketPath)},
	"address":    {"an IP address and a port such as \"127.0.0.1:9437\", or \"\"", text(address)},
	"endpoint":   {"a host and a port such as \"127.0.0.1:4317\", or \"\"", text(hostPort)},
	"path list":  {"absolute paths with : between them", text(pathList)},
	"word":       {"names without spaces", text(func(s string) bool { return s != "" && !strings.ContainsAny(s, " \t\r\n") })},
	"capability": {"names from capabilities(7), with or without CAP_", text(func(s string) bool { return known(Capability(s)) })},
	"ulimit":     {"\"name=soft:hard\" or \"name=both\" with a name from setrlimit(2) such as nofile, and numbers or unlimited", always},
	"ipv4":       {"an IPv4 range such as \"10.88.0.0/16\", at least a /30, or \"\"", prefix(true)},
	"ipv6":       {"an IPv6 range such as \"fd00:1::/64\", at least a /126, or \"\"", prefix(false)},
	"range":      {"ranges such as \"10.244.0.0/16\" and \"fd00:1::/56\"", wholeRange},
}

// ruleOf reads an accept tag: a set, a range, or a name.
func ruleOf(tag string, t reflect.Type) rule {
	if r, ok := named[tag]; ok {
		if t.Kind() == reflect.Slice {
			r.words = "a list of " + strings.Replace(r.words, "an absolute path", "absolute paths", 1)
		}
		return r
	}
	if low, high, ok := strings.Cut(tag, ".."); ok {
		return between(low, high, t)
	}
	set := strings.Split(tag, "|")
	return rule{`"` + strings.Join(set, `", "`) + `"`, text(func(s string) bool { return slices.Contains(set, s) })}
}

// between accepts what lies in a range; its bounds are written as values are.
func between(low, high string, t reflect.Type) rule {
	bound := func(s string) int64 {
		v := reflect.New(t).Elem()
		var raw any = s
		var n int64
		if _, err := fmt.Sscanf(s, "%d", &n); err == nil && fmt.Sprint(n) == s {
			raw = n
		}
		if err := assign(v, raw); err != nil {
			panic(fmt.Sprintf("config: bound %q: %v", s, err))
		}
		return v.Int()
	}
	first, last := bound(low), bound(high)
	kind := "a whole number"
	switch t {
	case reflect.TypeFor[time.Duration]():
		kind = "a time"
	case reflect.TypeFor[Size]():
		kind = "a size"
	}
	return rule{fmt.Sprintf("%s from %s to %s", kind, low, high), func(v reflect.Value) bool { return v.Int() >= first && v.Int() <= last }}
}

func text(ok func(string) bool) func(reflect.Value) bool {
	return func(v reflect.Value) bool { return ok(v.String()) }
}

// always is for types that refuse what is wrong while they are read.
func always(reflect.Value) bool { return true }

func cleanPath(s string) bool {
	return filepath.IsAbs(s) && !slices.Contains(strings.Split(s, "/"), "..") && !strings.ContainsRune(s, 0)
}

func socketPath(s string) bool { return s == "" || cleanPath(s) && len(s) <= 107 }

func pathList(s string) bool {
	return !slices.ContainsFunc(strings.Split(s, ":"), func(dir string) bool { return !cleanPath(dir) })
}

func prefix(v4 bool) func(reflect.Value) bool {
	return func(v reflect.Value) bool {
		p := v.Interface().(netip.Prefix)
		return p == netip.Prefix{} || p.Addr().Is4() == v4 && p == p.Masked() && p.Bits() <= p.Addr().BitLen()-2
	}
}

// wholeRange is one without bits beyond its length.
func wholeRange(v reflect.Value) bool {
	p := v.Interface().(netip.Prefix)
	return p.IsValid() && p == p.Masked() && !p.Addr().Is4In6()
}

// Capability is a capability's name as the kernel's headers write it.
func Capability(name string) string {
	name = strings.ToUpper(name)
	if !strings.HasPrefix(name, "CAP_") {
		name = "CAP_" + name
	}
	return name
}

func known(capability string) bool {
	_, ok := spec.CapabilityNumber(capability)
	return ok
}

// show writes a value as a file would have it.
func show(v reflect.Value) string {
	switch value := v.Interface().(type) {
	case string:
		return fmt.Sprintf("%q", value)
	case fmt.Stringer:
		if p, ok := value.(netip.Prefix); ok && !p.IsValid() {
			return `""`
		}
		return fmt.Sprintf("%q", value.String())
	}
	if v.Kind() != reflect.Slice {
		return fmt.Sprint(v.Interface())
	}
	entries := make([]string, v.Len())
	for i := range entries {
		entries[i] = show(v.Index(i))
	}
	return "[" + strings.Join(entries, ", ") + "]"
}

func address(s string) bool {
	if s == "" {
		return true
	}
	_, err := netip.ParseAddrPort(s)
	return err == nil
}

func hostPort(s string) bool {
	if s == "" {
		return true
	}
	host, port, err := net.SplitHostPort(s)
	n, portErr := strconv.ParseUint(port, 10, 16)
	return err == nil && portErr == nil && host != "" && n != 0
}
