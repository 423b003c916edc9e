package config

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/network/routed"
	"github.com/cri-box/cri-box/oci/spec"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write the golden files")

// write makes a configuration file, and those of conf.d beside it.
func write(t *testing.T, text string, parts ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "conf.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config.toml")
	files := map[string]string{path: text}
	for i := 0; i < len(parts); i += 2 {
		files[filepath.Join(dir, "conf.d", parts[i])] = parts[i+1]
	}
	for name, body := range files {
		if err := os.WriteFile(name, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestDefaultText(t *testing.T) {
	var out bytes.Buffer
	if err := WriteDefault(&out); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "default.toml")
	if *update {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || !bytes.Equal(want, out.Bytes()) {
		t.Errorf("the default text is not that of %s (%v):\n%s", golden, err, out.Bytes())
	}
	// As printed it says nothing; with the settings uncommented it says the defaults.
	for _, text := range []string{out.String(), regexp.MustCompile(`(?m)^#(\w)`).ReplaceAllString(out.String(), "$1")} {
		c, _, err := Load(Source{Path: write(t, text)})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(c, New()) {
			t.Errorf("the default text reads as %+v\nwanted %+v", c, New())
		}
	}
}

// The packages below have defaults of their own for those who give none.
func TestDefaultsOfPackages(t *testing.T) {
	c, want := New(), spec.NewDefaults()
	var caps []string
	for _, name := range c.Container.Capabilities {
		caps = append(caps, Capability(name))
	}
	if !reflect.DeepEqual(caps, want.Capabilities) {
		t.Errorf("capabilities %v, oci/spec has %v", caps, want.Capabilities)
	}
	var limits []specs.POSIXRlimit
	for _, u := range c.Container.Ulimits {
		limits = append(limits, specs.POSIXRlimit(u))
	}
	if !reflect.DeepEqual(limits, want.Ulimits) {
		t.Errorf("ulimits %v, oci/spec has %v", limits, want.Ulimits)
	}
	if c.Container.Path != want.Path || c.Container.PidsLimit != want.PidsLimit {
		t.Errorf("path %q, pids_limit %d; oci/spec has %+v", c.Container.Path, c.Container.PidsLimit, want)
	}
	if c.Network.IPv4 != routed.DefaultIPv4 || c.Network.IPv6 != routed.DefaultIPv6 {
		t.Errorf("ranges %v, %v; network/routed has others", c.Network.IPv4, c.Network.IPv6)
	}
}

func TestEveryFieldIsExplained(t *testing.T) {
	for _, f := range fields(New()) {
		if f.help == "" || !f.table() && f.rule.words == "" {
			t.Errorf("%s: help %q, accepted %q", f.name, f.help, f.rule.words)
		}
	}
}

func TestLaterWins(t *testing.T) {
	path := write(t, "root = '/a'\n[image]\npinned = ['x/*']\nmax_concurrent_layers = 7\nlimits.bytes = '1GiB'\n",
		"20-b.toml", "root = '/c'\n[image]\npinned = []\n", "10-a.toml", "root = '/b'\n[log]\nlevel = 'warn'\n", "note.txt", "not TOML", ".10.toml", "neither")
	c, files, err := Load(Source{Path: path, Flags: []string{"state=/s", "image.stall_timeout=1m", "network.mtu=1400"}})
	if err != nil {
		t.Fatal(err)
	}
	want := New()
	want.Root, want.State, want.Log.Level = "/c", "/s", "warn"
	want.Image.MaxConcurrentLayers, want.Image.Limits.Bytes, want.Image.StallTimeout = 7, 1<<30, 60e9
	want.Network.MTU = 1400
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	dir := filepath.Dir(path)
	if want := []string{path, dir + "/conf.d/10-a.toml", dir + "/conf.d/20-b.toml"}; !reflect.DeepEqual(files, want) {
		t.Errorf("read %v, wanted %v", files, want)
	}
	if got := New().NeedRestart(c); !reflect.DeepEqual(got, []string{"root", "state", "image.max_concurrent_layers", "network.mtu"}) {
		t.Errorf("a restart is needed for %v", got)
	}
}

// Each wrong line is refused with its number, its setting and what is accepted.
func TestRefusals(t *testing.T) {
	for text, want := range map[string]string{
		"\n\nroot = 'var'": "config.toml:3: root: \"var\" is not accepted; accepted: an absolute path",
		"root = '/a/../b'": "config.toml:1: root: ",
		"root = 5":         "config.toml:1: root: it is a whole number, not a string in quotes; accepted: ",
		"rot = '/a'":       "config.toml:1: rot: there is no such setting; accepted: cgroup, container, image, listen, log, metrics, network, root, state, tracing",
		"listen = '/" + strings.Repeat("x", 107) + "'": "config.toml:1: listen: ",
		"log = 'debug'":                                   "config.toml:1: log: it is a string, not a table; accepted: [log] with format, level",
		"[log]\nlevel = 'loud'":                           "config.toml:2: log.level: \"loud\" is not accepted; accepted: \"debug\", \"info\", \"warn\", \"error\"",
		"[log]\n\nlevels = 'info'":                        "config.toml:3: log.levels: there is no such setting; accepted: format, level",
		"[logs]\nlevel = 'info'":                          "config.toml:1: logs: there is no such setting",
		"image.pinned = 'a'":                              "config.toml:1: image.pinned: it is a string, not a list in brackets; accepted: a list of names",
		"image = { pinned = [''] }":                       "config.toml:1: image.pinned: entry 1, \"\", is not accepted",
		"[image]\nmax_concurrent_layers = 65":             "config.toml:2: image.max_concurrent_layers: 65 is not accepted; accepted: a whole number from 1 to 64",
		"[image]\nmax_concurrent_layers = 1.5":            "it is a number with a fraction, not a whole number",
		"[image]\nstall_timeout = 30":                     "it is a whole number, not a time in quotes",
		"[image]\nstall_timeout = '2h'":                   "\"2h0m0s\" is not accepted; accepted: a time from 1s to 1h",
		"[image.limits]\nbytes = '1 lot'":                 "\"1 lot\" is not a size such as \"64MiB\"; accepted: a size from 1MiB to 16TiB",
		"[image.limits]\nbytes = '99999999999TiB'":        "is not a size",
		"[network]\nmode = 'bridge'":                      "config.toml:2: network.mode: \"bridge\" is not accepted; accepted: \"auto\", \"embedded\", \"cni\"",
		"[network]\nipv4 = 'fd00::/64'":                   "accepted: an IPv4 range",
		"[network]\nipv4 = '10.0.0.1/24'":                 "\"10.0.0.1/24\" is not accepted",
		"[network]\nipv4 = '10.0.0.0/31'":                 "network.ipv4",
		"[network]\nipv4 = ''\nipv6 = ''":                 "network.ipv4 and network.ipv6 are both empty",
		"[network]\nno_masquerade = ['10.0.0.0/8', '']":   "entry 2, \"\", is not accepted",
		"[network]\nno_masquerade = ['10.244.0.1/16']":    "entry 1, \"10.244.0.1/16\", is not accepted; accepted: a list of ranges such as",
		"[network.cni]\nbin_dirs = ['/opt', 'x']":         "config.toml:2: network.cni.bin_dirs: entry 2, \"x\", is not accepted; accepted: a list of absolute paths",
		"[container]\nulimits = ['nofiles=5']":            "entry 1: \"nofiles\" is none of as, core",
		"[container]\nulimits = ['nofile=5:4']":           "the soft limit is above the hard one",
		"[container]\nulimits = [\n 'nofile=x',\n]":       "config.toml:2: container.ulimits: entry 1: \"x\" is neither a number nor unlimited",
		"[container]\ncapabilities = ['NET_RAW', 'ROOT']": "entry 2, \"ROOT\", is not accepted; accepted: a list of names from capabilities(7)",
		"[container]\nmissing_bind_source = 'make'":       "accepted: \"error\", \"create\"",
		"[container]\npath = '/bin:bin'":                  "accepted: absolute paths with : between them",
		"root = '/a'\nstate = '/a'":                       "root and state are both /a",
		"root = '/a'\nstate = '/a/'":                      "root and state are both /a",
		"state = '/" + strings.Repeat("x", 94) + "'":      "state is /xxx",
		"root = \"/a\nstate = '/b'":                       "config.toml:1:",
		"root = '/a'\nroot = '/b'":                        "config.toml:2:",
		strings.Repeat("#", maxFile+1):                    "is larger than 1MiB",
	} {
		_, _, err := Load(Source{Path: write(t, text)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: error %v\nwanted one with %s", text, err, want)
		}
	}
}

func TestAllIsToldAtOnce(t *testing.T) {
	path := write(t, "rot = 1\n[log]\nlevel = 'x'\nformat = 'y'\n", "a.toml", "state = 1\n")
	_, _, err := Load(Source{Path: path, Flags: []string{"log.level=z"}})
	if err == nil {
		t.Fatal("nothing was refused")
	}
	var got []string
	for _, line := range strings.Split(err.Error(), "\n") {
		where, _, _ := strings.Cut(line, " ")
		got = append(got, filepath.Base(where))
	}
	if want := []string{"config.toml:1:", "config.toml:3:", "config.toml:4:", "a.toml:1:", "command"}; !reflect.DeepEqual(got, want) {
		t.Errorf("errors at %v, wanted %v:\n%v", got, want, err)
	}
}

// Values of flags are taken as they are, whatever TOML would make of them.
func TestFlagsAreText(t *testing.T) {
	for _, state := range []string{"/it's", `/a "b"`, `/a\b`, `/it's "b" \c`, "/#1", "/\u00e9"} {
		c, _, err := Load(Source{Path: write(t, ""), Flags: []string{"state=" + state}})
		if err != nil || c.State != state {
			t.Errorf("%q is read as %+v, %v", state, c, err)
		}
	}
	if _, _, err := Load(Source{Path: write(t, ""), Flags: []string{"state=/a\xff"}}); err == nil {
		t.Error("what is no text is taken")
	}
}

func TestMissingFile(t *testing.T) {
	_, _, err := Load(Source{Path: filepath.Join(t.TempDir(), "no.toml")})
	if err == nil || !strings.Contains(err.Error(), "no.toml: no such file") {
		t.Errorf("a named file that is not there: %v", err)
	}
}
