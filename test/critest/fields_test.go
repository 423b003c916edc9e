package critest_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fields.txt says for each RPC and each field of a request which test proves it:
//
//	rpc RunPodSandbox                critest.TestHostname
//	PodSandboxConfig.hostname        critest.TestHostname
//	CDIDevice.name                   refused pods.TestRefusedFields
//	rpc RestorePod                   unimplemented critest.TestCheckpointIsWholeOrRefused
//
// docs/cri.md is made from it: go test ./test/critest -run TestEveryField -update
const (
	fieldsFile = "fields.txt"
	docFile    = "../../docs/cri.md"
)

var update = flag.Bool("update", false, "write docs/cri.md and docs/conformance.md anew")

// An entry is a line of fields.txt.
type entry struct {
	name    string // "rpc Version" or "Mount.readonly"
	verdict string // "", "refused" or "unimplemented"
	test    string // "critest.TestVersion"
	note    string
}

func readEntries(t *testing.T) map[string]entry {
	t.Helper()
	text, err := os.ReadFile(fieldsFile)
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]entry{}
	for line := range strings.Lines(string(text)) {
		body, note, _ := strings.Cut(strings.TrimSpace(line), " # ")
		f := strings.Fields(body)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		e := entry{name: f[0], note: strings.TrimSpace(note)}
		if f = f[1:]; e.name == "rpc" {
			e.name, f = "rpc "+f[0], f[1:]
		}
		if len(f) == 2 {
			e.verdict, f = f[0], f[1:]
		}
		if len(f) != 1 || entries[e.name].name != "" || e.verdict != "" && e.verdict != "refused" && e.verdict != "unimplemented" {
			t.Fatalf("%s: cannot read %q, or it is there twice", fieldsFile, line)
		}
		e.test = f[0]
		entries[e.name] = e
	}
	return entries
}

// A thing is what fields.txt has to say something about.
type thing struct{ name, kind string }

// everything walks over both services: each RPC with its requests' fields, a
// message once. Below a field that is refused there is nothing to set.
func everything(entries map[string]entry) []thing {
	var out []thing
	seen := map[protoreflect.FullName]bool{}
	var walk func(m protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		var below []protoreflect.MessageDescriptor
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			name := fmt.Sprintf("%s.%s", m.Name(), f.Name())
			out = append(out, thing{name, kindOf(f)})
			if f.Message() != nil && !f.IsMap() && entries[name].verdict == "" {
				below = append(below, f.Message())
			}
		}
		for _, m := range below {
			walk(m)
		}
	}
	services := runtimeapi.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			m := services.Get(i).Methods().Get(j)
			out = append(out, thing{"rpc " + string(m.Name()), string(services.Get(i).Name())})
			walk(m.Input())
		}
	}
	return out
}

func kindOf(f protoreflect.FieldDescriptor) string {
	kind := f.Kind().String()
	switch {
	case f.IsMap():
		return "map"
	case f.Message() != nil:
		kind = string(f.Message().Name())
	case f.Enum() != nil:
		kind = string(f.Enum().Name())
	}
	if f.IsList() {
		return "list of " + kind
	}
	return kind
}

// A part is a function, a variable or a type of a test package.
type part struct {
	sets map[string]bool // fields that get a value other than the zero value, and what is called
	uses map[string]bool // every name in it: what else it reaches
}

func newPart() part { return part{map[string]bool{}, map[string]bool{}} }

// findParts parses the tests of a package by its name: pods, stats, or a path
// such as oci/image. Methods of one name are one part.
func findParts(t *testing.T, dir string) map[string]part {
	t.Helper()
	path := filepath.Join("..", dir)
	if strings.Contains(dir, "/") {
		path = filepath.Join("../..", dir)
	}
	files, err := filepath.Glob(filepath.Join(path, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]part{}
	for _, name := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				addPart(parts, d.Name.Name, d)
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if v, ok := s.(*ast.ValueSpec); ok {
						addPart(parts, v.Names[0].Name, v)
					}
				}
			}
		}
	}
	return parts
}

func addPart(parts map[string]part, name string, body ast.Node) {
	p, ok := parts[name]
	if !ok {
		p = newPart()
		parts[name] = p
	}
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Ident:
			p.uses[n.Name] = true
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.SelectorExpr); ok {
				p.sets[f.Sel.Name] = true
			}
		case *ast.CompositeLit:
			for _, e := range n.Elts {
				if kv, ok := e.(*ast.KeyValueExpr); ok && !isZero(kv.Value) {
					p.setsField(kv.Key)
				}
			}
		case *ast.AssignStmt:
			for i, to := range n.Lhs {
				if f, ok := to.(*ast.SelectorExpr); ok && (len(n.Rhs) != len(n.Lhs) || !isZero(n.Rhs[i])) {
					p.setsField(f.Sel)
				}
			}
		}
		return true
	})
}

func (p part) setsField(name ast.Expr) {
	if id, ok := name.(*ast.Ident); ok {
		p.sets[id.Name] = true
	}
}

func isZero(value ast.Expr) bool {
	switch v := value.(type) {
	case *ast.Ident:
		return v.Name == "nil" || v.Name == "false"
	case *ast.BasicLit:
		return v.Value == "0" || v.Value == `""`
	}
	return false
}

// reached is what a test sets and calls, by itself and by what it uses.
func reached(parts map[string]part, test string) map[string]bool {
	sets := map[string]bool{}
	seen := map[string]bool{test: true}
	for next := []string{test}; len(next) > 0; {
		p := parts[next[0]]
		next = next[1:]
		maps.Copy(sets, p.sets)
		for name := range p.uses {
			if _, ok := parts[name]; ok && !seen[name] {
				seen[name] = true
				next = append(next, name)
			}
		}
	}
	return sets
}

// goName is the field's name in Go: cpu_period is CpuPeriod.
func goName(name string) string {
	_, name, found := strings.Cut(name, ".")
	if !found {
		return ""
	}
	var out strings.Builder
	for part := range strings.SplitSeq(name, "_") {
		out.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return out.String()
}

// TestEveryField fails for an RPC or a field without a test that exists and
// calls or sets it, or without a refusal that a test sees.
func TestEveryField(t *testing.T) {
	entries := readEntries(t)
	things := everything(entries)
	packages := map[string]map[string]part{}
	known := map[string]bool{}
	for _, thing := range things {
		known[thing.name] = true
		e, ok := entries[thing.name]
		if !ok {
			t.Errorf("%s: %s has no line", fieldsFile, thing.name)
			continue
		}
		dot := strings.LastIndex(e.test, ".")
		dir, test := e.test[:max(dot, 0)], e.test[dot+1:]
		if packages[dir] == nil {
			packages[dir] = findParts(t, dir)
		}
		if _, ok := packages[dir][test]; !ok || !strings.HasPrefix(test, "Test") {
			t.Errorf("%s: %s: there is no test %s", fieldsFile, thing.name, e.test)
			continue
		}
		word, isRPC := strings.CutPrefix(thing.name, "rpc ")
		if !isRPC {
			word = goName(thing.name)
		}
		if !reached(packages[dir], test)[word] {
			t.Errorf("%s: %s: %s gives %s no value", fieldsFile, thing.name, e.test, word)
		}
	}
	for name := range entries {
		if !known[name] {
			t.Errorf("%s: there is no %s", fieldsFile, name)
		}
	}
	if !t.Failed() {
		checkDoc(t, docFile, "TestEveryField", document(things, entries))
	}
}

func checkDoc(t *testing.T, file, by, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != want {
		t.Errorf("%s is not what %s makes (%v); go test ./test/critest -run %s -update writes it", file, by, err, by)
	}
}

// document is the table that people read.
func document(things []thing, entries map[string]entry) string {
	var b strings.Builder
	count := map[string]int{}
	for _, thing := range things {
		kind := "fields"
		if strings.HasPrefix(thing.name, "rpc ") {
			kind = "RPCs"
		}
		count[kind]++
		if v := entries[thing.name].verdict; v != "" {
			count[kind+v]++
		}
	}
	fmt.Fprintf(&b, `# What cri-box does of the CRI, RPC by RPC and field by field

Made from test/critest/fields.txt by a walk over the protobuf descriptors of
k8s.io/cri-api; a test fails when an RPC or a field of a request is missing here.
Each line names the test that sets it and sees its effect, or sees it refused by
name. Tests are below test/ unless a path is given.

%d RPCs, of which %d answer Unimplemented; %d fields, of which %d are refused by name.
`, count["RPCs"], count["RPCsunimplemented"], count["fields"], count["fieldsrefused"]+count["fieldsunimplemented"])
	last := ""
	for _, thing := range things {
		e := entries[thing.name]
		head, name, found := strings.Cut(thing.name, ".")
		if !found {
			head, name = "", strings.TrimPrefix(thing.name, "rpc ")
			fmt.Fprintf(&b, "\n## %s.%s\n\n%s%s%s\n", thing.kind, name, verdict(e), e.test, note(e))
			last = ""
			continue
		}
		if head != last {
			fmt.Fprintf(&b, "\n| %s | | test |\n|---|---|---|\n", head)
			last = head
		}
		fmt.Fprintf(&b, "| %s | %s | %s%s%s |\n", name, thing.kind, verdict(e), e.test, note(e))
	}
	return b.String()
}

func verdict(e entry) string {
	if e.verdict == "" {
		return ""
	}
	return "**" + e.verdict + "**: "
}

func note(e entry) string {
	if e.note == "" {
		return ""
	}
	return "; " + e.note
}
