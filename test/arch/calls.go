package arch

import (
	"go/ast"
	"path"
	"strings"
)

// A ban forbids an imported name in product code, but for the listed packages.
type ban struct {
	name  string   // import path and name, such as "os.Create"
	why   string   // completes the message
	allow []string // directories that may, with the reason beside each
}

// starters are the packages that start a process other than a container's.
var starters = []string{
	"oci/keeper",       // serve starts the keeper, the keeper its spawner: this same binary
	"network/cni",      // plugins are programs
	"oci/image/verify", // so are image verifiers
	"oci/apparmor",     // apparmor_parser: the kernel takes compiled profiles only
}

var bans = []ban{
	{name: "os.Create", why: "it truncates what is there and follows links; use os.OpenFile with O_EXCL or an os.Root"},
	{name: "time.Sleep", why: "wait for what you are waiting for, with a bound"},
	{name: "os.StartProcess", why: "the product starts no programs", allow: starters},
	{name: "syscall.ForkExec", why: "the product starts no programs", allow: starters},
	{name: "syscall.StartProcess", why: "the product starts no programs", allow: starters},
	{name: "syscall.Mount", why: "mounts are made detached, by descriptor"},
	{name: "golang.org/x/sys/unix.Mount", why: "mounts are made detached, by descriptor", allow: []string{
		"network/netns", // the pin that CNI and inspectp name by path
		"oci/mount",     // kernels without lowerdir+: in a mount namespace that ends with its thread
	}},
}

// execImport is banned whole: whatever it is used for starts a program.
const execImport = "os/exec"

func checkCalls(f *file, report reporter) {
	if !f.product() {
		return
	}
	names := map[string]string{} // as written in the file → import path
	f.imports(func(spec *ast.ImportSpec, importPath string) {
		if importPath == execImport && !allowed(f.dir, starters) {
			report("%s imports %s: the product starts no programs", f.at(spec.Pos()), importPath)
		}
		name := path.Base(importPath)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = importPath
	})
	ast.Inspect(f.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && names[x.Name] != "" {
			checkBan(f, sel, names[x.Name]+"."+sel.Sel.Name, report)
		}
		return true
	})
}

func checkBan(f *file, n ast.Node, used string, report reporter) {
	for _, b := range bans {
		if used == b.name && !allowed(f.dir, b.allow) {
			report("%s uses %s: %s", f.at(n.Pos()), b.name, b.why)
		}
	}
}

func allowed(dir string, list []string) bool {
	for _, a := range list {
		if within(dir, a) {
			return true
		}
	}
	return false
}

// leftovers are the marks of unfinished work, in pieces so that this file has none.
var leftovers = []string{"TO" + "DO", "FIX" + "ME", "XX" + "X:"}

func checkWords(f *file, report reporter) {
	for _, group := range f.ast.Comments {
		for _, c := range group.List {
			for _, word := range leftovers {
				if strings.Contains(c.Text, word) {
					report("%s: a comment says %s: finish it or write an issue", f.at(c.Pos()), word)
				}
			}
		}
	}
}
