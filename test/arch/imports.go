package arch

import (
	"go/ast"
	"slices"
	"strings"
)

// layers lists the packages from the top of the house to its ground. A package
// imports what stands below it, or its own subtree, and never up.
var layers = []string{"cmd/cri-box", "cmd/keeper", "cri", "sandbox", "sandbox/record", "network", "oci"}

// siblings lists the only imports between packages under oci.
var siblings = map[string]string{
	"oci/image":  "oci/snapshot",
	"oci/keeper": "oci/program",
}

// badNames are names that say nothing about what a package is.
var badNames = []string{"util", "utils", "common", "helper", "helpers", "types"}

type reporter = func(format string, args ...any)

// layer returns the index in layers of the longest entry that holds dir, or -1.
func layer(dir string) int {
	best := -1
	for i, l := range layers {
		if within(dir, l) && (best < 0 || len(l) > len(layers[best])) {
			best = i
		}
	}
	return best
}

func within(dir, parent string) bool {
	return dir == parent || strings.HasPrefix(dir, parent+"/")
}

// part returns the package directly under oci that holds dir ("oci/image" for
// "oci/image/unpack"), and "" for oci itself.
func part(dir string) string {
	parts := strings.SplitN(dir, "/", 3)
	if len(parts) < 2 || parts[0] != "oci" {
		return ""
	}
	return "oci/" + parts[1]
}

func checkImports(f *file, report reporter) {
	if f.product() && layer(f.dir) < 0 {
		report("%s: the directory %s has no place in the list of layers", f.path, f.dir)
	}
	f.imports(func(spec *ast.ImportSpec, importPath string) {
		target, ours := local(importPath)
		if !ours || supportDir(f.dir) {
			return
		}
		if why := forbidden(f, target); why != "" {
			report("%s imports %s: %s", f.at(spec.Pos()), importPath, why)
		}
	})
}

// forbidden says why a file may not import the package in target, or "".
func forbidden(f *file, target string) string {
	if f.dir == target || f.test && supportDir(target) {
		return ""
	}
	if supportDir(target) {
		return "product code does not import what exists for tests"
	}
	from, to := layer(f.dir), layer(target)
	switch {
	case from > to:
		return "imports point down, never up"
	case from == to && layers[from] == "oci":
		return forbiddenSibling(f, target)
	}
	return ""
}

// forbiddenSibling judges an import between two packages of oci. The root
// package may import all of them; a test may use a sibling to set its scene.
func forbiddenSibling(f *file, target string) string {
	from, to := part(f.dir), part(target)
	switch {
	case to == "":
		return "imports point down, never up"
	case from == "" || from == to || f.test || siblings[from] == to:
		return ""
	}
	return "packages under oci do not import each other"
}

// checkPackages looks at what only all files of a package tell together.
func checkPackages(files []*file, report reporter) {
	docs := map[string]int{}
	var dirs []string
	for _, f := range files {
		name := strings.TrimSuffix(f.ast.Name.Name, "_test")
		if slices.Contains(badNames, name) {
			report("%s: package %s: name it after what it is", f.path, name)
		}
		if f.test {
			continue
		}
		if !slices.Contains(dirs, f.dir) {
			dirs = append(dirs, f.dir)
		}
		if f.ast.Doc != nil {
			docs[f.dir]++
		}
	}
	for _, dir := range dirs {
		if docs[dir] != 1 {
			report("%s: the package has %d doc comments, wanted exactly one", dir, docs[dir])
		}
	}
}
