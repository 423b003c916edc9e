package program

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the expected parts of testdata/*.golden")

// A golden file is an input and the program that comes of it, as text: in full
// for amd64, and for arm64 the lines that differ.
const (
	inputMark = "-- input --\n"
	amd64Mark = "-- amd64 --\n"
	arm64Mark = "-- arm64, where it differs --\n"
)

type goldenInput struct {
	Container *ContainerInput `json:"container,omitempty"`
	Exec      *ExecInput      `json:"exec,omitempty"`
	Open      []TreeRequest   `json:"open,omitempty"`

	Namespaces *NamespacesInput `json:"namespaces,omitempty"`
	Init       *InitInput       `json:"init,omitempty"`
}

func (in goldenInput) compile(arch string) (*Program, error) {
	var err error
	switch {
	case in.Container != nil:
		c := *in.Container
		c.Arch = arch
		if c.Filter, err = CompileSeccomp(c.Spec.Linux.Seccomp, arch); err != nil {
			return nil, err
		}
		return Container(c)
	case in.Exec != nil:
		e := *in.Exec
		e.Arch = arch
		if e.Filter, err = CompileSeccomp(e.Spec.Linux.Seccomp, arch); err != nil {
			return nil, err
		}
		return Exec(e)
	case in.Namespaces != nil:
		n := *in.Namespaces
		n.Arch = arch
		return Namespaces(n)
	case in.Init != nil:
		i := *in.Init
		i.Arch = arch
		return Init(i)
	}
	return OpenTrees(arch, in.Open)
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(files) < 10 {
		t.Fatal(len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".golden"), func(t *testing.T) { testGolden(t, file) })
	}
}

func testGolden(t *testing.T, file string) {
	content := must[[]byte](t)(os.ReadFile(file))
	input, _, _ := strings.Cut(strings.TrimPrefix(string(content), inputMark), amd64Mark)
	var in goldenInput
	d := json.NewDecoder(strings.NewReader(input))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		t.Fatal(err)
	}
	text := map[string]string{}
	for _, arch := range []string{"amd64", "arm64"} {
		p, err := in.compile(arch)
		if err != nil {
			t.Fatal(err)
		}
		text[arch] = p.Text()
		if again, _ := in.compile(arch); again.Text() != text[arch] {
			t.Error("compiled again, the text differs")
		}
		if _, err := p.Encode(); err != nil {
			t.Error(err)
		}
		if cap(p.Ops) > containerRoom || len(p.Ops) > execRoom && cap(p.Ops) < containerRoom {
			t.Errorf("%d calls had too little room and have %d", len(p.Ops), cap(p.Ops))
		}
		if strings.Contains(text[arch], ", ,") || strings.Contains(text[arch], "(,") {
			t.Error("an argument has no text")
		}
	}
	got := inputMark + input + amd64Mark + text["amd64"] + arm64Mark + differences(text["amd64"], text["arm64"])
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(content, []byte(got)) {
		t.Errorf("it differs from %s (go test -update rewrites that):\n%s", file, differences(string(content), got))
	}
}

// differences gives the lines of b that are not at the same place in a.
func differences(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	out := ""
	for i, line := range lb {
		if i >= len(la) || la[i] != line {
			out += line + "\n"
		}
	}
	return out
}
