package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"golang.org/x/sys/unix"
)

// maxFile is the largest configuration file that is read, in bytes.
const maxFile = 1 << 20

// A Source is where a configuration comes from.
type Source struct {
	// Path is the file; empty stands for Default, which need not exist. Files in
	// conf.d beside it that end in .toml come after it, in the order of their names.
	Path string
	// Flags are settings from the command line, "key=value". They come last.
	Flags []string
}

// Load reads a configuration whole: defaults, file, conf.d, flags. What comes
// later wins, setting by setting. All that is wrong is in the error, a line for
// each, with file and line. files are those that were read.
func Load(src Source) (c *Config, files []string, err error) {
	c = New()
	texts, err := src.read()
	if err != nil {
		return nil, nil, err
	}
	var wrong []error
	for _, t := range texts {
		wrong = append(wrong, t.apply(c)...)
		files = append(files, t.name)
	}
	for _, flag := range src.Flags {
		wrong = append(wrong, flagText(flag).apply(c)...)
	}
	wrong = append(wrong, c.agree()...)
	if len(wrong) > 0 {
		return nil, files, errors.Join(wrong...)
	}
	return c, files, nil
}

// New returns the configuration of a node without any.
func New() *Config {
	c := &Config{}
	for _, f := range fields(c) {
		if f.table() {
			continue
		}
		t := document{name: "default of " + f.name, body: []byte("x = " + f.def)}
		raw, err := t.parse()
		if err == nil {
			err = f.set(raw["x"])
		}
		if err != nil {
			panic(fmt.Sprintf("config: %s: %v", t.name, err))
		}
	}
	return c
}

// agree checks what no setting can check alone.
func (c *Config) agree() (wrong []error) {
	if !c.Network.IPv4.IsValid() && !c.Network.IPv6.IsValid() {
		wrong = append(wrong, errors.New("network.ipv4 and network.ipv6 are both empty: pods need an address of one family at least"))
	}
	if filepath.Clean(c.Root) == filepath.Clean(c.State) {
		wrong = append(wrong, fmt.Errorf("root and state are both %s: what ends with the boot needs a directory of its own", c.Root))
	}
	if socket := filepath.Join(c.State, socketName); !socketPath(socket) {
		wrong = append(wrong, fmt.Errorf("state is %s: sockets are made in it, and the path of one has at most 107 bytes (unix(7)), not the %d of %s", c.State, len(socket), socket))
	}
	return wrong
}

// read reads the files of a source.
func (src Source) read() ([]document, error) {
	main := src.Path
	if main == "" {
		main = Default
	}
	var list []document
	t, err := readText(main)
	switch {
	case err == nil:
		list = append(list, t)
	case src.Path != "" || !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	dir := filepath.Join(filepath.Dir(main), "conf.d")
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".toml") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		t, err := readText(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("cannot read configuration: %w", err)
		}
		list = append(list, t)
	}
	return list, nil
}

// A document is one piece of TOML and where it is from.
type document struct {
	name string
	body []byte
	flag bool // from the command line: it has no lines
}

func readText(path string) (document, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not hold us
	if err != nil {
		return document{}, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return document{}, errors.Join(fmt.Errorf("%s is not a regular file", path), err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return document{}, err
	}
	if len(b) > maxFile {
		return document{}, fmt.Errorf("%s is larger than %s", path, Size(maxFile))
	}
	return document{name: path, body: b}, nil
}

// flagText makes TOML of "key=value"; a value that is none is taken as a string.
func flagText(flag string) document {
	key, value, _ := strings.Cut(flag, "=")
	t := document{name: "command line", body: []byte(key + " = " + value), flag: true}
	if _, err := t.parse(); err != nil {
		t.body = []byte(key + ` = "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`)
	}
	return t
}

func (t document) parse() (map[string]any, error) {
	var raw map[string]any
	err := toml.Unmarshal(t.body, &raw)
	var at *toml.DecodeError
	if errors.As(err, &at) {
		line, column := at.Position()
		return nil, fmt.Errorf("%s:%d:%d: it is not TOML: %s", t.name, line, column, strings.TrimPrefix(at.Error(), "toml: "))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: it is not TOML: %w", t.name, err)
	}
	return raw, nil
}

// apply puts the settings of the text into c and lists what is wrong with them,
// in the order of lines.
func (t document) apply(c *Config) (wrong []error) {
	raw, err := t.parse()
	if err != nil {
		return []error{err}
	}
	known := map[string]*field{}
	for _, f := range fields(c) {
		known[f.name] = f
	}
	lines := t.lines()
	type finding struct {
		line int
		err  error
	}
	var found []finding
	visit(raw, "", known, func(name string, value any, err error) {
		if err == nil {
			err = known[name].judge(value)
		}
		if err == nil {
			return
		}
		where := t.name
		if !t.flag {
			where = fmt.Sprintf("%s:%d", t.name, lines[name])
		}
		found = append(found, finding{lines[name], fmt.Errorf("%s: %s: %w", where, name, err)})
	})
	slices.SortStableFunc(found, func(a, b finding) int { return a.line - b.line })
	for _, f := range found {
		wrong = append(wrong, f.err)
	}
	return wrong
}

// judge sets the field, or says what is wrong and what would be right.
func (f *field) judge(value any) error {
	if err := f.set(value); err != nil {
		return fmt.Errorf("%w; accepted: %s", err, f.rule.words)
	}
	return nil
}

// visit calls fn for each setting of a table, with an error for what is none.
func visit(table map[string]any, prefix string, known map[string]*field, fn func(name string, value any, err error)) {
	for key, value := range table {
		name := prefix + key
		f := known[name]
		inner, isTable := value.(map[string]any)
		switch {
		case f == nil:
			fn(name, value, fmt.Errorf("there is no such setting; accepted: %s", strings.Join(keysBelow(prefix, known), ", ")))
		case f.table() && isTable:
			visit(inner, name+".", known, fn)
		case f.table():
			fn(name, value, fmt.Errorf("it is %s, not a table; accepted: [%s] with %s", kindOf(value), name, strings.Join(keysBelow(name+".", known), ", ")))
		default:
			fn(name, value, nil)
		}
	}
}

// keysBelow lists the keys of a table.
func keysBelow(prefix string, known map[string]*field) []string {
	var keys []string
	for name := range known {
		if key, ok := strings.CutPrefix(name, prefix); ok && !strings.Contains(key, ".") {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// lines finds the line of each key and table by its dotted name; keys in an
// inline table have that of the table.
func (t document) lines() map[string]int {
	lines := map[string]int{}
	p := unstable.Parser{}
	p.Reset(t.body)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		name, line := "", 0
		for it := e.Key(); it.Next(); {
			part := it.Node()
			name += "." + string(part.Data)
			line = p.Shape(part.Raw).Start.Line
		}
		name = strings.TrimPrefix(name, ".")
		if e.Kind == unstable.KeyValue {
			name = strings.TrimPrefix(table+"."+name, ".")
			inlineLines(lines, name, e.Value(), line)
		} else {
			table = name
		}
		for part := name; lines[part] == 0; part = parent(part) {
			lines[part] = line
			if parent(part) == part {
				break
			}
		}
	}
	return lines
}

func parent(name string) string {
	if at := strings.LastIndexByte(name, '.'); at >= 0 {
		return name[:at]
	}
	return name
}

func inlineLines(lines map[string]int, prefix string, value *unstable.Node, line int) {
	if value.Kind != unstable.InlineTable {
		return
	}
	for it := value.Children(); it.Next(); {
		name := prefix
		for keys := it.Node().Key(); keys.Next(); {
			name += "." + string(keys.Node().Data)
		}
		lines[name] = line
		inlineLines(lines, name, it.Node().Value(), line)
	}
}
