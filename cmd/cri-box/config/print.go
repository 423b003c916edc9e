package config

import (
	"fmt"
	"io"
	"strings"
)

// width is where lines of comment are broken.
const width = 78

// WriteDefault writes the configuration of a node without any, each setting with
// its meaning and what is accepted. The settings are commented out: a file made
// of it follows the defaults of later versions but for what was changed in it.
func WriteDefault(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# The configuration of cri-box. Each line that begins with #name shows a\n")
	b.WriteString("# setting with its default; take the # away to change it. Files in conf.d\n")
	b.WriteString("# beside this one that end in .toml come after it. `cri-box config check FILE`\n")
	b.WriteString("# judges a file. (live): `kill -HUP` of the daemon puts a change into effect.\n")
	for _, f := range fields(New()) {
		b.WriteString("\n")
		if f.table() {
			comment(&b, f.help)
			fmt.Fprintf(&b, "[%s]\n", f.name)
			continue
		}
		live := ""
		if f.live {
			live = " (live)"
		}
		comment(&b, f.help+live)
		comment(&b, "Accepted: "+f.rule.words+".")
		fmt.Fprintf(&b, "#%s = %s\n", f.key(), strings.ReplaceAll(f.def, "'", `"`))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// comment writes words as lines that begin with "# ".
func comment(b *strings.Builder, words string) {
	line := "#"
	for _, word := range strings.Fields(words) {
		if len(line)+1+len(word) > width {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
}

// Values lists every setting with its value, by dotted name, for Status.
func (c *Config) Values() map[string]string {
	values := map[string]string{}
	for _, f := range fields(c) {
		if !f.table() {
			values[f.name] = show(f.value)
		}
	}
	return values
}

// NeedRestart lists the settings that differ between a running daemon's
// configuration and a newer one and that only a restart puts into effect.
func (c *Config) NeedRestart(newer *Config) []string {
	var list []string
	now, then := fields(c), fields(newer)
	for i, f := range now {
		if !f.table() && !f.live && show(f.value) != show(then[i].value) {
			list = append(list, f.name)
		}
	}
	return list
}
