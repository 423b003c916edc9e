package arch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTree(t *testing.T) {
	found, err := Check("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range found {
		t.Error(line)
	}
}

// A small tree that keeps every rule.
var sound = map[string]string{
	"cmd/cri-box/main.go":        "// Command cri-box is it.\npackage main\n\nimport _ \"" + Module + "/cri\"\n",
	"cri/server.go":              "// Package cri is it.\npackage cri\n\nimport _ \"" + Module + "/sandbox\"\n",
	"sandbox/pod.go":             "// Package sandbox is it.\npackage sandbox\n\nimport (\n_ \"" + Module + "/network\"\n_ \"" + Module + "/sandbox/record\"\n_ \"" + Module + "/oci/spec\"\n)\n",
	"sandbox/record/record.go":   "// Package record is it.\npackage record\n",
	"network/network.go":         "// Package network is it.\npackage network\n",
	"network/cni/cni.go":         "// Package cni is it.\npackage cni\n\nimport _ \"os/exec\"\n",
	"oci/runtime.go":             "// Package oci is it.\npackage oci\n\nimport _ \"" + Module + "/oci/keeper\"\n",
	"oci/spec/spec.go":           "// Package spec is it.\npackage spec\n",
	"oci/keeper/keeper.go":       "// Package keeper is it.\npackage keeper\n\nimport _ \"" + Module + "/oci/program\"\n",
	"oci/keeper/keeper_test.go":  "package keeper\n\nimport (\n\"time\"\n_ \"" + Module + "/oci/spec\"\n_ \"" + Module + "/test/harness\"\n)\n\nfunc f() { time.Sleep(1) }\n",
	"oci/program/program.go":     "// Package program is it.\npackage program\n",
	"oci/snapshot/snapshot.go":   "// Package snapshot is it.\npackage snapshot\n",
	"oci/image/image.go":         "// Package image is it.\npackage image\n\nimport _ \"" + Module + "/oci/snapshot\"\n",
	"oci/image/imagetest/img.go": "// Package imagetest is it.\npackage imagetest\n\nimport _ \"" + Module + "/oci/image\"\n",
	"test/harness/harness.go":    "// Package harness is it.\npackage harness\n\nimport _ \"" + Module + "/cri\"\n",
	"oci/testdata/bad.go":        "package util\n",
}

// Each case breaks one rule in the sound tree and names what must be reported.
var broken = []struct{ name, path, text, want string }{
	{"import up", "network/up.go", "package network\n\nimport _ \"" + Module + "/sandbox\"\n",
		"network/up.go:3 imports " + Module + "/sandbox: imports point down, never up"},
	{"test imports up", "network/up_test.go", "package network_test\n\nimport _ \"" + Module + "/cri\"\n",
		"network/up_test.go:3 imports " + Module + "/cri: imports point down, never up"},
	{"record imports sandbox", "sandbox/record/up.go", "package record\n\nimport _ \"" + Module + "/sandbox\"\n",
		"sandbox/record/up.go:3 imports " + Module + "/sandbox: imports point down, never up"},
	{"part imports oci", "oci/spec/up.go", "package spec\n\nimport _ \"" + Module + "/oci\"\n",
		"oci/spec/up.go:3 imports " + Module + "/oci: imports point down, never up"},
	{"sibling", "oci/spec/side.go", "package spec\n\nimport _ \"" + Module + "/oci/program\"\n",
		"oci/spec/side.go:3 imports " + Module + "/oci/program: packages under oci do not import each other"},
	{"sibling backwards", "oci/snapshot/side.go", "package snapshot\n\nimport _ \"" + Module + "/oci/image\"\n",
		"oci/snapshot/side.go:3 imports " + Module + "/oci/image: packages under oci do not import each other"},
	{"product imports a test package", "oci/side.go", "package oci\n\nimport _ \"" + Module + "/oci/image/imagetest\"\n",
		"oci/side.go:3 imports " + Module + "/oci/image/imagetest: product code does not import what exists for tests"},
	{"unknown place", "pkg/x/x.go", "// Package x is it.\npackage x\n",
		"pkg/x/x.go: the directory pkg/x has no place in the list of layers"},
	{"name", "oci/util/x.go", "// Package util is it.\npackage util\n",
		"oci/util/x.go: package util: name it after what it is"},
	{"no doc", "cri/stream/x.go", "package stream\n",
		"cri/stream: the package has 0 doc comments, wanted exactly one"},
	{"two docs", "cri/x.go", "// Package cri is that.\npackage cri\n",
		"cri: the package has 2 doc comments, wanted exactly one"},
	{"long file", "cri/x.go", "package cri\n" + strings.Repeat("\n", 500),
		"cri/x.go: 501 lines, at most 500"},
	{"long function", "cri/x.go", "package cri\n\nfunc f() {\n" + strings.Repeat("\n", 80) + "}\n",
		"cri/x.go:3: function f has 82 lines, at most 80"},
	{"parameters", "cri/x.go", "package cri\n\nfunc f(a, b, c int, d, e, f string) {}\n",
		"cri/x.go:3: 6 parameters, at most 5"},
	{"parameters of a method in an interface", "cri/x.go", "package cri\n\ntype i interface {\n\tf(a, b, c, d, e, f int)\n}\n",
		"cri/x.go:4: 6 parameters, at most 5"},
	{"fields", "cri/x.go", "package cri\n\ntype s struct {\n\ta, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p int\n}\n",
		"cri/x.go:3: 16 struct fields, at most 15"},
	{"create", "cri/x.go", "package cri\n\nimport \"os\"\n\nvar f = os.Create\n",
		"cri/x.go:5 uses os.Create: it truncates what is there and follows links; use os.OpenFile with O_EXCL or an os.Root"},
	{"sleep under another name", "cri/x.go", "package cri\n\nimport t \"time\"\n\nfunc f() { t.Sleep(1) }\n",
		"cri/x.go:5 uses time.Sleep: wait for what you are waiting for, with a bound"},
	{"mount", "cri/x.go", "package cri\n\nimport \"golang.org/x/sys/unix\"\n\nvar f = unix.Mount\n",
		"cri/x.go:5 uses golang.org/x/sys/unix.Mount: mounts are made detached, by descriptor"},
	{"exec", "cri/x.go", "package cri\n\nimport _ \"os/exec\"\n",
		"cri/x.go:3 imports os/exec: the product starts no programs"},
	{"start", "cri/x.go", "package cri\n\nimport \"os\"\n\nvar f = os.StartProcess\n",
		"cri/x.go:5 uses os.StartProcess: the product starts no programs"},
	{"leftover", "cri/x_test.go", "package cri\n\n// TO" + "DO: later\n",
		"cri/x_test.go:3: a comment says TO" + "DO: finish it or write an issue"},
}

func TestRulesBite(t *testing.T) {
	if found := check(t, "", ""); len(found) != 0 {
		t.Fatalf("the sound tree has violations: %q", found)
	}
	for _, c := range broken {
		t.Run(c.name, func(t *testing.T) {
			found := check(t, c.path, c.text)
			if len(found) != 1 || found[0] != c.want {
				t.Errorf("got  %q\nwant %q", found, c.want)
			}
		})
	}
}

// check writes the sound tree with one more file and checks it.
func check(t *testing.T, name, text string) []string {
	t.Helper()
	root := t.TempDir()
	write := func(name, text string) {
		full := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for n, body := range sound {
		write(n, body)
	}
	if name != "" {
		write(name, text)
	}
	found, err := Check(root)
	if err != nil {
		t.Fatal(fmt.Errorf("cannot check the fixture: %w", err))
	}
	return found
}
