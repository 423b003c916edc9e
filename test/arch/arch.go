// Package arch checks the shape of the source tree: who imports whom, how long
// things may grow, and which calls the product never makes.
//
// It parses the files with go/parser. A check that asked `go list` would be
// cached as passed by go test.
package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Module is the import path that the tree's own packages begin with.
const Module = "github.com/cri-box/cri-box"

// A file is one parsed Go file.
type file struct {
	path  string // slash-separated, relative to the tree
	dir   string // the package's directory, "." for the root
	ast   *ast.File
	fset  *token.FileSet
	test  bool // ends in _test.go
	gen   bool // generated
	lines int
}

// product says whether the file is part of what is shipped: tests, the packages
// under test and hack and packages named ...test are not.
func (f *file) product() bool { return !f.test && !supportDir(f.dir) }

// at names a position for a message.
func (f *file) at(p token.Pos) string {
	return fmt.Sprintf("%s:%d", f.path, f.fset.Position(p).Line)
}

// imports calls fn for each import of the file.
func (f *file) imports(fn func(spec *ast.ImportSpec, importPath string)) {
	for _, spec := range f.ast.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			fn(spec, p)
		}
	}
}

// local returns the directory of one of the tree's own packages.
func local(importPath string) (dir string, ok bool) {
	if importPath == Module {
		return ".", true
	}
	return strings.CutPrefix(importPath, Module+"/")
}

// supportDir says whether a package exists for tests and development only.
func supportDir(dir string) bool {
	top, _, _ := strings.Cut(dir, "/")
	return top == "test" || top == "hack" || strings.HasSuffix(path.Base(dir), "test")
}

// Check returns one line for each violation in the tree below root, sorted.
func Check(root string) ([]string, error) {
	files, err := parse(root)
	if err != nil {
		return nil, err
	}
	var found []string
	report := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	for _, f := range files {
		checkImports(f, report)
		checkBudgets(f, report)
		checkCalls(f, report)
		checkWords(f, report)
	}
	checkPackages(files, report)
	slices.Sort(found)
	return found, nil
}

// parse reads every Go file below root, leaving out testdata and what begins
// with a dot or an underscore, as the go command does.
func parse(root string) ([]*file, error) {
	var files []*file
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		hidden := base[0] == '.' || base[0] == '_' || base == "testdata"
		if d.IsDir() && hidden && name != root {
			return filepath.SkipDir
		}
		if d.IsDir() || hidden || !strings.HasSuffix(base, ".go") {
			return nil
		}
		f, err := parseFile(root, name)
		if err != nil {
			return fmt.Errorf("cannot parse %s: %w", name, err)
		}
		files = append(files, f)
		return nil
	})
	return files, err
}

func parseFile(root, name string) (*file, error) {
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	rel, err := filepath.Rel(root, name)
	if err != nil {
		return nil, err
	}
	rel = filepath.ToSlash(rel)
	return &file{
		path:  rel,
		dir:   path.Dir(rel),
		ast:   parsed,
		fset:  fset,
		test:  strings.HasSuffix(rel, "_test.go"),
		gen:   ast.IsGenerated(parsed),
		lines: fset.File(parsed.FileStart).LineCount(),
	}, nil
}
