package main

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// A module is one that is linked into the binary.
type module struct {
	Path, Version, Sum string
	licences           []licence
}

// A licence is a file of a module.
type licence struct{ name, text string }

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([.-].*)?$`)

// linked lists the modules in a binary, with the licences that came with each, and
// Go's own.
func linked(ctx context.Context, binary string) ([]module, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	root, err := output(ctx, nil, "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	std := module{Path: "std", Version: info.GoVersion}
	if std.licences, err = licences(strings.TrimSpace(root)); err != nil {
		return nil, err
	}
	list := []module{std}
	for _, dep := range info.Deps {
		m, err := moduleOf(ctx, dep)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b module) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

func moduleOf(ctx context.Context, dep *debug.Module) (module, error) {
	out, err := output(ctx, nil, "go", "list", "-m", "-f", "{{.Dir}}", dep.Path)
	if err != nil {
		return module{}, err
	}
	m := module{Path: dep.Path, Version: dep.Version, Sum: dep.Sum}
	if m.licences, err = licences(strings.TrimSpace(out)); err != nil {
		return m, err
	}
	if len(m.licences) == 0 {
		return m, fmt.Errorf("%s has no licence file", dep.Path)
	}
	return m, nil
}

func licences(dir string) (list []licence, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		list = append(list, licence{e.Name(), string(text)})
	}
	return list, nil
}

// writeNotices writes every licence once, with the modules that have it.
func writeNotices(path string, modules []module) error {
	var b strings.Builder
	b.WriteString("cri-box is licensed under the Apache License 2.0 (LICENSE). Linked into it are these modules, each under\nits own licence.\n")
	users, texts := map[string][]string{}, []string{}
	for _, m := range modules {
		for _, l := range m.licences {
			if users[l.text] == nil {
				texts = append(texts, l.text)
			}
			users[l.text] = append(users[l.text], fmt.Sprintf("%s %s (%s)", m.Path, m.Version, l.name))
		}
	}
	for _, text := range texts {
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s\n", strings.Repeat("=", 80), strings.Join(users[text], "\n"), strings.TrimSpace(text))
	}
	return write(path, b.String())
}

// sbom writes what is linked in as SPDX 2.3.
func (r *release) sbom(path, arch string, modules []module) error {
	type reference struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	type pkg struct {
		ID       string      `json:"SPDXID"`
		Name     string      `json:"name"`
		Version  string      `json:"versionInfo"`
		Location string      `json:"downloadLocation"`
		Files    bool        `json:"filesAnalyzed"`
		Comment  string      `json:"comment,omitempty"`
		Refs     []reference `json:"externalRefs,omitempty"`
	}
	type relation struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
	id := func(s string) string {
		return "SPDXRef-" + regexp.MustCompile(`[^A-Za-z0-9.-]`).ReplaceAllString(s, "-")
	}
	product := pkg{ID: id("cri-box"), Name: "cri-box", Version: r.version, Location: "https://github.com/cri-box/cri-box"}
	packages, relations := []pkg{product}, []relation{{"SPDXRef-DOCUMENT", "DESCRIBES", product.ID}}
	for _, m := range modules {
		p := pkg{ID: id(m.Path + "-" + m.Version), Name: m.Path, Version: m.Version, Location: "NOASSERTION", Comment: m.Sum,
			Refs: []reference{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + m.Path + "@" + m.Version}}}
		packages, relations = append(packages, p), append(relations, relation{product.ID, "DEPENDS_ON", p.ID})
	}
	name := "cri-box-" + r.version + "-linux-" + arch
	sum := sha256.Sum256(fmt.Append(nil, name, modules))
	text, err := json.MarshalIndent(map[string]any{
		"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": name,
		"documentNamespace": "https://github.com/cri-box/cri-box/sbom/" + name + "-" + hex.EncodeToString(sum[:8]),
		"creationInfo":      map[string]any{"created": r.date.Format(time.RFC3339), "creators": []string{"Tool: cri-box hack/release"}},
		"packages":          packages, "relationships": relations,
	}, "", "  ")
	if err != nil {
		return err
	}
	return write(path, string(text)+"\n")
}
