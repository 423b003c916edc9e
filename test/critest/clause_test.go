package critest_test

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestClausesAreTheAPIs: what the tests quote stands in api.proto, word for word.
func TestClausesAreTheAPIs(t *testing.T) {
	api := flat(readAPI(t))
	count := 0
	for _, f := range testFunctions(t) {
		ast.Inspect(f, func(n ast.Node) bool {
			text, ok := quoted(t, n)
			if !ok {
				return true
			}
			if count++; !strings.Contains(api, flat(text)) {
				t.Errorf("%s: api.proto does not say %q", f.Name.Name, text)
			}
			return true
		})
	}
	if count < 40 {
		t.Errorf("only %d quotes were found", count)
	}
}

// testFunctions parses the tests of this package.
func testFunctions(t *testing.T) (functions []*ast.FuncDecl) {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Test") {
				functions = append(functions, f)
			}
		}
	}
	return functions
}

// quoted gives the text of a call of clause.
func quoted(t *testing.T, n ast.Node) (text string, ok bool) {
	t.Helper()
	call, ok := n.(*ast.CallExpr)
	if !ok || len(call.Args) != 2 {
		return "", false
	}
	if f, ok := call.Fun.(*ast.Ident); !ok || f.Name != "clause" {
		return "", false
	}
	text, err := strconv.Unquote(call.Args[1].(*ast.BasicLit).Value)
	if err != nil {
		t.Fatal(err)
	}
	return text, true
}

// flat takes comment marks and line ends away.
func flat(text string) string {
	return strings.Join(strings.Fields(regexp.MustCompile(`(?m)^\s*//`).ReplaceAllString(text, "")), " ")
}

// readAPI reads api.proto of the version in go.mod from the module cache.
func readAPI(t *testing.T) string {
	t.Helper()
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`k8s.io/cri-api (v\S+)`).FindStringSubmatch(string(mod))
	if version == nil {
		t.Fatal("go.mod has no k8s.io/cri-api")
	}
	cache := os.Getenv("GOMODCACHE")
	if cache == "" {
		cache = filepath.Join(build.Default.GOPATH, "pkg", "mod")
	}
	text, err := os.ReadFile(filepath.Join(cache, "k8s.io", "cri-api@"+version[1], "pkg/apis/runtime/v1/api.proto"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
