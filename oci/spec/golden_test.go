package spec

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// A golden file is a sentence on what it shows, then sections: the input in the
// form that crictl's files have, the image's files, the profile, and the spec.
// What input leaves out is as in testInput.
const (
	sectionInput   = "input"
	sectionPasswd  = "passwd"
	sectionGroup   = "group"
	sectionProfile = "profile"
	sectionSpec    = "spec"
)

func TestContainerGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".golden"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			before, want, _ := strings.Cut(string(raw), "-- "+sectionSpec+" --\n")
			in := readInput(t, before)
			if err := ValidateSandbox(in.Sandbox); err != nil {
				t.Fatal(err)
			}
			if err := ValidateContainer(in.Config, in.Sandbox); err != nil {
				t.Fatal(err)
			}
			s, err := Container(in)
			if err != nil {
				t.Fatal(err)
			}
			got := render(t, in, s)
			if *update {
				write(t, file, before+"-- "+sectionSpec+" --\n"+got)
			} else if got != want {
				t.Errorf("%s differs; go test -update rewrites it.\n%s", file, diff(want, got))
			}
		})
	}
}

// TestSeccompGolden shows the default profile as it comes from upstream, so that
// a new version of it is read before it is used.
func TestSeccompGolden(t *testing.T) {
	for _, c := range []struct {
		name, arch string
		caps       []string
	}{
		{"amd64", "amd64", defaultCapabilities},
		{"arm64", "arm64", defaultCapabilities},
		{"amd64-all-capabilities", "amd64", capabilityNames},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := testHost()
			host.Arch = c.arch
			p, err := resolveProfile(moby.DefaultProfile(), host, c.caps)
			if err != nil {
				t.Fatal(err)
			}
			file := "testdata/seccomp-" + c.name + ".txt"
			got := pretty(t, p)
			if *update {
				write(t, file, got)
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s differs; go test -update rewrites it.\n%s", file, diff(string(want), got))
			}
		})
	}
}

func readInput(t *testing.T, text string) Input {
	t.Helper()
	in := testInput()
	for name, body := range sections(text) {
		switch name {
		case sectionInput:
			d := json.NewDecoder(strings.NewReader(body))
			d.DisallowUnknownFields()
			if err := d.Decode(&in); err != nil {
				t.Fatalf("input: %v", err)
			}
		case sectionPasswd:
			in.Passwd = []byte(body)
		case sectionGroup:
			in.Group = []byte(body)
		case sectionProfile:
			in.SeccompProfile = []byte(body)
		default:
			t.Fatalf("no section is named %q", name)
		}
	}
	return in
}

func sections(text string) map[string]string {
	out := map[string]string{}
	name := ""
	for line := range strings.Lines(text) {
		if s, found := strings.CutPrefix(line, "-- "); found {
			name = strings.TrimSuffix(s, " --\n")
			out[name] = ""
		} else if name != "" {
			out[name] += line
		}
	}
	return out
}

// render prints the spec, with the default profile by its name.
func render(t *testing.T, in Input, s *specs.Spec) string {
	t.Helper()
	standard, err := resolveProfile(moby.DefaultProfile(), in.Host, s.Process.Capabilities.Bounding)
	if err != nil {
		t.Fatal(err)
	}
	shown, linux := *s, *s.Linux
	shown.Linux = &linux
	note := "seccomp: as above\n"
	switch {
	case linux.Seccomp == nil:
		note = "seccomp: none\n"
	case reflect.DeepEqual(linux.Seccomp, standard):
		note = "seccomp: the default profile for these capabilities\n"
		linux.Seccomp = nil
	}
	return pretty(t, shown) + note
}

// pretty prints JSON in the order of the fields, each value on one line that fits.
func pretty(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fold(t, &b, raw, "")
	return b.String() + "\n"
}

const width = 120

// fill prints many words, such as capabilities, as a paragraph.
func fill(b *strings.Builder, words []string, indent string) {
	column := width
	b.WriteString("[")
	for i, w := range words {
		text := strconv.Quote(w)
		if i < len(words)-1 {
			text += ","
		}
		if column+len(text) > width {
			b.WriteString("\n" + indent + "  ")
			column = len(indent) + 2
		}
		b.WriteString(text)
		column += len(text)
	}
	b.WriteString("\n" + indent + "]")
}

func fold(t *testing.T, b *strings.Builder, raw json.RawMessage, indent string) {
	t.Helper()
	if len(indent)+len(raw) <= width || raw[0] != '{' && raw[0] != '[' {
		b.Write(raw)
		return
	}
	var words []string
	if json.Unmarshal(raw, &words) == nil {
		fill(b, words, indent)
		return
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	open, err := d.Token()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(b, open)
	for first := true; d.More(); first = false {
		if !first {
			b.WriteString(",")
		}
		b.WriteString("\n" + indent + "  ")
		if open == json.Delim('{') {
			key, _ := d.Token()
			fmt.Fprintf(b, "%q: ", key)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			t.Fatal(err)
		}
		fold(t, b, value, indent+"  ")
	}
	end, _ := d.Token()
	fmt.Fprintf(b, "\n%s%v", indent, end)
}

// diff shows the lines that only one of the two has.
func diff(want, got string) string {
	var b strings.Builder
	only := func(sign, a, other string) {
		have := map[string]bool{}
		for line := range strings.Lines(other) {
			have[line] = true
		}
		for line := range strings.Lines(a) {
			if !have[line] {
				b.WriteString(sign + line)
			}
		}
	}
	only("- ", want, got)
	only("+ ", got, want)
	return b.String()
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
