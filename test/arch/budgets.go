package arch

import (
	"go/ast"
)

// The longest and widest that code may be. There are no exceptions: split by
// meaning instead.
const (
	maxFileLines    = 500
	maxFuncLines    = 80
	maxParams       = 5
	maxStructFields = 15
)

func checkBudgets(f *file, report reporter) {
	if f.test || f.gen {
		return
	}
	if f.lines > maxFileLines {
		report("%s: %d lines, at most %d", f.path, f.lines, maxFileLines)
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			checkFunc(f, n, report)
		case *ast.FuncType:
			if got := countParams(n.Params); got > maxParams {
				report("%s: %d parameters, at most %d", f.at(n.Pos()), got, maxParams)
			}
		case *ast.StructType:
			if got := n.Fields.NumFields(); got > maxStructFields {
				report("%s: %d struct fields, at most %d", f.at(n.Pos()), got, maxStructFields)
			}
		}
		return true
	})
}

// countParams leaves out those named _: a foreign interface asks for them, and
// nobody has to keep them in mind.
func countParams(list *ast.FieldList) int {
	n := list.NumFields()
	for _, field := range list.List {
		for _, name := range field.Names {
			if name.Name == "_" {
				n--
			}
		}
	}
	return n
}

func checkFunc(f *file, fn *ast.FuncDecl, report reporter) {
	first, last := f.fset.Position(fn.Pos()).Line, f.fset.Position(fn.End()).Line
	if got := last - first + 1; got > maxFuncLines {
		report("%s: function %s has %d lines, at most %d", f.at(fn.Pos()), fn.Name.Name, got, maxFuncLines)
	}
}
